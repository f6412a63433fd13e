// All clusters of a proxy: made when somebody first asks for one, kept up with the mesh and with policies, forgotten when nobody
// has asked for long. A change costs what it changes.
import { formatIdentity } from '../../core/identity.ts'
import { hostOf } from '../../policy/l7/request-head.ts'
import { defaultTrafficPolicy } from '../../model/route.ts'
import type { DestinationPolicy, TrafficPolicy } from '../../model/route.ts'
import type { StoreChange } from '../../model/workload-store.ts'
import { serviceKey } from '../../model/workload.ts'
import type { GatewayAddress, Service, Workload } from '../../model/workload.ts'
import type { BackendTarget } from '../forwarding.ts'
import { Cluster } from './cluster.ts'
import type { ClusterContext, ClusterSource } from './cluster.ts'
import { admitsHost, hostFacts, isFoundByName, serviceFacts, workloadFacts } from './endpoint-facts.ts'
import type { Facts, FactsRequest } from './endpoint-facts.ts'
import type { ClusterName } from './events.ts'
import type { Secret } from './parts.ts'

export type ClusterAnswer =
  | { readonly t: 'cluster'; readonly cluster: Cluster }
  | { readonly t: 'none'; readonly because: 'unknownSubset' | 'foreignHost' | 'tooManyHosts' }

interface Entry {
  readonly cluster: Cluster
  /** Of a service, by which changes find it; of a workload its uid. */
  readonly owner: string
  readonly policy: () => TrafficPolicy
  readonly isByName: boolean
}

/** Clusters are looked through for what is not used any more. */
const sweepMs = 15_000
/** One client address keeps to one endpoint, as Kubernetes' sessionAffinity says. */
const byClient = { kind: 'consistentHash', by: { kind: 'sourceIp' }, algorithm: 'ring', size: 4_096 } as const

export class Clusters {
  readonly #context: ClusterContext
  readonly #entries = new Map<string, Entry>()
  readonly #byOwner = new Map<string, Set<Entry>>()
  readonly #stopListening: () => void
  readonly #affine = new WeakMap<TrafficPolicy, TrafficPolicy>()
  #secrets = new Map<string, Secret | undefined>()
  #callOff: (() => void) | undefined
  #byName = 0
  #self: Workload | undefined

  constructor(context: ClusterContext) {
    this.#context = context
    this.#self = context.parts.self()
    this.#stopListening = context.parts.store.onChange((changes) => this.#onChange(changes))
    this.#scheduleSweep()
  }

