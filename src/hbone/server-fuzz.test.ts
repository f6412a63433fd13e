// Peers that make up what they say: sequences of frames that are nearly right, so that they get far, from a seeded generator and
// for a bounded time, while a good client's tunnel stands on the same server. Bombs of HPACK beside them.
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { CertifiedKey } from '../core/certificates.ts'
import type { OpenTunnel } from './pool.ts'
import { connectFields, field, frame, RawPeer, type, u32 } from './testing-frames.ts'
import { client, readAll, startBench, until } from './testing.ts'
import type { Bench } from './testing.ts'

const seed = 20_261_121
const forMs = 4_000

let bench: Bench
let standing: OpenTunnel
let ours: CertifiedKey
beforeEach(async () => {
  bench = await startBench()
  ours = bench.certificates.peek(client) ?? expect.fail()
  standing = await bench.pool.openTunnel(bench.request())
})
afterEach(() => bench.close())

/** The tunnel that stood through it all, and one that is made now. */
async function isUnharmed(): Promise<void> {
  standing.stream.write('still here')
  expect(String((await once(standing.stream, 'data'))[0])).toBe('still here')
  const { stream } = await bench.pool.openTunnel(bench.request())
  stream.end('and new')
  expect(String(await readAll(stream))).toBe('and new')
}

/** Numbers that look random and are the same in each run (mulberry32). */
class Dice {
  #state: number

  constructor(start: number) {
    this.#state = start >>> 0
  }

  /** 0 <= n < below. */
  roll(below: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let t = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) % below
  }

  pick<T>(list: readonly T[]): T {
    return list[this.roll(list.length)] as T
  }

  bytes(most: number): Buffer {
    return Buffer.from(Array.from({ length: this.roll(most + 1) }, () => this.roll(256)))
  }
}

/** A block that is right, nearly right or nothing of the kind. */
function headerBlock(dice: Dice): Buffer {
  const parts: (() => Buffer)[] = [
    () => connectFields,
    () => field(':method', dice.pick(['CONNECT', 'GET', '', 'C\0N'])),
    () => field(':authority', dice.pick(['10.0.0.2:80', '', 'x'.repeat(300), '[::1', ':0', '10.0.0.2:80\r\nx: y'])),
    () => field(dice.pick([':scheme', ':path', ':protocol', ':status', ':unknown', 'Upper', 'te', 'connection', 'baggage', 'forwarded', 'traceparent', '']), dice.bytes(60).toString('latin1')),
    // Indexed, static and dynamic; inserted; a size update; an integer without end; Huffman of anything.
    () => Buffer.from([0x80 | dice.roll(128)]),
    () => Buffer.concat([Buffer.from([0x40]), field('x', dice.bytes(50).toString('latin1')).subarray(1)]),
    () => Buffer.from([0x3f, dice.roll(256), dice.roll(128)]),
    () => Buffer.concat([Buffer.from([0xff]), Buffer.alloc(dice.roll(12), 0xff), Buffer.from([1])]),
    () => Buffer.concat([Buffer.from([0x00, 0x81]), dice.bytes(1), Buffer.from([0x80 | dice.roll(20)]), dice.bytes(20)]),
    () => dice.bytes(30),
  ]
  return Buffer.concat(Array.from({ length: 1 + dice.roll(6) }, () => dice.pick(parts)()))
}

