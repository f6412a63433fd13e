import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { createServer } from 'node:http'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { findCgroup2 } from './cgroup.ts'
import { askedQuestions } from './features.ts'
import { askKubeProxy, parseCapabilities, parseHardLimit, parseMounts, readHostFacts, surveyHost } from './host-facts.ts'
import { native } from './native.ts'

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

test('the addon answers every question that the table asks, and no other', async () => {
  const answers = await native().probeKernel()
  expect(Object.keys(answers).sort()).toEqual([...askedQuestions].sort())
})

test('this machine, on which the tests run, has what Sidestep needs', async () => {
  expect((await surveyHost()).filter((feature) => feature.status === 'fail')).toEqual([])
})

test('listing the programs of what is no cgroup is an error with its call', () => {
  expect(() => native().cgroupPrograms('/nonexistent')).toThrow(expect.objectContaining({ code: 'SYSCALL_FAILED' }))
})

test('asking leaves no descriptor behind', async () => {
  const count = (): number => readdirSync('/proc/self/fd').length
  await native().probeKernel()
  const before = count()
  await Promise.all([native().probeKernel(), native().probeKernel()])
  native().cgroupPrograms(findCgroup2())
  expect(count()).toBe(before)
})

test.each([['nftables', 200, 'nftables'], ['nftables', 404, undefined], ['<html>', 200, undefined], ['x'.repeat(1000), 200, undefined]])(
  'kube-proxy that says %s with %d', async (text, status, mode) => {
    const server = createServer((_, response) => response.writeHead(status).end(text)).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const address = server.address()
    expect(await askKubeProxy(typeof address === 'object' ? address?.port : 0)).toBe(mode)
    server.close()
    await once(server, 'close')
    expect(await askKubeProxy(typeof address === 'object' ? address?.port : 0)).toBeUndefined()
  })
