// How many handshakes a server has in hand at once. Where all are taken, room is made at the cost of whoever holds most of
// them, first of handshakes that should long be over: so thousands of silent connections keep nobody out, and one peer with
// many connections does not keep out a peer with one.
import type { Clock } from '../core/clock.ts'

export interface Slot {
  /** Must be called once. */
  release(): void
}

interface Held {
  readonly key: string
  readonly sinceMs: number
  readonly onShed: () => void
}

/** A handshake needs a round trip and a few milliseconds of work; who is slower than this goes first. */
const graceMs = 500

export class HandshakeSlots {
  readonly #limit: number
  readonly #clock: Clock
  /** By key, oldest first. */
  readonly #held = new Map<string, Set<Held>>()
  #count = 0

  constructor(limit: number, clock: Clock) {
    this.#limit = limit
    this.#clock = clock
  }

  get inFlight(): number {
    return this.#count
  }

  /**
   * `key` names the peer (its address). Undefined: refused, because others have fewer. `onShed` is called if this handshake has to
   * give way later; its slot is free then.
   */
  take(key: string, onShed: () => void): Slot | undefined {
    if (this.#count >= this.#limit && !this.#makeRoom(key)) return undefined
    const held: Held = { key, sinceMs: this.#clock.monotonicMs(), onShed }
    const same = this.#held.get(key) ?? new Set()
    this.#held.set(key, same.add(held))
    this.#count++
    return { release: () => this.#remove(held) }
  }

  #makeRoom(newcomer: string): boolean {
    let greediest: Set<Held> | undefined
    for (const set of this.#held.values()) if (!greediest || set.size > greediest.size) greediest = set
    if (!greediest) return false
    const [oldest] = greediest
    if (!oldest) return false
    const isLate = this.#clock.monotonicMs() - oldest.sinceMs > graceMs
    if (!isLate && (this.#held.get(newcomer)?.size ?? 0) >= greediest.size - 1) return false
    // Among those in time the youngest has had the least work done for it.
    const victim = isLate ? oldest : [...greediest].at(-1)
    if (!victim) return false
    this.#remove(victim)
    victim.onShed()
    return true
  }

  #remove(held: Held): void {
    const same = this.#held.get(held.key)
    if (!same?.delete(held)) return
    this.#count--
    if (same.size === 0) this.#held.delete(held.key)
  }
}
