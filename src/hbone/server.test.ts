// What the server does to those who should not be let in, and to those who are and misbehave.
import { once } from 'node:events'
import http2 from 'node:http2'
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { connect as tlsConnect } from 'node:tls'
import type { ConnectionOptions, TLSSocket } from 'node:tls'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { CertifiedKey } from '../core/certificates.ts'
import { MeshError } from '../core/errors.ts'
import { connectFields, field, frame, RawPeer, type, u32 } from './testing-frames.ts'
import { client, payments, readAll, startBench, TestCa, TestCertificates, until } from './testing.ts'
import type { Bench } from './testing.ts'

let bench: Bench
let ca: TestCa
let ours: CertifiedKey
const sockets: { destroy(): unknown }[] = []

async function start(...args: Parameters<typeof startBench>): Promise<void> {
  ca = await TestCa.make()
  ours = await ca.leaf(client)
  const certificates = new TestCertificates().put(ours).put(await ca.leaf(payments))
  bench = await startBench({ certificates, ...args[0] }, { certificates, ...args[1] })
}
beforeEach(() => start())
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy()
  await bench.close()
})

async function isServing(): Promise<boolean> {
  const { stream } = await bench.pool.openTunnel(bench.request())
  stream.end('ok')
  return String(await readAll(stream)) === 'ok'
}

function tls(options: ConnectionOptions): TLSSocket {
  const socket = tlsConnect({ host: '127.0.0.1', port: bench.port, ALPNProtocols: ['h2'], rejectUnauthorized: false, ...options })
  sockets.push(socket.on('error', () => {}).resume())
  return socket
}

function certificate({ chainPem, key }: CertifiedKey): ConnectionOptions {
  return { cert: chainPem, key: key.export({ type: 'pkcs8', format: 'pem' }) }
}

function tcp(localAddress = '127.0.0.1'): Socket {
  const socket = connect({ host: '127.0.0.1', port: bench.port, localAddress })
  sockets.push(socket.on('error', () => {}).resume())
  return socket
}

async function closed(socket: Socket): Promise<void> {
  await until(() => socket.closed)
}

const day = 86_400_000

