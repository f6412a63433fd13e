// One captured pod: its listeners inside the pod's namespace, its redirection, and its end. What is carried for it is
// pod-traffic.ts's. Never says that a pod is captured before every listener is there.
import { createServer } from 'node:net'
import type { Server, Socket } from 'node:net'
import { describeError, MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import type { Identity } from '../core/identity.ts'
import type { HboneEvents } from '../hbone/events.ts'
import type { HbonePool } from '../hbone/pool.ts'
import { HboneServer } from '../hbone/server.ts'
import { port as ports } from '../kernel/generated/layout.ts'
import type { ListenerKind } from '../kernel/generated/layout.ts'
import type { Netns } from '../kernel/netns.ts'
import type { Redirection } from '../kernel/redirection.ts'
import { abortSocket, duplicateDescriptor } from '../kernel/live-socket.ts'
import { listenInNetns } from '../kernel/sockets.ts'
import type { PodEnrolment } from '../model/enrolment.ts'
import type { StoreChange } from '../model/workload-store.ts'
import { handshakeLimit } from '../member/connection-limit.ts'
import type { ConnectionLimit, ConnectionShare } from '../member/connection-limit.ts'
import type { Resolver } from '../dns/resolver.ts'
import { DnsProxy } from './dns-proxy.ts'
import type { DnsQueryFacts } from './dns-proxy.ts'
import type { NodeIdentities } from '../member/identities.ts'
import type { LiveConnections } from './live-connections.ts'
import type { LearnedDestinations } from '../member/learned-destinations.ts'
import type { MeshState } from '../member/mesh-state.ts'
import { clusterSearchDomains } from './mesh-names.ts'
import { PodTraffic } from './pod-traffic.ts'
import type { TrafficStatistics } from './pod-traffic.ts'
import { addressOf, peerOf } from '../member/socket-address.ts'
import type { PodCounters } from './telemetry/pod-metrics.ts'
import type { ZtunnelMetrics } from './telemetry/metrics.ts'
import type { Spans } from './telemetry/spans.ts'
import type { WaypointGuard } from './waypoint-guard.ts'

const dnsPort = 53
/** Who learned of a pod's release late may still ask it for a tunnel; listeners that were replaced have a queue to empty. */
const tunnelLingerMs = 15_000
const tunnelLingerCheckMs = 500
const replacedListenerMs = 2_000

type StreamKind = Exclude<ListenerKind, 'dns'>

export interface PodProxyParts {
  readonly redirection: Redirection
  readonly limit: ConnectionLimit
  /** Of connections of tunnels, over all pods. */
  readonly doors: ConnectionLimit
  readonly mesh: MeshState
  readonly guard: WaypointGuard
  /** Both undefined where there is no control plane: then nobody has an identity, and there are no tunnels. */
  readonly identities: NodeIdentities | undefined
  readonly pool: HbonePool | undefined
  readonly live: LiveConnections
  readonly metrics: ZtunnelMetrics
  readonly hboneEvents: HboneEvents
  readonly accessLog: Logger
  readonly spans: Spans
  readonly learned: LearnedDestinations
  /** Addresses of a name outside the mesh. */
  readonly lookup: (hostname: string, preferIpv6: boolean) => Promise<string>
  /** Undefined where no control plane tells names. */
  readonly resolver: Resolver | undefined
  readonly onDnsQuery: (facts: DnsQueryFacts) => void
  readonly podCounters: PodCounters
  readonly clusterDomain: string
  readonly connectTimeoutMs: number
  /** A peer that left without a word, or whose reset was lost, is found out by asking. */
  readonly keepAliveSeconds: number
  readonly logger: Logger
}

export interface PodStatistics extends TrafficStatistics {
  /** Connections that stood at enrolment and were left alone. */
  readonly existing: number
  readonly dnsQueries: number
}

export class PodProxy {
  readonly pod: PodEnrolment
  readonly netns: Netns
  readonly #parts: PodProxyParts
  readonly #logger: Logger
  readonly #servers = new Map<StreamKind, Server>()
  readonly #dns: DnsProxy
  readonly #traffic: PodTraffic
  readonly #doors: ConnectionShare
  readonly #tunnels: { readonly server: HboneServer; readonly identity: Identity } | undefined
  #existing = 0

  /** Does nothing yet: whoever asks for the pod by its uid must find this before start() lets the first connection in. */
  constructor(pod: PodEnrolment, netns: Netns, parts: PodProxyParts) {
    this.pod = pod
    this.netns = netns
    this.#parts = parts
    this.#logger = parts.logger.child({ 'pod.name': pod.name, 'pod.namespace': pod.namespace })
    const share = parts.limit.share()
    this.#doors = parts.doors.share()
    this.#traffic = new PodTraffic(pod, netns, parts, share, this.#logger)
    this.#dns = new DnsProxy({
      netns, redirection: parts.redirection, resolver: parts.resolver, limit: share, onQuery: parts.onDnsQuery, logger: this.#logger,
      client: { namespace: pod.namespace, ...(pod.nameSearch ?? { searchDomains: clusterSearchDomains(pod.namespace, parts.clusterDomain) }) },
      dialTcp: (server) => this.#traffic.open(server),
    })
    this.#tunnels = parts.identities && this.#tunnelServer(parts.identities)
  }

  /** Listens and enrols; when it resolves, capture is in force. Rejects with what failed: then abandon() it. */
  async start(): Promise<void> {
    await this.#listen()
    await this.#parts.redirection.enrol(this.pod, this.netns)
  }

  /** Takes nothing new; also of one that did not start, but took connections meanwhile. Resolves when the last has ended. */
  async abandon(): Promise<void> {
    this.#closeListeners()
    await Promise.all([this.#tunnels?.server.drain(), this.#traffic.idle(), this.#dns.close()])
    await this.#closeTunnels()
    this.netns.close()
  }

  #tunnelServer(identities: NodeIdentities): { readonly server: HboneServer; readonly identity: Identity } {
    const identity = identities.identityOf(this.pod)
    identities.hold(identity)
    const server = new HboneServer({
      identity, certificates: identities.source, verifier: identities.verifier, events: this.#parts.hboneEvents,
      limits: { maxHandshakes: handshakeLimit(this.#parts.doors.limit) },
      handler: async (request) => {
        const local = addressOf(request.socket.localAddress, request.socket.localPort)
        const client = peerOf(request.socket)
        if (!local || !client) return { t: 'refuse', status: 503, because: 'closed' }
        return await this.#traffic.tunnel(request, local, client)
      },
    })
    return { server, identity }
  }

  async #listen(): Promise<void> {
    const live = await this.netns.liveConnections()
    this.#existing = live.filter(({ source, destination }) => source.ip !== destination.ip && !isLoopback(destination.ip)).length
    await this.#serve('outbound')
    await this.#serve('inbound')
    if (this.#tunnels) await this.#serve('hbone')
    await this.#dns.listen()
  }

  #onConnection(kind: StreamKind, socket: Socket): void {
    switch (kind) {
      case 'outbound': return this.#onOutbound(socket)
      case 'inbound': return void this.#traffic.inbound(socket)
      case 'hbone': return this.#tunnels ? this.#knock(this.#tunnels.server, socket) : void socket.destroy()
      default: return kind satisfies never
    }
  }

  #knock(server: HboneServer, socket: Socket): void {
    if (!this.#doors.acquire()) {
      this.#parts.hboneEvents({ t: 'shed', side: 'server', because: 'connectionsOfPod' })
      socket.on('error', () => {}) // it is being reset
      abortSocket(socket)
      return
    }
    socket.once('close', () => this.#doors.release())
    server.accept(socket)
  }

  #onOutbound(socket: Socket): void {
    const client = peerOf(socket)
    const original = client && this.#parts.redirection.takeOriginalDestination(this.netns.cookie, client)
    if (original?.port === dnsPort && this.pod.dns) this.#dns.serveTcp(socket, original)
    else void this.#traffic.outbound(socket, client, original)
  }

  /** Applies changed labels or ports of the same pod, and puts back what somebody else undid, listeners included. */
  async update(pod: PodEnrolment): Promise<void> {
    const listening = await this.netns.listeners()
    for (const [kind, server] of this.#servers) {
      const inMap = this.#parts.redirection.listenerOf(this.netns.cookie, kind)
      // A successor's stays.
      if (inMap === undefined || !listening.has(inMap)) await this.#serveAgain(kind, server)
    }
    this.#dns.registerAgain()
    await this.#parts.redirection.enrol(pod, this.netns)
  }

  /** A listener that left the map goes back. One that somebody destroyed says nothing, and stays in the map: another takes its place. */
  async #serveAgain(kind: StreamKind, server: Server): Promise<void> {
    const fd = duplicateDescriptor(server)
    try {
      if (!fd) throw new MeshError('CLOSED', 'the listener is closed')
      this.#parts.redirection.registerListener(this.netns.cookie, kind, fd.fd)
      this.#logger.warn({ kind }, 'listener was taken out of the map: it is back')
    } catch (error) {
      this.#logger.warn({ kind, error: describeError(error) }, 'listener was destroyed: making another')
      server.close()
      await this.#serve(kind)
    } finally {
      fd?.close()
    }
  }

  async #serve(kind: StreamKind): Promise<void> {
    const { redirection, keepAliveSeconds } = this.#parts
    const fd = await listenInNetns(this.netns, { port: ports[kind], transparent: kind === 'inbound', keepAliveSeconds })
    // TLS reads from the start; what is carried in plain text must not be read before there is somebody to give it to.
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: kind !== 'hbone', noDelay: true }, (socket) => this.#onConnection(kind, socket))
    server.on('error', (error) => {
      this.#logger.error({ kind, error: error.message }, 'listener failed')
      server.close() // one that somebody destroyed would fail again and again; the next update() makes another
    })
    this.#servers.set(kind, server)
    redirection.registerListener(this.netns.cookie, kind, fd.fd)
    await new Promise<void>((resolve) => server.listen({ fd: fd.release() }, resolve))
  }

  recheck(changes: readonly StoreChange[]): void {
    this.#traffic.recheck(changes)
  }

  get serverConnections(): number {
    return this.#tunnels?.server.connections ?? 0
  }

  statistics(): PodStatistics {
    return { ...this.#traffic.statistics(), existing: this.#existing, dnsQueries: this.#dns.queries }
  }

  #closeListeners(...kinds: ListenerKind[]): void {
    for (const [kind, server] of this.#servers) if (kinds.length === 0 || kinds.includes(kind)) server.close()
    if (kinds.length === 0 || kinds.includes('dns')) void this.#dns.close()
  }

  async #closeTunnels(): Promise<void> {
    if (!this.#tunnels) return
    await this.#tunnels.server.close()
    this.#parts.identities?.release(this.#tunnels.identity)
  }

  /**
   * Ends capture. Connections being carried go on; the promise resolves when the last has ended and the namespace is
   * as it was before, unless `isCapturedAgain` says by then that somebody else needs its routing.
   */
  async stop(isCapturedAgain: () => boolean): Promise<void> {
    this.#parts.redirection.unenrol(this.netns.cookie)
    this.#closeListeners('outbound', 'inbound', 'dns')
    if (this.#tunnels) await this.#linger(isCapturedAgain)
    this.#closeListeners()
    await Promise.all([this.#traffic.idle(), this.#tunnels?.server.drain()])
    await this.#closeTunnels()
    this.#parts.pool?.evict((target) => target.sourceKey === this.pod.uid)
    try {
      if (!isCapturedAgain()) await this.#parts.redirection.removeReturnPath(this.netns)
    } finally {
      this.netns.close()
    }
  }

  /** Until the others know that the pod takes no tunnels any more; not for one that is gone. */
  async #linger(isCapturedAgain: () => boolean): Promise<void> {
    for (let waitedMs = 0; waitedMs < tunnelLingerMs && !isCapturedAgain(); waitedMs += tunnelLingerCheckMs) {
      if ((await this.netns.veths()).length === 0) return
      await new Promise((resolve) => setTimeout(resolve, tunnelLingerCheckMs).unref())
    }
  }

  /** A successor has taken over capture: nothing new is taken, and what is carried goes on. Resolves when the last has ended. */
  async drain(): Promise<void> {
    // What the kernel had queued for us before the successor's listeners took over.
    await new Promise((resolve) => setTimeout(resolve, replacedListenerMs))
    await this.abandon()
  }
}

function isLoopback(ip: string): boolean {
  return ip === '::1' || ip.startsWith('127.')
}

