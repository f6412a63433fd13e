// From a connection to a ClientSession: TLS, verification, HTTP/2's SETTINGS, all within one time limit. The connection is TCP
// or another tunnel's stream. The session is not given out before the server's SETTINGS are there: in TLS 1.3 only they prove
// that it accepted our certificate.
import http2 from 'node:http2'
import type { ClientHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { connect as tlsConnect } from 'node:tls'
import type { SecureContext, TLSSocket } from 'node:tls'
import type { CertifiedKey, PeerVerifier } from '../core/certificates.ts'
import type { Clock } from '../core/clock.ts'
import { MeshError } from '../core/errors.ts'
import type { ErrorCode } from '../core/errors.ts'
import type { Identity } from '../core/identity.ts'
import { ClientSession } from './session.ts'
import { clientSessionOptions } from './settings.ts'
import type { SessionTimeouts } from './settings.ts'
import { secureContextOf, tlsFailureReason, verifyHandshake } from './tls.ts'

export interface HandshakePlan {
  readonly certified: CertifiedKey
  readonly verifier: PeerVerifier
  /** Whom we may meet. */
  readonly identities: readonly Identity[]
  readonly maxStreams: number
  readonly timeouts: SessionTimeouts
  readonly clock: Clock
  /** The TCP connection at the bottom: for its addresses and statistics only. */
  readonly socket: Socket
  readonly signal?: AbortSignal
}

/**
 * Owns `carrier` (connected) from the call on. Rejects with TLS_FAILED, PEER_IDENTITY_MISMATCH, PEER_REVOKED or CLOSED;
 * `detail.because` is the reason for metrics.
 */
export function openSession(carrier: Duplex, plan: HandshakePlan): Promise<ClientSession> {
  const { certified, verifier, clock, timeouts, signal } = plan
  let secureContext: SecureContext
  try {
    secureContext = secureContextOf(certified)
  } catch (cause) {
    carrier.destroy()
    return Promise.reject(new MeshError('CERTIFICATE_UNAVAILABLE', 'our own certificate cannot be used', { cause }))
  }
  return new Promise((resolve, reject) => {
    const { promise, settle } = outcome(resolve, reject)
    const tls = tlsConnect({
      socket: carrier,
      secureContext,
      ALPNProtocols: ['h2'],
      // verifyHandshake() decides, on the chain as it was sent; no SNI because no servername is given.
      rejectUnauthorized: false,
      checkServerIdentity: () => undefined,
    })
    let session: ClientHttp2Session | undefined
    const fail = (error: MeshError): void => {
      if (!settle()) return
      session?.destroy()
      tls.destroy()
      carrier.destroy()
      promise.reject(error)
    }
    const cancelTimer = clock.after(timeouts.handshakeTimeoutMs, () => fail(refusal('timeout', `not done within ${timeouts.handshakeTimeoutMs} ms`)))
    const onAbort = (): void => fail(new MeshError('CLOSED', 'the handshake was given up'))
    promise.onSettled(() => {
      cancelTimer()
      signal?.removeEventListener('abort', onAbort)
    })
    signal?.addEventListener('abort', onAbort, { once: true })
    if (signal?.aborted) onAbort()
    let isSecure = false
    carrier.on('error', () => {
      // The TLS socket above it reports it.
    })
    // http2 takes the socket over; until the SETTINGS are there both may tell why there will be none.
    tls.on('error', (error) => fail(refusal(tlsFailureReason(error), error.message, error)))
    tls.on('close', () => fail(early(isSecure)))
    tls.once('end', () => fail(early(isSecure)))
    tls.once('secureConnect', () => {
      isSecure = true
      const handshake = verifyHandshake(tls, certified, verifier, { role: 'server', identities: plan.identities })
      if ('refused' in handshake) {
        fail(refusal(handshake.refused, handshake.detail))
        return
      }
      if (tls.alpnProtocol !== 'h2') {
        fail(refusal('alpn', 'the peer does not speak h2'))
        return
      }
      session = startHttp2(tls)
      session.on('error', (error) => fail(refusal(tlsFailureReason(error), error.message, error)))
      session.on('close', () => fail(early(isSecure)))
      session.once('remoteSettings', () => {
        if (!session || !settle()) return
        const facts = { peerIdentity: handshake.ok, peerChain: handshake.chain, certified, socket: plan.socket, maxStreams: plan.maxStreams }
        promise.resolve(new ClientSession(session, tls, facts, clock, timeouts))
      })
    })
  })
}

function startHttp2(tls: TLSSocket): ClientHttp2Session {
  // The address is of no use to a session that has its connection; requests carry their own authority.
  return http2.connect('https://hbone.invalid', { ...clientSessionOptions, createConnection: () => tls })
}

function early(isSecure: boolean): MeshError {
  return isSecure
    ? refusal('closedBySettings', 'the peer closed the connection right after the handshake; it probably refuses our certificate')
    : refusal('closed', 'the peer closed the connection during the handshake')
}

const codeOfReason: Readonly<Record<string, ErrorCode>> = { identityMismatch: 'PEER_IDENTITY_MISMATCH', revoked: 'PEER_REVOKED' }

function refusal(because: string, text: string, cause?: unknown): MeshError {
  return new MeshError(codeOfReason[because] ?? 'TLS_FAILED', `tunnel handshake: ${text}`, {
    source: 'upstream',
    // A timeout or a lost connection may be better at another endpoint; a refusal will not.
    retry: ['timeout', 'closed', 'closedBySettings', 'reset', 'socket'].includes(because) ? 'always' : 'never',
    detail: { because },
    cause,
  })
}

/** A promise that says whether it was the first to be settled. */
function outcome<T>(resolve: (value: T) => void, reject: (error: MeshError) => void): {
  readonly promise: { resolve(value: T): void; reject(error: MeshError): void; onSettled(callback: () => void): void }
  readonly settle: () => boolean
} {
  let isSettled = false
  let cleanUp = (): void => {}
  return {
    promise: { resolve, reject, onSettled: (callback) => (cleanUp = callback) },
    settle: () => {
      if (isSettled) return false
      isSettled = true
      cleanUp()
      return true
    },
  }
}