describe('at the door', () => {
  const cases: [string, string, () => Promise<ConnectionOptions> | ConnectionOptions][] = [
    ['no certificate', 'noCertificate', () => ({})],
    ['another CA', 'untrusted', async () => certificate(await (await TestCa.make('root')).leaf(client))],
    ['an expired one', 'expired', async () => certificate(await ca.leaf(client, { notBeforeMs: Date.now() - 2 * day, notAfterMs: Date.now() - day }))],
    ['another trust domain', 'wrongTrustDomain', async () => certificate(await ca.leaf({ ...client, trustDomain: 'example.org' }))],
    ['TLS 1.2', 'protocolVersion', () => ({ ...certificate(ours), maxVersion: 'TLSv1.2', minVersion: 'TLSv1.2' })],
    ['http/1.1', 'alpn', () => ({ ...certificate(ours), ALPNProtocols: ['http/1.1'] })],
    ['ChaCha20 only', 'tls', () => ({ ...certificate(ours), ciphers: 'TLS_CHACHA20_POLY1305_SHA256' })],
  ]
  test.each(cases)('%s: %s', async (_, because, options) => {
    const socket = tls(await options())
    let received = 0
    socket.on('data', (chunk: Buffer) => (received += chunk.length))
    // In TLS 1.3 a client may speak before the server has looked at its certificate.
    socket.on('secureConnect', () => socket.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'))
    await until(() => socket.closed)
    await until(() => bench.count('handshakeFailed') > 0)
    expect(bench.events.map((event) => ('because' in event ? event.because : event.t))).toEqual([because])
    expect(received).toBe(0)
    expect(bench.server.connections).toBe(0)
    expect(await isServing()).toBe(true)
  })

  test.each([
    ['GET / HTTP/1.1\r\nhost: a\r\n\r\n', 'plaintext'], ['PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'notTls'], ['SSH-2.0-OpenSSH_9.2\r\n', 'notTls'],
    ['\u0000'.repeat(64), 'notTls'], ['\u0016\u0003\u0001\u0000\u0005hello', 'tls'], ['', 'closed'],
  ])('%j', async (text, because) => {
    const socket = tcp()
    socket.end(text)
    await until(() => socket.closed)
    await until(() => bench.count('handshakeFailed') > 0)
    expect(bench.events).toMatchObject([{ t: 'handshakeFailed', because }])
    expect(await isServing()).toBe(true)
  })

  test('garbage of any kind harms nobody', async () => {
    await fc.assert(fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 300 }), async (bytes) => {
      const socket = tcp()
      socket.end(bytes)
      await until(() => socket.closed)
    }), { numRuns: 100 })
    expect(await isServing()).toBe(true)
    await until(() => bench.server.handshakesInFlight === 0)
  })

  test('a client without ALPN is let in, and no session is ever resumed', async () => {
    const first = tlsConnect({ host: '127.0.0.1', port: bench.port, rejectUnauthorized: false, ...certificate(ours) })
    sockets.push(first.on('error', () => {}))
    let tickets = 0
    first.on('session', () => tickets++)
    await until(() => bench.server.connections === 1)
    await new Promise((resolve) => setTimeout(resolve, 50))
    const session = first.getSession()
    const again = tls({ ...certificate(ours), ...(session && { session }) })
    await once(again, 'secureConnect')
    expect(again.isSessionReused()).toBe(false)
    await until(() => bench.server.connections === 2)
  })

  test('2,000 silent connections keep nobody out', async () => {
    await bench.close()
    await start({ limits: { maxHandshakes: 64 } })
    for (let i = 0; i < 2_000; i++) {
      const socket = tcp(`127.0.0.${2 + (i % 3)}`)
      if (i % 2 === 0) socket.write('\u0016\u0003')
    }
    await until(() => bench.server.handshakesInFlight === 64)
    expect(await isServing()).toBe(true)
    // Nor from the attacker's own address, once theirs are late.
    await new Promise((resolve) => setTimeout(resolve, 600))
    const friend = tls({ ...certificate(ours), socket: tcp('127.0.0.2') })
    await once(friend, 'secureConnect')
    expect(bench.server.handshakesInFlight).toBeLessThanOrEqual(64)
    await until(() => bench.count('shed', 'handshakes') > 1_500)
    expect(await isServing()).toBe(true)
  })

  test('a slow handshake ends in time', async () => {
    await bench.close()
    await start({ timeouts: { handshakeTimeoutMs: 50 } })
    await closed(tcp())
    await until(() => bench.count('handshakeFailed', 'timeout') === 1)
  })

  test('a connection that is cut is counted under the reason, also where its peer hangs up at once', async () => {
    await bench.close()
    const certificates = new TestCertificates().put(ours).put(await ca.leaf(payments))
    bench = await startBench({ certificates }, { certificates })
    const peer = await RawPeer.connect(bench.port, ours)
    sockets.push(peer.socket)
    await until(() => bench.server.connections === 1 && peer.socket.bytesRead > 0)
    peer.socket.on('data', () => peer.socket.end())
    certificates.revoke(ours)
    await until(() => bench.count('sessionClosed') === 1)
    expect(bench.count('sessionClosed', 'revoked')).toBe(1)
  })

  test('connections are limited, in all and for each peer', async () => {
    await bench.close()
    await start({ limits: { maxConnections: 3, maxConnectionsPerPeer: 2 } })
    const other = certificate(await ca.leaf({ ...client, serviceAccount: 'other' }))
    for (let i = 0; i < 3; i++) await once(tls(certificate(ours)), 'secureConnect')
    await until(() => bench.count('shed', 'connectionsOfPeer') === 1)
    await once(tls(other), 'secureConnect')
    await until(() => bench.server.connections === 3)
    await closed(tcp())
    expect(bench.count('shed', 'connections')).toBe(1)
  })

  test('no certificate of our own: refused and counted', async () => {
    await bench.close()
    bench = await startBench({ certificates: new TestCertificates() })
    await closed(tcp())
    expect(bench.count('handshakeFailed', 'certificateUnavailable')).toBe(1)
  })
})

