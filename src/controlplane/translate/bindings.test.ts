// Waypoints before services and workloads, as objects come and go: each step leaves what translating everything anew would give,
// and touches nothing that it does not concern.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { ManifestObject } from '../../model/manifest.ts'
import type { RunningPod } from '../../model/running-pod.ts'
import { object } from './arbitraries.ts'
import { defaultSettings } from './settings.ts'
import { Translator } from './translator.ts'

const use = (name: string, more: object = {}): object => ({ labels: { 'sidestep.dev/use-waypoint': name, ...more } })
const service = (name: string, metadata: object = {}): ManifestObject => object('Service', name, { spec: { selector: { app: 'x' }, ports: [{ port: 80 }] } }, metadata)
const waypoint = (name: string, allowedRoutes: object = {}, metadata: object = {}, gatewayClassName = 'sidestep-waypoint'): ManifestObject =>
  object('Gateway', name, { spec: { gatewayClassName, listeners: [{ name: 'mesh', port: 15008, protocol: 'HBONE', allowedRoutes }] } }, metadata)
const namespace = (name: string, metadata: object = {}): ManifestObject => object('Namespace', name, {}, metadata)
const pod = (name: string, labels: Record<string, string> = {}): RunningPod => {
  const [namespace = '', own = ''] = name.split('/')
  return { uid: name, namespace, name: own, node: 'n', ips: ['10.0.0.1'], ready: true, labels, serviceAccount: 's', isCaptured: true, isHostNetwork: false, ports: [] }
}

function world(...parts: readonly (ManifestObject | RunningPod)[]) {
  const translator = new Translator(defaultSettings)
  const put = (...more: readonly (ManifestObject | RunningPod)[]): void => {
    for (const part of more) {
      if ('kind' in part) translator.put(part)
      else translator.putPod(part)
    }
  }
  put(...parts)
  translator.flush()
  /** What the next flush changes, by name. */
  const changes = (...more: readonly (ManifestObject | RunningPod)[]): readonly string[] => {
    put(...more)
    const { services, workloads } = translator.flush()
    return [...services.map(({ name, waypoint: to }) => `${name} ${nameOf(to)}`), ...workloads.map(({ name, waypoint: to }) => `${name} ${nameOf(to)}`)].sort()
  }
  return { translator, changes }
}
const nameOf = (to: { readonly destination: { readonly kind: string; readonly name?: { readonly hostname: string } } } | undefined): string => to?.destination.name?.hostname.replace('.svc.cluster.local', '') ?? '-'

