// A store that several proxies count in together. The interface only; what speaks to a server implements it. All rules of a
// request are taken at once and atomically: all or none, like the local limiter, and by the store's clock, because those of
// proxies differ.
import type { LimitState, LimitUse } from './rate-limit.ts'

export interface SharedLimitStore {
  /** States in the order of `uses`. Throws MeshError if the store does not answer in time. */
  take(uses: readonly LimitUse[], signal: AbortSignal): Promise<readonly LimitState[]>
}

/** What a request gets when the store does not answer: pass, 503, or count in this process alone. */
export type WithoutStore = 'allow' | 'refuse' | 'local'

/** The rule that decides what the client is told: the one that refuses longest, else the one with least left. */
export function decisiveState(states: readonly LimitState[]): LimitState | undefined {
  let found: LimitState | undefined
  for (const state of states) if (!found || isMoreTelling(state, found)) found = state
  return found
}

function isMoreTelling(a: LimitState, b: LimitState): boolean {
  if (a.isAllowed !== b.isAllowed) return !a.isAllowed
  return a.isAllowed ? a.remaining < b.remaining : a.retryAfterMs > b.retryAfterMs
}
