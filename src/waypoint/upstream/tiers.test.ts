// The choice among tiers of endpoints: never one that may not be used, one that was tried only where there is nobody else, and
// always somebody where somebody may be used.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { LoadBalancer } from '../../model/route.ts'
import { Tiers } from './tiers.ts'
import type { TieredEndpoint } from './tiers.ts'
import { World, workload } from './testing.ts'

const balancers: readonly LoadBalancer[] = [
  { kind: 'roundRobin' }, { kind: 'random' }, { kind: 'leastRequest' }, { kind: 'peakEwma' },
  { kind: 'consistentHash', by: { kind: 'sourceIp' }, algorithm: 'ring', size: 256 }, { kind: 'consistentHash', by: { kind: 'sourceIp' }, algorithm: 'maglev', size: 251 },
]

const endpoint = fc.record({ weight: fc.integer({ min: 1, max: 9 }), tier: fc.integer({ min: 0, max: 3 }), isUsable: fc.boolean() })
const picks = fc.array(fc.record({ hash: fc.option(fc.nat(2 ** 32 - 1), { nil: undefined }), tried: fc.option(fc.uniqueArray(fc.nat(11)), { nil: undefined }), random: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }) }), { maxLength: 12 })

describe('tiers', () => {
  it('choose who may be used, whatever the balancer', () => {
    fc.assert(fc.property(fc.constantFrom(...balancers), fc.array(endpoint, { maxLength: 12 }), picks, (loadBalancer, drawn, asked) => {
      let random = 0
      const tiers = new Tiers<TieredEndpoint>({ loadBalancer, slowStartMs: 0, random: () => random })
      const endpoints = drawn.map((each, i) => ({ ...each, id: `e${i}` }))
      tiers.update(endpoints)
      const usable = endpoints.filter(({ isUsable }) => isUsable)
      expect(tiers.usable).toBe(usable.length)
      for (const { hash, tried, random: next } of asked) {
        random = next
        const names = tried && new Set(tried.map((i) => `e${i}`))
        const found = tiers.pick(0, hash, names)
        if (usable.length === 0) expect(found).toBeUndefined()
        else {
          expect(found?.isUsable).toBe(true)
          if (usable.some(({ id }) => names?.has(id) !== true)) expect(names?.has(found?.id ?? '')).not.toBe(true)
        }
      }
    }))
  })

  it('send to the nearest while it is well, and beyond as it is not', () => {
    fc.assert(fc.property(fc.integer({ min: 3, max: 10 }), fc.nat(10), (size, ill) => {
      const tiers = new Tiers<TieredEndpoint>({ loadBalancer: { kind: 'random' }, slowStartMs: 0, random: Math.random })
      const near = Array.from({ length: size }, (_, i) => ({ id: `n${i}`, weight: 1, tier: 0, isUsable: i >= ill }))
      tiers.update([...near, ...near.map((each) => ({ ...each, id: `far-${each.id}`, tier: 3, isUsable: true }))])
      let far = 0
      for (let i = 0; i < 400; i++) if (tiers.pick(0, undefined, undefined)?.tier === 3) far++
      const expected = Math.max(0, 1 - (1.4 * Math.max(0, size - ill)) / size)
      expect(Math.abs(far / 400 - expected)).toBeLessThan(0.15)
    }), { numRuns: 40 })
  })
})

it('a new endpoint begins with little', async () => {
  const w = new World()
  w.policy({ loadBalancer: { kind: 'random' }, slowStartMs: 600_000 })
  const asked = { old: 0, new: 0 }
  await w.backend('old', (_, res) => {
    asked.old++
    res.end()
  })
  await w.get()
  await w.backend('new', (_, res) => {
    asked.new++
    res.end()
  })
  for (let i = 0; i < 200; i++) await w.get()
  expect(asked.new).toBeLessThan(60)
  w.policy({ loadBalancer: { kind: 'random' }, slowStartMs: 0 })
  const before = asked.new
  for (let i = 0; i < 100; i++) await w.get()
  expect(asked.new - before).toBeGreaterThan(25)
  w.add(workload('old', 1, { isHealthy: false }))
  await w.close()
})
