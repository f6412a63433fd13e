// Bearer tokens of a mesh without Kubernetes: the control plane signs one per node, and one per pod that calls for itself, for one
// audience and a short time, and checks it when they call. The key never leaves the control plane. A token's text is never logged.
import { createPublicKey, randomBytes } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { SignJWT, errors, jwtVerify } from 'jose'
import { z } from 'zod'
import { systemClock } from '../core/clock.ts'
import type { Clock } from '../core/clock.ts'
import { MeshError, describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { readKey } from './authority-store.ts'
import { newKey } from './csr.ts'
import { createFile, isErrno, requirePrivate, writeFileAtomic } from './files.ts'

export type TokenRefusal = 'missing' | 'malformed' | 'badSignature' | 'expired' | 'notYetValid' | 'wrongAudience' | 'wrongIssuer' | 'noNode' | 'badPod'

/** One life of a pod: another pod of that name is somebody else. */
export interface TokenPod {
  readonly namespace: string
  readonly name: string
  readonly serviceAccount: string
  readonly uid: string
}

export interface TokenHolder {
  readonly node: string
  /** Whom the token speaks for, for example a ztunnel. */
  readonly subject: string
  /** The holder is this pod and not its node. */
  readonly pod?: TokenPod
}

export type TokenVerdict = ({ readonly ok: true } & TokenHolder) | { readonly ok: false; readonly because: TokenRefusal }

export interface Token {
  readonly text: string
  readonly expiresMs: number
}

const issuer = 'sidestep.dev'
const maxTokenBytes = 4 * 1024
// Kubernetes' names and SPIFFE's path segments have no other letters; `.` and `..` are none.
const podPart = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$/)
const podSchema = z.strictObject({ namespace: podPart, name: podPart, serviceAccount: podPart, uid: z.string().min(1).max(253) })
const nodeName = /^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$/

export class TokenIssuer {
  readonly #key: KeyObject
  readonly #publicKey: KeyObject
  readonly #clock: Clock

  private constructor(key: KeyObject, clock: Clock) {
    this.#key = key
    this.#publicKey = createPublicKey(key)
    this.#clock = clock
  }

  /** The key is made at `keyFile` (mode 0600) if there is none. Throws BAD_CONFIG for one that cannot be used. */
  static async open(keyFile: string, clock: Clock = systemClock): Promise<TokenIssuer> {
    try {
      await createFile(keyFile, (await newKey()).export({ format: 'pem', type: 'pkcs8' }))
    } catch (error) {
      if (!isErrno(error, 'EEXIST')) throw error
    }
    await requirePrivate(keyFile)
    const key = await readKey(keyFile)
    if (key.asymmetricKeyDetails?.namedCurve !== 'prime256v1') throw new MeshError('BAD_CONFIG', `${keyFile} is not a P-256 key`)
    return new TokenIssuer(key, clock)
  }

  /** `ttlSeconds` at least 1. */
  async issue(holder: TokenHolder, audience: string, ttlSeconds: number): Promise<Token> {
    if (!nodeName.test(holder.node)) throw new MeshError('BAD_CONFIG', `${holder.node} is no name for a node`)
    if (holder.pod && !podSchema.safeParse(holder.pod).success) throw new MeshError('BAD_CONFIG', 'a token for a pod whose names are none')
    const nowSeconds = Math.floor(this.#clock.nowMs() / 1000)
    const expires = nowSeconds + Math.max(1, Math.floor(ttlSeconds))
    const text = await new SignJWT({ node: holder.node, ...(holder.pod && { pod: { ...holder.pod } }) })
      .setProtectedHeader({ alg: 'ES256', typ: 'JWT' })
      .setIssuer(issuer)
      .setSubject(holder.subject)
      .setAudience(audience)
      .setIssuedAt(nowSeconds)
      .setNotBefore(nowSeconds)
      .setExpirationTime(expires)
      .setJti(randomBytes(12).toString('base64url'))
      .sign(this.#key)
    return { text, expiresMs: expires * 1000 }
  }

  /** Whose token it is, or the reason; never rejects for what a caller sent. */
  async verify(text: string | undefined, audience: string): Promise<TokenVerdict> {
    if (text === undefined || text === '') return { ok: false, because: 'missing' }
    if (text.length > maxTokenBytes) return { ok: false, because: 'malformed' }
    try {
      const { payload } = await jwtVerify(text, this.#publicKey, {
        algorithms: ['ES256'], issuer, audience, requiredClaims: ['exp', 'nbf', 'sub'], currentDate: new Date(this.#clock.nowMs()),
      })
      const { node, sub = '', pod } = payload
      if (typeof node !== 'string' || !nodeName.test(node)) return { ok: false, because: 'noNode' }
      if (pod === undefined) return { ok: true, node, subject: sub }
      const parsed = podSchema.safeParse(pod)
      // Never taken for its node's token: that one may do more.
      return parsed.success ? { ok: true, node, subject: sub, pod: parsed.data } : { ok: false, because: 'badPod' }
    } catch (error) {
      return { ok: false, because: reasonOf(error) }
    }
  }

  /** The same, of an `authorization` header: `Bearer TOKEN`. */
  verifyHeader(header: string | undefined, audience: string): Promise<TokenVerdict> {
    return this.verify(/^Bearer +(\S+)$/i.exec(header ?? '')?.[1], audience)
  }
}

function reasonOf(error: unknown): TokenRefusal {
  if (error instanceof errors.JWTExpired) return 'expired'
  if (error instanceof errors.JWSSignatureVerificationFailed) return 'badSignature'
  if (error instanceof errors.JWTClaimValidationFailed) {
    if (error.claim === 'aud') return 'wrongAudience'
    if (error.claim === 'iss') return 'wrongIssuer'
    if (error.claim === 'nbf') return 'notYetValid'
  }
  return 'malformed'
}

export interface TokenFileOptions {
  readonly path: string
  /** Makes the next token. */
  readonly issue: () => Promise<Token>
  readonly logger: Logger
  readonly clock?: Clock
}

const retryMs = 5_000

export interface TokenFile {
  /** The file stays. Resolves when nothing writes to it any more. */
  stop(): Promise<void>
}

/** Writes the file (mode 0600) and again at four fifths of each token's life. Rejects if the first write fails. */
export async function keepTokenFile({ path, issue, logger, clock = systemClock }: TokenFileOptions): Promise<TokenFile> {
  let isStopped = false
  let cancel = (): void => undefined
  let writing: Promise<void> = Promise.resolve()
  const write = async (): Promise<void> => {
    const token = await issue()
    if (isStopped) return
    await writeFileAtomic(path, `${token.text}\n`)
    if (!isStopped) cancel = clock.after((token.expiresMs - clock.nowMs()) * 0.8, again)
  }
  const again = (): void => {
    writing = write().catch((error: unknown) => {
      logger.error({ path, detail: describeError(error) }, 'token file not written')
      if (!isStopped) cancel = clock.after(retryMs, again)
    })
  }
  await write()
  return {
    stop: async () => {
      isStopped = true
      cancel()
      await writing
    },
  }
}

/** What CaClient and the xDS client ask for the token: the file as it is now. Rejects with BAD_CONFIG without one. */
export function tokenFromFile(path: string): () => Promise<string> {
  return async () => {
    try {
      return (await readFile(path, 'utf8')).trim()
    } catch (cause) {
      throw new MeshError('BAD_CONFIG', `the token file ${path} cannot be read`, { cause })
    }
  }
}
