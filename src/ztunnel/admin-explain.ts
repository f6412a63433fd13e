// Whether a connection would be allowed, and why: resolves both ends by what this ztunnel knows, then asks the same code that
// decides about real connections. Answers `unknown` rather than guess: where it depends on what was not said, or where
// somebody else decides. Reads only.
import { canonicalIp, formatAddr, isIpv6Address } from '../core/address.ts'
import type { SocketAddr } from '../core/address.ts'
import { formatIdentity, parseIdentity } from '../core/identity.ts'
import type { WorkloadStore } from '../model/workload-store.ts'
import { serviceKey } from '../model/workload.ts'
import type { GatewayAddress, Service, Workload } from '../model/workload.ts'
import type { ExplainAnswer, ExplainRequest } from '../model/ztunnel-views.ts'
import { clientOf, identityOf, podsNamed, serviceNamed } from '../member/named.ts'
import type { Client } from '../member/named.ts'
import { resolveDestination } from '../policy/destination.ts'
import { egressVerdict, leavesMesh } from '../policy/egress.ts'
import { explain } from '../policy/rbac-explain.ts'
import type { Rbac } from '../policy/rbac.ts'
import { bypassedWaypoint, waypointName, waypointState } from '../policy/waypoint-binding.ts'

/** A mesh of 50,000 endpoints behind one name is judged by so many of them. */
const maxEndpoints = 100

export interface ExplainParts {
  readonly store: WorkloadStore
  readonly rbac: Rbac
}

type Target =
  | { readonly t: 'workload'; readonly workload: Workload; readonly port: number | undefined }
  | { readonly t: 'service'; readonly service: Service; readonly port: number | undefined }
  | { readonly t: 'outside'; readonly addr: SocketAddr }

const unknown = (because: string, ...lines: string[]): ExplainAnswer => ({ answer: 'unknown', because, lines })

export function explainConnection(parts: ExplainParts, request: ExplainRequest): ExplainAnswer {
  const client = clientOf(parts.store, request)
  if (!client) return unknown('unknownSource', `cannot tell: ${request.from} is no pod, service, address or identity that is known here`)
  const target = targetOf(parts.store, request, client)
  if (typeof target === 'string') return unknown('unknownDestination', `cannot tell: ${target}`)
  if (target.t === 'outside') return leaving(client, target.addr)
  if (target.t === 'workload') return toPod(parts, client, target.workload, target.port)
  return toService(parts, client, target.service, target.port)
}

function targetOf(store: WorkloadStore, { to, port }: ExplainRequest, client: Client): Target | string {
  const identity = parseIdentity(to)
  if (identity) {
    const workload = [...store.workloads()].find((each) => formatIdentity(identityOf(each)) === to)
    return workload ? { t: 'workload', workload, port } : `nothing known here runs as ${to}`
  }
  const ip = canonicalIp(to)
  if (ip !== undefined) {
    const network = client.workload?.network ?? ''
    const service = store.serviceByAddress(network, ip, client.workload?.namespace ?? '')
    const workload = store.workloadByIp(network, ip)
    if (service && !workload) return { t: 'service', service, port }
    return workload ? { t: 'workload', workload, port } : { t: 'outside', addr: { ip, port: port ?? 0 } }
  }
  const [pod] = podsNamed(store, to)
  if (pod) return { t: 'workload', workload: pod, port }
  const service = serviceNamed(store, to)
  return service ? { t: 'service', service, port } : `${to} is no pod, service, address or identity that is known here`
}

function leaving({ workload, text }: Client, addr: SocketAddr): ExplainAnswer {
  const where = `${formatAddr(addr)} is not known to the mesh`
  if (!workload) return unknown('unknownSource', `cannot tell: ${where}, and no workload is known here that runs as ${text}`)
  if (workload.tunnelProtocol === 'none') return { answer: 'allowed', because: 'notCaptured', lines: [`ALLOWED: ${where}, and ${text} is not captured`] }
  const verdict = egressVerdict(workload)
  const said = workload.egress === undefined ? 'nobody said otherwise' : `egress of namespace ${workload.namespace} is ${workload.egress}`
  return verdict.allowed
    ? { answer: 'allowed', because: verdict.because, lines: [`ALLOWED: ${where}; ${said}${verdict.isAudited ? ', so each connection is counted and logged' : ''}`] }
    : { answer: 'denied', because: verdict.because, lines: [`REFUSED: ${where}; ${said}`] }
}

