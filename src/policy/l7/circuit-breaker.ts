// Limits on what one destination carries at once: connections, requests that wait, requests under way, retries. A request over
// a limit is refused at once, because queues that grow without end turn slowness into an outage. Callers share the requests
// fairly: while there is room anybody may use it; past the mark each caller has its equal share, so one that asks for
// everything cannot keep others out (bulkhead).

export type BreakerKind = 'connections' | 'pending' | 'requests' | 'retries'
export type BreakerLimits = Readonly<Record<BreakerKind, number>>

export type BreakerAnswer =
  | { readonly t: 'taken' }
  | { readonly t: 'refused'; readonly because: BreakerKind | 'callerShare' }

const taken: BreakerAnswer = Object.freeze({ t: 'taken' })

/** Above this share of the limit on requests callers are held to their own share. */
const contendedAt = 0.75

export class CircuitBreaker {
  #limits: BreakerLimits
  readonly #used: Record<BreakerKind, number> = { connections: 0, pending: 0, requests: 0, retries: 0 }
  /** Requests under way by caller; only those that have any, so bounded by the limit. */
  readonly #callers = new Map<string, number>()

  constructor(limits: BreakerLimits) {
    this.#limits = limits
  }

  /** What is under way stays; only what comes meets the new limits. */
  set limits(limits: BreakerLimits) {
    this.#limits = limits
  }

  used(kind: BreakerKind): number {
    return this.#used[kind]
  }

  get callers(): number {
    return this.#callers.size
  }

  /** Give back with `release` exactly once when taken. */
  tryTake(kind: Exclude<BreakerKind, 'requests'>): BreakerAnswer {
    if (this.#used[kind] >= this.#limits[kind]) return { t: 'refused', because: kind }
    this.#used[kind]++
    return taken
  }

  release(kind: Exclude<BreakerKind, 'requests'>): void {
    if (this.#used[kind] > 0) this.#used[kind]--
  }

  /** `caller` is an identity, or one word for all who have none: never a name that the caller made up. */
  tryRequest(caller: string): BreakerAnswer {
    const limit = this.#limits.requests
    const all = this.#used.requests
    if (all >= limit) return { t: 'refused', because: 'requests' }
    const own = this.#callers.get(caller) ?? 0
    if (all >= limit * contendedAt && own >= this.fairShare(caller)) return { t: 'refused', because: 'callerShare' }
    this.#used.requests++
    this.#callers.set(caller, own + 1)
    return taken
  }

  releaseRequest(caller: string): void {
    const own = this.#callers.get(caller)
    if (own === undefined) return
    if (own <= 1) this.#callers.delete(caller)
    else this.#callers.set(caller, own - 1)
    this.#used.requests--
  }

  /** Requests that the caller may have under way while there is contention; at least one. */
  fairShare(caller: string): number {
    const active = this.#callers.size + (this.#callers.has(caller) ? 0 : 1)
    return Math.max(1, Math.floor(this.#limits.requests / active))
  }
}
