import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ConnectionLimit, doorLimit, handshakeLimit, limitFromOpenFiles } from './connection-limit.ts'
import type { ConnectionShare } from './connection-limit.ts'

function takeAll(share: ConnectionShare): number {
  let taken = 0
  while (share.acquire()) taken++
  return taken
}

describe('a limit', () => {
  test('lets one pod have most of it, and leaves some for the others', () => {
    const limit = new ConnectionLimit(900)
    expect(takeAll(limit.share())).toBe(800)
    expect(limit.open).toBe(800)
    const neighbour = limit.share()
    expect(takeAll(neighbour)).toBeGreaterThan(80)
    expect(limit.share().acquire()).toBe(true)
  })

  test('is fair to pods that want all', () => {
    const limit = new ConnectionLimit(850)
    const shares = [limit.share(), limit.share()]
    const taken = [0, 0]
    for (let isStuck = false; !isStuck;) {
      isStuck = true
      shares.forEach((share, i) => {
        if (!share.acquire()) return
        taken[i] = (taken[i] ?? 0) + 1
        isStuck = false
      })
    }
    expect(taken).toEqual([400, 400])
  })

  test('is never passed, and everything comes back', () => {
    const step = fc.record({ pod: fc.nat(4), isAcquire: fc.boolean(), times: fc.integer({ min: 1, max: 40 }) })
    fc.assert(fc.property(fc.integer({ min: 1, max: 100 }), fc.array(step, { maxLength: 60 }), (size, steps) => {
      const limit = new ConnectionLimit(size)
      const pods = Array.from({ length: 5 }, () => ({ share: limit.share(), held: 0 }))
      for (const { pod, isAcquire, times } of steps) {
        const [one] = pods.slice(pod)
        if (!one) continue
        for (let i = 0; i < times; i++) {
          if (isAcquire && one.share.acquire()) one.held++
          else if (!isAcquire && one.held > 0) {
            one.share.release()
            one.held--
          }
        }
        expect(limit.open).toBe(pods.reduce((sum, { held }) => sum + held, 0))
        expect(limit.open).toBeLessThanOrEqual(size)
      }
      // Whoever holds nothing gets in as long as anything is free.
      const isAnyFree = limit.open < size
      expect(limit.share().acquire()).toBe(isAnyFree)
    }))
  })
})

test('the limit of a process follows from its open files', () => {
  expect(limitFromOpenFiles('Max open files            20000                20000                files')).toBe(9_488)
  expect(limitFromOpenFiles('Max open files            1024                 4096                 files')).toBe(256)
  expect(limitFromOpenFiles('')).toBe(256)
  expect(limitFromOpenFiles('Max open files            20                   20                   files')).toBe(16)
})

test('doors have a part of what is reserved, and a single one of them a part of that', () => {
  expect([16, 175, 261_632].map(doorLimit)).toEqual([16, 43, 65_408])
  expect([16, 43, 65_408].map(handshakeLimit)).toEqual([8, 10, 256])
})
