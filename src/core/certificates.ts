// What one room needs of another's certificates: hbone takes a CertificateSource, pki is one.
import type { KeyObject } from 'node:crypto'
import type { Identity } from './identity.ts'

/** A workload certificate with its key and what it is verified against. All PEM. */
export interface CertifiedKey {
  readonly identity: Identity
  /** Leaf first, then intermediates, without roots. */
  readonly chainPem: string
  readonly key: KeyObject
  /** Trust bundle: one or several roots, several during a rotation. */
  readonly rootsPem: readonly string[]
  /** Milliseconds since 1970. */
  readonly notBeforeMs: number
  readonly notAfterMs: number
  /** Hex, as in the certificate. */
  readonly serial: string
}

export interface CertificateSource {
  /** The current certificate; waits for the first one at most `timeoutMs`, then rejects with CERTIFICATE_UNAVAILABLE. */
  get(identity: Identity, timeoutMs: number): Promise<CertifiedKey>
  /** The current certificate if there is one. */
  peek(identity: Identity): CertifiedKey | undefined
  /** Called after each renewal or change of roots; returns how to stop. */
  onChange(listener: (identity: Identity) => void): () => void
  /** Why a verified peer chain (DER, leaf first) must be refused all the same: revoked, or undefined if it need not be. */
  revocation(chain: readonly Uint8Array[]): string | undefined
}
