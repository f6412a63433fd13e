// What a try that brought no answer means: for a retry, and for the client. One table for all.
import type { AttemptOutcome } from '../../policy/l7/retry-decision.ts'
import type { Failure } from '../http/forward.ts'
import type { ExchangeReason } from '../record.ts'
import type { NoFacts } from './endpoint-facts.ts'

/** Nothing about the endpoint: another would not do better, and it is not to blame. */
function isOurs(failure: Failure): boolean {
  const { code } = failure.error
  return failure.kind === 'connectFailure' && (code === 'POLICY_DENIED' || code === 'CERTIFICATE_UNAVAILABLE' || code === 'OVERLOADED')
}

/** Undefined where another try makes no sense. */
export function outcomeOfFailure(failure: Failure): AttemptOutcome | undefined {
  if (isOurs(failure)) return undefined
  switch (failure.kind) {
    case 'connectFailure': return { t: 'connectFailure' }
    case 'refusedStream': return { t: 'refusedStream' }
    case 'reset':
    case 'badAnswer': return { t: 'reset' }
    case 'timeout': return { t: 'perTryTimeout' }
    case 'cancelled':
    case 'unsendable': return undefined
    default: return failure.kind satisfies never
  }
}

export function reasonOfFailure(failure: Failure): { readonly status: number; readonly reason: ExchangeReason } {
  switch (failure.kind) {
    case 'connectFailure': {
      const { code } = failure.error
      if (code === 'POLICY_DENIED') return { status: 403, reason: 'denied' }
      return { status: 503, reason: code === 'OVERLOADED' ? 'breakerOpen' : 'connectFailure' }
    }
    case 'refusedStream':
    case 'reset': return { status: 503, reason: 'upstreamReset' }
    case 'timeout': return { status: 504, reason: 'upstreamTimeout' }
    case 'badAnswer': return { status: 502, reason: 'badAnswer' }
    case 'unsendable': return { status: 502, reason: 'unsendable' }
    case 'cancelled': return { status: 499, reason: 'clientGone' }
    default: return failure.kind satisfies never
  }
}

export interface Refusal {
  readonly status: number
  readonly reason: ExchangeReason
  readonly detail: string | undefined
  readonly message: string
  readonly retryAfterSeconds?: number
}

const texts: Readonly<Record<NoFacts, string>> = {
  noEndpoints: 'the service has no endpoint that is ready',
  subsetBehindWaypoint: 'a subset cannot be asked for through another waypoint',
  unknownWaypoint: 'the waypoint of the service has no endpoint that is ready',
}

/** Of a request that waited in vain. */
export function refusedWait(
  because: 'full' | 'tooLong' | 'deadline', { none, hasUsable }: { readonly none: NoFacts | undefined; readonly hasUsable: boolean },
): Refusal {
  if (because === 'full') return { status: 503, reason: 'breakerOpen', detail: 'pending', message: 'too many requests wait', retryAfterSeconds: 1 }
  if (because === 'deadline') return { status: 504, reason: 'requestTimeout', detail: 'waiting', message: 'the time for the request is over' }
  if (hasUsable) return { status: 503, reason: 'overloaded', detail: 'connections', message: 'no connection came free in time', retryAfterSeconds: 1 }
  if (none) return { status: 503, reason: 'noBackend', detail: none, message: texts[none], retryAfterSeconds: 1 }
  return { status: 503, reason: 'noHealthyBackend', detail: undefined, message: 'no endpoint may be used now', retryAfterSeconds: 1 }
}
