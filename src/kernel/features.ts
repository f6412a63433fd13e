// From facts about this machine to the table of `sidestep check`. Pure: what reads the machine is host-facts.ts, so every
// row can be tested on machines that we do not have. Must never decide by the kernel's version where a probe can tell.
import { constants } from 'node:os'
import type { Feature, FeatureStatus } from '../model/feature.ts'
import { neighbours, type NeighbourFacts } from './neighbours.ts'

/** A program attached to the root of cgroup2, on a hook that we use too. `name` is what the kernel keeps, cut at 15. */
export interface AttachedProgram {
  readonly hook: string
  readonly id: number
  readonly name: string
}

/** Everything the table is made of. Paths are undefined where there is none. */
export interface HostFacts extends NeighbourFacts {
  readonly release: string
  readonly machine: string
  readonly hasBtf: boolean
  readonly cgroup2: string | undefined
  readonly hasCgroupV1: boolean
  readonly bpffs: string | undefined
  /** Effective capabilities as a bit set. */
  readonly capabilities: bigint
  /** Hard limits; Infinity where unlimited. */
  readonly openFilesLimit: number
  readonly memlockLimitBytes: number
  /** net.core.bpf_jit_enable; undefined where the kernel has no such setting. */
  readonly bpfJit: number | undefined
  readonly hasFwmarkAccept: boolean
  /** TCP upper layer protocols that are loaded. */
  readonly ulps: readonly string[]
  /** Question to errno, 0 meaning yes; see native/src/probe.h. */
  readonly answers: Readonly<Record<string, number>>
  readonly attached: readonly AttachedProgram[]
}

/** The whole table, in the order in which a reader wants it. */
export function features(facts: HostFacts): Feature[] {
  return [
    ...hostFeatures(facts),
    ...probedRows.map((row) => probedFeature(row, facts.answers)),
    fwmarkAccept(facts),
    otherPrograms(facts.attached),
    ...neighbours(facts),
    ktls(facts),
  ]
}

// --- rows about the host ---------------------------------------------------------------------------------------------

const neededCapabilities: readonly (readonly [name: string, bit: bigint])[] = [
  ['CAP_NET_ADMIN', 12n],
  ['CAP_NET_RAW', 13n],
  ['CAP_SYS_PTRACE', 19n],
  ['CAP_SYS_ADMIN', 21n],
  ['CAP_PERFMON', 38n],
  ['CAP_BPF', 39n],
]

/** A carried connection holds two sockets in the proxy. */
const filesPerConnection = 2
const comfortableFiles = 65_536

function hostFeatures(facts: HostFacts): Feature[] {
  const missing = neededCapabilities.filter(([, bit]) => ((facts.capabilities >> bit) & 1n) === 0n).map(([name]) => name)
  const connections = Math.floor(facts.openFilesLimit / filesPerConnection)
  return [
    { name: 'kernel', status: 'pass', found: `${facts.release} ${facts.machine}`, why: 'everything below is a part of it' },
    row('BTF', facts.hasBtf, facts.hasBtf ? 'there' : 'missing', 'fits the eBPF programs to this kernel',
      'Boot a kernel built with CONFIG_DEBUG_INFO_BTF=y.'),
    row('cgroup2', facts.cgroup2 !== undefined, cgroupLayout(facts), 'the redirection hooks attach to its root',
      'Mount it: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified'),
    row('bpffs', facts.bpffs !== undefined, facts.bpffs ?? 'not mounted', 'hooks and maps are pinned there and outlive the proxy',
      'The mesh mounts it on /sys/fs/bpf when it starts; to have it from boot on, add it to /etc/fstab.', 'warn'),
    row('capabilities', missing.length === 0, missing.length === 0 ? 'all needed' : `without ${missing.join(', ')}`,
      'loading programs and entering pods', 'Run as root, not inside an unprivileged container.'),
    row('open files', facts.openFilesLimit >= comfortableFiles, `${facts.openFilesLimit} a process`,
      `two for each carried connection: about ${connections} connections a proxy`,
      `Raise the hard limit, for example with LimitNOFILE= or ulimit -n, to ${comfortableFiles} or more.`, 'warn'),
    memlock(facts),
    row('BPF JIT', (facts.bpfJit ?? 0) > 0, facts.bpfJit === undefined ? 'not in this kernel' : `bpf_jit_enable = ${facts.bpfJit}`,
      'without it the hooks are interpreted, at several times the cost', 'Set it: sysctl -w net.core.bpf_jit_enable=1', 'warn'),
  ]
}

