import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { WorkloadStore, type StateDelta } from '../model/workload-store.ts'
import type { GatewayAddress, Workload } from '../model/workload.ts'
import { testService, testWorkload } from './test-fixtures.ts'
import { bypassedWaypoint, requiredWaypoint, standsBefore, waypointName } from './waypoint-binding.ts'

const named = (name: string): GatewayAddress => ({ destination: { kind: 'hostname', name: { namespace: 'shop', hostname: name } }, hbonePort: 15008 })
const at = (ip: string): GatewayAddress => ({ destination: { kind: 'address', address: { network: '', ip } }, hbonePort: 15008 })
const account = (serviceAccount: string, namespace = 'shop') => ({ trustDomain: 'cluster.local', namespace, serviceAccount })
const serving = (...names: string[]): Pick<Workload, 'services'> => ({ services: new Map(names.map((name) => [`shop/${name}`, []])) })
const waypointPod = testWorkload('wp-1', { ips: ['10.0.9.1'], serviceAccount: 'wp', ...serving('wp') })
const waypointService = testService('wp', { addresses: [{ network: '', ip: '10.96.9.9' }], ports: [{ servicePort: 15008, targetPort: 15008, appProtocol: 'unknown' }] })

function storeOf(delta: StateDelta): WorkloadStore {
  const store = new WorkloadStore()
  store.apply(delta)
  return store
}

describe('a workload with a waypoint', () => {
  test.each([['by name', named('wp')], ['by the address of its service', at('10.96.9.9')], ['by the address of its pod', at('10.0.9.1')]])(
    'takes those who prove to be it, on any port, %s', (_, waypoint) => {
      const store = storeOf({ services: [waypointService], workloads: [waypointPod] })
      const own = testWorkload('own', { waypoint })
      for (const port of [80, 8080]) {
        expect(bypassedWaypoint(account('wp'), own, port, store)).toBeUndefined()
        for (const other of [undefined, account('web'), account('wp', 'other'), { ...account('wp'), trustDomain: 'elsewhere' }]) {
          expect(bypassedWaypoint(other, own, port, store)).toBe(waypoint)
        }
      }
    })

  test('takes one that is leaving, and nobody while the waypoint is not known', () => {
    const own = testWorkload('own', { waypoint: named('wp') })
    expect(bypassedWaypoint(account('wp'), own, 80, storeOf({ workloads: [{ ...waypointPod, isHealthy: false }] }))).toBeUndefined()
    const store = storeOf({ services: [waypointService] })
    expect(bypassedWaypoint(account('wp'), own, 80, store)).toBe(own.waypoint)
    // What is known changes, and so does the answer.
    store.apply({ workloads: [waypointPod] })
    expect(bypassedWaypoint(account('wp'), own, 80, store)).toBeUndefined()
    store.apply({ workloads: [{ ...waypointPod, serviceAccount: 'wp2' }] })
    expect([account('wp'), account('wp2')].map((each) => bypassedWaypoint(each, own, 80, store))).toEqual([own.waypoint, undefined])
    store.apply({ removedAddresses: ['wp-1'] })
    expect(bypassedWaypoint(account('wp2'), own, 80, store)).toBe(own.waypoint)
    for (const waypoint of [named('gone'), at('10.9.9.9')]) expect(bypassedWaypoint(account('wp'), { ...own, waypoint }, 80, store)).toBe(waypoint)
  })

  test('that may be passed by takes everybody', () => {
    const own = testWorkload('own', { waypoint: named('wp'), waypointFailure: 'open' })
    expect(requiredWaypoint(own)).toBeUndefined()
    expect(bypassedWaypoint(undefined, own, 80, storeOf({}))).toBeUndefined()
  })
})

test('the waypoint of a service stands before the ports that the service leads to, and no others', () => {
  const own = testWorkload('own', serving('web', 'named'))
  const store = storeOf({
    services: [
      testService('web', { ports: [{ servicePort: 80, targetPort: 8080, appProtocol: 'tcp' }], weightedWaypoints: [{ destination: named('wp'), weight: 1 }] }),
      testService('named', { ports: [{ servicePort: 90, targetPort: 0, appProtocol: 'tcp' }], waypoint: named('wp') }), waypointService,
    ],
    workloads: [waypointPod],
  })
  const stands = (port: number, who = account('wp'), workload = own): boolean => standsBefore(who, workload, port, store)
  expect([80, 90, 8080, 9090].map((port) => stands(port))).toEqual([false, false, true, false])
  const mapped = { ...own, services: new Map([['shop/named', [{ servicePort: 90, targetPort: 9090, appProtocol: 'tcp' as const }]]]) }
  expect([8080, 9090].map((port) => stands(port, account('wp'), mapped))).toEqual([false, true])
  expect(stands(8080, account('web'))).toBe(false)
  // It stands before the workload, but nobody has to pass it to get to a pod's address.
  expect(bypassedWaypoint(undefined, own, 8080, store)).toBeUndefined()
  // Where the workload has its own, that of a service is as good for what the service leads to.
  const both = { ...own, waypoint: named('other') }
  expect([8080, 22].map((port) => bypassedWaypoint(account('wp'), both, port, store) === undefined)).toEqual([true, false])
})

test('what is asked of the store is what its workloads say, whatever came before', () => {
  const delta: fc.Arbitrary<StateDelta> = fc.record({
    workloads: fc.array(fc.record({ uid: fc.constantFrom('a', 'b', 'c'), serviceAccount: fc.constantFrom('x', 'y'), isHealthy: fc.boolean(), keys: fc.subarray(['wp', 'web']) })
      .map(({ uid, keys, ...parts }) => testWorkload(uid, { ...parts, ...serving(...keys) })), { maxLength: 3 }),
    removedAddresses: fc.subarray(['a', 'b', 'shop/wp']),
    services: fc.constantFrom([], [waypointService]),
  })
  fc.assert(fc.property(fc.array(delta, { maxLength: 8 }), (deltas) => {
    const store = new WorkloadStore()
    for (const each of deltas) {
      store.apply(each)
      const behind = [...store.workloads()].filter(({ services }) => services.has('shop/wp')).map(({ serviceAccount }) => `spiffe://cluster.local/ns/shop/sa/${serviceAccount}`)
      expect(store.identitiesBehind('shop/wp')).toEqual(new Set(behind))
    }
  }))
})

test('it has a name for people', () => {
  expect([named('wp'), at('10.0.9.1')].map(waypointName)).toEqual(['wp', '10.0.9.1'])
})
