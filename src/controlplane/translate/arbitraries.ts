// A small world of objects that meet each other often, for property tests only; product code never imports this.
import fc from 'fast-check'
import { MeshError } from '../../core/errors.ts'
import type { ManifestKind, ManifestObject, TrafficManifest } from '../../model/manifest.ts'
import { manifestKinds } from '../../model/manifest.ts'
import { parseManifest } from '../../model/manifest-parse.ts'
import type { RunningPod } from '../../model/running-pod.ts'

/** An object as a file would have it; throws if the schema refuses it. */
export function object<K extends ManifestKind>(kind: K, name: string, fields: object, metadata: object = {}): Extract<ManifestObject, { kind: K }> {
  const [found, problem] = tryObject(kind, name, fields, metadata)
  if (found?.kind !== kind) throw new MeshError('BAD_MANIFEST', `${kind} ${name}: ${problem ?? 'not read'}`)
  return found as Extract<ManifestObject, { kind: K }>
}

export function tryObject(kind: ManifestKind, name: string, fields: object, metadata: object = {}): [ManifestObject | undefined, string | undefined] {
  const [namespace, own] = name.includes('/') ? name.split('/') : [undefined, name]
  const text = JSON.stringify({
    apiVersion: manifestKinds[kind].apiVersions[0], kind, metadata: { name: own, ...(namespace === undefined ? {} : { namespace }), ...metadata }, ...fields,
  })
  const { objects, problems } = parseManifest(text, 'f.yaml')
  return [objects[0], problems[0]?.reason]
}

export const names = fc.constantFrom('x', 'y', 'z')
export const namespaces = fc.constantFrom('a', 'b', 'sidestep-system', 'istio-system')
export const labels = fc.record({ app: fc.constantFrom('1', '2'), tier: fc.constantFrom('web', 'db') }, { requiredKeys: [] })
const maybe = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => fc.option(arbitrary, { nil: undefined })
const ip = fc.constantFrom('10.0.0.1', '10.0.0.2', '10.0.0.3', 'fd00::1', '192.0.2.1')
const created = maybe(fc.constantFrom('2026-01-01T00:00:00Z', '2026-02-01T00:00:00Z'))
const hosts = fc.uniqueArray(fc.constantFrom('api.example.com', '*.example.org', 'x.a.svc.cluster.local', 'pay.example.com'), { minLength: 1, maxLength: 3 })
const mtls = fc.record({ mode: fc.constantFrom('UNSET', 'STRICT', 'PERMISSIVE', 'DISABLE') })

const matcher = fc.constantFrom('cluster.local/ns/a/sa/x', '*', 'a*', '*b', 'x')
const source = fc.record({
  principals: fc.array(matcher, { minLength: 1, maxLength: 2 }),
  notNamespaces: fc.array(matcher, { minLength: 1, maxLength: 2 }),
  ipBlocks: fc.constant(['10.0.0.1/8']),
  serviceAccounts: fc.constantFrom(['x'], ['b/y']),
  requestPrincipals: fc.constant(['*']),
}, { requiredKeys: [] })
const operation = fc.record({ ports: fc.constantFrom(['80'], ['80', '443']), notPorts: fc.constant(['22']), paths: fc.constant(['/x']) }, { requiredKeys: [] })
const condition = fc.constantFrom(
  { key: 'source.ip', values: ['10.0.0.0/8'] }, { key: 'destination.port', notValues: ['80'] }, { key: 'request.headers[a]', values: ['b'] },
)
export const rule = fc.record({
  from: fc.array(fc.record({ source }), { minLength: 1, maxLength: 2 }),
  to: fc.array(fc.record({ operation }), { minLength: 1, maxLength: 2 }),
  when: fc.array(condition, { maxLength: 2 }),
}, { requiredKeys: [] })

