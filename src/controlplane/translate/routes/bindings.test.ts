// Which waypoint stands before what: labels, opt-outs, and wishes that cannot be had.
import { expect, test } from 'vitest'
import type { ManifestObject } from '../../../model/manifest.ts'
import { object } from '../arbitraries.ts'
import { defaultSettings } from '../settings.ts'
import { resolveBinding, serviceBindings, waypointFields, type BoundThing, type WaypointBinding } from './bindings.ts'
import { make, service, shop } from './testing.ts'
import { World } from './world.ts'

const mesh = { name: 'mesh', port: 15008, protocol: 'HBONE' }
const waypoint = (name: string, allowedRoutes: object = {}, labels: object = {}) =>
  make('Gateway', name, { gatewayClassName: 'sidestep-waypoint', listeners: [{ ...mesh, allowedRoutes }] }, { labels })
const namespace = (name: string, labels: object) => object('Namespace', name, {}, { labels })
const use = (value: string, more: object = {}): Record<string, string> => ({ 'sidestep.dev/use-waypoint': value, ...more })
const bind = (thing: Partial<BoundThing>, objects: readonly ManifestObject[], istioLabels = false): WaypointBinding =>
  resolveBinding({ kind: 'service', namespace: 'shop', labels: {}, ...thing }, new World([...shop, ...objects], defaultSettings), { istioLabels })
const bound = { t: 'bound', waypoint: { namespace: 'shop', name: 'w' }, isOwn: false, isOpen: false }
const ownBound = { ...bound, isOwn: true }

test('the thing\'s own label before its namespace\'s; none opts out', () => {
  const world = [waypoint('shop/w'), waypoint('shop/v'), namespace('shop', use('w'))]
  expect(bind({}, [])).toEqual({ t: 'none', because: 'notAsked' })
  expect(bind({}, world)).toEqual(bound)
  expect(bind({ kind: 'workload' }, world)).toEqual(bound)
  expect(bind({ labels: use('v') }, world)).toMatchObject({ t: 'bound', waypoint: { name: 'v' } })
  expect(bind({ labels: use('none') }, world)).toEqual({ t: 'none', because: 'optedOut' })
  expect(bind({ namespace: 'other' }, world)).toEqual({ t: 'none', because: 'notAsked' })
})

test('a waypoint of another namespace must open itself', () => {
  const there = { 'sidestep.dev/use-waypoint-namespace': 'infra' }
  const at = (allowedRoutes: object): WaypointBinding => bind({ labels: use('w', there) }, [waypoint('infra/w', allowedRoutes)])
  expect(at({})).toMatchObject({ t: 'refused', because: 'notPermitted', waypoint: { namespace: 'infra', name: 'w' } })
  expect(at({ namespaces: { from: 'All' } })).toEqual({ ...ownBound, waypoint: { namespace: 'infra', name: 'w' } })
  expect(at({ namespaces: { from: 'Selector', selector: { matchLabels: { 'kubernetes.io/metadata.name': 'other' } } } })).toMatchObject({ because: 'notPermitted' })
  // The namespace's label names the namespace of the waypoint with it; one label of each does not mix.
  expect(bind({ labels: use('w') }, [waypoint('infra/w', { namespaces: { from: 'All' } }), namespace('shop', use('x', there))])).toMatchObject({ because: 'notFound', waypoint: { namespace: 'shop' } })
})

test('what cannot be had is refused, never forgotten', () => {
  expect(bind({ labels: use('gone') }, [])).toMatchObject({ t: 'refused', because: 'notFound' })
  const ingress = make('Gateway', 'shop/w', { gatewayClassName: 'sidestep-ingress', listeners: [{ name: 'h', port: 80, protocol: 'HTTP' }] })
  expect(bind({ labels: use('w') }, [ingress])).toMatchObject({ t: 'refused', because: 'notWaypoint' })
  const services = waypoint('shop/w', {}, { 'sidestep.dev/waypoint-for': 'service' })
  expect(bind({ kind: 'workload', labels: use('w') }, [services])).toMatchObject({ t: 'refused', because: 'unsupportedTraffic' })
  expect(bind({ kind: 'workload' }, [services, namespace('shop', use('w'))])).toEqual({ t: 'none', because: 'otherTraffic' })
  expect(bind({}, [services, namespace('shop', use('w'))])).toEqual(bound)
  expect(bind({}, [waypoint('shop/w', {}, { 'sidestep.dev/waypoint-for': 'servcie' }), namespace('shop', use('w'))])).toMatchObject({ t: 'refused', because: 'unsupportedTraffic' })
})

