// What services, entries, slices and pods come to: names, addresses, ports and who is an endpoint of what.
import { describe, expect, test } from 'vitest'
import type { ManifestObject } from '../../model/manifest.ts'
import type { RunningPod } from '../../model/running-pod.ts'
import type { PortMapping } from '../../model/workload.ts'
import { object } from './arbitraries.ts'
import { appProtocolOf } from './service.ts'
import { defaultSettings, type TranslateSettings } from './settings.ts'
import { Translator } from './translator.ts'

const pod = (name: string, more: Partial<RunningPod> = {}): RunningPod => ({
  uid: name, namespace: 'shop', name, node: 'node-a', ips: ['10.0.0.1'], ready: true, labels: { app: 'web' }, serviceAccount: 'web', isCaptured: true,
  isHostNetwork: false, ports: [{ name: 'http', port: 8080, protocol: 'TCP' }], owner: { type: 'deployment', name: 'web' }, ...more,
})
const service = (spec: object, name = 'web'): ManifestObject => object('Service', `shop/${name}`, { spec })

function world(objects: readonly ManifestObject[], pods: readonly RunningPod[] = [], settings: Partial<TranslateSettings> = {}): Translator {
  const translator = new Translator({ ...defaultSettings, ...settings })
  for (const each of objects) translator.put(each)
  for (const each of pods) translator.putPod(each)
  translator.flush()
  return translator
}
const key = 'shop/web.shop.svc.cluster.local'
const ports = (translator: Translator, uid: string, of = key): string[] | undefined =>
  translator.workloads.get(uid)?.services.get(of)?.map(({ servicePort, targetPort }: PortMapping) => `${servicePort}>${targetPort}`)

describe('a pod', () => {
  test('one that speaks HBONE itself is reached by HBONE, captured or not', () => {
    const { workloads } = world([], [pod('gateway', { isCaptured: false, labels: { 'networking.istio.io/tunnel': 'http' } }), pod('b', { labels: { 'networking.istio.io/tunnel': 'no' } })])
    expect([...workloads.values()].map(({ name, tunnelProtocol, nativeTunnel }) => [name, tunnelProtocol, nativeTunnel])).toEqual([['gateway', 'hbone', true], ['b', 'hbone', false]])
  })

  test('has the uid, names and protocol that Istio gives it', () => {
    const node = object('Node', 'node-a', {}, { labels: { 'topology.kubernetes.io/region': 'r', 'topology.kubernetes.io/zone': 'z', 'topology.istio.io/subzone': 's' } })
    const translator = world([node], [pod('web-1', { labels: { app: 'w', version: 'v2' } })], { trustDomain: 'td', clusterId: 'c1', network: 'n1' })
    expect(translator.workloads.get('c1//Pod/shop/web-1')).toMatchObject({
      name: 'web-1', namespace: 'shop', ips: ['10.0.0.1'], network: 'n1', trustDomain: 'td', serviceAccount: 'web', node: 'node-a', clusterId: 'c1',
      tunnelProtocol: 'hbone', canonicalName: 'w', canonicalRevision: 'v2', workloadType: 'deployment', workloadName: 'web', isHealthy: true,
      locality: { region: 'r', zone: 'z', subzone: 's' },
    })
    const { workloads } = world([], [pod('a', { isCaptured: false }), pod('b', { isHostNetwork: true }), pod('c', { ready: false, labels: {} })])
    expect(workloads.get('Kubernetes//Pod/shop/a')?.tunnelProtocol).toBe('none')
    expect(workloads.get('Kubernetes//Pod/shop/b')).toMatchObject({ tunnelProtocol: 'none', isHostNetwork: true })
    expect(workloads.get('Kubernetes//Pod/shop/c')).toMatchObject({ isHealthy: false, canonicalName: 'web', canonicalRevision: 'latest' })
  })

  test('is an endpoint of the services of its namespace that select it, at the ports that it means', () => {
    const spec = { selector: { app: 'web' }, ports: [{ name: 'a', port: 80, targetPort: 'http' }, { name: 'b', port: 81, targetPort: 'grpc' }, { name: 'c', port: 82 }] }
    const translator = world([service(spec), object('Service', 'other/web', { spec })], [
      pod('one'), pod('two', { ports: [{ name: 'http', port: 9090, protocol: 'TCP' }, { name: 'grpc', port: 9091, protocol: 'UDP' }] }), pod('no', { labels: { app: 'db' } }),
    ])
    expect(ports(translator, 'Kubernetes//Pod/shop/one')).toEqual(['80>8080', '82>82'])
    expect(ports(translator, 'Kubernetes//Pod/shop/two')).toEqual(['80>9090', '82>82'])
    expect(translator.workloads.get('Kubernetes//Pod/shop/no')?.services.size).toBe(0)
    expect(translator.workloads.get('Kubernetes//Pod/shop/one')?.services.size).toBe(1)
  })

  test('that has none of a service\'s ports by name is not behind it', () => {
    const translator = world([service({ selector: { app: 'web' }, ports: [{ port: 80, targetPort: 'gone' }] })], [pod('one')])
    expect(ports(translator, 'Kubernetes//Pod/shop/one')).toBeUndefined()
  })
})

