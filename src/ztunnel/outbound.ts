// From a captured pod to wherever its application meant: asks the mesh where that is, and makes the connection: through a
// tunnel, or in plain text where nobody in the mesh is at the other end. An endpoint that cannot be reached is replaced by
// another before a byte was sent. Never falls back from a tunnel to plain text.
import type { Socket } from 'node:net'
import { formatAddr } from '../core/address.ts'
import type { ClientAddr, OriginalDst, SocketAddr } from '../core/address.ts'
import { MeshError } from '../core/errors.ts'
import { parseIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import { parseAuthority } from '../hbone/authority.ts'
import type { Authority } from '../hbone/authority.ts'
import type { TraceParent } from '../hbone/traceparent.ts'
import { parseBaggage } from '../hbone/baggage.ts'
import type { HbonePool, TunnelRequest } from '../hbone/pool.ts'
import type { TunnelStream } from '../hbone/tunnel-stream.ts'
import type { Service, Workload } from '../model/workload.ts'
import { resolveDestination } from '../policy/destination.ts'
import type { Destination, DestinationRequest, Dial, Hop } from '../policy/destination.ts'
import { egressVerdict, entryHost, leavesMesh } from '../policy/egress.ts'
import type { EgressReason } from '../policy/egress.ts'
import { waypointName } from '../policy/waypoint-binding.ts'
import { baggageOf, workloadOf } from '../member/baggage.ts'
import type { LearnedDestinations } from '../member/learned-destinations.ts'
import type { LiveConnections } from './live-connections.ts'
import type { MeshState } from '../member/mesh-state.ts'
import type { PeerWorkload } from '../member/telemetry/labels.ts'

/** Endpoints that are tried for one connection. */
const maxAttempts = 3

export interface OutboundParts {
  readonly mesh: MeshState
  /** Undefined where there is no control plane. */
  readonly pool: HbonePool | undefined
  readonly live: LiveConnections
  readonly dial: (to: SocketAddr) => Promise<Socket>
  /** Addresses of a name outside the mesh. */
  readonly lookup: (hostname: string, preferIpv6: boolean) => Promise<string>
  /** Where an endpoint that failed was replaced by another. */
  readonly onRetry: (because: string) => void
  /** What was decided of a destination outside the mesh. */
  readonly onEgress: (because: EgressReason) => void
  /** What was connected to outside the mesh, by whom. */
  readonly learned: Pick<LearnedDestinations, 'saw'>
  /** A waypoint that is not ready is passed over, as its owner chose. */
  readonly onSkipped: () => void
}

export interface OutboundRequest {
  readonly source: Workload
  /** Names the pod for the pool. */
  readonly sourceKey: string
  readonly client: ClientAddr
  readonly original: OriginalDst
  readonly traceParent: TraceParent
}

/** What a connection leads to, as far as it is known: also when it could not be made. */
export interface OutboundFacts {
  readonly workload?: PeerWorkload | undefined
  readonly identity?: Identity | undefined
  readonly service?: Service | undefined
  readonly hboneAddr?: SocketAddr | undefined
  /** The name of the waypoint that was passed over. */
  readonly waypointSkipped?: string | undefined
}

export type Upstream = OutboundFacts & (
  | { readonly t: 'plain'; readonly socket: Socket; readonly isReused: false }
  | { readonly t: 'tunnel'; readonly stream: TunnelStream; readonly socket: Socket; readonly isReused: boolean }
)

function decideDestination(
  { mesh, live }: OutboundParts, { source, original }: OutboundRequest, tries: Pick<DestinationRequest, 'tried' | 'isWaypointThere'>,
): Destination {
  return resolveDestination({ source, original, store: mesh.store, random: Math.random, health: mesh.health, load: (uid) => live.load(uid), ...tries })
}

function refusalOf({ because, code, service, workload }: Destination & { t: 'refuse' }, original: OriginalDst): MeshError {
  return new MeshError(code, `${formatAddr(original)}: ${because}${waypointHint(because, service, workload)}`, { retry: 'never', detail: { because } })
}

/** Which waypoint it is that is missed, and who can do something about it. */
function waypointHint(because: string, service: Service | undefined, workload: Workload | undefined): string {
  if (because !== 'unknownWaypoint' && because !== 'noHealthyWaypoint') return ''
  const waypoint = service?.waypoint ?? service?.weightedWaypoints?.[0]?.destination ?? workload?.waypoint
  const is = because === 'unknownWaypoint' ? 'is not there' : 'has no replica that is ready'
  return waypoint ? ` (the waypoint ${waypointName(waypoint)} ${is}; sidestep waypoint status says why)` : ''
}

/** Rejects with a MeshError; `onFacts` is told what is known of the destination before each attempt. */
export async function openUpstream(parts: OutboundParts, request: OutboundRequest, onFacts: (facts: OutboundFacts) => void): Promise<Upstream> {
  const tried = new Set<string>()
  let isWaypointThere = false
  let failure: unknown
  for (let attempt = 1; attempt <= maxAttempts; attempt++) {
    const destination = decideDestination(parts, request, { tried, isWaypointThere })
    const leaves = leavesMesh(destination, request.source, parts.mesh.store)
    if (attempt === 1) learn(parts, request, destination, leaves)
    // Where no endpoint is left, why the last one failed says more.
    if (destination.t === 'refuse') throw failure ?? refusalOf(destination, request.original)
    onFacts(factsOf(destination))
    if (leaves) checkEgress(parts, request)
    try {
      const upstream = await connectTo(parts, request, destination)
      remember(parts, destination)
      if (upstream.waypointSkipped !== undefined) parts.onSkipped()
      return upstream
    } catch (error) {
      failure = error
      if (isEndpointsFault(destination, error)) remember(parts, destination, error)
      isWaypointThere ||= destination.t === 'waypoint' && !isNobodyThere(error)
      const uid = replaceable(destination, error)
      if (uid === undefined || !(error instanceof MeshError) || !mayTryAnother(destination, error)) throw error
      tried.add(uid)
      parts.onRetry(error.code)
    }
  }
  throw failure
}

/** Once for each connection, however many endpoints are tried. */
function learn({ learned }: OutboundParts, { source, original }: OutboundRequest, destination: Destination, leaves: boolean): void {
  const host = entryHost(destination)
  if (!leaves && host === undefined) return
  const { namespace, serviceAccount } = source
  const allowed = leaves ? egressVerdict(source).allowed : destination.t !== 'refuse'
  learned.saw({ namespace, serviceAccount, host, address: original.ip, port: original.port, protocol: 'tcp', allowed })
}

function checkEgress({ onEgress }: OutboundParts, { source, original }: OutboundRequest): void {
  const verdict = egressVerdict(source)
  onEgress(verdict.because)
  if (verdict.allowed) return
  throw new MeshError('POLICY_DENIED', `${formatAddr(original)} is outside the mesh, and ${source.namespace} does not allow that`, { detail: { because: verdict.because } })
}

function factsOf(destination: Exclude<Destination, { t: 'refuse' }>): OutboundFacts {
  const { service } = destination
  const waypointSkipped = 'waypointSkipped' in destination ? destination.waypointSkipped : undefined
  switch (destination.t) {
    case 'passthrough':
      return { service, waypointSkipped }
    case 'plain':
      return { workload: destination.workload, service, waypointSkipped }
    case 'hbone':
    case 'waypoint':
      return { workload: destination.hop.workload, service, hboneAddr: addressOf(destination.hop.connectTo), waypointSkipped }
    case 'gateway':
      // Who is behind it is known when it has answered.
      return { service, hboneAddr: addressOf(destination.hop.connectTo), waypointSkipped }
    default:
      return destination satisfies never
  }
}

function addressOf(dial: Dial): SocketAddr | undefined {
  return dial.kind === 'address' ? dial.addr : undefined
}

async function connectTo(parts: OutboundParts, request: OutboundRequest, destination: Exclude<Destination, { t: 'refuse' }>): Promise<Upstream> {
  switch (destination.t) {
    case 'passthrough':
      return { t: 'plain', socket: await parts.dial(destination.to), isReused: false, ...factsOf(destination) }
    case 'plain':
      return { t: 'plain', socket: await parts.dial(await addressToDial(parts, request, destination.to)), isReused: false, ...factsOf(destination) }
    case 'hbone':
    case 'waypoint':
      return await tunnel(parts, request, destination.hop, factsOf(destination))
    case 'gateway':
      return await tunnelThrough(parts, request, destination)
    default:
      return destination satisfies never
  }
}

async function addressToDial({ lookup }: OutboundParts, { original }: OutboundRequest, dial: Dial): Promise<SocketAddr> {
  if (dial.kind === 'address') return dial.addr
  return { ip: await lookup(dial.hostname, original.ip.includes(':')), port: dial.port }
}

async function tunnel(parts: OutboundParts, request: OutboundRequest, hop: Hop, facts: OutboundFacts): Promise<Upstream> {
  const pool = poolOf(parts)
  const outer = await tunnelRequest(parts, request, hop, facts)
  const { stream, socket, isReused, peerIdentity } = await pool.openTunnel(outer)
  return { t: 'tunnel', stream, socket, isReused, ...facts, identity: peerIdentity, hboneAddr: outer.target.address }
}

/** To another network: through its gateway, which sees neither the identities nor the bytes. */
async function tunnelThrough(parts: OutboundParts, request: OutboundRequest, { hop, innerIdentities, service }: Destination & { t: 'gateway' }): Promise<Upstream> {
  const pool = poolOf(parts)
  const identities = identitiesOf(innerIdentities)
  if (identities.length === 0) {
    throw new MeshError('PEER_IDENTITY_MISMATCH', `nobody knows who may serve ${service.hostname} in another network: the service names no identities`, {
      retry: 'never', detail: { because: 'noIdentitiesOfService' },
    })
  }
  const outer = await tunnelRequest(parts, request, hop, { service })
  const { authority, headers } = outer
  const { stream, socket, isReused, peerIdentity, responseHeaders } = await pool.openTunnelThrough(outer, {
    identities, authority, headers: { ...headers, forwardedNetwork: request.source.network },
  })
  const baggage = responseHeaders['baggage']
  const workload = workloadOf(parseBaggage(Array.isArray(baggage) ? baggage[0] : baggage), peerIdentity)
  return { t: 'tunnel', stream, socket, isReused, service, workload, identity: peerIdentity, hboneAddr: outer.target.address }
}

function poolOf({ pool }: OutboundParts): HbonePool {
  if (pool) return pool
  throw new MeshError('CONTROL_PLANE_UNAVAILABLE', 'there are no identities without a control plane')
}

async function tunnelRequest(parts: OutboundParts, request: OutboundRequest, hop: Hop, { service }: OutboundFacts): Promise<TunnelRequest> {
  const { source, sourceKey, client, traceParent } = request
  const { namespace, serviceAccount, trustDomain } = source
  const address = await addressToDial(parts, request, hop.connectTo)
  return {
    target: { source: { namespace, serviceAccount, trustDomain }, identities: identitiesOf(hop.identities), address, sourceKey },
    authority: authorityOf(hop.authority),
    headers: { baggage: baggageOf(source), forwarded: { client, ...(service && { host: service.hostname }) }, traceParent },
  }
}

function identitiesOf(uris: readonly string[]): Identity[] {
  return uris.flatMap((uri) => parseIdentity(uri) ?? [])
}

function authorityOf(text: string): Authority {
  const parsed = parseAuthority(text)
  if ('ok' in parsed) return parsed.ok
  throw new MeshError('BAD_MESSAGE', `the mesh names a destination that cannot be asked for: ${parsed.fault}`)
}

/** The endpoint that load balancing chose and may replace; not one that the application named by its address. */
function replaceable(destination: Destination, error: unknown): string | undefined {
  switch (destination.t) {
    case 'hbone': return destination.choice.because === 'addressed' ? undefined : destination.hop.workload.uid
    case 'plain': return destination.choice.because === 'addressed' ? undefined : destination.workload.uid
    case 'waypoint': return destination.hop.workload.uid
    // Where the gateway is a service another of its endpoints may do; a single address is as far as this endpoint can be reached.
    case 'gateway': return isBehindGateway(error) || destination.remote.networkGateway?.destination.kind === 'address' ? destination.remote.uid : destination.hop.workload.uid
    default: return undefined
  }
}

/** Also where the gateway itself says that it does not get there: that must not count against all that it leads to. */
function isBehindGateway(error: unknown): boolean {
  return error instanceof MeshError && (error.detail['hop'] === 'inner' || error.code === 'TUNNEL_REFUSED')
}

/** The bytes of the application follow the answer, so of a tunnel that ended before it nobody has seen any: another waypoint may be asked. */
function mayTryAnother(destination: Destination, error: MeshError): boolean {
  return error.retry === 'always' || (destination.t === 'waypoint' && error.code === 'TUNNEL_CLOSED')
}

/** Nobody answered the CONNECT. What has a status was an answer; all else is trouble of our own, and no reason to go past anybody. */
function isNobodyThere(error: unknown): boolean {
  return error instanceof MeshError && error.detail['status'] === undefined && (error.code.startsWith('CONNECT_') || error.code === 'TUNNEL_CLOSED')
}

/** What a waypoint does not get to must not count against the waypoint, as with a gateway. */
function isEndpointsFault(destination: Destination, error: unknown): boolean {
  if (!(error instanceof MeshError)) return false
  if (isNobodyThere(error) || error.code === 'TLS_FAILED') return true
  return destination.t !== 'waypoint' && (error.code === 'TUNNEL_REFUSED' || error.code === 'CONNECT_TIMEOUT')
}

/** What an attempt taught about endpoints; `error` is why it failed. */
function remember({ mesh }: OutboundParts, destination: Destination, error?: unknown): void {
  for (const [uid, port] of endpointsOf(destination, error)) {
    if (error === undefined) mesh.health.recordSuccess(uid, port)
    else mesh.health.recordFailure(uid, port)
  }
}

function endpointsOf(destination: Destination, error: unknown): [uid: string, port: number][] {
  switch (destination.t) {
    case 'hbone':
    case 'waypoint': return [[destination.hop.workload.uid, destination.hop.healthPort]]
    case 'plain': return destination.to.kind === 'address' ? [[destination.workload.uid, destination.to.addr.port]] : []
    case 'gateway': {
      const gateway: [string, number] = [destination.hop.workload.uid, destination.hop.healthPort]
      const remote: [string, number] = [destination.remote.uid, destination.remotePort]
      return error === undefined ? [gateway, remote] : [isBehindGateway(error) ? remote : gateway]
    }
    default: return []
  }
}
