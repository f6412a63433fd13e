// Which endpoint of a service a connection goes to. Selection is a pure function of what it is handed: endpoints, preferences,
// health, load and a random source. What depends only on the service and the caller's place is kept with the endpoint
// list it was computed from.
import type { Endpoint } from '../model/workload-store.ts'
import type { Scope, Service, Workload } from '../model/workload.ts'
import { isIpv6Address } from '../core/address.ts'
import type { EndpointHealth } from './endpoint-health.ts'

/** Where the caller is. */
export interface CallerPlace {
  readonly network: string
  readonly clusterId: string
  readonly node: string
  readonly locality: { readonly region: string; readonly zone: string; readonly subzone: string }
}

export interface SelectionRequest {
  readonly service: Service
  readonly servicePort: number
  /** From the store: a list that is never changed in place. */
  readonly endpoints: readonly Endpoint[]
  readonly caller: CallerPlace
  /** For session affinity. */
  readonly clientIp: string
  /** 0 <= x < 1. */
  readonly random: () => number
  readonly health?: EndpointHealth | undefined
  /** Connections open to a workload now; without it only weights count. */
  readonly load?: ((uid: string) => number) | undefined
  /** Workloads that were tried for this connection already. */
  readonly tried?: ReadonlySet<string> | undefined
}

/** Why that endpoint. */
export type PickedBecause = 'affinity' | 'onlyOne' | 'weight' | 'leastLoaded'
export type NoneBecause = 'noEndpoints' | 'noEndpointWithPort' | 'noneInScope' | 'everyOneTried'

export type Selection =
  | {
    readonly t: 'picked'
    readonly workload: Workload
    readonly targetPort: number
    readonly because: PickedBecause
    /** Ejections were ignored because too many endpoints are out. */
    readonly isPanic: boolean
  }
  | { readonly t: 'none'; readonly because: NoneBecause }

/** More ejected than this share of a tier, and the tier's ejections are ignored (where no better tier is left). */
const panicThreshold = 0.5

interface Candidate {
  readonly workload: Workload
  readonly targetPort: number
  readonly weight: number
}

/** Candidates of equal preference, with running totals of their weights. */
interface Tier {
  readonly candidates: readonly Candidate[]
  readonly totals: readonly number[]
}

interface Prepared {
  readonly tiers: readonly Tier[]
  readonly none: NoneBecause
}

const preparedFor = new WeakMap<readonly Endpoint[], { readonly service: Service; readonly byCaller: Map<string, Prepared> }>()

export function selectEndpoint(request: SelectionRequest): Selection {
  const { tiers, none } = prepare(request)
  if (tiers.length === 0) return { t: 'none', because: none }
  const health = request.health?.isActive ? request.health : undefined
  const tried = request.tried && request.tried.size > 0 ? request.tried : undefined
  if (!health && !tried) {
    const [best] = tiers
    if (best) return pick(best, request, undefined, false)
  }
  for (const isPanic of [false, true]) {
    for (const tier of tiers) {
      if (isInPanic(tier, health) !== isPanic) continue
      const open = tier.candidates.filter(({ workload, targetPort }) =>
        !tried?.has(workload.uid) && (isPanic || !health?.isEjected(workload.uid, targetPort)))
      if (open.length > 0) return pick(tierOf(open, health), request, health, isPanic)
    }
  }
  return { t: 'none', because: 'everyOneTried' }
}

function isInPanic({ candidates }: Tier, health: EndpointHealth | undefined): boolean {
  if (!health) return false
  const ejected = candidates.filter(({ workload, targetPort }) => health.isEjected(workload.uid, targetPort)).length
  return ejected > candidates.length * panicThreshold
}

function tierOf(candidates: readonly Candidate[], health?: EndpointHealth): Tier {
  let total = 0
  const totals = candidates.map((candidate) => (total += shareOfWeight(candidate, health)))
  return { candidates, totals }
}

function shareOfWeight({ workload, targetPort, weight }: Candidate, health: EndpointHealth | undefined): number {
  return weight * (health?.share(workload.uid, targetPort) ?? 1)
}

function pick(tier: Tier, request: SelectionRequest, health: EndpointHealth | undefined, isPanic: boolean): Selection {
  const { chosen, because } = choose(tier, request, health)
  return { t: 'picked', workload: chosen.workload, targetPort: chosen.targetPort, because, isPanic }
}

interface Choice {
  readonly chosen: Candidate
  readonly because: PickedBecause
}

function choose(tier: Tier, { service, clientIp, load, random }: SelectionRequest, health: EndpointHealth | undefined): Choice {
  const { candidates } = tier
  const first = weighted(tier, random())
  if (candidates.length === 1) return { chosen: first, because: 'onlyOne' }
  if (service.sessionAffinity) return { chosen: rendezvous(candidates, clientIp), because: 'affinity' }
  if (!load) return { chosen: first, because: 'weight' }
  // Power of two choices: nearly as good as knowing the least loaded of all, and it does not herd.
  const second = weighted(tier, random())
  const relative = (candidate: Candidate): number => load(candidate.workload.uid) / shareOfWeight(candidate, health)
  return { chosen: relative(second) < relative(first) ? second : first, because: 'leastLoaded' }
}

