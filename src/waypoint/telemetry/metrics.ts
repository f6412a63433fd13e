// What a waypoint counts beyond what every proxy of ours does: requests under Istio's names, and what its parts report of their limits,
// queues and dependencies, which is what tells an overload from a slow backend. Words in labels are of closed sets or bounded.
import type { BoundedCounter } from '../../member/telemetry/bounded-counter.ts'
import { ProxyMetrics } from '../../member/telemetry/metrics.ts'
import type { FilterCounters } from '../filters/counted.ts'
import type { Refusal } from '../http/message.ts'
import type { ExchangeReason } from '../record.ts'
import type { UpstreamEvent, ClusterStats, UpstreamEvents } from '../upstream/events.ts'
import type { RequestFacts } from './request-labels.ts'
import { RequestMetrics } from './request-metrics.ts'
import type { RequestCounts } from './request-metrics.ts'

export interface WaypointMetricsOptions {
  /** Of requests: each makes about forty lines. 2,000 unless told. */
  readonly maxLabelSets?: number
  /** A monotonic clock in milliseconds. */
  readonly now?: () => number
}

/** What is read when somebody asks. */
export interface WaypointGauges {
  /** Connections of HTTP that are open. */
  readonly httpConnections: () => number
  readonly chains?: () => number
  readonly cacheEntries?: () => number
  readonly cacheBytes?: () => number
  readonly learnedDestinations?: () => number
}

const gaugeHelp: Readonly<Record<keyof WaypointGauges, readonly [name: string, help: string]>> = {
  httpConnections: ['sidestep_http_connections_open', 'Connections on which HTTP is served'],
  chains: ['sidestep_waypoint_chains', 'Destinations whose configuration is compiled'],
  cacheEntries: ['sidestep_cache_entries', 'Answers that are kept'],
  cacheBytes: ['sidestep_cache_bytes', 'Bytes of answers that are kept'],
  learnedDestinations: ['sidestep_egress_learned', 'Destinations outside the mesh that were learned'],
}

type Cluster = 'destination_service' | 'port'

export class WaypointMetrics extends ProxyMetrics implements FilterCounters {
  readonly #requests: RequestMetrics
  readonly #answered: BoundedCounter<'because'>
  readonly #unread: BoundedCounter<'because'>
  readonly #cache: BoundedCounter<'result'>
  readonly #rateLimits: BoundedCounter<'policy' | 'result'>
  readonly #limitStore: BoundedCounter<'result'>
  readonly #keys: BoundedCounter<'result'>
  readonly #providers: BoundedCounter<'provider' | 'result'>
  readonly #faults: BoundedCounter<'kind'>
  readonly #policyHits: BoundedCounter<'policy' | 'as'>
  readonly #upstream: UpstreamCounters
  #inFlight = 0
  #carried = 0

