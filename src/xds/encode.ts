// The model to istio.workload.Address and istio.security.Authorization. The same content always gives the same bytes, because
// versions of resources are hashes of them: maps are written in the order of their keys.
import { create, toBinary } from '@bufbuild/protobuf'
import type { MessageInitShape } from '@bufbuild/protobuf'
import { MeshError } from '../core/errors.ts'
import type { Authorization, Cidr, Match, StringMatch } from '../model/authorization.ts'
import type { GatewayAddress, NetworkAddress, PortMapping, Service, Workload } from '../model/workload.ts'
import { defaultTrustDomain } from '../model/workload.ts'
import type { MatchSchema, StringMatchSchema } from '../proto/security_pb.ts'
import { Action, AuthorizationSchema, Scope as PolicyScope } from '../proto/security_pb.ts'
import type { GatewayAddressSchema, NetworkAddressSchema, PortSchema, ServiceSchema, WorkloadSchema } from '../proto/workload_pb.ts'
import {
  AddressSchema, AppProtocol, ApplicationTunnel_Protocol, IPFamilies, LoadBalancing_HealthPolicy, LoadBalancing_Mode,
  LoadBalancing_Scope, NetworkMode, Service_Visibility, TunnelProtocol, WorkloadStatus, WorkloadType,
} from '../proto/workload_pb.ts'
import { serviceExtensions, workloadExtensions } from './extensions.ts'
import { ipToWire } from './resource-types.ts'

const tunnelProtocols = { none: TunnelProtocol.NONE, hbone: TunnelProtocol.HBONE } as const
const tunnelKinds = { none: ApplicationTunnel_Protocol.NONE, proxy: ApplicationTunnel_Protocol.PROXY } as const
const appProtocols = {
  unknown: AppProtocol.UNKNOWN, http11: AppProtocol.HTTP11, http2: AppProtocol.HTTP2,
  grpc: AppProtocol.GRPC, tcp: AppProtocol.TCP, tls: AppProtocol.TLS,
} as const
const workloadTypes = {
  deployment: WorkloadType.DEPLOYMENT, cronjob: WorkloadType.CRONJOB, pod: WorkloadType.POD, job: WorkloadType.JOB,
} as const
const scopes = {
  region: LoadBalancing_Scope.REGION, zone: LoadBalancing_Scope.ZONE, subzone: LoadBalancing_Scope.SUBZONE,
  node: LoadBalancing_Scope.NODE, cluster: LoadBalancing_Scope.CLUSTER, network: LoadBalancing_Scope.NETWORK,
} as const
const modes = {
  unspecified: LoadBalancing_Mode.UNSPECIFIED_MODE, strict: LoadBalancing_Mode.STRICT,
  failover: LoadBalancing_Mode.FAILOVER, passthrough: LoadBalancing_Mode.PASSTHROUGH,
} as const
const families = {
  automatic: IPFamilies.AUTOMATIC, ipv4: IPFamilies.IPV4_ONLY, ipv6: IPFamilies.IPV6_ONLY, dual: IPFamilies.DUAL,
} as const
const policyScopes = {
  global: PolicyScope.GLOBAL, namespace: PolicyScope.NAMESPACE, workloadSelector: PolicyScope.WORKLOAD_SELECTOR,
} as const
const policyActions = { allow: Action.ALLOW, deny: Action.DENY } as const

function wireIp(ip: string): Uint8Array {
  const bytes = ipToWire(ip)
  if (!bytes) throw new MeshError('BAD_MESSAGE', `${JSON.stringify(ip)} is not an IP address`)
  return bytes
}

function networkAddress({ network, ip, prefixLength }: NetworkAddress): MessageInitShape<typeof NetworkAddressSchema> {
  return { network, address: wireIp(ip), ...(prefixLength === undefined ? {} : { length: prefixLength }) }
}

function gateway({ destination, hbonePort }: GatewayAddress): MessageInitShape<typeof GatewayAddressSchema> {
  return {
    destination: destination.kind === 'hostname'
      ? { case: 'hostname', value: destination.name }
      : { case: 'address', value: networkAddress(destination.address) },
    hboneMtlsPort: hbonePort,
  }
}

function ports(list: readonly PortMapping[]): MessageInitShape<typeof PortSchema>[] {
  return list.map(({ servicePort, targetPort, appProtocol }) => ({ servicePort, targetPort, appProtocol: appProtocols[appProtocol] }))
}

