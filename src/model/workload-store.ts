// Everything this node knows of the mesh, indexed for the questions that connections ask. A delta costs what it changes,
// never the size of the mesh; the same facts give the same answers in whatever order they arrived. Holds values, does no
// I/O, and never changes a workload, service or policy it was given.
import { isDeepStrictEqual } from 'node:util'
import { formatIdentity } from '../core/identity.ts'
import { policyKey, type Authorization } from './authorization.ts'
import { PolicyIndex } from './policy-index.ts'
import { RankedMultimap } from './ranked-multimap.ts'
import { ServiceIndex } from './service-index.ts'
import { serviceKey, type PortMapping, type Service, type Workload } from './workload.ts'

/** A workload as an endpoint of one service. */
export interface Endpoint {
  readonly workload: Workload
  /** The endpoint's own mapping of the service's ports; empty where the service's applies. */
  readonly ports: readonly PortMapping[]
}

export interface StateDelta {
  readonly workloads?: readonly Workload[]
  readonly services?: readonly Service[]
  readonly policies?: readonly Authorization[]
  /** Resource names: a workload's uid or a service's key. */
  readonly removedAddresses?: readonly string[]
  readonly removedPolicies?: readonly string[]
}

/** What changed, for pools, re-checks of live connections and caches. Identical upserts are no change. */
export type StoreChange =
  | { readonly t: 'workloadAdded'; readonly workload: Workload }
  | {
    readonly t: 'workloadChanged'
    readonly before: Workload
    readonly after: Workload
    readonly isIdentityChanged: boolean
    readonly isAddressChanged: boolean
    /** Other policies apply to it than before. */
    readonly isPolicyChanged: boolean
  }
  | { readonly t: 'workloadRemoved'; readonly workload: Workload }
  | { readonly t: 'serviceChanged'; readonly key: string; readonly before?: Service; readonly after?: Service }
  | { readonly t: 'policyChanged'; readonly key: string; readonly before?: Authorization; readonly after?: Authorization }

/** Must not throw. Called once per delta, when all indexes are up to date. */
export type StoreListener = (changes: readonly StoreChange[]) => void

export interface MeshSnapshot {
  readonly workloads: readonly Workload[]
  readonly services: readonly Service[]
  readonly policies: readonly Authorization[]
}

const noEndpoints: readonly Endpoint[] = Object.freeze([])
const nobody: ReadonlySet<string> = new Set()

// Two workloads on one address (a finished job, a stale entry): a healthy one, then a pod, then the uid decides.
function compareWorkloads(a: Workload, b: Workload): number {
  if (a.isHealthy !== b.isHealthy) return a.isHealthy ? -1 : 1
  const [aIsPod, bIsPod] = [a.uid.includes('//Pod/'), b.uid.includes('//Pod/')]
  if (aIsPod !== bIsPod) return aIsPod ? -1 : 1
  return a.uid < b.uid ? -1 : 1
}

/** Endpoints of one service key, whether or not the service is known yet. */
class EndpointSet {
  readonly byUid = new Map<string, Endpoint>()
  /** Made when asked for; replaced, never changed, so that what was computed from it can be kept with it. */
  usable: readonly Endpoint[] | undefined
  /** Made when asked for. */
  identities: ReadonlySet<string> | undefined
}

export class WorkloadStore {
  readonly policies = new PolicyIndex()
  readonly services = new ServiceIndex()
  readonly #byUid = new Map<string, Workload>()
  readonly #byIp = new RankedMultimap<string, Workload>(compareWorkloads)
  readonly #byName = new RankedMultimap<string, Workload>(compareWorkloads)
  readonly #endpoints = new Map<string, EndpointSet>()
  readonly #listeners = new Set<StoreListener>()
  #version = 0

  /** Grows with each delta that changed something. */
  get version(): number {
    return this.#version
  }

  get workloadCount(): number {
    return this.#byUid.size
  }

