// DestinationRules and BackendPolicies: which one counts, what is inherited, and what is said of the rest.
import { describe, expect, test } from 'vitest'
import type { ManifestObject } from '../../../model/manifest.ts'
import { defaultTrafficPolicy, type DestinationPolicy } from '../../../model/route.ts'
import { host, make, service, translate } from './testing.ts'

const key = `shop/${host('shop/web')}`
const rule = (name: string, spec: object, metadata: object = {}) => make('DestinationRule', name, { host: host('shop/web'), ...spec }, metadata)
const own = (name: string, spec: object, metadata: object = {}) => make('BackendPolicy', name, { targetRefs: [{ kind: 'Service', name: 'web' }], ...spec }, metadata)
const of = (...objects: readonly ManifestObject[]): DestinationPolicy | undefined => translate(...objects).destinations.get(key)
const pool = (maxConnections: number): object => ({ trafficPolicy: { connectionPool: { tcp: { maxConnections } } } })
const old = { creationTimestamp: '2020-01-01T00:00:00Z' }

describe('which DestinationRule counts', () => {
  test('of the service\'s namespace, else of a root one; never a client\'s', () => {
    const connections = (...objects: readonly ManifestObject[]) => of(...objects)?.policy.limits.connections
    expect(connections(rule('guest/d', pool(1)))).toBeUndefined()
    expect(translate(rule('guest/d', pool(1))).findings.get('DestinationRule guest/d')?.problems.join()).toMatch(/not in force/)
    expect(connections(rule('istio-system/d', pool(2)))).toBe(2)
    expect(connections(rule('istio-system/d', pool(2)), rule('shop/d', pool(3)))).toBe(3)
    expect(connections(rule('istio-system/d', { ...pool(2), exportTo: ['.'] }))).toBeUndefined()
    expect(connections(rule('shop/d', { ...pool(3), host: 'web' }))).toBe(3)
    expect(connections(rule('shop/d', { ...pool(3), host: '*.shop.svc.cluster.local' }, old), rule('shop/e', pool(4)))).toBe(4)
    expect(connections(rule('shop/d', { ...pool(3), workloadSelector: { matchLabels: { app: 'x' } } }))).toBeUndefined()
  })

  test('several for one host: the oldest says the policy, all add subsets', () => {
    const t = translate(rule('shop/a', { ...pool(1), subsets: [{ name: 'v1', labels: { version: 'x' } }, { name: 'v2' }] }), rule('shop/b', { ...pool(2), subsets: [{ name: 'v1', labels: { version: '1' } }] }, old))
    const policy = t.destinations.get(key)
    expect(policy?.policy.limits.connections).toBe(2)
    expect([...(policy?.subsets ?? [])].map(([name, { labels }]) => [name, labels])).toEqual([['v1', { version: '1' }], ['v2', {}]])
    expect(t.findings.get('DestinationRule shop/a')?.problems).toEqual([
      `the trafficPolicy for ${host('shop/web')} is already said by DestinationRule shop/b; that one counts`, 'subset v1: is already defined by an older rule; that one counts',
    ])
  })
})

