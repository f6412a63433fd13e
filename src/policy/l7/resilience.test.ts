import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Retry } from '../../model/route.ts'
import { afterProbe, isUsable, nextProbeMs, unknownHealth, type ActiveCheckRule, type CheckState } from './active-check.ts'
import { backoffMs } from './backoff.ts'
import { CircuitBreaker } from './circuit-breaker.ts'
import { FailFastQueue } from './fail-fast-queue.ts'
import { OutlierDetector, outcomeOfStatus, type EjectionRule, type Outcome } from './outlier.ts'
import { RetryBudget } from './retry-budget.ts'
import { decideRetry, parseRetryAfter, type AttemptOutcome, type RetryQuestion } from './retry-decision.ts'

test('back-off doubles, is jittered and bounded', () => {
  const rule = { baseMs: 25, maxMs: 250 }
  expect([1, 2, 3, 4, 5, 99].map((n) => backoffMs(rule, n, 0.999))).toEqual([24, 49, 99, 199, 249, 249])
  expect(backoffMs(rule, 3, 0)).toBe(0)
})

describe('retry budget', () => {
  test('a share of the requests and a floor, and both are forgotten', () => {
    const budget = new RetryBudget({ percent: 20, minPerSecond: 0 })
    for (let i = 0; i < 100; i++) budget.request(i)
    let taken = 0
    while (budget.tryRetry(200)) taken++
    expect(taken).toBe(20)
    expect(budget.left(9_000)).toBe(0)
    expect(budget.tryRetry(20_000)).toBe(false)
    const quiet = new RetryBudget({ percent: 0, minPerSecond: 1 })
    expect([1, 2, 3, 4, 5, 6, 7, 8, 9, 10,
      11].map(() => quiet.tryRetry(5))).toEqual([...Array.from({ length: 10 }, () => true), false])
    expect(quiet.tryRetry(10_005)).toBe(true)
  })

  test('never gives more than ratio and floor over any window', () => {
    const step = fc.record({ after: fc.integer({ min: 0, max: 3_000 }), isRetry: fc.boolean() })
    fc.assert(fc.property(fc.array(step, { maxLength: 300 }), fc.nat(100), fc.nat(3), (steps, percent, minPerSecond) => {
      const budget = new RetryBudget({ percent, minPerSecond })
      let now = 0
      const requests: number[] = []
      const retries: number[] = []
      for (const { after, isRetry } of steps) {
        now += after
        if (!isRetry) {
          budget.request(now)
          requests.push(now)
        } else if (budget.tryRetry(now)) retries.push(now)
        // Slots make the window a little shorter or longer than ten seconds.
        const lately = (times: number[], ms: number): number => times.filter((t) => t > now - ms).length
        expect(lately(retries, 9_000)).toBeLessThanOrEqual((lately(requests, 20_000) * percent) / 100 + minPerSecond * 10)
      }
    }), { numRuns: 150 })
  })
})

