// The Kubernetes API as the source of a control plane: what is told, when, and what is never read.
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { silentLogger } from '../../core/log.ts'
import type { ResourceType } from '../../kube/api.ts'
import type { KubeClient } from '../../kube/client.ts'
import { crdType, FakeKubeApi, namespaceType, podType } from '../../kube/testing.ts'
import { XdsStore } from '../../xds/store.ts'
import { ControlPlane } from '../control-plane.ts'
import { GatewayNamespaces } from './gateway-namespaces.ts'
import { KubePods } from './pods.ts'
import { KubeSource } from './source.ts'
import { TrustConfigMaps } from './trust.ts'

const core = (plural: string, kind: string, namespaced = true): ResourceType => ({ group: '', version: 'v1', plural, kind, namespaced })
const [services, nodes, secrets, configMaps] = [core('services', 'Service'), core('nodes', 'Node', false), core('secrets', 'Secret'), core('configmaps', 'ConfigMap')]
const slices: ResourceType = { group: 'discovery.k8s.io', version: 'v1', plural: 'endpointslices', kind: 'EndpointSlice', namespaced: true }
const policies: ResourceType = { group: 'sidestep.dev', version: 'v1alpha1', plural: 'authorizationpolicies', kind: 'AuthorizationPolicy', namespaced: true }
const gateways: ResourceType = { group: 'gateway.networking.k8s.io', version: 'v1', plural: 'gateways', kind: 'Gateway', namespaced: true }
const wait = { timeout: 10_000, interval: 10 }

let fake: FakeKubeApi
let api: KubeClient
let store: XdsStore
let plane: ControlPlane | undefined

beforeEach(async () => {
  fake = await new FakeKubeApi([podType, namespaceType, crdType, services, nodes, secrets, configMaps, slices]).start()
  api = fake.client()
  store = new XdsStore()
  fake.put(namespaceType, { metadata: { name: 'shop', labels: { 'sidestep.dev/mesh': 'enabled' } } })
  fake.put(services, { metadata: { name: 'web', namespace: 'shop' }, spec: { clusterIPs: ['10.96.0.1', 'fd00::1'], selector: { app: 'web' }, ports: [{ port: 80, targetPort: 8080, protocol: 'TCP' }] } })
  fake.put(podType, pod('web-1', '10.0.0.1'))
})
afterEach(async () => {
  await plane?.close()
  api.close()
  await fake.stop()
})

interface Draft { metadata: { name: string; namespace: string; labels: Record<string, string> }; spec: object; [field: string]: unknown }
function pod(name: string, ip: string, status: object = { phase: 'Running', podIPs: [{ ip }], conditions: [{ type: 'Ready', status: 'True' }] }): Draft {
  return { metadata: { name, namespace: 'shop', labels: { app: 'web' } }, spec: { nodeName: 'node-a', serviceAccountName: 'web', containers: [] }, status }
}
function define(type: ResourceType): void {
  fake.define(type)
  fake.put(crdType, { metadata: { name: `${type.plural}.${type.group}` }, spec: { versions: [{ name: type.version, served: true }] }, status: { conditions: [{ type: 'Established', status: 'True' }] } })
}
const address = (name: string): unknown => store.logs.address.get(name)
const podName = (name: string): string => `Kubernetes//Pod/shop/${name}`
const of = (type: ResourceType, verb: 'watch' | 'list'): string[] => fake.seen
  .filter(({ path, query }) => path.endsWith(`/${type.plural}`) && (query.get('watch') === 'true') === (verb === 'watch'))
  .map(({ path, query }) => `${path} ${query.get('fieldSelector') ?? query.get('labelSelector') ?? ''}`)

async function start(): Promise<ControlPlane> {
  const source = new KubeSource({ api, logger: silentLogger })
  plane = new ControlPlane({ config: source, pods: new KubePods({ api, logger: silentLogger }), store, logger: silentLogger })
  await plane.start()
  return plane
}

