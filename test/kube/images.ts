// The images that the test cluster itself needs, made once and kept in .setup/kube/images.
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { writeImageArchive } from '../../tools/image-archive.ts'
import type { Binaries } from './binaries.ts'
import { store } from './binaries.ts'

export const pauseReference = 'sidestep.test/pause:1'
export const corednsReference = 'sidestep.test/coredns:1'

/** Archives for `load`: the pause container and CoreDNS. */
export async function clusterImages(binaries: Binaries): Promise<string[]> {
  return [
    await imageOfProgram(pauseReference, binaries.pause, { user: '65535:65535' }),
    await imageOfProgram(corednsReference, binaries.coredns, {}),
  ]
}

/** An image with one static program and nothing else. */
async function imageOfProgram(reference: string, program: string, more: { readonly user?: string }): Promise<string> {
  const file = join(store, 'images', `${basename(dirname(program))}.tar`)
  if (existsSync(file)) return file
  mkdirSync(dirname(file), { recursive: true })
  const root = mkdtempSync(join(store, 'images', 'root.'))
  try {
    copyFileSync(program, join(root, basename(program)))
    await writeImageArchive(file, { references: [reference], layers: [root], entrypoint: [`/${basename(program)}`], ...more })
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
  return file
}
