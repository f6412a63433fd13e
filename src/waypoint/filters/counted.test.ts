import { expect, test } from 'vitest'
import { MeshError } from '../../core/errors.ts'
import { countedAuthorizer, countedFetch } from './counted.ts'
import type { FilterCounters } from './counted.ts'

test('what is asked elsewhere is counted by what became of it, and answered as it is', async () => {
  const told: string[] = []
  const counters = Object.fromEntries(['cache', 'rateLimit', 'limitStore', 'keysFetched', 'providerAsked'].map((name) => [name, (...words: string[]) => told.push([name, ...words].join(' '))])) as unknown as FilterCounters
  const limits = { maxBytes: 1, timeoutMs: 1 } as never
  expect(await countedFetch(async () => 'keys', counters)(new URL('http://issuer'), limits)).toBe('keys')
  const away = new MeshError('CONNECT_REFUSED', 'no')
  await expect(countedFetch(() => Promise.reject(away), counters)(new URL('http://issuer'), limits)).rejects.toBe(away)
  const answers = [{ t: 'allowed', apply: () => {}, answerHeaders: [] }, { t: 'away', detail: 'no' }] as const
  for (const answer of answers) expect(await countedAuthorizer({ check: async () => answer }, counters).check({ name: 'opa' } as never, {} as never)).toBe(answer)
  expect(told).toEqual(['keysFetched ok', 'keysFetched failed', 'providerAsked opa allowed', 'providerAsked opa away'])
})
