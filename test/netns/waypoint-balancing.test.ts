// Which of several pods answers: sessions, consistent hashes, places and active checks, configured by YAML alone, with and without.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { httpRoute, object, pod, to, WaypointWorld } from '../helpers/waypoint-world.ts'
import type { Yaml } from '../helpers/waypoint-world.ts'
import { eventually } from '../helpers/meshed-world.ts'

let world: WaypointWorld
beforeAll(async () => {
  world = await WaypointWorld.start()
}, 120_000)
afterAll(() => world?.[Symbol.asyncDispose]())

const everything = [{ path: { type: 'PathPrefix', value: '/' } }]
const policy = (name: string, spec: Yaml, service = 'web'): Yaml => object('sidestep.dev/v1alpha1', 'BackendPolicy', name, { targetRefs: [{ kind: 'Service', name: service }], ...spec })
const pods = (count: number, ...args: string[]): Promise<Record<string, number>> => world.tally('client', 'http://web/', count, ({ seen, status }) => seen.pod ?? String(status), ...args)
const only = async (count: number, ...args: string[]): Promise<boolean> => Object.keys(await pods(count, ...args)).length === 1

it('without any policy both pods answer', async () => {
  expect(Object.keys(await pods(40)).sort()).toEqual(['web-v1', 'web-v2'])
})

describe('a session', () => {
  const backendRefs = [to('web-v1', { weight: 50 }), to('web-v2', { weight: 50 })]

  it('keeps a client to its pod, across a split, and others are split', async () => {
    const route = httpRoute('sticky', [{ matches: everything, backendRefs, sessionPersistence: { sessionName: 'sid' } }])
    await world.during([route], async () => (await world.curl('client', 'http://web/')).headers.has('set-cookie'), async () => {
      for (let turn = 0; turn < 3; turn++) {
        const { headers, seen } = await world.curl('client', 'http://web/')
        const [cookie = ''] = (headers.get('set-cookie') ?? '').split(';')
        expect(cookie).toMatch(/^sid=./)
        expect(await pods(20, '-b', cookie)).toEqual({ [seen.pod]: 20 })
      }
      expect(Object.keys(await pods(30)).sort()).toEqual(['web-v1', 'web-v2'])
      // A cookie that somebody made up is none.
      expect((await world.curl('client', 'http://web/', '-b', 'sid=AAAA')).headers.has('set-cookie')).toBe(true)
    })
    expect((await world.curl('client', 'http://web/')).headers.has('set-cookie')).toBe(false)
  })

  it('goes by a header where that is asked for', async () => {
    const route = httpRoute('sticky', [{ matches: everything, backendRefs: [to('web')], sessionPersistence: { sessionName: 'x-session', type: 'Header' } }])
    await world.during([route], async () => (await world.curl('client', 'http://web/')).headers.has('x-session'), async () => {
      const { headers, seen } = await world.curl('client', 'http://web/')
      expect(await pods(20, '-H', `x-session: ${headers.get('x-session')}`)).toEqual({ [seen.pod]: 20 })
    })
  })
})

describe('a consistent hash', () => {
  it('gives the same to the same, by header and by cookie', async () => {
    await world.during([policy('hash', { loadBalancer: { type: 'ConsistentHash', consistentHash: { header: 'x-user' } } })], () => only(30, '-H', 'x-user: ann'), async () => {
      const found = new Set<string>()
      for (const user of ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j']) {
        const [name = ''] = Object.keys(await pods(5, '-H', `x-user: ${user}`))
        found.add(name)
        expect(await only(5, '-H', `x-user: ${user}`)).toBe(true)
      }
      expect([...found].sort()).toEqual(['web-v1', 'web-v2'])
    })
    const byCookie = object('networking.istio.io/v1', 'DestinationRule', 'web', { host: 'web', trafficPolicy: { loadBalancer: { consistentHash: { httpCookie: { name: 'user', ttl: '60s' } } } } })
    await world.during([byCookie], async () => (await world.curl('client', 'http://web/')).headers.get('set-cookie')?.startsWith('user=') === true, async () => {
      const { headers, seen } = await world.curl('client', 'http://web/')
      expect(await pods(20, '-b', (headers.get('set-cookie') ?? '').split(';')[0] ?? '')).toEqual({ [seen.pod]: 20 })
    })
  })
})

describe('places', () => {
  it('the nearest answers, and the other when it is gone; not where that is not wanted', async () => {
    const node = (name: string, zone: string): Yaml => ({
      apiVersion: 'v1', kind: 'Node', metadata: { name, labels: { 'topology.kubernetes.io/region': 'eu', 'topology.kubernetes.io/zone': zone } },
    })
    await world.during([node('node-a', 'one'), node('node-b', 'two')], () => only(20), async () => {
      const [near = ''] = Object.keys(await pods(20))
      await world.during([policy('anywhere', { localityFailover: false })], async () => !await only(20))
      expect(await pods(20)).toEqual({ [near]: 20 })
    })
  })
})

describe('active checks', () => {
  // Serves files: it has `/`, and not what the check asks for.
  const impostor = (): Yaml => pod('web-files', 'node-a', { command: ['python3', '-m', 'http.server', '8080'] }, 'shop', { group: 'web' })
  const files = async (): Promise<boolean> => ((await world.tally('client', 'http://web/', 20, ({ seen, status }) => seen.pod ?? `files ${status}`))['files 200'] ?? 0) > 0

  it('leave out who does not answer as it should, and everybody where nobody does', { timeout: 90_000 }, async () => {
    const turns = policy('turns', { loadBalancer: { type: 'RoundRobin' }, slowStart: '0s' })
    world.apply(impostor(), turns)
    try {
      await eventually('the third pod answers', files, 30_000)
      const check = policy('turns', { loadBalancer: { type: 'RoundRobin' }, slowStart: '0s', healthCheck: { type: 'HTTP', path: '/slow/0', interval: '500ms', timeout: '500ms' } })
      world.apply(check)
      await eventually('the check is in force', async () => !await files(), 5_000)
      expect(Object.keys(await pods(20)).sort()).toEqual(['web-v1', 'web-v2'])
      world.apply(turns)
      await eventually('the check is over', files, 5_000)
    } finally {
      world.mesh.unapply('Pod shop/web-files')
      world.mesh.unapply('BackendPolicy shop/turns')
    }
    const hopeless = policy('check', { healthCheck: { type: 'HTTP', path: '/status/500', interval: '500ms', timeout: '500ms' } })
    await world.during([hopeless], async () => (await world.curl('client', 'http://web/')).status === 503)
    expect((await world.curl('client', 'http://web/')).status).toBe(200)
  })
})
