// From objects and facts to workloads, services and policies, a change at a time: what a change cannot affect is not looked
// at again. Pure: the same objects and facts give the same result in whatever order they came, and one bad object changes
// nothing but its own part. Objects must have passed their schema; what they mean together is decided here.
import { isDeepStrictEqual } from 'node:util'
import type { ListenerStatus, RouteParentStatus } from '../../model/control-plane-status.ts'
import type { Authorization } from '../../model/authorization.ts'
import { objectKey, type EndpointSliceManifest, type ManifestObject } from '../../model/manifest.ts'
import type { ObjectChanges } from '../../model/object-set.ts'
import type { RunningPod } from '../../model/running-pod.ts'
import type { WaypointResource } from '../../model/waypoint-config.ts'
import type { Service, Workload } from '../../model/workload.ts'
import type { StateDelta } from '../../model/workload-store.ts'
import { BindingBook } from './binding-book.ts'
import { EndpointBook } from './endpoint-book.ts'
import { NamespaceBook } from './namespace-book.ts'
import { PolicyBook } from './policy-book.ts'
import { serviceThing, waypointFields, type WaypointBinding } from './routes/bindings.ts'
import { ServiceBook } from './service-book.ts'
import { noRemarks, type Remarks, type TranslateSettings } from './settings.ts'
import { WaypointBook, type WaypointDelta } from './waypoint-book.ts'

const nothing: readonly Workload[] = Object.freeze([])

export class Translator {
  readonly #namespaces: NamespaceBook
  readonly #bindings: BindingBook
  readonly #services: ServiceBook
  readonly #policies: PolicyBook
  readonly #endpoints: EndpointBook
  readonly #waypoints: WaypointBook
  readonly #objects = new Map<string, ManifestObject>()
  readonly #remarks = new Map<string, Remarks>()
  /** Keys of endpoints to translate again at the next flush. */
  readonly #dirty = new Set<string>()
  /** What each key was translated to. */
  readonly #made = new Map<string, readonly Workload[]>()
  readonly #workloads = new Map<string, Workload>()
  readonly #changedWorkloads = new Map<string, Workload | undefined>()
  readonly #changedServices = new Map<string, Service | undefined>()
  readonly #changedPolicies = new Map<string, Authorization | undefined>()
  #hasNewWaypoints = false

