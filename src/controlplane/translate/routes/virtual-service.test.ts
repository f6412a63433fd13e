// VirtualServices: for whom they are, what their conditions and actions come to, and what is said of the rest.
import { describe, expect, test } from 'vitest'
import type { ManifestObject } from '../../../model/manifest.ts'
import type { HttpRule } from '../../../model/route.ts'
import { object } from '../arbitraries.ts'
import { answer, backend, host, keyOf, make, service, translate, webService } from './testing.ts'

const to = (name: string, more: object = {}): object => ({ route: [{ destination: { host: name } }], ...more })
const virtual = (name: string, http: readonly object[], more: object = {}, metadata: object = {}) => make('VirtualService', name, { hosts: ['web'], http, ...more }, metadata)
const web = keyOf('shop/web')
const problemsOf = (object: ManifestObject, ...more: readonly ManifestObject[]): readonly string[] => translate(object, ...more).findings.get('VirtualService shop/v')?.problems ?? []
/** The first rule that a VirtualService comes to. */
const rule = (http: object, ...more: readonly ManifestObject[]): HttpRule | undefined => translate(virtual('shop/v', [http]), ...more).tables.find(({ key }) => key === web)?.http[0]

describe('whom a VirtualService is for', () => {
  test('everybody, in its service\'s namespace; its own callers, elsewhere', () => {
    const t = translate(virtual('shop/v', [to('web-v2')]), make('VirtualService', 'guest/v', { hosts: [host('shop/web')], http: [{ match: [{ uri: { exact: '/a' } }], ...to(host('shop/web')) }] }))
    expect(answer(t, web, '/')).toBe('web-v2')
    expect(answer(t, web, '/a', { sourceNamespace: 'guest' })).toBe('web')
    expect(answer(t, web, '/b', { sourceNamespace: 'guest' })).toBe('404')
    expect(answer(t, web, '/a', { sourceNamespace: 'third' })).toBe('web-v2')
    expect(t.findings.get('VirtualService guest/v')?.notes.join()).toMatch(/callers from guest only/)
  })

  test('a root namespace speaks for all; exportTo narrows', () => {
    expect(answer(translate(make('VirtualService', 'istio-system/v', { hosts: [host('shop/web')], http: [to(host('shop/web-v2'))] })), web, '/')).toBe('web-v2')
    const t = translate(virtual('shop/v', [to('web-v2')], { exportTo: ['.', 'guest'] }))
    expect(['shop', 'guest', 'third'].map((sourceNamespace) => answer(t, web, '/', { sourceNamespace }))).toEqual(['web-v2', 'web-v2', 'default'])
    expect(translate(make('VirtualService', 'guest/v', { hosts: [host('shop/web')], http: [to('x')], exportTo: ['third'] })).tables).toEqual([])
  })

  test('the oldest counts, and an exact host before a wildcard', () => {
    const old = virtual('shop/b', [to('web-v2')], {}, { creationTimestamp: '2020-01-01T00:00:00Z' })
    const t = translate(virtual('shop/a', [to('web')]), old)
    expect(answer(t, web, '/')).toBe('web-v2')
    expect(t.findings.get('VirtualService shop/a')?.problems).toEqual([`the host ${host('shop/web')} is already routed by VirtualService shop/b; that one counts`])
    const wide = make('VirtualService', 'shop/wide', { hosts: ['*.shop.svc.cluster.local'], http: [to('web')] }, { creationTimestamp: '2020-01-01T00:00:00Z' })
    const both = translate(wide, virtual('shop/a', [to('web-v2')]))
    expect([answer(both, web, '/'), answer(both, keyOf('shop/web-v2'), '/'), answer(both, keyOf('other/web'), '/')]).toEqual(['web-v2', 'web', 'default'])
  })

  test('a route of the Gateway API at the same port counts before it', () => {
    const t = translate(virtual('shop/v', [to('web')]), make('HTTPRoute', 'shop/r', { parentRefs: [webService], rules: [{ backendRefs: [backend('web-v2')] }] }))
    expect(answer(t, web, '/')).toBe('web-v2')
    expect(t.findings.get('VirtualService shop/v')?.problems).toEqual(['port 80 of Service shop/web has routes of the Gateway API; those count'])
  })

  test('gateways other than mesh are not served', () => {
    expect(problemsOf(virtual('shop/v', [to('web')], { gateways: ['istio-system/edge'] })).join()).toMatch(/gateways other than mesh/)
    expect(translate(virtual('shop/v', [to('web')], { gateways: ['edge'] })).tables).toEqual([])
    expect(answer(translate(virtual('shop/v', [to('web-v2')], { gateways: ['edge', 'mesh'] })), web, '/')).toBe('web-v2')
  })

  test('somebody else\'s service is not sent to a third namespace', () => {
    const guest = make('VirtualService', 'guest/v', { hosts: [host('shop/web')], http: [to(host('other/web'))] })
    expect(answer(translate(guest), web, '/', { sourceNamespace: 'guest' })).toBe('500')
    const grant = make('ReferenceGrant', 'other/g', { from: [{ group: 'networking.istio.io', kind: 'VirtualService', namespace: 'guest' }], to: [{ group: '', kind: 'Service' }] })
    expect(answer(translate(guest, grant), web, '/', { sourceNamespace: 'guest' })).toBe('web')
  })
})

