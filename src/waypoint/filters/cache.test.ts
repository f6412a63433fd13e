import fc from 'fast-check'
import { afterEach, describe, expect, it } from 'vitest'
import { systemClock } from '../../core/clock.ts'
import type { Clock } from '../../core/clock.ts'
import { parseIdentity } from '../../core/identity.ts'
import { emptyL7Match } from '../../model/authorization-l7.ts'
import type { AuthorizationL7 } from '../../model/authorization-l7.ts'
import type { CacheSpec } from '../../model/manifest-traffic-policy.ts'
import type { RequestFilter } from '../../model/waypoint-config.ts'
import { headOf } from '../../policy/l7/testing.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import { AnswerStore } from './answer-store.ts'
import type { KeptAnswer } from './answer-store.ts'
import { contextOf, ruleOf, shopService, startBackend, startWorld } from './testing.ts'
import type { World, WorldParts } from './testing.ts'
import type { IncomingMessage, ServerResponse } from 'node:http'

const open: { close(): unknown }[] = []
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
})

const key = 'CachePolicy shop/short'
let now = Date.now()
const clock: Clock = { ...systemClock, nowMs: () => now }

function filters(spec: Partial<CacheSpec> = {}): Record<string, RequestFilter> {
  return { [key]: { t: 'cache', spec: { maxBodyBytes: 100_000, varyOn: [], ...spec } } }
}

interface Backed {
  readonly made: World
  readonly asked: { readonly line: string; readonly headers: IncomingMessage['headers'] }[]
}

/** The backend says with each answer the how manieth it is. */
async function world(
  answer: (req: IncomingMessage, res: ServerResponse, n: number) => void, parts: WorldParts = {},
): Promise<Backed> {
  const asked: Backed['asked'] = []
  const backend = await startBackend((req, res) => {
    asked.push({ line: `${req.method} ${req.url}`, headers: req.headers })
    // A fake clock and a real date would be two times.
    res.sendDate = false
    answer(req, res, asked.length)
  })
  const made = await startWorld(
    { rules: [ruleOf({ filters: [key] })], filters: filters(), clock, ...parts }, [{ service: shopService, port: backend.port }],
  )
  open.push(backend, made)
  return { made, asked }
}

interface Got { readonly status: number; readonly text: string; readonly headers: Headers }
async function get(made: World, path = '/', headers: Record<string, string> = {}, method = 'GET'): Promise<Got> {
  const answer = await fetch(made.url + path, { headers, method, redirect: 'manual' })
  return { status: answer.status, text: await answer.text(), headers: answer.headers }
}
const cacheable = (control = 'max-age=60', more: Record<string, string> = {}) => (
  _: IncomingMessage, res: ServerResponse, n: number,
): void => {
  res.writeHead(200, { 'cache-control': control, ...more }).end(`answer ${n}`)
}
const texts = async (made: World, ...requests: readonly Parameters<typeof get>[]): Promise<string[]> => {
  const list: string[] = []
  for (const [, ...rest] of requests) list.push((await get(made, ...rest)).text)
  return list
}

