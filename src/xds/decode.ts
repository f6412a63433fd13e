// istio.workload.Address and istio.security.Authorization from the wire to the model. Strict: what is not understood is
// refused with a reason, because a half-understood workload would be sent traffic meant for another. Never throws.
import { fromBinary } from '@bufbuild/protobuf'
import { bytesToIp } from '../core/address.ts'
import type { Authorization, Cidr, Match, ServiceAccountMatch, StringMatch } from '../model/authorization.ts'
import type {
  AppProtocol, GatewayAddress, LoadBalancingMode, NetworkAddress, PortMapping, Scope, Service, TunnelProtocol, Workload, WorkloadType,
} from '../model/workload.ts'
import { defaultTrustDomain } from '../model/workload.ts'
import type * as security from '../proto/security_pb.ts'
import { AuthorizationSchema } from '../proto/security_pb.ts'
import type * as wire from '../proto/workload_pb.ts'
import { AddressSchema } from '../proto/workload_pb.ts'
import { decoding, refuse } from './decoded.ts'
import type { Decoded } from './decoded.ts'
import { serviceFacts, workloadFacts } from './extensions.ts'
import type { AddressResource, Resource, ResourceType } from './resource-types.ts'
import { decodeWaypointResource } from './waypoint-codec.ts'

const defaultHbonePort = 15008

// By enum number; undefined is a value that we refuse although it has a name on the wire.
const tunnelProtocols: readonly (TunnelProtocol | undefined)[] = ['none', 'hbone']
const workloadTypes: readonly WorkloadType[] = ['deployment', 'cronjob', 'pod', 'job']
const appProtocols: readonly AppProtocol[] = ['unknown', 'http11', 'http2', 'grpc', 'tcp', 'tls']
const scopes: readonly (Scope | undefined)[] = [undefined, 'region', 'zone', 'subzone', 'node', 'cluster', 'network']
const modes: readonly LoadBalancingMode[] = ['unspecified', 'strict', 'failover', 'passthrough']
const families: readonly Service['ipFamilies'][] = ['automatic', 'ipv4', 'ipv6', 'dual']
const policyScopes: readonly Authorization['scope'][] = ['global', 'namespace', 'workloadSelector']
const policyActions: readonly Authorization['action'][] = ['allow', 'deny']
const tunnelKinds = ['none', 'proxy'] as const
const booleans = [false, true] as const

function pick<T>(table: readonly (T | undefined)[], value: number, what: string): T {
  const found = table[value]
  return found === undefined ? refuse(`${what} ${value} is not known here`) : found
}

function required(text: string, what: string): string {
  return text === '' ? refuse(`${what} is missing`) : text
}

function ip(bytes: Uint8Array, what: string): string {
  if (bytes.length === 16) return bytesToIp(bytes)
  if (bytes.length === 4) return bytes.join('.')
  return refuse(`${what} has ${bytes.length} bytes instead of 4 or 16`)
}

/** Address and prefix length; a range of v4-mapped addresses becomes the range of v4 that it means. */
function cidr(bytes: Uint8Array, length: number, what: string): Cidr {
  const text = ip(bytes, what)
  const bits = text.includes(':') ? 128 : 32
  const prefixLength = bytes.length === 16 && bits === 32 ? length - 96 : length
  if (prefixLength < 0 || prefixLength > bits) refuse(`${what} ${text} has the prefix length ${length}`)
  return { ip: text, prefixLength }
}

function port(value: number, what: string): number {
  return value > 65_535 ? refuse(`${what} ${value} is not a port`) : value
}

function networkAddress(address: wire.NetworkAddress, what: string): NetworkAddress {
  const { network } = address
  if (address.length === undefined) return { network, ip: ip(address.address, what) }
  return { network, ...cidr(address.address, address.length, what) }
}

function ports(list: readonly wire.Port[]): PortMapping[] {
  return list.map((each) => ({
    servicePort: port(each.servicePort, 'service port'),
    targetPort: port(each.targetPort, 'target port'),
    appProtocol: pick(appProtocols, each.appProtocol, 'application protocol'),
  }))
}

