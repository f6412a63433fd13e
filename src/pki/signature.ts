// Signatures over parts of DER that node:crypto has no class for: requests and CRLs. Only algorithms that still prove something.
import { verify } from 'node:crypto'
import type { KeyObject } from 'node:crypto'

interface Algorithm {
  readonly keyType: string
  /** Undefined where the algorithm hashes by itself. */
  readonly hash?: string
}

const algorithms: Readonly<Record<string, Algorithm>> = {
  '1.2.840.10045.4.3.2': { keyType: 'ec', hash: 'sha256' },
  '1.2.840.10045.4.3.3': { keyType: 'ec', hash: 'sha384' },
  '1.2.840.10045.4.3.4': { keyType: 'ec', hash: 'sha512' },
  '1.2.840.113549.1.1.11': { keyType: 'rsa', hash: 'sha256' },
  '1.2.840.113549.1.1.12': { keyType: 'rsa', hash: 'sha384' },
  '1.2.840.113549.1.1.13': { keyType: 'rsa', hash: 'sha512' },
  '1.3.101.112': { keyType: 'ed25519' },
}

/** SHA-1 and MD5 are not among them. */
export function isGoodSignatureAlgorithm(oid: string): boolean {
  return Object.hasOwn(algorithms, oid)
}

/** False also for algorithms that are not accepted and for keys of another kind. */
export function verifySignature(oid: string, key: KeyObject, signed: Uint8Array, signature: Uint8Array): boolean {
  const algorithm = Object.hasOwn(algorithms, oid) ? algorithms[oid] : undefined
  if (!algorithm || key.asymmetricKeyType !== algorithm.keyType) return false
  return verify(algorithm.hash, signed, key, signature)
}
