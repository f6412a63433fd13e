import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Authorization } from './authorization.ts'
import { WorkloadStore, type StateDelta, type StoreChange } from './workload-store.ts'
import { serviceKey, type NetworkAddress, type Service, type Workload } from './workload.ts'

const workload = (uid: string, parts: Partial<Workload> = {}): Workload => ({
  uid, name: uid, namespace: 'shop', ips: ['10.0.0.1'], network: '', trustDomain: 'cluster.local', serviceAccount: 'web', node: 'a',
  clusterId: 'c', tunnelProtocol: 'hbone', nativeTunnel: false, isHostNetwork: false, canonicalName: '', canonicalRevision: '',
  workloadType: 'pod', workloadName: '', isHealthy: true, capacity: 1, locality: { region: '', zone: '', subzone: '' },
  policies: [], services: new Map(), ...parts,
})
const service = (hostname: string, parts: Partial<Service> = {}): Service => ({
  name: hostname, namespace: 'shop', hostname, addresses: [], ports: [], subjectAltNames: [], ipFamilies: 'automatic',
  isCanonical: false, isNamespaceLocal: false, ...parts,
})
const policy = (name: string, parts: Partial<Authorization> = {}): Authorization => ({
  name, namespace: 'shop', scope: 'namespace', action: 'deny', rules: [], isDryRun: false, ...parts,
})
const at = (ip: string, prefixLength?: number): NetworkAddress => ({ network: '', ip,
  ...(prefixLength !== undefined && { prefixLength }) })
const unhealthyToo = { routingPreference: [], mode: 'unspecified', allowUnhealthy: true } as const
const uids = (store: WorkloadStore, key: string): string[] => store.endpoints(key).map((e) => e.workload.uid).sort()

describe('endpoints', () => {
  const pod = workload('p1', { services: new Map([['shop/web', [{ servicePort: 80, targetPort: 8080, appProtocol: 'tcp' }]]]) })

  test('wait for their service and stay when it changes', () => {
    const store = new WorkloadStore()
    store.apply({ workloads: [pod] })
    expect(uids(store, 'shop/web')).toEqual([])
    expect(store.stagedServices()).toEqual(['shop/web'])
    store.apply({ services: [service('web')] })
    expect(uids(store, 'shop/web')).toEqual(['p1'])
    expect(store.stagedServices()).toEqual([])
    store.apply({ services: [service('web', { subjectAltNames: ['x'] })] })
    expect(store.endpoints('shop/web')).toMatchObject([{ ports: [{ targetPort: 8080 }] }])
    store.apply({ removedAddresses: ['shop/web'] })
    expect(store.stagedServices()).toEqual(['shop/web'])
    store.apply({ removedAddresses: ['p1'] })
    expect(store.stagedServices()).toEqual([])
  })

  test('that are unhealthy count only where the service says so, whichever came first', () => {
    const store = new WorkloadStore()
    store.apply({ services: [service('web')], workloads: [{ ...pod, isHealthy: false }] })
    expect(uids(store, 'shop/web')).toEqual([])
    store.apply({ services: [service('web', { loadBalancing: unhealthyToo })] })
    expect(uids(store, 'shop/web')).toEqual(['p1'])
    store.apply({ services: [service('web')] })
    expect(uids(store, 'shop/web')).toEqual([])
  })
})

