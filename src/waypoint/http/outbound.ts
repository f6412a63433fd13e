// What an attempt at a backend is asked and how it can end, in the words that a retry decision needs, for both versions of HTTP.
import type { Duplex, Readable } from 'node:stream'
import type { Clock } from '../../core/clock.ts'
import { MeshError } from '../../core/errors.ts'
import type { HeaderMap } from '../../policy/l7/request-head.ts'
import type { Trailers } from './message.ts'

export interface UpstreamOptions {
  readonly protocol: 'http1' | 'http2'
  readonly clock: Clock
  /** A stream on which nothing was sent yet. Rejects with a MeshError; its signal is aborted after `connectTimeoutMs` and at the end of the upstream. */
  readonly connect: (signal: AbortSignal) => Promise<Duplex>
  readonly connectTimeoutMs: number
  /** A connection without a request is given up after that. */
  readonly idleTimeoutMs: number
  readonly maxConnections: number
  /** A connection carries so many and is then left. 0 sets no limit. */
  readonly requestsPerConnection?: number
}

export interface OutboundRequest {
  readonly method: string
  readonly scheme: 'http' | 'https'
  readonly authority: string
  /** Path and query, as they are sent. */
  readonly target: string
  /** Without hop-by-hop headers; not changed. */
  readonly headers: HeaderMap
  readonly body?: Readable
  readonly contentLength?: number
  /** Sent on over HTTP/2; undici cannot send any, and over HTTP/1.1 they may be left out (RFC 9110, 6.5.1). */
  readonly trailers?: Trailers
  readonly acceptsTrailers?: boolean
  readonly upgrade?: string
  /** Aborted: the attempt is cancelled, with its answer's body, too. */
  readonly signal?: AbortSignal
  /** From now to the head of the answer. */
  readonly headTimeoutMs?: number
  /** Between two pieces of the answer's body that somebody waits for. */
  readonly idleTimeoutMs?: number
  readonly onInformation?: (status: number, headers: HeaderMap) => void
}

export type FailureKind =
  /** No connection, so nothing was sent. */
  | 'connectFailure'
  /** A connection, and the backend says, or it is sure, that the request was not looked at. */
  | 'refusedStream'
  /** It may have been acted upon. */
  | 'reset'
  | 'timeout'
  /** `signal`. */
  | 'cancelled'
  /** The request cannot be said in the backend's protocol. */
  | 'unsendable'
  /** What came is not HTTP as it should be. */
  | 'badAnswer'

export interface Failure {
  readonly t: 'failure'
  readonly kind: FailureKind
  /** Code of a RST_STREAM. */
  readonly rstCode?: number
  readonly error: MeshError
}

export type Outcome =
  | {
    readonly t: 'response'
    readonly status: number
    readonly headers: HeaderMap
    /** Absent where the head was all. Destroying it cancels. Fails with MeshError UPSTREAM_RESET (`detail.rstCode`) or UPSTREAM_TIMEOUT. */
    readonly body?: Readable
    readonly trailers: Trailers
  }
  | { readonly t: 'upgraded'; readonly headers: HeaderMap; readonly stream: Duplex }
  | Failure

export interface Upstream {
  /** Resolves when the head of an answer is there, or none will come. Never rejects. The request's body is destroyed if it is not sent whole. */
  send(request: OutboundRequest): Promise<Outcome>
  readonly stats: { readonly connections: number; readonly active: number; readonly pending: number }
  /** Takes no more; resolves when what is under way has ended. */
  close(): Promise<void>
  destroy(): void
}

export function failure(kind: FailureKind, cause: unknown, rstCode?: number): Failure {
  const detail = { failure: kind, ...(rstCode !== undefined && { rstCode }) }
  const code = kind === 'timeout' ? 'UPSTREAM_TIMEOUT' : kind === 'cancelled' || kind === 'unsendable' ? 'REQUEST_CUT' : 'UPSTREAM_RESET'
  const error = cause instanceof MeshError && (kind === 'connectFailure' || kind === 'cancelled')
    ? cause
    : new MeshError(code, `the attempt failed: ${kind}`, { source: code === 'REQUEST_CUT' ? 'downstream' : 'upstream', detail, cause })
  return { t: 'failure', kind, error, ...(rstCode !== undefined && { rstCode }) }
}

/** What a body fails with after the head. */
export function cutAnswer(cause: unknown, rstCode?: number): MeshError {
  return new MeshError('UPSTREAM_RESET', 'the backend cut its answer off', {
    source: 'upstream', detail: { failure: 'resetAfterHeaders', ...(rstCode !== undefined && { rstCode }) }, cause,
  })
}

export function idleAnswer(): MeshError {
  return new MeshError('UPSTREAM_TIMEOUT', 'the backend stopped in the middle of its answer', { source: 'upstream', detail: { failure: 'idle' } })
}

/** connect() with its time limit. A stream that comes too late is destroyed. */
export async function connectWithin({ clock, connect, connectTimeoutMs }: UpstreamOptions, ended: AbortSignal): Promise<Duplex> {
  const abort = new AbortController()
  const late = new MeshError('CONNECT_TIMEOUT', 'no connection to the backend in time', { source: 'upstream' })
  let isOver = false
  const given = Promise.withResolvers<never>()
  const giveUp = (error: MeshError): void => {
    isOver = true
    abort.abort(error)
    given.reject(error)
  }
  const callOff = clock.after(connectTimeoutMs, () => giveUp(late))
  const onEnded = (): void => giveUp(new MeshError('CLOSED', 'the upstream was closed'))
  ended.addEventListener('abort', onEnded, { once: true })
  try {
    if (ended.aborted) onEnded()
    const made = connect(abort.signal)
    made.then((stream) => isOver && stream.on('error', () => {}).destroy(), () => {
      // Told by the race below, or too late to matter.
    })
    return await Promise.race([made, given.promise])
  } finally {
    callOff()
    ended.removeEventListener('abort', onEnded)
  }
}
