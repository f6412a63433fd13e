// The mesh's certificate authority: signs workload certificates for identities that the asking node may have, moves from one root
// to the next, and revokes. It signs what its policy allows and nothing else; a refusal is an answer with a reason, not an error.
import { createPublicKey } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { MeshError, describeError } from '../core/errors.ts'
import { formatIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import type { Logger } from '../core/log.ts'
import { directoryStore, ownRoot } from './authority-store.ts'
import type { AuthorityState, AuthorityStore, Signer } from './authority-store.ts'
import { loadOwnIntermediate } from './own-intermediate.ts'
import type { OwnIntermediateFiles } from './own-intermediate.ts'
import { newKey, readCsr } from './csr.ts'
import type { ReadCsr } from './csr.ts'
import { normalSerial } from './der.ts'
import type { CertificateFacts } from './facts.ts'
import { issueCrl } from './crl-issue.ts'
import { backdateMs, issueLeaf, issueServing } from './issue.ts'
import type { Issuer } from './issue.ts'
import { certificatePem, encodePem } from './pem.ts'
import { beginRotation, nextStep, signerOf, trustedBy } from './rotation.ts'
import type { Rotation, Step } from './rotation.ts'
import type { TokenPod } from './tokens.ts'

/** Who asks: the node its token is bound to, its own identity, and the pod if its token is bound to one. */
export interface Caller {
  readonly node: string
  readonly identity?: Identity
  readonly pod?: TokenPod
}

export type SignRefusal = 'badRequest' | 'wrongTrustDomain' | 'notAllowed' | 'badTtl' | 'issuerExpired'

export interface Signed {
  readonly t: 'signed'
  readonly identity: Identity
  /** Leaf, then intermediates: what the workload presents. */
  readonly chainPem: readonly string[]
  /** The trust bundle: one PEM per root. */
  readonly rootsPem: readonly string[]
  readonly serial: string
  readonly notAfterMs: number
}

export type SignAnswer = Signed | { readonly t: 'refused'; readonly reason: SignRefusal; readonly message: string }

export interface SignRequest {
  readonly csrPem: string
  /** 0 asks for the default of a day. */
  readonly ttlSeconds: number
  readonly caller: Caller
  /** The SPIFFE URI that the asker may ask for or said it asks for; refused unless the request names the same. */
  readonly expected?: string
}

export interface AuthorityOptions {
  readonly trustDomain: string
  /**
   * Where root, intermediate and state are, a path or what keeps the same elsewhere; made if absent. With `own` only the list of
   * what was revoked is kept there.
   */
  readonly directory: string | AuthorityStore
  /** Sign with this intermediate in place of our own. */
  readonly own?: OwnIntermediateFiles
  /** True, or why this caller must not have this identity; the trust domain has been checked before. */
  readonly maySign: (caller: Caller, identity: Identity) => true | string
  readonly logger: Logger
  /** Milliseconds since 1970; for tests. */
  readonly now?: () => number
}

export const defaultTtlMs = 86_400_000
export const maxTtlMs = 90 * 86_400_000
const crlLifetimeMs = 86_400_000
/** How often a change is made anew because somebody else made one meanwhile. */
const maxAttempts = 8
/** The expiry mark runs ahead by this much, so that the state file is written once an hour and not for each certificate. */
const markAheadMs = 3_600_000

export class Authority {
  readonly trustDomain: string
  readonly #options: AuthorityOptions
  readonly #now: () => number
  readonly #store: AuthorityStore
  #state: AuthorityState
  #signers: ReadonlyMap<string, Signer>
  #own: { readonly issuer: Issuer; readonly parents: readonly CertificateFacts[]; readonly roots: readonly CertificateFacts[] } | undefined
  #changes: Promise<unknown> = Promise.resolve()

  private constructor(options: AuthorityOptions, store: AuthorityStore, state: AuthorityState, signers: ReadonlyMap<string, Signer>) {
    this.trustDomain = options.trustDomain
    this.#options = options
    this.#store = store
    this.#now = options.now ?? Date.now
    this.#state = state
    this.#signers = signers
  }

  /** Throws BAD_CONFIG if what is on disk cannot be used as it is. */
  static async open(options: AuthorityOptions): Promise<Authority> {
    const nowMs = (options.now ?? Date.now)()
    const store = typeof options.directory === 'string' ? directoryStore(options.directory) : options.directory
    if (options.own) {
      const own = await loadOwnIntermediate(options.own, nowMs)
      const authority = new Authority(options, store, await store.openOwn(options.trustDomain), new Map())
      authority.#own = own
      return authority
    }
    const state = await store.open(options.trustDomain, nowMs)
    return new Authority(options, store, state, await store.signers(state.rotation))
  }

  /** Takes over what others changed where the state is kept. Rejects, and changes nothing, if that cannot be used. */
  async reload(): Promise<void> {
    await this.#change(() => this.#load())
  }

  async #load(): Promise<void> {
    if (this.#own) {
      this.#state = await this.#store.openOwn(this.trustDomain)
      return
    }
    const state = await this.#store.open(this.trustDomain, this.#now())
    const signers = await this.#store.signers(state.rotation)
    if (JSON.stringify(state.rotation) !== JSON.stringify(this.#state.rotation)) {
      this.#options.logger.info({ rotation: state.rotation.t, roots: trustedBy(state.rotation) }, 'trust bundle changed elsewhere')
    }
    this.#state = state
    this.#signers = signers
  }

  /** One PEM per trusted root; the signer's first. */
  rootsPem(): readonly string[] {
    if (this.#own) return this.#own.roots.map((root) => certificatePem(root.der))
    return trustedBy(this.#state.rotation).map((name) => certificatePem(this.#signer(name).root.facts.der))
  }

  get rotation(): Rotation {
    return this.#state.rotation
  }

  /** When the certificate that signs now, and with it everything below it, expires. */
  get issuerExpiryMs(): number {
    return this.#issuer().facts.notAfterMs
  }

  async sign(request: SignRequest): Promise<SignAnswer> {
    const answer = await this.#sign(request)
    const facts = { node: request.caller.node, ttlSeconds: request.ttlSeconds }
    if (answer.t === 'refused') this.#options.logger.warn({ ...facts, because: answer.reason, detail: answer.message }, 'certificate refused')
    else this.#options.logger.debug({ ...facts, identity: formatIdentity(answer.identity), serial: answer.serial }, 'certificate signed')
    return answer
  }

  async #sign({ csrPem, ttlSeconds, caller, expected }: SignRequest): Promise<SignAnswer> {
    let csr: ReadCsr
    try {
      csr = readCsr(csrPem)
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      return refused('badRequest', error.message)
    }
    const { identity, publicKey } = csr
    const uri = formatIdentity(identity)
    if (expected !== undefined && expected !== uri) return refused('badRequest', `the request names ${uri}, but this call is for ${expected}`)
    if (identity.trustDomain !== this.trustDomain) {
      return refused('wrongTrustDomain', `${uri} is not of trust domain ${this.trustDomain}`)
    }
    const allowed = this.#options.maySign(caller, identity)
    if (allowed !== true) return refused('notAllowed', `${uri} is not for node ${caller.node}: ${allowed}`)
    if (!Number.isFinite(ttlSeconds) || ttlSeconds < 0 || ttlSeconds * 1000 > maxTtlMs) {
      return refused('badTtl', `a lifetime of ${ttlSeconds} s is not between 0 and 90 days`)
    }
    const nowMs = this.#now()
    if (this.issuerExpiryMs <= nowMs) return refused('issuerExpired', 'the CA certificate that signs has expired')
    const { issuer, chain, rootsPem, notAfterMs } = await this.#ready(nowMs + (ttlSeconds === 0 ? defaultTtlMs : ttlSeconds * 1000))
    const leaf = await issueLeaf(publicKey, identity, { notBeforeMs: nowMs - backdateMs, notAfterMs }, issuer)
    return {
      t: 'signed',
      identity,
      chainPem: [leaf, ...chain].map((c) => certificatePem(c.der)),
      rootsPem,
      serial: leaf.serial,
      notAfterMs: leaf.notAfterMs,
    }
  }

  /** A TLS server certificate for the control plane itself, with a fresh key. */
  async issueServing(names: { readonly dns: readonly string[]; readonly ips: readonly string[] }, ttlMs = defaultTtlMs): Promise<{
    readonly chainPem: string
    readonly key: KeyObject
    readonly notAfterMs: number
  }> {
    const nowMs = this.#now()
    const { issuer, chain, notAfterMs } = await this.#ready(nowMs + ttlMs)
    const key = await newKey()
    const leaf = await issueServing(createPublicKey(key), names, { notBeforeMs: nowMs - backdateMs, notAfterMs }, issuer)
    return { chainPem: [leaf, ...chain].map((c) => certificatePem(c.der)).join(''), key, notAfterMs }
  }

  /** Who signs what expires at that time or, at the latest, with its issuer; recorded before it leaves the house. */
  async #ready(wantedExpiryMs: number): Promise<{
    readonly issuer: Issuer
    readonly chain: readonly CertificateFacts[]
    readonly rootsPem: readonly string[]
    readonly notAfterMs: number
  }> {
    for (;;) {
      const signer = signerOf(this.#state.rotation)
      const issuer = this.#issuer()
      const ready = { issuer, chain: this.#chain(signer), rootsPem: this.rootsPem(), notAfterMs: Math.min(wantedExpiryMs, issuer.facts.notAfterMs) }
      await this.#markExpiry(signer, ready.notAfterMs)
      // A rotation that took its step meanwhile does not count on what the old one signs now.
      if (signerOf(this.#state.rotation) === signer) return ready
    }
  }

  /** Makes a new root and announces it. Throws BAD_CONFIG while a rotation runs or with an intermediate of one's own. */
  async beginRotation(overlapMs?: number): Promise<void> {
    await this.#change(async () => {
      if (this.#own) throw new MeshError('BAD_CONFIG', 'the roots are not ours to rotate: put the new bundle and intermediate in place and restart')
      if (this.#state.rotation.t !== 'steady') throw new MeshError('BAD_CONFIG', `a rotation is running (${this.#state.rotation.t})`)
      const nowMs = this.#now()
      const next = await this.#store.createSigner(this.trustDomain, nowMs)
      const lastExpiryMs = this.#state.lastExpiryMs[this.#state.rotation.root] ?? nowMs
      const rotation = beginRotation(this.#state.rotation, { next, nowMs, lastExpiryMs, ...(overlapMs !== undefined && { overlapMs }) })
      if (rotation) await this.#enter(rotation)
    })
  }

  /** Takes the steps of a rotation that are due; tells when to call again. */
  async continueRotation(): Promise<Step> {
    return this.#change(async () => {
      for (;;) {
        const step = nextStep(this.#state.rotation, this.#now(), this.#state.lastExpiryMs[this.#oldSigner()] ?? 0)
        if (step.t === 'wait') return step
        await this.#enter(step.to)
      }
    })
  }

  /** Revokes certificates of the current signer or of one being retired. Idempotent. */
  async revoke(serial: string, root = signerOf(this.#state.rotation)): Promise<void> {
    const wanted = normalSerial(serial)
    await this.#change(async () => {
      if (this.#state.revoked.some((r) => r.serial === wanted && r.root === root)) return
      if (!this.#own) this.#signer(root)
      await this.#save({ ...this.#state, revoked: [...this.#state.revoked, { serial: wanted, revokedMs: this.#now(), root }] })
      this.#options.logger.info({ serial: wanted }, 'certificate revoked')
    })
  }

  get revokedSerials(): readonly string[] {
    return this.#state.revoked.map((r) => r.serial)
  }

  /** Fresh CRLs of all issuers in force, concatenated PEM, valid for a day. */
  async crlPem(): Promise<string> {
    return this.#change(async () => {
      const number = this.#state.crlNumber + 1
      const nowMs = this.#now()
      // Nothing lives longer than the longest lifetime, so a list need not grow for ever.
      const revoked = this.#state.revoked.filter((r) => r.revokedMs + maxTtlMs + crlLifetimeMs > nowMs)
      await this.#save({ ...this.#state, crlNumber: number, revoked })
      const times = { thisUpdateMs: nowMs - backdateMs, nextUpdateMs: nowMs + crlLifetimeMs, number }
      const issuers = this.#own
        ? [[ownRoot, this.#own.issuer] as const]
        : [...this.#signers].map(([name, signer]) => [name, signer.intermediate] as const)
      return issuers.map(([name, issuer]) => encodePem('X509 CRL', issueCrl(issuer, revoked.filter((r) => r.root === name), times))).join('')
    })
  }

  #signer(name: string): Signer {
    const signer = this.#signers.get(name)
    if (!signer) throw new MeshError('NOT_FOUND', `the CA has no signer ${name} in force`)
    return signer
  }

  #issuer(): Issuer {
    return this.#own?.issuer ?? this.#signer(signerOf(this.#state.rotation)).intermediate
  }

  #chain(signer: string): readonly CertificateFacts[] {
    return this.#own ? [this.#own.issuer.facts, ...this.#own.parents] : [this.#signer(signer).intermediate.facts]
  }

  #oldSigner(): string {
    return this.#state.rotation.t === 'retiring' ? this.#state.rotation.previous : this.#state.rotation.root
  }

  async #enter(rotation: Rotation): Promise<void> {
    const signers = await this.#store.signers(rotation)
    const isTrusted = (root: string): boolean => trustedBy(rotation).includes(root)
    // What a root that left had revoked is void with it.
    await this.#save({ ...this.#state, rotation, revoked: this.#state.revoked.filter((r) => isTrusted(r.root)) })
    this.#signers = signers
    this.#options.logger.info({ rotation: rotation.t, roots: trustedBy(rotation) }, 'trust bundle changed')
  }

  /** Before a certificate leaves the house, its expiry is on disk: the rotation counts on it. */
  async #markExpiry(signer: string, notAfterMs: number): Promise<void> {
    if (notAfterMs <= (this.#state.lastExpiryMs[signer] ?? 0)) return
    await this.#change(async () => {
      if (notAfterMs <= (this.#state.lastExpiryMs[signer] ?? 0)) return
      await this.#save({ ...this.#state, lastExpiryMs: { ...this.#state.lastExpiryMs, [signer]: notAfterMs + markAheadMs } })
    })
  }

  async #save(state: AuthorityState): Promise<void> {
    if (!(await this.#store.save(state))) throw new Stale()
    this.#state = state
  }

  /** One change at a time, in order; a failed one does not stop the next. Made anew, from what is then, where others were faster. */
  #change<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#changes.then(async () => {
      for (let attempt = 1; ; attempt++) {
        try {
          return await work()
        } catch (error) {
          if (!(error instanceof Stale)) throw error
          if (attempt >= maxAttempts) throw new MeshError('OVERLOADED', 'the CA is changed by others all the time', { detail: { limit: 'attempts' } })
          await this.#load()
        }
      }
    })
    this.#changes = done.catch((error: unknown) => this.#options.logger.error({ detail: describeError(error) }, 'authority change failed'))
    return done
  }
}

/** Somebody else changed the state. Never leaves this file. */
class Stale extends Error {}

function refused(reason: SignRefusal, message: string): SignAnswer {
  return { t: 'refused', reason, message }
}
