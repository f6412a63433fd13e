import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Backoff } from '../core/backoff.ts'
import { Debounce } from './debounce.ts'

beforeEach(() => { vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }) })
afterEach(() => { vi.useRealTimers() })

function acting(): { debounce: Debounce; times: number[] } {
  const start = performance.now()
  const times: number[] = []
  return { debounce: new Debounce(() => times.push(performance.now() - start), 100, 1000), times }
}

describe('changes are gathered', () => {
  test('the first one after a quiet time goes at once, with all that come in the same turn', () => {
    const { debounce, times } = acting()
    for (let i = 0; i < 10; i++) debounce.changed()
    vi.advanceTimersByTime(0)
    vi.advanceTimersByTime(500)
    expect(times).toEqual([0])
    debounce.changed()
    vi.advanceTimersByTime(500)
    expect(times).toEqual([0, 500])
  })

  test('those that follow wait until it is quiet', () => {
    const { debounce, times } = acting()
    debounce.changed()
    vi.advanceTimersByTime(50)
    debounce.changed()
    vi.advanceTimersByTime(90)
    debounce.changed()
    vi.advanceTimersByTime(500)
    expect(times).toEqual([0, 240])
  })

  test('but not for ever', () => {
    const { debounce, times } = acting()
    for (let i = 0; i < 250; i++) {
      debounce.changed()
      vi.advanceTimersByTime(10)
    }
    expect(times.length).toBe(3)
    expect(times[0]).toBe(0)
    expect(times[1]).toBeLessThanOrEqual(1020)
    expect(times[2]).toBeLessThanOrEqual(2040)
  })

  test('and not after close', () => {
    const { debounce, times } = acting()
    debounce.changed()
    debounce.close()
    debounce.changed()
    vi.advanceTimersByTime(5000)
    expect(times).toEqual([])
  })
})

describe('backoff', () => {
  test('its bound doubles up to the maximum, and starts again after a success', () => {
    const backoff = new Backoff({ firstMs: 10, maxMs: 15_000, random: () => 0.999_999 })
    const waits = Array.from({ length: 14 }, () => backoff.next())
    expect(waits.slice(0, 4)).toEqual([10, 20, 40, 80])
    expect(waits.at(-1)).toBe(15_000)
    backoff.succeeded()
    expect(backoff.next()).toBe(10)
  })

  test('any time up to the bound may come, and huge counts do no harm', () => {
    const backoff = new Backoff({ firstMs: 10, maxMs: 15_000 })
    const waits = Array.from({ length: 5000 }, () => backoff.next())
    expect(Math.max(...waits)).toBeLessThanOrEqual(15_000)
    expect(waits.filter((wait) => wait < 7_500).length).toBeGreaterThan(1000)
  })
})