function toService(parts: ExplainParts, client: Client, service: Service, asked: number | undefined): ExplainAnswer {
  const [only, ...others] = service.ports
  const port = asked ?? (others.length === 0 ? only?.servicePort : undefined)
  if (port === undefined) return unknown('portNeeded', `cannot tell: ${service.hostname} has the ports ${service.ports.map(({ servicePort }) => servicePort).join(', ')}; say which with --port`)
  const endpoints = parts.store.endpoints(serviceKey(service))
  const head = `${service.hostname}:${port} is a service with ${endpoints.length} endpoint(s)`
  const route = client.workload ? routeTo(parts.store, client.workload, service.addresses[0]?.ip, port) : waypointOf(parts.store, client, service, port)
  if (route && route.because !== 'waypoint') return { ...route, lines: [...route.lines, head] }
  const answers = endpoints.slice(0, maxEndpoints).map(({ workload, ports }): ExplainAnswer => {
    const own = ports.find(({ servicePort }) => servicePort === port) ?? service.ports.find(({ servicePort }) => servicePort === port)
    const targetPort = own?.targetPort ?? 0
    return targetPort === 0
      ? unknown('noSuchPort', `cannot tell: ${workload.namespace}/${workload.name} does not serve port ${port}`)
      : toWorkload(parts, client, workload, targetPort, [`${head}; ${workload.namespace}/${workload.name} serves it on port ${targetPort}`], route !== undefined)
  })
  if (route) return throughWaypoint(route, answers)
  const [first] = answers
  if (!first) return { answer: 'denied', because: 'noHealthyEndpoint', lines: [`REFUSED: ${head}, so nobody answers`] }
  const different = answers.find(({ answer }) => answer !== first.answer)
  if (!different) return first
  return unknown('dependsOnEndpoint', `cannot tell: ${head}, and they differ`, ...first.lines, ...different.lines)
}

/** What the source's side says, where that is the end of it: nobody answers, or somebody else decides. */
function routeTo(store: WorkloadStore, source: Workload, ip: string | undefined, port: number): ExplainAnswer | undefined {
  if (ip === undefined || source.tunnelProtocol === 'none') return undefined
  const original = { ip, port }
  const destination = resolveDestination({ source, original, store, random: () => 0 })
  if (leavesMesh(destination, source, store)) return leaving({ text: `${source.namespace}/${source.name}`, workload: source }, original)
  switch (destination.t) {
    case 'refuse': {
      const { because, service, workload } = destination
      return { answer: 'denied', because, lines: [`REFUSED: at the source already: ${because}`, ...waypointLines(store, service?.waypoint ?? workload?.waypoint, source)] }
    }
    case 'waypoint': {
      const of = destination.of === 'service' ? destination.service : destination.workload
      const name = of.waypoint ? waypointName(of.waypoint) : destination.hop.workload.name
      return unknown('waypoint', `cannot tell: the waypoint ${name} decides for ${formatAddr(original)}`, ...waypointLines(store, of.waypoint, source))
    }
    case 'gateway': return unknown('otherNetwork', `cannot tell: the destination is in network ${destination.remote.network}, whose ztunnels decide`)
    default: return undefined
  }
}

/** Of a client that is known by its identity only: whoever has one comes by way of the mesh. */
function waypointOf(store: WorkloadStore, { identity }: Client, { waypoint, namespace, hostname }: Service, port: number): ExplainAnswer | undefined {
  if (!identity || !waypoint) return undefined
  return unknown('waypoint', `cannot tell: the waypoint ${waypointName(waypoint)} decides for ${hostname}:${port}`, ...waypointLines(store, waypoint, { namespace }))
}

function waypointLines(store: WorkloadStore, waypoint: GatewayAddress | undefined, { namespace }: Pick<Workload, 'namespace'>): string[] {
  if (!waypoint) return []
  const is = { ready: 'is ready', notReady: 'has no replica that is ready', unknown: 'is not there' }[waypointState(waypoint, namespace, store)]
  return [`the waypoint ${waypointName(waypoint)} ${is}`]
}

