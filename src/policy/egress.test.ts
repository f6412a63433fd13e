import { describe, expect, test } from 'vitest'
import { egressLabel, egressSetting } from '../model/egress.ts'
import { WorkloadStore } from '../model/workload-store.ts'
import type { Destination } from './destination.ts'
import { egressVerdict, entryHost, leavesMesh } from './egress.ts'
import { testService, testWorkload } from './test-fixtures.ts'

const caller = testWorkload('caller')
const leaves = (destination: Destination, store = new WorkloadStore()): boolean => leavesMesh(destination, caller, store)
const outside = (ip: string): Destination => ({ t: 'passthrough', to: { ip, port: 443 }, because: 'unknownDestination' })

describe('a destination outside the mesh', () => {
  test.each([
    [undefined, { allowed: true, because: 'egressAllowed', isAudited: false }],
    ['allow', { allowed: true, because: 'egressAllowed', isAudited: false }],
    ['audit', { allowed: true, because: 'egressAudited', isAudited: true }],
    ['deny', { allowed: false, because: 'egressDenied' }],
    ['Deny', { allowed: false, because: 'egressUnreadable' }],
    ['', { allowed: false, because: 'egressUnreadable' }],
  ] as const)('from a namespace that says %s', (label, expected) => {
    const egress = egressSetting(label === undefined ? {} : { [egressLabel]: label })
    expect(egressVerdict(testWorkload('pod', egress && { egress }))).toEqual(expected)
  })

  test('is one that nobody in the mesh knows, and not loopback', () => {
    expect([leaves(outside('1.1.1.1')), leaves(outside('2001:db8::1'))]).toEqual([true, true])
    expect([leaves(outside('127.0.0.1')), leaves(outside('::1'))]).toEqual([false, false])
    expect(leaves({ t: 'passthrough', to: { ip: '1.1.1.1', port: 443 }, because: 'passthroughService', service: testService('x') })).toBe(false)
    expect(leaves({ t: 'refuse', because: 'selfCall', code: 'CONNECT_REFUSED' })).toBe(false)
  })

  test('has the name of the entry that leads there, also where the entry has no such port', () => {
    const entry = testService('api.example.com', { name: 'api' })
    const inside = testService('db.shop.svc.cluster.local', { name: 'db' })
    const plain = (uid: string, of: typeof entry): Destination => ({
      t: 'plain', workload: testWorkload(uid, { uid }), to: { kind: 'hostname', hostname: 'api.example.com', port: 80 }, choice: { because: 'onlyOne', isPanic: false }, service: of,
    })
    const refused = (because: 'noEndpointWithPort' | 'noEndpoints', of: typeof entry): Destination => ({ t: 'refuse', because, code: 'NO_HEALTHY_UPSTREAM', service: of })
    const machine = 'Kubernetes/networking.istio.io/ServiceEntry/shop/api/0'
    for (const found of [plain(machine, entry), refused('noEndpointWithPort', entry)]) expect(entryHost(found)).toBe('api.example.com')
    for (const found of [plain('Kubernetes//Pod/shop/a', entry), plain(machine, inside), refused('noEndpoints', entry), refused('noEndpointWithPort', inside), outside('1.1.1.1')]) {
      expect(entryHost(found)).toBeUndefined()
    }
  })

  test('is a machine outside on other ports than those it is known by, or known to others only', () => {
    const machine = testWorkload('machine', {
      uid: 'Kubernetes/networking.istio.io/ServiceEntry/n/db/192.0.2.1', ips: ['192.0.2.1'], tunnelProtocol: 'none',
      services: new Map([['n/db.example', [{ servicePort: 5432, targetPort: 5432, appProtocol: 'tcp' }]]]),
    })
    const to = (port: number): Destination => ({
      t: 'plain', workload: machine, to: { kind: 'address', addr: { ip: '192.0.2.1', port } }, choice: { because: 'addressed', isPanic: false },
    })
    const store = new WorkloadStore()
    expect(leaves(to(5432), store)).toBe(true)
    const db = testService('db', { namespace: 'n', hostname: 'db.example' })
    store.apply({ services: [db] })
    expect([leaves(to(5432), store), leaves(to(22), store)]).toEqual([false, true])
    store.apply({ services: [{ ...db, isNamespaceLocal: true }] })
    expect(leaves(to(5432), store)).toBe(caller.namespace !== 'n')
    // A pod is no machine outside, whether or not it is in the mesh.
    expect(leaves({ ...to(22), workload: testWorkload('pod', { uid: 'Kubernetes//Pod/n/pod', tunnelProtocol: 'none' }) } as Destination, store)).toBe(false)
  })
})
