import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { WorkloadStore, type StateDelta } from '../model/workload-store.ts'
import type { GatewayAddress, NetworkAddress, Service, Workload } from '../model/workload.ts'
import { resolveDestination, type Destination, type DestinationRequest } from './destination.ts'
import { EndpointHealth } from './endpoint-health.ts'
import { seeded, testService, testWorkload } from './test-fixtures.ts'

const at = (ip: string, network = ''): NetworkAddress => ({ ip, network })
const client = testWorkload('client', { ips: ['10.0.0.9', 'fd00::9'], serviceAccount: 'client' })
const serving = (...keys: string[]): Pick<Workload, 'services'> => ({ services: new Map(keys.map((key) => [key, []])) })
const pod = testWorkload('pod', { ips: ['10.0.0.1', 'fd00::1'], ...serving('shop/web') })
const plainPod = testWorkload('plain', { ips: ['10.0.0.2'], tunnelProtocol: 'none', ...serving('shop/plain') })
const web = testService('web', { addresses: [at('10.96.0.1'), at('fd96::1')] })
const gatewayService = testService('wp', { addresses: [at('10.96.9.9')],
  ports: [{ servicePort: 15008, targetPort: 15008, appProtocol: 'unknown' }] })
const gatewayPod = testWorkload('wp-1', { ips: ['10.0.9.1'], serviceAccount: 'waypoint', ...serving('shop/wp') })
const byName: GatewayAddress = { destination: { kind: 'hostname', name: { namespace: 'shop', hostname: 'wp' } },
  hbonePort: 15008 }
const byAddress = (ip: string, network = ''): GatewayAddress => ({ destination: { kind: 'address', address: at(ip, network) },
  hbonePort: 15008 })
const spiffe = (account: string): string => `spiffe://cluster.local/ns/shop/sa/${account}`

function resolve(ip: string, port: number, delta: StateDelta, parts: Partial<DestinationRequest> = {}): Destination {
  const store = new WorkloadStore()
  store.apply(delta)
  return resolveDestination({ source: client, original: { ip, port }, store, random: seeded(1), ...parts })
}