test('a waypoint does not stand before itself', () => {
  const labels = { 'gateway.networking.k8s.io/gateway-name': 'w' }
  expect(bind({ kind: 'workload', labels }, [waypoint('shop/w'), namespace('shop', use('w'))])).toEqual({ t: 'none', because: 'isGateway' })
  // A label alone takes nobody out: the Gateway must be there.
  expect(bind({ kind: 'workload', labels }, [waypoint('shop/v'), namespace('shop', use('v'))])).toMatchObject({ t: 'bound' })
})

test('Istio\'s labels count where that is wanted, after ours', () => {
  const labels = { 'istio.io/use-waypoint': 'w' }
  expect(bind({ labels }, [waypoint('shop/w')])).toEqual({ t: 'none', because: 'notAsked' })
  expect(bind({ labels }, [waypoint('shop/w')], true)).toEqual(ownBound)
  expect(bind({ labels: { ...labels, ...use('none') } }, [waypoint('shop/w')], true)).toEqual({ t: 'none', because: 'optedOut' })
})

test('a waypoint\'s own Service is known by its name, too', () => {
  const world = [waypoint('shop/w'), namespace('shop', use('w'))]
  expect(bind({ name: 'w' }, world)).toEqual({ t: 'none', because: 'isGateway' })
  expect(bind({ name: 'web' }, world)).toEqual(bound)
  const ingress = make('Gateway', 'shop/web', { gatewayClassName: 'sidestep-ingress', listeners: [{ name: 'h', port: 80, protocol: 'HTTP' }] })
  expect(bind({ name: 'web' }, [...world, ingress])).toEqual(bound)
})

test('of all services together', () => {
  const bindings = serviceBindings(new World([service('shop/web'), object('Service', 'shop/x', { spec: { ports: [{ port: 80 }] } }, { labels: use('gone') }), waypoint('shop/w'), namespace('shop', use('w'))], defaultSettings), { istioLabels: false })
  expect([...bindings].map(([key, { t }]) => [key, t])).toEqual([['shop/web.shop.svc.cluster.local', 'bound'], ['shop/x.shop.svc.cluster.local', 'refused']])
})

test('leads to the waypoint\'s Service, or where nobody is', () => {
  const open = make('Gateway', 'shop/w', { gatewayClassName: 'sidestep-waypoint', listeners: [mesh] }, { annotations: { 'sidestep.dev/waypoint-failure-mode': 'open' } })
  const fields = (thing: Partial<BoundThing>, ...objects: readonly ManifestObject[]) => {
    const { waypoint: found, waypointFailure } = waypointFields(bind(thing, objects), defaultSettings)
    return [found?.destination.kind === 'hostname' ? `${found.destination.name.namespace} ${found.destination.name.hostname}:${found.hbonePort}` : undefined, waypointFailure]
  }
  expect(fields({ labels: use('w') }, waypoint('shop/w'))).toEqual(['shop w.shop.svc.cluster.local:15008', undefined])
  expect(fields({ labels: use('w') }, open)).toEqual(['shop w.shop.svc.cluster.local:15008', 'open'])
  expect(fields({ labels: use('w') })).toEqual(['shop w.shop.svc.cluster.local:15008', undefined])
  // A waypoint that is there must not be sent what it does not serve, and `open` is for those whom it serves.
  expect(fields({ namespace: 'other', labels: use('w', { 'sidestep.dev/use-waypoint-namespace': 'shop' }) }, open)).toEqual(['shop not-permitted.w.shop.svc.cluster.local:15008', undefined])
  expect(fields({ labels: use('none') }, open)).toEqual([undefined, undefined])
})
