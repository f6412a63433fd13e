// Making certificates and CRLs: roots, intermediates, workload leaves and serving certificates. Decides nothing: who may have
// what is the authority's business.
import * as x509 from './x509.ts'
import { createPublicKey, randomBytes } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { MeshError } from '../core/errors.ts'
import { formatIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import { certificateFacts } from './facts.ts'
import type { CertificateFacts } from './facts.ts'

/** A CA certificate with its key. */
export interface Issuer {
  readonly facts: CertificateFacts
  readonly key: KeyObject
}

export interface Validity {
  readonly notBeforeMs: number
  readonly notAfterMs: number
}

/** Clocks of two nodes differ; Istio's CA backdates by the same two minutes. */
export const backdateMs = 120_000

type SigningAlgorithm = { name: 'ECDSA'; namedCurve: string; hash: string } | { name: 'RSASSA-PKCS1-v1_5'; hash: string }

/** How a key of ours signs. Throws BAD_CONFIG for kinds of keys we do not sign with. */
export function signingAlgorithm(key: KeyObject): SigningAlgorithm {
  const curve = key.asymmetricKeyDetails?.namedCurve
  if (curve === 'prime256v1') return { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
  if (curve === 'secp384r1') return { name: 'ECDSA', namedCurve: 'P-384', hash: 'SHA-384' }
  if (key.asymmetricKeyType === 'rsa') return { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }
  throw new MeshError('BAD_CONFIG', `a CA key must be ECDSA P-256, P-384 or RSA, not ${curve ?? key.asymmetricKeyType ?? 'secret'}`)
}

/** 128 random bits, hex. */
export function newSerial(): string {
  return randomBytes(16).toString('hex')
}

interface Plan extends Validity {
  readonly publicKey: KeyObject
  /** Undefined leaves it empty. */
  readonly subject?: string
  readonly extensions: readonly x509.Extension[]
  /** Undefined: signed by itself with this key. */
  readonly issuer: Issuer | { readonly self: KeyObject }
}

async function sign(plan: Plan): Promise<CertificateFacts> {
  const key = 'self' in plan.issuer ? plan.issuer.self : plan.issuer.key
  const algorithm = signingAlgorithm(key)
  const subject = plan.subject === undefined ? undefined : new x509.Name(plan.subject)
  const issuer = 'self' in plan.issuer ? subject : new x509.Name(Buffer.from(plan.issuer.facts.subject, 'hex'))
  const identifier = 'self' in plan.issuer ? undefined : plan.issuer.facts.subjectKeyId
  const made = await x509.X509CertificateGenerator.create({
    serialNumber: newSerial(),
    notBefore: new Date(plan.notBeforeMs),
    notAfter: new Date(plan.notAfterMs),
    ...(subject && { subject }),
    ...(issuer && { issuer }),
    publicKey: new x509.PublicKey(plan.publicKey.export({ format: 'der', type: 'spki' })),
    signingKey: key.toCryptoKey(algorithm, false, ['sign']),
    signingAlgorithm: algorithm,
    extensions: [...plan.extensions, ...(identifier ? [new x509.AuthorityKeyIdentifierExtension(identifier)] : [])],
  })
  const facts = certificateFacts(Buffer.from(made.rawData))
  // An encoder that spelt the issuer's name differently would make certificates that nobody can chain.
  if (!('self' in plan.issuer) && facts.issuer !== plan.issuer.facts.subject) {
    throw new MeshError('BAD_CONFIG', 'the issuer has a name that cannot be copied exactly')
  }
  return facts
}

async function caExtensions(publicKey: KeyObject, pathLength: number): Promise<x509.Extension[]> {
  return [
    new x509.BasicConstraintsExtension(true, pathLength, true),
    new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
    await x509.SubjectKeyIdentifierExtension.create(new x509.PublicKey(publicKey.export({ format: 'der', type: 'spki' }))),
  ]
}

/** Self-signed, may have one level of CAs below it. */
export async function issueRoot(key: KeyObject, subject: string, validity: Validity): Promise<CertificateFacts> {
  const publicKey = createPublicKey(key)
  return sign({ ...validity, publicKey, subject, extensions: await caExtensions(publicKey, 1), issuer: { self: key } })
}

/** A CA that signs leaves only. */
export async function issueIntermediate(publicKey: KeyObject, subject: string, validity: Validity, issuer: Issuer): Promise<CertificateFacts> {
  return sign({ ...validity, publicKey, subject, extensions: await caExtensions(publicKey, 0), issuer })
}

function leafExtensions(names: x509.JsonGeneralNames, usages: x509.ExtendedKeyUsage[]): x509.Extension[] {
  return [
    new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature | x509.KeyUsageFlags.keyEncipherment, true),
    new x509.ExtendedKeyUsageExtension(usages),
    new x509.BasicConstraintsExtension(false, undefined, true),
    // Critical because the subject is empty (RFC 5280, 4.2.1.6).
    new x509.SubjectAlternativeNameExtension(names, true),
  ]
}

/** A workload's certificate: empty subject, one URI, client and server. */
export async function issueLeaf(publicKey: KeyObject, identity: Identity, validity: Validity, issuer: Issuer): Promise<CertificateFacts> {
  const extensions = leafExtensions(
    [{ type: 'url', value: formatIdentity(identity) }],
    [x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth],
  )
  return sign({ ...validity, publicKey, extensions, issuer })
}

/** For the control plane's own TLS port. It names no SPIFFE identity, so no peer takes it for a workload. */
export async function issueServing(
  publicKey: KeyObject,
  names: { readonly dns: readonly string[]; readonly ips: readonly string[] },
  validity: Validity,
  issuer: Issuer,
): Promise<CertificateFacts> {
  const list: x509.JsonGeneralNames = [
    ...names.dns.map((value) => ({ type: 'dns' as const, value })),
    ...names.ips.map((value) => ({ type: 'ip' as const, value })),
  ]
  return sign({ ...validity, publicKey, extensions: leafExtensions(list, [x509.ExtendedKeyUsage.serverAuth]), issuer })
}
