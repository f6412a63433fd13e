import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { LoadBalancingMode, Scope, Service, Workload } from '../model/workload.ts'
import { EndpointHealth } from './endpoint-health.ts'
import { selectEndpoint, targetPortOf, type CallerPlace, type Selection, type SelectionRequest } from './load-balance.ts'
import { seeded, testEndpoints, testService, testWorkload } from './test-fixtures.ts'

const caller: CallerPlace = { network: '', clusterId: 'c', node: 'a', locality: { region: 'r', zone: 'z', subzone: '' } }
const balanced = (mode: LoadBalancingMode, ...routingPreference: Scope[]): Service =>
  testService('web', { loadBalancing: { mode, routingPreference, allowUnhealthy: false } })
const request = (service: Service, workloads: readonly Workload[], parts: Partial<SelectionRequest> = {}): SelectionRequest => ({
  service, servicePort: 80, endpoints: testEndpoints(workloads), caller, clientIp: '10.9.9.9', random: seeded(1), ...parts,
})
const uidOf = (selection: Selection): string => (selection.t === 'picked' ? selection.workload.uid : selection.because)
function tally(r: SelectionRequest, count: number): Map<string, number> {
  const found = new Map<string, number>()
  for (let i = 0; i < count; i++) {
    const uid = uidOf(selectEndpoint(r))
    found.set(uid, (found.get(uid) ?? 0) + 1)
  }
  return found
}

describe('weights', () => {
  test('are met, with and without load counters', () => {
    fc.assert(fc.property(fc.array(fc.nat(5), { minLength: 2, maxLength: 6 }), fc.integer(), fc.boolean(),
      (weights, seed, hasLoad) => {
      const total = weights.reduce((sum, w) => sum + w, 0)
      const r = request(testService('web'), weights.map((capacity, i) => testWorkload(`w${i}`, { capacity })), {
        random: seeded(seed), ...(hasLoad && { load: () => 0 }),
      })
      const found = tally(r, 4000)
      if (total === 0) expect([...found.keys()]).toEqual(['noEndpointWithPort'])
      else weights.forEach((w, i) => expect(Math.abs((found.get(`w${i}`) ?? 0) / 4000 - w / total)).toBeLessThan(0.05))
    }), { numRuns: 50 })
  })

  test('load counters keep the load relative to capacity even', () => {
    const load = new Map<string, number>()
    const r = request(testService('web'), [1, 1, 2].map((capacity, i) => testWorkload(`w${i}`, { capacity })),
      { load: (uid) => load.get(uid) ?? 0 })
    for (let i = 0; i < 400; i++) {
      const uid = uidOf(selectEndpoint(r))
      load.set(uid, (load.get(uid) ?? 0) + 1)
    }
    expect([...load.values()].sort((a, b) => a - b).map((n) => Math.round(n / 10))).toEqual([10, 10, 20])
  })
})