function cgroupLayout({ cgroup2, hasCgroupV1 }: HostFacts): string {
  if (cgroup2 === undefined) return hasCgroupV1 ? 'not mounted; v1 only' : 'not mounted'
  return `${hasCgroupV1 ? 'hybrid with v1' : 'unified'}, at ${cgroup2}`
}

/** From 5.11 on, map memory is charged to cgroups and the limit has no say. */
function memlock({ release, memlockLimitBytes }: HostFacts): Feature {
  const [major = 0, minor = 0] = release.split('.').map((part) => Number.parseInt(part, 10))
  const counted = major < 5 || (major === 5 && minor < 11)
  const limit = memlockLimitBytes === Infinity ? 'unlimited' : `${Math.round(memlockLimitBytes / 1024)} KiB`
  return row('memlock', !counted || memlockLimitBytes === Infinity, counted ? limit : `${limit}, not applied to maps`,
    'older kernels count eBPF maps against it', 'Set it to unlimited, for example with ulimit -l unlimited.')
}

function row(name: string, good: boolean, found: string, why: string, fix: string, otherwise: FeatureStatus = 'fail'): Feature {
  return good ? { name, status: 'pass', found, why } : { name, status: otherwise, found, why, fix }
}

// --- rows that the kernel was asked about ----------------------------------------------------------------------------

interface ProbedRow {
  readonly name: string
  readonly why: string
  readonly asks: readonly string[]
  /** The release that brought it, as a hint to what to upgrade to. */
  readonly since: string
  readonly otherwise?: FeatureStatus
}

const probedRows: readonly ProbedRow[] = [
  { name: 'connect hooks', why: 'outbound TCP and connected UDP are redirected there', since: '4.17',
    asks: ['program/connect4', 'program/connect6'] },
  { name: 'getpeername hooks', why: 'applications see the address they asked for', since: '5.8',
    asks: ['program/getpeername4', 'program/getpeername6'] },
  { name: 'sendmsg, recvmsg hooks', why: 'DNS from unconnected UDP sockets', since: '5.2',
    asks: ['program/sendmsg4', 'program/sendmsg6', 'program/recvmsg4', 'program/recvmsg6'] },
  { name: 'sock_create hook', why: 'refuses protocols that would go around the mesh', since: '5.18',
    asks: ['program/sock_create', 'helper/sock/netns_cookie', 'helper/sock/set_retval'] },
  { name: 'sockops', why: 'hands the original destination to the proxy', since: '4.13', asks: ['program/sockops'] },
  { name: 'sk_lookup', why: 'steers inbound connections to the proxy', since: '5.9',
    asks: ['program/sk_lookup', 'helper/sk_lookup/sk_assign'] },
  { name: 'tcx links', why: 'fence a pod on the node side of its link, also while the proxy is away', since: '6.6',
    asks: ['program/tc', 'program/tcx', 'helper/tc/sk_storage', 'helper/tc/sk_fullsock'] },
  { name: 'sk_msg', why: 'pods of one node talk without the proxy in between', since: '4.17',
    asks: ['program/sk_msg', 'helper/sk_msg/redirect_hash'], otherwise: 'warn' },
  { name: 'maps', why: 'pods, connections and counters', since: '4.10', asks: ['map/hash', 'map/lru_hash', 'map/percpu_array'] },
  { name: 'LPM trie', why: 'address ranges', since: '4.11', asks: ['map/lpm_trie'], otherwise: 'warn' },
  { name: 'sockhash', why: 'the listeners to steer to', since: '4.18', asks: ['map/sockhash'] },
  { name: 'socket storage', why: 'what is remembered about a socket, out of reach of the pod', since: '5.11',
    asks: ['map/sk_storage', 'helper/sock_addr/sk_storage', 'helper/sockops/sk_storage'] },
  { name: 'ring buffer', why: 'events from the hooks', since: '5.8', asks: ['map/ringbuf', 'helper/sock_addr/ringbuf'] },
  { name: 'netns cookie', why: 'says which pod a socket belongs to', since: '5.15',
    asks: ['socket/netns_cookie', 'helper/sock_addr/netns_cookie', 'helper/sockops/netns_cookie'] },
  { name: 'hook helpers', why: 'choose a source port; refuse with an errno that fits', since: '5.18',
    asks: ['helper/sock_addr/bind', 'helper/sock_addr/set_retval', 'helper/sock_addr/cgroup_id'] },
  { name: 'transparent sockets', why: "servers see the client's address", since: '2.6.37',
    asks: ['socket/transparent4', 'socket/transparent6', 'socket/mark'] },
  { name: 'policy routing', why: 'brings the answers on transparent sockets home', since: '2.2',
    asks: ['netlink/rules4', 'netlink/rules6'] },
  { name: 'socket destroy', why: 'ends connections that a new policy forbids', since: '4.5',
    asks: ['netlink/sock_destroy'], otherwise: 'warn' },
]

