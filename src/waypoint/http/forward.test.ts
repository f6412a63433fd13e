import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import type { ClientHttp2Session, Http2Server, IncomingHttpHeaders, ServerHttp2Stream } from 'node:http2'
import { createServer } from 'node:net'
import type { Server, Socket } from 'node:net'
import { Readable } from 'node:stream'
import { afterEach, describe, expect, it } from 'vitest'
import { MeshError } from '../../core/errors.ts'
import { resetStream } from '../../hbone/tunnel-stream.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import type { OutboundRequest, Upstream, UpstreamOptions } from './forward.ts'
import { curl, dial, forwardingHandler, listen, readAll, startFront, upstreamTo } from './testing.ts'
import { acceptOf } from './websocket.ts'

const open: { close(): unknown }[] = []
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
})

async function listening(server: Server): Promise<number> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => sockets.add(socket.on('close', () => sockets.delete(socket))))
  const port = await listen(server)
  open.push({
    close() {
      for (const socket of sockets) socket.destroy()
      server.close()
    },
  })
  return port
}

function upstream(port: number, protocol: 'http1' | 'http2', options: Partial<UpstreamOptions> = {}): Upstream {
  const made = upstreamTo(port, protocol, options)
  open.push({ close: () => made.destroy() })
  return made
}

async function proxy(to: Upstream, more: Partial<OutboundRequest> = {}): Promise<number> {
  const running = await startFront(forwardingHandler(to, more))
  open.push(running)
  return running.port
}

function session(port: number): ClientHttp2Session {
  const client = http2.connect(`http://127.0.0.1:${port}`)
  client.on('error', () => {
    // The test looks at streams.
  })
  open.push({ close: () => client.destroy() })
  return client
}

const plain = (more: Partial<OutboundRequest> = {}): OutboundRequest => (
  { method: 'GET', scheme: 'http', authority: 'shop', target: '/', headers: new HeaderMap(), ...more }
)

/** `cut` ends its connections as a machine does that dies. */
async function backend(protocol: 'http1' | 'http2', onRequest: http.RequestListener): Promise<{ port: number; cut: () => void }> {
  const server: Http2Server | http.Server = protocol === 'http1' ? http.createServer(onRequest) : http2.createServer(onRequest as never)
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => sockets.add(socket))
  const cut = (): void => {
    for (const socket of sockets) socket.destroy()
  }
  return { port: await listening(server as never), cut }
}

async function rawBackend(onSocket: (socket: Socket) => void): Promise<number> {
  return listening(createServer((socket) => {
    socket.on('error', () => {
      // It is cut on purpose.
    })
    onSocket(socket)
  }))
}

