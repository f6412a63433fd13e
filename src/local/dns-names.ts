// Names of a local mesh's own services and pods, as the cluster's DNS has them: what is true in the mesh, never what its policies
// or the configuration of a proxy make of it. Made anew when the first question after a change comes.
import { canonicalIp, ipToBytes, isIpv6Address } from '../core/address.ts'
import type { Host, NameSource, Target } from '../dns/name-source.ts'
import type { ServiceManifest } from '../model/manifest.ts'
import { noRuntimeFacts, type RunningPod, type RuntimeFacts } from '../model/running-pod.ts'
import { selects } from './catalogue.ts'
import { isVirtual } from './services.ts'

export const clusterDomain = 'cluster.local'

interface Endpoint {
  readonly pod: RunningPod
  /** Its label under the service's name. */
  readonly label: string
}

interface Index {
  readonly hosts: ReadonlyMap<string, Host>
  /** By address: the service that has it, or the pod as an endpoint of a headless one. */
  readonly hostnames: ReadonlyMap<string, string>
  readonly pods: ReadonlyMap<string, RunningPod>
  /** Names that are only there because others are below them. */
  readonly above: ReadonlySet<string>
}

const none: readonly string[] = Object.freeze([])
const dashed = (ip: string): string => ip.replaceAll(/[.:]/g, '-')
const v4 = (ips: readonly string[]): string[] => ips.filter((ip) => !isIpv6Address(ip))
const v6 = (ips: readonly string[]): string[] => ips.filter(isIpv6Address)

export class LocalNames implements NameSource {
  readonly clusterDomain = clusterDomain
  #source: { readonly services: ReadonlyMap<string, ServiceManifest>; readonly facts: RuntimeFacts } | undefined
  #made: Index | undefined

  /** All services, by `namespace/name`, and all that runs, as they are now; they must not be changed afterwards. */
  update(services: ReadonlyMap<string, ServiceManifest>, facts: RuntimeFacts): void {
    this.#source = { services, facts }
    this.#made = undefined
  }

  get isKnown(): boolean {
    return this.#source !== undefined
  }

  get #index(): Index {
    this.#made ??= makeIndex(this.#source?.services ?? new Map(), this.#source?.facts ?? noRuntimeFacts)
    return this.#made
  }

  /** The same for all namespaces. */
  host(hostname: string): Host | undefined {
    return this.#index.hosts.get(hostname) ?? this.#podHost(hostname)
  }

  hostnameOf(ip: string): string | undefined {
    const { hostnames, pods } = this.#index
    const pod = pods.get(ip)
    return hostnames.get(ip) ?? (pod && `${dashed(ip)}.${pod.namespace}.pod.${clusterDomain}`)
  }

  /** Whether there is anything of that canonical name, or below it, of whatever type. */
  has(name: string): boolean {
    if (this.#index.above.has(name) || this.host(name)) return true
    const [label = '', ...rest] = name.split('.')
    const parent = rest.join('.')
    if (this.host(parent)?.endpoint(label)) return true
    if (label === '_tcp' || label === '_udp') return this.host(parent) !== undefined
    const [, port, protocol, service] = /^_([^.]+)\._(tcp|udp)\.(.+)$/.exec(name) ?? []
    if (port === undefined || service === undefined) return false
    return (this.host(service)?.targets(port, protocol === 'udp' ? 'udp' : 'tcp')?.length ?? 0) > 0
  }

  /** `10-244-1-5.shop.pod.cluster.local`, for pods that there are. */
  #podHost(hostname: string): Host | undefined {
    const suffix = `.pod.${clusterDomain}`
    const [label, namespace, ...more] = hostname.endsWith(suffix) ? hostname.slice(0, -suffix.length).split('.') : []
    if (label === undefined || namespace === undefined || more.length > 0) return undefined
    const text = [label.replaceAll('-', '.'), label.replaceAll('-', ':')].find((each) => ipToBytes(each) !== undefined)
    const ip = text === undefined ? undefined : canonicalIp(text)
    if (ip === undefined || dashed(ip) !== label || this.#index.pods.get(ip)?.namespace !== namespace) return undefined
    return { hostname, ipv4: v4([ip]), ipv6: v6([ip]), endpoint: () => undefined, targets: () => [] }
  }
}

