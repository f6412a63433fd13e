// The programs' events through the addon's reader: whole, in order, in batches, and never more than JavaScript takes.
import { afterEach, beforeEach, expect, test } from 'vitest'
import { reason } from '../../src/kernel/generated/layout.ts'
import { watchEvents } from '../../src/kernel/hook-events.ts'
import type { HookEvent } from '../../src/kernel/hook-events.ts'
import { native } from '../../src/kernel/native.ts'
import { descriptorCount } from './descriptors.ts'
import { FencePrograms, testCookie } from './fence-programs.ts'

let fence: FencePrograms

beforeEach(() => {
  fence = new FencePrograms()
})
afterEach(() => fence[Symbol.dispose]())

const lost = (): number => Number(fence.maps.counters.get(reason.eventLost) ?? 0n)

test('events arrive in order and in batches, each as the program wrote it', async () => {
  const batches: HookEvent[][] = []
  const stop = watchEvents(fence.maps.events, (events) => batches.push(events))
  for (let port = 1; port <= 1000; port++) fence.refuse(port)
  await expect.poll(() => batches.flat().length).toBe(1000)
  stop()
  const events = batches.flat()
  expect(events.map(({ destination }) => destination.port)).toEqual(Array.from({ length: 1000 }, (_, i) => i + 1))
  expect(events[0]).toMatchObject({
    kind: 'refused', reason: 'noSocket', netnsCookie: testCookie, source: { ip: '10.1.2.3', port: 40_000 }, destination: { ip: '10.9.9.9', port: 1 },
  })
  expect(events.every((event, i) => event.timeNs >= (events[i - 1]?.timeNs ?? 0n))).toBe(true)
  expect(batches.length).toBeLessThan(1000)
  expect(lost()).toBe(0)
})

test('what the ring cannot hold while JavaScript is busy is counted, and the rest stays whole and in order', async () => {
  const ports: number[] = []
  const stop = watchEvents(fence.maps.events, (events) => ports.push(...events.map(({ destination }) => destination.port)))
  const sent = 12_000
  for (let port = 1; port <= sent; port++) fence.refuse(port) // one long turn: no batch can be delivered meanwhile
  expect(ports).toEqual([])
  await expect.poll(() => ports.length + lost(), { timeout: 10_000 }).toBe(sent)
  stop()
  expect(lost()).toBeGreaterThan(0)
  expect(ports.length).toBeGreaterThan(2000)
  expect(ports.every((port, i) => i === 0 || port > (ports[i - 1] ?? 0))).toBe(true)
})

test('close while events flow ends them at once and gives back every descriptor', async () => {
  const before = descriptorCount()
  for (let round = 0; round < 20; round++) {
    let batches = 0
    await new Promise<void>((resolve) => {
      const stop = watchEvents(fence.maps.events, () => {
        for (let port = 1; port <= 1500; port++) fence.refuse(port) // so that the reader has the next batch, and one more
        if (++batches === 3) {
          stop()
          stop() // again does nothing
          resolve()
        }
      })
      fence.refuse(1)
    })
    await new Promise((resolve) => setTimeout(resolve, 2))
    expect(batches).toBe(3)
  }
  expect(descriptorCount()).toBe(before)
})

test('a second reader gets what the first left', async () => {
  const first: HookEvent[] = []
  const stopFirst = watchEvents(fence.maps.events, (events) => first.push(...events))
  fence.refuse(1)
  await expect.poll(() => first.length).toBe(1)
  stopFirst()
  fence.refuse(2)
  const second: HookEvent[] = []
  const stopSecond = watchEvents(fence.maps.events, (events) => second.push(...events))
  await expect.poll(() => second.map(({ destination }) => destination.port)).toEqual([2])
  stopSecond()
})

test('wrong arguments and what is no ring buffer are refused, and leave nothing behind', () => {
  const Ring = native().RingBuffer as unknown as new (...args: unknown[]) => unknown
  const before = descriptorCount()
  const nothing = (): void => {}
  for (let i = 0; i < 200; i++) {
    expect(() => new Ring(fence.maps.flows.fd, 64, nothing)).toThrow(expect.objectContaining({ code: 'SYSCALL_FAILED' }))
    expect(() => new Ring(fence.program, 64, nothing)).toThrow(expect.objectContaining({ code: 'SYSCALL_FAILED' }))
    for (const args of [[], [fence.maps.events], [fence.maps.events, 0, nothing], [fence.maps.events, 2 ** 32, nothing], [fence.maps.events, 64], [fence.maps.events, 64, {}], [{}, 64, nothing]]) {
      expect(() => new Ring(...args)).toThrow(TypeError)
    }
  }
  expect(descriptorCount()).toBe(before)
})