/** Fields of each kind beside its metadata. Some are refused by their schema. */
export const fieldsOf: Readonly<Record<Exclude<ManifestKind, 'ServiceAccount' | 'Pod' | 'Deployment' | TrafficManifest['kind']>, fc.Arbitrary<object>>> = {
  Namespace: fc.constant({}),
  Node: fc.constant({}),
  Service: fc.record({ spec: fc.record({
    type: fc.constantFrom('ClusterIP', 'ClusterIP', 'ExternalName'),
    externalName: fc.constant('out.example.com'),
    selector: labels,
    clusterIP: fc.constantFrom('None', '10.96.0.1', ''),
    ports: fc.constantFrom(
      [], [{ port: 80 }], [{ name: 'http', port: 80, targetPort: 'http' }],
      [{ name: 'http', port: 80, targetPort: 8080 }, { name: 'grpc', port: 90, targetPort: 'grpc' }, { name: 'u', port: 53, protocol: 'UDP' }],
    ),
    sessionAffinity: fc.constantFrom('None', 'ClientIP'),
    internalTrafficPolicy: fc.constantFrom('Cluster', 'Local'),
    trafficDistribution: maybe(fc.constantFrom('PreferClose', 'PreferSameNode')),
    publishNotReadyAddresses: fc.boolean(),
  }) }),
  EndpointSlice: fc.record({
    addressType: fc.constant('IPv4'),
    endpoints: fc.array(fc.record({
      addresses: fc.constantFrom(['10.0.0.1'], ['10.0.0.9']), conditions: fc.record({ ready: maybe(fc.boolean()) }), nodeName: maybe(fc.constantFrom('x', 'y')), hostname: maybe(fc.constant('h-2')),
    }), { maxLength: 2 }),
    ports: fc.constantFrom([{ port: 8080 }], [{ name: 'http', port: 8081 }], []),
  }),
  AuthorizationPolicy: fc.record({ spec: fc.record({
    selector: maybe(fc.record({ matchLabels: labels })),
    targetRefs: maybe(fc.constant([{ kind: 'Gateway', name: 'w' }])),
    action: fc.constantFrom('ALLOW', 'DENY', 'AUDIT', 'CUSTOM'),
    rules: fc.array(rule, { maxLength: 3 }),
  }) }),
  PeerAuthentication: fc.record({ spec: fc.record({
    selector: maybe(fc.record({ matchLabels: labels })), mtls: maybe(mtls), portLevelMtls: fc.dictionary(fc.constantFrom('80', '90'), mtls, { maxKeys: 2 }),
  }) }),
  ServiceEntry: fc.record({ spec: fc.record({
    hosts,
    addresses: fc.constantFrom([], ['192.0.2.9'], ['192.0.2.0/24']),
    ports: fc.constantFrom([{ number: 443, name: 'tls', protocol: 'TLS' }], [{ number: 80, name: 'http', protocol: 'HTTP', targetPort: 8080 }]),
    location: fc.constantFrom('MESH_INTERNAL', 'MESH_EXTERNAL'),
    resolution: fc.constantFrom('NONE', 'STATIC', 'DNS'),
    endpoints: fc.constantFrom([], [{ address: '192.0.2.1', labels: { 'networking.istio.io/tunnel': 'http' } }, { address: '192.0.2.1', weight: 3 }]),
    workloadSelector: maybe(fc.record({ labels })),
    exportTo: maybe(fc.constantFrom(['.'], ['*'])),
  }) }),
  WorkloadEntry: fc.record({ spec: fc.record({
    address: fc.oneof(ip, fc.constant('vm.example.com')), ports: fc.constantFrom({}, { http: 9090 }), labels, weight: maybe(fc.nat(3)),
    locality: maybe(fc.constantFrom('r', 'r/z/s')),
  }) }),
}
type TranslatedKind = keyof typeof fieldsOf
const kinds = Object.keys(fieldsOf) as TranslatedKind[]

const metadataOf = fc.record({
  labels: fc.tuple(labels, maybe(names), maybe(fc.constantFrom('r1', 'r2')), maybe(fc.constantFrom('deny', 'audit', 'Deny'))).map(([own, service, region, egress]) => ({
    ...own, ...(service === undefined ? {} : { 'kubernetes.io/service-name': service }), ...(region === undefined ? {} : { 'topology.kubernetes.io/region': region }),
    ...(egress === undefined ? {} : { 'sidestep.dev/egress': egress }),
  })),
  annotations: fc.constantFrom(
    {}, { 'istio.io/dry-run': 'true' }, { 'networking.istio.io/traffic-distribution': 'preferclose' }, { 'networking.istio.io/traffic-distribution': 'x' },
  ),
  creationTimestamp: created,
})

/** An object of any kind that has passed its schema. */
export const anyObject: fc.Arbitrary<ManifestObject> = fc.constantFrom(...kinds)
  .chain((kind) => fc.tuple(fc.constant(kind), namespaces, names, fieldsOf[kind], metadataOf))
  .map(([kind, namespace, name, fields, metadata]) => tryObject(kind, kind === 'Node' ? name : kind === 'Namespace' ? namespace : `${namespace}/${name}`, fields, metadata)[0])
  .filter((found) => found !== undefined)

export const anyPod: fc.Arbitrary<RunningPod> = fc.record({
  uid: fc.constantFrom('u1', 'u2'),
  namespace: namespaces,
  name: names,
  node: fc.constantFrom('x', 'y'),
  ips: fc.uniqueArray(ip, { minLength: 1, maxLength: 2 }),
  ready: fc.boolean(),
  labels,
  serviceAccount: fc.constantFrom('default', 's'),
  isCaptured: fc.boolean(),
  isHostNetwork: fc.boolean(),
  ports: fc.constantFrom([], [{ name: 'http', port: 8080, protocol: 'TCP' as const }], [{ name: 'grpc', port: 9090, protocol: 'TCP' as const }]),
  hostname: fc.constantFrom('h-0', 'h-1'),
  subdomain: names,
  owner: fc.constantFrom({ type: 'deployment' as const, name: 'd' }, { type: 'pod' as const, name: 'p' }),
})
