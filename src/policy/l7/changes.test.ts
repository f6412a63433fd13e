import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Backend, Cors, RequestMatch } from '../../model/route.ts'
import { compileCors } from './cors.ts'
import { compileHeaderChange } from './header-change.ts'
import { chooseMirrors, isChosen } from './mirror.ts'
import { compileRedirect } from './redirect.ts'
import { HeaderMap } from './request-head.ts'
import { compilePathRewrite, rewrittenAuthority } from './rewrite.ts'
import { headOf } from './testing.ts'
import { compileWeights } from './weights.ts'

const under = (value: string): RequestMatch => ({ path: { kind: 'prefix', value }, headers: [], query: [], cookies: [] })

describe('headers', () => {
  test('remove, then set, then add', () => {
    const headers = HeaderMap.of([['A', '1'], ['a', '2'], ['B', '1'], ['C', '1']])
    compileHeaderChange({ remove: ['a', 'C'], set: [['b', 'x'], ['b2', 'y']], add: [['B', 'z'], ['a', '3']] }).apply(headers)
    expect([...headers.entries()]).toEqual([['b', 'x'], ['b', 'z'], ['b2', 'y'], ['a', '3']])
  })

  test('nothing that frames a message or breaks out of its line', () => {
    const headers = HeaderMap.of([['content-length', '3']])
    const change = compileHeaderChange({
      remove: ['Content-Length', ':path', 'Host'], set: [['Transfer-Encoding', 'chunked'], ['x', 'a\r\nevil: 1'], ['x y', '1']],
        add: [['', '1']],
    })
    change.apply(headers)
    expect([...headers.entries()]).toEqual([['content-length', '3']])
    expect(change.problems).toHaveLength(7)
  })
})

describe('paths', () => {
  test.each([
    ['/foo', '/bar', '/foo/x', '/bar/x'], ['/foo', '/', '/foo/x', '/x'], ['/foo/', '/bar', '/foo/x', '/bar/x'],
      ['/foo', '/', '/foo', '/'],
    ['/foo', '/bar/', '/foo', '/bar/'], ['/foo', '/bar', '/foo/', '/bar/'], ['/foo', '', '/foo/x', '/x'],
      ['/', '/v2', '/x/y', '/v2/x/y'],
    ['/foo', '/bar', '/foo;a=1/x;b=2', '/bar/x;b=2'], ['/caf%C3%A9', '/tea', '/café/x', '/tea/x'],
  ])('prefix %s becomes %s: %s to %s', (prefix, value, from, to) => {
    const head = headOf(Buffer.from(from).toString('latin1'))
    expect(compilePathRewrite({ kind: 'prefix', value }).apply(head.path, under(prefix))?.path).toBe(to)
  })

  test('full and by pattern; what comes out is canonical or refused', () => {
    expect(compilePathRewrite({ kind: 'full', value: '/a/./b' }).apply(headOf('/x').path, undefined)?.path).toBe('/a/b')
    const swap = compilePathRewrite({ kind: 'regex', pattern: '^/([a-z]+)/([0-9]+)', substitution: '/\\2/\\1' })
    expect(swap.apply(headOf('/item/12/x').path, undefined)?.path).toBe('/12/item/x')
    const escape = compilePathRewrite({ kind: 'regex', pattern: '^/up', substitution: '/..' })
    expect(escape.apply(headOf('/up/x').path, undefined)).toBeUndefined()
    expect(() => compilePathRewrite({ kind: 'regex', pattern: 'a', substitution: '\\1' })).toThrow(/group/)
    expect(rewrittenAuthority('a', { hostname: 'b' })).toBe('b')
  })

  test('a rewritten path is always canonical', () => {
    const hostile = fc.array(fc.constantFrom('a', '/', '..', '.', '%2e', '%2f', ';', 'é', ' '),
      { maxLength: 8 }).map((p) => `/${p.join('')}`)
    fc.assert(fc.property(hostile, hostile, (value, prefix) => {
      const out = compilePathRewrite({ kind: 'prefix', value }).apply(headOf('/a/b/c').path, under(prefix))
      if (out) expect(headOf(out.path).path).toEqual({ path: out.path, matched: out.matched })
    }))
  })
})

describe('redirects', () => {
  const at = (redirect: Parameters<typeof compileRedirect>[0], path = '/foo/a', query = '', authority = 'Shop.test:8080'): string
    | undefined =>
    compileRedirect(redirect).answer(headOf(path, { authority, query }), under('/foo'), 8080)?.location
  test('scheme, host, port and path', () => {
    expect(at({ status: 302 })).toBe('http://shop.test:8080/foo/a')
    expect(at({ status: 301, scheme: 'https' })).toBe('https://shop.test/foo/a')
    expect(at({ status: 302, port: 80 })).toBe('http://shop.test/foo/a')
    expect(at({ status: 302, hostname: 'other.test', path: { kind: 'prefix', value: '/bar' } }, '/foo/a',
      'x=1')).toBe('http://other.test:8080/bar/a?x=1')
  })
  test('no header of the client\'s making and no host of its choice', () => {
    expect(at({ status: 302 }, '/foo', 'a=\r\nset-cookie: x')).toBe('http://shop.test:8080/foo?a=%0D%0Aset-cookie:%20x')
    expect(at({ status: 302 }, '//evil.test/foo')).toBe('http://shop.test:8080/evil.test/foo')
    expect(at({ status: 302 }, '/foo', '', 'a@evil.test')).toBeUndefined()
    expect(at({ status: 302 }, '/foo', '', 'a b')).toBeUndefined()
  })
})