describe('conditions', () => {
  const holds = (match: object, path: string, parts: Parameters<typeof answer>[3] = {}): boolean => answer(translate(virtual('shop/v', [to('web-v2', { match: [match] })])), web, path, parts) === 'web-v2'

  test('rules in their order, the first that holds; 404 for the rest', () => {
    const t = translate(virtual('shop/v', [to('web', { match: [{ uri: { prefix: '/a' } }] }), to('web-v2', { match: [{ uri: { exact: '/a/b' } }, { method: { exact: 'PUT' } }] })]))
    expect([answer(t, web, '/a/b'), answer(t, web, '/c', { method: 'PUT' }), answer(t, web, '/c')]).toEqual(['web', 'web-v2', '404'])
  })

  test.each<[string, object, string, Parameters<typeof answer>[3], boolean]>([
    ['an exact URI', { uri: { exact: '/a' } }, '/a', {}, true],
    ['another one', { uri: { exact: '/a' } }, '/a/', {}, false],
    ['a prefix is text', { uri: { prefix: '/a.' } }, '/a.bc', {}, true],
    ['and no pattern', { uri: { prefix: '/a.' } }, '/abc', {}, false],
    ['a pattern is for the whole path', { uri: { regex: '/a+' } }, '/aab', {}, false],
    ['without case', { uri: { prefix: '/Ab' }, ignoreUriCase: true }, '/aBc', {}, true],
    ['exact without case', { uri: { exact: '/Ab' }, ignoreUriCase: true }, '/aB', {}, true],
    ['a method', { method: { regex: 'GET|HEAD' } }, '/', { method: 'HEAD' }, true],
    ['an authority', { authority: { prefix: 'api.' } }, '/', { authority: 'api.example.com' }, true],
    ['a scheme', { scheme: { exact: 'https' } }, '/', { scheme: 'http' }, false],
    ['any scheme', { scheme: { prefix: 'http' } }, '/', { scheme: 'http' }, true],
    ['no scheme at all', { scheme: { exact: 'ftp' } }, '/', {}, false],
    ['a header that is there', { headers: { 'X-User': {} } }, '/', { headers: [['x-user', '']] }, true],
    ['a cookie', { headers: { cookie: { regex: '^(.*?;)?\\s*(user=jason)(;.*)?$' } } }, '/', { headers: [['cookie', 'a=b; user=jason']] }, true],
    ['a header that is not', { withoutHeaders: { 'x-user': {} } }, '/', { headers: [['x-user', 'a']] }, false],
    ['a header with another value', { withoutHeaders: { 'x-user': { exact: 'a' } } }, '/', { headers: [['x-user', 'b']] }, true],
    ['a parameter', { queryParams: { v: { exact: '2' } } }, '/', { query: 'v=2' }, true],
    ['a caller\'s namespace', { sourceNamespace: 'guest' }, '/', { sourceNamespace: 'guest' }, true],
    ['another namespace', { sourceNamespace: 'guest' }, '/', { sourceNamespace: 'shop' }, false],
    ['another port', { port: 81 }, '/', {}, false],
    ['another gateway', { gateways: ['edge'] }, '/', {}, false],
    ['labels of the source are not known here', { sourceLabels: { app: 'a' } }, '/', {}, false],
    ['claims are not known here', { headers: { '@request.auth.claims.group': { exact: 'a' } } }, '/', {}, false],
    ['a pattern that is none', { uri: { regex: '(' } }, '/(', {}, false],
  ])('%s', (_name, match, path, parts, expected) => expect(holds(match, path, parts)).toBe(expected))

  test('what never holds is a problem, and opens nothing to others', () => {
    expect(problemsOf(virtual('shop/v', [to('web', { match: [{ sourceLabels: { app: 'a' } }] })]))).toEqual(['http.0: match.0 never holds: sourceLabels are not known where the destination\'s proxy decides'])
    expect(problemsOf(virtual('shop/v', [to('web', { match: [{ uri: { regex: '(' } }] })])).join()).toMatch(/never holds/)
  })
})

