import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'

const dir = mkdtempSync(join(tmpdir(), 'sidestep-preflight-'))
afterAll(() => rmSync(dir, { recursive: true }))

const hybrid = file('hybrid', 'tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n')
const v1only = file('v1only', 'cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n')
const btf = file('btf', 'BTF')

function file(name: string, text: string): string {
  const path = join(dir, name)
  writeFileSync(path, text)
  return path
}

const good = { uid: '0', os: 'Linux', machine: 'x86_64', btf, mounts: hybrid }

function preflight(changes: Partial<typeof good>): { status: number | null; stderr: string } {
  const { uid, os, machine, btf: types, mounts } = { ...good, ...changes }
  const script = `set -eu; . "$0"; preflight "$@"`
  const args = ['-c', script, join(import.meta.dirname, 'preflight.sh'), uid, os, machine, types, mounts]
  const { status, stderr } = spawnSync('bash', args, { encoding: 'utf8' })
  return { status, stderr }
}

test('a fitting machine passes silently', () => {
  expect(preflight({})).toEqual({ status: 0, stderr: '' })
  expect(preflight({ machine: 'aarch64' })).toEqual({ status: 0, stderr: '' })
})

test.each([
  ['another system', { os: 'Darwin' }, 'Darwin', 'Linux machine'],
  ['not root', { uid: '1000' }, 'Not root', 'sudo'],
  ['another processor', { machine: 'riscv64' }, 'riscv64', 'x86_64'],
  ['no BTF', { btf: '/nonexistent/vmlinux' }, '/nonexistent/vmlinux is missing', 'CONFIG_DEBUG_INFO_BTF'],
  ['no cgroup2', { mounts: v1only }, 'No cgroup2', 'mount -t cgroup2'],
])('%s is one sentence with what to do', (_, changes, what, remedy) => {
  const { status, stderr } = preflight(changes)
  expect(status).toBe(1)
  expect(stderr).toContain(what)
  expect(stderr).toContain(remedy)
  expect(stderr.trim().split('\n')).toHaveLength(1)
})