describe('preferences', () => {
  const here = testWorkload('here', { node: 'a' })
  const sameZone = testWorkload('sameZone', { node: 'b' })
  const sameRegion = testWorkload('sameRegion', { node: 'c', locality: { region: 'r', zone: 'y', subzone: '' } })
  const far = testWorkload('far', { node: 'd', locality: { region: 'q', zone: 'z', subzone: '' } })
  const abroad = testWorkload('abroad', { network: 'n2', node: 'e',
    networkGateway: { destination: { kind: 'address', address: { network: 'n2', ip: '1.1.1.1' } }, hbonePort: 15008 } })
  const every = [here, sameZone, sameRegion, far]
  const chosen = (service: Service, workloads: readonly Workload[]): string[] => [...tally(request(service, workloads),
    200).keys()].sort()

  test('FAILOVER keeps to the best rank', () => {
    const service = balanced('failover', 'region', 'zone', 'node')
    expect(chosen(service, every)).toEqual(['here'])
    expect(chosen(service, [sameZone, sameRegion, far])).toEqual(['sameZone'])
    expect(chosen(service, [sameRegion, far])).toEqual(['sameRegion'])
    expect(chosen(service, [far])).toEqual(['far'])
  })

  test('STRICT takes nothing else, UNSPECIFIED takes all', () => {
    expect(chosen(balanced('strict', 'region', 'zone'), every)).toEqual(['here', 'sameZone'])
    expect(chosen(balanced('strict', 'node'), [far])).toEqual(['noneInScope'])
    expect(chosen(balanced('unspecified', 'node'), every)).toEqual(['far', 'here', 'sameRegion', 'sameZone'])
  })

  test('NETWORK in the first place goes before all others', () => {
    expect(chosen(balanced('failover', 'network', 'region', 'zone'), [far, abroad])).toEqual(['far'])
    expect(chosen(balanced('failover', 'region', 'network'), [far, abroad])).toEqual(['abroad'])
    const abroadFar = { ...abroad, uid: 'abroadFar', locality: far.locality }
    expect(chosen(balanced('failover', 'network', 'region'), [abroad, abroadFar])).toEqual(['abroad'])
  })

  test('STRICT and FAILOVER hold whatever happens', () => {
    const scopes: Scope[] = ['region', 'zone', 'subzone', 'node', 'cluster', 'network']
    const place = fc.record({ node: fc.constantFrom('a', 'b'), clusterId: fc.constantFrom('c', 'd'),
      locality: fc.record({ region: fc.constantFrom('r', 's'), zone: fc.constantFrom('z', 'y'),
      subzone: fc.constantFrom('', 'k') }), network: fc.constantFrom('', 'n2') })
    const holds = (scope: Scope, w: Workload): boolean => {
      if (scope === 'node') return w.node === caller.node
      if (scope === 'cluster') return w.clusterId === caller.clusterId
      return scope === 'network' ? w.network === caller.network : w.locality[scope] === caller.locality[scope]
    }
    fc.assert(fc.property(fc.array(place, { maxLength: 8 }), fc.shuffledSubarray(scopes), fc.constantFrom('strict', 'failover'),
      fc.array(fc.nat(7)), fc.integer(), fc.array(fc.nat(7)), (places, preferences, mode, failing, seed, tried) => {
      const health = new EndpointHealth({ now: () => 0, failuresToEject: 1, slowStartMs: 0 })
      for (const i of failing) health.recordFailure(`w${i}`, 8080)
      const { networkGateway } = abroad
      const workloads = places.map((p, i) => testWorkload(`w${i}`, { ...p, ...(networkGateway && { networkGateway }) }))
      const triedUids = new Set(tried.map((i) => `w${i}`))
      const selection = selectEndpoint(request(balanced(mode, ...preferences), workloads,
        { health, random: seeded(seed), tried: triedUids }))
      if (selection.t === 'none') {
        if (selection.because === 'noneInScope') expect(workloads.some((w) => preferences.every((s) => holds(s, w)))).toBe(false)
        return
      }
      expect(triedUids.has(selection.workload.uid)).toBe(false)
      if (mode === 'strict') expect(preferences.every((s) => holds(s, selection.workload))).toBe(true)
      else if (failing.length === 0 && tried.length === 0) {
        const rank = (w: Workload): number => [...preferences, undefined].findIndex((s) => !s || !holds(s, w))
        if (preferences[0] !== 'network') expect(rank(selection.workload)).toBe(Math.max(...workloads.map(rank)))
        else if (workloads.some((w) => w.network === '')) expect(rank(selection.workload)).toBe(Math.max(...workloads.map(rank)))
      }
      if (!selection.isPanic) expect(health.isEjected(selection.workload.uid, 8080)).toBe(false)
    }), { numRuns: 1000 })
  })
})

