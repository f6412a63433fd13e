// DestinationRule with Istio's spec: how a service's endpoints are used, and its subsets. Unknown fields are refused; what Istio
// knows and we do not serve is kept, so that translation can say so on the object. Durations are milliseconds after reading.
import { z } from 'zod'
import { metadata, portNumber } from './manifest-fields.ts'
import { istioDuration, positiveDuration } from './manifest-traffic.ts'

const count = z.int().min(0).max(2 ** 31 - 1)
const percent = z.number().min(0).max(100)
const name = z.string().min(1).max(253)
const strings = z.array(z.string().max(2048)).max(1000)

const consistentHash = z
  .strictObject({
    httpHeaderName: name.optional(),
    httpCookie: z.strictObject({ name, path: z.string().max(1024).optional(), ttl: istioDuration.optional(), attributes: z.array(z.unknown()).max(100).optional() }).optional(),
    useSourceIp: z.boolean().optional(),
    httpQueryParameterName: name.optional(),
    ringHash: z.strictObject({ minimumRingSize: z.int().min(0).max(8_388_608).optional() }).optional(),
    maglev: z.strictObject({ tableSize: z.int().min(2).max(5_000_011).optional() }).optional(),
    minimumRingSize: z.int().min(0).max(8_388_608).optional(),
  })
  .refine(
    (hash) => [hash.httpHeaderName, hash.httpCookie, hash.useSourceIp, hash.httpQueryParameterName].filter((each) => each !== undefined && each !== false).length === 1,
    'exactly one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName is needed',
  )
  .refine(({ ringHash, maglev }) => !ringHash || !maglev, 'only one of ringHash and maglev')
export type ConsistentHashSpec = z.infer<typeof consistentHash>

const loadBalancer = z
  .strictObject({
    simple: z.enum(['UNSPECIFIED', 'LEAST_CONN', 'LEAST_REQUEST', 'RANDOM', 'PASSTHROUGH', 'ROUND_ROBIN']).optional(),
    consistentHash: consistentHash.optional(),
    localityLbSetting: z
      .strictObject({
        distribute: z.array(z.strictObject({ from: z.string().max(760).optional(), to: z.record(z.string().max(760), count).optional() })).max(1000).default([]),
        failover: z.array(z.strictObject({ from: z.string().max(253).optional(), to: z.string().max(253).optional() })).max(1000).default([]),
        failoverPriority: strings.default([]),
        enabled: z.boolean().optional(),
      })
      .optional(),
    warmupDurationSecs: istioDuration.optional(),
    warmup: z.strictObject({ duration: istioDuration, minimumPercent: percent.optional(), aggression: z.number().min(0).max(100).optional() }).optional(),
  })
  .refine(({ simple, consistentHash }) => simple === undefined || consistentHash === undefined, 'only one of simple and consistentHash')
export type LoadBalancerSpec = z.infer<typeof loadBalancer>

const connectionPool = z.strictObject({
  tcp: z
    .strictObject({
      maxConnections: count.optional(),
      connectTimeout: positiveDuration.optional(),
      tcpKeepalive: z.strictObject({ probes: count.optional(), time: istioDuration.optional(), interval: istioDuration.optional() }).optional(),
      maxConnectionDuration: positiveDuration.optional(),
      idleTimeout: istioDuration.optional(),
    })
    .optional(),
  http: z
    .strictObject({
      http1MaxPendingRequests: count.optional(),
      http2MaxRequests: count.optional(),
      maxRequestsPerConnection: count.optional(),
      maxRetries: count.optional(),
      idleTimeout: istioDuration.optional(),
      h2UpgradePolicy: z.enum(['DEFAULT', 'DO_NOT_UPGRADE', 'UPGRADE']).optional(),
      useClientProtocol: z.boolean().optional(),
      maxConcurrentStreams: count.optional(),
    })
    .optional(),
})
export type ConnectionPoolSpec = z.infer<typeof connectionPool>

const outlierDetection = z.strictObject({
  consecutiveErrors: count.optional(),
  splitExternalLocalOriginErrors: z.boolean().optional(),
  consecutiveLocalOriginFailures: count.optional(),
  consecutiveGatewayErrors: count.optional(),
  consecutive5xxErrors: count.optional(),
  interval: positiveDuration.optional(),
  baseEjectionTime: positiveDuration.optional(),
  maxEjectionPercent: z.int().min(0).max(100).optional(),
  minHealthPercent: z.int().min(0).max(100).optional(),
})
export type OutlierDetectionSpec = z.infer<typeof outlierDetection>

const tls = z.strictObject({
  mode: z.enum(['DISABLE', 'SIMPLE', 'MUTUAL', 'ISTIO_MUTUAL']).default('DISABLE'),
  clientCertificate: z.string().max(4096).optional(),
  privateKey: z.string().max(4096).optional(),
  caCertificates: z.string().max(4096).optional(),
  credentialName: z.string().max(253).optional(),
  subjectAltNames: strings.default([]),
  sni: z.string().max(253).optional(),
  insecureSkipVerify: z.boolean().optional(),
  caCrl: z.string().max(4096).optional(),
})
export type ClientTlsSpec = z.infer<typeof tls>

const retryBudget = z.strictObject({
  percent: percent.optional(), minRetryConcurrency: count.optional(), budgetInterval: istioDuration.optional(),
})

const settings = {
  loadBalancer: loadBalancer.optional(),
  connectionPool: connectionPool.optional(),
  outlierDetection: outlierDetection.optional(),
  tls: tls.optional(),
}
const trafficPolicy = z
  .strictObject({
    ...settings,
    retryBudget: retryBudget.optional(),
    portLevelSettings: z.array(z.strictObject({ port: z.strictObject({ number: portNumber }), ...settings })).max(4096).default([]),
    tunnel: z.record(z.string(), z.unknown()).optional(),
    proxyProtocol: z.record(z.string(), z.unknown()).optional(),
  })
  .superRefine(({ portLevelSettings }, ctx) => {
    const seen = new Set<number>()
    portLevelSettings.forEach(({ port: { number } }, i) => {
      if (seen.has(number)) ctx.addIssue({ code: 'custom', path: ['portLevelSettings', i, 'port'], message: `port ${number} is given twice` })
      seen.add(number)
    })
  })
export type TrafficPolicySpec = z.infer<typeof trafficPolicy>

const subset = z.strictObject({
  name, labels: z.record(z.string().max(317), z.string().max(63)).default({}), trafficPolicy: trafficPolicy.optional(),
})

export const destinationRuleSchema = z
  .object({
    metadata,
    spec: z.strictObject({
      host: name,
      trafficPolicy: trafficPolicy.optional(),
      subsets: z.array(subset).max(1000).default([]),
      exportTo: strings.default([]),
      workloadSelector: z.strictObject({ matchLabels: z.record(z.string().max(317), z.string().max(63)).default({}) }).optional(),
    }),
  })
  .superRefine(({ spec }, ctx) => {
    spec.subsets.forEach((each, i) => {
      if (spec.subsets.findIndex(({ name }) => name === each.name) !== i) {
        ctx.addIssue({ code: 'custom', path: ['spec', 'subsets', i, 'name'], message: `two subsets are named ${each.name}` })
      }
    })
  })
