// Timeouts, retries, limits, breakers, caching and faults, by real requests through a real waypoint: with the rule and without it.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { httpRoute, object, to, WaypointWorld } from '../helpers/waypoint-world.ts'
import type { Yaml } from '../helpers/waypoint-world.ts'

let world: WaypointWorld
beforeAll(async () => {
  world = await WaypointWorld.start()
}, 120_000)
afterAll(() => world?.[Symbol.asyncDispose]())

const everything = [{ path: { type: 'PathPrefix', value: '/' } }]
const status = async (url: string, ...args: string[]): Promise<number> => (await world.curl('client', url, ...args)).status
const own = (kind: string, name: string, spec: unknown): Yaml => object('sidestep.dev/v1alpha1', kind, name, spec)

let keys = 0
/** One that no other question used. */
const newKey = (): string => `k${++keys}`

describe('timeouts', () => {
  it('end a request with 504, and only where they are asked for', async () => {
    await world.during([httpRoute('fast', [{ matches: everything, backendRefs: [to('web-v1')], timeouts: { request: '300ms' } }])],
      async () => (await status('http://web/slow/1000')) === 504,
      async () => expect(await status('http://web/slow/50')).toBe(200))
    expect(await status('http://web/slow/1000')).toBe(200)
  })
})

describe('retries', () => {
  const rule = { matches: everything, backendRefs: [to('web-v1')], retry: { codes: [503], attempts: 3, backoff: '10ms' } }

  it('hide a backend that fails now and then', async () => {
    expect(await status(`http://web-v1/flaky/1?key=${newKey()}`)).toBe(503)
    await world.during([httpRoute('again', [rule])], async () => (await status(`http://web/flaky/2?key=${newKey()}`)) === 200, async () => {
      // More failures than attempts.
      expect(await status(`http://web/flaky/9?key=${newKey()}`)).toBe(503)
      // Doing it twice may not be doing it once.
      expect(await status(`http://web/flaky/1?key=${newKey()}`, '-d', 'order')).toBe(503)
      expect(await status(`http://web/flaky/1?key=${newKey()}`, '-X', 'PUT', '-d', 'order')).toBe(200)
      expect(await status('http://web/status/500')).toBe(500)
    })
  })
})

describe('rate limits', () => {
  it('refuse with 429, say when to come back, and count callers apart', async () => {
    const policy = own('RateLimitPolicy', 'few', { targetRefs: [{ kind: 'Service', name: 'web' }], limits: [{ requests: 5, per: '1h', by: [{ type: 'Identity' }] }] })
    await world.during([policy], async () => (await status('http://web/')) === 429, async () => {
      const { headers } = await world.curl('client', 'http://web/')
      expect(Number(headers.get('retry-after'))).toBeGreaterThan(0)
      expect(headers.get('ratelimit')).toMatch(/r=0/)
      expect(headers.has('ratelimit-policy')).toBe(true)
      expect((await world.curl('other', 'http://web/')).status).toBe(200)
      expect(await status('http://web-v1/')).toBe(200)
    })
    expect(await status('http://web/')).toBe(200)
  })
})

describe('breakers', () => {
  it('let so many requests through at once and refuse the others', async () => {
    const policy = own('BackendPolicy', 'narrow', { targetRefs: [{ kind: 'Service', name: 'web-v1' }], limits: { requests: 2, pending: 1 } })
    const crowd = (): Promise<Record<string, number>> => world.tally('client', 'http://web-v1/slow/300', 10, ({ status }) => String(status))
    expect(await crowd()).toEqual({ 200: 10 })
    await world.during([policy], async () => ((await crowd())['503'] ?? 0) > 0, async () => {
      expect(await status('http://web-v1/')).toBe(200)
    })
  })
})

describe('caching', () => {
  it('keeps what may be kept, and nothing unless asked', async () => {
    const count = async (): Promise<number> => (JSON.parse((await world.curl('client', 'http://web-v1/cached/60')).body) as { count: number }).count
    expect(await count()).not.toBe(await count())
    await world.during([own('CachePolicy', 'keep', { targetRefs: [{ kind: 'Service', name: 'web-v1' }] })], async () => (await count()) === (await count()), async () => {
      const { headers } = await world.curl('client', 'http://web-v1/cached/60')
      expect(headers.has('age')).toBe(true)
      const bypass = await world.curl('client', 'http://web-v1/cached/60', '-H', 'cache-control: no-cache')
      expect(bypass.status).toBe(200)
      expect(bypass.headers.get('age') ?? '0').toBe('0')
    })
    expect(await count()).not.toBe(await count())
  })
})

describe('ejection', () => {
  it('leaves an endpoint alone that keeps failing', async () => {
    // `web` has two endpoints; one of them resets whatever asks for that path. Here both would: so the one that is asked is ejected.
    const policy = own('BackendPolicy', 'eject', { targetRefs: [{ kind: 'Service', name: 'web' }], ejection: { consecutiveErrors: 3, interval: '1s', baseTime: '30s', maxPercent: 50 } })
    await world.during([policy], async () => {
      await world.tally('client', 'http://web/status/500', 20, ({ status }) => String(status))
      const pods = await world.tally('client', 'http://web/', 20, ({ seen }) => seen.pod)
      return Object.keys(pods).length === 1
    })
  })
})

describe('faults of a VirtualService', () => {
  it('delay and abort a share', async () => {
    const service = object('networking.istio.io/v1', 'VirtualService', 'web-v1', {
      hosts: ['web-v1'],
      http: [
        { match: [{ uri: { prefix: '/late' } }], fault: { delay: { fixedDelay: '500ms', percentage: { value: 100 } } }, route: [{ destination: { host: 'web-v1' } }] },
        { match: [{ uri: { prefix: '/half' } }], fault: { abort: { httpStatus: 503, percentage: { value: 50 } } }, route: [{ destination: { host: 'web-v1' } }] },
        { route: [{ destination: { host: 'web-v1' } }] },
      ],
    })
    await world.during([service], async () => {
      const begun = performance.now()
      return (await status('http://web-v1/late')) === 200 && performance.now() - begun >= 500
    }, async () => {
      const found = await world.tally('client', 'http://web-v1/half', 60, ({ status }) => String(status))
      // Five standard deviations about 30.
      expect(found['503']).toBeGreaterThan(10)
      expect(found['200']).toBeGreaterThan(10)
    })
  })
})
