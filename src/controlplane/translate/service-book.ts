// All services of the mesh by name and host, kept translated: who owns which resource name when several claim it, which service
// is the canonical one of a host name, and what the services of an owner are. Knows nothing of endpoints.
import { isDeepStrictEqual } from 'node:util'
import { objectKey, type ServiceEntryManifest, type ServiceManifest } from '../../model/manifest.ts'
import type { Service } from '../../model/workload.ts'
import { byAge } from './age.ts'
import { getOrMake, LabelIndex } from './selectors.ts'
import { hostsOf, translateServiceEntry } from './service-entry.ts'
import { serviceHostname, translateService } from './service.ts'
import { noRemarks, type Remarks, type TranslateSettings } from './settings.ts'
import { trafficDistributionProblem, type TrafficDistribution } from './traffic-distribution.ts'

export type ServiceOwner = ServiceManifest | ServiceEntryManifest

export interface ServiceListener {
  /** Which endpoints services of a namespace prefer if they do not say it themselves. */
  distributionOf(namespace: string): TrafficDistribution | undefined
  /** The waypoint before the services of an owner. */
  waypointOf(owner: ServiceOwner): Pick<Service, 'waypoint' | 'waypointFailure'>
  /** Undefined if it is gone. Told only when it is another than before. */
  service(key: string, service: Service | undefined, before: Service | undefined): void
  /** It owns other resource names than before: its endpoints must be translated again. */
  owner(objectKey: string): void
  remarks(objectKey: string, remarks: Remarks): void
}

/** Kubernetes' own services before entries, and of those the oldest. */
function precedence(a: ServiceOwner, b: ServiceOwner): number {
  if (a.kind !== b.kind) return a.kind === 'Service' ? -1 : 1
  return byAge(a, b)
}

export class ServiceBook {
  readonly #settings: TranslateSettings
  readonly #listener: ServiceListener
  readonly #outputs = new Map<string, Service>()
  readonly #owners = new Map<string, ServiceOwner>()
  readonly #labels = new LabelIndex()
  readonly #givenIps = new Map<string, readonly string[]>()
  /** Who claims a resource name (`namespace/hostname`), by object key. */
  readonly #claims = new Map<string, Set<string>>()
  readonly #winners = new Map<string, string>()
  /** Resource names of a host name. */
  readonly #byHostname = new Map<string, Set<string>>()
  /** Of a host name in several namespaces, the resource name that clients of other namespaces see. */
  readonly #canonical = new Map<string, string>()

  constructor(settings: TranslateSettings, listener: ServiceListener) {
    this.#settings = settings
    this.#listener = listener
  }

  get outputs(): ReadonlyMap<string, Service> {
    return this.#outputs
  }

  get(key: string): ServiceOwner | undefined {
    return this.#owners.get(key)
  }

