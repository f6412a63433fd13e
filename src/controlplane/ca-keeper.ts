// Keeps what the certificate authority gives to others in step with it: the file of roots, the file of what is revoked, our own
// serving certificate, and the steps of a root rotation at their time. Decides nothing about who gets a certificate. Where several
// share a CA, only the one that leads takes steps and says what is revoked; the others follow.
import type { Clock } from '../core/clock.ts'
import { systemClock } from '../core/clock.ts'
import { describeError, MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import type { CaStatus } from '../model/control-plane-status.ts'
import type { Authority, SignAnswer, SignRequest } from '../pki/authority.ts'
import { writeFileAtomic } from '../pki/files.ts'
import { trustedBy } from '../pki/rotation.ts'
import type { Step } from '../pki/rotation.ts'
import type { ServingCertificate } from './grpc-port.ts'

/** Takes what everybody is to trust. May be called again with the same. */
export interface TrustSink {
  setRoots(pem: string): Promise<void>
  /** Without it, nobody asks what is revoked. */
  setCrl?(pem: string): Promise<void>
}

/** Files, or none where the name is undefined. */
export function trustFiles(rootsFile: string | undefined, crlFile: string | undefined): TrustSink {
  return {
    setRoots: async (pem) => (rootsFile === undefined ? undefined : writeFileAtomic(rootsFile, pem)),
    ...(crlFile === undefined ? {} : { setCrl: (pem: string) => writeFileAtomic(crlFile, pem) }),
  }
}

export interface CaKeeperOptions {
  readonly authority: Authority
  readonly names: { readonly dns: readonly string[]; readonly ips: readonly string[] }
  readonly servingTtlMs: number
  readonly trust: TrustSink
  /** False while another of our kind does what only one may do; without it we are alone. */
  readonly leads?: () => boolean
  readonly logger: Logger
  readonly clock?: Clock
}

/** CRLs are valid for a day; a node that misses three of these still has a good one. */
const crlIntervalMs = 6 * 3_600_000
const retryMs = 5_000

export class CaKeeper {
  readonly #options: CaKeeperOptions
  readonly #authority: Authority
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #cancel = new Map<string, () => void>()
  #serving: (ServingCertificate & { readonly notAfterMs: number }) | undefined
  #onServing: (certificate: ServingCertificate) => void = () => undefined
  /** The state of the rotation that everything given to others is of. */
  #told = ''
  /** What the list that was written last says. */
  #toldRevoked = ''
  #isClosed = false

  constructor(options: CaKeeperOptions) {
    this.#options = options
    this.#authority = options.authority
    this.#clock = options.clock ?? systemClock
    this.#logger = options.logger
  }

  /** Writes the files and makes a serving certificate; rejects if that fails. From then on all is kept new. */
  async start(): Promise<ServingCertificate> {
    await this.#continue()
    if (!this.#serving) throw new MeshError('CERTIFICATE_UNAVAILABLE', 'there is no certificate for the control plane itself')
    return this.#serving
  }

  /** Called with each certificate after the first. */
  onServing(listener: (certificate: ServingCertificate) => void): void {
    this.#onServing = listener
  }

  /** `serial` in hex. BAD_CONFIG or BAD_MESSAGE for what is none. */
  async revoke(serial: string): Promise<void> {
    // Nobody says which root it is under; serials are random, so it can be under one only.
    for (const root of trustedBy(this.#authority.rotation)) await this.#authority.revoke(serial, root)
    await this.#writeCrl()
  }

  /** Announces a new root. BAD_CONFIG while a rotation runs. */
  async beginRotation(overlapMs?: number): Promise<void> {
    await this.#authority.beginRotation(overlapMs)
    await this.#continue()
  }

  /** Takes the steps that are due. */
  async continueRotation(): Promise<void> {
    await this.#authority.continueRotation()
    await this.#continue()
  }

  /** The authority was changed by another process. */
  async changed(): Promise<void> {
    await this.#continue()
  }

  /** We lead from now on: everything is told anew, whatever the last leader did. */
  async lead(): Promise<void> {
    this.#told = ''
    await this.#continue()
  }

  status(): CaStatus {
    const { rotation, trustDomain, issuerExpiryMs, revokedSerials } = this.#authority
    return {
      trustDomain,
      expires: iso(issuerExpiryMs),
      servingExpires: iso(this.#serving?.notAfterMs ?? 0),
      rotation: rotation.t,
      roots: this.#authority.rootsPem().length,
      ...(rotation.t === 'announcing' ? { nextStep: iso(rotation.switchAtMs) } : rotation.t === 'retiring' ? { nextStep: iso(rotation.retireAtMs) } : {}),
      revoked: new Set(revokedSerials).size,
    }
  }

  async #continue(): Promise<void> {
    // A step that is taken but not told everywhere is told again, whoever asked for it.
    this.#later('rotation', retryMs, () => this.#continue())
    const step: Step = this.#leads ? await this.#authority.continueRotation() : { t: 'wait' }
    const rotation = JSON.stringify(this.#authority.rotation)
    await this.#options.trust.setRoots(this.#authority.rootsPem().join(''))
    if (rotation !== this.#told || this.#revoked() !== this.#toldRevoked) await this.#writeCrl()
    if (rotation !== this.#told) {
      await this.#renewServing()
      this.#told = rotation
    }
    this.#cancel.get('rotation')?.()
    if (step.t === 'wait' && step.untilMs !== undefined) this.#later('rotation', step.untilMs - this.#clock.nowMs(), () => this.#continue())
  }

  #revoked(): string {
    return this.#authority.revokedSerials.join()
  }

  get #leads(): boolean {
    return this.#options.leads?.() ?? true
  }

  async #writeCrl(): Promise<void> {
    const { trust } = this.#options
    // Whoever leads numbers them; the list that an earlier one wrote is good for a day.
    if (!trust.setCrl || !this.#leads) return
    const pem = await this.#authority.crlPem()
    const revoked = this.#revoked()
    await trust.setCrl(pem)
    this.#toldRevoked = revoked
    this.#later('crl', crlIntervalMs, () => this.#writeCrl())
  }

  async #renewServing(): Promise<ServingCertificate> {
    const certificate = await this.#authority.issueServing(this.#options.names, this.#options.servingTtlMs)
    this.#serving = certificate
    this.#later('serving certificate', (certificate.notAfterMs - this.#clock.nowMs()) / 2, () => this.#renewServing())
    this.#onServing(certificate)
    return certificate
  }

  /** One of each name waits; what fails is tried again, because each of these keeps something from expiring. */
  #later(name: string, ms: number, work: () => Promise<unknown>): void {
    if (this.#isClosed) return
    this.#cancel.get(name)?.()
    this.#cancel.set(name, this.#clock.after(Math.max(0, ms), () => {
      work().catch((error: unknown) => {
        this.#logger.error({ work: name, because: describeError(error) }, 'certificate authority upkeep failed, trying again')
        this.#later(name, retryMs, work)
      })
    }))
  }

  close(): void {
    this.#isClosed = true
    for (const cancel of this.#cancel.values()) cancel()
  }
}

function iso(ms: number): string {
  return new Date(ms).toISOString()
}

/** Signs within the operator's bounds of a certificate's life: the default for no wish, a refusal for a longer one. */
export function withinTtl(authority: Pick<Authority, 'sign'>, defaultSeconds: number, maxSeconds: number): Pick<Authority, 'sign'> {
  return {
    sign: async (request: SignRequest): Promise<SignAnswer> => {
      if (request.ttlSeconds > maxSeconds) {
        return { t: 'refused', reason: 'badTtl', message: `a lifetime of ${request.ttlSeconds} s is longer than the ${maxSeconds} s that this CA allows` }
      }
      return authority.sign(request.ttlSeconds === 0 ? { ...request, ttlSeconds: defaultSeconds } : request)
    },
  }
}
