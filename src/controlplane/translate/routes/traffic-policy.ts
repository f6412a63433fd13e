// One traffic policy of a DestinationRule, and one BackendPolicy, in the model's terms. What is not said is our default. What
// cannot be done as written is said; TLS that cannot be made as asked is never left out, it fails.
import type { BackendPolicySpec } from '../../../model/manifest-traffic-policy.ts'
import type {
  ClientTlsSpec, ConsistentHashSpec, LoadBalancerSpec, OutlierDetectionSpec, TrafficPolicySpec,
} from '../../../model/manifest-traffic-destination.ts'
import { defaultTrafficPolicy, type LoadBalancer, type TrafficPolicy } from '../../../model/route.ts'
import { given } from './findings.ts'

export interface PolicyContext {
  /** Of the service, whose waypoint reads the Secrets. */
  readonly namespace: string
  problem(text: string): void
  note(text: string): void
}

/** What a subset or port may say: each setting whole or not at all. */
export type PolicySettings = Pick<TrafficPolicySpec, 'loadBalancer' | 'connectionPool' | 'outlierDetection' | 'tls'> & Partial<Pick<TrafficPolicySpec, 'retryBudget'>>

export function trafficPolicy(spec: PolicySettings, context: PolicyContext): TrafficPolicy {
  const { loadBalancer, outlierDetection, retryBudget } = spec
  const { tcp, http } = spec.connectionPool ?? {}
  const base = defaultTrafficPolicy
  if (tcp?.tcpKeepalive) context.note('connectionPool.tcp.tcpKeepalive is not honoured: tunnels keep themselves alive')
  if (tcp?.maxConnectionDuration !== undefined) context.note('connectionPool.tcp.maxConnectionDuration is not honoured')
  if (http?.useClientProtocol !== undefined) context.note('connectionPool.http.useClientProtocol is not honoured: the port\'s protocol decides')
  if (http?.maxConcurrentStreams !== undefined) context.note('connectionPool.http.maxConcurrentStreams is not honoured: http2MaxRequests limits requests')
  if (retryBudget?.budgetInterval !== undefined) context.note('retryBudget.budgetInterval is not honoured')
  if (retryBudget?.minRetryConcurrency !== undefined) context.note('retryBudget.minRetryConcurrency is read as retries per second')
  const tls = spec.tls && tlsOf(spec.tls, context)
  const ejection = outlierDetection && ejectionOf(outlierDetection, context)
  return {
    ...base,
    loadBalancer: balancerOf(loadBalancer, context) ?? base.loadBalancer,
    slowStartMs: warmupOf(loadBalancer, context) ?? base.slowStartMs,
    limits: {
      connections: tcp?.maxConnections || base.limits.connections,
      pending: http?.http1MaxPendingRequests || base.limits.pending,
      requests: http?.http2MaxRequests || base.limits.requests,
      retries: http?.maxRetries || base.limits.retries,
      requestsPerConnection: http?.maxRequestsPerConnection ?? base.limits.requestsPerConnection,
    },
    connectTimeoutMs: tcp?.connectTimeout ?? base.connectTimeoutMs,
    idleTimeoutMs: http?.idleTimeout ?? tcp?.idleTimeout ?? base.idleTimeoutMs,
    retryBudget: {
      percent: retryBudget?.percent ?? base.retryBudget.percent,
      minPerSecond: retryBudget?.minRetryConcurrency ?? base.retryBudget.minPerSecond,
    },
    localityFailover: loadBalancer?.localityLbSetting?.enabled ?? base.localityFailover,
    ...given({ ejection, tls }),
    ...(http?.h2UpgradePolicy === 'UPGRADE' ? { isHttp2Wanted: true } : {}),
  }
}

function balancerOf(spec: LoadBalancerSpec | undefined, context: PolicyContext): LoadBalancer | undefined {
  const locality = spec?.localityLbSetting
  if (locality && (locality.distribute.length > 0 || locality.failover.length > 0 || locality.failoverPriority.length > 0)) {
    context.problem('loadBalancer.localityLbSetting: distribute, failover and failoverPriority are not supported; near endpoints come first')
  }
  if (spec?.consistentHash) return hashOf(spec.consistentHash, context)
  switch (spec?.simple) {
    case 'ROUND_ROBIN': return { kind: 'roundRobin' }
    case 'RANDOM': return { kind: 'random' }
    case 'LEAST_CONN':
    case 'LEAST_REQUEST': return { kind: 'leastRequest' }
    case 'PASSTHROUGH':
      context.problem('loadBalancer.simple PASSTHROUGH is not supported')
      return undefined
    case 'UNSPECIFIED':
    case undefined: return undefined
  }
}

/** Envoy's default sizes. */
const ringSize = 1_024
const maglevSize = 65_537

function hashOf(
  { httpHeaderName, httpCookie, httpQueryParameterName, ringHash, maglev, minimumRingSize }: ConsistentHashSpec,
  context: PolicyContext,
): LoadBalancer {
  if (httpCookie?.attributes) context.note('consistentHash.httpCookie.attributes are not honoured')
  const by = httpHeaderName !== undefined
    ? { kind: 'header' as const, name: httpHeaderName.toLowerCase() }
    : httpCookie
      ? { kind: 'cookie' as const, name: httpCookie.name, ...given({ ttlMs: httpCookie.ttl, path: httpCookie.path }) }
      : httpQueryParameterName !== undefined ? { kind: 'query' as const, name: httpQueryParameterName } : { kind: 'sourceIp' as const }
  if (maglev) return { kind: 'consistentHash', by, algorithm: 'maglev', size: maglev.tableSize ?? maglevSize }
  return { kind: 'consistentHash', by, algorithm: 'ring', size: ringHash?.minimumRingSize || minimumRingSize || ringSize }
}

