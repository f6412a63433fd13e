import { canonicalIp } from '../core/address.ts'
import { decode, encode } from 'dns-packet'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Resolver } from '../dns/resolver.ts'
import { WorkloadStore, type StateDelta } from '../model/workload-store.ts'
import type { NetworkAddress, PortMapping, Service, Workload } from '../model/workload.ts'
import { clusterSearchDomains, MeshNames } from './mesh-names.ts'

const workload = (name: string, parts: Partial<Workload> = {}): Workload => ({
  uid: `c//Pod/shop/${name}`, name, namespace: 'shop', ips: ['10.244.1.5'], network: '', trustDomain: 'cluster.local', serviceAccount: 'web', node: 'a',
  clusterId: 'c', tunnelProtocol: 'hbone', nativeTunnel: false, isHostNetwork: false, canonicalName: '', canonicalRevision: '',
  workloadType: 'pod', workloadName: '', isHealthy: true, capacity: 1, locality: { region: '', zone: '', subzone: '' },
  policies: [], services: new Map(), ...parts,
})
const service = (hostname: string, parts: Partial<Service> = {}): Service => ({
  name: hostname.split('.')[0] ?? '', namespace: 'shop', hostname, addresses: [], ports: [], subjectAltNames: [], ipFamilies: 'automatic',
  isCanonical: false, isNamespaceLocal: false, ...parts,
})
const at = (ip: string, network = '', prefixLength?: number): NetworkAddress => ({ network, ip, ...(prefixLength !== undefined && { prefixLength }) })
const tcp = (servicePort: number, targetPort: number, name?: string) => ({ servicePort, targetPort, appProtocol: 'tcp' as const, ...(name !== undefined && { name }) })

function names(delta: StateDelta, network = ''): MeshNames {
  const store = new WorkloadStore()
  store.apply(delta)
  return new MeshNames({ store, network, isKnown: () => true })
}

/** What a pod of `shop` is told: data of each record, or `forward`. */
function ask(source: MeshNames, name: string, type: string, namespace = 'shop'): unknown {
  const query = encode({ type: 'query', id: 1, questions: [{ type: type as 'A', name, class: 'IN' }] })
  const resolution = new Resolver(source, { random: () => 0 }).resolve(query, { namespace, searchDomains: clusterSearchDomains(namespace) }, 'tcp')
  if (resolution.kind === 'forward') return 'forward'
  return decode(resolution.message).answers?.map((answer) => ('data' in answer ? answer.data : undefined))
}

