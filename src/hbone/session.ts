// The client's end of one HBONE connection: TLS handshake, proof of who the server is, and only then HTTP/2. Gives out streams
// until it drains. Knows nothing of pools; never sends a byte of HTTP/2 to a server that was not verified.
import http2 from 'node:http2'
import type { ClientHttp2Session, ClientHttp2Stream, IncomingHttpHeaders } from 'node:http2'
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import type { CertifiedKey } from '../core/certificates.ts'
import type { Clock } from '../core/clock.ts'
import { MeshError } from '../core/errors.ts'
import type { Identity } from '../core/identity.ts'
import type { Authority } from './authority.ts'
import { ConnectionEnd } from './connection-end.ts'
import { writeConnectHeaders } from './connect-headers.ts'
import type { ConnectHeaders } from './connect-headers.ts'
import { errorOfStatus } from './connect-status.ts'
import { keepAlive } from './keepalive.ts'
import { connectionWindowBytes } from './settings.ts'
import type { SessionTimeouts } from './settings.ts'
import { resetStream, TunnelStream } from './tunnel-stream.ts'
import { unread } from './unread.ts'

const { NGHTTP2_CANCEL, NGHTTP2_REFUSED_STREAM, NGHTTP2_STREAM_STATE_IDLE } = http2.constants

/** `draining`: what runs goes on, nothing new. */
export type SessionState =
  | { readonly t: 'ready' }
  | { readonly t: 'draining'; readonly because: string }
  | { readonly t: 'closed'; readonly because: string }

export interface OpenedStream {
  readonly t: 'opened'
  readonly stream: TunnelStream
  readonly responseHeaders: IncomingHttpHeaders
}

/** The peer provably did not look at the request, so it may be sent again elsewhere. */
export interface UnsentStream {
  readonly t: 'unsent'
  readonly because: 'refusedStream' | 'goaway' | 'closedBefore'
}

export interface StreamRequest {
  readonly authority: Authority
  readonly headers: ConnectHeaders
  readonly timeoutMs: number
  readonly signal?: AbortSignal
}

export interface SessionFacts {
  readonly peerIdentity: Identity
  readonly peerChain: readonly Uint8Array[]
  readonly certified: CertifiedKey
  /** The TCP connection below: for its addresses and statistics only. */
  readonly socket: Socket
  /** What we allow ourselves; the peer's SETTINGS may allow less. */
  readonly maxStreams: number
}

export class ClientSession {
  readonly facts: SessionFacts
  /** When the last stream ended, or the session was made. Monotonic milliseconds. */
  idleSinceMs: number
  /** Called at each change of state and each end of a stream. */
  onChange: (session: ClientSession) => void = () => {}
  readonly #session: ClientHttp2Session
  readonly #end: ConnectionEnd
  readonly #clock: Clock
  readonly #stopPings: () => void
  readonly #watchUnread: (stream: ClientHttp2Stream) => void
  readonly #unanswered = new Set<ClientHttp2Stream>()
  readonly #neverSent = new WeakSet<ClientHttp2Stream>()
  #state: SessionState = { t: 'ready' }
  #streams = 0
  #lastGoodStream = Number.POSITIVE_INFINITY

