// What a rule does beside forwarding: CORS, faults, mirrors; and policies, which see the same request as routes do.
import { PassThrough } from 'node:stream'
import fc from 'fast-check'
import { afterEach, describe, expect, it } from 'vitest'
import { systemClock } from '../../core/clock.ts'
import { emptyL7Match } from '../../model/authorization-l7.ts'
import type { AuthorizationL7, L7Match } from '../../model/authorization-l7.ts'
import type { Cors, HttpRule } from '../../model/route.ts'
import { curl, rawExchange } from '../http/testing.ts'
import { localAnswer } from './local-answer.ts'
import { peekBody } from './peek-body.ts'
import { echo, ruleOf, serviceAt, shopService, startBackend, startWorld } from './testing.ts'
import type { Echoed, World, WorldParts } from './testing.ts'
import { findTokens, removeToken } from './token-places.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import { headOf } from '../../policy/l7/testing.ts'

const open: { close(): unknown }[] = []
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
})

const mirrorService = serviceAt('mirror')

async function world(parts: WorldParts): Promise<World> {
  const backend = await startBackend((req, res) => {
    res.setHeader('access-control-allow-origin', 'https://backend.test')
    echo(req, res)
  })
  const made = await startWorld(
    { rules: [ruleOf()], ...parts },
    [{ service: shopService, port: backend.port }, { service: mirrorService, port: backend.port }],
  )
  open.push(backend, made)
  return made
}

const atPath = (value: string): HttpRule['matches'] => [{ headers: [], query: [], cookies: [], path: { kind: 'prefix', value } }]

describe('CORS of a route', () => {
  const cors: Cors = {
    allowOrigins: [{ kind: 'exact', value: 'https://shop.test' }], allowMethods: ['PUT'], allowHeaders: ['x-a'],
    exposeHeaders: ['x-b'], maxAgeSeconds: 60, allowCredentials: true,
  }
  const preflight = {
    origin: 'https://shop.test', 'access-control-request-method': 'PUT', 'access-control-request-headers': 'x-a',
  }

  it('answers preflights without the backend, and takes its word from it', async () => {
    const made = await world({ rules: [ruleOf({ cors })] })
    const yes = await fetch(made.url, { method: 'OPTIONS', headers: preflight })
    expect([
      yes.status, yes.headers.get('access-control-allow-origin'), yes.headers.get('access-control-allow-methods'),
      yes.headers.get('access-control-max-age'), yes.headers.get('access-control-expose-headers'),
    ]).toEqual([204, 'https://shop.test', 'PUT', '60', 'x-b'])
    expect(made.plans).toHaveLength(0)
    expect(made.records[0]?.reasons[0]?.[0]).toBe('preflight')
    const no = await fetch(made.url, { method: 'OPTIONS', headers: { ...preflight, origin: 'https://evil.test' } })
    expect([no.status, no.headers.get('access-control-allow-origin')]).toEqual([204, null])
    const simple = await fetch(made.url, { headers: { origin: 'https://shop.test' } })
    expect([simple.headers.get('access-control-allow-origin'), simple.headers.get('vary')]).toEqual([
      'https://shop.test', 'Origin',
    ])
    const other = await fetch(made.url, { headers: { origin: 'https://evil.test' } })
    expect([other.status, other.headers.get('access-control-allow-origin')]).toEqual([200, null])
  })

  it('lets scripts read why they were refused', async () => {
    const made = await world({ rules: [
      ruleOf({ cors, filters: ['RateLimitPolicy shop/one'] }),
    ], filters: { 'RateLimitPolicy shop/one': { t: 'rateLimit', spec: {
      scope: 'Local', whenStoreUnavailable: 'Deny', isDryRun: false, limits: [{ requests: 1, per: 60_000, by: [] }],
    } } } })
    await fetch(made.url, { headers: { origin: 'https://shop.test' } })
    const refused = await fetch(made.url, { headers: { origin: 'https://shop.test' } })
    expect([refused.status, refused.headers.get('access-control-allow-origin')]).toEqual([429, 'https://shop.test'])
  })
})

