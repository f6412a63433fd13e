// docs/routing.md says of each field what becomes of it; here every row is tried, and no row is without a try.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { objectKey, type ManifestKind, type ManifestObject } from '../../../model/manifest.ts'
import type { HttpRule } from '../../../model/route.ts'
import { object, tryObject } from '../arbitraries.ts'
import { backend, host, keyOf, make, service, translate, webService } from './testing.ts'
import type { RouteTranslation } from './translate.ts'

const page = readFileSync(new URL('../../../../docs/routing.md', import.meta.url), 'utf8')
const words = ['honoured', 'noted', 'reported', 'refused'] as const
type Word = (typeof words)[number]
/** Section and field to the word. */
const rows = new Map<string, Word>()
for (const section of page.split(/^## /m).slice(1)) {
  const title = section.slice(0, section.indexOf('\n'))
  for (const [, field = '', word] of section.matchAll(/^\| (.+?) \| (honoured|noted|reported|refused) \|/gm)) rows.set(`${title}: ${field}`, word as Word)
}

interface Try {
  /** The object in question; undefined if it is refused. */
  readonly about: ManifestObject | undefined
  readonly with?: readonly ManifestObject[]
  /** What is there because the field is honoured. */
  readonly shows?: (translation: RouteTranslation) => unknown
}

const firstRule = ({ tables }: RouteTranslation): HttpRule | undefined => tables[0]?.http[0]
const isOfPort = (name: string, port = 80) => ({ tables }: RouteTranslation): boolean => tables.some(({ key }) => key === keyOf(name, port))
const refs = [backend('web')]
const raw = (kind: ManifestKind, name: string, spec: object): ManifestObject | undefined => tryObject(kind, name, { spec })[0]
const http = (rule: object, more: object = {}): Try => ({ about: make('HTTPRoute', 'shop/r', { parentRefs: [webService], rules: [{ backendRefs: refs, ...rule }], ...more }), shows: (t) => (firstRule(t)?.matches.length ?? 0) > 0 })
const filter = (type: string, field: string, value: object, shows: (rule: HttpRule | undefined) => unknown, rule: object = {}): Try => ({ ...http({ ...rule, filters: [{ type, [field]: value }] }), shows: (t) => shows(firstRule(t)) })
const edge = make('Gateway', 'shop/edge', { gatewayClassName: 'sidestep-ingress', listeners: [{ name: 'http', port: 80, protocol: 'HTTP' }] })
const gateway = (more: object, listener: object = {}): Try => ({ about: make('Gateway', 'shop/edge', { gatewayClassName: 'sidestep-ingress', listeners: [{ name: 'l', port: 80, protocol: 'HTTP', ...listener }], ...more }), shows: ({ listeners }) => listeners.length > 0 })
const https = { port: 443, protocol: 'HTTPS' }
const to = { route: [{ destination: { host: 'web' } }] }
const virtual = (route: object, more: object = {}): Try => ({ about: make('VirtualService', 'shop/v', { hosts: ['web'], http: [{ ...to, ...route }], ...more }), shows: isOfPort('shop/web') })
const virtualMatch = (match: object, shows?: (rule: HttpRule | undefined) => unknown): Try => ({ ...virtual({ match: [match] }), ...(shows ? { shows: (t: RouteTranslation) => shows(firstRule(t)) } : {}) })
const virtualRule = (route: object, shows: (rule: HttpRule | undefined) => unknown): Try => ({ ...virtual(route), shows: (t) => shows(firstRule(t)) })
const only = (route: object): Try => ({ about: make('VirtualService', 'shop/v', { hosts: ['web'], http: [route] }), shows: isOfPort('shop/web') })
const policy = (trafficPolicy: object, shows: (t: NonNullable<ReturnType<RouteTranslation['destinations']['get']>>) => unknown = () => true, more: object = {}): Try => ({
  about: make('DestinationRule', 'shop/d', { host: 'web', trafficPolicy, ...more }),
  shows: ({ destinations }) => {
    const found = destinations.get(`shop/${host('shop/web')}`)
    return found && shows(found)
  },
})
const db = service('shop/db', [{ name: 'tcp-db', port: 5432 }, { name: 'tls-db', port: 8443 }])
const stream = (kind: 'tcp' | 'tls', match: object): Try => ({ about: make('VirtualService', 'shop/v', { hosts: ['db'], [kind]: [{ match: [match], route: [{ destination: { host: 'db' } }] }] }), with: [db], shows: ({ tables }) => tables[0]?.tcp[0] })
const headers = { requestHeaderModifier: { set: [{ name: 'a', value: 'b' }] } }
const limits = [{ requests: 1, per: '1s' }]

const tries: Readonly<Record<string, Try>> = {
  'HTTPRoute: `parentRefs` to a Service': http({}, { parentRefs: [{ ...webService, port: 80, sectionName: 'http' }] }),
  'HTTPRoute: `parentRefs` to a headless Service': { ...http({}, { parentRefs: [{ ...webService, name: 'hl' }] }), with: [service('shop/hl', [{ port: 80 }], { clusterIP: 'None' })] },
  'HTTPRoute: `parentRefs` to a Gateway': { ...http({}, { parentRefs: [{ name: 'edge' }] }), with: [edge] },
  'HTTPRoute: `parentRefs` to a waypoint': { ...http({}, { parentRefs: [{ name: 'w' }] }), with: [make('Gateway', 'shop/w', { gatewayClassName: 'sidestep-waypoint', listeners: [{ name: 'mesh', port: 15008, protocol: 'HBONE' }] })] },
  'HTTPRoute: `hostnames`': { ...http({}, { parentRefs: [{ name: 'edge' }], hostnames: ['a.com'] }), with: [edge], shows: ({ tables }) => tables[0]?.hostnames[0] === 'a.com' },
  'HTTPRoute: `hostnames` under a Service': http({}, { hostnames: ['a.com'] }),
  'HTTPRoute: `useDefaultGateways`': http({}, { useDefaultGateways: 'All' }),
  'HTTPRoute: `matches.path`': http({ matches: [{ path: { type: 'RegularExpression', value: '/a.*' } }] }),
  'HTTPRoute: `matches.headers`': http({ matches: [{ headers: [{ name: 'a', value: 'b' }] }] }),
  'HTTPRoute: `matches.queryParams`': http({ matches: [{ queryParams: [{ name: 'a', value: 'b' }] }] }),
  'HTTPRoute: `matches.method`': http({ matches: [{ method: 'GET' }] }),
  'HTTPRoute: a pattern that is none': http({ matches: [{ path: { type: 'RegularExpression', value: '(' } }] }),
  'HTTPRoute: `RequestHeaderModifier`': filter('RequestHeaderModifier', 'requestHeaderModifier', headers.requestHeaderModifier, (r) => r?.requestHeaders),
  'HTTPRoute: a header of framing': { about: raw('HTTPRoute', 'shop/r', { rules: [{ filters: [{ type: 'RequestHeaderModifier', requestHeaderModifier: { remove: ['Content-Length'] } }] }] }) },
  'HTTPRoute: `ResponseHeaderModifier`': filter('ResponseHeaderModifier', 'responseHeaderModifier', headers.requestHeaderModifier, (r) => r?.responseHeaders),
  'HTTPRoute: `RequestRedirect`': filter('RequestRedirect', 'requestRedirect', { scheme: 'https' }, (r) => r?.action.t === 'redirect', { backendRefs: [] }),
  'HTTPRoute: `URLRewrite`': filter('URLRewrite', 'urlRewrite', { hostname: 'a.com' }, (r) => r?.rewrite),
  'HTTPRoute: `RequestMirror`': filter('RequestMirror', 'requestMirror', { backendRef: backend('web-v2'), percent: 5 }, (r) => r?.mirrors[0]),
  'HTTPRoute: `CORS`': filter('CORS', 'cors', { allowOrigins: ['*'] }, (r) => r?.cors),
  'HTTPRoute: `ExternalAuth`': filter('ExternalAuth', 'externalAuth', {}, (r) => r),
  'HTTPRoute: `ExtensionRef`': { ...filter('ExtensionRef', 'extensionRef', { group: 'sidestep.dev', kind: 'RateLimitPolicy', name: 'l' }, (r) => r?.filters[0]), with: [make('RateLimitPolicy', 'shop/l', { limits })] },
  'HTTPRoute: `ExtensionRef` to something else': filter('ExtensionRef', 'extensionRef', { group: 'x.io', kind: 'Thing', name: 'l' }, (r) => r),
  'HTTPRoute: other filters of a backend': http({ backendRefs: [backend('web', { filters: [{ type: 'URLRewrite', urlRewrite: { hostname: 'a.com' } }] })] }),
  'HTTPRoute: `backendRefs`': http({ backendRefs: [backend('web', { weight: 3 }), { group: 'networking.istio.io', kind: 'Hostname', name: host('other/web'), port: 80 }] }),
  'HTTPRoute: a backend that is not there': http({ backendRefs: [backend('gone')] }),
  'HTTPRoute: `timeouts`': { ...http({ timeouts: { request: '1s' } }), shows: (t) => firstRule(t)?.timeouts.requestMs },
  'HTTPRoute: `retry`': { ...http({ retry: {} }), shows: (t) => firstRule(t)?.retry?.attempts === 2 },
  'HTTPRoute: `sessionPersistence`': { ...http({ sessionPersistence: {} }), shows: (t) => firstRule(t)?.sessionPersistence?.name },
  'HTTPRoute: `name`': { ...http({ name: 'n' }), shows: (t) => firstRule(t)?.name === 'n' },
  'GRPCRoute, TCPRoute, TLSRoute, ReferenceGrant: `GRPCRoute` `matches`': { about: make('GRPCRoute', 'shop/g', { parentRefs: [webService], rules: [{ matches: [{ method: { service: 'a.B' } }, { method: { type: 'RegularExpression', method: 'Get.*' } }], backendRefs: refs }] }), shows: (t) => firstRule(t)?.matches[0]?.path },
  'GRPCRoute, TCPRoute, TLSRoute, ReferenceGrant: `GRPCRoute` filters': { about: make('GRPCRoute', 'shop/g', { parentRefs: [webService], rules: [{ filters: [{ type: 'RequestHeaderModifier', ...headers }], backendRefs: refs }] }), shows: (t) => firstRule(t)?.requestHeaders },
  'GRPCRoute, TCPRoute, TLSRoute, ReferenceGrant: `GRPCRoute` with a redirect': { about: raw('GRPCRoute', 'shop/g', { rules: [{ filters: [{ type: 'RequestRedirect', requestRedirect: {} }] }] }) },
  'GRPCRoute, TCPRoute, TLSRoute, ReferenceGrant: `TCPRoute`': { about: make('TCPRoute', 'shop/t', { parentRefs: [{ ...webService, name: 'db', port: 5432 }], rules: [{ backendRefs: refs }] }), with: [db], shows: ({ tables }) => tables[0]?.tcp[0] },
  'GRPCRoute, TCPRoute, TLSRoute, ReferenceGrant: `TLSRoute`': { about: make('TLSRoute', 'shop/t', { parentRefs: [{ ...webService, name: 'db', port: 8443 }], hostnames: ['a.com'], rules: [{ backendRefs: refs }] }), with: [db], shows: ({ tables }) => tables[0]?.tcp[0]?.serverNames[0] === 'a.com' },
  'GRPCRoute, TCPRoute, TLSRoute, ReferenceGrant: `ReferenceGrant`': { ...http({ backendRefs: [backend('web', { namespace: 'other' })] }), with: [make('ReferenceGrant', 'other/g', { from: [{ group: 'gateway.networking.k8s.io', kind: 'HTTPRoute', namespace: 'shop' }], to: [{ group: '', kind: 'Service' }] })] },
  'Gateway: `gatewayClassName`': { ...gateway({ gatewayClassName: 'mine' }), with: [object('GatewayClass', 'mine', { spec: { controllerName: 'sidestep.dev/ingress' } })] },
  'Gateway: another class': gateway({ gatewayClassName: 'nginx' }),
  'Gateway: `listeners`': gateway({}),
  'Gateway: listeners that cannot be told apart': gateway({ listeners: [{ name: 'a', port: 80, protocol: 'HTTP' }, { name: 'b', port: 80, protocol: 'TCP' }] }),
  'Gateway: a listener of the protocol UDP': gateway({}, { protocol: 'UDP' }),
  'Gateway: `listeners.tls`': { ...gateway({}, { ...https, tls: { certificateRefs: [{ name: 'c' }] } }), shows: ({ listeners }) => listeners[0]?.tls?.certificates[0] === 'shop/c' },
  'Gateway: `listeners.tls.options`': gateway({}, { ...https, tls: { options: { a: 'b' } } }),
  'Gateway: a Secret of another namespace without grant': gateway({}, { ...https, tls: { certificateRefs: [{ name: 'c', namespace: 'other' }] } }),
  'Gateway: `listeners.allowedRoutes`': { ...gateway({}, { allowedRoutes: { namespaces: { from: 'All' } } }), with: [make('HTTPRoute', 'other/r', { parentRefs: [{ name: 'edge', namespace: 'shop' }], rules: [{ backendRefs: refs }] })], shows: firstRule },
  'Gateway: `tls.frontend`': { ...gateway({ tls: { frontend: { default: { validation: { caCertificateRefs: [{ group: '', kind: 'ConfigMap', name: 'ca' }] } } } } }, { ...https, tls: { certificateRefs: [{ name: 'c' }] } }), shows: ({ listeners }) => listeners[0]?.clientCertificates },
  'Gateway: `tls.backend`': gateway({ tls: { backend: {} } }),
  'Gateway: `addresses`': gateway({ addresses: [{ value: '192.0.2.1' }] }),
  'Gateway: `allowedListeners`': gateway({ allowedListeners: {} }),
  'Gateway: `infrastructure.parametersRef`': gateway({ infrastructure: { parametersRef: { group: '', kind: 'ConfigMap', name: 'x' } } }),
  'Gateway: `defaultScope`': gateway({ defaultScope: 'All' }),
  'VirtualService: `hosts`': virtual({}),
  'VirtualService: `hosts` that are no service': virtual({}, { hosts: ['web', '10.0.0.1'] }),
  'VirtualService: `gateways` with `mesh`': virtual({}, { gateways: ['mesh'] }),
  'VirtualService: other `gateways`': virtual({}, { gateways: ['mesh', 'edge'] }),
  'VirtualService: `exportTo`': { ...virtual({}, { exportTo: ['.'] }), shows: (t) => firstRule(t)?.matches[0]?.sourceNamespaces?.[0] === 'shop' },
  'VirtualService: `match.uri`': virtualMatch({ uri: { prefix: '/a' }, ignoreUriCase: true }, (r) => r?.matches[0]?.path),
  'VirtualService: `match.headers`': virtualMatch({ headers: { cookie: { regex: '.*a=b.*' } }, withoutHeaders: { x: {} } }, (r) => r?.matches[0]?.headers.length === 2),
  'VirtualService: `match.queryParams`': virtualMatch({ queryParams: { a: { exact: 'b' } } }, (r) => r?.matches[0]?.query[0]),
  'VirtualService: `match.method`, `match.scheme`, `match.authority`': virtualMatch({ method: { exact: 'GET' }, scheme: { exact: 'http' }, authority: { exact: 'a.com' } }, (r) => r?.matches[0]?.method && r.matches[0].scheme && r.matches[0].authority),
  'VirtualService: `match.port`': virtualMatch({ port: 80 }),
  'VirtualService: `match.sourceNamespace`': virtualMatch({ sourceNamespace: 'guest' }, (r) => r?.matches[0]?.sourceNamespaces),
  'VirtualService: `match.sourceLabels`': virtualMatch({ sourceLabels: { a: 'b' } }),
  'VirtualService: a header condition `@request.auth.claims`': virtualMatch({ headers: { '@request.auth.claims.a': { exact: 'b' } } }),
  'VirtualService: `match.statPrefix`': virtualMatch({ statPrefix: 'a' }),
  'VirtualService: `route`': virtualRule({ route: [{ destination: { host: 'web', port: { number: 80 } }, weight: 1 }, { destination: { host: 'web-v2' }, weight: 3, headers: { request: { set: { a: 'b' } } } }] }, (r) => r?.action.t === 'forward' && r.action.backends[1]?.requestHeaders),
  'VirtualService: a destination that is not there': virtual({ route: [{ destination: { host: 'gone' } }] }),
  'VirtualService: `redirect`': { ...only({ redirect: { uri: '/' } }), shows: (t) => firstRule(t)?.action.t === 'redirect' },
  'VirtualService: `directResponse`': { ...only({ directResponse: { status: 503 } }), shows: (t) => firstRule(t)?.action.t === 'respond' },
  'VirtualService: `delegate`': only({ delegate: { name: 'x' } }),
  'VirtualService: `rewrite`': virtualRule({ rewrite: { uri: '/', authority: 'a.com' } }, (r) => r?.rewrite?.path && r.rewrite.hostname),
  'VirtualService: `timeout`': virtualRule({ timeout: '1s' }, (r) => r?.timeouts.requestMs),
  'VirtualService: `retries`': virtualRule({ retries: { attempts: 3 } }, (r) => r?.retry?.attempts === 3),
  'VirtualService: `retries.retryRemoteLocalities`': virtual({ retries: { attempts: 3, retryRemoteLocalities: true } }),
  'VirtualService: an unknown word in `retries.retryOn`': virtual({ retries: { attempts: 3, retryOn: 'full-moon' } }),
  'VirtualService: `fault`': virtualRule({ fault: { abort: { httpStatus: 500, percentage: { value: 1 } } } }, (r) => r?.fault?.abort),
  'VirtualService: `fault.delay.exponentialDelay`': virtual({ fault: { delay: { exponentialDelay: '1s', percentage: { value: 1 } } } }),
  'VirtualService: `mirror`, `mirrors`': virtualRule({ mirror: { host: 'web-v2' }, mirrors: [{ destination: { host: 'web' } }] }, (r) => r?.mirrors.length === 2),
  'VirtualService: `corsPolicy`': virtualRule({ corsPolicy: { allowOrigins: [{ prefix: 'https://' }] } }, (r) => r?.cors?.allowOrigins[0]),
  'VirtualService: `corsPolicy.unmatchedPreflights`': virtual({ corsPolicy: { unmatchedPreflights: 'FORWARD' } }),
  'VirtualService: `headers`': virtualRule({ headers: { response: { remove: ['a'] } } }, (r) => r?.responseHeaders),
  'VirtualService: `rateLimit`': virtual({ rateLimit: {} }),
  'VirtualService: `tls`': stream('tls', { sniHosts: ['a.com'] }),
  'VirtualService: `tcp`': stream('tcp', { port: 5432 }),
  'VirtualService: `destinationSubnets`': stream('tcp', { destinationSubnets: ['10.0.0.0/8'] }),
  'DestinationRule: `host`': policy({}),
  'DestinationRule: `host` of another namespace\'s service': { about: make('DestinationRule', 'shop/d', { host: host('other/web') }) },
  'DestinationRule: `exportTo`': policy({}, undefined, { exportTo: ['.'] }),
  'DestinationRule: `workloadSelector`': policy({}, undefined, { workloadSelector: { matchLabels: { a: 'b' } } }),
  'DestinationRule: `subsets`': policy({}, ({ subsets }) => subsets.has('v1'), { subsets: [{ name: 'v1' }] }),
  'DestinationRule: `loadBalancer.simple`': policy({ loadBalancer: { simple: 'RANDOM' } }, (p) => p.policy.loadBalancer.kind === 'random'),
  'DestinationRule: `loadBalancer.simple: PASSTHROUGH`': policy({ loadBalancer: { simple: 'PASSTHROUGH' } }),
  'DestinationRule: `loadBalancer.consistentHash`': policy({ loadBalancer: { consistentHash: { httpHeaderName: 'X' } } }, (p) => p.policy.loadBalancer.kind === 'consistentHash'),
  'DestinationRule: `loadBalancer.localityLbSetting.enabled`': policy({ loadBalancer: { localityLbSetting: { enabled: false } } }, (p) => !p.policy.localityFailover),
  'DestinationRule: `distribute`, `failover`, `failoverPriority`': policy({ loadBalancer: { localityLbSetting: { failover: [{ from: 'a', to: 'b' }] } } }),
  'DestinationRule: `loadBalancer.warmup`': policy({ loadBalancer: { warmup: { duration: '9s' } } }, (p) => p.policy.slowStartMs === 9000),
  'DestinationRule: `connectionPool`': policy({ connectionPool: { http: { http2MaxRequests: 9 } } }, (p) => p.policy.limits.requests === 9),
  'DestinationRule: `connectionPool.tcp.tcpKeepalive`': policy({ connectionPool: { tcp: { tcpKeepalive: {} } } }),
  'DestinationRule: `outlierDetection`': policy({ outlierDetection: {} }, (p) => p.policy.ejection),
  'DestinationRule: `outlierDetection.splitExternalLocalOriginErrors`': policy({ outlierDetection: { splitExternalLocalOriginErrors: true } }),
  'DestinationRule: `tls.mode: SIMPLE`, `MUTUAL`': policy({ tls: { mode: 'MUTUAL', credentialName: 'c' } }, (p) => p.policy.tls?.certificateSecret === 'shop/c'),
  'DestinationRule: `tls.mode: ISTIO_MUTUAL`': policy({ tls: { mode: 'ISTIO_MUTUAL' } }),
  'DestinationRule: certificates in files': policy({ tls: { mode: 'SIMPLE', caCertificates: '/etc/ca.pem' } }),
  'DestinationRule: `tls.insecureSkipVerify`': policy({ tls: { mode: 'SIMPLE', insecureSkipVerify: true } }),
  'DestinationRule: `retryBudget`': policy({ retryBudget: { percent: 5 } }, (p) => p.policy.retryBudget.percent === 5),
  'DestinationRule: `portLevelSettings`': policy({ portLevelSettings: [{ port: { number: 80 } }] }, (p) => p.ports.has(80)),
  'DestinationRule: `portLevelSettings` of a subset': policy({}, undefined, { subsets: [{ name: 'v1', trafficPolicy: { portLevelSettings: [{ port: { number: 80 } }] } }] }),
  'DestinationRule: `tunnel`, `proxyProtocol`': policy({ tunnel: {} }),
  'Our own kinds: `BackendPolicy`': { about: make('BackendPolicy', 'shop/p', { targetRefs: [{ kind: 'Service', name: 'web', sectionName: 'http' }], slowStart: '1s' }), shows: ({ destinations }) => destinations.get(`shop/${host('shop/web')}`)?.ports.get(80) },
  'Our own kinds: `BackendPolicy` to something else': { about: make('BackendPolicy', 'shop/p', { targetRefs: [{ kind: 'Gateway', name: 'edge' }] }) },
  'Our own kinds: `RateLimitPolicy`': { about: make('RateLimitPolicy', 'shop/l', { targetRefs: [{ kind: 'Service', name: 'web' }], limits }), shows: (t) => firstRule(t)?.filters[0] },
  'Our own kinds: `CachePolicy`': { about: make('CachePolicy', 'shop/c', { targetRefs: [{ kind: 'Service', name: 'web' }] }), shows: (t) => firstRule(t)?.filters[0] },
  'Our own kinds: a target that is not there': { about: make('CachePolicy', 'shop/c', { targetRefs: [{ kind: 'Service', name: 'gone' }] }) },
}

describe('docs/routing.md', () => {
  test('has a row for each try, and a try for each row', () => expect(Object.keys(tries)).toEqual([...rows.keys()]))

  test.each([...rows])('%s is %s', (row, word) => {
    const { about, with: others = [], shows } = tries[row] ?? { about: undefined }
    if (!about) return expect(word).toBe('refused')
    const translation = translate(about, ...others)
    const { problems = [], notes = [] } = translation.findings.get(objectKey(about)) ?? {}
    expect(problems.length > 0 ? 'reported' : notes.length > 0 ? 'noted' : 'honoured').toBe(word)
    if (word === 'honoured') expect(shows?.(translation)).toBeTruthy()
    return undefined
  })
})