describe('session affinity', () => {
  const service = testService('web', { sessionAffinity: { kind: 'clientIp', timeoutSeconds: 10_800 } })
  const workloads = Array.from({ length: 10 }, (_, i) => testWorkload(`w${i}`))
  const clients = Array.from({ length: 2000 }, (_, i) => `10.${i >> 8}.${i & 255}.1`)
  const assign = (of: readonly Workload[]): string[] => clients.map((clientIp) => uidOf(selectEndpoint(request(service, of,
    { clientIp, random: Math.random }))))

  test('a client stays, spreads evenly, and moves only when its endpoint goes', () => {
    const before = assign(workloads)
    expect(assign([...workloads].reverse())).toEqual(before)
    for (const { uid } of workloads) expect(Math.abs(before.filter((u) => u === uid).length - 200)).toBeLessThan(70)
    const after = assign(workloads.filter((w) => w.uid !== 'w3'))
    before.forEach((uid, i) => (uid === 'w3' ? expect(after[i]).not.toBe('w3') : expect(after[i]).toBe(uid)))
  })
})

describe('ports and addresses', () => {
  test('the endpoint says its port first, then the service, then an application tunnel', () => {
    const service = testService('web', { ports: [{ servicePort: 80, targetPort: 8080, appProtocol: 'tcp' },
      { servicePort: 81, targetPort: 0, appProtocol: 'tcp' }] })
    const plain = { workload: testWorkload('w'), ports: [] }
    const own = { workload: testWorkload('w'), ports: [{ servicePort: 80, targetPort: 9090, appProtocol: 'tcp' as const }] }
    const tunnel = { workload: testWorkload('w', { applicationTunnel: { protocol: 'proxy' } }), ports: [] }
    expect([plain, own, tunnel].map((e) => targetPortOf(e, service, 80))).toEqual([8080, 9090, 8080])
    expect([plain, tunnel].map((e) => targetPortOf(e, service, 81))).toEqual([undefined, undefined])
    expect([plain, tunnel].map((e) => targetPortOf(e, service, 82))).toEqual([undefined, 82])
  })

  test('an endpoint that cannot be reached is none', () => {
    const none = (w: Partial<Workload>, s: Partial<Service> = {}): string => uidOf(selectEndpoint(request(testService('web', s),
      [testWorkload('w', w)])))
    expect(none({ ips: [] })).toBe('noEndpointWithPort')
    expect(none({ ips: [], hostname: 'db.example' })).toBe('w')
    expect(none({ network: 'n2' })).toBe('noEndpointWithPort')
    expect(none({ ips: ['fd00::1'] }, { ipFamilies: 'ipv4' })).toBe('noEndpointWithPort')
    expect(uidOf(selectEndpoint(request(testService('web'), [])))).toBe('noEndpoints')
  })
})

