// In turns, in proportion to weight: earliest deadline first, as Envoy does it. Each endpoint is due again one weighted step
// after it was picked, so picks of one endpoint are spread evenly rather than in bursts.
import { warmth, weightOf, type Balancer, type Endpoint, type PickRequest, type SlowStart } from './balancer.ts'

interface Turn {
  readonly endpoint: Endpoint
  due: number
  /** Ties go to the one that waits longest. */
  order: number
}

export class RoundRobinBalancer implements Balancer {
  readonly #slowStartMs: number
  /** A binary heap by due time. */
  #heap: Turn[] = []
  #now = 0
  #order = 0

  constructor({ slowStartMs }: SlowStart) {
    this.#slowStartMs = slowStartMs
  }

  update(endpoints: readonly Endpoint[]): void {
    const known = new Map(this.#heap.map((turn) => [turn.endpoint.id, turn]))
    this.#heap = endpoints.map((endpoint) => {
      const turn = known.get(endpoint.id)
      // A new one is due within one step, not at once: many new ones must not come before all others.
      return { endpoint, due: turn ? turn.due : this.#now + 1 / weightOf(endpoint), order: turn ? turn.order : this.#order++ }
    })
    for (let i = (this.#heap.length >> 1) - 1; i >= 0; i--) this.#sink(i)
  }

  pick({ nowMs, isUsable }: PickRequest): Endpoint | undefined {
    // Those that may not be picked lose their turn.
    for (let left = this.#heap.length; left > 0; left--) {
      const [turn] = this.#heap
      if (!turn) return undefined
      this.#now = turn.due
      turn.due += 1 / (weightOf(turn.endpoint) * warmth(turn.endpoint, nowMs, this.#slowStartMs))
      turn.order = this.#order++
      this.#sink(0)
      if (!isUsable || isUsable(turn.endpoint.id)) return turn.endpoint
    }
    // Weights can let one unusable endpoint take several turns: one look at each settles it.
    return isUsable ? this.#firstUsable(isUsable) : undefined
  }

  #firstUsable(isUsable: (id: string) => boolean): Endpoint | undefined {
    let best: Turn | undefined
    for (const turn of this.#heap) if (isUsable(turn.endpoint.id) && (!best || isBefore(turn, best))) best = turn
    return best?.endpoint
  }

  #sink(start: number): void {
    const heap = this.#heap
    const turn = heap[start]
    if (!turn) return
    let at = start
    for (;;) {
      let child = at * 2 + 1
      let next = heap[child]
      const right = heap[child + 1]
      if (!next) break
      if (right && isBefore(right, next)) {
        next = right
        child++
      }
      if (!isBefore(next, turn)) break
      heap[at] = next
      at = child
    }
    heap[at] = turn
  }
}

function isBefore(a: Turn, b: Turn): boolean {
  return a.due < b.due || (a.due === b.due && a.order < b.order)
}
