// What a certificate says, read once and kept: fields by our DER reader, signature and key by node:crypto. Facts are not trust:
// nothing here decides whether a certificate is believed (verify.ts does).
import { X509Certificate, createHash } from 'node:crypto'
import { MeshError } from '../core/errors.ts'
import { badDer, children, expectTag, readBits, readBoolean, readDer, readIntegerHex, readOid, readSmallInteger, readTime, tags } from './der.ts'
import type { Der } from './der.ts'

export interface GeneralName {
  /** Context tag of the choice: 1 e-mail, 2 DNS, 4 directory, 6 URI, 7 IP. */
  readonly kind: number
  /** Text of e-mail, DNS and URI names; undefined for other kinds and for text that is not ASCII. */
  readonly text?: string
}

export interface NameConstraints {
  readonly permitted: readonly GeneralName[]
  readonly excluded: readonly GeneralName[]
}

export interface CertificateFacts {
  readonly der: Buffer
  readonly x509: X509Certificate
  /** Hex in the normal form of der.ts. */
  readonly serial: string
  /** DER of the names as hex, for comparing. */
  readonly issuer: string
  readonly subject: string
  readonly hasSubject: boolean
  readonly notBeforeMs: number
  readonly notAfterMs: number
  readonly signatureAlgorithm: string
  readonly isCa: boolean
  readonly pathLength?: number
  /** Named bits in RFC 5280's order; undefined without the extension. */
  readonly keyUsage?: readonly boolean[]
  readonly extendedKeyUsage?: readonly string[]
  readonly names: readonly GeneralName[]
  readonly nameConstraints?: NameConstraints
  readonly subjectKeyId?: string
  /** Critical extensions that nobody here understands. */
  readonly unknownCritical: readonly string[]
}

export const usage = { digitalSignature: 0, keyCertSign: 5, crlSign: 6 } as const
export const extendedUsage = { any: '2.5.29.37.0', server: '1.3.6.1.5.5.7.3.1', client: '1.3.6.1.5.5.7.3.2' } as const
export const nameKind = { email: 1, dns: 2, directory: 4, uri: 6, ip: 7 } as const

/** A chain of TLS may be 16 MB; no certificate of a workload is larger than this. */
export const maxCertificateBytes = 32 * 1024
const cacheSize = 2_048
const cache = new Map<string, CertificateFacts>()

/** Facts of one DER certificate, from a bounded cache if it was seen before. Throws BAD_MESSAGE. */
export function certificateFacts(der: Uint8Array): CertificateFacts {
  if (der.length > maxCertificateBytes) throw new MeshError('BAD_MESSAGE', `certificate of ${der.length} bytes`)
  const key = createHash('sha256').update(der).digest('latin1')
  const known = cache.get(key)
  if (known) return known
  const facts = read(Buffer.from(der))
  // Oldest first: a peer that is still there is read again at its next handshake, which costs well under a millisecond.
  for (const oldest of cache.keys()) {
    if (cache.size < cacheSize) break
    cache.delete(oldest)
  }
  cache.set(key, facts)
  return facts
}

function read(der: Buffer): CertificateFacts {
  const [tbs, algorithm] = children(readDer(der, tags.sequence))
  const fields = children(expectTag(tbs, tags.sequence))
  if (fields[0]?.tag !== 0xa0) throw badDer('only X.509 version 3 has extensions')
  const [, serial, , issuer, validity, subject] = fields
  const [notBefore, notAfter] = children(expectTag(validity, tags.sequence))
  const extensions = fields.find((field) => field.tag === 0xa3)
  const subjectName = expectTag(subject, tags.sequence)
  return {
    der,
    x509: opened(der),
    serial: readIntegerHex(serial),
    issuer: expectTag(issuer, tags.sequence).raw.toString('hex'),
    subject: subjectName.raw.toString('hex'),
    hasSubject: subjectName.body.length > 0,
    notBeforeMs: readTime(notBefore),
    notAfterMs: readTime(notAfter),
    signatureAlgorithm: readOid(children(expectTag(algorithm, tags.sequence))[0]),
    ...extensionFacts(extensions),
  }
}

