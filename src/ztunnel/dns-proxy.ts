// DNS of one pod: mesh names are answered here, everything else goes verbatim to the server that the pod asked, from the
// pod's own namespace, and its answer goes back. Bounded in number, bytes and time; what exceeds them is dropped over UDP, as
// UDP may, and ends one connection over TCP. Must never answer a stranger, nor pass on what a stranger says.
import type { RemoteInfo, Socket as DatagramSocket } from 'node:dgram'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { canonicalIp, formatAddr, isIpv6Address } from '../core/address.ts'
import type { ClientAddr, OriginalDst, SocketAddr } from '../core/address.ts'
import { MeshError } from '../core/errors.ts'
import type { ErrorCode } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { headerBytes, serverFailure, typeAsked } from '../dns/message.ts'
import type { RecordType } from '../dns/message.ts'
import type { DnsClient, Resolution, Resolver } from '../dns/resolver.ts'
import { abortSocket, duplicateDescriptor } from '../kernel/live-socket.ts'
import type { Netns } from '../kernel/netns.ts'
import { dnsPorts } from '../kernel/redirection.ts'
import type { Redirection } from '../kernel/redirection.ts'
import { bindUdpInNetns, connectInNetns, datagramSocket } from '../kernel/sockets.ts'
import { DnsTcpConnection } from './dns-proxy-tcp.ts'

/** Queries of one pod that wait for an answer at once, over UDP. */
const maxPending = 512
/** Connections of one pod at once. */
const maxConnections = 64
/** Longer than resolvers wait before they ask again (5 s in glibc). */
const answerTimeoutMs = 6_000
const connectTimeoutMs = 5_000
/** One line in that time says how many were dropped: a flood must not become a flood of logs. */
const dropLogIntervalMs = 10_000

/** What became of one query. `failed` was answered with SERVFAIL or not in time; `dropped` was not even tried. */
export interface DnsQueryFacts {
  readonly transport: 'udp' | 'tcp'
  readonly result: 'answered' | 'forwarded' | 'failed' | 'dropped'
  readonly type: RecordType
  readonly durationMs: number
}

export interface DnsProxyParts {
  readonly netns: Netns
  readonly redirection: Redirection
  /** Undefined where no control plane tells names: everything goes to the server that was asked. */
  readonly resolver: Resolver | undefined
  readonly client: DnsClient
  readonly logger: Logger
  readonly onQuery?: (facts: DnsQueryFacts) => void
  /** Shared among pods: descriptors for queries that go on. */
  readonly limit?: { acquire(): boolean; release(): void }
  /** How a server is reached over TCP; straight from the pod's namespace unless told. */
  readonly dialTcp?: (server: OriginalDst) => Promise<Duplex>
}

export class DnsProxy {
  readonly #parts: DnsProxyParts
  readonly #listeners: DatagramSocket[] = []
  readonly #pending = new Set<() => void>()
  readonly #connections = new Set<DnsTcpConnection>()
  readonly #ownIps = new Set<string>()
  #whenIdle: (() => void) | undefined
  #queries = 0
  #isClosed = false
  #dropped = 0
  #droppedSince = -Infinity

  constructor(parts: DnsProxyParts) {
    this.#parts = parts
  }

  /** Queries taken so far, over UDP and TCP. */
  get queries(): number {
    return this.#queries
  }

