// The tunnel as a story: what an application may count on when its bytes go through HTTP/2 in TLS.
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { afterEach, describe, expect, test } from 'vitest'
import type { ConnectRequest } from './server-session.ts'
import { client, payments, readAll, startBench, until } from './testing.ts'
import type { Bench } from './testing.ts'
import type { TunnelStream } from './tunnel-stream.ts'

let bench: Bench | undefined
afterEach(async () => {
  await bench?.close()
  bench = undefined
})

/** A bench whose server hands its streams to the test. */
async function withStreams(): Promise<{ bench: Bench; accepted: () => Promise<TunnelStream> }> {
  const streams: TunnelStream[] = []
  bench = await startBench({ handler: () => Promise.resolve({ t: 'accept', carry: (stream) => streams.push(stream) }) })
  return { bench, accepted: async () => {
    await until(() => streams.length > 0)
    return streams.shift() as TunnelStream
  } }
}

test('a request arrives with who asks and what it says, and bytes go both ways', async () => {
  let seen: ConnectRequest | undefined
  bench = await startBench({
    handler: (request) => {
      seen = request
      return Promise.resolve({ t: 'accept', baggage: { service: 'payments' }, carry: (stream) => void stream.pipe(stream) })
    },
  })
  const tunnel = await bench.pool.openTunnel(bench.request({
    headers: {
      baggage: { namespace: 'shop' }, forwarded: { client: { ip: '10.0.0.1', port: 4_711 }, host: 'payments.shop' },
      traceParent: { traceId: 'a'.repeat(32), spanId: 'b'.repeat(16), isSampled: false }, sourceIdentity: payments,
    },
  }))
  expect(tunnel).toMatchObject({ peerIdentity: payments, isReused: false, responseHeaders: { ':status': 200, baggage: 'service.name=payments' } })
  expect(seen).toMatchObject({
    peerIdentity: client, authority: { t: 'address', address: { ip: '10.0.0.2', port: 80 } }, baggage: { namespace: 'shop' },
    forwarded: { client: { ip: '10.0.0.1', port: 4_711 }, host: 'payments.shop' }, traceParent: { traceId: 'a'.repeat(32) }, sourceIdentity: payments,
  })
  tunnel.stream.end('hello')
  expect(String(await readAll(tunnel.stream))).toBe('hello')
  expect(tunnel.stream).toMatchObject({ bytesRead: 5, bytesWritten: 5 })
})

describe('half-close', () => {
  test('the client ends first and still reads', async () => {
    const { bench, accepted } = await withStreams()
    const { stream } = await bench.pool.openTunnel(bench.request())
    const server = await accepted()
    stream.end('question')
    expect(String(await readAll(server))).toBe('question')
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(stream.destroyed || server.destroyed).toBe(false)
    server.write('ans')
    await new Promise((resolve) => setTimeout(resolve, 20))
    server.end('wer')
    expect(String(await readAll(stream))).toBe('answer')
    await until(() => stream.closed && server.closed && bench.server.streams === 0)
  })

  test('the server ends first and still reads', async () => {
    const { bench, accepted } = await withStreams()
    const { stream } = await bench.pool.openTunnel(bench.request())
    const server = await accepted()
    server.end('greeting')
    expect(String(await readAll(stream))).toBe('greeting')
    await new Promise((resolve) => setTimeout(resolve, 50))
    stream.end('reply')
    expect(String(await readAll(server))).toBe('reply')
    await until(() => stream.closed && server.closed && bench.server.streams === 0)
  })
})

describe('a cut is an error, never an end', () => {
  const cutBy = {
    'resetAndDestroy()': (stream: TunnelStream) => stream.resetAndDestroy(),
    'destroy()': (stream: TunnelStream) => stream.destroy(),
    'destroy(error)': (stream: TunnelStream) => stream.on('error', () => {}).destroy(new Error('application')),
  }
  test.each(Object.keys(cutBy) as (keyof typeof cutBy)[])('by %s of either side', async (how) => {
    const { bench, accepted } = await withStreams()
    for (const side of ['client', 'server']) {
      const { stream } = await bench.pool.openTunnel(bench.request())
      const server = await accepted()
      stream.write('some')
      await once(server, 'readable')
      const [cut, other] = side === 'client' ? [stream, server] : [server, stream]
      let hasEnded = false
      other.on('end', () => (hasEnded = true)).resume()
      const error = once(other, 'error')
      cutBy[how](cut)
      expect((await error)[0]).toMatchObject({ code: 'TUNNEL_CLOSED', detail: { rstCode: how === 'resetAndDestroy()' ? 10 : 8 } })
      expect(hasEnded).toBe(false)
    }
    await until(() => bench.server.streams === 0)
    // The connection and its other streams are none the worse.
    expect(bench.count('handshake')).toBe(2)
  })

  test('by the loss of the connection, even where nobody reads', async () => {
    const { bench, accepted } = await withStreams()
    const { stream } = await bench.pool.openTunnel(bench.request())
    const server = await accepted()
    const errors = Promise.all([once(stream, 'error'), once(server, 'error')])
    for (const socket of bench.sockets) socket.resetAndDestroy()
    for (const [error] of await errors) expect(error).toMatchObject({ code: 'TUNNEL_CLOSED' })
    await until(() => bench.server.connections === 0 && bench.pool.connections().length === 0)
  })

  test('after everything was said one way', async () => {
    const { bench, accepted } = await withStreams()
    const { stream } = await bench.pool.openTunnel(bench.request())
    const server = await accepted()
    server.end('last words')
    expect(String(await readAll(stream))).toBe('last words')
    const error = once(stream, 'error')
    server.resetAndDestroy()
    expect((await error)[0]).toMatchObject({ code: 'TUNNEL_CLOSED' })
  })
})

