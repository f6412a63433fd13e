// What Secrets and ConfigMaps hold for TLS: a certificate with its key, and authorities. What cannot be used is not there at all:
// a handshake fails rather than being made with half of it. Reasons never quote what they are about.
import { createPrivateKey, X509Certificate, type KeyObject } from 'node:crypto'
import type { ConfigMapManifest, SecretManifest } from '../../../model/manifest.ts'

export interface TlsContent {
  /** PEM, leaf first. */
  readonly certificate?: { readonly chain: string; readonly privateKey: string }
  readonly authorities?: string
  /** Why there is no certificate, or why there are no authorities, though something is there. */
  readonly certificateProblem?: string
  readonly authoritiesProblem?: string
}

/** What is looked at, in Secrets and ConfigMaps. */
export const tlsNames = ['tls.crt', 'tls.key', 'ca.crt'] as const

const longestChain = 20
const mostAuthorities = 1_000
const block = /-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----/g

// Objects are replaced, never changed, and a signature check for each translation would cost more than the rest of it.
const read = new WeakMap<SecretManifest | ConfigMapManifest, TlsContent>()

export function tlsContent(object: SecretManifest | ConfigMapManifest): TlsContent {
  let content = read.get(object)
  if (!content) {
    content = { ...(object.kind === 'Secret' ? certificateOf(object) : {}), ...authoritiesOf(object.data) }
    read.set(object, content)
  }
  return content
}

function textOf(data: Readonly<Record<string, string>>, name: string): string | undefined {
  return Object.hasOwn(data, name) ? data[name] : undefined
}

function certificateOf({ type, data }: SecretManifest): Pick<TlsContent, 'certificate' | 'certificateProblem'> {
  const [chainText, keyText] = [textOf(data, 'tls.crt'), textOf(data, 'tls.key')]
  if (chainText === undefined && keyText === undefined && type !== 'kubernetes.io/tls') return {}
  if (chainText === undefined || keyText === undefined) {
    return { certificateProblem: `${chainText === undefined ? 'tls.crt' : 'tls.key'} is missing` }
  }
  const chain = certificates(chainText, longestChain)
  if (typeof chain === 'string') return { certificateProblem: `tls.crt ${chain}` }
  const key = keyOf(keyText)
  if (typeof key === 'string') return { certificateProblem: `tls.key ${key}` }
  if (!belongs(chain[0], key)) return { certificateProblem: 'tls.key does not belong to the first certificate in tls.crt' }
  return { certificate: { chain: pemOf(chain), privateKey: key.export({ type: 'pkcs8', format: 'pem' }).toString() } }
}

function authoritiesOf(data: Readonly<Record<string, string>>): Pick<TlsContent, 'authorities' | 'authoritiesProblem'> {
  const text = textOf(data, 'ca.crt')
  if (text === undefined) return {}
  const found = certificates(text, mostAuthorities)
  return typeof found === 'string' ? { authoritiesProblem: `ca.crt ${found}` } : { authorities: pemOf(found) }
}

/** In their order, or what is wrong. */
function certificates(text: string, most: number): readonly X509Certificate[] | string {
  const blocks = text.match(block) ?? []
  if (blocks.length === 0) return 'has no certificate in PEM'
  if (blocks.length > most) return `has more than ${most} certificates`
  try {
    return blocks.map((pem) => new X509Certificate(pem))
  } catch {
    // The reason of OpenSSL is of no use to people, and could quote.
    return 'has a certificate that cannot be read'
  }
}

function keyOf(text: string): KeyObject | string {
  let key: KeyObject
  try {
    key = createPrivateKey(text)
  } catch {
    // Also a key that needs a passphrase.
    return 'has no private key in PEM that can be used without a passphrase'
  }
  const { asymmetricKeyType: type, asymmetricKeyDetails: { modulusLength = 0 } = {} } = key
  if (type === 'rsa' || type === 'rsa-pss') return modulusLength < 2_048 ? 'is an RSA key of less than 2048 bits' : key
  return type === 'ec' || type === 'ed25519' ? key : 'is a key of a kind that TLS servers do not use'
}

function belongs(leaf: X509Certificate | undefined, key: KeyObject): boolean {
  try {
    return leaf?.checkPrivateKey(key) ?? false
  } catch {
    // Keys of different kinds.
    return false
  }
}

function pemOf(list: readonly X509Certificate[]): string {
  return list.map((certificate) => certificate.toString()).join('')
}
