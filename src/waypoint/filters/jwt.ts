// Whether a request brings a token of an issuer that is believed. Istio's meaning: without any token it is nobody's request and
// goes on as such; with one that no rule believes it is refused. Only signatures with public keys count, never `none` and never a
// shared secret, and what a token says counts after its signature was checked.
import { decodeJwt, errors, jwtVerify } from 'jose'
import type { JWTPayload, JWTVerifyOptions } from 'jose'
import type { Clock } from '../../core/clock.ts'
import type { JwtRule } from '../../model/manifest-traffic-auth.ts'
import type { VerifiedToken } from '../../policy/l7/authorization-facts.ts'
import type { RequestHead } from '../../policy/l7/request-head.ts'
import type { IssuerKeys, KeySet } from './jwks.ts'
import { findTokens } from './token-places.ts'
import type { FoundToken } from './token-places.ts'

export type Authentication =
  | { readonly t: 'none' }
  /** `payload` is what the token says, `token` what policies compare. */
  | {
    readonly t: 'verified'; readonly token: VerifiedToken; readonly payload: JWTPayload; readonly rule: JwtRule;
    readonly found: FoundToken
  }
  | { readonly t: 'refused'; readonly because: 'tokenInvalid' | 'keysAway'; readonly detail: string }

type Verified = { readonly t: 'verified'; readonly payload: JWTPayload } | (Authentication & { t: 'refused' })

interface Known {
  readonly keys: KeySet
  readonly rule: JwtRule
  readonly payload: JWTPayload
}

// RFC 8725, 3.1 and 3.2: a closed list, and nothing that a public key could be mistaken for.
const algorithms = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA', 'Ed25519']
const longestToken = 16_384
/** Envoy's, for clocks that differ. */
const toleranceSeconds = 60
const mostKnown = 1_024
const longestKnown = 4_096

export class TokenVerifier {
  readonly #keys: IssuerKeys
  readonly #clock: Clock
  /** Tokens that were verified, the longest unused first: a client sends the same one many times. */
  readonly #known = new Map<string, Known>()

  constructor({ keys, clock }: { readonly keys: IssuerKeys; readonly clock: Clock }) {
    this.#keys = keys
    this.#clock = clock
  }

  /** The first rule that believes one of the tokens counts. Never rejects. */
  async verify(head: RequestHead, rules: readonly JwtRule[]): Promise<Authentication> {
    let refused: (Authentication & { t: 'refused' }) | undefined
    // Rules are many where issuers are, and mostly look at the same place.
    const issuers = new Map<string, string | undefined>()
    for (const rule of rules) {
      for (const found of findTokens(head, rule)) {
        if (!issuers.has(found.token)) issuers.set(found.token, issuerOf(found.token))
        const issuer = issuers.get(found.token)
        if (issuer !== rule.issuer) {
          refused ??= invalid(issuer === undefined ? 'not a token' : 'its issuer is not one of those that are believed')
          continue
        }
        const result = await this.#check(found.token, rule)
        if (result.t === 'verified') return {
          t: 'verified', token: tokenOf(result.payload, rule), payload: result.payload, rule, found,
        }
        // What was wrong with a token of a known issuer says more than that another rule is not for it.
        refused = result
      }
    }
    return refused ?? { t: 'none' }
  }

