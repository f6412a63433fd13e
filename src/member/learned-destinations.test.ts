import fc from 'fast-check'
import { expect, test } from 'vitest'
import { LearnedDestinations } from './learned-destinations.ts'
import type { OutsideSeen } from './learned-destinations.ts'

const seen = (parts: Partial<OutsideSeen> = {}): OutsideSeen => ({
  namespace: 'shop', serviceAccount: 'web', address: '203.0.113.1', port: 443, protocol: 'tcp', allowed: true, ...parts,
})

function learned(limits: { maxNamespaces?: number; maxDestinations?: number } = {}): { readonly list: LearnedDestinations; at: number } {
  const time = { at: 1 }
  return Object.assign(time, { list: new LearnedDestinations({ clock: { nowMs: () => time.at }, ...limits }) })
}

test('one destination is one entry, with the last word about it', () => {
  const state = learned()
  state.list.saw(seen({ host: 'API.example.com.', protocol: 'http' }))
  state.at = 5
  state.list.saw(seen({ host: 'api.example.com', protocol: 'tls', allowed: false, serviceAccount: 'job' }))
  expect(state.list.list()).toEqual([{
    namespace: 'shop', serviceAccount: 'job', host: 'api.example.com', address: '203.0.113.1', port: 443, protocol: 'tls', count: 2, firstSeenMs: 1, lastSeenMs: 5, verdict: 'denied',
  }])
  for (const other of [{ port: 80 }, { namespace: 'bank' }, {}]) state.list.saw(seen({ host: 'api.example.com', ...other }))
  state.list.saw(seen())
  expect([state.list.size, state.list.list().map(({ count }) => count)]).toEqual([4, [1, 1, 3, 1]])
})

test('what is no name is not kept as one', () => {
  for (const host of ['', '.', 'a..b', '-a', 'a b', 'a\u001b[31m', 'a\n', '*.example.com', `${'a'.repeat(254)}`, 'é', '1.2.3', 'a/b', '"', 'egress-1.invalid']) {
    const { list } = learned()
    list.saw(seen({ host }))
    expect(list.list()).toMatchObject([{ address: '203.0.113.1' }])
    expect(list.list()[0]?.host).toBeUndefined()
    list.saw(seen({ host, address: undefined, port: 1 }))
    expect(list.size).toBe(1)
  }
  const { list } = learned()
  for (const host of ['[2001:DB8:0::1]', '192.0.2.9']) list.saw(seen({ host, address: undefined }))
  expect(list.list().map(({ host, address }) => [host, address])).toEqual([[undefined, '2001:db8::1'], [undefined, '192.0.2.9']])
})

test('a namespace that asks for everything costs the others nothing', () => {
  const { list } = learned({ maxDestinations: 3 })
  list.saw(seen({ namespace: 'bank' }))
  for (let i = 0; i < 100; i++) list.saw(seen({ host: `h${i}.example.com` }))
  expect(list.list().map(({ namespace, host }) => `${namespace} ${host ?? '-'}`)).toEqual(['bank -', 'shop h97.example.com', 'shop h98.example.com', 'shop h99.example.com'])
})

test('whatever comes: bounds hold, the size is true, and what stays is what was used last', () => {
  const event = fc.record({
    namespace: fc.constantFrom('a', 'b', 'c', 'd'), host: fc.option(fc.oneof(fc.constantFrom('x.org', 'y.org', 'z.org', 'w.org'), fc.string({ maxLength: 300 })), { nil: undefined }),
    address: fc.option(fc.ipV4(), { nil: undefined }), port: fc.integer({ min: 1, max: 3 }), allowed: fc.boolean(),
  })
  fc.assert(fc.property(fc.array(event, { maxLength: 200 }), (events) => {
    const state = learned({ maxNamespaces: 3, maxDestinations: 4 })
    let order: string[] = []
    for (const each of events) {
      state.at++
      const before = state.list.list().length
      state.list.saw(seen(each))
      const all = state.list.list()
      expect(state.list.size).toBe(all.length)
      const newest = all.filter(({ lastSeenMs }) => lastSeenMs === state.at)
      if (newest.length === 0) {
        expect(all.length).toBe(before)
        continue
      }
      expect(newest).toMatchObject([{ namespace: each.namespace, port: each.port, verdict: each.allowed ? 'allowed' : 'denied' }])
      order = [...order.filter((name) => name !== each.namespace), each.namespace].slice(-3)
      expect([...new Set(all.map(({ namespace }) => namespace))]).toEqual(order)
      for (const name of order) {
        const times = all.filter(({ namespace }) => namespace === name).map(({ lastSeenMs }) => lastSeenMs)
        expect(times.length).toBeLessThanOrEqual(4)
        expect(times).toEqual(times.toSorted((a, b) => a - b))
      }
    }
    for (const { host } of state.list.list()) expect(host ?? 'x').toMatch(/^[a-z0-9._-]{1,253}$/)
  }))
})
