// One request until its answer is out: what HTTP/1.1 and HTTP/2 have in common. Asks the handler once, gives exactly one answer, and
// tells the handler when the client is gone. Knows nothing of sockets; a Side does the writing.
import { Duplex } from 'node:stream'
import type { Readable } from 'node:stream'
import { MeshError } from '../../core/errors.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import type { Handler, Refusal, Request, Response, Trailers } from './message.ts'
import { cutRequest } from './request-body.ts'
import { isGrpc } from './strict.ts'
import type { ReadHead } from './strict.ts'

/** What one version of HTTP does with an answer. None of it is called twice, but for `inform`. */
export interface Side {
  readonly protocol: 'http1' | 'http2'
  inform(status: number, headers: HeaderMap): void
  respond(answer: Response & { t: 'response' }): void
  /** 101 or its equal in HTTP/2; undefined where the client is gone. */
  upgrade(headers: HeaderMap): Duplex | undefined
}

export interface ExchangeEvents {
  /** The handler failed, or answered what cannot be sent. */
  readonly onHandlerError?: (error: unknown) => void
  readonly onRefused?: (refusal: Refusal) => void
}

export class Exchange<Connection> {
  readonly #side: Side
  readonly #events: ExchangeEvents
  #abort: AbortController | undefined
  #gone: MeshError | undefined
  #isAnswered = false
  #isFinished = false

  constructor(side: Side, events: ExchangeEvents) {
    this.#side = side
    this.#events = events
  }

  start(read: ReadHead, body: Readable, trailers: Trailers, connection: Connection, handler: Handler<Connection>): void {
    const side = this.#side
    const { t: _, expectsContinue: __, ...facts } = read
    const signal = (): AbortSignal => this.#signal
    const request: Request<Connection> = {
      ...facts, body, trailers, connection, protocol: side.protocol, isGrpc: isGrpc(read.head.headers),
      get signal() {
        return signal()
      },
      inform: (status, headers) => {
        if (!this.#isAnswered && !this.#gone && status > 101 && status < 200) side.inform(status, headers)
      },
    }
    void this.#ask(handler, request).then((response) => this.#answer(response, read))
  }

  /** For a refusal that comes after the handler was asked, such as a body that does not come. False if there is an answer already. */
  refuse(refusal: Refusal): boolean {
    if (this.#isAnswered) return false
    this.#isAnswered = true
    this.#events.onRefused?.(refusal)
    this.#side.respond(refusalResponse(refusal))
    this.gone(refusal.because)
    return true
  }

  /** The client has gone, or will get no more. */
  gone(because: string, detail: Readonly<Record<string, unknown>> = {}): void {
    if (this.#gone || this.#isFinished) return
    this.#gone = cutRequest(because, detail)
    this.#abort?.abort(this.#gone)
  }

  /** The answer is out, whole. */
  finished(): void {
    this.#isFinished = true
  }

  get #signal(): AbortSignal {
    // Most handlers of short requests never ask.
    if (!this.#abort) {
      this.#abort = new AbortController()
      if (this.#gone) this.#abort.abort(this.#gone)
    }
    return this.#abort.signal
  }

  async #ask(handler: Handler<Connection>, request: Request<Connection>): Promise<Response> {
    try {
      return await handler(request)
    } catch (error) {
      if (!this.#gone) this.#events.onHandlerError?.(error)
      const status = error instanceof MeshError && error.source === 'upstream' ? 502 : 500
      return { t: 'response', status, headers: new HeaderMap() }
    }
  }

  #answer(response: Response, read: ReadHead): void {
    if (this.#isAnswered || this.#gone) {
      discard(response)
      return
    }
    this.#isAnswered = true
    if (response.t === 'response' && isSendable(response.status)) {
      this.#side.respond(response)
      return
    }
    if (response.t === 'upgrade' && read.upgrade !== undefined) {
      response.carry(this.#side.upgrade(response.headers) ?? closedStream())
      return
    }
    discard(response)
    this.#events.onHandlerError?.(new Error('an answer that cannot be sent'))
    this.#side.respond({ t: 'response', status: 500, headers: new HeaderMap() })
  }
}

const isSendable = (status: number): boolean => Number.isInteger(status) && status >= 200 && status <= 999

/** Who accepted an upgrade learns from it that the client has gone meanwhile. */
const closedStream = (): Duplex => new Duplex({ read() {} }).destroy()

function discard(response: Response): void {
  if (response.t === 'upgrade') response.carry(closedStream())
  if (response.t === 'response' && typeof response.body === 'object' && 'destroy' in response.body) response.body.destroy()
}

/** Says nothing of what was wrong with the request: it may be an attacker's. */
export function refusalResponse({ status }: Refusal): Response & { t: 'response' } {
  return { t: 'response', status, headers: new HeaderMap() }
}

/** Whether an answer of that status to that method has content (RFC 9110, 6.4.1 and 15.3.6). */
export function hasContent(method: string, status: number): boolean {
  return method !== 'HEAD' && status !== 204 && status !== 205 && status !== 304
}
