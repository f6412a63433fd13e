// Requests that wait because no endpoint can take them. Bounded; and when nothing has been available for a while it turns to
// failing at once, so that callers learn in no time what waiting would not change (Linkerd's load-shedding queue). Keeps no
// timer: the owner asks `nextMs` and calls `expire`.

export interface QueueRule {
  /** Items. */
  readonly capacity: number
  /** From the first that waits until fail-fast; also the longest that anything waits. */
  readonly failFastAfterMs: number
}

export type QueueState = { readonly t: 'open' } | { readonly t: 'waiting'; readonly sinceMs: number }
  | { readonly t: 'failFast'; readonly sinceMs: number }
export type OfferAnswer = 'queued' | 'full' | 'failFast'

interface Waiting<T> {
  readonly item: T
  readonly sinceMs: number
}

export class FailFastQueue<T> {
  readonly #rule: QueueRule
  #state: QueueState = { t: 'open' }
  #items: Waiting<T>[] = []
  #head = 0

  constructor(rule: QueueRule) {
    this.#rule = rule
  }

  get state(): QueueState {
    return this.#state
  }

  get size(): number {
    return this.#items.length - this.#head
  }

  /** For what cannot be sent now. In fail-fast everything is refused until `available`. */
  offer(item: T, nowMs: number): OfferAnswer {
    if (this.#state.t === 'waiting'
      && nowMs - this.#state.sinceMs >= this.#rule.failFastAfterMs) this.#state = { t: 'failFast', sinceMs: nowMs }
    if (this.#state.t === 'failFast') return 'failFast'
    if (this.size >= this.#rule.capacity) return 'full'
    if (this.#state.t === 'open') this.#state = { t: 'waiting', sinceMs: nowMs }
    this.#items.push({ item, sinceMs: nowMs })
    return 'queued'
  }

  /** Who is next; it stays. */
  peek(): T | undefined {
    return this.#items[this.#head]?.item
  }

  /** The next in order, when something can be sent. Progress, so the time until fail-fast starts anew. */
  take(nowMs: number): T | undefined {
    const next = this.#shift()
    this.#state = this.size === 0 ? { t: 'open' } : { t: 'waiting', sinceMs: nowMs }
    return next?.item
  }

  /** Something can be sent again: fail-fast ends. */
  available(nowMs: number): void {
    this.#state = this.size === 0 ? { t: 'open' } : { t: 'waiting', sinceMs: nowMs }
  }

  /** Removes a specific item, say because its client left. */
  remove(item: T): boolean {
    const at = this.#items.findIndex((waiting, i) => i >= this.#head && waiting.item === item)
    if (at < 0) return false
    this.#items.splice(at, 1)
    if (this.size === 0 && this.#state.t === 'waiting') this.#state = { t: 'open' }
    return true
  }

  /** What must fail now: all when fail-fast begins, else those that waited long enough. */
  expire(nowMs: number): T[] {
    if (this.#state.t === 'waiting' && nowMs - this.#state.sinceMs >= this.#rule.failFastAfterMs) {
      this.#state = { t: 'failFast', sinceMs: nowMs }
    }
    const expired: T[] = []
    while (this.size > 0 && (this.#state.t === 'failFast'
      || nowMs - (this.#items[this.#head]?.sinceMs ?? 0) >= this.#rule.failFastAfterMs)) {
      const next = this.#shift()
      if (next) expired.push(next.item)
    }
    if (this.size === 0 && this.#state.t === 'waiting') this.#state = { t: 'open' }
    return expired
  }

  /** When `expire` next has something to do; undefined if never. */
  get nextMs(): number | undefined {
    if (this.size === 0) return undefined
    const first = this.#items[this.#head]?.sinceMs ?? 0
    return Math.min(first, this.#state.t === 'waiting' ? this.#state.sinceMs : first) + this.#rule.failFastAfterMs
  }

  #shift(): Waiting<T> | undefined {
    const next = this.#items[this.#head]
    if (!next) return undefined
    this.#head++
    // Moving the rest down now and then keeps taking cheap and the array short.
    if (this.#head > 1_024 && this.#head * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#head)
      this.#head = 0
    }
    return next
  }
}