describe('retry decision', () => {
  const rule: Retry = { attempts: 2, backoffMs: 100, statuses: [409],
    on: ['connectFailure', 'refusedStream', 'gatewayError', 'retriableGrpc'] }
  const base: RetryQuestion = { outcome: { t: 'response', status: 503 }, method: 'GET', isGrpc: false, hasIdempotencyKey: false,
    isBodyReplayable: true,
    isAnswerStarted: false, attempts: 1 }
  const ask = (parts: Partial<RetryQuestion>, r: Retry | undefined = rule, yes = true): string => {
    const decision = decideRetry(r, { ...base, ...parts }, { random: () => 0.5, budget: () => yes })
    return decision.t === 'retry' ? `retry ${decision.waitMs}` : decision.because
  }

  test('what is safe', () => {
    expect(ask({})).toBe('retry 50')
    expect(ask({ attempts: 2 })).toBe('retry 100')
    expect(ask({ attempts: 3 })).toBe('attemptsUsed')
    expect(ask({ method: 'POST' })).toBe('notIdempotent')
    expect(ask({ method: 'POST', hasIdempotencyKey: true })).toBe('retry 50')
    expect(ask({ method: 'POST', outcome: { t: 'connectFailure' } })).toBe('retry 50')
    expect(ask({ method: 'POST', outcome: { t: 'refusedStream' } })).toBe('retry 50')
    expect(ask({ method: 'POST', outcome: { t: 'reset' } })).toBe('notIdempotent')
    expect(ask({ method: 'POST', outcome: { t: 'perTryTimeout' } })).toBe('notIdempotent')
    expect(ask({ outcome: { t: 'response', status: 409 } })).toBe('retry 50')
    expect(ask({ outcome: { t: 'response', status: 500 } })).toBe('notAsked')
    expect(ask({ outcome: { t: 'response', status: 200 } })).toBe('succeeded')
    expect(ask({ isBodyReplayable: false })).toBe('bodyGone')
    expect(ask({ isAnswerStarted: true })).toBe('answerStarted')
    expect(decideRetry(undefined, base, { random: () => 0 })).toEqual({ t: 'stop', because: 'notAsked' })
    expect(ask({}, rule, false)).toBe('budget')
    expect(ask({ leftMs: 50 })).toBe('deadline')
  })

  test('what servers say', () => {
    const said = (parts: Partial<Extract<AttemptOutcome, { t: 'response' }>>): Partial<RetryQuestion> =>
      ({ outcome: { t: 'response', status: 503, ...parts } })
    expect(ask(said({ retryAfterMs: 2_000 }))).toBe('retry 2000')
    expect(ask(said({ retryAfterMs: 60_000 }))).toBe('serverSaysNo')
    const grpc = (grpcStatus: number, pushback?: number | 'stop'): Partial<RetryQuestion> =>
      ({ isGrpc: true, method: 'POST',
        outcome: { t: 'response', status: 200, grpcStatus, ...(pushback === undefined ? {} : { pushback }) } })
    expect(ask(grpc(14))).toBe('retry 50')
    expect(ask(grpc(14, 'stop'))).toBe('serverSaysNo')
    expect(ask(grpc(14, 7))).toBe('retry 7')
    expect(ask(grpc(3))).toBe('notAsked')
    expect(ask(grpc(0))).toBe('succeeded')
    expect(['5', '0', 'Sun, 06 Nov 2094 08:49:37 GMT', '-1', 'soon', '', '1e9',
      undefined].map((v) => parseRetryAfter(v, Date.parse('2094-11-06T08:49:30Z'))))
      .toEqual([5000, 0, 7000, undefined, undefined, undefined, undefined, undefined])
    fc.assert(fc.property(fc.string(), (text) => {
      const ms = parseRetryAfter(text, 0)
      expect(ms === undefined || ms >= 0).toBe(true)
    }))
  })

  test('a request that may have been acted upon and is not idempotent is never sent twice', () => {
    const outcome: fc.Arbitrary<AttemptOutcome> = fc.oneof(fc.constantFrom<AttemptOutcome>({ t: 'reset' },
      { t: 'perTryTimeout' }),
      fc.record({ t: fc.constant('response' as const), status: fc.integer({ min: 100, max: 599 }) }))
    const anyRule = fc.record({ attempts: fc.nat(5), backoffMs: fc.nat(100),
      statuses: fc.array(fc.integer({ min: 400, max: 599 })),
      on: fc.subarray<Retry['on'][number]>(['connectFailure', 'refusedStream', 'reset', 'gatewayError', '5xx',
        'retriableGrpc']) })
    fc.assert(fc.property(outcome, anyRule, fc.constantFrom('POST', 'PATCH', 'CONNECT', 'get', 'X'), (o, r, method) => {
      expect(decideRetry(r, { ...base, outcome: o, method }, { random: () => 0 }).t).toBe('stop')
    }))
  })
})

describe('circuit breaker', () => {
  const limits = { connections: 2, pending: 1, requests: 8, retries: 1 }
  test('limits, and what is given back can be taken again', () => {
    const breaker = new CircuitBreaker(limits)
    expect([1, 2, 3].map(() => breaker.tryTake('connections').t)).toEqual(['taken', 'taken', 'refused'])
    breaker.release('connections')
    expect(breaker.tryTake('connections').t).toBe('taken')
    expect([1, 2].map(() => breaker.tryTake('retries'))).toEqual([{ t: 'taken' }, { t: 'refused', because: 'retries' }])
  })

  test('one greedy caller does not keep another out', () => {
    const breaker = new CircuitBreaker(limits)
    const greedy = Array.from({ length: 20 }, () => breaker.tryRequest('greedy').t)
    expect(greedy.filter((t) => t === 'taken').length).toBe(8)
    breaker.releaseRequest('greedy')
    expect(breaker.tryRequest('modest')).toEqual({ t: 'taken' })
    breaker.releaseRequest('greedy')
    expect(breaker.tryRequest('greedy')).toEqual({ t: 'refused', because: 'callerShare' })
    expect(breaker.tryRequest('modest')).toEqual({ t: 'taken' })
  })

  test('counts stay true, callers below their share are refused only when all is taken', () => {
    const step = fc.record({ caller: fc.constantFrom('a', 'b', 'c'), isRelease: fc.boolean() })
    fc.assert(fc.property(fc.array(step, { maxLength: 200 }), fc.integer({ min: 1, max: 12 }), (steps, requests) => {
      const breaker = new CircuitBreaker({ ...limits, requests })
      const held = new Map<string, number>()
      for (const { caller, isRelease } of steps) {
        const own = held.get(caller) ?? 0
        if (isRelease) {
          breaker.releaseRequest(caller)
          held.set(caller, Math.max(0, own - 1))
        } else {
          const share = breaker.fairShare(caller)
          const answer = breaker.tryRequest(caller)
          if (answer.t === 'taken') held.set(caller, own + 1)
          else if (own < share) expect(answer.because).toBe('requests')
        }
        const total = [...held.values()].reduce((a, b) => a + b, 0)
        expect(breaker.used('requests')).toBe(total)
        expect(total).toBeLessThanOrEqual(requests)
        expect(breaker.callers).toBe([...held.values()].filter((n) => n > 0).length)
      }
    }))
  })
})

