import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Identity } from '../core/identity.ts'
import { parseAuthority } from '../hbone/authority.ts'
import { WorkloadStore } from '../model/workload-store.ts'
import type { Service, Workload } from '../model/workload.ts'
import { callerOf, declaredProtocol, isOwnIngress, targetOf } from './accept.ts'
import type { Acceptance } from './accept.ts'
import { service, workload } from './testing.ts'

const ours = { destination: { kind: 'hostname', name: { namespace: 'shop', hostname: 'gate.shop.svc.cluster.local' } }, hbonePort: 15008 } as const
const others = { ...ours, destination: { ...ours.destination, name: { namespace: 'bank', hostname: 'gate.bank.svc.cluster.local' } } } as const
const self = workload('gate-1', '10.0.0.9', { serviceAccount: 'gate', services: new Map([['shop/gate.shop.svc.cluster.local', []]]) })
const alice: Identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'alice' }

function world(services: readonly Service[], workloads: readonly Workload[] = []): WorkloadStore {
  const store = new WorkloadStore()
  store.apply({ services, workloads: [self, ...workloads] })
  return store
}

function ask(store: WorkloadStore, authority: string, caller = alice, own: Workload | undefined = self): string {
  const parsed = parseAuthority(authority)
  if ('fault' in parsed) throw new Error(parsed.fault)
  const answer: Acceptance = targetOf({ store, self: own, network: '' }, parsed.ok, caller)
  if (answer.t === 'refused') return answer.because
  return answer.target.t === 'service' ? `${answer.target.service.hostname}:${answer.target.port}` : `${answer.target.workload.name}:${answer.target.port}`
}

describe('what a CONNECT leads to', () => {
  const web = service('web', '10.96.0.1', { waypoint: ours })
  const api = service('api', '10.96.0.2', { waypoint: others, namespace: 'bank' })
  const bare = service('bare', '10.96.0.3')
  const hidden = service('hidden', '10.96.0.4', { waypoint: ours, isNamespaceLocal: true })
  const pods = [workload('web-1', '10.0.0.1', { waypoint: ours }), workload('bare-1', '10.0.0.2'), workload('api-1', '10.0.0.3', { waypoint: others })]
  const store = world([web, api, bare, hidden], pods)

  test('services by address and by name, and pods, that name this waypoint', () => {
    expect(ask(store, '10.96.0.1:80')).toBe('web.shop.svc.cluster.local:80')
    expect(ask(store, 'web.shop.svc.cluster.local:80')).toBe('web.shop.svc.cluster.local:80')
    expect(ask(store, '10.0.0.1:8080')).toBe('web-1:8080')
  })

  test('it is no relay: not to what names another waypoint, none, or is nobody here', () => {
    expect(['10.96.0.2:80', '10.96.0.3:80', '10.0.0.2:80', '10.0.0.3:80', 'bare.shop.svc.cluster.local:80'].map((each) => ask(store, each))).toEqual(Array(5).fill('notBoundHere'))
    expect(['127.0.0.1:15000', '10.0.0.77:80', '203.0.113.5:443', 'example.com:443', 'localhost:15000', '[::1]:15000'].map((each) => ask(store, each))).toEqual(Array(6).fill('unknownDestination'))
    // Nor to itself, also where its namespace says that everything there is behind it.
    expect(ask(store, '10.0.0.9:15000')).toBe('notBoundHere')
    const own = { ...self, waypoint: ours }
    const looped = world([service('gate', '10.96.0.9', { waypoint: ours })], [own])
    expect([ask(looped, '10.0.0.9:15008', alice, own), ask(looped, '10.96.0.9:80', alice, own)]).toEqual(['notBoundHere', 'notBoundHere'])
    expect(ask(store, '10.96.0.1:81')).toBe('unknownPort')
  })

  test('only callers of its namespace see what is theirs alone', () => {
    expect(ask(store, '10.96.0.4:80')).toBe('hidden.shop.svc.cluster.local:80')
    expect(ask(store, '10.96.0.4:80', { ...alice, namespace: 'bank' })).toBe('unknownDestination')
  })

  test('nothing before the mesh has said who we are', () => {
    expect(targetOf({ store, self: undefined, network: '' }, { t: 'hostname', hostname: web.hostname, port: 80 }, alice)).toEqual({ t: 'refused', because: 'unknownSelf' })
  })

  test('one of several waypoints by weight; by the address of a pod; names below a wildcard', () => {
    const weighted = service('many', '10.96.0.5', { weightedWaypoints: [{ destination: others, weight: 1 }, { destination: ours, weight: 0 }] })
    const byAddress = service('near', '10.96.0.6', { waypoint: { destination: { kind: 'address', address: { network: '', ip: '10.0.0.9' } }, hbonePort: 15008 } })
    const wild = service('wild', '10.96.0.7', { waypoint: ours, hostname: '*.example.com' })
    const all = world([weighted, byAddress, wild])
    expect(['10.96.0.5:80', '10.96.0.6:80', 'a.b.example.com:80', 'example.com:80'].map((each) => ask(all, each)))
      .toEqual(['many.shop.svc.cluster.local:80', 'near.shop.svc.cluster.local:80', '*.example.com:80', 'unknownDestination'])
  })

  test('whatever the authority: nothing is accepted that does not name this waypoint', () => {
    const ip = fc.oneof(fc.constantFrom('10.96.0.1', '10.96.0.2', '10.96.0.3', '10.0.0.1', '10.0.0.2', '10.0.0.9'), fc.ipV4())
    const host = fc.oneof(ip, fc.constantFrom('web.shop.svc.cluster.local', 'bare.shop.svc.cluster.local', 'api.bank.svc.cluster.local'), fc.domain())
    fc.assert(fc.property(host, fc.integer({ min: 1, max: 65_535 }), (name, port) => {
      const answer = ask(store, `${name}:${port}`)
      if (answer.includes(':')) expect(answer).toMatch(/^(web\.shop\.svc\.cluster\.local:80|hidden\..*|web-1:\d+)$/)
    }))
  })
})

