// What is sent again and what is not, with real answers: by rule, by method, by body, by budget, by what the server says.
import { afterEach, describe, expect, it } from 'vitest'
import { Readable } from 'node:stream'
import type { Retry } from '../../model/route.ts'
import { World, rule } from './testing.ts'

const worlds: World[] = []
const world = (...args: ConstructorParameters<typeof World>): World => {
  const made = new World(...args)
  worlds.push(made)
  return made
}
afterEach(async () => {
  for (const each of worlds.splice(0)) await each.close()
})

const retry = (more: Partial<Retry> = {}): Retry => ({ attempts: 3, backoffMs: 1, statuses: [503], on: ['connectFailure', 'refusedStream', 'reset', 'gatewayError', 'retriableGrpc'], ...more })
const retrying = (more: Partial<Retry> = {}) => rule({ retry: retry(more) })

/** Fails so often, then answers with what it got. */
async function flaky(w: World, failures: number, headers: Record<string, string> = {}, status = 503): Promise<string[]> {
  const bodies: string[] = []
  await w.backend('flaky', (req, res) => {
    let body = ''
    req.on('data', (chunk: Buffer) => (body += chunk.toString()))
    req.on('end', () => {
      bodies.push(body)
      if (bodies.length <= failures) res.writeHead(status, headers).end('no')
      else res.end(body)
    })
  })
  return bodies
}

const settled = async (w: World): Promise<void> => {
  await expect.poll(() => w.idle()).toBe(true)
}

describe('a rule\'s retries', () => {
  it('hide a flaky backend, body and all', async () => {
    const w = world()
    const bodies = await flaky(w, 2)
    expect(await w.get({ method: 'PUT', body: 'hello', rule: retrying() })).toMatchObject({ status: 200, body: 'hello' })
    expect(bodies).toEqual(['hello', 'hello', 'hello'])
    expect(w.count('retried', 'response')).toBe(2)
    await settled(w)
  })

  it('end when they are used up, and the last answer counts', async () => {
    const w = world()
    const bodies = await flaky(w, 99)
    expect(await w.get({ rule: retrying({ attempts: 2 }) })).toMatchObject({ status: 503, body: 'no' })
    expect(bodies.length).toBe(3)
    expect(w.count('notRetried', 'attemptsUsed')).toBe(1)
    expect(await w.get({ rule: rule({ retry: retry({ attempts: 0 }) }) })).toMatchObject({ status: 503 })
    expect(bodies.length).toBe(4)
    await settled(w)
  })

  it('are not for what must not be done twice, unless it says how to tell', async () => {
    const w = world()
    const bodies = await flaky(w, 1)
    expect(await w.get({ method: 'POST', body: 'x', rule: retrying() })).toMatchObject({ status: 503 })
    expect(bodies.length).toBe(1)
    bodies.length = 0
    expect(await w.get({ method: 'POST', body: 'x', headers: [['idempotency-key', 'k']], rule: retrying() })).toMatchObject({ status: 200 })
    expect(bodies.length).toBe(2)
  })

  it('are not for statuses that nobody named', async () => {
    const w = world()
    const bodies = await flaky(w, 1, {}, 500)
    expect(await w.get({ rule: retrying() })).toMatchObject({ status: 500 })
    expect(bodies.length).toBe(1)
    expect(await w.get({ rule: rule() })).toMatchObject({ status: 200 })
  })

  it('are not for a body that is larger than what is kept', async () => {
    const w = world()
    const bodies = await flaky(w, 1)
    const chunks = [Buffer.alloc(40_000, 'a'), Buffer.alloc(40_000, 'b')]
    expect(await w.get({ method: 'PUT', body: Readable.from(chunks), rule: retrying() })).toMatchObject({ status: 503 })
    expect(bodies.length).toBe(1)
    expect(w.count('notRetried', 'bodyGone')).toBe(1)
    await settled(w)
  })

  it('keep no more of all bodies together than there is room', async () => {
    const w = world({ limits: { replayBytes: 10 } })
    const bodies = await flaky(w, 1)
    expect(await w.get({ method: 'PUT', body: 'more than ten bytes', rule: retrying() })).toMatchObject({ status: 503 })
    bodies.length = 0
    expect(await w.get({ method: 'PUT', body: 'ten bytes', rule: retrying() })).toMatchObject({ status: 200 })
    await settled(w)
  })

  it('go to other endpoints', async () => {
    const w = world()
    w.policy({ loadBalancer: { kind: 'roundRobin' } })
    const asked: string[] = []
    for (const name of ['a', 'b', 'c']) {
      await w.backend(name, (_, res) => {
        asked.push(name)
        res.writeHead(503).end()
      })
    }
    expect(await w.get({ rule: retrying({ attempts: 2 }) })).toMatchObject({ status: 503 })
    expect([...asked].sort()).toEqual(['a', 'b', 'c'])
  })

  it('come after the time that a server asks for, and not at all if that is too long', async () => {
    const w = world()
    await flaky(w, 1, { 'retry-after': '1' })
    const startedMs = performance.now()
    expect(await w.get({ rule: retrying() })).toMatchObject({ status: 200 })
    expect(performance.now() - startedMs).toBeGreaterThan(950)
    const other = world()
    const bodies = await flaky(other, 1, { 'retry-after': '3600' })
    expect(await other.get({ rule: retrying() })).toMatchObject({ status: 503 })
    expect(bodies.length).toBe(1)
    expect(other.count('notRetried', 'serverSaysNo')).toBe(1)
  })

  it('end with the time of the whole request', async () => {
    const w = world()
    await flaky(w, 99)
    const { status } = await w.get({ rule: rule({ retry: retry({ attempts: 1000, backoffMs: 20 }), timeouts: { requestMs: 150 } }) })
    expect([503, 504]).toContain(status)
    expect(w.count('retried')).toBeLessThan(500)
    await settled(w)
  })

  it('take a try\'s time', async () => {
    const w = world()
    let asked = 0
    await w.backend('a', (_, res) => {
      if (++asked > 1) res.end('second')
    })
    expect(await w.get({ rule: retrying({ perTryTimeoutMs: 60 }) })).toMatchObject({ status: 200, body: 'second' })
    expect(w.count('retried', 'perTryTimeout')).toBe(1)
    await settled(w)
  })

  it('end when the client goes', async () => {
    const w = world()
    await flaky(w, 99)
    const asked = w.get({ rule: retrying({ attempts: 100, backoffMs: 60_000 }), signal: AbortSignal.timeout(100) })
    expect(await asked).toMatchObject({ status: 499 })
    await settled(w)
  })
})

