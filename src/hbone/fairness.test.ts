// The two limits that take turns: handshakes that wait at the client, handshakes in hand at the server; and the flood counters.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Clock } from '../core/clock.ts'
import { FairGate } from './fair-gate.ts'
import { FloodGuard } from './flood-guard.ts'
import { HandshakeSlots } from './handshake-slots.ts'

class ManualClock implements Clock {
  timeMs = 0
  nowMs = (): number => this.timeMs
  monotonicMs = (): number => this.timeMs
  after = (): (() => void) => () => {}
}

test('the gate lets each key in turn', async () => {
  const gate = new FairGate(1, 100)
  expect(await gate.enter('first')).toBe(true)
  const order: string[] = []
  for (const key of ['a', 'a', 'a', 'b', 'c']) void gate.enter(key).then(() => order.push(key))
  for (let i = 0; i < 5; i++) {
    gate.leave()
    await Promise.resolve()
  }
  expect(order).toEqual(['a', 'b', 'c', 'a', 'a'])
  gate.leave()
  expect(gate).toMatchObject({ running: 0, waiting: 0 })
})

test('a full gate sends away the newest of the longest queue', async () => {
  const gate = new FairGate(1, 3)
  await gate.enter('x')
  const outcomes: string[] = []
  for (const key of ['greedy', 'greedy', 'greedy', 'greedy', 'modest']) void gate.enter(key).then((isIn) => outcomes.push(`${key}:${isIn}`))
  await new Promise((resolve) => setImmediate(resolve))
  expect(outcomes.sort()).toEqual(['greedy:false', 'greedy:false'])
  expect(gate.waiting).toBe(3)
})

test('the gate keeps its limits and loses nobody', async () => {
  await fc.assert(fc.asyncProperty(fc.array(fc.oneof(fc.constantFrom('a', 'b', 'c'), fc.constant(undefined)), { maxLength: 60 }), async (steps) => {
    const gate = new FairGate(2, 4)
    let [asked, answered, inside] = [0, 0, 0]
    for (const key of steps) {
      if (key !== undefined) {
        asked++
        void gate.enter(key).then((isIn) => {
          answered++
          if (isIn) inside++
        })
      } else if (inside > 0) {
        inside--
        gate.leave()
      }
      await Promise.resolve()
      expect(inside).toBeLessThanOrEqual(2)
      expect(gate.waiting).toBeLessThanOrEqual(4)
    }
    await Promise.resolve()
    expect(answered + gate.waiting).toBe(asked)
  }))
})

test('full slots: late ones go first, then the youngest of the greediest, never the only one of somebody', () => {
  const clock = new ManualClock()
  const slots = new HandshakeSlots(3, clock)
  const shed: string[] = []
  const take = (name: string, key: string) => slots.take(key, () => shed.push(name))
  take('a1', 'a')
  clock.timeMs = 100
  take('a2', 'a')
  take('a3', 'a')
  expect(take('a4', 'a')).toBeUndefined()
  expect(take('b1', 'b')).toBeDefined()
  expect(shed).toEqual(['a3'])
  clock.timeMs = 550
  expect(take('a5', 'a')).toBeDefined()
  expect(shed).toEqual(['a3', 'a1'])
  expect(slots.inFlight).toBe(3)
})

test('a slot is released once, whoever does it', () => {
  const clock = new ManualClock()
  const slots = new HandshakeSlots(1, clock)
  const first = slots.take('a', () => {})
  clock.timeMs = 1_000
  const second = slots.take('b', () => {})
  first?.release()
  expect(slots.inFlight).toBe(1)
  second?.release()
  second?.release()
  expect(slots.inFlight).toBe(0)
})

test('flood counters allow a burst, then a rate', () => {
  const clock = new ManualClock()
  const guard = new FloodGuard(clock)
  const allowed = (count: number): number => Array.from({ length: count }, () => guard.allows('settingsFlood')).filter(Boolean).length
  expect(allowed(40)).toBe(32)
  clock.timeMs = 60_000
  expect(allowed(40)).toBe(32)
  expect(guard.allows('pingFlood')).toBe(true)
})
