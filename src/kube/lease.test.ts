import { setTimeout as wait } from 'node:timers/promises'
import { afterEach, describe, expect, it } from 'vitest'
import type { Clock } from '../core/clock.ts'
import { systemClock } from '../core/clock.ts'
import { silentLogger } from '../core/log.ts'
import { Lease, type LeaseLoss, type LeaseOptions } from './lease.ts'
import { FakeKubeApi, leaseType, type Fault } from './testing.ts'

const times = { durationMs: 1_000, renewWithinMs: 500, everyMs: 40 }

const opened: { close(): unknown }[] = []
afterEach(async () => {
  for (const one of opened.splice(0).reverse()) await one.close()
})

async function anApi(): Promise<FakeKubeApi> {
  const api = await new FakeKubeApi().start()
  opened.push({ close: () => api.stop() })
  return api
}

/** A clock whose time of day is wrong, and wrong differently each time it is asked. */
function wrongClock(): Clock {
  return { ...systemClock, nowMs: () => Math.floor(Math.random() * 2 ** 41) }
}

interface Candidate {
  readonly lease: Lease
  readonly told: (LeaseLoss | 'leading')[]
  readonly api: FakeKubeApi
  signal: AbortSignal | undefined
}

function candidate(api: FakeKubeApi, holder: string, options: Partial<LeaseOptions> = {}): Candidate {
  const client = api.client()
  const made: { told: (LeaseLoss | 'leading')[]; signal: AbortSignal | undefined } = { told: [], signal: undefined }
  const lease = new Lease({
    api: client, log: silentLogger, namespace: 'sidestep-system', name: 'leader', holder, times,
    onLeading: (signal) => {
      made.told.push('leading')
      made.signal = signal
    },
    onLost: (because) => void made.told.push(because),
    ...options,
  })
  lease.start()
  opened.push(client, lease)
  return Object.assign(made, { lease, api })
}

const holderIn = (api: FakeKubeApi): unknown => (api.get(leaseType, 'leader', 'sidestep-system')?.spec as { holderIdentity?: string } | undefined)?.holderIdentity

describe('a lease', () => {
  it('is had by one of several, and goes to another at once when it is given up', async () => {
    const api = await anApi()
    const all = ['a', 'b', 'c'].map((holder) => candidate(api, holder))
    await expect.poll(() => all.filter(({ lease }) => lease.isLeading).length).toBe(1)
    const [first] = all.filter(({ lease }) => lease.isLeading)
    await first?.lease.close()
    expect(first?.told).toEqual(['leading', 'released'])
    expect(first?.signal?.aborted).toBe(true)
    await expect.poll(() => all.filter(({ lease }) => lease.isLeading).length).toBe(1)
    expect(first?.lease.isLeading).toBe(false)
    expect(api.get(leaseType, 'leader', 'sidestep-system')?.spec).toMatchObject({ leaseTransitions: 1 })
  })

  it('stays with who renews it, whatever anybody takes for the time of day', async () => {
    const api = await anApi()
    const a = candidate(api, 'a', { clock: wrongClock() })
    await expect.poll(() => a.lease.isLeading).toBe(true)
    const b = candidate(api, 'b', { clock: wrongClock() })
    await wait(2_000)
    expect(a.told).toEqual(['leading'])
    expect(b.told).toEqual([])
    expect(b.lease.state()).toMatchObject({ isLeading: false, holder: 'a' })
  })

  it('is given up in time by who cannot renew it, before another has it', async () => {
    const api = await anApi()
    const a = candidate(api, 'a')
    await expect.poll(() => a.lease.isLeading).toBe(true)
    const b = candidate(api, 'b')
    const bApi = api
    // Writes of a fail from now on; b may do all.
    bApi.fault = ({ method, body }): Fault => {
      const { spec } = (body ?? {}) as { spec?: { holderIdentity?: string } }
      return method === 'PUT' && spec?.holderIdentity === 'a' ? { status: 500 } : undefined
    }
    let both = 0
    for (let i = 0; i < 400 && !b.lease.isLeading; i += 1) {
      if (a.lease.isLeading && b.lease.isLeading) both += 1
      await wait(5)
    }
    expect(b.lease.isLeading).toBe(true)
    expect(both).toBe(0)
    expect(a.told).toEqual(['leading', 'late'])
  })

  it('is known to be over by who stood still', async () => {
    const api = await anApi()
    let offsetMs = 0
    // Timers that never fire are what a process that stood still has.
    const clock: Clock = { nowMs: () => Date.now(), monotonicMs: () => performance.now() + offsetMs, after: (ms, call) => (ms > 300 ? () => {} : systemClock.after(ms, call)) }
    const a = candidate(api, 'a', { clock })
    await expect.poll(() => a.lease.isLeading).toBe(true)
    api.fault = () => 'reset'
    offsetMs = 600
    expect(a.lease.isLeading).toBe(false)
  })

  it('is lost when somebody else wrote himself into it', async () => {
    const api = await anApi()
    const a = candidate(api, 'a')
    await expect.poll(() => a.lease.isLeading).toBe(true)
    const found = api.get(leaseType, 'leader', 'sidestep-system')
    api.put(leaseType, { metadata: { name: 'leader', namespace: 'sidestep-system' }, spec: { ...(found?.spec as object), holderIdentity: 'x', leaseDurationSeconds: 1 } })
    await expect.poll(() => a.told).toEqual(['leading', 'taken'])
    // x never renews.
    await expect.poll(() => a.lease.isLeading, { timeout: 5_000 }).toBe(true)
    await expect.poll(() => a.told).toEqual(['leading', 'taken', 'leading'])
  })

  it('survives that the lease is deleted, or is nonsense', async () => {
    const api = await anApi()
    const a = candidate(api, 'a')
    await expect.poll(() => a.lease.isLeading).toBe(true)
    api.remove(leaseType, 'leader', 'sidestep-system')
    await expect.poll(() => holderIn(api)).toBe('a')
    api.put(leaseType, { metadata: { name: 'leader', namespace: 'sidestep-system' }, spec: { holderIdentity: 7, leaseDurationSeconds: 'long' } })
    await expect.poll(() => holderIn(api)).toBe('a')
    await expect.poll(() => a.lease.isLeading).toBe(true)
  })

  it('is not given up before what the leader did has ended', async () => {
    const api = await anApi()
    const work = Promise.withResolvers<void>()
    const a = candidate(api, 'a', { onLost: () => work.promise })
    await expect.poll(() => a.lease.isLeading).toBe(true)
    const closing = a.lease.close()
    await wait(100)
    expect(holderIn(api)).toBe('a')
    work.resolve()
    await closing
    expect(holderIn(api)).toBe('')
  })

  it('never has two leaders, however badly the server answers', async () => {
    const api = await anApi()
    api.fault = (): Fault => (Math.random() < 0.35 ? (Math.random() < 0.5 ? 'reset' : { status: 500 }) : undefined)
    const all = ['a', 'b', 'c'].map((holder) => candidate(api, holder, { times: { durationMs: 1_000, renewWithinMs: 200, everyMs: 30 } }))
    let most = 0
    let changes = 0
    const untilMs = performance.now() + 4_000
    let last = ''
    while (performance.now() < untilMs) {
      const leading = all.filter(({ lease }) => lease.isLeading)
      most = Math.max(most, leading.length)
      const holder = leading[0]?.lease.state().holder ?? last
      if (holder !== last) changes += 1
      last = holder
      await wait(3)
    }
    expect(most).toBe(1)
    expect(changes).toBeGreaterThan(0)
  })
})
