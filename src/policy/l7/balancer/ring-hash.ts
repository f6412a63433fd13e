// Consistent hashing on a ring (ketama): each endpoint has points in proportion to its weight, a request goes to the next point
// clockwise. Points depend on the endpoint alone, so an endpoint that comes or goes moves only its own share of the requests. An
// endpoint that may not be picked hands its requests to the next one on the ring, and each to a different one.
import { weightOf, type Balancer, type Endpoint, type PickRequest } from './balancer.ts'
import { hash32, mix } from './hash.ts'

/** Points of an endpoint of weight 1 before the ring is full. */
const pointsPerWeight = 100
/** Sorting this many takes tens of milliseconds, and happens whenever an endpoint comes or goes. */
const largestRing = 262_144
const ownerRange = 2 ** 20

export class RingHashBalancer implements Balancer {
  readonly #size: number
  #endpoints: readonly Endpoint[] = []
  #hashes = new Uint32Array(0)
  #owners = new Uint32Array(0)

  /** `size` is the most points that the ring may have; few endpoints do not fill it. */
  constructor(size: number) {
    this.#size = Math.max(1, Math.min(largestRing, size))
  }

  get points(): number {
    return this.#hashes.length
  }

  update(endpoints: readonly Endpoint[]): void {
    // In the order of names, so that equal hashes do not go by the order in which endpoints became known.
    this.#endpoints = [...endpoints].sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0)).slice(0, largestRing)
    const weights = this.#endpoints.map(weightOf)
    // Only ratios count: a hundred endpoints of weight 100 do not need more points than a hundred of weight 1.
    const least = weights.reduce((min, weight) => Math.min(min, weight), Number.MAX_VALUE)
    const wanted = weights.map((weight) => (weight / least) * pointsPerWeight)
    const total = wanted.reduce((sum, count) => sum + count, 0)
    const scale = total > this.#size ? this.#size / total : 1
    const counts = wanted.map((count) => Math.max(1, Math.round(count * scale)))
    // Hash and owner in one double, which a typed array sorts many times faster than objects.
    const points = new Float64Array(counts.reduce((sum, count) => sum + count, 0))
    let at = 0
    this.#endpoints.forEach(({ id }, owner) => {
      const base = hash32(id)
      for (let i = 1; i <= (counts[owner] ?? 0); i++) points[at++] = mix(base ^ Math.imul(i, 0x9e3779b1)) * ownerRange + owner
    })
    points.sort()
    this.#hashes = Uint32Array.from(points, (point) => Math.floor(point / ownerRange))
    this.#owners = Uint32Array.from(points, (point) => point % ownerRange)
  }

  pick({ hash, random, isUsable }: PickRequest): Endpoint | undefined {
    const length = this.#hashes.length
    if (length === 0) return undefined
    const start = this.#next(hash ?? Math.floor(random() * 2 ** 32))
    for (let i = 0; i < length; i++) {
      const endpoint = this.#endpoints[this.#owners[(start + i) % length] ?? 0]
      if (endpoint && (!isUsable || isUsable(endpoint.id))) return endpoint
    }
    return undefined
  }

  /** The first point at or after the hash. */
  #next(hash: number): number {
    let low = 0
    let high = this.#hashes.length
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.#hashes[middle] ?? 0) < hash >>> 0) low = middle + 1
      else high = middle
    }
    return low === this.#hashes.length ? 0 : low
  }
}
