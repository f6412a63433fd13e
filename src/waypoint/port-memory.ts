// What was learned of ports that nobody declared: that their servers speak first, so that nobody need wait for a client that does
// not. Learned only from a server that did: a client that is slow, on purpose or not, teaches nothing. Bounded, and forgotten.
import type { Clock } from '../core/clock.ts'

export interface PortMemoryOptions {
  readonly clock: Clock
  /** Default a minute; each new proof prolongs it. */
  readonly keepMs?: number
  /** Default 10,000; the longest unused is forgotten first. */
  readonly most?: number
}

export class PortMemory {
  readonly #clock: Clock
  readonly #keepMs: number
  readonly #most: number
  /** Until when, in the order of the last proof. */
  readonly #serverFirst = new Map<string, number>()

  constructor({ clock, keepMs = 60_000, most = 10_000 }: PortMemoryOptions) {
    this.#clock = clock
    this.#keepMs = keepMs
    this.#most = most
  }

  get size(): number {
    return this.#serverFirst.size
  }

  isServerFirst(port: string): boolean {
    const untilMs = this.#serverFirst.get(port)
    if (untilMs === undefined) return false
    if (untilMs > this.#clock.monotonicMs()) return true
    this.#serverFirst.delete(port)
    return false
  }

  /** Of a connection whose first byte was the server's, or the client's. */
  saw(port: string, first: 'server' | 'client'): void {
    this.#serverFirst.delete(port)
    if (first === 'client') return
    if (this.#serverFirst.size >= this.#most) {
      const [oldest] = this.#serverFirst.keys()
      if (oldest !== undefined) this.#serverFirst.delete(oldest)
    }
    this.#serverFirst.set(port, this.#clock.monotonicMs() + this.#keepMs)
  }
}
