import { expect, test } from 'vitest'
import { systemClock } from '../../../core/clock.ts'
import { HandClock } from '../testing.ts'
import { LineBatch } from './line-batch.ts'

test('lines come in order, many at once, none twice and none lost', () => {
  const written: string[] = []
  const batch = new LineBatch((lines) => written.push(lines), new HandClock())
  const line = `${'x'.repeat(1_000)}\n`
  for (let i = 0; i < 100; i++) batch.add(`${i} ${line}`)
  expect(written.length).toBe(3)
  batch.flush()
  batch.flush()
  expect(written).toHaveLength(4)
  expect(written.join('').split('\n').slice(0, -1).map((text) => Number.parseInt(text, 10))).toEqual(Array.from({ length: 100 }, (_, i) => i))
})

test('one line does not wait for others', async () => {
  const written = Promise.withResolvers<string>()
  new LineBatch(written.resolve, systemClock, 5).add('one\n')
  expect(await written.promise).toBe('one\n')
})
