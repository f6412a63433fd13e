// Our own kinds, for what neither Kubernetes, the Gateway API nor Istio has a word: RateLimitPolicy, CachePolicy (route filters
// by ExtensionRef, or attached by targetRefs) and BackendPolicy (how a Service's endpoints are used). Unknown fields are
// refused. Durations are milliseconds after reading.
import { z } from 'zod'
import { metadata } from './manifest-fields.ts'
import { group, kind, referentName, sectionName } from './manifest-gateway.ts'
import { gatewayDuration, headerName } from './manifest-route.ts'

/** In the policy's own namespace: nobody's service or route is changed from outside. */
const targetRef = z.strictObject({ group: group.default(''), kind, name: referentName, sectionName: sectionName.optional() })
export type PolicyTarget = z.infer<typeof targetRef>
const targetRefs = z.array(targetRef).max(16)
const positive = gatewayDuration.refine((ms) => ms > 0, 'must be longer than nothing')
const count = z.int().min(1).max(2 ** 31 - 1)
const cookieName = z.string().min(1).max(128).regex(/^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$/, 'must be the name of a cookie')

/** Requests are counted for each distinct value of these together; without any, all requests of the route in one count. */
const limitKey = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('Identity') }),
  z.strictObject({ type: z.literal('Namespace') }),
  z.strictObject({ type: z.literal('SourceIP') }),
  z.strictObject({ type: z.literal('Header'), name: headerName }),
  z.strictObject({ type: z.literal('Claim'), name: z.string().min(1).max(256) }),
])

const limit = z.strictObject({
  name: sectionName.optional(),
  requests: count,
  per: positive,
  /** Requests at once; `requests` unless given. */
  burst: count.optional(),
  by: z.array(limitKey).max(4).default([]),
})

export const rateLimitPolicySchema = z.object({
  metadata,
  spec: z.strictObject({
    targetRefs: targetRefs.default([]),
    limits: z.array(limit).min(1).max(16),
    /** Local: each proxy counts for itself. Global: all count in the shared store. */
    scope: z.enum(['Local', 'Global']).default('Local'),
    /** While the shared store cannot be asked: count locally, let all through, or refuse all. */
    whenStoreUnavailable: z.enum(['CountLocally', 'Allow', 'Deny']).default('CountLocally'),
    /** Counted and told, but never refused. */
    isDryRun: z.boolean().default(false),
  }),
})
export type RateLimitSpec = z.infer<typeof rateLimitPolicySchema>['spec']

export const cachePolicySchema = z.object({
  metadata,
  spec: z
    .strictObject({
      targetRefs: targetRefs.default([]),
      /** For responses that say nothing of their freshness; without it those are not kept. */
      defaultTtl: gatewayDuration.optional(),
      /** No response is fresh for longer, whatever it says. */
      maxTtl: positive.optional(),
      staleIfError: gatewayDuration.optional(),
      staleWhileRevalidate: gatewayDuration.optional(),
      maxBodyBytes: count.max(64 * 1024 * 1024).default(1024 * 1024),
      /** Headers that are part of the key beside method, host, path and query. */
      varyOn: z.array(headerName).max(16).default([]),
    })
    .prefault({}),
})
export type CacheSpec = z.infer<typeof cachePolicySchema>['spec']

const consistentHash = z
  .strictObject({
    header: headerName.optional(),
    cookie: z.strictObject({ name: cookieName, ttl: gatewayDuration.optional(), path: z.string().max(1024).regex(/^\/[!-:<-~]*$/, 'must be a path').optional() }).optional(),
    query: z.string().min(1).max(256).optional(),
    sourceIP: z.literal(true).optional(),
    algorithm: z.enum(['Ring', 'Maglev']).default('Ring'),
    size: z.int().min(1).max(1_048_576).optional(),
  })
  .refine(({ header, cookie, query, sourceIP }) => [header, cookie, query, sourceIP].filter((each) => each !== undefined).length === 1, 'exactly one of header, cookie, query and sourceIP is needed')

const healthCheck = z
  .strictObject({
    type: z.enum(['HTTP', 'GRPC', 'TCP']),
    path: z.string().max(1024).regex(/^\/[!-~]*$/, 'must be a path').optional(),
    service: z.string().max(253).optional(),
    interval: positive.default(10_000),
    timeout: positive.default(1_000),
    healthyThreshold: count.max(100).default(2),
    unhealthyThreshold: count.max(100).default(3),
    expectedStatuses: z.array(z.int().min(100).max(599)).max(100).default([]),
  })
  .superRefine(({ type, path, service, expectedStatuses, interval, timeout }, ctx) => {
    if (type !== 'HTTP' && path !== undefined) ctx.addIssue({
      code: 'custom', path: ['path'], message: 'belongs to the type HTTP',
    })
    if (type !== 'HTTP' && expectedStatuses.length > 0) ctx.addIssue({
      code: 'custom', path: ['expectedStatuses'], message: 'belongs to the type HTTP',
    })
    if (type !== 'GRPC' && service !== undefined) ctx.addIssue({
      code: 'custom', path: ['service'], message: 'belongs to the type GRPC',
    })
    if (interval < 100) ctx.addIssue({ code: 'custom', path: ['interval'], message: 'must be at least 100ms' })
    if (timeout > interval) ctx.addIssue({ code: 'custom', path: ['timeout'], message: 'cannot be longer than the interval' })
  })

export const backendPolicySchema = z.object({
  metadata,
  spec: z.strictObject({
    targetRefs: targetRefs.min(1),
    loadBalancer: z
      .strictObject({
        type: z.enum(['RoundRobin', 'Random', 'LeastRequest', 'PeakEwma', 'ConsistentHash']),
        consistentHash: consistentHash.optional(),
      })
      .refine(({ type, consistentHash }) => (type === 'ConsistentHash') === (consistentHash !== undefined), {
        path: ['consistentHash'], message: 'belongs to the type ConsistentHash',
      })
      .optional(),
    slowStart: gatewayDuration.optional(),
    limits: z
      .strictObject({
        connections: count.optional(), pending: count.optional(), requests: count.optional(), retries: count.optional(),
        requestsPerConnection: count.optional(),
      })
      .optional(),
    timeouts: z.strictObject({ connect: positive.optional(), idle: positive.optional() }).optional(),
    retryBudget: z.strictObject({ percent: z.number().min(0).max(100).optional(), minPerSecond: z.int().min(0).max(1_000_000).optional() }).optional(),
    ejection: z
      .strictObject({
        consecutiveErrors: z.int().min(0).max(1000).default(5),
        consecutiveGatewayErrors: z.int().min(0).max(1000).default(0),
        interval: positive.default(10_000),
        baseTime: positive.default(30_000),
        maxPercent: z.int().min(0).max(100).default(10),
        minHealthPercent: z.int().min(0).max(100).default(0),
        /** Endpoints whose success rate is that many standard deviations below the average; off unless given. */
        successRateStdevFactor: z.number().min(0.1).max(100).optional(),
      })
      .optional(),
    localityFailover: z.boolean().optional(),
    healthCheck: healthCheck.optional(),
  }),
})
export type BackendPolicySpec = z.infer<typeof backendPolicySchema>['spec']