describe('fail-fast queue', () => {
  const rule = { capacity: 3, failFastAfterMs: 1000 }
  test('queues, fills, turns to fail-fast, and recovers', () => {
    const queue = new FailFastQueue<number>(rule)
    expect([1, 2, 3, 4].map((n) => queue.offer(n, 0))).toEqual(['queued', 'queued', 'queued', 'full'])
    expect(queue.nextMs).toBe(1000)
    expect(queue.expire(999)).toEqual([])
    expect(queue.expire(1000)).toEqual([1, 2, 3])
    expect(queue.offer(5, 1001)).toBe('failFast')
    expect(queue.nextMs).toBeUndefined()
    queue.available(2000)
    expect(queue.offer(6, 2000)).toBe('queued')
    expect(queue.take(2001)).toBe(6)
    expect(queue.state).toEqual({ t: 'open' })
  })

  test('progress puts fail-fast off, but nothing waits longer than the time', () => {
    const queue = new FailFastQueue<number>(rule)
    queue.offer(1, 0)
    queue.offer(2, 0)
    expect(queue.take(900)).toBe(1)
    expect(queue.expire(1000)).toEqual([2])
    expect(queue.offer(3, 1000)).toBe('queued')
    expect(queue.remove(3)).toBe(true)
    expect(queue.state).toEqual({ t: 'open' })
  })

  test('in order, bounded, nothing lost and nothing twice', () => {
    const step = fc.record({ op: fc.constantFrom('offer', 'take', 'expire', 'available'), after: fc.nat(600) })
    fc.assert(fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const queue = new FailFastQueue<number>(rule)
      let now = 0
      let next = 0
      const waiting: { n: number; at: number }[] = []
      for (const { op, after } of steps) {
        now += after
        if (op === 'offer') {
          const n = next++
          if (queue.offer(n, now) === 'queued') waiting.push({ n, at: now })
        } else if (op === 'take') expect(queue.take(now)).toBe(waiting.shift()?.n)
        else if (op === 'available') queue.available(now)
        else {
          const gone = queue.expire(now)
          expect(waiting.splice(0, gone.length).map(({ n }) => n)).toEqual(gone)
          expect(waiting.every(({ at }) => now - at < rule.failFastAfterMs)).toBe(true)
        }
        expect(queue.size).toBe(waiting.length)
        expect(queue.size).toBeLessThanOrEqual(rule.capacity)
      }
    }))
  })
})

describe('active check', () => {
  const rule: ActiveCheckRule = { healthyAfter: 2, unhealthyAfter: 3, intervalMs: 1000, expectedStatuses: [] }
  const after = (probes: string, state: CheckState = unknownHealth): string =>
    [...probes].reduce((s, p) => afterProbe(s, p === '+', rule), state).t
  test('thresholds', () => {
    expect(['', '+', '-', '+--', '+--+--', '+---', '-+', '-++', '-+-+', '----++'].map((p) => after(p)))
      .toEqual(['unknown', 'healthy', 'unhealthy', 'healthy', 'healthy', 'unhealthy', 'unhealthy', 'healthy', 'unhealthy',
        'healthy'])
    expect(isUsable(unknownHealth)).toBe(true)
    expect([0, 0.5].map((r) => nextProbeMs(rule, r))).toEqual([900, 1000])
  })
  test('changes only after that many in a row', () => {
    fc.assert(fc.property(fc.array(fc.boolean(), { minLength: 1, maxLength: 60 }), (probes) => {
      let isHealthy = probes[0] === true
      let row = 0
      let state: CheckState = unknownHealth
      for (const [i, isGood] of probes.entries()) {
        state = afterProbe(state, isGood, rule)
        row = i === 0 || isGood === isHealthy ? 0 : row + 1
        if (row >= (isHealthy ? rule.unhealthyAfter : rule.healthyAfter)) [isHealthy, row] = [!isHealthy, 0]
        expect(isUsable(state)).toBe(isHealthy)
      }
    }))
  })
})

