// Requests over HTTP/1.1: undici's pool over connections that somebody else makes, one request at a time on each. undici's own time
// limits are off: they are coarse, and those of a request are counted the same way for both versions of HTTP.
import type { Duplex } from 'node:stream'
import { Pool } from 'undici'
import type { Dispatcher } from 'undici'
import { MeshError } from '../../core/errors.ts'
import { AnswerBody } from './answer-body.ts'
import { connectWithin, cutAnswer, failure, idleAnswer } from './outbound.ts'
import type { FailureKind, OutboundRequest, Outcome, Upstream, UpstreamOptions } from './outbound.ts'
import { readAnswerHeaders, readTrailers } from './strict.ts'
import type { HeaderMap } from '../../policy/l7/request-head.ts'
import { isExpectedAccept, newWebSocketKey } from './websocket.ts'

const largestAnswerHeadBytes = 65_536
const noCall = (): void => {}

export class Http1Upstream implements Upstream {
  readonly #options: UpstreamOptions
  readonly #pool: Pool
  readonly #ended = new AbortController()

  constructor(options: UpstreamOptions) {
    this.#options = options
    const connector = (_: unknown, callback: (...answer: [null, Duplex] | [Error, null]) => void): void => {
      void this.#connect(callback)
    }
    this.#pool = new Pool('http://upstream.invalid', {
      // undici says Socket and asks for nothing that a Duplex has not.
      connect: connector as never,
      connections: options.maxConnections,
      pipelining: 1,
      allowH2: false,
      headersTimeout: 0,
      bodyTimeout: 0,
      keepAliveTimeout: options.idleTimeoutMs,
      keepAliveMaxTimeout: options.idleTimeoutMs,
      maxHeaderSize: largestAnswerHeadBytes,
      strictContentLength: true,
      ...(options.requestsPerConnection !== undefined && options.requestsPerConnection > 0 && { maxRequestsPerClient: options.requestsPerConnection }),
    })
  }

  async #connect(done: (...answer: [null, Duplex] | [Error, null]) => void): Promise<void> {
    let stream: Duplex
    try {
      stream = await connectWithin(this.#options, this.#ended.signal)
    } catch (error) {
      done(new NotMade('no connection', { cause: error }), null)
      return
    }
    done(null, stream)
  }

  get stats(): Upstream['stats'] {
    const { connected, running, pending, queued } = this.#pool.stats
    return { connections: connected, active: running, pending: pending + queued }
  }

  send(request: OutboundRequest): Promise<Outcome> {
    return new Promise((resolve) => {
      const attempt = new Attempt(request, this.#options, resolve)
      attempt.start(this.#pool)
    })
  }

  async close(): Promise<void> {
    await this.#pool.close()
    this.#ended.abort()
  }

  destroy(): void {
    this.#ended.abort()
    this.#pool.destroy().catch(noCall)
  }
}

/** Marks an error as one of the connection that was not made, for the requests that waited for it. */
class NotMade extends Error {}

class Attempt implements Dispatcher.DispatchHandler {
  readonly #request: OutboundRequest
  readonly #options: UpstreamOptions
  readonly #settle: (outcome: Outcome) => void
  readonly #websocketKey: string | undefined
  #isSettled = false
  #isBegun = false
  #cancelled: { readonly kind: FailureKind; readonly cause: unknown } | undefined
  #controller: Dispatcher.DispatchController | undefined
  #body: AnswerBody | undefined
  #trailers: HeaderMap | undefined
  #callOffHead: (() => void) | undefined

  constructor(request: OutboundRequest, options: UpstreamOptions, settle: (outcome: Outcome) => void) {
    this.#request = request
    this.#options = options
    this.#settle = settle
    this.#websocketKey = request.upgrade === 'websocket' && !request.headers.has('sec-websocket-key') ? newWebSocketKey() : undefined
  }

  start(pool: Pool): void {
    const { method, target, body, upgrade, signal, headTimeoutMs } = this.#request
    if (signal?.aborted === true) {
      this.#cancel('cancelled', signal.reason)
      return
    }
    signal?.addEventListener('abort', this.#onAbort, { once: true })
    if (headTimeoutMs !== undefined) this.#callOffHead = this.#options.clock.after(headTimeoutMs, () => this.#cancel('timeout', undefined))
    try {
      pool.dispatch({ method, path: target, headers: this.#headers(), body: body ?? null, ...(upgrade !== undefined && { upgrade }) }, this)
    } catch (error) {
      this.#end('unsendable', error)
    }
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller
    this.#isBegun = true
    if (this.#cancelled) controller.abort(new Error(this.#cancelled.kind))
  }

  onRequestUpgrade(controller: Dispatcher.DispatchController, status: number, _: unknown, stream: Duplex): void {
    const headers = readAnswerHeaders(texts(controller.rawHeaders))
    stream.on('error', noCall)
    if (status !== 101 || !headers || (this.#websocketKey !== undefined && !isExpectedAccept(this.#websocketKey, headers.get('sec-websocket-accept')))) {
      stream.destroy()
      this.#end('badAnswer', undefined)
      return
    }
    if (this.#cancelled) {
      stream.destroy()
      return
    }
    if (this.#websocketKey !== undefined) headers.delete('sec-websocket-accept')
    this.#finish({ t: 'upgraded', headers, stream })
  }

  onResponseStart(controller: Dispatcher.DispatchController, status: number): void {
    const headers = readAnswerHeaders(texts(controller.rawHeaders))
    if (!headers) {
      this.#cancel('badAnswer', undefined)
      return
    }
    if (status < 200) {
      this.#request.onInformation?.(status, headers)
      return
    }
    this.#callOffHead?.()
    this.#body = new AnswerBody({
      clock: this.#options.clock,
      idleTimeoutMs: this.#request.idleTimeoutMs,
      pause: () => controller.pause(),
      resume: () => controller.resume(),
      cancel: () => this.#cancel('cancelled', undefined),
      onIdle: () => idleAnswer(),
    })
    const hasBody = this.#request.method !== 'HEAD' && status !== 204 && status !== 304 && headers.get('content-length') !== '0'
    const answer = { t: 'response', status, headers, trailers: () => this.#trailers } as const
    this.#resolve(hasBody ? { ...answer, body: this.#body } : answer)
    if (!hasBody) this.#body.resume()
  }

  onResponseData(_: unknown, chunk: Buffer): void {
    this.#body?.give(chunk)
  }

  onResponseEnd(controller: Dispatcher.DispatchController): void {
    this.#trailers = readTrailers(texts(controller.rawTrailers))
    this.#unlisten()
    this.#body?.finish()
  }

  onResponseError(_: unknown, error: Error): void {
    const kind = this.#cancelled?.kind ?? this.#kindOf(error)
    const cause = this.#cancelled?.cause ?? (error instanceof NotMade ? error.cause : error)
    if (this.#body) {
      this.#unlisten()
      this.#body.fail(kind === 'cancelled' && cause instanceof MeshError ? cause : cutAnswer(error))
    } else this.#end(kind, cause)
  }

  #kindOf(error: Error): FailureKind {
    const code = 'code' in error ? error.code : undefined
    if (code === 'UND_ERR_REQ_CONTENT_LENGTH_MISMATCH' || (this.#request.body && this.#request.body.errored === error)) return 'cancelled'
    if (error instanceof NotMade || !this.#isBegun) return 'connectFailure'
    // undici's parser errors do not all have a code.
    return code === 'UND_ERR_HEADERS_OVERFLOW' || error.name === 'HTTPParserError' ? 'badAnswer' : 'reset'
  }

  /** In undici's queue a request cannot be reached; it is dropped when its turn comes, and reported now. */
  #cancel(kind: FailureKind, cause: unknown): void {
    if (this.#cancelled) return
    this.#cancelled = { kind, cause }
    this.#controller?.abort(new Error(kind))
    if (!this.#body) this.#end(kind, cause)
  }

  readonly #onAbort = (): void => this.#cancel('cancelled', this.#request.signal?.reason)

  #end(kind: FailureKind, cause: unknown): void {
    this.#request.body?.destroy()
    this.#finish(failure(kind, cause))
  }

  #finish(outcome: Outcome): void {
    this.#unlisten()
    this.#resolve(outcome)
  }

  #resolve(outcome: Outcome): void {
    if (this.#isSettled) return
    this.#isSettled = true
    this.#settle(outcome)
  }

  #unlisten(): void {
    this.#callOffHead?.()
    this.#request.signal?.removeEventListener('abort', this.#onAbort)
  }

  #headers(): string[] {
    const { authority, headers, contentLength, body } = this.#request
    const list = ['host', authority]
    for (const [name, value] of headers.entries()) {
      if (name !== 'host' && name !== 'content-length' && name !== 'connection') list.push(name, value)
    }
    if (body && contentLength !== undefined) list.push('content-length', String(contentLength))
    if (this.#websocketKey !== undefined) list.push('sec-websocket-key', this.#websocketKey)
    return list
  }
}

function texts(raw: unknown): string[] {
  return Array.isArray(raw) ? raw.map((each: unknown) => (Buffer.isBuffer(each) ? each.toString('latin1') : String(each))) : []
}
