// Limits, bulkheads and the line: what a stuck or a full destination does to its callers, and that it does no more than that.
import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { afterEach, describe, expect, it } from 'vitest'
import { World, textOf, workload } from './testing.ts'

const worlds: World[] = []
const world = (...args: ConstructorParameters<typeof World>): World => {
  const made = new World(...args)
  worlds.push(made)
  return made
}
afterEach(async () => {
  for (const each of worlds.splice(0)) await each.close()
})

const other = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'greedy' }
const limits = { connections: 1_000, pending: 1_000, requests: 1_000, retries: 10, requestsPerConnection: 0 }

/** Answers nothing until told. */
async function stuck(w: World): Promise<{ readonly held: ServerResponse[]; most: number }> {
  const state = { held: [] as ServerResponse[], most: 0 }
  let now = 0
  await w.backend('stuck', (_, res) => {
    state.most = Math.max(state.most, ++now)
    res.on('close', () => now--)
    state.held.push(res)
  })
  return state
}

const settled = async (w: World): Promise<void> => {
  await expect.poll(() => w.idle()).toBe(true)
}

describe('requests under way', () => {
  it('are no more than the limit; the next fails at once, with when to come back', async () => {
    const w = world()
    w.policy({ limits: { ...limits, requests: 3 } })
    const { held } = await stuck(w)
    const all = Array.from({ length: 3 }, () => w.get())
    await expect.poll(() => held.length).toBe(3)
    const { outcome, record } = await w.ask()
    expect(outcome).toMatchObject({ t: 'failed', status: 503, because: 'breakerOpen', retryAfterSeconds: 1 })
    expect(record.reasons).toEqual([['breakerOpen', 'requests']])
    expect(w.count('breaker', 'requests')).toBe(1)
    for (const res of held) res.end()
    expect((await Promise.all(all)).map(({ status }) => status)).toEqual([200, 200, 200])
    const again = w.get()
    await expect.poll(() => held.length).toBe(4)
    held[3]?.end()
    expect(await again).toMatchObject({ status: 200 })
    await settled(w)
  })

  it('count until the last byte of their answers', async () => {
    const w = world()
    w.policy({ limits: { ...limits, requests: 1 } })
    await w.backend('a', (_, res) => res.end('x'.repeat(3_000_000)))
    const { outcome } = await w.ask()
    expect((await w.get()).status).toBe(503)
    if (outcome.t !== 'response' || !outcome.body) throw new Error('no answer')
    await textOf(outcome.body)
    await settled(w)
    const second = await w.ask()
    if (second.outcome.t !== 'response' || !second.outcome.body) throw new Error('no answer')
    second.outcome.body.destroy()
    await settled(w)
  })

  it('of a greedy caller leave room for the others', async () => {
    const w = world()
    w.policy({ limits: { ...limits, requests: 8 } })
    const { held } = await stuck(w)
    // Six of eight: until there nobody is held back.
    const greedy = Array.from({ length: 7 }, () => w.get({ source: other }))
    await expect.poll(() => held.length).toBe(7)
    const mine = w.get()
    await expect.poll(() => held.length).toBe(8)
    for (const res of held) res.end()
    expect((await mine).status).toBe(200)
    await Promise.all(greedy)
    await settled(w)
    // With somebody else there, the greedy one gets its half of what is beyond the mark.
    held.length = 0
    const first = w.get()
    await expect.poll(() => held.length).toBe(1)
    const wanted = Array.from({ length: 8 }, () => w.get({ source: other }))
    await expect.poll(() => w.count('breaker', 'callerShare')).toBeGreaterThan(0)
    await expect.poll(() => held.length).toBeGreaterThan(5)
    for (const res of held) res.end()
    expect((await first).status).toBe(200)
    expect((await Promise.all(wanted)).filter(({ status }) => status === 503).length).toBeGreaterThan(0)
    await settled(w)
  })
})

