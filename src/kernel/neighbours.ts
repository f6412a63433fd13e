// Who else on this node has a hand in pods' connections: Cilium, Calico, kube-proxy. From what is attached and what is there, to rows
// of the table with a sentence of advice. Pure, like features.ts, which has the rest of the table.
import type { Feature } from '../model/feature.ts'
import type { HostFacts } from './features.ts'

/** What the others leave to be seen. */
export interface NeighbourFacts {
  /** Names of the node's network links. */
  readonly links: readonly string[]
  /** Names of what is pinned at the top of bpffs, and where tc pins its maps. */
  readonly pins: readonly string[]
  /** Names of the files of the container runtime's network configuration. */
  readonly cniFiles: readonly string[]
  /** As kube-proxy itself says it: iptables, ipvs or nftables; undefined where none answers. */
  readonly kubeProxyMode: string | undefined
}

/** Hooks on which we redirect, too. Whoever is there decides with us where a socket goes. */
const connectHooks: ReadonlySet<string> = new Set(['connect4', 'connect6', 'sendmsg4', 'sendmsg6', 'getpeername4', 'getpeername6'])

export function neighbours(facts: HostFacts): Feature[] {
  return [...cilium(facts), ...calico(facts), kubeProxy(facts)]
}

function hooksOf({ attached }: HostFacts, ...prefixes: readonly string[]): string[] {
  const own = attached.filter(({ hook, name }) => connectHooks.has(hook) && prefixes.some((prefix) => name.startsWith(prefix)))
  return [...new Set(own.map(({ hook }) => hook))].sort()
}

const has = (names: readonly string[], pattern: RegExp): boolean => names.some((name) => pattern.test(name))

/** Its socket hooks may be limited to the node itself; that cannot be seen from here, so it is said as what to make sure of. */
function cilium(facts: HostFacts): Feature[] {
  const { links, pins, cniFiles } = facts
  const hooks = hooksOf(facts, 'cil_')
  if (hooks.length === 0 && !has(links, /^cilium_/) && !has(pins, /^(cilium|cil_)/) && !has(cniFiles, /cilium/)) return []
  const isExclusive = has(cniFiles, /\.cilium_bak$/)
  const where = hooks.length > 0 ? `balances at sockets (${hooks.join(', ')})` : 'balances at links (tc)'
  const found = isExclusive ? `${where}, moves the CNI files of others away` : where
  const why = 'where both its programs and ours are at sockets, the first to redirect hides the service from the other'
  const settings = [...(hooks.length > 0 ? ['socketLB.hostNamespaceOnly=true'] : []), ...(isExclusive ? ['cni.exclusive=false'] : [])]
  if (settings.length === 0) return [{ name: 'Cilium', status: 'pass', found, why }]
  const fix = `Make sure that its Helm values have ${settings.join(' and ')}; \`sidestep check\` against the cluster reads them.`
  return [{ name: 'Cilium', status: 'warn', found, why, fix }]
}

function calico(facts: HostFacts): Feature[] {
  const { links, pins, cniFiles } = facts
  const hooks = hooksOf(facts, 'cali')
  const isEbpf = hooks.length > 0 || has(links, /^bpf(in|out)\.cali$/) || has(pins, /^cali_/)
  if (!isEbpf && !has(links, /^cali/) && !has(cniFiles, /calico/)) return []
  const why = 'its rules and programs at links and ours at sockets get along; its connect-time load balancer sits where ours does'
  if (!isEbpf) return [{ name: 'Calico', status: 'pass', found: 'iptables or nftables', why }]
  if (hooks.length === 0) return [{ name: 'Calico', status: 'pass', found: 'eBPF, balances at links (tc)', why }]
  const fix = 'Set bpfConnectTimeLoadBalancing: Disabled in the FelixConfiguration `default`: it otherwise resolves services first.'
  return [{ name: 'Calico', status: 'warn', found: `eBPF, balances at sockets (${hooks.join(', ')})`, why, fix }]
}

function kubeProxy({ kubeProxyMode, links }: HostFacts): Feature {
  const mode = kubeProxyMode ?? (links.includes('kube-ipvs0') ? 'ipvs' : undefined)
  const found = mode === undefined ? 'does not answer here' : `mode ${mode}`
  const why = 'balances for pods outside the mesh, and for what ours send past it; all of its modes will do, and so will none'
  return { name: 'kube-proxy', status: 'info', found, why }
}
