// A ServiceEntry to the model's services, one for each host, and the ports that it means at an endpoint.
import { canonicalIp } from '../../core/address.ts'
import type { ServiceEntryManifest } from '../../model/manifest.ts'
import type { EntryPort } from '../../model/manifest-external.ts'
import type { AppProtocol, NetworkAddress, PortMapping, Service } from '../../model/workload.ts'
import { parseCidr } from './authorization-policy.ts'
import { isLocal } from './service.ts'
import type { TranslateSettings } from './settings.ts'
import { annotatedDistribution, distributionBalancing, type TrafficDistribution } from './traffic-distribution.ts'

const protocols: Readonly<Record<EntryPort['protocol'], AppProtocol>> = {
  HTTP: 'http11', 'GRPC-WEB': 'http11', HTTP2: 'http2', GRPC: 'grpc', HTTPS: 'tls', TLS: 'tls',
  TCP: 'tcp', MONGO: 'tcp', MYSQL: 'tcp', REDIS: 'tcp', UDP: 'unknown',
}

export function entryProtocol({ protocol }: Pick<EntryPort, 'protocol'>): AppProtocol {
  return protocols[protocol]
}

/** Hosts without repetition. */
export function hostsOf({ spec }: ServiceEntryManifest): readonly string[] {
  return [...new Set(spec.hosts)]
}

/** What is the same for all hosts of an entry, and what is not. */
interface EntryFacts {
  readonly hostname: string
  readonly isCanonical: boolean
  /** What its namespace prefers. */
  readonly inherited: TrafficDistribution | undefined
}

/** The service for one of the entry's hosts. */
export function translateServiceEntry(
  { metadata, spec }: ServiceEntryManifest, { hostname, isCanonical, inherited }: EntryFacts, settings: TranslateSettings,
): Service {
  const balancing = spec.resolution === 'NONE' && !spec.workloadSelector
    ? { routingPreference: [], mode: 'passthrough' as const, allowUnhealthy: false }
    : distributionBalancing(annotatedDistribution(metadata.annotations) ?? inherited, false)
  const udpPorts = spec.ports.flatMap((port) => (isTcp(port) ? [] : [{ name: port.name, port: port.number }]))
  return {
    name: metadata.name,
    namespace: metadata.namespace,
    hostname,
    addresses: spec.addresses.flatMap((text) => addressOf(text, settings.network)),
    ports: spec.ports.filter(isTcp).map((port) => ({ ...mapping(port, port.targetPort ?? port.number), name: port.name })),
    ...(udpPorts.length > 0 ? { udpPorts } : {}),
    subjectAltNames: spec.subjectAltNames,
    ...(balancing ? { loadBalancing: balancing } : {}),
    ipFamilies: 'automatic',
    isCanonical,
    isNamespaceLocal: isLocal(spec.exportTo),
  }
}

function isTcp(port: EntryPort): boolean {
  return port.protocol !== 'UDP'
}

function mapping(port: EntryPort, targetPort: number): PortMapping {
  return { servicePort: port.number, targetPort, appProtocol: entryProtocol(port) }
}

function addressOf(text: string, network: string): NetworkAddress[] {
  if (!text.includes('/')) {
    const ip = canonicalIp(text)
    return ip === undefined ? [] : [{ network, ip }]
  }
  const range = parseCidr(text)
  if (!range) return []
  const isSingle = range.prefixLength === (range.ip.includes(':') ? 128 : 32)
  return [isSingle ? { network, ip: range.ip } : { network, ...range }]
}

/** What each port means at one endpoint: the endpoint's own number for the port's name comes first. */
export function entryPorts({ spec }: ServiceEntryManifest, own: Readonly<Record<string, number>>): PortMapping[] {
  return spec.ports.filter(isTcp).map((port) =>
    mapping(port, (Object.hasOwn(own, port.name) ? own[port.name] : undefined) ?? port.targetPort ?? port.number))
}
