// One endpoint of a cluster: what is known of its health, and its connections, kept apart by whom they are for and what they
// speak. They end with the endpoint: gracefully, what is under way is finished.
import { formatIdentity } from '../../core/identity.ts'
import type { Identity } from '../../core/identity.ts'
import { isUsable, unknownHealth } from '../../policy/l7/active-check.ts'
import type { CheckState } from '../../policy/l7/active-check.ts'
import type { Upstream } from '../http/forward.ts'
import type { EndpointFacts } from './endpoint-facts.ts'
import type { TieredEndpoint } from './tiers.ts'

export type Protocol = 'http1' | 'http2'

/** Who is behind a connection, as one word; '' for who has no identity. */
export function callerOf(source: Identity | undefined): string {
  if (!source) return ''
  let name = names.get(source)
  if (name === undefined) names.set(source, (name = formatIdentity(source)))
  return name
}

const names = new WeakMap<Identity, string>()

export type OpenPool = (endpoint: ClusterEndpoint, source: Identity | undefined, protocol: Protocol) => Upstream

interface Pool {
  readonly upstream: Upstream
  usedMs: number
}

export class ClusterEndpoint implements TieredEndpoint {
  readonly id: string
  facts: EndpointFacts
  weight: number
  tier: number
  readySinceMs?: number
  isUsable = true
  health: CheckState = unknownHealth
  ejectedUntilMs = 0
  /** Requests under way. */
  active = 0
  /** Takes nothing but what belongs to a session that it has. */
  isDraining = false
  readonly #open: OpenPool
  readonly #http1 = new Map<string, Pool>()
  readonly #http2 = new Map<string, Pool>()

  constructor(facts: EndpointFacts, open: OpenPool, readySinceMs?: number) {
    this.id = facts.id
    this.facts = facts
    this.weight = facts.weight
    this.tier = facts.tier
    this.#open = open
    if (readySinceMs !== undefined) this.readySinceMs = readySinceMs
  }

  /** False where it is another endpoint under the same name. */
  adopt(facts: EndpointFacts): boolean {
    if (!isSameWay(this.facts, facts)) return false
    this.facts = facts
    this.weight = facts.weight
    this.tier = facts.tier
    return true
  }

  /** Whether requests may go there, but for ejection. */
  get isWell(): boolean {
    return isUsable(this.health)
  }

  pool(source: Identity | undefined, protocol: Protocol, nowMs: number): Upstream {
    const pools = protocol === 'http1' ? this.#http1 : this.#http2
    const caller = callerOf(source)
    let pool = pools.get(caller)
    if (!pool) pools.set(caller, (pool = { upstream: this.#open(this, source, protocol), usedMs: nowMs }))
    pool.usedMs = nowMs
    return pool.upstream
  }

  get pools(): number {
    return this.#http1.size + this.#http2.size
  }

  /** Connections and requests that wait for one. */
  totals(): { readonly connections: number; readonly pending: number } {
    let connections = 0
    let pending = 0
    for (const pools of [this.#http1, this.#http2]) {
      for (const { upstream } of pools.values()) {
        const { stats } = upstream
        connections += stats.connections
        pending += stats.pending
      }
    }
    return { connections, pending }
  }

  /** Pools that nobody used since then. Returns how many connections end with them. */
  closeIdle(sinceMs: number): number {
    let closed = 0
    for (const pools of [this.#http1, this.#http2]) {
      for (const [caller, { upstream, usedMs }] of pools) {
        const { active, pending, connections } = upstream.stats
        if (usedMs > sinceMs || active > 0 || pending > 0) continue
        pools.delete(caller)
        closed += connections
        void upstream.close()
      }
    }
    return closed
  }

  /** What is under way is finished, what comes gets connections of its own. */
  retirePools(): void {
    for (const pools of [this.#http1, this.#http2]) {
      for (const { upstream } of pools.values()) void upstream.close()
      pools.clear()
    }
  }

  destroy(): void {
    for (const pools of [this.#http1, this.#http2]) {
      for (const { upstream } of pools.values()) upstream.destroy()
      pools.clear()
    }
  }
}

function isSameWay({ way: a }: EndpointFacts, { way: b }: EndpointFacts): boolean {
  if (a.to.ip !== b.to.ip || a.to.port !== b.to.port) return false
  if (a.t === 'plain' || b.t === 'plain') return a.t === b.t
  return JSON.stringify([a.authority, a.identities]) === JSON.stringify([b.authority, b.identities])
}
