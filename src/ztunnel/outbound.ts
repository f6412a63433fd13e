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
import type { HbonePool } from '../hbone/pool.ts'
import type { TunnelStream } from '../hbone/tunnel-stream.ts'
import type { Service, Workload } from '../model/workload.ts'
import { resolveDestination } from '../policy/destination.ts'
import type { Destination, Dial, Hop } from '../policy/destination.ts'
import { egressVerdict, leavesMesh } from '../policy/egress.ts'
import type { EgressReason } from '../policy/egress.ts'
import { baggageOf } from './baggage.ts'
import type { LiveConnections } from './live-connections.ts'
import type { MeshState } from './mesh-state.ts'

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
  readonly workload?: Workload | undefined
  readonly identity?: Identity | undefined
  readonly service?: Service | undefined
  readonly hboneAddr?: SocketAddr | undefined
}

export type Upstream = OutboundFacts & (
  | { readonly t: 'plain'; readonly socket: Socket; readonly isReused: false }
  | { readonly t: 'tunnel'; readonly stream: TunnelStream; readonly socket: Socket; readonly isReused: boolean }
)

/** Where it would go; for explanations too. Throws what forbids it: POLICY_DENIED, NO_HEALTHY_UPSTREAM, CONNECT_REFUSED. */
export function decideDestination(parts: Pick<OutboundParts, 'mesh' | 'live'>, source: Workload, original: OriginalDst, tried: ReadonlySet<string>): Exclude<Destination, { t: 'refuse' }> {
  const { mesh, live } = parts
  const destination = resolveDestination({
    source, original, store: mesh.store, random: Math.random, health: mesh.health, load: (uid) => live.load(uid), tried,
  })
  if (destination.t !== 'refuse') return destination
  throw new MeshError(destination.code, `${formatAddr(original)}: ${destination.because}`, { retry: 'never', detail: { because: destination.because } })
}

/** Rejects with a MeshError; `onFacts` is told what is known of the destination before each attempt. */
export async function openUpstream(parts: OutboundParts, request: OutboundRequest, onFacts: (facts: OutboundFacts) => void): Promise<Upstream> {
  const tried = new Set<string>()
  let failure: unknown
  for (let attempt = 1; attempt <= maxAttempts; attempt++) {
    let destination: Exclude<Destination, { t: 'refuse' }>
    try {
      destination = decideDestination(parts, request.source, request.original, tried)
    } catch (error) {
      // No endpoint is left: why the last one failed says more.
      throw failure ?? error
    }
    onFacts(factsOf(destination))
    if (leavesMesh(destination)) checkEgress(parts, request)
    try {
      const upstream = await connectTo(parts, request, destination)
      remember(parts, destination, true)
      return upstream
    } catch (error) {
      failure = error
      if (isEndpointsFault(error)) remember(parts, destination, false)
      const uid = replaceable(destination)
      if (uid === undefined || !(error instanceof MeshError) || error.retry !== 'always') throw error
      tried.add(uid)
      parts.onRetry(error.code)
    }
  }
  throw failure
}

function checkEgress({ onEgress }: OutboundParts, { source, original }: OutboundRequest): void {
  const verdict = egressVerdict(source)
  onEgress(verdict.because)
  if (verdict.allowed) return
  throw new MeshError('POLICY_DENIED', `${formatAddr(original)} is outside the mesh, and ${source.namespace} does not allow that`, { detail: { because: verdict.because } })
}

function factsOf(destination: Destination): OutboundFacts {
  switch (destination.t) {
    case 'passthrough':
      return { service: destination.service }
    case 'plain':
      return { workload: destination.workload, service: destination.service }
    case 'hbone':
      return { workload: destination.hop.workload, service: destination.service, hboneAddr: addressOf(destination.hop.connectTo) }
    case 'waypoint':
      return { workload: destination.hop.workload, service: destination.of === 'service' ? destination.service : undefined, hboneAddr: addressOf(destination.hop.connectTo) }
    default:
      return { service: destination.service }
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
      throw new MeshError('CONNECT_UNREACHABLE', `${formatAddr(request.original)} is in another network, and this version makes no tunnels across networks`, {
        retry: 'never', detail: { because: 'otherNetwork' },
      })
    default:
      return destination satisfies never
  }
}

async function addressToDial({ lookup }: OutboundParts, { original }: OutboundRequest, dial: Dial): Promise<SocketAddr> {
  if (dial.kind === 'address') return dial.addr
  return { ip: await lookup(dial.hostname, original.ip.includes(':')), port: dial.port }
}

async function tunnel(parts: OutboundParts, request: OutboundRequest, hop: Hop, facts: OutboundFacts): Promise<Upstream> {
  const { source, sourceKey, client, traceParent } = request
  if (!parts.pool) throw new MeshError('CONTROL_PLANE_UNAVAILABLE', 'there are no identities without a control plane')
  const identities = hop.identities.flatMap((uri) => parseIdentity(uri) ?? [])
  const address = await addressToDial(parts, request, hop.connectTo)
  const { namespace, serviceAccount, trustDomain } = source
  const opened = await parts.pool.openTunnel({
    target: { source: { namespace, serviceAccount, trustDomain }, identities, address, sourceKey },
    authority: authorityOf(hop.authority),
    headers: { baggage: baggageOf(source), forwarded: { client, ...(facts.service && { host: facts.service.hostname }) }, traceParent },
  })
  const { stream, socket, isReused, peerIdentity } = opened
  return { t: 'tunnel', stream, socket, isReused, ...facts, identity: peerIdentity, hboneAddr: address }
}

function authorityOf(text: string): Authority {
  const parsed = parseAuthority(text)
  if ('ok' in parsed) return parsed.ok
  throw new MeshError('BAD_MESSAGE', `the mesh names a destination that cannot be asked for: ${parsed.fault}`)
}

/** The endpoint that load balancing chose and may replace; not one that the application named by its address. */
function replaceable(destination: Destination): string | undefined {
  if (destination.t === 'hbone') return destination.choice.because === 'addressed' ? undefined : destination.hop.workload.uid
  if (destination.t === 'plain') return destination.choice.because === 'addressed' ? undefined : destination.workload.uid
  return destination.t === 'waypoint' ? destination.hop.workload.uid : undefined
}

function isEndpointsFault(error: unknown): boolean {
  return error instanceof MeshError && (error.code.startsWith('CONNECT_') || error.code === 'TUNNEL_REFUSED' || error.code === 'TUNNEL_CLOSED' || error.code === 'TLS_FAILED')
}

function remember({ mesh }: OutboundParts, destination: Destination, isSuccess: boolean): void {
  const [uid, port] = destination.t === 'hbone' || destination.t === 'waypoint' ? [destination.hop.workload.uid, destination.hop.healthPort]
    : destination.t === 'plain' && destination.to.kind === 'address' ? [destination.workload.uid, destination.to.addr.port] : []
  if (uid === undefined || port === undefined) return
  if (isSuccess) mesh.health.recordSuccess(uid, port)
  else mesh.health.recordFailure(uid, port)
}