  async #check(token: string, rule: JwtRule): Promise<Verified> {
    try {
      const keys = await this.#keys.keysOf(rule)
      if (!keys) return { t: 'refused', because: 'keysAway', detail: `no keys of ${rule.issuer}` }
      const payload = this.#remembered(token, rule, keys) ?? await this.#verifyWith(keys, token, rule)
      return { t: 'verified', payload }
    } catch (error) {
      return invalid(error instanceof errors.JOSEError ? `${error.code} ${error.message}` : 'not a token')
    }
  }

  async #verifyWith(keys: KeySet, token: string, rule: JwtRule): Promise<JWTPayload> {
    const options: JWTVerifyOptions = {
      issuer: rule.issuer, algorithms, clockTolerance: toleranceSeconds, currentDate: new Date(this.#clock.nowMs()),
      ...(rule.audiences.length > 0 && { audience: [...rule.audiences] }),
    }
    try {
      return this.#remember(token, rule, keys, await verifyAny(keys, token, options))
    } catch (error) {
      if (!isKeyTrouble(error)) throw error
      const newer = await this.#keys.newerThan(keys, rule)
      if (!newer) throw error
      return this.#remember(token, rule, newer, await verifyAny(newer, token, options))
    }
  }

  #remembered(token: string, rule: JwtRule, keys: KeySet): JWTPayload | undefined {
    const known = this.#known.get(token)
    if (!known || known.keys !== keys || known.rule !== rule) return undefined
    const now = this.#clock.nowMs() / 1000
    const { exp, nbf } = known.payload
    const isInTime = (exp === undefined || exp > now - toleranceSeconds) && (nbf === undefined || nbf <= now + toleranceSeconds)
    this.#known.delete(token)
    if (!isInTime) return undefined
    this.#known.set(token, known)
    return known.payload
  }

  #remember(token: string, rule: JwtRule, keys: KeySet, payload: JWTPayload): JWTPayload {
    if (token.length > longestKnown) return payload
    if (this.#known.size >= mostKnown) {
      for (const oldest of this.#known.keys()) {
        this.#known.delete(oldest)
        break
      }
    }
    this.#known.set(token, { keys, rule, payload })
    return payload
  }
}

/** A key that is not there, or one that was replaced under its name. */
function isKeyTrouble(error: unknown): boolean {
  return error instanceof errors.JWKSNoMatchingKey || error instanceof errors.JWSSignatureVerificationFailed
}

/** A token that names no key is tried with each that fits its algorithm. */
async function verifyAny(keys: KeySet, token: string, options: JWTVerifyOptions): Promise<JWTPayload> {
  try {
    return (await jwtVerify(token, keys.find, options)).payload
  } catch (error) {
    if (!(error instanceof errors.JWKSMultipleMatchingKeys)) throw error
    for await (const key of error) {
      try {
        return (await jwtVerify(token, key, options)).payload
      } catch (inner) {
        if (!(inner instanceof errors.JWSSignatureVerificationFailed)) throw inner
      }
    }
    throw new errors.JWSSignatureVerificationFailed()
  }
}

function invalid(detail: string): Authentication & { t: 'refused' } {
  return { t: 'refused', because: 'tokenInvalid', detail }
}

/** What it claims to be, to choose who may verify it. */
function issuerOf(token: string): string | undefined {
  if (token.length > longestToken) return undefined
  try {
    const { iss } = decodeJwt(token)
    return typeof iss === 'string' ? iss : ''
  } catch {
    // Not three parts, or not JSON: whatever it is, it is no token.
    return undefined
  }
}

function tokenOf(payload: JWTPayload, { issuer, spaceDelimitedClaims }: JwtRule): VerifiedToken {
  const audiences = typeof payload.aud === 'string' ? [payload.aud] : Array.isArray(payload.aud)
    ? payload.aud.filter((each) => typeof each === 'string') : []
  const presenter: unknown = payload['azp']
  return {
    issuer, audiences, claims: withLists(payload, spaceDelimitedClaims),
    ...(typeof payload.sub === 'string' && { subject: payload.sub }),
    ...(typeof presenter === 'string' && { presenter }),
  }
}

/** Claims that are lists with spaces become lists, with the whole text in front for who compares that. */
function withLists(payload: JWTPayload, names: readonly string[]): Readonly<Record<string, unknown>> {
  if (names.length === 0) return payload
  const claims: Record<string, unknown> = { ...payload }
  for (const name of names) {
    const value = Object.hasOwn(payload, name) ? payload[name] : undefined
    if (typeof value === 'string' && value.includes(' ')) claims[name] = [
      value, ...value.split(' ').filter((part) => part !== ''),
    ]
  }
  return claims
}
