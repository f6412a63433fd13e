// The TLS side of both ends: contexts from certificates, and whose certificate the peer showed. TLS 1.3 only, no resumption,
// AES-GCM only. OpenSSL is told to let every chain pass, because the one who decides is the verifier: so nothing may be read
// from or written to a socket before verifyHandshake() said ok.
import { constants } from 'node:crypto'
import type { X509Certificate } from 'node:crypto'
import { createSecureContext } from 'node:tls'
import type { SecureContext, TLSSocket } from 'node:tls'
import type { CertifiedKey, PeerExpectation, PeerVerifier } from '../core/certificates.ts'
import { formatIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'

/** Cached: making one costs about a millisecond, and a certificate serves thousands of handshakes. */
const contexts = new WeakMap<CertifiedKey, SecureContext>()

export function secureContextOf(certified: CertifiedKey): SecureContext {
  const known = contexts.get(certified)
  if (known) return known
  const context = createSecureContext({
    cert: certified.chainPem,
    key: certified.key.export({ type: 'pkcs8', format: 'pem' }),
    // For the names of acceptable issuers that a server sends; without it OpenSSL would load the public web's roots.
    ca: [...certified.rootsPem],
    minVersion: 'TLSv1.3',
    maxVersion: 'TLSv1.3',
    ciphers: 'TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256',
    secureOptions: constants.SSL_OP_NO_TICKET,
  })
  contexts.set(certified, context)
  return context
}

// RFC 8446 sets no limit; no chain of a mesh has more, and a verifier refuses longer ones anyway.
const maxChain = 16

/** DER, leaf first, exactly as the peer sent it; empty if it sent none. */
export function peerChain(socket: TLSSocket): readonly Uint8Array[] {
  const chain: Uint8Array[] = []
  for (let next = socket.getPeerX509Certificate(); next && chain.length < maxChain; next = issuerOf(next)) chain.push(next.raw)
  return chain
}

function issuerOf(certificate: X509Certificate): X509Certificate | undefined {
  return certificate.issuerCertificate
}

export type Handshake =
  | { readonly ok: Identity; readonly chain: readonly Uint8Array[] }
  | { readonly refused: string; readonly detail: string }

/** Call when the handshake is done and before anything else. A thrown verifier error is a refusal too. */
export function verifyHandshake(socket: TLSSocket, certified: CertifiedKey, verifier: PeerVerifier, expected: PeerExpectation): Handshake {
  if (socket.getProtocol() !== 'TLSv1.3') return { refused: 'protocolVersion', detail: String(socket.getProtocol()) }
  // A resumed session would bring the chain of an earlier handshake, or none.
  if (socket.isSessionReused()) return { refused: 'resumed', detail: 'sessions are not resumed' }
  const chain = peerChain(socket)
  if (chain.length === 0) return { refused: 'noCertificate', detail: 'the peer sent no certificate' }
  let verdict
  try {
    verdict = verifier.verifyPeer(chain, certified.rootsPem, expected)
  } catch (error) {
    return { refused: 'verifierFailed', detail: String(error) }
  }
  if ('refused' in verdict) return verdict
  // The verifier has checked this; it is said twice because everything hangs on it.
  const found = formatIdentity(verdict.ok)
  if (expected.role === 'server' && !expected.identities.some((identity) => formatIdentity(identity) === found)) {
    return { refused: 'identityMismatch', detail: found }
  }
  return { ok: verdict.ok, chain }
}

const reasonOfCode: Readonly<Record<string, string>> = {
  ERR_SSL_HTTP_REQUEST: 'plaintext',
  ERR_SSL_HTTPS_PROXY_REQUEST: 'plaintext',
  ERR_SSL_WRONG_VERSION_NUMBER: 'notTls',
  ERR_SSL_PACKET_LENGTH_TOO_LONG: 'notTls',
  ERR_SSL_RECORD_LAYER_FAILURE: 'notTls',
  ERR_SSL_UNSUPPORTED_PROTOCOL: 'protocolVersion',
  ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION: 'protocolVersion',
  ERR_SSL_NO_APPLICATION_PROTOCOL: 'alpn',
  ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL: 'alpn',
  ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE: 'noCertificate',
  ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED: 'noCertificate',
  ECONNRESET: 'reset',
  EPIPE: 'reset',
}

/** A small closed set of reasons for a TLS failure, for metrics. */
export function tlsFailureReason(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : ''
  return reasonOfCode[code] ?? (code.includes('ALERT') ? 'alert' : code.startsWith('ERR_SSL') ? 'tls' : 'socket')
}
