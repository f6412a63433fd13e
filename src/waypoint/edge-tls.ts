// TLS that ends at an ingress: certificates by server name out of Secrets, in force from the next handshake on when they
// change, and certificates of clients where a listener asks for them. Never goes without: what is missing or broken makes
// handshakes fail.
import { createHash, X509Certificate } from 'node:crypto'
import type { Socket } from 'node:net'
import { createSecureContext, createServer } from 'node:tls'
import type { SecureContext, SecureContextOptions, Server, TLSSocket } from 'node:tls'
import { describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import type { GatewayListener } from '../model/route.ts'
import type { ConnectionContext } from './context.ts'
import type { GatewayResources } from './resources.ts'

const handshakeMs = 10_000

export interface EdgeTlsOptions {
  readonly resources: GatewayResources
  readonly onSecure: (tls: TLSSocket, listener: GatewayListener) => void
  /** A word of a closed set. */
  readonly onFailure: (because: string) => void
  readonly logger: Logger
}

interface PemPair {
  readonly chain: string
  readonly privateKey: string
}

interface Certificate {
  readonly pair: PemPair
  readonly context: SecureContext
  readonly x509: X509Certificate
}

interface Entry {
  /** What it was made of: as long as all of it is the same, nothing has changed. */
  readonly made: readonly unknown[]
  readonly server: Server
}

export class EdgeTls {
  readonly #options: EdgeTlsOptions
  readonly #entries = new Map<string, Entry>()

  constructor(options: EdgeTlsOptions) {
    this.#options = options
  }

  /** The handshake on an accepted connection of which nothing is lost yet; it is TLS's from here on. */
  accept(socket: Socket, listener: GatewayListener): void {
    this.#serverOf(listener).emit('connection', socket)
  }

  /** Listeners that are gone are forgotten; handshakes under way end as they began. */
  keepOnly(keys: ReadonlySet<string>): void {
    for (const key of this.#entries.keys()) if (!keys.has(key)) this.#entries.delete(key)
  }

  /** Names of Secrets that a listener needs and that cannot be used. */
  missing({ tls, clientCertificates }: GatewayListener): string[] {
    const { resources } = this.#options
    const certificates = tls?.mode === 'terminate' ? tls.certificates.map((name) => `Secret ${name}`) : []
    return [
      ...certificates.filter((key) => resources.get('secret', key)?.certificate === undefined),
      ...(clientCertificates?.authorities ?? []).filter((key) => resources.get('secret', key)?.authorities === undefined),
    ]
  }

  #serverOf(listener: GatewayListener): Server {
    const { resources } = this.#options
    const certificates = (listener.tls?.certificates ?? []).map((name) => resources.get('secret', `Secret ${name}`)?.certificate)
    const authorities = listener.clientCertificates?.authorities.map((key) => resources.get('secret', key)?.authorities)
    const made = [listener, ...certificates, ...(authorities ?? [])]
    const known = this.#entries.get(listener.key)
    if (known && known.made.length === made.length && known.made.every((each, i) => each === made[i])) return known.server
    const server = this.#make(listener, certificates, authorities)
    this.#entries.set(listener.key, { made, server })
    return server
  }

  #make(listener: GatewayListener, pairs: readonly (PemPair | undefined)[], authorities: readonly (string | undefined)[] | undefined): Server {
    const { onSecure, onFailure, logger } = this.#options
    const client = listener.clientCertificates
    // Of no authorities nobody has a certificate: Node would take those of the system instead.
    const ca = authorities && [authorities.filter((pem) => pem !== undefined).join('\n')]
    const usable = pairs.flatMap((pair) => {
      try {
        return pair ? [certificateOf(pair, ca)] : []
      } catch (error) {
        logger.warn({ listener: listener.key, because: describeError(error) }, 'certificate cannot be used')
        return []
      }
    })
    const isRequired = client !== undefined && !client.isOptional
    const server = createServer({
      ALPNProtocols: listener.protocol === 'https' ? ['h2', 'http/1.1'] : [],
      handshakeTimeout: handshakeMs, minVersion: 'TLSv1.2', allowHalfOpen: true,
      requestCert: client !== undefined, rejectUnauthorized: isRequired,
      sessionIdContext: createHash('sha256').update(listener.key).digest('hex').slice(0, 32),
      SNICallback: (name, done) => {
        const chosen = contextFor(usable, name)
        if (chosen) done(null, chosen)
        else done(new Error('no certificate can be used'))
      },
    })
    // For clients that name no server, which SNICallback is not asked about.
    const [first] = usable
    if (first) server.setSecureContext(secureOptions(first.pair, ca))
    server.on('secureConnection', (tls) => {
      tls.on('error', () => {
        // Who serves it learns that from 'close'.
      })
      if (isRequired && !tls.authorized) tls.destroy()
      else onSecure(tls, listener)
    })
    server.on('tlsClientError', (error: Error & { code?: string }, tls) => {
      onFailure(failureOf(error))
      tls.destroy()
    })
    return server
  }
}

function certificateOf(pair: PemPair, ca: readonly string[] | undefined): Certificate {
  return { pair, context: createSecureContext(secureOptions(pair, ca)), x509: new X509Certificate(pair.chain) }
}

function secureOptions({ chain, privateKey }: PemPair, ca: readonly string[] | undefined): SecureContextOptions {
  return { cert: chain, key: privateKey, minVersion: 'TLSv1.2', ...(ca && { ca: [...ca] }) }
}

/** The first that is for that name; else the first, whose name the client will not like and can say so. */
function contextFor(certificates: readonly Certificate[], name: string): SecureContext | undefined {
  const fitting = certificates.find(({ x509 }) => x509.checkHost(name, { partialWildcards: false }) !== undefined)
  return (fitting ?? certificates[0])?.context
}

/** OpenSSL's and Node's many words in few. */
function failureOf({ code = '', message }: Error & { code?: string }): string {
  if (code === 'ERR_TLS_HANDSHAKE_TIMEOUT') return 'handshakeTimeout'
  if (code === 'ECONNRESET') return 'closed'
  if (/certificate/i.test(message)) return 'clientCertificate'
  return code.startsWith('ERR_SSL_') ? 'tls' : 'handshake'
}

/** What a client proved by a certificate; undefined for who showed none that is believed. */
export function clientCertificateOf(tls: TLSSocket): ConnectionContext['clientCertificate'] {
  const x509 = tls.authorized ? tls.getPeerX509Certificate() : undefined
  if (!x509) return undefined
  const names = alternativeNames(x509.subjectAltName ?? '')
  const of = (kind: string): string[] => names.flatMap(([each, value]) => (each === kind ? [value] : []))
  return {
    hash: x509.fingerprint256.replaceAll(':', '').toLowerCase(), subject: x509.subject.split('\n').join(','),
    uris: of('URI'), dnsNames: of('DNS'),
  }
}

/** `KIND:value, KIND:"value"`; Node quotes, as JSON, whatever holds something that could be mistaken for the next. */
export function alternativeNames(text: string): (readonly [kind: string, value: string])[] {
  const found: [string, string][] = []
  const element = /([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^,]*)(?:, |$)/y
  for (let match = element.exec(text); match?.[1] !== undefined; match = element.exec(text)) {
    const [, kind = '', value = ''] = match
    found.push([kind, value.startsWith('"') ? unquoted(value) : value])
    if (element.lastIndex >= text.length) break
  }
  return found
}

function unquoted(text: string): string {
  try {
    return String(JSON.parse(text))
  } catch {
    // Not JSON after all: what is between the quotes is what was said.
    return text.slice(1, -1)
  }
}
