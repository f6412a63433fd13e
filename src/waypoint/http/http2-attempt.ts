// One request on one HTTP/2 stream to a backend: sends it, turns what comes into an Outcome, and cancels with RST_STREAM CANCEL. The
// code with which a backend resets is kept: for gRPC clients it says what happened.
import http2 from 'node:http2'
import type { ClientHttp2Stream, IncomingHttpHeaders } from 'node:http2'
import type { Clock } from '../../core/clock.ts'
import { MeshError } from '../../core/errors.ts'
import { TunnelStream, resetStream } from '../../hbone/tunnel-stream.ts'
import type { HeaderMap } from '../../policy/l7/request-head.ts'
import { AnswerBody } from './answer-body.ts'
import { cutAnswer, failure, idleAnswer } from './outbound.ts'
import type { FailureKind, OutboundRequest, Outcome } from './outbound.ts'
import { pump } from './pump.ts'
import { fields } from './header-lists.ts'
import { readAnswerHeaders, readTrailers } from './strict.ts'
import { acceptOf } from './websocket.ts'

const { NGHTTP2_CANCEL, NGHTTP2_FLAG_END_STREAM, NGHTTP2_NO_ERROR, NGHTTP2_PROTOCOL_ERROR, NGHTTP2_REFUSED_STREAM } = http2.constants
const noCall = (): void => {}

export class Http2Attempt {
  /** While it waits for a connection: it does no longer. */
  onGivenUp: (() => void) | undefined
  readonly #request: OutboundRequest
  readonly #clock: Clock
  readonly #settle: (outcome: Outcome) => void
  #stream: ClientHttp2Stream | undefined
  #body: AnswerBody | undefined
  #hasEnded = false
  #isSettled = false
  #cancelCause: unknown
  #trailers: HeaderMap | undefined
  #callOffHead: (() => void) | undefined

  constructor(request: OutboundRequest, clock: Clock, settle: (outcome: Outcome) => void) {
    this.#request = request
    this.#clock = clock
    this.#settle = settle
  }

