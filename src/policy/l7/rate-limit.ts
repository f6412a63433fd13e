// How many requests somebody may make: GCRA (one number per key: the time at which the bucket would be empty again), and quotas
// per fixed window. Local decisions are exact within this process; across processes the same rules are asked of a shared store
// (limit-store.ts). Memory is bounded: the keys that were longest unused go first, which are those whose state says least.

/** A rate: so many per window, evenly, and at most `burst` at once (default: the whole limit). */
export interface RateRule {
  readonly kind: 'rate'
  /** Names it in headers, metrics and logs. */
  readonly name: string
  readonly limit: number
  readonly windowMs: number
  readonly burst?: number
}

/** A quota: so many per calendar window in UTC. */
export interface QuotaRule {
  readonly kind: 'quota'
  readonly name: string
  readonly limit: number
  readonly period: QuotaPeriod
}

export type QuotaPeriod = 'second' | 'minute' | 'hour' | 'day' | 'week' | 'month'
export type LimitRule = RateRule | QuotaRule

/** What a rule said of one request. */
export interface LimitState {
  readonly rule: LimitRule
  readonly isAllowed: boolean
  /** Whole requests that are left now, after this one if it was allowed. */
  readonly remaining: number
  /** Until all of it is there again (rate) or the window ends (quota). */
  readonly resetMs: number
  /** Until this request would be allowed; 0 if it was, Infinity if it never is. */
  readonly retryAfterMs: number
}

const dayMs = 86_400_000
const fixedMs = { second: 1_000, minute: 60_000, hour: 3_600_000, day: dayMs } as const

/** The window that contains the moment (milliseconds since 1970, UTC; weeks begin on Monday). */
export function quotaWindow(period: QuotaPeriod, nowMs: number): { readonly startMs: number; readonly endMs: number } {
  if (period === 'month') {
    const now = new Date(nowMs)
    return { startMs: Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), 1),
      endMs: Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + 1, 1) }
  }
  if (period === 'week') {
    // The first of January 1970 was a Thursday.
    const startMs = Math.floor((nowMs + 3 * dayMs) / (7 * dayMs)) * 7 * dayMs - 3 * dayMs
    return { startMs, endMs: startMs + 7 * dayMs }
  }
  const length = fixedMs[period]
  const startMs = Math.floor(nowMs / length) * length
  return { startMs, endMs: startMs + length }
}

/** Length for `RateLimit-Policy`; a month is the present one. */
export function windowMsOf(rule: LimitRule, nowMs: number): number {
  if (rule.kind === 'rate') return rule.windowMs
  const { startMs, endMs } = quotaWindow(rule.period, nowMs)
  return endMs - startMs
}

/** GCRA for one key: the state before (0 for none), and the state after if the request is made. */
export function gcra(rule: RateRule, before: number, nowMs: number, cost: number): LimitState & { readonly after: number } {
  const limit = Math.max(0, rule.limit)
  const burst = Math.max(limit > 0 ? 1 : 0, rule.burst ?? limit)
  if (limit === 0 || cost > burst) {
    return { rule, isAllowed: false, remaining: 0, resetMs: rule.windowMs, retryAfterMs: Number.POSITIVE_INFINITY, after: before }
  }
  const stepMs = rule.windowMs / limit
  const roomMs = burst * stepMs
  // A clock that went back must not lock a key out for longer than a full bucket takes.
  const base = Math.min(Math.max(before, nowMs), nowMs + roomMs)
  const after = base + cost * stepMs
  // At the size of milliseconds since 1970 a double is off by up to 0.00013, and each request of a burst adds its part.
  const slackMs = Math.min(stepMs / 10, burst * 0.000_13)
  const isAllowed = after - roomMs <= nowMs + slackMs
  const kept = isAllowed ? after : base
  return {
    rule, isAllowed, after: kept,
    remaining: Math.max(0, Math.floor((nowMs + roomMs - kept + slackMs) / stepMs)),
    resetMs: Math.max(0, kept - nowMs),
    retryAfterMs: isAllowed ? 0 : after - roomMs - nowMs,
  }
}

interface Entry {
  /** GCRA: theoretical arrival time. Quota: the window's start. */
  at: number
  used: number
}

export interface LimiterSettings {
  /** Keys over all rules. */
  readonly maxKeys: number
}

/** One rule applied to one key. */
export interface LimitUse {
  readonly rule: LimitRule
  /** Who or what is counted, from `limitKey`. */
  readonly key: string
  readonly cost?: number
}

export class LocalLimiter {
  readonly #maxKeys: number
  /** In the order of use, the longest unused first. */
  readonly #entries = new Map<string, Entry>()
  #forgotten = 0

  constructor({ maxKeys }: LimiterSettings) {
    this.#maxKeys = Math.max(1, maxKeys)
  }

  get size(): number {
    return this.#entries.size
  }

  /** Keys dropped for lack of room while they still counted: a metric, because each of them began anew. */
  get forgotten(): number {
    return this.#forgotten
  }

  /**
   * All or nothing: if one of the rules refuses, none of the others counts the request. Times are milliseconds since 1970.
   * The same rule with the same key twice counts once.
   */
  take(uses: readonly LimitUse[], nowMs: number): LimitState[] {
    const looked = uses.map((use) => this.#look(use, nowMs))
    if (looked.every(({ state }) => state.isAllowed)) for (const { id, next } of looked) this.#put(id, next, nowMs)
    // One rule refused: the others say what they would have left without this request.
    else return looked.map(({ state, unused }) => (state.isAllowed ? unused : state))
    return looked.map(({ state }) => state)
  }

  #look({ rule, key, cost = 1 }: LimitUse, nowMs: number): { id: string; state: LimitState; unused: LimitState; next: Entry } {
    const id = `${rule.name}\0${key}`
    const entry = this.#entries.get(id)
    if (rule.kind === 'rate') {
      const { after, ...state } = gcra(rule, entry?.at ?? 0, nowMs, cost)
      const { after: _, ...unused } = gcra(rule, entry?.at ?? 0, nowMs, 0)
      return { id, state, unused, next: { at: after, used: 0 } }
    }
    const { startMs, endMs } = quotaWindow(rule.period, nowMs)
    const used = entry?.at === startMs ? entry.used : 0
    const resetMs = endMs - nowMs
    const unused: LimitState = { rule, isAllowed: true, remaining: Math.max(0, Math.floor(rule.limit - used)), resetMs,
      retryAfterMs: 0 }
    if (used + cost > rule.limit) {
      const retryAfterMs = cost > rule.limit ? Number.POSITIVE_INFINITY : resetMs
      return { id, state: { ...unused, isAllowed: false, retryAfterMs }, unused, next: { at: startMs, used } }
    }
    const state = { ...unused, remaining: Math.max(0, Math.floor(rule.limit - used - cost)) }
    return { id, state, unused, next: { at: startMs, used: used + cost } }
  }

  #put(id: string, next: Entry, nowMs: number): void {
    // Deleting first puts it at the end of the order.
    if (!this.#entries.delete(id) && this.#entries.size >= this.#maxKeys) {
      for (const [oldest, entry] of this.#entries) {
        this.#entries.delete(oldest)
        if (entry.used > 0 || entry.at > nowMs) this.#forgotten++
        break
      }
    }
    this.#entries.set(id, next)
  }
}
