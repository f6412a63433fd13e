// What the tests of this room share: a front on a loopback port, raw bytes to it, curl, and a handler that forwards. Never imported by
// anything but tests.
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import type { AddressInfo, Server, Socket } from 'node:net'
import { systemClock } from '../../core/clock.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import { openUpstream } from './forward.ts'
import type { OutboundRequest, Upstream, UpstreamOptions } from './forward.ts'
import type { Handler, HttpLimits, Refusal, Request, Response } from './message.ts'
import { join } from './pump.ts'
import { HttpFront } from './serve.ts'

export interface RunningFront {
  readonly port: number
  readonly front: HttpFront<string>
  readonly refusals: Refusal[]
  readonly errors: unknown[]
  close(): Promise<void>
}

/** `declared` spares detection, which takes a client that is slow to speak for one that waits. */
export async function startFront(handler: Handler<string>, limits: Partial<HttpLimits> = {}, declared?: 'http1' | 'http2'): Promise<RunningFront> {
  const refusals: Refusal[] = []
  const errors: unknown[] = []
  const front = new HttpFront<string>({
    clock: systemClock, handler, limits, onRefused: (refusal) => refusals.push(refusal), onHandlerError: (error) => errors.push(error),
  })
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: false }, (socket) => {
    if (declared) return front.serve(socket, { connection: 'test', scheme: 'http', protocol: declared })
    void front.detectAndServe(socket, { connection: 'test', scheme: 'http' }).then((detected) => {
      if (detected.t === 'opaque' || detected.t === 'tls') socket.destroy()
    })
  })
  const port = await listen(server)
  return {
    port, front, refusals, errors,
    async close() {
      front.close()
      await new Promise((done) => server.close(done))
    },
  }
}

export async function listen(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

export async function dial(port: number): Promise<Socket> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  await once(socket, 'connect')
  return socket
}

/** Sends, and gives what comes until the other side closes. */
export async function rawExchange(port: number, bytes: string, withinMs = 5_000): Promise<string> {
  const socket = await dial(port)
  let got = ''
  socket.on('data', (chunk: Buffer) => (got += chunk.toString('latin1')))
  socket.on('error', () => {
    // A reset is an end, too.
  })
  socket.on('end', () => socket.end())
  // A test that waits for ever tells nothing.
  const timer = setTimeout(() => socket.destroy(), withinMs)
  socket.once('close', () => clearTimeout(timer))
  socket.write(bytes, 'latin1')
  await once(socket, 'close').catch(() => undefined)
  return got
}

export interface CurlResult {
  readonly code: number
  readonly out: string
  readonly error: string
}

export function curl(...parts: string[]): Promise<CurlResult> {
  return new Promise((resolve) => {
    execFile('curl', ['-sS', '--max-time', '30', ...parts], { maxBuffer: 64 * 1_048_576 }, (error, out, err) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, out, error: err })
    })
  })
}

export const text = (status: number, body: string, headers: readonly (readonly [string, string])[] = []): Response => (
  { t: 'response', status, headers: HeaderMap.of(headers), body }
)

export async function readAll(stream: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks).toString('latin1')
}

export function upstreamTo(port: number, protocol: 'http1' | 'http2', options: Partial<UpstreamOptions> = {}): Upstream {
  return openUpstream({
    protocol, clock: systemClock, connect: () => dial(port), connectTimeoutMs: 5_000, idleTimeoutMs: 30_000, maxConnections: 8, ...options,
  })
}

export function outboundOf(request: Request<unknown>): OutboundRequest {
  const { head } = request
  return {
    method: head.method, scheme: head.scheme, authority: head.authority, target: head.path.path + (head.query === '' ? '' : `?${head.query}`),
    headers: head.headers, trailers: request.trailers, acceptsTrailers: request.acceptsTrailers, signal: request.signal,
    ...(request.hasBody && { body: request.body }),
    ...(request.contentLength !== undefined && { contentLength: request.contentLength }),
    ...(request.upgrade !== undefined && { upgrade: request.upgrade }),
    onInformation: (status, headers) => request.inform(status, headers),
  }
}

/** A proxy without any policy. */
export function forwardingHandler(upstream: Upstream, more: Partial<OutboundRequest> = {}): Handler<string> {
  return async (request) => {
    const outcome = await upstream.send({ ...outboundOf(request), ...more })
    switch (outcome.t) {
      case 'response': return outcome
      case 'upgraded': return { t: 'upgrade', headers: outcome.headers, carry: (stream) => void join(stream, outcome.stream) }
      case 'failure': return text(outcome.kind === 'timeout' ? 504 : 503, outcome.kind)
      default: return outcome satisfies never
    }
  }
}
