// Answers kept for others (RFC 9111), only for rules whose CachePolicy asks for it. Requests come here after they were
// authenticated, authorized and counted, and an answer is shown only to the identity that it was made for: what a backend, or the
// policies of its pod, decide by who asks stays theirs. Identical requests that find nothing wait for the first of them rather
// than ask, too.
import type { Clock } from '../../core/clock.ts'
import { invalidated, primaryKey, varyKey } from '../../policy/l7/cache/key.ts'
import { ageMs, decideUse, isNotModified, mayServeOnError, refreshedHeaders } from '../../policy/l7/cache/lookup.ts'
import { decideStore, isCacheableRequest } from '../../policy/l7/cache/storable.ts'
import type { CachePolicy } from '../../policy/l7/cache/storable.ts'
import { limitKey } from '../../policy/l7/limit-key.ts'
import type { HttpRule } from '../../model/route.ts'
import type { HeaderMap, RequestHead } from '../../policy/l7/request-head.ts'
import type { ForwardOutcome, ForwardPlan } from '../forwarding.ts'
import type { Request, Response } from '../http/message.ts'
import { noBody } from '../http/request-body.ts'
import type { ConnectionContext } from '../context.ts'
import { fingerprint } from '../router.ts'
import type { NamedFilter } from '../router.ts'
import { AnswerStore } from './answer-store.ts'
import type { KeptAnswer } from './answer-store.ts'
import { CollectingBody } from './collecting-body.ts'
import { silentRecord } from './mesh-call.ts'
import type { Passage } from './passage.ts'

export interface ResponseCacheOptions {
  readonly clock: Clock
  /** Of all kept answers; as much again may be on its way in. */
  readonly maxBytes: number
  /** How long an identical request waits for the one before it. */
  readonly waitMs?: number
}

export type CacheOutcome = ForwardOutcome | { readonly t: 'kept'; readonly response: Response & { t: 'response' } }
export type Send = (plan: ForwardPlan) => Promise<ForwardOutcome>

type CacheSpecOf = NamedFilter<'cache'>['spec']

/** Statuses whose answers get a default lifetime; others need one of their own. */
const defaultStatuses = [200, 203, 204, 300, 301, 308, 404, 410]
// What some backends look at beside the request's line: their answers could be for another path than the one that was asked for.
const overrides = ['x-http-method-override', 'x-http-method', 'x-method-override', 'x-original-url', 'x-rewrite-url']
/** Part of every key: what backends make links and origins of. */
const alwaysKeyed = ['forwarded', 'origin', 'x-forwarded-host', 'x-forwarded-port', 'x-forwarded-prefix', 'x-forwarded-proto']
const conditionals = ['if-none-match', 'if-modified-since', 'if-match', 'if-unmodified-since', 'if-range']
/** Of an answer with a body that a 304 has not. */
const representation = ['content-length', 'content-encoding', 'content-type', 'content-range']
const refreshTimeoutMs = 30_000
const uncollapsedMs = 5_000
const mostUncollapsed = 10_000

const policies = new WeakMap<CacheSpecOf, CachePolicy>()

function policyOf(spec: CacheSpecOf): CachePolicy {
  const known = policies.get(spec)
  if (known) return known
  const { defaultTtl, staleIfError, staleWhileRevalidate, maxBodyBytes } = spec
  const policy: CachePolicy = {
    heedsRequests: false, largestBodyBytes: maxBodyBytes,
    ...(defaultTtl !== undefined && defaultTtl > 0 && { microcache: { ttlMs: defaultTtl, statuses: defaultStatuses } }),
    ...(staleIfError !== undefined && { staleIfErrorMs: staleIfError }),
    ...(staleWhileRevalidate !== undefined && { staleWhileRevalidateMs: staleWhileRevalidate }),
  }
  policies.set(spec, policy)
  return policy
}

/** One request's business with the cache. */
export interface Lookup {
  readonly primary: string
  readonly variant: string
  /** As the client sent it, cleaned: what answers vary by. */
  readonly head: RequestHead
  /** The same, with a mark of credentials that the backend is not shown. */
  readonly judged: RequestHead
  readonly policy: CachePolicy
  readonly maxTtlMs: number
}

export class ResponseCache {
  readonly #clock: Clock
  readonly #waitMs: number
  readonly #maxBytes: number
  readonly #store: AnswerStore
  /** Requests that others wait for, resolved when there is something to look at, or will not be. */
  readonly #flights = new Map<string, Promise<void>>()
  /** What could not be kept a moment ago: nobody waits for that. */
  readonly #uncollapsed = new Map<string, number>()
  #collecting = 0

  constructor({ clock, maxBytes, waitMs = 5_000 }: ResponseCacheOptions) {
    this.#clock = clock
    this.#maxBytes = maxBytes
    this.#waitMs = waitMs
    this.#store = new AnswerStore(maxBytes)
  }

