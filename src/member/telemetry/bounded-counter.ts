// A Prometheus counter whose number of label sets is bounded, whatever words reach it: what is beyond is counted under
// `other`. For the few labels of our own metrics; the many of traffic are traffic-metrics.ts's.
import { Counter } from 'prom-client'
import type { Registry } from 'prom-client'

const other = 'other'

export class BoundedCounter<Label extends string = never> {
  readonly #counter: Counter<Label>
  readonly #labelNames: readonly Label[]
  readonly #maxLabelSets: number
  readonly #seen = new Set<string>()

  constructor(registry: Registry, name: string, help: string, labelNames: readonly Label[], maxLabelSets = 200) {
    this.#counter = new Counter({ name, help, labelNames: [...labelNames], registers: [registry] })
    this.#labelNames = labelNames
    this.#maxLabelSets = maxLabelSets
  }

  /** `value` of 0 makes the series appear, so that its first increase is seen as one. */
  inc(labels: Readonly<Record<Label, string>>, value = 1): void {
    this.#counter.inc(this.#bounded(labels), value)
  }

  #bounded(labels: Readonly<Record<Label, string>>): Readonly<Record<Label, string>> {
    if (this.#labelNames.length === 0) return labels
    const key = this.#labelNames.map((name) => labels[name]).join('\u0000')
    if (this.#seen.has(key)) return labels
    if (this.#seen.size < this.#maxLabelSets) {
      this.#seen.add(key)
      return labels
    }
    return Object.fromEntries(this.#labelNames.map((name) => [name, other])) as Record<Label, string>
  }
}
