// A backend whose whole answer is one piece: head, body and end are read at once, before anybody has seen the head.
import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import type { IncomingHttpHeaders } from 'node:http2'
import { duplexPair } from 'node:stream'
import type { Duplex } from 'node:stream'
import { expect, test } from 'vitest'
import { systemClock } from '../../core/clock.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import { openUpstream } from './forward.ts'
import { forwardingHandler, readAll, startFront } from './testing.ts'

function frame(type: number, flags: number, stream: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head[3] = type
  head[4] = flags
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}

/** `grpc-status: 0` as a literal of HPACK. */
const trailer = Buffer.from('\0\x0bgrpc-status\x010', 'latin1')

/** Answers each HEADERS frame with `:status: 200`, the body, trailers where wanted, and the end of the stream, in one write. */
async function serve(side: Duplex, body: Buffer, hasTrailers = false): Promise<void> {
  let bytes = Buffer.alloc(0)
  let hasPreface = false
  side.write(frame(4, 0, 0, Buffer.alloc(0)))
  for await (const chunk of side) {
    bytes = Buffer.concat([bytes, chunk as Buffer])
    if (!hasPreface && bytes.length < 24) continue
    if (!hasPreface) bytes = bytes.subarray(24)
    hasPreface = true
    while (bytes.length >= 9 && bytes.length >= 9 + bytes.readUIntBE(0, 3)) {
      const [type, flags, stream, length] = [bytes[3], bytes[4] ?? 0, bytes.readUInt32BE(5), bytes.readUIntBE(0, 3)]
      bytes = bytes.subarray(9 + length)
      if (type === 4 && (flags & 1) === 0) side.write(frame(4, 1, 0, Buffer.alloc(0)))
      // 0x88 is `:status: 200` of HPACK's static table.
      if (type === 1) side.write(Buffer.concat([
        frame(1, 4, stream, Buffer.of(0x88)), frame(0, hasTrailers ? 0 : 1, stream, body), ...(hasTrailers ? [frame(1, 5, stream, trailer)] : []),
      ]))
    }
  }
}

test('an answer that is read in one piece is whole, however late its reader comes', async () => {
  const upstream = openUpstream({
    protocol: 'http2', clock: systemClock, connectTimeoutMs: 5_000, idleTimeoutMs: 60_000, maxConnections: 1,
    connect: () => {
      const [ours, theirs] = duplexPair()
      theirs.on('error', () => {})
      void serve(theirs, Buffer.alloc(1_024, 'x')).catch(() => {}) // ends with the connection
      return Promise.resolve(ours)
    },
  })
  for (let i = 0; i < 20; i++) {
    const outcome = await upstream.send({ method: 'GET', scheme: 'http', authority: 'web', target: '/', headers: new HeaderMap() })
    if (outcome.t !== 'response' || !outcome.body) throw new Error(`no answer: ${outcome.t}`)
    if (i % 2 === 1) await new Promise((resolve) => setTimeout(resolve, 5))
    expect((await readAll(outcome.body)).length).toBe(1_024)
    if (!outcome.body.closed) await once(outcome.body, 'close')
  }
  upstream.destroy()
})

test.each([true, false])('goes on to an HTTP/2 client whole and with its trailers, if any: %s', async (hasTrailers) => {
  const upstream = openUpstream({
    protocol: 'http2', clock: systemClock, connectTimeoutMs: 5_000, idleTimeoutMs: 60_000, maxConnections: 1,
    connect: () => {
      const [ours, theirs] = duplexPair()
      theirs.on('error', () => {})
      void serve(theirs, Buffer.alloc(1_024, 'x'), hasTrailers).catch(() => {}) // ends with the connection
      return Promise.resolve(ours)
    },
  })
  const signals: AbortSignal[] = []
  const forward = forwardingHandler(upstream)
  const front = await startFront((request) => {
    signals.push(request.signal)
    return forward(request)
  })
  const client = connectHttp2(`http://127.0.0.1:${front.port}`)
  for (let i = 0; i < 20; i++) {
    const stream = client.request({ ':path': '/' })
    const trailers: IncomingHttpHeaders[] = []
    stream.on('trailers', (headers) => trailers.push(headers))
    expect((await readAll(stream)).length).toBe(1_024)
    if (!stream.closed) await once(stream, 'close')
    expect(trailers.map((each) => each['grpc-status'])).toEqual(hasTrailers ? ['0'] : [])
  }
  client.destroy()
  await front.close()
  upstream.destroy()
  // Nobody was told that the client had gone.
  expect(signals.map(({ aborted }) => aborted)).toEqual(Array.from({ length: 20 }, () => false))
})
