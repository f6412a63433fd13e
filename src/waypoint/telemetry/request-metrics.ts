// Istio's HTTP metrics: name by name and label by label. Counting a request is one look-up by a short key and a handful of additions;
// Prometheus' objects and text are made only when somebody asks. The number of label sets is bounded, as histograms make each of
// them forty lines: those that nothing has used for ten minutes go first, and what is beyond counts as `other`.
import { Counter, Histogram } from 'prom-client'
import type { Registry } from 'prom-client'
import { requestKey, requestLabelNames, requestLabels } from './request-labels.ts'
import type { RequestFacts, RequestLabel, RequestLabels } from './request-labels.ts'

/** Milliseconds; Istio's up to ten minutes, where the longest sensible timeouts lie. */
const durationBuckets = [0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 600_000]
const byteBuckets = [100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000]
const forgetAfterMs = 600_000

/** Counts per bucket, not summed up; the last is what lies beyond all. */
class Buckets {
  readonly bounds: readonly number[]
  readonly counts: number[]
  sum = 0

  constructor(bounds: readonly number[]) {
    this.bounds = bounds
    this.counts = Array.from({ length: bounds.length + 1 }, () => 0)
  }

  add(value: number): void {
    this.sum += value
    let i = 0
    while (i < this.bounds.length && value > (this.bounds[i] ?? 0)) i++
    this.counts[i] = (this.counts[i] ?? 0) + 1
  }
}

interface Tally {
  readonly labels: RequestLabels
  readonly isFolded: boolean
  readonly duration: Buckets
  readonly request: Buckets
  readonly response: Buckets
  count: number
  requestMessages: number
  responseMessages: number
  usedAtMs: number
}

export interface RequestCounts {
  readonly durationMs: number
  readonly requestBytes: number
  readonly responseBytes: number
  /** Of gRPC. */
  readonly requestMessages: number
  readonly responseMessages: number
}

interface Sample {
  readonly labels: object
  readonly sharedLabels: RequestLabels
  readonly value: number
  readonly metricName?: string
}

/** prom-client renders `sharedLabels` once per object and metric, and there are two dozen labels. */
class TallyCounter extends Counter<RequestLabel> {
  readonly #name: string
  readonly #help: string
  readonly #samples: () => Sample[]

  constructor(registry: Registry, name: string, help: string, samples: () => Sample[]) {
    super({ name, help, labelNames: [...requestLabelNames], registers: [registry] })
    this.#name = name
    this.#help = help
    this.#samples = samples
  }

  override async get(): ReturnType<Counter<RequestLabel>['get']> {
    const values = this.#samples().map(({ sharedLabels, value }) => ({ labels: sharedLabels, value }))
    return { ...await super.get(), values }
  }

  getForPromString(): object {
    return { help: this.#help, name: this.#name, type: 'counter', values: this.#samples() }
  }
}

class TallyHistogram extends Histogram<RequestLabel> {
  readonly #name: string
  readonly #help: string
  readonly #of: () => Iterable<readonly [labels: RequestLabels, buckets: Buckets]>

  constructor(registry: Registry, name: string, help: string, of: () => Iterable<readonly [labels: RequestLabels, buckets: Buckets]>) {
    super({ name, help, labelNames: [...requestLabelNames], registers: [registry] })
    this.#name = name
    this.#help = help
    this.#of = of
  }

  getForPromString(): object {
    const values: Sample[] = []
    for (const [sharedLabels, { bounds, counts, sum }] of this.#of()) {
      let below = 0
      for (const [i, count] of counts.entries()) {
        below += count
        values.push({ labels: { le: bounds[i] ?? '+Inf' }, sharedLabels, value: below, metricName: `${this.#name}_bucket` })
      }
      values.push({ labels: {}, sharedLabels, value: sum, metricName: `${this.#name}_sum` })
      values.push({ labels: {}, sharedLabels, value: below, metricName: `${this.#name}_count` })
    }
    return { help: this.#help, name: this.#name, type: 'histogram', values }
  }
}

export interface RequestMetricsOptions {
  readonly maxLabelSets: number
  /** A monotonic clock in milliseconds. */
  readonly now: () => number
  /** A request was counted as `other`. */
  readonly onFolded: () => void
}

export class RequestMetrics {
  readonly #options: RequestMetricsOptions
  /** By the text of all labels. */
  readonly #tallies = new Map<string, Tally>()
  /** By requestKey, which is short; several may lead to one tally, since an object that changes is another object. */
  readonly #found = new Map<string, Tally>()

