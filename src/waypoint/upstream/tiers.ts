// Chooses among a cluster's endpoints: the tier of places by what is healthy in each, then within it as the policy's balancer
// does. Told who may not be used now; holds no clock and allocates nothing for a pick.
import type { LoadBalancer } from '../../model/route.ts'
import type { Endpoint, PickRequest } from '../../policy/l7/balancer/balancer.ts'
import { chooseTier, tierShares } from '../../policy/l7/balancer/locality.ts'
import { makeBalancer } from '../../policy/l7/balancer/make.ts'
import type { MadeBalancer } from '../../policy/l7/balancer/make.ts'

export interface TieredEndpoint extends Endpoint {
  readonly tier: number
  /** Neither ejected nor found ill; kept up to date by whoever knows. */
  readonly isUsable: boolean
}

interface Tier<T extends TieredEndpoint> {
  readonly rank: number
  readonly made: MadeBalancer
  endpoints: readonly T[]
}

export interface TierOptions {
  readonly loadBalancer: LoadBalancer
  readonly slowStartMs: number
  readonly random: () => number
}

export class Tiers<T extends TieredEndpoint> {
  readonly #options: TierOptions
  #tiers: readonly Tier<T>[] = []
  #byId = new Map<string, T>()
  #shares: readonly number[] = []
  #usable = 0
  #tried: ReadonlySet<string> | undefined
  readonly #request: { -readonly [K in keyof PickRequest]: PickRequest[K] }
  readonly #mayPick = (id: string): boolean => this.#byId.get(id)?.isUsable === true && this.#tried?.has(id) !== true

  constructor(options: TierOptions) {
    this.#options = options
    this.#request = { nowMs: 0, random: options.random, isUsable: undefined, hash: undefined }
  }

  get size(): number {
    return this.#byId.size
  }

  /** Those that may be used, as of the last update or healthChanged(). */
  get usable(): number {
    return this.#usable
  }

  /** What balancers learned of those that stay is kept. */
  update(endpoints: readonly T[]): void {
    this.#byId = new Map(endpoints.map((endpoint) => [endpoint.id, endpoint]))
    const ranks = [...new Set(endpoints.map(({ tier }) => tier))].sort((a, b) => a - b)
    const { loadBalancer, slowStartMs } = this.#options
    const known = new Map(this.#tiers.map((tier) => [tier.rank, tier]))
    this.#tiers = ranks.map((rank) => {
      const tier = known.get(rank) ?? { rank, made: makeBalancer(loadBalancer, { slowStartMs }), endpoints: [] }
      tier.endpoints = endpoints.filter((endpoint) => endpoint.tier === rank)
      tier.made.balancer.update(tier.endpoints)
      return tier
    })
    this.healthChanged()
  }

  /** `isUsable` of some endpoints changed. */
  healthChanged(): void {
    const health = this.#tiers.map(({ endpoints }) => (
      { total: endpoints.length, healthy: endpoints.reduce((sum, { isUsable }) => sum + (isUsable ? 1 : 0), 0) }
    ))
    this.#usable = health.reduce((sum, { healthy }) => sum + healthy, 0)
    this.#shares = tierShares(health)
  }

  /** `tried` are taken only where there is nobody else. */
  pick(nowMs: number, hash: number | undefined, tried: ReadonlySet<string> | undefined): T | undefined {
    if (this.#usable === 0) return undefined
    const request = this.#request
    request.nowMs = nowMs
    request.hash = hash
    this.#tried = tried
    request.isUsable = tried || this.#usable < this.#byId.size ? this.#mayPick : undefined
    const found = this.#pick(request)
    if (found || !tried) return found
    return this.pick(nowMs, hash, undefined)
  }

  /** The balancer that counts what the endpoint has under way. */
  balancerOf({ tier }: T): MadeBalancer | undefined {
    return this.#tiers.find(({ rank }) => rank === tier)?.made
  }

  #pick(request: PickRequest): T | undefined {
    const [first] = this.#tiers
    if (!first) return undefined
    if (this.#tiers.length === 1) return this.#resolve(first, request)
    const chosen = this.#tiers[chooseTier(this.#shares, this.#options.random())]
    const found = chosen && this.#resolve(chosen, request)
    if (found) return found
    for (const tier of this.#tiers) {
      const other = tier === chosen ? undefined : this.#resolve(tier, request)
      if (other) return other
    }
    return undefined
  }

  #resolve({ made }: Tier<T>, request: PickRequest): T | undefined {
    const found = made.balancer.pick(request)
    return found && this.#byId.get(found.id)
  }
}