  /** `authority` is that of the request, or a server name: it counts where endpoints are found by name. */
  find(to: BackendTarget, authority: string | undefined): ClusterAnswer {
    const isByName = to.t === 'service' && (this.#hasNoEndpoints(to.service) || this.#needsServerName(to))
    const host = isByName ? hostIn(to.service, authority) : ''
    if (host === undefined) return { t: 'none', because: 'foreignHost' }
    const owner = to.t === 'service' ? serviceKey(to.service) : to.workload.uid
    const key = `${owner}:${to.port}|${to.t === 'service' ? (to.subset ?? '') : ''}|${host}`
    const known = this.#entries.get(key)
    if (known) {
      known.cluster.checkPolicy(known.policy())
      return { t: 'cluster', cluster: known.cluster }
    }
    const isFull = isByName && this.#byName >= this.#context.limits.hosts
    if (isFull && !this.#forgetOneHost()) return { t: 'none', because: 'tooManyHosts' }
    const source = to.t === 'workload' ? this.#ofWorkload(to.workload, to.port) : this.#ofService(to, host)
    if (!source) return { t: 'none', because: 'unknownSubset' }
    const entry = { cluster: new Cluster(source, this.#context), owner, policy: source.policy, isByName }
    this.#entries.set(key, entry)
    if (isByName) this.#byName++
    const siblings = this.#byOwner.get(owner)
    if (siblings) siblings.add(entry)
    else this.#byOwner.set(owner, new Set([entry]))
    return { t: 'cluster', cluster: entry.cluster }
  }

  /** Destination policies or secrets changed. `configured`: those of which endpoints are to be checked before anybody asks. */
  policiesChanged(configured: Iterable<DestinationPolicy>): void {
    const secrets = this.#currentSecrets()
    for (const { cluster, policy } of this.#entries.values()) {
      cluster.checkPolicy(policy())
      if (secretsOf(cluster.policy).some((key) => this.#secrets.get(key) !== secrets.get(key))) cluster.retirePools()
    }
    this.#secrets = secrets
    for (const { key, policy, ports } of configured) {
      if (!policy.activeCheck && ![...ports.values()].some(({ activeCheck }) => activeCheck)) continue
      const service = this.#context.parts.store.service(key)
      for (const { servicePort: port } of service?.ports ?? []) {
        if (service && (ports.get(port) ?? policy).activeCheck) this.find({ t: 'service', service, port }, undefined)
      }
    }
  }

  *all(): IterableIterator<Cluster> {
    for (const { cluster } of this.#entries.values()) yield cluster
  }

  close(cut: boolean): void {
    this.#stopListening()
    this.#callOff?.()
    for (const { cluster } of this.#entries.values()) cluster.close(cut)
    this.#entries.clear()
    this.#byOwner.clear()
  }

  #ofWorkload(workload: Workload, port: number): ClusterSource {
    const { store } = this.#context.parts
    const { uid } = workload
    return {
      name: { service: uid, port },
      host: workload.name,
      service: () => undefined,
      policy: () => defaultTrafficPolicy,
      facts: (policy) => {
        const now = store.workload(uid)
        if (!now) return { t: 'none', because: 'noEndpoints', appProtocol: 'unknown' }
        return workloadFacts(now, this.#request(port, policy, undefined))
      },
      isDraining: () => false,
    }
  }

  /** Undefined where the subset is not known. */
  #ofService({ service, port, subset }: BackendTarget & { t: 'service' }, host: string): ClusterSource | undefined {
    const { store, destination } = this.#context.parts
    const key = serviceKey(service)
    if (subset !== undefined && !destination(key)?.subsets.has(subset)) return undefined
    const name: ClusterName = { service: key, port, ...(subset !== undefined && { subset }) }
    const current = (): Service | undefined => store.service(key)
    return {
      name,
      host: host === '' ? service.hostname : host,
      service: current,
      policy: () => this.#affinity(current(), policyOf(destination(key), port, subset)),
      facts: (policy): Facts => {
        const now = current()
        const labels = subset === undefined ? undefined : destination(key)?.subsets.get(subset)?.labels
        if (!now || (subset !== undefined && !labels)) return { t: 'none', because: 'noEndpoints', appProtocol: 'unknown' }
        const isOfEndpoints = host === '' || !this.#hasNoEndpoints(now)
        return isOfEndpoints ? serviceFacts(now, this.#request(port, policy, labels)) : hostFacts(host, now, port)
      },
      isDraining: ({ id, facts }) => {
        const workload = store.workload(id)
        return workload !== undefined && !facts.isWaypoint && !workload.isHealthy && workload.services.has(key)
      },
    }
  }

  #hasNoEndpoints(service: Service): boolean {
    return isFoundByName(service) && this.#context.parts.store.endpoints(serviceKey(service)).length === 0
  }

  /** Of TLS that we begin to one of many hosts the request says to which. */
  #needsServerName({ service, port, subset }: BackendTarget & { t: 'service' }): boolean {
    if (!service.hostname.startsWith('*.')) return false
    const { tls } = policyOf(this.#context.parts.destination(serviceKey(service)), port, subset)
    return tls !== undefined && tls.serverName === undefined
  }

  #request(port: number, { localityFailover }: TrafficPolicy, labels: FactsRequest['labels']): FactsRequest {
    const { store, self, identity, throughWaypoints = true } = this.#context.parts
    const own = { self: self(), identity: formatIdentity(identity) }
    return { store, ...own, port, labels, isLocalFirst: localityFailover, throughWaypoints }
  }

  #affinity(service: Service | undefined, policy: TrafficPolicy): TrafficPolicy {
    if (!service?.sessionAffinity || policy.loadBalancer.kind === 'consistentHash') return policy
    let affine = this.#affine.get(policy)
    if (!affine) this.#affine.set(policy, (affine = { ...policy, loadBalancer: byClient }))
    return affine
  }

  #onChange(changes: readonly StoreChange[]): void {
    const touched = new Set<string>()
    for (const change of changes) {
      switch (change.t) {
        case 'serviceChanged': touched.add(change.key)
          break
        case 'workloadAdded': touch(change.workload, touched)
          break
        case 'workloadRemoved':
          touch(change.workload, touched)
          this.#evict(change.workload)
          break
        case 'workloadChanged':
          touch(change.before, touched)
          touch(change.after, touched)
          if (change.isAddressChanged || change.isIdentityChanged) this.#evict(change.before)
          break
        case 'policyChanged': break
        default: change satisfies never
      }
    }
    const self = this.#context.parts.self()
    const isElsewhere = self !== this.#self
    this.#self = self
    // Who we are decides about places and waypoints, and where a waypoint runs about everything behind it.
    if (isElsewhere) for (const cluster of this.all()) cluster.refresh()
    else {
      for (const [owner, entries] of this.#byOwner) {
        if (!touched.has(owner) && !this.#isBehind(owner, touched)) continue
        for (const { cluster } of entries) cluster.refresh()
      }
    }
  }

  /** Whether a waypoint that stands before the service has changed. */
  #isBehind(owner: string, touched: ReadonlySet<string>): boolean {
    const { store } = this.#context.parts
    const service = store.service(owner)
    const waypoint = service?.waypoint ?? store.workload(owner)?.waypoint
    if (waypoint && isTouched(waypoint, touched)) return true
    return service?.weightedWaypoints?.some(({ destination }) => isTouched(destination, touched)) === true
  }

  /** Its tunnels take nothing new. */
  #evict({ ips }: Workload): void {
    this.#context.parts.tunnels?.evict(({ address }) => ips.includes(address.ip))
  }

  #currentSecrets(): Map<string, Secret | undefined> {
    const found = new Map<string, Secret | undefined>()
    for (const { cluster } of this.#entries.values()) {
      for (const key of secretsOf(cluster.policy)) found.set(key, this.#context.parts.secret(key))
    }
    return found
  }

  #scheduleSweep(): void {
    const { parts: { clock }, limits } = this.#context
    this.#callOff = clock.after(Math.min(sweepMs, limits.unusedMs), () => {
      const sinceMs = clock.monotonicMs() - limits.unusedMs
      for (const [key, entry] of this.#entries) {
        if (entry.cluster.isUnused(sinceMs)) this.#forget(key, entry)
        else entry.cluster.sweep()
      }
      this.#scheduleSweep()
    })
  }

