// What namespaces say for what is in them, and what names DNS can give: egress, preferred endpoints, ports, endpoints of headless
// services.
import { describe, expect, test } from 'vitest'
import type { ManifestObject } from '../../model/manifest.ts'
import type { RunningPod } from '../../model/running-pod.ts'
import { object } from './arbitraries.ts'
import { defaultSettings } from './settings.ts'
import { Translator } from './translator.ts'

const pod = (name: string, more: Partial<RunningPod> = {}): RunningPod => ({
  uid: name, namespace: 'shop', name, node: 'node-a', ips: ['10.0.0.1'], ready: true, labels: { app: 'db' }, serviceAccount: 'db', isCaptured: true,
  isHostNetwork: false, ports: [], ...more,
})
const namespace = (name: string, labels: object, annotations: object = {}): ManifestObject => object('Namespace', name, {}, { labels, annotations })
const annotation = 'networking.istio.io/traffic-distribution'
const key = 'shop/db.shop.svc.cluster.local'

function world(...objects: readonly ManifestObject[]): Translator {
  const translator = new Translator(defaultSettings)
  for (const each of objects) translator.put(each)
  return translator
}

describe('egress', () => {
  const egressOf = (translator: Translator, of = 'shop'): unknown => {
    translator.putPod(pod('db-0', { namespace: of }))
    translator.flush()
    return translator.workloads.get(`Kubernetes//Pod/${of}/db-0`)?.egress
  }
  const label = (mode: string): object => ({ 'sidestep.dev/egress': mode })

  test.each([
    ['nothing said', [], undefined],
    ['a namespace', [namespace('shop', label('deny'))], 'deny'],
    ['another namespace', [namespace('other', label('deny'))], undefined],
    ['the mesh, by its root namespace', [namespace('sidestep-system', label('audit'))], 'audit'],
    ['the mesh, by the name that Istio\'s root namespace has', [namespace('istio-system', label('audit'))], 'audit'],
    ['ours before Istio\'s', [namespace('istio-system', label('audit')), namespace('sidestep-system', label('deny'))], 'deny'],
    ['a namespace over the mesh', [namespace('sidestep-system', label('deny')), namespace('shop', label('allow'))], 'allow'],
    ['a namespace that nobody understands, over the mesh', [namespace('sidestep-system', label('allow')), namespace('shop', label('Deny'))], 'unreadable'],
  ])('%s', (_, objects, expected) => {
    expect(egressOf(world(...objects))).toBe(expected)
  })

  test('follows the label, and touches only the workloads that it is for', () => {
    const translator = world()
    for (const each of ['shop', 'other']) egressOf(translator, each)
    translator.put(namespace('shop', label('deny')))
    expect(translator.flush().workloads.map(({ uid, egress }) => [uid, egress])).toEqual([['Kubernetes//Pod/shop/db-0', 'deny']])
    translator.remove('Namespace shop')
    expect(translator.flush().workloads.map(({ egress }) => egress)).toEqual([undefined])
    translator.put(namespace('sidestep-system', label('deny')))
    expect(translator.flush().workloads).toHaveLength(2)
    translator.put(namespace('sidestep-system', { ...label('deny'), more: 'labels' }))
    expect(translator.flush().workloads).toEqual([])
  })

  test('a value that nobody understands is a problem of the namespace', () => {
    const translator = world(namespace('shop', label('Deny')))
    translator.flush()
    expect(translator.remarksOf('Namespace shop').problems).toEqual([expect.stringContaining('"Deny"')])
    translator.put(namespace('shop', label('deny')))
    expect(translator.remarksOf('Namespace shop').problems).toEqual([])
  })
})

