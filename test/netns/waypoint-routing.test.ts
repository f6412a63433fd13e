// What routes say, by real requests through a real waypoint: each feature with what it does and what it leaves alone.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { httpRoute, object, to, WaypointWorld } from '../helpers/waypoint-world.ts'

let world: WaypointWorld
beforeAll(async () => {
  world = await WaypointWorld.start()
}, 120_000)
afterAll(() => world?.[Symbol.asyncDispose]())

const everything = [{ path: { type: 'PathPrefix', value: '/' } }]
const status = async (url: string, ...args: string[]): Promise<number> => (await world.curl('client', url, ...args)).status

describe('without routes', () => {
  it('requests go to the service, and the backend learns who asked', async () => {
    const { status, seen } = await world.curl('client', 'http://web/hello?x=1', '-H', 'x-forwarded-client-cert: By=forged', '-H', 'x-forwarded-for: 6.6.6.6')
    expect(status).toBe(200)
    expect(seen.path).toBe('/hello?x=1')
    expect(seen.headers['x-forwarded-client-cert']).toContain('URI=spiffe://cluster.local/ns/shop/sa/client')
    expect(seen.headers['x-forwarded-client-cert']).not.toContain('forged')
    expect(seen.headers['x-forwarded-for']).not.toContain('6.6.6.6')
    expect(seen.headers['x-request-id']).toMatch(/^[0-9a-f-]{36}$/)
  })

  it('both versions answer', async () => {
    const seen = new Set<string>()
    // The one whose first answer was slow is asked less until that is forgotten.
    await expect.poll(async () => {
      for (const name of Object.keys(await world.tally('client', 'http://web/', 10, ({ seen: { pod } }) => pod))) seen.add(name)
      return [...seen].toSorted()
    }, { timeout: 30_000 }).toEqual(['web-v1', 'web-v2'])
  })

  it('HTTP/2 goes on as HTTP/2', async () => {
    const { seen } = await world.curl('client', 'http://web:81/', '--http2-prior-knowledge')
    expect(seen.version).toBe('2.0')
  })
})

describe('HTTPRoute', () => {
  it('chooses by header, query, method and path, and answers 404 for the rest', async () => {
    const rules = [
      { matches: [{ headers: [{ name: 'x-version', value: '2' }] }], backendRefs: [to('web-v2')] },
      { matches: [{ path: { type: 'Exact', value: '/one' }, method: 'GET' }], backendRefs: [to('web-v1')] },
      { matches: [{ path: { type: 'PathPrefix', value: '/two' }, queryParams: [{ name: 'v', value: 'b' }] }], backendRefs: [to('web-v2')] },
    ]
    await world.during([httpRoute('choose', rules)], async () => (await status('http://web/nowhere')) === 404, async () => {
      const of = async (url: string, ...args: string[]): Promise<string | number> => {
        const { status, seen } = await world.curl('client', url, ...args)
        return status === 200 ? seen.pod : status
      }
      expect(await of('http://web/any', '-H', 'X-Version: 2')).toBe('web-v2')
      expect(await of('http://web/any', '-H', 'X-Version: 22')).toBe(404)
      expect(await of('http://web/one')).toBe('web-v1')
      expect(await of('http://web/one/')).toBe(404)
      expect(await of('http://web/one', '-X', 'DELETE')).toBe(404)
      expect(await of('http://web/two/deep?v=b')).toBe('web-v2')
      expect(await of('http://web/twofold?v=b')).toBe(404)
      expect(await of('http://web/two?v=c')).toBe(404)
      // What is not under the route is as before.
      expect(await status('http://web-v1/')).toBe(200)
    })
    expect(await status('http://web/nowhere')).toBe(200)
  })

  it('splits by weight', async () => {
    const rules = [{ matches: everything, backendRefs: [to('web-v1', { weight: 90 }), to('web-v2', { weight: 10 })] }]
    const marked = rules.map((rule) => ({ ...rule, filters: [{ type: 'ResponseHeaderModifier', responseHeaderModifier: { set: [{ name: 'x-split', value: 'yes' }] } }] }))
    await world.during([httpRoute('split', marked)], async () => (await world.curl('client', 'http://web/')).headers.get('x-split') === 'yes', async () => {
      const found = await world.tally('client', 'http://web/', 200, ({ seen }) => seen.pod)
      // Five standard deviations about 20.
      expect(found['web-v2']).toBeGreaterThan(0)
      expect(found['web-v2']).toBeLessThan(42)
      expect((found['web-v1'] ?? 0) + (found['web-v2'] ?? 0)).toBe(200)
    })
  })

  it('rewrites, redirects, and changes headers', async () => {
    const rules = [
      {
        matches: [{ path: { type: 'PathPrefix', value: '/old' } }], backendRefs: [to('web-v1')],
        filters: [
          { type: 'URLRewrite', urlRewrite: { hostname: 'inner.example', path: { type: 'ReplacePrefixMatch', replacePrefixMatch: '/new' } } },
          { type: 'RequestHeaderModifier', requestHeaderModifier: { set: [{ name: 'x-set', value: 'b' }], add: [{ name: 'x-add', value: 'c' }], remove: ['x-gone'] } },
          { type: 'ResponseHeaderModifier', responseHeaderModifier: { add: [{ name: 'x-answer', value: 'd' }] } },
        ],
      },
      {
        matches: [{ path: { type: 'PathPrefix', value: '/away' } }],
        filters: [{ type: 'RequestRedirect', requestRedirect: { scheme: 'https', hostname: 'www.example.com', statusCode: 301, path: { type: 'ReplaceFullPath', replaceFullPath: '/there' } } }],
      },
    ]
    await world.during([httpRoute('change', rules)], async () => (await status('http://web/away')) === 301, async () => {
      const { seen, headers } = await world.curl('client', 'http://web/old/deep?q=1', '-H', 'x-set: a', '-H', 'x-add: b', '-H', 'x-gone: a')
      expect(seen.path).toBe('/new/deep?q=1')
      expect(seen.headers['host']).toBe('inner.example')
      expect(seen.headers).toMatchObject({ 'x-set': 'b', 'x-add': 'b, c' })
      expect(seen.headers).not.toHaveProperty('x-gone')
      expect(headers.get('x-answer')).toBe('d')
      expect((await world.curl('client', 'http://web/away?x=1')).headers.get('location')).toMatch(/^https:\/\/www\.example\.com\/there/)
    })
  })

  it('mirrors a share, and nobody waits for it', async () => {
    const copies = async (): Promise<number> => (JSON.parse((await world.curl('client', 'http://web-v2/counts')).body) as Record<string, number>)['/mirrored'] ?? 0
    const filters = [
      { type: 'RequestMirror', requestMirror: { backendRef: to('web-v2'), percent: 100 } },
      { type: 'ResponseHeaderModifier', responseHeaderModifier: { set: [{ name: 'x-mirrored', value: 'yes' }] } },
    ]
    await world.during([httpRoute('mirror', [{ matches: everything, backendRefs: [to('web-v1')], filters }])], async () => {
      const before = await copies()
      const { headers } = await world.curl('client', 'http://web/mirrored', '-d', 'body')
      await new Promise((resolve) => setTimeout(resolve, 100))
      // Without the route the request itself may go there.
      return headers.has('x-mirrored') && await copies() > before
    }, async () => {
      expect((await world.tally('client', 'http://web/', 10, ({ seen }) => seen.pod))['web-v1']).toBe(10)
    })
  })

  it('answers a preflight of CORS, and leaves other origins without', async () => {
    const filters = [{ type: 'CORS', cors: { allowOrigins: ['https://shop.example'], allowMethods: ['PUT'], maxAge: 60 } }]
    await world.during([httpRoute('cors', [{ matches: everything, backendRefs: [to('web-v1')], filters }])], async () => {
      const { headers } = await world.curl('client', 'http://web/', '-X', 'OPTIONS', '-H', 'origin: https://shop.example', '-H', 'access-control-request-method: PUT')
      return headers.get('access-control-allow-origin') === 'https://shop.example' && headers.get('access-control-max-age') === '60'
    }, async () => {
      const { headers } = await world.curl('client', 'http://web/', '-H', 'origin: https://evil.example')
      expect(headers.has('access-control-allow-origin')).toBe(false)
    })
  })

  it('answers 500 for a backend that is not there', async () => {
    await world.during([httpRoute('broken', [{ matches: everything, backendRefs: [to('nobody')] }])], async () => (await status('http://web/')) === 500)
  })

  it('of a consumer holds for its own namespace only', async () => {
    const consumer = object('gateway.networking.k8s.io/v1', 'HTTPRoute', 'mine', {
      parentRefs: [{ group: '', kind: 'Service', name: 'web', namespace: 'shop' }],
      rules: [{ matches: everything, filters: [{ type: 'RequestRedirect', requestRedirect: { statusCode: 302, hostname: 'mine.example' } }] }],
    }, { namespace: 'away' })
    await world.during([consumer], async () => (await world.curl('guest', 'http://web.shop/')).status === 302, async () => {
      expect(await status('http://web/')).toBe(200)
    })
  })
})

