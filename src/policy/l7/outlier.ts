// Which endpoints are left out because of how they answer: consecutive errors, consecutive gateway errors, or a success rate far
// below that of the others. Each ejection lasts longer than the one before and good times shorten the next; never more than a
// share of the endpoints is out, and where too few are left all are used (panic): a policy must not take a service away.
import type { TrafficPolicy } from '../../model/route.ts'

export type EjectionRule = NonNullable<TrafficPolicy['ejection']>
export type EjectedBecause = 'consecutiveErrors' | 'consecutiveGatewayErrors' | 'successRate'

/** How one request ended, for this purpose. */
export type Outcome = 'success' | 'error' | 'gatewayError'

/** 5xx is an error; 502, 503, 504 and no answer at all are gateway errors too. */
export function outcomeOfStatus(status: number): Outcome {
  if (status >= 502 && status <= 504) return 'gatewayError'
  return status >= 500 ? 'error' : 'success'
}

interface Standing {
  errorsInRow: number
  gatewayErrorsInRow: number
  successes: number
  requests: number
  /** How often in a row it was ejected; the factor of the next one's time. */
  times: number
  ejectedUntilMs: number
  isEjected: boolean
}

/** Envoy's: fewer say nothing about a rate. */
const fewestRequests = 100
const fewestHosts = 5
const longestMs = 300_000

export interface Ejection {
  readonly endpoint: string
  readonly because: EjectedBecause
  readonly untilMs: number
}

export class OutlierDetector {
  readonly #rule: EjectionRule
  #endpoints = new Map<string, Standing>()
  #ejected = 0
  #sweptMs: number

  constructor(rule: EjectionRule, nowMs: number) {
    this.#rule = rule
    this.#sweptMs = nowMs
  }

  /** Those that exist now; others are forgotten, so memory follows the service. */
  setEndpoints(endpoints: Iterable<string>): void {
    const kept = new Map<string, Standing>()
    for (const endpoint of endpoints) kept.set(endpoint, this.#endpoints.get(endpoint) ?? fresh())
    this.#endpoints = kept
    this.#ejected = 0
    for (const record of kept.values()) if (record.isEjected) this.#ejected++
  }

  /** Counts one answer; returns the ejection that it caused. Answers of unknown endpoints count for nothing. */
  report(endpoint: string, outcome: Outcome, nowMs: number): Ejection | undefined {
    const record = this.#endpoints.get(endpoint)
    if (!record) return undefined
    record.requests++
    if (outcome === 'success') {
      record.successes++
      record.errorsInRow = record.gatewayErrorsInRow = 0
      return undefined
    }
    record.errorsInRow++
    record.gatewayErrorsInRow = outcome === 'gatewayError' ? record.gatewayErrorsInRow + 1 : 0
    const { consecutiveErrors, consecutiveGatewayErrors } = this.#rule
    if (consecutiveGatewayErrors > 0 && record.gatewayErrorsInRow >= consecutiveGatewayErrors) {
      return this.#eject(endpoint, record, 'consecutiveGatewayErrors', nowMs)
    }
    if (consecutiveErrors > 0
      && record.errorsInRow >= consecutiveErrors) return this.#eject(endpoint, record, 'consecutiveErrors', nowMs)
    return undefined
  }

  /** To be called about every interval: takes back those whose time is over and compares success rates. */
  sweep(nowMs: number): Ejection[] {
    for (const record of this.#endpoints.values()) this.#readmit(record, nowMs)
    if (nowMs - this.#sweptMs < this.#rule.intervalMs) return []
    this.#sweptMs = nowMs
    const ejections = this.#bySuccessRate(nowMs)
    for (const record of this.#endpoints.values()) {
      if (!record.isEjected && nowMs - record.ejectedUntilMs >= this.#rule.intervalMs && record.times > 0) record.times--
      record.successes = record.requests = 0
    }
    return ejections
  }

  isEjected(endpoint: string, nowMs: number): boolean {
    const record = this.#endpoints.get(endpoint)
    return record !== undefined && record.isEjected && nowMs < record.ejectedUntilMs
  }

  /**
   * Fewer than the wanted share is left: ejections are to be ignored. Exact as of the last sweep; one comparison, for every
   * pick.
   */
  get isPanic(): boolean {
    const { size } = this.#endpoints
    return this.#ejected > 0 && (size - this.#ejected) * 100 < this.#rule.minHealthPercent * size
  }

  #readmit(record: Standing, nowMs: number): void {
    if (!record.isEjected || nowMs < record.ejectedUntilMs) return
    record.isEjected = false
    this.#ejected--
    record.errorsInRow = record.gatewayErrorsInRow = record.successes = record.requests = 0
  }

  #eject(endpoint: string, record: Standing, because: EjectedBecause, nowMs: number): Ejection | undefined {
    record.errorsInRow = record.gatewayErrorsInRow = 0
    this.#readmit(record, nowMs)
    if (record.isEjected) return undefined
    // One may always go out where any may, as in Envoy; a service of one keeps its endpoint.
    const most = Math.max(1, Math.floor((this.#endpoints.size * this.#rule.maxPercent) / 100))
    if (this.#rule.maxPercent <= 0 || this.#endpoints.size < 2) return undefined
    if (this.#ejected >= most) for (const other of this.#endpoints.values()) this.#readmit(other, nowMs)
    if (this.#ejected >= most) return undefined
    record.isEjected = true
    record.times++
    record.ejectedUntilMs = nowMs + Math.min(this.#rule.baseMs * record.times, Math.max(this.#rule.baseMs, longestMs))
    this.#ejected++
    return { endpoint, because, untilMs: record.ejectedUntilMs }
  }

  #bySuccessRate(nowMs: number): Ejection[] {
    const factor = this.#rule.successRateStdevFactor
    if (factor === undefined || factor <= 0) return []
    const rated: { readonly endpoint: string; readonly record: Standing; readonly rate: number }[] = []
    for (const [endpoint, record] of this.#endpoints) {
      if (!record.isEjected
        && record.requests >= fewestRequests) rated.push({ endpoint, record, rate: record.successes / record.requests })
    }
    if (rated.length < fewestHosts) return []
    const mean = rated.reduce((sum, { rate }) => sum + rate, 0) / rated.length
    const stdev = Math.sqrt(rated.reduce((sum, { rate }) => sum + (rate - mean) ** 2, 0) / rated.length)
    const threshold = mean - factor * stdev
    // The worst first, should there not be room for all.
    return rated.filter(({ rate }) => rate < threshold).sort((a, b) => a.rate - b.rate)
      .flatMap(({ endpoint, record }) => this.#eject(endpoint, record, 'successRate', nowMs) ?? [])
  }
}

function fresh(): Standing {
  return { errorsInRow: 0, gatewayErrorsInRow: 0, successes: 0, requests: 0, times: 0, ejectedUntilMs: 0, isEjected: false }
}
