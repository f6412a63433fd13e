// The programs a cluster is made of, each made once and kept in .setup/kube under the hash of what it was made from: Kubernetes, etcd
// and CoreDNS built from their Go modules at the versions of test/kube/go/*/go.mod, containerd and runc unpacked from Debian's packages.
// Nothing is installed on the host: an installed containerd would start as a service, and runc would drive out Docker's.
import { createHash } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { goBuildCommand } from '../helpers/go.ts'
import { mustRun } from '../../src/local/command.ts'
import { unpackDebianPackages, unpackOnce } from '../helpers/unpack.ts'

const here = fileURLToPath(new URL('.', import.meta.url))
/** Where everything of the test cluster that may be kept between runs is. */
export const store = fileURLToPath(new URL('../../.setup/kube', import.meta.url))
const buildTimeoutMs = 3_600_000
const parts = ['kube-apiserver', 'kube-controller-manager', 'kube-scheduler', 'kube-proxy', 'kubelet', 'kubectl'] as const
const cniPlugins = ['bridge', 'host-local', 'loopback', 'portmap', 'ptp'] as const
const cniPluginsFrom = '/usr/lib/cni'

export interface Binaries {
  /** With kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubelet and kubectl. */
  readonly kube: string
  readonly etcd: string
  readonly coredns: string
  /** With containerd, containerd-shim-runc-v2, ctr and runc. */
  readonly containerd: string
  /** With the plugins of the CNI project that nodes need. */
  readonly cni: string
  /** A statically linked program that does nothing until it is told to end: what holds a pod's namespaces. */
  readonly pause: string
  /** `v1.36.3`. */
  readonly kubernetesVersion: string
}

export type Say = (line: string) => void

/** All programs, built where they are missing. `say` hears what takes long. Safe to run twice at once: the slower one's work is lost. */
export async function binaries(say: Say): Promise<Binaries> {
  const [containerd, holder] = [await containerRuntime(say), await pause()]
  const kubernetesVersion = /k8s\.io\/kubernetes (v[\d.]+)/.exec(readFileSync(join(here, 'go/kube/go.mod'), 'utf8'))?.[1] ?? 'unknown'
  const [, major = '', minor = ''] = /^v(\d+)\.(\d+)/.exec(kubernetesVersion) ?? []
  const version = 'k8s.io/component-base/version'
  const stamps = `-X ${version}.gitVersion=${kubernetesVersion} -X ${version}.gitMajor=${major} -X ${version}.gitMinor=${minor}`
  const kube = await built('kube', `Kubernetes ${kubernetesVersion} from its Go module: about 6 minutes the first time`, say, ['-tags', 'providerless', '-ldflags', `-s -w ${stamps}`])
  for (const part of parts) if (!existsSync(join(kube, part))) symlinkSync('kube', join(kube, part))
  const etcd = await built('etcd', 'etcd', say)
  const coredns = await built('coredns', 'CoreDNS', say)
  return { kube, etcd: join(etcd, 'etcd'), coredns: join(coredns, 'coredns'), containerd, cni: cni(), pause: holder, kubernetesVersion }
}

/** The directory with the program that the Go module in test/kube/go/NAME is. */
export async function built(name: string, what: string, say: Say, args: readonly string[] = ['-ldflags', '-s -w']): Promise<string> {
  const source = join(here, 'go', name)
  const hash = createHash('sha256').update(args.join(' ')).update(process.arch)
  for (const file of readdirSync(source).toSorted()) hash.update(file).update(readFileSync(join(source, file)))
  const directory = join(store, `${name}-${hash.digest('hex').slice(0, 12)}`)
  if (existsSync(directory)) return directory
  say(`building ${what} ...`)
  const startedMs = performance.now()
  // Whoever comes meanwhile waits for this build, instead of slowing it down by another.
  const once = '[ -d "$0" ] || { rm -rf "$0.new"; mkdir "$0.new"; cd "$1"; shift; "$@"; mv -T "$0.new" "$0"; }'
  mkdirSync(store, { recursive: true })
  const build = await goBuildCommand([...args, '-o', `${directory}.new/${name}`, '.'])
  await mustRun(['flock', join(store, `${name}.lock`), 'sh', '-ec', once, directory, source, ...build], { timeoutMs: buildTimeoutMs })
  say(`built ${name} in ${((performance.now() - startedMs) / 1000).toFixed(1)} s`)
  return directory
}

async function containerRuntime(say: Say): Promise<string> {
  const directory = join(store, 'containerd-1')
  await unpackOnce(directory, true, async (into) => {
    say('unpacking containerd and runc ...')
    await unpackDebianPackages(['containerd', 'runc'], into)
    mkdirSync(join(into, 'bin'))
    for (const [from, name] of [['usr/bin', 'containerd'], ['usr/bin', 'containerd-shim-runc-v2'], ['usr/bin', 'ctr'], ['usr/sbin', 'runc']] as const) {
      renameSync(join(into, from, name), join(into, 'bin', name))
    }
  })
  return join(directory, 'bin')
}

function cni(): string {
  const directory = join(store, 'cni-1')
  mkdirSync(directory, { recursive: true })
  for (const name of cniPlugins) if (!existsSync(join(directory, name))) copyFileSync(join(cniPluginsFrom, name), join(directory, name))
  return directory
}

async function pause(): Promise<string> {
  const directory = join(store, 'pause-1')
  await unpackOnce(directory, true, async (into) => {
    await mustRun(['musl-gcc', '-static', '-Os', '-s', '-Wall', '-Wextra', '-Werror', '-o', join(into, 'pause'), join(here, 'pause.c')])
  })
  return join(directory, 'pause')
}