describe('actions', () => {
  test('weights, subsets, and destinations that are not there', () => {
    const subsets = make('DestinationRule', 'shop/d', { host: 'web', subsets: [{ name: 'v1', labels: { version: 'v1' } }] })
    const route = (...list: object[]) => answer(translate(subsets, virtual('shop/v', [{ route: list }])), web, '/')
    const d = (name: string, subset?: string, weight?: number): object => ({ destination: { host: name, ...(subset === undefined ? {} : { subset }) }, ...(weight === undefined ? {} : { weight }) })
    expect(route(d('web', 'v1', 90), d('web-v2', undefined, 10))).toBe('web@v1|web-v2')
    expect(route(d('web', 'v1'))).toBe('web@v1')
    expect(route(d('web', 'v9'))).toBe('500')
    expect(route(d('gone'))).toBe('500')
    expect(route(d('web', undefined, 1), d('web-v2'))).toBe('web')
    expect(route(d('web'), d('web-v2'))).toBe('500')
    expect(route({ destination: { host: 'web', port: { number: 81 } } })).toBe('500')
  })

  test('redirect, directResponse', () => {
    expect(rule({ redirect: { uri: '/x', authority: 'a.com:8443', scheme: 'https', redirectCode: 307 } })?.action).toEqual({
      t: 'redirect', redirect: { status: 307, scheme: 'https', hostname: 'a.com', port: 8443, path: { kind: 'full', value: '/x' } },
    })
    expect(rule({ redirect: { derivePort: 'FROM_REQUEST_PORT' } })?.action).toEqual({ t: 'redirect', redirect: { status: 301, port: 80 } })
    expect(rule({ directResponse: { status: 503, body: { bytes: 'aGk=' } } })?.action).toEqual({ t: 'respond', status: 503, body: 'hi' })
    expect(rule({ redirect: { redirectCode: 304 } })?.action).toEqual({ t: 'respond', status: 500 })
  })

  test('a rewrite depends on what the URI was matched by', () => {
    const rewrites = (http: object): readonly unknown[] => translate(virtual('shop/v', [http])).tables[0]?.http.map(({ rewrite }) => rewrite?.path) ?? []
    expect(rewrites(to('web', { match: [{ uri: { prefix: '/a.' } }, { uri: { exact: '/b' } }, { headers: { x: {} } }], rewrite: { uri: '/n\\', authority: 'in' } }))).toEqual([
      { kind: 'regex', pattern: '^/a\\.', substitution: '/n\\\\' }, { kind: 'full', value: '/n\\' }, { kind: 'regex', pattern: '^/', substitution: '/n\\\\' }, undefined,
    ])
    expect(rewrites(to('web', { rewrite: { uriRegexRewrite: { match: '^/s/([^/]+)', rewrite: '/\\1' } } }))[0]).toEqual({ kind: 'regex', pattern: '^/s/([^/]+)', substitution: '/\\1' })
    expect(rule(to('web', { rewrite: { uriRegexRewrite: { match: '(', rewrite: '/' } } }))?.action).toEqual({ t: 'respond', status: 500 })
    expect(rule(to('web', { rewrite: { authority: 'in' } }))?.rewrite).toEqual({ hostname: 'in' })
  })

  test('retries: Istio\'s where nobody says, none where nobody wants any', () => {
    expect(rule(to('web'))?.retry).toEqual({ attempts: 2, backoffMs: 25, statuses: [503], on: ['connectFailure', 'refusedStream', 'retriableGrpc'] })
    expect(rule(to('web', { retries: { attempts: 0 } }))?.retry?.attempts).toBe(0)
    expect(rule(to('web', { retries: { attempts: 3, perTryTimeout: '2s', retryOn: 'gateway-error, reset,429,retriable-4xx,unavailable', backoff: '10ms' } }))?.retry).toEqual({
      attempts: 3, backoffMs: 10, perTryTimeoutMs: 2000, statuses: [429, 409], on: ['gatewayError', 'reset', 'retriableGrpc'],
    })
  })

  test('faults, mirrors, headers, CORS, timeout', () => {
    const half = { numerator: 500_000, denominator: 1_000_000 }
    expect(rule(to('web', { fault: { delay: { fixedDelay: '5s', percentage: { value: 50 } }, abort: { grpcStatus: 'UNAVAILABLE', percentage: { value: 0.1 } } } }))?.fault).toEqual({
      delay: { ms: 5000, fraction: half }, abort: { grpcStatus: 14, fraction: { numerator: 1000, denominator: 1_000_000 } },
    })
    expect(rule(to('web', { fault: { abort: { httpStatus: 400 } } }))?.fault).toBeUndefined()
    const mirrors = rule(to('web', { mirror: { host: 'web-v2' }, mirrorPercentage: { value: 50 }, mirrors: [{ destination: { host: 'web' }, percentage: { value: 0 } }, { destination: { host: 'gone' } }] }))?.mirrors
    expect(mirrors).toMatchObject([{ backend: { service: { hostname: host('shop/web-v2') } }, fraction: half }])
    const changed = rule({ route: [{ destination: { host: 'web' }, headers: { response: { remove: ['Via'] } } }], headers: { request: { set: { Host: 'in', 'X-A': '1', 'Content-Length': '0' } } }, timeout: '3s' })
    expect(changed).toMatchObject({ requestHeaders: { set: [['x-a', '1']] }, rewrite: { hostname: 'in' }, timeouts: { requestMs: 3000 }, action: { backends: [{ responseHeaders: { remove: ['via'] } }] } })
    expect(rule(to('web', { corsPolicy: { allowOrigins: [{ exact: '*' }, { regex: 'https://.*' }, { exact: 'https://*.a.com' }], maxAge: '24h', allowCredentials: true } }))?.cors).toMatchObject({
      allowOrigins: [{ kind: 'presence' }, { kind: 'regex', value: 'https://.*' }], maxAgeSeconds: 86_400, allowCredentials: true,
    })
  })

  test.each([
    ['delegate', { delegate: { name: 'x' } }], ['rateLimit', to('web', { rateLimit: {} })], ['an unknown scheme', { redirect: { scheme: 'ftp' } }],
    ['a body that is no text', { directResponse: { status: 200, body: { bytes: '/w==' } } }],
  ])('%s: told, and answered 500', (_name, http) => {
    expect(rule(http)?.action).toEqual({ t: 'respond', status: 500 })
    expect(problemsOf(virtual('shop/v', [http])).join()).toMatch(/answered 500/)
  })

  test.each([
    ['a word of retryOn', to('web', { retries: { attempts: 1, retryOn: 'envoy-ratelimited' } })], ['an exponential delay', to('web', { fault: { delay: { exponentialDelay: '1s' } } })],
    ['a header of framing', to('web', { headers: { request: { set: { 'Transfer-Encoding': 'chunked' } } } })], ['a gRPC status that is none', to('web', { fault: { abort: { grpcStatus: '14', percentage: { value: 1 } } } })],
  ])('%s: told, and left out', (_name, http) => expect(problemsOf(virtual('shop/v', [http]))).not.toEqual([]))
})

