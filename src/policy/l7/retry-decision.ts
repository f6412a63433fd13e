// Whether a failed attempt is sent again. A rule may ask for retries; what is safe is decided here and a rule cannot change it:
//
// - Nothing is retried once the client has seen a byte of the answer, or when the body cannot be sent again.
// - What no server acted upon (no connection, REFUSED_STREAM, GOAWAY before it) may be retried whatever the method is.
// - What may have been acted upon only where doing it twice is doing it once: idempotent methods (RFC 9110, 9.2.2), a request
//   with an Idempotency-Key, or gRPC where the rule names `retriableGrpc` and the server says the status in place of an answer.
// - A server that says when to come back (Retry-After, grpc-retry-pushback-ms) is obeyed, or not asked again.
// - Never past the deadline, the number of attempts, the breaker or the budget. The budget is asked last: it counts what it
//   gives.
import type { Retry } from '../../model/route.ts'
import { backoffMs } from './backoff.ts'
import { grpcStatus } from './grpc.ts'

/** How an attempt ended. */
export type AttemptOutcome =
  | { readonly t: 'connectFailure' }
  /** HTTP/2 REFUSED_STREAM, a GOAWAY that excludes the stream, a pooled HTTP/1.1 connection closed before a byte was written. */
  | { readonly t: 'refusedStream' }
  | { readonly t: 'reset' }
  | { readonly t: 'perTryTimeout' }
  | {
    readonly t: 'response'
    readonly status: number
    readonly grpcStatus?: number
    readonly retryAfterMs?: number
    readonly pushback?: number | 'stop'
  }

export interface RetryQuestion {
  readonly outcome: AttemptOutcome
  readonly method: string
  readonly isGrpc: boolean
  readonly hasIdempotencyKey: boolean
  /** Whether the body can be sent once more: there is none, it was kept whole, or none of it was sent. */
  readonly isBodyReplayable: boolean
  /** Whether any of the answer went to the client. */
  readonly isAnswerStarted: boolean
  /** Attempts made so far, the first included. */
  readonly attempts: number
  /** Until the whole request times out; undefined without a timeout. */
  readonly leftMs?: number
}

export type NoRetryBecause =
  | 'succeeded' | 'notAsked' | 'answerStarted' | 'bodyGone' | 'notIdempotent' | 'attemptsUsed' | 'serverSaysNo' | 'deadline'
    | 'breaker' | 'budget'

export type RetryDecision =
  | { readonly t: 'retry'; readonly waitMs: number }
  | { readonly t: 'stop'; readonly because: NoRetryBecause }

export interface RetrySources {
  readonly random: () => number
  /** Whether another retry may be under way; the caller takes the place when the answer is to retry. */
  readonly breaker?: () => boolean
  /** Takes one from the budget. */
  readonly budget?: () => boolean
}

const idempotent = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE', 'PUT', 'DELETE', 'QUERY', 'PROPFIND'])
const retriableGrpc = new Set<number>([grpcStatus.cancelled, grpcStatus.resourceExhausted, grpcStatus.unavailable])

/** Bodies up to this are kept to be sent again (Linkerd's figure). */
export const largestReplayBytes = 65_536
/** A server may ask for a longer wait than is worth holding a client for. */
const longestWaitMs = 30_000
const longestBackoffMs = 10_000

export function decideRetry(rule: Retry | undefined, question: RetryQuestion,
  { random, breaker, budget }: RetrySources): RetryDecision {
  const { outcome, attempts, leftMs } = question
  if (!rule) return stop('notAsked')
  const asked = isAsked(rule, outcome, question.isGrpc)
  if (asked !== true) return stop(asked)
  if (question.isAnswerStarted) return stop('answerStarted')
  if (!question.isBodyReplayable) return stop('bodyGone')
  if (!isSafe(rule, question)) return stop('notIdempotent')
  // `attempts` of a rule are retries, as in VirtualService and Gateway API.
  if (attempts > rule.attempts) return stop('attemptsUsed')
  const told = outcome.t === 'response' ? (outcome.pushback ?? outcome.retryAfterMs) : undefined
  if (told === 'stop' || (told !== undefined && told > longestWaitMs)) return stop('serverSaysNo')
  const waitMs = told ?? backoffMs({ baseMs: rule.backoffMs, maxMs: Math.max(rule.backoffMs, longestBackoffMs) }, attempts,
    random())
  if (leftMs !== undefined && waitMs >= leftMs) return stop('deadline')
  if (breaker && !breaker()) return stop('breaker')
  if (budget && !budget()) return stop('budget')
  return { t: 'retry', waitMs }
}

const stop = (because: NoRetryBecause): RetryDecision => ({ t: 'stop', because })

function isAsked({ on, statuses }: Retry, outcome: AttemptOutcome, isGrpc: boolean): true | 'succeeded' | 'notAsked' {
  switch (outcome.t) {
    case 'connectFailure':
    case 'refusedStream':
      return on.includes(outcome.t) || on.includes('reset') || on.includes('gatewayError')
        || on.includes('5xx') ? true : 'notAsked'
    case 'reset':
    case 'perTryTimeout':
      return on.includes('reset') || on.includes('gatewayError') || on.includes('5xx') ? true : 'notAsked'
    case 'response': {
      const { status, grpcStatus: code } = outcome
      if (isGrpc && status === 200) {
        if (code === undefined || code === grpcStatus.ok) return 'succeeded'
        return on.includes('retriableGrpc') && retriableGrpc.has(code) ? true : 'notAsked'
      }
      if (statuses.includes(status)) return true
      if (status < 500) return status < 400 ? 'succeeded' : 'notAsked'
      if (on.includes('5xx')) return true
      return on.includes('gatewayError') && status >= 502 && status <= 504 ? true : 'notAsked'
    }
  }
}

function isSafe(rule: Retry, { outcome, method, isGrpc, hasIdempotencyKey }: RetryQuestion): boolean {
  if (outcome.t === 'connectFailure' || outcome.t === 'refusedStream') return true
  if (idempotent.has(method) || hasIdempotencyKey) return true
  return isGrpc && outcome.t === 'response' && rule.on.includes('retriableGrpc')
}

/** Milliseconds of Retry-After: seconds or an HTTP date (RFC 9110, 10.2.3); undefined if it is neither. */
export function parseRetryAfter(value: string | undefined, nowMs: number): number | undefined {
  if (value === undefined || value.length > 64) return undefined
  if (/^\d{1,10}$/.test(value)) return Number(value) * 1000
  const date = /^[A-Z][a-z]{2,8}, \d/.test(value) ? Date.parse(value) : Number.NaN
  return Number.isNaN(date) ? undefined : Math.max(0, date - nowMs)
}
