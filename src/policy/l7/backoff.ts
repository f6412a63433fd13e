// How long to wait before a request is sent again: doubling with full jitter, so that callers that failed together do not come
// back together.

export interface BackoffRule {
  readonly baseMs: number
  /** No wait is longer. */
  readonly maxMs: number
}

/** `retry` is 1 for the first; `random` is 0 <= x < 1. Between 0 and `base * 2^(retry - 1)`, as Envoy does it. */
export function backoffMs({ baseMs, maxMs }: BackoffRule, retry: number, random: number): number {
  const ceiling = Math.min(maxMs, baseMs * 2 ** Math.min(30, Math.max(0, retry - 1)))
  return Math.floor(Math.max(0, ceiling) * random)
}
