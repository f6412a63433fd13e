import { readFileSync, readdirSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { Feature } from '../model/feature.ts'
import { isUsable } from '../model/feature.ts'
import type { HostFacts } from './features.ts'
import { askedQuestions, features } from './features.ts'

const { EINVAL, EOPNOTSUPP, EPERM } = constants.errno
const answers = Object.fromEntries(askedQuestions.map((question) => [question, 0]))

/** A Debian 12 machine with everything. */
const fit: HostFacts = {
  release: '6.1.0-31-amd64',
  machine: 'x86_64',
  hasBtf: true,
  cgroup2: '/sys/fs/cgroup',
  hasCgroupV1: false,
  bpffs: '/sys/fs/bpf',
  capabilities: 0x1ff_ffff_ffffn,
  openFilesLimit: 1_048_576,
  memlockLimitBytes: 8 << 20,
  bpfJit: 1,
  hasFwmarkAccept: true,
  ulps: ['mptcp', 'tls'],
  answers,
  attached: [],
}

function rowOf(name: string, changes: Partial<HostFacts>): Feature {
  const found = features({ ...fit, ...changes }).find((feature) => feature.name === name)
  if (found === undefined) throw new Error(`no row ${name}`)
  return found
}

test('a fit machine passes everything', () => {
  expect(features(fit).filter((feature) => !['pass', 'info'].includes(feature.status))).toEqual([])
})

test('rows have names of their own, and a remedy exactly where one is needed', () => {
  const bare: HostFacts = { ...fit, hasBtf: false, cgroup2: undefined, bpffs: undefined, capabilities: 0n, openFilesLimit: 0,
    memlockLimitBytes: 0, bpfJit: undefined, hasFwmarkAccept: false, ulps: [], answers: {}, release: '4.9.0' }
  const rows = features(bare)
  expect(new Set(rows.map((each) => each.name)).size).toBe(rows.length)
  for (const { name, status, fix } of [...rows, ...features(fit)]) {
    expect([name, status === 'warn' || status === 'fail']).toEqual([name, fix !== undefined])
  }
  expect(isUsable(rows)).toBe(false)
})

describe('host rows', () => {
  test.each<readonly [row: string, status: string, found: string, Partial<HostFacts>]>([
    ['BTF', 'fail', 'missing', { hasBtf: false }],
    ['cgroup2', 'fail', 'not mounted; v1 only', { cgroup2: undefined, hasCgroupV1: true }],
    ['cgroup2', 'pass', 'hybrid with v1, at /sys/fs/cgroup/unified', { cgroup2: '/sys/fs/cgroup/unified', hasCgroupV1: true }],
    ['cgroup2', 'pass', 'unified, at /sys/fs/cgroup', {}],
    ['bpffs', 'warn', 'not mounted', { bpffs: undefined }],
    ['capabilities', 'fail', 'without CAP_BPF', { capabilities: fit.capabilities & ~(1n << 39n) }],
    ['capabilities', 'pass', 'all needed', { capabilities: fit.capabilities & ~(1n << 24n) }],
    ['open files', 'warn', '20000 a process', { openFilesLimit: 20_000 }],
    ['memlock', 'fail', '8192 KiB', { release: '5.10.0' }],
    ['memlock', 'pass', 'unlimited', { release: '5.10.0', memlockLimitBytes: Infinity }],
    ['BPF JIT', 'warn', 'bpf_jit_enable = 0', { bpfJit: 0 }],
    ['tcp_fwmark_accept', 'fail', 'missing', { hasFwmarkAccept: false }],
    ['kernel TLS', 'info', 'not loaded', { ulps: [] }],
  ])('%s: %s, %s', (name, status, found, changes) => {
    expect(rowOf(name, changes)).toMatchObject({ status, found })
  })
})

describe('probed rows', () => {
  test('name what is missing, with its errno and the release that brought it', () => {
    const row = rowOf('connect hooks', { answers: { ...answers, 'program/connect6': EINVAL } })
    expect(row).toMatchObject({ status: 'fail', found: 'connect6: EINVAL' })
    expect(row.fix).toContain('4.17')
  })

  test('what only helps is a warning', () => {
    const row = rowOf('sk_msg', { answers: { ...answers, 'helper/sk_msg/redirect_hash': EOPNOTSUPP } })
    expect(row).toMatchObject({ status: 'warn', found: expect.stringMatching(/^sk_msg\/redirect_hash: E(OPNOTSUPP|NOTSUP)$/) })
  })

  test('being refused the question is told apart from a kernel without it', () => {
    const row = rowOf('sk_lookup', { answers: { ...answers, 'program/sk_lookup': EPERM } })
    expect(row.fix).toContain('does not let this process ask')
  })

  test('a question that was not asked is not passed', () => {
    expect(rowOf('sockhash', { answers: {} })).toMatchObject({ status: 'fail', found: 'sockhash: not asked' })
  })
})

describe('other programs', () => {
  test('of other meshes are named', () => {
    const row = rowOf('other programs', { attached: [{ hook: 'connect4', id: 7, name: 'cil_sock4_conne' }] })
    expect(row).toMatchObject({ status: 'warn', found: 'connect4: cil_sock4_conne (id 7, Cilium)' })
  })

  test('without a name are shown by id', () => {
    expect(rowOf('other programs', { attached: [{ hook: 'sockops', id: 8, name: '' }] }).found).toBe('sockops: unnamed (id 8)')
  })

  test('of Sidestep are counted only; every cgroup program in bpf/ is known by name', () => {
    const bpf = join(import.meta.dirname, '../../bpf')
    const sources = readdirSync(bpf).filter((name) => name.endsWith('.bpf.c')).map((name) => readFileSync(join(bpf, name), 'utf8'))
    const functions = sources.flatMap((text) => [...text.matchAll(/^SEC\("(?:cgroup\/\w+|sockops)"\)\nint (\w+)/gm)])
    const attached = functions.map(([, name = ''], i) => ({ hook: 'connect4', id: i + 1, name: name.slice(0, 15) }))
    expect(attached.length).toBeGreaterThanOrEqual(10)
    expect(rowOf('other programs', { attached })).toMatchObject({ status: 'pass', found: `none (${attached.length} of Sidestep)` })
  })
})