  /** Applies all of it, then tells the listeners once. Removals come first: a name that is removed and given stays. */
  apply(delta: StateDelta): readonly StoreChange[] {
    const changes: StoreChange[] = []
    for (const name of delta.removedAddresses ?? []) this.#removeAddress(name, changes)
    for (const key of delta.removedPolicies ?? []) {
      const before = this.policies.remove(key)
      if (before) changes.push({ t: 'policyChanged', key, before })
    }
    for (const service of delta.services ?? []) this.#upsertService(service, changes)
    for (const workload of delta.workloads ?? []) this.#upsertWorkload(workload, changes)
    for (const policy of delta.policies ?? []) {
      const before = this.policies.upsert(policy)
      if (before === policy) continue
      changes.push({ t: 'policyChanged', key: policyKey(policy), after: policy, ...(before && { before }) })
    }
    if (changes.length === 0) return changes
    this.#version++
    for (const listener of this.#listeners) listener(changes)
    return changes
  }

  /** Returns how to stop. */
  onChange(listener: StoreListener): () => void {
    this.#listeners.add(listener)
    return () => void this.#listeners.delete(listener)
  }

  workload(uid: string): Workload | undefined {
    return this.#byUid.get(uid)
  }

  /** Workloads on the host's network are not found by address: it belongs to the node, not to them. */
  workloadByIp(network: string, ip: string): Workload | undefined {
    return this.#byIp.first(`${network}/${ip}`)
  }

  /** A pod by what the node agent knows of it. */
  workloadByName(namespace: string, name: string, serviceAccount: string): Workload | undefined {
    return this.#byName.all(`${namespace}/${name}`).find((workload) => workload.serviceAccount === serviceAccount)
  }

  workloads(): IterableIterator<Workload> {
    return this.#byUid.values()
  }

  service(key: string): Service | undefined {
    return this.services.get(key)
  }

  serviceByAddress(network: string, ip: string, callerNamespace: string): Service | undefined {
    return this.services.byAddress(network, ip, callerNamespace)
  }

  serviceByHostname(hostname: string, callerNamespace: string, preferredNamespace?: string): Service | undefined {
    return this.services.byHostname(hostname, callerNamespace, preferredNamespace)
  }

  /** Endpoints that the service's health policy admits; none while the service is unknown. The list is never changed in place. */
  endpoints(key: string): readonly Endpoint[] {
    const service = this.services.get(key)
    const set = this.#endpoints.get(key)
    if (!service || !set) return noEndpoints
    const isAnyAdmitted = service.loadBalancing?.allowUnhealthy === true
    set.usable ??= [...set.byUid.values()].filter(({ workload }) => isAnyAdmitted || workload.isHealthy)
    return set.usable
  }

  /** SPIFFE URIs of all endpoints, healthy or not, whether or not the service is known. */
  identitiesBehind(key: string): ReadonlySet<string> {
    const set = this.#endpoints.get(key)
    if (!set) return nobody
    return (set.identities ??= new Set([...set.byUid.values()].map(({ workload }) => workloadIdentity(workload))))
  }

  /** Keys of services that have endpoints and are not known themselves. */
  stagedServices(): string[] {
    return [...this.#endpoints.keys()].filter((key) => !this.services.get(key))
  }

  /** All there is, to be kept on disk and applied again as a delta. */
  snapshot(): MeshSnapshot {
    return { workloads: [...this.#byUid.values()], services: [...this.services.values()], policies: [...this.policies.values()] }
  }

  #removeAddress(name: string, changes: StoreChange[]): void {
    const workload = this.#byUid.get(name)
    if (workload) {
      this.#unlink(workload)
      this.#byUid.delete(name)
      changes.push({ t: 'workloadRemoved', workload })
      return
    }
    const before = this.services.get(name)
    if (!before) return
    this.services.delete(name)
    this.#forgetUsable(name)
    changes.push({ t: 'serviceChanged', key: name, before })
  }

  #upsertService(service: Service, changes: StoreChange[]): void {
    const key = serviceKey(service)
    const before = this.services.get(key)
    if (before && isDeepStrictEqual(before, service)) return
    this.services.set(service)
    // Also when the health policy stayed: what is kept with the list was computed with the old service.
    this.#forgetUsable(key)
    changes.push({ t: 'serviceChanged', key, after: service, ...(before && { before }) })
  }

  #upsertWorkload(workload: Workload, changes: StoreChange[]): void {
    const before = this.#byUid.get(workload.uid)
    if (before && isDeepStrictEqual(before, workload)) return
    if (before) this.#unlink(before)
    this.#byUid.set(workload.uid, workload)
    this.#link(workload)
    if (!before) {
      changes.push({ t: 'workloadAdded', workload })
      return
    }
    changes.push({
      t: 'workloadChanged', before, after: workload,
      isIdentityChanged: workloadIdentity(before) !== workloadIdentity(workload),
      isAddressChanged: before.network !== workload.network || !isDeepStrictEqual(before.ips, workload.ips),
      isPolicyChanged: before.namespace !== workload.namespace || !isDeepStrictEqual(before.policies, workload.policies),
    })
  }

  #link(workload: Workload): void {
    for (const key of ipKeys(workload)) this.#byIp.add(key, workload)
    this.#byName.add(`${workload.namespace}/${workload.name}`, workload)
    for (const [key, ports] of workload.services) {
      let set = this.#endpoints.get(key)
      if (!set) this.#endpoints.set(key, (set = new EndpointSet()))
      set.byUid.set(workload.uid, { workload, ports })
      set.usable = set.identities = undefined
    }
  }

  #unlink(workload: Workload): void {
    for (const key of ipKeys(workload)) this.#byIp.remove(key, workload)
    this.#byName.remove(`${workload.namespace}/${workload.name}`, workload)
    for (const key of workload.services.keys()) {
      const set = this.#endpoints.get(key)
      set?.byUid.delete(workload.uid)
      if (set?.byUid.size === 0) this.#endpoints.delete(key)
      else if (set) set.usable = set.identities = undefined
    }
  }

  #forgetUsable(key: string): void {
    const set = this.#endpoints.get(key)
    if (set) set.usable = undefined
  }
}

/** The SPIFFE URI under which the workload runs. */
export function workloadIdentity({ trustDomain, namespace, serviceAccount }: Workload): string {
  return formatIdentity({ trustDomain, namespace, serviceAccount })
}

function ipKeys(workload: Workload): Set<string> {
  return new Set(workload.isHostNetwork ? [] : workload.ips.map((ip) => `${workload.network}/${ip}`))
}
