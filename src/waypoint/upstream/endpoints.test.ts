// Which endpoints a target has: subsets, places, waypoints, hosts found by name, and what becomes of each when the mesh changes.
import { afterEach, describe, expect, it } from 'vitest'
import fc from 'fast-check'
import { defaultTrafficPolicy } from '../../model/route.ts'
import { WorkloadStore } from '../../model/workload-store.ts'
import type { Service, Workload } from '../../model/workload.ts'
import { admitsHost, serviceFacts, workloadFacts } from './endpoint-facts.ts'
import type { FactsRequest } from './endpoint-facts.ts'
import { protocolFor } from './protocol.ts'
import { World, service, workload } from './testing.ts'

const worlds: World[] = []
const world = (...args: ConstructorParameters<typeof World>): World => {
  const made = new World(...args)
  worlds.push(made)
  return made
}
afterEach(async () => {
  for (const each of worlds.splice(0)) await each.close()
})

const place = (region: string, zone: string, subzone = ''): Workload['locality'] => ({ region, zone, subzone })
const self = workload('waypoint', 1, { services: new Map([['shop/waypoint.shop', []]]), locality: place('eu', 'a') })

function facts(target: Service, workloads: readonly Workload[], more: Partial<FactsRequest> = {}, services: readonly Service[] = []) {
  const store = new WorkloadStore()
  store.apply({ services: [target, ...services], workloads })
  const found = serviceFacts(target, { store, self, identity: 'spiffe://cluster.local/ns/shop/sa/waypoint', port: 80, isLocalFirst: true, throughWaypoints: true, ...more })
  return found.t === 'endpoints' ? found.endpoints : found.because
}

const names = (found: ReturnType<typeof facts>): unknown => (typeof found === 'string' ? found : found.map(({ workload: each, tier }) => `${each?.name} ${tier}`).sort())

describe('endpoints', () => {
  it('are those that are healthy, have the port and take a share', () => {
    expect(names(facts(service(), [
      workload('a', 1), workload('ill', 2, { isHealthy: false }), workload('none', 3, { capacity: 0 }), workload('far', 4, { network: 'other' }),
      workload('elsewhere', 5, { services: new Map([['shop/x.shop', []]]) }), workload('nowhere', 6, { ips: [] }), workload('named', 7, { ips: [], hostname: 'db.example.com' }),
    ]))).toEqual(['a 3', 'named 3'])
    expect(facts(service(), [])).toBe('noEndpoints')
  })

  it('of a subset are those with its labels', () => {
    const all = [workload('one', 1, { labels: { version: 'v1', app: 'x' } }), workload('two', 2, { labels: { version: 'v2' } }), workload('bare', 3)]
    expect(names(facts(service(), all, { labels: { version: 'v1' } }))).toEqual(['one 3'])
    expect(names(facts(service(), all, { labels: { version: 'v1', app: 'y' } }))).toBe('noEndpoints')
    expect(names(facts(service(), all, { labels: { constructor: 'v1' } }))).toBe('noEndpoints')
    expect(names(facts(service(), all, { labels: {} }))).toEqual(['bare 3', 'one 3', 'two 3'])
  })

  it('are ranked by their place, or by what the service prefers', () => {
    const all = [workload('near', 1, { locality: place('eu', 'a') }), workload('zone', 2, { locality: place('eu', 'b') }), workload('far', 3, { locality: place('us', 'a') })]
    expect(names(facts(service(), all))).toEqual(['far 3', 'near 1', 'zone 2'])
    expect(names(facts(service(), all, { isLocalFirst: false }))).toEqual(['far 0', 'near 0', 'zone 0'])
    const preferring = (mode: 'strict' | 'failover'): Service => service('unknown', { loadBalancing: { mode, routingPreference: ['region', 'zone'], allowUnhealthy: false } })
    expect(names(facts(preferring('failover'), all))).toEqual(['far 2', 'near 0', 'zone 1'])
    expect(names(facts(preferring('strict'), all))).toEqual(['near 0'])
  })

  it('in the mesh are reached by a tunnel to who they are, and never in plain text', () => {
    const inMesh = workload('a', 8080, { tunnelProtocol: 'hbone', ips: ['10.1.0.1'] })
    expect(facts(service('unknown', { subjectAltNames: ['spiffe://cluster.local/ns/shop/sa/other', 'not one'] }), [inMesh])).toMatchObject([{
      address: '10.1.0.1:8080',
      way: {
        t: 'tunnel', to: { ip: '10.1.0.1', port: 15008 }, authority: { t: 'address', address: { ip: '10.1.0.1', port: 8080 } },
        identities: [{ serviceAccount: 'other' }, { serviceAccount: 'backend' }],
      },
    }])
    expect(facts(service(), [{ ...inMesh, ips: [], hostname: 'a' }])).toBe('noEndpoints')
  })

  it('are addressed in a family that we have and the service has', () => {
    const dual = workload('a', 80, { ips: ['10.1.0.1', 'fd00::1'] })
    const address = (target: Service, own: Workload): unknown => {
      const found = facts(target, [dual], { self: own })
      return typeof found === 'string' ? found : found[0]?.address
    }
    expect(address(service(), { ...self, ips: ['fd00::9'] })).toBe('[fd00::1]:80')
    expect(address(service(), self)).toBe('10.1.0.1:80')
    expect(address(service('unknown', { ipFamilies: 'ipv6' }), self)).toBe('[fd00::1]:80')
  })
})

