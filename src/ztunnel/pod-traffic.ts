// The connections of one captured pod, both ways. It must never let a connection through whose original destination is
// unknown, towards the ztunnel's own ports, or against the policies in force.
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { formatAddr, isIpv6Address } from '../core/address.ts'
import type { ClientAddr, OriginalDst, SocketAddr } from '../core/address.ts'
import { MeshError } from '../core/errors.ts'
import type { Identity } from '../core/identity.ts'
import type { Logger } from '../core/log.ts'
import type { ConnectDecision, ConnectRequest } from '../hbone/server-session.ts'
import { freshTraceParent } from '../hbone/traceparent.ts'
import type { TraceParent } from '../hbone/traceparent.ts'
import { port as ports } from '../kernel/generated/layout.ts'
import { abortSocket } from '../kernel/live-socket.ts'
import { tcpStatistics } from '../kernel/tcp-info.ts'
import type { TcpStatistics } from '../kernel/tcp-info.ts'
import type { Netns } from '../kernel/netns.ts'
import { deliveryPorts } from '../kernel/redirection.ts'
import { connectInNetns } from '../kernel/sockets.ts'
import type { PodEnrolment } from '../model/enrolment.ts'
import type { StoreChange } from '../model/workload-store.ts'
import type { Workload } from '../model/workload.ts'
import { needsRecheck } from '../policy/recheck.ts'
import { baggageOf } from '../member/baggage.ts'
import { carryTunnel } from './carry-tunnel.ts'
import { carry, reversed } from './carry.ts'
import type { Carried, Carrying } from './carry.ts'
import { authorize, deliveryOf, sourceOf } from './inbound.ts'
import type { Delivery, TunnelSource } from './inbound.ts'
import { openUpstream } from './outbound.ts'
import type { OutboundFacts, Upstream } from './outbound.ts'
import type { ConnectionShare } from '../member/connection-limit.ts'
import type { PodProxyParts } from './pod-proxy.ts'
import { sendHeader } from './proxy-protocol.ts'
import { addressOf, foldedIp, peerOf } from '../member/socket-address.ts'
import { ConnectionRecord, recordFailure } from './telemetry/connection-record.ts'
import type { AllowedBy, ConnectionFacts } from './telemetry/connection-record.ts'
import { reasonOf } from '../member/telemetry/labels.ts'

/** Counts since the pod was enrolled by this process. */
export interface TrafficStatistics {
  readonly open: number
  readonly outbound: number
  readonly inbound: number
  readonly refused: number
  readonly failed: number
  readonly bytesSent: number
  readonly bytesReceived: number
}

type Direction = ConnectionFacts['direction']

interface Judged {
  readonly client: ClientAddr
  readonly identity?: Identity
  readonly peerIdentity?: Identity
}

export class PodTraffic {
  readonly #pod: PodEnrolment
  readonly #netns: Netns
  readonly #parts: PodProxyParts
  readonly #share: ConnectionShare
  readonly #logger: Logger
  #open = 0
  #outbound = 0
  #inbound = 0
  #refused = 0
  #failed = 0
  #bytesSent = 0
  #bytesReceived = 0
  #whenIdle: (() => void)[] = []

  constructor(pod: PodEnrolment, netns: Netns, parts: PodProxyParts, share: ConnectionShare, logger: Logger) {
    this.#share = share
    this.#pod = pod
    this.#netns = netns
    this.#parts = parts
    this.#logger = logger
  }

