// The product's image for the test cluster, made by deploy/image as for everybody, under two tags: an upgrade goes from one to the other.
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { mustRun } from '../../src/local/command.ts'
import { checkout } from '../../deploy/image/contents.ts'
import { store } from './binaries.ts'
import type { Say } from './binaries.ts'

export const productRepository = 'sidestep.test/sidestep'
export const productTags = ['one', 'two'] as const
const timeoutMs = 600_000
const inputs = ['src', 'deploy', 'native', 'bpf', 'build/Release/sidestep.node', 'build/bpf', 'build/cni/sidestep-cni', 'package-lock.json', 'package.json']

/** An archive for `load`. Made again when anything that goes into it was touched. */
export async function productImage(say: Say): Promise<string> {
  const hash = createHash('sha256')
  for (const file of inputs.flatMap(filesBelow)) {
    const { mtimeMs, size } = statSync(file)
    hash.update(`${file} ${mtimeMs} ${size}\n`)
  }
  const directory = join(store, 'images')
  const file = join(directory, `sidestep-${hash.digest('hex').slice(0, 12)}.tar`)
  if (existsSync(file)) return file
  say('making the image of Sidestep ...')
  const names = productTags.flatMap((tag) => ['--name', `${productRepository}:${tag}`])
  const partial = `${file}.${process.pid}`
  await mustRun([process.execPath, join(checkout, 'deploy/image/build.ts'), '--output', partial, ...names], { timeoutMs })
  // Older ones are of no use to anybody: 160 MB each.
  for (const old of readdirSync(directory).filter((name) => /^sidestep-[0-9a-f]+\.tar$/.test(name))) rmSync(join(directory, old), { force: true })
  renameSync(partial, file)
  return file
}

function filesBelow(name: string): string[] {
  const path = join(checkout, name)
  if (!existsSync(path)) return []
  if (!statSync(path).isDirectory()) return [path]
  return readdirSync(path, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name)).toSorted()
}
