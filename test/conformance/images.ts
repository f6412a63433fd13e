// The applications of Gateway API's conformance suite and the suite itself, built from their Go modules at the versions that go/*/go.mod
// pin, and kept in .setup/kube. Images have the names that the suite's manifests ask for, so that nothing is pulled.
import { createHash } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { mustRun } from '../../src/local/command.ts'
import { writeImageArchive } from '../../tools/image-archive.ts'
import { goBuild, goCommand } from '../helpers/go.ts'
import { unpackOnce } from '../helpers/unpack.ts'
import { store, type Binaries, type Say } from '../kube/binaries.ts'

const sources = fileURLToPath(new URL('go', import.meta.url))
const timeoutMs = 3_600_000
const stripped = ['-ldflags', '-s -w']
const gatewayApi = 'sigs.k8s.io/gateway-api'

export interface ConformanceParts {
  /** The suite as a program, with the test's flags. */
  readonly suite: string
  /** `v1.6.3`. */
  readonly version: string
  /** The CRDs of the suite's own version, experimental channel, as one manifest. */
  readonly crds: string
  /** Archives for every node. */
  readonly images: readonly string[]
}

/** All of it, built where it is missing: about five minutes the first time. */
export async function conformanceParts({ coredns }: Binaries, say: Say): Promise<ConformanceParts> {
  const suite = await built('suite', say, async (into) => {
    await mustRun(['sh', '-c', 'cd "$0" && exec env CGO_ENABLED=0 GOFLAGS="-mod=readonly -buildvcs=false" GOTOOLCHAIN=local "$@"', join(sources, 'suite'),
      await goCommand(), 'test', '-c', ...stripped, '-o', join(into, 'suite'), '.'], { timeoutMs })
    await goBuild(join(sources, 'suite'), [...stripped, '-o', join(into, 'echo-basic'), `${gatewayApi}/conformance/echo-basic`], timeoutMs)
  })
  const echo = await built('echo', say, async (into) => {
    for (const name of ['server', 'client']) await goBuild(join(sources, 'echo'), ['-trimpath', ...stripped, '-o', join(into, name), `istio.io/istio/pkg/test/echo/cmd/${name}`], timeoutMs)
    await mustRun(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '3650', '-subj', '/CN=echo',
      '-keyout', join(into, 'cert.key'), '-out', join(into, 'cert.crt')])
  })
  const version = new RegExp(`${gatewayApi} (v[\\d.]+)`).exec(readFileSync(join(sources, 'suite/go.mod'), 'utf8'))?.[1] ?? 'unknown'
  const module = await moduleDirectory(`${gatewayApi}/conformance`)
  const wanted = imagesAskedFor(module)
  return {
    suite: join(suite, 'suite'),
    version,
    crds: join(await moduleDirectory(gatewayApi), 'config/crd/experimental'),
    images: [
      await image(wanted.filter((name) => name.includes('/echo-basic:')), '/echo-basic', { '/echo-basic': join(suite, 'echo-basic') }),
      await image(wanted.filter((name) => name.includes('/echo-advanced:')), '/usr/local/bin/server', {
        '/usr/local/bin/server': join(echo, 'server'), '/usr/local/bin/client': join(echo, 'client'),
        '/cert.crt': join(echo, 'cert.crt'), '/cert.key': join(echo, 'cert.key'),
      }),
      await image(wanted.filter((name) => name.includes('/coredns:')), '/coredns', { '/coredns': coredns }),
    ],
  }
}

async function built(name: string, say: Say, build: (into: string) => Promise<void>): Promise<string> {
  const source = join(sources, name)
  const hash = createHash('sha256').update(process.arch)
  for (const file of readdirSync(source).toSorted()) hash.update(file).update(readFileSync(join(source, file)))
  const directory = join(store, `conformance-${name}-${hash.digest('hex').slice(0, 12)}`)
  if (!existsSync(directory)) say(`building ${name} of the conformance suite ...`)
  await unpackOnce(directory, true, build)
  return directory
}

/** Where Go keeps a module that the suite uses. */
export async function moduleDirectory(name: string): Promise<string> {
  const go = await goCommand()
  return (await mustRun(['sh', '-c', 'cd "$0" && "$1" mod download "$2" && exec "$1" list -m -f "{{.Dir}}" "$2"', join(sources, 'suite'), go, name], { timeoutMs })).trim()
}

/** Names of images in the manifests of the suite. */
function imagesAskedFor(module: string): string[] {
  const names = ['base', 'mesh', 'tests'].flatMap((part) => readdirSync(join(module, part), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.yaml'))
    .flatMap((file) => [...readFileSync(join(module, part, file), 'utf8').matchAll(/^\s*(?:- )?image: *(\S+)/gm)].map(([, name = '']) => name)))
  return [...new Set(names)].toSorted()
}

/** `files`: where each is in the image, and where it is here. */
async function image(references: readonly string[], entrypoint: string, files: Readonly<Record<string, string>>): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify([references, files])).digest('hex').slice(0, 12)
  const file = join(store, 'images', `conformance-${hash}.tar`)
  if (existsSync(file)) return file
  mkdirSync(dirname(file), { recursive: true })
  const root = mkdtempSync(join(store, 'images', 'root.'))
  try {
    for (const [path, from] of Object.entries(files)) {
      mkdirSync(dirname(join(root, path)), { recursive: true })
      copyFileSync(from, join(root, path))
    }
    mkdirSync(join(root, 'tmp'))
    await writeImageArchive(file, { references, layers: [root], entrypoint: [entrypoint] })
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
  return file
}