  constructor(session: ClientHttp2Session, tls: TLSSocket, facts: SessionFacts, clock: Clock, timeouts: SessionTimeouts) {
    this.#session = session
    this.facts = facts
    this.#clock = clock
    this.idleSinceMs = clock.monotonicMs()
    this.#end = new ConnectionEnd(session, tls, clock, () => this.destroy('peerClosed'))
    session.setLocalWindowSize(connectionWindowBytes)
    this.#watchUnread = unread.watch(session, clock)
    session.on('goaway', (code: number, lastStreamId: number) => {
      this.#lastGoodStream = lastStreamId
      this.#giveBackUnsent()
      this.#setState({ t: 'draining', because: code === 0 ? 'goaway' : `goaway:${code}` })
    })
    session.on('error', () => {
      // 'close' follows; what it means for a stream, the stream says.
    })
    session.on('close', () => this.#onClose('peerClosed'))
    tls.on('close', () => this.#onClose('peerClosed'))
    // Nobody may open streams to us.
    session.on('stream', (stream) => stream.close(NGHTTP2_REFUSED_STREAM))
    this.#stopPings = keepAlive(session, clock, timeouts, () => this.destroy('pingTimeout'))
  }

  get state(): SessionState {
    return this.#state
  }

  /** Streams under way, with those that wait for their answer. */
  get streams(): number {
    return this.#streams
  }

  /** Streams that may be opened now; 0 unless ready. */
  get room(): number {
    if (this.#state.t !== 'ready' || this.#session.closed || this.#session.destroyed) return 0
    const allowed = this.#session.remoteSettings.maxConcurrentStreams ?? Number.POSITIVE_INFINITY
    return Math.max(0, Math.min(this.facts.maxStreams, allowed) - this.#streams)
  }

  /**
   * Sends a CONNECT and waits for the answer. Rejects with the error that the status means, with CONNECT_TIMEOUT, with CLOSED
   * where `signal` aborted, or with TUNNEL_CLOSED where the connection went away with the peer perhaps having acted.
   */
  openStream(request: StreamRequest): Promise<OpenedStream | UnsentStream> {
    if (this.room === 0) return Promise.resolve({ t: 'unsent', because: 'closedBefore' })
    this.#streams++
    const stream = this.#session.request(writeConnectHeaders(request.authority, request.headers), { endStream: false })
    this.#watchUnread(stream)
    stream.once('close', () => {
      this.#streams--
      this.idleSinceMs = this.#clock.monotonicMs()
      if (this.#streams === 0 && this.#state.t === 'draining') this.#end.letGo()
      this.onChange(this)
    })
    return this.#answerOf(stream, request)
  }

  #answerOf(stream: ClientHttp2Stream, { timeoutMs, signal }: StreamRequest): Promise<OpenedStream | UnsentStream> {
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        cancelTimer()
        this.#unanswered.delete(stream)
        signal?.removeEventListener('abort', onAbort)
        stream.off('response', onResponse).off('close', onClose)
      }
      const giveUp = (error: MeshError): void => {
        settle()
        resetStream(stream, NGHTTP2_CANCEL)
        reject(error)
      }
      const onAbort = (): void => giveUp(new MeshError('CLOSED', 'the connection was given up while its tunnel was being opened'))
      const onResponse = (headers: IncomingHttpHeaders & { ':status'?: number }): void => {
        const status = headers[':status'] ?? 0
        if (status < 200 || status > 299) {
          giveUp(errorOfStatus(status))
          return
        }
        settle()
        resolve({ t: 'opened', stream: this.#end.hold(new TunnelStream(stream)), responseHeaders: headers })
      }
      const onClose = (): void => {
        settle()
        const unsent = this.#whyUnsent(stream)
        if (unsent) resolve({ t: 'unsent', because: unsent })
        else reject(new MeshError('TUNNEL_CLOSED', 'the peer closed the tunnel before it answered', {
          source: 'upstream', detail: { rstCode: stream.rstCode },
        }))
      }
      const cancelTimer = this.#clock.after(timeoutMs, () => giveUp(
        new MeshError('CONNECT_TIMEOUT', `no answer to the CONNECT within ${timeoutMs} ms`, { source: 'upstream' }),
      ))
      stream.on('error', () => {
        // 'close' follows and tells.
      })
      this.#unanswered.add(stream)
      stream.on('response', onResponse).on('close', onClose)
      signal?.addEventListener('abort', onAbort, { once: true })
      if (signal?.aborted) onAbort()
    })
  }

  /**
   * After a GOAWAY nghttp2 sends no more requests and, of those that waited for their turn, tells nobody: they would hang. It does
   * not know them as streams yet, so they are idle.
   */
  #giveBackUnsent(): void {
    for (const stream of this.#unanswered) {
      const isIdle = stream.state.state === NGHTTP2_STREAM_STATE_IDLE
      if (isIdle || (stream.id !== undefined && stream.id > this.#lastGoodStream)) stream.destroy()
      if (isIdle) this.#neverSent.add(stream)
    }
  }

  /** Only what RFC 9113 (6.8, 8.7) guarantees counts: anything else the peer may have acted upon. */
  #whyUnsent(stream: ClientHttp2Stream): UnsentStream['because'] | undefined {
    if (stream.id === undefined || stream.pending || this.#neverSent.has(stream)) return 'closedBefore'
    if (stream.id > this.#lastGoodStream) return 'goaway'
    return stream.rstCode === NGHTTP2_REFUSED_STREAM ? 'refusedStream' : undefined
  }

  /** No new streams; closes when the last one ended. */
  drain(because: string): void {
    if (this.#state.t !== 'ready') return
    this.#setState({ t: 'draining', because })
    this.#session.close()
    if (this.#streams === 0) this.#end.letGo()
  }

  /** Cuts every stream. */
  destroy(because: string): void {
    if (this.#state.t === 'closed') return
    this.#onClose(because)
    this.#session.destroy(new MeshError('TUNNEL_CLOSED', because), NGHTTP2_CANCEL)
    this.#end.letGo(true)
  }

  #onClose(because: string): void {
    if (this.#state.t === 'closed') return
    this.#stopPings()
    this.#setState({ t: 'closed', because: this.#state.t === 'draining' ? this.#state.because : because })
  }

  #setState(state: SessionState): void {
    this.#state = state
    this.onChange(this)
  }
}
