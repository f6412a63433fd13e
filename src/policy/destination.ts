// Where a captured outbound connection goes: a pure function in Istio's decision order (service or workload, waypoint, endpoint,
// other network, direct). What is configured and cannot be found refuses; nothing falls back to plain text, and only a
// destination that nobody in the mesh knows is passed through (whether that may leave is egress.ts's question).
import { formatAddr, isIpv6Address, type OriginalDst, type SocketAddr } from '../core/address.ts'
import type { ErrorCode } from '../core/errors.ts'
import { workloadIdentity, type WorkloadStore } from '../model/workload-store.ts'
import { serviceKey, type GatewayAddress, type Service, type Workload } from '../model/workload.ts'
import type { EndpointHealth } from './endpoint-health.ts'
import { admitsFamily, selectEndpoint, type NoneBecause, type PickedBecause } from './load-balance.ts'
import { waypointName } from './waypoint-binding.ts'

export interface DestinationRequest {
  /** Who connects, named by its network namespace. */
  readonly source: Workload
  readonly original: OriginalDst
  readonly store: WorkloadStore
  /** 0 <= x < 1. */
  readonly random: () => number
  readonly health?: EndpointHealth | undefined
  /** Connections open to a workload now. */
  readonly load?: ((uid: string) => number) | undefined
  /** Workloads tried for this connection already, when it is resolved again to try the next. */
  readonly tried?: ReadonlySet<string> | undefined
  /** A waypoint was asked for this connection and said no: it is there, so nothing goes past it. */
  readonly isWaypointThere?: boolean | undefined
}

/** An address to dial, or a name to resolve first (workloads that are known by name only). */
export type Dial =
  | { readonly kind: 'address'; readonly addr: SocketAddr }
  | { readonly kind: 'hostname'; readonly hostname: string; readonly port: number }

/** One HBONE tunnel. */
export interface Hop {
  readonly workload: Workload
  /** Under which EndpointHealth keeps what this hop teaches, together with the workload's uid. */
  readonly healthPort: number
  readonly connectTo: Dial
  /** `:authority` of the CONNECT. */
  readonly authority: string
  /** SPIFFE URIs of which the peer must prove one. */
  readonly identities: readonly string[]
}

export type PassthroughBecause = 'unknownDestination' | 'passthroughService'
export type RefusedBecause = 'selfCall' | NoneBecause | 'unknownWaypoint' | 'noHealthyWaypoint' | 'noNetworkGateway'

/** Past a waypoint that is not ready, since its owner chose that: its name. */
export interface Skipping {
  readonly waypointSkipped?: string
}

export type Destination =
  /** Plain TCP to where the application meant. */
  | Skipping & { readonly t: 'passthrough'; readonly to: SocketAddr; readonly because: PassthroughBecause; readonly service?: Service }
  /** Plain TCP to a known workload outside the mesh. */
  | Skipping & { readonly t: 'plain'; readonly workload: Workload; readonly to: Dial; readonly choice: Choice; readonly service?: Service }
  | Skipping & { readonly t: 'hbone'; readonly hop: Hop; readonly choice: Choice; readonly service?: Service }
  /** To the waypoint, which is told the original destination, or which of a service's workloads was chosen. */
  | { readonly t: 'waypoint'; readonly hop: Hop; readonly of: 'service'; readonly service: Service }
  | Skipping & { readonly t: 'waypoint'; readonly hop: Hop; readonly of: 'workload'; readonly workload: Workload; readonly service?: Service }
  /** To another network: a tunnel to its gateway and inside it a tunnel of its own, with the same authority. */
  | Skipping & {
    readonly t: 'gateway'
    readonly hop: Hop
    readonly innerIdentities: readonly string[]
    readonly remote: Workload
    /** As Hop.healthPort, of `remote`. */
    readonly remotePort: number
    readonly service: Service
  }
  | {
    readonly t: 'refuse'
    readonly because: RefusedBecause
    readonly code: ErrorCode
    readonly service?: Service
    readonly workload?: Workload
  }

/** Why that endpoint. */
export interface Choice {
  readonly because: PickedBecause | 'addressed'
  /** Ejections were ignored because too many endpoints are out. */
  readonly isPanic: boolean
}

const hbonePort = 15008
const ownPorts = new Set([15001, 15006, hbonePort])
const addressed: Choice = { because: 'addressed', isPanic: false }

