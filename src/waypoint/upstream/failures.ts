// What a try that brought no answer means: for a retry, and for the client. One table for all.
import type { AttemptOutcome } from '../../policy/l7/retry-decision.ts'
import type { Failure } from '../http/forward.ts'
import type { ExchangeReason } from '../record.ts'
import type { NoFacts } from './endpoint-facts.ts'

/** Nothing about the endpoint: another would not do better, and it is not to blame. */
function isOurs(failure: Failure): boolean {
  const { code } = failure.error
  return failure.kind === 'connectFailure' && ['POLICY_DENIED', 'CERTIFICATE_UNAVAILABLE', 'OVERLOADED'].includes(code)
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

function later(reason: ExchangeReason, detail: string | undefined, message: string): Refusal {
  return { status: 503, reason, detail, message, retryAfterSeconds: 1 }
}

/** Of a request that waited in vain. */
export function refusedWait(
  because: 'full' | 'tooLong' | 'deadline',
  { none, hasUsable }: { readonly none: NoFacts | undefined; readonly hasUsable: boolean },
): Refusal {
  if (because === 'deadline') {
    return { status: 504, reason: 'requestTimeout', detail: 'waiting', message: 'the time for the request is over' }
  }
  if (because === 'full') return later('breakerOpen', 'pending', 'too many requests wait')
  if (hasUsable) return later('overloaded', 'connections', 'no connection came free in time')
  if (none) return later('noBackend', none, texts[none])
  return later('noHealthyBackend', undefined, 'no endpoint may be used now')
}
