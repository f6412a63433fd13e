// `npm run image`: makes the one image of all programs of ours from what set-up left in this checkout. Needs Debian, and neither a
// daemon nor a network nor a base image. It packs; it must never build what it packs.
//
//   node deploy/image/build.ts [--output build/image/sidestep.tar] [--name sidestep:VERSION]... [--rootfs DIRECTORY] [--no-code-cache]
//
// With --rootfs the files are written to a directory and not packed: that is what the Containerfile copies.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { writeImageArchive } from '../../tools/image-archive.ts'
import { checkout, codeCache, environment, nodePackage, packageEntries, productEntries, roles, systemEntries, user, version } from './contents.ts'
import { entriesOf, writeEntries } from './files.ts'

const { values } = parseArgs({
  options: {
    'output': { type: 'string', default: join(checkout, 'build/image/sidestep.tar') },
    'name': { type: 'string', multiple: true, default: [`sidestep:${version()}`] },
    'rootfs': { type: 'string' },
    'no-code-cache': { type: 'boolean', default: false },
  },
})
const scratch = join(checkout, 'build/image')
mkdirSync(scratch, { recursive: true })
const work = mkdtempSync(join(scratch, '.work-'))
process.umask(0o022)

try {
  const node = strippedNode()
  const layers = [systemEntries(node), packageEntries(), productEntries()].map((entries, index) => {
    const root = join(work, `layer-${index}`)
    writeEntries(root, entries)
    return root
  })
  if (!values['no-code-cache']) layers.push(cacheLayer(layers))
  if (values.rootfs !== undefined) merge(layers, resolve(values.rootfs), '--archive')
  else {
    const file = resolve(values.output)
    const id = await writeImageArchive(file, {
      references: values.name.map(fullName), layers, env: environment, user: `${user.id}:${user.id}`, workingDirectory: '/', command: ['sidestep', '--help'],
      labels: {
        'org.opencontainers.image.title': 'Sidestep',
        'org.opencontainers.image.description': 'A service mesh without sidecars',
        'org.opencontainers.image.version': version(),
        'org.opencontainers.image.licenses': 'Apache-2.0',
      },
    })
    console.log(`${values.name.join(', ')}: ${file}, ${(statSync(file).size / 1e6).toFixed(1)} MB, ${id}`)
  }
} finally {
  rmSync(work, { recursive: true, force: true })
}

/** Symbols are a fifth of it, and only a debugger of Node.js itself asks for them. Kept, because it takes longest of all. */
function strippedNode(): string {
  const from = join(checkout, 'node_modules', nodePackage, 'bin/node')
  const { mtimeMs, size } = statSync(from)
  const file = join(scratch, `node-${size}-${Math.trunc(mtimeMs)}`)
  if (existsSync(file)) return file
  const fresh = join(work, 'node')
  execFileSync('strip', ['--strip-unneeded', '-o', fresh, from])
  renameSync(fresh, file)
  return file
}

/** A layer of its own: V8 does not make the same bytes twice, and the layers below shall be the same whoever builds them. */
function cacheLayer(layers: readonly string[]): string {
  const [whole, layer] = [join(work, 'whole'), join(work, 'cache')]
  merge(layers, whole, '--archive', '--link')
  compile(whole, layer)
  return layer
}

function merge(layers: readonly string[], target: string, ...how: readonly string[]): void {
  mkdirSync(target, { recursive: true })
  execFileSync('cp', [...how, ...layers.map((root) => `${root}/.`), target])
}

/**
 * Starts each program once, below `root`, so that Node.js leaves what it compiled, without types, below `target`. Its names are
 * relative to the cache, and it is used where Node.js, its flags and the processor's features are the same; elsewhere programs start as
 * without it.
 */
function compile(root: string, target: string): void {
  const cache = join(root, codeCache)
  for (const { source, flags } of roles) {
    execFileSync(join(root, 'usr/bin/node'), [...flags, join(root, 'app/src/bin', source), '--help'], {
      stdio: ['ignore', 'ignore', 'inherit'], env: { NODE_COMPILE_CACHE: cache, NODE_COMPILE_CACHE_PORTABLE: '1' },
    })
  }
  const directories = readdirSync(cache)
  if (directories.length === 0) throw new Error('Node.js left no compiled code behind')
  writeEntries(target, entriesOf(cache, codeCache).map((entry) => ({ ...entry, mode: 0o644 })))
}

/** As a kubelet spells it: `sidestep:1` is `docker.io/library/sidestep:1`. */
function fullName(name: string): string {
  const [first = '', ...rest] = name.split('/')
  if (rest.length === 0) return `docker.io/library/${name}`
  return /[.:]|^localhost$/.test(first) ? name : `docker.io/${name}`
}
