// How long to wait before a failed thing is started again: doubling, bounded, and forgotten after it ran well.

export interface Backoff {
  /** Milliseconds until the next start, given how long the last run lasted. */
  next(ranMs: number): number
}

/** Doubles from `firstMs` to `maxMs`; a run of `healthyMs` starts the count again. */
export function backoff(firstMs: number, maxMs: number, healthyMs: number): Backoff {
  let waitMs = 0
  return {
    next(ranMs) {
      waitMs = waitMs === 0 || ranMs >= healthyMs ? firstMs : Math.min(maxMs, waitMs * 2)
      return waitMs
    },
  }
}
