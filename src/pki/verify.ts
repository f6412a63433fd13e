// Whether a peer's certificate chain is believed, and whose it is. The answer is an identity or one reason of a closed set, which
// is also the metric label. Never throws for what a peer sent, and never trusts a field that the signature does not cover.
import { MeshError } from '../core/errors.ts'
import { parseIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import { certificateFacts, extendedUsage, nameKind, usage } from './facts.ts'
import type { CertificateFacts } from './facts.ts'
import { findPath } from './path.ts'
import type { PathRefusal } from './path.ts'
import { certificatesOf } from './pem.ts'

export type PeerRefusal =
  | PathRefusal
  | 'noCertificate'
  | 'malformed'
  | 'chainTooLong'
  | 'leafIsCa'
  | 'wrongUsage'
  | 'noIdentity'
  | 'severalIdentities'
  | 'wrongTrustDomain'
  | 'revoked'

export type PeerVerdict = { readonly ok: Identity } | { readonly refused: PeerRefusal; readonly detail: string }

export interface PeerRules {
  /** Own trust domain first, then aliases. */
  readonly trustDomains: readonly string[]
  /** What the peer is in this handshake. */
  readonly role: 'client' | 'server'
  readonly nowMs: number
  /** Why the chain is revoked, or undefined (CertificateSource.revocation). */
  readonly revocation?: (chain: readonly Uint8Array[]) => string | undefined
}

const maxChain = 8
const rootCache = new Map<string, readonly CertificateFacts[]>()

/** Roots as facts; kept, because the bundle is the same for thousands of handshakes. Throws BAD_MESSAGE. */
export function readRoots(rootsPem: readonly string[]): readonly CertificateFacts[] {
  const key = rootsPem.join('\n')
  const known = rootCache.get(key)
  if (known) return known
  const roots = rootsPem.flatMap(certificatesOf).map(certificateFacts)
  if (rootCache.size >= 16) rootCache.clear()
  rootCache.set(key, roots)
  return roots
}

/** `chain`: DER, leaf first, as the peer sent it. `rootsPem`: our own trust bundle; that it can be read is our duty, so it throws. */
export function verifyPeer(chain: readonly Uint8Array[], rootsPem: readonly string[], rules: PeerRules): PeerVerdict {
  const roots = readRoots(rootsPem)
  if (chain.length === 0) return refuse('noCertificate', 'the peer sent no certificate')
  if (chain.length > maxChain) return refuse('chainTooLong', `${chain.length} certificates`)
  let leaf: CertificateFacts | undefined
  let others: CertificateFacts[]
  try {
    const [first, ...rest] = chain.map(certificateFacts)
    leaf = first
    others = rest
  } catch (error) {
    if (!(error instanceof MeshError)) throw error
    return refuse('malformed', error.message)
  }
  if (!leaf) return refuse('noCertificate', 'the peer sent no certificate')
  const found = findPath(leaf, others, roots, rules.nowMs)
  if ('refused' in found) return refuse(found.refused, `serial ${leaf.serial}`)
  const wrong = checkLeaf(leaf, rules)
  if (wrong) return wrong
  const revoked = rules.revocation?.(found.path.map((c) => c.der))
  if (revoked !== undefined) return refuse('revoked', revoked)
  return identityOf(leaf, rules.trustDomains)
}

function refuse(refused: PeerRefusal, detail: string): PeerVerdict {
  return { refused, detail }
}

function checkLeaf(leaf: CertificateFacts, { role }: PeerRules): PeerVerdict | undefined {
  // SPIFFE X.509-SVID, 4.1: a certificate that may sign must not be used as an identity.
  if (leaf.isCa || leaf.keyUsage?.[usage.keyCertSign] === true) return refuse('leafIsCa', `serial ${leaf.serial}`)
  const wanted = extendedUsage[role]
  if (!leaf.extendedKeyUsage?.some((id) => id === wanted || id === extendedUsage.any)) {
    return refuse('wrongUsage', `not for a TLS ${role}`)
  }
  if (leaf.keyUsage?.[usage.digitalSignature] === false) return refuse('wrongUsage', 'not for signatures')
  return undefined
}

function identityOf(leaf: CertificateFacts, trustDomains: readonly string[]): PeerVerdict {
  const uris = leaf.names.filter((name) => name.kind === nameKind.uri)
  if (uris.length > 1) return refuse('severalIdentities', `${uris.length} URI names`)
  const identity = parseIdentity(uris[0]?.text ?? '')
  if (!identity) return refuse('noIdentity', uris[0]?.text ?? 'no URI name')
  if (!trustDomains.includes(identity.trustDomain)) return refuse('wrongTrustDomain', identity.trustDomain)
  return { ok: identity }
}