describe('addresses', () => {
  test('of the host belong to no workload; one in use twice goes to the healthy pod', () => {
    const store = new WorkloadStore()
    store.apply({ workloads: [workload('c//Pod/shop/host', { isHostNetwork: true }), workload('c/entry'),
      workload('c//Pod/shop/old', { isHealthy: false })] })
    expect(store.workloadByIp('', '10.0.0.1')?.uid).toBe('c/entry')
    store.apply({ workloads: [workload('c//Pod/shop/new')] })
    expect(store.workloadByIp('', '10.0.0.1')?.uid).toBe('c//Pod/shop/new')
    store.apply({ removedAddresses: ['c//Pod/shop/new', 'c/entry'] })
    expect(store.workloadByIp('', '10.0.0.1')?.uid).toBe('c//Pod/shop/old')
    expect(store.workloadByIp('other', '10.0.0.1')).toBeUndefined()
  })

  test('of services: exact before ranges, then caller, prefix, canonical; hidden ones are absent', () => {
    const store = new WorkloadStore()
    store.apply({ services: [
      service('wide', { addresses: [at('10.0.0.0', 8)] }),
      service('narrow', { addresses: [at('10.1.0.0', 16)] }),
      service('canonical', { addresses: [at('10.1.0.0', 16)], isCanonical: true }),
      service('mine', { namespace: 'other', addresses: [at('10.0.0.0', 8)] }),
      service('hidden', { addresses: [at('10.1.1.1')], isNamespaceLocal: true }),
      service('single', { namespace: 'z', addresses: [at('10.1.1.2', 32)] }),
    ] })
    const named = (ip: string, caller: string): string | undefined => store.serviceByAddress('', ip, caller)?.hostname
    expect(named('10.1.9.9', 'x')).toBe('canonical')
    expect(named('10.2.9.9', 'x')).toBe('mine')
    expect(named('10.1.9.9', 'other')).toBe('mine')
    expect(named('10.1.1.1', 'shop')).toBe('hidden')
    expect(named('10.1.1.1', 'x')).toBe('canonical')
    expect(named('10.1.1.2', 'x')).toBe('single')
    expect(named('11.0.0.1', 'x')).toBeUndefined()
  })

  test('hostnames: own namespace, then the preferred one, then the canonical service', () => {
    const store = new WorkloadStore()
    const of = (namespace: string, parts: Partial<Service> = {}): Service => service('db.example', { namespace, ...parts })
    store.apply({ services: [of('a'), of('b', { isCanonical: true }), of('c'), of('d', { isNamespaceLocal: true })] })
    const found = (caller: string, preferred?: string): string | undefined => store.serviceByHostname('db.example', caller,
      preferred)?.namespace
    expect([found('a'), found('x'), found('x', 'c'), found('x', 'd'), found('d')]).toEqual(['a', 'b', 'c', 'b', 'd'])
  })
})

describe('changes', () => {
  test('are told once per delta with what they mean; identical facts are none', () => {
    const store = new WorkloadStore()
    const told: (readonly StoreChange[])[] = []
    const stop = store.onChange((changes) => told.push(changes))
    const delta: StateDelta = { workloads: [workload('p1')], services: [service('web')], policies: [policy('deny')] }
    store.apply(delta)
    const version = store.version
    store.apply(structuredClone(delta))
    expect(store.version).toBe(version)
    expect(told.map((c) => c.map((x) => x.t))).toEqual([['serviceChanged', 'workloadAdded', 'policyChanged']])
    store.apply({ workloads: [workload('p1', { serviceAccount: 'other' })] })
    store.apply({ workloads: [workload('p1', { serviceAccount: 'other', policies: ['shop/x'], ips: ['10.0.0.2'] })] })
    expect(told.slice(1).flat()).toMatchObject([
      { t: 'workloadChanged', isIdentityChanged: true, isAddressChanged: false, isPolicyChanged: false },
      { t: 'workloadChanged', isIdentityChanged: false, isAddressChanged: true, isPolicyChanged: true },
    ])
    stop()
    store.apply({ removedAddresses: ['p1', 'shop/web', 'nobody'], removedPolicies: ['shop/deny'] })
    expect(told.length).toBe(3)
    expect(store.snapshot()).toEqual({ workloads: [], services: [], policies: [] })
  })
})

const ips = ['10.0.0.1', '10.0.0.2', '10.0.1.1', 'fd00::1']
const networks = ['', 'n1']
const namespaces = ['a', 'b']
const hostnames = ['x', 'y', '*.z']
const keys = namespaces.flatMap((n) => hostnames.map((h) => `${n}/${h}`))
const anyWorkload: fc.Arbitrary<Workload> = fc.record({
  uid: fc.constantFrom('u1', 'u2', 'c//Pod/u3', 'c//Pod/u4'), ips: fc.subarray(ips), network: fc.constantFrom(...networks), namespace: fc.constantFrom(...namespaces),
  name: fc.constantFrom('p', 'q'), isHealthy: fc.boolean(), isHostNetwork: fc.boolean(), services: fc.subarray(keys).map((list) => new Map(list.map((k) => [k, []]))),
}).map(({ uid, ...rest }) => workload(uid, rest))
const anyAddress = fc.record({ network: fc.constantFrom(...networks), ip: fc.constantFrom(...ips),
  prefixLength: fc.constantFrom(0, 8, 24, 31, 32, 33, 128, 129) })
