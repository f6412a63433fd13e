import fc from 'fast-check'
import { expect, test } from 'vitest'
import { beginRotation, nextStep, signerOf, trustedBy } from './rotation.ts'
import type { Rotation } from './rotation.ts'

const steady: Rotation = { t: 'steady', root: 'a' }

test('announce, switch, retire', () => {
  const announcing = beginRotation(steady, { next: 'b', nowMs: 0, lastExpiryMs: 100 })
  if (!announcing) throw new Error('did not begin')
  expect([signerOf(announcing), trustedBy(announcing)]).toEqual(['a', ['a', 'b']])
  expect(nextStep(announcing, 99, 150)).toEqual({ t: 'wait', untilMs: 100 })
  const switched = nextStep(announcing, 100, 150)
  if (switched.t !== 'switchSigner') throw new Error(switched.t)
  expect([signerOf(switched.to), trustedBy(switched.to)]).toEqual(['b', ['b', 'a']])
  expect(nextStep(switched.to, 149, 150)).toEqual({ t: 'wait', untilMs: 150 })
  expect(nextStep(switched.to, 150, 150)).toEqual({ t: 'retire', root: 'a', to: { t: 'steady', root: 'b' } })
})

test('the operator may shorten the announcement; a second rotation waits for the first', () => {
  const announcing = beginRotation(steady, { next: 'b', nowMs: 10, lastExpiryMs: 1_000, overlapMs: 5 })
  expect(announcing).toMatchObject({ t: 'announcing', switchAtMs: 15 })
  expect(announcing && beginRotation(announcing, { next: 'c', nowMs: 11, lastExpiryMs: 0 })).toBeUndefined()
  expect(beginRotation(steady, { next: 'a', nowMs: 0, lastExpiryMs: 0 })).toBeUndefined()
})

test('at every moment each valid certificate is trusted by every bundle that a node may still have', () => {
  // Nodes renew some time before expiry; a bundle comes with each certificate and lives as long at the least.
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 50 }), fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 10, maxLength: 60 }), (lifetime, waits) => {
      let rotation: Rotation = steady
      let now = 0
      const lastExpiry: Record<string, number> = {}
      const held: { root: string; bundle: readonly string[]; until: number }[] = []
      for (const [i, wait] of waits.entries()) {
        now += wait
        if (i % 4 === 0) {
          rotation = beginRotation(rotation, { next: `r${i}`, nowMs: now, lastExpiryMs: lastExpiry[rotation.root] ?? 0 }) ?? rotation
        }
        const old = rotation.t === 'retiring' ? rotation.previous : rotation.root
        const step = nextStep(rotation, now, lastExpiry[old] ?? 0)
        if (step.t !== 'wait') rotation = step.to
        held.push({ root: signerOf(rotation), bundle: trustedBy(rotation), until: now + lifetime })
        lastExpiry[signerOf(rotation)] = now + lifetime
        const valid = held.filter((h) => h.until > now)
        for (const one of valid) for (const other of valid) expect(other.bundle).toContain(one.root)
      }
    }),
  )
})
