// What is known of an exchange when it has ended: the one set of facts that log line, metrics and spans are made of.
import type { Identity } from '../../core/identity.ts'
import type { HeaderValues } from '../../policy/l7/request-head.ts'
import type { ConnectionContext } from '../context.ts'
import type { Request } from '../http/message.ts'
import type { ExchangeReason } from '../record.ts'
import type { Destination, Source } from './request-labels.ts'

export interface PolicyHit {
  readonly policy: string
  readonly rule: number
  readonly as: 'audit' | 'dryRun'
}

export interface Finished {
  readonly context: ConnectionContext
  /** Undefined for a connection that was carried as it is. */
  readonly request: Request<ConnectionContext> | undefined
  readonly source: Source
  readonly destination: Destination
  readonly destinationIdentity: Identity | undefined
  /** Milliseconds since 1970. */
  readonly startedAtMs: number
  readonly durationMs: number
  /** Until the head of the answer; undefined where there was none. */
  readonly headMs: number | undefined
  readonly status: number
  readonly grpcStatus: number | undefined
  readonly answerHeaders: HeaderValues | undefined
  readonly requestBytes: number
  readonly responseBytes: number
  readonly flags: string
  readonly reason: ExchangeReason | undefined
  readonly detail: string | undefined
  readonly isCut: boolean
  readonly attempts: number
  /** `ip:port` of the last attempt. */
  readonly upstreamAddress: string | undefined
  readonly rule: { readonly origin: string; readonly name: string } | undefined
  /** Of the trace that it belongs to, as far as anybody said. */
  readonly traceId: string | undefined
  readonly hits: readonly PolicyHit[]
}
