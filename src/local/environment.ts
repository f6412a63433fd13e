// What a container finds when it starts: environment variables, command line and the files in /etc. Pure text.
import { createHash } from 'node:crypto'
import { clusterDns } from './addresses.ts'
import type { ContainerSpec, FieldPath, PodSpec } from '../model/manifest-pod.ts'

/** Facts of a pod that fieldRef can name. */
export interface PodFacts {
  readonly uid: string
  readonly namespace: string
  readonly name: string
  readonly hostname: string
  readonly node: string
  readonly nodeIp: string
  readonly serviceAccount: string
  readonly ips: readonly string[]
}

function field(facts: PodFacts, path: FieldPath): string {
  switch (path) {
    case 'metadata.name': return facts.name
    case 'metadata.namespace': return facts.namespace
    case 'metadata.uid': return facts.uid
    case 'spec.nodeName': return facts.node
    case 'spec.serviceAccountName': return facts.serviceAccount
    case 'status.podIP': return facts.ips[0] ?? ''
    case 'status.podIPs': return facts.ips.join(',')
    case 'status.hostIP': return facts.nodeIp
  }
}

/** `$(NAME)` becomes the variable's value, `$$(NAME)` the text `$(NAME)`; unknown names stay, as in Kubernetes. */
export function expand(text: string, variables: ReadonlyMap<string, string>): string {
  return text.replace(/\$\$|\$\(([^)]*)\)/g, (whole, name: string | undefined) =>
    name === undefined ? '$' : (variables.get(name) ?? whole),
  )
}

/** The container's whole environment. Only PATH comes from the host: there is no image that could bring one. */
export function containerEnv(spec: ContainerSpec, facts: PodFacts, hostPath: string): Record<string, string> {
  const declared = new Map<string, string>()
  for (const { name, value, valueFrom } of spec.env) {
    declared.set(name, valueFrom ? field(facts, valueFrom.fieldRef.fieldPath) : expand(value ?? '', declared))
  }
  return { PATH: hostPath, HOME: '/root', HOSTNAME: facts.hostname, ...Object.fromEntries(declared) }
}

/** `command` and `args` with variables in them replaced. */
export function containerCommand(spec: ContainerSpec, env: Readonly<Record<string, string>>): string[] {
  const variables = new Map(Object.entries(env))
  return [...spec.command, ...spec.args].map((part) => expand(part, variables))
}

/** Contents of /etc/resolv.conf. `hostFile` is the host's own, for dnsPolicy Default. */
export function resolvConf(spec: PodSpec, namespace: string, hostFile: string): string {
  const own = spec.dnsConfig
  if (spec.dnsPolicy === 'Default' && own === undefined) return hostFile
  const isCluster = spec.dnsPolicy === 'ClusterFirst' || spec.dnsPolicy === 'ClusterFirstWithHostNet'
  const base = spec.dnsPolicy === 'Default' ? hostFile.split('\n').filter((line) => line.trim() !== '') : []
  const servers = [...(isCluster ? [clusterDns.v4] : []), ...(own?.nameservers ?? [])]
  const searches = [...(isCluster ? [`${namespace}.svc.cluster.local`, 'svc.cluster.local', 'cluster.local'] : []), ...(own?.searches ?? [])]
  const options = new Map<string, string | undefined>(isCluster ? [['ndots', '5']] : [])
  for (const { name, value } of own?.options ?? []) options.set(name, value)
  return [
    ...base,
    ...[...new Set(servers)].slice(0, 3).map((server) => `nameserver ${server}`),
    ...(searches.length > 0 ? [`search ${[...new Set(searches)].join(' ')}`] : []),
    ...(options.size > 0 ? [`options ${[...options].map(([k, v]) => (v === undefined ? k : `${k}:${v}`)).join(' ')}`] : []),
    '',
  ].join('\n')
}

/** Contents of /etc/hosts. */
export function hostsFile(facts: PodFacts): string {
  return [
    '127.0.0.1\tlocalhost',
    '::1\tlocalhost ip6-localhost ip6-loopback',
    'fe00::0\tip6-localnet',
    'ff02::1\tip6-allnodes',
    'ff02::2\tip6-allrouters',
    ...facts.ips.map((ip) => `${ip}\t${facts.hostname}`),
    '',
  ].join('\n')
}

const capabilityNames = [
  'CHOWN', 'DAC_OVERRIDE', 'DAC_READ_SEARCH', 'FOWNER', 'FSETID', 'KILL', 'SETGID', 'SETUID', 'SETPCAP', 'LINUX_IMMUTABLE',
  'NET_BIND_SERVICE', 'NET_BROADCAST', 'NET_ADMIN', 'NET_RAW', 'IPC_LOCK', 'IPC_OWNER', 'SYS_MODULE', 'SYS_RAWIO', 'SYS_CHROOT',
  'SYS_PTRACE', 'SYS_PACCT', 'SYS_ADMIN', 'SYS_BOOT', 'SYS_NICE', 'SYS_RESOURCE', 'SYS_TIME', 'SYS_TTY_CONFIG', 'MKNOD', 'LEASE',
  'AUDIT_WRITE', 'AUDIT_CONTROL', 'SETFCAP', 'MAC_OVERRIDE', 'MAC_ADMIN', 'SYSLOG', 'WAKE_ALARM', 'BLOCK_SUSPEND', 'AUDIT_READ',
  'PERFMON', 'BPF', 'CHECKPOINT_RESTORE',
] as const
/** What containerd grants a container that asks for nothing. */
const defaultCapabilities = [
  'AUDIT_WRITE', 'CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'KILL', 'MKNOD', 'NET_BIND_SERVICE', 'NET_RAW', 'SETFCAP', 'SETGID',
  'SETPCAP', 'SETUID', 'SYS_CHROOT',
]

/** The bounding set of a container; undefined means all (privileged). Unknown names grant nothing. */
export function containerCapabilities(security: ContainerSpec['securityContext']): bigint | undefined {
  if (security?.privileged) return undefined
  const plain = (name: string): string => name.toUpperCase().replace(/^CAP_/, '')
  const drop = new Set(security?.capabilities?.drop.map(plain))
  const add = (security?.capabilities?.add ?? []).map(plain)
  const granted = new Set(drop.has('ALL') ? [] : defaultCapabilities.filter((name) => !drop.has(name)))
  for (const name of add.includes('ALL') ? capabilityNames : add) granted.add(name)
  return capabilityNames.reduce((set, name, bit) => (granted.has(name) ? set | (1n << BigInt(bit)) : set), 0n)
}

/** Short stable fingerprint of anything JSON; same value, same text. */
export function fingerprint(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('hex').slice(0, 10)
}