describe('in the order of decision', () => {
  test('what nobody knows passes through', () => {
    expect(resolve('1.1.1.1', 443, {})).toEqual({ t: 'passthrough', to: { ip: '1.1.1.1', port: 443 },
      because: 'unknownDestination' })
  })

  test('our own ports on loopback refuse', () => {
    for (const port of [15001, 15006, 15008]) expect(resolve('127.0.0.1', port, {})).toMatchObject({ t: 'refuse',
      because: 'selfCall' })
    expect(resolve('127.0.0.1', 80, {})).toMatchObject({ t: 'passthrough' })
  })

  test('a service is reached by HBONE to an endpoint, in the family that was asked for', () => {
    const delta = { services: [{ ...web, subjectAltNames: ['spiffe://x/ns/y/sa/z'] }], workloads: [pod] }
    expect(resolve('10.96.0.1', 80, delta)).toMatchObject({
      t: 'hbone', choice: { because: 'onlyOne' }, service: { hostname: 'web' },
      hop: { connectTo: { kind: 'address', addr: { ip: '10.0.0.1', port: 15008 } }, authority: '10.0.0.1:8080',
        identities: ['spiffe://x/ns/y/sa/z', spiffe('web')] },
    })
    expect(resolve('fd96::1', 80, delta)).toMatchObject({ hop: { authority: '[fd00::1]:8080',
      connectTo: { addr: { ip: 'fd00::1' } } } })
    expect(resolve('10.96.0.1', 80, { ...delta, services: [{ ...web,
      ipFamilies: 'ipv6' }] })).toMatchObject({ hop: { authority: '[fd00::1]:8080' } })
  })

  test('a service without an endpoint that fits refuses', () => {
    expect(resolve('10.96.0.1', 80, { services: [web] })).toMatchObject({ t: 'refuse', because: 'noEndpoints',
      code: 'NO_HEALTHY_UPSTREAM' })
    expect(resolve('10.96.0.1', 81, { services: [web], workloads: [pod] })).toMatchObject({ t: 'refuse',
      because: 'noEndpointWithPort' })
    expect(resolve('10.96.0.1', 80, { services: [web], workloads: [{ ...pod, isHealthy: false }] })).toMatchObject({ t: 'refuse',
      because: 'noEndpoints' })
  })

  test('a pod address goes to that pod; outside the mesh in plain text', () => {
    expect(resolve('10.0.0.1', 9000, { workloads: [pod] })).toMatchObject({ t: 'hbone',
      hop: { authority: '10.0.0.1:9000', identities: [spiffe('web')] }, choice: { because: 'addressed' } })
    expect(resolve('10.0.0.2', 9000, { workloads: [plainPod] })).toMatchObject({ t: 'plain',
      to: { addr: { ip: '10.0.0.2', port: 9000 } } })
  })

  test('a workload known by name only is dialled by name', () => {
    const external = testWorkload('ext', { ips: [], hostname: 'db.example', tunnelProtocol: 'none', ...serving('shop/web') })
    expect(resolve('10.96.0.1', 80, { services: [web], workloads: [external] })).toMatchObject({ t: 'plain',
      to: { kind: 'hostname', hostname: 'db.example', port: 8080 } })
  })

  test('an exact virtual address goes before a workload, a workload before a range', () => {
    const range = testService('range', { addresses: [{ ip: '10.0.0.0', network: '', prefixLength: 8 }] })
    expect(resolve('10.0.0.1', 80, { services: [range], workloads: [pod] })).toMatchObject({ t: 'hbone',
      choice: { because: 'addressed' } })
    expect(resolve('10.7.7.7', 80, { services: [range], workloads: [pod] })).toMatchObject({ t: 'refuse',
      service: { hostname: 'range' } })
    expect(resolve('10.0.0.1', 80, { services: [{ ...web, addresses: [at('10.0.0.1')] }],
      workloads: [pod] })).toMatchObject({ hop: { authority: '10.0.0.1:8080' } })
  })

  test('PASSTHROUGH keeps the original destination', () => {
    const passing = { ...web, loadBalancing: { mode: 'passthrough', routingPreference: [], allowUnhealthy: false } } as const
    expect(resolve('10.96.0.1', 80, { services: [passing], workloads: [pod] })).toMatchObject({ t: 'passthrough',
      because: 'passthroughService', to: { ip: '10.96.0.1' } })
  })

  test('a retry takes another endpoint, and the last one refuses', () => {
    const workloads = [pod, testWorkload('pod2', { ips: ['10.0.0.3'], ...serving('shop/web') })]
    expect(resolve('10.96.0.1', 80, { services: [web], workloads },
      { tried: new Set(['pod']) })).toMatchObject({ hop: { workload: { uid: 'pod2' } } })
    expect(resolve('10.96.0.1', 80, { services: [web], workloads },
      { tried: new Set(['pod', 'pod2']) })).toMatchObject({ t: 'refuse', because: 'everyOneTried' })
    const health = new EndpointHealth({ now: () => 0, failuresToEject: 1 })
    health.recordFailure('pod', 8080)
    expect(resolve('10.96.0.1', 80, { services: [web], workloads },
      { health })).toMatchObject({ hop: { workload: { uid: 'pod2' } } })
  })
})

