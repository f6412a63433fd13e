// Clients that come back to the endpoint they had: sessions by cookie and header, draining, and consistent hashes.
import { afterEach, describe, expect, it } from 'vitest'
import type { LoadBalancer, SessionPersistence } from '../../model/route.ts'
import { plainHead, World, rule, service, workload } from './testing.ts'

const worlds: World[] = []
const world = (...args: ConstructorParameters<typeof World>): World => {
  const made = new World(...args)
  worlds.push(made)
  return made
}
afterEach(async () => {
  for (const each of worlds.splice(0)) await each.close()
})

const names = ['a', 'b', 'c', 'd']
async function four(w: World): Promise<Map<string, number>> {
  const ports = new Map<string, number>()
  w.policy({ loadBalancer: { kind: 'roundRobin' } })
  for (const name of names) ports.set(name, (await w.backend(name, (_, res) => res.end(name))).port)
  return ports
}

const sticky = (more: Partial<SessionPersistence> = {}) => rule({ sessionPersistence: { kind: 'cookie', name: 'sid', ...more } })

/** Asks as a browser does: with the cookies that it was given. */
async function browser(w: World, cookies = new Map<string, string>(), asked = sticky()): Promise<string> {
  const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ')
  const { body, headers } = await w.get({ rule: asked, headers: cookie === '' ? [] : [['cookie', cookie]] })
  for (const set of headers?.all('set-cookie') ?? []) {
    const [pair = ''] = set.split(';')
    cookies.set(pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1))
  }
  return body
}

describe('a session', () => {
  it('by cookie keeps to its endpoint; without one requests are balanced', async () => {
    const w = world()
    await four(w)
    const cookies = new Map<string, string>()
    const first = await browser(w, cookies)
    for (let i = 0; i < 8; i++) expect(await browser(w, cookies)).toBe(first)
    expect([...cookies.keys()]).toEqual(['sid'])
    const others = new Set<string>()
    for (let i = 0; i < 8; i++) others.add(await browser(w))
    expect(others.size).toBe(4)
    const { headers } = await w.get({ rule: rule() })
    expect(headers?.has('set-cookie')).toBe(false)
  })

  it('is told once, and a forged token is none', async () => {
    const w = world()
    await four(w)
    const cookies = new Map<string, string>()
    await browser(w, cookies)
    const again = await w.get({ rule: sticky(), headers: [['cookie', `sid=${cookies.get('sid')}`]] })
    expect(again.headers?.has('set-cookie')).toBe(false)
    const forged = await w.get({ rule: sticky(), headers: [['cookie', `sid=${'A'.repeat(cookies.get('sid')?.length ?? 0)}`]] })
    expect(forged.headers?.get('set-cookie')).toMatch(/^sid=.*HttpOnly/)
    // Another route's token says nothing to this one.
    const other = await w.get({ rule: { ...sticky(), name: '1' }, headers: [['cookie', `sid=${cookies.get('sid')}`]] })
    expect(other.headers?.has('set-cookie')).toBe(true)
  })

  it('by header comes back in the answer\'s header', async () => {
    const w = world()
    await four(w)
    const byHeader = sticky({ kind: 'header', name: 'X-Session' })
    const first = await w.get({ rule: byHeader })
    const token = first.headers?.get('x-session') ?? ''
    expect(token).not.toBe('')
    for (let i = 0; i < 8; i++) expect((await w.get({ rule: byHeader, headers: [['x-session', token]] })).body).toBe(first.body)
  })

  it('keeps to an endpoint that drains, and others do not go there', async () => {
    const w = world()
    const ports = await four(w)
    const cookies = new Map<string, string>()
    const first = await browser(w, cookies)
    w.add(workload(first, ports.get(first) ?? 0, { isHealthy: false }))
    expect(w.forwarder.stats()[0]).toMatchObject({ endpoints: 3, draining: 1 })
    for (let i = 0; i < 6; i++) {
      expect(await browser(w, cookies)).toBe(first)
      expect(await browser(w)).not.toBe(first)
    }
    w.remove(first)
    const next = await browser(w, cookies)
    expect(next).not.toBe(first)
    expect(await browser(w, cookies)).toBe(next)
    expect(w.forwarder.stats()[0]).toMatchObject({ endpoints: 3, draining: 0 })
  })

  it('goes on elsewhere where its endpoint cannot be reached', async () => {
    const w = world()
    await four(w)
    const cookies = new Map<string, string>()
    const first = await browser(w, cookies)
    w.add(workload(first, 1))
    const next = await browser(w, cookies)
    expect(next).not.toBe(first)
    expect(await browser(w, cookies)).toBe(next)
  })

  it('belongs to one of several backends, and says which', async () => {
    const w = world()
    await w.backend('a', (_, res) => res.end('a'))
    w.store.apply({ services: [service('unknown', { name: 'new', hostname: 'new.shop', addresses: [] })] })
    w.add(workload('n', 1, { services: new Map([['shop/new.shop', [{ servicePort: 80, targetPort: 1, appProtocol: 'unknown' }]]]) }))
    const backends = [['new.shop', 9], ['api.shop', 1]].map(([hostname, weight]) => ({ service: { namespace: 'shop', hostname: String(hostname) }, port: 80, weight: Number(weight) }))
    const split = { ...sticky(), action: { t: 'forward' as const, backends } }
    const { headers } = await w.get({ rule: split })
    const [cookie = ''] = (headers?.get('set-cookie') ?? '').split(';')
    expect(w.forwarder.sessionBackend(split, plainHead([['cookie', cookie]]))).toBe(backends[1])
    expect(w.forwarder.sessionBackend(split, plainHead([]))).toBeUndefined()
    expect(w.forwarder.sessionBackend(rule(), plainHead([['cookie', cookie]]))).toBeUndefined()
  })
})