function warmupOf(spec: LoadBalancerSpec | undefined, context: PolicyContext): number | undefined {
  const { warmup, warmupDurationSecs } = spec ?? {}
  if (warmup?.minimumPercent !== undefined || warmup?.aggression !== undefined) context.note('loadBalancer.warmup: only the duration is honoured')
  return warmup?.duration ?? warmupDurationSecs
}

function ejectionOf(spec: OutlierDetectionSpec, context: PolicyContext): NonNullable<TrafficPolicy['ejection']> {
  if (spec.splitExternalLocalOriginErrors || spec.consecutiveLocalOriginFailures !== undefined) {
    context.note('outlierDetection: failures to connect count as errors; they are not counted apart')
  }
  return {
    consecutiveErrors: spec.consecutive5xxErrors ?? spec.consecutiveErrors ?? 5,
    consecutiveGatewayErrors: spec.consecutiveGatewayErrors ?? 0,
    intervalMs: spec.interval ?? 10_000,
    baseMs: spec.baseEjectionTime ?? 30_000,
    maxPercent: spec.maxEjectionPercent ?? 10,
    minHealthPercent: spec.minHealthPercent ?? 0,
  }
}

function tlsOf(spec: ClientTlsSpec, context: PolicyContext): TrafficPolicy['tls'] {
  if (spec.mode === 'DISABLE') return undefined
  if (spec.mode === 'ISTIO_MUTUAL') {
    context.note('tls.mode ISTIO_MUTUAL says nothing here: the mesh encrypts between its workloads anyway')
    return undefined
  }
  for (const field of ['clientCertificate', 'privateKey', 'caCertificates', 'caCrl'] as const) {
    if (spec[field] !== undefined) context.problem(`tls.${field} names a file, and proxies read certificates from Secrets only: name one in credentialName`)
  }
  if (spec.insecureSkipVerify) context.problem('tls.insecureSkipVerify is not supported: servers are always verified')
  const isMutual = spec.mode === 'MUTUAL'
  if (isMutual && spec.credentialName === undefined) context.problem('tls.mode MUTUAL needs a credentialName; without one no connection is made')
  const secret = spec.credentialName === undefined ? undefined : `${context.namespace}/${spec.credentialName}`
  return {
    mode: isMutual ? 'mutual' : 'simple',
    subjectAltNames: spec.subjectAltNames,
    ...given({ serverName: spec.sni, caSecret: secret, certificateSecret: isMutual ? secret : undefined }),
  }
}

/** What a BackendPolicy says over what was said before. */
export function withBackendPolicy(base: TrafficPolicy, spec: BackendPolicySpec): TrafficPolicy {
  const { slowStart, limits, timeouts, retryBudget, ejection, localityFailover, healthCheck } = spec
  return {
    ...base,
    ...given({
      loadBalancer: spec.loadBalancer && ownBalancer(spec.loadBalancer),
      slowStartMs: slowStart,
      connectTimeoutMs: timeouts?.connect,
      idleTimeoutMs: timeouts?.idle,
      localityFailover,
      ejection: ejection && given({
        consecutiveErrors: ejection.consecutiveErrors, consecutiveGatewayErrors: ejection.consecutiveGatewayErrors, intervalMs: ejection.interval,
        baseMs: ejection.baseTime, maxPercent: ejection.maxPercent, minHealthPercent: ejection.minHealthPercent, successRateStdevFactor: ejection.successRateStdevFactor,
      }),
      activeCheck: healthCheck && given({
        kind: checkKinds[healthCheck.type], path: healthCheck.type === 'HTTP' ? (healthCheck.path ?? '/') : undefined, service: healthCheck.service,
        intervalMs: healthCheck.interval, timeoutMs: healthCheck.timeout, healthyAfter: healthCheck.healthyThreshold, unhealthyAfter: healthCheck.unhealthyThreshold,
        expectedStatuses: healthCheck.expectedStatuses,
      }),
    }),
    limits: { ...base.limits, ...given({ ...limits }) },
    retryBudget: { ...base.retryBudget, ...given({ ...retryBudget }) },
  }
}

const checkKinds = { HTTP: 'http', GRPC: 'grpc', TCP: 'tcp' } as const
const simpleKinds = { RoundRobin: 'roundRobin', Random: 'random', LeastRequest: 'leastRequest', PeakEwma: 'peakEwma' } as const

function ownBalancer({ type, consistentHash: hash }: NonNullable<BackendPolicySpec['loadBalancer']>): LoadBalancer {
  if (type !== 'ConsistentHash') return { kind: simpleKinds[type] }
  const by = hash?.header !== undefined
    ? { kind: 'header' as const, name: hash.header.toLowerCase() }
    : hash?.cookie
      ? { kind: 'cookie' as const, name: hash.cookie.name, ...given({ ttlMs: hash.cookie.ttl, path: hash.cookie.path }) }
      : hash?.query !== undefined ? { kind: 'query' as const, name: hash.query } : { kind: 'sourceIp' as const }
  const isMaglev = hash?.algorithm === 'Maglev'
  return {
    kind: 'consistentHash', by, algorithm: isMaglev ? 'maglev' : 'ring', size: hash?.size ?? (isMaglev ? maglevSize : ringSize),
  }
}
