// Limits counted here and in a real Redis, which the tests start for themselves, stop, freeze and kill.
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { systemClock } from '../../core/clock.ts'
import { parseIdentity } from '../../core/identity.ts'
import type { RateLimitSpec } from '../../model/manifest-traffic-policy.ts'
import type { RequestFilter } from '../../model/waypoint-config.ts'
import { LocalLimiter } from '../../policy/l7/rate-limit.ts'
import type { LimitUse, RateRule } from '../../policy/l7/rate-limit.ts'
import { RedisLimitStore } from './redis-store.ts'
import { contextOf, echo, ruleOf, shopService, startBackend, startWorld } from './testing.ts'
import type { World, WorldParts } from './testing.ts'

const open: { close(): unknown }[] = []
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
})

const key = 'RateLimitPolicy shop/slow'
type Limit = RateLimitSpec['limits'][number]

function policy(limits: readonly Partial<Limit>[], more: Partial<RateLimitSpec> = {}): Record<string, RequestFilter> {
  return { [key]: { t: 'rateLimit', spec: {
    scope: 'Local', whenStoreUnavailable: 'CountLocally', isDryRun: false,
    limits: limits.map((each) => ({ requests: 2, per: 60_000, by: [], ...each })), ...more,
  } } }
}

async function world(parts: WorldParts): Promise<World> {
  const backend = await startBackend(echo)
  const made = await startWorld({ rules: [ruleOf({ filters: [key] })], ...parts }, [{ service: shopService, port: backend.port }])
  open.push(backend, made)
  return made
}

const statuses = async (made: World, count: number, headers: Record<string, string> = {}): Promise<number[]> => {
  const list: number[] = []
  for (let i = 0; i < count; i++) {
    const answer = await fetch(made.url, { headers })
    await answer.text()
    list.push(answer.status)
  }
  return list
}

describe('a limit that is counted here', () => {
  it('lets so many through, then says 429, when to come back and what the limit is', async () => {
    const made = await world({ filters: policy([{}]) })
    const first = await fetch(made.url)
    expect([first.status, first.headers.get('ratelimit-policy'), first.headers.get('ratelimit')]).toEqual([
      200, '"slow";q=2;w=60', '"slow";r=1;t=30',
    ])
    expect(first.headers.get('retry-after')).toBeNull()
    expect((await fetch(made.url)).status).toBe(200)
    const refused = await fetch(made.url)
    expect(refused.status).toBe(429)
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(20)
    expect(refused.headers.get('content-type')).toBe('application/problem+json')
    expect(await refused.json()).toMatchObject({ 'violated-policies': ['slow'] })
    expect(made.records.at(-1)?.reasons[0]).toEqual(['rateLimited', 'slow'])
    const grpc = await fetch(made.url, { headers: { 'content-type': 'application/grpc' } })
    expect([grpc.status, grpc.headers.get('grpc-status')]).toEqual([200, '8'])
  })

  it('counts by header, and an absent one apart from an empty one', async () => {
    const made = await world({ filters: policy([{ requests: 1, by: [{ type: 'Header', name: 'X-Tenant' }] }]) })
    expect(await statuses(made, 2, { 'x-tenant': 'a' })).toEqual([200, 429])
    expect(await statuses(made, 2, { 'x-tenant': 'b' })).toEqual([200, 429])
    expect(await statuses(made, 2)).toEqual([200, 429])
  })

  it('counts by identity, by namespace and by address', async () => {
    for (const type of ['Identity', 'Namespace', 'SourceIP'] as const) {
      const made = await world({ filters: policy([{ requests: 1, by: [{ type }] }]) })
      const as = async (uri: string, ip: string): Promise<number> => {
        made.context = contextOf({ caller: { identity: parseIdentity(uri), address: { ip, port: 1 }, workload: undefined } })
        // Whatever a client says of itself, its own count is what it has.
        const answer = await fetch(
          made.url, { headers: { connection: 'close', 'x-forwarded-for': `9.9.9.${made.records.length}` } },
        )
        return answer.status
      }
      const [a, b, c] = [
        'spiffe://cluster.local/ns/x/sa/a', 'spiffe://cluster.local/ns/x/sa/b', 'spiffe://cluster.local/ns/y/sa/a',
      ] as const
      const got = [await as(a, '10.0.0.1'), await as(a, '10.0.0.1'), await as(b, '10.0.0.2'), await as(c, '10.0.0.1')]
      expect(got).toEqual({
        Identity: [200, 429, 200, 200], Namespace: [200, 429, 429, 200], SourceIP: [200, 429, 200, 429],
      }[type])
    }
  })

  it('counts each route for itself, and all limits of a request or none', async () => {
    const match = (value: string) => [{ headers: [], query: [], cookies: [], path: { kind: 'prefix' as const, value } }]
    const made = await world({
      filters: policy([{ name: 'minute', requests: 3 }, { name: 'each', requests: 1, by: [{ type: 'Header', name: 'x-user' }] }]),
      rules: [
        ruleOf({ origin: 'HTTPRoute shop/a', filters: [key], matches: match('/a') }),
        ruleOf({ origin: 'HTTPRoute shop/b', filters: [key], matches: match('/b') }),
      ],
    })
    const get = async (
      path: string, user: string,
    ): Promise<number> => (await fetch(made.url + path, { headers: { 'x-user': user } })).status
    expect([
      await get('/a', 'x'), await get('/a', 'x'), await get('/a', 'x'), await get('/a', 'y'), await get('/a', 'z'),
      await get('/a', 'w'),
    ]).toEqual([200, 429, 429, 200, 200, 429])
    expect(await get('/b', 'x')).toBe(200)
  })

  it('in dry run refuses nobody, and is told', async () => {
    const made = await world({ filters: policy([{ requests: 1 }], { isDryRun: true }) })
    expect(await statuses(made, 3)).toEqual([200, 200, 200])
    expect(made.records.map(({ hits }) => hits.length)).toEqual([0, 1, 1])
    expect(made.records[2]?.hits[0]).toEqual({ policy: key, rule: 0, as: 'dryRun' })
  })

  it('keeps no more keys than it may, however many a client makes up', async () => {
    const made = await world({ filters: policy([{ by: [{ type: 'Header', name: 'x-tenant' }] }]), settings: { limitKeys: 20 } })
    for (let i = 0; i < 60; i++) await (await fetch(made.url, { headers: { 'x-tenant': `${i}-${'x'.repeat(4_000)}` } })).text()
    expect(made.phases.stats()).toMatchObject({ limitKeys: 20, forgottenLimitKeys: 40 })
  })
})

