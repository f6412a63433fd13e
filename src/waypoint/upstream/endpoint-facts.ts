// Which endpoints a request's target has, and the way to each: from the mesh's state, for one port and perhaps one subset.
// Behind a waypoint that is not ours the waypoint's own endpoints stand in for the service's. Pure; never falls back from a
// tunnel to plain text.
import { formatAddr, isIpv6Address } from '../../core/address.ts'
import type { SocketAddr } from '../../core/address.ts'
import { parseIdentity } from '../../core/identity.ts'
import type { Identity } from '../../core/identity.ts'
import type { Authority } from '../../hbone/authority.ts'
import { workloadIdentity } from '../../model/workload-store.ts'
import type { Endpoint, WorkloadStore } from '../../model/workload-store.ts'
import { serviceKey } from '../../model/workload.ts'
import type { AppProtocol, GatewayAddress, Service, Workload } from '../../model/workload.ts'
import { admitsFamily, rankOf, targetPortOf } from '../../policy/load-balance.ts'
import { distance } from '../../policy/l7/balancer/locality.ts'

/** How bytes get to an endpoint. */
export type Way =
  /** CONNECT for `authority` over mutual TLS to one of the identities. */
  | { readonly t: 'tunnel'; readonly to: SocketAddr; readonly authority: Authority; readonly identities: readonly Identity[] }
  /** TCP; `ip` may be a host name here, for what is known by name only. */
  | { readonly t: 'plain'; readonly to: SocketAddr }

export interface EndpointFacts {
  /** The workload's uid; the host name of what is not a workload. */
  readonly id: string
  readonly workload: Workload | undefined
  /** `ip:port` where requests end, for people. */
  readonly address: string
  readonly weight: number
  readonly way: Way
  /** Behind a waypoint: requests are judged and balanced once more there. */
  readonly isWaypoint: boolean
  /** Lower goes first. */
  readonly tier: number
}

export interface FactsRequest {
  readonly store: WorkloadStore
  /** Who we are, as a SPIFFE URI: a waypoint of that identity is ours. */
  readonly identity: string
  /** The proxy's own workload, for networks and places; undefined until it is known. */
  readonly self: Workload | undefined
  readonly port: number
  /** Labels that an endpoint must have. */
  readonly labels?: Readonly<Record<string, string>> | undefined
  readonly isLocalFirst: boolean
  /** Whether a waypoint of the destination is passed, where it is not ours. */
  readonly throughWaypoints: boolean
}

export type NoFacts = 'noEndpoints' | 'subsetBehindWaypoint' | 'unknownWaypoint'
export type Facts =
  | { readonly t: 'endpoints'; readonly endpoints: readonly EndpointFacts[]; readonly appProtocol: AppProtocol }
  | { readonly t: 'none'; readonly because: NoFacts; readonly appProtocol: AppProtocol }

const hbonePort = 15_008

export function serviceFacts(service: Service, request: FactsRequest): Facts {
  const { store, self, port, labels } = request
  const appProtocol = service.ports.find(({ servicePort }) => servicePort === port)?.appProtocol ?? 'unknown'
  const gateways = request.throughWaypoints ? foreignWaypoints(service, request) : []
  if (gateways.length > 0) {
    const authority = authorityOf(service, port, self)
    const found = gateways.flatMap(({ gateway, weight }) => throughGateway(gateway, weight, authority, request))
    // A waypoint cannot be told which endpoints are meant.
    if (found.length > 0) {
      if (labels) return { t: 'none', because: 'subsetBehindWaypoint', appProtocol }
      return { t: 'endpoints', endpoints: found, appProtocol }
    }
    if (service.waypointFailure !== 'open') return { t: 'none', because: 'unknownWaypoint', appProtocol }
  }
  const endpoints = store.endpoints(serviceKey(service)).flatMap((endpoint) => direct(endpoint, service, request) ?? [])
  return endpoints.length > 0 ? { t: 'endpoints', endpoints, appProtocol } : { t: 'none', because: 'noEndpoints', appProtocol }
}

