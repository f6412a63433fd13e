// What becomes known of one exchange (a request and its answer, or a connection that is carried as it is), told once by whoever
// knows it; telemetry makes metrics, a log line and a span of it when it ends. Interface only: telemetry/ implements it.
import type { Service, Workload } from '../model/workload.ts'
import type { HeaderMap } from '../policy/l7/request-head.ts'
import type { ConnectionContext } from './context.ts'
import type { Request } from './http/message.ts'

/** Why an exchange ended as it did, where we answered ourselves or the backend failed: a closed set, for logs, metrics and spans. */
export type ExchangeReason =
  | 'noRoute' | 'routeBroken' | 'noBackend' | 'noHealthyBackend' | 'connectFailure' | 'upstreamReset' | 'upstreamTimeout' | 'requestTimeout'
  | 'badAnswer' | 'unsendable' | 'overloaded' | 'breakerOpen' | 'rateLimited' | 'limitStoreAway' | 'faultAbort' | 'denied' | 'deniedByProvider'
  | 'providerAway' | 'tokenMissing' | 'tokenInvalid' | 'keysAway' | 'redirected' | 'responded' | 'fromCache' | 'preflight'
  | 'clientGone' | 'drained' | 'internal'

export interface Attempt {
  readonly service: Service | undefined
  readonly workload: Workload | undefined
  /** `ip:port`. */
  readonly address: string
}

export interface ExchangeRecord {
  /** `HttpRule.origin` and `.name` of what decided. */
  routed(rule: { readonly origin: string; readonly name: string } | undefined): void
  /** The destination whose traffic it counts as: the backend's, once it is chosen. */
  backend(service: Service | undefined): void
  /** Before each try; the last one stands. */
  attempt(attempt: Attempt): void
  /** The first counts. `detail`: a policy, a rule, a limit, an error's text. */
  because(reason: ExchangeReason, detail?: string): void
  /** Headers to set on the request that goes on, in place of what it has of that name; an empty value means to remove it. Trace context. */
  traceHeaders(): readonly (readonly [name: string, value: string])[]
  /** A fault rule held the request up for so long. */
  delayed(ms: number): void
  /** Audit and dry-run hits of policies. */
  policyHit(hit: { readonly policy: string; readonly rule: number; readonly as: 'audit' | 'dryRun' }): void
}

/** How an exchange ended, as the client saw it. */
export interface ExchangeEnd {
  /** Of HTTP: 200 for gRPC, 101 for what was upgraded; 0 where the client got none, and for connections. */
  readonly status: number
  /** Where the request was gRPC and a status came, in the headers or the trailers. */
  readonly grpcStatus?: number
  /** Of bodies, upgraded streams and connections: what came from the client, and what was given to it. */
  readonly requestBytes: number
  readonly responseBytes: number
  /** Of gRPC, where somebody counted (telemetry/grpc-messages.ts). */
  readonly requestMessages?: number
  readonly responseMessages?: number
  /** The answer, or the connection, did not come to its end. */
  readonly isCut: boolean
}

/** Begun when a request's head is read or a connection carried; exactly one `finish` counts, the first. */
export interface LiveRecord extends ExchangeRecord {
  /** Of a connection or an upgraded stream, once it stands: where its bytes so far can be read, so that it counts while it lasts. */
  follow(read: () => readonly [fromClient: number, toClient: number]): void
  /** The head of the final answer, as it is given to the client. At most once, and before `finish`. */
  answered(status: number, headers: HeaderMap): void
  finish(end: ExchangeEnd): void
}

export interface RecordFactory {
  /** Of a request. */
  begin(request: Request<ConnectionContext>): LiveRecord
  /** Of a connection that is carried as it is. */
  carry(context: ConnectionContext): LiveRecord
}
