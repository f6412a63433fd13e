// Objects that route, attach to each other and meet often, for property tests only; product code never imports this.
import fc from 'fast-check'
import { isClusterKind, objectKey, type ManifestKind, type ManifestObject } from '../../../model/manifest.ts'
import { tryObject } from '../arbitraries.ts'

const maybe = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => fc.option(arbitrary, { nil: undefined })
const some = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T[]> => fc.array(arbitrary, { maxLength: 2 })
const names = fc.constantFrom('x', 'y')
const namespaces = fc.constantFrom('a', 'b', 'istio-system')
const hosts = fc.constantFrom('x', 'x.a.svc.cluster.local', 'y.b.svc.cluster.local', '*', '*.a.svc.cluster.local', 'api.example.com', '*.example.com', '10.0.0.1')
const port = fc.constantFrom(80, 443, 5432)
const gatewayGroup = 'gateway.networking.k8s.io'

const parentRefs = fc.uniqueArray(fc.oneof(
  fc.record({ group: fc.constant(''), kind: fc.constant('Service'), name: names, namespace: namespaces, port }, { requiredKeys: ['group', 'kind', 'name'] }),
  fc.record({ name: names, namespace: namespaces, sectionName: fc.constantFrom('http', 'tls') }, { requiredKeys: ['name'] }),
  fc.record({ group: fc.constant('networking.istio.io'), kind: fc.constantFrom('ServiceEntry', 'Mesh'), name: names }),
), { maxLength: 3, selector: (ref) => JSON.stringify(ref) })
const backendRef = fc.record({ name: names, namespace: namespaces, port, weight: fc.nat(2), kind: fc.constantFrom('Service', 'Hostname', 'Thing'), group: fc.constantFrom('', 'networking.istio.io') }, { requiredKeys: ['name', 'port'] })
const filter = fc.constantFrom<object>(
  { type: 'RequestHeaderModifier', requestHeaderModifier: { set: [{ name: 'a', value: 'b' }] } }, { type: 'RequestMirror', requestMirror: { backendRef: { name: 'y', port: 80 } } },
  { type: 'ExtensionRef', extensionRef: { group: 'sidestep.dev', kind: 'RateLimitPolicy', name: 'x' } }, { type: 'ExternalAuth', externalAuth: {} }, { type: 'URLRewrite', urlRewrite: { hostname: 'h' } },
)
const value = fc.constantFrom('1', '(', 'a*', '[')
const match = fc.record({
  path: fc.record({ type: fc.constantFrom('Exact', 'PathPrefix', 'RegularExpression'), value: fc.constantFrom('/', '/a', '/(', '/a/') }),
  headers: some(fc.record({ name: fc.constantFrom('h', 'H'), type: fc.constantFrom('Exact', 'RegularExpression'), value })),
}, { requiredKeys: [] })
const hostnames = fc.uniqueArray(fc.constantFrom('a.com', '*.a.com', '*.com'), { maxLength: 2 })
const stringMatch = fc.oneof(fc.record({ exact: value }), fc.record({ prefix: fc.constantFrom('/', '/a', '') }), fc.record({ regex: value }), fc.constant({}))
const destination = fc.record({ host: hosts, subset: fc.constantFrom('v1', 'v2'), port: fc.record({ number: port }) }, { requiredKeys: ['host'] })
const scope = { port, sourceNamespace: namespaces, gateways: fc.constantFrom(['mesh'], ['edge'], []), sourceLabels: fc.constantFrom({}, { a: 'b' }) }
const exportTo = fc.constantFrom([], ['*'], ['.'], ['a'], ['b', '.'], ['~'])
const targets = some(fc.record({ group: fc.constantFrom('', gatewayGroup), kind: fc.constantFrom('Service', 'HTTPRoute', 'Gateway', 'Pod'), name: names, sectionName: fc.constantFrom('http', 'n') }, { requiredKeys: ['kind', 'name'] }))
const trafficPolicy = fc.record({
  loadBalancer: fc.constantFrom({ simple: 'RANDOM' }, { simple: 'PASSTHROUGH' }, { consistentHash: { useSourceIp: true } }),
  tls: fc.record({ mode: fc.constantFrom('SIMPLE', 'MUTUAL', 'DISABLE') }), portLevelSettings: some(fc.record({ port: fc.record({ number: port }) })), tunnel: fc.constant({}),
}, { requiredKeys: [] })