describe('an answer that may be kept', () => {
  it('is given again with its age until it is stale, only where a rule asks for it', async () => {
    const { made, asked } = await world(cacheable())
    expect((await get(made)).text).toBe('answer 1')
    now += 30_000
    const kept = await get(made)
    expect([kept.text, kept.headers.get('age'), kept.headers.get('cache-control')]).toEqual(['answer 1', '30', 'max-age=60'])
    expect(made.records.at(-1)?.reasons[0]?.[0]).toBe('fromCache')
    now += 31_000
    expect((await get(made)).text).toBe('answer 2')
    made.change({ rules: [ruleOf()] })
    expect((await get(made)).text).toBe('answer 3')
    expect(asked).toHaveLength(3)
  })

  it('is kept for a while where it says nothing and the policy does, and never longer than the policy allows', async () => {
    const { made } = await world((_, res, n) => res.end(`answer ${n}`), { filters: filters({ defaultTtl: 1_000 }) })
    expect(await texts(made, [made], [made])).toEqual(['answer 1', 'answer 1'])
    now += 1_500
    expect(await texts(made, [made], [made, '/', { cookie: 'a=1' }])).toEqual(['answer 2', 'answer 2'])
    const long = await world(cacheable('max-age=1000'), { filters: filters({ maxTtl: 5_000 }) })
    await get(long.made)
    now += 6_000
    expect((await get(long.made)).text).toBe('answer 2')
  })

  it.each([
    ['private', {}], ['no-store', {}], ['max-age=60', { 'set-cookie': 'a=1' }], ['max-age=60', { vary: '*' }],
  ])('is not one with %s %o', async (control, more) => {
    const { made } = await world(cacheable(control, more))
    expect(await texts(made, [made], [made])).toEqual(['answer 1', 'answer 2'])
  })

  it('is not one of a POST, of a request with a body, a range or another method in its headers', async () => {
    const { made } = await world(cacheable())
    const post = async (): Promise<string> => (await fetch(made.url, { method: 'POST', body: 'x' })).text()
    expect([await post(), await post()]).toEqual(['answer 1', 'answer 2'])
    expect(await texts(
      made, [made, '/', { range: 'bytes=0-1' }], [made, '/', { 'x-http-method-override': 'DELETE' }], [made],
    )).toEqual(['answer 3', 'answer 4', 'answer 5'])
  })

  it('answers HEAD and conditions, too', async () => {
    const { made, asked } = await world(cacheable('max-age=60', { etag: '"v1"' }))
    await get(made)
    const head = await get(made, '/', {}, 'HEAD')
    expect([head.status, head.text, head.headers.get('etag')]).toEqual([200, '', '"v1"'])
    const fresh = await get(made, '/', { 'if-none-match': '"v1"' })
    expect([fresh.status, fresh.text, fresh.headers.get('etag')]).toEqual([304, '', '"v1"'])
    expect(asked).toHaveLength(1)
  })

  it('is asked about when it is old, and a 304 makes it fresh', async () => {
    const { made, asked } = await world((req, res, n) => {
      if (req.headers['if-none-match'] === '"v1"') res.writeHead(
        304, { 'cache-control': 'max-age=60', 'x-round': String(n) },
      ).end()
      else res.writeHead(200, { 'cache-control': 'max-age=60', etag: '"v1"' }).end(`answer ${n}`)
    })
    await get(made)
    now += 61_000
    const again = await get(made, '/', { 'if-none-match': '"other"' })
    expect([again.status, again.text, again.headers.get('x-round')]).toEqual([200, 'answer 1', '2'])
    expect((await get(made)).headers.get('age')).toBe('0')
    expect(asked).toHaveLength(2)
  })

  it('is forgotten when its target is changed', async () => {
    const { made } = await world((req, res, n) => {
      res.writeHead(200, { 'cache-control': 'max-age=60', ...(req.method === 'POST' && { location: '/b' }) }).end(`answer ${n}`)
    })
    expect(await texts(made, [made, '/a'], [made, '/b'], [made, '/c'])).toEqual(['answer 1', 'answer 2', 'answer 3'])
    expect(await texts(made, [made, '/a', {}, 'POST'])).toEqual(['answer 4'])
    expect(await texts(made, [made, '/a'], [made, '/b'], [made, '/c'])).toEqual(['answer 5', 'answer 6', 'answer 3'])
  })

  it('stands in for errors and is renewed beside requests, if that was wanted', async () => {
    let isAway = false
    const { made, asked } = await world((_, res, n) => {
      if (isAway) res.writeHead(503).end('away')
      else res.writeHead(200, { 'cache-control': 'max-age=10' }).end(`answer ${n}`)
    }, { filters: filters({ staleIfError: 600_000 }) })
    await get(made)
    isAway = true
    now += 20_000
    expect(await get(made)).toMatchObject({ status: 200, text: 'answer 1' })
    made.intercept = () => ({ t: 'failed', status: 503, because: 'connectFailure', message: 'nobody there' })
    expect(await get(made)).toMatchObject({ status: 200, text: 'answer 1' })
    now += 700_000
    expect(await get(made)).toMatchObject({ status: 503 })
    made.intercept = undefined
    isAway = false
    made.change({ filters: filters({ staleWhileRevalidate: 60_000 }) })
    const before = asked.length
    const fresh = (await get(made)).text
    now += 20_000
    expect((await get(made)).text).toBe(fresh)
    await expect.poll(async () => (await get(made)).text).not.toBe(fresh)
    expect(asked).toHaveLength(before + 2)
  })
})

