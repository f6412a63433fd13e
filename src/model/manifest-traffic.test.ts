// The kinds of L7 traffic: what is understood, what is refused at which line, and that nothing anybody writes throws.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { manifestKinds, objectKey, type ManifestKind } from './manifest.ts'
import { parseManifest } from './manifest-parse.ts'

const gateway = 'gateway.networking.k8s.io'
const istio = 'networking.istio.io'
const own = 'sidestep.dev/v1alpha1'
const document = (kind: string, apiVersion: string, spec: object): string => JSON.stringify({ apiVersion, kind, metadata: { name: 'x', namespace: 'shop' }, spec })
const tls = { certificateRefs: [{ name: 'cert' }] }
const redirect = (fields: object): object => ({ filters: [{ type: 'RequestRedirect', requestRedirect: fields }] })
const http = (rule: object): string => document('HTTPRoute', `${gateway}/v1`, { rules: [rule] })
const virtual = (route: object): string => document('VirtualService', `${istio}/v1`, { hosts: ['web'], http: [route] })
const to = { route: [{ destination: { host: 'web' } }] }

describe('kinds of L7 traffic', () => {
  test.each([
    ['GatewayClass', [`${gateway}/v1`, `${gateway}/v1beta1`], { controllerName: 'sidestep.dev/gateway' }],
    ['Gateway', [`${gateway}/v1`, `${gateway}/v1beta1`], { gatewayClassName: 'c', listeners: [{ name: 'l', port: 80, protocol: 'HTTP' }] }],
    ['ReferenceGrant', [`${gateway}/v1`, `${gateway}/v1beta1`], { from: [{ group: gateway, kind: 'HTTPRoute', namespace: 'a' }], to: [{ group: '', kind: 'Service' }] }],
    ['HTTPRoute', [`${gateway}/v1`, `${gateway}/v1beta1`], { parentRefs: [{ group: '', kind: 'Service', name: 'web' }] }],
    ['GRPCRoute', [`${gateway}/v1`, `${gateway}/v1alpha2`], { rules: [{ matches: [{ method: { service: 'a.B', method: 'C' } }] }] }],
    ['TCPRoute', [`${gateway}/v1`, `${gateway}/v1alpha2`], { rules: [{ backendRefs: [{ name: 'db', port: 1 }] }] }],
    ['TLSRoute', [`${gateway}/v1`, `${gateway}/v1alpha3`, `${gateway}/v1alpha2`], { hostnames: ['*.a.com'], rules: [{ backendRefs: [{ name: 'db', port: 1 }] }] }],
    ['VirtualService', [`${istio}/v1`, `${istio}/v1beta1`, `${istio}/v1alpha3`], { hosts: ['web'], http: [to] }],
    ['DestinationRule', [`${istio}/v1`, `${istio}/v1beta1`, `${istio}/v1alpha3`], { host: 'web', subsets: [{ name: 'v1', labels: { version: 'v1' } }] }],
    ['RequestAuthentication', ['security.istio.io/v1', own], { jwtRules: [{ issuer: 'a', jwksUri: 'https://a.com/keys' }] }],
    ['RateLimitPolicy', [own], { limits: [{ requests: 10, per: '1s', by: [{ type: 'Header', name: 'x-user' }] }] }],
    ['CachePolicy', [own], { defaultTtl: '1s', staleIfError: '1m' }],
    ['BackendPolicy', [own], { targetRefs: [{ kind: 'Service', name: 'web' }], loadBalancer: { type: 'PeakEwma' }, healthCheck: { type: 'HTTP', path: '/ready' } }],
  ] as const)('%s is read under each of its versions', (kind, versions, spec) => {
    for (const version of versions) {
      const { objects, problems, notes } = parseManifest(document(kind, version, spec), 'f.yaml')
      expect([problems, notes]).toEqual([[], []])
      expect(objects.map(objectKey)).toEqual([kind === 'GatewayClass' ? `${kind} x` : `${kind} shop/x`])
    }
  })

  test('Istio\'s own Gateway is noted, not mistaken for the Gateway API\'s', () => {
    expect(parseManifest(document('Gateway', `${istio}/v1`, { servers: [] }), 'f.yaml')).toMatchObject({ objects: [], problems: [], notes: [{ line: 1 }] })
  })

  test('durations become milliseconds; a rule without matches and a route without rules mean everything', () => {
    const [route] = parseManifest(http({ timeouts: { request: '1m30s', backendRequest: '500ms' } }), 'f.yaml').objects
    expect(route).toMatchObject({ spec: { rules: [{ matches: [], timeouts: { request: 90_000, backendRequest: 500 } }] } })
    expect(parseManifest(document('HTTPRoute', `${gateway}/v1`, {}), 'f.yaml').objects).toMatchObject([{ spec: { rules: [{ matches: [], backendRefs: [] }] } }])
    expect(parseManifest(virtual({ ...to, timeout: '1.5s' }), 'f.yaml').objects).toMatchObject([{ spec: { http: [{ timeout: 1500 }] } }])
  })

  test('what L7 policies say is kept as written', () => {
    const rules = [{
      from: [{ source: { requestPrincipals: ['iss/*'], notRequestPrincipals: ['iss/x'], principals: ['*'] } }],
      to: [{ operation: { hosts: ['a.com'], methods: ['GET'], paths: ['/a/*'], notPaths: ['/a/b'] } }],
      when: [{ key: 'request.auth.claims[groups]', values: ['admin'] }, { key: 'request.headers[x-a]', notValues: ['b'] }],
    }]
    const spec = { action: 'CUSTOM', provider: { name: 'ext' }, targetRefs: [{ group: gateway, kind: 'Gateway', name: 'w' }], rules }
    expect(parseManifest(document('AuthorizationPolicy', 'security.istio.io/v1', spec), 'f.yaml')).toMatchObject({ problems: [], objects: [{ spec }] })
  })
})

