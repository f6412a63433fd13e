// The keys of issuers: given with the rule, or fetched, kept, and fetched anew when they are old or a token names a key that is
// not among them. While an issuer is away its last keys count on. However many requests wait, an issuer is asked once; however
// many tokens name keys that do not exist, it is not asked more often than the cool-down allows.
import { createLocalJWKSet } from 'jose'
import type { JSONWebKeySet, JWK } from 'jose'
import type { Clock } from '../../core/clock.ts'
import { describeError, MeshError } from '../../core/errors.ts'
import type { JwtRule } from '../../model/manifest-traffic-auth.ts'
import type { Fetch } from './outside-fetch.ts'

export type IssuerRule = Pick<JwtRule, 'issuer' | 'jwks' | 'jwksUri' | 'timeout'>

/** One reading of an issuer's keys; another object after each change. */
export interface KeySet {
  readonly find: ReturnType<typeof createLocalJWKSet>
}

export interface IssuerKeysOptions {
  readonly fetch: Fetch
  readonly clock: Clock
  /** After that they are fetched again, beside the requests that use them. */
  readonly freshMs?: number
  /** Between two fetches for keys that are not known, and the longest wait after failures. */
  readonly cooldownMs?: number
  readonly timeoutMs?: number
  /** A fetch failed: for logs. */
  readonly onFailure?: (issuer: string, error: MeshError) => void
}

interface Entry {
  keys: KeySet | undefined
  text: string | undefined
  fetchedMs: number
  triedMs: number
  /** For a key that was not known. */
  soughtMs: number
  failures: number
  pending: Promise<void> | undefined
}

export const largestKeySet = 262_144
const largestDiscovery = 65_536
const mostKeys = 100
const mostIssuers = 1_024
/** Base64url of 8,192 bits: larger moduli make each verification slow. */
const longestModulus = 1_366
const firstWaitMs = 500

export class IssuerKeys {
  readonly #options: Required<Omit<IssuerKeysOptions, 'onFailure'>> & Pick<IssuerKeysOptions, 'onFailure'>
  readonly #inline = new WeakMap<IssuerRule, KeySet>()
  readonly #entries = new Map<string, Entry>()

  constructor(options: IssuerKeysOptions) {
    this.#options = { freshMs: 300_000, cooldownMs: 10_000, timeoutMs: 5_000, ...options }
  }

  /** Undefined where there are none: never fetched, or given in a form that is none. */
  async keysOf(rule: IssuerRule): Promise<KeySet | undefined> {
    if (rule.jwks !== undefined) return this.#inlineKeys(rule, rule.jwks)
    const entry = this.#entryOf(rule)
    const now = this.#options.clock.monotonicMs()
    if (entry.keys) {
      if (now - entry.fetchedMs > this.#options.freshMs && this.#mayTry(entry, now)) void this.#fetch(entry, rule)
      return entry.keys
    }
    if (entry.pending) await entry.pending
    else if (this.#mayTry(entry, now)) await this.#fetch(entry, rule)
    return entry.keys
  }

  /** For a token whose key is not in `known`: what the issuer has now, if it may be asked; undefined if nothing newer came. */
  async newerThan(known: KeySet, rule: IssuerRule): Promise<KeySet | undefined> {
    if (rule.jwks !== undefined) return undefined
    const entry = this.#entryOf(rule)
    const now = this.#options.clock.monotonicMs()
    if (entry.pending) await entry.pending
    else if (entry.keys === known && now - entry.soughtMs >= this.#options.cooldownMs) {
      entry.soughtMs = now
      await this.#fetch(entry, rule)
    }
    return entry.keys === known ? undefined : entry.keys
  }

  /** After failures the waits grow from half a second to the cool-down. */
  #mayTry(entry: Entry, now: number): boolean {
    if (entry.pending) return false
    return entry.failures === 0 || now - entry.triedMs >= Math.min(
      this.#options.cooldownMs, firstWaitMs * 2 ** (entry.failures - 1),
    )
  }

  #inlineKeys(rule: IssuerRule, text: string): KeySet | undefined {
    const known = this.#inline.get(rule)
    if (known) return known
    try {
      const keys = readKeySet(text)
      this.#inline.set(rule, keys)
      return keys
    } catch (error) {
      this.#failed(rule, error)
      return undefined
    }
  }

