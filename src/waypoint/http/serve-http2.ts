// The HTTP/2 side of a client's connection: node:http2's session, our reading of the head, one answer for each stream, extended
// CONNECT (RFC 8441) and the guards against peers that only make work. Resets carry the code that gRPC clients understand.
import http2 from 'node:http2'
import type { ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { Duplex } from 'node:stream'
import { MeshError } from '../../core/errors.ts'
import { FloodGuard } from '../../hbone/flood-guard.ts'
import type { Flood } from '../../hbone/flood-guard.ts'
import { TunnelStream, resetStream } from '../../hbone/tunnel-stream.ts'
import { AnswerBody } from './answer-body.ts'
import { Exchange, hasContent } from './exchange.ts'
import type { Side } from './exchange.ts'
import type { Response } from './message.ts'
import { pump } from './pump.ts'
import { RequestBody, noBody } from './request-body.ts'
import { fields, isStream } from './header-lists.ts'
import type { Http1Plan } from './serve-http1.ts'
import { readHttp2Head, readTrailers } from './strict.ts'

const {
  NGHTTP2_CANCEL, NGHTTP2_ENHANCE_YOUR_CALM, NGHTTP2_FLAG_END_STREAM, NGHTTP2_INTERNAL_ERROR, NGHTTP2_NO_ERROR, NGHTTP2_REFUSED_STREAM,
} = http2.constants

const streamWindowBytes = 262_144
const connectionWindowBytes = 1_048_576
const noCall = (): void => {}

/** Returns at once; the session ends with the stream. */
export class Http2Connection<Connection> {
  readonly #plan: Http1Plan<Connection>
  readonly #connection: Connection
  readonly #scheme: 'http' | 'https'
  readonly #session: ServerHttp2Session
  readonly #guard: FloodGuard
  #active = 0
  #callOffIdle: (() => void) | undefined

  constructor(stream: Duplex, connection: Connection, scheme: 'http' | 'https', plan: Http1Plan<Connection>) {
    this.#plan = plan
    this.#connection = connection
    this.#scheme = scheme
    this.#guard = new FloodGuard(plan.clock)
    const { limits } = plan.rules
    const session = http2.performServerHandshake(stream, {
      settings: {
        initialWindowSize: streamWindowBytes,
        maxConcurrentStreams: limits.streams,
        // Node resets what is above; what is between the limit and this gets an answer that says so.
        maxHeaderListSize: 2 * (limits.headBytes + limits.uriBytes),
        enableConnectProtocol: true,
      },
      maxHeaderListPairs: 2 * limits.headerCount + 8,
      maxSessionMemory: 64,
      maxSessionInvalidFrames: 32,
      maxSessionRejectedStreams: 100,
      maxSettings: 32,
      maxOutstandingPings: 4,
      strictSingleValueFields: false,
    })
    session.setLocalWindowSize(connectionWindowBytes)
    session.on('stream', (inner, _, flags, raw) => this.#onStream(inner, (flags & NGHTTP2_FLAG_END_STREAM) !== 0, raw))
    session.on('ping', () => this.#count('pingFlood'))
    session.on('remoteSettings', () => this.#count('settingsFlood'))
    session.on('error', noCall)
    // Streams of a tunnel may be half-closed, and no HTTP/2 client that does so wants to go on.
    stream.once('end', () => session.destroy())
    session.once('close', () => {
      this.#callOffIdle?.()
      stream.destroy()
    })
    this.#session = session
    this.#rest()
  }

  /** GOAWAY says at once which requests were taken, so there is nothing to say before. */
  announceEnd(): void {}

  /** What is under way goes on. */
  drain(): void {
    if (!this.#session.destroyed) this.#session.close()
  }

  #count(kind: Flood): void {
    if (this.#guard.allows(kind) || this.#session.destroyed) return
    this.#session.destroy(new MeshError('REQUEST_CUT', kind, { source: 'downstream', detail: { because: kind } }), NGHTTP2_ENHANCE_YOUR_CALM)
  }

  #onStream(stream: ServerHttp2Stream, isEnd: boolean, raw: readonly string[]): void {
    this.#active++
    this.#callOffIdle?.()
    this.#callOffIdle = undefined
    stream.on('error', noCall)
    let isAnswered = false
    // Node closes a stream as the end of its answer goes out, and may not call its writing finished any more.
    let isGiven = false
    const read = readHttp2Head(raw, isEnd, this.#scheme, this.#plan.rules)
    const method = read.t === 'head' ? read.head.method : 'GET'
    let trailers: readonly string[] = []
    stream.on('trailers', (_, __, rawTrailers: unknown) => {
      if (Array.isArray(rawTrailers)) trailers = rawTrailers.map(String)
    })
    const side: Side = {
      protocol: 'http2',
      inform: (status, headers) => {
        if (!stream.headersSent && !stream.destroyed) stream.additionalHeaders({ ...fields(headers), ':status': status })
      },
      respond: (answer) => {
        isAnswered = true
        // Node resets a stream of which nothing was read, and curl forgets the answer then (RFC 9113, 8.1 has both sides).
        if (body && !body.isStarted && !isStream(answer.body)) body.discardRest(this.#plan.rules.limits.discardBytes, () => resetStream(stream, NGHTTP2_NO_ERROR))
        isGiven = this.#respond(stream, answer, method)
      },
      upgrade: (headers) => {
        isAnswered = true
        if (stream.destroyed || stream.closed) return undefined
        // RFC 8441, 5: the key and its echo belong to HTTP/1.1.
        headers.delete('sec-websocket-accept')
        stream.respond({ ...fields(headers), ':status': 200 })
        return new TunnelStream(stream)
      },
    }
    let body: RequestBody | undefined
    const exchange = new Exchange<Connection>(side, this.#plan)
    stream.once('close', () => {
      if (stream.rstCode === NGHTTP2_NO_ERROR && (isGiven || stream.writableFinished)) exchange.finished()
      else exchange.gone('clientGone', { rstCode: stream.rstCode })
      if (!isAnswered && stream.rstCode !== NGHTTP2_NO_ERROR) this.#count('rapidReset')
      if (--this.#active === 0 && !this.#session.destroyed) this.#rest()
    })
    if (read.t === 'refused') {
      exchange.refuse(read)
      return
    }
    if (read.hasBody) body = new RequestBody(stream, {
      clock: this.#plan.clock,
      idleMs: this.#plan.rules.limits.bodyIdleMs,
      onFirstRead: () => {
        if (read.expectsContinue && !stream.headersSent && !stream.destroyed) stream.additionalHeaders({ ':status': 100 })
      },
      onSlow: () => {
        if (!exchange.refuse({ status: 408, because: 'slowBody' })) resetStream(stream, NGHTTP2_CANCEL)
      },
    })
    // Of a request that ended with its head; Node tells the end of streams only to who reads them.
    if (!read.hasBody && read.upgrade === undefined) stream.resume()
    exchange.start(read, body ?? noBody(), () => readTrailers(trailers), this.#connection, this.#plan.handler)
  }

  /** Whether all of the answer was given to the stream at once. */
  #respond(stream: ServerHttp2Stream, answer: Response & { t: 'response' }, method: string): boolean {
    const { status, headers, body } = answer
    if (stream.destroyed || stream.closed) {
      if (isStream(body)) body.destroy()
      return false
    }
    const isBodiless = body === undefined || !hasContent(method, status)
    if (status === 204) headers.delete('content-length')
    else if (body !== undefined && !isStream(body) && hasContent(method, status)) headers.set('content-length', String(Buffer.byteLength(body)))
    // Of an answer that has come to its end it is known whether it has trailers; without them, its last bytes are its end.
    const whole = !isBodiless && body instanceof AnswerBody ? body.takeWhole() : undefined
    const mayHaveTrailers = !isBodiless && answer.trailers !== undefined && (whole === undefined || answer.trailers() !== undefined)
    try {
      stream.respond([':status', String(status), ...headers.flat()], { endStream: isBodiless, waitForTrailers: mayHaveTrailers })
    } catch (error) {
      this.#plan.onHandlerError?.(error)
      if (isStream(body)) body.destroy()
      resetStream(stream, NGHTTP2_INTERNAL_ERROR)
      return false
    }
    if (isBodiless) {
      if (isStream(body)) body.destroy()
      return true
    }
    if (mayHaveTrailers) {
      stream.once('wantTrailers', () => {
        const trailers = answer.trailers?.()
        if (!stream.destroyed) stream.sendTrailers(trailers ? fields(trailers) : {})
      })
    }
    if (whole !== undefined || !isStream(body)) {
      stream.end(whole ?? body)
      return true
    }
    pump(body, stream, (error) => {
      if (!error) {
        stream.end()
        return
      }
      body.destroy()
      if (!stream.destroyed && !stream.closed) resetStream(stream, codeOf(error))
    })
    return false
  }

  #rest(): void {
    this.#callOffIdle = this.#plan.clock.after(this.#plan.rules.limits.idleMs, () => {
      if (this.#active === 0) this.#session.close()
    })
  }
}

/** The upstream's own code, where it means the same to the client. */
function codeOf(error: Error): number {
  const code: unknown = error instanceof MeshError ? error.detail['rstCode'] : undefined
  if (typeof code !== 'number' || code === NGHTTP2_NO_ERROR || code === NGHTTP2_REFUSED_STREAM) return NGHTTP2_INTERNAL_ERROR
  return code
}
