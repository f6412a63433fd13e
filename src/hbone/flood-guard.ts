// Notices a peer that makes us work without wanting anything: PING and SETTINGS floods (CVE-2019-9512, -9515) and streams that
// are opened and reset before they are answered (rapid reset, CVE-2023-44487). Only counts; who uses it ends the session.
import type { Clock } from '../core/clock.ts'

export type Flood = 'pingFlood' | 'settingsFlood' | 'rapidReset'

/** So many at once, and so many per second for ever. */
const allowed: Readonly<Record<Flood, { readonly burst: number; readonly perSecond: number }>> = {
  // Peers that measure their bandwidth ping with each round trip.
  pingFlood: { burst: 1_000, perSecond: 100 },
  settingsFlood: { burst: 32, perSecond: 1 },
  // Every stream of a full connection may be given up by its application twice in a burst.
  rapidReset: { burst: 400, perSecond: 50 },
}

export class FloodGuard {
  readonly #clock: Clock
  readonly #buckets = new Map<Flood, { tokens: number; atMs: number }>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Counts one; false where it is one too many. */
  allows(kind: Flood): boolean {
    const { burst, perSecond } = allowed[kind]
    const nowMs = this.#clock.monotonicMs()
    const bucket = this.#buckets.get(kind) ?? { tokens: burst, atMs: nowMs }
    this.#buckets.set(kind, bucket)
    bucket.tokens = Math.min(burst, bucket.tokens + ((nowMs - bucket.atMs) / 1_000) * perSecond)
    bucket.atMs = nowMs
    bucket.tokens--
    return bucket.tokens >= 0
  }
}
