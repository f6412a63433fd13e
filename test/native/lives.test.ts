// The addon in worker threads, at every kind of end, under the collector, and without descriptors: processes of their own,
// so that a crash is a failed test and not the end of all tests.
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { LineProcess } from '../helpers/line-process.ts'
import type { Ended } from '../helpers/line-process.ts'
import { TestNetns } from './test-netns.ts'

let place: TestNetns

beforeAll(async () => {
  place = await TestNetns.make()
})
afterAll(() => place[Symbol.asyncDispose]())

/** Runs a script of lives/ to its end; one that hangs is killed, which its `signal` says. */
async function live(script: string, args: readonly string[], before: readonly string[] = [process.execPath]): Promise<Ended & { last: unknown }> {
  await using child = new LineProcess([...before, fileURLToPath(new URL(`lives/${script}.ts`, import.meta.url)), ...args])
  const timer = setTimeout(() => void child.stop(), 30_000)
  const ended = await child.ended
  clearTimeout(timer)
  return { ...ended, last: child.lines.at(-1) }
}

test('workers use it at the same time, and end in the middle without a trace', async () => {
  const { status, signal, stderr, last } = await live('workers', [place.path])
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' })
  const { before, after } = last as Record<'before' | 'after', unknown>
  expect(after).toEqual(before)
})

test('workers are terminated inside its calls, hundreds of times, without a trace', async () => {
  const { status, signal, stderr, last } = await live('terminated', [place.path, '12'])
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' })
  const { before, after } = last as Record<'before' | 'after', unknown>
  expect(after).toEqual(before)
})

test.each([
  ['exit', 7], ['exit-in-callback', 7], ['throw', 1], ['callback', 1], ['idle', 0],
])('a process that ends by %s ends at once with its own status', async (ending, wanted) => {
  const { status, signal, stderr } = await live('ending', [ending, place.path])
  expect({ status, signal }, stderr).toEqual({ status: wanted, signal: null })
  if (wanted === 1) expect(stderr).toContain('RangeError: on purpose')
  else expect(stderr).toBe('')
})

test('the collector gives back what was dropped, and leaves a reader that is in use', async () => {
  const { status, stderr, last } = await live('collected', [place.path], [process.execPath, '--expose-gc'])
  expect(status, stderr).toBe(0)
  const { before, held, after, events } = last as Record<'before' | 'held' | 'after' | 'events', number>
  expect(held).toBeGreaterThan(before + 150)
  expect(after).toBe(before)
  expect(events).toBe(1)
})

test('with few descriptors left, or none, every call works or says so, and keeps nothing', async () => {
  const { status, signal, stderr, last } = await live('exhausted', [place.path], ['prlimit', '--nofile=160', process.execPath])
  expect({ status, signal }, stderr).toEqual({ status: 0, signal: null })
  // One failure is left when descriptors are there again: the connect, because nobody listens.
  expect(last).toEqual({ unexpected: [], failed: expect.any(Number), failuresAtEnd: 1, grown: 0 })
  expect((last as { failed: number }).failed).toBeGreaterThan(50)
})
