// How fast a leader may write: a bucket of tokens, and for each object that failed a pause that doubles. Nothing here waits.
import { Backoff } from '../../core/backoff.ts'
import type { Clock } from '../../core/clock.ts'

export class TokenBucket {
  readonly #clock: Clock
  readonly #perSecond: number
  readonly #burst: number
  #tokens: number
  #atMs: number

  constructor(perSecond: number, burst: number, clock: Clock) {
    this.#clock = clock
    this.#perSecond = perSecond
    this.#burst = burst
    this.#tokens = burst
    this.#atMs = clock.monotonicMs()
  }

  /** Takes one; else milliseconds until there is one. */
  take(): 0 | number {
    const now = this.#clock.monotonicMs()
    this.#tokens = Math.min(this.#burst, this.#tokens + ((now - this.#atMs) / 1000) * this.#perSecond)
    this.#atMs = now
    if (this.#tokens < 1) return Math.ceil(((1 - this.#tokens) / this.#perSecond) * 1000)
    this.#tokens -= 1
    return 0
  }
}

const firstMs = 500
const maxMs = 60_000
/** Forgotten beyond that; then somebody is tried a little too soon. */
const maxKept = 10_000

/** By name: how long to leave alone what failed. */
export class Pauses {
  readonly #clock: Clock
  readonly #failed = new Map<string, { readonly backoff: Backoff; untilMs: number }>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Milliseconds that are left; 0 for who may go on. */
  left(name: string): number {
    return Math.max(0, (this.#failed.get(name)?.untilMs ?? 0) - this.#clock.monotonicMs())
  }

  /** How long it is left alone from now on, at least half of the bound. */
  failed(name: string): number {
    if (this.#failed.size >= maxKept) this.#failed.clear()
    const entry = this.#failed.get(name) ?? { backoff: new Backoff({ firstMs, maxMs, random: () => 0.5 + Math.random() / 2 }), untilMs: 0 }
    const ms = entry.backoff.next()
    entry.untilMs = this.#clock.monotonicMs() + ms
    this.#failed.set(name, entry)
    return ms
  }

  succeeded(name: string): void {
    this.#failed.delete(name)
  }
}