const hashing = (by: Extract<LoadBalancer, { kind: 'consistentHash' }>['by']): LoadBalancer => ({ kind: 'consistentHash', by, algorithm: 'ring', size: 1024 })

describe('a consistent hash', () => {
  it.each([
    ['a header', { kind: 'header', name: 'X-User' } as const, (i: number) => ({ headers: [['x-user', `u${i}`]] as const })],
    ['a query parameter', { kind: 'query', name: 'user' } as const, (i: number) => ({ path: `/?user=u${i}` })],
    ['a client\'s address', { kind: 'sourceIp' } as const, (i: number) => ({ address: `10.0.0.${i}` })],
  ])('of %s gives the same to the same, and spreads the others', async (_, by, ask) => {
    const w = world()
    await four(w)
    w.policy({ loadBalancer: hashing(by) })
    const found = new Set<string>()
    for (let i = 0; i < 24; i++) {
      const { body } = await w.get(ask(i))
      found.add(body)
      expect((await w.get(ask(i))).body).toBe(body)
    }
    expect(found.size).toBe(4)
  })

  it('of a cookie gives the client one that it has not', async () => {
    const w = world()
    await four(w)
    w.policy({ loadBalancer: hashing({ kind: 'cookie', name: 'user', ttlMs: 60_000 }) })
    const cookies = new Map<string, string>()
    const first = await browser(w, cookies, rule())
    expect(cookies.has('user')).toBe(true)
    for (let i = 0; i < 6; i++) expect(await browser(w, cookies, rule())).toBe(first)
  })

  it('is what a service with sessionAffinity gets', async () => {
    const w = world()
    await four(w)
    w.store.apply({ services: [service('unknown', { sessionAffinity: { kind: 'clientIp', timeoutSeconds: 60 } })] })
    const first = await w.get({ address: '10.9.9.9' })
    for (let i = 0; i < 8; i++) expect((await w.get({ address: '10.9.9.9' })).body).toBe(first.body)
  })
})
