// Workloads, services and policies of every shape, for property tests only; product code never imports this.
import fc from 'fast-check'
import { bytesToIp } from '../core/address.ts'
import type { Authorization, Cidr, Match, StringMatch } from '../model/authorization.ts'
import type { GatewayAddress, NetworkAddress, PortMapping, Service, ServicePort, Workload } from '../model/workload.ts'

const name = fc.stringMatching(/^[a-z][a-z0-9.-]{0,12}$/)
const word = fc.oneof(fc.constant(''), name, fc.string({ unit: 'grapheme', maxLength: 8 }))
const port = fc.integer({ min: 0, max: 65_535 })

export const ip: fc.Arbitrary<string> = fc.oneof(
  fc.ipV4(),
  fc.uint8Array({ minLength: 16, maxLength: 16 }).map(bytesToIp),
  fc.constantFrom('0.0.0.0', '::', '::1', '255.255.255.255', '2001:db8::1'),
)

const cidr: fc.Arbitrary<Cidr> = ip.chain((each) =>
  fc.integer({ min: 0, max: each.includes(':') ? 128 : 32 }).map((prefixLength) => ({ ip: each, prefixLength })))

const networkAddress: fc.Arbitrary<NetworkAddress> = fc.oneof(
  fc.record({ network: word, ip }),
  fc.tuple(word, cidr).map(([network, range]) => ({ network, ...range })),
)

const gateway: fc.Arbitrary<GatewayAddress> = fc.record({
  destination: fc.oneof(
    fc.record({ kind: fc.constant('hostname' as const), name: fc.record({ namespace: word, hostname: name }) }),
    fc.record({ kind: fc.constant('address' as const), address: networkAddress }),
  ),
  hbonePort: fc.integer({ min: 1, max: 65_535 }),
})

const mapping = {
  servicePort: port,
  targetPort: port,
  appProtocol: fc.constantFrom('unknown' as const, 'http11' as const, 'http2' as const, 'grpc' as const, 'tcp' as const, 'tls' as const),
}
const ports: fc.Arbitrary<PortMapping[]> = fc.array(fc.record(mapping), { maxLength: 3 })

const servicePorts: fc.Arbitrary<ServicePort[]> = fc.array(
  fc.record({ ...mapping, name }, { requiredKeys: ['servicePort', 'targetPort', 'appProtocol'] }), { maxLength: 3 },
)

const serviceName = fc.tuple(name, name).map(([namespace, hostname]) => `${namespace}/${hostname}`)

export const workload: fc.Arbitrary<Workload> = fc.record({
  uid: fc.tuple(name, name).map(([namespace, pod]) => `cluster//Pod/${namespace}/${pod}`),
  name: word,
  namespace: word,
  ips: fc.array(ip, { maxLength: 3 }),
  network: word,
  trustDomain: name,
  serviceAccount: name,
  node: word,
  clusterId: word,
  tunnelProtocol: fc.constantFrom('none' as const, 'hbone' as const),
  nativeTunnel: fc.boolean(),
  isHostNetwork: fc.boolean(),
  canonicalName: word,
  canonicalRevision: word,
  workloadType: fc.constantFrom('deployment' as const, 'cronjob' as const, 'pod' as const, 'job' as const),
  workloadName: word,
  isHealthy: fc.boolean(),
  capacity: fc.oneof(fc.constant(1), fc.integer({ min: 0, max: 0xffff_ffff })),
  locality: fc.record({ region: word, zone: word, subzone: word }),
  hostname: name,
  waypoint: gateway,
  waypointFailure: fc.constant('open' as const),
  labels: fc.dictionary(name, word, { minKeys: 1, maxKeys: 3, noNullPrototype: true }),
  networkGateway: gateway,
  applicationTunnel: fc.record(
    { protocol: fc.constantFrom('none' as const, 'proxy' as const), port: fc.integer({ min: 1, max: 65_535 }) },
    { requiredKeys: ['protocol'] },
  ),
  policies: fc.array(serviceName, { maxLength: 3 }),
  services: fc.array(fc.tuple(serviceName, ports), { maxLength: 3 }).map((entries) => new Map(entries)),
  endpointNames: fc.array(fc.tuple(serviceName, fc.stringMatching(/^[a-z0-9]([-a-z0-9]{0,6}[a-z0-9])?$/)), { minLength: 1, maxLength: 3 }).map((entries) => new Map(entries)),
  egress: fc.constantFrom('allow' as const, 'audit' as const, 'deny' as const, 'unreadable' as const),
}, {
  requiredKeys: [
    'uid', 'name', 'namespace', 'ips', 'network', 'trustDomain', 'serviceAccount', 'node', 'clusterId', 'tunnelProtocol',
    'nativeTunnel', 'isHostNetwork', 'canonicalName', 'canonicalRevision', 'workloadType', 'workloadName', 'isHealthy', 'capacity', 'locality', 'policies', 'services',
  ],
})