describe('outlier ejection', () => {
  const rule: EjectionRule = { consecutiveErrors: 5, consecutiveGatewayErrors: 3, intervalMs: 10_000, baseMs: 30_000,
    maxPercent: 50, minHealthPercent: 0 }
  const names = ['a', 'b', 'c', 'd']
  const make = (parts: Partial<EjectionRule> = {}, endpoints = names): OutlierDetector => {
    const detector = new OutlierDetector({ ...rule, ...parts }, 0)
    detector.setEndpoints(endpoints)
    return detector
  }
  const fail = (detector: OutlierDetector, endpoint: string, outcome: Outcome, times: number, now = 0): unknown[] =>
    Array.from({ length: times }, () => detector.report(endpoint, outcome, now)?.because).filter((b) => b !== undefined)

  test('consecutive errors; a success starts anew', () => {
    const detector = make()
    expect(fail(detector, 'a', 'error', 4)).toEqual([])
    detector.report('a', 'success', 0)
    expect(fail(detector, 'a', 'error', 5)).toEqual(['consecutiveErrors'])
    expect(fail(detector, 'b', 'gatewayError', 3)).toEqual(['consecutiveGatewayErrors'])
    expect(['a', 'b', 'c'].map((e) => detector.isEjected(e, 29_999))).toEqual([true, true, false])
    expect(detector.isEjected('a', 30_000)).toBe(false)
    expect([500, 502, 503, 504, 505, 404].map(outcomeOfStatus)).toEqual(['error', 'gatewayError', 'gatewayError', 'gatewayError',
      'error', 'success'])
  })

  test('each ejection lasts longer, good times shorten the next', () => {
    const detector = make()
    const once = (now: number): number => {
      for (let i = 0; i < 5; i++) {
        const ejection = detector.report('a', 'error', now)
        if (ejection) return ejection.untilMs - now
      }
      return 0
    }
    expect(once(0)).toBe(30_000)
    detector.sweep(30_000)
    expect(once(30_001)).toBe(60_000)
    detector.sweep(90_001)
    for (let now = 100_000; now < 200_000; now += 10_000) detector.sweep(now)
    expect(once(200_000)).toBe(30_000)
  })

  test('never more than the share, never the only one, and panic when few are left', () => {
    const detector = make({ minHealthPercent: 60 })
    for (const name of names) fail(detector, name, 'error', 20)
    expect(names.filter((e) => detector.isEjected(e, 1))).toHaveLength(2)
    expect(detector.isPanic).toBe(true)
    expect(fail(make({ maxPercent: 100 }, ['only']), 'only', 'error', 50)).toEqual([])
    expect(fail(make({ maxPercent: 0 }), 'a', 'error', 50)).toEqual([])
    expect(fail(make(), 'unknown', 'error', 50)).toEqual([])
  })

  test('success rate far below the others', () => {
    const endpoints = Array.from({ length: 10 }, (_, i) => `e${i}`)
    const detector = make({ consecutiveErrors: 0, consecutiveGatewayErrors: 0, successRateStdevFactor: 1.9 }, endpoints)
    for (const e of endpoints) for (let i = 0; i < 200; i++) detector.report(e, e === 'e3'
      && i % 2 === 0 ? 'error' : 'success', 1)
    expect(detector.sweep(5_000)).toEqual([])
    expect(detector.sweep(10_000)).toMatchObject([{ endpoint: 'e3', because: 'successRate' }])
    expect(detector.isEjected('e3', 10_001)).toBe(true)
  })

  test('the share holds whatever happens, and what left is forgotten', () => {
    const step = fc.record({ endpoint: fc.constantFrom(...names),
      outcome: fc.constantFrom<Outcome>('success', 'error', 'gatewayError', 'gatewayError'),
      after: fc.nat(4_000), isSweep: fc.boolean() })
    fc.assert(fc.property(fc.array(step, { maxLength: 300 }), fc.nat(100), (steps, maxPercent) => {
      const detector = make({ maxPercent, baseMs: 5_000 })
      let now = 0
      for (const { endpoint, outcome, after, isSweep } of steps) {
        now += after
        if (isSweep) detector.sweep(now)
        else detector.report(endpoint, outcome, now)
        const most = maxPercent === 0 ? 0 : Math.max(1, Math.floor((4 * maxPercent) / 100))
        expect(names.filter((e) => detector.isEjected(e, now)).length).toBeLessThanOrEqual(most)
      }
      detector.setEndpoints(['z'])
      expect(names.some((e) => detector.isEjected(e, now))).toBe(false)
      expect(detector.isPanic).toBe(false)
    }))
  })
})
