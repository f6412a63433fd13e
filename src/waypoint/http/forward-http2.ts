// Requests over HTTP/2 and so gRPC: a few sessions of node:http2 over connections that somebody else makes, each filled up to what the
// backend allows before another one is made. Requests that no session has room for wait, and leave the line when they are cancelled.
import http2 from 'node:http2'
import type { ClientHttp2Session, ClientHttp2Stream } from 'node:http2'
import type { Duplex } from 'node:stream'
import { MeshError } from '../../core/errors.ts'
import { connectWithin } from './outbound.ts'
import type { FailureKind, OutboundRequest, Outcome, Upstream, UpstreamOptions } from './outbound.ts'
import { Http2Attempt } from './http2-attempt.ts'

const streamWindowBytes = 262_144
const connectionWindowBytes = 1_048_576
/** Until the backend has said how many it allows (RFC 9113, 6.5.2 recommends no less). */
const firstStreams = 100
const noCall = (): void => {}

interface Pooled {
  readonly session: ClientHttp2Session
  active: number
  total: number
  isLeaving: boolean
  callOffIdle: (() => void) | undefined
}

interface Waiting {
  readonly give: (pooled: Pooled) => void
  readonly fail: (kind: FailureKind, cause: unknown) => void
}

export class Http2Upstream implements Upstream {
  readonly #options: UpstreamOptions
  readonly #sessions = new Set<Pooled>()
  readonly #line = new Set<Waiting>()
  readonly #ended = new AbortController()
  #connecting = 0
  #closed: PromiseWithResolvers<void> | undefined

  constructor(options: UpstreamOptions) {
    this.#options = options
  }

