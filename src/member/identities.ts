// The identities of the pods on this node: their certificates, kept fresh for as long as a pod needs them, and the rules by
// which peers are believed. Never gives a certificate to anybody but the pod's own proxy.
import type { CertificateSource, CertifiedKey, PeerVerifier } from '../core/certificates.ts'
import { formatIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import type { Logger } from '../core/log.ts'
import type { PodEnrolment } from '../model/enrolment.ts'
import { CertificateKeeper, loadCertificates } from '../pki/certificate-file.ts'
import { CertificateManager } from '../pki/certificates.ts'
import type { CertificateAuthorityClient, CertificateManagerOptions } from '../pki/certificates.ts'
import { RevocationList } from '../pki/crl.ts'
import { watchCrlFile } from '../pki/crl-file.ts'
import type { CrlFile } from '../pki/crl-file.ts'
import { readRoots, verifyPeer } from '../pki/verify.ts'

export interface NodeIdentitiesOptions {
  readonly ca: CertificateAuthorityClient
  readonly trustDomain: string
  readonly trustDomainAliases: readonly string[]
  readonly ttlSeconds: number
  /** Empty for none. */
  readonly crlFile: string
  /** Keeps certificates and keys for a start without the CA; mode 0600. */
  readonly certificatesFile: string
  readonly logger: Logger
  readonly manager?: Partial<CertificateManagerOptions>
}

export class NodeIdentities {
  readonly manager: CertificateManager
  readonly verifier: PeerVerifier
  readonly #options: NodeIdentitiesOptions
  readonly #revoked = new RevocationList()
  readonly #onRevocation = new Set<() => void>()
  /** How many pods need an identity's certificate. */
  readonly #users = new Map<string, number>()
  readonly #keeper: CertificateKeeper
  #crlFile: CrlFile | undefined

  constructor(options: NodeIdentitiesOptions) {
    this.#options = options
    const revocation = (chain: readonly Uint8Array[]): string | undefined => this.#revoked.check(chain)
    this.manager = new CertificateManager({ ca: options.ca, logger: options.logger, ttlSeconds: options.ttlSeconds, revocation, ...options.manager })
    const current = (): CertifiedKey[] => this.manager.states().flatMap(({ identity }) => this.manager.peek(identity) ?? [])
    this.#keeper = new CertificateKeeper(options.certificatesFile, current, options.logger)
    this.manager.onChange(() => this.#keeper.changed())
    this.manager.onChange(() => this.#revoked.setRoots(readRoots(this.manager.rootsPem)))
    const trustDomains = [options.trustDomain, ...options.trustDomainAliases]
    this.verifier = {
      verifyPeer: (chain, rootsPem, expected) => {
        // Whom we connect to was named by the mesh, and hbone compares the name: any trust domain that was named may answer.
        const named = expected.role === 'server' ? expected.identities.map((identity) => identity.trustDomain) : []
        return verifyPeer(chain, rootsPem, { trustDomains: [...trustDomains, ...named], role: expected.role, nowMs: Date.now(), revocation })
      },
    }
  }

  /** Takes over what an earlier process kept, reads the revocation list and watches it. Never rejects. */
  async start(): Promise<void> {
    const { crlFile, certificatesFile, logger } = this.#options
    this.manager.restore(await loadCertificates(certificatesFile, Date.now(), logger))
    if (crlFile === '') return
    this.#crlFile = await watchCrlFile({ path: crlFile, list: this.#revoked, logger, onChange: () => this.#announceRevocation() })
  }

  /** Certificates as tunnels need them; a change of what is revoked is a change, too. */
  readonly source: CertificateSource = {
    get: (identity, timeoutMs) => this.manager.get(identity, timeoutMs),
    peek: (identity) => this.manager.peek(identity),
    revocation: (chain) => this.manager.revocation(chain),
    onChange: (listener) => {
      const stop = this.manager.onChange(listener)
      // One call does: who listens asks revocation() about every chain it holds.
      const onRevocation = (): void => {
        const [first] = this.manager.states()
        if (first) listener(first.identity)
      }
      this.#onRevocation.add(onRevocation)
      return () => {
        stop()
        this.#onRevocation.delete(onRevocation)
      }
    },
  }

  #announceRevocation(): void {
    this.manager.replaceRevoked()
    for (const listener of this.#onRevocation) listener()
  }

  identityOf({ namespace, serviceAccount }: PodEnrolment): Identity {
    return { trustDomain: this.#options.trustDomain, namespace, serviceAccount }
  }

  /** A pod of that identity runs here: its certificate is fetched before anybody asks. release() must follow. */
  hold(identity: Identity): void {
    const key = formatIdentity(identity)
    this.#users.set(key, (this.#users.get(key) ?? 0) + 1)
    this.manager.prefetch(identity)
  }

  release(identity: Identity): void {
    const key = formatIdentity(identity)
    const left = (this.#users.get(key) ?? 1) - 1
    if (left > 0) {
      this.#users.set(key, left)
      return
    }
    this.#users.delete(key)
    this.manager.forget(identity)
  }

  async close(): Promise<void> {
    this.#crlFile?.stop()
    await this.#keeper.close()
    this.manager.close()
  }
}
