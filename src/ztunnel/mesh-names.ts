// The names of the mesh as the pods of one network see them: services, the pods behind headless ones, ServiceEntry hosts and
// addresses. Every question is a few look-ups in the store's indexes, whatever the size of the mesh.
import { isIpv6Address, ipToBytes } from '../core/address.ts'
import type { Host, NameSource, Target } from '../dns/name-source.ts'
import type { Endpoint, WorkloadStore } from '../model/workload-store.ts'
import { serviceKey } from '../model/workload.ts'
import type { Service, Workload } from '../model/workload.ts'

export interface MeshNamesOptions {
  readonly store: WorkloadStore
  /** Only addresses of this network are given out: others are not reached directly. '' in a mesh of one network. */
  readonly network: string
  /** `cluster.local` unless told; canonical. */
  readonly clusterDomain?: string
  /** Whether the control plane has spoken, now or before a restart. */
  readonly isKnown: () => boolean
}

interface NamedEndpoint {
  readonly endpoint: Endpoint
  readonly name: string
  readonly ips: readonly string[]
}

/** The endpoints of one headless service, by family and by label. */
interface EndpointNames {
  readonly ipv4: readonly string[]
  readonly ipv6: readonly string[]
  readonly byLabel: ReadonlyMap<string, NamedEndpoint>
  readonly list: readonly NamedEndpoint[]
}

const none: readonly string[] = Object.freeze([])
const noEndpointNames: EndpointNames = { ipv4: none, ipv6: none, byLabel: new Map(), list: [] }

/** The search list that Kubernetes gives to pods of that namespace, with `dnsPolicy: ClusterFirst`. */
export function clusterSearchDomains(namespace: string, clusterDomain = 'cluster.local'): string[] {
  return [`${namespace}.svc.${clusterDomain}`, `svc.${clusterDomain}`, clusterDomain]
}

export class MeshNames implements NameSource {
  readonly clusterDomain: string
  readonly #store: WorkloadStore
  readonly #network: string
  readonly #isKnown: () => boolean
  /** A list of endpoints is replaced when it changes, so what was made of it is good as long as it. */
  readonly #endpointNames = new WeakMap<readonly Endpoint[], EndpointNames>()

  constructor({ store, network, clusterDomain = 'cluster.local', isKnown }: MeshNamesOptions) {
    this.#store = store
    this.#network = network
    this.clusterDomain = clusterDomain
    this.#isKnown = isKnown
  }

  get isKnown(): boolean {
    return this.#isKnown()
  }

  host(hostname: string, clientNamespace: string): Host | undefined {
    const service = this.#store.serviceByHostname(hostname, clientNamespace)
    return service ? this.#serviceHost(service) : this.#podHost(hostname)
  }

  hostnameOf(ip: string, clientNamespace: string): string | undefined {
    const service = this.#store.services.byExactAddress(this.#network, ip, clientNamespace)
    // A wildcard is nobody's name.
    if (service) return service.hostname.startsWith('*') ? undefined : service.hostname
    const workload = this.#store.workloadByIp(this.#network, ip)
    return workload && (this.#endpointHostname(workload, ip, clientNamespace) ?? this.#podHostname(workload, ip))
  }

  #serviceHost(service: Service): Host | undefined {
    const { hostname } = service
    const own = service.addresses.filter(isSingle)
    if (own.length > 0) {
      const ips = own.filter(({ network }) => network === this.#network).map(({ ip }) => ip)
      return {
        hostname,
        ipv4: ips.filter((ip) => !isIpv6Address(ip)),
        ipv6: ips.filter(isIpv6Address),
        endpoint: () => undefined,
        targets: (port, protocol) => serviceTargets(service, port, protocol),
      }
    }
    // Somebody outside whose addresses nobody said: the world's DNS knows them.
    if (!this.#isHeadless(service)) return undefined
    const endpoints = this.#store.endpoints(serviceKey(service))
    const names = this.#namesOf(service, endpoints)
    const alias = names.list.length === 0 ? endpoints.find(({ workload }) => workload.hostname !== undefined)?.workload.hostname : undefined
    return {
      hostname,
      ipv4: names.ipv4,
      ipv6: names.ipv6,
      ...(alias !== undefined && { alias: alias.toLowerCase() }),
      endpoint: (label) => names.byLabel.get(label)?.ips,
      targets: (port, protocol) => headlessTargets(service, names, port, protocol),
    }
  }

  /** Control planes other than ours do not say it, but whatever has no address in the cluster's domain is. */
  #isHeadless(service: Service): boolean {
    return service.addresses.length === 0 && (service.isHeadless === true || service.hostname.endsWith(`.svc.${this.clusterDomain}`))
  }

  #namesOf(service: Service, endpoints: readonly Endpoint[]): EndpointNames {
    if (endpoints.length === 0) return noEndpointNames
    const known = this.#endpointNames.get(endpoints)
    if (known) return known
    const key = serviceKey(service)
    const list: NamedEndpoint[] = []
    const byLabel = new Map<string, NamedEndpoint>()
    for (const endpoint of endpoints) {
      const { workload } = endpoint
      const [first] = workload.ips
      if (workload.network !== this.#network || first === undefined) continue
      const named = { endpoint, name: workload.endpointNames?.get(key) ?? dashed(first), ips: workload.ips }
      list.push(named)
      byLabel.set(named.name, named)
      // Control planes other than ours do not say hostnames; a StatefulSet's pods are named after theirs.
      if (!byLabel.has(workload.name)) byLabel.set(workload.name, named)
      for (const ip of workload.ips) byLabel.set(dashed(ip), { ...named, ips: [ip] })
    }
    const ips = [...new Set(list.flatMap((each) => each.ips))]
    const names = { ipv4: ips.filter((ip) => !isIpv6Address(ip)), ipv6: ips.filter(isIpv6Address), byLabel, list }
    this.#endpointNames.set(endpoints, names)
    return names
  }

  /** `10-1-2-3.shop.pod.cluster.local`, for pods that there are. */
  #podHost(hostname: string): Host | undefined {
    const suffix = `.pod.${this.clusterDomain}`
    const [label, namespace, ...more] = hostname.endsWith(suffix) ? hostname.slice(0, -suffix.length).split('.') : []
    if (label === undefined || namespace === undefined || more.length > 0) return undefined
    const ip = [label.replaceAll('-', '.'), label.replaceAll('-', ':')].find((text) => ipToBytes(text) !== undefined)
    const workload = ip === undefined ? undefined : this.#store.workloadByIp(this.#network, ip)
    if (ip === undefined || workload?.namespace !== namespace || dashed(ip) !== label) return undefined
    const [ipv4, ipv6] = isIpv6Address(ip) ? [none, [ip]] : [[ip], none]
    return { hostname, ipv4, ipv6, endpoint: () => undefined, targets: () => [] }
  }