async function streams(onStream: (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void, settings: http2.Settings = {}): Promise<number> {
  const server = http2.createServer({ settings })
  server.on('stream', (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
    stream.on('error', () => {
      // It is reset on purpose.
    })
    onStream(stream, headers)
  })
  return listening(server as never)
}

describe.each(['http1', 'http2'] as const)('to a backend with %s', (protocol) => {
  it.each(['--http1.1', '--http2-prior-knowledge'])('carries what curl %s posts, and what comes back', async (flag) => {
    const { port } = await backend(protocol, (req, res) => {
      const chunks: Buffer[] = []
      req.on('data', (chunk: Buffer) => chunks.push(chunk))
      req.on('end', () => {
        res.setHeader('set-cookie', ['a=1', 'b=2'])
        res.end(`${req.method} ${req.url} ${req.headers.host ?? req.headers[':authority']} ${req.headers['x-hop']} ${Buffer.concat(chunks).toString()}`)
      })
    })
    const front = await proxy(upstream(port, protocol))
    const more = flag === '--http1.1' ? ['-H', 'Connection: x-hop', '-H', 'X-Hop: 1'] : []
    for (const size of ['-d', '-H']) {
      const body = size === '-d' ? ['-d', 'hello'] : ['-H', 'Transfer-Encoding: chunked', '-d', 'hello']
      const { out } = await curl(flag, '-i', ...more, ...(flag === '--http1.1' ? body : ['-d', 'hello']), '-H', 'Host: shop', `http://127.0.0.1:${front}/a%20b?c`)
      expect(out).toMatch(/set-cookie: a=1\r\nset-cookie: b=2\r\n[^]*POST \/a%20b\?c shop undefined hello$/i)
    }
    expect((await curl(flag, '-I', `http://127.0.0.1:${front}/`)).out).toMatch(/ 200/)
  }, 30_000)

  it('carries 200 MiB to a slow reader in bounded memory', async () => {
    const total = 200 * 1_048_576
    let left = total
    const { port } = await backend(protocol, (_, res) => {
      const chunk = Buffer.alloc(65_536, 7)
      const go = (): void => {
        while (left > 0) {
          left -= chunk.length
          if (!res.write(chunk)) {
            res.once('drain', go)
            return
          }
        }
        res.end()
      }
      go()
    })
    const front = await proxy(upstream(port, protocol))
    const request = http.get({ port: front, host: '127.0.0.1' })
    const [answer] = await once(request, 'response') as [http.IncomingMessage]
    const before = process.memoryUsage().rss
    // Nobody reads: what is under way has to stop somewhere.
    await new Promise((done) => setTimeout(done, 500))
    expect(total - left).toBeLessThan(32 * 1_048_576)
    let peak = process.memoryUsage().rss
    let bytes = 0
    for await (const chunk of answer) {
      bytes += (chunk as Buffer).length
      if (bytes % 16_777_216 < 65_536) {
        await new Promise((done) => setTimeout(done, 5))
        peak = Math.max(peak, process.memoryUsage().rss)
      }
    }
    expect(bytes).toBe(total)
    expect(peak - before).toBeLessThan(160 * 1_048_576)
  }, 60_000)

  it('stops an upload that the backend does not read', async () => {
    const { port } = await backend(protocol, (req) => void req.pause())
    const to = upstream(port, protocol)
    let pulled = 0
    const body = new Readable({
      read() {
        pulled += 65_536
        this.push(Buffer.alloc(65_536))
      },
    })
    const abort = new AbortController()
    const outcome = to.send(plain({ method: 'POST', body, signal: abort.signal }))
    await new Promise((done) => setTimeout(done, 700))
    expect(pulled).toBeLessThan(32 * 1_048_576)
    abort.abort(new MeshError('REQUEST_CUT', 'enough'))
    expect(await outcome).toMatchObject({ t: 'failure', kind: 'cancelled' })
    expect(body.destroyed).toBe(true)
  })

  it('cancels at the backend when the client goes away before and in the middle of the answer', async () => {
    const closed: string[] = []
    const { port } = await backend(protocol, (req, res) => {
      res.on('close', () => closed.push(req.url ?? ''))
      if (req.url === '/middle') res.write('part')
    })
    const front = await proxy(upstream(port, protocol))
    for (const path of ['/before', '/middle']) {
      await curl('--max-time', '0.5', `http://127.0.0.1:${front}${path}`)
      await expect.poll(() => closed).toContain(path)
    }
  })

  it('says connectFailure, timeout, reset before and after the head', async () => {
    const nobody = upstream(1, protocol, { connect: () => Promise.reject(new MeshError('CONNECT_REFUSED', 'no')) })
    expect(await nobody.send(plain())).toMatchObject({ kind: 'connectFailure', error: { code: 'CONNECT_REFUSED' } })
    const never = upstream(1, protocol, { connect: () => new Promise(() => {}), connectTimeoutMs: 50 })
    expect(await never.send(plain())).toMatchObject({ kind: 'connectFailure', error: { code: 'CONNECT_TIMEOUT' } })

    const { port, cut } = await backend(protocol, (req, res) => {
      if (req.url === '/reset') cut()
      if (req.url === '/middle') res.write('part', () => setTimeout(cut, 30))
      if (req.url === '/stall') res.write('part')
    })
    const to = upstream(port, protocol)
    expect(await to.send(plain({ target: '/never', headTimeoutMs: 60 }))).toMatchObject({ kind: 'timeout', error: { code: 'UPSTREAM_TIMEOUT' } })
    expect(await to.send(plain({ target: '/reset' }))).toMatchObject({ kind: 'reset', error: { code: 'UPSTREAM_RESET' } })
    const middle = await to.send(plain({ target: '/middle' }))
    if (middle.t !== 'response' || !middle.body) throw new Error(middle.t)
    await expect(readAll(middle.body)).rejects.toMatchObject({ code: 'UPSTREAM_RESET', detail: { failure: 'resetAfterHeaders' } })
    const stall = await to.send(plain({ target: '/stall', idleTimeoutMs: 60 }))
    if (stall.t !== 'response' || !stall.body) throw new Error(stall.t)
    await expect(readAll(stall.body)).rejects.toMatchObject({ code: 'UPSTREAM_TIMEOUT' })
  })

  it('uses a connection again, makes more up to the limit, and lets requests wait', async () => {
    let connections = 0
    const { port } = await backend(protocol, (_, res) => void setTimeout(() => res.end('x'), 30))
    const to = upstream(port, protocol, { maxConnections: 2, connect: () => (connections++, dial(port)) })
    const outcomes = await Promise.all(Array.from({ length: 8 }, () => to.send(plain())))
    for (const outcome of outcomes) {
      if (outcome.t !== 'response' || !outcome.body) throw new Error(outcome.t)
      expect(await readAll(outcome.body)).toBe('x')
    }
    expect(connections).toBe(protocol === 'http1' ? 2 : 1)
    await to.close()
    expect(await to.send(plain())).toMatchObject({ t: 'failure' })
  })
})

describe('gRPC', () => {
  const grpc = { ':method': 'POST', ':path': '/shop.Cart/Add', 'content-type': 'application/grpc', te: 'trailers' }
  const frame = (text: string): Buffer => Buffer.concat([Buffer.from([0, 0, 0, 0, text.length]), Buffer.from(text)])

  it('streams both ways at once, with trailers', async () => {
    const port = await streams((stream, headers) => {
      expect(headers.te).toBe('trailers')
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
      stream.on('data', (chunk: Buffer) => stream.write(chunk))
      stream.on('end', () => stream.end())
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0', 'grpc-message': 'fine' }))
    })
    const stream = session(await proxy(upstream(port, 'http2'))).request(grpc)
    const trailers = once(stream, 'trailers') as Promise<[IncomingHttpHeaders]>
    for (const text of ['one', 'two']) {
      stream.write(frame(text))
      expect((await once(stream, 'data'))[0]).toEqual(frame(text))
    }
    stream.end()
    expect((await trailers)[0]).toMatchObject({ 'grpc-status': '0', 'grpc-message': 'fine' })
  })

  it('keeps an answer of trailers alone one head, and resets with the code that the backend gave', async () => {
    const port = await streams((stream, headers) => {
      if (headers[':path'] === '/alone') stream.respond({ ':status': 200, 'content-type': 'application/grpc', 'grpc-status': '5' }, { endStream: true })
      else {
        stream.respond({ ':status': 200, 'content-type': 'application/grpc' })
        stream.write(frame('a'), () => setTimeout(() => resetStream(stream, http2.constants.NGHTTP2_CANCEL), 30))
      }
    })
    const client = session(await proxy(upstream(port, 'http2')))
    const alone = client.request({ ...grpc, ':path': '/alone' })
    alone.end()
    const [headers, flags] = await once(alone, 'response') as [IncomingHttpHeaders, number]
    expect(headers['grpc-status']).toBe('5')
    expect(flags & http2.constants.NGHTTP2_FLAG_END_STREAM).toBe(1)
    const cut = client.request(grpc)
    cut.on('error', () => {
      // The code is looked at.
    })
    cut.resume()
    cut.end()
    await new Promise((done) => cut.once('close', done))
    expect(cut.rstCode).toBe(http2.constants.NGHTTP2_CANCEL)
  })

  it('cancels at the backend with CANCEL', async () => {
    const code = Promise.withResolvers<number>()
    const port = await streams((stream) => {
      stream.respond({ ':status': 200 })
      stream.write('a')
      stream.on('close', () => code.resolve(stream.rstCode))
    })
    const stream = session(await proxy(upstream(port, 'http2'))).request(grpc)
    stream.on('error', () => {
      // Our own doing.
    })
    await once(stream, 'data')
    stream.close(http2.constants.NGHTTP2_CANCEL)
    expect(await code.promise).toBe(http2.constants.NGHTTP2_CANCEL)
  })

  it('says refusedStream where the backend refused it', async () => {
    const port = await streams((stream) => stream.close(http2.constants.NGHTTP2_REFUSED_STREAM))
    expect(await upstream(port, 'http2').send(plain())).toMatchObject({ kind: 'refusedStream', rstCode: 7 })
  })
})

describe('a hostile backend', () => {
  it.each([
    ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab'],
    ['both framings', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
    ['a head without end', `HTTP/1.1 200 OK\r\n${`X-A: ${'a'.repeat(1_000)}\r\n`.repeat(100)}`],
    ['no HTTP', 'SSH-2.0-OpenSSH\r\n'],
    ['a change of protocol that nobody wants', 'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n'],
  ])('that sends %s is a failure', async (_, answer) => {
    const port = await rawBackend((socket) => socket.once('data', () => socket.write(answer)))
    expect(await upstream(port, 'http1').send(plain({ headTimeoutMs: 3_000 }))).toMatchObject({ t: 'failure', kind: expect.stringMatching(/badAnswer|reset/) })
  })

  it('cannot answer the next request with what it sends too much', async () => {
    const port = await rawBackend((socket) => {
      socket.on('data', () => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison'))
    })
    const to = upstream(port, 'http1', { maxConnections: 1 })
    for (let i = 0; i < 3; i++) {
      const outcome = await to.send(plain())
      if (outcome.t === 'response' && outcome.body) expect(await readAll(outcome.body).catch(() => 'cut')).toMatch(/^(a|cut)$/)
      await new Promise((done) => setTimeout(done, 20))
    }
  })
})

describe('WebSocket between versions', () => {
  const key = 'dGhlIHNhbXBsZSBub25jZQ=='

  async function webSockets1(): Promise<number> {
    const server = http.createServer()
    server.on('upgrade', (req, socket) => {
      socket.write(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ${acceptOf(req.headers['sec-websocket-key'] ?? '')}\r\n\r\n`)
      socket.pipe(socket)
    })
    return listening(server)
  }

  const webSockets2 = (): Promise<number> => streams((stream) => {
    stream.respond({ ':status': 200 })
    stream.pipe(stream)
  }, { enableConnectProtocol: true })

  it.each(['http1', 'http2'] as const)('from HTTP/1.1 to %s', async (protocol) => {
    const port = await (protocol === 'http1' ? webSockets1() : webSockets2())
    const socket = await dial(await proxy(upstream(port, protocol)))
    open.push({ close: () => socket.destroy() })
    socket.write(`GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n\r\n`)
    let got = ''
    socket.on('data', (chunk: Buffer) => (got += chunk.toString()))
    await expect.poll(() => got).toMatch(/^HTTP\/1.1 101 [^]*\r\n\r\n$/)
    expect(got.toLowerCase()).toContain(`sec-websocket-accept: ${acceptOf(key).toLowerCase()}`)
    socket.write('ping')
    await expect.poll(() => got).toMatch(/ping$/)
  })

  it.each(['http1', 'http2'] as const)('from HTTP/2 to %s', async (protocol) => {
    const port = await (protocol === 'http1' ? webSockets1() : webSockets2())
    const client = session(await proxy(upstream(port, protocol)))
    await once(client, 'remoteSettings')
    const stream = client.request({ ':method': 'CONNECT', ':protocol': 'websocket', ':path': '/chat', ':scheme': 'http', ':authority': 'a', 'sec-websocket-version': '13' })
    const [headers] = await once(stream, 'response') as [IncomingHttpHeaders]
    expect(headers[':status']).toBe(200)
    stream.write('ping')
    expect(String((await once(stream, 'data'))[0])).toBe('ping')
    stream.destroy()
  })

  it('says unsendable where the backend has no extended CONNECT', async () => {
    const port = await streams((stream) => stream.respond({ ':status': 200 }))
    expect(await upstream(port, 'http2').send(plain({ upgrade: 'websocket' }))).toMatchObject({ kind: 'unsendable' })
  })
})
