import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { HttpRule, NamedMatch, PathMatch, RequestMatch, RouteTable, ValueMatch } from '../../model/route.ts'
import { HeaderMap, type RequestHead } from './request-head.ts'
import { Routes } from './route-table.ts'
import { headOf } from './testing.ts'

const match = (parts: Partial<RequestMatch>): RequestMatch => ({ headers: [], query: [], cookies: [], ...parts })
const rule = (name: string, ...matches: Partial<RequestMatch>[]): HttpRule => ({
  origin: 'HTTPRoute shop/r', name, matches: matches.map(match), action: { t: 'respond', status: 200 }, mirrors: [],
    timeouts: {}, filters: [],
})
const table = (http: readonly HttpRule[], hostnames: readonly string[] = [], hasDefault = false): RouteTable => ({
  key: hostnames.join(',') || 'any', hostnames, http, tcp: [], hasDefault,
})
const named = (name: string, value: string): NamedMatch => ({ name, match: { kind: 'exact', value } })

function answer(routes: Routes, head: RequestHead): string {
  const decision = routes.match(head)
  return decision.t === 'rule' ? decision.rule.name : decision.t === 'default' ? 'default' : decision.because
}

describe('which rule', () => {
  test('the first that holds, in order, wherever the index keeps it', () => {
    const routes = new Routes([table([
      rule('v2', { path: { kind: 'prefix', value: '/api' }, headers: [named('x-version', '2')] }),
      rule('exact', { path: { kind: 'exact', value: '/api/a' } }),
      rule('regex', { path: { kind: 'regex', value: '/api/[a-z]+' } }),
      rule('api', { path: { kind: 'prefix', value: '/api/' } }),
      rule('post', { method: { kind: 'exact', value: 'POST' } }),
    ])])
    expect(answer(routes, headOf('/api/a'))).toBe('exact')
    expect(answer(routes, headOf('/api/a', { headers: [['X-Version', '2']] }))).toBe('v2')
    expect(answer(routes, headOf('/api/b'))).toBe('regex')
    expect(answer(routes, headOf('/api/b1'))).toBe('api')
    expect(answer(routes, headOf('/apix'))).toBe('noRule')
    expect(answer(routes, headOf('/x', { method: 'POST' }))).toBe('post')
    expect(answer(routes, headOf('/x', { method: 'post' }))).toBe('noRule')
  })

  test('hosts: exact, then the longest wildcard, then all; a table that says nothing hands on', () => {
    const routes = new Routes([
      table([rule('any')], []), table([rule('wild')], ['*.example.com']), table([rule('deep')], ['*.b.example.com']),
      table([rule('one', { path: { kind: 'exact', value: '/one' } })], ['A.example.com']),
    ])
    expect(answer(routes, headOf('/one', { authority: 'a.example.com:8080' }))).toBe('one')
    expect(answer(routes, headOf('/two', { authority: 'a.example.com' }))).toBe('wild')
    expect(answer(routes, headOf('/', { authority: 'x.b.example.com.' }))).toBe('deep')
    expect(answer(routes, headOf('/', { authority: 'example.com' }))).toBe('any')
    expect(answer(new Routes([table([rule('x')], ['a.b'])]), headOf('/', { authority: 'c.d' }))).toBe('noHost')
  })

  test('no rule: 404, or the service itself where there is a default', () => {
    const only = [rule('x', { path: { kind: 'exact', value: '/x' } })]
    expect(answer(new Routes([table(only)]), headOf('/y'))).toBe('noRule')
    expect(answer(new Routes([table(only, [], true)]), headOf('/y'))).toBe('default')
  })

  test('who asks', () => {
    const routes = new Routes([table([rule('mine', { sourceNamespaces: ['a', 'b'] }),
      rule('his', { sourceIdentities: ['spiffe://td/ns/c/sa/x'] })])])
    expect(answer(routes, headOf('/', { sourceNamespace: 'b' }))).toBe('mine')
    expect(answer(routes, headOf('/', { sourceNamespace: 'c', sourceIdentity: 'spiffe://td/ns/c/sa/x' }))).toBe('his')
    expect(answer(routes, headOf('/'))).toBe('noRule')
  })

  test('query, cookies, inverted headers, gRPC', () => {
    const routes = new Routes([table([
      rule('q', { query: [named('a b', '1&2')] }),
      rule('c', { cookies: [named('who', 'x=y')] }),
      rule('g', { path: { kind: 'grpc', service: 'shop.Cart', method: 'Add' } }),
      rule('s', { path: { kind: 'grpc', service: 'shop.Cart' } }),
      rule('m', { path: { kind: 'grpc', method: 'Watch' } }),
      rule('r', { path: { kind: 'grpc', service: 'shop[.].*', isRegex: true } }),
      rule('not', { headers: [{ ...named('x', '1'), isInverted: true }] }),
    ])])
    expect(answer(routes, headOf('/', { query: 'a+b=1%262&a+b=3' }))).toBe('q')
    expect(answer(routes, headOf('/', { headers: [['cookie', 'a=b; who="x=y"']] }))).toBe('c')
    expect(answer(routes, headOf('/shop.Cart/Add'))).toBe('g')
    expect(answer(routes, headOf('/shop.Cart/Drop'))).toBe('s')
    expect(answer(routes, headOf('/other/Watch'))).toBe('m')
    expect(answer(routes, headOf('/shop.X/Y'))).toBe('r')
    expect(answer(routes, headOf('/shop.Cart/Add/more'))).toBe('not')
    expect(answer(routes, headOf('/', { headers: [['x', '1']] }))).toBe('noRule')
  })

  test('what cannot be evaluated never matches and is listed', () => {
    const routes = new Routes([table([
      rule('bad', { path: { kind: 'regex', value: '(' } }), rule('never', { path: { kind: 'exact', value: '/a%2fb' } }),
      rule('huge', { headers: [{ name: 'x', match: { kind: 'regex', value: '(a{900}){1}(b{900}){1}(c{900}){1}' } }] }),
        rule('last'),
    ])])
    expect(routes.problems.map((p) => p.rule)).toEqual(['bad', 'never', 'huge'])
    expect(answer(routes, headOf('/'))).toBe('last')
  })

  test('hostile patterns and long paths take linear time', () => {
    const routes = new Routes([table(['(a+)+', '(a|a)*', '(.*.*)*x',
      '(a|aa)+$'].map((value, i) => rule(`r${i}`, { path: { kind: 'regex', value: `/${value}b` } })))])
    expect(answer(routes, headOf(`/${'a'.repeat(8_000)}`))).toBe('noRule')
    expect(answer(routes, headOf(`/${'a/'.repeat(4_000)}`))).toBe('noRule')
  })
})

