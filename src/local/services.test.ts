import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { canonicalIp } from '../core/address.ts'
import type { ServiceManifest } from '../model/manifest.ts'
import { parseManifest } from '../model/manifest-parse.ts'
import { clusterDns, HostNumbers, isServiceIp, nodeIps, nodeName, podIps, serviceIps } from './addresses.ts'
import { serviceRules } from './service-rules.ts'
import { routeOf, ServiceAddresses, type EndpointPod } from './services.ts'

function service(name: string, spec: string): ServiceManifest {
  const [object] = parseManifest(`apiVersion: v1\nkind: Service\nmetadata: { name: ${name} }\nspec: ${spec}\n`, 'f.yaml').objects
  if (object?.kind !== 'Service') throw new Error(`not a service: ${spec}`)
  return object
}
const byName = (...services: ServiceManifest[]): Map<string, ServiceManifest> => new Map(services.map((s) => [s.metadata.name, s]))

describe('addresses', () => {
  test('the plan is canonical text, and service addresses are told from others', () => {
    for (const pair of [nodeIps(1), nodeIps(64), podIps(1, 2), podIps(64, 254), serviceIps(1), serviceIps(0xfffe), clusterDns]) {
      expect([canonicalIp(pair.v4), canonicalIp(pair.v6)]).toEqual([pair.v4, pair.v6])
    }
    for (const ip of ['10.96.0.0', '10.96.255.255', '10.97.0.1', 'fd00:10:96::', 'fd00:10:96:1::1', '::1', 'x']) expect(isServiceIp(ip)).toBe(false)
    for (const ip of ['10.96.0.1', 'fd00:10:96::1']) expect(isServiceIp(ip)).toBe(true)
    expect([nodeName(1), nodeName(26), nodeName(27)]).toEqual(['node-a', 'node-z', 'node-27'])
  })

  test('host numbers are never given twice, and a freed one comes last', () => {
    const numbers = new HostNumbers()
    const first = numbers.take() ?? 0
    numbers.free(first)
    const taken = Array.from({ length: 253 }, () => numbers.take())
    expect(new Set(taken).size).toBe(253)
    expect(taken.at(-1)).toBe(first)
    expect(numbers.take()).toBeUndefined()
  })
})

describe('service addresses', () => {
  test('stay, are unique, follow what is asked for, and are free again afterwards', () => {
    const addresses = new ServiceAddresses()
    const plain = service('plain', '{ ports: [{ port: 80 }] }')
    const fixed = service('fixed', '{ clusterIP: 10.96.1.0, ports: [{ port: 80 }] }')
    expect(addresses.update(byName(plain, fixed))).toEqual([])
    expect(addresses.of('fixed')[0]).toBe('10.96.1.0')
    const before = addresses.of('plain')
    expect(before).toHaveLength(2)
    expect(before).not.toContain('10.96.1.0')
    addresses.update(byName(plain, service('other', '{ ports: [] }')))
    expect(addresses.of('plain')).toEqual(before)
    expect(addresses.of('fixed')).toEqual([])
    expect(addresses.update(byName(plain, service('late', `{ clusterIP: ${before[0]}, ports: [] }`)))).toMatchObject([
      { file: 'f.yaml', line: 1, reason: expect.stringContaining('belongs to Service plain') },
    ])
    expect(addresses.update(byName(service('wild', '{ clusterIP: 192.0.2.1 }')))).toMatchObject([{ reason: expect.stringContaining('outside') }])
  })

  test('families and headless services', () => {
    const addresses = new ServiceAddresses()
    addresses.update(byName(
      service('six', '{ ipFamilies: [IPv6], ports: [] }'), service('one', '{ ipFamilyPolicy: SingleStack, ports: [] }'),
      service('none', '{ clusterIP: None }'), service('name', '{ type: ExternalName, externalName: a.example }'),
    ))
    expect(addresses.of('six')).toEqual([expect.stringContaining(':')])
    expect(addresses.of('one')).toEqual([expect.stringMatching(/^10\.96\./)])
    expect([addresses.of('none'), addresses.of('name')]).toEqual([[], []])
  })
})

test('endpoints are the ready pods of the namespace with the labels, at the port that each means by the name', () => {
  const [object] = parseManifest('apiVersion: v1\nkind: Pod\nmetadata: { name: p }\nspec: { containers: [{ name: c, command: [x], ports: [{ name: web, containerPort: 8080 }] }] }', 'f').objects
  if (object?.kind !== 'Pod') throw new Error('not a pod')
  const pod = (ip: string, change: Partial<EndpointPod> = {}): EndpointPod => ({
    namespace: 'default', labels: { app: 'a' }, ips: [ip], isReady: true, isTerminating: false, spec: object.spec, ...change,
  })
  const pods = [pod('10.244.1.2'), pod('10.244.1.3', { isReady: false }), pod('10.244.1.4', { isTerminating: true }), pod('10.244.1.5', { namespace: 'x' }), pod('10.244.1.6', { labels: {} })]
  const at = (spec: string): unknown => routeOf(service('s', spec), ['10.96.0.1'], pods).ports.map((port) => port.endpoints)
  expect(at('{ selector: { app: a }, ports: [{ port: 80, targetPort: web }] }')).toEqual([[{ ip: '10.244.1.2', port: 8080 }]])
  expect(at('{ selector: { app: a }, ports: [{ port: 80, targetPort: nope }] }')).toEqual([[]])
  expect(at('{ selector: { app: a }, publishNotReadyAddresses: true, ports: [{ port: 80 }] }')).toMatchObject([{ length: 3 }])
  expect(at('{ ports: [{ port: 80 }] }')).toEqual([[]])
})

test('rules name each endpoint once, families apart, and hold nothing but addresses and numbers', () => {
  const ip = fc.tuple(fc.boolean(), fc.integer({ min: 2, max: 250 })).map(([is6, n]) => (is6 ? podIps(1, n).v6 : podIps(1, n).v4))
  const ports = fc.array(fc.record({
    protocol: fc.constantFrom('TCP' as const, 'UDP' as const), port: fc.integer({ min: 1, max: 65535 }),
    endpoints: fc.uniqueArray(fc.record({ ip, port: fc.constant(80) }), { maxLength: 5, selector: (e) => e.ip }),
  }), { maxLength: 3 })
  fc.assert(fc.property(ports, (list) => {
    const text = serviceRules([{ ips: ['10.96.0.1', 'fd00:10:96::1'], ports: list }], nodeIps(1))
    const rules = text.split('\n').filter((line) => /dnat ip6? /.test(line) && line.includes('daddr 10.96.0.1 ') || line.includes('daddr fd00:10:96::1 '))
    expect(rules).toHaveLength(list.flatMap((p) => [p.endpoints.some((e) => e.ip.includes('.')), p.endpoints.some((e) => e.ip.includes(':'))]).filter(Boolean).length)
    for (const rule of rules) {
      const isV6 = rule.includes('ip6 daddr')
      for (const [found] of rule.matchAll(/(fd00:10:244[0-9a-f:]*|10\.244[0-9.]*)/g)) expect(found.includes(':')).toBe(isV6)
    }
  }))
})
