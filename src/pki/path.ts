// The way from a certificate to a root that is trusted (RFC 5280, section 6, as far as a mesh needs it). Bounded in length and in
// signatures checked, so that no chain costs more than a few milliseconds. Says nothing about whose certificate it is.
import type { CertificateFacts } from './facts.ts'
import { nameKind, usage } from './facts.ts'
import { isGoodSignatureAlgorithm } from './signature.ts'

/** Why no path was found; the most telling of what was met on the way. */
export type PathRefusal =
  | 'untrusted'
  | 'selfSigned'
  | 'badSignature'
  | 'weakKey'
  | 'weakSignature'
  | 'expired'
  | 'notYetValid'
  | 'notACa'
  | 'pathTooLong'
  | 'unknownCritical'
  | 'nameConstraint'

export type Path = { readonly path: readonly CertificateFacts[] } | { readonly refused: PathRefusal }

/** Leaf, four intermediates, root. */
const maxDepth = 6
const maxSignatures = 32

/** Leaf first, root last. `others` are candidates for intermediates in any order. */
export function findPath(leaf: CertificateFacts, others: readonly CertificateFacts[], roots: readonly CertificateFacts[], nowMs: number): Path {
  const early = checkOne(leaf, nowMs)
  if (early) return { refused: early }
  let signatures = 0
  let refused: PathRefusal = leaf.issuer === leaf.subject ? 'selfSigned' : 'untrusted'
  const note = (reason: PathRefusal): void => {
    if (refused === 'untrusted' || refused === 'selfSigned') refused = reason
  }
  const extend = (path: readonly CertificateFacts[]): readonly CertificateFacts[] | undefined => {
    const last = path.at(-1)
    if (!last || path.length >= maxDepth) {
      note('pathTooLong')
      return undefined
    }
    for (const candidate of [...roots, ...others]) {
      if (candidate.subject !== last.issuer || path.includes(candidate)) continue
      if (++signatures > maxSignatures) {
        note('pathTooLong')
        return undefined
      }
      const wrong = checkIssuer(last, candidate, path, nowMs)
      if (wrong) {
        note(wrong)
        continue
      }
      const extended = [...path, candidate]
      const whole = roots.includes(candidate) ? extended : extend(extended)
      if (whole) return whole
    }
    return undefined
  }
  const path = extend([leaf])
  return path ? { path } : { refused }
}

function checkOne(certificate: CertificateFacts, nowMs: number): PathRefusal | undefined {
  if (nowMs < certificate.notBeforeMs) return 'notYetValid'
  if (nowMs >= certificate.notAfterMs) return 'expired'
  if (certificate.unknownCritical.length > 0) return 'unknownCritical'
  if (!isGoodSignatureAlgorithm(certificate.signatureAlgorithm)) return 'weakSignature'
  return hasGoodKey(certificate) ? undefined : 'weakKey'
}

/** `below` is the path so far, leaf first; its last is `issued`. */
function checkIssuer(
  issued: CertificateFacts,
  issuer: CertificateFacts,
  below: readonly CertificateFacts[],
  nowMs: number,
): PathRefusal | undefined {
  const own = checkOne(issuer, nowMs)
  if (own) return own
  if (!issuer.isCa || issuer.keyUsage?.[usage.keyCertSign] === false || (issuer.keyUsage && issuer.keyUsage.length <= usage.keyCertSign)) {
    return 'notACa'
  }
  // Intermediates below it that are not self-issued count (RFC 5280, 4.2.1.9); the leaf does not.
  const intermediates = below.slice(1).filter((c) => c.issuer !== c.subject).length
  if (issuer.pathLength !== undefined && intermediates > issuer.pathLength) return 'pathTooLong'
  const leaf = below[0]
  if (issuer.nameConstraints && leaf && !isAllowed(leaf, issuer.nameConstraints)) return 'nameConstraint'
  return issued.x509.verify(issuer.x509.publicKey) ? undefined : 'badSignature'
}

export function hasGoodKey({ x509 }: CertificateFacts): boolean {
  let key
  try {
    key = x509.publicKey
  } catch {
    // OpenSSL could not make sense of the key; an unreadable key is no key.
    return false
  }
  if (key.asymmetricKeyType === 'rsa') return (key.asymmetricKeyDetails?.modulusLength ?? 0) >= 2048
  if (key.asymmetricKeyType === 'ec') return ['prime256v1', 'secp384r1', 'secp521r1'].includes(key.asymmetricKeyDetails?.namedCurve ?? '')
  return key.asymmetricKeyType === 'ed25519'
}

/**
 * URI constraints are evaluated (host part, RFC 5280 4.2.1.10). Constraints on other kinds of names only matter to a certificate
 * that has such names; those are refused rather than evaluated, because no workload's certificate has them.
 */
function isAllowed(leaf: CertificateFacts, constraints: NonNullable<CertificateFacts['nameConstraints']>): boolean {
  const kinds = new Set([...constraints.permitted, ...constraints.excluded].map((name) => name.kind))
  for (const name of leaf.names) {
    if (!kinds.has(name.kind)) continue
    if (name.kind !== nameKind.uri) return false
    const host = /^[a-z][a-z0-9+.-]*:\/\/([^/?#:@]+)/i.exec(name.text ?? '')?.[1]?.toLowerCase()
    if (!host) return false
    const permitted = constraints.permitted.filter((c) => c.kind === nameKind.uri)
    const excluded = constraints.excluded.filter((c) => c.kind === nameKind.uri)
    // A constraint that cannot be read excludes everything and permits nothing.
    if (excluded.some((c) => c.text === undefined || hostMatches(host, c.text))) return false
    if (permitted.length > 0 && !permitted.some((c) => c.text !== undefined && hostMatches(host, c.text))) return false
  }
  return !(leaf.hasSubject && kinds.has(nameKind.directory))
}

/** A leading dot means any host below; otherwise exactly this host. */
function hostMatches(host: string, constraint: string): boolean {
  const text = constraint.toLowerCase()
  return text.startsWith('.') ? host.endsWith(text) : host === text
}
