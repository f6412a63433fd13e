// Which tier of places gets a request: the nearest while enough of it is healthy, and as it loses endpoints more and more of
// its share goes to the next (Envoy's priorities with an overprovisioning factor of 1.4, so the first loses before the rest of
// it is overloaded, not after).

export interface Place {
  readonly region: string
  readonly zone: string
  readonly subzone: string
}

export interface TierHealth {
  readonly healthy: number
  readonly total: number
}

/** 0 the same subzone, 1 the same zone, 2 the same region, 3 elsewhere. What is not known is not the same. */
export function distance(caller: Place, other: Place): 0 | 1 | 2 | 3 {
  if (caller.region === '' || caller.region !== other.region) return 3
  if (caller.zone === '' || caller.zone !== other.zone) return 2
  return caller.subzone !== '' && caller.subzone === other.subzone ? 0 : 1
}

const overprovisioning = 1.4

/** Shares of the tiers, nearest first; their sum is 1, or 0 if there are no endpoints at all. */
export function tierShares(tiers: readonly TierHealth[]): number[] {
  const capacities = tiers.map(({ healthy, total }) => (total > 0 ? Math.min(1, (healthy / total) * overprovisioning) : 0))
  const sum = capacities.reduce((a, b) => a + b, 0)
  // Nothing is healthy: all are used, the nearest as if it were.
  if (sum === 0) {
    const first = tiers.findIndex(({ total }) => total > 0)
    return tiers.map((_, i) => (i === first ? 1 : 0))
  }
  let left = 1
  return capacities.map((capacity) => {
    const share = Math.min(left, capacity / Math.min(1, sum))
    left -= share
    return share
  })
}

/** Position of the tier; -1 without any. `random` is 0 <= x < 1. */
export function chooseTier(shares: readonly number[], random: number): number {
  let at = random
  let last = -1
  for (const [i, share] of shares.entries()) {
    if (share <= 0) continue
    last = i
    at -= share
    if (at < 0) return i
  }
  return last
}