function byKey([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number {
  return a < b ? -1 : 1
}

/** Bytes of the istio.workload.Address. Throws BAD_MESSAGE for an address that is none. */
export function encodeWorkload(workload: Workload): Uint8Array {
  const { locality, applicationTunnel } = workload
  const hasLocality = locality.region !== '' || locality.zone !== '' || locality.subzone !== ''
  const value: MessageInitShape<typeof WorkloadSchema> = {
    uid: workload.uid,
    name: workload.name,
    namespace: workload.namespace,
    addresses: workload.ips.map(wireIp),
    network: workload.network,
    tunnelProtocol: tunnelProtocols[workload.tunnelProtocol],
    trustDomain: workload.trustDomain === defaultTrustDomain ? '' : workload.trustDomain,
    serviceAccount: workload.serviceAccount === 'default' ? '' : workload.serviceAccount,
    node: workload.node,
    canonicalName: workload.canonicalName,
    canonicalRevision: workload.canonicalRevision,
    workloadType: workloadTypes[workload.workloadType],
    workloadName: workload.workloadName,
    nativeTunnel: workload.nativeTunnel,
    authorizationPolicies: [...workload.policies],
    status: workload.isHealthy ? WorkloadStatus.HEALTHY : WorkloadStatus.UNHEALTHY,
    clusterId: workload.clusterId,
    services: Object.fromEntries([...workload.services].sort(byKey).map(([key, list]) => [key, { ports: ports(list) }])),
    networkMode: workload.isHostNetwork ? NetworkMode.HOST_NETWORK : NetworkMode.STANDARD,
    hostname: workload.hostname ?? '',
    ...(workload.waypoint ? { waypoint: gateway(workload.waypoint) } : {}),
    ...(workload.networkGateway ? { networkGateway: gateway(workload.networkGateway) } : {}),
    ...(applicationTunnel
      ? { applicationTunnel: { protocol: tunnelKinds[applicationTunnel.protocol], port: applicationTunnel.port ?? 0 } }
      : {}),
    ...(hasLocality ? { locality } : {}),
    ...(workload.capacity === 1 ? {} : { capacity: workload.capacity }),
    extensions: workloadExtensions(workload),
  }
  return toBinary(AddressSchema, create(AddressSchema, { type: { case: 'workload', value } }))
}

/** Bytes of the istio.workload.Address. Throws BAD_MESSAGE for an address that is none. */
export function encodeService(service: Service): Uint8Array {
  const { loadBalancing } = service
  const value: MessageInitShape<typeof ServiceSchema> = {
    name: service.name,
    namespace: service.namespace,
    hostname: service.hostname,
    addresses: service.addresses.map(networkAddress),
    ports: ports(service.ports),
    subjectAltNames: [...service.subjectAltNames],
    ...(service.waypoint ? { waypoint: gateway(service.waypoint) } : {}),
    weightedWaypoints: (service.weightedWaypoints ?? []).map(({ destination, weight }) => ({ destination: gateway(destination), weight })),
    ...(loadBalancing
      ? {
          loadBalancing: {
            routingPreference: loadBalancing.routingPreference.map((scope) => scopes[scope]),
            mode: modes[loadBalancing.mode],
            healthPolicy: loadBalancing.allowUnhealthy ? LoadBalancing_HealthPolicy.ALLOW_ALL : LoadBalancing_HealthPolicy.ONLY_HEALTHY,
          },
        }
      : {}),
    ipFamilies: families[service.ipFamilies],
    canonical: service.isCanonical,
    visibility: service.isNamespaceLocal ? Service_Visibility.NAMESPACE : Service_Visibility.PUBLIC,
    extensions: serviceExtensions(service),
  }
  return toBinary(AddressSchema, create(AddressSchema, { type: { case: 'service', value } }))
}

function stringMatch(match: StringMatch): MessageInitShape<typeof StringMatchSchema> {
  return { matchType: match.kind === 'presence' ? { case: 'presence', value: {} } : { case: match.kind, value: match.value } }
}

function matchMessage(match: Match): MessageInitShape<typeof MatchSchema> {
  const strings = (list: readonly StringMatch[]): MessageInitShape<typeof StringMatchSchema>[] => list.map(stringMatch)
  const ips = (list: readonly Cidr[]): { address: Uint8Array; length: number }[] =>
    list.map(({ ip, prefixLength }) => ({ address: wireIp(ip), length: prefixLength }))
  return {
    namespaces: strings(match.namespaces),
    notNamespaces: strings(match.notNamespaces),
    principals: strings(match.principals),
    notPrincipals: strings(match.notPrincipals),
    serviceAccounts: match.serviceAccounts.map((each) => ({ ...each })),
    notServiceAccounts: match.notServiceAccounts.map((each) => ({ ...each })),
    sourceIps: ips(match.sourceIps),
    notSourceIps: ips(match.notSourceIps),
    destinationIps: ips(match.destinationIps),
    notDestinationIps: ips(match.notDestinationIps),
    destinationPorts: [...match.destinationPorts],
    notDestinationPorts: [...match.notDestinationPorts],
  }
}

/** Bytes of the istio.security.Authorization. What is not supported here stays so: it travels as an extension. */
export function encodeAuthorization(policy: Authorization): Uint8Array {
  return toBinary(AuthorizationSchema, create(AuthorizationSchema, {
    name: policy.name,
    namespace: policy.namespace,
    scope: policyScopes[policy.scope],
    action: policyActions[policy.action],
    rules: policy.rules.map((rule) => ({ clauses: rule.map((clause) => ({ matches: clause.map(matchMessage) })) })),
    dryRun: policy.isDryRun,
    extensions: policy.unsupported === undefined ? [] : [{ name: policy.unsupported.replace(/^extension /, '') }],
  }))
}