  /** False if it is over before it began. */
  start(): boolean {
    const { signal, headTimeoutMs } = this.#request
    if (signal?.aborted === true) {
      this.end('cancelled', signal.reason)
      return false
    }
    signal?.addEventListener('abort', this.#onAbort, { once: true })
    if (headTimeoutMs !== undefined) this.#callOffHead = this.#clock.after(headTimeoutMs, () => this.#cancel('timeout', undefined))
    return true
  }

  /** Without an answer. */
  end(kind: FailureKind, cause: unknown, rstCode?: number): void {
    this.onGivenUp?.()
    this.#request.body?.destroy()
    this.#unlisten()
    this.#resolve(failure(kind, cause, rstCode))
  }

  carry(stream: ClientHttp2Stream): void {
    const { body, trailers, upgrade, onInformation } = this.#request
    this.#stream = stream
    stream.on('error', noCall)
    // Given up while the connection was made.
    if (this.#isSettled) {
      resetStream(stream, NGHTTP2_CANCEL)
      return
    }
    stream.on('headers', (headers, _, raw: unknown) => {
      const status = Number(headers[':status'])
      const read = readAnswerHeaders(rawOf(headers, raw))
      if (read && status > 100 && status < 200) onInformation?.(status, read)
    })
    stream.on('response', (headers, flags, raw: unknown) => {
      this.#onResponse(stream, Number(headers[':status']), rawOf(headers, raw), (flags & NGHTTP2_FLAG_END_STREAM) !== 0)
    })
    stream.on('trailers', (headers, _, raw: unknown) => (this.#trailers = readTrailers(rawOf(headers, raw))))
    // Before anybody else listens: where an answer comes in one piece, Node itself destroys the stream at its end.
    stream.on('end', () => this.#onEnd(stream))
    stream.once('close', () => this.#onClose(stream))
    if (trailers) {
      stream.once('wantTrailers', () => {
        const list = trailers()
        if (!stream.destroyed) stream.sendTrailers(list ? fields(list) : {})
      })
    }
    if (!body || upgrade !== undefined) return
    pump(body, stream, (error) => {
      if (!error) stream.end()
      else if (!stream.destroyed && !stream.closed && body.destroyed) this.#cancel('cancelled', body.errored ?? error)
      else body.destroy()
    })
  }

  #onResponse(stream: ClientHttp2Stream, status: number, raw: readonly string[], isEnd: boolean): void {
    const headers = readAnswerHeaders(raw)
    if (!headers || !Number.isInteger(status) || status < 200) {
      this.#cancel('badAnswer', undefined, NGHTTP2_PROTOCOL_ERROR)
      return
    }
    this.#callOffHead?.()
    if (this.#request.upgrade !== undefined && status < 300) {
      this.#unlisten()
      const key = this.#request.headers.get('sec-websocket-key')
      if (key !== undefined) headers.set('sec-websocket-accept', acceptOf(key))
      const tunnel = new TunnelStream(stream)
      if (isEnd) tunnel.destroy()
      this.#resolve({ t: 'upgraded', headers, stream: tunnel })
      return
    }
    const answer = { t: 'response', status, headers, trailers: () => this.#trailers } as const
    if (isEnd || this.#request.method === 'HEAD') {
      this.#hasEnded = isEnd
      stream.resume()
      this.#resolve(answer)
      return
    }
    const body = new AnswerBody({
      clock: this.#clock,
      idleTimeoutMs: this.#request.idleTimeoutMs,
      pause: () => stream.pause(),
      resume: () => stream.resume(),
      cancel: () => this.#cancel('cancelled', undefined),
      onIdle: () => idleAnswer(),
    })
    this.#body = body
    // What came with its end is taken at once; trailers, if there are any, are told before anybody asks.
    const hasCome = stream.closed && !stream.aborted && stream.rstCode === NGHTTP2_NO_ERROR
    const whole: unknown = hasCome ? stream.read() : undefined
    if (Buffer.isBuffer(whole)) {
      this.#hasEnded = true
      body.give(whole)
      body.finish()
    } else {
      stream.on('data', (chunk: Buffer) => body.give(chunk))
      stream.pause()
    }
    this.#resolve({ ...answer, body })
  }

  #onEnd(stream: ClientHttp2Stream): void {
    // Node ends a stream that was cut, too.
    if (stream.destroyed || stream.aborted) return
    this.#hasEnded = true
    // Trailers come with the end, but their event may come after it.
    const body = this.#body
    if (body) setImmediate(() => body.finish())
  }

  #onClose(stream: ClientHttp2Stream): void {
    this.#unlisten()
    const { rstCode } = stream
    const { body } = this.#request
    if (body && !body.readableEnded) body.destroy()
    if (!this.#isSettled) {
      const isUntouched = rstCode === NGHTTP2_REFUSED_STREAM || stream.id === undefined
      this.end(isUntouched ? 'refusedStream' : 'reset', stream.errored ?? undefined, rstCode)
      return
    }
    if (!this.#body || this.#hasEnded) return
    const cause = this.#cancelCause
    this.#body.fail(cause instanceof MeshError ? cause : cutAnswer(stream.errored ?? undefined, rstCode))
  }

  #cancel(kind: FailureKind, cause: unknown, code: number = NGHTTP2_CANCEL): void {
    this.#cancelCause ??= cause
    const stream = this.#stream
    if (!this.#isSettled) this.end(kind, cause)
    if (stream && !stream.destroyed && !stream.closed) {
      // A stream whose data waits to be read would not close.
      resetStream(stream, code)
      stream.resume()
    }
  }

  readonly #onAbort = (): void => {
    if (!this.#hasEnded || !this.#isSettled) this.#cancel('cancelled', this.#request.signal?.reason)
  }

  #unlisten(): void {
    this.#callOffHead?.()
    this.#request.signal?.removeEventListener('abort', this.#onAbort)
  }

  #resolve(outcome: Outcome): void {
    if (this.#isSettled) return
    this.#isSettled = true
    this.#settle(outcome)
  }
}

/** Name, value, ... without pseudo-headers; from Node's object where there is nothing more exact. */
function rawOf(headers: IncomingHttpHeaders, raw: unknown): string[] {
  const list: string[] = []
  if (Array.isArray(raw)) {
    for (let i = 0; i + 1 < raw.length; i += 2) if (!String(raw[i]).startsWith(':')) list.push(String(raw[i]), String(raw[i + 1]))
    return list
  }
  for (const [name, value] of Object.entries(headers)) {
    if (name.startsWith(':') || value === undefined) continue
    for (const each of Array.isArray(value) ? value : [value]) list.push(name, each)
  }
  return list
}
