// The doors of an ingress: a port for each that its Gateway's listeners name, opened and closed as they come and go without
// touching what stands. Knows who a connection is from (also by a PROXY header), ends TLS where a listener says so, and gives
// each connection and each request to the one listener that it belongs to. Nobody here has an identity of the mesh.
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import type { SocketAddr } from '../core/address.ts'
import type { Clock } from '../core/clock.ts'
import { describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import type { ConnectionLimit } from '../member/connection-limit.ts'
import { peerOf } from '../member/socket-address.ts'
import { CidrMap, isPrefixLength, packIp } from '../model/cidr-map.ts'
import type { GatewayListener } from '../model/route.ts'
import { hostOf } from '../policy/l7/request-head.ts'
import { CallerShares } from './caller-shares.ts'
import type { Connections } from './connections.ts'
import type { ConnectionContext } from './context.ts'
import { byPort } from './edge-listeners.ts'
import type { PortListeners } from './edge-listeners.ts'
import { EdgeTls, clientCertificateOf } from './edge-tls.ts'
import { finishing } from './filters/finish-record.ts'
import { localAnswer } from './filters/local-answer.ts'
import { detect } from './http/detect.ts'
import type { Handler, Request, Response } from './http/message.ts'
import type { HttpFront } from './http/serve.ts'
import { listenTcp } from './listening.ts'
import type { Listening } from './listening.ts'
import { takeProxyHeader } from './proxy-first.ts'
import type { RecordFactory } from './record.ts'
import type { GatewayResources } from './resources.ts'

export interface EdgeOptions {
  readonly resources: GatewayResources
  readonly connections: Pick<Connections, 'take' | 'carry'>
  readonly front: Pick<HttpFront<ConnectionContext>, 'serve'>
  readonly records: Pick<RecordFactory, 'begin'>
  /** Of connections; each address has a share of it. */
  readonly limit: ConnectionLimit
  readonly keepAliveSeconds: number
  readonly helloMs: number
  readonly proxyProtocol: 'off' | 'optional' | 'required'
  /** Who may send a PROXY header; empty for everybody. */
  readonly proxyProtocolFrom: readonly string[]
  readonly clock: Clock
  /** Of what was not let in, a word of a closed set. */
  readonly onRefused: (because: string) => void
  readonly logger: Logger
}

/** One port. */
interface Door {
  listeners: PortListeners
  listening: Listening | undefined
  /** Why it does not listen. */
  problem: string | undefined
  callOffRetry: (() => void) | undefined
}

export interface DoorView {
  readonly name: string
  readonly port: number
  readonly protocol: string
  readonly hostname: string
  /** Empty if it serves. */
  readonly problem: string
}

const retryMs = 1_000

export class Edge {
  readonly #options: EdgeOptions
  readonly #doors = new Map<number, Door>()
  readonly #shares: CallerShares
  readonly #tls: EdgeTls
  readonly #from: CidrMap<true> | undefined
  /** For connections that carry requests of several listeners. */
  readonly #contexts = new WeakMap<ConnectionContext, Map<string, ConnectionContext>>()
  #stopWatching: (() => void) | undefined
  #isClosed = false

  constructor(options: EdgeOptions) {
    this.#options = options
    this.#shares = new CallerShares(options.limit)
    this.#from = rangesOf(options.proxyProtocolFrom)
    this.#tls = new EdgeTls({
      resources: options.resources, onFailure: options.onRefused, logger: options.logger,
      onSecure: (tls, listener) => this.#onSecure(tls, listener),
    })
  }

  /** Opens the doors that there are listeners for, and follows changes. */
  start(): void {
    if (this.#isClosed || this.#stopWatching) return
    this.#stopWatching = this.#options.resources.onChange((kinds) => {
      if (kinds.has('listener')) this.#update()
    })
    this.#update()
  }

  /** What stands is left alone. */
  #update(): void {
    const wanted = byPort(this.#options.resources.all('listener').map(({ listener }) => listener))
    for (const [port, door] of this.#doors) {
      if (wanted.has(port)) continue
      this.#close(door)
      this.#doors.delete(port)
    }
    for (const [port, listeners] of wanted) {
      const known = this.#doors.get(port)
      if (known) known.listeners = listeners
      else void this.#open(port, listeners)
    }
    this.#tls.keepOnly(new Set([...wanted.values()].flatMap(({ all }) => all.map(({ key }) => key))))
  }

  async #open(port: number, listeners: PortListeners): Promise<void> {
    const door: Door = { listeners, listening: undefined, problem: 'not yet', callOffRetry: undefined }
    this.#doors.set(port, door)
    await this.#listen(port, door)
  }

  async #listen(port: number, door: Door): Promise<void> {
    const { keepAliveSeconds, logger, clock } = this.#options
    try {
      const listening = await listenTcp({
        host: '::', port, keepAliveSeconds, pauseOnConnect: true, share: { acquire: () => true, release() {} }, onShed() {},
        onConnection: (socket) => void this.#accept(socket, port),
      })
      // Closed or replaced meanwhile.
      if (this.#isClosed || this.#doors.get(port) !== door) {
        listening.close()
        return
      }
      door.listening = listening
      door.problem = undefined
      logger.info({ port }, 'listening')
    } catch (error) {
      if (this.#isClosed || this.#doors.get(port) !== door) return
      const problem = describeError(error)
      if (door.problem !== problem) logger.warn({ port, because: problem }, 'port cannot be listened on, trying on')
      door.problem = problem
      door.callOffRetry = clock.after(retryMs, () => void this.#listen(port, door))
    }
  }

  #close({ listening, callOffRetry }: Door): void {
    listening?.close()
    callOffRetry?.()
  }

  async #accept(socket: Socket, port: number): Promise<void> {
    socket.on('error', () => {
      // Who serves it learns that from 'close'.
    })
    const peer = peerOf(socket)
    if (!peer || !this.#shares.acquire(peer.ip)) {
      this.#refuse(socket, peer ? 'connectionsOfAddress' : 'closed')
      return
    }
    socket.once('close', () => this.#shares.release(peer.ip))
    const client = await this.#clientOf(socket, peer)
    const listeners = this.#doors.get(port)?.listeners
    const [first] = listeners?.all ?? []
    if (!client || !listeners || !first) {
      this.#refuse(socket, client ? 'noListener' : 'proxyHeader')
      return
    }
    if (first.protocol === 'http' || first.protocol === 'tcp') {
      // Of several for HTTP, a request's host decides; policies of connections ask the widest.
      void this.#options.connections.take(socket, contextOf(client, listeners.of(undefined) ?? first))
    } else await this.#acceptTls(socket, client, listeners)
  }

  /** Undefined for who may not come in. */
  async #clientOf(socket: Socket, peer: SocketAddr): Promise<SocketAddr | undefined> {
    const { proxyProtocol, clock, helloMs } = this.#options
    if (proxyProtocol === 'off') return peer
    const packed = packIp(peer.ip)
    if (this.#from && !(packed && this.#from.contains(packed))) return proxyProtocol === 'required' ? undefined : peer
    const found = await takeProxyHeader(socket, { clock, withinMs: helloMs })
    if (found.t === 'header') return found.source ?? peer
    return found.t === 'none' && proxyProtocol === 'optional' ? peer : undefined
  }

  async #acceptTls(socket: Socket, client: SocketAddr, listeners: PortListeners): Promise<void> {
    const { clock, helloMs, connections } = this.#options
    const hello = await detect(socket, { clock, withinMs: helloMs })
    if (socket.destroyed) return
    if (hello.t !== 'tls') {
      this.#refuse(socket, 'notTls')
      return
    }
    const listener = listeners.of(hello.serverName)
    if (!listener) {
      this.#refuse(socket, 'noListener')
      return
    }
    const context = contextOf(client, listener)
    if (listener.tls?.mode === 'passthrough') {
      await connections.take(socket, context)
      return
    }
    this.#secured.set(socket, context)
    this.#tls.accept(socket, listener)
  }

  /** Who is behind a handshake under way. */
  readonly #secured = new WeakMap<Socket, ConnectionContext>()

  #onSecure(tls: TLSSocket, listener: GatewayListener): void {
    const { front, connections } = this.#options
    const before = this.#secured.get(rawOf(tls))
    if (!before) {
      tls.destroy()
      return
    }
    const serverName = typeof tls.servername === 'string' && tls.servername !== '' ? tls.servername.toLowerCase() : undefined
    const clientCertificate = clientCertificateOf(tls)
    const context: ConnectionContext = {
      ...before, target: { t: 'listener', listener },
      ...(serverName !== undefined && { serverName }), ...(clientCertificate && { clientCertificate }),
    }
    if (listener.protocol !== 'https') void connections.carry(tls, context, serverName)
    else if (tls.alpnProtocol === 'h2') front.serve(tls, { connection: context, scheme: 'https', protocol: 'http2' })
    else void connections.take(tls, context, 'https')
  }

  #refuse(socket: Socket, because: string): void {
    this.#options.onRefused(because)
    if (!socket.destroyed) socket.resetAndDestroy()
  }

  /** Requests of listeners go to the one that they belong to; others go on as they are. */
  handler(inner: Handler<ConnectionContext>): Handler<ConnectionContext> {
    return (request) => {
      const { target } = request.connection
      return target.t === 'listener' ? this.#dispatch(request, target.listener, inner) : inner(request)
    }
  }

  #dispatch(request: Request<ConnectionContext>, own: GatewayListener, inner: Handler<ConnectionContext>): Promise<Response> {
    const listeners = this.#doors.get(own.port)?.listeners
    const listener = listeners?.of(hostOf(request.head.authority))
    if (!listener) return this.#answer(request, 404, 'no listener is for this host')
    if (listener.key === own.key) return inner(request)
    // Another listener may ask for other certificates: a client that reuses its connection shall make one of its own (RFC 9110,
    // 15.5.20).
    if (own.protocol === 'https') return this.#answer(request, 421, 'this host is not served on this connection')
    return inner(moved(request, this.#contextOf(request.connection, listener)))
  }

  #contextOf(context: ConnectionContext, listener: GatewayListener): ConnectionContext {
    let known = this.#contexts.get(context)
    if (!known) this.#contexts.set(context, (known = new Map()))
    let found = known.get(listener.key)
    if (!found) known.set(listener.key, (found = { ...context, target: { t: 'listener', listener } }))
    return found
  }

  #answer(request: Request<ConnectionContext>, status: number, message: string): Promise<Response> {
    const record = this.#options.records.begin(request)
    record.because('noRoute', message)
    return Promise.resolve(finishing(localAnswer(request, { status, message }), request, record, undefined))
  }

  /** Ports that no listener has, for its view. */
  views(): DoorView[] {
    return [...this.#doors].flatMap(([port, { listeners, problem }]) => listeners.all.map((listener) => {
      const missing = this.#tls.missing(listener)
      return {
        name: listener.key, port, protocol: listener.protocol, hostname: listener.hostname ?? '*',
        problem: problem ?? (missing.length > 0 ? `cannot use ${missing.join(', ')}` : ''),
      }
    }))
  }

  get ports(): number[] {
    return [...this.#doors].flatMap(([, { listening }]) => listening?.port ?? [])
  }

  /** Takes nothing new. What was taken goes on. */
  stopListening(): void {
    this.#isClosed = true
    this.#stopWatching?.()
    for (const door of this.#doors.values()) this.#close(door)
  }
}

function contextOf(client: SocketAddr, listener: GatewayListener): ConnectionContext {
  return { caller: { identity: undefined, address: client, workload: undefined }, target: { t: 'listener', listener } }
}

/**
 * The same request on behalf of another listener. Field by field: a copy of all would make the signal that most never ask for.
 */
function moved(request: Request<ConnectionContext>, connection: ConnectionContext): Request<ConnectionContext> {
  const { head, body, hasBody, contentLength, trailers, acceptsTrailers, protocol, isGrpc, upgrade } = request
  return {
    head, body, hasBody, trailers, acceptsTrailers, protocol, isGrpc, connection,
    ...(contentLength !== undefined && { contentLength }), ...(upgrade !== undefined && { upgrade }),
    get signal() {
      return request.signal
    },
    inform: (status, headers) => request.inform(status, headers),
  }
}

/** The connection below TLS, as it was given to accept(). */
function rawOf(tls: TLSSocket): Socket {
  const parent: unknown = Reflect.get(tls, '_parent')
  return parent as Socket
}

function rangesOf(texts: readonly string[]): CidrMap<true> | undefined {
  if (texts.length === 0) return undefined
  const map = new CidrMap<true>()
  for (const text of texts) {
    const [ip = '', length] = text.split('/')
    const packed = packIp(ip)
    if (!packed) continue
    const bits = length === undefined ? (packed.v4 >= 0 ? 32 : 128) : Number(length)
    if (isPrefixLength(packed, bits)) map.set(packed, bits, true)
  }
  return map
}