interface Redis {
  readonly url: string
  readonly process: ChildProcess
  close(): void
}

/** The server's program comes with Debian's redis-tools under another name, and does what it is called. */
async function startRedis(socket?: string): Promise<Redis> {
  const directory = socket === undefined ? mkdtempSync(join(tmpdir(), 'sidestep-redis-')) : undefined
  const path = socket ?? join(directory ?? '', 'redis.sock')
  const child = spawn(
    '/usr/bin/redis-check-rdb', ['--port', '0', '--unixsocket', path, '--save', '', '--appendonly', 'no', '--dir', tmpdir()],
    { argv0: 'redis-server', stdio: ['ignore', 'pipe', 'inherit'] },
  )
  let out = ''
  const ready = Promise.withResolvers<void>()
  child.stdout.on('data', (chunk: Buffer) => {
    out += chunk.toString()
    if (out.includes('ready to accept connections')) ready.resolve()
  })
  child.once('error', (error) => ready.reject(error))
  child.once('exit', (code) => ready.reject(new Error(`redis ended with ${code}: ${out}`)))
  await ready.promise
  return {
    url: `unix:${path}`, process: child,
    close() {
      child.kill('SIGKILL')
      if (directory !== undefined) rmSync(directory, { recursive: true, force: true })
    },
  }
}