export const service: fc.Arbitrary<Service> = fc.record({
  name: word,
  namespace: name,
  hostname: name,
  addresses: fc.array(networkAddress, { maxLength: 3 }),
  ports: servicePorts,
  sessionAffinity: fc.record({ kind: fc.constant('clientIp' as const), timeoutSeconds: fc.nat(86_400) }),
  isHeadless: fc.constant(true as const),
  udpPorts: fc.array(fc.record({ name: word, port }), { minLength: 1, maxLength: 2 }),
  subjectAltNames: fc.array(word, { maxLength: 2 }),
  waypoint: gateway,
  waypointFailure: fc.constant('open' as const),
  weightedWaypoints: fc.array(fc.record({ destination: gateway, weight: fc.nat() }), { minLength: 1, maxLength: 2 }),
  loadBalancing: fc.record({
    routingPreference: fc.array(
      fc.constantFrom('region' as const, 'zone' as const, 'subzone' as const, 'node' as const, 'cluster' as const, 'network' as const),
      { maxLength: 6 },
    ),
    mode: fc.constantFrom('unspecified' as const, 'strict' as const, 'failover' as const, 'passthrough' as const),
    allowUnhealthy: fc.boolean(),
  }),
  ipFamilies: fc.constantFrom('automatic' as const, 'ipv4' as const, 'ipv6' as const, 'dual' as const),
  isCanonical: fc.boolean(),
  isNamespaceLocal: fc.boolean(),
}, { requiredKeys: ['name', 'namespace', 'hostname', 'addresses', 'ports', 'subjectAltNames', 'ipFamilies', 'isCanonical', 'isNamespaceLocal'] })

const strings: fc.Arbitrary<StringMatch[]> = fc.array(fc.oneof(
  fc.record({ kind: fc.constantFrom('exact' as const, 'prefix' as const, 'suffix' as const), value: word }),
  fc.constant({ kind: 'presence' as const }),
), { maxLength: 2 })

const accounts = fc.array(fc.record({ namespace: name, serviceAccount: name }), { maxLength: 2 })
const cidrs = fc.array(cidr, { maxLength: 2 })
const portNumbers = fc.array(port, { maxLength: 2 })

const match: fc.Arbitrary<Match> = fc.record({
  namespaces: strings,
  notNamespaces: strings,
  principals: strings,
  notPrincipals: strings,
  serviceAccounts: accounts,
  notServiceAccounts: accounts,
  sourceIps: cidrs,
  notSourceIps: cidrs,
  destinationIps: cidrs,
  notDestinationIps: cidrs,
  destinationPorts: portNumbers,
  notDestinationPorts: portNumbers,
})

export const policy: fc.Arbitrary<Authorization> = fc.record({
  name,
  namespace: name,
  scope: fc.constantFrom('global' as const, 'namespace' as const, 'workloadSelector' as const),
  action: fc.constantFrom('allow' as const, 'deny' as const),
  rules: fc.array(fc.array(fc.array(match, { maxLength: 2 }), { maxLength: 2 }), { maxLength: 2 }),
  isDryRun: fc.boolean(),
  unsupported: name.map((each) => `extension ${each}`),
}, { requiredKeys: ['name', 'namespace', 'scope', 'action', 'rules', 'isDryRun'] })