describe('behind a waypoint', () => {
  const gateway = { destination: { kind: 'hostname' as const, name: { namespace: 'shop', hostname: 'other.shop' } }, hbonePort: 15008 }
  const waypointService = service('unknown', { name: 'other', hostname: 'other.shop', ports: [{ servicePort: 15008, targetPort: 15008, appProtocol: 'unknown' }] })
  const theirs = workload('their-waypoint', 0, {
    ips: ['10.2.0.2'], serviceAccount: 'other', tunnelProtocol: 'hbone', services: new Map([['shop/other.shop', [{ servicePort: 15008, targetPort: 15008, appProtocol: 'unknown' as const }]]]),
  })
  const behind = service('unknown', { waypoint: gateway })

  it('that is not ours the waypoint is asked for the service', () => {
    expect(facts(behind, [workload('a', 1), theirs], {}, [waypointService])).toMatchObject([{
      isWaypoint: true, way: { to: { ip: '10.2.0.2', port: 15008 }, authority: { t: 'address', address: { ip: '10.96.0.9', port: 80 } }, identities: [{ serviceAccount: 'other' }] },
    }])
    const nameless = service('unknown', { waypoint: gateway, addresses: [] })
    expect(facts(nameless, [theirs], {}, [waypointService])).toMatchObject([{ way: { authority: { t: 'hostname', hostname: 'api.shop', port: 80 } } }])
  })

  it('nobody gets past it, unless its owner said so; subsets cannot be asked for', () => {
    expect(facts(behind, [workload('a', 1)], {}, [waypointService])).toBe('unknownWaypoint')
    expect(names(facts({ ...behind, waypointFailure: 'open' }, [workload('a', 1)], {}, [waypointService]))).toEqual(['a 3'])
    expect(facts(behind, [workload('a', 1, { labels: { v: '1' } }), theirs], { labels: { v: '1' } }, [waypointService])).toBe('subsetBehindWaypoint')
  })

  it('that is ours, or where it is not wanted, the endpoints are asked themselves', () => {
    const own = { ...self, services: new Map([['shop/other.shop', []]]) }
    expect(names(facts(behind, [workload('a', 1), theirs], { self: own }, [waypointService]))).toEqual(['a 3'])
    expect(names(facts(behind, [workload('a', 1), theirs], { throughWaypoints: false }, [waypointService]))).toEqual(['a 3'])
    // By its identity alone, before the mesh has told us of ourselves.
    expect(names(facts(behind, [workload('a', 1), { ...theirs, serviceAccount: 'waypoint' }], { self: undefined }, [waypointService]))).toEqual(['a 0'])
    expect(facts(behind, [workload('a', 1), theirs], { self: undefined }, [waypointService])).toMatchObject([{ isWaypoint: true }])
  })

  it('a pod is reached through its waypoint, too', () => {
    const store = new WorkloadStore()
    const pod = workload('a', 1, { ips: ['10.1.0.1'], tunnelProtocol: 'hbone', waypoint: gateway })
    store.apply({ services: [waypointService], workloads: [pod, theirs] })
    const request = { store, self, identity: '', port: 8080, isLocalFirst: true, throughWaypoints: true }
    expect(workloadFacts(pod, request)).toMatchObject({ endpoints: [{ isWaypoint: true, way: { authority: { address: { ip: '10.1.0.1', port: 8080 } } } }] })
    store.apply({ removedAddresses: [theirs.uid] })
    expect(workloadFacts(pod, request)).toMatchObject({ because: 'unknownWaypoint' })
    expect(workloadFacts({ ...pod, waypointFailure: 'open' }, request)).toMatchObject({ endpoints: [{ isWaypoint: false }] })
  })
})