describe('a mistake is refused, because it would change where requests go', () => {
  test.each([
    ['a misspelt header match', http({ matches: [{ header: [{ name: 'a', value: 'b' }] }] }), /header/],
    ['a misspelt allowedRoutes', document('Gateway', `${gateway}/v1`, { gatewayClassName: 'c', listeners: [{ name: 'l', port: 80, protocol: 'HTTP', allowedRoute: {} }] }), /allowedRoute/],
    ['a relative path', http({ matches: [{ path: { value: 'a' } }] }), /start with/],
    ['a path that normalisation takes away', http({ matches: [{ path: { type: 'Exact', value: '/a/../b' } }] }), /normalisation/],
    ['a header that ends a line', http({ filters: [{ type: 'RequestHeaderModifier', requestHeaderModifier: { set: [{ name: 'a', value: 'b\r\nc: d' }] } }] }), /printable/],
    ['a header of framing', http({ filters: [{ type: 'RequestHeaderModifier', requestHeaderModifier: { set: [{ name: 'Transfer-Encoding', value: 'chunked' }] } }] }), /proxy itself/],
    ['two actions for one header', http({ filters: [{ type: 'ResponseHeaderModifier', responseHeaderModifier: { set: [{ name: 'a', value: 'b' }], remove: ['A'] } }] }), /more than one action/],
    ['a filter without its value', http({ filters: [{ type: 'CORS' }] }), /needed for the type CORS/],
    ['a redirect with backends', http({ ...redirect({}), backendRefs: [{ name: 'a', port: 1 }] }), /no backendRefs/],
    ['a redirect and a rewrite', http({ filters: [{ type: 'RequestRedirect', requestRedirect: {} }, { type: 'URLRewrite', urlRewrite: {} }] }), /exclude each other/],
    ['a replaced prefix of an exact path', http({ matches: [{ path: { type: 'Exact', value: '/a' } }], ...redirect({ path: { type: 'ReplacePrefixMatch', replacePrefixMatch: '/b' } }) }), /ReplacePrefixMatch/],
    ['a status that is no redirect', http(redirect({ statusCode: 200 })), /301/],
    ['a Service without port', http({ backendRefs: [{ name: 'a' }] }), /needs a port/],
    ['a try longer than the request', http({ timeouts: { request: '1s', backendRequest: '2s' } }), /longer/],
    ['the same parent twice', document('HTTPRoute', `${gateway}/v1`, { parentRefs: [{ name: 'g' }, { name: 'g' }] }), /named twice/],
    ['two rules of one name', document('HTTPRoute', `${gateway}/v1`, { rules: [{ name: 'a' }, { name: 'a' }] }), /two rules/],
    ['a GRPCRoute that redirects', document('GRPCRoute', `${gateway}/v1`, { rules: [redirect({})] }), /GRPCRoute/],
    ['HTTPS without certificate', document('Gateway', `${gateway}/v1`, { gatewayClassName: 'c', listeners: [{ name: 'l', port: 1, protocol: 'HTTPS', tls: {} }] }), /certificate/],
    ['HTTP with one', document('Gateway', `${gateway}/v1`, { gatewayClassName: 'c', listeners: [{ name: 'l', port: 1, protocol: 'http', tls }] }), /does not belong/],
    ['a VirtualService with a misspelt condition', virtual({ match: [{ url: { exact: '/' } }], ...to }), /url/],
    ['one with two actions', virtual({ ...to, redirect: { uri: '/' } }), /exactly one/],
    ['two ways to match', virtual({ match: [{ uri: { exact: '/', prefix: '/' } }], ...to }), /only one/],
    ['a header with a line end', virtual({ ...to, headers: { request: { set: { a: 'b\nc' } } } }), /line ends/],
    ['two hash keys', document('DestinationRule', `${istio}/v1`, { host: 'a', trafficPolicy: { loadBalancer: { consistentHash: { useSourceIp: true, httpHeaderName: 'a' } } } }), /exactly one/],
    ['misspelt audiences', document('RequestAuthentication', 'security.istio.io/v1', { jwtRules: [{ issuer: 'a', audience: ['b'] }] }), /audience/],
    ['keys from a file', document('RequestAuthentication', 'security.istio.io/v1', { jwtRules: [{ issuer: 'a', jwksUri: 'file:///etc/passwd' }] }), /http/],
    ['a limit of nothing', document('RateLimitPolicy', own, { limits: [{ requests: 0, per: '1s' }] }), /requests/],
    ['a check faster than it may be', document('BackendPolicy', own, { targetRefs: [{ kind: 'Service', name: 'a' }], healthCheck: { type: 'TCP', interval: '1ms', timeout: '1ms' } }), /100ms/],
  ])('%s', (_name, text, reason) => {
    const { objects, problems } = parseManifest(text, 'f.yaml')
    expect(objects).toEqual([])
    expect(problems.map((problem) => problem.reason).join('\n')).toMatch(reason)
    expect(problems[0]).toMatchObject({ object: expect.stringMatching(/ shop\/x$/) })
  })
})

