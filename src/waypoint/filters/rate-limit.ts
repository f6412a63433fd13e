// Rate limits of a route: counted here, or with all other proxies in a shared store. What counts is who a request is known to be
// by now: a verified identity, a verified claim, an address that trusted proxies vouch for. A limit in dry run is counted and
// told, and refuses nobody. Memory is bounded whatever values clients send; so is the time that a store may take.
import type { Clock } from '../../core/clock.ts'
import { describeError } from '../../core/errors.ts'
import type { RateLimitSpec } from '../../model/manifest-traffic-policy.ts'
import type { HttpRule } from '../../model/route.ts'
import { claimTexts } from '../../policy/l7/authorization-facts.ts'
import { limitKey } from '../../policy/l7/limit-key.ts'
import type { SharedLimitStore } from '../../policy/l7/limit-store.ts'
import { quotaExceededProblem, rateLimitHeaders } from '../../policy/l7/rate-limit-headers.ts'
import type { LimitState, LimitUse, LocalLimiter, RateRule } from '../../policy/l7/rate-limit.ts'
import type { Response } from '../http/message.ts'
import type { NamedFilter } from '../router.ts'
import { claimOf } from './authentication.ts'
import { localAnswer } from './local-answer.ts'
import type { Passage } from './passage.ts'

export interface RateLimitsOptions {
  readonly clock: Clock
  readonly limiter: LocalLimiter
  /** Without one, limits of the scope Global are as if it did not answer. */
  readonly store?: SharedLimitStore
  /** For an answer of the store. */
  readonly storeTimeoutMs?: number
  /** After a failure the store is left alone for so long, so that requests do not wait for it one after the other. */
  readonly storeRestMs?: number
  readonly onStoreAway?: (why: string) => void
}

type Filter = NamedFilter<'rateLimit'>
type Spec = Filter['spec']
type LimitBy = RateLimitSpec['limits'][number]['by'][number]

interface Use extends LimitUse {
  readonly rule: RateRule
  readonly filter: Filter
  readonly index: number
}

/** What became of the limits of one scope. */
type Taken = { readonly t: 'states'; readonly states: readonly LimitState[] } | { readonly t: 'away'; readonly because: string }

const compiled = new WeakMap<Spec, readonly RateRule[]>()

export class RateLimits {
  readonly #options: RateLimitsOptions
  #restUntilMs = 0

  constructor(options: RateLimitsOptions) {
    this.#options = options
  }

  /** Undefined to go on. Headers that tell the limits go to the passage. */
  async step(passage: Passage, rule: HttpRule, filters: readonly Filter[]): Promise<Response | undefined> {
    const uses = filters.flatMap((filter) => usesOf(filter, passage, rule))
    for (const use of uses) if (use.filter.spec.isDryRun) await this.#tryDry(use, passage)
    const enforced = uses.filter(({ filter }) => !filter.spec.isDryRun)
    const local = enforced.filter(({ filter }) => filter.spec.scope === 'Local')
    const states = [...this.#takeLocally(local)]
    const global = enforced.filter(({ filter }) => filter.spec.scope === 'Global')
    if (global.length > 0 && states.every(({ isAllowed }) => isAllowed)) {
      const taken = await this.#takeTogether(global)
      if (taken.t === 'away') return this.#refuseWithoutStore(passage, taken.because)
      states.push(...taken.states)
    }
    const now = this.#options.clock.nowMs()
    passage.answerHeaders.push(...rateLimitHeaders(states, now))
    const refused = states.find(({ isAllowed }) => !isAllowed)
    if (!refused) return undefined
    passage.record.because('rateLimited', refused.rule.name)
    return localAnswer(passage.request, {
      status: 429, grpcStatus: 8, message: 'too many requests',
      body: { type: 'application/problem+json', text: quotaExceededProblem(states) },
    })
  }

  #takeLocally(uses: readonly Use[]): readonly LimitState[] {
    return uses.length === 0 ? [] : this.#options.limiter.take(uses, this.#options.clock.nowMs())
  }

