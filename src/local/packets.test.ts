// Frames are built here byte by byte, but for what TLS says: that comes from a real client on loopback.
import { once } from 'node:events'
import { createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { connect } from 'node:tls'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { MeshError } from '../core/errors.ts'
import { decodeCapture, helloOf, streamsOf, tlsRecords, wireView } from './packets.ts'

const mss = 1_000

interface Segment {
  readonly from: readonly [ip: string, port: number]
  readonly to: readonly [ip: string, port: number]
  readonly sequence: number
  readonly isSyn?: boolean
  readonly payload?: Buffer
}

function frame({ from, to, sequence, isSyn = false, payload = Buffer.alloc(0) }: Segment): Buffer {
  const tcp = Buffer.alloc(20)
  tcp.writeUInt16BE(from[1], 0)
  tcp.writeUInt16BE(to[1], 2)
  tcp.writeUInt32BE(sequence >>> 0, 4)
  tcp[12] = 5 << 4
  tcp[13] = isSyn ? 2 : 16
  const ip = Buffer.alloc(20)
  ip[0] = 0x45
  ip[9] = 6
  ip.writeUInt16BE(40 + payload.length, 2)
  ip.set(from[0].split('.').map(Number), 12)
  ip.set(to[0].split('.').map(Number), 16)
  const ethernet = Buffer.alloc(14)
  ethernet.writeUInt16BE(0x0800, 12)
  return Buffer.concat([ethernet, ip, tcp, payload])
}

function capture(frames: readonly Buffer[]): Buffer {
  const head = Buffer.alloc(24)
  head.writeUInt32LE(0xa1b2c3d4, 0)
  head.writeUInt32LE(1, 20)
  return Buffer.concat([head, ...frames.flatMap((each) => {
    const record = Buffer.alloc(16)
    record.writeUInt32LE(each.length, 8)
    record.writeUInt32LE(each.length, 12)
    return [record, each]
  })])
}

/** A connection's first direction: SYN, then the bytes in segments. */
function sent(bytes: Buffer, { start = 4_294_967_000, hasSyn = true, port = 15_008 } = {}): Buffer[] {
  const ends = { from: ['10.0.0.1', 40_000], to: ['10.0.0.2', port] } as const
  const parts = Array.from({ length: Math.ceil(bytes.length / mss) }, (_, i) => bytes.subarray(i * mss, (i + 1) * mss))
  return [
    ...(hasSyn ? [frame({ ...ends, sequence: start, isSyn: true })] : []),
    ...parts.map((payload, i) => frame({ ...ends, sequence: start + 1 + i * mss, payload })),
  ]
}

async function helloBytes(minVersion: 'TLSv1.2' | 'TLSv1.3', maxVersion: 'TLSv1.2' | 'TLSv1.3'): Promise<Buffer> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', minVersion, maxVersion })
  client.on('error', () => {
    // It meets nobody who speaks TLS.
  })
  const [socket] = (await once(server, 'connection')) as [Socket]
  const [bytes] = (await once(socket, 'data')) as [Buffer]
  client.destroy()
  socket.destroy()
  server.close()
  return bytes
}

const record = (type: number, length: number): Buffer => Buffer.concat([Buffer.from([type, 3, 3, length >> 8, length & 255]), Buffer.alloc(length, 0xab)])
const mannerOf = (frames: readonly Buffer[]): string | undefined => wireView(decodeCapture(capture(frames))).flows[0]?.speaks

test('a stream is put together whatever the order, repetition and sequence numbers of its segments', () => {
  fc.assert(fc.property(fc.uint8Array({ minLength: 1, maxLength: 5_000 }), fc.nat(0xffff_ffff), fc.infiniteStream(fc.nat()), (bytes, start, order) => {
    const whole = Buffer.from(bytes)
    const [syn, ...data] = sent(whole, { start })
    const shuffled = [...data, ...data].map((each) => ({ each, at: order.next().value ?? 0 })).toSorted((a, b) => a.at - b.at).map(({ each }) => each)
    const [stream] = streamsOf(decodeCapture(capture([syn ?? Buffer.alloc(0), ...shuffled])))
    expect(stream?.isWhole).toBe(true)
    expect(stream?.bytes.equals(whole)).toBe(true)
  }), { numRuns: 50 })
})

