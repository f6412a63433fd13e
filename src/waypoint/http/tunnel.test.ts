// Both sides through tunnels, as in the mesh: the client's stream and the backend's are CONNECT streams of HTTP/2 sessions.
import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import type { ClientHttp2Session, ClientHttp2Stream, IncomingHttpHeaders, ServerHttp2Stream } from 'node:http2'
import type { Server } from 'node:net'
import { afterEach, expect, it } from 'vitest'
import { systemClock } from '../../core/clock.ts'
import { TunnelStream } from '../../hbone/tunnel-stream.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import { HttpFront } from './serve.ts'
import { forwardingHandler, listen, readAll, upstreamTo } from './testing.ts'

const open: { close(): unknown }[] = []
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
})

/** Gives the streams of CONNECT requests to `take`; returns how to make one. */
async function tunnelTo(take: (stream: TunnelStream) => void): Promise<() => Promise<TunnelStream>> {
  const server = http2.createServer()
  server.on('stream', (stream: ServerHttp2Stream) => {
    stream.respond({ ':status': 200 })
    take(new TunnelStream(stream))
  })
  const port = await listen(server as unknown as Server)
  const session: ClientHttp2Session = http2.connect(`http://127.0.0.1:${port}`)
  open.push(server, { close: () => session.destroy() })
  return async () => {
    const stream: ClientHttp2Stream = session.request({ ':method': 'CONNECT', ':authority': 'shop:80' })
    await once(stream, 'response')
    return new TunnelStream(stream)
  }
}

it.each(['http1', 'http2'] as const)('carries %s to the same version through two tunnels, and cancels', async (protocol) => {
  const closed: string[] = []
  const answer = (path: string, body: string): string => `${path} ${body}`
  const backend1 = http.createServer((req, res) => {
    res.on('close', () => closed.push(req.url ?? ''))
    if (req.url !== '/never') void readAll(req).then((body) => res.end(answer(req.url ?? '', body)))
  })
  const backend2 = new HttpFront<string>({
    clock: systemClock,
    handler: async (request) => {
      request.signal.addEventListener('abort', () => closed.push(request.head.path.path))
      if (request.head.path.path === '/never') await new Promise(() => {})
      return { t: 'response', status: 200, headers: new HeaderMap(), body: answer(request.head.path.path, await readAll(request.body)) }
    },
  })
  const toBackend = await tunnelTo((stream) => {
    if (protocol === 'http1') backend1.emit('connection', stream)
    else backend2.serve(stream, { connection: '', scheme: 'http', protocol })
  })
  const upstream = upstreamTo(0, protocol, { connect: toBackend })
  const front = new HttpFront<string>({ clock: systemClock, handler: forwardingHandler(upstream) })
  const toFront = await tunnelTo((stream) => void front.detectAndServe(stream, { connection: '', scheme: 'http' }))
  open.push({ close: () => upstream.destroy() }, backend2, front)

  const big = 'x'.repeat(3_000_000)
  if (protocol === 'http1') {
    const ask = async (path: string, body: string, client: TunnelStream): Promise<http.ClientRequest> => {
      const request = http.request({ createConnection: () => client, method: 'POST', path, host: 'shop' })
      request.on('error', () => {
        // Cut on purpose.
      })
      request.end(body)
      return request
    }
    const [response] = await once(await ask('/a', big, await toFront()), 'response') as [http.IncomingMessage]
    expect(await readAll(response)).toBe(`/a ${big}`)
    const client = await toFront()
    await ask('/never', 'x', client)
    await expect.poll(() => upstream.stats.active).toBe(1)
    client.destroy()
  } else {
    const tunnel = await toFront()
    const client = http2.connect('http://shop', { createConnection: () => tunnel })
    open.push({ close: () => client.destroy() })
    const stream = client.request({ ':method': 'POST', ':path': '/a' })
    stream.end(big)
    const [headers] = await once(stream, 'response') as [IncomingHttpHeaders]
    expect(headers[':status']).toBe(200)
    expect(await readAll(stream)).toBe(`/a ${big}`)
    const never = client.request({ ':method': 'POST', ':path': '/never' })
    never.on('error', () => {
      // Cut on purpose.
    })
    never.end('x')
    await expect.poll(() => upstream.stats.active).toBe(1)
    tunnel.destroy()
  }
  await expect.poll(() => closed).toContain('/never')
})
