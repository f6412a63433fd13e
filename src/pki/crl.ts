// Certificate revocation lists (RFC 5280, section 5) as a node checks them: read from PEM (concatenated) or DER, believed only under
// the signature of the CA that issued the certificate in question. An unknown status is not a refusal, as with Istio; what could
// not be used is reported, so that an operator learns of it.
import { MeshError } from '../core/errors.ts'
import { children, expectTag, readBitString, readDer, readIntegerHex, readOid, readSmallInteger, readTime, tags } from './der.ts'
import type { Der } from './der.ts'
import { certificateFacts, readExtensions, usage } from './facts.ts'
import type { CertificateFacts } from './facts.ts'
import { decodePem } from './pem.ts'
import { isGoodSignatureAlgorithm, verifySignature } from './signature.ts'

export interface Crl {
  /** DER of the issuer's name, hex. */
  readonly issuer: string
  readonly thisUpdateMs: number
  readonly nextUpdateMs?: number
  /** Serial to when it was revoked. */
  readonly revoked: ReadonlyMap<string, number>
  readonly signed: Buffer
  readonly signature: Buffer
  readonly signatureAlgorithm: string
}

export type CrlProblem = 'badSignature' | 'issuerUnknown' | 'stale' | 'notYetValid'

const maxFileBytes = 64 * 1024 * 1024
/** CRL number, authority key identifier, freshest CRL, issuer's other names: none changes what the list means. */
const harmless = new Set(['2.5.29.20', '2.5.29.35', '2.5.29.46', '2.5.29.18'])
const reasonCode = '2.5.29.21'
const removeFromCrl = 8

/** All CRLs of a file; empty for an empty file. Throws BAD_MESSAGE for anything else that is not CRLs. */
export function readCrls(file: Uint8Array): Crl[] {
  if (file.length > maxFileBytes) throw new MeshError('BAD_MESSAGE', `CRL file of ${file.length} bytes`)
  const bytes = Buffer.from(file.buffer, file.byteOffset, file.byteLength)
  if (bytes[0] === tags.sequence) return [readCrl(bytes)]
  const text = bytes.toString('latin1')
  const blocks = decodePem(text, ['X509 CRL'])
  if (blocks.length === 0 && text.trim() !== '') throw new MeshError('BAD_MESSAGE', 'the file has no X509 CRL')
  return blocks.map(readCrl)
}

function readCrl(der: Buffer): Crl {
  const [tbs, algorithm, signature, more] = children(readDer(der, tags.sequence))
  if (!tbs || more) throw new MeshError('BAD_MESSAGE', 'not a CRL')
  const fields = children(expectTag(tbs, tags.sequence))
  if (fields[0]?.tag === tags.integer && readSmallInteger(fields.shift()) !== 1) throw new MeshError('BAD_MESSAGE', 'CRL of an unknown version')
  const inner = fields.shift()
  if (!inner || !algorithm || !inner.raw.equals(algorithm.raw)) throw new MeshError('BAD_MESSAGE', 'CRL with two signature algorithms')
  const signatureAlgorithm = readOid(children(expectTag(algorithm, tags.sequence))[0])
  if (!isGoodSignatureAlgorithm(signatureAlgorithm)) throw new MeshError('BAD_MESSAGE', `CRL signed with ${signatureAlgorithm}`)
  const issuer = expectTag(fields.shift(), tags.sequence).raw.toString('hex')
  const thisUpdateMs = readTime(fields.shift())
  const nextUpdateMs = fields[0]?.tag === tags.utcTime || fields[0]?.tag === tags.generalizedTime ? readTime(fields.shift()) : undefined
  const list = fields[0]?.tag === tags.sequence ? children(fields.shift() as Der) : []
  const extensions = fields.shift()
  if (fields.length > 0) throw new MeshError('BAD_MESSAGE', 'CRL with something after its extensions')
  if (extensions) refuseCritical(expectTag(children(expectTag(extensions, 0xa0))[0], tags.sequence))
  return {
    issuer,
    thisUpdateMs,
    ...(nextUpdateMs !== undefined && { nextUpdateMs }),
    revoked: new Map(list.flatMap(readEntry)),
    signed: tbs.raw,
    signature: readBitString(signature),
    signatureAlgorithm,
  }
}