describe('when the mesh changes', () => {
  it('new endpoints take part, others are not asked any more, without a failed request', async () => {
    const w = world()
    w.policy({ loadBalancer: { kind: 'roundRobin' } })
    const asked = { a: 0, b: 0 }
    await w.backend('a', (_, res) => {
      asked.a++
      res.end('a')
    })
    expect((await w.get()).body).toBe('a')
    await w.backend('b', (_, res) => {
      asked.b++
      res.end('b')
    })
    const seen = new Set<string>()
    for (let i = 0; i < 10; i++) seen.add((await w.get()).body)
    expect([...seen].sort()).toEqual(['a', 'b'])
    w.remove('a')
    for (let i = 0; i < 10; i++) expect((await w.get()).body).toBe('b')
  })

  it('shares follow policies, subsets and capacities', async () => {
    const w = world()
    const byName: Record<string, number> = {}
    for (const name of ['v1', 'v2']) await w.backend(name, (_, res) => res.end(name), { labels: { version: name }, capacity: name === 'v2' ? 3 : 1 })
    w.policy({ loadBalancer: { kind: 'roundRobin' } }, { subsets: new Map([['two', { labels: { version: 'v2' }, policy: defaultTrafficPolicy }]]) })
    for (let i = 0; i < 40; i++) {
      const { body } = await w.get()
      byName[body] = (byName[body] ?? 0) + 1
    }
    expect(byName).toEqual({ v1: 10, v2: 30 })
    for (let i = 0; i < 10; i++) expect((await w.get({ to: { t: 'service', service: w.service, port: 80, subset: 'two' } })).body).toBe('v2')
    w.policy({}, { subsets: new Map([['two', { labels: { version: 'v1' }, policy: defaultTrafficPolicy }]]) })
    w.add(workload('v3', 1))
    expect((await w.get({ to: { t: 'service', service: w.service, port: 80, subset: 'two' } })).body).toBe('v1')
  })

  it('the nearest place is asked first, and gives its share to the next as it fails', async () => {
    const w = world()
    w.self = self
    const byName: Record<string, number> = {}
    for (const [name, zone] of [['near1', 'a'], ['near2', 'a'], ['far', 'b']] as const) await w.backend(name, (_, res) => res.end(name), { locality: place('eu', zone) })
    const ask = async (times: number): Promise<void> => {
      for (const name of Object.keys(byName)) byName[name] = 0
      for (let i = 0; i < times; i++) {
        const { body } = await w.get()
        byName[body] = (byName[body] ?? 0) + 1
      }
    }
    await ask(20)
    expect(byName['far']).toBeUndefined()
    w.remove('near1')
    w.remove('near2')
    await ask(5)
    expect(byName['far']).toBe(5)
  })
})