describe('VirtualService and DestinationRule', () => {
  it('send to subsets, by header and weight', async () => {
    const objects = [
      object('networking.istio.io/v1', 'DestinationRule', 'web', { host: 'web', subsets: [{ name: 'one', labels: { version: 'v1' } }, { name: 'two', labels: { version: 'v2' } }] }),
      object('networking.istio.io/v1', 'VirtualService', 'web', {
        hosts: ['web'],
        http: [
          { match: [{ headers: { cookie: { regex: '^(.*;\\s*)?user=tester(;.*)?$' } } }], route: [{ destination: { host: 'web', subset: 'two' } }] },
          { fault: { abort: { httpStatus: 418, percentage: { value: 100 } } }, match: [{ uri: { prefix: '/tea' } }], route: [{ destination: { host: 'web' } }] },
          { route: [{ destination: { host: 'web', subset: 'one' } }] },
        ],
      }),
    ]
    await world.during(objects, async () => (await status('http://web/tea')) === 418, async () => {
      expect(await world.tally('client', 'http://web/', 20, ({ seen }) => seen.pod)).toEqual({ 'web-v1': 20 })
      expect(await world.tally('client', 'http://web/', 20, ({ seen }) => seen.pod, '-b', 'user=tester')).toEqual({ 'web-v2': 20 })
    })
  })
})

describe('TCPRoute', () => {
  it('carries what is not HTTP to the backend that it names', async () => {
    const route = object('gateway.networking.k8s.io/v1alpha2', 'TCPRoute', 'tcp', {
      parentRefs: [{ group: '', kind: 'Service', name: 'raw', port: 9000 }], rules: [{ backendRefs: [{ name: 'web-v2', port: 80 }] }],
    })
    const raw = { apiVersion: 'v1', kind: 'Service', metadata: { name: 'raw', namespace: 'shop' }, spec: { selector: { app: 'web-v1' }, ports: [{ name: 'tcp-raw', port: 9000, targetPort: 8080 }] } }
    await world.during([raw, route], async () => (await world.curl('client', 'http://raw:9000/')).seen.pod === 'web-v2', async () => {
      // Nobody looks into it: headers are as curl sent them.
      expect((await world.curl('client', 'http://raw:9000/')).seen.headers).not.toHaveProperty('x-forwarded-for')
    })
  })
})
