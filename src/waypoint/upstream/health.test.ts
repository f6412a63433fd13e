// Endpoints that are left out: for how they answer, and for what active checks find; and how they come back.
import { createServer } from 'node:net'
import { afterEach, describe, expect, it } from 'vitest'
import type { TrafficPolicy } from '../../model/route.ts'
import { servingStatus } from './probes.ts'
import { World, workload } from './testing.ts'
import fc from 'fast-check'

const worlds: World[] = []
const world = (...args: ConstructorParameters<typeof World>): World => {
  const made = new World(...args)
  worlds.push(made)
  return made
}
afterEach(async () => {
  for (const each of worlds.splice(0)) await each.close()
})

const ejection = { consecutiveErrors: 3, consecutiveGatewayErrors: 0, intervalMs: 100, baseMs: 300, maxPercent: 50, minHealthPercent: 0 }

async function two(w: World, bad: { status: number }): Promise<Record<string, number>> {
  const asked: Record<string, number> = { good: 0, bad: 0 }
  for (const name of ['good', 'bad']) {
    await w.backend(name, (_, res) => {
      asked[name] = (asked[name] ?? 0) + 1
      res.writeHead(name === 'bad' ? bad.status : 200).end(name)
    })
  }
  return asked
}

describe('ejection', () => {
  it('takes an endpoint out after errors in a row, and back after its time', async () => {
    const w = world()
    w.policy({ loadBalancer: { kind: 'roundRobin' }, ejection })
    const bad = { status: 500 }
    const asked = await two(w, bad)
    for (let i = 0; i < 10; i++) await w.get()
    expect(asked['bad']).toBe(3)
    expect(w.count('ejected', 'consecutiveErrors')).toBe(1)
    expect(w.forwarder.stats()[0]).toMatchObject({ ejected: 1, usable: 1, endpoints: 2 })
    bad.status = 200
    await expect.poll(() => w.count('readmitted')).toBe(1)
    for (let i = 0; i < 10; i++) expect((await w.get()).status).toBe(200)
    expect(asked['bad']).toBeGreaterThan(5)
    expect(w.forwarder.stats()[0]).toMatchObject({ ejected: 0, usable: 2 })
  })

  it('counts endpoints that cannot be reached, and gRPC\'s statuses', async () => {
    const w = world()
    w.policy({ loadBalancer: { kind: 'roundRobin' }, ejection })
    await w.backend('good', (_, res) => res.end('good'))
    w.add(workload('dead', 1))
    for (let i = 0; i < 10; i++) expect((await w.get()).status).toBe(200)
    expect(w.count('ejected')).toBe(1)
    expect(w.count('connectFailed')).toBe(3)

    const g = world({}, 'grpc')
    g.policy({ loadBalancer: { kind: 'roundRobin' }, ejection })
    for (const [name, status] of [['good', 0], ['bad', 13]] as const) {
      await g.http2Backend(name, (stream) => {
        stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
        stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': String(status) }))
        stream.end('x')
      })
    }
    for (let i = 0; i < 10; i++) await g.get({ method: 'POST', headers: [['content-type', 'application/grpc']], body: 'x' })
    expect(g.events.filter(({ t }) => t === 'ejected').length).toBe(1)
  })

  it('does not take out for what is the client\'s fault, nor the only one, nor without a policy', async () => {
    const w = world()
    w.policy({ ejection })
    await w.backend('a', (req, res) => {
      if (req.url !== '/never') res.writeHead(404).end()
    })
    for (let i = 0; i < 10; i++) await w.get()
    for (let i = 0; i < 5; i++) expect((await w.get({ path: '/never', signal: AbortSignal.timeout(30) })).status).toBe(499)
    expect(w.count('ejected')).toBe(0)
    const only = world()
    only.policy({ ejection })
    await only.backend('a', (_, res) => res.writeHead(500).end())
    for (let i = 0; i < 10; i++) expect((await only.get()).status).toBe(500)
    expect(only.count('ejected')).toBe(0)
    const none = world()
    await two(none, { status: 500 })
    for (let i = 0; i < 10; i++) await none.get()
    expect(none.count('ejected')).toBe(0)
  })

  it('is ignored where too few would be left', async () => {
    const w = world()
    w.policy({ loadBalancer: { kind: 'roundRobin' }, ejection: { ...ejection, minHealthPercent: 60, baseMs: 60_000 } })
    const asked = await two(w, { status: 500 })
    for (let i = 0; i < 20; i++) await w.get()
    expect(asked['bad']).toBeGreaterThan(6)
    expect(w.events).toContainEqual(expect.objectContaining({ t: 'panic', isOn: true }))
  })
})

const check = (more: Partial<NonNullable<TrafficPolicy['activeCheck']>>): NonNullable<TrafficPolicy['activeCheck']> =>
  ({ kind: 'http', path: '/ready', intervalMs: 40, timeoutMs: 200, healthyAfter: 2, unhealthyAfter: 2, expectedStatuses: [], ...more })

