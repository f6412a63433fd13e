// What a proxy of ours tells Prometheus: the registry and what ztunnels and waypoints both count. Further parts add their own by
// the functions at the end. Nothing outside the telemetry folders knows of Prometheus, and no label has an unbounded number of values.
import { Gauge, Histogram, Registry } from 'prom-client'
import { BoundedCounter } from './bounded-counter.ts'
import type { Reporter, TrafficLabels } from './labels.ts'
import { TrafficMetrics } from './traffic-metrics.ts'
import type { TrafficCounters } from './traffic-metrics.ts'

const defaultMaxLabelSets = 5_000
/** Seconds: from a tenth of a millisecond, which a hop on one node takes, to ten seconds, where attempts are given up. */
const secondsBuckets = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]

/** `connect`: TCP to the destination. `handshake`: TLS and HTTP/2. `tunnel`: until the CONNECT was answered. `firstByte`: from the accept. */
export type Stage = 'connect' | 'handshake' | 'tunnel' | 'firstByte'

export interface ProxyMetricsOptions {
  readonly maxLabelSets?: number
  /** Who counts traffic here: both sides of a ztunnel unless told. */
  readonly reporters?: readonly Reporter[]
  /** A monotonic clock in milliseconds. */
  readonly now?: () => number
}

export class ProxyMetrics {
  readonly registry = new Registry()
  readonly #traffic: TrafficMetrics
  readonly #stages: Histogram<'stage' | 'reporter'>
  readonly #refusals: BoundedCounter<'because'>
  readonly #shed: BoundedCounter<'because'>
  readonly #dryRun: BoundedCounter<'policy' | 'action'>

  constructor({ maxLabelSets = defaultMaxLabelSets, now = () => performance.now(), reporters = ['source', 'destination'] }: ProxyMetricsOptions = {}) {
    this.#traffic = new TrafficMetrics(this.registry, maxLabelSets, now, reporters)
    this.#stages = this.histogram('sidestep_connection_stage_seconds', 'Time to connect, to shake hands, to open a tunnel, and until the first byte came back', ['stage', 'reporter'])
    this.#refusals = this.counter('sidestep_refusals_total', 'Connections refused or not made, by reason', ['because'])
    this.#shed = this.counter('sidestep_shed_total', 'Work refused to protect the proxy, by the limit that was reached', ['because'])
    this.#dryRun = this.counter('sidestep_policy_dry_run_total', 'Connections or requests that a dry-run policy matched', ['policy', 'action'], 1_000)
  }

  opened(labels: TrafficLabels): TrafficCounters {
    return this.#traffic.opened(labels)
  }

  /** `because`: of a closed set. */
  failed(labels: TrafficLabels, because: string): void {
    this.#traffic.failed(labels)
    this.#refusals.inc({ because })
  }

  /** Refused before anything was known that labels could say. */
  refused(because: string): void {
    this.#refusals.inc({ because })
  }

  shed(because: string): void {
    this.#shed.inc({ because })
  }

  dryRun(hit: { readonly policy: string; readonly action: 'allow' | 'deny' }): void {
    this.#dryRun.inc({ policy: hit.policy, action: hit.action })
  }

  stage(stage: Stage, reporter: Reporter, seconds: number): void {
    this.#stages.observe({ stage, reporter }, seconds)
  }

  counter<Label extends string = never>(name: string, help: string, labelNames: readonly Label[], maxLabelSets?: number): BoundedCounter<Label> {
    return new BoundedCounter(this.registry, name, help, labelNames, maxLabelSets)
  }

  /** Of seconds. The labels must be of closed sets. */
  histogram<Label extends string = never>(name: string, help: string, labelNames: readonly Label[], buckets: readonly number[] = secondsBuckets): Histogram<Label> {
    return new Histogram({ name, help, labelNames: [...labelNames], buckets: [...buckets], registers: [this.registry] })
  }

  /** A number that is read when somebody asks. */
  gauge(name: string, help: string, read: () => number): void {
    const gauge: Gauge = new Gauge({ name, help, registers: [this.registry], collect: () => gauge.set(read()) })
  }

  /** Numbers by one label of a closed set, read when somebody asks; what is not named any more is gone. */
  gauges(name: string, help: string, label: string, read: () => Readonly<Record<string, number>>): void {
    const gauge: Gauge = new Gauge({
      name, help, labelNames: [label], registers: [this.registry],
      collect: () => {
        gauge.reset()
        for (const [value, count] of Object.entries(read())) gauge.set({ [label]: value }, count)
      },
    })
  }

  /** Numbers by several labels, read when somebody asks. Bounding their number is the reader's. */
  sampled<Label extends string>(name: string, help: string, labelNames: readonly Label[], read: () => readonly { readonly labels: Readonly<Record<Label, string>>; readonly value: number }[]): void {
    const gauge: Gauge<Label> = new Gauge({
      name, help, labelNames: [...labelNames], registers: [this.registry],
      collect: () => {
        gauge.reset()
        for (const { labels, value } of read()) gauge.set({ ...labels }, value)
      },
    })
  }
}