function gateway({ destination, hboneMtlsPort }: wire.GatewayAddress, what: string): GatewayAddress {
  const hbonePort = hboneMtlsPort === 0 ? defaultHbonePort : port(hboneMtlsPort, `port of the ${what}`)
  switch (destination.case) {
    case 'hostname': {
      const { namespace, hostname } = destination.value
      return { destination: { kind: 'hostname', name: { namespace, hostname: required(hostname, `hostname of the ${what}`) } }, hbonePort }
    }
    case 'address':
      return { destination: { kind: 'address', address: networkAddress(destination.value, `address of the ${what}`) }, hbonePort }
    default:
      return refuse(`the ${what} has no destination`)
  }
}

function serviceReference(key: string): string {
  const slash = key.indexOf('/')
  if (slash <= 0 || slash === key.length - 1 || key.indexOf('/', slash + 1) >= 0) refuse(`${JSON.stringify(key)} does not name a service`)
  return key
}

function workload(message: wire.Workload): Workload {
  const { locality, applicationTunnel } = message
  return {
    uid: required(message.uid, 'uid'),
    name: message.name,
    namespace: message.namespace,
    ips: message.addresses.map((each) => ip(each, 'address')),
    network: message.network,
    trustDomain: message.trustDomain === '' ? defaultTrustDomain : message.trustDomain,
    serviceAccount: message.serviceAccount === '' ? 'default' : message.serviceAccount,
    node: message.node,
    clusterId: message.clusterId,
    tunnelProtocol: pick(tunnelProtocols, message.tunnelProtocol, 'tunnel protocol'),
    nativeTunnel: message.nativeTunnel,
    isHostNetwork: pick(booleans, message.networkMode, 'network mode'),
    canonicalName: message.canonicalName,
    canonicalRevision: message.canonicalRevision,
    workloadType: pick(workloadTypes, message.workloadType, 'workload type'),
    workloadName: message.workloadName,
    isHealthy: !pick(booleans, message.status, 'status'),
    capacity: message.capacity ?? 1,
    locality: { region: locality?.region ?? '', zone: locality?.zone ?? '', subzone: locality?.subzone ?? '' },
    ...(message.hostname === '' ? {} : { hostname: message.hostname }),
    ...(message.waypoint ? { waypoint: gateway(message.waypoint, 'waypoint') } : {}),
    ...(message.networkGateway ? { networkGateway: gateway(message.networkGateway, 'network gateway') } : {}),
    ...(applicationTunnel
      ? {
          applicationTunnel: {
            protocol: pick(tunnelKinds, applicationTunnel.protocol, 'application tunnel'),
            ...(applicationTunnel.port === 0 ? {} : { port: port(applicationTunnel.port, 'port of the application tunnel') }),
          },
        }
      : {}),
    policies: message.authorizationPolicies,
    services: new Map(Object.entries(message.services).map(([key, list]) => [serviceReference(key), ports(list.ports)])),
    ...workloadFacts(message.extensions),
  }
}

function service(message: wire.Service): Service {
  const { loadBalancing } = message
  const hostname = required(message.hostname, 'hostname')
  const namespace = required(message.namespace, 'namespace')
  serviceReference(`${namespace}/${hostname}`)
  return {
    name: message.name,
    namespace,
    hostname,
    addresses: message.addresses.map((each) => networkAddress(each, 'address')),
    ...serviceFacts(message.extensions, ports(message.ports)),
    subjectAltNames: message.subjectAltNames,
    ...(message.waypoint ? { waypoint: gateway(message.waypoint, 'waypoint') } : {}),
    ...(message.weightedWaypoints.length > 0
      ? {
          weightedWaypoints: message.weightedWaypoints.map(({ destination, weight }) => ({
            destination: destination ? gateway(destination, 'weighted waypoint') : refuse('a weighted waypoint has no destination'),
            weight,
          })),
        }
      : {}),
    ...(loadBalancing
      ? {
          loadBalancing: {
            routingPreference: loadBalancing.routingPreference.map((each) => pick(scopes, each, 'routing scope')),
            mode: pick(modes, loadBalancing.mode, 'load-balancing mode'),
            allowUnhealthy: pick(booleans, loadBalancing.healthPolicy, 'health policy'),
          },
        }
      : {}),
    ipFamilies: pick(families, message.ipFamilies, 'IP families'),
    isCanonical: message.canonical,
    isNamespaceLocal: pick(booleans, message.visibility, 'visibility'),
  }
}