test('64 MiB to a slow reader arrive unharmed, while little of it lies in memory', async () => {
  const { bench, accepted } = await withStreams()
  const { stream } = await bench.pool.openTunnel(bench.request())
  const server = await accepted()
  const chunk = Buffer.alloc(65_536, 'sidestep')
  const total = 1_024
  const sent = createHash('sha256')
  const received = createHash('sha256')
  let written = 0
  const writing = (async () => {
    for (let i = 0; i < total; i++) {
      chunk.writeUInt32BE(i)
      const copy = Buffer.from(chunk)
      sent.update(copy)
      written += copy.length
      if (!stream.write(copy)) await once(stream, 'drain')
    }
    stream.end()
  })()
  // Nobody reads: the sender must come to a stop within the window and a few buffers.
  await new Promise((resolve) => setTimeout(resolve, 500))
  expect(written).toBeLessThan(8 * 1_048_576)
  // A neighbour on the same connection is not held up meanwhile.
  const neighbour = await bench.pool.openTunnel(bench.request())
  const neighbourServer = await accepted()
  neighbour.stream.end(Buffer.alloc(6 * 1_048_576))
  expect((await readAll(neighbourServer)).length).toBe(6 * 1_048_576)
  neighbourServer.end()
  // Leaving the loop below destroys the server's end, which never wrote.
  stream.on('error', () => {})
  let read = 0
  let most = 0
  for await (const piece of server as AsyncIterable<Buffer>) {
    received.update(piece)
    read += piece.length
    most = Math.max(most, written - read)
    if (read % 40 === 0) await new Promise((resolve) => setTimeout(resolve, 1))
  }
  await writing
  expect(read).toBe(total * 65_536)
  expect(received.digest('hex')).toBe(sent.digest('hex'))
  expect(most).toBeLessThan(9 * 1_048_576)
})

test('a reader that is behind gets all of it, even when the connection has gone meanwhile', async () => {
  const { bench, accepted } = await withStreams()
  const { stream } = await bench.pool.openTunnel(bench.request())
  const server = await accepted()
  stream.end()
  server.resume().end(Buffer.alloc(3 * 1_048_576, 'x'))
  await until(() => bench.server.streams === 0)
  await bench.server.drain()
  await until(() => bench.sockets.size === 0)
  expect((await readAll(stream)).length).toBe(3 * 1_048_576)
})

test('10,000 streams at once share a bounded number of connections', async () => {
  bench = await startBench()
  const { pool, request } = bench
  const tunnels = await Promise.all(Array.from({ length: 10_000 }, () => pool.openTunnel(request())))
  expect(pool.connections().length).toBeGreaterThanOrEqual(100)
  expect(pool.connections().length).toBeLessThanOrEqual(110)
  expect(Math.max(...pool.connections().map(({ streams }) => streams))).toBeLessThanOrEqual(100)
  const answers = await Promise.all(tunnels.map(async ({ stream }, i) => {
    stream.end(`stream ${i}`)
    return String(await readAll(stream)) === `stream ${i}`
  }))
  expect(answers.every(Boolean)).toBe(true)
  await until(() => pool.connections().every(({ streams }) => streams === 0))
  expect(bench.count('handshakeFailed')).toBe(0)
}, 60_000)

test('who carries bytes takes and sends past the queues: as much as it wants, in order, to the end', async () => {
  const bench = await startBench()
  try {
    const { stream } = await bench.pool.openTunnel(bench.request())
    const sent = Buffer.alloc(300_000, 'x')
    const held: Buffer[] = []
    let stops = 0
    stream.takeWith((chunk) => {
      held.push(chunk)
      stops++
      setImmediate(() => stream.takeMore())
      return false
    })
    const isFree = new Promise<Error | null | undefined>((resolve) => stream.send(sent, resolve))
    expect(await isFree).toBeFalsy()
    // Given back: what happens to it now is nobody's business.
    sent.fill('y')
    stream.send(Buffer.from('z'), () => stream.end())
    await once(stream, 'end')
    expect(stops).toBeGreaterThan(1)
    const all = Buffer.concat(held)
    expect(all.length).toBe(300_001)
    expect(all.equals(Buffer.concat([Buffer.alloc(300_000, 'x'), Buffer.from('z')]))).toBe(true)
    expect([stream.bytesRead, stream.bytesWritten]).toEqual([300_001, 300_001])
  } finally {
    await bench.close()
  }
})