describe('faults of a route', () => {
  const all = { numerator: 1, denominator: 1 }

  it('answer in place of the backend, in the words of HTTP or gRPC', async () => {
    const made = await world({ rules: [ruleOf({ fault: { abort: { status: 503, fraction: all } } })] })
    const answer = await fetch(made.url, { headers: { 'x-envoy-fault-abort-request': '200' } })
    expect([answer.status, await answer.text()]).toEqual([503, 'fault filter abort'])
    expect(made.records[0]?.reasons[0]?.[0]).toBe('faultAbort')
    made.change({ rules: [ruleOf({ fault: { abort: { grpcStatus: 9, fraction: all } } })] })
    const grpc = await fetch(made.url, { headers: { 'content-type': 'application/grpc' } })
    expect([grpc.status, grpc.headers.get('grpc-status')]).toEqual([200, '9'])
    expect((await fetch(made.url)).status).toBe(400)
  })

  it('hold a request up, as often as they are to', async () => {
    // The second of each two is for the backend.
    const draws = [0.05, 0, 0.5, 0]
    const made = await world({
      random: () => draws.shift() ?? 0,
      rules: [ruleOf({ fault: { delay: { ms: 30, fraction: { numerator: 10, denominator: 100 } } } })],
    })
    expect([(await fetch(made.url)).status, (await fetch(made.url)).status]).toEqual([200, 200])
    expect(made.records.map(({ delayedMs }) => delayedMs)).toEqual([30, 0])
  })

  it('are asked for by no header of a client', async () => {
    const made = await world({})
    const headers = {
      'x-envoy-fault-abort-request': '503', 'x-envoy-fault-delay-request': '5000',
      'x-envoy-fault-abort-request-percentage': '100',
    }
    const seen = await (await fetch(made.url, { headers })).json() as Echoed
    expect(Object.keys(seen.headers).filter((name) => name.startsWith('x-envoy'))).toEqual([])
  })

  it('do not outlast their client', async () => {
    const made = await world({ rules: [ruleOf({ fault: { delay: { ms: 60_000, fraction: all } } })] })
    await curl('--max-time', '0.3', made.url)
    await expect.poll(() => made.records[0]?.end).toBeDefined()
  })
})

describe('mirrors of a route', () => {
  const mirrored = (numerator = 100): HttpRule => ruleOf({
    requestHeaders: { set: [['x-rule', '1']], add: [], remove: [] },
    action: {
      t: 'forward',
      backends: [{ service: shopService, port: 80, weight: 1, requestHeaders: { set: [['x-web', '1']], add: [], remove: [] } }],
    },
    mirrors: [
      {
        backend: {
          service: mirrorService, port: 80, weight: 1, requestHeaders: { set: [['x-mirror', '1']], add: [], remove: [] },
        },
        fraction: { numerator, denominator: 100 },
      },
    ],
  })

  it('get the whole request with their own headers, and the backend gets it, too', async () => {
    const made = await world({ rules: [mirrored()] })
    const seen = await (await fetch(`${made.url}/a?b`, { method: 'POST', body: 'hello' })).json() as Echoed
    expect(seen).toMatchObject({ body: 'hello', headers: { 'x-rule': '1', 'x-web': '1' } })
    expect(seen.headers).not.toHaveProperty('x-mirror')
    const [copy] = made.mirrored
    expect(copy).toMatchObject({
      body: 'hello', plan: { to: { service: { name: 'mirror' } }, head: { method: 'POST', target: '/a?b' } },
    })
    expect([
      copy?.plan.head.headers.get('x-rule'), copy?.plan.head.headers.get('x-mirror'), copy?.plan.head.headers.get('x-web'),
    ]).toEqual(['1', '1', undefined])
  })

  it('get as many as they are to', async () => {
    const draws = [0, 0.1, 0, 0.9]
    const made = await world({ rules: [mirrored(50)], random: () => draws.shift() ?? 0 })
    await (await fetch(made.url)).text()
    await (await fetch(made.url)).text()
    expect(made.mirrored).toHaveLength(made.records.length - 1)
  })

  it('get nothing of a body that is large, or does not come', async () => {
    const made = await world({ rules: [mirrored()] })
    const large = 'x'.repeat(200_000)
    expect((await (await fetch(made.url, { method: 'POST', body: large })).json() as Echoed).body).toBe(large)
    const chunked = rawExchange(
      made.port,
      `POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n${'5\r\nhello\r\n'.repeat(20_000)}0\r\n\r\n`,
      10_000,
    )
    expect(await chunked).toContain('hellohello')
    const slow = new PassThrough()
    const streamed = fetch(made.url, { method: 'POST', body: slow as unknown as ReadableStream, duplex: 'half' } as RequestInit)
    slow.write('begin ')
    setTimeout(() => slow.end('end'), 200)
    expect((await (await streamed).json() as Echoed).body).toBe('begin end')
    expect(made.mirrored).toHaveLength(0)
  })
})