describe('limits in a store that proxies share', () => {
  let redis: Redis
  beforeEach(async () => {
    redis = await startRedis()
    open.push(redis)
  })

  const global = (limit: Partial<Limit> = {}, more: Partial<RateLimitSpec> = {}): Record<string, RequestFilter> => policy(
    [limit], { scope: 'Global', ...more },
  )
  const ready = (made: World): Promise<unknown> => expect.poll(() => made.phases.stats().isLimitStoreReady).toBe(true)

  it('count for all proxies together', async () => {
    const parts = { filters: global({ requests: 5 }), settings: { limitStoreUrl: redis.url, limitStoreTimeoutMs: 2_000 } }
    const [one, two] = [await world(parts), await world(parts)]
    await Promise.all([ready(one), ready(two)])
    const all = await Promise.all([statuses(one, 5), statuses(two, 5)])
    expect(all.flat().filter((status) => status === 200)).toHaveLength(5)
    expect(all.flat().filter((status) => status === 429)).toHaveLength(5)
    const refused = await fetch(one.url)
    expect(refused.headers.get('ratelimit')).toMatch(/^"slow";r=0;t=\d+$/)
  })

  it.each([
    ['CountLocally', [200, 200, 429]], ['Allow', [200, 200, 200]], ['Deny', [503, 503, 503]],
  ] as const)('%s without the store', async (whenStoreUnavailable, wanted) => {
    const made = await world({ filters: global({}, { whenStoreUnavailable }), settings: { limitStoreUrl: redis.url } })
    await ready(made)
    redis.process.kill('SIGKILL')
    await expect.poll(() => made.phases.stats().isLimitStoreReady).toBe(false)
    expect(await statuses(made, 3)).toEqual(wanted)
    if (whenStoreUnavailable === 'Deny') expect(made.records.at(-1)?.reasons[0]?.[0]).toBe('limitStoreAway')
  })

  it('are found again when the store is, and do not wait for one that hangs', async () => {
    const made = await world({
      filters: global({ requests: 1_000 }, { whenStoreUnavailable: 'Deny' }),
      settings: { limitStoreUrl: redis.url, limitStoreTimeoutMs: 200 },
    })
    await ready(made)
    expect(await statuses(made, 1)).toEqual([200])
    redis.process.kill('SIGSTOP')
    expect(await statuses(made, 20)).toEqual(Array.from({ length: 20 }, () => 503))
    redis.process.kill('SIGCONT')
    await expect.poll(async () => (await statuses(made, 1))[0], { timeout: 10_000 }).toBe(200)
    redis.process.kill('SIGKILL')
    await once(redis.process, 'exit')
    open.push(await startRedis(redis.url.slice('unix:'.length)))
    await expect.poll(async () => (await statuses(made, 1))[0], { timeout: 10_000 }).toBe(200)
  })

  it('say the same as limits that are counted here', async () => {
    const store = new RedisLimitStore({ url: redis.url })
    open.push(store)
    await expect.poll(() => store.isReady).toBe(true)
    const signal = new AbortController().signal
    const rules: RateRule[] = [
      { kind: 'rate', name: 'a', limit: 5, windowMs: 3_600_000 },
      { kind: 'rate', name: 'b', limit: 7, windowMs: 3_600_000, burst: 3 },
    ]
    let round = 0
    await fc.assert(fc.asyncProperty(fc.array(
      fc.tuple(fc.subarray([0, 1], { minLength: 1 }), fc.integer({ min: 1, max: 3 })), { maxLength: 12 },
    ), async (takes) => {
      const key = `round-${round++}`
      const local = new LocalLimiter({ maxKeys: 10 })
      for (const [which, cost] of takes) {
        const uses: LimitUse[] = which.map((i) => ({ rule: rules[i] ?? rules[0] as RateRule, key, cost }))
        const [here, there] = [local.take(uses, systemClock.nowMs()), await store.take(uses, signal)]
        expect(there.map(({ isAllowed, remaining }) => ({ isAllowed, remaining }))).toEqual(here.map((
          { isAllowed, remaining }
        ) => ({ isAllowed, remaining })))
      }
    }), { numRuns: 40 })
  })

  it('count quotas by the window, and all or none', async () => {
    const store = new RedisLimitStore({ url: redis.url })
    open.push(store)
    await expect.poll(() => store.isReady).toBe(true)
    const quota = (name: string, limit: number): LimitUse => ({ rule: { kind: 'quota', name, limit, period: 'month' }, key: 'k' })
    const signal = new AbortController().signal
    const take = async (...uses: LimitUse[]): Promise<unknown> => (await store.take(uses, signal)).map((
      { isAllowed, remaining }
    ) => [isAllowed, remaining])
    expect(await take(quota('a', 2), quota('b', 1))).toEqual([[true, 1], [true, 0]])
    expect(await take(quota('a', 2), quota('b', 1))).toEqual([[true, 1], [false, 0]])
    expect(await take(quota('a', 2))).toEqual([[true, 0]])
    expect(await take(quota('a', 2))).toEqual([[false, 0]])
  })
})