// Few words, so that rules and requests meet often.
const word = fc.constantFrom('a', 'b', 'c', 'ab')
const path = fc.array(word, { maxLength: 3 }).map((words) => `/${words.join('/')}`)
const slashed = fc.tuple(path, fc.constantFrom('', '/')).map(([p, s]) => p + s)
const valueMatch: fc.Arbitrary<ValueMatch> = fc.oneof(
  { weight: 4, arbitrary: word.map((value): ValueMatch => ({ kind: 'exact', value })) },
  fc.record({ kind: fc.constantFrom('prefix', 'suffix'), value: word }), fc.constant<ValueMatch>({ kind: 'presence' }),
  fc.constantFrom('a.*', '[ab]+', '(a|b)c?').map((value): ValueMatch => ({ kind: 'regex', value })),
)
const namedMatch: fc.Arbitrary<NamedMatch> = fc.tuple(fc.constantFrom('x', 'y'), valueMatch, fc.boolean())
  .map(([name, m, isInverted]) => (isInverted ? { name, match: m, isInverted: true } : { name, match: m }))
const pathMatch: fc.Arbitrary<PathMatch> = fc.oneof(
  fc.tuple(fc.constantFrom('exact', 'prefix'), slashed, fc.boolean())
    .map(([kind, value, folded]): PathMatch => (folded ? { kind, value, isCaseInsensitive: true } : { kind, value })),
  fc.constantFrom('/a/.*', '/[ab]/c', '/a/b.*', '/.*b', '/ab?/a+', '/a\\/b', '^/a/b/c$', '(?i)/A/b',
    '/a/b|/c').map((value): PathMatch => ({ kind: 'regex', value })),
  fc.record({ service: word, method: word }).map((g): PathMatch => ({ kind: 'grpc', ...g })),
  word.map((service): PathMatch => ({ kind: 'grpc', service })), word.map((method): PathMatch => ({ kind: 'grpc', method })),
  fc.constant<PathMatch>({ kind: 'grpc', service: '[ab]+', isRegex: true }),
)
const requestMatch: fc.Arbitrary<RequestMatch> = fc.record({
  path: pathMatch, method: fc.constantFrom<ValueMatch>({ kind: 'exact', value: 'GET' }, { kind: 'exact', value: 'POST' }),
  authority: fc.constantFrom('a.test', 'b.test', 'a.test:80').map((value): ValueMatch => ({ kind: 'exact', value })),
  scheme: fc.constantFrom('http', 'https'), sourceNamespaces: fc.array(word, { minLength: 1, maxLength: 2 }),
  headers: fc.array(namedMatch, { maxLength: 2 }), query: fc.array(namedMatch, { maxLength: 1 }),
    cookies: fc.array(namedMatch, { maxLength: 1 }),
}, { requiredKeys: ['headers', 'query', 'cookies'] })
const tables = fc.array(fc.record({
  rules: fc.array(fc.array(requestMatch, { maxLength: 3 }), { maxLength: 40 }),
  hostnames: fc.subarray(['a.test', 'b.test', '*.test', '*']), hasDefault: fc.boolean(),
}), { maxLength: 4 })
const request = fc.record({
  path: slashed, method: fc.constantFrom('GET', 'POST', 'PUT'),
    authority: fc.constantFrom('a.test', 'b.test', 'x.test', 'a.test:80', 'other'),
  headers: fc.array(fc.tuple(fc.constantFrom('x', 'y', 'cookie'), fc.oneof(word, fc.constantFrom('x=a; y=b', 'y=ab'))),
    { maxLength: 3 }),
  query: fc.constantFrom('', 'x=a', 'y=b&x=ab', 'x'), sourceNamespace: word,
})

test('the index says what trying each rule says', () => {
  fc.assert(fc.property(tables, fc.array(request, { minLength: 5, maxLength: 20 }), (all, requests) => {
    const routes = new Routes(all.map(({ rules, hostnames, hasDefault }, t) =>
      table(rules.map((matches, i) => rule(`${t}-${i}`, ...matches)), hostnames, hasDefault)))
    for (const { path, ...rest } of requests) {
      const head = headOf(path, rest)
      const fast = routes.match(head)
      const slow = routes.matchByTrying(head)
      expect(fast).toBe(slow)
    }
  }), { numRuns: 400 })
})

test('no request makes matching throw', () => {
  const routes = new Routes([table([rule('a',
    { path: { kind: 'regex', value: '.*' }, query: [named('a', 'b')], cookies: [named('a', 'b')] })])])
  fc.assert(fc.property(fc.string(), fc.string(), fc.string(), fc.string(), (path, query, cookie, authority) => {
    const headers = HeaderMap.of([['cookie', cookie], ['__proto__', 'x']])
    routes.match({ method: 'GET', scheme: 'http', authority, path: { path, matched: path }, query, headers })
  }))
})