  constructor({ maxLabelSets = 2_000, now = () => performance.now() }: WaypointMetricsOptions = {}) {
    super({ now, reporters: ['waypoint'] })
    const folded = this.counter('sidestep_requests_folded_total', 'Requests counted under other labels, to bound their number', [])
    this.#requests = new RequestMetrics(this.registry, { maxLabelSets, now, onFolded: () => folded.inc({}) })
    this.#answered = this.counter('sidestep_exchanges_ended_total', 'Requests and connections that we ended or that did not come to their end, by reason', ['because'])
    this.#unread = this.counter('sidestep_requests_refused_total', 'Requests that were not read because they break a rule of HTTP or a limit, by rule', ['because'])
    this.#cache = this.counter('sidestep_cache_requests_total', 'Requests that may be answered from the cache, by what became of them', ['result'])
    this.#rateLimits = this.counter('sidestep_rate_limit_decisions_total', 'Requests held against a rate limit', ['policy', 'result'], 1_000)
    this.#limitStore = this.counter('sidestep_rate_limit_store_total', 'Questions to the shared store of rate limits', ['result'])
    this.#keys = this.counter('sidestep_jwks_fetches_total', 'Fetches of the keys that tokens are signed with', ['result'])
    this.#providers = this.counter('sidestep_ext_authz_total', 'Questions to external authorizers', ['provider', 'result'])
    this.#faults = this.counter('sidestep_faults_injected_total', 'Requests that a fault rule delayed or ended', ['kind'])
    this.#policyHits = this.counter('sidestep_policy_hits_total', 'Requests that an audit or dry-run policy matched', ['policy', 'as'], 1_000)
    this.#upstream = new UpstreamCounters(this)
    for (const result of ['hit', 'miss']) this.#cache.inc({ result }, 0)
    this.gauge('sidestep_requests_in_flight', 'Requests that are being answered', () => this.#inFlight)
    this.gauge('sidestep_connections_carried', 'Connections that are carried as they are', () => this.#carried)
  }

  /** A request has begun, and ended. */
  begun(kind: 'request' | 'connection', change: 1 | -1): void {
    if (kind === 'request') this.#inFlight += change
    else this.#carried += change
  }

  /** Once for each request. */
  request(facts: RequestFacts, counts: RequestCounts, reason: ExchangeReason | undefined): void {
    this.#requests.record(facts, counts)
    if (reason !== undefined) this.ended(reason)
  }

  ended(because: ExchangeReason): void {
    this.#answered.inc({ because })
  }

  /** For HttpFrontOptions.onRefused: no handler saw it, so it is counted nowhere else. */
  unread({ because }: Refusal): void {
    this.#unread.inc({ because })
  }

  cache(result: 'hit' | 'miss'): void {
    this.#cache.inc({ result })
  }

  /** `policy`: key of the object. */
  rateLimit(policy: string, result: 'allowed' | 'refused'): void {
    this.#rateLimits.inc({ policy, result })
  }

  limitStore(result: 'ok' | 'failed'): void {
    this.#limitStore.inc({ result })
  }

  keysFetched(result: 'ok' | 'failed'): void {
    this.#keys.inc({ result })
  }

  providerAsked(provider: string, result: 'allowed' | 'refused' | 'away'): void {
    this.#providers.inc({ provider, result })
  }

  fault(kind: 'delay' | 'abort'): void {
    this.#faults.inc({ kind })
  }

  policyHit(policy: string, as: 'audit' | 'dryRun'): void {
    this.#policyHits.inc({ policy, as })
  }

  /** For the forwarder. */
  readonly upstreamEvents: UpstreamEvents = (event) => this.#upstream.count(event)

  /** Depths of queues and pools, read when somebody asks. */
  watchUpstream(stats: () => readonly Pick<ClusterStats, 'service' | 'port' | 'subset' | keyof typeof clusterGauges>[]): void {
    for (const [key, [name, help]] of Object.entries(clusterGauges) as [keyof typeof clusterGauges, readonly [string, string]][]) {
      this.sampled(name, help, ['destination_service', 'port', 'subset'], () => stats().slice(0, mostClusters).map((each) => ({
        labels: { destination_service: each.service, port: String(each.port), subset: each.subset ?? '' }, value: Number(each[key]),
      })))
    }
  }

  watch(gauges: WaypointGauges): void {
    for (const [key, read] of Object.entries(gauges) as [keyof WaypointGauges, (() => number) | undefined][]) {
      const [name, help] = gaugeHelp[key]
      if (read) this.gauge(name, help, read)
    }
  }
}

/** So many destinations have gauges of their own. */
const mostClusters = 500

const clusterGauges = {
  active: ['sidestep_upstream_requests_active', 'Requests under way to a destination, those that wait included'],
  pending: ['sidestep_upstream_requests_pending', 'Requests that wait for an endpoint or a connection'],
  connections: ['sidestep_upstream_connections', 'Connections to a destination'],
  usable: ['sidestep_upstream_endpoints_usable', 'Endpoints that may be used now'],
  ejected: ['sidestep_upstream_endpoints_ejected', 'Endpoints that are ejected now'],
  isFailingFast: ['sidestep_upstream_failing_fast', '1 while requests that find no endpoint fail at once'],
} as const satisfies Partial<Record<keyof ClusterStats, readonly [name: string, help: string]>>

class UpstreamCounters {
  readonly #retried: BoundedCounter<Cluster | 'because'>
  readonly #notRetried: BoundedCounter<Cluster | 'because'>
  readonly #breakers: BoundedCounter<Cluster | 'because'>
  readonly #ejected: BoundedCounter<Cluster | 'because'>
  readonly #readmitted: BoundedCounter<Cluster>
  readonly #health: BoundedCounter<Cluster | 'result'>
  readonly #modes: BoundedCounter<Cluster | 'mode'>
  readonly #connectFailed: BoundedCounter<Cluster | 'because'>
  readonly #mirrored: BoundedCounter<Cluster | 'result'>
  readonly #connectSeconds

  constructor(metrics: ProxyMetrics) {
    const of = <Label extends string>(name: string, help: string, ...labels: Label[]): BoundedCounter<Cluster | Label> =>
      metrics.counter<Cluster | Label>(name, help, ['destination_service', 'port', ...labels], 1_000)
    this.#retried = of('sidestep_upstream_retries_total', 'Attempts that failed and were made again, by how they failed', 'because')
    this.#notRetried = of('sidestep_upstream_retries_withheld_total', 'Failures that a rule would have retried, by why they were not', 'because')
    this.#breakers = of('sidestep_upstream_breaker_trips_total', 'Requests, connections and retries that a limit refused', 'because')
    this.#ejected = of('sidestep_upstream_ejections_total', 'Endpoints that were ejected, by why', 'because')
    this.#readmitted = of('sidestep_upstream_readmissions_total', 'Endpoints whose ejection is over')
    this.#health = of('sidestep_upstream_health_changes_total', 'Endpoints of which active checks changed their mind', 'result')
    this.#modes = of('sidestep_upstream_mode_changes_total', 'Times that failing fast, or ignoring ejections, began', 'mode')
    this.#connectFailed = of('sidestep_upstream_connect_failures_total', 'Connections that could not be made, by code', 'because')
    this.#mirrored = of('sidestep_upstream_mirrored_total', 'Copies of requests', 'result')
    this.#connectSeconds = metrics.histogram('sidestep_upstream_connect_seconds', 'Time until a connection to an endpoint stood', [])
  }

  count(event: UpstreamEvent): void {
    const cluster = { destination_service: event.cluster.service, port: String(event.cluster.port) }
    switch (event.t) {
      case 'retried': return this.#retried.inc({ ...cluster, because: event.because })
      case 'notRetried': return this.#notRetried.inc({ ...cluster, because: event.because })
      case 'breaker': return this.#breakers.inc({ ...cluster, because: event.because })
      case 'ejected': return this.#ejected.inc({ ...cluster, because: event.because })
      case 'readmitted': return this.#readmitted.inc(cluster)
      case 'health': return this.#health.inc({ ...cluster, result: event.isHealthy ? 'healthy' : 'unhealthy' })
      case 'failFast': return this.#began(cluster, 'failFast', event.isOn)
      case 'panic': return this.#began(cluster, 'panic', event.isOn)
      case 'connected': return this.#connectSeconds.observe(event.durationMs / 1_000)
      case 'connectFailed': return this.#connectFailed.inc({ ...cluster, because: event.because })
      case 'mirrored': return this.#mirrored.inc({ ...cluster, result: event.because })
      default: return event satisfies never
    }
  }

  #began(cluster: Readonly<Record<Cluster, string>>, mode: string, isOn: boolean): void {
    if (isOn) this.#modes.inc({ ...cluster, mode })
  }
}
