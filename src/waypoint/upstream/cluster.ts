// The endpoints of one target and everything that is counted together for it: limits, the line of those who wait, the budget of
// retries, health, balancing, connections. Follows the mesh and the policy; what is under way when something changes is
// finished.
import { isDeepStrictEqual } from 'node:util'
import type { Duplex } from 'node:stream'
import { MeshError } from '../../core/errors.ts'
import type { Identity } from '../../core/identity.ts'
import type { TrafficPolicy } from '../../model/route.ts'
import type { AppProtocol, Service } from '../../model/workload.ts'
import { CircuitBreaker } from '../../policy/l7/circuit-breaker.ts'
import type { Outcome as Judged } from '../../policy/l7/outlier.ts'
import { RetryBudget } from '../../policy/l7/retry-budget.ts'
import { openUpstream } from '../http/forward.ts'
import type { Upstream } from '../http/forward.ts'
import { ActiveChecks } from './active-checks.ts'
import type { CheckGate } from './active-checks.ts'
import { Attempt } from './attempt.ts'
import type { AttemptOwner } from './attempt.ts'
import { connectTo } from './connector.ts'
import { ClusterEndpoint } from './endpoint.ts'
import type { Protocol } from './endpoint.ts'
import type { Facts, NoFacts } from './endpoint-facts.ts'
import type { ClusterName, ClusterStats, UpstreamEvents } from './events.ts'
import type { UpstreamLimits, UpstreamParts } from './parts.ts'
import { Standing } from './standing.ts'
import { Tiers } from './tiers.ts'
import { WaitingLine } from './waiting-line.ts'

/** What a cluster is made for. */
export interface ClusterSource {
  readonly name: ClusterName
  /** The host that it is, for TLS, for checks and for people. */
  readonly host: string
  readonly service: () => Service | undefined
  readonly policy: () => TrafficPolicy
  readonly facts: (policy: TrafficPolicy) => Facts
  /** An endpoint that is no longer listed, but not gone: it goes on for its sessions. */
  readonly isDraining: (endpoint: ClusterEndpoint) => boolean
}

export interface ClusterContext {
  readonly parts: UpstreamParts
  readonly limits: UpstreamLimits
  readonly events: UpstreamEvents
  readonly checkGate: CheckGate
}

/** What a request wants of an endpoint. */
export interface Wanted {
  readonly takesConnection: boolean
  readonly hash: number | undefined
  /** An endpoint's id: its session's. */
  readonly sticky: string | undefined
  readonly tried: ReadonlySet<string> | undefined
}

/** As many connections as one pool of HTTP/2 may have; each carries a hundred requests or more. */
const mostHttp2 = 64

export class Cluster implements AttemptOwner {
  readonly name: ClusterName
  readonly host: string
  readonly breaker: CircuitBreaker
  readonly line: WaitingLine<Attempt>
  policy: TrafficPolicy
  budget: RetryBudget
  appProtocol: AppProtocol = 'unknown'
  /** Why there are no endpoints, where there are none. */
  none: NoFacts | undefined
  /** Of all endpoints, those that drain included; never changed in place. */
  ids: readonly string[] = []
  usedMs: number
  readonly #source: ClusterSource
  readonly #context: ClusterContext
  readonly #standing: Standing
  #tiers: Tiers<ClusterEndpoint>
  #endpoints = new Map<string, ClusterEndpoint>()
  #draining = new Map<string, ClusterEndpoint>()
  #checks: ActiveChecks | undefined
  /** Requests that have a connection for themselves. */
  #busy = 0
  #connections = 0
  #isFirst = true
  #isClosed = false

  constructor(source: ClusterSource, context: ClusterContext) {
    const { parts, limits, events } = context
    this.#source = source
    this.#context = context
    this.name = source.name
    this.host = source.host
    this.policy = source.policy()
    this.usedMs = parts.clock.monotonicMs()
    this.breaker = new CircuitBreaker(this.policy.limits)
    this.budget = new RetryBudget(this.policy.retryBudget)
    this.#tiers = this.#newTiers()
    this.line = new WaitingLine({
      clock: parts.clock, waitMs: limits.queueMs, breaker: this.breaker,
      onFailFast: (isOn) => events({ t: 'failFast', cluster: this.name, isOn }),
    })
    this.#standing = new Standing({ cluster: this.name, clock: parts.clock, events, onChange: () => this.#healthChanged() })
    this.#standing.setRule(this.policy.ejection)
    this.refresh()
    this.#startChecks()
  }

  get service(): Service | undefined {
    return this.#source.service()
  }

  nowMs(): number {
    return this.#context.parts.clock.monotonicMs()
  }

  get hasUsable(): boolean {
    return this.#tiers.usable > 0
  }

  /** No endpoint that may come would do. */
  get isHopeless(): boolean {
    return this.none === 'subsetBehindWaypoint'
  }

  get isChecked(): boolean {
    return this.#checks !== undefined
  }