const keys = ['listeners', 'rules', 'matches', 'filters', 'backendRefs', 'parentRefs', 'hosts', 'http', 'match', 'route', 'uri', 'trafficPolicy', 'loadBalancer', 'subsets', 'jwtRules', 'limits', 'targetRefs', 'type', 'name', 'port', 'value', '__proto__']
const anything = fc.letrec((tie) => ({
  node: fc.oneof(
    { depthSize: 'small' }, fc.constantFrom('', '/', 'a', '*.a.com', 'GET', '1s', 'HTTP', 'RequestRedirect'), fc.integer(), fc.boolean(), fc.constant(null),
    fc.array(tie('node'), { maxLength: 3 }), fc.dictionary(fc.constantFrom(...keys), tie('node'), { maxKeys: 4 }),
  ),
})).node
const kinds = ['Gateway', 'GatewayClass', 'ReferenceGrant', 'HTTPRoute', 'GRPCRoute', 'TCPRoute', 'TLSRoute', 'VirtualService', 'DestinationRule', 'RequestAuthentication', 'RateLimitPolicy', 'CachePolicy', 'BackendPolicy'] as const

test('whatever stands there is read or refused with a line, never thrown', () => {
  fc.assert(fc.property(fc.constantFrom<ManifestKind>(...kinds), anything, (kind, spec) => {
    const text = JSON.stringify({ apiVersion: manifestKinds[kind].apiVersions[0], kind, metadata: { name: 'x' }, spec })
    const { objects, problems } = parseManifest(text, 'f.yaml')
    expect(objects.length > 0 || problems.length > 0).toBe(true)
    for (const problem of problems) expect(problem.line).toBeGreaterThan(0)
  }), { numRuns: 500 })
})