function weighted({ candidates, totals }: Tier, random: number): Candidate {
  const point = random * (totals.at(-1) ?? 0)
  let low = 0
  let high = totals.length - 1
  while (low < high) {
    const middle = (low + high) >> 1
    if ((totals[middle] ?? 0) > point) high = middle
    else low = middle + 1
  }
  const found = candidates[low]
  if (!found) throw new RangeError('a tier has at least one candidate')
  return found
}

/** Weighted rendezvous hashing: a client moves only when its own endpoint goes, and then each other takes its share. */
function rendezvous(candidates: readonly Candidate[], clientIp: string): Candidate {
  let best: Candidate | undefined
  let bestScore = Number.NEGATIVE_INFINITY
  for (const candidate of candidates) {
    const score = -candidate.weight / Math.log(hashUnit(`${clientIp}|${candidate.workload.uid}`))
    if (score > bestScore) [best, bestScore] = [candidate, score]
  }
  if (!best) throw new RangeError('a tier has at least one candidate')
  return best
}

/** FNV-1a with a final mix: the same on every node, so that affinity survives a restart. Strictly between 0 and 1. */
function hashUnit(text: string): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (((hash ^ (hash >>> 16)) >>> 0) + 0.5) / 0x1_0000_0000
}

function prepare({ endpoints, service, servicePort, caller }: SelectionRequest): Prepared {
  let kept = preparedFor.get(endpoints)
  if (kept?.service !== service) preparedFor.set(endpoints, (kept = { service, byCaller: new Map() }))
  const { region, zone, subzone } = caller.locality
  const key = [servicePort, caller.network, caller.clusterId, caller.node, region, zone, subzone].join('|')
  let prepared = kept.byCaller.get(key)
  if (!prepared) kept.byCaller.set(key, (prepared = makeTiers(endpoints, service, servicePort, caller)))
  return prepared
}

function makeTiers(endpoints: readonly Endpoint[], service: Service, servicePort: number, caller: CallerPlace): Prepared {
  if (endpoints.length === 0) return { tiers: [], none: 'noEndpoints' }
  const { mode = 'unspecified', routingPreference = [] } = service.loadBalancing ?? {}
  const byRank = new Map<number, Candidate[]>()
  let isAnyUsable = false
  for (const endpoint of endpoints) {
    const { workload } = endpoint
    const targetPort = targetPortOf(endpoint, service, servicePort)
    if (targetPort === undefined || workload.capacity <= 0 || !isReachable(workload, service, caller.network)) continue
    isAnyUsable = true
    const rank = mode === 'strict' || mode === 'failover' ? rankOf(workload, caller, routingPreference) : 0
    if (mode === 'strict' && !routingPreference.every((scope) => matchesScope(scope, workload, caller))) continue
    const tier = byRank.get(rank)
    const candidate = { workload, targetPort, weight: workload.capacity }
    if (tier) tier.push(candidate)
    else byRank.set(rank, [candidate])
  }
  const tiers = [...byRank].sort(([a], [b]) => b - a).map(([, candidates]) => tierOf(candidates))
  return { tiers, none: isAnyUsable ? 'noneInScope' : 'noEndpointWithPort' }
}

/** The endpoint's own mapping, else the service's (0 there: each endpoint says), else the raw port of an application tunnel. */
export function targetPortOf({ workload, ports }: Endpoint, service: Service, servicePort: number): number | undefined {
  const own = ports.find((port) => port.servicePort === servicePort)?.targetPort
  if (own !== undefined && own !== 0) return own
  const common = service.ports.find((port) => port.servicePort === servicePort)?.targetPort
  if (common !== undefined) return common === 0 ? undefined : common
  return workload.applicationTunnel ? servicePort : undefined
}

function isReachable(workload: Workload, service: Service, network: string): boolean {
  // Across networks the gateway's address counts, not the workload's.
  if (workload.network !== network) return workload.networkGateway !== undefined
  return workload.hostname !== undefined || workload.ips.some((ip) => admitsFamily(service, ip))
}

/** Whether the service is served on addresses of this family. */
export function admitsFamily({ ipFamilies }: Service, ip: string): boolean {
  if (ipFamilies === 'ipv4') return !isIpv6Address(ip)
  return ipFamilies === 'ipv6' ? isIpv6Address(ip) : true
}

/**
 * How well the place fits: the length of the longest prefix of preferences that match. NETWORK in the first place is special:
 * every endpoint of the own network goes before all others, which are still ranked by the remaining preferences.
 */
export function rankOf(workload: Workload, caller: CallerPlace, preferences: readonly Scope[]): number {
  const isNetworkFirst = preferences[0] === 'network'
  const scopes = isNetworkFirst ? preferences.slice(1) : preferences
  const miss = scopes.findIndex((scope) => !matchesScope(scope, workload, caller))
  const rank = miss < 0 ? scopes.length : miss
  return isNetworkFirst && workload.network === caller.network ? rank + preferences.length : rank
}

function matchesScope(scope: Scope, workload: Workload, caller: CallerPlace): boolean {
  switch (scope) {
    case 'region':
    case 'zone':
    case 'subzone':
      return workload.locality[scope] === caller.locality[scope]
    case 'node':
      return workload.node === caller.node
    case 'cluster':
      return workload.clusterId === caller.clusterId
    case 'network':
      return workload.network === caller.network
  }
}