test('connections: by port, by server name, by the caller\'s namespace', () => {
  const db = service('shop/db', [{ name: 'tcp-a', port: 1 }, { name: 'tls-b', port: 2 }, { name: 'http-c', port: 3 }])
  const route = [{ destination: { host: 'db' } }]
  const t = translate(db, make('VirtualService', 'shop/v', {
    hosts: ['db'],
    tls: [{ match: [{ sniHosts: ['*.a.com', 'b.com'], port: 2 }], route }],
    tcp: [{ match: [{ port: 1, sourceNamespace: 'guest' }, { port: 1, destinationSubnets: ['10.0.0.0/8'] }], route: [{ destination: { host: 'web' } }] }],
  }))
  expect(t.tables.map(({ key, hasDefault, http, tcp }) => [key, hasDefault, http.length, tcp.map(({ serverNames, sourceNamespaces, backends }) => [serverNames, sourceNamespaces, backends[0]?.port])])).toEqual([
    [keyOf('shop/db', 1), true, 0, [[[], ['guest'], 80]]],
    [keyOf('shop/db', 2), true, 0, [[['*.a.com', 'a.com', 'b.com'], undefined, 2]]],
  ])
  expect(t.findings.get('VirtualService shop/v')?.problems).toEqual(['tcp.0.match.1 never holds: subnets are not supported'])
})

test('hosts outside the cluster are those of a ServiceEntry', () => {
  const entry = object('ServiceEntry', 'shop/out', { spec: { hosts: ['api.example.com'], ports: [{ number: 80, name: 'http', protocol: 'HTTP' }], resolution: 'DNS' } })
  const t = translate(entry, make('VirtualService', 'shop/v', { hosts: ['api.example.com', '10.1.2.3'], http: [to('api.example.com', { timeout: '1s' })] }))
  expect(t.tables).toMatchObject([{ key: 'shop/api.example.com:80', http: [{ timeouts: { requestMs: 1000 } }, { name: 'no-match' }] }])
  expect(t.findings.get('VirtualService shop/v')?.notes).toEqual(['no service has the host 10.1.2.3'])
})