function frames(dice: Dice): Buffer[] {
  const stream = dice.pick([0, 1, 1, 3, 3, 5, 7, 2, 0x7fffffff, 0xffffffff])
  const flags = dice.pick([0, 1, 4, 4, 5, 8, 0x20, 0x2d, dice.roll(256)])
  switch (dice.roll(12)) {
    case 0:
    case 1: return [frame(type.headers, 4 | dice.pick([0, 1]), stream, connectFields)]
    case 2: return [frame(type.headers, flags, stream, headerBlock(dice))]
    case 3: {
      const block = headerBlock(dice)
      const cut = dice.roll(block.length + 1)
      const between = dice.roll(4) === 0 ? frames(dice) : []
      return [frame(type.headers, flags & ~4, stream, block.subarray(0, cut)), ...between, frame(type.continuation, dice.pick([0, 4]), dice.pick([stream, 9]), block.subarray(cut))]
    }
    case 4: return [frame(type.data, flags, stream, dice.bytes(200))]
    case 5: return [frame(type.windowUpdate, flags, stream, dice.pick([u32(0), u32(1), u32(0x7fffffff), u32(0xffffffff), dice.bytes(6)]))]
    case 6: return [frame(type.reset, flags, stream, dice.pick([u32(dice.roll(20)), dice.bytes(6)]))]
    case 7: return [frame(type.settings, dice.pick([0, 1]), dice.pick([0, 0, stream]), Buffer.concat(Array.from({ length: dice.roll(4) }, () => Buffer.concat([Buffer.from([0, dice.roll(10)]), dice.pick([u32(0), u32(1), u32(0xffffffff), u32(dice.roll(1 << 20))])]))))]
    case 8: return [frame(type.ping, dice.pick([0, 1]), 0, dice.pick([Buffer.alloc(8), dice.bytes(10)]))]
    case 9: return [frame(type.goaway, 0, dice.pick([0, stream]), Buffer.concat([u32(dice.roll(9)), u32(dice.roll(14)), dice.bytes(8)]))]
    case 10: return [frame(dice.roll(256), flags, stream, dice.bytes(50))]
    default: {
      // A length that is not there, or nothing that is a frame.
      const whole = frame(dice.roll(10), flags, stream, dice.bytes(30))
      return [dice.pick([whole.subarray(0, dice.roll(whole.length + 1)), dice.bytes(40)])]
    }
  }
}

test('sessions that somebody made up', { timeout: 60_000 }, async () => {
  const dice = new Dice(seed)
  const before = bench.server.connections
  const endsAt = performance.now() + forMs
  let sessions = 0
  const peer = async (): Promise<void> => {
    while (performance.now() < endsAt) {
      const raw = await RawPeer.connect(bench.port, ours)
      sessions++
      for (let i = 1 + dice.roll(30); i > 0 && !raw.socket.destroyed; i--) {
        raw.send(...frames(dice))
        if (dice.roll(3) === 0) await turn()
      }
      if (dice.roll(2) === 0) raw.socket.end()
      else raw.socket.destroy()
      // Sessions that Node gave up without a word are found by the next ping.
      await until(() => raw.socket.closed, 25_000)
    }
  }
  await Promise.all(Array.from({ length: 8 }, peer))
  expect(sessions).toBeGreaterThan(50)
  await until(() => bench.server.connections === before, 25_000)
  expect(bench.server.streams).toBe(1)
  await isUnharmed()
})

test.each<[string, () => Buffer[]]>([
  ['one field of 4 KiB that is meant 16,000 times', () => {
    // Into the dynamic table, where its index is 62.
    const large = Buffer.concat([Buffer.from([0x40]), field('x-bomb', 'y'.repeat(4_000)).subarray(1)])
    return [frame(type.headers, 0, 1, Buffer.concat([connectFields, large])), frame(type.continuation, 4, 1, Buffer.alloc(16_000, 0x80 | 62))]
  }],
  ['the same in a thousand requests', () => {
    const large = Buffer.concat([Buffer.from([0x40]), field('x-bomb', 'y'.repeat(4_000)).subarray(1)])
    return Array.from({ length: 1_000 }, (_, i) => frame(type.headers, 5, 2 * i + 1, Buffer.concat([connectFields, i === 0 ? large : Buffer.alloc(0), Buffer.alloc(60, 0x80 | 62)])))
  }],
  ['a table that shrinks and grows without end', () => [frame(type.headers, 4, 1, Buffer.concat(Array.from({ length: 4_000 }, () => Buffer.from([0x20, 0x3f, 0xe1, 0x1f]))))]],
  ['a name of 60 KiB', () => [frame(type.headers, 4, 1, Buffer.concat([connectFields, field('x'.repeat(60_000), 'y')]))]],
  ['a Huffman text of ones', () => [frame(type.headers, 4, 1, Buffer.concat([connectFields, Buffer.from([0x00, 0x01, 0x78, 0xff, 0x80, 0x7f]), Buffer.alloc(255, 0xff)]))]],
  ['CONTINUATIONs of one byte each', () => Array.from({ length: 5_000 }, (_, i) => frame(i === 0 ? type.headers : type.continuation, 0, 1, Buffer.from([0x82])))],
])('a bomb: %s', async (_what, bomb) => {
  const rss = process.memoryUsage().rss
  const raw = await RawPeer.connect(bench.port, ours)
  raw.send(...bomb())
  raw.socket.end()
  await until(() => raw.socket.closed)
  await isUnharmed()
  // 64 MB is what the first of them would be if it were unpacked.
  expect(process.memoryUsage().rss - rss).toBeLessThan(60 * 1_048_576)
})
