// What the tests of this room share: a little CA, a certificate source and a verifier of a few lines, a TCP server for the
// HBONE server and a pool that dials it, all on loopback. Never imported by anything but tests.
import 'reflect-metadata'
import * as x509 from '@peculiar/x509'
import { createHash, generateKeyPairSync, X509Certificate } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import type { Duplex, Readable } from 'node:stream'
import type { AddressInfo, Server, Socket } from 'node:net'
import type { CertificateSource, CertifiedKey, PeerVerifier } from '../core/certificates.ts'
import { MeshError } from '../core/errors.ts'
import { formatIdentity, parseIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import type { HboneEvent } from './events.ts'
import { HbonePool } from './pool.ts'
import type { PoolOptions, PoolTarget, TunnelRequest } from './pool.ts'
import { HboneServer } from './server.ts'
import type { ServerOptions } from './server.ts'
import type { TunnelStream } from './tunnel-stream.ts'

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
const dayMs = 86_400_000

export const client: Identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'web' }
export const payments: Identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'payments' }

function newKey(): { publicKey: KeyObject; privateKey: KeyObject } {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' })
}

interface Signed {
  readonly pem: string
  readonly key: KeyObject
  readonly subject: string
}

interface LeafPlan {
  readonly notBeforeMs?: number
  readonly notAfterMs?: number
  /** Signs; the root otherwise. */
  readonly issuer?: Signed
}

let serial = 0

/** Signs anything it is asked to. */
export class TestCa {
  readonly root: Signed

  private constructor(root: Signed) {
    this.root = root
  }

  static async make(name = 'root'): Promise<TestCa> {
    return new TestCa(await sign(`CN=${name}`, undefined, {}))
  }

  intermediate(name: string, issuer = this.root): Promise<Signed> {
    return sign(`CN=${name}`, undefined, { issuer })
  }

  async leaf(identity: Identity, plan: LeafPlan = {}): Promise<CertifiedKey> {
    const issuer = plan.issuer ?? this.root
    const { pem, key } = await sign('', identity, { issuer, ...plan })
    const certificate = new X509Certificate(pem)
    return {
      identity, key, rootsPem: [this.root.pem], serial: certificate.serialNumber,
      chainPem: plan.issuer ? `${pem}\n${issuer.pem}` : pem,
      notBeforeMs: certificate.validFromDate.getTime(), notAfterMs: certificate.validToDate.getTime(),
    }
  }
}

async function sign(subject: string, identity: Identity | undefined, { issuer, notBeforeMs, notAfterMs }: LeafPlan): Promise<Signed> {
  const { publicKey, privateKey } = newKey()
  const made = await x509.X509CertificateGenerator.create({
    serialNumber: (++serial + 0x1000).toString(16),
    subject, issuer: issuer?.subject ?? subject,
    notBefore: new Date(notBeforeMs ?? Date.now() - 60_000),
    notAfter: new Date(notAfterMs ?? Date.now() + dayMs),
    publicKey: new x509.PublicKey(publicKey.export({ format: 'der', type: 'spki' })),
    signingKey: (issuer?.key ?? privateKey).toCryptoKey(algorithm, false, ['sign']),
    signingAlgorithm: algorithm,
    extensions: identity
      ? [new x509.SubjectAlternativeNameExtension([{ type: 'url', value: formatIdentity(identity) }], true)]
      : [new x509.BasicConstraintsExtension(true, undefined, true)],
  })
  return { pem: made.toString('pem'), key: privateKey, subject }
}

/** Signatures, validity, one SPIFFE name, trust domain: enough to see that the verifier is asked and obeyed. */
export class TestVerifier implements PeerVerifier {
  readonly calls: (readonly Uint8Array[])[] = []

  verifyPeer(...[chain, rootsPem, expected]: Parameters<PeerVerifier['verifyPeer']>): ReturnType<PeerVerifier['verifyPeer']> {
    this.calls.push(chain)
    const certificates = [...chain.map((der) => new X509Certificate(der)), ...rootsPem.map((pem) => new X509Certificate(pem))]
    for (const [i, certificate] of certificates.entries()) {
      if (certificate.validToDate.getTime() <= Date.now()) return { refused: 'expired', detail: certificate.serialNumber }
      const issuer = certificates[Math.min(i + 1, certificates.length - 1)]
      if (!issuer || !certificate.verify(issuer.publicKey)) return { refused: 'untrusted', detail: certificate.serialNumber }
    }
    const identity = parseIdentity(/^URI:(\S+)$/.exec(certificates[0]?.subjectAltName ?? '')?.[1] ?? '')
    if (!identity) return { refused: 'noIdentity', detail: '' }
    if (identity.trustDomain !== 'cluster.local') return { refused: 'wrongTrustDomain', detail: identity.trustDomain }
    if (expected.role === 'server' && !expected.identities.some((wanted) => formatIdentity(wanted) === formatIdentity(identity))) {
      return { refused: 'identityMismatch', detail: formatIdentity(identity) }
    }
    return { ok: identity }
  }
}

