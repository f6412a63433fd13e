import { describe, expect, it } from 'vitest'
import { diffMachine, differencesFrom, isOwnCommand, type MachineState, snapshotMachine } from './bpf-leftovers.ts'
import { LineProcess } from './line-process.ts'

const empty: MachineState = {
  link: [], qdisc: [], rule: [], route: [], setting: [], namespace: [], mount: [], 'run file': [], pin: [], cgroup: [],
  'bpf link': [], 'bpf program': [], 'bpf map': [], nftables: [], process: [],
}

describe('the difference of two states', () => {
  it('is empty for equal states, whatever their order', () => {
    const before = { ...empty, link: ['lo', 'eth0'], rule: ['a', 'a'] }
    expect(diffMachine(before, { ...empty, link: ['eth0', 'lo'], rule: ['a', 'a'] })).toEqual([])
  })

  it('names what appeared and what vanished, part by part', () => {
    const before = { ...empty, link: ['lo', 'eth0'], setting: ['ip_forward = 0'] }
    const after = { ...empty, link: ['lo', 'veth7'], setting: ['ip_forward = 1'], namespace: ['7 held by 9 pause'] }
    expect(diffMachine(before, after)).toEqual([
      'link vanished: eth0', 'link appeared: veth7', 'setting vanished: ip_forward = 0', 'setting appeared: ip_forward = 1',
      'namespace appeared: 7 held by 9 pause',
    ])
  })

  it('counts entries that are alike', () => {
    expect(diffMachine({ ...empty, mount: ['/x'] }, { ...empty, mount: ['/x', '/x'] })).toEqual(['mount appeared: /x'])
    expect(diffMachine({ ...empty, mount: ['/x', '/x'] }, { ...empty, mount: ['/x'] })).toEqual(['mount vanished: /x'])
  })

  it('leaves out what belongs to others', () => {
    const after = { ...empty, pin: ['/sys/fs/bpf/sidestep/other/maps', '/sys/fs/bpf/sidestep/mine/maps'] }
    expect(diffMachine(empty, after, { ignore: /\/other\// })).toEqual(['pin appeared: /sys/fs/bpf/sidestep/mine/maps'])
  })
})

describe('our processes', () => {
  it.each([
    [['node', '/somewhere/src/bin/sidestep.ts', 'up'], true],
    [['/build/sandbox-pause', 'hold'], true],
    [['sleep', '/run/sidestep/a'], true],
    [['node', '/home/me/sidestep/node_modules/.bin/vitest'], false],
    [['code', '/home/me/sidestep'], false],
    [['vi', '/home/me/sidestep/README.md'], false],
    [[''], false],
  ])('%j: %s', (args, expected) => {
    expect(isOwnCommand(args)).toBe(expected)
  })
})

describe('this machine', () => {
  // Parallel work may come and go here, so only what this test makes is looked at.
  const mine = (lines: readonly string[], pid: number): string[] => lines.filter((line) => line.includes(` ${pid} `))

  it('shows a namespace while its holder lives and not afterwards', async () => {
    const before = await snapshotMachine()
    expect(before.link.some((link) => link.startsWith('lo '))).toBe(true)
    expect(before.rule.length).toBeGreaterThan(0)
    const holder = new LineProcess(['unshare', '--net', 'sh', '-c', 'echo 1; exec sleep 100'])
    await holder.waitFor((line): line is number => line === 1)
    const differences = diffMachine(before, await snapshotMachine())
    expect(mine(differences, holder.pid)).toEqual([expect.stringMatching(/^namespace appeared: \d+ held by \d+ sleep 100$/)])
    await holder.stop()
    expect(mine(await differencesFrom(before, { settleMs: 500 }), holder.pid)).toEqual([])
  })
})
