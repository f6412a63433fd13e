// A Kubernetes Service to the model's, and the ports that it means at an endpoint. Only TCP is carried: other ports are left out.
import { canonicalIp, isIpv6Address } from '../../core/address.ts'
import type { ServiceManifest } from '../../model/manifest.ts'
import type { ServiceSpec } from '../../model/manifest-service.ts'
import type { AppProtocol, PortMapping, Service } from '../../model/workload.ts'
import type { TranslateSettings } from './settings.ts'
import { annotatedDistribution, distributionBalancing, type TrafficDistribution } from './traffic-distribution.ts'

type ServicePort = ServiceSpec['ports'][number]

/** `web.shop.svc.cluster.local`. */
export function serviceHostname(metadata: { readonly name: string; readonly namespace: string }, { clusterDomain }: TranslateSettings): string {
  return `${metadata.name}.${metadata.namespace}.svc.${clusterDomain}`
}

/**
 * `givenIps` are addresses that the Service got at run time, for where its spec does not name them; `inherited` is what its
 * namespace prefers.
 */
export function translateService(
  { metadata, spec }: ServiceManifest, givenIps: readonly string[], inherited: TrafficDistribution | undefined, settings: TranslateSettings,
): Service {
  const balancing = loadBalancing(spec, annotatedDistribution(metadata.annotations) ?? inherited)
  const udpPorts = spec.ports.flatMap(({ protocol, name = '', port }) => (protocol === 'UDP' ? [{ name, port }] : []))
  return {
    name: metadata.name,
    namespace: metadata.namespace,
    hostname: serviceHostname(metadata, settings),
    addresses: serviceIps(spec, givenIps).map((ip) => ({ network: settings.network, ip })),
    ports: spec.ports.filter(isTcp).map((port) => ({
      servicePort: port.port,
      // A name means another number at each endpoint; 0 says that the endpoint's own mapping has it.
      targetPort: typeof port.targetPort === 'string' ? 0 : (port.targetPort ?? port.port),
      appProtocol: appProtocolOf(port.appProtocol, port.name, port.port),
      ...(port.name === undefined ? {} : { name: port.name }),
    })),
    ...(udpPorts.length > 0 ? { udpPorts } : {}),
    subjectAltNames: [],
    ...(balancing ? { loadBalancing: balancing } : {}),
    ...(isHeadless(spec) ? { isHeadless: true } : {}),
    ...(spec.sessionAffinity === 'ClientIP' ? { sessionAffinity: { kind: 'clientIp', timeoutSeconds: spec.sessionAffinityConfig?.clientIP?.timeoutSeconds ?? 10_800 } } : {}),
    ipFamilies: families(spec),
    isCanonical: true,
    isNamespaceLocal: isLocal(metadata.annotations['networking.istio.io/exportTo']?.split(',')),
  }
}

/** Exported to nobody but its own namespace. */
export function isLocal(exportTo: readonly string[] | undefined): boolean {
  return exportTo !== undefined && exportTo.length > 0 && exportTo.every((each) => each.trim() === '.' || each.trim() === '~')
}

function isTcp(port: ServicePort): boolean {
  return port.protocol === 'TCP'
}

function isHeadless({ type, clusterIP, clusterIPs }: ServiceSpec): boolean {
  return type !== 'ExternalName' && (clusterIP === 'None' || clusterIPs?.[0] === 'None')
}

function serviceIps(spec: ServiceSpec, givenIps: readonly string[]): string[] {
  if (spec.type === 'ExternalName' || isHeadless(spec)) return []
  const named = [spec.clusterIP ?? '', ...(spec.clusterIPs ?? [])]
  const ips = [...named, ...givenIps].map((ip) => canonicalIp(ip)).filter((ip) => ip !== undefined)
  return [...new Set(ips)]
}

function families(spec: ServiceSpec): Service['ipFamilies'] {
  const named = spec.ipFamilies
  if (named?.length === 2) return 'dual'
  if (named?.[0] !== undefined) return named[0] === 'IPv6' ? 'ipv6' : 'ipv4'
  const ip = spec.clusterIP
  if (spec.ipFamilyPolicy === 'SingleStack' && ip !== undefined && ip !== 'None' && ip !== '') return isIpv6Address(ip) ? 'ipv6' : 'ipv4'
  return 'automatic'
}

function loadBalancing(spec: ServiceSpec, annotated: TrafficDistribution | undefined): Service['loadBalancing'] {
  const allowUnhealthy = spec.publishNotReadyAddresses
  // Local comes first, as in Istio and in kube-proxy: it is a must, the other a preference.
  if (spec.internalTrafficPolicy === 'Local') return { routingPreference: ['node'], mode: 'strict', allowUnhealthy }
  return distributionBalancing(spec.trafficDistribution ?? annotated, allowUnhealthy)
}

const protocolNames: Readonly<Record<string, AppProtocol>> = {
  http: 'http11', http2: 'http2', 'kubernetes.io/h2c': 'http2', 'grpc-web': 'http11', grpc: 'grpc', 'kubernetes.io/ws': 'http11',
  'kubernetes.io/wss': 'tls', https: 'tls', tls: 'tls', tcp: 'tcp', mongo: 'tcp', mysql: 'tcp', redis: 'tcp',
}

/** Istio's order: the field, then the first word of the port's name, then a few numbers that speak for themselves. */
export function appProtocolOf(appProtocol: string | undefined, name: string | undefined, port: number): AppProtocol {
  const asked = appProtocol?.toLowerCase()
  if (asked !== undefined) return (Object.hasOwn(protocolNames, asked) ? protocolNames[asked] : undefined) ?? 'unknown'
  const lower = (name ?? '').toLowerCase()
  const word = lower.startsWith('grpc-web') ? 'grpc-web' : (lower.split('-')[0] ?? '')
  if (Object.hasOwn(protocolNames, word)) return protocolNames[word] ?? 'unknown'
  return port === 3306 || port === 6379 || port === 27017 ? 'tcp' : 'unknown'
}

/** How an endpoint knows its ports. */
export interface PortNames {
  /** What a Service's named target port means there. */
  target(name: string): number | undefined
  /** The endpoint's own number for a Service's port of that name, whatever the Service says. */
  own(name: string): number | undefined
}

/** What each of a Service's ports means at one endpoint. Ports whose name nothing there has are left out. */
export function endpointPorts(spec: ServiceSpec, names: PortNames): PortMapping[] {
  return spec.ports.filter(isTcp).flatMap((port) => {
    const own = port.name === undefined ? undefined : names.own(port.name)
    const targetPort = typeof port.targetPort === 'string' ? (names.target(port.targetPort) ?? own) : (own ?? port.targetPort ?? port.port)
    if (targetPort === undefined) return []
    return [{ servicePort: port.port, targetPort, appProtocol: appProtocolOf(port.appProtocol, port.name, port.port) }]
  })
}