describe('active checks', () => {
  it('by HTTP begin without any request, and take out who is not well', async () => {
    const w = world()
    const seen: string[] = []
    const health = { status: 200 }
    await w.backend('a', (req, res) => {
      if (req.url === '/ready') {
        seen.push(`${req.method} ${req.headers.host}`)
        res.writeHead(health.status).end()
      } else res.end('a')
    })
    await w.backend('b', (_, res) => res.end('b'))
    w.policy({ loadBalancer: { kind: 'roundRobin' }, activeCheck: check({}) })
    await expect.poll(() => seen[0]).toBe('GET api.shop')
    expect([(await w.get()).body, (await w.get()).body].sort()).toEqual(['a', 'b'])
    health.status = 500
    await expect.poll(() => w.events.some((event) => event.t === 'health' && !event.isHealthy)).toBe(true)
    for (let i = 0; i < 6; i++) expect((await w.get()).body).toBe('b')
    health.status = 204
    await expect.poll(() => w.events.some((event) => event.t === 'health' && event.isHealthy)).toBe(true)
    expect([(await w.get()).body, (await w.get()).body].sort()).toEqual(['a', 'b'])
  })

  it('expect the statuses that the policy names, and are over with it', async () => {
    const w = world()
    let asked = 0
    await w.backend('a', (_, res) => {
      asked++
      res.writeHead(200).end()
    })
    w.policy({ activeCheck: check({ expectedStatuses: [204] }) })
    await expect.poll(() => w.forwarder.stats()[0]?.usable).toBe(0)
    w.policy({})
    expect(w.forwarder.stats()[0]?.usable).toBe(1)
    const before = asked
    await new Promise((resolve) => setTimeout(resolve, 150))
    expect(asked).toBeLessThanOrEqual(before + 1)
  })

  it('find a server that stalls, by its time', async () => {
    const w = world({ limits: { queueMs: 100 } })
    await w.backend('a', () => {
      // Never answers.
    })
    w.policy({ activeCheck: check({ timeoutMs: 50 }) })
    await expect.poll(() => w.forwarder.stats()[0]?.usable).toBe(0)
    expect(await w.get()).toMatchObject({ status: 503, body: 'noHealthyBackend' })
  })

  it('by gRPC ask the health service', async () => {
    const w = world({}, 'grpc')
    const seen: string[] = []
    const state = { status: 1 }
    await w.http2Backend('a', (stream, headers) => {
      const chunks: Buffer[] = []
      stream.on('data', (chunk: Buffer) => chunks.push(chunk))
      stream.on('end', () => {
        seen.push(`${headers[':path']} ${Buffer.concat(chunks).toString('hex')}`)
        stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
        stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }))
        stream.end(Buffer.from([0, 0, 0, 0, 2, 8, state.status]))
      })
    })
    w.policy({ activeCheck: check({ kind: 'grpc', service: 'pay' }) })
    await expect.poll(() => seen[0]).toBe('/grpc.health.v1.Health/Check 00000000050a03706179')
    expect(w.forwarder.stats()[0]?.usable).toBe(1)
    state.status = 2
    await expect.poll(() => w.forwarder.stats()[0]?.usable).toBe(0)
  })

  it('by TCP connect', async () => {
    const w = world()
    const server = createServer((socket) => socket.destroy())
    const port = await w.listen(server)
    w.add(workload('a', port), workload('dead', 1))
    w.policy({ activeCheck: check({ kind: 'tcp' }) })
    await expect.poll(() => w.forwarder.stats()[0]).toMatchObject({ endpoints: 2, usable: 1 })
    server.close()
    await expect.poll(() => w.forwarder.stats()[0]?.usable).toBe(0)
  })

  it('are no more at once than the limit, and end with their endpoints', async () => {
    const w = world({ limits: { checks: 2 } })
    let now = 0
    let most = 0
    let asked = 0
    for (const name of ['a', 'b', 'c', 'd', 'e', 'f']) {
      await w.backend(name, (_, res) => {
        asked++
        most = Math.max(most, ++now)
        setTimeout(() => {
          now--
          res.end()
        }, 20)
      })
    }
    w.policy({ activeCheck: check({}) })
    await expect.poll(() => asked).toBeGreaterThan(12)
    expect(most).toBe(2)
    for (const name of ['a', 'b', 'c', 'd', 'e', 'f']) w.remove(name)
    await new Promise((resolve) => setTimeout(resolve, 100))
    const before = asked
    await new Promise((resolve) => setTimeout(resolve, 150))
    expect(asked).toBe(before)
  })
})

it('an answer of the health service is read, whatever bytes it is made of', () => {
  expect(servingStatus(Buffer.from([0, 0, 0, 0, 2, 8, 1]))).toBe(1)
  expect(servingStatus(Buffer.from([0, 0, 0, 0, 0]))).toBe(0)
  expect(servingStatus(Buffer.from([1, 0, 0, 0, 2, 8, 1]))).toBeUndefined()
  expect(servingStatus(Buffer.from([0, 255, 255, 255, 255, 8, 1]))).toBeUndefined()
  fc.assert(fc.property(fc.uint8Array({ maxLength: 12 }), (bytes) => {
    const status = servingStatus(bytes)
    expect(status === undefined || (status >= 0 && status < 128)).toBe(true)
  }))
})
