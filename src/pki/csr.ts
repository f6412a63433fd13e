// Certificate signing requests: made here by nodes, read by the CA. Of a request only its key and its one SPIFFE URI are ever
// taken; that the asker has the key is proven by the request's own signature.
import * as x509 from './x509.ts'
import { createPublicKey, generateKeyPair } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { promisify } from 'node:util'
import { MeshError } from '../core/errors.ts'
import { formatIdentity, parseIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import { children, expectTag, readBitString, readDer, readOid, readSmallInteger, tags } from './der.ts'
import type { Der } from './der.ts'
import { generalNames, nameKind, readExtensions } from './facts.ts'
import { signingAlgorithm } from './issue.ts'
import { decodePem, encodePem } from './pem.ts'
import { verifySignature } from './signature.ts'

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
const extensionRequest = '1.2.840.113549.1.9.14'
const subjectAlternativeName = '2.5.29.17'

/**
 * Throws BAD_MESSAGE with the reason: broken, key too weak, not signed by its key, or not exactly one SPIFFE URI. Read by our own
 * reader, because the library's verification let changed bytes outside of the signed part pass.
 */
export function readCsr(pem: string): ReadCsr {
  if (pem.length > maxCsrBytes) throw new MeshError('BAD_MESSAGE', 'the request is too large')
  const [der, second] = decodePem(pem, labels)
  if (!der || second) throw new MeshError('BAD_MESSAGE', 'one PEM certificate request is needed')
  const [info, algorithm, signature, more] = children(readDer(der, tags.sequence))
  const [version, subject, key, attributes] = children(expectTag(info, tags.sequence))
  if (more || readSmallInteger(version) !== 0 || !info) throw new MeshError('BAD_MESSAGE', 'not a PKCS #10 request')
  expectTag(subject, tags.sequence)
  const publicKey = acceptedKey(expectTag(key, tags.sequence).raw)
  const oid = readOid(children(expectTag(algorithm, tags.sequence))[0])
  if (!verifySignature(oid, publicKey, info.raw, readBitString(signature))) {
    throw new MeshError('BAD_MESSAGE', 'the request is not signed by its own key with SHA-2')
  }
  return { identity: requestedIdentity(attributes), publicKey }
}

/** P-256, P-384 or RSA of 2048 to 8192 bits. */
function acceptedKey(spki: Buffer): KeyObject {
  let key: KeyObject
  try {
    key = createPublicKey({ key: spki, format: 'der', type: 'spki' })
  } catch (cause) {
    throw new MeshError('BAD_MESSAGE', 'the request has no key that can be read', { cause })
  }
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key
  if (type === 'ec' && (details?.namedCurve === 'prime256v1' || details?.namedCurve === 'secp384r1')) return key
  if (type === 'rsa' && (details?.modulusLength ?? 0) >= 2048 && (details?.modulusLength ?? 0) <= 8192) return key
  throw new MeshError('BAD_MESSAGE', 'the key is not P-256, P-384 or RSA of 2048 to 8192 bits')
}

function requestedIdentity(attributes: Der | undefined): Identity {
  const lists = children(expectTag(attributes, 0xa0))
    .map((attribute) => children(expectTag(attribute, tags.sequence)))
    .filter(([id]) => readOid(id) === extensionRequest)
    .flatMap(([, values]) => children(expectTag(values, tags.set)))
  const alternatives = lists.flatMap(readExtensions).filter(({ id }) => id === subjectAlternativeName)
  const uris = alternatives.flatMap(({ value }) => generalNames(value)).filter(({ kind }) => kind === nameKind.uri)
  const identity = parseIdentity(uris[0]?.text ?? '')
  if (alternatives.length !== 1 || uris.length !== 1 || !identity) {
    throw new MeshError('BAD_MESSAGE', 'the request must name exactly one URI of the form spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT')
  }
  return identity
}