function makeIndex(services: ReadonlyMap<string, ServiceManifest>, facts: RuntimeFacts): Index {
  const hosts = new Map<string, Host>()
  const hostnames = new Map<string, string>()
  const pods = new Map<string, RunningPod>()
  const byNamespace = new Map<string, RunningPod[]>()
  const above = new Set([clusterDomain, `svc.${clusterDomain}`, `pod.${clusterDomain}`])
  for (const pod of facts.pods.values()) {
    for (const ip of pod.ips) pods.set(ip, pod)
    const neighbours = byNamespace.get(pod.namespace)
    if (neighbours) neighbours.push(pod)
    else byNamespace.set(pod.namespace, [pod])
    above.add(`${pod.namespace}.pod.${clusterDomain}`)
  }
  // In order of their names, so that an address has the same one of its names each time.
  for (const [id, service] of [...services].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    const { name, namespace } = service.metadata
    const hostname = `${name}.${namespace}.svc.${clusterDomain}`
    above.add(`${namespace}.svc.${clusterDomain}`)
    if (service.spec.type === 'ExternalName') {
      const alias = service.spec.externalName?.toLowerCase().replace(/\.$/, '') ?? ''
      hosts.set(hostname, { hostname, ipv4: none, ipv6: none, alias, endpoint: () => undefined, targets: () => [] })
    } else if (isVirtual(service.spec)) {
      const ips = facts.serviceIps.get(id) ?? none
      for (const ip of ips) hostnames.set(ip, hostname)
      hosts.set(hostname, {
        hostname, ipv4: v4(ips), ipv6: v6(ips), endpoint: () => undefined,
        targets: (port, protocol) => portsNamed(service, port, protocol).map((each) => ({ name: hostname, port: each.port })),
      })
    } else {
      const endpoints = endpointsOf(service, byNamespace.get(namespace) ?? [])
      for (const { pod, label } of endpoints) {
        for (const ip of pod.ips) if (!hostnames.has(ip)) hostnames.set(ip, `${label}.${hostname}`)
      }
      hosts.set(hostname, headlessHost(hostname, service, endpoints))
    }
  }
  return { hosts, hostnames, pods, above }
}

function endpointsOf({ metadata, spec }: ServiceManifest, pods: readonly RunningPod[]): Endpoint[] {
  const isPublished = (pod: RunningPod): boolean => pod.ips.length > 0 && (pod.ready || spec.publishNotReadyAddresses)
  // Kubernetes gives a pod's host name to its endpoint where the pod says that it belongs to the service.
  const own = (pod: RunningPod): string | undefined => (pod.subdomain === metadata.name ? pod.hostname?.toLowerCase() : undefined)
  return pods.filter((pod) => isPublished(pod) && selects(spec.selector, pod.labels))
    .map((pod) => ({ pod, label: own(pod) ?? dashed(pod.ips[0] ?? '') }))
}

function headlessHost(hostname: string, service: ServiceManifest, endpoints: readonly Endpoint[]): Host {
  const byLabel = new Map<string, readonly string[]>()
  for (const { pod } of endpoints) for (const ip of pod.ips) byLabel.set(dashed(ip), [ip])
  for (const { pod } of endpoints) byLabel.set(pod.name, pod.ips)
  for (const { pod, label } of endpoints) if (label !== dashed(pod.ips[0] ?? '')) byLabel.set(label, pod.ips)
  const ips = [...new Set(endpoints.flatMap(({ pod }) => pod.ips))]
  return {
    hostname, ipv4: v4(ips), ipv6: v6(ips),
    endpoint: (label) => byLabel.get(label),
    // Each at its own port: nobody translates between a client and a pod's own address.
    targets: (port, protocol) => portsNamed(service, port, protocol).flatMap((each) =>
      endpoints.flatMap(({ pod, label }): Target[] => {
        const target = targetOf(each.targetPort ?? each.port, pod, each.protocol)
        return target === undefined ? [] : [{ name: `${label}.${hostname}`, port: target }]
      })),
  }
}

function targetOf(reference: number | string, { ports }: RunningPod, protocol: 'TCP' | 'UDP'): number | undefined {
  if (typeof reference === 'number') return reference
  return ports.find((port) => port.name === reference && port.protocol === protocol)?.port
}

function portsNamed({ spec }: ServiceManifest, name: string, protocol: 'tcp' | 'udp'): ServiceManifest['spec']['ports'] {
  return spec.ports.filter((port) => port.name === name && port.protocol.toLowerCase() === protocol)
}