/** Every question the table asks, for the test that the probe answers them all. */
export const askedQuestions: readonly string[] = probedRows.flatMap((each) => each.asks)

function probedFeature({ name, why, asks, since, otherwise = 'fail' }: ProbedRow, answers: HostFacts['answers']): Feature {
  const refused = asks.filter((question) => answers[question] !== 0)
  if (refused.length === 0) return { name, status: 'pass', found: 'there', why }
  const found = refused.map((question) => `${question.slice(question.indexOf('/') + 1)}: ${errnoName(answers[question])}`).join(', ')
  const denied = refused.every((question) => answers[question] === constants.errno.EPERM)
  const fix = denied
    ? 'The kernel has it or not, but does not let this process ask: run as root, outside of a container and of kernel lockdown.'
    : `Boot a kernel that has it (Linux ${since} and newer, if built with it; Debian 12 has newer ones in bookworm-backports).`
  return { name, status: otherwise, found, why, fix }
}

const errnoNames = new Map(Object.entries(constants.errno).map(([name, number]) => [number, name]))

function errnoName(errno: number | undefined): string {
  if (errno === undefined) return 'not asked'
  return errnoNames.get(errno) ?? `errno ${errno}`
}

// --- rows of their own -----------------------------------------------------------------------------------------------

function fwmarkAccept({ hasFwmarkAccept }: HostFacts): Feature {
  return row('tcp_fwmark_accept', hasFwmarkAccept, hasFwmarkAccept ? 'there' : 'missing', 'accepted connections keep the mark that routes them home',
    'Boot a kernel with net.ipv4.tcp_fwmark_accept (Linux 3.16 and newer).')
}

/** Names of the functions in bpf/, cut as the kernel cuts them. */
const ownPrograms: ReadonlySet<string> = new Set(
  [
    'redirect_connect4', 'redirect_connect6', 'refuse_mptcp', 'redirect_sendmsg4', 'redirect_sendmsg6', 'restore_recvmsg4',
    'restore_recvmsg6', 'restore_peername4', 'restore_peername6', 'track_connect',
  ].map((name) => name.slice(0, 15)),
)

/** Meshes whose hooks sit where ours do, by how their programs' names begin. */
const meshes: readonly (readonly [prefix: string, mesh: string])[] = [
  ['cil_', 'Cilium'],
  ['cali_', 'Calico'],
  ['calico_', 'Calico'],
  ['cgroup_connect', 'Kmesh'],
  ['sockops_prog', 'Kmesh'],
  ['sd_', 'systemd'],
]

function otherPrograms(attached: readonly AttachedProgram[]): Feature {
  const name = 'other programs'
  const why = "others' hooks at the root of cgroup2 run before or after ours and may change the same connections"
  const foreign = attached.filter((program) => !ownPrograms.has(program.name))
  const own = attached.length - foreign.length
  if (foreign.length === 0) return { name, status: 'pass', found: own === 0 ? 'none' : `none (${own} of Sidestep)`, why }
  const found = foreign.map((program) => `${program.hook}: ${describeProgram(program)}`).join(', ')
  return { name, status: 'warn', found, why, fix: 'Make sure that not both redirect the same pods; `bpftool prog show id N` tells more.' }
}

function describeProgram({ name, id }: AttachedProgram): string {
  const mesh = meshes.find(([prefix]) => name.startsWith(prefix))?.[1]
  return `${name === '' ? 'unnamed' : name} (id ${id}${mesh === undefined ? '' : `, ${mesh}`})`
}

function ktls({ ulps }: HostFacts): Feature {
  const loaded = ulps.includes('tls')
  return { name: 'kernel TLS', status: 'info', found: loaded ? 'loaded' : 'not loaded', why: 'may encrypt tunnels in the kernel; not needed' }
}