describe('preferred endpoints', () => {
  const zone = { routingPreference: ['network', 'region', 'zone'], mode: 'failover', allowUnhealthy: false }
  const node = { routingPreference: ['network', 'region', 'zone', 'subzone', 'node'], mode: 'failover', allowUnhealthy: false }
  const service = (spec: object, annotations: object = {}): ManifestObject => object('Service', 'shop/db', { spec }, { annotations })
  const of = (...objects: readonly ManifestObject[]): unknown => {
    const translator = world(...objects)
    translator.flush()
    return translator.services.get(key)?.loadBalancing
  }

  test('by the field, then the annotation, then the namespace, in the order that Istio documents', () => {
    const wide = namespace('shop', {}, { [annotation]: 'PreferSameNode' })
    expect(of(service({}), wide)).toEqual(node)
    expect(of(wide, service({}, { [annotation]: 'preferclose' }))).toEqual(zone)
    expect(of(wide, service({ trafficDistribution: 'PreferSameZone' }, { [annotation]: 'PreferSameNode' }))).toEqual(zone)
    expect(of(wide, service({ internalTrafficPolicy: 'Local' }))).toMatchObject({ mode: 'strict', routingPreference: ['node'] })
    expect(of(wide, service({ publishNotReadyAddresses: true }))).toEqual({ ...node, allowUnhealthy: true })
    expect(of(service({}))).toBeUndefined()
  })

  test('a namespace that changes its mind changes its services, and an unknown value is a problem where it stands', () => {
    const translator = world(service({}, { [annotation]: 'Nearest' }))
    translator.flush()
    expect(translator.remarksOf('Service shop/db').problems).toEqual([expect.stringContaining('"Nearest"')])
    translator.put(namespace('shop', {}, { [annotation]: 'PreferClose' }))
    expect(translator.flush().services.map(({ loadBalancing }) => loadBalancing)).toEqual([zone])
    translator.put(namespace('shop', {}, { [annotation]: 'nearest' }))
    expect(translator.flush().services.map(({ loadBalancing }) => loadBalancing)).toEqual([undefined])
    expect(translator.remarksOf('Namespace shop').problems).toEqual([expect.stringContaining('"nearest"')])
  })

  test('also of a ServiceEntry, unless it goes where the client asked', () => {
    const entry = (spec: object): ManifestObject => object('ServiceEntry', 'shop/e', { spec: { hosts: ['db.internal'], ...spec } }, { annotations: { [annotation]: 'PreferClose' } })
    const balancing = (each: ManifestObject): unknown => {
      const translator = world(each)
      translator.flush()
      return translator.services.get('shop/db.internal')?.loadBalancing
    }
    expect(balancing(entry({ resolution: 'STATIC', endpoints: [{ address: '192.0.2.1' }] }))).toEqual(zone)
    expect(balancing(entry({}))).toMatchObject({ mode: 'passthrough' })
  })
})

describe('names', () => {
  const ports = [{ name: 'sql', port: 5432 }, { name: 'gossip', port: 7946, protocol: 'UDP' }]
  const headless = object('Service', 'shop/db', { spec: { selector: { app: 'db' }, clusterIP: 'None', ports } })

  test('of ports, and of those that the mesh does not carry', () => {
    const translator = world(headless, object('ServiceEntry', 'shop/e', { spec: { hosts: ['x.internal'], ports: [{ number: 443, name: 'tls', protocol: 'TLS' }] } }),
      object('Service', 'shop/one', { spec: { ports: [{ port: 80 }] } }))
    translator.flush()
    expect(translator.services.get(key)).toMatchObject({ isHeadless: true, ports: [{ servicePort: 5432, name: 'sql' }], udpPorts: [{ name: 'gossip', port: 7946 }] })
    expect(translator.services.get('shop/x.internal')).toMatchObject({ ports: [{ servicePort: 443, name: 'tls' }] })
    const one = translator.services.get('shop/one.shop.svc.cluster.local')
    expect([one?.ports.map((port) => 'name' in port), one?.isHeadless, one?.udpPorts]).toEqual([[false], undefined, undefined])
  })

  test('of pods: their host name under the service that is their subdomain, and under no other', () => {
    const translator = world(headless, object('Service', 'shop/other', { spec: { selector: { app: 'db' } } }))
    translator.putPod(pod('db-0', { hostname: 'first', subdomain: 'db' }))
    translator.putPod(pod('db-1', { hostname: 'second', subdomain: 'elsewhere', ips: ['10.0.0.2'] }))
    translator.putPod(pod('db-2', { subdomain: 'db', ips: ['10.0.0.3'] }))
    translator.flush()
    const named = ['db-0', 'db-1', 'db-2'].map((name) => translator.workloads.get(`Kubernetes//Pod/shop/${name}`)?.endpointNames)
    expect(named).toEqual([new Map([[key, 'first']]), undefined, undefined])
  })

  test('of endpoints of a slice, for pods and for others', () => {
    const slice = object('EndpointSlice', 'shop/s', {
      addressType: 'IPv4', ports: [{ name: 'sql', port: 5432 }], endpoints: [{ addresses: ['10.0.0.1'], hostname: 'one' }, { addresses: ['192.0.2.1'], hostname: 'two' }],
    }, { labels: { 'kubernetes.io/service-name': 'db' } })
    const translator = world(slice, object('Service', 'shop/db', { spec: { clusterIP: 'None', ports } }))
    translator.putPod(pod('db-0'))
    translator.flush()
    expect([...translator.workloads.values()].map(({ endpointNames }) => endpointNames)).toEqual(expect.arrayContaining([new Map([[key, 'one']]), new Map([[key, 'two']])]))
  })
})
