// How long to wait before the next attempt: a random time up to a bound that doubles (full jitter), so that a thousand nodes
// that lost the same control plane do not come back together.

export interface BackoffOptions {
  readonly firstMs: number
  readonly maxMs: number
  /** From 0 to below 1; for tests. */
  readonly random?: () => number
}

export class Backoff {
  readonly #options: BackoffOptions
  #attempts = 0

  constructor(options: BackoffOptions) {
    this.#options = options
  }

  /** Failures since the last success. */
  get attempts(): number {
    return this.#attempts
  }

  /** Milliseconds until the next attempt. */
  next(): number {
    const { firstMs, maxMs, random = Math.random } = this.#options
    const boundMs = Math.min(maxMs, firstMs * 2 ** Math.min(this.#attempts, 30))
    this.#attempts += 1
    return Math.ceil(random() * boundMs)
  }

  succeeded(): void {
    this.#attempts = 0
  }
}