  /** An endpoint with its place taken; undefined where there is none now. */
  begin({ takesConnection, hash, sticky, tried }: Wanted): Attempt | undefined {
    if (takesConnection && this.#busy >= this.policy.limits.connections) return undefined
    const endpoint = this.#ofSession(sticky, tried) ?? this.#tiers.pick(this.nowMs(), hash, tried)
    if (!endpoint) return undefined
    if (takesConnection) this.#busy++
    return new Attempt(this, endpoint, this.#tiers.balancerOf(endpoint), takesConnection)
  }

  attemptEnded(attempt: Attempt): void {
    if (!attempt.takesConnection) return
    this.#busy--
    this.line.serve()
  }

  report(endpoint: ClusterEndpoint, outcome: Judged): void {
    this.#standing.report(endpoint, outcome)
  }

  /** To be asked again whenever the policy may be another. */
  checkPolicy(policy: TrafficPolicy): void {
    const before = this.policy
    if (policy === before) return
    this.policy = policy
    if (isDeepStrictEqual(policy, before)) return
    const isOther = (...keys: readonly (keyof TrafficPolicy)[]): boolean =>
      keys.some((key) => !isDeepStrictEqual(policy[key], before[key]))
    this.breaker.limits = policy.limits
    if (isOther('retryBudget')) this.budget = new RetryBudget(policy.retryBudget)
    if (isOther('loadBalancer', 'slowStartMs', 'localityFailover')) this.#tiers = this.#newTiers()
    if (isOther('ejection')) this.#standing.setRule(policy.ejection)
    if (isOther('connectTimeoutMs', 'idleTimeoutMs', 'tls', 'limits', 'isHttp2Wanted')) this.retirePools()
    this.refresh()
    if (isOther('activeCheck', 'tls', 'connectTimeoutMs', 'isHttp2Wanted')) this.#startChecks()
  }

  /** The mesh has changed. */
  refresh(): void {
    if (this.#isClosed) return
    const facts = this.#source.facts(this.policy)
    const listed = facts.t === 'endpoints' ? facts.endpoints : []
    const nowMs = this.nowMs()
    const next = new Map<string, ClusterEndpoint>()
    for (const each of listed) {
      const known = this.#endpoints.get(each.id) ?? this.#draining.get(each.id)
      if (known?.adopt(each)) {
        if (known.isDraining) known.readySinceMs = nowMs
        known.isDraining = false
        this.#draining.delete(each.id)
        next.set(each.id, known)
      } else next.set(each.id, new ClusterEndpoint(each, this.#open, this.#isFirst ? undefined : nowMs))
    }
    for (const endpoint of [...this.#endpoints.values(), ...this.#draining.values()]) {
      if (next.get(endpoint.id) === endpoint) continue
      endpoint.isDraining = true
      this.#draining.delete(endpoint.id)
      if (!next.has(endpoint.id) && this.#source.isDraining(endpoint)) this.#draining.set(endpoint.id, endpoint)
      else endpoint.retirePools()
    }
    this.appProtocol = facts.appProtocol
    this.none = facts.t === 'none' ? facts.because : undefined
    if (next.size > 0) this.#isFirst = false
    this.#endpoints = next
    this.ids = [...next.keys(), ...this.#draining.keys()]
    this.#standing.setEndpoints(next)
    this.#tiers.update([...next.values()])
    this.#checks?.setEndpoints(next)
    this.line.serve()
  }

  /** New requests get new connections. */
  retirePools(): void {
    for (const endpoint of this.#all()) endpoint.retirePools()
  }

  /** Connections that rest and pools that are not used. */
  sweep(): void {
    const sinceMs = this.nowMs() - this.policy.idleTimeoutMs
    for (const endpoint of this.#all()) endpoint.closeIdle(sinceMs)
  }

  /** A stream for one caller alone: bytes that nobody looks into. */
  connect(
    endpoint: ClusterEndpoint, source: Identity | undefined, protocol: Protocol | 'opaque', signal: AbortSignal,
    more: OwnConnection = {},
  ): Promise<Duplex> {
    if (this.#connections >= this.policy.limits.connections && !this.#makeRoom()) {
      this.#context.events({ t: 'breaker', cluster: this.name, because: 'connections' })
      const text = 'the destination has as many connections as it may have'
      return Promise.reject(new MeshError('OVERLOADED', text, { detail: { because: 'connections' } }))
    }
    this.#connections++
    return this.#connect(endpoint, source, protocol, signal, more)
  }

  stats(): ClusterStats {
    let pools = 0
    let inPools = 0
    for (const endpoint of this.#all()) {
      pools += endpoint.pools
      inPools += endpoint.totals().pending
    }
    const { breaker, line } = this
    return {
      ...this.name, active: breaker.used('requests'), pending: line.size + inPools, connections: this.#connections,
      retries: breaker.used('retries'),
      callers: breaker.callers, endpoints: this.#endpoints.size, usable: this.#tiers.usable, ejected: this.#standing.ejected,
      draining: this.#draining.size, pools, isFailingFast: line.isFailingFast, policy: this.policy,
    }
  }

  /** Nothing is under way, and nobody asked for so long. */
  isUnused(sinceMs: number): boolean {
    const isIdle = this.breaker.used('requests') === 0 && this.#connections === 0 && this.line.size === 0
    return isIdle && this.usedMs <= sinceMs && !this.isChecked
  }

  /** Gracefully; `cut`: with everything that is under way. */
  close(cut: boolean): void {
    this.#isClosed = true
    this.#checks?.stop()
    this.#standing.stop()
    this.line.close()
    for (const endpoint of this.#all()) {
      if (cut) endpoint.destroy()
      else endpoint.retirePools()
    }
  }

  *#all(): IterableIterator<ClusterEndpoint> {
    yield* this.#endpoints.values()
    yield* this.#draining.values()
  }

  #ofSession(id: string | undefined, tried: ReadonlySet<string> | undefined): ClusterEndpoint | undefined {
    if (id === undefined || tried?.has(id)) return undefined
    const endpoint = this.#endpoints.get(id) ?? this.#draining.get(id)
    return endpoint?.isUsable ? endpoint : undefined
  }

  #newTiers(): Tiers<ClusterEndpoint> {
    const { loadBalancer, slowStartMs } = this.policy
    return new Tiers({ loadBalancer, slowStartMs, random: this.#context.parts.random })
  }

  #startChecks(): void {
    this.#checks?.stop()
    this.#checks = undefined
    const { activeCheck } = this.policy
    if (!activeCheck) {
      this.#standing.forgetHealth()
      this.#healthChanged()
      return
    }
    const isHttp2 = activeCheck.kind === 'grpc' || this.appProtocol === 'http2' || this.appProtocol === 'grpc'
    this.#checks = new ActiveChecks({
      rule: activeCheck,
      parts: this.#context.parts,
      gate: this.#context.checkGate,
      host: this.host,
      protocol: isHttp2 || this.policy.isHttp2Wanted === true ? 'http2' : 'http1',
      connect: (endpoint, protocol, signal) => this.#dial(endpoint, undefined, protocol, signal, {}),
      onResult: (endpoint, isGood) => this.#standing.probed(endpoint, isGood, activeCheck),
    })
    this.#checks.setEndpoints(this.#endpoints)
  }

  #healthChanged(): void {
    this.#tiers.healthChanged()
    this.line.serve()
  }

  readonly #open = (endpoint: ClusterEndpoint, source: Identity | undefined, protocol: Protocol): Upstream => {
    const { limits, connectTimeoutMs, idleTimeoutMs } = this.policy
    return openUpstream({
      protocol,
      clock: this.#context.parts.clock,
      connect: (signal) => this.connect(endpoint, source, protocol, signal),
      connectTimeoutMs,
      idleTimeoutMs,
      maxConnections: protocol === 'http1' ? limits.connections : Math.min(limits.connections, mostHttp2),
      requestsPerConnection: limits.requestsPerConnection,
    })
  }

  async #connect(...[endpoint, source, protocol, signal, more]: DialArguments): Promise<Duplex> {
    const { parts, events } = this.#context
    const startedMs = parts.clock.monotonicMs()
    try {
      const stream = await this.#dial(endpoint, source, protocol, signal, more)
      stream.once('close', this.#onConnectionClosed)
      if (stream.closed) this.#onConnectionClosed()
      events({ t: 'connected', cluster: this.name, durationMs: parts.clock.monotonicMs() - startedMs })
      return stream
    } catch (error) {
      this.#onConnectionClosed()
      events({ t: 'connectFailed', cluster: this.name, because: error instanceof MeshError ? error.code : 'CONNECT_FAILED' })
      throw error
    }
  }

  #dial(...[{ facts }, source, protocol, signal, more]: DialArguments): Promise<Duplex> {
    const { tls, connectTimeoutMs } = this.policy
    // The waypoint that is passed judges us, not who asked us; and it is its part to begin TLS.
    const forWhom = facts.isWaypoint ? { source: undefined, tls: undefined } : { source, tls }
    const plan = { way: facts.way, ...forWhom, host: this.host, protocol, timeoutMs: connectTimeoutMs, ...more }
    return connectTo(plan, this.#context.parts, signal)
  }

  readonly #onConnectionClosed = (): void => {
    this.#connections--
  }

  /** One caller's resting connections must not keep another out. */
  #makeRoom(): boolean {
    for (const endpoint of this.#all()) if (endpoint.closeIdle(Number.POSITIVE_INFINITY) > 0) return true
    return false
  }
}

type DialArguments = [
  endpoint: ClusterEndpoint, source: Identity | undefined, protocol: Protocol | 'opaque', signal: AbortSignal,
  more: OwnConnection,
]

export interface OwnConnection {
  readonly client?: Parameters<typeof connectTo>[0]['client']
  readonly traceParent?: Parameters<typeof connectTo>[0]['traceParent']
}