describe('who gets a kept answer', () => {
  it('is who asks for the same host, path, query, scheme and language', async () => {
    const { made } = await world(cacheable('max-age=60', { vary: 'Accept-Language' }))
    const requests: Parameters<typeof get>[] = [
      [made, '/a', { 'accept-language': 'de' }], [made, '/a', { 'accept-language': 'en' }],
      [made, '/a?x', { 'accept-language': 'de' }], [made, '/A', { 'accept-language': 'de' }],
    ]
    expect(await texts(made, ...requests)).toEqual(['answer 1', 'answer 2', 'answer 3', 'answer 4'])
    expect(await texts(made, ...requests)).toEqual(['answer 1', 'answer 2', 'answer 3', 'answer 4'])
    // Whatever is spelt otherwise and is the same path is the same.
    expect(await texts(made, [made, '/%61', { 'accept-language': 'de' }])).toEqual(['answer 1'])
  })

  it('is nobody of another identity, and nobody whom a policy refuses', async () => {
    const allow: AuthorizationL7 = {
      name: 'only-b', namespace: 'shop', action: 'deny', isDryRun: false,
      rules: [[[{ ...emptyL7Match, l4: { ...emptyL7Match.l4, principals: [{ kind: 'suffix', value: '/sa/c' }] } }]]],
    }
    const { made } = await world(cacheable('public, max-age=60'), { policies: [allow] })
    const as = (name: string): Promise<Got> => {
      made.context = contextOf({
        caller: {
          identity: parseIdentity(`spiffe://cluster.local/ns/shop/sa/${name}`), address: { ip: '10.0.0.1', port: 1 },
          workload: undefined,
        },
      })
      return get(made, '/', { connection: 'close' })
    }
    expect((await as('a')).text).toBe('answer 1')
    expect((await as('b')).text).toBe('answer 2')
    expect((await as('a')).text).toBe('answer 1')
    expect((await as('c')).status).toBe(403)
  })

  it('is only who named the same in headers that links and origins are made of', async () => {
    const settings = { trustedForwarders: ['spiffe://cluster.local/*'] }
    const { made } = await world((req, res) => {
      res.writeHead(200, { 'cache-control': 'public, max-age=60' }).end(`https://${req.headers['x-forwarded-host'] ?? 'shop'}/`)
    }, { settings })
    expect(await texts(made, [made, '/', { 'x-forwarded-host': 'evil' }], [made])).toEqual(['https://evil/', 'https://shop/'])
    // Who may not say it says nothing.
    const plain = await world((req, res) => {
      res.writeHead(200, { 'cache-control': 'public, max-age=60' }).end(`https://${req.headers['x-forwarded-host'] ?? 'shop'}/`)
    })
    expect(await texts(plain.made, [plain.made, '/', { 'x-forwarded-host': 'evil' }], [plain.made])).toEqual([
      'https://shop/', 'https://shop/',
    ])
  })

  it('is nobody else where the answer was for credentials, unless it says so', async () => {
    const { made } = await world(cacheable('max-age=60'))
    expect(await texts(made, [made, '/', { authorization: 'Basic a' }], [made])).toEqual(['answer 1', 'answer 2'])
    const open = await world(cacheable('public, max-age=60'))
    expect(await texts(open.made, [open.made, '/', { authorization: 'Basic a' }], [open.made])).toEqual(['answer 1', 'answer 1'])
  })

  it('is who asks for what the policy adds to the key', async () => {
    const { made } = await world(cacheable(), { filters: filters({ varyOn: ['X-Tenant'] }) })
    expect(await texts(
      made, [made, '/', { 'x-tenant': 'a' }], [made, '/', { 'x-tenant': 'b' }], [made, '/', { 'x-tenant': 'a' }],
    )).toEqual(['answer 1', 'answer 2', 'answer 1'])
  })

  it('is nobody after the rule has changed', async () => {
    const { made } = await world(cacheable())
    await get(made)
    made.change({ rules: [ruleOf({ filters: [key], requestHeaders: { set: [['x-new', '1']], add: [], remove: [] } })] })
    expect((await get(made)).text).toBe('answer 2')
    // The same rule read once more is the same.
    made.change({ rules: [ruleOf({ filters: [key], requestHeaders: { set: [['x-new', '1']], add: [], remove: [] } })] })
    expect((await get(made)).text).toBe('answer 2')
  })
})

