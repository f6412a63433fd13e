// Requests to real backends on loopback: that they arrive, how they fail, and that nothing is left of them.
import { expect, it, describe, afterEach } from 'vitest'
import { World, rule, workload } from './testing.ts'

const worlds: World[] = []
const world = (...args: ConstructorParameters<typeof World>): World => {
  const made = new World(...args)
  worlds.push(made)
  return made
}
afterEach(async () => {
  for (const each of worlds.splice(0)) await each.close()
})

describe('a request', () => {
  it('gets its answer', async () => {
    const w = world()
    await w.backend('a', (req, res) => res.end(`${req.method} ${req.url} ${req.headers.host}`))
    expect(await w.get({ path: '/x?y' })).toMatchObject({ status: 200, body: 'GET /x?y api.shop' })
    await expect.poll(() => w.idle()).toBe(true)
  })

  it('goes to another endpoint where the first cannot be reached', async () => {
    const w = world()
    w.policy({ loadBalancer: { kind: 'roundRobin' } })
    w.add(workload('dead', 1))
    await w.backend('a', (_, res) => res.end('a'))
    for (let i = 0; i < 20; i++) expect(await w.get({ method: 'POST', body: 'x' })).toMatchObject({ status: 200, body: 'a' })
    expect(w.count('retried', 'connectFailure')).toBeGreaterThan(0)
    await expect.poll(() => w.idle()).toBe(true)
  })

  it('fails with 503 where none can be reached', async () => {
    const w = world()
    w.add(workload('dead', 1))
    const { status, body, record } = await w.get({ rule: rule() })
    expect([status, body]).toEqual([503, 'connectFailure'])
    expect(record.reasons).toEqual([['connectFailure', 'CONNECT_REFUSED']])
    expect(record.attempts.length).toBe(3)
    await expect.poll(() => w.idle()).toBe(true)
  })
})