  constructor(settings: TranslateSettings) {
    const remarks = (key: string, said: Remarks): void => {
      if (said.problems.length === 0 && said.notes.length === 0) this.#remarks.delete(key)
      else this.#remarks.set(key, said)
    }
    this.#namespaces = new NamespaceBook(settings, {
      egress: (namespace) => this.#touch(this.#endpoints.withLabels(namespace, undefined)),
      distribution: (namespace) => this.#services.distributionChanged(namespace),
      remarks,
    })
    this.#bindings = new BindingBook(settings, {
      bindings: (namespace, labels) => {
        this.#touch(this.#endpoints.labelled(namespace, labels))
        for (const key of this.#services.withLabels(namespace, labels)) this.#rebind(key)
      },
      service: (namespace, name) => this.#rebind(`Service ${namespace}/${name}`),
    })
    this.#services = new ServiceBook(settings, {
      waypointOf: (owner) => waypointFields(this.#bindings.bindingOf(serviceThing(owner)), settings),
      distributionOf: (namespace) => this.#namespaces.distributionOf(namespace),
      service: (key, service, before) => {
        this.#changedServices.set(key, service)
        if (service?.waypoint && !isDeepStrictEqual(service.waypoint, before?.waypoint)) this.#hasNewWaypoints = true
      },
      owner: (key) => this.#touch(this.#endpoints.ofOwner(key)),
      remarks,
    })
    this.#policies = new PolicyBook(settings, {
      authorization: (key, policy) => void this.#changedPolicies.set(key, policy),
      workloads: (namespace, labels) => this.#touch(this.#endpoints.withLabels(namespace, labels)),
      remarks,
    })
    this.#waypoints = new WaypointBook(settings)
    this.#endpoints = new EndpointBook(settings, this.#services, this.#policies, this.#namespaces, this.#bindings)
  }

  /** `key` of an owner of services, whose own endpoints are bound as it is. */
  #rebind(key: string): void {
    this.#services.waypointChanged(key)
    this.#dirty.add(key)
  }

  #touch(keys: Iterable<string>): void {
    for (const key of keys) this.#dirty.add(key)
  }

  /** Adds or replaces an object. One that differs only in where it was read costs nothing. */
  put(object: ManifestObject): void {
    const key = objectKey(object)
    const before = this.#objects.get(key)
    this.#objects.set(key, object)
    if (before && isSame(before, object)) return
    this.#file(key, object, false)
    this.#waypoints.changed(key, before, object)
  }

  /** `key` as objectKey gives it. */
  remove(key: string): void {
    const object = this.#objects.get(key)
    if (!object) return
    this.#objects.delete(key)
    this.#remarks.delete(key)
    this.#file(key, object, true)
    this.#waypoints.changed(key, object, undefined)
  }

  /** Gives an object to who knows its kind, or takes it back. */
  #file(key: string, object: ManifestObject, isGone: boolean): void {
    switch (object.kind) {
      case 'ServiceAccount':
      case 'Pod':
      case 'Deployment':
        return
      case 'Namespace':
        this.#bindings.setNamespace(object, isGone)
        return isGone ? this.#namespaces.remove(object) : this.#namespaces.put(object)
      case 'Node': return this.#touch(this.#endpoints.setNode(object.metadata.name, isGone ? undefined : object))
      case 'Service':
      case 'ServiceEntry':
        this.#touch(this.#endpoints.ofOwner(key))
        if (isGone) this.#services.remove(key)
        else this.#services.put(object)
        return this.#touch(this.#endpoints.setOwner(key, isGone ? undefined : object))
      case 'EndpointSlice': return this.#touch(isGone ? this.#endpoints.removeSlice(key) : this.#endpoints.putSlice(object))
      case 'WorkloadEntry': return this.#touch(isGone ? this.#endpoints.removeEntry(key) : this.#endpoints.putEntry(object))
      case 'AuthorizationPolicy': return isGone ? this.#policies.removePolicy(object) : this.#policies.putPolicy(object)
      case 'PeerAuthentication': return isGone ? this.#policies.removePeer(object) : this.#policies.putPeer(object)
      case 'GatewayClass': return this.#bindings.setClass(object, isGone)
      case 'Gateway': return this.#bindings.setGateway(object, isGone)
      case 'ReferenceGrant':
      case 'HTTPRoute':
      case 'GRPCRoute':
      case 'TCPRoute':
      case 'TLSRoute':
      case 'VirtualService':
      case 'DestinationRule':
      case 'RequestAuthentication':
      case 'RateLimitPolicy':
      case 'CachePolicy':
      case 'BackendPolicy':
      case 'AuthorizationProvider':
      case 'Secret':
      case 'ConfigMap':
        return
      default: return object satisfies never
    }
  }

  apply(changes: ObjectChanges): void {
    for (const [key, object] of changes) {
      if (object) this.put(object)
      else this.remove(key)
    }
  }

  putPod(pod: RunningPod): void {
    const before = this.#endpoints.pod(pod.namespace, pod.name)
    if (!before || !isDeepStrictEqual(before, pod)) this.#touch(this.#endpoints.putPod(pod))
  }

  removePod(namespace: string, name: string): void {
    this.#touch(this.#endpoints.removePod(namespace, name))
  }

  /** Addresses of a Kubernetes Service beside those of its spec; undefined takes them back. */
  setServiceIps(namespace: string, name: string, ips: readonly string[] | undefined): void {
    this.#services.setGivenIps(namespace, name, ips)
  }

  /** Translates what changed; the difference to the last call. */
  flush(): Required<StateDelta> {
    for (const key of this.#dirty) this.#make(key)
    this.#dirty.clear()
    const [workloads, goneWorkloads] = split(this.#changedWorkloads)
    const [services, goneServices] = split(this.#changedServices)
    const [policies, removedPolicies] = split(this.#changedPolicies)
    return { workloads, services, policies, removedAddresses: [...goneWorkloads, ...goneServices], removedPolicies }
  }

  /** Whether there is something to do for `flushWaypoints`. */
  get areWaypointsStale(): boolean {
    return this.#waypoints.isStale
  }

  /** Whether services lead to other waypoints than at the last `flushWaypoints`: those should know of it before clients do. */
  get hasNewWaypoints(): boolean {
    return this.#hasNewWaypoints
  }

  /** What gateways are told, translated as a whole if something of it changed; the difference to the last call. */
  flushWaypoints(): WaypointDelta {
    this.#hasNewWaypoints = false
    return this.#waypoints.update()
  }

  #make(key: string): void {
    const before = this.#made.get(key) ?? nothing
    const after = this.#endpoints.workloadsOf(key)
    const object = this.#objects.get(key)
    if (object?.kind === 'EndpointSlice') this.#remarkSlice(key, object)
    if (after.length === 0 && before.length === 0) return
    if (after.length === 0) this.#made.delete(key)
    else this.#made.set(key, after)
    const kept = new Set(before.length === 0 ? [] : after.map(({ uid }) => uid))
    for (const { uid } of before) {
      if (kept.has(uid)) continue
      this.#workloads.delete(uid)
      this.#changedWorkloads.set(uid, undefined)
    }
    for (const workload of after) {
      const last = this.#workloads.get(workload.uid)
      if (last && isDeepStrictEqual(last, workload)) continue
      this.#workloads.set(workload.uid, workload)
      this.#changedWorkloads.set(workload.uid, workload)
    }
  }

  #remarkSlice(key: string, slice: EndpointSliceManifest): void {
    const said = this.#endpoints.sliceRemarks(slice)
    if (said.problems.length === 0 && said.notes.length === 0) this.#remarks.delete(key)
    else this.#remarks.set(key, said)
  }

  /** As of the last flush. */
  get workloads(): ReadonlyMap<string, Workload> {
    return this.#workloads
  }

  get services(): ReadonlyMap<string, Service> {
    return this.#services.outputs
  }

  get policies(): ReadonlyMap<string, Authorization> {
    return this.#policies.outputs
  }

  get objects(): ReadonlyMap<string, ManifestObject> {
    return this.#objects
  }

  /** By resource name, as of the last `flushWaypoints`. */
  get waypoints(): ReadonlyMap<string, WaypointResource> {
    return this.#waypoints.resources
  }

  /** Object keys of the Secrets and ConfigMaps that gateways would use, as of the last `flushWaypoints`; also of those that are not there. */
  get wantedObjects(): ReadonlySet<string> {
    return this.#waypoints.wanted
  }

  /** Objects of which there is something to say, as of the last flush of each. */
  get remarks(): ReadonlyMap<string, Remarks> {
    const all = new Map(this.#remarks)
    for (const key of this.#waypoints.remarked) all.set(key, this.remarksOf(key))
    return all
  }

  remarksOf(key: string): Remarks {
    const own = this.#remarks.get(key) ?? noRemarks
    const found = this.#waypoints.findings.get(key)
    return found ? { problems: [...own.problems, ...found.problems], notes: [...own.notes, ...found.notes] } : own
  }

  /** What became of a route at each of its parents. */
  parentsOf(key: string): readonly RouteParentStatus[] {
    return this.#waypoints.findings.get(key)?.parents ?? []
  }

  /** What became of each listener of a Gateway of our classes. */
  listenersOf(key: string): readonly ListenerStatus[] {
    return this.#waypoints.findings.get(key)?.listeners ?? []
  }

  /** Of a Service or ServiceEntry; undefined for other objects. */
  bindingOf(key: string): WaypointBinding | undefined {
    const owner = this.#services.get(key)
    return owner && this.#bindings.bindingOf(serviceThing(owner))
  }

  /** Resource names that an object was translated to, as of the last flush of each. */
  resourcesOf(key: string): ResourceNames {
    const object = this.#objects.get(key)
    const made = (this.#made.get(key) ?? nothing).map(({ uid }) => uid)
    const waypoints = this.#waypoints.resourcesOf(key)
    switch (object?.kind) {
      case 'Service':
      case 'ServiceEntry':
        return { addresses: [...this.#services.claimsOf(object).filter(({ isWon }) => isWon).map((claim) => claim.key), ...made], policies: [], waypoints }
      case 'AuthorizationPolicy':
      case 'PeerAuthentication':
        return { addresses: [], policies: this.#policies.outputsOf(object), waypoints }
      default:
        return { addresses: made, policies: [], waypoints }
    }
  }
}

/** By type of resource. */
export interface ResourceNames {
  readonly addresses: readonly string[]
  readonly policies: readonly string[]
  readonly waypoints: readonly string[]
}

function split<T>(changes: Map<string, T | undefined>): [T[], string[]] {
  const put: T[] = []
  const gone: string[] = []
  for (const [key, value] of changes) {
    if (value === undefined) gone.push(key)
    else put.push(value)
  }
  changes.clear()
  return [put, gone]
}

function isSame(a: ManifestObject, b: ManifestObject): boolean {
  return isDeepStrictEqual({ ...a, origin: undefined }, { ...b, origin: undefined })
}
