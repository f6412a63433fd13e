// What a ztunnel counts beyond what every proxy of ours does.
import type { BoundedCounter } from '../../member/telemetry/bounded-counter.ts'
import { ProxyMetrics } from '../../member/telemetry/metrics.ts'
import type { ProxyMetricsOptions } from '../../member/telemetry/metrics.ts'

export class ZtunnelMetrics extends ProxyMetrics {
  readonly #retries: BoundedCounter<'because'>
  readonly #egress: BoundedCounter<'namespace' | 'because'>
  readonly #skipped: BoundedCounter<'namespace'>
  readonly #ignoredClaims: BoundedCounter<'namespace'>

  constructor(options: ProxyMetricsOptions = {}) {
    super(options)
    this.#retries = this.counter('sidestep_connect_retries_total', 'Endpoints that failed and were replaced by another, by reason', ['because'])
    this.#egress = this.counter('sidestep_egress_total', 'Connections to destinations outside the mesh, by what was decided', ['namespace', 'because'], 1_000)
    this.#skipped = this.counter('sidestep_waypoint_skipped_total', 'Connections past a waypoint that was not ready, as its owner chose, by the namespace of the client', ['namespace'], 1_000)
    this.#ignoredClaims = this.counter('sidestep_source_claims_ignored_total', 'Tunnels whose peer named a source and is no waypoint before the pod, by the namespace of the pod', ['namespace'], 1_000)
  }

  /** An endpoint failed before a byte was sent, and another was tried. */
  retried(because: string): void {
    this.#retries.inc({ because })
  }

  /** `because` as src/policy/egress.ts has it. */
  egress(namespace: string, because: string): void {
    this.#egress.inc({ namespace, because })
  }

  watchLearned(read: () => number): void {
    this.gauge('sidestep_egress_learned', 'Destinations outside the mesh that were learned', read)
  }

  waypointSkipped(namespace: string): void {
    this.#skipped.inc({ namespace })
  }

  claimIgnored(namespace: string): void {
    this.#ignoredClaims.inc({ namespace })
  }
}