function opened(der: Buffer): X509Certificate {
  let x509: X509Certificate
  try {
    x509 = new X509Certificate(der)
  } catch (cause) {
    throw new MeshError('BAD_MESSAGE', 'not a certificate', { cause })
  }
  // node:crypto looks for PEM text first, also inside DER: a certificate that carries another one as text would be read as that
  // one, and our fields and its signature would be those of two different certificates.
  if (!x509.raw.equals(der)) throw new MeshError('BAD_MESSAGE', 'certificate within a certificate')
  return x509
}

type ExtensionFacts = Pick<
  CertificateFacts,
  'isCa' | 'pathLength' | 'keyUsage' | 'extendedKeyUsage' | 'names' | 'nameConstraints' | 'subjectKeyId' | 'unknownCritical'
>
type Mutable<T> = { -readonly [K in keyof T]: T[K] }

function extensionFacts(extensions: Der | undefined): ExtensionFacts {
  const facts: Mutable<ExtensionFacts> = { isCa: false, names: [], unknownCritical: [] }
  if (!extensions) return facts
  const seen = new Set<string>()
  const unknownCritical: string[] = []
  for (const { id, isCritical, value } of readExtensions(expectTag(children(extensions)[0], tags.sequence))) {
    if (seen.has(id)) throw badDer(`extension ${id} twice`)
    seen.add(id)
    const reader = readers[id]
    if (reader) reader(facts, value)
    else if (isCritical) unknownCritical.push(id)
  }
  facts.unknownCritical = unknownCritical
  return facts
}

export interface Extension {
  readonly id: string
  readonly isCritical: boolean
  /** The bytes inside the octet string. */
  readonly value: Buffer
}

/** Extensions of a certificate, CRL or CRL entry. */
export function readExtensions(list: Der): Extension[] {
  return children(list).map((item) => {
    const [id, second, third] = children(expectTag(item, tags.sequence))
    const isCritical = second?.tag === tags.boolean ? readBoolean(second) : false
    const value = expectTag(second?.tag === tags.boolean ? third : second, tags.octetString).body
    return { id: readOid(id), isCritical, value }
  })
}

const ignore = (): void => {}
const readers: Readonly<Record<string, (facts: Mutable<ExtensionFacts>, value: Buffer) => void>> = {
  '2.5.29.19': (facts, value) => {
    const [first, second] = children(readDer(value, tags.sequence))
    facts.isCa = first?.tag === tags.boolean ? readBoolean(first) : false
    const length = first?.tag === tags.boolean ? second : first
    if (length) facts.pathLength = readSmallInteger(length)
  },
  '2.5.29.15': (facts, value) => {
    facts.keyUsage = readBits(readDer(value))
  },
  '2.5.29.37': (facts, value) => {
    facts.extendedKeyUsage = children(readDer(value, tags.sequence)).map(readOid)
  },
  '2.5.29.17': (facts, value) => {
    facts.names = generalNames(value)
  },
  '2.5.29.30': (facts, value) => {
    const parts = children(readDer(value, tags.sequence))
    const subtrees = (tag: number): GeneralName[] => {
      const part = parts.find((p) => p.tag === tag)
      return part ? children(part).map((subtree) => generalName(children(expectTag(subtree, tags.sequence))[0])) : []
    }
    facts.nameConstraints = { permitted: subtrees(0xa0), excluded: subtrees(0xa1) }
  },
  '2.5.29.14': (facts, value) => {
    facts.subjectKeyId = readDer(value, tags.octetString).body.toString('hex')
  },
  '2.5.29.35': ignore,
  // Certificate policies: none is asked for, so any will do.
  '2.5.29.32': ignore,
}

/** The value of a subject alternative name. */
export function generalNames(value: Buffer): GeneralName[] {
  return children(readDer(value, tags.sequence)).map(generalName)
}

function generalName(element: Der | undefined): GeneralName {
  if (!element || (element.tag & 0xc0) !== 0x80) throw badDer('general name')
  const kind = element.tag & 0x1f
  if (kind !== nameKind.email && kind !== nameKind.dns && kind !== nameKind.uri) return { kind }
  const text = element.body.toString('latin1')
  // Printable ASCII only: a zero byte or a foreign letter in a name is a trick, not a name.
  return /^[\x21-\x7e]+$/.test(text) ? { kind, text } : { kind }
}
