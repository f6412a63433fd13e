import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { HeaderMap, type RequestHead } from '../request-head.ts'
import { headOf } from '../testing.ts'
import { deltaSeconds, has, parseAge, parseCacheControl, parseHttpDate } from './cache-control.ts'
import { invalidated, primaryKey, varyKey } from './key.ts'
import { ageMs, decideUse, isNotModified, mayServeOnError, refreshedHeaders, type StoredAnswer } from './lookup.ts'
import { decideStore, type CachePolicy } from './storable.ts'

type Pairs = readonly (readonly [string, string])[]
const policy: CachePolicy = { heedsRequests: true, largestBodyBytes: 1000 }
const micro: CachePolicy = { ...policy, microcache: { ttlMs: 1000, statuses: [200, 404] } }
const get = (headers: Pairs = [], method = 'GET'): RequestHead => headOf('/a', { headers, method })
const t0 = Date.parse('Sat, 21 Nov 2026 12:00:00 GMT')
const date = ['date', 'Sat, 21 Nov 2026 12:00:00 GMT'] as const

function store(response: Pairs, request: Pairs = [], { status = 200, p = policy, method = 'GET' } = {}): string | number {
  const decision = decideStore(get(request, method), { status, headers: HeaderMap.of(response) }, p)
  return decision.t === 'store' ? decision.lifetimeMs : decision.because
}
const cc = (value: string): readonly [string, string] => ['cache-control', value]

describe('what is kept (RFC 9111, 3)', () => {
  test('only what the server says may be, for as long as it says', () => {
    expect(store([cc('max-age=60')])).toBe(60_000)
    expect(store([cc('max-age=60, s-maxage=5')])).toBe(5_000)
    expect(store([cc('max-age=60'), cc('max-age=5')])).toBe(5_000)
    expect(store([cc('max-age=x')])).toBe(0)
    expect(store([date, ['expires', 'Sat, 21 Nov 2026 12:01:00 GMT']])).toBe(60_000)
    expect(store([date, ['expires', '0']])).toBe(0)
    expect(store([date, ['last-modified', 'Sat, 21 Nov 2020 12:00:00 GMT']])).toBe('noFreshness')
    expect(store([cc('no-cache'), ['etag', '"x"']])).toBe(0)
    expect(store([cc('max-age=60')], [], { status: 500 })).toBe('status')
    expect(store([cc('max-age=60')], [], { method: 'POST' })).toBe('method')
    expect(store([cc('max-age=60')], [['content-length', '3']])).toBe('requestBody')
    expect(store([cc('max-age=60')], [['range', 'bytes=0-1']])).toBe('range')
    expect(store([cc('max-age=60'), ['content-length', '1001']])).toBe('tooLarge')
  })

  test('nobody\'s data for anybody else', () => {
    expect(store([cc('max-age=60, no-store')])).toBe('noStore')
    expect(store([cc('max-age=60')], [cc('no-store')])).toBe('noStore')
    expect(store([cc('private, max-age=60')])).toBe('private')
    expect(store([cc('private="x-user", max-age=60')])).toBe('private')
    expect(store([cc('max-age=60')], [['authorization', 'Bearer x']])).toBe('authorization')
    for (const allowed of ['public', 's-maxage=60', 'must-revalidate']) {
      expect(store([cc(`max-age=60, ${allowed}`)], [['authorization', 'Bearer x']])).toBe(60_000)
    }
    expect(store([cc('max-age=60'), ['set-cookie', 'a=b']])).toBe('cookies')
    expect(store([cc('max-age=60'), ['vary', 'accept, *']])).toBe('vary')
  })

  test('a cookie is never handed on, even where the answer is', () => {
    for (const value of ['public, max-age=60', 'max-age=60, no-cache="set-cookie"', 'max-age=60, private="Set-Cookie"']) {
      const decision = decideStore(get(),
        { status: 200, headers: HeaderMap.of([cc(value), ['set-cookie', 'a=b'], ['connection', 'x-hop']]) }, policy)
      expect(decision).toMatchObject({ t: 'store', without: expect.arrayContaining(['set-cookie', 'x-hop']) as string[] })
    }
  })

  test('microcaching: what says nothing and is for everybody', () => {
    expect(store([], [], { p: micro })).toBe(1000)
    expect(store([], [], { p: micro, status: 404 })).toBe(1000)
    expect(store([], [], { p: micro, status: 500 })).toBe('noFreshness')
    expect(store([], [['cookie', 'a=b']], { p: micro })).toBe('noFreshness')
    expect(store([cc('no-cache')], [], { p: micro })).toBe('noFreshness')
    expect(store([['set-cookie', 'a=b']], [], { p: micro })).toBe('cookies')
    expect(store([cc('max-age=9')], [], { p: micro })).toBe(9_000)
  })

  const value = fc.oneof(fc.constantFrom('max-age=60', 'public', 'private', 'no-store', 's-maxage=9', 'must-revalidate',
    'no-cache', 'private="x"'), fc.string())
  test('private, no-store, credentials and cookies: never, in whatever company', () => {
    const noise = fc.array(fc.tuple(fc.constantFrom('cache-control', 'vary', 'expires', 'date', 'etag'), value), { maxLength: 5 })
    fc.assert(fc.property(noise, fc.constantFrom('no-store', 'private'), (response, strict) => {
      expect(typeof store([cc(strict), ...response], [], { p: micro })).toBe('string')
      expect(typeof store([...response, cc(`X, ${strict.toUpperCase()}`)].filter(([, v]) => !v.includes('"')), [],
        { p: micro })).toBe('string')
    }))
    fc.assert(fc.property(noise, fc.constantFrom('authorization', 'cookie'), (response, name) => {
      const said = parseCacheControl(HeaderMap.of(response).all('cache-control'))
      fc.pre(!has(said, 'public') && !has(said, 's-maxage') && !has(said, 'must-revalidate'))
      if (name === 'authorization') expect(typeof store(response, [[name, 'x']], { p: micro })).toBe('string')
      expect(typeof store([...response, ['set-cookie', 'x=y']], [], { p: micro })).toBe('string')
    }))
  })
})

