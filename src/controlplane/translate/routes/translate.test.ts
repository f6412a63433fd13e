// What holds for every set of objects: the order in which they came makes no difference, nothing throws, every accepted route is
// told of, every name that a table uses exists, and no rule of one namespace holds for callers of another's.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { objectKey, type ManifestKind, type ManifestObject } from '../../../model/manifest.ts'
import { tryObject } from '../arbitraries.ts'
import { defaultSettings } from '../settings.ts'
import { serviceBindings } from './bindings.ts'
import { translateRoutes } from './translate.ts'
import { World } from './world.ts'

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

const specs: Readonly<Partial<Record<ManifestKind, fc.Arbitrary<object>>>> = {
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
const kinds = Object.keys(specs) as ManifestKind[]
const labels = fc.record({ 'sidestep.dev/use-waypoint': fc.constantFrom('x', 'none', 'z'), 'sidestep.dev/use-waypoint-namespace': namespaces, 'gateway.networking.k8s.io/gateway-name': names }, { requiredKeys: [] })
const created = fc.constantFrom<object>({}, {}, { creationTimestamp: '2020-01-01T00:00:00Z' })
const anyObject: fc.Arbitrary<ManifestObject> = fc.constantFrom(...kinds)
  .chain((kind) => fc.tuple(fc.constant(kind), namespaces, names, specs[kind] ?? fc.constant({}), labels, created))
  .map(([kind, namespace, name, spec, labels, age]) => tryObject(kind, kind === 'GatewayClass' ? name : `${namespace}/${name}`, { spec }, { labels, ...age })[0])
  .filter((found) => found !== undefined)
const world = fc.uniqueArray(anyObject, { maxLength: 14, selector: objectKey })

test('the arbitrary objects are worth something: of each kind most pass their schema', () => {
  for (const kind of kinds) {
    const drawn = fc.sample(specs[kind] ?? fc.constant({}), { numRuns: 60, seed: 1 })
    const read = drawn.filter((spec) => tryObject(kind, kind === 'GatewayClass' ? 'x' : 'a/x', { spec })[0] !== undefined)
    expect(`${kind} ${read.length >= 20}`).toBe(`${kind} true`)
  }
})

test('any objects in any order give the same, without throwing', () => {
  fc.assert(fc.property(world.chain((objects) => fc.tuple(fc.constant(objects), fc.shuffledSubarray(objects, { minLength: objects.length }))), ([objects, shuffled]) => {
    const before = structuredClone(objects)
    const first = translateRoutes(objects, defaultSettings)
    expect(translateRoutes(shuffled, defaultSettings)).toEqual(first)
    expect([...translateRoutes(shuffled, defaultSettings).findings]).toEqual([...first.findings])
    expect(serviceBindings(new World(shuffled, defaultSettings), defaultSettings)).toEqual(serviceBindings(new World(objects, defaultSettings), defaultSettings))
    expect(objects).toEqual(before)
  }), { numRuns: 250 })
})

test('whatever tables say makes sense', () => {
  fc.assert(fc.property(world, (objects) => {
    const { tables, filters, destinations, findings, listeners } = translateRoutes(objects, defaultSettings)
    const services = new World(objects, defaultSettings).targets
    const known = new Set(objects.map(objectKey))
    expect(new Set(tables.map(({ key, hostnames }) => `${key} ${hostnames.join()}`)).size).toBe(tables.length)
    for (const { key, http, tcp } of tables) {
      expect(services.has(key.slice(0, key.lastIndexOf(':'))) || listeners.some((listener) => listener.key === key)).toBe(true)
      const owner = key.startsWith('Gateway ') ? undefined : key.slice(0, key.indexOf('/'))
      for (const rule of [...http, ...tcp]) {
        expect(known.has(rule.origin)).toBe(true)
        const from = /^(?:HTTPRoute|GRPCRoute|TCPRoute|TLSRoute|VirtualService) ([^/]+)\//.exec(rule.origin)?.[1]
        const callers = 'matches' in rule ? rule.matches.map(({ sourceNamespaces }) => sourceNamespaces) : [rule.sourceNamespaces]
        // Nobody's requests are routed by a namespace that is neither the service's, nor a root, nor their own.
        if (owner !== undefined && from !== undefined && from !== owner && from !== 'istio-system') for (const each of callers) expect(each).toEqual([from])
        const backends = 'action' in rule ? (rule.action.t === 'forward' ? rule.action.backends : []) : rule.backends
        for (const { service, port, broken, subset } of backends) {
          if (broken !== undefined) continue
          const target = services.get(`${service.namespace}/${service.hostname}`)
          expect(target?.ports.some(({ number }) => number === port)).toBe(true)
          if (subset !== undefined) expect(destinations.get(`${service.namespace}/${service.hostname}`)?.subsets.has(subset)).toBe(true)
        }
        if ('filters' in rule) for (const each of rule.filters) expect(filters.has(each)).toBe(true)
      }
    }
    for (const object of objects) {
      if (object.kind !== 'HTTPRoute' && object.kind !== 'GRPCRoute' && object.kind !== 'TCPRoute' && object.kind !== 'TLSRoute') continue
      const { parents = [], notes = [], problems = [] } = findings.get(objectKey(object)) ?? {}
      // Each parent is answered for, or somebody else's.
      expect(parents.length + notes.filter((note) => note.includes('somebody else')).length).toBeGreaterThanOrEqual(object.spec.parentRefs.length > 0 ? 1 : 0)
      for (const { accepted, resolvedRefs } of parents) if (!accepted.status || !resolvedRefs.status) expect(problems).not.toEqual([])
    }
  }), { numRuns: 250 })
})