  /** From the pod's application to `original`; without one, nobody knows where it meant to go. */
  async outbound(socket: Socket, client: ClientAddr | undefined, original: OriginalDst | undefined): Promise<void> {
    if (!client || !original) {
      this.#refuse(socket, 'outbound', client, original, new MeshError('ORIGINAL_DESTINATION_UNKNOWN', 'no original destination', { source: 'downstream' }))
      return
    }
    let facts: OutboundFacts = {}
    let source: Workload | undefined
    const connectionFacts = (found: OutboundFacts): ConnectionFacts => ({
      direction: 'outbound', reporter: 'source', sourceAddr: client, destinationAddr: original, hboneAddr: found.hboneAddr,
      source: { workload: source, identity: found.identity && source && identityOf(source) },
      destination: { workload: found.workload, identity: found.identity }, service: found.service, isMutualTls: found.identity !== undefined,
      waypointSkipped: found.waypointSkipped,
    })
    await this.#connection(socket, () => connectionFacts(facts), async (traceParent) => {
      source = await this.#own()
      const opened = await this.#openUpstream(source, client, original, traceParent, (found) => (facts = found))
      facts = opened
      this.#outbound++
      return opened
    })
  }

  async #openUpstream(source: Workload | undefined, client: ClientAddr, original: OriginalDst, traceParent: TraceParent, onFacts: (facts: OutboundFacts) => void): Promise<Upstream> {
    if (!source) return { t: 'plain', socket: await this.#dial(original), isReused: false }
    const { metrics } = this.#parts
    return await openUpstream(
      { ...this.#parts, dial: (to) => this.#dial(to), onRetry: (because) => metrics.retried(because), onEgress: (because) => metrics.egress(this.#pod.namespace, because), onSkipped: () => metrics.waypointSkipped(this.#pod.namespace) },
      { source, sourceKey: this.#pod.uid, client, original, traceParent },
      onFacts,
    )
  }

  /** A connection of the ztunnel's own in the pod's name, by the same way and under the same rules as the pod's. */
  async open(destination: OriginalDst): Promise<Duplex> {
    const client = { ip: this.#pod.ips[0] ?? '', port: 0 }
    const upstream = await this.#openUpstream(await this.#own(), client, destination, freshTraceParent(), () => {})
    return upstream.t === 'tunnel' ? upstream.stream : upstream.socket
  }

  /** From a client that speaks no tunnel to the pod's application, which sees the client's address. */
  async inbound(socket: Socket): Promise<void> {
    const client = peerOf(socket)
    const destination = addressOf(socket.localAddress, socket.localPort)
    if (!client || !destination || isInternal(destination.port)) {
      const self = new MeshError('CONNECT_REFUSED', 'a port of the ztunnel is not for clients', { source: 'downstream', detail: { because: 'selfCall' } })
      this.#refuse(socket, 'inbound', client, destination, self)
      return
    }
    let own: Workload | undefined
    let verdict: AllowedBy | undefined
    const facts = (): ConnectionFacts => ({ ...this.#inboundFacts(own, client, destination), verdict })
    await this.#connection(socket, facts, async () => {
      own = await this.#own()
      if (own) this.#admit(own, destination, { client })
      const upstream = await this.#deliver(client, destination)
      verdict = this.#admitNow(own, destination, { client }, upstream)
      this.#inbound++
      return { t: 'plain', socket: upstream, isReused: false }
    })
  }

  /** A CONNECT of a verified peer: who may, where to, and then the bytes. */
  async tunnel(request: ConnectRequest, local: SocketAddr, peer: ClientAddr): Promise<ConnectDecision> {
    const { mesh, limit, metrics } = this.#parts
    const { peerIdentity, authority } = request
    let own: Workload | undefined
    let source: TunnelSource | undefined
    let destination: SocketAddr = authority.t === 'address' ? authority.address : local
    const startedMs = performance.now()
    if (!this.#share.acquire()) throw new MeshError('TOO_MANY_CONNECTIONS', `${limit.open} connections are open, and no more are for this pod`)
    const release = this.#enter()
    const leave = (): void => {
      this.#share.release()
      release()
    }
    const span = this.#parts.spans.start('inbound', request.traceParent)
    try {
      own = await mesh.ownWorkload(this.#pod)
      const delivery = deliveryOf(mesh, own, request, local, peer)
      destination = delivery.destination
      source = delivery.source
      if (source.isClaimIgnored) metrics.claimIgnored(this.#pod.namespace)
      if (isInternal(destination.port)) throw new MeshError('BAD_MESSAGE', 'a port of the ztunnel is not for clients', { source: 'downstream', detail: { because: 'selfCall' } })
      const judged = { client: source.client, identity: source.identity, peerIdentity }
      this.#admit(own, destination, judged)
      const upstream = await this.#deliver(source.seenAs, destination, delivery.applicationTunnel)
      const verdict = this.#admitNow(own, destination, judged, upstream)
      metrics.stage('connect', 'destination', (performance.now() - startedMs) / 1_000)
      this.#inbound++
      const facts = { ...this.#inboundFacts(own, peer, destination, request, source), verdict }
      span.end(facts)
      return {
        t: 'accept', baggage: baggageOf(own),
        carry: (stream) => void this.#carry(reversed(carryTunnel(upstream, stream, { fromFirst: this.#firstByte('destination', startedMs) })), facts, { isReused: true }).finally(leave),
      }
    } catch (error) {
      leave()
      const facts = this.#inboundFacts(own, peer, destination, request, source)
      span.end(facts, { error })
      this.#failedConnection(facts, error, startedMs)
      throw error
    }
  }

  /** The pod as the mesh knows it; undefined where it is unknown and the owner chose to pass what cannot be decided. */
  async #own(): Promise<Workload | undefined> {
    const { mesh } = this.#parts
    const isOpen = this.#pod.failureMode === 'open'
    if (isOpen && !mesh.isKnown) return undefined
    try {
      return mesh.peekWorkload(this.#pod) ?? await mesh.ownWorkload(this.#pod)
    } catch (error) {
      if (isOpen) return undefined
      throw error
    }
  }

  /** `request`: of a tunnel; `source`: for whom it is, if that is known yet. */
  #inboundFacts(own: Workload | undefined, peer: ClientAddr, destination: SocketAddr, request?: ConnectRequest, source?: TunnelSource): ConnectionFacts {
    const client = source?.client ?? peer
    return {
      direction: 'inbound', reporter: 'destination', sourceAddr: client, destinationAddr: destination,
      source: sourceOf(this.#parts.mesh, own, client, request, source?.identity), via: source?.via, isClaimIgnored: source?.isClaimIgnored,
      destination: { workload: own, identity: request && own && identityOf(own) }, isMutualTls: request !== undefined,
    }
  }

  /** `identity`: whom policies judge; `peerIdentity`: what was proved, which must be the waypoint's where one is to be passed. */
  #admit(own: Workload, destination: SocketAddr, { client, identity, peerIdentity }: Judged): AllowedBy {
    const { mesh, guard } = this.#parts
    guard.check(peerIdentity, own, destination)
    return authorize(mesh, own, { client, identity, destination })
  }

  /** The mesh may have changed while we dialled, when nobody could have cut this connection. */
  #admitNow(own: Workload | undefined, destination: SocketAddr, judged: Judged, upstream: Socket): AllowedBy | undefined {
    const now = own && this.#parts.mesh.peekWorkload(this.#pod)
    if (!now) return undefined
    try {
      return this.#admit(now, destination, judged)
    } catch (error) {
      abortSocket(upstream)
      throw error
    }
  }

  #dial({ ip, port }: SocketAddr): Promise<Socket> {
    const { redirection, connectTimeoutMs, keepAliveSeconds } = this.#parts
    return connectInNetns(this.#netns, { host: ip, port, timeoutMs: connectTimeoutMs, keepAliveSeconds, socketMark: redirection.bypassMark() })
  }

  /** To the pod's application, from the client's address where the kernel can say so. */
  async #deliver(client: ClientAddr, destination: SocketAddr, tunnel?: Delivery['applicationTunnel']): Promise<Socket> {
    const { redirection, connectTimeoutMs, keepAliveSeconds } = this.#parts
    const { ip: host, port } = tunnel?.dial ?? destination
    const { mark, ...socketMark } = redirection.deliveryMark({ ip: host, port })
    const isSelf = this.#pod.ips.some((ip) => foldedIp(ip) === client.ip)
    const canSpoof = !isSelf && !tunnel && isIpv6Address(client.ip) === isIpv6Address(destination.ip)
    const socket = await connectInNetns(this.#netns, {
      host, port,
      ...(canSpoof && { source: { ip: client.ip, port: 0 }, transparent: true, portRange: deliveryPorts }),
      mark, socketMark, timeoutMs: connectTimeoutMs, keepAliveSeconds,
    })
    if (tunnel?.header) await sendHeader(socket, tunnel.header)
    return socket
  }

  async #connection(socket: Socket, facts: () => ConnectionFacts, open: (traceParent: TraceParent) => Promise<Upstream>): Promise<void> {
    const { limit, metrics, spans } = this.#parts
    if (!this.#share.acquire()) {
      const { direction, sourceAddr, destinationAddr } = facts()
      this.#refuse(socket, direction, sourceAddr, destinationAddr, new MeshError('TOO_MANY_CONNECTIONS', `${limit.open} connections are open, and no more are for this pod`))
      return
    }
    const leave = this.#enter()
    const startedMs = performance.now()
    const span = spans.start(facts().direction)
    // Errors before carry() listens: the client may reset while we dial.
    socket.on('error', () => {})
    try {
      const upstream = await open(span.traceParent)
      const { reporter } = facts()
      span.end(facts(), upstream.t === 'tunnel' ? { isReused: upstream.isReused } : {})
      metrics.stage('connect', reporter, (performance.now() - startedMs) / 1_000)
      const told = { fromSecond: this.#firstByte(reporter, startedMs) }
      if (upstream.t === 'tunnel') await this.#carry(carryTunnel(socket, upstream.stream, told), facts(), upstream)
      else await this.#carry(carry(socket, upstream.socket, told), facts(), undefined)
    } catch (error) {
      abortSocket(socket)
      span.end(facts(), { error })
      this.#failedConnection(facts(), error, startedMs)
    } finally {
      this.#share.release()
      leave()
    }
  }

  /** To be told when the destination's first byte has come; once. */
  #firstByte(reporter: ConnectionFacts['reporter'], startedMs: number): () => void {
    let isTold = false
    return () => {
      if (!isTold) this.#parts.metrics.stage('firstByte', reporter, (performance.now() - startedMs) / 1_000)
      isTold = true
    }
  }

  /** `carrying`: from the source to the destination. */
  async #carry(carrying: Carrying, facts: ConnectionFacts, tunnel: { readonly isReused: boolean; readonly socket?: Socket } | undefined): Promise<void> {
    const retransmitsBefore = (tunnel?.socket && tcpStatistics(tunnel.socket))?.retransmits ?? 0
    let cutBecause: string | undefined
    const forget = this.#parts.live.add({
      ...facts, podUid: this.#pod.uid, protocol: tunnel ? 'hbone' : 'tcp', isReused: tunnel?.isReused ?? false, sinceMs: Date.now(),
      counts: () => carrying.counts(),
      cut: (because) => {
        cutBecause = because
        carrying.cut()
      },
    })
    using record = new ConnectionRecord(facts, this.#parts.metrics, this.#parts.accessLog)
    record.follow(() => {
      const { sent, received } = carrying.counts()
      return [sent, received]
    })
    try {
      const carried = await carrying.done
      const tunnelTcp = tunnel?.socket && tcpStatistics(tunnel.socket)
      // Towards the other end; in a tunnel that is the connection which its streams share.
      const ofPlain = facts.direction === 'outbound' ? carried.tcp?.second : carried.tcp?.first
      const tcp = tunnelTcp ? { ...tunnelTcp, retransmits: tunnelTcp.retransmits - retransmitsBefore } : ofPlain
      this.#finish(record, facts, carried, cutBecause, tcp)
    } finally {
      forget()
    }
  }

  #finish(record: ConnectionRecord, { direction }: ConnectionFacts, { sent, received, because }: Carried, cutBecause: string | undefined, tcp: TcpStatistics | undefined): void {
    // Of the pod: what it sent is what the source sent where it is the source.
    this.#bytesSent += direction === 'outbound' ? sent : received
    this.#bytesReceived += direction === 'outbound' ? received : sent
    record.finish({ bytesFromSource: sent, bytesFromDestination: received, because: cutBecause ?? endings[because], ...tcp })
  }

  /** Judges the pod's live connections again after a change of the mesh, and cuts those that are not allowed any more. */
  recheck(changes: readonly StoreChange[]): void {
    const { mesh, live } = this.#parts
    const own = mesh.peekWorkload(this.#pod)
    if (!own || !needsRecheck(changes, own)) return
    for (const connection of live.inboundOf(this.#pod.uid)) {
      try {
        authorize(mesh, own, { client: connection.sourceAddr, identity: connection.source.identity, destination: connection.destinationAddr })
      } catch (error) {
        if (!(error instanceof MeshError)) throw error
        connection.cut('policyChanged')
        this.#log('connection cut by policy', { direction: 'inbound', client: connection.sourceAddr, destination: connection.destinationAddr }, error)
      }
    }
  }

  #refuse(socket: Socket, direction: Direction, client: ClientAddr | undefined, destination: SocketAddr | undefined, error: MeshError): void {
    this.#refused++
    this.#parts.metrics.refused(reasonOf(error))
    socket.on('error', () => {}) // it is being reset; what the peer does meanwhile is of no interest
    abortSocket(socket)
    this.#log('connection refused', { direction, client, destination }, error)
  }

  #failedConnection(facts: ConnectionFacts, error: unknown, startedMs: number): void {
    // By policy, or because of what the client asked for; all else is our failure or the destination's.
    if (error instanceof MeshError && (error.code === 'POLICY_DENIED' || error.source === 'downstream')) this.#refused++
    else this.#failed++
    recordFailure(facts, error, this.#parts.metrics, this.#parts.accessLog, performance.now() - startedMs)
  }

  #log(message: string, where: { readonly direction: Direction; readonly client: SocketAddr | undefined; readonly destination: SocketAddr | undefined }, error: unknown): void {
    const { direction, client, destination } = where
    const { code, level, detail } = error instanceof MeshError ? error : new MeshError('CONNECT_FAILED', String(error), { cause: error })
    const facts = { direction, code, error: error instanceof Error ? error.message : String(error), because: detail['because'], policy: detail['policy'] }
    this.#logger[level]({ 'src.addr': client && formatAddr(client), 'dst.addr': destination && formatAddr(destination), ...facts }, message)
  }

  #enter(): () => void {
    this.#open++
    return () => {
      if (--this.#open > 0) return
      for (const resolve of this.#whenIdle.splice(0)) resolve()
    }
  }

  /** Resolves when nothing is carried for the pod. */
  idle(): Promise<void> {
    return this.#open === 0 ? Promise.resolve() : new Promise((resolve) => this.#whenIdle.push(resolve))
  }

  statistics(): TrafficStatistics {
    return {
      open: this.#open, outbound: this.#outbound, inbound: this.#inbound, refused: this.#refused, failed: this.#failed,
      bytesSent: this.#bytesSent, bytesReceived: this.#bytesReceived,
    }
  }
}

const endings = { finished: 'finished', resetByFirst: 'resetBySource', resetBySecond: 'resetByDestination' } as const

function identityOf({ trustDomain, namespace, serviceAccount }: Workload): Identity {
  return { trustDomain, namespace, serviceAccount }
}

const internalPorts: ReadonlySet<number> = new Set(Object.values(ports))
function isInternal(port: number): boolean {
  return internalPorts.has(port)
}
