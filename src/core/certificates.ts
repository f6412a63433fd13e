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
  /** Called after each renewal, change of roots and change of what is revoked; returns how to stop. */
  onChange(listener: (identity: Identity) => void): () => void
  /** Why a verified peer chain (DER, leaf first) must be refused all the same: revoked, or undefined if it need not be. */
  revocation(chain: readonly Uint8Array[]): string | undefined
}

/** What the peer of a handshake must be, beyond having a certificate that our roots vouch for. */
export type PeerExpectation =
  /** The server we connect to: one of these identities. */
  | { readonly role: 'server'; readonly identities: readonly Identity[] }
  /** A client of ours: anybody of our trust domain or its aliases. */
  | { readonly role: 'client' }

/** `refused` is one of a closed set of reasons and a metric label (`expired`, `untrusted`, `revoked`); `detail` is for people. */
export type PeerVerdict = { readonly ok: Identity } | { readonly refused: string; readonly detail: string }

export interface PeerVerifier {
  /** `chain`: DER, leaf first, as the peer sent it. Never throws for what a peer sent. */
  verifyPeer(chain: readonly Uint8Array[], rootsPem: readonly string[], expected: PeerExpectation): PeerVerdict
}