describe('a service with addresses', () => {
  const source = names({
    services: [
      service('web.shop.svc.cluster.local', { addresses: [at('10.96.0.7'), at('fd00::7'), at('10.99.0.7', 'far'), at('10.98.0.0', '', 16)], ports: [tcp(80, 8080, 'http')] }),
      service('only-far.shop.svc.cluster.local', { addresses: [at('10.99.0.8', 'far')] }),
      service('hidden.other.svc.cluster.local', { namespace: 'other', addresses: [at('10.96.0.9')], isNamespaceLocal: true }),
      service('api.example.com', { addresses: [at('240.0.0.1')] }),
      service('*.example.org', { addresses: [at('240.0.0.2')] }),
      service('dynamic.example.com'),
      service('range.example.com', { addresses: [at('203.0.113.0', '', 24)] }),
      service('dns.shop.svc.cluster.local', { addresses: [at('10.96.0.53')], ports: [tcp(53, 53, 'tcp')], udpPorts: [{ name: 'dns', port: 53 }] }),
      service('unnamed.shop.svc.cluster.local', { addresses: [at('10.96.0.54')], ports: [tcp(80, 80)] }),
    ],
  })

  test.each([
    ['web', 'A', ['10.96.0.7']],
    ['web.shop.svc.cluster.local', 'AAAA', ['fd00::7']],
    ['only-far', 'A', []],
    ['api.example.com', 'A', ['240.0.0.1']],
    ['api.example.com', 'AAAA', []],
    ['a.b.example.org', 'A', ['240.0.0.2']],
    ['hidden.other', 'A', 'forward'],
    ['dynamic.example.com', 'A', 'forward'],
    ['range.example.com', 'A', 'forward'],
    ['nobody', 'A', 'forward'],
    ['7.0.96.10.in-addr.arpa', 'PTR', ['web.shop.svc.cluster.local']],
    ['1.0.0.240.in-addr.arpa', 'PTR', ['api.example.com']],
    ['2.0.0.240.in-addr.arpa', 'PTR', 'forward'],
    ['7.0.99.10.in-addr.arpa', 'PTR', 'forward'],
    ['9.0.96.10.in-addr.arpa', 'PTR', 'forward'],
    ['_http._tcp.web', 'SRV', [{ priority: 0, weight: 100, port: 80, target: 'web.shop.svc.cluster.local' }]],
    ['_https._tcp.web', 'SRV', []],
    ['_dns._udp.dns', 'SRV', [{ priority: 0, weight: 100, port: 53, target: 'dns.shop.svc.cluster.local' }]],
    ['_http._tcp.unnamed', 'SRV', 'forward'],
  ])('%s %s', (name, type, expected) => {
    expect(ask(source, name, type)).toEqual(expected)
  })

  test('is there for its own namespace where it is hidden from others', () => {
    expect(ask(source, 'hidden.other', 'A', 'other')).toEqual(['10.96.0.9'])
    expect(ask(source, '9.0.96.10.in-addr.arpa', 'PTR', 'other')).toEqual(['hidden.other.svc.cluster.local'])
  })
})