/** A workload or a service from the bytes of an istio.workload.Address. */
export function decodeAddress(bytes: Uint8Array): Decoded<AddressResource> {
  return decoding(() => {
    const { type } = fromBinary(AddressSchema, bytes)
    switch (type.case) {
      case 'workload':
        return { kind: 'workload', workload: workload(type.value) }
      case 'service':
        return { kind: 'service', service: service(type.value) }
      default:
        return refuse('neither a workload nor a service')
    }
  })
}

/** Collects why a policy cannot be evaluated here; the first reason is kept. */
class Unsupported {
  reason: string | undefined

  extensions(list: readonly { readonly name: string }[]): void {
    if (list.length > 0) this.reason ??= `extension ${list.map(({ name }) => name).join(', ')}`
  }

  /** A condition of a later version: what it would have narrowed or widened is not known. */
  fields(message: { readonly $unknown?: readonly { readonly no: number }[] | undefined }, what: string): void {
    const [first] = message.$unknown ?? []
    if (first) this.reason ??= `field ${first.no} of a ${what}`
  }
}

function stringMatches(list: readonly security.StringMatch[], unsupported: Unsupported): StringMatch[] {
  return list.flatMap((message): StringMatch[] => {
    unsupported.fields(message, 'string match')
    const { matchType } = message
    switch (matchType.case) {
      case 'exact':
      case 'prefix':
      case 'suffix':
        return [{ kind: matchType.case, value: matchType.value }]
      case 'presence':
        return [{ kind: 'presence' }]
      default:
        return message.$unknown ? [] : refuse('a string match without a kind')
    }
  })
}

function serviceAccounts(list: readonly security.ServiceAccountMatch[]): ServiceAccountMatch[] {
  return list.map(({ namespace, serviceAccount }) => ({
    namespace: required(namespace, 'namespace of a service account'),
    serviceAccount: required(serviceAccount, 'name of a service account'),
  }))
}

function match(message: security.Match, unsupported: Unsupported): Match {
  unsupported.extensions(message.extensions)
  unsupported.fields(message, 'match')
  const strings = (list: readonly security.StringMatch[]): StringMatch[] => stringMatches(list, unsupported)
  const ips = (list: readonly security.Address[], what: string): Cidr[] => list.map(({ address, length }) => cidr(address, length, what))
  return {
    namespaces: strings(message.namespaces),
    notNamespaces: strings(message.notNamespaces),
    principals: strings(message.principals),
    notPrincipals: strings(message.notPrincipals),
    serviceAccounts: serviceAccounts(message.serviceAccounts),
    notServiceAccounts: serviceAccounts(message.notServiceAccounts),
    sourceIps: ips(message.sourceIps, 'source'),
    notSourceIps: ips(message.notSourceIps, 'source'),
    destinationIps: ips(message.destinationIps, 'destination'),
    notDestinationIps: ips(message.notDestinationIps, 'destination'),
    destinationPorts: message.destinationPorts.map((each) => port(each, 'destination port')),
    notDestinationPorts: message.notDestinationPorts.map((each) => port(each, 'destination port')),
  }
}

/** A policy from the bytes of an istio.security.Authorization. */
export function decodeAuthorization(bytes: Uint8Array): Decoded<Authorization> {
  return decoding(() => {
    const message = fromBinary(AuthorizationSchema, bytes)
    const unsupported = new Unsupported()
    unsupported.extensions(message.extensions)
    const rules = message.rules.map((rule) => {
      unsupported.fields(rule, 'rule')
      return rule.clauses.map((clause) => {
        unsupported.fields(clause, 'clause')
        return clause.matches.map((each) => match(each, unsupported))
      })
    })
    return {
      name: required(message.name, 'name'),
      namespace: required(message.namespace, 'namespace'),
      scope: pick(policyScopes, message.scope, 'scope'),
      action: pick(policyActions, message.action, 'action'),
      rules,
      isDryRun: message.dryRun,
      ...(unsupported.reason === undefined ? {} : { unsupported: unsupported.reason }),
    }
  })
}

/** A resource of any type. */
export function decodeResource(type: ResourceType, bytes: Uint8Array): Decoded<Resource> {
  switch (type) {
    case 'address':
      return decodeAddress(bytes)
    case 'authorization': {
      const decoded = decodeAuthorization(bytes)
      return decoded.ok ? { ok: true, value: { kind: 'policy', policy: decoded.value } } : decoded
    }
    case 'waypoint': {
      const decoded = decodeWaypointResource(bytes)
      return decoded.ok ? { ok: true, value: { kind: 'waypoint', resource: decoded.value } } : decoded
    }
  }
}
