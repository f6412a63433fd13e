// Why an exchange ended as it did, in the words of Envoy's response flags, so that dashboards and alerts made for Istio work. Our own
// words (ExchangeReason) say more and are in logs beside them.
import type { ExchangeReason } from '../record.ts'

/** Without an entry there is no flag: the answer is as it should be, or Envoy has no word for it. */
const flags: Readonly<Record<ExchangeReason, string>> = {
  noRoute: 'NR', routeBroken: 'NC', noBackend: 'NC', noHealthyBackend: 'UH', connectFailure: 'UF', upstreamReset: 'UC', upstreamTimeout: 'UT',
  requestTimeout: 'UT', badAnswer: 'UPE', unsendable: 'DPE', overloaded: 'OM', breakerOpen: 'UO', rateLimited: 'RL', limitStoreAway: 'RLSE',
  faultAbort: 'FI', denied: '', deniedByProvider: 'UAEX', providerAway: 'UAEX', tokenMissing: '', tokenInvalid: '', keysAway: '', redirected: '',
  responded: '', fromCache: 'RFCF', preflight: '', clientGone: 'DC', drained: 'LR', internal: 'LR',
}

const longFlags: Readonly<Record<string, string>> = {
  NR: 'NoRouteFound', NC: 'NoClusterFound', UH: 'NoHealthyUpstream', UF: 'UpstreamConnectionFailure', UC: 'UpstreamConnectionTermination',
  UT: 'UpstreamRequestTimeout', UPE: 'UpstreamProtocolError', DPE: 'DownstreamProtocolError', OM: 'OverloadManagerTerminated', UO: 'UpstreamOverflow',
  RL: 'RateLimited', RLSE: 'RateLimitServiceError', FI: 'FaultInjected', DI: 'DelayInjected', UAEX: 'UnauthorizedExternalService',
  RFCF: 'ResponseFromCacheFilter', DC: 'DownstreamConnectionTermination', LR: 'LocalReset', URX: 'UpstreamRetryLimitExceeded',
}

/** The backend failed, or could not be reached: with more than one attempt, retries came to their end. */
const upstreamFailures: ReadonlySet<ExchangeReason> = new Set(['connectFailure', 'upstreamReset', 'upstreamTimeout', 'badAnswer', 'noHealthyBackend'])

export interface FlagFacts {
  readonly reason: ExchangeReason | undefined
  readonly isDelayed: boolean
  readonly attempts: number
  /** The client did not get its answer whole. */
  readonly isCut: boolean
}

/** Comma-separated; `-` where there is none. A small closed set, so it is a label. */
export function responseFlags({ reason, isDelayed, attempts, isCut }: FlagFacts): string {
  let text = reason === undefined ? '' : flags[reason]
  if (reason !== undefined && attempts > 1 && upstreamFailures.has(reason)) text += ',URX'
  if (isDelayed) text += text === '' ? 'DI' : ',DI'
  if (reason === undefined && text === '' && isCut) text = 'DC'
  return text === '' ? '-' : text
}

/** `-` for none. */
export function longResponseFlags(text: string): string {
  return text === '-' ? text : text.split(',').map((flag) => longFlags[flag] ?? flag).join(',')
}
