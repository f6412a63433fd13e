import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { runCommand, mustRun } from './command.ts'
import { endProcess, identify, isAlive, signal, waitForEnd } from './process-identity.ts'
import { lockInstance, readProcessRecords, statePaths, writeRecord } from './state.ts'

test('a process is itself only with its start time and boot; others are never signalled', async () => {
  const child = spawn('sleep', ['100'])
  const identity = identify(child.pid ?? 0)
  if (!identity) throw new Error('not running')
  expect(isAlive(identity)).toBe(true)
  for (const wrong of [{ ...identity, startTime: '1' }, { ...identity, bootId: 'another' }]) {
    expect([isAlive(wrong), signal(wrong, 'SIGKILL')]).toEqual([false, false])
  }
  expect(await waitForEnd(identity, 20)).toBe(false)
  await endProcess(identity, 1000)
  expect(isAlive(identity)).toBe(false)
  expect(identify(2 ** 22 + 1)).toBeUndefined()
})

test('what ignores SIGTERM is killed when its time is over', async () => {
  const child = spawn('sh', ['-c', 'trap "" TERM; echo ready; while :; do sleep 0.05; done'])
  await new Promise((resolve) => child.stdout.once('data', resolve))
  const identity = identify(child.pid ?? 0)
  if (!identity) throw new Error('not running')
  await endProcess(identity, 100)
  expect(isAlive(identity)).toBe(false)
})

test('a command gives output and code; limits hold', async () => {
  expect(await runCommand(['sh', '-c', 'cat; echo e >&2; exit 3'], { input: 'i' })).toEqual({ code: 3, stdout: 'i', stderr: 'e\n' })
  expect((await runCommand(['sh', '-c', 'kill -TERM $$'])).code).toBe(143)
  expect((await runCommand(['sleep', '100'], { timeoutMs: 50 })).code).toBe(137)
  expect((await runCommand(['sh', '-c', 'yes | head -c 100000'], { maxOutputBytes: 10 })).stdout).toHaveLength(10)
  await expect(runCommand(['/no/such/program'])).rejects.toMatchObject({ code: 'COMMAND_FAILED' })
  await expect(mustRun(['sh', '-c', 'echo no >&2; exit 1'])).rejects.toMatchObject({ code: 'COMMAND_FAILED', message: expect.stringContaining('no') })
})

test('an instance is held by one at a time, and its name cannot leave its directory', async () => {
  const name = `u${process.pid}`
  const lock = await lockInstance(name)
  await expect(lockInstance(name)).rejects.toMatchObject({ code: 'ALREADY_RUNNING' })
  await lock.release()
  await (await lockInstance(name)).release()
  for (const bad of ['', '..', 'a/b', 'A', 'x'.repeat(33), '-a']) expect(() => statePaths(bad)).toThrow(/mesh name/)
})

test('records of processes are read back; what is broken or half written is passed over', () => {
  const paths = { ...statePaths('x'), processes: mkdtempSync(join(tmpdir(), 'sidestep-state-')) }
  const identity = identify(process.pid)
  if (!identity) throw new Error('not running')
  const record = { identity, role: 'pod', label: 'shop/web' } as const
  writeRecord(join(paths.processes, 'a.json'), record)
  writeFileSync(join(paths.processes, 'b.json'), '{"identity": {"pid": 1')
  writeFileSync(join(paths.processes, 'c.json'), '{"identity": {"pid": 0, "startTime": "1", "bootId": "x"}, "role": "pod", "label": ""}')
  expect(readProcessRecords(paths)).toEqual([record])
  rmSync(paths.processes, { recursive: true })
  expect(readProcessRecords(paths)).toEqual([])
})
