// What a request and an answer are to everything between the two sides of the waypoint, whichever version of HTTP carries them.
// Hop-by-hop headers are in neither: each side makes its own.
import type { Duplex, Readable } from 'node:stream'
import type { HeaderMap, RequestHead } from '../../policy/l7/request-head.ts'

export type Trailers = () => HeaderMap | undefined

export interface MessageHead extends RequestHead {
  readonly headers: HeaderMap
}

export interface Request<Connection = unknown> {
  readonly head: MessageHead
  /** Paused until read; nothing is sent to a client that waits for 100 (Continue) before somebody reads. Destroying it discards the rest. */
  readonly body: Readable
  readonly hasBody: boolean
  /** Bytes, where the client said so. */
  readonly contentLength?: number
  /** Of the client; once the body has ended. */
  readonly trailers: Trailers
  readonly acceptsTrailers: boolean
  readonly protocol: 'http1' | 'http2'
  readonly isGrpc: boolean
  /** `websocket`: the method is GET then, over HTTP/2 (RFC 8441), too. */
  readonly upgrade?: string
  /** Aborted when the client is gone before its answer was sent whole; the reason is a MeshError REQUEST_CUT. */
  readonly signal: AbortSignal
  /** What the caller gave with the connection: who the peer is. */
  readonly connection: Connection
  /** An answer before the answer: 103 and other 1xx, not 100 and 101. No-op after the answer. */
  inform(status: number, headers: HeaderMap): void
}

export type Response =
  | {
    readonly t: 'response'
    readonly status: number
    readonly headers: HeaderMap
    /** Without one the answer has no body. A stream that fails cuts the answer off, so that no client takes a part for the whole. */
    readonly body?: Readable | string | Uint8Array
    /** Asked once the body has ended. */
    readonly trailers?: Trailers
  }
  /** Only to a request with `upgrade`: `carry` gets the client's stream right after the answer was sent. */
  | { readonly t: 'upgrade'; readonly headers: HeaderMap; readonly carry: (stream: Duplex) => void }

/** A rejection is answered with 500, or 502 if it is a MeshError of the upstream. */
export type Handler<Connection = unknown> = (request: Request<Connection>) => Promise<Response>

/** Why a request was answered without asking the handler: a closed set, for metrics and logs. */
export type RefusalReason =
  | 'badRequest' | 'badMethod' | 'badTarget' | 'badPath' | 'badHost' | 'badHeader' | 'badFraming' | 'badConnectionOption' | 'badUpgrade'
  | 'unknownCoding' | 'unknownExpectation' | 'longUri' | 'largeHead' | 'slowHead' | 'slowBody' | 'pipelineTooDeep' | 'badChunk'

export interface Refusal {
  readonly status: number
  readonly because: RefusalReason
}

export interface HttpLimits {
  /** Request target. */
  readonly uriBytes: number
  /** All names and values. */
  readonly headBytes: number
  readonly headerCount: number
  /** From the first byte of a head, or the connection's begin, to its end. */
  readonly headMs: number
  /** Between two pieces of a body that somebody waits for. */
  readonly bodyIdleMs: number
  /** A connection without a request. */
  readonly idleMs: number
  /** Requests at once on one HTTP/2 connection. */
  readonly streams: number
  /** Requests that one HTTP/1.1 connection may have sent ahead. */
  readonly pipelined: number
  /** What is read and thrown away of a body that nobody wants, so that the connection can be used again. */
  readonly discardBytes: number
}

export const defaultLimits: HttpLimits = {
  uriBytes: 16_384, headBytes: 65_536, headerCount: 200, headMs: 15_000, bodyIdleMs: 60_000, idleMs: 300_000, streams: 256, pipelined: 32,
  discardBytes: 1_048_576,
}