  /** Each policy says itself what happens without the store; the strictest word is for all. */
  async #takeTogether(uses: readonly Use[]): Promise<Taken> {
    const asked = await this.#askStore(uses)
    if (asked.t === 'states') return asked
    const without = (mode: Spec['whenStoreUnavailable']): Use[] => uses.filter(
      ({ filter }) => filter.spec.whenStoreUnavailable === mode,
    )
    if (without('Deny').length > 0) return asked
    return { t: 'states', states: this.#takeLocally(without('CountLocally')) }
  }

  async #askStore(uses: readonly Use[]): Promise<Taken> {
    const { store, clock, storeTimeoutMs = 100, storeRestMs = 1_000, onStoreAway } = this.#options
    if (!store) return { t: 'away', because: 'there is no store' }
    if (clock.monotonicMs() < this.#restUntilMs) return { t: 'away', because: 'the store did not answer a moment ago' }
    const abort = new AbortController()
    const late = Promise.withResolvers<never>()
    const callOff = clock.after(storeTimeoutMs, () => {
      abort.abort()
      late.reject(new Error(`no answer within ${storeTimeoutMs} ms`))
    })
    try {
      return { t: 'states', states: await Promise.race([store.take(uses, abort.signal), late.promise]) }
    } catch (error) {
      this.#restUntilMs = clock.monotonicMs() + storeRestMs
      const because = describeError(error)
      onStoreAway?.(because)
      return { t: 'away', because }
    } finally {
      callOff()
    }
  }

  async #tryDry(use: Use, { record }: Passage): Promise<void> {
    const { filter, index } = use
    const taken = filter.spec.scope === 'Global' ? await this.#askStore([use]) : {
      t: 'states' as const, states: this.#takeLocally([use]),
    }
    const isRefused = taken.t === 'states' && taken.states.some(({ isAllowed }) => !isAllowed)
    if (isRefused) record.policyHit({ policy: filter.key, rule: index, as: 'dryRun' })
  }

  #refuseWithoutStore({ record, request }: Passage, because: string): Response {
    record.because('limitStoreAway', because)
    return localAnswer(
      request, { status: 503, message: 'the limits of this request cannot be counted now', headers: [['retry-after', '1']] },
    )
  }
}

function usesOf(filter: Filter, passage: Passage, { origin }: HttpRule): readonly Use[] {
  const rules = rulesOf(filter)
  return filter.spec.limits.flatMap(({ by }, index) => {
    const rule = rules[index]
    // The same policy at two routes, or two targets, counts for each of them; a dry run beside the real one is another count.
    const key = limitKey([
      filter.key, String(index), passage.chain.key, origin, filter.spec.isDryRun ? 'dry' : undefined,
      ...by.map((each) => valueOf(each, passage)),
    ])
    return rule ? [{ rule, filter, index, key }] : []
  })
}

function rulesOf({ key, spec }: Filter): readonly RateRule[] {
  const known = compiled.get(spec)
  if (known) return known
  const policy = key.slice(key.lastIndexOf('/') + 1)
  const rules = spec.limits.map(({ name, requests, per, burst }, index): RateRule => ({
    kind: 'rate', name: name ?? (spec.limits.length === 1 ? policy : `${policy}-${index + 1}`), limit: requests, windowMs: per,
    ...(burst !== undefined && { burst }),
  }))
  compiled.set(spec, rules)
  return rules
}

function valueOf(by: LimitBy, { context, head, remoteIp, token }: Passage): string | undefined {
  switch (by.type) {
    case 'Identity': return head.sourceIdentity
    case 'Namespace': return context.caller.identity?.namespace
    case 'SourceIP': return remoteIp
    case 'Header': return head.headers.get(by.name.toLowerCase())
    case 'Claim': return token && claimKey(token.claims, by.name)
    default: return by satisfies never
  }
}

function claimKey(claims: Readonly<Record<string, unknown>>, name: string): string | undefined {
  const value = claimOf(claims, name)
  const texts = claimTexts({ value }, ['value'])
  return texts.length === 0 ? undefined : texts.join(' ')
}
