// What a ztunnel tells Prometheus: Istio's TCP metrics by name and label, and histograms of our own. The number of label
// sets is bounded, because pods come and go for years: beyond the bound a connection is counted under `other`.
import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import { trafficLabelNames } from './labels.ts'
import type { TrafficLabel, TrafficLabels } from './labels.ts'

const defaultMaxLabelSets = 5_000
/** Seconds: from a tenth of a millisecond, which a hop on one node takes, to ten seconds, where attempts are given up. */
const secondsBuckets = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]

export type Stage = 'connect' | 'handshake' | 'firstByte'

/** Counters of one connection's labels, resolved once when it opens: adding bytes is then a plain addition. */
export interface TrafficCounters {
  readonly labels: TrafficLabels
  addBytes(fromSource: number, fromDestination: number): void
  closed(): void
}

export class ZtunnelMetrics {
  readonly registry = new Registry()
  readonly #maxLabelSets: number
  readonly #seen = new Set<string>()
  readonly #opened = this.#counter('istio_tcp_connections_opened_total', 'Connections opened')
  readonly #closed = this.#counter('istio_tcp_connections_closed_total', 'Connections closed')
  readonly #failed = this.#counter('istio_tcp_connections_failed_total', 'Connections that were refused or could not be made')
  // Istio's words are the server's: sent are the bytes of the response, received those of the request.
  readonly #sent = this.#counter('istio_tcp_sent_bytes_total', 'Bytes from the destination to the source')
  readonly #received = this.#counter('istio_tcp_received_bytes_total', 'Bytes from the source to the destination')
  readonly #stages: Histogram<'stage' | 'reporter'>
  readonly #refusals: Counter<'because'>
  readonly #folded: Counter

  constructor(maxLabelSets = defaultMaxLabelSets) {
    this.#maxLabelSets = maxLabelSets
    const registers = [this.registry]
    this.#stages = new Histogram({
      name: 'sidestep_connection_stage_seconds', help: 'Time to connect, to shake hands, and until the first byte came back',
      labelNames: ['stage', 'reporter'], buckets: secondsBuckets, registers,
    })
    this.#refusals = new Counter({ name: 'sidestep_refusals_total', help: 'Connections refused, by reason', labelNames: ['because'], registers })
    this.#folded = new Counter({ name: 'sidestep_metrics_folded_total', help: 'Connections counted under other labels, to bound their number', registers })
  }

  #counter(name: string, help: string): Counter<TrafficLabel> {
    return new Counter({ name, help, labelNames: [...trafficLabelNames], registers: [this.registry] })
  }

  opened(wanted: TrafficLabels): TrafficCounters {
    const labels = this.#bounded(wanted)
    this.#opened.inc(labels)
    return {
      labels,
      addBytes: (fromSource, fromDestination) => {
        if (fromSource > 0) this.#received.inc(labels, fromSource)
        if (fromDestination > 0) this.#sent.inc(labels, fromDestination)
      },
      closed: () => this.#closed.inc(labels),
    }
  }

  failed(wanted: TrafficLabels, because: string): void {
    this.#failed.inc(this.#bounded(wanted))
    this.#refusals.inc({ because })
  }

  stage(stage: Stage, reporter: TrafficLabels['reporter'], seconds: number): void {
    this.#stages.observe({ stage, reporter }, seconds)
  }

  /** A number that is read when somebody asks. */
  gauge(name: string, help: string, read: () => number): void {
    const gauge: Gauge = new Gauge({ name, help, registers: [], collect: () => gauge.set(read()) })
    this.registry.registerMetric(gauge)
  }

  #bounded(labels: TrafficLabels): TrafficLabels {
    const key = trafficLabelNames.map((name) => labels[name]).join('\u0000')
    if (this.#seen.has(key)) return labels
    if (this.#seen.size < this.#maxLabelSets) {
      this.#seen.add(key)
      return labels
    }
    this.#folded.inc()
    const { reporter, request_protocol, response_flags, connection_security_policy } = labels
    const others = Object.fromEntries(trafficLabelNames.map((name) => [name, 'other'])) as Record<TrafficLabel, string>
    return { ...others, reporter, request_protocol, response_flags, connection_security_policy }
  }
}