describe('a policy', () => {
  const deny = (match: Partial<L7Match>, more: Partial<AuthorizationL7> = {}): AuthorizationL7 => ({
    name: 'p', namespace: 'shop', action: 'deny', isDryRun: false, rules: [[[{ ...emptyL7Match, ...match }]]], ...more,
  })
  const admin = deny({ paths: [{ kind: 'prefix', value: '/admin' }] })

  it('refuses as Envoy does, and gRPC with its own status', async () => {
    const made = await world({ policies: [admin] })
    const answer = await fetch(`${made.url}/admin`, { headers: { accept: 'application/json' } })
    expect([answer.status, await answer.text()]).toEqual([403, 'RBAC: access denied'])
    expect(made.records[0]?.reasons[0]).toEqual(['denied', 'denyPolicy shop/p'])
    const grpc = await fetch(`${made.url}/admin`, { headers: { 'content-type': 'application/grpc' } })
    expect([grpc.status, grpc.headers.get('grpc-status'), grpc.headers.get('grpc-message')]).toEqual([
      200, '7', 'RBAC: access denied',
    ])
  })

  it('sees the path that the route and the backend see, however it is spelt', async () => {
    const made = await world({
      policies: [admin],
      rules: [
        ruleOf({ name: 'admin', matches: atPath('/admin') }),
        ruleOf({ name: 'rest', rewrite: { path: { kind: 'full', value: '/fixed' } } }),
      ],
    })
    const targets = [
      '/admin', '/%61dmin', '//admin', '/x/../admin', '/./admin', '/admin;v=1', '/admin/../admin', '/x/%2e%2e/admin', '/adm%69n/',
    ]
    for (const target of targets) {
      expect(await rawExchange(
        made.port, `GET ${target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`,
      )).toMatch(/^HTTP\/1.1 403/)
    }
    for (const target of ['/x%2f..%2fadmin', '/..%5cadmin', '/%00admin', '/../admin', '/x/..;/admin']) {
      expect(await rawExchange(
        made.port, `GET ${target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`,
      )).toMatch(/^HTTP\/1.1 400/)
    }
    expect(made.plans).toHaveLength(0)
    expect((await (await fetch(
      `${made.url}/other`, { headers: { 'x-original-url': '/admin', 'x-rewrite-url': '/admin' } },
    )).json() as Echoed).url).toBe('/fixed')
  })

  it('knows the rule by the same reading, whatever is sent', async () => {
    const made = await world({
      policies: [admin], rules: [ruleOf({ name: 'admin', matches: atPath('/admin') }), ruleOf({ name: 'rest' })],
    })
    const piece = fc.constantFrom('admin', '%61dmin', '.', '..', '', ';', '%2e', 'x', '%2F', 'ADMIN', '%c3%a9')
    await fc.assert(fc.asyncProperty(fc.array(piece, { maxLength: 6 }), async (parts) => {
      made.records.length = 0
      await rawExchange(made.port, `GET /${parts.join('/')} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`)
      // What the policy let pass never falls to the rule that it guards.
      expect(made.records.every(({ rule }) => rule !== 'admin')).toBe(true)
    }), { numRuns: 150 })
  })

  it('for audit or in dry run decides nothing and is told', async () => {
    const made = await world({
      policies: [
        deny({ methods: [{ kind: 'exact', value: 'GET' }] }, { name: 'dry', isDryRun: true }),
        deny({ methods: [{ kind: 'exact', value: 'GET' }] }, { name: 'audit', action: 'audit' }),
      ],
    })
    expect((await fetch(made.url)).status).toBe(200)
    expect(made.records[0]?.hits).toEqual(expect.arrayContaining([
      { policy: 'shop/dry', rule: 0, as: 'dryRun' }, { policy: 'shop/audit', rule: 0, as: 'audit' },
    ]))
  })

  it('for a client before proxies counts only addresses that they vouch for', async () => {
    const policies = [deny({ remoteIps: [{ ip: '6.6.6.6', prefixLength: 32 }] })]
    const made = await world({ policies })
    expect((await fetch(made.url, { headers: { 'x-forwarded-for': '6.6.6.6' } })).status).toBe(200)
    const trusting = await world({ policies, settings: { trustedForwarders: ['spiffe://cluster.local/ns/shop/sa/frontend'] } })
    expect((await fetch(trusting.url, { headers: { 'x-forwarded-for': '6.6.6.6' } })).status).toBe(403)
  })
})