describe('how it is used (RFC 9111, 4; RFC 5861)', () => {
  const stored = (headers: Pairs, lifetimeMs = 60_000): StoredAnswer =>
    ({ status: 200, headers: HeaderMap.of([date, ...headers]), requestedMs: t0, receivedMs: t0, lifetimeMs })
  const use = (answer: StoredAnswer | undefined, afterSeconds: number, request: Pairs = [], p = policy): string => {
    const decision = decideUse(answer, get(request), p, t0 + afterSeconds * 1000)
    return decision.t === 'revalidate' ? `revalidate ${decision.conditions.map(([n]) => n).join()}` : decision.t === 'serve'
      ? `serve ${decision.ageSeconds}` : decision.t
  }

  test('fresh, stale, asked again', () => {
    expect(use(undefined, 0)).toBe('revalidate ')
    expect(use(stored([]), 59)).toBe('serve 59')
    expect(use(stored([]), 60)).toBe('revalidate ')
    expect(use(stored([['etag', '"a"'], ['last-modified', 'Sat, 21 Nov 2020 12:00:00 GMT']]),
      60)).toBe('revalidate if-none-match,if-modified-since')
    expect(use(stored([['age', '30']]), 30)).toBe('revalidate ')
    expect(use(stored([cc('no-cache')]), 0)).toBe('revalidate ')
  })

  test('age (4.2.3)', () => {
    const slow = { ...stored([['age', '10']]), requestedMs: t0 - 2_000 }
    expect(ageMs(slow, t0 + 5_000)).toBe(17_000)
    expect(ageMs({ ...stored([]), receivedMs: t0 + 20_000, requestedMs: t0 + 20_000 }, t0 + 25_000)).toBe(25_000)
    fc.assert(fc.property(fc.nat(1e6), fc.nat(1e6), fc.string(), (delay, resident, age) => {
      const answer = { ...stored([['age', age]]), receivedMs: t0 + delay }
      expect(ageMs(answer, t0 + delay + resident)).toBeGreaterThanOrEqual(resident + delay)
    }))
  })

  test('clients may ask, if the owner lets them', () => {
    const fresh = stored([])
    expect(use(fresh, 10, [cc('no-cache')])).toBe('revalidate ')
    expect(use(fresh, 10, [['pragma', 'no-cache']])).toBe('revalidate ')
    expect(use(fresh, 10, [cc('max-age=5')])).toBe('revalidate ')
    expect(use(fresh, 10, [cc('min-fresh=55')])).toBe('revalidate ')
    expect(use(fresh, 70, [cc('max-stale=20')])).toBe('serve 70')
    expect(use(fresh, 90, [cc('max-stale=20')])).toBe('revalidate ')
    expect(use(undefined, 0, [cc('only-if-cached')])).toBe('onlyIfCached')
    expect(use(fresh, 10, [cc('no-cache')], { ...policy, heedsRequests: false })).toBe('serve 10')
  })

  test('stale while it is asked, stale where it fails, and never where that is forbidden', () => {
    const answer = stored([cc('stale-while-revalidate=10, stale-if-error=100')])
    expect(use(answer, 65)).toBe('serveAndRevalidate')
    expect(use(answer, 75)).toBe('revalidate ')
    const onError = (a: StoredAnswer, after: number, status: number | undefined = 503, p = policy): boolean =>
      mayServeOnError(a, status, p, t0 + after * 1000)
    expect([70, 159, 161].map((s) => onError(answer, s))).toEqual([true, true, false])
    expect(onError(answer, 70, 404)).toBe(false)
    expect(mayServeOnError(answer, undefined, policy, t0 + 70_000)).toBe(true)
    expect(onError(stored([]), 70)).toBe(false)
    expect(onError(stored([]), 70, 503, { ...policy, staleIfErrorMs: 60_000 })).toBe(true)
    for (const strict of ['must-revalidate', 'proxy-revalidate', 's-maxage=60', 'no-cache']) {
      const forbidden = stored([cc(`stale-while-revalidate=100, stale-if-error=100, ${strict}`)])
      expect(onError(forbidden, 70)).toBe(false)
      expect(use(forbidden, 70, [cc('max-stale')])).toBe('revalidate ')
    }
  })

  test('304 for a client that has it, headers after a 304 from upstream', () => {
    const head = { status: 200, headers: HeaderMap.of([['etag', 'W/"a"'], ['last-modified', 'Sat, 21 Nov 2026 12:00:00 GMT']]) }
    expect(['"a"', '"b", W/"a"', '*', '"b"', 'a'].map((v) => isNotModified(get([['if-none-match', v]]), head))).toEqual([true,
      true, true, false, false])
    expect(isNotModified(get([['if-modified-since', 'Sat, 21 Nov 2026 12:00:00 GMT']]), head)).toBe(true)
    expect(isNotModified(get([['if-modified-since', 'Sat, 21 Nov 2026 11:59:59 GMT']]), head)).toBe(false)
    expect(isNotModified(get([['if-none-match', '"b"'], ['if-modified-since', 'Sat, 21 Nov 2026 12:00:00 GMT']]),
      head)).toBe(false)
    expect(refreshedHeaders(HeaderMap.of([cc('max-age=9'), ['content-length', '0'],
      ['Set-Cookie', 'x']]))).toEqual([['cache-control', 'max-age=9']])
  })
})