describe('identical requests', () => {
  it('wait for the first, and the backend is asked once', async () => {
    const go = Promise.withResolvers<void>()
    const { made, asked } = await world((_, res, n) => void go.promise.then(() => res.writeHead(
      200, { 'cache-control': 'max-age=60' },
    ).end(`answer ${n}`)))
    const all = Promise.all(Array.from({ length: 20 }, () => get(made)))
    await expect.poll(() => made.records.length).toBe(20)
    go.resolve()
    expect((await all).map(({ text }) => text)).toEqual(Array.from({ length: 20 }, () => 'answer 1'))
    expect(asked).toHaveLength(1)
  })

  it('do not wait for one that nobody else may have', async () => {
    const { made, asked } = await world((_, res, n) => void setTimeout(
      () => res.writeHead(200, { 'cache-control': 'private' }).end(`answer ${n}`), 20,
    ))
    const all = await Promise.all(Array.from({ length: 10 }, () => get(made)))
    expect(new Set(all.map(({ text }) => text)).size).toBe(10)
    expect(asked).toHaveLength(10)
  })

  it('ask themselves when the first one gives up', async () => {
    const { made } = await world((_, res, n) => {
      if (n > 1) res.writeHead(200, { 'cache-control': 'max-age=60' }).end(`answer ${n}`)
    })
    const abort = new AbortController()
    const first = fetch(made.url, { signal: abort.signal }).catch(() => undefined)
    await expect.poll(() => made.plans.length).toBe(1)
    const second = get(made)
    await expect.poll(() => made.records.length).toBe(2)
    abort.abort()
    await first
    expect((await second).text).toBe('answer 2')
  })

  it('do not take a part for the whole', async () => {
    const { made } = await world((_, res, n) => {
      res.writeHead(200, { 'cache-control': 'max-age=60', 'content-length': '100' })
      if (n === 1) {
        res.write('part')
        setTimeout(() => res.destroy(), 20)
      } else res.end('x'.repeat(100))
    })
    await expect(get(made)).rejects.toThrow()
    expect((await get(made)).text).toHaveLength(100)
  })
})

describe('the store', () => {
  const answer = (bytes: number, vary: readonly string[] = []): KeptAnswer => ({
    status: 200, headers: new HeaderMap(), body: Buffer.alloc(bytes), vary, requestedMs: 0, receivedMs: 0, lifetimeMs: 1_000,
  })

  it('never holds more bytes than it may, whatever is put', () => {
    fc.assert(fc.property(fc.array(fc.tuple(
      fc.integer({ min: 0, max: 20 }), fc.integer({ min: 0, max: 9_000 }), fc.string({ maxLength: 3 }), fc.subarray(['a', 'b']),
    )), (puts) => {
      const store = new AnswerStore(20_000)
      for (const [n, bytes, value, vary] of puts) {
        const head = headOf('/', { headers: [['a', value]] })
        const isKept = store.put(`p${n}`, '', head, answer(bytes, vary))
        expect(store.bytes).toBeLessThanOrEqual(20_000)
        if (isKept) expect(store.find(`p${n}`, '', head)).toBeDefined()
      }
      for (let n = 0; n <= 20; n++) store.forget(`p${n}`)
      expect([store.bytes, store.size]).toEqual([0, 0])
    }))
  })

  it('never shows an answer to a request with other headers', () => {
    fc.assert(fc.property(fc.string(), fc.string(), fc.string(), fc.string(), (one, two, primary, variant) => {
      const store = new AnswerStore(1_000_000)
      store.put(primary, variant, headOf('/', { headers: [['a', one]] }), answer(1, ['a']))
      const found = store.find(primary, variant, headOf('/', { headers: [['a', two]] }))
      const values = (text: string): string => text.split(',').map((each) => each.trim()).join(',')
      expect(found !== undefined).toBe(values(one) === values(two))
      expect(store.find(`${primary}x`, variant, headOf('/', { headers: [['a', one]] }))).toBeUndefined()
      expect(store.find(primary, `${variant}x`, headOf('/', { headers: [['a', one]] }))).toBeUndefined()
    }))
  })

  it('is bounded, too, while answers come in', async () => {
    const { made } = await world(
      (_, res) => res.writeHead(200, { 'cache-control': 'max-age=60' }).end('x'.repeat(5_000)),
      { settings: { cacheBytes: 20_000 } },
    )
    await Promise.all(Array.from({ length: 50 }, (_, i) => get(made, `/${i}`)))
    expect(made.phases.stats().cacheBytes).toBeLessThanOrEqual(20_000)
    expect(made.phases.stats().cachedAnswers).toBeGreaterThan(0)
  })
})