describe('a body that is looked at before it is sent', () => {
  it('is whole afterwards, however it comes', async () => {
    await fc.assert(fc.asyncProperty(fc.array(
      fc.string({ minLength: 1, maxLength: 50 }), { maxLength: 8 },
    ), fc.integer({ min: 0, max: 120 }), fc.boolean(), async (chunks, count, isSlow) => {
      const body = new PassThrough()
      const all = Buffer.from(chunks.join(''))
      const write = async (): Promise<void> => {
        for (const chunk of chunks) {
          body.write(chunk)
          if (isSlow) await new Promise((done) => setImmediate(done))
        }
        body.end()
      }
      const writing = write()
      const peeked = await peekBody(body, count, { clock: systemClock, withinMs: 5_000 })
      expect(peeked.bytes).toEqual(all.subarray(0, peeked.bytes.length))
      expect(peeked.isWhole).toBe(all.length <= count)
      if (!peeked.isWhole) expect(peeked.bytes.length).toBe(Math.min(count, all.length))
      const rest: Buffer[] = []
      for await (const chunk of body) rest.push(chunk as Buffer)
      await writing
      expect(Buffer.concat(rest)).toEqual(all)
    }))
  })

  it('is not waited for', async () => {
    const body = new PassThrough()
    body.write('begin')
    expect(await peekBody(body, 100, { clock: systemClock, withinMs: 20 })).toEqual({
      bytes: Buffer.from('begin'), isWhole: false,
    })
    body.end(' end')
    const rest: Buffer[] = []
    for await (const chunk of body) rest.push(chunk as Buffer)
    expect(Buffer.concat(rest).toString()).toBe('begin end')
    const cut = new PassThrough()
    cut.destroy()
    expect((await peekBody(cut, 100, { clock: systemClock, withinMs: 20 })).isWhole).toBe(false)
  })
})

describe('tokens in queries and cookies', () => {
  const rule = {
    issuer: 'i', audiences: [], fromHeaders: [], fromParams: ['t'], fromCookies: ['t'], forwardOriginalToken: false,
    outputClaimToHeaders: [], spaceDelimitedClaims: [],
  }

  it('are gone when they were removed, and nothing else is', () => {
    const name = fc.constantFrom('t', 'a', '%74', 't ', 'T', '')
    fc.assert(fc.property(fc.array(fc.tuple(name, fc.stringMatching(/^[a-z0-9%=.]{0,5}$/)), { maxLength: 6 }), (pairs) => {
      const text = pairs.map(([key, value]) => `${key}=${value}`)
      const headers = HeaderMap.of([['cookie', text.join('; ')]])
      let query = text.join('&')
      for (const found of findTokens(headOf('/', { query, headers: headers.entries() }), rule)) query = removeToken(
        { headers, query }, found,
      )
      expect(findTokens(headOf('/', { query, headers: headers.entries() }), rule).filter(({ token }) => token !== '')).toEqual([])
      const others = (list: readonly string[]): string[] => list.filter((pair) => /^(a|T)=/.test(pair))
      expect(others(query.split('&'))).toEqual(others(text))
      expect(others((headers.get('cookie') ?? '').split('; '))).toEqual(others(text))
    }))
  })
})

describe('an answer of our own', () => {
  it('can always be sent, whatever is in its message', () => {
    fc.assert(fc.property(fc.string({ unit: 'binary' }), fc.boolean(), fc.constantFrom(
      'application/json', 'text/html, application/json', '*/*',
    ), (message, isGrpc, accept) => {
      const { headers, body } = localAnswer(
        { isGrpc, head: headOf('/', { headers: [['accept', accept]] }) as never }, { status: 503, message },
      )
      for (const [, value] of headers.entries()) expect(value).toMatch(/^[\x20-\x7e]*$/)
      if (headers.get('content-type') === 'application/problem+json') expect(JSON.parse(String(body))).toMatchObject({ detail: message })
    }))
  })
})