describe('passive health', () => {
  const world = (count: number) => {
    let nowMs = 0
    const health = new EndpointHealth({ now: () => nowMs, baseEjectionMs: 1000, maxEjectionMs: 4000, slowStartMs: 0 })
    const workloads = Array.from({ length: count }, (_, i) => testWorkload(`w${i}`))
    const fail = (uid: string, times = 3): boolean => Array.from({ length: times },
      () => health.recordFailure(uid, 8080)).some(Boolean)
    return { health, workloads, fail, wait: (ms: number) => void (nowMs += ms),
      r: request(testService('web'), workloads, { health }) }
  }

  test('three failures running eject; a success between them does not', () => {
    const { health, fail, r, wait } = world(3)
    expect(fail('w0', 2)).toBe(false)
    health.recordSuccess('w0', 8080)
    expect(fail('w0', 2)).toBe(false)
    expect(fail('w0', 1)).toBe(true)
    expect([...tally(r, 100).keys()].sort()).toEqual(['w1', 'w2'])
    expect(health.ejected()).toEqual([{ uid: 'w0', port: 8080, untilMs: 1000 }])
    expect(health.isEjected('w0', 9090)).toBe(false)
    wait(1000)
    expect([...tally(r, 100).keys()].sort()).toEqual(['w0', 'w1', 'w2'])
  })

  test('each ejection is longer, up to a bound; serving well is forgiven', () => {
    const { health, fail, wait } = world(1)
    const lengths: number[] = []
    for (let i = 0; i < 5; i++) {
      fail('w0', i === 0 ? 3 : 1)
      const [{ untilMs } = { untilMs: 0 }] = health.ejected()
      const length = untilMs - lengths.reduce((sum, l) => sum + l, 0)
      lengths.push(length)
      wait(length)
    }
    expect(lengths).toEqual([1000, 2000, 4000, 4000, 4000])
    wait(10_000)
    health.recordSuccess('w0', 8080)
    fail('w0')
    expect(health.ejected()).toMatchObject([{ untilMs: 15_000 + 10_000 + 1000 }])
    health.forget('w0')
    expect(health.ejected()).toEqual([])
  })

  test('when more than half are out, ejections are ignored', () => {
    const { fail, r } = world(4)
    fail('w0')
    fail('w1')
    expect([...tally(r, 200).keys()].sort()).toEqual(['w2', 'w3'])
    fail('w2')
    expect(tally(r, 400).size).toBe(4)
    expect(selectEndpoint(r)).toMatchObject({ isPanic: true })
  })

  test('a tier that is out gives way to the next before there is panic', () => {
    const { health, fail } = world(0)
    const workloads = [testWorkload('near', { node: 'a' }), testWorkload('far', { node: 'b' })]
    const r = request(balanced('failover', 'node'), workloads, { health })
    fail('near')
    expect([...tally(r, 50).keys()]).toEqual(['far'])
    fail('far')
    expect([...tally(r, 50).keys()]).toEqual(['near'])
  })

  test('the next endpoint is one that was not tried', () => {
    const { workloads, r } = world(4)
    const tried = new Set<string>()
    for (const _ of workloads) tried.add(uidOf(selectEndpoint({ ...r, tried })))
    expect([...tried].sort()).toEqual(['w0', 'w1', 'w2', 'w3'])
    expect(uidOf(selectEndpoint({ ...r, tried }))).toBe('everyOneTried')
  })

  test('an ejected endpoint is never picked unless in panic', () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 8 }), fc.array(fc.nat(7)), fc.array(fc.nat(7)), fc.integer(), fc.boolean(),
      (count, failing, tried, seed, isSticky) => {
      const { health, workloads, fail } = world(count)
      for (const i of failing) fail(`w${i}`)
      const selection = selectEndpoint(request(testService('web', isSticky ? { sessionAffinity: { kind: 'clientIp', timeoutSeconds: 10_800 } } : {}), workloads, {
        health, random: seeded(seed), tried: new Set(tried.map((i) => `w${i}`)),
      }))
      if (selection.t === 'none') return
      const out = workloads.filter((w) => health.isEjected(w.uid, 8080)).length
      expect(selection.isPanic).toBe(out > count / 2)
      if (out <= count / 2) expect(health.isEjected(selection.workload.uid, 8080)).toBe(false)
    }))
  })

  test('a new endpoint starts slowly', () => {
    let nowMs = 0
    const health = new EndpointHealth({ now: () => nowMs, slowStartMs: 1000 })
    const r = request(testService('web'), [testWorkload('old'), testWorkload('new')], { health })
    health.recordNew('new')
    const share = (): number => (tally(r, 2000).get('new') ?? 0) / 2000
    expect(Math.abs(share() - 0.1 / 1.1)).toBeLessThan(0.03)
    nowMs = 500
    expect(Math.abs(share() - 0.5 / 1.5)).toBeLessThan(0.04)
    nowMs = 1000
    expect(health.isActive).toBe(false)
    expect(Math.abs(share() - 0.5)).toBeLessThan(0.04)
  })
})