describe('a control plane on the Kubernetes API', () => {
  test('tells all there is at once, and what changes; a pod that ends, or has no address yet, is no workload', async () => {
    fake.put(podType, pod('done', '10.0.0.9', { phase: 'Succeeded', podIPs: [{ ip: '10.0.0.9' }] }))
    fake.put(podType, pod('soon', '', { phase: 'Pending' }))
    const status = await start()
    expect(store.logs.address.find('/10.96.0.1')).toHaveLength(1)
    expect(store.logs.address.find('/fd00::1')).toHaveLength(1)
    expect([podName('web-1'), podName('done'), podName('soon')].map((name) => address(name) !== undefined)).toEqual([true, false, false])
    expect(status.mayHave('node-a', { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'web' })).toBe(true)
    fake.put(podType, pod('soon', '10.0.0.2'))
    await vi.waitFor(() => expect(address(podName('soon'))).toBeDefined(), wait)
    fake.put(podType, pod('soon', '10.0.0.2', { phase: 'Failed', podIPs: [{ ip: '10.0.0.2' }] }))
    await vi.waitFor(() => expect(address(podName('soon'))).toBeUndefined(), wait)
  })

  test('does not ask for slices that Kubernetes makes of selectors, and takes those that people make', async () => {
    fake.put(services, { metadata: { name: 'outside', namespace: 'shop' }, spec: { clusterIPs: ['10.96.0.2'], ports: [{ port: 80, protocol: 'TCP' }] } })
    const slice = (name: string, service: string, ip: string, by?: string): void => void fake.put(slices, {
      metadata: { name, namespace: 'shop', labels: { 'kubernetes.io/service-name': service, ...(by === undefined ? {} : { 'endpointslice.kubernetes.io/managed-by': by }) } },
      addressType: 'IPv4', endpoints: [{ addresses: [ip], conditions: { ready: true } }], ports: [{ name: '', port: 8080, protocol: 'TCP' }],
    } as never)
    slice('web-abc', 'web', '10.0.0.1', 'endpointslice-controller.k8s.io')
    slice('mine', 'outside', '192.0.2.7')
    const status = await start()
    expect(store.logs.address.find('/192.0.2.7')).toHaveLength(1)
    expect(store.logs.address.find('/10.0.0.1').map(({ name }) => name)).toEqual([podName('web-1')])
    expect(status.status().objects.map(({ object }) => object)).not.toContain('EndpointSlice shop/web-abc')
  })

  test('goes on with what it knows while the API server is away or has forgotten, and then has the truth', async () => {
    const status = await start()
    fake.cutConnections()
    fake.compact()
    fake.put(podType, pod('web-2', '10.0.0.2'))
    fake.remove(podType, 'web-1', 'shop')
    fake.compact()
    await vi.waitFor(() => expect([address(podName('web-2')) !== undefined, address(podName('web-1')) === undefined]).toEqual([true, true]), wait)
    await vi.waitFor(() => expect(status.status().problems).toEqual([]), wait)
  })

  test('reads kinds that come, drops those that go, and says of a bad object that it is bad', async () => {
    const status = await start()
    define(policies)
    fake.put(policies, { metadata: { name: 'deny', namespace: 'shop' }, spec: { action: 'DENY', rules: [{}] } })
    await vi.waitFor(() => expect(store.logs.authorization.get('shop/deny')).toBeDefined(), wait)
    fake.put(policies, { metadata: { name: 'deny', namespace: 'shop' }, spec: { action: 'DENY', rules: [{ nonsense: 1 }] } })
    await vi.waitFor(() => expect(status.objectStatus('AuthorizationPolicy shop/deny')?.accepted).toBe(false), wait)
    expect(status.objectStatus('AuthorizationPolicy shop/deny')?.problems[0]).toMatch(/^spec\.rules\.0/)
    expect(store.logs.authorization.get('shop/deny')).toBeDefined()
    fake.remove(crdType, 'authorizationpolicies.sidestep.dev')
    await vi.waitFor(() => expect(store.logs.authorization.get('shop/deny')).toBeUndefined(), wait)
  })

  test('reads only Secrets that a Gateway names, one by one, before the Gateway is told', async () => {
    define(gateways)
    fake.put(secrets, { metadata: { name: 'other', namespace: 'shop' }, data: { password: 'aHVudGVyMg==' } } as never)
    fake.put(secrets, { metadata: { name: 'tls', namespace: 'shop' }, data: { 'tls.crt': 'eA==' } } as never)
    const listener = (certificate: string): object => ({ name: 'https', port: 443, protocol: 'HTTPS', tls: { certificateRefs: [{ name: certificate }] } })
    fake.put(gateways, { metadata: { name: 'in', namespace: 'shop' }, spec: { gatewayClassName: 'sidestep-ingress', listeners: [listener('tls')] } })
    const status = await start()
    expect(of(secrets, 'list')).toEqual(['/api/v1/namespaces/shop/secrets metadata.name=tls'])
    // It was read before all there is was told: otherwise it would not be known to be broken, but to be missing.
    expect(status.objectStatus('Gateway shop/in')?.problems.join()).toContain('tls.key is missing')
    fake.put(gateways, { metadata: { name: 'in', namespace: 'shop' }, spec: { gatewayClassName: 'sidestep-ingress', listeners: [listener('next')] } })
    await vi.waitFor(() => expect(status.objectStatus('Gateway shop/in')?.problems.join()).toContain('there is no Secret shop/next'), wait)
    await vi.waitFor(() => expect(of(secrets, 'watch')).toContain('/api/v1/namespaces/shop/secrets metadata.name=next'), wait)
    fake.put(secrets, { metadata: { name: 'next', namespace: 'shop' }, data: { 'tls.key': 'eA==' } } as never)
    await vi.waitFor(() => expect(status.objectStatus('Gateway shop/in')?.problems.join()).toContain('tls.crt is missing'), wait)
    expect(of(secrets, 'list')).toEqual(['/api/v1/namespaces/shop/secrets metadata.name=tls', '/api/v1/namespaces/shop/secrets metadata.name=next'])
    expect(status.status().objects.map(({ object }) => object)).not.toContain('Secret shop/tls')
  })
})

