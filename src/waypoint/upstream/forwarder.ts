// The upstream side of a waypoint or gateway as the phases see it: finds the cluster of a target and hands over. What a waypoint
// sends anywhere goes through here.
import type { Duplex } from 'node:stream'
import { MeshError } from '../../core/errors.ts'
import type { Backend, DestinationPolicy, HttpRule } from '../../model/route.ts'
import { serviceKey } from '../../model/workload.ts'
import type { RequestHead } from '../../policy/l7/request-head.ts'
import type { ConnectionContext } from '../context.ts'
import type { BackendTarget, ForwardOutcome, ForwardPlan, Forwarder } from '../forwarding.ts'
import type { ExchangeReason, ExchangeRecord } from '../record.ts'
import { CheckGate } from './active-checks.ts'
import { Sessions } from './affinity.ts'
import { Clusters } from './clusters.ts'
import type { ClusterAnswer } from './clusters.ts'
import type { ClusterStats } from './events.ts'
import { Exchange } from './exchange.ts'
import type { ExchangeContext } from './exchange.ts'
import { Mirrors } from './mirrors.ts'
import type { MirrorPlan } from './mirrors.ts'
import { connectOpaque } from './opaque.ts'
import { defaultUpstreamLimits } from './parts.ts'
import type { UpstreamParts } from './parts.ts'
import { ReplayRoom } from './replay-body.ts'

type NoCluster = Extract<ClusterAnswer, { t: 'none' }>['because']

interface Refusal {
  readonly status: number
  readonly because: ExchangeReason
  readonly message: string
}

const refusals: Readonly<Record<NoCluster, Refusal>> = {
  unknownSubset: { status: 503, because: 'noBackend', message: 'the subset is not defined' },
  foreignHost: { status: 421, because: 'noBackend', message: 'the host is not one of the service' },
  tooManyHosts: { status: 503, because: 'overloaded', message: 'too many hosts are in use' },
}

export class UpstreamForwarder implements Forwarder {
  readonly #parts: UpstreamParts
  readonly #clusters: Clusters
  readonly #mirrors: Mirrors
  readonly #context: ExchangeContext

  constructor(parts: UpstreamParts) {
    const limits = { ...defaultUpstreamLimits, ...parts.limits }
    const events = parts.events ?? (() => {})
    this.#parts = parts
    this.#clusters = new Clusters({ parts, limits, events, checkGate: new CheckGate(limits.checks) })
    this.#mirrors = new Mirrors(parts, limits, events)
    const sessions = new Sessions(parts.sessionKeys, parts.clock)
    this.#context = { parts, events, sessions, room: new ReplayRoom(limits.replayBytes) }
  }

  forward(plan: ForwardPlan): Promise<ForwardOutcome> {
    const found = this.#clusters.find(plan.to, plan.head.authority)
    if (found.t === 'cluster') return new Exchange(plan, found.cluster, this.#context).run()
    const refusal = refusals[found.because]
    plan.record.because(refusal.because, found.because)
    plan.request.body.destroy()
    return Promise.resolve({ t: 'failed', ...refusal })
  }

  mirror(plan: MirrorPlan, body: Uint8Array | undefined): void {
    const found = this.#clusters.find(plan.to, plan.head.authority)
    if (found.t === 'cluster') this.#mirrors.send(plan, found.cluster, body)
  }

  async connect(to: BackendTarget, context: ConnectionContext, record: ExchangeRecord, signal: AbortSignal): Promise<Duplex> {
    const found = this.#clusters.find(to, context.serverName)
    if (found.t === 'cluster') return await connectOpaque(found.cluster, context, record, this.#parts.clock, signal)
    const { because, message } = refusals[found.because]
    record.because(because, found.because)
    const code = because === 'overloaded' ? 'OVERLOADED' : 'NO_HEALTHY_UPSTREAM'
    throw new MeshError(code, message, { detail: { because: found.because } })
  }

  /** Which of a rule's backends a client's session belongs to: it goes before their weights. Undefined without one that holds. */
  sessionBackend(rule: HttpRule, head: RequestHead): Backend | undefined {
    if (!rule.sessionPersistence || rule.action.t !== 'forward') return undefined
    const { store } = this.#parts
    return rule.action.backends.find(({ service: name, port, subset, broken, weight }) => {
      const service = broken === undefined && weight > 0 ? store.service(serviceKey(name)) : undefined
      if (!service) return false
      const found = this.#clusters.find({ t: 'service', service, port, ...(subset !== undefined && { subset }) }, undefined)
      return found.t === 'cluster' && this.#context.sessions.find(rule, head, found.cluster.ids)?.endpoint !== undefined
    })
  }

  /** To be called when destination policies or secrets have changed, with all policies: their active checks begin. */
  policiesChanged(policies: Iterable<DestinationPolicy>): void {
    this.#clusters.policiesChanged(policies)
  }

  stats(): readonly ClusterStats[] {
    return [...this.#clusters.all()].map((cluster) => cluster.stats())
  }

  /** Bytes of requests that are kept to be sent again, and copies under way: over all clusters. */
  get held(): { readonly replayBytes: number; readonly mirrors: number } {
    return { replayBytes: this.#context.room.used, mirrors: this.#mirrors.running }
  }

  /** Connections end after what is under way; `cut`: at once. Requests that come after it find nobody. */
  close({ cut }: { readonly cut: boolean }): void {
    this.#clusters.close(cut)
  }
}
