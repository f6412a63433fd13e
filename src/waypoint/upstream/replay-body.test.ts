// Bodies that are sent again: whatever the chunks, the reads and the moment at which a try ends, the next one gets every byte
// once.
import { Readable } from 'node:stream'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { largestReplayBytes } from '../../policy/l7/retry-decision.ts'
import { ReplayBody, ReplayRoom } from './replay-body.ts'

/** Reads up to so many bytes and then goes away; undefined if it came to the end. */
async function readSome(body: Readable, most: number): Promise<Buffer | undefined> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of body) {
    chunks.push(chunk as Buffer)
    size += (chunk as Buffer).length
    if (size >= most) return undefined
  }
  return Buffer.concat(chunks)
}

it('gives each try the whole body', async () => {
  await fc.assert(fc.asyncProperty(
    fc.array(fc.integer({ min: 1, max: 9_000 }), { maxLength: 7 }), fc.array(fc.integer({ min: 1, max: 40_000 }), { maxLength: 3 }), fc.boolean(),
    async (sizes, stops, isSlow) => {
      const whole = sizes.map((size, i) => Buffer.alloc(size, 97 + (i % 26)))
      const source = Readable.from((async function* () {
        for (const chunk of whole) {
          if (isSlow) await new Promise((resolve) => setImmediate(resolve))
          yield chunk
        }
      })())
      const room = new ReplayRoom(1_000_000)
      const replay = new ReplayBody(source, room)
      const expected = Buffer.concat(whole)
      let last: Buffer | undefined
      for (const stop of stops) {
        last = await readSome(replay.open(), stop)
        expect(replay.isReplayable).toBe(true)
        if (last) expect(last.equals(expected)).toBe(true)
      }
      expect((await readSome(replay.open(), Number.POSITIVE_INFINITY))?.equals(expected)).toBe(true)
      replay.discard()
      expect(room.used).toBe(0)
    },
  ), { numRuns: 60 })
})

it('reads nothing that nobody asked for, and keeps no more than the limit', async () => {
  let made = 0
  const source = new Readable({
    highWaterMark: 1,
    read() {
      made += 10_000
      this.push(Buffer.alloc(10_000))
    },
  })
  const room = new ReplayRoom(10_000_000)
  const replay = new ReplayBody(source, room)
  const first = replay.open()
  await new Promise((resolve) => setImmediate(resolve))
  expect(made).toBe(0)
  let read = 0
  for await (const chunk of first) {
    read += (chunk as Buffer).length
    expect(room.used).toBeLessThanOrEqual(largestReplayBytes)
    if (read > 500_000) break
  }
  expect(replay.isReplayable).toBe(false)
  expect(room.used).toBe(0)
  expect(made).toBeLessThan(read + 200_000)
  replay.discard()
  expect(source.destroyed).toBe(true)
})

it('fails every try where the client has failed', async () => {
  const source = new Readable({ read() {} })
  const replay = new ReplayBody(source, new ReplayRoom(1_000))
  const body = replay.open()
  body.resume()
  source.push('x')
  source.destroy(new Error('gone'))
  await expect(readSome(body, Number.POSITIVE_INFINITY)).rejects.toThrow('gone')
  expect(replay.isReplayable).toBe(false)
  expect(replay.cut).toMatchObject({ message: 'gone' })
  await expect(readSome(replay.open(), Number.POSITIVE_INFINITY)).rejects.toThrow('gone')
})

it('shares the room with all others', () => {
  const room = new ReplayRoom(10)
  expect([room.take(6), room.take(6), room.take(4)]).toEqual([true, false, true])
  room.giveBack(10)
  expect(room.used).toBe(0)
})