  get stats(): { readonly bytes: number; readonly answers: number } {
    return { bytes: this.#store.bytes, answers: this.#store.size }
  }

  /** To be called before the rule changes headers. Undefined for requests that are none of the cache's. */
  begin(passage: Passage, rule: HttpRule, { spec }: NamedFilter<'cache'>): Lookup | undefined {
    const { request, head, chain } = passage
    if (this.#maxBytes <= 0 || request.hasBody || request.upgrade !== undefined || request.isGrpc
      || !isCacheableRequest(head)) return undefined
    if (head.headers.has('range') || overrides.some((name) => head.headers.has(name))) return undefined
    const kept = { ...head, headers: head.headers.copy() }
    const judged = passage.hasCredentials && !kept.headers.has('authorization') ? { ...kept, headers: kept.headers.copy() } : kept
    if (judged !== kept) judged.headers.set('authorization', 'verified')
    const names = [...new Set([...alwaysKeyed, ...spec.varyOn.map((name) => name.toLowerCase())])].sort()
    return {
      primary: primaryKey(chain.key, head), head: kept, judged, policy: policyOf(spec),
      maxTtlMs: spec.maxTtl ?? Number.POSITIVE_INFINITY,
      variant: limitKey([fingerprint(rule), head.sourceIdentity, credentialKey(passage), varyKey(names, kept)]),
    }
  }

  /** From the store, or by `send`. */
  async answer(lookup: Lookup, plan: ForwardPlan, send: Send): Promise<CacheOutcome> {
    const flight = this.#flightKey(lookup)
    for (let round = 0; ; round++) {
      const stored = this.#store.find(lookup.primary, lookup.variant, lookup.head)
      const use = decideUse(stored, lookup.head, lookup.policy, this.#clock.nowMs())
      if (use.t === 'onlyIfCached') return { t: 'failed', status: 504, because: 'noBackend', message: 'there is no kept answer' }
      if (stored && (use.t === 'serve' || use.t === 'serveAndRevalidate')) {
        if (use.t === 'serveAndRevalidate' && !this.#flights.has(flight)) this.#refresh(lookup, flight, stored, plan, send)
        return this.#kept(lookup, stored, use.ageSeconds)
      }
      if (lookup.head.method !== 'GET') return send(plan)
      const pending = this.#flights.get(flight)
      if (!pending || round >= 3) return this.#ask(lookup, pending ? undefined : flight, stored, plan, send)
      if (!await this.#wait(pending, plan.request)) return this.#ask(lookup, undefined, stored, plan, send)
    }
  }

  /** An unsafe request that succeeded makes what was kept of its target worthless. */
  noteAnswer({ chain, head }: Passage, status: number, headers: HeaderMap): void {
    if (this.#store.size === 0 || head.method === 'GET' || head.method === 'HEAD') return
    for (const key of invalidated(
      chain.key, head, status, [headers.get('location'), headers.get('content-location')],
    )) this.#store.forget(key)
  }

  async #ask(
    lookup: Lookup, flight: string | undefined, stored: KeptAnswer | undefined, plan: ForwardPlan, send: Send,
  ): Promise<CacheOutcome> {
    const landed = flight !== undefined && !this.#isUncollapsed(flight) ? this.#takeOff(flight) : () => {}
    let isKeeping = false
    try {
      const { headers } = plan.head
      for (const name of conditionals) headers.delete(name)
      const use = decideUse(stored, lookup.head, lookup.policy, this.#clock.nowMs())
      if (use.t === 'revalidate') for (const [name, value] of use.conditions) headers.set(name, value)
      const requestedMs = this.#clock.nowMs()
      const outcome = await send(plan)
      const receivedMs = this.#clock.nowMs()
      if (outcome.t === 'upgraded') return outcome
      if (stored && mayServeOnError(stored, outcome.t === 'failed' ? undefined : outcome.status, lookup.policy, receivedMs)) {
        if (outcome.t === 'response') outcome.body?.destroy()
        return this.#kept(lookup, stored)
      }
      if (outcome.t === 'failed') return outcome
      if (stored && outcome.status === 304) {
        outcome.body?.destroy()
        return this.#kept(lookup, this.#refreshed(lookup, stored, outcome.headers, { requestedMs, receivedMs }))
      }
      const decision = decideStore(lookup.judged, outcome, lookup.policy)
      if (decision.t === 'pass') {
        if (flight !== undefined) this.#noteUncollapsed(flight)
        return outcome
      }
      const kept = outcome.headers.copy()
      for (const name of decision.without) kept.delete(name)
      const keep = (body: Buffer): void => {
        const answer: KeptAnswer = {
          status: outcome.status, headers: kept, body, vary: decision.vary, requestedMs, receivedMs,
          lifetimeMs: Math.min(decision.lifetimeMs, lookup.maxTtlMs),
        }
        this.#store.put(lookup.primary, lookup.variant, lookup.head, answer)
      }
      if (!outcome.body) {
        keep(Buffer.alloc(0))
        return outcome
      }
      isKeeping = true
      return { ...outcome, body: this.#collect(outcome, lookup.policy.largestBodyBytes, keep, landed) }
    } finally {
      if (!isKeeping) landed()
    }
  }

  /** The body goes on as it comes; what it was is kept when it has come whole. */
  #collect(
    outcome: ForwardOutcome & { t: 'response' }, mostBytes: number, keep: (body: Buffer) => void, landed: () => void,
  ): CollectingBody {
    let counted = 0
    return new CollectingBody(outcome.body ?? noBody(), {
      mayKeep: (bytes) => {
        if (counted + bytes > mostBytes || this.#collecting + bytes > this.#maxBytes) return false
        counted += bytes
        this.#collecting += bytes
        return true
      },
      done: (body) => {
        this.#collecting -= counted
        // Trailers are not kept, and an answer with them would not be whole.
        if (body && outcome.trailers() === undefined) keep(body)
        landed()
      },
    })
  }

  #kept({ head }: Lookup, stored: KeptAnswer, ageSeconds?: number): CacheOutcome {
    const headers = stored.headers.copy()
    headers.set('age', String(ageSeconds ?? this.#ageSeconds(stored)))
    if (isNotModified(head, stored)) {
      for (const name of representation) headers.delete(name)
      return { t: 'kept', response: { t: 'response', status: 304, headers } }
    }
    return {
      t: 'kept',
      response: { t: 'response', status: stored.status, headers, ...(stored.body.length > 0 && { body: stored.body }) },
    }
  }

  #ageSeconds(stored: KeptAnswer): number {
    return Math.floor(ageMs(stored, this.#clock.nowMs()) / 1000)
  }

  /** A kept answer that its server says is still right. */
  #refreshed(
    lookup: Lookup, stored: KeptAnswer, notModified: HeaderMap, times: Pick<KeptAnswer, 'requestedMs' | 'receivedMs'>,
  ): KeptAnswer {
    const headers = stored.headers.copy()
    const fresh = refreshedHeaders(notModified)
    for (const [name] of fresh) headers.delete(name)
    for (const [name, value] of fresh) headers.append(name, value)
    headers.delete('age')
    const decision = decideStore(lookup.judged, { status: stored.status, headers }, lookup.policy)
    const answer: KeptAnswer = {
      ...stored, ...times, headers, lifetimeMs: decision.t === 'store' ? Math.min(decision.lifetimeMs, lookup.maxTtlMs) : 0,
    }
    this.#store.remove(lookup.primary, lookup.variant, lookup.head, stored)
    if (decision.t === 'store') this.#store.put(lookup.primary, lookup.variant, lookup.head, { ...answer, vary: decision.vary })
    return answer
  }

  /** Beside the request that was answered with what is kept. Counts as no exchange. */
  #refresh(lookup: Lookup, flight: string, stored: KeptAnswer, plan: ForwardPlan, send: Send): void {
    const request = detached(plan.request, AbortSignal.timeout(refreshTimeoutMs))
    const own: ForwardPlan = { ...plan, request, record: silentRecord, head: { ...plan.head, headers: plan.head.headers.copy() } }
    this.#ask(lookup, flight, stored, own, send).then((outcome) => {
      if (outcome.t === 'response') outcome.body?.on('error', () => {}).resume()
    }, () => {
      // What is kept stays as it is, and the next request tries again.
    })
  }

  #takeOff(flight: string): () => void {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#flights.set(flight, promise)
    return () => {
      if (this.#flights.get(flight) === promise) this.#flights.delete(flight)
      resolve()
    }
  }

  /** Whether it came to its end in time. */
  async #wait(pending: Promise<void>, { signal }: Request): Promise<boolean> {
    const given = Promise.withResolvers<boolean>()
    const giveUp = (): void => given.resolve(false)
    const callOff = this.#clock.after(this.#waitMs, giveUp)
    signal.addEventListener('abort', giveUp, { once: true })
    void pending.then(() => given.resolve(true))
    try {
      return await given.promise
    } finally {
      callOff()
      signal.removeEventListener('abort', giveUp)
    }
  }

  /** Requests that are for the same answer, as far as it is known what answers vary by. */
  #flightKey({ primary, variant, head }: Lookup): string {
    const varies = this.#store.variesOf(primary).map((names) => varyKey(names, head))
    return [primary, variant, ...varies].join('\n\n')
  }

  #isUncollapsed(flight: string): boolean {
    const until = this.#uncollapsed.get(flight)
    if (until === undefined) return false
    if (until > this.#clock.monotonicMs()) return true
    this.#uncollapsed.delete(flight)
    return false
  }

  #noteUncollapsed(flight: string): void {
    if (this.#uncollapsed.size >= mostUncollapsed) this.#uncollapsed.clear()
    this.#uncollapsed.set(flight, this.#clock.monotonicMs() + uncollapsedMs)
  }
}

/** Claims may be in headers that the backend gets: two people never share an answer. */
function credentialKey({ token }: Passage): string | undefined {
  if (!token) return undefined
  const { iat: _, exp: __, nbf: ___, jti: ____, ...claims } = token.claims
  return limitKey([token.issuer, token.subject, JSON.stringify(claims)])
}

/** The same request again, with nobody behind it. */
function detached({ head, protocol, connection }: Request<ConnectionContext>, signal: AbortSignal): Request<ConnectionContext> {
  return {
    head, protocol, connection, signal, body: noBody(), hasBody: false, trailers: () => undefined, acceptsTrailers: false,
    isGrpc: false, inform() {},
  }
}
