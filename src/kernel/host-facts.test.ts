import fc from 'fast-check'
import { expect, test } from 'vitest'
import { parseCapabilities, parseHardLimit, parseMounts, readHostFacts } from './host-facts.ts'

test('mounts, with escaped paths', () => {
  expect(parseMounts('cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\nx /mnt/a\\040b ext4 rw 0 0\n')).toEqual([
    { path: '/sys/fs/cgroup/unified', type: 'cgroup2' },
    { path: '/mnt/a b', type: 'ext4' },
  ])
})

test('effective capabilities', () => {
  expect(parseCapabilities('CapPrm:\t00ff\nCapEff:\t000001fffeffffff\n')).toBe(0x1fffeffffffn)
  expect(parseCapabilities('')).toBe(0n)
})

test('hard limits', () => {
  const limits = 'Limit   Soft Limit  Hard Limit  Units\nMax open files   1024   20000   files\nMax locked memory   1   unlimited   bytes\n'
  expect(parseHardLimit(limits, 'Max open files')).toBe(20_000)
  expect(parseHardLimit(limits, 'Max locked memory')).toBe(Infinity)
  expect(parseHardLimit(limits, 'Max nothing')).toBe(0)
})

test('no text makes the parsers throw', () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      parseMounts(text)
      parseCapabilities(text)
      expect(parseHardLimit(text, 'Max open files')).not.toBeUndefined()
    }),
  )
})

test('an empty machine yields facts, not an exception', async () => {
  const probe = { probeKernel: async () => ({}), cgroupPrograms: () => [] }
  const facts = await readHostFacts(probe, '/nonexistent')
  expect(facts).toMatchObject({ hasBtf: false, cgroup2: undefined, capabilities: 0n, attached: [], bpfJit: undefined })
})
