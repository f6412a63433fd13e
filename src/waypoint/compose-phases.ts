// Builds the parts of the phases from settings and from what the process has: one place that says which filter gets what.
import type { Clock } from '../core/clock.ts'
import type { Identity } from '../core/identity.ts'
import type { Logger } from '../core/log.ts'
import type { NamespacedHostname, Service } from '../model/workload.ts'
import { LocalLimiter } from '../policy/l7/rate-limit.ts'
import type { Caller, Chains, ConnectionContext } from './context.ts'
import type { Covered } from './covered.ts'
import { CountedCache, CountedLimits, countedAuthorizer, countedFetch } from './filters/counted.ts'
import type { FilterCounters } from './filters/counted.ts'
import { makeExternalAuthorizer } from './filters/external-authorization.ts'
import { IssuerKeys } from './filters/jwks.ts'
import { TokenVerifier } from './filters/jwt.ts'
import { makeMeshCaller } from './filters/mesh-call.ts'
import { meshFirst } from './filters/mesh-fetch.ts'
import { OutsideFetch } from './filters/outside-fetch.ts'
import { RedisLimitStore } from './filters/redis-store.ts'
import type { Forwarder } from './forwarding.ts'
import type { Handler } from './http/message.ts'
import { makeHandler } from './phases.ts'
import type { RecordFactory } from './record.ts'

export interface PhaseSettings {
  /** Callers whose word about their clients is believed: SPIFFE URIs, or beginnings of them with `*`. */
  readonly trustedForwarders: readonly string[]
  /** Proxies in front of listeners that each add to X-Forwarded-For. */
  readonly trustedHops: number
  /** Bytes of kept answers; 0 keeps none. */
  readonly cacheBytes: number
  /** Keys that are counted here at once. */
  readonly limitKeys: number
  /** `redis://...` of the shared store; absent where there is none. */
  readonly limitStoreUrl?: string
  readonly limitStoreTimeoutMs: number
  /** Let issuers be asked at addresses of this machine. */
  readonly mayFetchLocally: boolean
}

export const defaultPhaseSettings: PhaseSettings = {
  trustedForwarders: [], trustedHops: 0, cacheBytes: 64 * 1_048_576, limitKeys: 100_000, limitStoreTimeoutMs: 100,
  mayFetchLocally: false,
}

export interface PhaseSurroundings {
  readonly chains: Chains
  readonly forwarder: Forwarder
  readonly records: RecordFactory
  readonly serviceOf: (name: NamespacedHostname) => Service | undefined
  readonly clock: Clock
  /** 0 <= x < 1. */
  readonly random: () => number
  /** Who we are, as callers see it. */
  readonly own: () => Identity | undefined
  /** Callers whose word about their clients is believed, beside those that the settings name. */
  readonly isForwarder?: (caller: Caller) => boolean
  readonly settings: PhaseSettings
  readonly log: Logger
  readonly counters: FilterCounters
  readonly covered?: Covered
}

export interface ComposedPhases {
  readonly handler: Handler<ConnectionContext>
  /** For metrics. */
  stats(): {
    readonly cacheBytes: number; readonly cachedAnswers: number; readonly limitKeys: number; readonly forgottenLimitKeys: number;
    readonly isLimitStoreReady: boolean | undefined
  }
  close(): Promise<void>
}

export function composePhases({
  chains, forwarder, records, serviceOf, clock, random, own, isForwarder, settings, log, counters, covered,
}: PhaseSurroundings): ComposedPhases {
  const { limitStoreUrl, limitStoreTimeoutMs, trustedForwarders, trustedHops } = settings
  const outside = new OutsideFetch({ mayReachLocal: settings.mayFetchLocally })
  const call = makeMeshCaller({ forwarder, clock, own })
  const keys = new IssuerKeys({
    clock, fetch: countedFetch(meshFirst({ call, serviceOf, outside: outside.fetch }), counters),
    onFailure: (issuer, error) => log.warn({ issuer, code: error.code, because: error.message }, 'keys of an issuer not fetched'),
  })
  const limiter = new LocalLimiter({ maxKeys: settings.limitKeys })
  const store = limitStoreUrl === undefined ? undefined : new RedisLimitStore({
    url: limitStoreUrl,
    onChange: (isThere, because) => (isThere ? log.info('limit store connected') : log.warn({ because }, 'limit store away')),
  })
  const limits = new CountedLimits({ clock, limiter, storeTimeoutMs: limitStoreTimeoutMs, ...(store && { store }) }, counters)
  const cache = new CountedCache({ clock, maxBytes: settings.cacheBytes }, counters)
  const handler = makeHandler({
    chains, forwarder, records, serviceOf, clock, random, limits, cache, ...(covered && { covered }),
    identity: { own, trustedForwarders, trustedHops, ...(isForwarder && { isForwarder }) },
    tokens: new TokenVerifier({ keys, clock }),
    external: countedAuthorizer(makeExternalAuthorizer({ call, serviceOf, own, clock }), counters),
  })
  return {
    handler,
    stats: () => ({
      cacheBytes: cache.stats.bytes, cachedAnswers: cache.stats.answers, limitKeys: limiter.size,
      forgottenLimitKeys: limiter.forgotten, isLimitStoreReady: store?.isReady,
    }),
    async close() {
      store?.close()
      await outside.close()
    },
  }
}