  get stats(): Upstream['stats'] {
    let active = 0
    for (const pooled of this.#sessions) active += pooled.active
    return { connections: this.#sessions.size, active, pending: this.#line.size }
  }

  send(request: OutboundRequest): Promise<Outcome> {
    return new Promise((resolve) => {
      const attempt = new Http2Attempt(request, this.#options.clock, resolve)
      if (!attempt.start()) return
      if (this.#closed) {
        attempt.end('connectFailure', new MeshError('CLOSED', 'the upstream was closed'))
        return
      }
      const waiting: Waiting = {
        give: (pooled) => {
          attempt.onGivenUp = undefined
          this.#use(pooled, request, attempt)
        },
        fail: (kind, cause) => attempt.end(kind, cause),
      }
      this.#line.add(waiting)
      attempt.onGivenUp = () => this.#line.delete(waiting)
      this.#serveLine()
    })
  }

  close(): Promise<void> {
    this.#closed ??= Promise.withResolvers()
    this.#serveLine()
    return this.#closed.promise
  }

  destroy(): void {
    this.#closed ??= Promise.withResolvers()
    this.#ended.abort()
    this.#failLine(new MeshError('CLOSED', 'the upstream was closed'))
    for (const { session } of this.#sessions) session.destroy()
    this.#serveLine()
  }

  #serveLine(): void {
    for (const waiting of this.#line) {
      const pooled = this.#withRoom()
      if (!pooled) break
      this.#line.delete(waiting)
      waiting.give(pooled)
    }
    // One connection more for as many requests as it will probably take.
    while (this.#line.size > this.#connecting * firstStreams && this.#sessions.size + this.#connecting < this.#options.maxConnections) this.#connect()
    if (!this.#closed || this.#line.size > 0 || this.#connecting > 0) return
    for (const pooled of this.#sessions) this.#leave(pooled)
    if (this.#sessions.size === 0) this.#closed.resolve()
  }

  /** The one with the least under way, so that a lost connection hurts few. */
  #withRoom(): Pooled | undefined {
    let best: Pooled | undefined
    for (const pooled of this.#sessions) {
      if (pooled.isLeaving || pooled.session.closed || pooled.session.destroyed) continue
      const most = pooled.session.remoteSettings?.maxConcurrentStreams ?? firstStreams
      if (pooled.active < Math.min(most, 4_096) && (!best || pooled.active < best.active)) best = pooled
    }
    return best
  }

  #connect(): void {
    this.#connecting++
    connectWithin(this.#options, this.#ended.signal).then(
      (stream) => {
        this.#connecting--
        if (this.#ended.signal.aborted) stream.destroy()
        else this.#adopt(stream)
        this.#serveLine()
      },
      (error: unknown) => {
        this.#connecting--
        // Who waits may still get a place on a connection that is there.
        if (this.#sessions.size === 0 && this.#connecting === 0) this.#failLine(error)
        this.#serveLine()
      },
    )
  }

  #adopt(stream: Duplex): void {
    const session = http2.connect('http://upstream.invalid', {
      createConnection: () => stream,
      settings: { enablePush: false, initialWindowSize: streamWindowBytes, maxHeaderListSize: 131_072 },
      peerMaxConcurrentStreams: firstStreams,
      maxHeaderListPairs: 512,
      maxReservedRemoteStreams: 0,
      maxSessionMemory: 64,
      maxSettings: 32,
      maxOutstandingPings: 4,
    })
    const pooled: Pooled = { session, active: 0, total: 0, isLeaving: false, callOffIdle: undefined }
    this.#sessions.add(pooled)
    session.on('error', noCall)
    session.once('connect', () => session.setLocalWindowSize(connectionWindowBytes))
    session.on('goaway', () => (pooled.isLeaving = true))
    session.on('remoteSettings', () => {
      hasSettings.add(session)
      this.#serveLine()
    })
    const onEnd = (): void => {
      if (!this.#sessions.delete(pooled)) return
      pooled.callOffIdle?.()
      stream.destroy()
      this.#serveLine()
    }
    session.once('close', onEnd)
    const cut = (): void => {
      if (!session.destroyed) session.destroy()
    }
    // Streams of a tunnel may be half-closed; a backend that has ended its half says no more.
    stream.once('end', cut)
    stream.once('close', () => {
      cut()
      onEnd()
    })
    if (stream.destroyed) session.destroy()
    this.#rest(pooled)
  }

  #use(pooled: Pooled, request: OutboundRequest, attempt: Http2Attempt): void {
    pooled.active++
    pooled.total++
    pooled.callOffIdle?.()
    pooled.callOffIdle = undefined
    const most = this.#options.requestsPerConnection ?? 0
    if (most > 0 && pooled.total >= most) pooled.isLeaving = true
    const done = (): void => {
      pooled.active--
      if (pooled.active === 0) this.#rest(pooled)
      if (pooled.active === 0 && pooled.isLeaving) this.#leave(pooled)
      this.#serveLine()
    }
    if (request.upgrade === undefined) this.#open(pooled, request, attempt, done)
    else this.#afterSettings(pooled.session, () => this.#open(pooled, request, attempt, done))
  }

  #open(pooled: Pooled, request: OutboundRequest, attempt: Http2Attempt, done: () => void): void {
    const { session } = pooled
    if (request.upgrade !== undefined && session.remoteSettings?.enableConnectProtocol !== true) {
      attempt.end('unsendable', new Error('the backend has no extended CONNECT'))
      done()
      return
    }
    let stream: ClientHttp2Stream
    try {
      stream = session.request(headersOf(request), {
        endStream: request.body === undefined && request.upgrade === undefined,
        waitForTrailers: request.body !== undefined && request.trailers !== undefined,
      })
    } catch (error) {
      const isOfSession = session.destroyed || session.closed || (error instanceof Error && 'code' in error && error.code === 'ERR_HTTP2_OUT_OF_STREAMS')
      if (isOfSession) pooled.isLeaving = true
      attempt.end(isOfSession ? 'refusedStream' : 'unsendable', error)
      done()
      return
    }
    stream.once('close', done)
    attempt.carry(stream)
  }

  /** Whether a backend takes extended CONNECT stands in its first SETTINGS. */
  #afterSettings(session: ClientHttp2Session, go: () => void): void {
    let isOver = false
    const once = (): void => {
      if (isOver) return
      isOver = true
      callOff()
      session.off('remoteSettings', once)
      session.off('close', once)
      go()
    }
    const callOff = this.#options.clock.after(this.#options.connectTimeoutMs, once)
    if (session.destroyed || session.remoteSettings?.enableConnectProtocol === true) once()
    else {
      session.on('remoteSettings', once)
      session.on('close', once)
      // They came before, and said no.
      if (hasSettings.has(session)) once()
    }
  }

  #rest(pooled: Pooled): void {
    pooled.callOffIdle?.()
    pooled.callOffIdle = this.#options.clock.after(this.#options.idleTimeoutMs, () => {
      if (pooled.active === 0) this.#leave(pooled)
    })
  }

  /** After what is under way. */
  #leave(pooled: Pooled): void {
    pooled.isLeaving = true
    if (!pooled.session.closed && !pooled.session.destroyed) pooled.session.close()
  }

  #failLine(cause: unknown): void {
    for (const waiting of this.#line) {
      this.#line.delete(waiting)
      waiting.fail('connectFailure', cause)
    }
  }
}

const hasSettings = new WeakSet<ClientHttp2Session>()

/** Ours, or of one hop. */
const notSentOn = new Set(['host', 'connection', 'content-length', 'transfer-encoding', 'te'])

/** Name, value, ...: Node copies an object twice before it makes this of it. */
function headersOf({ method, scheme, authority, target, headers, contentLength, body, acceptsTrailers, upgrade }: OutboundRequest): string[] {
  const list = [':method', upgrade === undefined ? method : 'CONNECT', ':scheme', scheme, ':authority', authority, ':path', target]
  if (upgrade !== undefined) list.push(':protocol', upgrade)
  const given = headers.flat()
  for (let i = 0; i + 1 < given.length; i += 2) {
    const name = given[i] ?? ''
    if (!notSentOn.has(name) && (upgrade === undefined || name !== 'sec-websocket-key')) list.push(name, given[i + 1] ?? '')
  }
  if (body && contentLength !== undefined) list.push('content-length', String(contentLength))
  if (acceptsTrailers === true) list.push('te', 'trailers')
  return list
}