describe('retries of all requests together', () => {
  it('stay in their budget', async () => {
    const w = world()
    w.policy({ retryBudget: { percent: 10, minPerSecond: 0.2 } })
    const bodies = await flaky(w, 1_000_000)
    for (let i = 0; i < 100; i++) await w.get({ rule: retrying() })
    // 10 per cent of 100, and 2 for the ten seconds.
    expect(bodies.length).toBeGreaterThan(105)
    expect(bodies.length).toBeLessThanOrEqual(112)
    expect(w.count('notRetried', 'budget')).toBeGreaterThan(80)
    await settled(w)
  })

  it('stay in the breaker\'s limit', async () => {
    const w = world()
    w.policy({ limits: { connections: 100, pending: 100, requests: 100, retries: 2, requestsPerConnection: 0 } })
    const asked = new Set<string>()
    const held: (() => void)[] = []
    await w.backend('a', ({ url = '' }, res) => {
      // To the first try it says no, to the second nothing until told.
      if (asked.has(url)) held.push(() => res.end())
      else res.writeHead(503).end()
      asked.add(url)
    })
    const all = Array.from({ length: 10 }, (_, i) => w.get({ path: `/${i}`, rule: retrying() }))
    await expect.poll(() => held.length).toBe(2)
    await expect.poll(() => w.count('notRetried', 'breaker')).toBe(8)
    expect(w.count('breaker', 'retries')).toBe(8)
    for (const answer of held) answer()
    expect((await Promise.all(all)).map(({ status }) => status).sort()).toEqual([200, 200, ...Array<number>(8).fill(503)])
    await settled(w)
  })
})

describe('gRPC', () => {
  const grpc = [['content-type', 'application/grpc']] as const
  const trailersOnly = (status: number, more: Record<string, string> = {}) => ({ ':status': 200, 'content-type': 'application/grpc', 'grpc-status': String(status), ...more })

  it('is tried again where the status stands in place of an answer, and only for those that may', async () => {
    const w = world({}, 'grpc')
    let asked = 0
    await w.http2Backend('a', (stream) => {
      asked++
      stream.respond(asked === 1 ? trailersOnly(14) : trailersOnly(asked === 2 ? 0 : 5), { endStream: true })
    })
    const first = await w.get({ method: 'POST', headers: grpc, body: 'x', rule: retrying() })
    expect([first.status, first.headers?.get('grpc-status'), asked]).toEqual([200, '0', 2])
    const second = await w.get({ method: 'POST', headers: grpc, body: 'x', rule: retrying() })
    expect([second.headers?.get('grpc-status'), asked]).toEqual(['5', 3])
    await settled(w)
  })

  it('obeys pushback', async () => {
    const w = world({}, 'grpc')
    let asked = 0
    await w.http2Backend('a', (stream) => {
      asked++
      stream.respond(trailersOnly(14, { 'grpc-retry-pushback-ms': '-1' }), { endStream: true })
    })
    await w.get({ method: 'POST', headers: grpc, body: 'x', rule: retrying() })
    expect(asked).toBe(1)
  })

  it('has its deadline kept, shortened for what was spent, and ended by us', async () => {
    const w = world({}, 'grpc')
    const seen: string[] = []
    await w.http2Backend('a', (stream, headers) => {
      seen.push(String(headers['grpc-timeout']))
      if (seen.length === 1) stream.respond(trailersOnly(14, { 'grpc-retry-pushback-ms': '100' }), { endStream: true })
    })
    const { status, record } = await w.get({ method: 'POST', headers: [...grpc, ['grpc-timeout', '400m']], body: 'x', rule: retrying() })
    expect([status, record.reasons[0]?.[0]]).toEqual([504, 'requestTimeout'])
    const ms = seen.map((value) => Number(value.slice(0, -1)) / (value.endsWith('u') ? 1000 : 1))
    expect(ms[0]).toBeLessThanOrEqual(400)
    expect(ms[0]).toBeGreaterThan(200)
    expect(ms[1]).toBeLessThanOrEqual(300)
    await settled(w)
  })

  it('refused streams are tried again, whatever they were', async () => {
    const w = world({}, 'http2')
    let asked = 0
    await w.http2Backend('a', (stream) => {
      if (++asked === 1) stream.close(7)
      else stream.respond({ ':status': 200 }, { endStream: true })
    })
    expect(await w.get({ method: 'POST', body: 'x' })).toMatchObject({ status: 200 })
    expect(w.count('retried', 'refusedStream')).toBe(1)
    await settled(w)
  })
})