const anyService: fc.Arbitrary<Service> = fc.record({
  hostname: fc.constantFrom(...hostnames), namespace: fc.constantFrom(...namespaces), addresses: fc.array(anyAddress,
    { maxLength: 3 }),
  isCanonical: fc.boolean(), isNamespaceLocal: fc.boolean(), allow: fc.boolean(),
}).map(({ hostname, allow, ...rest }) => service(hostname, { ...rest, ...(allow && { loadBalancing: unhealthyToo }) }))
const anyPolicy = fc.record({ namespace: fc.constantFrom(...namespaces),
  scope: fc.constantFrom('global', 'namespace', 'workloadSelector') })
const anyDelta: fc.Arbitrary<StateDelta> = fc.record({
  workloads: fc.array(anyWorkload, { maxLength: 2 }), services: fc.array(anyService, { maxLength: 2 }),
  policies: fc.array(fc.tuple(fc.constantFrom('p', 'q'), anyPolicy).map(([name, parts]) => policy(name, parts)),
    { maxLength: 2 }),
  removedAddresses: fc.array(fc.constantFrom('u1', 'u2', 'c//Pod/u3', 'c//Pod/u4', ...keys), { maxLength: 2 }),
  removedPolicies: fc.array(fc.constantFrom('a/p', 'a/q', 'b/p', 'b/q'), { maxLength: 2 }),
}, { requiredKeys: [] })

/** Every answer the store can give about the small world of the generators. */
function answers(store: WorkloadStore): unknown {
  const pairs = networks.flatMap((n) => [...ips, '10.0.0.77', '10.9.9.9'].map((ip) => [n, ip] as const))
  return {
    workloads: pairs.map(([n, ip]) => store.workloadByIp(n, ip)?.uid),
    names: namespaces.flatMap((n) => ['p', 'q'].map((name) => store.workloadByName(n, name, 'web')?.uid)),
    services: ['a', 'b', 'c'].flatMap((caller) => pairs.map(([n, ip]) => store.serviceByAddress(n, ip, caller))),
    hostnames: ['a', 'b', 'c'].flatMap((caller) => hostnames.map((h) => store.serviceByHostname(h, caller))),
    endpoints: keys.map((key) => uids(store, key)),
    staged: store.stagedServices().sort(),
    global: store.policies.global(),
    namespaced: namespaces.map((n) => store.policies.inNamespace(n)),
  }
}

function put<V>(map: Map<string, V>, key: string, value: V | undefined): void {
  if (value === undefined) map.delete(key)
  else map.set(key, value)
}

describe('the same facts', () => {
  test('give the same answers, however they came', () => {
    fc.assert(fc.property(fc.array(anyDelta, { maxLength: 12 }), fc.nat(), (deltas, turn) => {
      const store = new WorkloadStore()
      const seen = { workloads: new Map<string, Workload>(), services: new Map<string, Service>(), policies: new Map<string,
        Authorization>() }
      store.onChange((changes) => {
        for (const c of changes) {
          if (c.t === 'workloadAdded') seen.workloads.set(c.workload.uid, c.workload)
          else if (c.t === 'workloadChanged') seen.workloads.set(c.after.uid, c.after)
          else if (c.t === 'workloadRemoved') seen.workloads.delete(c.workload.uid)
          else if (c.t === 'serviceChanged') put(seen.services, c.key, c.after)
          else put(seen.policies, c.key, c.after)
        }
      })
      for (const delta of deltas) {
        store.apply(delta)
        answers(store)
      }
      const { workloads, services, policies } = store.snapshot()
      const turned = <T>(list: readonly T[]): T[] => list.map((_,
        i) => list[(i + turn) % list.length]).filter((x) => x !== undefined)
      const fresh = new WorkloadStore()
      fresh.apply({ workloads: turned(workloads) })
      fresh.apply({ services: turned(services), policies: turned(policies) })
      expect(answers(store)).toEqual(answers(fresh))
      // The events alone tell the whole story.
      expect(new Set(seen.workloads.values())).toEqual(new Set(workloads))
      expect([...seen.services.keys()].sort()).toEqual(services.map(serviceKey).sort())
      expect(new Set(seen.policies.values())).toEqual(new Set(policies))
    }), { numRuns: 500 })
  })
})
