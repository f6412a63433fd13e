// Which request for a certificate goes to the CA next: what a connection waits for, then what runs out, then what may be needed
// soon. At most so many at once, so that a node that starts with hundreds of identities does not fall upon the CA.

/** Lower goes first. */
export const priorities = { realtime: 0, renewal: 1, warmup: 2 } as const
export type Priority = keyof typeof priorities

interface Waiting {
  priority: Priority
  readonly order: number
  readonly run: () => Promise<void>
}

export class FetchQueue {
  readonly #limit: number
  readonly #waiting = new Map<string, Waiting>()
  #running = 0
  #order = 0

  constructor(limit: number) {
    this.#limit = limit
  }

  get depth(): number {
    return this.#waiting.size
  }

  get running(): number {
    return this.#running
  }

  /** `run` must not reject. A key that waits already keeps its place, or gets the better priority. */
  add(key: string, priority: Priority, run: () => Promise<void>): void {
    const known = this.#waiting.get(key)
    if (known) {
      if (priorities[priority] < priorities[known.priority]) known.priority = priority
    } else {
      this.#waiting.set(key, { priority, order: this.#order++, run })
    }
    this.#next()
  }

  remove(key: string): void {
    this.#waiting.delete(key)
  }

  clear(): void {
    this.#waiting.clear()
  }

  #next(): void {
    while (this.#running < this.#limit) {
      const best = [...this.#waiting].reduce<[string, Waiting] | undefined>((a, b) => (a && isBefore(a[1], b[1]) ? a : b), undefined)
      if (!best) return
      this.#waiting.delete(best[0])
      this.#running++
      void best[1].run().finally(() => {
        this.#running--
        this.#next()
      })
    }
  }
}

function isBefore(a: Waiting, b: Waiting): boolean {
  const difference = priorities[a.priority] - priorities[b.priority]
  return difference < 0 || (difference === 0 && a.order < b.order)
}
