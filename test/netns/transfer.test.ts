// Bytes through two ztunnels and to the outside: all of them, in order, to the last; and each end of a connection ends
// the way that its peer ended it.
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { runGoclient, runProbe } from '../helpers/apps.ts'
import { eventually } from '../helpers/meshed-world.ts'
import { MiB, TransferWorld, sourceBytes } from '../helpers/transfer.ts'
import type { Target } from '../helpers/transfer.ts'

let transfer: TransferWorld
let filesBefore: readonly number[]

beforeAll(async () => {
  transfer = await TransferWorld.start()
})
afterAll(() => transfer?.[Symbol.asyncDispose]())
beforeEach(async () => {
  filesBefore = await transfer.openFiles()
})
afterEach(() => transfer.released(filesBefore))

const targets: readonly Target[] = ['server', 'outside']
const inside = (timeoutMs: number): ReturnType<typeof transfer.world.inside> => transfer.world.inside('client', { timeoutMs })

describe('all bytes arrive', () => {
  test('1 GiB each way at once, through two ztunnels', async () => {
    const size = 1024 * MiB
    const result = await runProbe('bulk', [...transfer.address('server', 'bulk'), 'both', size], inside(60_000))
    expect(result).toMatchObject({ ok: true, sent: size, received: size, firstBadOffset: -1 })
    expect(result.serverReceivedHash).toBe(result.sentHash)
    expect(result.serverSentHash).toBe(result.receivedHash)
    const counted = await eventually('the transfer is counted', async () => {
      const counts = await transfer.world.counts('client')
      return counts.bytesSent > size && counts
    })
    expect(counted.bytesReceived).toBeGreaterThan(size)
  })

  test('256 MiB each way at once to the outside, by a Go client', async () => {
    const [host, port] = transfer.address('outside', 'bulk')
    const result = await runGoclient('bulk', [`${host}:${port}`, 'both', 256 * MiB], inside(60_000))
    expect(result).toMatchObject({ ok: true, sent: 256 * MiB, received: 256 * MiB })
  })

  test('of any number, to the last one', async () => {
    const transfers = fc.record({
      target: fc.constantFrom(...targets),
      direction: fc.constantFrom('up', 'down', 'both'),
      size: fc.oneof(fc.integer({ min: 0, max: 3 }), fc.integer({ min: 0, max: 5_000 }), fc.integer({ min: 60_000, max: 140_000 })),
      seed: fc.nat(),
      flags: fc.constantFrom([], ['--half-close'], ['--v4mapped']),
    })
    const fourAtOnce = fc.array(transfers, { minLength: 4, maxLength: 4 })
    const property = fc.asyncProperty(fourAtOnce, async (four) => {
      const runs = four.map(({ target, direction, size, seed, flags }) =>
        runProbe('bulk', [...transfer.address(target, 'bulk'), direction, size, '--seed', seed, ...flags], inside(20_000)),
      )
      for (const [i, result] of (await Promise.all(runs)).entries()) {
        const { direction, size } = four[i] ?? {}
        expect(result).toMatchObject({ ok: true, sent: direction === 'down' ? 0 : size, received: direction === 'up' ? 0 : size })
      }
    })
    await fc.assert(property, { numRuns: 50 })
  })
})

describe.each(targets)('to the %s', (target) => {
  test('a server that speaks first is heard before the client says anything', async () => {
    const result = await transfer.connect(target, 'banner', ['--expect-banner', '--send', 'hello'])
    expect(result).toMatchObject({ ok: true, reply: 'hello', end: 'eof' })
    expect(result.banner).toMatch(/^hello /)
  })

  test('a client that has finished sending still gets its answer', async () => {
    const [ended] = await transfer.endsOf(target, 'halfclose', 1, async () => {
      const result = await transfer.connect(target, 'halfclose', ['--send', 'over to you'])
      expect(result).toMatchObject({ ok: true, reply: 'after eof: 11\n', end: 'eof' })
    })
    expect(ended).toMatchObject({ end: 'eof', bytes: 11 })
  })

  test('a download survives that its client finished sending first', async () => {
    const result = await runProbe('bulk', [...transfer.address(target, 'bulk'), 'down', 8 * MiB, '--half-close'], inside(20_000))
    expect(result).toMatchObject({ ok: true, received: 8 * MiB })
  })

  test('a server that sends and closes at once loses no byte, and its end is an end of file', async () => {
    const results = await Promise.all(Array.from({ length: 10 }, () => transfer.connect(target, 'source', ['--read'])))
    for (const result of results) expect(result).toMatchObject({ ok: true, received: sourceBytes, end: 'eof' })
  })

  test('a slow client gets the last byte of a server that left long ago', async () => {
    const size = 12 * MiB
    const result = await runProbe('bulk', [...transfer.address(target, 'bulk'), 'down', size, '--rate', 8 * MiB], inside(20_000))
    expect(result).toMatchObject({ ok: true, received: size })
  })

  test('an end of file is not a reset', async () => {
    const ends = await transfer.endsOf(target, 'hold', 5, () => Promise.all(Array.from({ length: 5 }, () => transfer.connect(target, 'hold', ['--send', 'x']))))
    expect(ends.map((event) => [event.end, event.bytes])).toEqual(Array.from({ length: 5 }, () => ['eof', 1]))
  })

  test('the reset of a server is a reset', async () => {
    for (const manner of ['reset', 'reset-accept'] as const) {
      const flags = manner === 'reset' ? ['--send', 'boom', '--keep-open'] : ['--read']
      expect(await transfer.connect(target, manner, flags), manner).toMatchObject({ ok: false, errno: 'ECONNRESET' })
    }
  })

  test('the reset of a client is a reset', async () => {
    const [ended] = await transfer.endsOf(target, 'hold', 1, () => transfer.connect(target, 'hold', ['--send', 'x', '--keep-open', '--rst', '--timeout', '300']))
    expect(ended).toMatchObject({ end: 'ECONNRESET', bytes: 1 })
  })

  test('nobody listening is a reset', async () => {
    const result = await runProbe('connect', [transfer.world.ip(target), 7999, '--read'], inside(10_000))
    expect(result).toMatchObject({ ok: false, errno: 'ECONNRESET' })
  })
})
