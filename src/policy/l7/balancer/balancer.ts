// What balancers have in common: endpoints with weights, a pick that is told time, chance and who may not be picked, and new
// endpoints that begin with little (slow start). Balancers keep no clock and no random source, and a pick allocates nothing.

export interface Endpoint {
  readonly id: string
  /** Whole and positive; others count as 1. */
  readonly weight: number
  /** Since when it takes requests, for slow start; absent for one that has long done so. Monotonic milliseconds. */
  readonly readySinceMs?: number
}

export interface PickRequest {
  /** Monotonic milliseconds. */
  readonly nowMs: number
  /** 0 <= x < 1. */
  readonly random: () => number
  /** False for those that are ejected, full or tried already; absent if all may be picked. */
  readonly isUsable?: ((id: string) => boolean) | undefined
  /** For consistent hashing: 32 bits that say who asks. Others ignore it; without it hashing balancers pick by chance. */
  readonly hash?: number | undefined
}

export interface Balancer {
  /** Undefined if there is none that may be picked. */
  pick(request: PickRequest): Endpoint | undefined
  /** The endpoints from now on; what is known of those that stay is kept. */
  update(endpoints: readonly Endpoint[]): void
}

/** Time over which a new endpoint comes to its full share; 0 for at once. */
export interface SlowStart {
  readonly slowStartMs: number
}

/** Envoy's: not so little that an endpoint never warms. */
const firstShare = 0.1

export function weightOf({ weight }: Endpoint): number {
  return weight > 0 ? weight : 1
}

/** 0.1 to 1, growing with the time that it is ready. */
export function warmth({ readySinceMs }: Endpoint, nowMs: number, slowStartMs: number): number {
  if (readySinceMs === undefined || slowStartMs <= 0) return 1
  const share = (nowMs - readySinceMs) / slowStartMs
  return share >= 1 ? 1 : Math.max(firstShare, share)
}

const tries = 6

/** Chance in proportion to weight and warmth: a binary search, and another try where the one found is not usable or not warm. */
export class Sampler {
  #endpoints: readonly Endpoint[] = []
  #ends = new Float64Array(0)
  #total = 0
  #isEven = true
  readonly #slowStartMs: number

  constructor(slowStartMs: number) {
    this.#slowStartMs = slowStartMs
  }

  get endpoints(): readonly Endpoint[] {
    return this.#endpoints
  }

  /** Weight where the mean of all is 1. */
  relativeWeight(endpoint: Endpoint): number {
    return this.#isEven ? 1 : (weightOf(endpoint) * this.#endpoints.length) / this.#total
  }

  update(endpoints: readonly Endpoint[]): void {
    this.#endpoints = endpoints
    this.#ends = new Float64Array(endpoints.length)
    this.#total = 0
    endpoints.forEach((endpoint, i) => {
      this.#total += weightOf(endpoint)
      this.#ends[i] = this.#total
    })
    this.#isEven = endpoints.every((endpoint) => weightOf(endpoint) === weightOf(endpoints[0] ?? endpoint))
  }

  /** `except` is not picked while there is another. */
  sample({ nowMs, random, isUsable }: PickRequest, except?: Endpoint): Endpoint | undefined {
    for (let i = 0; i < tries; i++) {
      const found = this.#endpoints[this.#isEven ? Math.floor(random() * this.#endpoints.length)
        : this.#search(random() * this.#total)]
      if (!found) return undefined
      if (found === except || (isUsable && !isUsable(found.id))) continue
      const share = this.#slowStartMs > 0 ? warmth(found, nowMs, this.#slowStartMs) : 1
      if (share >= 1 || random() < share) return found
    }
    return this.#scan({ nowMs, random, isUsable }, except)
  }

  #search(at: number): number {
    let low = 0
    let high = this.#ends.length - 1
    while (low < high) {
      const middle = (low + high) >> 1
      if (at < (this.#ends[middle] ?? 0)) high = middle
      else low = middle + 1
    }
    return low
  }

  /** Exact, among those that may be picked. */
  #scan({ nowMs, random, isUsable }: PickRequest, except: Endpoint | undefined): Endpoint | undefined {
    let total = 0
    let found: Endpoint | undefined
    for (const endpoint of this.#endpoints) {
      if (endpoint === except || (isUsable && !isUsable(endpoint.id))) continue
      const weight = weightOf(endpoint) * warmth(endpoint, nowMs, this.#slowStartMs)
      total += weight
      // Each replaces what was found with its share of the sum so far, which makes the choice proportional.
      if (random() * total < weight) found = endpoint
    }
    return found
  }
}