/** Of each kind. Some are refused by their schema. */
export const routeSpecs: Readonly<Partial<Record<ManifestKind, fc.Arbitrary<object>>>> = {
  Service: fc.record({ ports: fc.constantFrom([{ name: 'http', port: 80 }], [{ name: 'http', port: 80 }, { name: 'tcp', port: 5432 }], [{ port: 443 }], []), clusterIP: fc.constantFrom('None', '10.96.0.1') }),
  ServiceEntry: fc.record({ hosts: fc.constantFrom(['api.example.com'], ['*.example.com'], ['x.a.svc.cluster.local']), ports: fc.constantFrom([{ number: 443, name: 'tls', protocol: 'TLS' }], [{ number: 80, name: 'http', protocol: 'HTTP' }]), exportTo: maybe(exportTo) }),
  GatewayClass: fc.record({ controllerName: fc.constantFrom('sidestep.dev/ingress', 'x.io/y') }),
  Gateway: fc.record({
    gatewayClassName: fc.constantFrom('sidestep-ingress', 'sidestep-waypoint', 'x', 'y'),
    listeners: fc.uniqueArray(fc.constantFrom<{ readonly name: string } & Readonly<Record<string, unknown>>>(
      { name: 'http', port: 80, protocol: 'HTTP' }, { name: 'tls', port: 443, protocol: 'TLS', hostname: '*.a.com', tls: { mode: 'Passthrough' } }, { name: 'tcp', port: 80, protocol: 'TCP' },
      { name: 'open', port: 81, protocol: 'HTTP', allowedRoutes: { namespaces: { from: 'All' } } }, { name: 'mesh', port: 15008, protocol: 'HBONE' },
    ), { minLength: 1, maxLength: 3, selector: ({ name }) => name }),
  }),
  ReferenceGrant: fc.record({ from: fc.constant([{ group: gatewayGroup, kind: 'HTTPRoute', namespace: 'a' }]), to: fc.constant([{ group: '', kind: 'Service' }]) }),
  HTTPRoute: fc.record({ parentRefs, hostnames, rules: fc.array(fc.record({ name: fc.constant('n'), matches: some(match), filters: fc.uniqueArray(filter, { maxLength: 2 }), backendRefs: some(backendRef) }, { requiredKeys: [] }), { minLength: 1, maxLength: 1 }) }),
  GRPCRoute: fc.record({ parentRefs, hostnames, rules: some(fc.record({ matches: some(fc.record({ method: fc.constantFrom({ service: 'a.B' }, { method: 'C' }, { type: 'RegularExpression', service: '(' }) })), backendRefs: some(backendRef) })) }),
  TCPRoute: fc.record({ parentRefs, rules: fc.array(fc.record({ backendRefs: some(backendRef) }), { minLength: 1, maxLength: 2 }) }),
  TLSRoute: fc.record({ parentRefs, hostnames, rules: fc.array(fc.record({ backendRefs: some(backendRef) }), { minLength: 1, maxLength: 1 }) }),
  VirtualService: fc.record({
    hosts: some(hosts), exportTo, gateways: fc.constantFrom([], ['mesh'], ['edge']),
    http: some(fc.record({ match: some(fc.record({ ...scope, uri: stringMatch, headers: fc.dictionary(fc.constantFrom('h', '@request.auth.claims.a', 'uri'), stringMatch, { maxKeys: 1 }) }, { requiredKeys: [] })), route: fc.array(fc.record({ destination, weight: fc.nat(2) }), { minLength: 1, maxLength: 2 }), rewrite: fc.record({ uri: fc.constant('/n') }) }, { requiredKeys: ['route'] })),
    tls: some(fc.record({ match: fc.array(fc.record({ ...scope, sniHosts: fc.constantFrom(['*.a.com'], ['*']) }, { requiredKeys: ['sniHosts'] }), { minLength: 1, maxLength: 2 }), route: some(fc.record({ destination })) })),
    tcp: some(fc.record({ match: some(fc.record(scope, { requiredKeys: [] })), route: some(fc.record({ destination })) })),
  }),
  DestinationRule: fc.record({ host: hosts, exportTo, trafficPolicy, subsets: fc.constantFrom([], [{ name: 'v1' }], [{ name: 'v1', trafficPolicy: { loadBalancer: { simple: 'RANDOM' } } }, { name: 'v2' }]) }, { requiredKeys: ['host'] }),
  RateLimitPolicy: fc.record({ targetRefs: targets, limits: fc.constant([{ requests: 1, per: '1s' }]) }),
  CachePolicy: fc.record({ targetRefs: targets }),
  BackendPolicy: fc.record({ targetRefs: targets, slowStart: fc.constant('1s') }),
}
export const routeKinds = Object.keys(routeSpecs) as ManifestKind[]
const labels = fc.record({ 'sidestep.dev/use-waypoint': fc.constantFrom('x', 'none', 'z'), 'sidestep.dev/use-waypoint-namespace': namespaces, 'gateway.networking.k8s.io/gateway-name': names }, { requiredKeys: [] })
const created = fc.constantFrom<object>({}, {}, { creationTimestamp: '2020-01-01T00:00:00Z' })
/** One that has passed its schema; of kinds in no namespace, Namespaces are named as namespaces. */
export function objectOf(kinds: readonly ManifestKind[], fieldsOf: (kind: ManifestKind) => fc.Arbitrary<object>, annotations: fc.Arbitrary<object> = fc.constant({})): fc.Arbitrary<ManifestObject> {
  return fc.constantFrom(...kinds)
    .chain((kind) => fc.tuple(fc.constant(kind), namespaces, names, fieldsOf(kind), labels, created, annotations))
    .map(([kind, namespace, name, fields, labels, age, annotations]) =>
      tryObject(kind, kind === 'Namespace' ? namespace : isClusterKind(kind) ? name : `${namespace}/${name}`, fields, { labels, annotations, ...age })[0])
    .filter((found) => found !== undefined)
}

export const anyRouteObject = objectOf(routeKinds, (kind) => (routeSpecs[kind] ?? fc.constant({})).map((spec) => ({ spec })))
export const routeWorld = fc.uniqueArray(anyRouteObject, { maxLength: 14, selector: objectKey })