/** The destination judges the client behind the waypoint, too: what all of it refuses, no waypoint can allow. */
function throughWaypoint(route: ExplainAnswer, answers: readonly ExplainAnswer[]): ExplainAnswer {
  const [first] = answers
  const isRefused = first !== undefined && answers.every(({ answer }) => answer === 'denied')
  return isRefused ? { ...first, lines: [...first.lines, ...route.lines.slice(1), 'whatever the waypoint says, since the pod itself refuses the client'] } : route
}

function toPod(parts: ExplainParts, client: Client, workload: Workload, port: number | undefined): ExplainAnswer {
  const route = client.workload && client.workload.uid !== workload.uid ? routeTo(parts.store, client.workload, workload.ips[0], port ?? 0) : undefined
  if (route?.because === 'waypoint') return throughWaypoint(route, [toWorkload(parts, client, workload, port, [], true)])
  return route ?? toWorkload(parts, client, workload, port, [])
}

/** What comes past the waypoint that the workload wants passed; undefined where there is none, or the client is it. */
function pastWaypoint(store: WorkloadStore, client: Client, workload: Workload, port: number): ExplainAnswer | undefined {
  const waypoint = bypassedWaypoint(client.identity, workload, port, store)
  if (!waypoint) return undefined
  const [name, lines] = [waypointName(waypoint), waypointLines(store, waypoint, workload)]
  if (client.identity) return unknown('waypoint', `cannot tell: the waypoint ${name} decides, and nobody gets past it`, ...lines)
  return { answer: 'denied', because: 'bypassedWaypoint', lines: [`REFUSED: ${workload.namespace}/${workload.name} is reached only through the waypoint ${name}, and ${client.text} is not in the mesh`, ...lines] }
}

/** `isThrough`: by way of a waypoint, which says for whom. */
function toWorkload({ rbac, store }: ExplainParts, client: Client, workload: Workload, asked: number | undefined, head: readonly string[], isThrough = false): ExplainAnswer {
  const name = `${workload.namespace}/${workload.name}`
  if (workload.tunnelProtocol === 'none') {
    return { answer: 'allowed', because: 'notCaptured', lines: [`ALLOWED: ${name} is not in the mesh, so nothing is checked there`, ...head] }
  }
  if (client.workload?.uid === workload.uid) return { answer: 'allowed', because: 'toItself', lines: ['ALLOWED: a pod talks to itself without the mesh', ...head] }
  const past = isThrough ? undefined : pastWaypoint(store, client, workload, asked ?? 0)
  if (past) return { ...past, lines: [...past.lines, ...head] }
  const { policies } = rbac.inScope(workload)
  const matches = policies.flatMap(({ rules }) => rules.flat(2))
  const port = asked ?? 0
  if (asked === undefined && matches.some(({ destinationPorts, notDestinationPorts }) => destinationPorts.length + notDestinationPorts.length > 0)) {
    return unknown('portNeeded', `cannot tell: policies for ${name} look at the port; say which with --port`, ...head)
  }
  const ip = workload.ips.find((own) => client.workload?.ips.some((other) => isIpv6Address(other) === isIpv6Address(own))) ?? workload.ips[0] ?? ''
  const sourceIp = client.workload?.ips.find((own) => isIpv6Address(own) === isIpv6Address(ip))
  if (sourceIp === undefined && matches.some(({ sourceIps, notSourceIps }) => sourceIps.length + notSourceIps.length > 0)) {
    return unknown('addressNeeded', `cannot tell: policies for ${name} look at the client's address, which ${client.text} does not say`, ...head)
  }
  const { verdict, lines } = explain(rbac, workload, { identity: client.identity, sourceIp: sourceIp ?? (isIpv6Address(ip) ? '::' : '0.0.0.0'), destination: { ip, port } })
  const peer = policies.filter(({ name: policy }) => policy.startsWith('converted_peer_authentication_') || policy === 'istio_converted_static_strict')
  return {
    answer: verdict.allowed ? 'allowed' : 'denied', because: verdict.because,
    ...(verdict.policy !== undefined && { policy: verdict.policy }), ...(verdict.rule !== undefined && { rule: verdict.rule }),
    lines: [
      ...lines.slice(0, 2), ...head,
      peer.length > 0 ? `PeerAuthentication is in force, as ${peer.map((each) => `${each.namespace}/${each.name}`).join(' and ')}` : 'PeerAuthentication lets plain text in',
      ...lines.slice(2),
    ],
  }
}

