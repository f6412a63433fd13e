// TLS that we begin towards a backend: what a DestinationRule asks for. Who the backend is gets checked by the names that the
// policy gives, else by the server's name. What cannot be made as asked is not made at all.
import { checkServerIdentity, connect, createSecureContext } from 'node:tls'
import type { SecureContext, TLSSocket } from 'node:tls'
import type { X509Certificate } from 'node:crypto'
import { isIP } from 'node:net'
import type { Duplex } from 'node:stream'
import { MeshError } from '../../core/errors.ts'
import type { TrafficPolicy } from '../../model/route.ts'
import type { Secret } from './parts.ts'

export type TlsPolicy = NonNullable<TrafficPolicy['tls']>

export interface TlsPlan {
  readonly policy: TlsPolicy
  /** Where the policy names no server. */
  readonly host: string
  readonly protocol: 'http1' | 'http2' | 'opaque'
  readonly secret: (key: string) => Secret | undefined
}

/** By the objects that they were made of: a changed secret is another object. */
const contexts = new WeakMap<object, Map<Secret | undefined, SecureContext>>()
const noSecret = Object.freeze({})

function contextOf({ policy, secret }: TlsPlan): SecureContext {
  const authorities = policy.caSecret === undefined ? undefined : secret(`Secret ${policy.caSecret}`)
  const own = policy.certificateSecret === undefined ? undefined : secret(`Secret ${policy.certificateSecret}`)
  if (policy.caSecret !== undefined && authorities?.authorities === undefined) {
    throw unusable(`the Secret ${policy.caSecret} has no authorities`)
  }
  if (policy.mode === 'mutual' && !own?.certificate) {
    throw unusable(`the Secret ${policy.certificateSecret ?? '(none)'} has no certificate`)
  }
  const first: object = authorities ?? noSecret
  let byOwn = contexts.get(first)
  if (!byOwn) contexts.set(first, (byOwn = new Map()))
  const shown = policy.mode === 'mutual' ? own : undefined
  const known = byOwn.get(shown)
  if (known) return known
  // Old certificates of one authority must not pile up.
  if (byOwn.size >= 64) byOwn.clear()
  let context: SecureContext
  try {
    context = createSecureContext({
      minVersion: 'TLSv1.2',
      ...(authorities?.authorities !== undefined && { ca: authorities.authorities }),
      ...(shown?.certificate && { cert: shown.certificate.chain, key: shown.certificate.privateKey }),
    })
  } catch (cause) {
    throw unusable('certificate, key or authorities cannot be read', cause)
  }
  byOwn.set(shown, context)
  return context
}

function unusable(text: string, cause?: unknown): MeshError {
  return new MeshError('CERTIFICATE_UNAVAILABLE', `TLS to the backend: ${text}`, { source: 'internal', retry: 'never', cause })
}

/** Owns `carrier` from the call on. Rejects with CERTIFICATE_UNAVAILABLE, TLS_FAILED or what the signal says. */
export function originate(carrier: Duplex, plan: TlsPlan, signal: AbortSignal): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const { policy, protocol } = plan
    const serverName = policy.serverName ?? plan.host
    const hasNames = policy.subjectAltNames.length > 0
    carrier.on('error', () => {
      // The TLS socket above it reports it.
    })
    let tls: TLSSocket
    try {
      tls = connect({
        socket: carrier,
        secureContext: contextOf(plan),
        ...(isIP(serverName) === 0 && { servername: serverName }),
        ...(protocol !== 'opaque' && { ALPNProtocols: [protocol === 'http2' ? 'h2' : 'http/1.1'] }),
        checkServerIdentity: (_, shown) => (hasNames ? undefined : checkServerIdentity(serverName, shown)),
      })
    } catch (error) {
      carrier.destroy()
      reject(error instanceof MeshError ? error : unusable('the handshake cannot begin', error))
      return
    }
    const finish = (error?: MeshError): void => {
      signal.removeEventListener('abort', onAbort)
      tls.off('error', onError)
      tls.off('close', onClose)
      tls.on('error', () => {
        // Whoever uses the stream sees it end.
      })
      if (error) {
        tls.destroy()
        carrier.destroy()
        reject(error)
      } else resolve(tls)
    }
    const onError = (cause: Error): void => finish(failed(cause.message, cause))
    const onClose = (): void => finish(failed('the backend closed the connection during the handshake'))
    const onAbort = (): void => {
      finish(signal.reason instanceof MeshError ? signal.reason : new MeshError('CLOSED', 'the handshake was given up'))
    }
    tls.once('error', onError)
    tls.once('close', onClose)
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
    tls.once('secureConnect', () => {
      const certificate = tls.getPeerX509Certificate()
      if (hasNames && !(certificate && hasName(certificate, policy.subjectAltNames))) {
        finish(failed(`the backend is not ${policy.subjectAltNames.join(' or ')}`))
      } else if (protocol === 'http2' && tls.alpnProtocol !== 'h2') finish(failed('the backend does not speak HTTP/2'))
      else finish()
    })
  })
}

function failed(text: string, cause?: unknown): MeshError {
  return new MeshError('TLS_FAILED', `TLS to the backend: ${text}`, { source: 'upstream', retry: 'never', cause })
}

/** DNS names, URIs and addresses of a certificate, exactly; a DNS name may be covered by a wildcard in it. */
function hasName(certificate: X509Certificate, names: readonly string[]): boolean {
  const listed = new Set((certificate.subjectAltName ?? '').split(', '))
  return names.some((name) => listed.has(`URI:${name}`) || (isIP(name) !== 0
    ? certificate.checkIP(name) !== undefined
    : !name.includes('/') && certificate.checkHost(name, { subject: 'never' }) !== undefined))
}