  /** Under the first headless service that it is an endpoint of and the client may see. */
  #endpointHostname(workload: Workload, ip: string, clientNamespace: string): string | undefined {
    const hostnames = [...workload.services.keys()].flatMap((key) => {
      const service = this.#store.service(key)
      if (!service || !this.#isHeadless(service)) return []
      // Asked for again, so that nobody is named who would not be found by that name.
      if (this.#store.serviceByHostname(service.hostname, clientNamespace) !== service) return []
      return [`${workload.endpointNames?.get(key) ?? dashed(ip)}.${service.hostname}`]
    })
    return hostnames.toSorted()[0]
  }

  #podHostname({ namespace }: Workload, ip: string): string {
    return `${dashed(ip)}.${namespace}.pod.${this.clusterDomain}`
  }
}

const dashed = (ip: string): string => ip.replaceAll(/[.:]/g, '-')

/** A range has no address that anybody could be told. */
function isSingle({ ip, prefixLength }: Service['addresses'][number]): boolean {
  return prefixLength === undefined || prefixLength === (isIpv6Address(ip) ? 128 : 32)
}

function serviceTargets(service: Service, name: string, protocol: 'tcp' | 'udp'): readonly Target[] | undefined {
  const port = portNamed(service, name, protocol)
  return port === undefined ? unknownPort(service) : [{ name: service.hostname, port: port.servicePort }]
}

/** Each endpoint at the port that it serves this at: nobody translates between a client and a pod's own address. */
function headlessTargets(service: Service, names: EndpointNames, name: string, protocol: 'tcp' | 'udp'): readonly Target[] | undefined {
  const port = portNamed(service, name, protocol)
  if (port === undefined) return unknownPort(service)
  return names.list.flatMap(({ endpoint, name: label }) => {
    const own = endpoint.ports.find(({ servicePort }) => servicePort === port.servicePort)
    if (protocol === 'tcp' && !own && endpoint.ports.length > 0) return []
    return [{ name: `${label}.${service.hostname}`, port: (own ?? port).targetPort || port.servicePort }]
  })
}

function portNamed(service: Service, name: string, protocol: 'tcp' | 'udp'): { servicePort: number; targetPort: number } | undefined {
  if (protocol === 'tcp') return service.ports.find((port) => port.name === name)
  const port = service.udpPorts?.find((each) => each.name === name)
  return port && { servicePort: port.port, targetPort: port.port }
}

/** Nobody serves it; but where ports have no names, because the control plane does not tell them, the cluster's DNS may know. */
function unknownPort(service: Service): readonly Target[] | undefined {
  return service.ports.length + (service.udpPorts?.length ?? 0) > 0 && service.ports.every(({ name }) => name !== undefined) ? [] : undefined
}