export function resolveDestination(request: DestinationRequest): Destination {
  const { source, original, store } = request
  if (isLoopback(original.ip) && ownPorts.has(original.port)) return { t: 'refuse', because: 'selfCall', code: 'CONNECT_REFUSED' }
  // A service that has this very address, then the workload at it, then a service of a range around it.
  const exact = store.services.byExactAddress(source.network, original.ip, source.namespace)
  const workload = store.workloadByIp(source.network, original.ip)
  const service = exact ?? (workload ? undefined : store.services.byRange(source.network, original.ip, source.namespace))
  if (service) return toService(request, service)
  if (workload) return toWorkload(request, workload)
  return { t: 'passthrough', to: original, because: 'unknownDestination' }
}

function toService(request: DestinationRequest, service: Service): Destination {
  const { original, source, store } = request
  const way = wayThrough(request, sampleWaypoint(service, request.random), service)
  if (way.t === 'refuse') return { ...way, service }
  if (way.t === 'through') {
    const { found } = way
    if (found.workload.network !== source.network) return acrossNetworks(request, service, found.workload, found.targetPort)
    return { t: 'waypoint', of: 'service', service, hop: hopTo(found, formatAddr(original), service.subjectAltNames, original) }
  }
  const skipping: Skipping = way.t === 'skip' ? { waypointSkipped: way.name } : {}
  if (service.loadBalancing?.mode === 'passthrough') {
    const workload = store.workloadByIp(source.network, original.ip)
    return { ...skipping, ...(workload ? toWorkload(request, workload) : { t: 'passthrough', to: original, because: 'passthroughService', service }) }
  }
  const found = select(request, service, original.port)
  if (found.t === 'none') return { t: 'refuse', because: found.because, code: 'NO_HEALTHY_UPSTREAM', service }
  const { workload, targetPort } = found
  if (workload.network !== source.network) return { ...skipping, ...acrossNetworks(request, service, workload, targetPort) }
  const choice: Choice = { because: found.because, isPanic: found.isPanic }
  // Who has passed the service's own waypoint is that waypoint, and passes no other.
  if (way.t === 'itself') return direct(workload, targetPort, original, choice, service)
  return { ...skipping, ...toEndpoint(request, workload, targetPort, choice, service) }
}

function toWorkload(request: DestinationRequest, workload: Workload): Destination {
  return toEndpoint(request, workload, request.original.port, addressed)
}

/**
 * To this workload: through its own waypoint if it has one. Also as an endpoint of a service that has none: the workload refuses
 * what comes past its waypoint, however the client called it.
 */
function toEndpoint(request: DestinationRequest, workload: Workload, targetPort: number, choice: Choice, service?: Service): Destination {
  const { original, source } = request
  const way = wayThrough(request, workload.waypoint, workload)
  const what = { workload, ...(service && { service }) }
  if (way.t === 'refuse') return { ...way, ...what }
  if (way.t === 'through') {
    const { found } = way
    if (found.workload.network !== source.network) return { t: 'refuse', because: 'noNetworkGateway', code: 'NO_HEALTHY_UPSTREAM', ...what }
    const authority = authorityOf(dialOf(workload, targetPort, original, service))
    return { t: 'waypoint', of: 'workload', ...what, hop: hopTo(found, authority, [], original) }
  }
  return { ...(way.t === 'skip' && { waypointSkipped: way.name }), ...direct(workload, targetPort, original, choice, service) }
}

type Way =
  /** No waypoint, or the caller is itself the waypoint, which must not meet itself when it connects to what it stands before. */
  | { readonly t: 'none' | 'itself' }
  | { readonly t: 'through'; readonly found: Gateway & { t: 'found' } }
  | { readonly t: 'skip'; readonly name: string }
  | { readonly t: 'refuse'; readonly because: RefusedBecause; readonly code: ErrorCode }

function wayThrough(request: DestinationRequest, waypoint: GatewayAddress | undefined, { waypointFailure }: Service | Workload): Way {
  if (!waypoint) return { t: 'none' }
  if (isBehind(waypoint, request.source, request.store)) return { t: 'itself' }
  const found = resolveGateway(request, waypoint)
  const isReady = found.t === 'found' && (found.service !== undefined || (found.workload.isHealthy && request.tried?.has(found.workload.uid) !== true))
  if (isReady) return { t: 'through', found }
  if (waypointFailure === 'open' && request.isWaypointThere !== true) return { t: 'skip', name: waypointName(waypoint) }
  const isUnknown = found.t === 'none' && found.because === 'unknown'
  return { t: 'refuse', because: isUnknown ? 'unknownWaypoint' : 'noHealthyWaypoint', code: 'NO_HEALTHY_UPSTREAM' }
}

function direct(workload: Workload, targetPort: number, original: SocketAddr, choice: Choice, service?: Service): Destination {
  const common = { choice, ...(service && { service }) }
  const target = dialOf(workload, targetPort, original, service)
  if (workload.tunnelProtocol === 'none') return { t: 'plain', workload, to: target, ...common }
  const connectTo = dialOf(workload, hbonePort, original, service)
  const identities = distinct([...(service?.subjectAltNames ?? []), workloadIdentity(workload)])
  return { t: 'hbone', hop: { workload, healthPort: targetPort, connectTo, authority: authorityOf(target), identities },
    ...common }
}

