// The image of the test applications: Node.js, the programs in test/apps, a shell. They are ordinary programs that know of no mesh.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { checkout, nodePackage, systemEntries } from '../../deploy/image/contents.ts'
import { writeEntries } from '../../deploy/image/files.ts'
import type { Entry } from '../../deploy/image/files.ts'
import { writeImageArchive } from '../../tools/image-archive.ts'
import { buildApps } from '../helpers/apps.ts'
import { store } from './binaries.ts'

export const appReference = 'sidestep.test/apps:1'
/** Where the programs of test/apps are in the image: `node /apps/steady.ts ...`. */
export const appsDirectory = '/apps'
const applets = ['sh', 'sleep', 'cat', 'ls', 'nc', 'ip', 'env', 'true', 'false', 'test', 'echo', 'touch', 'nslookup', 'hostname', 'date', 'ps', 'kill', 'rm', 'mkdir', 'wget', 'head', 'seq', 'grep']

/** An archive for `load`. Made again when a program changed. */
export async function appImage(): Promise<string> {
  const apps = await buildApps()
  const sources = fileURLToPath(new URL('../apps', import.meta.url))
  const scripts = readdirSync(sources).filter((name) => name.endsWith('.ts')).toSorted()
  const hash = createHash('sha256').update(readFileSync(fileURLToPath(import.meta.url))).update(readFileSync(join(checkout, 'package-lock.json'))).update(apps.server)
  for (const name of scripts) hash.update(name).update(readFileSync(join(sources, name)))
  const file = join(store, 'images', `apps-${hash.digest('hex').slice(0, 12)}.tar`)
  if (existsSync(file)) return file
  mkdirSync(join(store, 'images'), { recursive: true })
  const work = mkdtempSync(join(store, 'images', 'apps.'))
  try {
    const node = join(work, 'node')
    execFileSync('strip', ['--strip-unneeded', '-o', node, join(checkout, 'node_modules', nodePackage, 'bin/node')])
    const entries: Entry[] = [
      { path: '/usr/bin/busybox', from: '/bin/busybox', mode: 0o755 },
      ...applets.filter((name) => name !== 'env').map((name) => ({ path: `/usr/bin/${name}`, link: 'busybox' })),
      { path: '/usr/bin/server', from: apps.server, mode: 0o755 },
      { path: '/usr/bin/goclient', from: apps.goclient, mode: 0o755 },
      ...scripts.map((name) => ({ path: join(appsDirectory, name), from: join(sources, name) })),
    ]
    const layers = [systemEntries(node), entries].map((each, index) => {
      const root = join(work, `layer-${index}`)
      writeEntries(root, each)
      return root
    })
    await writeImageArchive(file, { references: [appReference], layers, command: ['sleep', 'infinity'], env: ['PATH=/usr/bin'] })
    return file
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}
