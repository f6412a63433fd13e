// The filters that ask others or keep something, counted: each is as it is, and tells what became of a question besides. What
// counts is handed in, so no filter knows of metrics.
import type { HttpRule } from '../../model/route.ts'
import type { Response } from '../http/message.ts'
import type { ForwardPlan } from '../forwarding.ts'
import type { ExternalAuthorizer } from './authorization.ts'
import { ResponseCache } from './cache.ts'
import type { CacheOutcome, Lookup, ResponseCacheOptions, Send } from './cache.ts'
import type { Fetch } from './outside-fetch.ts'
import type { Passage } from './passage.ts'
import { RateLimits } from './rate-limit.ts'
import type { RateLimitsOptions } from './rate-limit.ts'

export interface FilterCounters {
  cache(result: 'hit' | 'miss'): void
  /** `policy`: key of the object. */
  rateLimit(policy: string, result: 'allowed' | 'refused'): void
  limitStore(result: 'ok' | 'failed'): void
  keysFetched(result: 'ok' | 'failed'): void
  providerAsked(provider: string, result: 'allowed' | 'refused' | 'away'): void
}

export class CountedCache extends ResponseCache {
  readonly #counters: FilterCounters

  constructor(options: ResponseCacheOptions, counters: FilterCounters) {
    super(options)
    this.#counters = counters
  }

  override async answer(lookup: Lookup, plan: ForwardPlan, send: Send): Promise<CacheOutcome> {
    const outcome = await super.answer(lookup, plan, send)
    this.#counters.cache(outcome.t === 'kept' ? 'hit' : 'miss')
    return outcome
  }
}

export class CountedLimits extends RateLimits {
  readonly #counters: FilterCounters

  constructor({ store, ...options }: RateLimitsOptions, counters: FilterCounters) {
    super({ ...options, ...(store && { store: countedStore(store, counters) }) })
    this.#counters = counters
  }

  override async step(
    passage: Passage, rule: HttpRule, filters: Parameters<RateLimits['step']>[2],
  ): Promise<Response | undefined> {
    const refused = await super.step(passage, rule, filters)
    for (const { key } of filters) this.#counters.rateLimit(key, refused ? 'refused' : 'allowed')
    return refused
  }
}

function countedStore(
  store: NonNullable<RateLimitsOptions['store']>, counters: FilterCounters,
): NonNullable<RateLimitsOptions['store']> {
  return {
    async take(uses, signal) {
      try {
        const states = await store.take(uses, signal)
        counters.limitStore('ok')
        return states
      } catch (error) {
        counters.limitStore('failed')
        throw error
      }
    },
  }
}

export function countedFetch(fetch: Fetch, counters: FilterCounters): Fetch {
  return async (url, limits) => {
    try {
      const text = await fetch(url, limits)
      counters.keysFetched('ok')
      return text
    } catch (error) {
      counters.keysFetched('failed')
      throw error
    }
  }
}

export function countedAuthorizer(external: ExternalAuthorizer, counters: FilterCounters): ExternalAuthorizer {
  return {
    async check(provider, passage) {
      const result = await external.check(provider, passage)
      counters.providerAsked(provider.name, result.t)
      return result
    },
  }
}