export class TestCertificates implements CertificateSource {
  readonly #current = new Map<string, CertifiedKey>()
  readonly #listeners = new Set<(identity: Identity) => void>()
  readonly #revoked = new Set<string>()

  put(certified: CertifiedKey): this {
    this.#current.set(formatIdentity(certified.identity), certified)
    this.#tell(certified.identity)
    return this
  }

  revoke(certified: CertifiedKey): void {
    this.#revoked.add(createHash('sha256').update(new X509Certificate(certified.chainPem).raw).digest('hex'))
    this.#tell(certified.identity)
  }

  #tell(identity: Identity): void {
    for (const listener of this.#listeners) listener(identity)
  }

  peek(identity: Identity): CertifiedKey | undefined {
    return this.#current.get(formatIdentity(identity))
  }

  async get(identity: Identity): Promise<CertifiedKey> {
    const certified = this.peek(identity)
    if (!certified) throw new MeshError('CERTIFICATE_UNAVAILABLE', formatIdentity(identity))
    return certified
  }

  onChange(listener: (identity: Identity) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  revocation(chain: readonly Uint8Array[]): string | undefined {
    return this.#revoked.has(createHash('sha256').update(chain[0] ?? '').digest('hex')) ? 'on the list' : undefined
  }
}

export async function until(condition: () => boolean, timeoutMs = 10_000): Promise<void> {
  const deadline = Date.now() + timeoutMs
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`not so within ${timeoutMs} ms: ${condition.toString()}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** Sends everything back, ends when the client ends, resets when it resets. */
export const echo: ServerOptions['handler'] = () => Promise.resolve({
  t: 'accept',
  carry: (stream) => {
    stream.on('error', () => stream.destroy()).pipe(stream)
  },
})

/** A gateway's handler: passes the bytes on to a port of loopback, without a look at them. */
export function forwarding(port: () => number): (stream: TunnelStream) => void {
  return (stream) => {
    const upstream = connect({ host: '127.0.0.1', port: port(), allowHalfOpen: true })
    join(stream, upstream)
    join(upstream, stream)
  }
}

function join(from: Duplex, to: Duplex): void {
  from.on('error', () => to.destroy()).on('close', () => to.destroy()).pipe(to)
}

export interface Bench {
  readonly port: number
  readonly server: HboneServer
  readonly pool: HbonePool
  readonly certificates: TestCertificates
  /** What both ends reported. */
  readonly events: HboneEvent[]
  readonly count: (t: HboneEvent['t'], because?: string) => number
  readonly request: (more?: Partial<TunnelRequest>) => TunnelRequest
  readonly target: PoolTarget
  readonly tcp: Server
  /** TCP connections that the server side has now. */
  readonly sockets: Set<Socket>
  close(): Promise<void>
}

/** A server and a pool that trust each other, unless told otherwise. */
export async function startBench(server: Partial<ServerOptions> = {}, pool: Partial<PoolOptions> = {}): Promise<Bench> {
  const ca = await TestCa.make()
  const certificates = new TestCertificates().put(await ca.leaf(client)).put(await ca.leaf(payments))
  const events: HboneEvent[] = []
  const shared = { certificates, verifier: new TestVerifier(), events: (event: HboneEvent) => void events.push(event) }
  const hboneServer = new HboneServer({ identity: payments, handler: echo, ...shared, ...server })
  const sockets = new Set<Socket>()
  const tcp = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    hboneServer.accept(socket)
  })
  tcp.listen(0, '127.0.0.1')
  await once(tcp, 'listening')
  const { port } = tcp.address() as AddressInfo
  const target = { source: client, identities: [payments], address: { ip: '127.0.0.1', port }, sourceKey: '10.0.0.1' }
  const hbonePool = new HbonePool({ dial: dialLoopback, ...shared, ...pool })
  return {
    port, server: hboneServer, pool: hbonePool, certificates, events, target, tcp, sockets,
    count: (t, because) => events.filter((event) => event.t === t && (because === undefined || ('because' in event && event.because === because))).length,
    request: (more = {}) => ({ target, authority: { t: 'address', address: { ip: '10.0.0.2', port: 80 } }, headers: {}, ...more }),
    async close() {
      tcp.close()
      await Promise.all([hbonePool.close(), hboneServer.close()])
      for (const socket of sockets) socket.destroy()
    },
  }
}

export async function dialLoopback({ address }: PoolTarget, signal: AbortSignal): Promise<Socket> {
  const socket = connect({ host: address.ip, port: address.port, allowHalfOpen: true })
  await once(socket, 'connect', { signal })
  return socket
}

/** All that comes until the other side ends; leaves the stream's other direction alone, as `for await` would not. */
export async function readAll(stream: Readable): Promise<Buffer> {
  const chunks: Buffer[] = []
  stream.on('data', (chunk: Buffer) => chunks.push(chunk))
  await once(stream, 'end')
  return Buffer.concat(chunks)
}
