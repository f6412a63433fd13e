// Everything that can be an endpoint: pods and WorkloadEntries, which services and policies find by their labels, and what
// slices, ServiceEntries and ExternalNames name themselves. Answers which workloads one of them makes; the translator
// decides when to ask.
import { canonicalIp } from '../../core/address.ts'
import { objectKey, type EndpointSliceManifest, type NodeManifest, type ServiceEntryManifest, type ServiceManifest, type WorkloadEntryManifest } from '../../model/manifest.ts'
import { sliceServiceLabel } from '../../model/manifest-service.ts'
import type { RunningPod } from '../../model/running-pod.ts'
import type { PortMapping, Workload } from '../../model/workload.ts'
import type { BindingBook } from './binding-book.ts'
import type { NamespaceBook } from './namespace-book.ts'
import type { PolicyBook } from './policy-book.ts'
import { waypointFields } from './routes/bindings.ts'
import { LabelIndex, MultiMap, SelectorIndex } from './selectors.ts'
import { endpointPorts, type PortNames } from './service.ts'
import type { ServiceBook, ServiceOwner } from './service-book.ts'
import { entryPorts } from './service-entry.ts'
import type { Remarks, TranslateSettings } from './settings.ts'
import { entryWorkload, externalNameWorkload, inlineEndpoints, inlineWorkload, labelsOfEntry, localityOf, podWorkload, slicePorts, sliceWorkload } from './workload.ts'

type Labels = Readonly<Record<string, string>>

/** What selectors can select. */
type Backend =
  | { readonly t: 'pod'; readonly namespace: string; readonly labels: Labels; readonly pod: RunningPod }
  | { readonly t: 'entry'; readonly namespace: string; readonly labels: Labels; readonly entry: WorkloadEntryManifest }

/** A service that something is an endpoint of. */
interface Attachment {
  /** Resource name. */
  readonly key: string
  readonly ports: readonly PortMapping[]
  /** The endpoint's own label under the service's host name. */
  readonly name: string | undefined
}

/** Kubernetes names a pod under the service that its `subdomain` says, if it says a `hostname`. */
function nameUnder(service: ServiceManifest, { hostname, subdomain }: RunningPod): string | undefined {
  return subdomain === service.metadata.name ? hostname : undefined
}

export function podKey(namespace: string, name: string): string {
  return `running ${namespace}/${name}`
}

function ownNumber(ports: Readonly<Record<string, number>>, name: string): number | undefined {
  return Object.hasOwn(ports, name) ? ports[name] : undefined
}

export function selectorOfOwner(owner: ServiceOwner): Labels | undefined {
  const selector = owner.kind === 'ServiceEntry' ? owner.spec.workloadSelector?.labels : owner.spec.type === 'ExternalName' ? undefined : owner.spec.selector
  return selector && Object.keys(selector).length > 0 ? selector : undefined
}

export class EndpointBook {
  readonly #settings: TranslateSettings
  readonly #services: ServiceBook
  readonly #policies: PolicyBook
  readonly #namespaces: NamespaceBook
  readonly #bindings: BindingBook
  readonly #backends = new Map<string, Backend>()
  readonly #labels = new LabelIndex()
  readonly #ownerSelectors = new SelectorIndex()
  readonly #nodes = new Map<string, NodeManifest>()
  readonly #byNode = new MultiMap()
  readonly #podsByIp = new MultiMap()
  readonly #slices = new Map<string, EndpointSliceManifest>()
  readonly #sliceLabels = new LabelIndex()
  readonly #slicesByIp = new MultiMap()
  readonly #slicesByService = new MultiMap()

  constructor(settings: TranslateSettings, services: ServiceBook, policies: PolicyBook, namespaces: NamespaceBook, bindings: BindingBook) {
    this.#settings = settings
    this.#services = services
    this.#policies = policies
    this.#namespaces = namespaces
    this.#bindings = bindings
  }

