// What the pool promises beyond a single tunnel: few handshakes, the right peer, and no request lost that could be kept.
import { once } from 'node:events'
import http2 from 'node:http2'
import type { ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { createSecureContext, createServer as createTlsServer } from 'node:tls'
import { afterEach, describe, expect, test } from 'vitest'
import type { CertifiedKey } from '../core/certificates.ts'
import { HbonePool } from './pool.ts'
import type { PoolOptions } from './pool.ts'
import { client, dialLoopback, echo, payments, readAll, startBench, TestCa, TestCertificates, TestVerifier, until } from './testing.ts'
import type { Bench } from './testing.ts'

let bench: Bench | undefined
const cleanUp: (() => unknown)[] = []
afterEach(async () => {
  await bench?.close()
  bench = undefined
  for (const step of cleanUp.splice(0).reverse()) await step()
})

async function say(bench: Bench, text = 'hello'): Promise<string> {
  const { stream } = await bench.pool.openTunnel(bench.request())
  stream.end(text)
  return String(await readAll(stream))
}

describe('handshakes', () => {
  test('a burst at first use makes one, and later use none', async () => {
    bench = await startBench()
    const { pool, request, count } = bench
    const tunnels = await Promise.all(Array.from({ length: 40 }, () => pool.openTunnel(request())))
    expect(count('handshake')).toBe(2)
    expect(tunnels.filter(({ isReused }) => !isReused)).toHaveLength(1)
    expect(await say(bench)).toBe('hello')
    expect(count('handshake')).toBe(2)
  })

  test('other sources, pods, and expected identities have connections of their own', async () => {
    bench = await startBench()
    const { pool, request, target, certificates } = bench
    const ca = await TestCa.make()
    certificates.put(await ca.leaf({ ...client, serviceAccount: 'other' }))
    await pool.openTunnel(request())
    await pool.openTunnel(request({ target: { ...target, sourceKey: '10.0.0.9' } }))
    await pool.openTunnel(request({ target: { ...target, identities: [client, payments] } }))
    await pool.openTunnel(request({ target: { ...target, identities: [payments, client] } }))
    expect(pool.connections()).toHaveLength(3)
    // The server does not know the other CA.
    await expect(pool.openTunnel(request({ target: { ...target, source: { ...client, serviceAccount: 'other' } } }))).rejects.toMatchObject({ code: 'TLS_FAILED' })
  })

  test('a busy connection gets company before it is full, and the least busy is chosen', async () => {
    bench = await startBench({}, { limits: { spreadAtStreams: 5, maxConnectionsPerKey: 3 } })
    const { pool, request } = bench
    for (let i = 0; i < 30; i++) {
      await pool.openTunnel(request())
      if (i % 5 === 0) await new Promise((resolve) => setTimeout(resolve, 20))
    }
    expect(pool.connections()).toHaveLength(3)
    expect(Math.max(...pool.connections().map(({ streams }) => streams))).toBeLessThanOrEqual(14)
  })

  test('the peer may allow fewer streams than we do', async () => {
    bench = await startBench({ limits: { maxStreams: 3 } })
    const { pool, request } = bench
    await Promise.all(Array.from({ length: 9 }, () => pool.openTunnel(request())))
    expect(pool.connections().map(({ streams }) => streams)).toEqual([3, 3, 3])
  })

  test('a new certificate serves new connections, the old ones go on', async () => {
    const ca = await TestCa.make()
    const certificates = new TestCertificates().put(await ca.leaf(client)).put(await ca.leaf(payments))
    const verifier = new TestVerifier()
    bench = await startBench({ certificates, verifier }, { certificates, limits: { maxStreams: 1 } })
    const first = await bench.pool.openTunnel(bench.request())
    certificates.put(await ca.leaf(client))
    await bench.pool.openTunnel(bench.request())
    const [before, after] = verifier.calls.slice(-2)
    expect(before?.[0]).not.toEqual(after?.[0])
    first.stream.end('still here')
    expect(String(await readAll(first.stream))).toBe('still here')
  })
})

describe('letting go', () => {
  test('idle connections close, busy ones do not', async () => {
    bench = await startBench({}, { timeouts: { idleTimeoutMs: 60 } })
    const { stream } = await bench.pool.openTunnel(bench.request())
    await new Promise((resolve) => setTimeout(resolve, 200))
    expect(bench.pool.connections()).toHaveLength(1)
    stream.end()
    await readAll(stream)
    await until(() => bench?.sockets.size === 0)
    expect(bench.count('sessionClosed', 'idle')).toBe(1)
    expect(await say(bench)).toBe('hello')
  })

  test('a workload that goes takes its connections with it, softly or not', async () => {
    bench = await startBench()
    const { pool, request } = bench
    const soft = await pool.openTunnel(request())
    pool.evict((target) => target.identities.includes(payments))
    const hard = await pool.openTunnel(request())
    expect(hard.isReused).toBe(false)
    soft.stream.end('soft')
    expect(String(await readAll(soft.stream))).toBe('soft')
    const error = once(hard.stream, 'error')
    pool.evict(() => true, true)
    expect((await error)[0]).toMatchObject({ code: 'TUNNEL_CLOSED' })
    await until(() => bench?.sockets.size === 0)
  })

  test('revocation cuts the sessions of that peer, at both ends', async () => {
    const ca = await TestCa.make()
    const [ours, theirs] = [await ca.leaf(client), await ca.leaf(payments)]
    const certificates = new TestCertificates().put(ours).put(theirs)
    bench = await startBench({ certificates }, { certificates })
    const { stream } = await bench.pool.openTunnel(bench.request())
    const error = once(stream, 'error')
    certificates.revoke(ours)
    await error
    await until(() => bench?.count('sessionClosed', 'revoked') === 1)
    certificates.revoke(theirs)
    await expect(bench.pool.openTunnel(bench.request())).rejects.toMatchObject({ code: 'PEER_REVOKED' })
  })

  test('drain lets everything finish and takes nothing new', async () => {
    bench = await startBench()
    const { stream } = await bench.pool.openTunnel(bench.request())
    let isDrained = false
    const drained = bench.pool.drain().then(() => (isDrained = true))
    await expect(bench.pool.openTunnel(bench.request())).rejects.toMatchObject({ code: 'CLOSED' })
    stream.write('a')
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(isDrained).toBe(false)
    stream.end('b')
    expect(String(await readAll(stream))).toBe('ab')
    await drained
  })

  test('a server that restarts gracefully loses no request', async () => {
    bench = await startBench()
    const { server, pool, request, certificates, tcp } = bench
    const { HboneServer } = await import('./server.ts')
    let current = server
    tcp.removeAllListeners('connection').on('connection', (socket) => current.accept(socket))
    const held = await pool.openTunnel(request())
    let answered = 0
    const clients = Array.from({ length: 50 }, async (_, i) => {
      for (let j = 0; j < 20; j++) {
        const { stream } = await pool.openTunnel(request())
        stream.end(`${i}:${j}`)
        if (String(await readAll(stream)) === `${i}:${j}`) answered++
      }
    })
    for (let restart = 0; restart < 5; restart++) {
      const old = current
      current = new HboneServer({ identity: payments, handler: echo, certificates, verifier: new TestVerifier(), events: () => {} })
      cleanUp.push(() => current.close())
      void old.drain()
      await new Promise((resolve) => setTimeout(resolve, 40))
    }
    await Promise.all(clients)
    expect(answered).toBe(1_000)
    held.stream.end('held')
    expect(String(await readAll(held.stream))).toBe('held')
  })
})

/** A server of plain node:http2 whose every session the test conducts. */
async function startScripted(onStream: (stream: ServerHttp2Stream, session: ServerHttp2Session, nth: number) => void, more: Partial<PoolOptions> = {}) {
  const ca = await TestCa.make()
  const certificates = new TestCertificates().put(await ca.leaf(client))
  const theirs = await ca.leaf(payments)
  let nth = 0
  const server = http2.createSecureServer({ ...tlsOf(theirs), requestCert: true, rejectUnauthorized: false })
  server.on('session', (session) => {
    session.on('error', () => {}).on('stream', (stream: ServerHttp2Stream) => {
      stream.on('error', () => {})
      onStream(stream, session, ++nth)
    })
  }).on('sessionError', () => {})
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const retried: string[] = []
  const pool = new HbonePool({
    certificates, verifier: new TestVerifier(), dial: dialLoopback,
    events: (event) => event.t === 'streamRetried' && retried.push(event.because), ...more,
  })
  cleanUp.push(() => server.close(), () => pool.close())
  const target = { source: client, identities: [payments], address: { ip: '127.0.0.1', port }, sourceKey: '' }
  const open = (signal?: AbortSignal) => pool.openTunnel({
    target, authority: { t: 'hostname', hostname: 'web', port: 80 }, headers: {}, ...(signal && { signal }),
  })
  return { pool, open, retried, count: () => nth }
}

function tlsOf(certified: CertifiedKey): { cert: string; key: string } {
  return { cert: certified.chainPem, key: String(certified.key.export({ type: 'pkcs8', format: 'pem' })) }
}

describe('retry', () => {
  test('a refused stream is sent once more', async () => {
    const { open, retried } = await startScripted((stream, _, nth) => {
      if (nth === 1) stream.close(http2.constants.NGHTTP2_REFUSED_STREAM)
      else stream.respond({ ':status': 200 })
    })
    await open()
    expect(retried).toEqual(['refusedStream'])
  })

  test('but not for ever', async () => {
    const { open, count } = await startScripted((stream) => stream.close(http2.constants.NGHTTP2_REFUSED_STREAM))
    await expect(open()).rejects.toMatchObject({ code: 'TUNNEL_CLOSED', retry: 'always' })
    expect(count()).toBe(2)
  })

  test.each([0, 2])('a stream above the last one of a GOAWAY (code %d) is sent again, one below is not', async (code) => {
    const { open, retried } = await startScripted((stream, session, nth) => {
      if (nth === 1) return
      if (nth === 2) session.goaway(code, 1)
      else stream.respond({ ':status': 200 })
    })
    const first = open()
    first.catch(() => {})
    await new Promise((resolve) => setTimeout(resolve, 50))
    await open()
    expect(retried).toEqual(['goaway'])
    if (code !== 0) await expect(first).rejects.toMatchObject({ code: 'TUNNEL_CLOSED' })
  })

  test('what the peer may have acted upon is not', async () => {
    const { open, retried, count } = await startScripted((_, session) => session.destroy())
    await expect(open()).rejects.toMatchObject({ code: 'TUNNEL_CLOSED', retry: 'ifReused' })
    expect(retried).toEqual([])
    expect(count()).toBe(1)
  })

  test('a peer that does not answer, or a client that gives up', async () => {
    const { open, pool } = await startScripted(() => {}, { timeouts: { connectTimeoutMs: 50 } })
    await expect(open()).rejects.toMatchObject({ code: 'CONNECT_TIMEOUT' })
    await expect(open(AbortSignal.timeout(20))).rejects.toMatchObject({ code: 'CLOSED' })
    await expect(open(AbortSignal.abort())).rejects.toMatchObject({ code: 'CLOSED' })
    await until(() => pool.connections().every(({ streams }) => streams === 0))
  })

  test('a peer that stops answering pings is dropped', async () => {
    const { open, pool } = await startScripted((stream) => stream.respond({ ':status': 200 }), { timeouts: { pingIntervalMs: 20, pingTimeoutMs: 50 } })
    const { stream, socket } = await open()
    await new Promise((resolve) => setTimeout(resolve, 150))
    expect(pool.connections()).toHaveLength(1)
    const error = once(stream, 'error')
    // What comes from the peer stays in the kernel from now on.
    Object.assign(socket, { pause: socket.pause() })
    ;(socket as unknown as { _handle: { readStop(): void } })._handle.readStop()
    expect((await error)[0]).toMatchObject({ code: 'TUNNEL_CLOSED' })
  })
})

describe('limits', () => {
  test('on who waits, and for how long', async () => {
    const silent = createServer(() => {}).listen(0, '127.0.0.1')
    cleanUp.push(() => silent.close())
    await once(silent, 'listening')
    bench = await startBench({}, { limits: { maxWaitingPerKey: 5 }, timeouts: { handshakeTimeoutMs: 100 } })
    const { port } = silent.address() as AddressInfo
    const request = bench.request({ target: { ...bench.target, address: { ip: '127.0.0.1', port } } })
    const startedMs = Date.now()
    const outcomes = await Promise.allSettled(Array.from({ length: 8 }, () => bench?.pool.openTunnel(request)))
    const codes = outcomes.map((outcome) => (outcome.status === 'rejected' ? outcome.reason.code : 'opened'))
    expect(codes.filter((code) => code === 'TLS_FAILED')).toHaveLength(5)
    expect(codes.filter((code) => code === 'OVERLOADED')).toHaveLength(3)
    expect(Date.now() - startedMs).toBeLessThan(2_000)
    expect(bench.count('handshakeFailed', 'timeout')).toBe(1)
    expect(bench.pool).toMatchObject({ waiting: 0, handshakesInFlight: 0 })
  })

  test('on connections of one key: more wait until a stream ends', async () => {
    bench = await startBench({}, { limits: { maxConnectionsPerKey: 1, maxStreams: 2 } })
    const { pool, request } = bench
    const first = await pool.openTunnel(request())
    await pool.openTunnel(request())
    let isOpen = false
    const third = pool.openTunnel(request()).then(() => (isOpen = true))
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(isOpen).toBe(false)
    first.stream.resetAndDestroy()
    await third
  })

  test('a dial that fails or never ends says so', async () => {
    const refuse = { dial: () => Promise.reject(Object.assign(new Error('no'), { code: 'ECONNREFUSED' })) }
    bench = await startBench({}, refuse)
    await expect(bench.pool.openTunnel(bench.request())).rejects.toMatchObject({ code: 'CONNECT_REFUSED', source: 'upstream' })
    await bench.close()
    bench = await startBench({}, { dial: () => new Promise(() => {}), timeouts: { dialTimeoutMs: 30 } })
    await expect(bench.pool.openTunnel(bench.request())).rejects.toMatchObject({ code: 'CONNECT_TIMEOUT', message: expect.stringContaining('NetworkPolicy') })
  })

  test('out of descriptors, idle connections make room', async () => {
    let isFull = false
    bench = await startBench({}, { dial: async (target, signal) => {
      if (isFull) {
        isFull = false
        throw Object.assign(new Error('too many open files'), { code: 'EMFILE' })
      }
      return dialLoopback(target, signal)
    } })
    expect(await say(bench)).toBe('hello')
    await until(() => bench?.pool.connections()[0]?.streams === 0)
    isFull = true
    await bench.pool.openTunnel(bench.request({ target: { ...bench.target, sourceKey: 'another' } }))
    expect(bench.count('sessionClosed', 'idle') + bench.pool.connections().filter(({ state }) => state === 'draining').length).toBeGreaterThan(0)
    bench.pool.evict(() => true, true)
    await until(() => bench?.pool.connections().length === 0)
    isFull = true
    await expect(bench.pool.openTunnel(bench.request())).rejects.toMatchObject({ code: 'OVERLOADED', detail: { errno: 'EMFILE' } })
  })
})

describe('whom we meet', () => {
  /** A TLS server that shows `certified` and counts what reaches it above TLS. */
  async function startImpostor(certified: CertifiedKey, more: object = {}): Promise<{ port: number; received: () => number; hello: () => Buffer }> {
    let received = 0
    let hello = Buffer.alloc(0)
    const server = createTlsServer({ ALPNProtocols: ['h2'], secureContext: createSecureContext(tlsOf(certified)), ...tlsOf(certified), ...more }, (socket) => {
      socket.on('error', () => {}).on('data', (chunk) => (received += chunk.length))
    })
    const relay = createServer((socket) => {
      socket.once('readable', () => {
        hello = socket.read() ?? hello
        socket.unshift(hello)
        server.emit('connection', socket)
      })
    }).listen(0, '127.0.0.1')
    server.on('tlsClientError', () => {})
    cleanUp.push(() => relay.close())
    await once(relay, 'listening')
    return { port: (relay.address() as AddressInfo).port, received: () => received, hello: () => hello }
  }

  const day = 86_400_000
  const cases: [string, (ca: TestCa, other: TestCa) => Promise<CertifiedKey>, string, string, object?][] = [
    ['another CA', (_, other) => other.leaf(payments), 'TLS_FAILED', 'untrusted'],
    ['another identity of our CA', (ca) => ca.leaf({ ...payments, serviceAccount: 'else' }), 'PEER_IDENTITY_MISMATCH', 'identityMismatch'],
    ['another trust domain', (ca) => ca.leaf({ ...payments, trustDomain: 'example.org' }), 'TLS_FAILED', 'wrongTrustDomain'],
    ['an expired certificate', (ca) => ca.leaf(payments, { notBeforeMs: Date.now() - 2 * day, notAfterMs: Date.now() - day }), 'TLS_FAILED', 'expired'],
    ['a leaf that signs a leaf of another CA', async (_, other) => other.leaf(payments, { issuer: await other.intermediate('i') }), 'TLS_FAILED', 'untrusted'],
    ['TLS 1.2', (ca) => ca.leaf(payments), 'TLS_FAILED', 'protocolVersion', { maxVersion: 'TLSv1.2', minVersion: 'TLSv1.2', secureContext: undefined }],
    ['http/1.1', (ca) => ca.leaf(payments), 'TLS_FAILED', 'alpn', { ALPNProtocols: ['http/1.1'] }],
    ['no ALPN', (ca) => ca.leaf(payments), 'TLS_FAILED', 'alpn', { ALPNProtocols: undefined }],
  ]
  test.each(cases)('%s: nothing is said to it', async (_, leaf, code, because, more) => {
    const [ca, other] = [await TestCa.make('root'), await TestCa.make('root')]
    const certificates = new TestCertificates().put(await ca.leaf(client))
    const impostor = await startImpostor(await leaf(ca, other), more)
    const failures: string[] = []
    const pool = new HbonePool({
      certificates, verifier: new TestVerifier(), dial: dialLoopback, events: (event) => event.t === 'handshakeFailed' && failures.push(event.because),
    })
    cleanUp.push(() => pool.close())
    const target = { source: client, identities: [payments], address: { ip: '127.0.0.1', port: impostor.port }, sourceKey: '' }
    const request = { target, authority: { t: 'hostname', hostname: 'web', port: 80 }, headers: {} } as const
    await expect(pool.openTunnel(request)).rejects.toMatchObject({ code, detail: { because } })
    expect(failures).toEqual([because])
    await new Promise((resolve) => setTimeout(resolve, 30))
    expect(impostor.received()).toBe(0)
    // Extension 0 is server_name; it would carry the name in clear.
    expect(impostor.hello().includes('hbone')).toBe(false)
  })

  test('a chain with intermediates reaches the verifier as it was sent', async () => {
    const ca = await TestCa.make()
    const certificates = new TestCertificates().put(await ca.leaf(client)).put(await ca.leaf(payments, { issuer: await ca.intermediate('middle') }))
    const verifier = new TestVerifier()
    bench = await startBench({ certificates }, { certificates, verifier })
    expect(await say(bench)).toBe('hello')
    expect(verifier.calls[0]).toHaveLength(2)
  })

  test('plaintext, garbage and silence behind the port', async () => {
    for (const answer of ['HTTP/1.1 400 Bad Request\r\n\r\n', '\u0000\u0001\u0002', '']) {
      const server = createServer((socket) => void socket.on('error', () => {}).end(answer)).listen(0, '127.0.0.1')
      cleanUp.push(() => server.close())
      await once(server, 'listening')
      bench = await startBench()
      const { port } = server.address() as AddressInfo
      await expect(bench.pool.openTunnel(bench.request({ target: { ...bench.target, address: { ip: '127.0.0.1', port } } }))).rejects.toMatchObject({ code: 'TLS_FAILED' })
      await bench.close()
    }
  })
})
