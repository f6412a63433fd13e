// Who holds a token, as the API server says: a service account, and the pod and node that the token is bound to. Verdicts are kept for
// moments, under a hash, so that a thousand calls of one caller cost one question. Tokens are never kept, logged or told.
import { createHash } from 'node:crypto'
import { systemClock, type Clock } from '../core/clock.ts'
import { MeshError } from '../core/errors.ts'
import type { KubeApi } from './api.ts'

/** Whom a token is for. */
export interface ServiceAccountHolder {
  readonly namespace: string
  readonly serviceAccount: string
  /** Absent for tokens that are not bound to a pod. */
  readonly pod?: { readonly name: string; readonly uid: string }
  /** The node of that pod, or the one that the token itself is bound to. */
  readonly node?: string
  readonly nodeUid?: string
}

/** `malformed` to `expired` are seen without asking; `refused`: by the API server; `notAServiceAccount`: somebody else's token. */
export type ReviewRefusal = 'malformed' | 'wrongAudience' | 'expired' | 'refused' | 'notAServiceAccount'

export type ReviewVerdict =
  | ({ readonly ok: true } & ServiceAccountHolder)
  | { readonly ok: false; readonly because: ReviewRefusal }

export interface TokenReviewerOptions {
  readonly api: Pick<KubeApi, 'create'>
  /** The token must be for this one. */
  readonly audience: string
  readonly clock?: Clock
  /** How long a verdict is believed, at most: a pod that was deleted may call for that long. */
  readonly keepMs?: number
  /** Verdicts that are kept at once. */
  readonly most?: number
  /** Questions to the API server under way at once. More calls wait, `mostWaiting` at most. */
  readonly atOnce?: number
  readonly mostWaiting?: number
}

const path = '/apis/authentication.k8s.io/v1/tokenreviews'
const largestTokenBytes = 16 << 10
const user = /^system:serviceaccount:([a-z0-9-]{1,63}):([a-z0-9.-]{1,253})$/

interface Kept {
  readonly verdict: ReviewVerdict
  readonly untilMs: number
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** What a token says of itself, believed by nobody: it spares the API server questions whose answer is known. */
interface Claims {
  readonly audiences: readonly unknown[]
  readonly endsMs: number
}

function readClaims(token: string): Claims | undefined {
  if (token.length > largestTokenBytes || !/^[\w-]+\.[\w-]+\.[\w-]+$/.test(token)) return undefined
  try {
    const claims: unknown = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString('utf8'))
    if (!isRecord(claims)) return undefined
    const { aud, exp } = claims
    return { audiences: Array.isArray(aud) ? aud : [aud], endsMs: typeof exp === 'number' ? exp * 1_000 : Infinity }
  } catch {
    // Nobody who may call sends such a thing; which way it is broken is of no interest.
    return undefined
  }
}

export class TokenReviewer {
  readonly #options: TokenReviewerOptions
  readonly #clock: Clock
  readonly #keepMs: number
  readonly #kept = new Map<string, Kept>()
  readonly #asking = new Map<string, Promise<ReviewVerdict>>()
  readonly #waiting: (() => void)[] = []
  #underWay = 0

  constructor(options: TokenReviewerOptions) {
    this.#options = options
    this.#clock = options.clock ?? systemClock
    this.#keepMs = options.keepMs ?? 10_000
  }

  /** Rejects with KUBE_API or KUBE_UNREACHABLE where nobody can tell, with OVERLOADED where too many ask. */
  async review(token: string): Promise<ReviewVerdict> {
    const claims = readClaims(token)
    if (!claims) return { ok: false, because: 'malformed' }
    if (!claims.audiences.includes(this.#options.audience)) return { ok: false, because: 'wrongAudience' }
    const now = this.#clock.nowMs()
    if (claims.endsMs <= now) return { ok: false, because: 'expired' }
    const key = createHash('sha256').update(token).digest('base64')
    const kept = this.#kept.get(key)
    if (kept && this.#clock.monotonicMs() < kept.untilMs) return kept.verdict
    const asking = this.#asking.get(key)
    if (asking) return asking
    const question = this.#ask(token).then((verdict) => {
      this.#keep(key, verdict, claims.endsMs)
      return verdict
    }).finally(() => this.#asking.delete(key))
    this.#asking.set(key, question)
    return question
  }

  #keep(key: string, verdict: ReviewVerdict, endsMs: number): void {
    const keepMs = Math.min(this.#keepMs, endsMs - this.#clock.nowMs())
    this.#kept.delete(key)
    if (keepMs <= 0) return
    this.#kept.set(key, { verdict, untilMs: this.#clock.monotonicMs() + keepMs })
    // In the order in which they were kept, which is that of their ends but for tokens about to end.
    for (const [oldest] of this.#kept) {
      if (this.#kept.size <= (this.#options.most ?? 2_000)) break
      this.#kept.delete(oldest)
    }
  }

  async #ask(token: string): Promise<ReviewVerdict> {
    const { api, audience, atOnce = 16, mostWaiting = 1_000 } = this.#options
    if (this.#underWay >= atOnce) {
      if (this.#waiting.length >= mostWaiting) {
        throw new MeshError('OVERLOADED', 'too many tokens wait for the Kubernetes API', { detail: { limit: 'tokenReviews' } })
      }
      await new Promise<void>((done) => this.#waiting.push(done))
    } else this.#underWay += 1
    try {
      const review = { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenReview', metadata: {}, spec: { token, audiences: [audience] } }
      const answer = await api.create(path, review, { timeoutMs: 10_000 })
      return readReview(answer.status, audience)
    } finally {
      // The place goes to who waits.
      const next = this.#waiting.shift()
      if (next) next()
      else this.#underWay -= 1
    }
  }
}

function single(extra: Readonly<Record<string, unknown>>, field: string): string | undefined {
  const values = extra[`authentication.kubernetes.io/${field}`]
  const [value] = Array.isArray(values) ? (values as unknown[]) : []
  return Array.isArray(values) && values.length === 1 && typeof value === 'string' && value !== '' ? value : undefined
}

/** For `status` of a TokenReview. An answer that does not say our audience is from an authenticator that knows none: refused. */
export function readReview(status: unknown, audience: string): ReviewVerdict {
  if (!isRecord(status) || status['authenticated'] !== true) return { ok: false, because: 'refused' }
  const { audiences } = status
  if (!Array.isArray(audiences) || !audiences.includes(audience)) return { ok: false, because: 'wrongAudience' }
  const who = isRecord(status['user']) ? status['user'] : {}
  const [, namespace, serviceAccount] = user.exec(typeof who['username'] === 'string' ? who['username'] : '') ?? []
  if (namespace === undefined || serviceAccount === undefined) return { ok: false, because: 'notAServiceAccount' }
  const extra = isRecord(who['extra']) ? who['extra'] : {}
  const [name, uid] = [single(extra, 'pod-name'), single(extra, 'pod-uid')]
  const [node, nodeUid] = [single(extra, 'node-name'), single(extra, 'node-uid')]
  return {
    ok: true, namespace, serviceAccount,
    ...(name !== undefined && uid !== undefined && { pod: { name, uid } }),
    ...(node !== undefined && { node }), ...(nodeUid !== undefined && { nodeUid }),
  }
}