  /** Each of these returns the keys whose workloads may be others now. */
  putPod(pod: RunningPod): Set<string> {
    const key = podKey(pod.namespace, pod.name)
    const dirty = this.removePod(pod.namespace, pod.name)
    this.#backends.set(key, { t: 'pod', namespace: pod.namespace, labels: pod.labels, pod })
    this.#labels.set(key, pod.namespace, pod.labels)
    this.#byNode.add(pod.node, key)
    for (const ip of pod.ips) {
      this.#podsByIp.add(ip, key)
      for (const slice of this.#slicesByIp.get(ip)) dirty.add(slice)
    }
    return dirty
  }

  pod(namespace: string, name: string): RunningPod | undefined {
    const backend = this.#backends.get(podKey(namespace, name))
    return backend?.t === 'pod' ? backend.pod : undefined
  }

  removePod(namespace: string, name: string): Set<string> {
    const key = podKey(namespace, name)
    const dirty = new Set([key])
    const before = this.pod(namespace, name)
    if (!before) return dirty
    this.#backends.delete(key)
    this.#labels.delete(key)
    this.#byNode.delete(before.node, key)
    for (const ip of before.ips) {
      this.#podsByIp.delete(ip, key)
      for (const slice of this.#slicesByIp.get(ip)) dirty.add(slice)
    }
    return dirty
  }

  putEntry(entry: WorkloadEntryManifest): Set<string> {
    const key = objectKey(entry)
    const { namespace } = entry.metadata
    const labels = labelsOfEntry(entry.metadata.labels, entry.spec.labels)
    this.#backends.set(key, { t: 'entry', namespace, labels, entry })
    this.#labels.set(key, namespace, labels)
    return new Set([key])
  }

  removeEntry(key: string): Set<string> {
    this.#backends.delete(key)
    this.#labels.delete(key)
    return new Set([key])
  }

  setNode(name: string, node: NodeManifest | undefined): Set<string> {
    if (node) this.#nodes.set(name, node)
    else this.#nodes.delete(name)
    return new Set(this.#byNode.get(name))
  }

  /** Files an owner's selector; `undefined` for an owner that is gone. */
  setOwner(key: string, owner: ServiceOwner | undefined): Set<string> {
    const dirty = this.ofOwner(key)
    const selector = owner && selectorOfOwner(owner)
    if (owner && selector) this.#ownerSelectors.set(key, owner.metadata.namespace, selector)
    else this.#ownerSelectors.delete(key)
    for (const each of this.ofOwner(key)) dirty.add(each)
    return dirty
  }

  /** Keys of all that may be endpoints of an owner; the owner's own among them, for what it names itself. */
  ofOwner(key: string): Set<string> {
    const dirty = new Set([key])
    const found = this.#ownerSelectors.get(key)
    if (found) for (const backend of this.#labels.select(found.namespace, found.labels)) dirty.add(backend)
    for (const slice of this.#slicesByService.get(key)) for (const each of this.#ofSlice(slice)) dirty.add(each)
    return dirty
  }

  putSlice(slice: EndpointSliceManifest): Set<string> {
    const key = objectKey(slice)
    const dirty = this.removeSlice(key)
    this.#slices.set(key, slice)
    this.#sliceLabels.set(key, slice.metadata.namespace, slice.metadata.labels)
    this.#slicesByService.add(serviceOfSlice(slice), key)
    for (const ip of addressesOf(slice)) this.#slicesByIp.add(ip, key)
    for (const { nodeName } of slice.endpoints) if (nodeName !== undefined) this.#byNode.add(nodeName, key)
    for (const each of this.#ofSlice(key)) dirty.add(each)
    return dirty
  }

  removeSlice(key: string): Set<string> {
    const dirty = this.#ofSlice(key)
    const before = this.#slices.get(key)
    if (!before) return dirty
    this.#slices.delete(key)
    this.#sliceLabels.delete(key)
    this.#slicesByService.delete(serviceOfSlice(before), key)
    for (const ip of addressesOf(before)) this.#slicesByIp.delete(ip, key)
    for (const { nodeName } of before.endpoints) if (nodeName !== undefined) this.#byNode.delete(nodeName, key)
    return dirty
  }

  /** A slice and the pods that it names by their addresses. */
  #ofSlice(key: string): Set<string> {
    const dirty = new Set([key])
    const slice = this.#slices.get(key)
    for (const ip of slice ? addressesOf(slice) : []) for (const pod of this.#podsByIp.get(ip)) dirty.add(pod)
    return dirty
  }

  /** Keys of the workloads with these labels (all without any) of a namespace (all without one). */
  withLabels(namespace: string | undefined, labels: Labels | undefined): Iterable<string> {
    return labels ? this.#labels.select(namespace, labels) : this.#labels.all(namespace)
  }

  /** Of those, and of slices, whose endpoints have their labels. */
  *labelled(namespace: string | undefined, labels: Labels | undefined): Generator<string> {
    yield* this.withLabels(namespace, labels)
    yield* labels ? this.#sliceLabels.select(namespace, labels) : this.#sliceLabels.all(namespace)
  }

  #waypoint(namespace: string, labels: Labels): Pick<Workload, 'waypoint' | 'waypointFailure'> {
    return waypointFields(this.#bindings.bindingOf({ kind: 'workload', namespace, labels }), this.#settings)
  }

  /** The workloads that a key stands for now; none if there is nothing of that key. */
  workloadsOf(key: string): readonly Workload[] {
    const backend = this.#backends.get(key)
    // Kubernetes runs pods before it has given them an address.
    if (backend?.t === 'pod' && backend.pod.ips.length === 0) return []
    if (backend) return [this.#ofBackend(backend)]
    const slice = this.#slices.get(key)
    if (slice) return this.#ofSliceEndpoints(slice)
    const owner = this.#services.get(key)
    if (owner?.kind === 'ServiceEntry') return this.#inline(owner)
    return owner?.spec.type === 'ExternalName' ? this.#externalName(owner) : []
  }

  #ofBackend(backend: Backend): Workload {
    const { namespace, labels } = backend
    const egress = this.#namespaces.egressOf(namespace)
    const surroundings = {
      ...this.#attached(backend), policies: this.#policies.namesFor(namespace, labels), ...(egress && { egress }), ...this.#waypoint(namespace, labels),
    }
    if (backend.t === 'entry') return entryWorkload(backend.entry, surroundings, this.#settings)
    return podWorkload(backend.pod, localityOf(this.#nodes.get(backend.pod.node)), surroundings, this.#settings)
  }

  #attached(backend: Backend): Pick<Workload, 'services' | 'endpointNames'> {
    const own = backend.t === 'entry' ? backend.entry.spec.ports : {}
    const names: PortNames = {
      target: (name) => backend.t === 'entry'
        ? ownNumber(own, name)
        : backend.pod.ports.find((port) => port.name === name && port.protocol === 'TCP')?.port,
      own: (name) => ownNumber(own, name),
    }
    const found: Attachment[] = []
    for (const id of this.#ownerSelectors.select(backend.namespace, backend.labels)) {
      const owner = this.#services.get(id)
      if (!owner) continue
      const ports = owner.kind === 'ServiceEntry' ? entryPorts(owner, own) : endpointPorts(owner.spec, names)
      // A service of whose ports it has none is not served by it; one without ports is a name alone.
      if (ports.length === 0 && owner.spec.ports.length > 0) continue
      const name = backend.t === 'pod' && owner.kind === 'Service' ? nameUnder(owner, backend.pod) : undefined
      for (const { key, isWon } of this.#services.claimsOf(owner)) if (isWon) found.push({ key, ports, name })
    }
    if (backend.t === 'pod') found.push(...this.#bySlices(backend.pod))
    found.sort((a, b) => (a.key < b.key ? -1 : 1))
    const labelled = found.flatMap(({ key, name }): [string, string][] => (name === undefined ? [] : [[key, name]]))
    return { services: new Map(found.map(({ key, ports }) => [key, ports])), ...(labelled.length > 0 ? { endpointNames: new Map(labelled) } : {}) }
  }

  /** Services without selector that name the pod's address in a slice. */
  #bySlices(pod: RunningPod): Attachment[] {
    const slices = new Set(pod.ips.flatMap((ip) => [...this.#slicesByIp.get(ip)]))
    return [...slices].sort().flatMap((key) => {
      const slice = this.#slices.get(key)
      const target = slice && this.#target(slice)
      const own = slice?.endpoints.find(({ addresses }) => addresses.some((address) => pod.ips.includes(canonicalIp(address) ?? '')))
      return target ? [{ ...target, name: own?.hostname }] : []
    })
  }

  /** The resource name that a slice's endpoints belong to, with their ports; undefined where its Service has none of it. */
  #target(slice: EndpointSliceManifest): { readonly key: string; readonly ports: readonly PortMapping[] } | undefined {
    const service = this.#services.get(serviceOfSlice(slice))
    if (service?.kind !== 'Service' || service.spec.type === 'ExternalName' || selectorOfOwner(service)) return undefined
    const claim = this.#services.claimsOf(service).find(({ isWon }) => isWon)
    const mappings = endpointPorts(service.spec, { target: () => 0, own: () => undefined })
    const ports = slicePorts(slice, service, mappings)
    return claim && (ports.length > 0 || service.spec.ports.length === 0) ? { key: claim.key, ports } : undefined
  }

  #ofSliceEndpoints(slice: EndpointSliceManifest): Workload[] {
    const target = this.#target(slice)
    if (!target) return []
    const services = new Map([[target.key, target.ports]])
    const seen = new Set<string>()
    return slice.endpoints.flatMap((endpoint) => {
      const ips = endpoint.addresses.map((address) => canonicalIp(address)).filter((ip) => ip !== undefined)
      const [ip] = ips
      // A pod that is not known here yet will come as itself, with its identity.
      if (ip === undefined || seen.has(ip) || endpoint.targetRef?.kind === 'Pod' || ips.some((each) => this.#podsByIp.get(each).size > 0)) return []
      seen.add(ip)
      return [{
        ...sliceWorkload(slice, endpoint, ip, this.#nodes.get(endpoint.nodeName ?? ''), services, this.#settings),
        ...this.#waypoint(slice.metadata.namespace, slice.metadata.labels),
      }]
    })
  }

  #inline(entry: ServiceEntryManifest): Workload[] {
    const claims = this.#services.claimsOf(entry).filter(({ isWon }) => isWon)
    if (claims.length === 0) return []
    const waypoint = this.#waypoint(entry.metadata.namespace, entry.metadata.labels)
    return inlineEndpoints(entry).flatMap(({ key, endpoint, host }) => {
      const ports = entryPorts(entry, endpoint.ports)
      const own = host === undefined ? claims : claims.filter(({ hostname }) => hostname === host)
      if (own.length === 0) return []
      return [{ ...inlineWorkload(entry, endpoint, key, new Map(own.map((claim) => [claim.key, ports])), this.#settings), ...waypoint }]
    })
  }

  #externalName(service: ServiceManifest): Workload[] {
    const claims = this.#services.claimsOf(service).filter(({ isWon }) => isWon)
    if (claims.length === 0) return []
    const ports = endpointPorts(service.spec, { target: () => undefined, own: () => undefined })
    return [externalNameWorkload(service, new Map(claims.map(({ key }) => [key, ports])), this.#settings)]
  }

  sliceRemarks(slice: EndpointSliceManifest): Remarks {
    const id = serviceOfSlice(slice)
    if (id === '') return { problems: [`the label ${sliceServiceLabel} that names its Service is missing`], notes: [] }
    const service = this.#services.get(id)
    if (!service) return { problems: [], notes: [`there is no ${id}`] }
    return { problems: [], notes: selectorOfOwner(service) ? [`${id} selects its endpoints itself; the slice is not needed`] : [] }
  }
}

/** Object key of the Service that a slice belongs to; '' if it names none. */
function serviceOfSlice({ metadata }: EndpointSliceManifest): string {
  const name = metadata.labels[sliceServiceLabel]
  return name === undefined || name === '' ? '' : `Service ${metadata.namespace}/${name}`
}

function addressesOf(slice: EndpointSliceManifest): Set<string> {
  return new Set(slice.endpoints.flatMap(({ addresses }) => addresses.map((address) => canonicalIp(address)).filter((ip) => ip !== undefined)))
}