  /** Resource names with their host names that an owner claims, and really owns if `isWon`. */
  claimsOf(owner: ServiceOwner): { readonly key: string; readonly hostname: string; readonly isWon: boolean }[] {
    const { namespace } = owner.metadata
    const id = objectKey(owner)
    return this.#hostnames(owner).map((hostname) => {
      const key = `${namespace}/${hostname}`
      return { key, hostname, isWon: this.#winners.get(key) === id }
    })
  }

  #hostnames(owner: ServiceOwner): readonly string[] {
    if (owner.kind === 'ServiceEntry') return hostsOf(owner)
    return owner.spec.type === 'ExternalName' && !this.#settings.sendsExternalNames ? [] : [serviceHostname(owner.metadata, this.#settings)]
  }

  put(owner: ServiceOwner): void {
    const id = objectKey(owner)
    const before = this.#owners.get(id)
    this.#owners.set(id, owner)
    this.#labels.set(id, owner.metadata.namespace, owner.metadata.labels)
    const keys = this.claimsOf(owner).map(({ key }) => key)
    for (const { key } of before ? this.claimsOf(before) : []) if (!keys.includes(key)) this.#claims.get(key)?.delete(id)
    for (const key of keys) getOrMake(this.#claims, key, () => new Set<string>()).add(id)
    this.#settle([...keys, ...(before ? this.claimsOf(before).map(({ key }) => key) : [])])
    this.#remark(owner)
  }

  remove(id: string): void {
    const before = this.#owners.get(id)
    if (!before) return
    const keys = this.claimsOf(before).map(({ key }) => key)
    this.#owners.delete(id)
    this.#labels.delete(id)
    for (const key of keys) this.#claims.get(key)?.delete(id)
    this.#settle(keys)
    this.#listener.remarks(id, noRemarks)
  }

  /** Addresses that a Kubernetes Service has at run time; undefined for none. */
  setGivenIps(namespace: string, name: string, ips: readonly string[] | undefined): void {
    const id = `Service ${namespace}/${name}`
    if (isDeepStrictEqual(this.#givenIps.get(id), ips)) return
    if (ips) this.#givenIps.set(id, ips)
    else this.#givenIps.delete(id)
    const owner = this.#owners.get(id)
    if (owner) for (const { key } of this.claimsOf(owner)) this.#translate(key)
  }

  /** What services of a namespace prefer by default is another now. */
  distributionChanged(namespace: string): void {
    for (const owner of this.#owners.values()) {
      if (owner.metadata.namespace === namespace) for (const { key } of this.claimsOf(owner)) this.#translate(key)
    }
  }

  /** Object keys of the owners with these labels (all without any) of a namespace (all without one). */
  withLabels(namespace: string | undefined, labels: Readonly<Record<string, string>> | undefined): Iterable<string> {
    return labels ? this.#labels.select(namespace, labels) : this.#labels.all(namespace)
  }

  /** The waypoint before its services may be another now. */
  waypointChanged(id: string): void {
    const owner = this.#owners.get(id)
    if (owner) for (const { key } of this.claimsOf(owner)) this.#translate(key)
  }

  /** Finds who owns each name now, and translates what that changes. */
  #settle(keys: Iterable<string>): void {
    for (const key of new Set(keys)) {
      const claims = this.#claims.get(key)
      if (claims?.size === 0) this.#claims.delete(key)
      const owners = [...(claims ?? [])].map((id) => this.#owners.get(id)).filter((owner) => owner !== undefined)
      const winner = owners.length > 1 ? owners.sort(precedence)[0] : owners[0]
      const [was, is] = [this.#winners.get(key), winner && objectKey(winner)]
      if (is === undefined) this.#winners.delete(key)
      else this.#winners.set(key, is)
      if (was !== is) {
        for (const id of [was, is]) if (id !== undefined && this.#owners.has(id)) this.#listener.owner(id)
        for (const owner of owners) this.#remark(owner)
      }
      this.#byHost(key, is !== undefined)
    }
  }

  #byHost(key: string, isThere: boolean): void {
    const hostname = key.slice(key.indexOf('/') + 1)
    const keys = getOrMake(this.#byHostname, hostname, () => new Set<string>())
    if (isThere) keys.add(key)
    else keys.delete(key)
    if (keys.size === 0) this.#byHostname.delete(hostname)
    const [before, after] = [this.#canonical.get(hostname), this.#oldestOf(keys)]
    if (after === undefined) this.#canonical.delete(hostname)
    else this.#canonical.set(hostname, after)
    for (const each of new Set([key, ...(before === after ? [] : [before, after])])) if (each !== undefined) this.#translate(each)
  }

  #oldestOf(keys: Iterable<string>): string | undefined {
    let found: { key: string; owner: ServiceOwner } | undefined
    for (const key of keys) {
      const owner = this.#owners.get(this.#winners.get(key) ?? '')
      if (owner && (!found || precedence(owner, found.owner) < 0)) found = { key, owner }
    }
    return found?.key
  }

  #translate(key: string): void {
    const service = this.#serviceOf(key)
    const before = this.#outputs.get(key)
    if (isDeepStrictEqual(before, service)) return
    if (service) this.#outputs.set(key, service)
    else this.#outputs.delete(key)
    this.#listener.service(key, service, before)
  }

  #serviceOf(key: string): Service | undefined {
    const id = this.#winners.get(key)
    const owner = id === undefined ? undefined : this.#owners.get(id)
    if (!owner || id === undefined) return undefined
    const inherited = this.#listener.distributionOf(owner.metadata.namespace)
    const hostname = key.slice(key.indexOf('/') + 1)
    const service = owner.kind === 'Service'
      ? translateService(owner, this.#givenIps.get(id) ?? [], inherited, this.#settings)
      : translateServiceEntry(owner, { hostname, isCanonical: this.#canonical.get(hostname) === key, inherited }, this.#settings)
    return { ...service, ...this.#listener.waypointOf(owner) }
  }

  #remark(owner: ServiceOwner): void {
    const id = objectKey(owner)
    const problems = this.claimsOf(owner)
      .filter(({ key }) => (this.#winners.get(key) ?? id) !== id)
      .map(({ key, hostname }) => `the host ${hostname} is already defined by ${this.#winners.get(key)}; that one counts`)
    const notes = owner.kind === 'Service' && owner.spec.ports.some(({ protocol }) => protocol !== 'TCP')
      ? ['ports other than TCP are not carried by the mesh']
      : owner.kind === 'ServiceEntry' && owner.spec.ports.some(({ protocol }) => protocol === 'UDP') ? ['UDP ports are not carried by the mesh'] : []
    const distribution = trafficDistributionProblem(owner.metadata.annotations)
    this.#listener.remarks(id, { problems: distribution === undefined ? problems : [...problems, distribution], notes })
  }
}
