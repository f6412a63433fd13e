// Certificate signing requests: made here by nodes, read by the CA. Of a request only its key and its one SPIFFE URI are ever
// taken; that the asker has the key is proven by the request's own signature.
import * as x509 from './x509.ts'
import { createPublicKey, generateKeyPair } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { promisify } from 'node:util'
import { MeshError } from '../core/errors.ts'
import { formatIdentity, parseIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import { readDer, children, expectTag, tags } from './der.ts'
import { signingAlgorithm } from './issue.ts'
import { decodePem, encodePem } from './pem.ts'

const newKeyPair = promisify(generateKeyPair)

/** A fresh ECDSA P-256 key. It is made where it is used and never travels. */
export async function newKey(): Promise<KeyObject> {
  return (await newKeyPair('ec', { namedCurve: 'P-256' })).privateKey
}

/** PEM request for `identity`, signed by `key`. */
export async function makeCsr(identity: Identity, key: KeyObject): Promise<string> {
  const algorithm = signingAlgorithm(key)
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    keys: {
      privateKey: key.toCryptoKey(algorithm, false, ['sign']),
      publicKey: createPublicKey(key).toCryptoKey(algorithm, true, ['verify']),
    },
    signingAlgorithm: algorithm,
    extensions: [new x509.SubjectAlternativeNameExtension([{ type: 'url', value: formatIdentity(identity) }], true)],
  })
  return encodePem('CERTIFICATE REQUEST', Buffer.from(request.rawData))
}

export interface ReadCsr {
  readonly identity: Identity
  readonly publicKey: KeyObject
}

/** A request of a P-256 key has some 300 bytes, of RSA 4096 some 1,700. */
const maxCsrBytes = 16 * 1024
const labels = ['CERTIFICATE REQUEST', 'NEW CERTIFICATE REQUEST']
const limits = { berOptions: { maxDepth: 16, maxNodes: 1_000, maxContentLength: maxCsrBytes } }

/** Throws BAD_MESSAGE with the reason: broken, key too weak, not signed by its key, or not exactly one SPIFFE URI. */
export async function readCsr(pem: string): Promise<ReadCsr> {
  if (pem.length > maxCsrBytes) throw new MeshError('BAD_MESSAGE', 'the request is too large')
  const blocks = decodePem(pem, labels)
  const [der] = blocks
  if (!der || blocks.length > 1) throw new MeshError('BAD_MESSAGE', 'one PEM certificate request is needed')
  try {
    const request = new x509.Pkcs10CertificateRequest(der, limits)
    const publicKey = acceptedKey(requestKey(der))
    const hash = request.signatureAlgorithm.hash?.name
    if (!['SHA-256', 'SHA-384', 'SHA-512'].includes(hash)) throw new MeshError('BAD_MESSAGE', `requests signed with ${hash} are not accepted`)
    if (!(await request.verify())) throw new MeshError('BAD_MESSAGE', 'the request is not signed by its own key')
    return { identity: requestedIdentity(request), publicKey }
  } catch (error) {
    if (error instanceof MeshError) throw error
    throw new MeshError('BAD_MESSAGE', 'not a certificate request', { cause: error })
  }
}

/** The key as it is in the request's bytes, so that no second reader can differ from what is signed. */
function requestKey(der: Buffer): KeyObject {
  const info = expectTag(children(readDer(der, tags.sequence))[0], tags.sequence)
  const key = expectTag(children(info)[2], tags.sequence)
  return createPublicKey({ key: key.raw, format: 'der', type: 'spki' })
}

/** P-256, P-384 or RSA of at least 2048 bits. */
function acceptedKey(key: KeyObject): KeyObject {
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key
  if (type === 'ec' && (details?.namedCurve === 'prime256v1' || details?.namedCurve === 'secp384r1')) return key
  if (type === 'rsa' && (details?.modulusLength ?? 0) >= 2048 && (details?.modulusLength ?? 0) <= 8192) return key
  throw new MeshError('BAD_MESSAGE', 'the key is not P-256, P-384 or RSA of 2048 to 8192 bits')
}

function requestedIdentity(request: x509.Pkcs10CertificateRequest): Identity {
  const alternatives = request.extensions.filter((extension) => extension.type === '2.5.29.17')
  const uris = alternatives.flatMap((extension) => new x509.SubjectAlternativeNameExtension(extension.rawData).names.items)
    .filter((name) => name.type === 'url')
  const [uri] = uris
  const identity = uri && parseIdentity(uri.value)
  if (alternatives.length !== 1 || uris.length !== 1 || !identity) {
    throw new MeshError('BAD_MESSAGE', 'the request must name exactly one URI of the form spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT')
  }
  return identity
}