describe('a Service', () => {
  const of = (spec: object, ips?: readonly string[]) => {
    const translator = world([service(spec)])
    translator.setServiceIps('shop', 'web', ips)
    translator.flush()
    return translator.services.get(key)
  }

  test('has its host name, its addresses and its TCP ports', () => {
    expect(of({ clusterIPs: ['10.96.0.1', 'fd00::1'], ports: [{ name: 'http', port: 80, targetPort: 8080 }, { name: 'dns', port: 53, protocol: 'UDP' }] })).toMatchObject({
      name: 'web', namespace: 'shop', hostname: 'web.shop.svc.cluster.local', addresses: [{ network: '', ip: '10.96.0.1' }, { network: '', ip: 'fd00::1' }],
      ports: [{ servicePort: 80, targetPort: 8080, appProtocol: 'http11' }], isCanonical: true,
    })
    expect(of({}, ['10.96.0.9', 'fd00::9'])?.addresses.map(({ ip }) => ip)).toEqual(['10.96.0.9', 'fd00::9'])
    expect(of({ clusterIP: 'None' }, ['10.96.0.9'])?.addresses).toEqual([])
  })

  test.each([
    [{ internalTrafficPolicy: 'Local' }, { routingPreference: ['node'], mode: 'strict', allowUnhealthy: false }],
    [{ trafficDistribution: 'PreferClose' }, { routingPreference: ['network', 'region', 'zone'], mode: 'failover', allowUnhealthy: false }],
    [{ trafficDistribution: 'PreferSameNode' }, { routingPreference: ['network', 'region', 'zone', 'subzone', 'node'], mode: 'failover', allowUnhealthy: false }],
    [{ publishNotReadyAddresses: true }, { routingPreference: [], mode: 'unspecified', allowUnhealthy: true }],
    [{ internalTrafficPolicy: 'Local', trafficDistribution: 'PreferClose' }, { routingPreference: ['node'], mode: 'strict', allowUnhealthy: false }],
    [{}, undefined],
  ])('balances as %j says', (spec, expected) => {
    expect(of(spec)?.loadBalancing).toEqual(expected)
  })

  test('session affinity, families and protocols', () => {
    expect(of({ sessionAffinity: 'ClientIP' })?.sessionAffinity).toEqual({ kind: 'clientIp', timeoutSeconds: 10_800 })
    expect(of({ ipFamilies: ['IPv6'] })?.ipFamilies).toBe('ipv6')
    expect(of({ ipFamilies: ['IPv4', 'IPv6'] })?.ipFamilies).toBe('dual')
    expect([['h', 'http'], [undefined, 'grpc-web-x'], [undefined, 'http2-x'], ['kubernetes.io/h2c', 'x'], [undefined, 'x'], [undefined, '__proto__'], ['constructor', 'tcp']]
      .map(([field, name]) => appProtocolOf(field, name, 80))).toEqual(['unknown', 'http11', 'http2', 'http2', 'unknown', 'unknown', 'unknown'])
  })

  test('an ExternalName has one endpoint, the name that it stands for', () => {
    const external = service({ type: 'ExternalName', externalName: 'out.example.com', selector: { app: 'web' }, ports: [{ port: 443 }] })
    const translator = world([external], [pod('one')])
    expect(translator.workloads.get('Kubernetes//Service/shop/web')).toMatchObject({ ips: [], hostname: 'out.example.com', tunnelProtocol: 'none' })
    expect(ports(translator, 'Kubernetes//Service/shop/web')).toEqual(['443>443'])
    expect(ports(translator, 'Kubernetes//Pod/shop/one')).toBeUndefined()
    expect(world([external], [], { sendsExternalNames: false }).services.size).toBe(0)
  })
})

