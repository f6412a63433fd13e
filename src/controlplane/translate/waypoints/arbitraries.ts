// Worlds of routes, waypoints, policies and Secrets, for property tests only; product code never imports this.
import fc from 'fast-check'
import { objectKey, type ManifestKind, type ManifestObject } from '../../../model/manifest.ts'
import { make } from '../../../pki/testing.ts'
import { object, rule } from '../arbitraries.ts'
import { objectOf, routeKinds, routeSpecs } from '../routes/arbitraries.ts'

const names = fc.constantFrom('x', 'y')
const first = await make({ subject: 'CN=first' })
const second = await make({ subject: 'CN=second' })
const keyOf = ({ key }: typeof first): string => key.export({ type: 'pkcs8', format: 'pem' }).toString()
const data = fc.record({
  'tls.crt': fc.constantFrom(first.pem, second.pem, 'x'), 'tls.key': fc.constantFrom(keyOf(first), keyOf(first), keyOf(second)), 'ca.crt': fc.constantFrom(first.pem, ''),
}, { requiredKeys: [] })
const targetRefs = fc.array(fc.record({
  kind: fc.constantFrom('Service', 'Service', 'Gateway', 'ServiceEntry', 'GatewayClass', 'Pod'), name: fc.constantFrom('x', 'y', 'sidestep-waypoint'), namespace: fc.constantFrom('a', 'b'),
}, { requiredKeys: ['kind', 'name'] }), { maxLength: 2 })
const certificateRefs = fc.array(fc.record({ name: names, namespace: fc.constantFrom('a', 'b') }, { requiredKeys: ['name'] }), { minLength: 1, maxLength: 2 })

const fields: Readonly<Partial<Record<ManifestKind, fc.Arbitrary<object>>>> = {
  Namespace: fc.constant({}),
  WorkloadEntry: fc.constant({ spec: { address: '192.0.2.1' } }),
  Secret: fc.record({ type: fc.constantFrom('kubernetes.io/tls', 'Opaque'), stringData: data }),
  ConfigMap: fc.record({ data }),
  AuthorizationProvider: fc.record({ spec: fc.record({ protocol: fc.constantFrom('GRPC', 'HTTP'), service: fc.constantFrom('x', 'y.b.svc.cluster.local', 'api.example.com'), port: fc.constantFrom(80, 81), failOpen: fc.boolean() }) }),
  AuthorizationPolicy: fc.record({ spec: fc.record({
    targetRefs, action: fc.constantFrom('ALLOW', 'DENY', 'AUDIT', 'CUSTOM'), provider: fc.record({ name: fc.constantFrom('x', 'a/x', 'istio-system/y') }), rules: fc.array(rule, { minLength: 1, maxLength: 2 }),
  }) }),
  RequestAuthentication: fc.record({ spec: fc.record({ targetRefs, jwtRules: fc.constantFrom([{ issuer: 'i', jwks: '{}' }], []) }) }),
  Gateway: fc.oneof(
    fc.record({ spec: fc.record({
      gatewayClassName: fc.constant('sidestep-waypoint'),
      listeners: fc.record({ name: fc.constant('mesh'), port: fc.constant(15008), protocol: fc.constant('HBONE'), allowedRoutes: fc.constantFrom({}, { namespaces: { from: 'All' } }) }).map((listener) => [listener]),
    }) }),
    certificateRefs.map((refs) => ({ spec: { gatewayClassName: 'sidestep-ingress', listeners: [
      { name: 'https', port: 443, protocol: 'HTTPS', tls: { certificateRefs: refs } }, { name: 'http', port: 80, protocol: 'HTTP', allowedRoutes: { namespaces: { from: 'All' } } },
    ] } })),
    (routeSpecs.Gateway ?? fc.constant({})).map((spec) => ({ spec })),
  ),
  DestinationRule: fc.oneof(
    fc.record({ spec: fc.record({ host: fc.constantFrom('x', 'y', '*.a.svc.cluster.local'), trafficPolicy: fc.record({ tls: fc.record({ mode: fc.constantFrom('SIMPLE', 'MUTUAL'), credentialName: names }) }) }) }),
    (routeSpecs.DestinationRule ?? fc.constant({})).map((spec) => ({ spec })),
  ),
  ReferenceGrant: fc.record({ spec: fc.record({
    from: fc.constantFrom('HTTPRoute', 'Gateway').map((kind) => [{ group: 'gateway.networking.k8s.io', kind, namespace: 'a' }]), to: fc.constantFrom('Service', 'Secret').map((kind) => [{ group: '', kind }]),
  }) }),
}

const kinds = [...new Set([...routeKinds, ...(Object.keys(fields) as ManifestKind[])])]
const annotations = fc.constantFrom({}, {}, { 'sidestep.dev/waypoint-failure-mode': 'open' }, { 'sidestep.dev/waypoint-failure-mode': 'x' }, { 'istio.io/dry-run': 'true' })

/** Any object that gateways are told of, or that says what they are told. */
export const anyWaypointObject: fc.Arbitrary<ManifestObject> =
  objectOf(kinds, (kind) => fields[kind] ?? (routeSpecs[kind] ?? fc.constant({})).map((spec) => ({ spec })), annotations)

/** Chance alone rarely binds services to a waypoint. */
const bound: readonly ManifestObject[] = [
  object('Namespace', 'a', {}, { labels: { 'sidestep.dev/use-waypoint': 'w' } }),
  object('Gateway', 'a/w', { spec: { gatewayClassName: 'sidestep-waypoint', listeners: [{ name: 'mesh', port: 15008, protocol: 'HBONE', allowedRoutes: { namespaces: { from: 'All' } } }] } }),
  ...['a/x', 'a/y', 'b/x'].map((name) => object('Service', name, { spec: { clusterIP: '10.96.0.1', ports: [{ name: 'http', port: 80 }] } })),
  object('AuthorizationProvider', 'a/x', { spec: { protocol: 'GRPC', service: 'y', port: 80 } }),
  object('AuthorizationPolicy', 'a/x', { spec: { targetRefs: [{ kind: 'Service', name: 'y' }], action: 'CUSTOM', provider: { name: 'x' }, rules: [{}] } }),
  object('Secret', 'a/x', { stringData: { 'tls.crt': first.pem, 'tls.key': keyOf(first), 'ca.crt': first.pem } }),
]
export const waypointWorld = fc.tuple(fc.uniqueArray(anyWaypointObject, { maxLength: 18, selector: objectKey }), fc.boolean())
  .map(([objects, isBound]) => (isBound ? [...new Map([...bound, ...objects].map((each) => [objectKey(each), each])).values()] : objects))
