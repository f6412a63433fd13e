// What is in our image, said once: for the archive that build.ts writes and for the Containerfile alike. Below, what changes seldom:
// Node.js and the libraries it needs; then the npm packages that the product uses; then the product. No shell, no package manager,
// no tests, no types.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { carryingFlags } from '../../src/local/ztunnel-process.ts'
import { programs } from '../../src/model/kubernetes-names.ts'
import { entriesOf, type Entry } from './files.ts'
import { certificateRoots, hostFiles, librariesOf } from './host-files.ts'

export const checkout = join(import.meta.dirname, '../..')
/** Who runs what needs no rights of its own; the manifests say otherwise where it does. */
export const user = { name: 'sidestep', id: 65_532 }
/** Compiled code, so that programs start in half the time. */
export const codeCache = '/app/code-cache'

export const environment = [
  'PATH=/app/bin:/usr/bin',
  'NODE_ENV=production',
  `NODE_COMPILE_CACHE=${codeCache}`,
  'NODE_COMPILE_CACHE_PORTABLE=1',
]

/** What each program is in src/bin, and how Node.js runs it. */
export const roles: readonly { readonly program: string; readonly source: string; readonly flags: readonly string[] }[] = [
  { program: programs.ztunnel, source: 'ztunnel.ts', flags: carryingFlags },
  { program: programs.waypoint, source: 'waypoint.ts', flags: carryingFlags },
  { program: programs.agent, source: 'agent.ts', flags: [] },
  { program: programs.controlPlane, source: 'controlplane.ts', flags: [] },
  { program: programs.cli, source: 'sidestep.ts', flags: [] },
]
/** Node.js and what it needs; `node` is its program on this machine, without symbols. */
export function systemEntries(node: string): Entry[] {
  const addon = join(checkout, 'build/Release/sidestep.node')
  // Programs of ours say in their first line how Node.js runs them, which takes env.
  const env = '/usr/bin/env'
  return [
    ...['bin', 'lib', 'lib64', 'sbin'].map((name) => ({ path: `/${name}`, link: `usr/${name}` })),
    ...['/usr/bin', '/usr/lib', '/usr/lib64', '/usr/sbin', '/etc', '/var/lib'].map((path) => ({ path, directory: true as const })),
    { path: '/tmp', directory: true, mode: 0o1777 },
    { path: '/usr/bin/node', from: node, mode: 0o755 },
    ...hostFiles([env, ...librariesOf([node, addon, env])]),
    { path: '/usr/share/doc/nodejs/copyright', from: join(checkout, 'node_modules', nodePackage, 'LICENSE') },
    ...certificateRoots(),
    { path: '/etc/passwd', content: `root:x:0:0:root:/:/sbin/nologin\n${user.name}:x:${user.id}:${user.id}:${user.name}:/:/sbin/nologin\n` },
    { path: '/etc/group', content: `root:x:0:\n${user.name}:x:${user.id}:\n` },
    { path: '/etc/nsswitch.conf', content: 'passwd: files\ngroup: files\nhosts: files dns\n' },
    { path: '/etc/os-release', content: `ID=sidestep\nNAME=Sidestep\nPRETTY_NAME="Sidestep ${version()}"\n` },
  ]
}

/** The npm package that Node.js itself came in. */
export const nodePackage = `node-linux-${process.arch}`

const lockFile = z.object({ packages: z.record(z.string(), z.object({ dev: z.boolean().optional(), devOptional: z.boolean().optional(), optional: z.boolean().optional() })) })

/** What programs may read at run time; sources, types, maps, documentation and headers are none of it. */
const neededFile = /(?:\.(?:js|cjs|mjs|json|node|wasm|proto)|(?:^|\/)(?:LICEN[CS]E|NOTICE|COPYING)[^/]*)$/i

/** npm packages, as the lock file says, without those that only building and testing need. */
export function packageEntries(): Entry[] {
  const { packages } = lockFile.parse(JSON.parse(readFileSync(join(checkout, 'package-lock.json'), 'utf8')))
  const wanted = Object.entries(packages).filter(([path, { dev, devOptional, optional }]) => path !== '' && !dev && !devOptional && !optional)
  return wanted.flatMap(([path]) => {
    const from = join(checkout, path)
    if (!existsSync(from)) throw new Error(`${path} is not installed: npm run setup`)
    // What a package has nested in it is named in the lock file, too.
    return entriesOf(from, join('/app', path), (file) => neededFile.test(file) && !file.slice(from.length).includes('/node_modules/'))
  })
}

const forTests = /\.test\.ts$|\/testing[^/]*\.ts$|arbitraries\.ts$|\/test-fixtures\.ts$|\.proto$/

export function productEntries(): Entry[] {
  const here = (path: string): { path: string; from: string } => ({ path: join('/app', path), from: join(checkout, path) })
  return [
    here('package.json'),
    here('LICENSE'),
    ...entriesOf(join(checkout, 'src'), '/app/src', (file) => !forTests.test(file)),
    here('build/Release/sidestep.node'),
    ...entriesOf(join(checkout, 'build/bpf'), '/app/build/bpf', (file) => file.endsWith('.bpf.o')),
    { ...here('build/cni/sidestep-cni'), mode: 0o755 },
    // What `sidestep install` takes along.
    ...['crds', 'admission', 'monitoring'].map((name) => join('deploy', name)).filter((path) => existsSync(join(checkout, path)))
      .flatMap((path) => entriesOf(join(checkout, path), join('/app', path))),
    ...roles.map(({ program, source, flags }) => ({
      path: `/app/bin/${program}`,
      content: `#!/usr/bin/env -S node${flags.map((flag) => ` ${flag}`).join('')}\nimport '../src/bin/${source}'\n`,
      mode: 0o755,
    })),
  ]
}

export function version(): string {
  return z.object({ version: z.string() }).parse(JSON.parse(readFileSync(join(checkout, 'package.json'), 'utf8'))).version
}
