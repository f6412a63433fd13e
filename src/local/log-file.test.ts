import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { backoff } from './backoff.ts'
import { LogFile } from './log-file.ts'

let directory = ''
beforeEach(() => void (directory = mkdtempSync(join(tmpdir(), 'sidestep-log-'))))
afterEach(() => rmSync(directory, { recursive: true }))

function readAll(log: LogFile, from = 0): string {
  let text = ''
  for (let position = from; ; ) {
    const { data, next } = log.read(position, 7)
    if (data.length === 0) return text
    text += data.toString('latin1')
    position = next
  }
}

test('the newest bytes are kept in order, and never more than two files of the limit', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ minLength: 1, maxLength: 40 }), { maxLength: 30 }), (chunks) => {
      const log = new LogFile(join(directory, 'a.log'), 50)
      for (const chunk of chunks) log.append(Buffer.from(chunk))
      const all = Buffer.concat(chunks).toString('latin1')
      const kept = readAll(log)
      expect(all.endsWith(kept)).toBe(true)
      if (all.length <= 50) expect(kept).toBe(all)
      for (const name of readdirSync(directory)) expect(statSync(join(directory, name)).size).toBeLessThanOrEqual(50)
      log.close(true)
      expect(readdirSync(directory)).toEqual([])
    }),
    { numRuns: 50 },
  )
})

test('tail finds the last lines', () => {
  const log = new LogFile(join(directory, 'a.log'))
  log.append(Buffer.from('one\ntwo\nthree\n'))
  expect(readAll(log, log.tail(1))).toBe('three\n')
  expect(readAll(log, log.tail(2))).toBe('two\nthree\n')
  expect(readAll(log, log.tail(9))).toBe('one\ntwo\nthree\n')
  expect(readAll(log, log.tail(0))).toBe('')
  log.close(true)
})

test('a follower wakes for new bytes and for the end', async () => {
  const log = new LogFile(join(directory, 'a.log'))
  const more = log.waitForMore(0)
  log.append(Buffer.from('x'))
  await more
  const end = log.waitForMore(1)
  log.close(false)
  await end
  expect(log.isClosed).toBe(true)
})

test('waiting doubles up to a bound and starts again after a healthy run', () => {
  const wait = backoff(500, 3000, 10_000)
  expect([0, 1, 2, 3, 4, 10_000, 0].map((ran) => wait.next(ran))).toEqual([500, 1000, 2000, 3000, 3000, 500, 1000])
})