describe('who asks', () => {
  const store = world([], [workload('alice-1', '10.0.0.1', { serviceAccount: 'alice' }), workload('bob-1', '10.0.0.2', { serviceAccount: 'bob' })])
  const peer = { ip: '192.0.2.1', port: 4000 }
  const of = (forwarded: string | undefined, from = peer): string => {
    const { address, workload: found } = callerOf({ store, network: '' }, alice, from, forwarded === undefined ? undefined : { ip: forwarded, port: 5000 })
    return `${address.ip} ${found?.name ?? '-'}`
  }

  test('the client that its ztunnel names, unless that is somebody else', () => {
    expect(of('10.0.0.1')).toBe('10.0.0.1 alice-1')
    expect(of('203.0.113.9')).toBe('203.0.113.9 -')
    expect(of(undefined)).toBe('192.0.2.1 -')
    expect(of(undefined, { ip: '10.0.0.1', port: 1 })).toBe('10.0.0.1 alice-1')
    expect(of('10.0.0.2')).toBe('192.0.2.1 -')
    expect(of('10.0.0.2', { ip: '10.0.0.1', port: 1 })).toBe('10.0.0.1 alice-1')
  })
})

test('what a pod speaks is what its services say of that port', () => {
  const web = service('web', '10.96.0.1', { ports: [{ servicePort: 80, targetPort: 8080, appProtocol: 'grpc' }, { servicePort: 81, targetPort: 9000, appProtocol: 'unknown' }] })
  const inherits = workload('a', '10.0.0.1', { services: new Map([['shop/web.shop.svc.cluster.local', []]]) })
  const own = workload('b', '10.0.0.2', { services: new Map([['shop/web.shop.svc.cluster.local', [{ servicePort: 80, targetPort: 7070, appProtocol: 'tcp' }]]]) })
  const store = world([web], [inherits, own])
  const of = (pod: Workload, port: number): string => declaredProtocol(store, { t: 'workload', workload: pod, port })
  expect([of(inherits, 8080), of(inherits, 9000), of(inherits, 80), of(own, 7070), of(own, 8080)]).toEqual(['grpc', 'unknown', 'unknown', 'tcp', 'unknown'])
  expect([80, 81, 82].map((port) => declaredProtocol(store, { t: 'service', service: web, port }))).toEqual(['grpc', 'unknown', 'unknown'])
})

test('an ingress of our namespace speaks for its clients; one of another, or who only looks so, does not', () => {
  const own: Identity = { ...alice, serviceAccount: 'gate' }
  const parts = { serviceAccount: 'edge', nativeTunnel: true, labels: { 'gateway.networking.k8s.io/gateway-class-name': 'sidestep-ingress' } }
  const of = (more: Partial<Workload>, identity: Identity | undefined = { ...alice, serviceAccount: 'edge' }): boolean =>
    isOwnIngress({ identity, address: { ip: '10.0.0.5', port: 1 }, workload: workload('edge-1', '10.0.0.5', { ...parts, ...more }) }, own)
  expect(of({})).toBe(true)
  expect([of({ nativeTunnel: false }), of({ labels: {} }), of({ labels: { 'gateway.networking.k8s.io/gateway-class-name': 'sidestep-waypoint' } })]).toEqual([false, false, false])
  expect([of({}, { ...alice, namespace: 'bank' }), of({}, { ...alice, trustDomain: 'other' }), isOwnIngress({ identity: alice, address: { ip: '10.0.0.5', port: 1 }, workload: undefined }, own)]).toEqual([false, false, false])
})
