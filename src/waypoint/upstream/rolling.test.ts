// Backends that come, crash and go under load, behind the whole way: a client's connection, the front, the forwarder. No request
// that was safe to send again may be lost, and streams go both ways at once.
import http from 'node:http'
import type { Server } from 'node:http'
import http2 from 'node:http2'
import { createServer } from 'node:net'
import type { Socket } from 'node:net'
import { afterEach, expect, it } from 'vitest'
import { systemClock } from '../../core/clock.ts'
import type { ConnectionContext } from '../context.ts'
import type { Handler } from '../http/message.ts'
import { join } from '../http/pump.ts'
import { HttpFront } from '../http/serve.ts'
import { Recorded, World, textOf, workload } from './testing.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'

const open: { close(): unknown }[] = []
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
})

async function proxied(w: World, protocol: 'http1' | 'http2'): Promise<number> {
  const handler: Handler<ConnectionContext> = async (request) => {
    const { method, scheme, authority, path, query, headers } = request.head
    const outcome = await w.forwarder.forward({
      request, record: new Recorded(), rule: undefined, to: { t: 'service', service: w.service, port: 80 },
      head: { method, scheme, authority, target: path.path + (query === '' ? '' : `?${query}`), headers: headers.copy() },
    })
    if (outcome.t === 'response') return outcome
    if (outcome.t === 'upgraded') return { t: 'upgrade', headers: outcome.headers, carry: (stream) => void join(stream, outcome.stream) }
    return { t: 'response', status: outcome.status, headers: new HeaderMap(), body: outcome.because }
  }
  const front = new HttpFront<ConnectionContext>({ clock: systemClock, handler })
  const sockets = new Set<Socket>()
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    sockets.add(socket)
    front.serve(socket, { connection: w.context(), scheme: 'http', protocol })
  })
  open.push(w, front, { close: () => sockets.forEach((socket) => socket.destroy()) })
  return w.listen(server)
}

it('loses no request while backends crash and are replaced', async () => {
  const w = new World()
  const port = await proxied(w, 'http1')
  const agent = new http.Agent({ keepAlive: true, maxSockets: 8 })
  open.push({ close: () => agent.destroy() })
  const servers: Server[] = []
  const start = async (name: string): Promise<void> => {
    const { server } = await w.backend(name, (_, res) => setTimeout(() => res.end(name), 2))
    servers.push(server)
  }
  await start('b0')
  await start('b1')
  const counts = new Map<string, number>()
  const state = { isOver: false }
  const client = async (): Promise<void> => {
    while (!state.isOver) {
      const answer = await new Promise<string>((resolve) => {
        http.get({ port, host: '127.0.0.1', agent, headers: { host: 'api.shop' } }, (res) => {
          textOf(res).then((body) => resolve(`${res.statusCode} ${body}`), (error: unknown) => resolve(String(error)))
        }).on('error', (error) => resolve(String(error)))
      })
      counts.set(answer, (counts.get(answer) ?? 0) + 1)
    }
  }
  const clients = Array.from({ length: 8 }, client)
  for (let round = 2; round < 7; round++) {
    await start(`b${round}`)
    await new Promise((resolve) => setTimeout(resolve, 60))
    // Crashes first, and the mesh learns of it later.
    servers[round - 2]?.close()
    servers[round - 2]?.closeAllConnections()
    await new Promise((resolve) => setTimeout(resolve, 60))
    w.remove(`b${round - 2}`)
  }
  state.isOver = true
  await Promise.all(clients)
  const failed = [...counts].filter(([answer]) => !answer.startsWith('200 b'))
  expect(failed).toEqual([])
  expect([...counts.values()].reduce((sum, count) => sum + count, 0)).toBeGreaterThan(100)
  await expect.poll(() => w.idle()).toBe(true)
})

it('carries gRPC both ways at once, with flow control and trailers', async () => {
  const w = new World({}, 'grpc')
  const port = await proxied(w, 'http2')
  await w.http2Backend('a', (stream) => {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0', 'grpc-message': 'fine' }))
    stream.pipe(stream)
  })
  const session = http2.connect(`http://127.0.0.1:${port}`)
  open.push({ close: () => session.destroy() })
  const stream = session.request({ ':method': 'POST', ':path': '/a.B/Chat', ':authority': 'api.shop', 'content-type': 'application/grpc', te: 'trailers' })
  let trailers: http2.IncomingHttpHeaders = {}
  stream.on('trailers', (headers) => (trailers = headers))
  for (let i = 0; i < 3; i++) {
    stream.write(`ping${i}`)
    const [chunk] = await new Promise<[Buffer]>((resolve) => stream.once('data', (data: Buffer) => resolve([data])))
    expect(chunk.toString()).toBe(`ping${i}`)
  }
  const big = Buffer.alloc(3_000_000, 'x')
  stream.end(big)
  expect((await textOf(stream)).length).toBe(big.length)
  expect(trailers).toMatchObject({ 'grpc-status': '0', 'grpc-message': 'fine' })
  await expect.poll(() => w.idle()).toBe(true)
})

it('holds many idle WebSockets, and lets each of them go', async () => {
  const w = new World()
  const port = await proxied(w, 'http1')
  const { server } = await w.backend('a', (_, res) => res.end())
  const { acceptOf } = await import('../http/websocket.ts')
  server.on('upgrade', (req, socket: Socket) => {
    socket.on('error', () => {
      // Cut on purpose.
    })
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: ${acceptOf(req.headers['sec-websocket-key'] ?? '')}\r\n\r\n`)
    socket.pipe(socket)
  })
  const sockets = await Promise.all(Array.from({ length: 200 }, () => new Promise<Socket>((resolve, reject) => {
    const request = http.request({ port, host: '127.0.0.1', headers: { host: 'api.shop', connection: 'upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==' } })
    request.on('upgrade', (_, socket: Socket) => resolve(socket)).on('error', reject).end()
  })))
  expect(w.forwarder.stats()[0]).toMatchObject({ active: 200, connections: 200 })
  const echoed = new Promise<string>((resolve) => sockets[100]?.once('data', (chunk: Buffer) => resolve(chunk.toString())))
  sockets[100]?.write('hello')
  expect(await echoed).toBe('hello')
  for (const socket of sockets) socket.destroy()
  await expect.poll(() => w.idle()).toBe(true)
  await expect.poll(() => w.forwarder.stats()[0]?.connections).toBe(0)
  w.add(workload('late', 1))
})