describe('connections', () => {
  it('are no more than the limit: the rest waits its turn', async () => {
    const w = world()
    w.policy({ limits: { ...limits, connections: 2 } })
    const state = await stuck(w)
    const all = Array.from({ length: 10 }, () => w.get())
    await expect.poll(() => w.forwarder.stats()[0]).toMatchObject({ pending: 8, connections: 2 })
    for (let done = 0; done < 10; done++) {
      await expect.poll(() => state.held.length).toBeGreaterThan(done)
      state.held[done]?.end(String(done))
    }
    expect((await Promise.all(all)).map(({ status }) => status)).toEqual(Array(10).fill(200))
    expect(state.most).toBe(2)
    await settled(w)
  })

  it('of one caller that rest give way to another\'s', async () => {
    const w = world()
    w.policy({ limits: { ...limits, connections: 1 } })
    const { server } = await w.backend('a', (_, res) => res.end('a'))
    let open = 0
    let most = 0
    server.on('connection', (socket) => {
      most = Math.max(most, ++open)
      socket.on('close', () => open--)
    })
    for (const source of [undefined, other, undefined, other]) expect(await w.get({ source })).toMatchObject({ status: 200 })
    expect(most).toBeLessThanOrEqual(2)
    await settled(w)
  })

  it('those who wait are no more than the limit, and fail after a while; then all fail at once until something comes free', async () => {
    const w = world({ limits: { queueMs: 250 } })
    w.policy({ limits: { ...limits, connections: 1, pending: 2 } })
    const { held } = await stuck(w)
    const first = w.get()
    await expect.poll(() => held.length).toBe(1)
    const waiting = [w.get(), w.get()]
    expect(await w.get()).toMatchObject({ status: 503, body: 'breakerOpen' })
    expect(w.count('breaker', 'pending')).toBe(1)
    expect((await Promise.all(waiting)).map(({ status, body }) => [status, body])).toEqual([[503, 'overloaded'], [503, 'overloaded']])
    expect(await w.get()).toMatchObject({ status: 503, body: 'overloaded' })
    held[0]?.end()
    expect(await first).toMatchObject({ status: 200 })
    const next = w.get()
    await expect.poll(() => held.length).toBe(2)
    held[1]?.end()
    expect(await next).toMatchObject({ status: 200 })
    await settled(w)
  })

  it('who waits and goes away leaves the line', async () => {
    const w = world()
    w.policy({ limits: { ...limits, connections: 1 } })
    const { held } = await stuck(w)
    const first = w.get()
    await expect.poll(() => held.length).toBe(1)
    const abort = new AbortController()
    const gone = w.get({ signal: abort.signal })
    await expect.poll(() => w.forwarder.stats()[0]?.pending).toBe(1)
    abort.abort()
    expect((await gone).status).toBe(499)
    expect(w.forwarder.stats()[0]?.pending).toBe(0)
    held[0]?.end()
    expect((await first).status).toBe(200)
    await settled(w)
  })

  it('carry so many requests as the policy says', async () => {
    const w = world()
    w.policy({ limits: { ...limits, requestsPerConnection: 2 } })
    const carried = new Map<object, number>()
    await w.backend('a', ({ socket }, res) => {
      carried.set(socket, (carried.get(socket) ?? 0) + 1)
      res.end('a')
    })
    for (let i = 0; i < 12; i++) expect((await w.get()).status).toBe(200)
    expect(Math.max(...carried.values())).toBe(2)
  })

  it('are apart for each caller, and shared by its requests', async () => {
    const w = world()
    const { server } = await w.backend('a', (_, res) => res.end('a'))
    let made = 0
    server.on('connection', () => made++)
    for (const source of [undefined, other, undefined, other]) await w.get({ source })
    expect(made).toBe(2)
    expect(w.forwarder.stats()[0]?.pools).toBe(2)
  })

  it('and pools that nobody uses are given up', async () => {
    const w = world({ limits: { unusedMs: 300 } })
    w.policy({ idleTimeoutMs: 100 })
    const { server } = await w.backend('a', (_, res) => res.end('a'))
    await w.get()
    const [socket] = await Promise.all([once(server, 'connection').catch(() => []), w.get({ source: other })])
    expect(socket).toBeDefined()
    await expect.poll(() => w.forwarder.stats(), { timeout: 5_000 }).toEqual([])
    expect((await w.get()).status).toBe(200)
  })

  it('to an endpoint that went away end when what is under way has ended', async () => {
    const w = world()
    const { held } = await stuck(w)
    const asked = w.get()
    await expect.poll(() => held.length).toBe(1)
    w.remove('stuck')
    await w.backend('next', (_, res) => res.end('next'))
    expect(await w.get()).toMatchObject({ body: 'next' })
    held[0]?.end('late')
    expect(await asked).toMatchObject({ status: 200, body: 'late' })
    await expect.poll(() => w.forwarder.stats()[0]?.connections).toBe(1)
  })
})

describe('a stuck destination', () => {
  it('holds a bounded amount of memory, and others go on', async () => {
    const w = world({ limits: { queueMs: 60_000 } })
    w.policy({ limits: { connections: 20, pending: 200, requests: 300, retries: 10, requestsPerConnection: 0 } })
    await stuck(w)
    w.store.apply({ services: [{ ...w.service, name: 'fine', hostname: 'fine.shop', addresses: [] }] })
    const fine = await w.backend('fine', (_, res) => res.end('fine'), { services: new Map() })
    w.add(workload('fine', fine.port, { services: new Map([['shop/fine.shop', [{ servicePort: 80, targetPort: fine.port, appProtocol: 'http11' }]]]) }))
    let pulled = 0
    const abort = new AbortController()
    const endless = (): Readable => new Readable({
      read() {
        pulled += 16_384
        this.push(Buffer.alloc(16_384))
      },
    })
    const all = Array.from({ length: 400 }, () => w.get({ method: 'PUT', body: endless(), signal: abort.signal }))
    await expect.poll(() => w.forwarder.stats().find(({ service }) => service === 'shop/api.shop')?.pending).toBe(200)
    await new Promise((resolve) => setTimeout(resolve, 300))
    // Bodies of those that wait are not read, and of the others no more than sockets and buffers take.
    expect(pulled).toBeLessThan(20 * 8_388_608)
    expect(w.forwarder.held.replayBytes).toBeLessThanOrEqual(20 * 65_536)
    const service = w.store.service('shop/fine.shop')
    if (!service) throw new Error('no service')
    expect(await w.get({ to: { t: 'service', service, port: 80 } })).toMatchObject({ status: 200, body: 'fine' })
    abort.abort()
    const statuses = (await Promise.all(all)).map(({ status }) => status)
    expect(statuses.filter((status) => status === 503).length).toBeGreaterThanOrEqual(180)
    await settled(w)
  })
})
