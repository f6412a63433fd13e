// Consistent hashing by a table (Eisenbud et al., "Maglev", NSDI 2016, section 3.4): a pick is one array read, shares are exact
// to within a slot, and an endpoint that comes or goes moves little more than its own share. An endpoint that may not be picked
// hands its requests on by hashing again.
import { weightOf, type Balancer, type Endpoint, type PickRequest } from './balancer.ts'
import { hash32, mix } from './hash.ts'

const primes = [251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_537, 131_071, 262_147, 524_287, 1_048_573] as const

export class MaglevBalancer implements Balancer {
  readonly #size: number
  #endpoints: readonly Endpoint[] = []
  #table = new Int32Array(0)

  /** `size` is rounded up to a prime of a list; Envoy's default is 65537. */
  constructor(size: number) {
    this.#size = primes.find((prime) => prime >= size) ?? 1_048_573
  }

  get size(): number {
    return this.#size
  }

  update(endpoints: readonly Endpoint[]): void {
    // In the order of names: the table must not depend on the order in which endpoints became known.
    this.#endpoints = [...endpoints].sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0)).slice(0, this.#size)
    this.#table = this.#build()
  }

  pick({ hash, random, isUsable }: PickRequest): Endpoint | undefined {
    if (this.#table.length === 0) return undefined
    let at = mix(hash ?? Math.floor(random() * 2 ** 32))
    for (let i = 0; i < 16; i++) {
      const endpoint = this.#endpoints[this.#table[at % this.#size] ?? 0]
      if (endpoint && (!isUsable || isUsable(endpoint.id))) return endpoint
      at = mix(at + 0x9e3779b1)
    }
    // Nearly all are out: the first of the rest in table order.
    const start = at % this.#endpoints.length
    for (let i = 0; i < this.#endpoints.length; i++) {
      const endpoint = this.#endpoints[(start + i) % this.#endpoints.length]
      if (endpoint && isUsable?.(endpoint.id)) return endpoint
    }
    return undefined
  }

  #build(): Int32Array<ArrayBuffer> {
    const count = this.#endpoints.length
    if (count === 0) return new Int32Array(0)
    const size = this.#size
    const table = new Int32Array(size).fill(-1)
    const at = Float64Array.from(this.#endpoints, ({ id }) => hash32(id, 0x5bd1e995) % size)
    const skip = Float64Array.from(this.#endpoints, ({ id }) => (hash32(id, 0x2545f491) % (size - 1)) + 1)
    const weights = this.#endpoints.map(weightOf)
    const heaviest = weights.reduce((most, weight) => Math.max(most, weight), 1)
    const credit = new Float64Array(count)
    for (let filled = 0; filled < size;) {
      // The heaviest takes a slot every round, others in proportion.
      for (let i = 0; i < count && filled < size; i++) {
        const due = (credit[i] ?? 0) + (weights[i] ?? 1) / heaviest
        if (due < 1) {
          credit[i] = due
          continue
        }
        credit[i] = due - 1
        let slot = at[i] ?? 0
        while (table[slot] !== -1) slot = (slot + (skip[i] ?? 1)) % size
        table[slot] = i
        at[i] = (slot + (skip[i] ?? 1)) % size
        filled++
      }
    }
    return table
  }
}