describe('what pods trust', () => {
  const read = (namespace: string): unknown => fake.get(configMaps, 'sidestep-trust', namespace)?.['data']

  test('is written by who leads, where it is needed, and nowhere else', async () => {
    let needed = new Set(['shop'])
    const trust = new TrustConfigMaps({ api, namespace: 'sidestep-system', gatewayNamespaces: () => needed, logger: silentLogger })
    await trust.setRoots('R1')
    await trust.setCrl('C1')
    expect(fake.list(configMaps)).toEqual([])
    fake.put(configMaps, { metadata: { name: 'sidestep-trust', namespace: 'theirs' }, data: { mine: 'x' } } as never)
    trust.start()
    const both = { 'roots.pem': 'R1', 'crl.pem': 'C1' }
    await vi.waitFor(() => expect([read('sidestep-system'), read('shop')]).toEqual([both, both]), wait)
    needed = new Set(['other'])
    trust.changed()
    await vi.waitFor(() => expect([read('other'), read('shop')]).toEqual([both, undefined]), wait)
    fake.remove(configMaps, 'sidestep-trust', 'other')
    await vi.waitFor(() => expect(read('other')).toEqual(both), wait)
    await trust.setRoots('R2')
    await vi.waitFor(() => expect(read('other')).toEqual({ ...both, 'roots.pem': 'R2' }), wait)
    expect(read('theirs')).toEqual({ mine: 'x' })
    await trust.stop()
    await trust.setRoots('R3')
    expect(read('other')).toEqual({ ...both, 'roots.pem': 'R2' })
  })

  test('is needed where there are Gateways of ours, by whatever class', () => {
    const namespaces = new GatewayNamespaces()
    const gateway = (namespace: string, gatewayClassName: string): never => ({ kind: 'Gateway', metadata: { namespace, name: 'g' }, spec: { gatewayClassName } }) as never
    expect(namespaces.apply(new Map([['Gateway a/g', gateway('a', 'sidestep-waypoint')], ['Gateway b/g', gateway('b', 'nginx')], ['Gateway c/g', gateway('c', 'edge')]]))).toBe(true)
    expect([...namespaces.get()]).toEqual(['a'])
    namespaces.apply(new Map([['GatewayClass edge', { kind: 'GatewayClass', metadata: { name: 'edge' }, spec: { controllerName: 'sidestep.dev/ingress' } } as never]]))
    expect([...namespaces.get()]).toEqual(['a', 'c'])
    expect(namespaces.apply(new Map([['Service a/x', undefined]]))).toBe(false)
    namespaces.apply(new Map([['Gateway a/g', undefined]]))
    expect([...namespaces.get()]).toEqual(['c'])
  })
})
