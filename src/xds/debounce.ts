// Gathers a burst of changes into few calls: the first change after a quiet time is acted on at once, those that follow are
// held back until it is quiet again, but never longer than a maximum.

export class Debounce {
  readonly #act: () => void
  readonly #quietMs: number
  readonly #maxMs: number
  #timer: NodeJS.Timeout | undefined
  #actedAtMs = Number.NEGATIVE_INFINITY
  /** Undefined while nothing waits, or what waits goes at once. */
  #waitingSinceMs: number | undefined
  #isClosed = false

  constructor(act: () => void, quietMs: number, maxMs: number) {
    this.#act = act
    this.#quietMs = quietMs
    this.#maxMs = maxMs
  }

  changed(): void {
    if (this.#isClosed) return
    const nowMs = performance.now()
    if (this.#timer === undefined) {
      const isQuiet = nowMs - this.#actedAtMs >= this.#quietMs
      this.#waitingSinceMs = isQuiet ? undefined : nowMs
      // At once still means after the caller is through with what it is changing.
      this.#arm(isQuiet ? 0 : Math.min(this.#quietMs, this.#maxMs))
    } else if (this.#waitingSinceMs !== undefined) {
      this.#arm(Math.max(0, Math.min(this.#quietMs, this.#waitingSinceMs + this.#maxMs - nowMs)))
    }
  }

  close(): void {
    this.#isClosed = true
    clearTimeout(this.#timer)
  }

  #arm(ms: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.#actedAtMs = performance.now()
      this.#act()
    }, ms)
  }
}
