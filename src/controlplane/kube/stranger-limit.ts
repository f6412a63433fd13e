// How often one address may cost the API server a question with a token that turns out bad. Whoever has good tokens never notices.
import { systemClock, type Clock } from '../../core/clock.ts'

export interface StrangerLimits {
  /** Bad tokens at once. */
  readonly burst: number
  /** And one more after each such time. */
  readonly everyMs: number
  /** Addresses remembered; the one that was longest quiet is forgotten first. */
  readonly addresses: number
}

const defaults: StrangerLimits = { burst: 20, everyMs: 2_000, addresses: 10_000 }

export class StrangerLimit {
  readonly #limits: StrangerLimits
  readonly #clock: Clock
  /** How much of the burst is used, and when that was so. */
  readonly #used = new Map<string, { readonly count: number; readonly atMs: number }>()

  constructor(limits: Partial<StrangerLimits> = {}, clock: Clock = systemClock) {
    this.#limits = { ...defaults, ...limits }
    this.#clock = clock
  }

  /** `peer`: address and port. */
  mayAsk(peer: string): boolean {
    return this.#usedBy(hostOf(peer)) < this.#limits.burst
  }

  wasRefused(peer: string): void {
    const host = hostOf(peer)
    const count = Math.min(this.#limits.burst, this.#usedBy(host)) + 1
    this.#used.delete(host)
    this.#used.set(host, { count, atMs: this.#clock.monotonicMs() })
    for (const [oldest] of this.#used) {
      if (this.#used.size <= this.#limits.addresses) break
      this.#used.delete(oldest)
    }
  }

  #usedBy(host: string): number {
    const used = this.#used.get(host)
    return used ? Math.max(0, used.count - Math.floor((this.#clock.monotonicMs() - used.atMs) / this.#limits.everyMs)) : 0
  }
}

function hostOf(peer: string): string {
  return peer.replace(/:\d+$/, '')
}