describe('a request', () => {
  async function ask(headers: http2.OutgoingHttpHeaders): Promise<number> {
    const session = http2.connect('https://hbone', { createConnection: () => tls(certificate(ours)) })
    sockets.push(session.on('error', () => {}))
    const stream = session.request(headers, { endStream: false })
    const [answer] = await once(stream, 'response')
    await until(() => bench.server.streams === 0)
    return answer[':status']
  }

  test.each<[string, http2.OutgoingHttpHeaders, string]>([
    ['GET', { ':method': 'GET', ':path': '/' }, 'notConnect'],
    ['POST', { ':method': 'POST', ':path': '/' }, 'notConnect'],
    ['no port', { ':method': 'CONNECT', ':authority': '10.0.0.2' }, 'badAuthority'],
    ['port 0', { ':method': 'CONNECT', ':authority': '10.0.0.2:0' }, 'badAuthority'],
  ])('%s is answered with 400', async (_, headers, because) => {
    expect(await ask(headers)).toBe(400)
    expect(bench.count('streamRefused', because)).toBe(1)
  })

  test('that names its source twice names none', async () => {
    await bench.close()
    const seen: unknown[] = []
    await start({ handler: async ({ sourceIdentity, isSourceUnreadable }) => {
      seen.push(sourceIdentity, isSourceUnreadable)
      return { t: 'refuse', status: 400, because: 'seen' }
    } })
    const source = 'spiffe://cluster.local/ns/shop/sa/web'
    expect(await ask({ ':method': 'CONNECT', ':authority': '10.0.0.2:80', 'x-sidestep-source-identity': [source, source] })).toBe(400)
    expect(seen).toEqual([undefined, true])
  })

  test.each([['POLICY_DENIED', 401, 'POLICY_DENIED'], ['CONNECT_REFUSED', 503, 'TUNNEL_REFUSED'], ['BAD_MESSAGE', 400, 'TUNNEL_REFUSED']] as const)(
    'that the handler rejects with %s is answered with %d', async (code, status, clientCode) => {
      await bench.close()
      await start({ handler: () => Promise.reject(new MeshError(code, 'no')) })
      await expect(bench.pool.openTunnel(bench.request())).rejects.toMatchObject({ code: clientCode, detail: { status } })
      await until(() => bench.server.streams === 0)
    })

  test('a handler that breaks is 503, a client that gives up is told to the handler', async () => {
    await bench.close()
    let aborted = 0
    await start({ handler: (request) => {
      if (request.authority.t === 'hostname') throw new Error('bug')
      return new Promise((resolve) => request.signal.addEventListener('abort', () => {
        aborted++
        resolve({ t: 'refuse', status: 503, because: 'late' })
      }))
    } })
    await expect(bench.pool.openTunnel(bench.request({ authority: { t: 'hostname', hostname: 'web', port: 80 } }))).rejects.toMatchObject({ detail: { status: 503 } })
    await expect(bench.pool.openTunnel(bench.request({ signal: AbortSignal.timeout(50) }))).rejects.toMatchObject({ code: 'CLOSED' })
    await until(() => aborted === 1 && bench.server.streams === 0)
  })
})