test('a stream with a gap, or without its beginning, is not whole', () => {
  const frames = sent(Buffer.alloc(3_000))
  expect(streamsOf(decodeCapture(capture(frames.toSpliced(2, 1))))[0]?.isWhole).toBe(false)
  expect(mannerOf(sent(Buffer.from('GET / HTTP/1.1\r\n'), { hasSyn: false }))).toBe('begunBefore')
})

test('plain text, TLS 1.2 and TLS 1.3 are told apart', async () => {
  const hello13 = await helloBytes('TLSv1.3', 'TLSv1.3')
  expect(mannerOf(sent(Buffer.concat([hello13, record(20, 1), record(23, 4_000)])))).toBe('TLS 1.3')
  // The last record is still being sent.
  expect(mannerOf(sent(Buffer.concat([hello13, record(23, 900).subarray(0, 200)])))).toBe('TLS 1.3')
  expect(mannerOf(sent(Buffer.concat([await helloBytes('TLSv1.2', 'TLSv1.3'), record(23, 10)])))).toBe('TLS records')
  expect(mannerOf(sent(Buffer.concat([await helloBytes('TLSv1.2', 'TLSv1.2'), record(23, 10)])))).toBe('TLS records')
  expect(mannerOf(sent(Buffer.from('GET / HTTP/1.1\r\nhost: shop\r\n\r\n')))).toBe('plain')
  expect(mannerOf(sent(Buffer.concat([hello13, Buffer.from('GET / HTTP/1.1\r\n')])))).toBe('plain')
  expect(mannerOf(sent(Buffer.alloc(0)))).toBe('nothing')
})

test('text is found in a packet, across packets, and not where it is not', () => {
  const view = wireView(decodeCapture(capture(sent(Buffer.concat([Buffer.alloc(mss - 3), Buffer.from('marker-1')])))))
  expect(view.contains('marker-1')).toBe(true)
  expect(view.contains('marker-2')).toBe(false)
})

test('whatever is in a file, only MeshError escapes, and frames of any bytes decode', async () => {
  const hello = await helloBytes('TLSv1.3', 'TLSv1.3')
  const safely = (bytes: Buffer): void => {
    try {
      const packets = decodeCapture(bytes)
      wireView(packets)
    } catch (error) {
      expect(error).toBeInstanceOf(MeshError)
    }
  }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => safely(Buffer.from(bytes))))
  const ethernet = fc.constantFrom(0x0800, 0x86dd, 0x0806, 0x1234)
  fc.assert(fc.property(fc.array(fc.tuple(ethernet, fc.uint8Array({ maxLength: 120 })), { maxLength: 8 }), (frames) => {
    const view = wireView(decodeCapture(capture(frames.map(([type, bytes]) => Buffer.concat([Buffer.alloc(12), Buffer.from([type >> 8, type & 255]), bytes])))))
    expect(view.packets).toBe(frames.length)
  }))
  fc.assert(fc.property(fc.array(fc.tuple(fc.nat(hello.length - 1), fc.nat(255)), { maxLength: 12 }), fc.nat(hello.length), (changes, length) => {
    const broken = Buffer.from(hello.subarray(0, length))
    for (const [at, value] of changes) if (at < broken.length) broken[at] = value
    const [stream] = streamsOf(decodeCapture(capture(sent(broken))))
    for (const each of stream ? tlsRecords(stream).records : []) helloOf(each)
    wireView(decodeCapture(capture(sent(broken))))
  }))
})
