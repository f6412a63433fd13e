// The server's end of one verified HBONE connection: takes CONNECT streams, asks the handler, answers, and watches what the
// peer does to us. Knows nothing of listeners; never hands out a stream before the handler's answer is on its way.
import http2 from 'node:http2'
import type { IncomingHttpHeaders, ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { TLSSocket } from 'node:tls'
import type { Clock } from '../core/clock.ts'
import { MeshError } from '../core/errors.ts'
import type { Identity } from '../core/identity.ts'
import { parseAuthority } from './authority.ts'
import type { Authority } from './authority.ts'
import { formatBaggage } from './baggage.ts'
import type { Baggage } from './baggage.ts'
import { ConnectionEnd } from './connection-end.ts'
import { readConnectHeaders } from './connect-headers.ts'
import type { ReceivedHeaders } from './connect-headers.ts'
import { statusOfError } from './connect-status.ts'
import type { RefusalStatus } from './connect-status.ts'
import type { HboneEvents } from './events.ts'
import { FloodGuard } from './flood-guard.ts'
import type { Flood } from './flood-guard.ts'
import { keepAlive } from './keepalive.ts'
import { connectionWindowBytes, serverSessionOptions } from './settings.ts'
import type { SessionTimeouts } from './settings.ts'
import { TunnelStream } from './tunnel-stream.ts'
import { unread } from './unread.ts'

const { NGHTTP2_CANCEL, NGHTTP2_ENHANCE_YOUR_CALM, NGHTTP2_NO_ERROR } = http2.constants

/** How long a refused stream may stay open, should that fail. */
const refusalMs = 1_000

export interface ConnectRequest extends ReceivedHeaders {
  readonly peerIdentity: Identity
  readonly authority: Authority
  /** Aborted when the client gave up or its connection went; of no meaning after the decision. */
  readonly signal: AbortSignal
  /** The connection it came on: its addresses are the client's ztunnel's and ours. */
  readonly socket: TLSSocket
}

/**
 * `accept`: 200 is sent and `carry` gets the stream, at once. `refuse`: that status, or the one of an error; `because` is for metrics.
 */
export type ConnectDecision =
  | { readonly t: 'accept'; readonly baggage?: Baggage; readonly carry: (stream: TunnelStream) => void }
  | { readonly t: 'refuse'; readonly status: RefusalStatus; readonly because: string }

/** A rejection with a MeshError is a refusal with the status of its code; any other is 503. */
export type ConnectHandler = (request: ConnectRequest) => Promise<ConnectDecision>

export interface ServerSessionPlan {
  readonly peer: Identity
  readonly chain: readonly Uint8Array[]
  readonly maxStreams: number
  readonly timeouts: SessionTimeouts
  readonly clock: Clock
  readonly events: HboneEvents
  readonly handler: ConnectHandler
  readonly onClose: () => void
}

export class ServerSession {
  readonly peer: Identity
  readonly chain: readonly Uint8Array[]
  readonly #session: ServerHttp2Session
  readonly #tls: TLSSocket
  readonly #plan: ServerSessionPlan
  readonly #guard: FloodGuard
  readonly #end: ConnectionEnd
  readonly #stopPings: () => void
  #streams = 0
  #isDraining = false
  #because: string | undefined
  #isClosed = false

  constructor(tls: TLSSocket, plan: ServerSessionPlan) {
    this.#tls = tls
    this.#plan = plan
    this.peer = plan.peer
    this.chain = plan.chain
    this.#guard = new FloodGuard(plan.clock)
    const session = http2.performServerHandshake(tls, serverSessionOptions(plan.maxStreams))
    this.#session = session
    this.#end = new ConnectionEnd(session, tls, plan.clock, () => this.destroy(this.#isDraining ? 'drained' : 'peerClosed', NGHTTP2_NO_ERROR))
    session.setLocalWindowSize(connectionWindowBytes)
    const watch = unread.watch(session, plan.clock)
    session.on('stream', (stream, headers) => {
      watch(stream)
      this.#onStream(stream, headers)
    })
    session.on('ping', () => this.#count('pingFlood'))
    session.on('remoteSettings', () => this.#count('settingsFlood'))
    session.on('error', (error) => (this.#because ??= 'code' in error ? reasonOf(String(error.code), error.message) : 'error'))
    session.on('close', () => this.#onClose())
    tls.on('close', () => this.#onClose())
    this.#stopPings = keepAlive(session, plan.clock, plan.timeouts, () => this.destroy('pingTimeout', NGHTTP2_NO_ERROR))
  }

  get streams(): number {
    return this.#streams
  }

  /**
   * GOAWAY with the last stream that was taken, then the end of the last one. A first GOAWAY that names no stream yet (RFC 9113, 6.8)
   * would be kinder to clients that do not retry, but nghttp2 then ignores, without a word, what comes in between.
   */
  drain(): void {
    if (this.#isDraining || this.#session.destroyed) return
    this.#isDraining = true
    this.#session.close()
    this.#letGoIfIdle()
  }

  /** Cuts every stream. */
  destroy(because: string, code: number = NGHTTP2_CANCEL): void {
    if (this.#isClosed) return
    // The first reason is the one: what the peer does about being cut is none.
    this.#because ??= because
    this.#session.destroy(new MeshError('TUNNEL_CLOSED', because), code)
    this.#end.letGo(true)
  }

  #count(kind: Flood): void {
    if (this.#guard.allows(kind) || this.#isClosed || this.#session.destroyed) return
    this.#plan.events({ t: 'flood', because: kind, peer: this.peer })
    this.destroy(kind, NGHTTP2_ENHANCE_YOUR_CALM)
  }

  #onStream(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void {
    this.#streams++
    const startedMs = this.#plan.clock.monotonicMs()
    // Most connections are decided before anybody asks for the signal.
    let abort: AbortController | undefined
    let isDecided = false
    let isGivenUp = false
    stream.on('error', () => {
      // 'close' follows and tells.
    })
    stream.once('close', () => {
      this.#streams--
      this.#letGoIfIdle()
      if (isDecided) return
      isGivenUp = true
      abort?.abort()
      this.#count('rapidReset')
    })
    const decide = (decision: ConnectDecision): void => {
      // Given up meanwhile: who accepted learns it from a stream that is closed already.
      isDecided = true
      if (decision.t === 'refuse') this.#refuse(stream, decision.status, decision.because)
      else this.#accept(stream, decision, startedMs)
    }
    const method = headers[':method']
    if (method !== 'CONNECT' || headers[':protocol'] !== undefined) {
      decide({ t: 'refuse', status: 400, because: 'notConnect' })
      return
    }
    const authority = parseAuthority(headers[':authority'] ?? '')
    if ('fault' in authority) {
      decide({ t: 'refuse', status: 400, because: 'badAuthority' })
      return
    }
    const request: ConnectRequest = {
      ...readConnectHeaders(headers), peerIdentity: this.peer, authority: authority.ok, socket: this.#tls,
      get signal() {
        abort ??= new AbortController()
        if (isGivenUp) abort.abort()
        return abort.signal
      },
    }
    void this.#ask(request).then(decide)
  }

  async #ask(request: ConnectRequest): Promise<ConnectDecision> {
    try {
      return await this.#plan.handler(request)
    } catch (error) {
      if (!(error instanceof MeshError)) return { t: 'refuse', status: 503, because: 'handlerFailed' }
      return { t: 'refuse', status: statusOfError(error.code), because: error.code }
    }
  }

  #refuse(stream: ServerHttp2Stream, status: RefusalStatus, because: string): void {
    this.#plan.events({ t: 'streamRefused', side: 'server', because })
    if (stream.destroyed || stream.closed) return
    stream.respond({ ':status': status }, { endStream: true })
    // Node closes a stream whose request nobody reads once the answer has gone (RFC 9113, 8.1); at once, it would overtake the answer.
    this.#plan.clock.after(refusalMs, () => stream.close(NGHTTP2_NO_ERROR))
  }

  #accept(stream: ServerHttp2Stream, { baggage, carry }: ConnectDecision & { t: 'accept' }, startedMs: number): void {
    const header = baggage ? formatBaggage(baggage) : ''
    if (!stream.destroyed && !stream.closed) {
      stream.respond({ ':status': 200, ...(header !== '' && { baggage: header }) })
      this.#plan.events({ t: 'streamOpened', side: 'server', isReused: (stream.id ?? 1) > 1, durationMs: this.#plan.clock.monotonicMs() - startedMs })
    }
    carry(this.#end.hold(new TunnelStream(stream)))
  }

  #letGoIfIdle(): void {
    if (this.#streams === 0 && this.#session.closed) this.#end.letGo()
  }

  /** `broken`: the connection was reset, or nghttp2 ended it with a GOAWAY for an error of the protocol that it tells only the peer. */
  #onClose(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#stopPings()
    this.#plan.events({ t: 'sessionClosed', side: 'server', peer: this.peer, because: this.#because ?? (this.#isDraining ? 'drained' : 'broken') })
    this.#plan.onClose()
  }
}

/** A small closed set: what nghttp2 says by error name, in our words. */
function reasonOf(code: string, message: string): string {
  if (/continuation/i.test(message)) return 'continuationFlood'
  if (/flood/i.test(message)) return 'flood'
  if (code === 'ERR_HTTP2_TOO_MANY_INVALID_FRAMES') return 'invalidFrames'
  if (code === 'ERR_HTTP2_ERROR') return 'protocolError'
  return code.startsWith('ERR_HTTP2_') ? 'sessionError' : 'socketError'
}