describe('bindings', () => {
  test('follow the namespace\'s label, the Gateway, its class and its annotation, and touch nothing else', () => {
    const { translator, changes } = world(service('shop/web'), service('shop/own', use('none')), service('else/web'), pod('shop/a'), pod('else/b'))
    expect(changes(namespace('shop', use('w')))).toEqual(['a w.shop', 'web w.shop'])
    // Wishes that cannot be had lead to the waypoint all the same.
    expect(changes(waypoint('shop/w'))).toEqual([])
    expect(changes(waypoint('shop/w', {}, { annotations: { 'sidestep.dev/waypoint-failure-mode': 'open' } }))).toEqual(['a w.shop', 'web w.shop'])
    expect(translator.services.get('shop/web.shop.svc.cluster.local')?.waypointFailure).toBe('open')
    expect(changes(waypoint('shop/w', {}, {}, 'mine'))).toEqual(['a not-a-waypoint.w.shop', 'web not-a-waypoint.w.shop'])
    expect(changes(object('GatewayClass', 'mine', { spec: { controllerName: 'sidestep.dev/waypoint' } }))).toEqual(['a w.shop', 'web w.shop'])
    expect(changes(waypoint('shop/w', {}, { labels: { 'sidestep.dev/waypoint-for': 'service' } }))).toEqual(['a -'])
    expect(changes(namespace('shop'))).toEqual(['web -'])
  })

  test('leave out the gateway\'s own', () => {
    const labels = { 'gateway.networking.k8s.io/gateway-name': 'w' }
    const { changes } = world(namespace('shop', use('w')), pod('shop/w-0', labels), service('shop/w'), service('shop/labelled', { labels }))
    expect(changes(waypoint('shop/w'))).toEqual(['labelled -', 'w -', 'w-0 -'])
  })

  test('across namespaces follow whom the waypoint opens itself to', () => {
    const there = { 'sidestep.dev/use-waypoint-namespace': 'infra' }
    const { changes } = world(
      namespace('shop'), service('shop/web', use('w', there)), pod('shop/a', { 'istio.io/use-waypoint': 'w', 'istio.io/use-waypoint-namespace': 'infra' }),
      waypoint('infra/w', { namespaces: { from: 'Selector', selector: { matchLabels: { mesh: 'yes' } } } }),
    )
    expect(changes(namespace('shop', { labels: { mesh: 'yes' } }))).toEqual(['a w.infra', 'web w.infra'])
    expect(changes(namespace('shop', { labels: { mesh: 'yes', other: 'x' } }))).toEqual([])
    expect(changes(waypoint('infra/w'))).toEqual(['a not-permitted.w.infra', 'web not-permitted.w.infra'])
  })

  test('hold for endpoints of entries and slices, too', () => {
    const entry = (metadata: object = {}): ManifestObject => object('ServiceEntry', 'shop/e', { spec: { hosts: ['api.example.com'], resolution: 'STATIC', endpoints: [{ address: '192.0.2.1' }], ports: [{ number: 443, name: 'tls', protocol: 'TLS' }] } }, metadata)
    const slice = (metadata: object = {}): ManifestObject => object('EndpointSlice', 'shop/s', { addressType: 'IPv4', endpoints: [{ addresses: ['192.0.2.2'] }], ports: [{ port: 80 }] }, { labels: { 'kubernetes.io/service-name': 'plain', ...metadata } })
    const plain = object('Service', 'shop/plain', { spec: { ports: [{ port: 80 }] } })
    const { changes } = world(entry(), slice(), plain, object('WorkloadEntry', 'shop/vm', { spec: { address: '192.0.2.3' } }))
    expect(changes(namespace('shop', use('w')))).toEqual(['e w.shop', 'e w.shop', 'plain w.shop', 's w.shop', 'vm w.shop'])
    expect(changes(entry(use('none')))).toEqual(['e -', 'e -'])
  })

  test('come to the same by any way', () => {
    const wish = fc.constantFrom({}, use('w'), use('none'), use('w', { 'sidestep.dev/use-waypoint-namespace': 'a' }), { labels: { mesh: 'yes' } }, use('v', { mesh: 'yes' }), { labels: { 'istio.io/use-waypoint': 'w' } }, { labels: { 'gateway.networking.k8s.io/gateway-name': 'w' } })
    const namespaces = fc.constantFrom('a', 'b')
    const allowed = fc.constantFrom({}, { namespaces: { from: 'All' } }, { namespaces: { from: 'Selector', selector: { matchLabels: { mesh: 'yes' } } } })
    const change = fc.oneof(
      fc.tuple(namespaces, wish).map(([name, metadata]) => namespace(name, metadata)),
      fc.tuple(namespaces, fc.constantFrom('w', 'v', 'x'), wish).map(([name, own, metadata]) => service(`${name}/${own}`, metadata)),
      fc.tuple(namespaces, fc.constantFrom('w', 'v'), allowed, fc.constantFrom('sidestep-waypoint', 'sidestep-ingress', 'mine'), fc.constantFrom({}, { labels: { 'sidestep.dev/waypoint-for': 'workload' } }, { annotations: { 'sidestep.dev/waypoint-failure-mode': 'open' } }))
        .map(([name, own, routes, gatewayClass, metadata]) => waypoint(`${name}/${own}`, routes, metadata, gatewayClass)),
      fc.constantFrom('sidestep.dev/waypoint', 'x.io/y').map((controllerName) => object('GatewayClass', 'mine', { spec: { controllerName } })),
      fc.tuple(namespaces, wish).map(([name, metadata]) => pod(`${name}/p`, (metadata as { labels?: Record<string, string> }).labels ?? {})),
      fc.nat(8),
    )
    fc.assert(fc.property(fc.array(change, { maxLength: 20 }), (steps) => {
      const stepwise = new Translator(defaultSettings)
      const last = new Map<string, ManifestObject | RunningPod>()
      for (const step of steps) {
        if (typeof step === 'number') {
          const key = [...last.keys()][step]
          const gone = key === undefined ? undefined : last.get(key)
          if (key === undefined || !gone || !('kind' in gone)) continue
          last.delete(key)
          stepwise.remove(key)
        } else if ('kind' in step) {
          last.set(`${step.kind} ${'namespace' in step.metadata ? `${step.metadata.namespace}/` : ''}${step.metadata.name}`, step)
          stepwise.put(step)
        } else {
          last.set(step.uid, step)
          stepwise.putPod(step)
        }
        stepwise.flush()
      }
      const { translator: fresh } = world(...last.values())
      expect(new Map([...stepwise.services].sort())).toEqual(new Map([...fresh.services].sort()))
      expect(new Map([...stepwise.workloads].sort())).toEqual(new Map([...fresh.workloads].sort()))
    }), { numRuns: 400 })
  })
})
