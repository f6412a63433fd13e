// What brings a client back to the endpoint that it had: sessions that a route asks for, and consistent hashes that a policy
// asks for. Says what to look for before the choice and what to give the client after it.
import { randomBytes } from 'node:crypto'
import type { HttpRule, LoadBalancer } from '../../model/route.ts'
import { hashKeyOf } from '../../policy/l7/balancer/hash-source.ts'
import { hash32 } from '../../policy/l7/balancer/hash.ts'
import { parseCookies } from '../../policy/l7/request-head.ts'
import type { HeaderMap, RequestHead } from '../../policy/l7/request-head.ts'
import { SessionTokens } from '../../policy/l7/session-persistence.ts'
import type { SessionKeys } from '../../policy/l7/session-persistence.ts'
import type { Clock } from '../../core/clock.ts'

export interface Session {
  readonly tokens: SessionTokens
  readonly rule: NonNullable<HttpRule['sessionPersistence']>
  /** Where the client has been, if that is still there. */
  readonly endpoint: string | undefined
  readonly createdMs: number | undefined
  readonly isRefreshDue: boolean
}

export class Sessions {
  readonly #keys: SessionKeys
  readonly #clock: Clock
  readonly #tokens = new WeakMap<HttpRule, SessionTokens>()

  constructor(keys: SessionKeys, clock: Clock) {
    this.#keys = keys
    this.#clock = clock
  }

  /** Undefined where the rule asks for none. `ids` is a list that is never changed in place. */
  find(rule: HttpRule | undefined, head: RequestHead, ids: readonly string[]): Session | undefined {
    const persistence = rule?.sessionPersistence
    if (!rule || !persistence) return undefined
    let tokens = this.#tokens.get(rule)
    // The same name on every replica: the route's.
    if (!tokens) this.#tokens.set(rule, (tokens = new SessionTokens(this.#keys, `${rule.origin} ${rule.name}`, persistence)))
    const token = persistence.kind === 'cookie'
      ? parseCookies(head.headers.all('cookie')).get(persistence.name)
      : head.headers.get(persistence.name.toLowerCase())
    const found = tokens.read(token, ids, this.#clock.nowMs())
    return found.t === 'stick'
      ? { tokens, rule: persistence, endpoint: found.endpoint, createdMs: found.createdMs, isRefreshDue: found.isRefreshDue }
      : { tokens, rule: persistence, endpoint: undefined, createdMs: undefined, isRefreshDue: false }
  }

  /** The client is told where it was served, unless it knows. */
  tell(session: Session, endpoint: string, headers: HeaderMap, isSecure: boolean): void {
    const isKnown = session.endpoint === endpoint
    if (isKnown && !session.isRefreshDue) return
    const token = session.tokens.make(endpoint, this.#clock.nowMs(), isKnown ? session.createdMs : undefined)
    if (session.rule.kind === 'cookie') headers.append('set-cookie', session.tokens.cookie(token, isSecure))
    else headers.set(session.rule.name, token)
  }
}

export interface HashChoice {
  readonly hash: number
  /** A value of Set-Cookie that makes the next request hash alike. */
  readonly setCookie?: string
}

/** Undefined where the balancer asks for none, or the request has nothing to hash. */
export function hashChoice(balancer: LoadBalancer, head: RequestHead, sourceIp: string): HashChoice | undefined {
  if (balancer.kind !== 'consistentHash') return undefined
  const found = hashKeyOf(balancer.by, head, sourceIp, () => randomBytes(16).toString('hex'))
  return found.t === 'none' ? undefined : found
}

/** Of a connection, of which only the address is known. */
export function connectionHash(balancer: LoadBalancer, sourceIp: string): number | undefined {
  return balancer.kind === 'consistentHash' && balancer.by.kind === 'sourceIp' ? hash32(sourceIp) : undefined
}
