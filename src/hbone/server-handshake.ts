// The server's TLS handshake on one accepted connection: within its time, with a client certificate that the verifier believes.
// Nothing is read above TLS before that. What went wrong is one reason of a small set.
import { TLSSocket } from 'node:tls'
import type { Socket } from 'node:net'
import type { CertifiedKey, PeerVerifier } from '../core/certificates.ts'
import type { Clock } from '../core/clock.ts'
import type { Identity } from '../core/identity.ts'
import { secureContextOf, tlsFailureReason, verifyHandshake } from './tls.ts'

export type ServerHandshake =
  | { readonly t: 'done'; readonly tls: TLSSocket; readonly peer: Identity; readonly chain: readonly Uint8Array[] }
  | { readonly t: 'refused'; readonly because: string; readonly detail: string }

export interface ServerHandshakePlan {
  readonly certified: CertifiedKey
  readonly verifier: PeerVerifier
  readonly clock: Clock
  readonly timeoutMs: number
  /** Aborts with a reason (a string) that becomes `because`. */
  readonly signal: AbortSignal
}

/** Owns `socket`, which is destroyed unless the answer is `done`. Never rejects. */
export function acceptTls(socket: Socket, { certified, verifier, clock, timeoutMs, signal }: ServerHandshakePlan): Promise<ServerHandshake> {
  return new Promise((resolve) => {
    let isSettled = false
    const tls = new TLSSocket(socket, {
      isServer: true,
      secureContext: secureContextOf(certified),
      ALPNProtocols: ['h2'],
      requestCert: true,
      // Here this only makes OpenSSL ask for a certificate with the alert that says so; the chain is ours to judge.
      rejectUnauthorized: true,
    })
    const settle = (outcome: ServerHandshake): void => {
      if (isSettled) return
      isSettled = true
      cancelTimer()
      signal.removeEventListener('abort', onAbort)
      resolve(outcome)
      if (outcome.t === 'done') return
      // Lets the alert out before the connection goes; a peer that does not take it gets a reset.
      tls.destroy()
      socket.destroy()
    }
    const refuse = (because: string, detail: string): void => settle({ t: 'refused', because, detail })
    const onAbort = (): void => refuse(String(signal.reason), 'given up')
    const cancelTimer = clock.after(timeoutMs, () => refuse('timeout', `not done within ${timeoutMs} ms`))
    const onTlsError = (error: Error): void => {
      refuse(tlsFailureReason(error), error.message)
      // Errors after the handshake reach nobody else, because no tls.Server stands above this socket.
      tls.destroy()
    }
    // Two events that Node's own tls.Server lives on, too, which has no way to tell which TLS socket belongs to which of ours.
    tls.on('_tlsError', onTlsError)
    tls.once('secure', () => {
      // As tls.Server does at this point; http2 would wait for a 'secureConnect' otherwise.
      Object.assign(tls, { secureConnecting: false })
      const handshake = verifyHandshake(tls, certified, verifier, { role: 'client' })
      if ('refused' in handshake) refuse(handshake.refused, handshake.detail)
      else settle({ t: 'done', tls, peer: handshake.ok, chain: handshake.chain })
    })
    tls.on('error', (error) => refuse(tlsFailureReason(error), error.message))
    tls.once('end', () => refuse('closed', 'the client closed the connection during the handshake'))
    tls.once('close', () => refuse('closed', 'the client closed the connection during the handshake'))
    socket.on('error', (error) => refuse(tlsFailureReason(error), error.message))
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
  })
}