describe('waypoints', () => {
  const known = { services: [{ ...web, waypoint: byName, subjectAltNames: ['spiffe://san'] }, gatewayService],
    workloads: [pod, gatewayPod] }

  test('of a service get the virtual address', () => {
    expect(resolve('10.96.0.1', 80, known)).toMatchObject({
      t: 'waypoint', of: 'service',
      hop: { workload: { uid: 'wp-1' }, connectTo: { addr: { ip: '10.0.9.1', port: 15008 } }, authority: '10.96.0.1:80',
        identities: ['spiffe://san', spiffe('waypoint')] },
    })
  })

  test('of a workload get the pod address', () => {
    const workloads = [{ ...pod, waypoint: byAddress('10.96.9.9') }, gatewayPod]
    expect(resolve('10.0.0.1', 80, { services: [web, gatewayService], workloads })).toMatchObject({ t: 'waypoint',
      of: 'workload', hop: { authority: '10.0.0.1:80', identities: [spiffe('waypoint')] } })
    // Also as an endpoint of a service without one, since it refuses what comes past it: the pod, then, and not the service.
    expect(resolve('10.96.0.1', 80, { services: [web, gatewayService], workloads })).toMatchObject({ t: 'waypoint',
      of: 'workload', service: { hostname: 'web' }, hop: { authority: '10.0.0.1:8080', identities: [spiffe('waypoint')] } })
    // Who has passed the service's waypoint has passed enough.
    const other = testWorkload('wp-2', { ips: ['10.0.9.2'], ...serving('shop/wp2') })
    const wp2 = { ...byName, destination: { kind: 'hostname', name: { namespace: 'shop', hostname: 'wp2' } } } as const
    expect(resolve('10.96.0.1', 80, { services: [{ ...web, waypoint: wp2 }, gatewayService], workloads: [...workloads, other] },
      { source: other })).toMatchObject({ t: 'hbone' })
    expect(resolve('10.0.0.1', 80, { workloads: [{ ...pod, waypoint: byAddress('10.0.9.1') },
      gatewayPod] })).toMatchObject({ t: 'waypoint' })
  })

  test('do not meet themselves', () => {
    expect(resolve('10.96.0.1', 80, known, { source: gatewayPod })).toMatchObject({ t: 'hbone',
      hop: { workload: { uid: 'pod' } } })
    for (const waypoint of [byName, byAddress('10.96.9.9'), byAddress('10.0.9.1')]) {
      expect(resolve('10.0.0.1', 80, { ...known, workloads: [{ ...pod, waypoint }, gatewayPod] },
        { source: gatewayPod })).toMatchObject({ t: 'hbone' })
    }
  })

  test('that cannot be found refuse; there is no way around them', () => {
    expect(resolve('10.96.0.1', 80, { ...known, services: [{ ...web, waypoint: byName }] })).toMatchObject({ t: 'refuse',
      because: 'unknownWaypoint' })
    expect(resolve('10.96.0.1', 80, { ...known, workloads: [pod] })).toMatchObject({ t: 'refuse', because: 'noHealthyWaypoint' })
    expect(resolve('10.0.0.1', 80, { workloads: [{ ...pod, waypoint: byAddress('10.5.5.5') }] })).toMatchObject({ t: 'refuse',
      because: 'unknownWaypoint' })
  })

  test('are skipped where the owner chose that, and only while none of them is ready', () => {
    const open = { waypointFailure: 'open' } as const
    const services = [{ ...web, ...open, waypoint: byName }, gatewayService]
    const notReady = [{ ...gatewayPod, isHealthy: false }]
    expect(resolve('10.96.0.1', 80, { services, workloads: [pod, gatewayPod] })).toMatchObject({ t: 'waypoint' })
    for (const delta of [{ services, workloads: [pod] }, { services, workloads: [pod, ...notReady] }, { services: services.slice(0, 1), workloads: [pod] }]) {
      expect(resolve('10.96.0.1', 80, delta)).toMatchObject({ t: 'hbone', waypointSkipped: 'wp', hop: { authority: '10.0.0.1:8080' } })
    }
    // None of them answers; but one that said no is there.
    const tried = { tried: new Set(['wp-1']) }
    expect(resolve('10.96.0.1', 80, { services, workloads: [pod, gatewayPod] }, tried)).toMatchObject({ t: 'hbone', waypointSkipped: 'wp' })
    expect(resolve('10.96.0.1', 80, { services, workloads: [pod, gatewayPod] }, { ...tried, isWaypointThere: true })).toMatchObject({
      t: 'refuse', because: 'noHealthyWaypoint' })
    // The workload's is asked for, too: it may have chosen otherwise.
    const closed = { ...pod, waypoint: byName }
    expect(resolve('10.96.0.1', 80, { services, workloads: [closed] })).toMatchObject({ t: 'refuse', because: 'noHealthyWaypoint' })
    expect(resolve('10.0.0.1', 80, { services, workloads: [{ ...closed, ...open }] })).toMatchObject({ t: 'hbone', waypointSkipped: 'wp' })
    // By its own address it is ready or not as it says.
    const single = { ...pod, ...open, waypoint: byAddress('10.0.9.1') }
    expect(resolve('10.0.0.1', 80, { workloads: [single, ...notReady] })).toMatchObject({ t: 'hbone', waypointSkipped: '10.0.9.1' })
    expect(resolve('10.0.0.1', 80, { workloads: [{ ...pod, waypoint: byAddress('10.0.9.1') }, ...notReady] })).toMatchObject({
      t: 'refuse', because: 'noHealthyWaypoint' })
  })

  test('share connections by place and by what they carry', () => {
    const near = { region: 'r', zone: 'z', subzone: '' }
    const replicas = [1, 2, 3].map((i) => testWorkload(`wp-${i}`, { ips: [`10.0.9.${i}`], ...serving('shop/wp'),
      locality: { ...near, zone: i === 3 ? 'far' : 'z' } }))
    const zonal = { ...gatewayService, loadBalancing: { mode: 'failover', routingPreference: ['zone'], allowUnhealthy: false } } as const
    const services = [{ ...web, waypoint: byName }, zonal]
    const source = { ...client, locality: near }
    const store = new WorkloadStore()
    store.apply({ services, workloads: [pod, ...replicas] })
    const open = new Map<string, number>()
    const random = seeded(3)
    const connect = (tried?: ReadonlySet<string>): string => {
      const found = resolveDestination({ source, original: { ip: '10.96.0.1', port: 80 }, store, random, load: (uid) => open.get(uid) ?? 0, tried })
      if (found.t !== 'waypoint') throw new Error(found.t)
      const { uid } = found.hop.workload
      open.set(uid, (open.get(uid) ?? 0) + 1)
      return uid
    }
    open.set('wp-1', 30)
    for (let i = 0; i < 100; i++) connect()
    expect([...open.keys()].sort()).toEqual(['wp-1', 'wp-2'])
    expect(Math.abs((open.get('wp-1') ?? 0) - (open.get('wp-2') ?? 0))).toBeLessThan(10)
    expect(connect(new Set(['wp-1', 'wp-2']))).toBe('wp-3')
  })

  test('are sampled by weight', () => {
    const weightedWaypoints = [{ destination: byName, weight: 3 }, { destination: byAddress('10.0.9.2'), weight: 1 }]
    const store = new WorkloadStore()
    store.apply({ services: [{ ...web, weightedWaypoints }, gatewayService],
      workloads: [gatewayPod, testWorkload('wp-2', { ips: ['10.0.9.2'] })] })
    const random = seeded(5)
    let first = 0
    for (let i = 0; i < 1000; i++) {
      const found = resolveDestination({ source: client, original: { ip: '10.96.0.1', port: 80 }, store, random })
      if (found.t === 'waypoint' && found.hop.workload.uid === 'wp-1') first++
    }
    expect(Math.abs(first - 750)).toBeLessThan(60)
  })
})