  #forget(key: string, entry: Entry): void {
    this.#entries.delete(key)
    if (entry.isByName) this.#byName--
    const siblings = this.#byOwner.get(entry.owner)
    siblings?.delete(entry)
    if (siblings?.size === 0) this.#byOwner.delete(entry.owner)
    entry.cluster.close(false)
  }

  /** Makes room for another host: the one that was not asked for the longest, if it is idle. */
  #forgetOneHost(): boolean {
    let oldest: [string, Entry] | undefined
    for (const [key, entry] of this.#entries) {
      if (!entry.isByName || !entry.cluster.isUnused(Number.POSITIVE_INFINITY)) continue
      if (!oldest || entry.cluster.usedMs < oldest[1].cluster.usedMs) oldest = [key, entry]
    }
    if (!oldest) return false
    this.#forget(...oldest)
    return true
  }
}

function isTouched({ destination }: GatewayAddress, touched: ReadonlySet<string>): boolean {
  return destination.kind === 'address' || touched.has(serviceKey(destination.name))
}

function touch({ uid, services }: Workload, touched: Set<string>): void {
  touched.add(uid)
  for (const key of services.keys()) touched.add(key)
}

function policyOf(destination: DestinationPolicy | undefined, port: number, subset: string | undefined): TrafficPolicy {
  if (!destination) return defaultTrafficPolicy
  const ofSubset = subset === undefined ? undefined : destination.subsets.get(subset)?.policy
  return ofSubset ?? destination.ports.get(port) ?? destination.policy
}

function secretsOf({ tls }: TrafficPolicy): string[] {
  return [tls?.caSecret, tls?.certificateSecret].flatMap((name) => (name === undefined ? [] : [`Secret ${name}`]))
}

/** A name without wildcard stands for itself. */
function hostIn(service: Service, authority: string | undefined): string | undefined {
  if (!service.hostname.startsWith('*.')) return service.hostname
  const host = authority === undefined ? undefined : hostOf(authority)
  return host !== undefined && admitsHost(service, host) ? host : undefined
}