  #entryOf({ issuer, jwksUri }: IssuerRule): Entry {
    const key = jwksUri ?? `\n${issuer}`
    let entry = this.#entries.get(key)
    if (!entry) {
      entry = { keys: undefined, text: undefined, fetchedMs: 0, triedMs: 0, soughtMs: Number.NEGATIVE_INFINITY, failures: 0, pending: undefined }
      if (this.#entries.size >= mostIssuers) {
        for (const oldest of this.#entries.keys()) {
          this.#entries.delete(oldest)
          break
        }
      }
      this.#entries.set(key, entry)
    }
    return entry
  }

  #fetch(entry: Entry, rule: IssuerRule): Promise<void> {
    entry.triedMs = this.#options.clock.monotonicMs()
    entry.pending = this.#ask(rule).then(
      (text) => {
        // The same document keeps its keys: what was verified by them needs no second look.
        if (text !== entry.text || !entry.keys) entry.keys = readKeySet(text)
        entry.text = text
        entry.fetchedMs = this.#options.clock.monotonicMs()
        entry.failures = 0
      },
    ).catch((error: unknown) => {
      entry.failures = Math.min(entry.failures + 1, 20)
      this.#failed(rule, error)
    }).finally(() => {
      entry.pending = undefined
    })
    return entry.pending
  }

  async #ask({ issuer, jwksUri, timeout }: IssuerRule): Promise<string> {
    const timeoutMs = timeout !== undefined && timeout > 0 ? timeout : this.#options.timeoutMs
    const { fetch } = this.#options
    if (jwksUri !== undefined) return fetch(new URL(jwksUri), { timeoutMs, maxBytes: largestKeySet })
    // OpenID Connect Discovery 1.0, section 4.
    if (!URL.canParse(issuer)) throw new MeshError('BAD_CONFIG', 'the issuer is no URL and the rule names no keys')
    const discovery = await fetch(
      new URL(`${issuer.replace(/\/$/, '')}/.well-known/openid-configuration`), { timeoutMs, maxBytes: largestDiscovery },
    )
    const document: unknown = parseJson(discovery)
    const uri: unknown = typeof document === 'object' && document !== null ? Reflect.get(document, 'jwks_uri') : undefined
    if (typeof uri !== 'string' || !URL.canParse(uri)) throw new MeshError(
      'BAD_MESSAGE', 'the issuer names no keys', { source: 'upstream' },
    )
    return fetch(new URL(uri), { timeoutMs, maxBytes: largestKeySet })
  }

  #failed({ issuer }: IssuerRule, error: unknown): void {
    this.#options.onFailure?.(
      issuer,
      error instanceof MeshError ? error : new MeshError(
        'BAD_MESSAGE', describeError(error), { source: 'upstream', cause: error },
      ),
    )
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new MeshError('BAD_MESSAGE', 'an issuer\'s document is no JSON', { source: 'upstream', cause: error })
  }
}

const publicMembers = ['kty', 'kid', 'alg', 'use', 'key_ops', 'n', 'e', 'crv', 'x', 'y'] as const
const publicKinds = new Set(['RSA', 'EC', 'OKP'])

/**
 * Only keys that verify and that everybody may know: a shared secret in a document for everybody would let everybody sign. Throws
 * BAD_MESSAGE.
 */
export function readKeySet(text: string): KeySet {
  if (text.length > largestKeySet) throw new MeshError('BAD_MESSAGE', 'the key set is too large', { source: 'upstream' })
  const document = parseJson(text)
  const list: unknown = typeof document === 'object' && document !== null ? Reflect.get(document, 'keys') : undefined
  if (!Array.isArray(list)) throw new MeshError('BAD_MESSAGE', 'the key set has no keys', { source: 'upstream' })
  const keys = list.slice(0, mostKeys).map(publicKey).filter((key) => key !== undefined)
  if (keys.length === 0) throw new MeshError('BAD_MESSAGE', 'the key set has no key that can be used', { source: 'upstream' })
  const set: JSONWebKeySet = { keys }
  return { find: createLocalJWKSet(set) }
}

function publicKey(value: unknown): JWK | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  const kind: unknown = Reflect.get(value, 'kty')
  if (typeof kind !== 'string' || !publicKinds.has(kind)) return undefined
  const key: Record<string, unknown> = { kty: kind }
  for (const name of publicMembers) {
    const member: unknown = Reflect.get(value, name)
    if (member === undefined || name === 'kty') continue
    if (name === 'key_ops' ? !Array.isArray(member) || member.length > 16 : typeof member !== 'string'
      || member.length > longestModulus) return undefined
    key[name] = member
  }
  return key as JWK
}