describe('other networks', () => {
  const remote = testWorkload('remote', { network: 'n2', ips: [], networkGateway: byAddress('10.0.8.1'), ...serving('shop/web') })
  const gateway = testWorkload('gw', { ips: ['10.0.8.1'], serviceAccount: 'gateway' })

  test('are reached through their gateway with a tunnel inside the tunnel', () => {
    expect(resolve('10.96.0.1', 80, { services: [{ ...web, subjectAltNames: ['spiffe://san'] }],
      workloads: [remote, gateway] })).toMatchObject({
      t: 'gateway', innerIdentities: ['spiffe://san'], remote: { uid: 'remote' },
      hop: { authority: 'web:80', connectTo: { addr: { ip: '10.0.8.1', port: 15008 } }, identities: [spiffe('gateway')] },
    })
    expect(resolve('10.96.0.1', 80, { services: [web], workloads: [remote] })).toMatchObject({ t: 'refuse',
      because: 'noNetworkGateway' })
  })
})

test('whatever the mesh looks like, an answer comes and never leaks past what is configured', () => {
  const gatewayOf = fc.constantFrom(byName, byAddress('10.0.9.1'), byAddress('10.96.9.9'), byAddress('10.0.9.1', 'n2'))
  const anyService: fc.Arbitrary<Service> = fc.record({
    hostname: fc.constantFrom('web', 'wp', 'plain'), addresses: fc.subarray([at('10.96.0.1'), at('10.0.0.1'),
      { ...at('10.0.0.0'), prefixLength: 8 }]),
    waypoint: fc.option(gatewayOf, { nil: undefined }), isOpen: fc.boolean(), mode: fc.constantFrom('unspecified', 'strict', 'failover', 'passthrough'),
  }).map(({ hostname, waypoint, isOpen, mode, ...rest }) => testService(hostname, { ...rest, ...(waypoint && { waypoint }), ...(isOpen && { waypointFailure: 'open' }),
    loadBalancing: { mode, routingPreference: ['zone'], allowUnhealthy: false } }))
  const anyWorkload: fc.Arbitrary<Workload> = fc.record({
    uid: fc.constantFrom('a', 'b', 'c'), ips: fc.subarray(['10.0.0.1', '10.0.9.1', 'fd00::1']), network: fc.constantFrom('',
      'n2'),
    tunnelProtocol: fc.constantFrom('none', 'hbone'), keys: fc.subarray(['shop/web', 'shop/wp']), waypoint: fc.option(gatewayOf,
      { nil: undefined }),
    networkGateway: fc.option(gatewayOf, { nil: undefined }), isOpen: fc.boolean(),
  }).map(({ uid, keys, waypoint, networkGateway, isOpen, ...rest }) => testWorkload(uid, { ...rest, ...serving(...keys),
    ...(waypoint && { waypoint }), ...(isOpen && { waypointFailure: 'open' }), ...(networkGateway && { networkGateway }) }))
  fc.assert(fc.property(fc.array(anyService, { maxLength: 3 }), fc.array(anyWorkload, { maxLength: 4 }),
    fc.constantFrom('10.96.0.1', '10.0.0.1', 'fd00::1', '10.5.5.5', '8.8.8.8'), fc.constantFrom(80, 81,
    15008), fc.integer(), (services, workloads, ip, port, seed) => {
    const store = new WorkloadStore()
    store.apply({ services, workloads })
    const found = resolveDestination({ source: client, original: { ip, port }, store, random: seeded(seed) })
    const service = store.serviceByAddress('', ip, 'shop')
    const workload = store.workloadByIp('', ip)
    if (found.t === 'passthrough' && found.because === 'unknownDestination') expect([service, workload]).toEqual([undefined, undefined])
    else if (found.t === 'passthrough') expect(found.service?.waypoint === undefined || found.waypointSkipped !== undefined).toBe(true)
    if (found.t === 'plain' || found.t === 'hbone') {
      const to = found.t === 'plain' ? found.workload : found.hop.workload
      expect(to.network).toBe('')
      expect(to.tunnelProtocol).toBe(found.t === 'plain' ? 'none' : 'hbone')
      const past = [found.service, to].filter((each) => each?.waypoint !== undefined)
      if (past.length > 0) expect(found.waypointSkipped).toBeDefined()
      // The service's is skipped only where its own owner said so; so is the workload's.
      for (const each of past) expect(each?.waypointFailure).toBe('open')
    }
    if (found.t === 'waypoint' || found.t === 'gateway') expect(found.hop.workload.network).toBe('')
  }), { numRuns: 1000 })
})
