// The one of two that will probably answer first: round-trip time, quick to rise and slow to fall, times requests under way
// (Finagle's and Linkerd's peak EWMA). An endpoint that fails fast would look like the best of all, so a failure counts as a
// slow answer: five seconds, or as long as the endpoint asked to be left alone.
import { Sampler, type Balancer, type Endpoint, type PickRequest, type SlowStart } from './balancer.ts'

export interface PeakEwmaRule extends SlowStart {
  /** After this time an old measurement weighs 1/e. */
  readonly decayMs?: number
  /** Assumed of an endpoint that never answered. */
  readonly defaultRttMs?: number
  readonly penaltyMs?: number
}

interface Load {
  active: number
  rttMs: number
  atMs: number
  isMeasured: boolean
}

export type CallEnd =
  | { readonly t: 'answered' }
  /** An error, a 429 or 503, RESOURCE_EXHAUSTED or UNAVAILABLE; with what Retry-After or pushback said. */
  | { readonly t: 'failed'; readonly retryAfterMs?: number }
  /** The client went away: says nothing about the endpoint. */
  | { readonly t: 'cancelled' }

const longestPenaltyMs = 300_000

export class PeakEwmaBalancer implements Balancer {
  readonly #sampler: Sampler
  readonly #decayMs: number
  readonly #defaultRttMs: number
  readonly #penaltyMs: number
  #loads = new Map<string, Load>()

  constructor({ slowStartMs, decayMs = 10_000, defaultRttMs = 30, penaltyMs = 5_000 }: PeakEwmaRule) {
    this.#sampler = new Sampler(slowStartMs)
    this.#decayMs = decayMs
    this.#defaultRttMs = defaultRttMs
    this.#penaltyMs = penaltyMs
  }

  update(endpoints: readonly Endpoint[]): void {
    const fresh = (): Load => ({ active: 0, rttMs: this.#defaultRttMs, atMs: 0, isMeasured: false })
    this.#loads = new Map(endpoints.map(({ id }) => [id, this.#loads.get(id) ?? fresh()]))
    this.#sampler.update(endpoints)
  }

  pick(request: PickRequest): Endpoint | undefined {
    const first = this.#sampler.sample(request)
    if (!first || this.#sampler.endpoints.length === 1) return first
    const second = this.#sampler.sample(request, first)
    if (!second) return first
    return this.#cost(second, request.nowMs) < this.#cost(first, request.nowMs) ? second : first
  }

  begin(id: string): void {
    const load = this.#loads.get(id)
    if (load) load.active++
  }

  /** `rttMs` until the first byte of the answer. */
  end(id: string, rttMs: number, end: CallEnd, nowMs: number): void {
    const load = this.#loads.get(id)
    if (!load) return
    if (load.active > 0) load.active--
    if (end.t === 'cancelled') return
    const penalty = end.t === 'failed' ? Math.min(longestPenaltyMs, Math.max(this.#penaltyMs, end.retryAfterMs ?? 0)) : 0
    this.#observe(load, Math.max(0, rttMs, penalty), nowMs)
  }

  /** Expected time for one more request, in milliseconds. */
  cost(id: string, nowMs: number): number {
    const load = this.#loads.get(id)
    return load ? this.#rtt(load, nowMs) * (load.active + 1) : Number.POSITIVE_INFINITY
  }

  #cost(endpoint: Endpoint, nowMs: number): number {
    const load = this.#loads.get(endpoint.id)
    // Weight makes room for requests under way; it does not make an answer faster.
    return load ? this.#rtt(load, nowMs) * (1 + load.active / this.#sampler.relativeWeight(endpoint)) : Number.POSITIVE_INFINITY
  }

  #observe(load: Load, rttMs: number, nowMs: number): void {
    if (!load.isMeasured || rttMs > this.#rtt(load, nowMs)) load.rttMs = rttMs
    else {
      const keep = Math.exp(-Math.max(0, nowMs - load.atMs) / this.#decayMs)
      load.rttMs = load.rttMs * keep + rttMs * (1 - keep)
    }
    load.isMeasured = true
    load.atMs = nowMs
  }

  /** Left alone, a bad endpoint slowly looks like a new one, so that it is tried again. */
  #rtt(load: Load, nowMs: number): number {
    if (load.rttMs <= this.#defaultRttMs) return load.rttMs
    const keep = Math.exp(-Math.max(0, nowMs - load.atMs) / this.#decayMs)
    return this.#defaultRttMs + (load.rttMs - this.#defaultRttMs) * keep
  }
}