  constructor(registry: Registry, options: RequestMetricsOptions) {
    this.#options = options
    const all = (): Iterable<Tally> => this.#tallies.values()
    const counter = (name: string, help: string, read: (tally: Tally) => number, isShown: (tally: Tally) => boolean = () => true): void => {
      void new TallyCounter(registry, name, help, () => Array.from(all()).filter(isShown).map((tally) => ({ labels: {}, sharedLabels: tally.labels, value: read(tally) })))
    }
    const histogram = (name: string, help: string, read: (tally: Tally) => Buckets): void => {
      void new TallyHistogram(registry, name, help, () => Array.from(all(), (tally) => [tally.labels, read(tally)] as const))
    }
    const isGrpc = ({ labels }: Tally): boolean => labels.request_protocol === 'grpc'
    counter('istio_requests_total', 'Requests, each once, when its answer has ended', ({ count }) => count)
    histogram('istio_request_duration_milliseconds', 'From the head of the request to the end of its answer', ({ duration }) => duration)
    histogram('istio_request_bytes', 'Bytes of request bodies', ({ request }) => request)
    histogram('istio_response_bytes', 'Bytes of response bodies', ({ response }) => response)
    counter('istio_request_messages_total', 'Messages of gRPC requests', ({ requestMessages }) => requestMessages, isGrpc)
    counter('istio_response_messages_total', 'Messages of gRPC responses', ({ responseMessages }) => responseMessages, isGrpc)
  }

  record(facts: RequestFacts, counts: RequestCounts): void {
    const tally = this.#tallyOf(facts)
    if (tally.isFolded) this.#options.onFolded()
    tally.count++
    tally.duration.add(counts.durationMs)
    tally.request.add(counts.requestBytes)
    tally.response.add(counts.responseBytes)
    tally.requestMessages += counts.requestMessages
    tally.responseMessages += counts.responseMessages
  }

  #tallyOf(facts: RequestFacts): Tally {
    const key = requestKey(facts)
    let tally = this.#found.get(key)
    if (!tally) {
      tally = this.#tallyOfLabels(facts)
      if (this.#found.size >= 4 * this.#options.maxLabelSets) this.#found.clear()
      this.#found.set(key, tally)
    }
    tally.usedAtMs = this.#options.now()
    return tally
  }

  #tallyOfLabels(facts: RequestFacts): Tally {
    const labels = requestLabels(facts)
    const known = this.#tallies.get(textOf(labels))
    if (known) return known
    if (this.#tallies.size < this.#options.maxLabelSets || this.#forgetOne()) return this.#add(labels, false)
    const folded = foldedLabels(facts)
    return this.#tallies.get(textOf(folded)) ?? this.#add(folded, true)
  }

  #add(labels: RequestLabels, isFolded: boolean): Tally {
    const tally: Tally = {
      labels, isFolded, duration: new Buckets(durationBuckets), request: new Buckets(byteBuckets), response: new Buckets(byteBuckets),
      count: 0, requestMessages: 0, responseMessages: 0, usedAtMs: this.#options.now(),
    }
    this.#tallies.set(textOf(labels), tally)
    return tally
  }

  /** Looks at a few only, so that a flood of new label sets costs no more than what it is. */
  #forgetOne(): boolean {
    const before = this.#options.now() - forgetAfterMs
    let looked = 0
    for (const [key, tally] of this.#tallies) {
      if (tally.usedAtMs < before) {
        this.#found.clear()
        return this.#tallies.delete(key)
      }
      if (++looked === 16) return false
      // To the end, so that the next look is at others.
      this.#tallies.delete(key)
      this.#tallies.set(key, tally)
    }
    return false
  }
}

const textOf = (labels: RequestLabels): string => requestLabelNames.map((name) => labels[name]).join('\u0000')

const others = Object.fromEntries(requestLabelNames.map((name) => [name, 'other'])) as Record<RequestLabel, string>

/** A handful of sets more than the bound: by protocol and class of the status. */
function foldedLabels({ protocol, status }: RequestFacts): RequestLabels {
  return { ...others, reporter: 'waypoint', request_protocol: protocol, response_code: status === 0 ? '0' : `${Math.trunc(status / 100)}xx` }
}