describe('an EndpointSlice', () => {
  const slice = object('EndpointSlice', 'shop/s', {
    addressType: 'IPv4', ports: [{ name: 'http', port: 8080 }], endpoints: [{ addresses: ['10.0.0.1'] }, { addresses: ['192.0.2.1'], conditions: { ready: false }, zone: 'z' }],
  }, { labels: { 'kubernetes.io/service-name': 'web' } })
  const plain = service({ ports: [{ name: 'http', port: 80 }] })

  test('names endpoints of a service without selector; an address of a pod is that pod, with its identity', () => {
    const translator = world([slice, plain], [pod('one')])
    expect(ports(translator, 'Kubernetes//Pod/shop/one')).toEqual(['80>8080'])
    expect([...translator.workloads.keys()].sort()).toEqual(['Kubernetes//Pod/shop/one', 'Kubernetes/discovery.k8s.io/EndpointSlice/shop/s/192.0.2.1'])
    expect(translator.workloads.get('Kubernetes/discovery.k8s.io/EndpointSlice/shop/s/192.0.2.1')).toMatchObject({ isHealthy: false, locality: { zone: 'z' }, tunnelProtocol: 'none' })
    translator.removePod('shop', 'one')
    translator.flush()
    expect(translator.workloads.has('Kubernetes/discovery.k8s.io/EndpointSlice/shop/s/10.0.0.1')).toBe(true)
  })

  test('of a service with selector is not needed, without service waits for it', () => {
    const selecting = world([slice, service({ selector: { app: 'web' }, ports: [{ name: 'http', port: 80 }] })])
    expect([selecting.workloads.size, selecting.remarksOf('EndpointSlice shop/s').notes]).toEqual([0, [expect.stringContaining('selects its endpoints itself')]])
    const early = world([slice])
    expect(early.workloads.size).toBe(0)
    early.put(plain)
    expect(early.flush().workloads).toHaveLength(2)
  })
})