/** One workload that is addressed itself. */
export function workloadFacts(workload: Workload, request: FactsRequest): Facts {
  const { port, self } = request
  const ip = addressOf(workload, self, undefined)
  const { waypoint } = workload
  const found: EndpointFacts[] = []
  if (request.throughWaypoints && waypoint && ip !== undefined && !isOwn(waypoint, request)) {
    found.push(...throughGateway(waypoint, 1, { t: 'address', address: { ip, port } }, request))
    if (found.length === 0 && workload.waypointFailure !== 'open') {
      return { t: 'none', because: 'unknownWaypoint', appProtocol: 'unknown' }
    }
  }
  const itself = found.length === 0 ? factsOf(workload, port, undefined, request) : undefined
  if (itself) found.push(itself)
  return found.length > 0
    ? { t: 'endpoints', endpoints: found, appProtocol: protocolOf(workload, port) }
    : { t: 'none', because: 'noEndpoints', appProtocol: 'unknown' }
}

/** What some service that the workload serves says of its port. */
function protocolOf({ services }: Workload, port: number): AppProtocol {
  for (const ports of services.values()) {
    const known = ports.find(({ targetPort }) => targetPort === port)?.appProtocol
    if (known !== undefined && known !== 'unknown') return known
  }
  return 'unknown'
}

/** A host outside that no workload stands for: its name is resolved when somebody connects. */
export function hostFacts(host: string, service: Service, port: number): Facts {
  const mapping = service.ports.find(({ servicePort }) => servicePort === port)
  const to = { ip: host, port: mapping?.targetPort || port }
  const endpoint: EndpointFacts = {
    id: host, workload: undefined, address: `${host}:${to.port}`, weight: 1, way: { t: 'plain', to }, isWaypoint: false, tier: 0,
  }
  return { t: 'endpoints', endpoints: [endpoint], appProtocol: mapping?.appProtocol ?? 'unknown' }
}

/** Whether requests for that host belong to the service. */
export function admitsHost({ hostname }: Service, host: string): boolean {
  return hostname.startsWith('*.') ? host.endsWith(hostname.slice(1)) && host.length > hostname.length - 1 : host === hostname
}

/** Nobody knows its endpoints: they are found by name. */
export function isFoundByName({ hostname, loadBalancing }: Service): boolean {
  return hostname.startsWith('*.') || loadBalancing?.mode === 'passthrough'
}

function direct(endpoint: Endpoint, service: Service, request: FactsRequest): EndpointFacts | undefined {
  const { workload } = endpoint
  const { labels, port } = request
  const targetPort = targetPortOf(endpoint, service, port)
  if (targetPort === undefined || workload.capacity <= 0 || (labels && !hasLabels(workload, labels))) return undefined
  return factsOf(workload, targetPort, service, request)
}

function factsOf(
  workload: Workload, port: number, service: Service | undefined, request: FactsRequest,
): EndpointFacts | undefined {
  const ip = addressOf(workload, request.self, service)
  const tier = tierOf(workload, service, request)
  const isKnownByName = workload.hostname !== undefined && workload.tunnelProtocol === 'none'
  if (tier === undefined || (ip === undefined && !isKnownByName)) return undefined
  const to = { ip: ip ?? workload.hostname ?? '', port }
  const names = [...(service?.subjectAltNames ?? []), workloadIdentity(workload)]
  const way: Way = workload.tunnelProtocol === 'none'
    ? { t: 'plain', to }
    : {
      t: 'tunnel', to: { ip: to.ip, port: hbonePort }, authority: { t: 'address', address: to }, identities: identitiesOf(names),
    }
  const address = ip === undefined ? `${to.ip}:${port}` : formatAddr(to)
  return { id: workload.uid, workload, address, weight: workload.capacity, way, isWaypoint: false, tier }
}

/** The service's own preference of places; else nearness, where the policy wants it. Undefined where it may not be used. */
function tierOf(workload: Workload, service: Service | undefined, { self, isLocalFirst }: FactsRequest): number | undefined {
  if (!self) return 0
  // Another network is reached through its gateway only, and that is ztunnels' business.
  if (workload.network !== self.network) return undefined
  const { mode = 'unspecified', routingPreference = [] } = service?.loadBalancing ?? {}
  if (mode === 'strict' || mode === 'failover') {
    const rank = rankOf(workload, self, routingPreference)
    const best = routingPreference[0] === 'network' ? routingPreference.length * 2 - 1 : routingPreference.length
    if (mode === 'strict' && rank < best) return undefined
    return best - rank
  }
  return isLocalFirst ? distance(self.locality, workload.locality) : 0
}