describe('a headless service', () => {
  const key = 'shop/db.shop.svc.cluster.local'
  const ports: readonly PortMapping[] = [tcp(5432, 15432)]
  const member = (name: string, ips: readonly string[], parts: Partial<Workload> = {}): Workload =>
    workload(name, { ips, services: new Map([[key, ports]]), endpointNames: new Map([[key, name]]), ...parts })
  const source = names({
    services: [
      service('db.shop.svc.cluster.local', { isHeadless: true, ports: [tcp(5432, 5432, 'sql')], udpPorts: [{ name: 'gossip', port: 7946 }] }),
      service('alias.shop.svc.cluster.local'), service('loop.shop.svc.cluster.local'), service('empty.shop.svc.cluster.local'),
    ],
    workloads: [
      member('db-0', ['10.244.1.5', 'fd00:1::5']), member('db-1', ['10.244.1.6']),
      member('db-2', ['10.244.1.7'], { isHealthy: false }), member('db-far', ['10.244.9.9'], { network: 'far' }),
      workload('nameless', { ips: ['10.244.1.8'], services: new Map([[key, []]]) }),
      workload('single', { ips: ['10.244.1.9', 'fd00:1::'] }),
      workload('standin', { ips: [], hostname: 'DB.shop.svc.cluster.local', services: new Map([['shop/alias.shop.svc.cluster.local', []]]) }),
    ],
  })
  const sql = (label: string, port: number) => ({ priority: 0, weight: 33, port, target: `${label}.db.shop.svc.cluster.local` })

  test.each([
    ['db', 'A', ['10.244.1.5', '10.244.1.6', '10.244.1.8']],
    ['db', 'AAAA', ['fd00:1::5']],
    ['db-0.db', 'A', ['10.244.1.5']],
    ['db-0.db', 'AAAA', ['fd00:1::5']],
    ['db-1.db.shop.svc.cluster.local', 'AAAA', []],
    ['nameless.db', 'A', ['10.244.1.8']],
    ['10-244-1-8.db', 'A', ['10.244.1.8']],
    ['fd00-1--5.db', 'AAAA', ['fd00:1::5']],
    ['db-2.db', 'A', 'forward'],
    ['db-far.db', 'A', 'forward'],
    ['empty', 'A', []],
    ['_sql._tcp.db', 'SRV', [sql('db-0', 15432), sql('db-1', 15432), sql('10-244-1-8', 5432)]],
    ['_gossip._udp.db', 'SRV', [sql('db-0', 7946), sql('db-1', 7946), sql('10-244-1-8', 7946)]],
    ['5.1.244.10.in-addr.arpa', 'PTR', ['db-0.db.shop.svc.cluster.local']],
    ['8.1.244.10.in-addr.arpa', 'PTR', ['10-244-1-8.db.shop.svc.cluster.local']],
    ['9.1.244.10.in-addr.arpa', 'PTR', ['10-244-1-9.shop.pod.cluster.local']],
    ['9.9.244.10.in-addr.arpa', 'PTR', 'forward'],
    ['10-244-1-9.shop.pod.cluster.local', 'A', ['10.244.1.9']],
    ['10-244-1-9.other.pod.cluster.local', 'A', 'forward'],
    ['10-244-1-99.shop.pod.cluster.local', 'A', 'forward'],
    ['alias', 'A', ['db.shop.svc.cluster.local', '10.244.1.5', '10.244.1.6', '10.244.1.8']],
  ])('%s %s', (name, type, expected) => {
    expect(ask(source, name, type)).toEqual(expected)
  })

  test('follows its endpoints', () => {
    const store = new WorkloadStore()
    const live = new MeshNames({ store, network: '', isKnown: () => true })
    store.apply({ services: [service('db.shop.svc.cluster.local')], workloads: [member('db-0', ['10.244.1.5'])] })
    expect(ask(live, 'db', 'A')).toEqual(['10.244.1.5'])
    store.apply({ workloads: [member('db-1', ['10.244.1.6'])] })
    expect(ask(live, 'db', 'A')).toEqual(['10.244.1.5', '10.244.1.6'])
    store.apply({ workloads: [member('db-0', ['10.244.1.5'], { isHealthy: false })] })
    expect(ask(live, 'db', 'A')).toEqual(['10.244.1.6'])
    store.apply({ removedAddresses: ['c//Pod/shop/db-1'] })
    expect(ask(live, 'db', 'A')).toEqual([])
    store.apply({ removedAddresses: [key] })
    expect(ask(live, 'db', 'A')).toBe('forward')
  })
})

test('of another network gives out its own addresses', () => {
  const source = names({ services: [service('web.shop.svc.cluster.local', { addresses: [at('10.96.0.7'), at('10.99.0.7', 'far')] })] }, 'far')
  expect(ask(source, 'web', 'A')).toEqual(['10.99.0.7'])
})

test('every name that an address has leads back to that address', () => {
  const ip = fc.oneof(fc.ipV4(), fc.ipV6()).map((text) => decodeIp(text))
  fc.assert(fc.property(fc.uniqueArray(ip, { minLength: 1, maxLength: 6 }), fc.boolean(), (ips, isMember) => {
    const key = 'shop/db.shop.svc.cluster.local'
    const source = names({
      services: [service('db.shop.svc.cluster.local', { isHeadless: true })],
      workloads: ips.map((each, index) => workload(`p-${index}`, { ips: [each], services: new Map(isMember ? [[key, []]] : []) })),
    })
    for (const each of ips) {
      const name = source.hostnameOf(each, 'shop')
      const found = ask(source, name ?? '', each.includes(':') ? 'AAAA' : 'A')
      // dns-packet has its own idea of how an address is written.
      expect(Array.isArray(found) ? found.map((address) => decodeIp(String(address))) : found).toEqual([each])
    }
  }), { examples: [[[decodeIp('::ffff:1.2.3.4'), '2001:db8::1'], true]] })
})

/** As the store has addresses: canonical. */
function decodeIp(text: string): string {
  return canonicalIp(text) ?? text
}