  /** One socket for each server that a client may ask at once; capture begins with the first, so that one is told last. */
  async listen(): Promise<void> {
    const { netns, redirection, logger } = this.#parts
    const descriptors = await Promise.all(dnsPorts.map((port) => bindUdpInNetns(netns, { port })))
    for (const [slot, descriptor] of [...descriptors.entries()].reverse()) {
      if (slot === 0) redirection.registerListener(netns.cookie, 'dns', descriptor.fd)
      const socket = await datagramSocket(descriptor, undefined)
      socket.on('message', (query, from) => this.#datagram(query, from, slot, socket))
      socket.on('error', (error) => logger.warn({ error: error.message }, 'dns listener failed'))
      this.#listeners.push(socket)
    }
    if (this.#isClosed) this.#closeListeners()
  }

  /** Puts the listener back into the map where somebody took it out; a successor's stays. */
  registerAgain(): void {
    const { netns, redirection, logger } = this.#parts
    const last = this.#listeners.at(-1) // of the first slot
    if (!last || this.#isClosed || redirection.listenerOf(netns.cookie, 'dns') !== undefined) return
    const fd = duplicateDescriptor(last)
    if (!fd) return
    try {
      redirection.registerListener(netns.cookie, 'dns', fd.fd)
      logger.warn({ kind: 'dns' }, 'listener was taken out of the map: it is back')
    } finally {
      fd.close()
    }
  }

  #datagram(query: Buffer, from: RemoteInfo, slot: number, listener: DatagramSocket): void {
    const startedAt = performance.now()
    const ip = canonicalIp(from.address)
    const client = ip === undefined ? undefined : { ip, port: from.port }
    const server = client && this.#isOwn(client.ip) ? this.#parts.redirection.originalDnsServer(this.#parts.netns.cookie, client, slot) : undefined
    if (!server) {
      this.#drop('ORIGINAL_DESTINATION_UNKNOWN', 'udp', query, client)
      return
    }
    this.#queries++
    const reply = (answer: Uint8Array): Promise<void> => new Promise((resolve) => {
      // A client that left is told so by the kernel on the listener, where it is of no interest.
      if (this.#listeners.includes(listener)) listener.send(answer, from.port, from.address, () => resolve())
      else resolve()
    })
    const resolution = this.#resolve(query, 'udp')
    if (resolution.kind === 'answer') {
      void reply(resolution.message)
      this.#tell('udp', resolution.rcode === 'NOERROR' ? 'answered' : 'failed', resolution.type, startedAt)
      return
    }
    if (query.length < headerBytes || this.#pending.size >= maxPending || this.#parts.limit?.acquire() === false) {
      this.#drop(query.length < headerBytes ? 'BAD_MESSAGE' : 'TOO_MANY_CONNECTIONS', 'udp', query, client)
      return
    }
    void this.#forward(query, server, reply, resolution.type, startedAt)
  }

  /** Anybody can send to a port of the pod; only the pod itself is answered. Remembered, for queries on the way when capture ends. */
  #isOwn(ip: string): boolean {
    if (this.#ownIps.has(ip)) return true
    if (!this.#parts.redirection.isPodAddress(this.#parts.netns.cookie, ip)) return false
    this.#ownIps.add(ip)
    return true
  }

  async #forward(query: Buffer, server: SocketAddr, reply: (answer: Uint8Array) => Promise<void>, type: RecordType, startedAt: number): Promise<void> {
    const { promise: givenUp, resolve: giveUp } = Promise.withResolvers<void>()
    const timer = setTimeout(giveUp, answerTimeoutMs)
    this.#pending.add(giveUp)
    let answer: Uint8Array | undefined
    try {
      answer = await this.#ask(query, server, givenUp)
      // No answer in time: silence is what the client would have had.
      if (answer) await reply(answer)
    } catch (error) {
      this.#parts.logger.debug({ 'dst.addr': formatAddr(server), error: error instanceof Error ? error.message : String(error) }, 'dns query failed')
      await reply(serverFailure(query))
    } finally {
      clearTimeout(timer)
      this.#pending.delete(giveUp)
      this.#checkIdle()
      this.#parts.limit?.release()
    }
    this.#tell('udp', answer ? 'forwarded' : 'failed', type, startedAt)
  }

  /** The first answer that comes from the server itself and bears the query's id; undefined if none does until `givenUp`. */
  async #ask(query: Buffer, server: SocketAddr, givenUp: Promise<void>): Promise<Uint8Array | undefined> {
    const { netns, redirection } = this.#parts
    const host = isIpv6Address(server.ip) ? '::' : '0.0.0.0'
    const socket = await datagramSocket(await bindUdpInNetns(netns, { port: 0, host, socketMark: redirection.bypassMark() }), host)
    try {
      return await new Promise((resolve, reject) => {
        void givenUp.then(() => resolve(undefined))
        socket.on('error', reject)
        socket.on('message', (answer, from) => {
          if (canonicalIp(from.address) === server.ip && from.port === server.port && sameId(query, answer)) resolve(answer)
        })
        // Connected, so that a server that is not there is known at once; what was queued before that was judged above.
        socket.connect(server.port, server.ip, (error?: Error) => (error ? reject(error) : socket.send(query)))
      })
    } finally {
      socket.close()
    }
  }

  /** Takes over a captured outbound connection to port 53 of `server`, paused or not yet read from, with half-close allowed. */
  serveTcp(socket: Socket, server: OriginalDst): void {
    if (this.#isClosed || this.#connections.size >= maxConnections) {
      socket.on('error', () => {}) // it is being reset; what the client does meanwhile is of no interest
      abortSocket(socket)
      this.#drop('TOO_MANY_CONNECTIONS', 'tcp', undefined, undefined)
      return
    }
    const connection = new DnsTcpConnection(socket, {
      resolve: (query) => {
        this.#queries++
        return this.#resolve(query, 'tcp')
      },
      dial: () => this.#dial(server),
      onQuery: (result, type, startedAt) => this.#tell('tcp', result, type, startedAt),
      onClose: (because) => {
        this.#connections.delete(connection)
        this.#checkIdle()
        if (because) this.#parts.logger.debug({ 'dst.addr': formatAddr(server), code: because.code, error: because.message }, 'dns connection ended')
      },
    })
    this.#connections.add(connection)
    connection.start()
  }

  async #dial(server: OriginalDst): Promise<Duplex> {
    const { netns, redirection, limit, dialTcp } = this.#parts
    if (limit?.acquire() === false) throw new MeshError('TOO_MANY_CONNECTIONS', 'no connection to a DNS server can be made')
    try {
      const upstream = await (dialTcp?.(server) ?? connectInNetns(netns, {
        host: server.ip, port: server.port, timeoutMs: connectTimeoutMs, socketMark: redirection.bypassMark(),
      }))
      upstream.once('close', () => limit?.release())
      return upstream
    } catch (error) {
      limit?.release()
      throw error
    }
  }

  #resolve(query: Buffer, transport: 'udp' | 'tcp'): Resolution {
    const { resolver, client } = this.#parts
    return resolver?.resolve(query, client, transport) ?? { kind: 'forward', type: typeAsked(query) }
  }

