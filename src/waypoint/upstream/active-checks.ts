// Asks each endpoint of a cluster whether it is well, again and again: over the way that requests take, on connections of its
// own, a little out of step, and never with more questions under way than the gate lets through. What results mean is for
// others.
import type { Duplex } from 'node:stream'
import { MeshError } from '../../core/errors.ts'
import type { TrafficPolicy } from '../../model/route.ts'
import { nextProbeMs } from '../../policy/l7/active-check.ts'
import { openUpstream } from '../http/forward.ts'
import type { Upstream } from '../http/forward.ts'
import type { ClusterEndpoint, Protocol } from './endpoint.ts'
import type { UpstreamParts } from './parts.ts'
import { probeGrpc, probeHttp } from './probes.ts'

export type CheckRule = NonNullable<TrafficPolicy['activeCheck']>

/** So many questions at once, over all clusters; others wait in order. */
export class CheckGate {
  readonly #most: number
  readonly #waiting: (() => void)[] = []
  #running = 0

  constructor(most: number) {
    this.#most = most
  }

  async run(call: () => Promise<void>): Promise<void> {
    // Who waits is handed the place of who has finished.
    if (this.#running >= this.#most) await new Promise<void>((resolve) => this.#waiting.push(resolve))
    else this.#running++
    try {
      await call()
    } finally {
      const next = this.#waiting.shift()
      if (next) next()
      else this.#running--
    }
  }
}

export interface ChecksPlan {
  readonly rule: CheckRule
  readonly parts: Pick<UpstreamParts, 'clock' | 'random'>
  readonly gate: CheckGate
  readonly host: string
  readonly protocol: Protocol
  readonly connect: (endpoint: ClusterEndpoint, protocol: Protocol | 'opaque', signal: AbortSignal) => Promise<Duplex>
  readonly onResult: (endpoint: ClusterEndpoint, isGood: boolean) => void
}

export class ActiveChecks {
  readonly #plan: ChecksPlan
  readonly #watches = new Map<ClusterEndpoint, Watch>()

  constructor(plan: ChecksPlan) {
    this.#plan = plan
  }

  setEndpoints(endpoints: ReadonlyMap<string, ClusterEndpoint>): void {
    for (const [endpoint, watch] of this.#watches) {
      if (endpoints.get(endpoint.id) === endpoint) continue
      watch.stop()
      this.#watches.delete(endpoint)
    }
    for (const endpoint of endpoints.values()) {
      // A waypoint answers for itself, not for what is behind it.
      if (!endpoint.facts.isWaypoint && !this.#watches.has(endpoint)) this.#watches.set(endpoint, new Watch(endpoint, this.#plan))
    }
  }

  stop(): void {
    for (const watch of this.#watches.values()) watch.stop()
    this.#watches.clear()
  }
}

class Watch {
  readonly #endpoint: ClusterEndpoint
  readonly #plan: ChecksPlan
  readonly #ended = new AbortController()
  #upstream: Upstream | undefined
  #callOff: () => void = () => {}

  constructor(endpoint: ClusterEndpoint, plan: ChecksPlan) {
    this.#endpoint = endpoint
    this.#plan = plan
    void plan.gate.run(() => this.#ask())
  }

  stop(): void {
    this.#ended.abort()
    this.#callOff()
    this.#upstream?.destroy()
  }

  async #ask(): Promise<void> {
    if (this.#ended.signal.aborted) return
    const isGood = await this.#probe()
    if (this.#ended.signal.aborted) return
    if (isGood !== undefined) this.#plan.onResult(this.#endpoint, isGood)
    const { rule, parts, gate } = this.#plan
    this.#callOff = parts.clock.after(nextProbeMs(rule, parts.random()), () => void gate.run(() => this.#ask()))
  }

  /** Undefined where nothing was learned about the endpoint. */
  async #probe(): Promise<boolean | undefined> {
    const { rule, host } = this.#plan
    if (rule.kind === 'tcp') return this.#probeTcp()
    const failed = (error: MeshError): boolean | undefined => (isOurs(error) ? undefined : false)
    const ask = rule.kind === 'grpc' ? probeGrpc : probeHttp
    return ask(this.#connection(), rule, host, failed)
  }

  async #probeTcp(): Promise<boolean | undefined> {
    const { rule, parts, connect } = this.#plan
    const abort = new AbortController()
    const callOff = parts.clock.after(rule.timeoutMs, () => {
      abort.abort(new MeshError('CONNECT_TIMEOUT', 'no connection in time', { source: 'upstream' }))
    })
    const late = new Promise<never>((_, reject) => {
      abort.signal.addEventListener('abort', () => reject(abort.signal.reason))
    })
    const made = connect(this.#endpoint, 'opaque', abort.signal)
    try {
      const stream = await Promise.race([made, late])
      stream.destroy()
      return true
    } catch (error) {
      made.then((stream) => stream.destroy(), () => {
        // That is the error which is judged below.
      })
      return isOurs(error) ? undefined : false
    } finally {
      callOff()
    }
  }

  /** One connection, kept between questions if they come often enough. */
  #connection(): Upstream {
    const { rule, protocol, connect, parts } = this.#plan
    this.#upstream ??= openUpstream({
      protocol, clock: parts.clock, connectTimeoutMs: rule.timeoutMs,
      connect: (signal) => connect(this.#endpoint, protocol, signal),
      idleTimeoutMs: Math.max(1_000, rule.intervalMs * 2), maxConnections: 1,
    })
    return this.#upstream
  }
}

/** Our own certificates, limits or rights say nothing about the endpoint. */
function isOurs(error: unknown): boolean {
  return error instanceof MeshError && ['CERTIFICATE_UNAVAILABLE', 'OVERLOADED', 'POLICY_DENIED', 'CLOSED'].includes(error.code)
}
