import fc from 'fast-check'
import { expect, test } from 'vitest'
import { WorkloadStore } from '../model/workload-store.ts'
import type { Service, Workload } from '../model/workload.ts'
import { targetOf } from './accept.ts'
import type { ConnectionContext, Target } from './context.ts'
import { coveredTarget, needsServerName } from './covered.ts'
import { service, workload } from './testing.ts'

const waypoint = { destination: { kind: 'hostname', name: { namespace: 'shop', hostname: 'gate.shop.svc.cluster.local' } }, hbonePort: 15008 } as const
const self = workload('gate-1', '10.0.0.9', { serviceAccount: 'gate', services: new Map([['shop/gate.shop.svc.cluster.local', []]]) })
const identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'alice' }
const caller: ConnectionContext['caller'] = { identity, address: { ip: '10.0.0.1', port: 1 }, workload: undefined }
const entry = (hostname: string, ip: string, parts: Partial<Service> = {}): Service => service(hostname.replace('*', 'any'), ip, { hostname, waypoint, ...parts })

const web = service('web', '10.96.0.1', { waypoint })
const api = entry('api.example.com', '240.0.0.1')
const wild = entry('*.example.com', '240.0.0.1')
const unbound = service('unbound', '240.0.0.1', { hostname: 'unbound.example.com' })
const hidden = entry('hidden.example.com', '240.0.0.1', { isNamespaceLocal: true, namespace: 'bank' })
const elsewhere = entry('elsewhere.example.com', '240.0.0.2')
const otherPort = entry('port.example.com', '240.0.0.1', { ports: [{ servicePort: 81, targetPort: 81, appProtocol: 'tls' }] })
const machine: Workload = workload('api-1', '203.0.113.1', {
  uid: 'Kubernetes/networking.istio.io/ServiceEntry/shop/api/0', tunnelProtocol: 'none', waypoint,
  services: new Map([['shop/api.example.com', [{ servicePort: 80, targetPort: 8080, appProtocol: 'http11' }]]]),
})
const store = new WorkloadStore()
store.apply({ services: [web, api, wild, unbound, hidden, elsewhere, otherPort], workloads: [self, machine, workload('web-1', '10.0.0.2', { waypoint })] })
const facts = { store, self, network: '' }

const at = (to: Service): Target => ({ t: 'service', service: to, port: 80 })
function meant(target: Target, host: string | undefined): string | undefined {
  const found = coveredTarget(facts, { target, caller }, host)
  return found?.t === 'service' ? found.service.hostname : found?.t === 'workload' ? found.workload.name : found?.t
}

test('a service of the cluster takes every host', () => {
  expect([meant(at(web), 'evil.net'), meant(at(web), undefined)]).toEqual([web.hostname, web.hostname])
  expect(meant({ t: 'workload', workload: workload('web-1', '10.0.0.2'), port: 1 }, 'evil.net')).toBe('web-1')
})

test('an entry takes its own host, however it is written, and its address', () => {
  for (const host of ['api.example.com', 'API.Example.Com:80', 'api.example.com.', '240.0.0.1', '240.0.0.1:80']) expect([host, meant(at(api), host)]).toEqual([host, api.hostname])
  for (const host of [undefined, '', 'example.com', 'api.example.com.evil.net', 'xapi.example.com.net', '240.0.0.2', 'web', 'shop/api.example.com']) expect([host, meant(at(api), host)]).toEqual([host, undefined])
})

test('of entries at one address the most specific one is meant, where it is behind this waypoint and may be seen', () => {
  expect([meant(at(wild), 'api.example.com'), meant(at(api), 'x.example.com')]).toEqual([api.hostname, wild.hostname])
  // A wildcard covers what is not to be had as itself; what shares no address stays where it is.
  expect(['unbound.example.com', 'hidden.example.com', 'port.example.com', 'elsewhere.example.com'].map((host) => meant(at(wild), host))).toEqual(Array(4).fill(wild.hostname))
  expect(['unbound.example.com', 'elsewhere.example.com'].map((host) => meant(at(api), host))).toEqual([undefined, undefined])
})

test('a machine outside takes the names that its services give that port, and its address', () => {
  const target: Target = { t: 'workload', workload: machine, port: 8080 }
  expect(['api.example.com', '203.0.113.1:8080'].map((host) => meant(target, host))).toEqual(['api-1', 'api-1'])
  expect([meant(target, 'x.example.com'), meant({ ...target, port: 22 }, 'api.example.com')]).toEqual([undefined, undefined])
})

test('a machine outside is open at the ports that a service names', () => {
  const ask = (port: number, namespace = 'shop'): string => {
    const answer = targetOf(facts, { t: 'address', address: { ip: '203.0.113.1', port } }, { ...identity, namespace })
    return answer.t === 'target' ? answer.t : answer.because
  }
  expect([ask(8080), ask(8080, 'away'), ask(80), ask(22)]).toEqual(['target', 'target', 'unknownPort', 'unknownPort'])
})

test('TLS to outside needs a name, and nothing else does', () => {
  expect(needsServerName(facts, { t: 'service', service: otherPort, port: 81 })).toBe(true)
  expect([needsServerName(facts, at(api)), needsServerName(facts, at(web))]).toEqual([false, false])
})

test('whatever the host: only what the entry names gets out by it', () => {
  const host = fc.oneof(fc.domain(), fc.string(), fc.domain().map((name) => `${name}.example.com`), fc.ipV4(), fc.ipV6().map((ip) => `[${ip}]:80`))
  fc.assert(fc.property(host, (name) => {
    const found = meant(at(api), name)
    if (found !== undefined) expect(found === wild.hostname ? /\.example\.com(:\d*)?\.?$/i.test(name) : /^(api\.example\.com|240\.0\.0\.1)/i.test(name)).toBe(true)
  }))
})