describe('a traffic policy', () => {
  test('says all that it can', () => {
    expect(of(rule('shop/d', { trafficPolicy: {
      loadBalancer: { consistentHash: { httpCookie: { name: 'user', ttl: '0s', path: '/' }, maglev: { tableSize: 11 } }, localityLbSetting: { enabled: false }, warmup: { duration: '60s' } },
      connectionPool: {
        tcp: { maxConnections: 10, connectTimeout: '30ms', idleTimeout: '1h' },
        http: { http1MaxPendingRequests: 1, http2MaxRequests: 2, maxRequestsPerConnection: 3, maxRetries: 4, idleTimeout: '5s', h2UpgradePolicy: 'UPGRADE' },
      },
      outlierDetection: { consecutive5xxErrors: 7, consecutiveGatewayErrors: 3, interval: '5m', baseEjectionTime: '15m', maxEjectionPercent: 50, minHealthPercent: 30 },
      tls: { mode: 'MUTUAL', credentialName: 'client', sni: 'a.com', subjectAltNames: ['a.com'] },
      retryBudget: { percent: 12.5, minRetryConcurrency: 4 },
    } }))?.policy).toEqual({
      loadBalancer: { kind: 'consistentHash', by: { kind: 'cookie', name: 'user', ttlMs: 0, path: '/' }, algorithm: 'maglev', size: 11 },
      slowStartMs: 60_000,
      limits: { connections: 10, pending: 1, requests: 2, retries: 4, requestsPerConnection: 3 },
      connectTimeoutMs: 30, idleTimeoutMs: 5000,
      retryBudget: { percent: 12.5, minPerSecond: 4 },
      ejection: { consecutiveErrors: 7, consecutiveGatewayErrors: 3, intervalMs: 300_000, baseMs: 900_000, maxPercent: 50, minHealthPercent: 30 },
      localityFailover: false,
      tls: { mode: 'mutual', serverName: 'a.com', caSecret: 'shop/client', certificateSecret: 'shop/client', subjectAltNames: ['a.com'] },
      isHttp2Wanted: true,
    })
  })

  test('defaults: ours, and Istio\'s for ejection once somebody asks for it', () => {
    expect(of(rule('shop/d', { subsets: [{ name: 'v1' }] }))?.policy).toEqual(defaultTrafficPolicy)
    expect(of(rule('shop/d', { trafficPolicy: { outlierDetection: {} } }))?.policy.ejection).toEqual({
      consecutiveErrors: 5, consecutiveGatewayErrors: 0, intervalMs: 10_000, baseMs: 30_000, maxPercent: 10, minHealthPercent: 0,
    })
  })

  test('a subset takes over what it does not say, a port does not', () => {
    const policy = of(rule('shop/d', {
      trafficPolicy: { loadBalancer: { simple: 'RANDOM' }, connectionPool: { tcp: { maxConnections: 5 } }, portLevelSettings: [{ port: { number: 80 }, loadBalancer: { simple: 'ROUND_ROBIN' } }] },
      subsets: [{ name: 'v1', trafficPolicy: { loadBalancer: { simple: 'LEAST_CONN' } } }],
    }))
    expect([policy?.subsets.get('v1')?.policy.loadBalancer.kind, policy?.subsets.get('v1')?.policy.limits.connections]).toEqual(['leastRequest', 5])
    expect([policy?.ports.get(80)?.loadBalancer.kind, policy?.ports.get(80)?.limits.connections]).toEqual(['roundRobin', defaultTrafficPolicy.limits.connections])
  })

  test('TLS that cannot be made as asked is not left out', () => {
    const t = translate(rule('shop/d', { trafficPolicy: { tls: { mode: 'MUTUAL', clientCertificate: '/etc/a.pem', privateKey: '/etc/a.key', insecureSkipVerify: true } } }))
    expect(t.destinations.get(key)?.policy.tls).toEqual({ mode: 'mutual', subjectAltNames: [] })
    expect(t.findings.get('DestinationRule shop/d')?.problems).toHaveLength(4)
    expect(of(rule('shop/d', { trafficPolicy: { tls: { mode: 'ISTIO_MUTUAL' } } }))?.policy.tls).toBeUndefined()
  })

  test.each([
    ['PASSTHROUGH', { loadBalancer: { simple: 'PASSTHROUGH' } }], ['distribute', { loadBalancer: { localityLbSetting: { distribute: [{ from: 'a' }] } } }],
    ['tunnel', { tunnel: {} }], ['proxyProtocol', { proxyProtocol: {} }],
  ])('%s is told', (_name, trafficPolicy) => expect(translate(rule('shop/d', { trafficPolicy })).findings.get('DestinationRule shop/d')?.problems).toHaveLength(1))
})

describe('a BackendPolicy', () => {
  test('goes over the DestinationRule, setting by setting, in subsets and ports too', () => {
    const policy = of(
      rule('shop/d', { trafficPolicy: { loadBalancer: { simple: 'RANDOM' }, connectionPool: { tcp: { connectTimeout: '1s' } } }, subsets: [{ name: 'v1' }] }),
      own('shop/p', { loadBalancer: { type: 'PeakEwma' }, slowStart: '0s', healthCheck: { type: 'HTTP', path: '/ready', expectedStatuses: [200] }, limits: { pending: 9 }, ejection: { successRateStdevFactor: 1.9 } }),
      make('BackendPolicy', 'shop/port', { targetRefs: [{ kind: 'Service', name: 'web', sectionName: 'http' }], timeouts: { idle: '7s' } }),
    )
    for (const each of [policy?.policy, policy?.subsets.get('v1')?.policy, policy?.ports.get(80)]) {
      expect(each).toMatchObject({
        loadBalancer: { kind: 'peakEwma' }, connectTimeoutMs: 1000, slowStartMs: 0, limits: { pending: 9, connections: defaultTrafficPolicy.limits.connections },
        activeCheck: { kind: 'http', path: '/ready', intervalMs: 10_000, timeoutMs: 1000, healthyAfter: 2, unhealthyAfter: 3, expectedStatuses: [200] }, ejection: { successRateStdevFactor: 1.9 },
      })
    }
    expect([policy?.policy.idleTimeoutMs, policy?.ports.get(80)?.idleTimeoutMs]).toEqual([defaultTrafficPolicy.idleTimeoutMs, 7000])
  })

  test('the oldest counts; what it attaches to must be there', () => {
    const t = translate(own('shop/a', { slowStart: '1s' }), own('shop/b', { slowStart: '2s' }, old), own('shop/c', { targetRefs: [{ kind: 'Service', name: 'gone' }, { kind: 'Gateway', name: 'g' }, { kind: 'Service', name: 'web', sectionName: 'grpc' }] }))
    expect(t.destinations.get(key)?.policy.slowStartMs).toBe(2000)
    expect(t.findings.get('BackendPolicy shop/a')?.problems).toEqual(['Service shop/web already has BackendPolicy shop/b; that one counts (Conflicted)'])
    expect(t.findings.get('BackendPolicy shop/c')?.problems).toHaveLength(3)
    expect(translate(service('shop/x'), own('guest/p', {})).destinations.size).toBe(0)
  })
})