/** Only services cross networks: their name means something there, an address does not. */
function acrossNetworks(request: DestinationRequest, service: Service, remote: Workload, remotePort: number): Destination {
  const { original, source } = request
  const found = remote.networkGateway && resolveGateway(request, remote.networkGateway)
  if (!found || found.t === 'none' || found.workload.network !== source.network) {
    return { t: 'refuse', because: 'noNetworkGateway', code: 'NO_HEALTHY_UPSTREAM', service, workload: remote }
  }
  const hop = hopTo(found, `${service.hostname}:${original.port}`, [], original)
  return { t: 'gateway', hop, innerIdentities: service.subjectAltNames, remote, remotePort, service }
}

type GatewayNone = 'unknown' | 'unhealthy'
type Gateway =
  | { readonly t: 'found'; readonly workload: Workload; readonly targetPort: number; readonly service?: Service }
  | { readonly t: 'none'; readonly because: GatewayNone }

function resolveGateway(request: DestinationRequest, { destination, hbonePort: port }: GatewayAddress): Gateway {
  const { store, source } = request
  const service = destination.kind === 'hostname'
    ? store.service(serviceKey(destination.name))
    : store.services.byExactAddress(destination.address.network, destination.address.ip, source.namespace)
  if (service) {
    const found = select(request, service, port)
    if (found.t === 'none') return { t: 'none', because: 'unhealthy' }
    return { t: 'found', workload: found.workload, targetPort: found.targetPort, service }
  }
  if (destination.kind === 'hostname') return { t: 'none', because: 'unknown' }
  const workload = store.workloadByIp(destination.address.network, destination.address.ip)
  return workload ? { t: 'found', workload, targetPort: port } : { t: 'none', because: 'unknown' }
}

function hopTo(gateway: Gateway & { t: 'found' }, authority: string, names: readonly string[], original: SocketAddr): Hop {
  const { workload, targetPort, service } = gateway
  return {
    workload, authority, healthPort: targetPort,
    connectTo: dialOf(workload, targetPort, original, service),
    identities: distinct([...names, ...(service?.subjectAltNames ?? []), workloadIdentity(workload)]),
  }
}

/** Whether that workload is itself one of those that the gateway address stands for. */
export function isBehind({ destination }: GatewayAddress, caller: Workload, store: WorkloadStore): boolean {
  if (destination.kind === 'hostname') return caller.services.has(serviceKey(destination.name))
  const { network, ip } = destination.address
  if (network === caller.network && caller.ips.includes(ip) && !caller.isHostNetwork) return true
  const service = store.services.byExactAddress(network, ip, caller.namespace)
  return service !== undefined && caller.services.has(serviceKey(service))
}

function sampleWaypoint({ weightedWaypoints = [], waypoint }: Service, random: () => number): GatewayAddress | undefined {
  const total = weightedWaypoints.reduce((sum, { weight }) => sum + weight, 0)
  if (total <= 0) return waypoint
  let point = random() * total
  for (const { destination, weight } of weightedWaypoints) {
    point -= weight
    if (point < 0) return destination
  }
  return weightedWaypoints.findLast(({ weight }) => weight > 0)?.destination
}

function select({ source, store, random, health, load, tried }: DestinationRequest, service: Service, servicePort: number) {
  const endpoints = store.endpoints(serviceKey(service))
  const clientIp = source.ips[0] ?? source.uid
  return selectEndpoint({ service, servicePort, endpoints, caller: source, clientIp, random, health, load, tried })
}

/** An address of the family that was asked for if there is one. */
function dialOf(workload: Workload, port: number, original: SocketAddr, service?: Service): Dial {
  const ips = service ? workload.ips.filter((ip) => admitsFamily(service, ip)) : workload.ips
  // Addressed by address: that very one.
  const isV6 = isIpv6Address(original.ip)
  const ip = ips.find((own) => own === original.ip) ?? ips.find((own) => isIpv6Address(own) === isV6) ?? ips[0]
  if (ip !== undefined) return { kind: 'address', addr: { ip, port } }
  return { kind: 'hostname', hostname: workload.hostname ?? '', port }
}

function authorityOf(dial: Dial): string {
  return dial.kind === 'address' ? formatAddr(dial.addr) : `${dial.hostname}:${dial.port}`
}

const distinct = (names: readonly string[]): string[] => [...new Set(names)]

function isLoopback(ip: string): boolean {
  return ip.startsWith('127.') || ip === '::1'
}
