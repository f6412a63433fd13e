// One captured pod: its listeners inside the pod's namespace, its redirection, and the connections carried for it. It
// must never let a connection through whose original destination is unknown, or towards the ztunnel's own ports.
import { createServer } from 'node:net'
import type { Server, Socket } from 'node:net'
import { canonicalIp, formatAddr } from '../core/address.ts'
import type { ClientAddr, OriginalDst, SocketAddr } from '../core/address.ts'
import { MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { port as ports } from '../kernel/generated/layout.ts'
import { abortSocket } from '../kernel/live-socket.ts'
import type { Netns } from '../kernel/netns.ts'
import { deliveryPorts } from '../kernel/redirection.ts'
import type { Redirection } from '../kernel/redirection.ts'
import { connectInNetns, listenInNetns } from '../kernel/sockets.ts'
import type { PodEnrolment } from '../model/enrolment.ts'
import { carry } from './carry.ts'
import type { ConnectionLimit } from './connection-limit.ts'
import { DnsForwarder } from './dns-forwarder.ts'

export interface PodProxyParts {
  readonly redirection: Redirection
  readonly limit: ConnectionLimit
  readonly connectTimeoutMs: number
  /** A peer that left without a word, or whose reset was lost, is found out by asking. */
  readonly keepAliveSeconds: number
  readonly logger: Logger
}

type Direction = 'outbound' | 'inbound'

/** Counts since the pod was enrolled by this process. */
export interface PodStatistics {
  readonly open: number
  readonly outbound: number
  readonly inbound: number
  readonly refused: number
  readonly failed: number
  readonly bytesSent: number
  readonly bytesReceived: number
  /** Connections that stood at enrolment and were left alone. */
  readonly existing: number
  readonly dnsQueries: number
}

export class PodProxy {
  readonly pod: PodEnrolment
  readonly netns: Netns
  readonly #parts: PodProxyParts
  readonly #logger: Logger
  readonly #servers: Server[] = []
  readonly #dns: DnsForwarder
  #open = 0
  #outbound = 0
  #inbound = 0
  #refused = 0
  #failed = 0
  #bytesSent = 0
  #bytesReceived = 0
  #existing = 0
  #whenIdle: (() => void) | undefined

  private constructor(pod: PodEnrolment, netns: Netns, parts: PodProxyParts) {
    this.pod = pod
    this.netns = netns
    this.#parts = parts
    this.#logger = parts.logger.child({ 'pod.name': pod.name, 'pod.namespace': pod.namespace })
    this.#dns = new DnsForwarder(netns, parts.redirection, this.#logger)
  }

  /** Listens and enrols; when it resolves, capture is in force. Rejects with what failed, leaving nothing half open. */
  static async start(pod: PodEnrolment, netns: Netns, parts: PodProxyParts): Promise<PodProxy> {
    const proxy = new PodProxy(pod, netns, parts)
    try {
      await proxy.#listen()
      await proxy.update(pod)
      return proxy
    } catch (error) {
      proxy.#closeListeners()
      throw error
    }
  }

  async #listen(): Promise<void> {
    const live = await this.netns.liveConnections()
    this.#existing = live.filter(({ source, destination }) => source.ip !== destination.ip && !isLoopback(destination.ip)).length
    await this.#serve('outbound', ports.outbound, (socket) => void this.#outboundConnection(socket))
    await this.#serve('inbound', ports.inbound, (socket) => void this.#inboundConnection(socket))
    await this.#dns.listen()
  }

  /** Applies changed labels or ports of the same pod. */
  update(pod: PodEnrolment): Promise<void> {
    return this.#parts.redirection.enrol(pod, this.netns)
  }

  async #serve(kind: Direction, port: number, onConnection: (socket: Socket) => void): Promise<void> {
    const fd = await listenInNetns(this.netns, { port, transparent: kind === 'inbound', keepAliveSeconds: this.#parts.keepAliveSeconds })
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, onConnection)
    server.on('error', (error) => this.#logger.error({ kind, error: error.message }, 'listener failed'))
    this.#servers.push(server)
    this.#parts.redirection.registerListener(this.netns.cookie, kind, fd.fd)
    await new Promise<void>((resolve) => server.listen({ fd: fd.release() }, resolve))
  }

  /** From the pod's application to wherever it meant to go. */
  #outboundConnection(socket: Socket): Promise<void> {
    const client = peerOf(socket)
    const destination = client && this.#parts.redirection.takeOriginalDestination(this.netns.cookie, client)
    if (!client || !destination) {
      const unknown = new MeshError('ORIGINAL_DESTINATION_UNKNOWN', 'no original destination', { source: 'downstream' })
      this.#refuse(socket, 'outbound', client, undefined, unknown)
      return Promise.resolve()
    }
    return this.#connection('outbound', socket, client, destination, () =>
      connectInNetns(this.netns, {
        host: destination.ip,
        port: destination.port,
        timeoutMs: this.#parts.connectTimeoutMs,
        keepAliveSeconds: this.#parts.keepAliveSeconds,
        socketMark: this.#parts.redirection.bypassMark(),
      }),
    )
  }

  /** From a client somewhere to the pod's application, which sees the client's address. */
  #inboundConnection(socket: Socket): Promise<void> {
    const client = peerOf(socket)
    const destination = addressOf(socket.localAddress, socket.localPort)
    if (!client || !destination || internalPorts.has(destination.port)) {
      const self = new MeshError('CONNECT_REFUSED', 'a port of the ztunnel is not for clients', { source: 'downstream' })
      this.#refuse(socket, 'inbound', client, destination, self)
      return Promise.resolve()
    }
    const { mark, ...socketMark } = this.#parts.redirection.deliveryMark(destination)
    return this.#connection('inbound', socket, client, destination, () =>
      connectInNetns(this.netns, {
        host: destination.ip,
        port: destination.port,
        source: { ip: client.ip, port: 0 },
        transparent: true,
        mark,
        socketMark,
        portRange: deliveryPorts,
        timeoutMs: this.#parts.connectTimeoutMs,
        keepAliveSeconds: this.#parts.keepAliveSeconds,
      }),
    )
  }

  async #connection(direction: Direction, socket: Socket, client: ClientAddr, destination: OriginalDst, dial: () => Promise<Socket>): Promise<void> {
    if (!this.#parts.limit.acquire()) {
      this.#refuse(socket, direction, client, destination, new MeshError('TOO_MANY_CONNECTIONS', `${this.#parts.limit.limit} connections are open`))
      return
    }
    this.#open++
    const startedAt = performance.now()
    // Errors before carry() listens: the client may reset while we dial.
    const ignore = (): void => {}
    socket.on('error', ignore)
    try {
      const upstream = await dial()
      if (direction === 'outbound') this.#outbound++
      else this.#inbound++
      const { sent, received, because } = await carry(socket, upstream)
      this.#bytesSent += sent
      this.#bytesReceived += received
      const facts = { direction, bytesSent: sent, bytesRecv: received, durationMs: Math.round(performance.now() - startedAt), because }
      this.#logger.debug({ 'src.addr': formatAddr(client), 'dst.addr': formatAddr(destination), ...facts }, 'connection closed')
    } catch (error) {
      this.#failed++
      abortSocket(socket)
      this.#log('connection failed', direction, client, destination, error)
    } finally {
      this.#parts.limit.release()
      if (--this.#open === 0) this.#whenIdle?.()
    }
  }

  #refuse(socket: Socket, direction: Direction, client: ClientAddr | undefined, destination: SocketAddr | undefined, error: MeshError): void {
    this.#refused++
    socket.on('error', () => {}) // it is being reset; what the peer does meanwhile is of no interest
    abortSocket(socket)
    this.#log('connection refused', direction, client, destination, error)
  }

  #log(message: string, direction: Direction, client: ClientAddr | undefined, destination: SocketAddr | undefined, error: unknown): void {
    const { code, level } = error instanceof MeshError ? error : new MeshError('CONNECT_FAILED', String(error), { cause: error })
    const facts = { direction, code, error: error instanceof Error ? error.message : String(error) }
    this.#logger[level]({ 'src.addr': client && formatAddr(client), 'dst.addr': destination && formatAddr(destination), ...facts }, message)
  }

  statistics(): PodStatistics {
    return {
      open: this.#open,
      outbound: this.#outbound,
      inbound: this.#inbound,
      refused: this.#refused,
      failed: this.#failed,
      bytesSent: this.#bytesSent,
      bytesReceived: this.#bytesReceived,
      existing: this.#existing,
      dnsQueries: this.#dns.queries,
    }
  }

  #closeListeners(): void {
    for (const server of this.#servers) server.close()
    this.#dns.close()
  }

  /**
   * Ends capture. Connections being carried go on; the promise resolves when the last has ended and the namespace is
   * as it was before, unless `isCapturedAgain` says by then that somebody else needs its routing.
   */
  async stop(isCapturedAgain: () => boolean): Promise<void> {
    this.#parts.redirection.unenrol(this.netns.cookie)
    this.#closeListeners()
    if (this.#open > 0) await new Promise<void>((resolve) => (this.#whenIdle = resolve))
    try {
      if (!isCapturedAgain()) await this.#parts.redirection.removeReturnPath(this.netns)
    } finally {
      this.netns.close()
    }
  }
}

const internalPorts: ReadonlySet<number> = new Set(Object.values(ports))

function isLoopback(ip: string): boolean {
  return ip === '::1' || ip.startsWith('127.')
}

/** Folded address; undefined where the socket is gone already. */
function addressOf(ip: string | undefined, port: number | undefined): SocketAddr | undefined {
  const folded = ip === undefined ? undefined : canonicalIp(ip)
  return folded === undefined || port === undefined ? undefined : { ip: folded, port }
}

function peerOf(socket: Socket): ClientAddr | undefined {
  return addressOf(socket.remoteAddress, socket.remotePort)
}
