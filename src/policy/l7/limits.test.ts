import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { limitKey } from './limit-key.ts'
import { decisiveState } from './limit-store.ts'
import { gcra, LocalLimiter, quotaWindow, type LimitState, type QuotaPeriod, type QuotaRule,
  type RateRule } from './rate-limit.ts'
import { quotaExceededProblem, rateLimitHeaders } from './rate-limit-headers.ts'

const rate = (limit: number, windowMs = 1000, burst?: number): RateRule =>
  ({ kind: 'rate', name: 'r', limit, windowMs, ...(burst === undefined ? {} : { burst }) })
const quota = (limit: number, period: QuotaPeriod): QuotaRule => ({ kind: 'quota', name: 'q', limit, period })
const t0 = Date.UTC(2026, 10, 21, 12, 0, 0)

describe('rate', () => {
  test('a burst, then one per step', () => {
    const limiter = new LocalLimiter({ maxKeys: 10 })
    const take = (now: number): boolean => limiter.take([{ rule: rate(10, 1000, 3), key: 'a' }], now)[0]?.isAllowed === true
    expect([1, 2, 3, 4].map(() => take(t0))).toEqual([true, true, true, false])
    expect([99, 100, 150, 200].map((ms) => take(t0 + ms))).toEqual([false, true, false, true])
    expect([1, 2, 3, 4].map(() => take(t0 + 10_000))).toEqual([true, true, true, false])
  })

  test('the whole burst at one moment, whatever fractions a step has', () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1_000, max: 86_400_000 }), fc.nat(86_400_000), (limit, windowMs, after) => {
      const rule = rate(limit, windowMs)
      const limiter = new LocalLimiter({ maxKeys: 4 })
      const take = (): LimitState | undefined => limiter.take([{ rule, key: 'k' }], t0 + after)[0]
      expect(Array.from({ length: limit }, take).map((state) => [state?.isAllowed, state?.remaining]))
        .toEqual(Array.from({ length: limit }, (_, i) => [true, limit - 1 - i]))
      expect(take()?.isAllowed).toBe(false)
    }))
  })

  test('what it says about the rest is true', () => {
    const state = gcra(rate(10, 1000, 3), 0, t0, 1)
    expect(state).toMatchObject({ isAllowed: true, remaining: 2, resetMs: 100, retryAfterMs: 0 })
    expect(gcra(rate(10, 1000, 3), t0 + 300, t0, 1)).toMatchObject({ isAllowed: false, remaining: 0, retryAfterMs: 100 })
    expect(gcra(rate(0), 0, t0, 1)).toMatchObject({ isAllowed: false, retryAfterMs: Infinity })
    expect(gcra(rate(5), 0, t0, 6)).toMatchObject({ isAllowed: false, retryAfterMs: Infinity })
  })

  test('never more than burst and rate over any span, and a refused one is allowed after the wait that was told', () => {
    const steps = fc.array(fc.nat(400), { minLength: 1, maxLength: 150 })
    fc.assert(fc.property(steps, fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 20 }), (afters, limit, burst) => {
      const rule = rate(limit, 1000, burst)
      const limiter = new LocalLimiter({ maxKeys: 4 })
      const allowed: number[] = []
      let now = t0
      for (const after of afters) {
        now += after
        const [state] = limiter.take([{ rule, key: 'k' }], now)
        if (state?.isAllowed) {
          allowed.push(now)
          for (const start of allowed) expect(allowed.filter((t) =>
            t >= start).length).toBeLessThanOrEqual(burst + ((now - start) * limit) / 1000 + 1e-6)
        } else if (state) {
          expect(state.retryAfterMs).toBeGreaterThan(0)
          now += state.retryAfterMs
          expect(limiter.take([{ rule, key: 'k' }], now)[0]?.isAllowed).toBe(true)
          allowed.push(now)
        }
      }
    }), { numRuns: 60 })
  })

  test('a clock that goes back locks nobody out', () => {
    const limiter = new LocalLimiter({ maxKeys: 4 })
    for (let i = 0; i < 5; i++) limiter.take([{ rule: rate(5), key: 'k' }], t0)
    const [state] = limiter.take([{ rule: rate(5), key: 'k' }], t0 - 3_600_000)
    expect(state?.retryAfterMs).toBeLessThanOrEqual(1000)
  })
})

