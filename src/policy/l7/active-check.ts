// Whether an endpoint is healthy, from the results of probes: so many good or bad ones in a row change it. The first result
// decides at once (Envoy does the same), so that neither a new endpoint waits for a row of probes nor a dead one gets its first
// requests.
import type { TrafficPolicy } from '../../model/route.ts'

export type ActiveCheckRule = Pick<NonNullable<TrafficPolicy['activeCheck']>, 'healthyAfter' | 'unhealthyAfter' | 'intervalMs'
  | 'expectedStatuses'>

export type CheckState =
  | { readonly t: 'unknown' }
  | { readonly t: 'healthy'; readonly badInRow: number }
  | { readonly t: 'unhealthy'; readonly goodInRow: number }

export const unknownHealth: CheckState = Object.freeze({ t: 'unknown' })

/** The state after one more probe. */
export function afterProbe(state: CheckState, isGood: boolean, { healthyAfter, unhealthyAfter }: ActiveCheckRule): CheckState {
  switch (state.t) {
    case 'unknown':
      return isGood ? { t: 'healthy', badInRow: 0 } : { t: 'unhealthy', goodInRow: 0 }
    case 'healthy': {
      if (isGood) return state.badInRow === 0 ? state : { t: 'healthy', badInRow: 0 }
      const badInRow = state.badInRow + 1
      return badInRow >= Math.max(1, unhealthyAfter) ? { t: 'unhealthy', goodInRow: 0 } : { t: 'healthy', badInRow }
    }
    case 'unhealthy': {
      if (!isGood) return state.goodInRow === 0 ? state : { t: 'unhealthy', goodInRow: 0 }
      const goodInRow = state.goodInRow + 1
      return goodInRow >= Math.max(1, healthyAfter) ? { t: 'healthy', badInRow: 0 } : { t: 'unhealthy', goodInRow }
    }
  }
}

/** Whether requests may go there: what was never probed may, or a service would begin with nobody. */
export function isUsable(state: CheckState): boolean {
  return state.t !== 'unhealthy'
}

export function isExpectedStatus(status: number, { expectedStatuses }: ActiveCheckRule): boolean {
  return expectedStatuses.length === 0 ? status >= 200 && status < 300 : expectedStatuses.includes(status)
}

/** Up to a tenth more or less, so that many proxies do not probe in step. `random` is 0 <= x < 1. */
export function nextProbeMs({ intervalMs }: ActiveCheckRule, random: number): number {
  return intervalMs * (0.9 + 0.2 * random)
}
