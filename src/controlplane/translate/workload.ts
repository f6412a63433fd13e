// What runs, to the model's workloads: pods, WorkloadEntries, a ServiceEntry's own endpoints, endpoints of slices, and the host
// name behind an ExternalName. Which services and policies apply is handed in.
import { canonicalIp } from '../../core/address.ts'
import { hasNativeTunnel } from '../../model/enrolment.ts'
import type { EndpointSliceManifest, NodeManifest, ServiceEntryManifest, ServiceManifest, WorkloadEntryManifest } from '../../model/manifest.ts'
import type { WorkloadEntrySpec } from '../../model/manifest-external.ts'
import type { EndpointSliceEndpoint } from '../../model/manifest-service.ts'
import type { RunningPod } from '../../model/running-pod.ts'
import type { Locality, PortMapping, Workload } from '../../model/workload.ts'
import type { TranslateSettings } from './settings.ts'

type Labels = Readonly<Record<string, string>>
type Services = Workload['services']
/** What others say of a workload that is selected by its labels. */
export type Surroundings = Pick<Workload, 'services' | 'endpointNames' | 'policies' | 'egress' | 'waypoint' | 'waypointFailure'>

export const nowhere: Locality = Object.freeze({ region: '', zone: '', subzone: '' })

function firstOf(labels: Labels, names: readonly string[]): string {
  for (const name of names) {
    const value = Object.hasOwn(labels, name) ? labels[name] : undefined
    if (value !== undefined && value !== '') return value
  }
  return ''
}

/** Where a node is, by its labels. */
export function localityOf(node: NodeManifest | undefined): Locality {
  if (!node) return nowhere
  const { labels } = node.metadata
  return {
    region: firstOf(labels, ['topology.kubernetes.io/region', 'failure-domain.beta.kubernetes.io/region']),
    zone: firstOf(labels, ['topology.kubernetes.io/zone', 'failure-domain.beta.kubernetes.io/zone']),
    subzone: firstOf(labels, ['topology.sidestep.dev/subzone', 'topology.istio.io/subzone']),
  }
}

/** `region/zone/subzone`, of which the later may be missing. */
function parseLocality(text: string | undefined): Locality {
  const [region = '', zone = '', subzone = ''] = (text ?? '').split('/')
  return { region, zone, subzone }
}

function canonical(labels: Labels, workloadName: string): Pick<Workload, 'canonicalName' | 'canonicalRevision'> {
  return {
    canonicalName: firstOf(labels, ['service.istio.io/canonical-name', 'app.kubernetes.io/name', 'app']) || workloadName,
    canonicalRevision: firstOf(labels, ['service.istio.io/canonical-revision', 'app.kubernetes.io/version', 'version']) || 'latest',
  }
}

/** For subsets of a service's endpoints. */
function labelled(labels: Labels): Pick<Workload, 'labels'> {
  return Object.keys(labels).length > 0 ? { labels } : {}
}

export function podUid(pod: { readonly namespace: string; readonly name: string }, { clusterId }: TranslateSettings): string {
  return `${clusterId}//Pod/${pod.namespace}/${pod.name}`
}

export function podWorkload(pod: RunningPod, locality: Locality, surroundings: Surroundings, settings: TranslateSettings): Workload {
  const owner = pod.owner ?? { type: 'pod' as const, name: pod.name }
  return {
    uid: podUid(pod, settings),
    name: pod.name,
    namespace: pod.namespace,
    ips: pod.ips,
    network: settings.network,
    trustDomain: settings.trustDomain,
    serviceAccount: pod.serviceAccount,
    node: pod.node,
    clusterId: settings.clusterId,
    tunnelProtocol: (pod.isCaptured && !pod.isHostNetwork) || hasNativeTunnel(pod.labels) ? 'hbone' : 'none',
    nativeTunnel: hasNativeTunnel(pod.labels),
    isHostNetwork: pod.isHostNetwork,
    ...canonical(pod.labels, owner.name),
    workloadType: owner.type,
    workloadName: owner.name,
    isHealthy: pod.ready,
    capacity: 1,
    locality,
    ...labelled(pod.labels),
    ...surroundings,
  }
}

/** Fields of what Kubernetes does not run: no node, no owner. */
function outside(uid: string, name: string, namespace: string, settings: TranslateSettings): Omit<Workload, 'ips' | 'services' | 'locality'> {
  return {
    uid, name, namespace, network: settings.network, trustDomain: settings.trustDomain, serviceAccount: 'default', node: '', clusterId: settings.clusterId,
    tunnelProtocol: 'none', nativeTunnel: false, isHostNetwork: false, canonicalName: name, canonicalRevision: 'latest',
    workloadType: 'pod', workloadName: name, isHealthy: true, capacity: 1, policies: [],
  }
}

/** An address is an IP or a name to look up when somebody connects. */
function whereabouts(address: string | undefined): Pick<Workload, 'ips' | 'hostname'> {
  const ip = canonicalIp(address ?? '')
  if (ip !== undefined) return { ips: [ip] }
  return address === undefined ? { ips: [] } : { ips: [], hostname: address }
}

/** Labels and annotations by which its owner says that it speaks HBONE itself. */
function speaksHbone(labels: Labels, annotations: Labels): boolean {
  return hasNativeTunnel(labels) || annotations['ambient.istio.io/redirection'] === 'enabled'
}