describe('keys', () => {
  test('different requests never share one', () => {
    const text = fc.string({ maxLength: 6 })
    const head = fc.record({ authority: text, path: text, query: text, scheme: fc.constantFrom('http', 'https') })
    fc.assert(fc.property(head, head, (a, b) => {
      const of = (h: typeof a): string =>
        primaryKey('r', { ...get(), authority: h.authority, scheme: h.scheme, query: h.query,
          path: { path: h.path, matched: '' } })
      fc.pre(![a, b].some((h) => `${h.authority}${h.path}${h.query}`.includes('%0A')))
      expect(of(a) === of(b)).toBe(JSON.stringify([a.authority, a.path, a.query, a.scheme]) === JSON.stringify([b.authority,
        b.path, b.query, b.scheme]))
    }))
    expect(varyKey(['accept', 'x'], get([['accept', 'a,  b'], ['x', '']]))).toBe(varyKey(['accept', 'x'],
      get([['accept', 'a'], ['accept', 'b'], ['x', '']])))
    expect(varyKey(['x'], get([['x', '']]))).not.toBe(varyKey(['x'], get()))
    expect(varyKey(['a', 'b'], get([['a', '1\nb=1:1']]))).not.toBe(varyKey(['a', 'b'], get([['a', '1'], ['b', '1']])))
  })

  test('an unsafe request that succeeded makes them void, on its own host only', () => {
    const post = get([], 'POST')
    expect(invalidated('r', post, 200, ['/b?x=1', 'http://other.test/c', 'http://[', undefined])).toEqual([primaryKey('r', post),
      primaryKey('r', headOf('/b', { query: 'x=1' }))])
    expect(invalidated('r', post, 500, [])).toEqual([])
    expect(invalidated('r', get(), 200, [])).toEqual([])
  })
})

test('broken headers count as the strictest and never throw', () => {
  expect(parseHttpDate('Sat, 21 Nov 2026 12:00:00 GMT')).toBe(t0)
  for (const bad of ['', '0', '2026-11-21', 'Sat, 32 Foo 2026 12:00:00 GMT',
    'Saturday, 21-Nov-26 12:00:00 GMT']) expect(parseHttpDate(bad)).toBeUndefined()
  expect(['5', ' 7 ', '3, 9', 'x', '-1', '99999999999999999999'].map((v) => parseAge(HeaderMap.of([['age', v]])))).toEqual([5, 7,
    3, 0, 0, 2 ** 31])
  expect(deltaSeconds(parseCacheControl(['a="b, max-age=5", MAX-AGE="7"']), 'max-age')).toBe(7)
  fc.assert(fc.property(fc.array(fc.string()), fc.string(), (values, name) => {
    deltaSeconds(parseCacheControl(values), name)
    parseHttpDate(name)
  }))
})
