// Routes whose parent is a Service: what requests to the service come to, and what the route is told.
import { describe, expect, test } from 'vitest'
import { object } from '../arbitraries.ts'
import { answer, backend, conditions, keyOf, make, service, translate, webService } from './testing.ts'

const http = (name: string, rules: readonly object[], more: object = {}, metadata: object = {}) => make('HTTPRoute', name, { parentRefs: [webService], rules, ...more }, metadata)
const to = (name: string, more: object = {}): object => ({ backendRefs: [backend(name)], ...more })
const path = (type: string, value: string): object => ({ path: { type, value } })
const web = keyOf('shop/web')

describe('a Service with routes', () => {
  test('answers by them alone: what no rule is for gets 404', () => {
    const t = translate(http('shop/r', [to('web-v2', { matches: [path('PathPrefix', '/v2')] })]))
    expect([answer(t, web, '/v2/a'), answer(t, web, '/v2'), answer(t, web, '/v2a'), answer(t, web, '/')]).toEqual(['web-v2', 'web-v2', '404', '404'])
    expect(conditions(t, 'HTTPRoute shop/r')).toEqual(['Accepted ResolvedRefs'])
    expect(answer(t, keyOf('other/web'), '/')).toBe('default')
  })

  test('prefers the exact path, the longest prefix, then patterns; a method, more headers, more parameters', () => {
    const t = translate(
      service('shop/a'), service('shop/b'), service('shop/c'), service('shop/d'), service('shop/e'),
      http('shop/r1', [to('web', { matches: [path('RegularExpression', '/x/.*')] }), to('a', { matches: [path('PathPrefix', '/x/y')] })]),
      http('shop/r2', [
        to('b', { matches: [path('Exact', '/x/y')] }),
        to('c', { matches: [{ ...path('PathPrefix', '/x/y'), method: 'POST' }] }),
        to('d', { matches: [{ ...path('PathPrefix', '/x/y'), headers: [{ name: 'A', value: '1' }, { name: 'b', value: '2' }] }] }),
        to('e', { matches: [{ ...path('PathPrefix', '/x/y'), queryParams: [{ name: 'q', value: '1' }] }] }),
      ]),
    )
    const headers = [['a', '1'], ['b', '2']] as const
    expect(answer(t, web, '/x/y', { method: 'POST', headers })).toBe('b')
    expect(answer(t, web, '/x/y/z', { method: 'POST', headers })).toBe('c')
    expect(answer(t, web, '/x/y/z', { headers, query: 'q=1' })).toBe('d')
    expect(answer(t, web, '/x/y/z', { query: 'q=1' })).toBe('e')
    expect(answer(t, web, '/x/y/z')).toBe('a')
    expect(answer(t, web, '/x/z')).toBe('web')
  })

  test('of equals the older route, then the first by namespace and name, then the first rule', () => {
    const rule = (name: string): object => to(name)
    const [old, young] = ['2020-01-01T00:00:00Z', '2021-01-01T00:00:00Z']
    expect(answer(translate(http('shop/a', [rule('web')], {}, { creationTimestamp: young }), http('shop/b', [rule('web-v2')], {}, { creationTimestamp: old })), web, '/')).toBe('web-v2')
    expect(answer(translate(http('shop/a', [rule('web')]), http('shop/b', [rule('web-v2')], {}, { creationTimestamp: young })), web, '/')).toBe('web-v2')
    expect(answer(translate(http('shop/b', [rule('web')]), http('shop/a', [rule('web-v2')])), web, '/')).toBe('web-v2')
    expect(answer(translate(http('shop/a', [rule('web-v2'), rule('web')])), web, '/')).toBe('web-v2')
  })

  test('a consumer\'s route is for its own namespace only, and replaces the producer\'s there', () => {
    const t = translate(
      http('shop/producer', [to('web-v2')]),
      make('HTTPRoute', 'guest/consumer', { parentRefs: [{ ...webService, namespace: 'shop' }], rules: [{ matches: [path('Exact', '/only')], backendRefs: [backend('web', { namespace: 'shop' })] }] }),
    )
    expect(answer(t, web, '/only', { sourceNamespace: 'guest' })).toBe('web')
    expect(answer(t, web, '/else', { sourceNamespace: 'guest' })).toBe('404')
    for (const sourceNamespace of ['shop', 'third']) expect(answer(t, web, '/only', { sourceNamespace })).toBe('web-v2')
    expect(answer(t, web, '/only')).toBe('web-v2')
    expect(conditions(t, 'HTTPRoute guest/consumer')).toEqual(['Accepted ResolvedRefs'])
  })

  test('with consumers only, everybody else reaches it as before', () => {
    const t = translate(make('HTTPRoute', 'guest/r', { parentRefs: [{ ...webService, namespace: 'shop' }], rules: [{ matches: [path('Exact', '/a')] }] }))
    expect([answer(t, web, '/b', { sourceNamespace: 'guest' }), answer(t, web, '/b', { sourceNamespace: 'shop' })]).toEqual(['404', 'default'])
  })

  test('backends: weights, zero, none, unknown, of other kinds, without a port, aliases', () => {
    const alias = service('shop/alias', [{ port: 80 }], { type: 'ExternalName', externalName: 'evil.example.com' })
    const one = (...refs: object[]): [string, readonly string[]] => {
      const t = translate(alias, http('shop/r', [{ backendRefs: refs }]))
      return [answer(t, web, '/'), conditions(t, 'HTTPRoute shop/r')]
    }
    expect(one(backend('web', { weight: 9 }), backend('web-v2'))).toEqual(['web|web-v2', ['Accepted ResolvedRefs']])
    expect(one(backend('web', { weight: 0 }))).toEqual(['500', ['Accepted ResolvedRefs']])
    expect(one()).toEqual(['500', ['Accepted ResolvedRefs']])
    expect(one(backend('web'), backend('gone'))).toEqual(['web|500', ['Accepted !BackendNotFound']])
    expect(one({ name: 'web', port: 81 })).toEqual(['500', ['Accepted !BackendNotFound']])
    expect(one({ group: 'x.io', kind: 'Thing', name: 'web' })).toEqual(['500', ['Accepted !InvalidKind']])
    expect(one(backend('alias'))).toEqual(['500', ['Accepted !InvalidKind']])
  })

  test('a third namespace\'s backend needs a ReferenceGrant; the route\'s and the parent\'s do not', () => {
    const route = make('HTTPRoute', 'shop/r', { parentRefs: [webService], rules: [{ backendRefs: [backend('web', { namespace: 'other' })] }] })
    const grant = (from: object = {}, to: object = {}) => make('ReferenceGrant', 'other/g', {
      from: [{ group: 'gateway.networking.k8s.io', kind: 'HTTPRoute', namespace: 'shop', ...from }], to: [{ group: '', kind: 'Service', ...to }],
    })
    expect(conditions(translate(route), 'HTTPRoute shop/r')).toEqual(['Accepted !RefNotPermitted'])
    expect(answer(translate(route), web, '/')).toBe('500')
    for (const good of [grant(), grant({}, { name: 'web' })]) expect(conditions(translate(route, good), 'HTTPRoute shop/r')).toEqual(['Accepted ResolvedRefs'])
    for (const bad of [grant({ namespace: 'guest' }), grant({ kind: 'GRPCRoute' }), grant({}, { name: 'else' }), grant({}, { kind: 'Secret' })]) {
      expect(conditions(translate(route, bad), 'HTTPRoute shop/r')).toEqual(['Accepted !RefNotPermitted'])
    }
  })

  test('parents that are not there or are none', () => {
    const under = (ref: object): readonly string[] => conditions(translate(
      service('shop/headless', [{ port: 80 }], { clusterIP: 'None' }), service('shop/db', [{ name: 'tcp', port: 5432 }]),
      make('HTTPRoute', 'shop/r', { parentRefs: [ref], rules: [to('web')] }),
    ), 'HTTPRoute shop/r')
    expect(under({ ...webService, name: 'gone' })).toEqual(['!NoMatchingParent ResolvedRefs'])
    expect(under({ ...webService, port: 81 })).toEqual(['!NoMatchingParent ResolvedRefs'])
    expect(under({ ...webService, sectionName: 'grpc' })).toEqual(['!NoMatchingParent ResolvedRefs'])
    expect(under({ ...webService, sectionName: 'http', port: 80 })).toEqual(['Accepted ResolvedRefs'])
    expect(under({ ...webService, name: 'headless' })).toEqual(['!NoMatchingParent ResolvedRefs'])
    expect(under({ ...webService, name: 'db', port: 5432 })).toEqual(['!NoMatchingParent ResolvedRefs'])
    expect(under({ name: 'gone' })).toEqual(['!NoMatchingParent ResolvedRefs'])
    expect(under({ group: 'x.io', kind: 'Mesh', name: 'm' })).toEqual(['!NoMatchingParent ResolvedRefs'])
  })

  test('a port that says it speaks something else keeps its traffic', () => {
    const t = translate(service('shop/mixed', [{ name: 'http', port: 80 }, { name: 'tcp-db', port: 5432 }]), make('HTTPRoute', 'shop/r', { parentRefs: [{ ...webService, name: 'mixed' }] }))
    expect(t.tables.map(({ key }) => key)).toEqual([keyOf('shop/mixed')])
    expect(t.findings.get('HTTPRoute shop/r')?.notes.join()).toMatch(/port 5432 .* speaks tcp/)
  })

  test('one kind of route at a port: gRPC before HTTP before TLS before TCP; and consumers do not push producers out', () => {
    const grpc = make('GRPCRoute', 'shop/g', { parentRefs: [webService], rules: [to('web-v2')] })
    const tcp = make('TCPRoute', 'shop/t', { parentRefs: [webService], rules: [to('web-v2')] })
    const both = translate(http('shop/r', [to('web')]), grpc, tcp)
    expect(['HTTPRoute shop/r', 'GRPCRoute shop/g', 'TCPRoute shop/t'].map((key) => conditions(both, key)[0])).toEqual(['!Conflicted ResolvedRefs', 'Accepted ResolvedRefs', '!Conflicted ResolvedRefs'])
    expect(answer(both, web, '/a.B/C')).toBe('web-v2')
    const foreign = translate(http('shop/r', [to('web')]), make('GRPCRoute', 'guest/g', { parentRefs: [{ ...webService, namespace: 'shop' }] }))
    expect(conditions(foreign, 'HTTPRoute shop/r')).toEqual(['Accepted ResolvedRefs'])
    expect(answer(foreign, web, '/', { sourceNamespace: 'shop' })).toBe('web')
  })

  test('gRPC: service and method, longer names first, patterns, headers', () => {
    const rule = (name: string, method: object | undefined, more: object = {}): object => to(name, { matches: [{ ...(method ? { method } : {}), ...more }] })
    const t = translate(service('shop/a'), service('shop/b'), service('shop/c'), make('GRPCRoute', 'shop/g', { parentRefs: [webService], rules: [
      rule('web', undefined), rule('a', { service: '.shop.Cart' }), rule('b', { service: 'shop.Cart', method: 'Add' }), rule('c', { type: 'RegularExpression', service: 'pay\\..*', method: '.*' }),
      rule('web-v2', { service: 'shop.Cart', method: 'Add' }, { headers: [{ name: 'v', value: '2' }] }),
    ] }))
    expect(['/shop.Cart/List', '/shop.Cart/Add', '/pay.Card/Do', '/x.Y/Z'].map((each) => answer(t, web, each))).toEqual(['a', 'b', 'c', 'web'])
    expect(answer(t, web, '/shop.Cart/Add', { headers: [['v', '2']] })).toBe('web-v2')
  })

  test('filters, timeouts, retries and sessions are told as data', () => {
    const t = translate(
      make('RateLimitPolicy', 'shop/limit', { limits: [{ requests: 1, per: '1s' }] }),
      make('CachePolicy', 'shop/cache', { targetRefs: [{ group: 'gateway.networking.k8s.io', kind: 'HTTPRoute', name: 'r', sectionName: 'named' }] }),
      http('shop/r', [{
        name: 'named',
        matches: [path('PathPrefix', '/a/')],
        filters: [
          { type: 'RequestHeaderModifier', requestHeaderModifier: { set: [{ name: 'X-A', value: '1' }], add: [{ name: 'X-B', value: '2' }], remove: ['X-C'] } },
          { type: 'ResponseHeaderModifier', responseHeaderModifier: { remove: ['Server'] } },
          { type: 'URLRewrite', urlRewrite: { hostname: 'in.example.com', path: { type: 'ReplacePrefixMatch', replacePrefixMatch: '/b' } } },
          { type: 'RequestMirror', requestMirror: { backendRef: backend('web-v2'), fraction: { numerator: 1, denominator: 3 } } },
          { type: 'RequestMirror', requestMirror: { backendRef: backend('gone'), percent: 5 } },
          { type: 'CORS', cors: { allowOrigins: ['https://*.Example.com:443'], allowMethods: ['PUT'], allowCredentials: true } },
          { type: 'ExtensionRef', extensionRef: { group: 'sidestep.dev', kind: 'RateLimitPolicy', name: 'limit' } },
        ],
        backendRefs: [backend('web', { filters: [{ type: 'RequestHeaderModifier', requestHeaderModifier: { set: [{ name: 'V', value: '1' }] } }] })],
        timeouts: { request: '10s', backendRequest: '0s' },
        retry: { codes: [503], attempts: 3, backoff: '100ms' },
        sessionPersistence: { sessionName: 'sid', absoluteTimeout: '1h', cookieConfig: { lifetimeType: 'Permanent' } },
      }]),
    )
    const none = { set: [], add: [], remove: [] }
    expect(t.tables[0]?.http).toEqual([{
      origin: 'HTTPRoute shop/r', name: 'named',
      matches: [{ path: { kind: 'prefix', value: '/a' }, headers: [], query: [], cookies: [] }],
      action: { t: 'forward', backends: [{ service: { namespace: 'shop', hostname: 'web.shop.svc.cluster.local' }, port: 80, weight: 1, requestHeaders: { ...none, set: [['v', '1']] } }] },
      requestHeaders: { set: [['x-a', '1']], add: [['x-b', '2']], remove: ['x-c'] },
      responseHeaders: { ...none, remove: ['server'] },
      rewrite: { hostname: 'in.example.com', path: { kind: 'prefix', value: '/b' } },
      mirrors: [{ backend: { service: { namespace: 'shop', hostname: 'web-v2.shop.svc.cluster.local' }, port: 80, weight: 1 }, fraction: { numerator: 1, denominator: 3 } }],
      cors: { allowOrigins: [{ kind: 'exact', value: 'https://*.example.com' }], allowMethods: ['PUT'], allowHeaders: [], exposeHeaders: [], maxAgeSeconds: 5, allowCredentials: true },
      timeouts: { requestMs: 10_000, backendRequestMs: 0 },
      retry: { attempts: 3, backoffMs: 100, statuses: [503], on: ['connectFailure', 'refusedStream', 'reset'] },
      sessionPersistence: { kind: 'cookie', name: 'sid', absoluteMs: 3_600_000, isPermanent: true },
      filters: ['CachePolicy shop/cache', 'RateLimitPolicy shop/limit'],
    }])
    expect([...t.filters.keys()]).toEqual(['CachePolicy shop/cache', 'RateLimitPolicy shop/limit'])
    expect(conditions(t, 'HTTPRoute shop/r')).toEqual(['Accepted !BackendNotFound'])
  })

  test('redirects', () => {
    const t = translate(http('shop/r', [{ filters: [{ type: 'RequestRedirect', requestRedirect: { scheme: 'https', hostname: 'a.com', port: 8443, path: { type: 'ReplaceFullPath', replaceFullPath: '/x' }, statusCode: 308 } }] }]))
    expect(t.tables[0]?.http[0]?.action).toEqual({ t: 'redirect', redirect: { scheme: 'https', hostname: 'a.com', port: 8443, path: { kind: 'full', value: '/x' }, status: 308 } })
  })

  test('what cannot be done as written is answered 500 where it stands, never handed to another rule', () => {
    const guarded = (filter: object) => http('shop/r', [to('web-v2'), { matches: [path('Exact', '/secret')], filters: [filter], backendRefs: [backend('web')] }])
    const auth = translate(guarded({ type: 'ExternalAuth', externalAuth: { protocol: 'HTTP' } }))
    expect([answer(auth, web, '/secret'), answer(auth, web, '/')]).toEqual(['500', 'web-v2'])
    expect(conditions(auth, 'HTTPRoute shop/r')).toEqual(['Accepted ResolvedRefs PartiallyInvalid'])
    const extension = translate(guarded({ type: 'ExtensionRef', extensionRef: { group: 'sidestep.dev', kind: 'RateLimitPolicy', name: 'gone' } }))
    expect([answer(extension, web, '/secret'), answer(extension, web, '/')]).toEqual(['500', 'web-v2'])
    expect(conditions(extension, 'HTTPRoute shop/r')).toEqual(['Accepted !BackendNotFound'])
    const alone = translate(http('shop/r', [{ filters: [{ type: 'ExternalAuth', externalAuth: {} }], backendRefs: [backend('web')] }]))
    expect([answer(alone, web, '/'), conditions(alone, 'HTTPRoute shop/r')]).toEqual(['500', ['!UnsupportedValue ResolvedRefs']])
    const backendFilter = translate(http('shop/r', [{ backendRefs: [backend('web', { filters: [{ type: 'URLRewrite', urlRewrite: { hostname: 'a.com' } }] })] }]))
    expect(answer(backendFilter, web, '/')).toBe('500')
  })

  test('a pattern that is none is left out and told; the route stays closed', () => {
    const t = translate(http('shop/r', [to('web', { matches: [path('RegularExpression', '/(a')] }), to('web-v2', { matches: [path('Exact', '/b')] })]))
    expect([answer(t, web, '/a'), answer(t, web, '/b')]).toEqual(['404', 'web-v2'])
    expect(conditions(t, 'HTTPRoute shop/r')).toEqual(['Accepted ResolvedRefs PartiallyInvalid'])
    expect(t.findings.get('HTTPRoute shop/r')?.parents[0]?.partiallyInvalid?.message).toMatch(/^Dropped Rule 0 /)
    const only = translate(http('shop/r', [to('web', { matches: [{ headers: [{ type: 'RegularExpression', name: 'a', value: '(?=x)' }] }] })]))
    expect([answer(only, web, '/'), conditions(only, 'HTTPRoute shop/r')]).toEqual(['404', ['!UnsupportedValue ResolvedRefs']])
  })

  test('policies on the service itself hold where no route is, too', () => {
    const limit = make('RateLimitPolicy', 'shop/limit', { limits: [{ requests: 1, per: '1s' }], targetRefs: [{ kind: 'Service', name: 'web' }] })
    const t = translate(limit)
    expect(t.tables.map(({ key, http }) => [key, http.map(({ name, filters }) => [name, filters])])).toEqual([[web, [['default', ['RateLimitPolicy shop/limit']]]]])
    expect(answer(t, web, '/')).toBe('web')
    expect(translate(limit, http('shop/r', [to('web')])).tables[0]?.http[0]?.filters).toEqual(['RateLimitPolicy shop/limit'])
    expect(translate(make('RateLimitPolicy', 'shop/l', { limits: [{ requests: 1, per: '1s' }], targetRefs: [{ kind: 'Service', name: 'gone' }] })).findings.get('RateLimitPolicy shop/l')?.problems).toEqual(['there is no Service shop/gone to attach to'])
  })

  test('a ServiceEntry is a parent too', () => {
    const entry = object('ServiceEntry', 'shop/out', { spec: { hosts: ['api.example.com'], ports: [{ number: 443, name: 'tls', protocol: 'TLS' }], resolution: 'DNS' } })
    const route = make('TLSRoute', 'shop/t', { parentRefs: [{ group: 'networking.istio.io', kind: 'ServiceEntry', name: 'out' }], hostnames: ['api.example.com', '*.example.com'], rules: [to('web')] })
    const t = translate(entry, route)
    expect(t.tables).toMatchObject([{ key: 'shop/api.example.com:443', hasDefault: false, tcp: [{ serverNames: ['api.example.com'] }, { serverNames: ['*.example.com'] }] }])
  })

  test('connections: TCPRoute and TLSRoute, for producers and consumers', () => {
    const tcp = make('TCPRoute', 'guest/t', { parentRefs: [{ ...webService, namespace: 'shop' }], rules: [{ backendRefs: [backend('web', { namespace: 'shop' })] }] })
    const t = translate(tcp)
    const two = translate(...['a', 'b'].map((name) => make('TCPRoute', `shop/${name}`, { parentRefs: [webService], rules: [to('web')] })))
    expect(two.findings.get('TCPRoute shop/b')?.notes).toEqual([`never reached at ${web}: TCPRoute shop/a has all connections`])
    expect(t.tables[0]).toMatchObject({ hasDefault: true, http: [], tcp: [{ sourceNamespaces: ['guest'], serverNames: [], backends: [{ port: 80 }] }, { sourceNamespaces: ['guest'], backends: [] }] })
  })
})