describe('a peer that floods', () => {
  const calm = http2.constants.NGHTTP2_ENHANCE_YOUR_CALM

  /** Sends until the server has had enough; returns how often. The connection must go, and nobody else may notice. */
  async function flood(make: (i: number) => Buffer[], most = 20_000): Promise<number> {
    const before = bench.server.connections
    const peer = await RawPeer.connect(bench.port, ours)
    sockets.push(peer.socket)
    await until(() => bench.server.connections === before + 1)
    let sent = 0
    for (; sent < most && !peer.socket.destroyed && peer.goaways.length === 0; sent++) {
      peer.send(...make(sent))
      if (sent % 100 === 99) await new Promise((resolve) => setImmediate(resolve))
    }
    await until(() => bench.server.connections === before)
    // A reset may overtake the GOAWAY; where it does not, it has a reason.
    expect(peer.goaways.every((code) => code !== 0)).toBe(true)
    expect(await isServing()).toBe(true)
    return sent
  }

  test('PINGs', async () => {
    await flood(() => [frame(type.ping, 0, 0, Buffer.alloc(8))])
    expect(bench.count('flood', 'pingFlood')).toBe(1)
  })

  test('SETTINGS', async () => {
    await flood(() => [frame(type.settings, 0, 0)])
    expect(bench.count('flood', 'settingsFlood')).toBe(1)
  })

  test('rapid reset, while the handler has not answered', async () => {
    await bench.close()
    let asked = 0
    await start({ handler: () => {
      asked++
      return new Promise((resolve) => setTimeout(resolve, 50, { t: 'refuse', status: 503, because: 'late' }))
    } })
    const peer = await RawPeer.connect(bench.port, ours)
    sockets.push(peer.socket)
    for (let i = 0; i < 5_000 && peer.goaways.length === 0 && !peer.socket.destroyed; i++) {
      peer.send(frame(type.headers, 4, 2 * i + 1, connectFields), frame(type.reset, 0, 2 * i + 1, u32(8)))
      if (i % 20 === 0) await new Promise((resolve) => setImmediate(resolve))
    }
    await until(() => bench.server.connections === 0)
    expect(peer.goaways.every((code) => code === calm)).toBe(true)
    expect(bench.count('flood', 'rapidReset')).toBe(1)
    expect(asked).toBeLessThan(1_000)
  })

  test('CONTINUATIONs without end', async () => {
    expect(await flood((i) => [frame(i === 0 ? type.headers : type.continuation, 0, 1, field(`x-${i}`, 'y'.repeat(100)))])).toBeLessThan(20_000)
  })

  test('CONTINUATIONs that are empty', async () => {
    expect(await flood((i) => [frame(i === 0 ? type.headers : type.continuation, 0, 1)])).toBeLessThan(20_000)
  })

  test('settings with too many entries, frames too large, frames out of place', async () => {
    await flood(() => [frame(type.settings, 0, 0, Buffer.concat(Array.from({ length: 200 }, () => Buffer.concat([Buffer.from([0, 4]), u32(100)]))))], 2)
    await flood(() => [frame(type.data, 0, 0, Buffer.alloc(10))], 5)
    await flood(() => [frame(type.windowUpdate, 0, 0, u32(0x7fffffff))], 5)
    await flood(() => [frame(type.continuation, 4, 1)], 5)
  })

  test('more headers, or larger ones, than allowed', async () => {
    const peer = await RawPeer.connect(bench.port, ours)
    sockets.push(peer.socket)
    const many = Array.from({ length: 200 }, (_, i) => field(`x-${i}`, 'y'))
    peer.send(frame(type.headers, 4, 1, Buffer.concat([connectFields, ...many])))
    const large = Buffer.concat([connectFields, field('x-large', 'y'.repeat(70_000))])
    peer.send(frame(type.headers, 4, 3, large))
    peer.send(frame(type.headers, 4, 5, connectFields))
    await until(() => peer.answered.has(5) || peer.socket.destroyed)
    expect(peer.answered.has(1) || peer.answered.has(3)).toBe(false)
    expect(bench.count('streamOpened')).toBeLessThanOrEqual(1)
  })

  test('more streams than allowed: refused, then put out', async () => {
    await bench.close()
    await start({ limits: { maxStreams: 5 }, handler: () => new Promise(() => {}) })
    const peer = await RawPeer.connect(bench.port, ours)
    sockets.push(peer.socket)
    for (let i = 0; i < 20; i++) peer.send(frame(type.headers, 4, 2 * i + 1, connectFields))
    await until(() => peer.resets.length + peer.goaways.length > 0)
    expect(bench.server.streams).toBeLessThanOrEqual(5)
  })

  test('frames of any kind', async () => {
    const frames = fc.array(fc.tuple(fc.integer({ min: 0, max: 12 }), fc.nat(255), fc.nat(9), fc.uint8Array({ maxLength: 40 })), { maxLength: 8 })
    await fc.assert(fc.asyncProperty(frames, async (list) => {
      const peer = await RawPeer.connect(bench.port, ours)
      peer.send(...list.map(([kind, flags, stream, payload]) => frame(kind, flags, stream, payload)))
      peer.socket.end()
      await until(() => peer.socket.closed)
    }), { numRuns: 60 })
    await until(() => bench.server.connections === 0)
    expect(await isServing()).toBe(true)
  })

  test('HPACK of any kind', async () => {
    await fc.assert(fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 60 }), async (block) => {
      const peer = await RawPeer.connect(bench.port, ours)
      peer.send(frame(type.headers, 4, 1, block))
      peer.socket.end()
      await until(() => peer.socket.closed)
    }), { numRuns: 60 })
    expect(await isServing()).toBe(true)
  })
})
