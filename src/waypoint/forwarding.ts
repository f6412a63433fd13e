// The seam between deciding about a request and sending it: what the phases ask of the upstream side. Interface only: upstream/
// implements it with endpoints, balancing, breakers, retries and pools.
import type { Duplex, Readable } from 'node:stream'
import type { Backend, HttpRule, TrafficPolicy } from '../model/route.ts'
import type { Service, Workload } from '../model/workload.ts'
import type { HeaderMap, RequestHead } from '../policy/l7/request-head.ts'
import type { ConnectionContext } from './context.ts'
import type { Request, Trailers } from './http/message.ts'
import type { ExchangeReason, ExchangeRecord } from './record.ts'

/** Where a request goes. An endpoint is chosen among a service's; a workload is one. */
export type BackendTarget =
  | { readonly t: 'service'; readonly service: Service; readonly port: number; readonly subset?: string }
  | { readonly t: 'workload'; readonly workload: Workload; readonly port: number }

/** A request as it is to be sent: rewritten, and with the headers that we set. */
export interface OutgoingHead {
  readonly method: string
  readonly scheme: 'http' | 'https'
  readonly authority: string
  readonly target: string
  readonly headers: HeaderMap
}

export interface ForwardPlan {
  /** For its body, trailers, signal and connection. */
  readonly request: Request<ConnectionContext>
  readonly head: OutgoingHead
  readonly to: BackendTarget
  /** Retries, timeouts and session persistence; undefined for what no rule decided. */
  readonly rule: HttpRule | undefined
  readonly record: ExchangeRecord
}

export type ForwardOutcome =
  | { readonly t: 'response'; readonly status: number; readonly headers: HeaderMap; readonly body?: Readable; readonly trailers: Trailers }
  | { readonly t: 'upgraded'; readonly headers: HeaderMap; readonly stream: Duplex }
  /** Nothing came that could be given to the client. The record knows the reason already. */
  | { readonly t: 'failed'; readonly status: number; readonly because: ExchangeReason; readonly retryAfterSeconds?: number; readonly message: string }

export interface Forwarder {
  /** Never rejects. Session cookies are in the answer's headers. */
  forward(plan: ForwardPlan): Promise<ForwardOutcome>
  /** Which of a rule's backends a client's session belongs to: it goes before their weights. Undefined without a session that holds. */
  sessionBackend?(rule: HttpRule, head: RequestHead): Backend | undefined
  /** A copy whose answer nobody wants; never fails anything. `body` is what may be sent of it. */
  mirror(plan: Omit<ForwardPlan, 'rule' | 'record'>, body: Uint8Array | undefined): void
  /** A connection for bytes that nobody looks into. Rejects with a MeshError. */
  connect(to: BackendTarget, context: ConnectionContext, record: ExchangeRecord, signal: AbortSignal): Promise<Duplex>
  /** How many requests, connections and waiting requests there are: for metrics. */
  stats(): readonly { readonly service: string; readonly port: number; readonly active: number; readonly pending: number; readonly connections: number; readonly ejected: number; readonly policy: TrafficPolicy }[]
}
