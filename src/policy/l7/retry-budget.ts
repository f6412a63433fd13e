// How many retries a service may be sent: a share of the requests of the last seconds, and a few more so that a quiet service has
// any. Retries that follow load multiply an outage; a budget makes the worst case `1 + ratio` of the load. Counted in ten
// slots of time; memory is constant.

const slots = 10

export interface RetryBudgetRule {
  /** Retries per hundred requests. */
  readonly percent: number
  readonly minPerSecond: number
  /** How long a request counts; Linkerd's ten seconds. */
  readonly ttlMs?: number
}

export class RetryBudget {
  readonly #ratio: number
  readonly #reserve: number
  readonly #slotMs: number
  readonly #requests = new Float64Array(slots)
  readonly #retries = new Float64Array(slots)
  #requestSum = 0
  #retrySum = 0
  #slot = 0

  constructor({ percent, minPerSecond, ttlMs = 10_000 }: RetryBudgetRule) {
    this.#ratio = Math.max(0, percent) / 100
    this.#reserve = (Math.max(0, minPerSecond) * ttlMs) / 1000
    this.#slotMs = ttlMs / slots
  }

  /** A request that is no retry. Times are monotonic milliseconds. */
  request(nowMs: number): void {
    this.#advance(nowMs)
    this.#requests[this.#slot % slots] = (this.#requests[this.#slot % slots] ?? 0) + 1
    this.#requestSum++
  }

  /** Takes one retry if there is one. */
  tryRetry(nowMs: number): boolean {
    this.#advance(nowMs)
    if (this.#retrySum + 1 > this.#requestSum * this.#ratio + this.#reserve) return false
    this.#retries[this.#slot % slots] = (this.#retries[this.#slot % slots] ?? 0) + 1
    this.#retrySum++
    return true
  }

  /** Retries left now. */
  left(nowMs: number): number {
    this.#advance(nowMs)
    return Math.max(0, Math.floor(this.#requestSum * this.#ratio + this.#reserve - this.#retrySum))
  }

  #advance(nowMs: number): void {
    const target = Math.floor(nowMs / this.#slotMs)
    if (target <= this.#slot) return
    const steps = Math.min(slots, target - this.#slot)
    for (let i = 1; i <= steps; i++) {
      const at = (target - steps + i) % slots
      this.#requestSum -= this.#requests[at] ?? 0
      this.#retrySum -= this.#retries[at] ?? 0
      this.#requests[at] = this.#retries[at] = 0
    }
    this.#slot = target
  }
}
