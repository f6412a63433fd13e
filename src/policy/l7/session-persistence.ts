// Sticky sessions: a token that brings a client back to its endpoint, as a cookie or a header.
//
// The token is opaque and tamper-evident. Opaque, because an address in a cookie tells strangers about the cluster;
// tamper-evident, because a client that could write tokens could choose its pod and keep a session beyond its time. It is
//   base64url( id[12] | created[4] | seen[4] | mac[16] )
// where `id` is a keyed hash of route and endpoint (equal for all replicas, which share the key, and meaningless to others) and
// `mac` covers everything and the route, so a token of one route is nothing to another. Keys rotate: the first makes tokens,
// all are accepted. A token that does not verify, is out of date, or whose endpoint is gone counts as none: the request is
// balanced.
import { createHmac, timingSafeEqual } from 'node:crypto'
import type { SessionPersistence } from '../../model/route.ts'

const idBytes = 12
const macBytes = 16
const tokenBytes = idBytes + 8 + macBytes
const tokenLength = Math.ceil((tokenBytes * 4) / 3)

export type SessionAnswer =
  | { readonly t: 'stick'; readonly endpoint: string; readonly createdMs: number; readonly isRefreshDue: boolean }
  | { readonly t: 'none'; readonly because: 'noToken' | 'notOurs' | 'expired' | 'endpointGone' }

export interface SessionKeys {
  /** At least one, of at least 16 bytes; the first makes new tokens. */
  readonly keys: readonly Uint8Array[]
}

/** Endpoints by their ids under one key. */
type Ids = ReadonlyMap<string, string>

export class SessionTokens {
  readonly #keys: readonly Uint8Array[]
  readonly #scope: string
  readonly #policy: SessionPersistence
  /** By key. Kept with the list that they were made of. */
  readonly #idsOf = new WeakMap<readonly string[], Map<Uint8Array, Ids>>()

  /** `scope` names the route, the same on every replica. */
  constructor({ keys }: SessionKeys, scope: string, policy: SessionPersistence) {
    this.#keys = keys
    this.#scope = scope
    this.#policy = policy
  }

  /** `endpoints` is a list that is never changed in place. Never throws. */
  read(token: string | undefined, endpoints: readonly string[], nowMs: number): SessionAnswer {
    if (token === undefined) return { t: 'none', because: 'noToken' }
    if (token.length !== tokenLength || !/^[A-Za-z0-9_-]+$/.test(token)) return { t: 'none', because: 'notOurs' }
    const bytes = Buffer.from(token, 'base64url')
    const body = bytes.subarray(0, tokenBytes - macBytes)
    const index = this.#keys.findIndex((key) => timingSafeEqual(this.#mac(key, body), bytes.subarray(tokenBytes - macBytes)))
    const key = this.#keys[index]
    if (!key) return { t: 'none', because: 'notOurs' }
    const createdMs = body.readUInt32BE(idBytes) * 1000
    const seenMs = body.readUInt32BE(idBytes + 4) * 1000
    const { absoluteMs, idleMs } = this.#policy
    // A second of grace: tokens have whole seconds.
    const isOld = (absoluteMs !== undefined && nowMs - createdMs > absoluteMs + 1000)
      || (idleMs !== undefined && nowMs - seenMs > idleMs + 1000)
    if (isOld) return { t: 'none', because: 'expired' }
    const endpoint = this.#ids(key, endpoints).get(body.toString('base64url', 0, idBytes))
    if (endpoint === undefined) return { t: 'none', because: 'endpointGone' }
    const isRefreshDue = index > 0 || (idleMs !== undefined && nowMs - seenMs > idleMs / 4)
    return { t: 'stick', endpoint, createdMs, isRefreshDue }
  }

  /** A token for the endpoint; a refreshed one keeps when it was created. */
  make(endpoint: string, nowMs: number, createdMs = nowMs): string {
    const [key = new Uint8Array(0)] = this.#keys
    const body = Buffer.alloc(tokenBytes - macBytes)
    this.#id(key, endpoint).copy(body)
    body.writeUInt32BE(seconds(createdMs), idBytes)
    body.writeUInt32BE(seconds(nowMs), idBytes + 4)
    return Buffer.concat([body, this.#mac(key, body)]).toString('base64url')
  }

  /** The value of Set-Cookie. */
  cookie(token: string, isSecure: boolean): string {
    const { name, absoluteMs, isPermanent } = this.#policy
    const age = isPermanent && absoluteMs !== undefined ? `; Max-Age=${Math.ceil(absoluteMs / 1000)}` : ''
    return `${name}=${token}; Path=/; HttpOnly; SameSite=Lax${isSecure ? '; Secure' : ''}${age}`
  }

  #id(key: Uint8Array, endpoint: string): Buffer {
    return createHmac('sha256', key).update(`endpoint\0${this.#scope}\0${endpoint}`).digest().subarray(0, idBytes)
  }

  #mac(key: Uint8Array, body: Uint8Array): Buffer {
    return createHmac('sha256', key).update(`token\0${this.#scope}\0`).update(body).digest().subarray(0, macBytes)
  }

  #ids(key: Uint8Array, endpoints: readonly string[]): Ids {
    let byKey = this.#idsOf.get(endpoints)
    if (!byKey) this.#idsOf.set(endpoints, (byKey = new Map<Uint8Array, Ids>()))
    let ids = byKey.get(key)
    if (!ids) byKey.set(key,
      (ids = new Map(endpoints.map((endpoint) => [this.#id(key, endpoint).toString('base64url'), endpoint]))))
    return ids
  }
}

function seconds(ms: number): number {
  return Math.max(0, Math.min(0xffff_ffff, Math.floor(ms / 1000)))
}
