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
  links: ['lo', 'eth0'],
  pins: [],
  cniFiles: [],
  kubeProxyMode: undefined,
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

describe('neighbours', () => {
  const connect = (name: string) => [{ hook: 'connect4', id: 7, name }, { hook: 'connect6', id: 8, name }]

  test.each<readonly [row: string, status: string, found: string, advice: string | undefined, Partial<HostFacts>]>([
    ['Cilium', 'warn', 'balances at sockets (connect4, connect6)', 'socketLB.hostNamespaceOnly=true', { attached: connect('cil_sock4_conne') }],
    ['Cilium', 'pass', 'balances at links (tc)', undefined, { links: ['lo', 'cilium_host', 'cilium_net'] }],
    ['Cilium', 'pass', 'balances at links (tc)', undefined, { cniFiles: ['05-cilium.conflist'] }],
    ['Cilium', 'warn', 'balances at links (tc), moves the CNI files of others away', 'cni.exclusive=false', { pins: ['cilium_call_policy'], cniFiles: ['10-a.conflist.cilium_bak'] }],
    ['Calico', 'warn', 'eBPF, balances at sockets (connect4, connect6)', 'bpfConnectTimeLoadBalancing', { attached: connect('calico_connect_') }],
    ['Calico', 'pass', 'eBPF, balances at links (tc)', undefined, { links: ['bpfin.cali', 'bpfout.cali', 'cali1234'] }],
    ['Calico', 'pass', 'iptables or nftables', undefined, { links: ['cali1234', 'tunl0'] }],
    ['kube-proxy', 'info', 'mode nftables', undefined, { kubeProxyMode: 'nftables' }],
    ['kube-proxy', 'info', 'mode ipvs', undefined, { links: ['kube-ipvs0'] }],
    ['kube-proxy', 'info', 'does not answer here', undefined, {}],
  ])('%s: %s, %s', (name, status, found, advice, changes) => {
    const row = rowOf(name, changes)
    expect(row).toMatchObject({ status, found })
    if (advice === undefined) expect(row.fix).toBeUndefined()
    else expect(row.fix).toContain(advice)
  })

  test('that are not there have no row', () => {
    expect(features(fit).map(({ name }) => name)).not.toEqual(expect.arrayContaining([expect.stringMatching(/Cilium|Calico/)]))
  })

  test('a hook of theirs elsewhere is no matter', () => {
    expect(rowOf('Cilium', { links: ['cilium_host'], attached: [{ hook: 'sock_create', id: 1, name: 'cil_x' }] })).toMatchObject({ status: 'pass' })
  })
})