  #tell(transport: 'udp' | 'tcp', result: DnsQueryFacts['result'], type: RecordType, startedAt: number): void {
    this.#parts.onQuery?.({ transport, result, type, durationMs: performance.now() - startedAt })
  }

  #drop(code: ErrorCode, transport: 'udp' | 'tcp', query: Buffer | undefined, client: ClientAddr | undefined): void {
    this.#tell(transport, 'dropped', query ? typeAsked(query) : 'other', performance.now())
    this.#dropped++
    const now = performance.now()
    if (now - this.#droppedSince < dropLogIntervalMs) return
    this.#parts.logger.warn({ code, transport, 'src.addr': client && formatAddr(client), count: this.#dropped }, 'dns query dropped')
    this.#droppedSince = now
    this.#dropped = 0
  }

  /** Takes no more, and resolves when those that wait have their answers or have waited long enough. */
  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    const idle = new Promise<void>((resolve) => (this.#whenIdle = resolve))
    const timer = setTimeout(() => this.#whenIdle?.(), answerTimeoutMs)
    for (const connection of this.#connections) connection.drain()
    // Answers leave from the listeners, so these stay until then.
    this.#checkIdle()
    await idle
    clearTimeout(timer)
    for (const giveUp of this.#pending) giveUp()
    for (const connection of this.#connections) connection.abort()
    this.#closeListeners()
  }

  #checkIdle(): void {
    if (this.#pending.size === 0 && this.#connections.size === 0) this.#whenIdle?.()
  }

  #closeListeners(): void {
    for (const listener of this.#listeners.splice(0)) listener.close()
  }
}

/** The first two bytes: RFC 1035, section 4.1.1. */
function sameId(query: Buffer, answer: Buffer): boolean {
  return answer.length >= headerBytes && query.readUInt16BE(0) === answer.readUInt16BE(0)
}