describe('ServiceEntry and WorkloadEntry', () => {
  const entry = (name: string, spec: object, metadata: object = {}): ManifestObject => object('ServiceEntry', name, { spec }, metadata)
  const tls = [{ number: 443, name: 'tls', protocol: 'TLS' }]

  test('each host is a service; wildcards, ranges and names to look up are kept as they are', () => {
    const translator = world([entry('shop/e', {
      hosts: ['api.example.com', '*.example.org'], addresses: ['192.0.2.7/24', '198.51.100.1/32', '2001:db8::1'], ports: tls, exportTo: ['.'], subjectAltNames: ['spiffe://x'],
    })])
    expect(translator.services.get('shop/*.example.org')).toMatchObject({
      name: 'e', addresses: [{ network: '', ip: '192.0.2.0', prefixLength: 24 }, { network: '', ip: '198.51.100.1' }, { network: '', ip: '2001:db8::1' }],
      loadBalancing: { mode: 'passthrough' }, isNamespaceLocal: true, subjectAltNames: ['spiffe://x'], ports: [{ servicePort: 443, targetPort: 443, appProtocol: 'tls' }],
    })
    const dns = world([entry('shop/e', { hosts: ['api.example.com', 'b.example.com'], ports: tls, resolution: 'DNS' })])
    expect([...dns.workloads.values()].map(({ uid, hostname, services }) => [uid, hostname, [...services.keys()]])).toEqual([
      ['Kubernetes/networking.istio.io/ServiceEntry/shop/e/api.example.com', 'api.example.com', ['shop/api.example.com']],
      ['Kubernetes/networking.istio.io/ServiceEntry/shop/e/b.example.com', 'b.example.com', ['shop/b.example.com']],
    ])
  })

  test('its own endpoints, with weights, localities and ports of their own', () => {
    const translator = world([entry('shop/e', {
      hosts: ['db.internal'], ports: [{ number: 5432, name: 'sql', protocol: 'TCP', targetPort: 5433 }], resolution: 'STATIC', location: 'MESH_INTERNAL',
      endpoints: [
        { address: '192.0.2.1', ports: { sql: 6000 }, weight: 5, locality: 'r/z', serviceAccount: 'db' },
        { address: '192.0.2.2', labels: { 'networking.istio.io/tunnel': 'http' } },
      ],
    })])
    const [one, two] = [1, 2].map((n) => `Kubernetes/networking.istio.io/ServiceEntry/shop/e/192.0.2.${n}`)
    expect(ports(translator, one ?? '', 'shop/db.internal')).toEqual(['5432>6000'])
    expect(ports(translator, two ?? '', 'shop/db.internal')).toEqual(['5432>5433'])
    expect(translator.workloads.get(one ?? '')).toMatchObject({ capacity: 5, locality: { region: 'r', zone: 'z', subzone: '' }, serviceAccount: 'db', tunnelProtocol: 'none' })
    expect(translator.workloads.get(two ?? '')?.tunnelProtocol).toBe('hbone')
  })

  test('its selector takes WorkloadEntries and pods; Services take WorkloadEntries too', () => {
    const vm = object('WorkloadEntry', 'shop/vm', { spec: { address: '192.0.2.9', labels: { app: 'web' }, ports: { http: 7070 }, serviceAccount: 'vm' } })
    const translator = world([
      vm, entry('shop/e', { hosts: ['x.internal'], ports: [{ number: 80, name: 'http' }], resolution: 'STATIC', workloadSelector: { labels: { app: 'web' } } }),
      service({ selector: { app: 'web' }, ports: [{ port: 90, targetPort: 'http' }] }),
    ], [pod('one')])
    const uid = 'Kubernetes/networking.istio.io/WorkloadEntry/shop/vm'
    expect([ports(translator, uid, 'shop/x.internal'), ports(translator, uid), ports(translator, 'Kubernetes//Pod/shop/one', 'shop/x.internal')])
      .toEqual([['80>7070'], ['90>7070'], ['80>80']])
    expect(translator.workloads.get(uid)).toMatchObject({ name: 'vm', serviceAccount: 'vm', tunnelProtocol: 'none', ips: ['192.0.2.9'] })
  })

  test('of two claims to a host in one namespace the older counts, and a Service before any entry', () => {
    const first = entry('shop/a', { hosts: ['x.internal'], ports: tls, resolution: 'STATIC', endpoints: [{ address: '192.0.2.1' }] })
    const second = entry('shop/b', { hosts: ['x.internal', 'y.internal'], ports: tls, resolution: 'STATIC', endpoints: [{ address: '192.0.2.2' }] })
    const translator = world([second, first])
    expect(translator.services.get('shop/x.internal')?.name).toBe('a')
    expect(translator.remarksOf('ServiceEntry shop/b').problems).toEqual([expect.stringContaining('already defined by ServiceEntry shop/a')])
    expect([...translator.workloads.get('Kubernetes/networking.istio.io/ServiceEntry/shop/b/192.0.2.2')?.services.keys() ?? []]).toEqual(['shop/y.internal'])
    translator.remove('ServiceEntry shop/a')
    translator.flush()
    expect(translator.remarksOf('ServiceEntry shop/b').problems).toEqual([])
    translator.put(service({ ports: [] }))
    translator.put(entry('shop/steal', { hosts: ['web.shop.svc.cluster.local'], ports: tls }, { creationTimestamp: '2000-01-01T00:00:00Z' }))
    translator.flush()
    expect(translator.services.get(key)?.name).toBe('web')
  })

  test('of one host in several namespaces one service is the canonical one', () => {
    const translator = world([entry('b/e', { hosts: ['x.internal'] }), entry('c/e', { hosts: ['x.internal'] }, { creationTimestamp: '2020-01-01T00:00:00Z' })])
    expect(['b', 'c'].map((ns) => translator.services.get(`${ns}/x.internal`)?.isCanonical)).toEqual([false, true])
    translator.remove('ServiceEntry c/e')
    translator.flush()
    expect(translator.services.get('b/x.internal')?.isCanonical).toBe(true)
  })
})