function addressOf({ ips }: Workload, self: Workload | undefined, service: Service | undefined): string | undefined {
  const fitting = service ? ips.filter((ip) => admitsFamily(service, ip)) : ips
  if (!self || fitting.length < 2) return fitting[0]
  return fitting.find((ip) => self.ips.some((own) => isIpv6Address(own) === isIpv6Address(ip))) ?? fitting[0]
}

function hasLabels({ labels = {} }: Workload, wanted: Readonly<Record<string, string>>): boolean {
  return Object.entries(wanted).every(([name, value]) => Object.hasOwn(labels, name) && labels[name] === value)
}

function identitiesOf(uris: readonly string[]): Identity[] {
  return uris.flatMap((uri) => parseIdentity(uri) ?? [])
}

interface WeightedGateway {
  readonly gateway: GatewayAddress
  readonly weight: number
}

/** None where there is no waypoint, or we are one of them. */
function foreignWaypoints({ waypoint, weightedWaypoints = [] }: Service, request: FactsRequest): WeightedGateway[] {
  const weighted = weightedWaypoints.filter(({ weight }) => weight > 0)
    .map(({ destination, weight }) => ({ gateway: destination, weight }))
  const all = weighted.length > 0 ? weighted : waypoint ? [{ gateway: waypoint, weight: 1 }] : []
  return all.some(({ gateway }) => isOwn(gateway, request)) ? [] : all
}

/** By what we serve, and by who serves it: before the mesh has told us who we are, we must not send to ourselves either. */
function isOwn(gateway: GatewayAddress, request: FactsRequest): boolean {
  const { self, store, identity } = request
  const isUs = (workload: Workload | undefined): boolean => workload !== undefined && workloadIdentity(workload) === identity
  if (workloadsOf(gateway, request).some(({ workload }) => isUs(workload))) return true
  if (!self) return false
  const { destination } = gateway
  if (destination.kind === 'hostname') return self.services.has(serviceKey(destination.name))
  const { network, ip } = destination.address
  if (network === self.network && self.ips.includes(ip) && !self.isHostNetwork) return true
  const service = store.services.byExactAddress(network, ip, self.namespace)
  return service !== undefined && self.services.has(serviceKey(service))
}

/** What the waypoint is asked for: the service's address as its clients use it, or its name. */
function authorityOf({ addresses, hostname }: Service, port: number, self: Workload | undefined): Authority {
  const own = addresses.find(({ network, prefixLength }) => prefixLength === undefined && (!self || network === self.network))
  return own ? { t: 'address', address: { ip: own.ip, port } } : { t: 'hostname', hostname, port }
}

interface GatewayEndpoint {
  readonly service: Service | undefined
  readonly workload: Workload | undefined
  readonly port: number | undefined
}

function workloadsOf({ destination, hbonePort: port }: GatewayAddress, { store, self }: FactsRequest): GatewayEndpoint[] {
  const service = destination.kind === 'hostname'
    ? store.service(serviceKey(destination.name))
    : store.services.byExactAddress(destination.address.network, destination.address.ip, self?.namespace ?? '')
  if (service) {
    return store.endpoints(serviceKey(service))
      .map((endpoint) => ({ service, workload: endpoint.workload, port: targetPortOf(endpoint, service, port) }))
  }
  if (destination.kind === 'hostname') return []
  return [{ service, workload: store.workloadByIp(destination.address.network, destination.address.ip), port }]
}

function throughGateway(gateway: GatewayAddress, weight: number, authority: Authority, request: FactsRequest): EndpointFacts[] {
  const { self } = request
  return workloadsOf(gateway, request).flatMap(({ service, workload, port: targetPort }) => {
    const ip = workload && addressOf(workload, self, service)
    const tier = workload && tierOf(workload, service, request)
    if (!workload || ip === undefined || tier === undefined || targetPort === undefined) return []
    const to = { ip, port: targetPort }
    const identities = identitiesOf([...(service?.subjectAltNames ?? []), workloadIdentity(workload)])
    const way: Way = { t: 'tunnel', to, authority, identities }
    const share = workload.capacity * weight
    return [{ id: workload.uid, workload, address: formatAddr(to), weight: share, way, isWaypoint: true, tier }]
  })
}