describe('cors', () => {
  const cors: Cors = { allowOrigins: [{ kind: 'exact', value: 'https://*.shop.test' }], allowMethods: ['GET', 'PUT'],
    allowHeaders: ['x-a'], exposeHeaders: ['x-b'],
    maxAgeSeconds: 60, allowCredentials: true }
  const ask = (policy: Cors, method: string,
    ...headers: (readonly [string, string])[]): ReturnType<ReturnType<typeof compileCors>['decide']> =>
    compileCors(policy).decide(headOf('/', { method, headers }))
  const preflightFor = (method: string): readonly (readonly [string, string])[] => [['Access-Control-Request-Method', method]]

  test('a preflight is answered, a request gets its headers', () => {
    const answer = ask(cors, 'OPTIONS', ['Origin', 'https://a.shop.test'], ...preflightFor('PUT'))
    expect(answer).toMatchObject({ t: 'preflight', isAllowed: true })
    expect(Object.fromEntries(answer.headers)).toMatchObject({ 'access-control-allow-origin': 'https://a.shop.test',
      'access-control-allow-methods': 'GET, PUT',
      'access-control-allow-headers': 'x-a', 'access-control-max-age': '60', 'access-control-allow-credentials': 'true' })
    expect(ask(cors, 'GET', ['Origin', 'https://a.shop.test'])).toEqual({ t: 'simple',
      headers: [['access-control-allow-origin', 'https://a.shop.test'],
      ['access-control-allow-credentials', 'true'], ['access-control-expose-headers', 'x-b'], ['vary', 'Origin']] })
    expect(ask(cors, 'OPTIONS', ['Origin', 'https://a.shop.test'])).toMatchObject({ t: 'simple' })
  })

  test('a stranger gets nothing, however it is spelled', () => {
    for (const origin of ['https://shop.test', 'https://.shop.test', 'https://evil.test/.shop.test',
      'https://evil.test#.shop.test', 'null', 'http://a.shop.test',
      'https://a.shop.test.evil.test', 'https://a.shop.test,https://evil.test', 'https://evil.test\u0000.shop.test']) {
      expect(ask(cors, 'GET', ['Origin', origin])).toEqual({ t: 'none', headers: [['vary', 'Origin']] })
    }
    expect(ask(cors, 'OPTIONS', ['Origin', 'https://a.shop.test'], ...preflightFor('DELETE'))).toMatchObject({ isAllowed: false })
  })

  test('everybody: a star without credentials, the origin itself with them', () => {
    const all: Cors = { ...cors, allowOrigins: [{ kind: 'exact', value: '*' }], allowMethods: ['*'], allowHeaders: ['*'] }
    expect(ask({ ...all, allowCredentials: false }, 'GET',
      ['Origin', 'https://x.test']).headers[0]).toEqual(['access-control-allow-origin', '*'])
    expect(ask(all, 'GET', ['Origin', 'https://x.test']).headers[0]).toEqual(['access-control-allow-origin', 'https://x.test'])
    expect(Object.fromEntries(ask(all, 'OPTIONS', ['Origin', 'https://x.test'], ...preflightFor('PATCH'),
      ['access-control-request-headers', 'x-q']).headers))
      .toMatchObject({ 'access-control-allow-methods': 'PATCH', 'access-control-allow-headers': 'x-q' })
  })
})

describe('shares', () => {
  const backend = (weight: number, broken?: string): Backend =>
    ({ service: { namespace: 'shop', hostname: `s${weight}` }, port: 80, weight, ...(broken === undefined ? {} : { broken }) })
  const share = (backends: readonly Backend[], n = 10_000): Map<string, number> => {
    const chosen = new Map<string, number>()
    const weights = compileWeights(backends)
    for (let i = 0; i < n; i++) {
      const choice = weights.choose(i / n)
      const key = choice.t === 'backend' ? choice.backend.service.hostname : choice.because
      chosen.set(key, (chosen.get(key) ?? 0) + 1 / n)
    }
    return chosen
  }

  test('by weight, a broken backend answers its share with 500', () => {
    const found = share([backend(90), backend(10), backend(0), backend(100, 'no such service')])
    expect(found.get('s90')).toBeCloseTo(0.45, 3)
    expect(found.get('s10')).toBeCloseTo(0.05, 3)
    expect(found.get('brokenBackend')).toBeCloseTo(0.5, 3)
    expect(found.has('s0')).toBe(false)
  })

  test('no weight and no backend is 500', () => {
    expect(compileWeights([backend(0), backend(0)]).choose(0)).toMatchObject({ status: 500, because: 'noWeight' })
    expect(compileWeights([]).choose(0)).toMatchObject({ status: 500, because: 'noBackends' })
  })

  test('every share is proportional', () => {
    fc.assert(fc.property(fc.array(fc.nat({ max: 1000 }), { minLength: 1, maxLength: 8 }), (weights) => {
      const total = weights.reduce((a, b) => a + b, 0)
      fc.pre(total > 0)
      const found = share(weights.map((w, i) => ({ ...backend(w), service: { namespace: 'n', hostname: `b${i}` } })))
      weights.forEach((w, i) => expect(found.get(`b${i}`) ?? 0).toBeCloseTo(w / total, 2))
    }), { numRuns: 50 })
  })

  test('fractions', () => {
    expect([0, 0.09, 0.1, 0.5].map((r) => isChosen({ numerator: 1, denominator: 10 }, r))).toEqual([true, true, false, false])
    expect(isChosen({ numerator: 0, denominator: 100 }, 0)).toBe(false)
    expect(isChosen({ numerator: 100, denominator: 100 }, 0.999_999)).toBe(true)
    expect(isChosen({ numerator: 1, denominator: 0 }, 0)).toBe(false)
    const all = { numerator: 1, denominator: 1 }
    expect(chooseMirrors([{ backend: backend(1), fraction: all }, { backend: backend(1, 'gone'), fraction: all }],
      () => 0)).toHaveLength(1)
  })
})