describe('quota', () => {
  test('windows of the calendar', () => {
    expect(quotaWindow('day', t0)).toEqual({ startMs: Date.UTC(2026, 10, 21), endMs: Date.UTC(2026, 10, 22) })
    expect(quotaWindow('week', t0)).toEqual({ startMs: Date.UTC(2026, 10, 16), endMs: Date.UTC(2026, 10, 23) })
    expect(quotaWindow('month', Date.UTC(2026, 11, 31))).toEqual({ startMs: Date.UTC(2026, 11, 1), endMs: Date.UTC(2027, 0, 1) })
    fc.assert(fc.property(fc.constantFrom<QuotaPeriod>('second', 'minute', 'hour', 'day', 'week', 'month'), fc.nat(4e12),
      (period, now) => {
      const { startMs, endMs } = quotaWindow(period, now)
      expect(startMs <= now && now < endMs).toBe(true)
      expect(quotaWindow(period, endMs).startMs).toBe(endMs)
    }))
  })

  test('counts to the limit and begins anew', () => {
    const limiter = new LocalLimiter({ maxKeys: 4 })
    const take = (now: number): LimitState | undefined => limiter.take([{ rule: quota(2, 'hour'), key: 'k' }], now)[0]
    expect([take(t0), take(t0), take(t0 + 1000)].map((s) => s?.isAllowed)).toEqual([true, true, false])
    expect(take(t0 + 1000)).toMatchObject({ remaining: 0, retryAfterMs: 3_599_000, resetMs: 3_599_000 })
    expect(take(t0 + 3_600_000)).toMatchObject({ isAllowed: true, remaining: 1 })
  })
})

test('several rules: all or nothing', () => {
  const limiter = new LocalLimiter({ maxKeys: 10 })
  const uses = [{ rule: rate(100), key: 'a' }, { rule: quota(1, 'day'), key: 'a' }]
  expect(limiter.take(uses, t0).map((s) => s.isAllowed)).toEqual([true, true])
  for (let i = 0; i < 5; i++) expect(limiter.take(uses, t0).map((s) => [s.isAllowed, s.remaining])).toEqual([[true, 99],
    [false, 0]])
  expect(decisiveState(limiter.take(uses, t0))?.rule.name).toBe('q')
  expect(decisiveState([])).toBeUndefined()
})

test('keys are bounded, and the longest unused goes first', () => {
  const limiter = new LocalLimiter({ maxKeys: 3 })
  const take = (key: string): boolean => limiter.take([{ rule: rate(1, 60_000), key }], t0)[0]?.isAllowed === true
  for (const key of ['a', 'b', 'c']) take(key)
  expect(take('a')).toBe(false)
  take('d')
  expect(limiter.size).toBe(3)
  expect(limiter.forgotten).toBe(1)
  for (let i = 0; i < 1000; i++) take(`flood ${i}`)
  expect(limiter.size).toBe(3)
})

test('keys never collide and never grow', () => {
  const parts = fc.array(fc.option(fc.string(), { nil: undefined }), { maxLength: 4 })
  fc.assert(fc.property(parts, parts, (a, b) => {
    expect(limitKey(a) === limitKey(b)).toBe(JSON.stringify(a.map((p) => p ?? null)) === JSON.stringify(b.map((p) => p ?? null)))
  }))
  expect(limitKey(['x'.repeat(1e6)]).length).toBeLessThan(100)
})

describe('headers', () => {
  test('as in the draft', () => {
    const allowed: LimitState = { rule: { ...rate(100, 60_000), name: 'default' }, isAllowed: true, remaining: 50,
      resetMs: 29_100, retryAfterMs: 0 }
    expect(rateLimitHeaders([allowed], t0)).toEqual([['ratelimit-policy', '"default";q=100;w=60'],
      ['ratelimit', '"default";r=50;t=30']])
    const refused: LimitState = { rule: { ...quota(1000, 'day'), name: 'da"i\\ly\n' }, isAllowed: false, remaining: 0,
      resetMs: 5_000, retryAfterMs: 5_000 }
    expect(rateLimitHeaders([allowed, refused], t0)).toEqual([
      ['ratelimit-policy', '"default";q=100;w=60, "da\\"i\\\\ly_";q=1000;w=86400'],
      ['ratelimit', '"default";r=50;t=30, "da\\"i\\\\ly_";r=0;t=5'], ['retry-after', '5'],
    ])
    expect(JSON.parse(quotaExceededProblem([allowed, refused]))).toMatchObject({ 'violated-policies': ['da"i\\ly\n'] })
    expect(rateLimitHeaders([], t0)).toEqual([])
  })

  test('values are always sane', () => {
    const number = fc.oneof(fc.double(), fc.integer(), fc.constantFrom(Infinity, 0, -1))
    fc.assert(fc.property(fc.string(), number, number, number, fc.boolean(), (name, limit, remaining, ms, isAllowed) => {
      for (const [, value] of rateLimitHeaders([{ rule: { ...rate(limit), name }, isAllowed, remaining, resetMs: ms,
        retryAfterMs: ms }], t0)) {
        expect(value).toMatch(/^[\x20-\x7e]+$/)
        expect(value.slice(value.lastIndexOf('"') + 1)).toMatch(/^(?:;q=\d{1,15};w=\d{1,8}|;r=\d{1,15};t=\d{1,8}|\d{1,8})$/)
      }
    }))
  })
})
