// Istio's TCP metrics: name by name and label by label, so that dashboards made for Istio work. Counting is a plain addition
// on a tally that a connection finds once; Prometheus' objects and the bytes of live connections are looked at only when
// somebody asks. The number of tallies is bounded: those that nothing uses go first, and what is beyond is `other`.
import { Counter, Gauge } from 'prom-client'
import type { Registry } from 'prom-client'
import { trafficLabelNames } from './labels.ts'
import type { Reporter, TrafficLabel, TrafficLabels } from './labels.ts'

/** A label set without connections may be forgotten after this long; to Prometheus it then ends as a removed pod's does. */
const forgetAfterMs = 600_000

interface Tally {
  readonly labels: TrafficLabels
  opened: number
  closed: number
  failed: number
  /** Istio's words are the server's: received are the bytes from the source, sent those from the destination. */
  received: number
  sent: number
  usedAtMs: number
}
type Count = 'opened' | 'closed' | 'failed' | 'received' | 'sent'

/** Bytes so far, from the source and from the destination; never less than before. */
export type ReadBytes = () => readonly [fromSource: number, fromDestination: number]

/** One connection's part in the counters. */
export interface TrafficCounters {
  readonly labels: TrafficLabels
  /** Where its bytes are read whenever somebody asks for metrics, until it is closed. */
  follow(read: ReadBytes): void
  /** Once, with the bytes in all. */
  closed(fromSource: number, fromDestination: number): void
}

class OpenConnection implements TrafficCounters {
  readonly #tally: Tally
  readonly #open: Set<OpenConnection>
  readonly #now: () => number
  #read: ReadBytes | undefined
  #fromSource = 0
  #fromDestination = 0

  constructor(tally: Tally, open: Set<OpenConnection>, now: () => number) {
    this.#tally = tally
    this.#open = open
    this.#now = now
  }

  get labels(): TrafficLabels {
    return this.#tally.labels
  }

  follow(read: ReadBytes): void {
    this.#read = read
    this.#open.add(this)
  }

  sample(): void {
    if (this.#read) this.#count(...this.#read())
  }

  closed(fromSource: number, fromDestination: number): void {
    this.#count(fromSource, fromDestination)
    this.#open.delete(this)
    this.#tally.closed++
    this.#tally.usedAtMs = this.#now()
  }

  #count(fromSource: number, fromDestination: number): void {
    // A counter never goes back, whatever it is told.
    this.#tally.received += Math.max(0, fromSource - this.#fromSource)
    this.#tally.sent += Math.max(0, fromDestination - this.#fromDestination)
    this.#fromSource = Math.max(this.#fromSource, fromSource)
    this.#fromDestination = Math.max(this.#fromDestination, fromDestination)
  }
}

/** Shows one number of each tally. prom-client renders `sharedLabels` once per object, and there are two dozen labels. */
class TallyCounter extends Counter<TrafficLabel> {
  readonly #name: string
  readonly #help: string
  readonly #values: () => { readonly labels: TrafficLabels; readonly value: number }[]

  constructor(registry: Registry, name: string, help: string, values: () => { readonly labels: TrafficLabels; readonly value: number }[]) {
    super({ name, help, labelNames: [...trafficLabelNames], registers: [registry] })
    this.#name = name
    this.#help = help
    this.#values = values
  }