/** A delta or indirect CRL means something else than its list says; RFC 5280, 5.2: it must not be used. */
function refuseCritical(extensions: Der): void {
  const odd = readExtensions(extensions).find(({ id, isCritical }) => isCritical && !harmless.has(id))
  if (odd) throw new MeshError('BAD_MESSAGE', `CRL with the critical extension ${odd.id}, which is not understood`)
}

function readEntry(entry: Der): [string, number][] {
  const [serial, when, extensions] = children(expectTag(entry, tags.sequence))
  const key = readIntegerHex(serial)
  const whenMs = readTime(when)
  for (const { id, isCritical, value } of extensions ? readExtensions(expectTag(extensions, tags.sequence)) : []) {
    if (id === reasonCode && readSmallInteger({ ...readDer(value, tags.enumerated), tag: tags.integer }) === removeFromCrl) return []
    if (id !== reasonCode && isCritical) throw new MeshError('BAD_MESSAGE', `CRL entry with the critical extension ${id}`)
  }
  return [[key, whenMs]]
}

export interface RevocationOptions {
  readonly now?: () => number
  /** Called once for each CRL and problem. `issuer` as in Crl. */
  readonly onProblem?: (problem: CrlProblem, crl: Crl) => void
}

/** The CRLs in force, and the roots under which the last issuer of a chain is found if the chain leaves it out. */
export class RevocationList {
  readonly #now: () => number
  readonly #onProblem: (problem: CrlProblem, crl: Crl) => void
  #crls: readonly Crl[] = []
  #roots: readonly CertificateFacts[] = []
  /** Which key a CRL was signed by: asked at most once per pair. */
  #signedBy = new WeakMap<Crl, Map<string, boolean>>()
  #reported = new WeakMap<Crl, Set<CrlProblem>>()

  constructor({ now = Date.now, onProblem = () => undefined }: RevocationOptions = {}) {
    this.#now = now
    this.#onProblem = onProblem
  }

  replace(crls: readonly Crl[]): void {
    this.#crls = crls
  }

  setRoots(roots: readonly CertificateFacts[]): void {
    this.#roots = roots
  }

  get crls(): readonly Crl[] {
    return this.#crls
  }

  /** Why the verified chain (DER, leaf first) is revoked; leaf and intermediates are looked up. Never throws. */
  check(chain: readonly Uint8Array[]): string | undefined {
    if (this.#crls.length === 0) return undefined
    let certificates: CertificateFacts[]
    try {
      certificates = chain.map(certificateFacts)
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      return `the chain cannot be read: ${error.message}`
    }
    for (const certificate of certificates) {
      const revokedMs = this.#revokedAt(certificate, [...certificates, ...this.#roots])
      if (revokedMs !== undefined) return `serial ${certificate.serial} was revoked at ${new Date(revokedMs).toISOString()}`
    }
    return undefined
  }

  #revokedAt(certificate: CertificateFacts, issuers: readonly CertificateFacts[]): number | undefined {
    for (const crl of this.#crls) {
      if (crl.issuer !== certificate.issuer) continue
      const revokedMs = crl.revoked.get(certificate.serial)
      // A list past its time still revokes what it names: nobody is taken off a list by its growing old.
      if (crl.nextUpdateMs !== undefined && this.#now() >= crl.nextUpdateMs) this.#report('stale', crl)
      if (revokedMs === undefined) continue
      const own = issuers.filter((issuer) => issuer.subject === crl.issuer && certificate.x509.verify(issuer.x509.publicKey))
      if (own.length === 0) this.#report('issuerUnknown', crl)
      else if (!own.some((issuer) => this.#isSignedBy(crl, issuer))) this.#report('badSignature', crl)
      else return revokedMs
    }
    return undefined
  }

  #isSignedBy(crl: Crl, issuer: CertificateFacts): boolean {
    if (issuer.keyUsage && issuer.keyUsage[usage.crlSign] !== true) return false
    const known = this.#signedBy.get(crl) ?? new Map<string, boolean>()
    this.#signedBy.set(crl, known)
    const key = issuer.x509.fingerprint256
    const answer = known.get(key) ?? verifySignature(crl.signatureAlgorithm, issuer.x509.publicKey, crl.signed, crl.signature)
    known.set(key, answer)
    return answer
  }

  #report(problem: CrlProblem, crl: Crl): void {
    const reported = this.#reported.get(crl) ?? new Set()
    this.#reported.set(crl, reported)
    if (reported.has(problem)) return
    reported.add(problem)
    this.#onProblem(problem, crl)
  }
}