describe('hosts that are found by name', () => {
  it('belong to the wildcard, and go where their name leads', async () => {
    const dialled: string[] = []
    const w = world({
      resolve: (host) => Promise.resolve(host === 'api.example.com' ? ['127.0.0.1', '192.0.2.1', '192.0.2.2'] : []),
      dial: (to) => {
        dialled.push(`${to.ip}:${to.port}`)
        return Promise.reject(new Error('nobody there'))
      },
    })
    const wild = service('unknown', { name: 'wild', hostname: '*.example.com', ports: [{ servicePort: 443, targetPort: 8443, appProtocol: 'http11' }], addresses: [], loadBalancing: { mode: 'passthrough', routingPreference: [], allowUnhealthy: false } })
    w.store.apply({ services: [wild] })
    const to = { t: 'service', service: wild, port: 443 } as const
    expect((await w.get({ to, authority: 'api.example.com:443' })).status).toBe(503)
    expect(dialled.slice(0, 2)).toEqual(['192.0.2.1:8443', '192.0.2.2:8443'])
    const foreign = await w.get({ to, authority: 'example.org' })
    expect([foreign.status, foreign.record.reasons[0]]).toEqual([421, ['noBackend', 'foreignHost']])
    expect(new Set(dialled)).toEqual(new Set(['192.0.2.1:8443', '192.0.2.2:8443']))
  })

  it('never lead to this host, whatever its name says', async () => {
    const w = world()
    const local = service('unknown', { name: 'local', hostname: 'localhost', addresses: [], loadBalancing: { mode: 'passthrough', routingPreference: [], allowUnhealthy: false } })
    w.store.apply({ services: [local] })
    const { status, record } = await w.get({ to: { t: 'service', service: local, port: 80 }, authority: 'localhost' })
    expect([status, record.reasons]).toEqual([503, [['connectFailure', 'CONNECT_UNREACHABLE']]])
  })

  it('never lead into the mesh in plain text', async () => {
    const dialled: string[] = []
    const w = world({
      resolve: () => Promise.resolve(['10.0.0.77', '192.0.2.1']),
      dial: ({ ip }) => {
        dialled.push(ip)
        return Promise.reject(new Error('nobody there'))
      },
    })
    const wild = service('unknown', { name: 'wild', hostname: '*.example.com', addresses: [] })
    w.store.apply({ services: [wild], workloads: [workload('meshed', 1, { ips: ['10.0.0.77'], tunnelProtocol: 'hbone', services: new Map() })] })
    expect((await w.get({ to: { t: 'service', service: wild, port: 80 }, authority: 'evil.example.com' })).status).toBe(503)
    expect(new Set(dialled)).toEqual(new Set(['192.0.2.1']))
  })

  it('are no more than the limit at once', async () => {
    const w = world({ limits: { hosts: 2 }, resolve: () => Promise.resolve(['192.0.2.1']), dial: () => Promise.reject(new Error('nobody')) })
    const wild = service('unknown', { name: 'wild', hostname: '*.example.com', addresses: [] })
    w.store.apply({ services: [wild] })
    for (let i = 0; i < 10; i++) await w.get({ to: { t: 'service', service: wild, port: 80 }, authority: `h${i}.example.com` })
    expect(w.forwarder.stats().length).toBe(2)
  })

  it('admit what ends in the wildcard, and nothing else', () => {
    const wild = service('unknown', { hostname: '*.example.com' })
    fc.assert(fc.property(fc.domain(), (host) => {
      expect(admitsHost(wild, `${host}.example.com`)).toBe(true)
      expect(admitsHost(wild, host)).toBe(host.endsWith('.example.com'))
    }))
    expect(admitsHost(wild, '.example.com')).toBe(false)
    expect(admitsHost(wild, 'example.com')).toBe(false)
  })
})

describe('the version of HTTP', () => {
  const w = new World()
  const asked = { isGrpc: false, protocol: 'http1' as const, connection: w.context() }
  const grpc = { ...asked, isGrpc: true, protocol: 'http2' as const }
  const http2 = { ...asked, protocol: 'http2' as const }
  const atGateway = { ...http2, connection: { ...w.context(), target: { t: 'listener', listener: {} as never } as const } }
  it.each([
    ['what the port says', asked, 'http2', {}, 'http2'], ['what the port says, for gRPC', asked, 'grpc', {}, 'http2'], ['what the port says, also to gRPC', grpc, 'http11', {}, 'http1'],
    ['HTTP/1.1 where nobody knows', asked, 'unknown', {}, 'http1'], ['what gRPC needs', grpc, 'unknown', {}, 'http2'], ['what the policy wants', asked, 'unknown', { isHttp2Wanted: true }, 'http2'],
    ['what the client knows', http2, 'unknown', {}, 'http2'], ['HTTP/1.1 for browsers', atGateway, 'unknown', {}, 'http1'], ['HTTP/1.1 for WebSockets', { ...http2, upgrade: 'websocket' }, 'unknown', { isHttp2Wanted: true }, 'http1'],
  ] as const)('is %s', (_, request, appProtocol, policy, expected) => {
    expect(protocolFor(request, appProtocol, policy)).toBe(expected)
  })
})
