// TLS that we begin: to real TLS servers, who they must be, what we show, and what happens when secrets change.
import 'reflect-metadata'
import * as x509 from '@peculiar/x509'
import { generateKeyPairSync } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import http2 from 'node:http2'
import type { ServerHttp2Stream } from 'node:http2'
import https from 'node:https'
import type { Server } from 'node:net'
import { TLSSocket } from 'node:tls'
import { afterEach, beforeAll, describe, expect, it } from 'vitest'
import type { TlsPolicy } from './origination.ts'
import type { Secret } from './parts.ts'
import { World, workload } from './testing.ts'

const worlds: World[] = []
afterEach(async () => {
  for (const each of worlds.splice(0)) await each.close()
})

interface Signed {
  readonly pem: string
  readonly key: KeyObject
  readonly name: string
}

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }

async function sign(name: string, issuer?: Signed, names: readonly { readonly type: 'dns' | 'url'; readonly value: string }[] = []): Promise<Signed> {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const made = await x509.X509CertificateGenerator.create({
    serialNumber: Math.floor(Math.random() * 2 ** 40).toString(16).padStart(12, '1'), subject: `CN=${name}`, issuer: `CN=${issuer?.name ?? name}`,
    notBefore: new Date(Date.now() - 60_000), notAfter: new Date(Date.now() + 3_600_000),
    publicKey: new x509.PublicKey(publicKey.export({ format: 'der', type: 'spki' })),
    signingKey: (issuer?.key ?? privateKey).toCryptoKey(algorithm, false, ['sign']), signingAlgorithm: algorithm,
    extensions: issuer ? [new x509.SubjectAlternativeNameExtension([...names])] : [new x509.BasicConstraintsExtension(true, undefined, true)],
  })
  return { pem: made.toString('pem'), key: privateKey, name }
}

const pemOf = ({ key }: Signed): string => key.export({ type: 'pkcs8', format: 'pem' }).toString()

let root: Signed
let stranger: Signed
let server: Signed
let own: Signed
beforeAll(async () => {
  root = await sign('root')
  stranger = await sign('stranger')
  server = await sign('server', root, [{ type: 'dns', value: 'api.shop' }, { type: 'url', value: 'spiffe://cluster.local/ns/shop/sa/api' }])
  own = await sign('own', root, [{ type: 'dns', value: 'waypoint' }])
})

async function secured(tls: Partial<TlsPolicy>, secrets: Record<string, Secret | undefined>, options: https.ServerOptions = {}): Promise<{ readonly w: World; readonly seen: string[]; readonly set: (tls: Partial<TlsPolicy>) => void }> {
  const w = new World({ secret: (key) => secrets[key] })
  worlds.push(w)
  const seen: string[] = []
  const backend = https.createServer({ cert: server.pem, key: pemOf(server), ...options }, ({ socket }, res) => {
    if (socket instanceof TLSSocket) seen.push(`${String(socket.servername)} ${socket.getPeerCertificate().subject?.CN ?? '-'} ${String(socket.alpnProtocol)}`)
    res.end('secret')
  })
  w.add(workload('a', await w.listen(backend)))
  const set = (policy: Partial<TlsPolicy>): void => w.policy({ tls: { mode: 'simple', caSecret: 'shop/ca', subjectAltNames: [], ...policy } })
  set(tls)
  return { w, seen, set }
}

describe('TLS to a backend', () => {
  it('is made to who the server\'s name says, and nobody else', async () => {
    const { w, seen, set } = await secured({}, { 'Secret shop/ca': { authorities: root.pem } })
    expect(await w.get()).toMatchObject({ status: 200, body: 'secret' })
    expect(seen).toEqual(['api.shop - http/1.1'])
    set({ serverName: 'other.shop' })
    const { status, record } = await w.get()
    expect([status, record.reasons]).toEqual([503, [['connectFailure', 'TLS_FAILED']]])
  })

  it('goes by the names that the policy gives, where it gives any', async () => {
    const { w, set } = await secured({ serverName: 'other.shop', subjectAltNames: ['spiffe://cluster.local/ns/shop/sa/api'] }, { 'Secret shop/ca': { authorities: root.pem } })
    expect((await w.get()).status).toBe(200)
    set({ subjectAltNames: ['nobody', 'api.shop'] })
    expect((await w.get()).status).toBe(200)
    set({ subjectAltNames: ['spiffe://cluster.local/ns/shop/sa/ap'] })
    expect((await w.get()).status).toBe(503)
  })

  it('is not made with somebody whom nobody vouches for, nor without what the policy names', async () => {
    const { w, set } = await secured({}, { 'Secret shop/ca': { authorities: stranger.pem }, 'Secret shop/broken': { authorities: '-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----' } })
    expect((await w.get()).record.reasons).toEqual([['connectFailure', 'TLS_FAILED']])
    for (const tls of [{ caSecret: 'shop/none' }, { caSecret: 'shop/broken' }, { mode: 'mutual' }] satisfies Partial<TlsPolicy>[] as Partial<TlsPolicy>[]) {
      set(tls)
      const { status, record } = await w.get()
      // What cannot be read is noticed when it is read, or nobody is vouched for by it.
      expect([status, record.reasons[0]]).toEqual([503, ['connectFailure', expect.stringMatching(tls.caSecret === 'shop/broken' ? /CERTIFICATE_UNAVAILABLE|TLS_FAILED/ : 'CERTIFICATE_UNAVAILABLE')]])
    }
    // The system's authorities do not know this one.
    w.policy({ tls: { mode: 'simple', subjectAltNames: [] } })
    expect((await w.get()).record.reasons).toEqual([['connectFailure', 'TLS_FAILED']])
  })

  it('shows our certificate where it is asked for, and a new one when the secret is new', async () => {
    const secrets: Record<string, Secret | undefined> = {
      'Secret shop/ca': { authorities: root.pem }, 'Secret shop/own': { certificate: { chain: own.pem, privateKey: pemOf(own) } },
    }
    const { w, seen, set } = await secured({ mode: 'mutual', certificateSecret: 'shop/own' }, secrets, { ca: root.pem, requestCert: true, rejectUnauthorized: true })
    expect((await w.get()).status).toBe(200)
    const next = await sign('next', root, [])
    secrets['Secret shop/own'] = { certificate: { chain: next.pem, privateKey: pemOf(next) } }
    w.forwarder.policiesChanged(w.destinations.values())
    expect((await w.get()).status).toBe(200)
    expect(seen.map((line) => line.split(' ')[1])).toEqual(['own', 'next'])
    set({ mode: 'simple' })
    expect((await w.get({ method: 'POST', body: 'x' })).status).toBe(503)
  })

  it('agrees on HTTP/2 where that is wanted, and fails where the server cannot', async () => {
    const { w } = await secured({}, { 'Secret shop/ca': { authorities: root.pem } })
    w.policy({ isHttp2Wanted: true, tls: { mode: 'simple', caSecret: 'shop/ca', subjectAltNames: [] } })
    expect((await w.get()).record.reasons).toEqual([['connectFailure', 'TLS_FAILED']])
    const backend = http2.createSecureServer({ cert: server.pem, key: pemOf(server) })
    backend.on('stream', (stream: ServerHttp2Stream) => {
      stream.respond({ ':status': 200 })
      stream.end('two')
    })
    w.add(workload('a', await w.listen(backend as unknown as Server)))
    expect(await w.get()).toMatchObject({ status: 200, body: 'two' })
  })
})