  override async get(): ReturnType<Counter<TrafficLabel>['get']> {
    const { aggregator, collect } = await super.get()
    return { help: this.#help, name: this.#name, type: 'counter' as never, aggregator, collect, values: this.#values() }
  }

  getForPromString(): object {
    const values = this.#values().map(({ labels, value }) => ({ value, labels: {}, sharedLabels: labels }))
    return { help: this.#help, name: this.#name, type: 'counter', values }
  }
}

/** Label sets are as a rule the same objects again. */
const keys = new WeakMap<TrafficLabels, string>()

function keyOf(labels: TrafficLabels): string {
  let key = keys.get(labels)
  if (key === undefined) keys.set(labels, (key = trafficLabelNames.map((name) => labels[name]).join('\u0000')))
  return key
}

export class TrafficMetrics {
  readonly #maxLabelSets: number
  readonly #now: () => number
  readonly #tallies = new Map<string, Tally>()
  readonly #open = new Set<OpenConnection>()
  readonly #folded: Counter

  /** `now`: a monotonic clock in milliseconds. `reporters`: who may count here. */
  constructor(registry: Registry, maxLabelSets: number, now: () => number, reporters: readonly Reporter[]) {
    this.#maxLabelSets = maxLabelSets
    this.#now = now
    const show = (count: Count, name: string, help: string): void => void new TallyCounter(registry, name, help, () => this.#values(count))
    show('opened', 'istio_tcp_connections_opened_total', 'Connections opened')
    show('closed', 'istio_tcp_connections_closed_total', 'Connections closed')
    show('failed', 'istio_tcp_connections_failed_total', 'Connections that were refused or could not be made')
    show('sent', 'istio_tcp_sent_bytes_total', 'Bytes from the destination to the source, those of open connections included')
    show('received', 'istio_tcp_received_bytes_total', 'Bytes from the source to the destination, those of open connections included')
    const sockets = new Gauge({
      name: 'istio_tcp_sockets_open', help: 'Connections that are open', labelNames: ['reporter'], registers: [registry],
      collect: () => {
        const open = new Map<string, number>(reporters.map((reporter) => [reporter, 0]))
        for (const { labels, opened, closed } of this.#tallies.values()) open.set(labels.reporter, (open.get(labels.reporter) ?? 0) + opened - closed)
        for (const [reporter, count] of open) sockets.set({ reporter }, count)
      },
    })
    this.#folded = new Counter({ name: 'sidestep_metrics_folded_total', help: 'Connections counted under other labels, to bound their number', registers: [registry] })
  }

  opened(labels: TrafficLabels): TrafficCounters {
    const tally = this.#tallyOf(labels)
    tally.opened++
    return new OpenConnection(tally, this.#open, this.#now)
  }

  failed(labels: TrafficLabels): void {
    this.#tallyOf(labels).failed++
  }

  #values(count: Count): { labels: TrafficLabels; value: number }[] {
    if (count === 'sent' || count === 'received') for (const connection of this.#open) connection.sample()
    const values: { labels: TrafficLabels; value: number }[] = []
    for (const tally of this.#tallies.values()) {
      if (count === 'failed' ? tally.failed > 0 : tally.opened > 0) values.push({ labels: tally.labels, value: tally[count] })
    }
    return values
  }

  #tallyOf(labels: TrafficLabels): Tally {
    const key = keyOf(labels)
    const known = this.#tallies.get(key)
    if (known) {
      known.usedAtMs = this.#now()
      return known
    }
    if (this.#tallies.size < this.#maxLabelSets || this.#forgetOne()) return this.#add(key, labels)
    this.#folded.inc()
    const { reporter, request_protocol, response_flags, connection_security_policy } = labels
    // A handful of sets more than the bound: the labels kept here are of small closed sets.
    const folded = { ...others, reporter, request_protocol, response_flags, connection_security_policy }
    const foldedKey = `other\u0000${reporter}\u0000${response_flags}\u0000${connection_security_policy}`
    return this.#tallies.get(foldedKey) ?? this.#add(foldedKey, folded)
  }

  #add(key: string, labels: TrafficLabels): Tally {
    const tally = { labels, opened: 0, closed: 0, failed: 0, received: 0, sent: 0, usedAtMs: this.#now() }
    this.#tallies.set(key, tally)
    return tally
  }

  /** Looks at a few only, so that a flood of new label sets costs no more than what it is. */
  #forgetOne(): boolean {
    const before = this.#now() - forgetAfterMs
    let looked = 0
    for (const [key, tally] of this.#tallies) {
      if (tally.opened === tally.closed && tally.usedAtMs < before) return this.#tallies.delete(key)
      if (++looked === 16) return false
      // To the end, so that the next look is at others.
      this.#tallies.delete(key)
      this.#tallies.set(key, tally)
    }
    return false
  }
}

const others = Object.fromEntries(trafficLabelNames.map((name) => [name, 'other'])) as Record<TrafficLabel, string>
