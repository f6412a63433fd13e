// Which of a cluster's endpoints may be used: ejected for how they answer, or found ill by checks. Keeps `isUsable` of each
// endpoint right, takes ejected ones back when their time is over, and says what changed.
import type { Clock } from '../../core/clock.ts'
import type { TrafficPolicy } from '../../model/route.ts'
import { afterProbe, unknownHealth } from '../../policy/l7/active-check.ts'
import { OutlierDetector } from '../../policy/l7/outlier.ts'
import type { Ejection, Outcome } from '../../policy/l7/outlier.ts'
import type { ClusterEndpoint } from './endpoint.ts'
import type { ClusterName, UpstreamEvents } from './events.ts'

export interface StandingPlan {
  readonly cluster: ClusterName
  readonly clock: Clock
  readonly events: UpstreamEvents
  /** `isUsable` of some changed. */
  readonly onChange: () => void
}

/** Time of an ejection is exact to this. */
const finestMs = 20

export class Standing {
  readonly #plan: StandingPlan
  #endpoints: ReadonlyMap<string, ClusterEndpoint> = new Map()
  #detector: OutlierDetector | undefined
  #rule: TrafficPolicy['ejection']
  #isPanic = false
  #callOff: (() => void) | undefined

  constructor(plan: StandingPlan) {
    this.#plan = plan
  }

  get ejected(): number {
    let count = 0
    for (const { ejectedUntilMs } of this.#endpoints.values()) if (ejectedUntilMs > 0) count++
    return count
  }

  /** Another rule forgets what was learned under the old one. */
  setRule(rule: TrafficPolicy['ejection']): void {
    this.#rule = rule
    this.#detector = rule && new OutlierDetector(rule, this.#plan.clock.monotonicMs())
    this.#detector?.setEndpoints(this.#endpoints.keys())
    for (const endpoint of this.#endpoints.values()) endpoint.ejectedUntilMs = 0
    this.#update()
    this.#schedule()
  }

  setEndpoints(endpoints: ReadonlyMap<string, ClusterEndpoint>): void {
    this.#endpoints = endpoints
    this.#detector?.setEndpoints(endpoints.keys())
    this.#update()
  }

  report(endpoint: ClusterEndpoint, outcome: Outcome): void {
    if (!this.#detector || this.#endpoints.get(endpoint.id) !== endpoint) return
    const ejection = this.#detector.report(endpoint.id, outcome, this.#plan.clock.monotonicMs())
    if (ejection) this.#eject([ejection])
  }

  probed(endpoint: ClusterEndpoint, isGood: boolean, rule: NonNullable<TrafficPolicy['activeCheck']>): void {
    const before = endpoint.isWell
    endpoint.health = afterProbe(endpoint.health, isGood, rule)
    if (endpoint.isWell === before) return
    const { cluster, clock, events } = this.#plan
    // Back from illness it begins with little, as a new one.
    if (endpoint.isWell) endpoint.readySinceMs = clock.monotonicMs()
    events({ t: 'health', cluster, endpoint: endpoint.facts.address, isHealthy: endpoint.isWell })
    this.#update()
    this.#plan.onChange()
  }

  /** There are no checks any more: nobody is ill. */
  forgetHealth(): void {
    for (const endpoint of this.#endpoints.values()) endpoint.health = unknownHealth
    this.#update()
  }

  stop(): void {
    this.#callOff?.()
  }

  #eject(ejections: readonly Ejection[]): void {
    const { cluster, clock, events } = this.#plan
    for (const { endpoint: id, because, untilMs } of ejections) {
      const endpoint = this.#endpoints.get(id)
      if (!endpoint) continue
      endpoint.ejectedUntilMs = untilMs
      events({ t: 'ejected', cluster, endpoint: endpoint.facts.address, because, forMs: untilMs - clock.monotonicMs() })
    }
    this.#update()
    this.#schedule()
    this.#plan.onChange()
  }

  #sweep(): void {
    const detector = this.#detector
    if (!detector) return
    const { cluster, clock, events } = this.#plan
    const nowMs = clock.monotonicMs()
    const ejections = detector.sweep(nowMs)
    let isChanged = false
    for (const endpoint of this.#endpoints.values()) {
      if (endpoint.ejectedUntilMs === 0 || nowMs < endpoint.ejectedUntilMs) continue
      endpoint.ejectedUntilMs = 0
      isChanged = true
      events({ t: 'readmitted', cluster, endpoint: endpoint.facts.address })
    }
    if (ejections.length > 0) this.#eject(ejections)
    else if (isChanged) {
      this.#update()
      this.#plan.onChange()
    }
    this.#schedule()
  }

  #schedule(): void {
    this.#callOff?.()
    this.#callOff = undefined
    if (!this.#rule) return
    const nowMs = this.#plan.clock.monotonicMs()
    let nextMs = nowMs + this.#rule.intervalMs
    for (const { ejectedUntilMs } of this.#endpoints.values()) if (ejectedUntilMs > 0) nextMs = Math.min(nextMs, ejectedUntilMs)
    this.#callOff = this.#plan.clock.after(Math.max(finestMs, nextMs - nowMs), () => this.#sweep())
  }

  #update(): void {
    const isPanic = this.#detector?.isPanic === true
    for (const endpoint of this.#endpoints.values()) {
      endpoint.isUsable = endpoint.isWell && (isPanic || endpoint.ejectedUntilMs === 0)
    }
    if (isPanic === this.#isPanic) return
    this.#isPanic = isPanic
    this.#plan.events({ t: 'panic', cluster: this.#plan.cluster, isOn: isPanic })
  }
}
