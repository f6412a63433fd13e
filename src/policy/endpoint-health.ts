// What this node learned about endpoints by connecting to them: an endpoint that fails several times running is left out
// for a while, longer each time, and one that is new or back takes its share gradually. Only remembers; load-balance.ts
// decides, and ignores all of this when too many are out. The clock is handed in.
import type { WorkloadStore } from '../model/workload-store.ts'

export interface EndpointHealthOptions {
  /** Milliseconds, only ever growing. */
  readonly now: () => number
  /** Consecutive connect failures that eject; default 3. */
  readonly failuresToEject?: number
  /** Length of the first ejection, default 5 s; doubles with each further one. */
  readonly baseEjectionMs?: number
  /** Default 5 min. */
  readonly maxEjectionMs?: number
  /** How long a new or returned endpoint grows to its full share; default 10 s, 0 for at once. */
  readonly slowStartMs?: number
}

interface Health {
  failures: number
  /** Ejections that still count towards the length of the next. */
  ejections: number
  ejectedUntilMs: number
}

/** The smallest share of its weight that an endpoint gets in slow start. */
const smallestShare = 0.1

export class EndpointHealth {
  readonly #now: () => number
  readonly #failuresToEject: number
  readonly #baseEjectionMs: number
  readonly #maxEjectionMs: number
  readonly #slowStartMs: number
  // By workload and then by target port: a closed port says nothing about the others of its pod.
  readonly #health = new Map<string, Map<number, Health>>()
  readonly #startedMs = new Map<string, number>()
  #lastEjectionEndMs = Number.NEGATIVE_INFINITY

  constructor(options: EndpointHealthOptions) {
    this.#now = options.now
    this.#failuresToEject = options.failuresToEject ?? 3
    this.#baseEjectionMs = options.baseEjectionMs ?? 5000
    this.#maxEjectionMs = options.maxEjectionMs ?? 300_000
    this.#slowStartMs = options.slowStartMs ?? 10_000
  }

  /** False if every endpoint can be taken at its weight: nobody is ejected, nobody starts slowly. */
  get isActive(): boolean {
    this.#dropStarted()
    return this.#startedMs.size > 0 || this.#now() < this.#lastEjectionEndMs
  }

  /** A connection could not be made. True if this ejected the endpoint. */
  recordFailure(uid: string, port: number): boolean {
    const now = this.#now()
    let ports = this.#health.get(uid)
    if (!ports) this.#health.set(uid, (ports = new Map()))
    let health = ports.get(port)
    if (!health) ports.set(port, (health = { failures: 0, ejections: 0, ejectedUntilMs: Number.NEGATIVE_INFINITY }))
    if (now < health.ejectedUntilMs) return false
    health.failures++
    if (health.failures < this.#failuresToEject) return false
    // Time spent in service since the last ejection is forgiven, one step per base time.
    const servedMs = now - health.ejectedUntilMs
    const ejections = Math.max(0, health.ejections - Math.floor(servedMs / this.#baseEjectionMs))
    health.ejections = ejections + 1
    health.ejectedUntilMs = now + Math.min(this.#maxEjectionMs, this.#baseEjectionMs * 2 ** Math.min(ejections, 30))
    // When it is back, one more failure is enough.
    health.failures = this.#failuresToEject - 1
    this.#lastEjectionEndMs = Math.max(this.#lastEjectionEndMs, health.ejectedUntilMs + this.#slowStartMs)
    return true
  }

  /** A connection was made. */
  recordSuccess(uid: string, port: number): void {
    const ports = this.#health.get(uid)
    const health = ports?.get(port)
    if (!ports || !health) return
    health.failures = 0
    const servedMs = this.#now() - health.ejectedUntilMs
    if (servedMs < Math.max(this.#slowStartMs, health.ejections * this.#baseEjectionMs)) return
    ports.delete(port)
    if (ports.size === 0) this.#health.delete(uid)
  }

  /** An endpoint appeared: it starts slowly. Not to be called for those known from the beginning. */
  recordNew(uid: string): void {
    this.#startedMs.delete(uid)
    if (this.#slowStartMs > 0) this.#startedMs.set(uid, this.#now())
  }

  /** The workload is gone, or is another one now. */
  forget(uid: string): void {
    this.#health.delete(uid)
    this.#startedMs.delete(uid)
  }

  isEjected(uid: string, port: number): boolean {
    const health = this.#health.get(uid)?.get(port)
    return health !== undefined && this.#now() < health.ejectedUntilMs
  }

  /** Share of its weight that the endpoint gets now: 0.1 to 1. */
  share(uid: string, port: number): number {
    if (this.#slowStartMs === 0) return 1
    const appearedMs = this.#startedMs.get(uid) ?? Number.NEGATIVE_INFINITY
    const returnedMs = this.#health.get(uid)?.get(port)?.ejectedUntilMs ?? Number.NEGATIVE_INFINITY
    const grown = (this.#now() - Math.max(appearedMs, returnedMs)) / this.#slowStartMs
    return grown >= 1 ? 1 : Math.max(smallestShare, grown)
  }

  /** Endpoints that are out now, for status and metrics. */
  ejected(): { readonly uid: string; readonly port: number; readonly untilMs: number }[] {
    const now = this.#now()
    return [...this.#health]
      .flatMap(([uid, ports]) => [...ports].map(([port, health]) => ({ uid, port, untilMs: health.ejectedUntilMs })))
      .filter(({ untilMs }) => now < untilMs)
  }

  #dropStarted(): void {
    const before = this.#now() - this.#slowStartMs
    for (const [uid, started] of this.#startedMs) {
      // Recorded in the order of time.
      if (started > before) return
      this.#startedMs.delete(uid)
    }
  }
}

/** Keeps to what the mesh says: to be called once the first state is there. Returns how to stop. */
export function followStore(health: EndpointHealth, store: WorkloadStore): () => void {
  return store.onChange((changes) => {
    for (const change of changes) {
      if (change.t === 'workloadAdded') health.recordNew(change.workload.uid)
      else if (change.t === 'workloadRemoved') health.forget(change.workload.uid)
      else if (change.t === 'workloadChanged' && change.isAddressChanged) health.forget(change.after.uid)
    }
  })
}