export function entryUid(entry: { readonly namespace: string; readonly name: string }, { clusterId }: TranslateSettings): string {
  return `${clusterId}/networking.istio.io/WorkloadEntry/${entry.namespace}/${entry.name}`
}

export function entryWorkload({ metadata, spec }: WorkloadEntryManifest, surroundings: Surroundings, settings: TranslateSettings): Workload {
  const labels = labelsOfEntry(metadata.labels, spec.labels)
  return {
    ...outside(entryUid(metadata, settings), metadata.name, metadata.namespace, settings),
    ...canonical(labels, metadata.name),
    ...labelled(labels),
    ...ofSpec(spec, settings),
    tunnelProtocol: speaksHbone(labels, metadata.annotations) ? 'hbone' : 'none',
    ...surroundings,
  }
}

/** What selectors see of a WorkloadEntry: the labels of its spec, over those of the object. */
export function labelsOfEntry(labels: Labels, specLabels: Labels): Labels {
  return { ...labels, ...specLabels }
}

function ofSpec(spec: WorkloadEntrySpec, settings: TranslateSettings): Pick<Workload, 'ips' | 'hostname' | 'network' | 'serviceAccount' | 'capacity' | 'locality'> {
  return {
    ...whereabouts(spec.address),
    network: spec.network ?? settings.network,
    serviceAccount: spec.serviceAccount || 'default',
    // Istio reads a weight of 0 as not given.
    capacity: spec.weight || 1,
    locality: parseLocality(spec.locality),
  }
}

/** One endpoint that a ServiceEntry names itself; `key` tells it from its siblings. */
export function inlineWorkload(
  { metadata, spec }: ServiceEntryManifest, endpoint: WorkloadEntrySpec, key: string, services: Services, settings: TranslateSettings,
): Workload {
  const isInside = spec.location === 'MESH_INTERNAL'
  const uid = `${settings.clusterId}/networking.istio.io/ServiceEntry/${metadata.namespace}/${metadata.name}/${key}`
  return {
    ...outside(uid, metadata.name, metadata.namespace, settings),
    ...canonical(endpoint.labels, metadata.name),
    ...labelled(endpoint.labels),
    ...ofSpec(endpoint, settings),
    tunnelProtocol: isInside && speaksHbone(endpoint.labels, metadata.annotations) ? 'hbone' : 'none',
    services,
  }
}

/** Where a ServiceEntry sends: its endpoints, or with DNS and none of them the host itself. */
export function inlineEndpoints({ spec }: ServiceEntryManifest): { readonly key: string; readonly endpoint: WorkloadEntrySpec; readonly host?: string }[] {
  const isDns = spec.resolution === 'DNS' || spec.resolution === 'DNS_ROUND_ROBIN'
  if (isDns && spec.endpoints.length === 0) {
    return [...new Set(spec.hosts)].map((host) => ({ key: host, host, endpoint: { address: host, ports: {}, labels: {} } }))
  }
  const seen = new Map<string, number>()
  return spec.endpoints.map((endpoint) => {
    const address = canonicalIp(endpoint.address ?? '') ?? endpoint.address ?? ''
    const count = (seen.get(address) ?? 0) + 1
    seen.set(address, count)
    return { key: count === 1 ? address : `${address}#${count}`, endpoint }
  })
}

/** An endpoint of a slice that is no pod known here. */
export function sliceWorkload(
  { metadata }: EndpointSliceManifest, endpoint: EndpointSliceEndpoint, ip: string, node: NodeManifest | undefined, services: Services,
  settings: TranslateSettings,
): Workload {
  const uid = `${settings.clusterId}/discovery.k8s.io/EndpointSlice/${metadata.namespace}/${metadata.name}/${ip}`
  const locality = localityOf(node)
  return {
    ...outside(uid, metadata.name, metadata.namespace, settings),
    ips: [ip],
    node: endpoint.nodeName ?? '',
    locality: endpoint.zone !== undefined && locality.zone === '' ? { ...locality, zone: endpoint.zone } : locality,
    // Kubernetes: a condition that is not known counts as true.
    isHealthy: endpoint.conditions.ready ?? true,
    services,
    ...(endpoint.hostname === undefined ? {} : { endpointNames: new Map([...services.keys()].map((key) => [key, endpoint.hostname ?? ''])) }),
  }
}

/** The name that an ExternalName stands for, as the only endpoint of its service. */
export function externalNameWorkload({ metadata, spec }: ServiceManifest, services: Services, settings: TranslateSettings): Workload {
  const uid = `${settings.clusterId}//Service/${metadata.namespace}/${metadata.name}`
  return { ...outside(uid, metadata.name, metadata.namespace, settings), ips: [], hostname: spec.externalName ?? '', locality: nowhere, services }
}

/** Ports of a slice for its Service: matched by the name of the port. */
export function slicePorts(slice: EndpointSliceManifest, service: ServiceManifest, mappings: readonly PortMapping[]): PortMapping[] {
  return service.spec.ports.flatMap((port) => {
    const found = slice.ports.find((each) => each.name === (port.name ?? '') && each.protocol === 'TCP' && port.protocol === 'TCP')
    const known = mappings.find(({ servicePort }) => servicePort === port.port)
    return found?.port === undefined || !known ? [] : [{ ...known, targetPort: found.port }]
  })
}
