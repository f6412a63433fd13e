// The command line from start to end: up, a second up, status, exec, logs, run, down; and the worst case, a daemon that
// is killed outright, after which `down` (or the next `up`) must leave nothing and touch nothing else.
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { parse } from 'yaml'
import { runCommand, type CommandOptions, type CommandResult } from '../../src/local/command.ts'
import { identify, isAlive } from '../../src/local/process-identity.ts'
import { localStatusSchema } from '../../src/model/local-status.ts'
import { eventually, hostState, meshed, namespaceYaml, podYaml, processesIn, uniqueName } from '../helpers/world.ts'

const program = fileURLToPath(new URL('../../src/bin/sidestep.ts', import.meta.url))
let name = ''
let directory = ''

beforeEach(() => {
  name = uniqueName()
  directory = mkdtempSync(join(tmpdir(), 'sidestep-cli-'))
})
afterEach(async () => {
  await sidestep(['down'])
  rmSync(directory, { recursive: true })
})

/** `--name` belongs before any `--`, so it goes right behind the command. */
function sidestep([verb = '', ...args]: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
  return runCommand([process.execPath, program, verb, '--name', name, ...args], { timeoutMs: 50_000, ...options })
}

interface Facts {
  readonly daemonPid: number
  readonly namespaces: ReadonlySet<string>
}

/** Who runs the mesh, and in which network namespaces its processes are. */
function facts(): Facts {
  const state = `/run/sidestep/${name}`
  const { process: daemon } = JSON.parse(readFileSync(`${state}/daemon.json`, 'utf8')) as { process: { pid: number } }
  const holders = readdirSync(`${state}/processes`)
    .map((file) => JSON.parse(readFileSync(`${state}/processes/${file}`, 'utf8')) as { identity: { pid: number }; role: string })
  return { daemonPid: daemon.pid, namespaces: new Set(holders.map(({ identity }) => readlinkSync(`/proc/${identity.pid}/ns/net`))) }
}

async function expectNothingLeft(before: Awaited<ReturnType<typeof hostState>>, { namespaces }: Facts): Promise<void> {
  await eventually(() => expect(processesIn(namespaces)).toEqual([]))
  expect(existsSync(`/run/sidestep/${name}`)).toBe(false)
  const pins = '/sys/fs/bpf/sidestep'
  expect(existsSync(pins) ? readdirSync(pins).filter((pin) => pin.startsWith(`${name}-`)) : []).toEqual([])
  await eventually(async () => expect(await hostState()).toEqual(before))
}

test('a mesh by hand: up, look, work, down', async () => {
  writeFileSync(join(directory, 'a.yaml'), podYaml('web', { namespace: 'shop', command: ['sh', '-c', 'echo one; echo two; echo err >&2; sleep infinity'] }))
  const before = await hostState()
  const up = await sidestep(['up', directory, '--no-mesh', '--nodes', '1'])
  expect([up.stderr, up.code]).toEqual(['', 0])
  expect(up.stdout).toMatch(/pods ready: 1 of 1[^]*shop +web +node-a +10\.244\.1\.2 +Running +yes/)
  const made = facts()

  const second = await sidestep(['up', directory, '--no-mesh'])
  expect([second.code, second.stderr]).toEqual([1, expect.stringContaining('ALREADY_RUNNING')])

  const status = localStatusSchema.parse(JSON.parse((await sidestep(['status', '-o', 'json'])).stdout))
  expect(status).toMatchObject({ name, ready: true, pods: [{ namespace: 'shop', name: 'web', phase: 'Running' }] })
  expect(localStatusSchema.parse(parse((await sidestep(['status', '-o', 'yaml'])).stdout)).pods).toHaveLength(1)

  expect(await sidestep(['exec', 'shop/web', '--', 'sh', '-c', 'cat; hostname; exit 9'], { input: 'in ' })).toEqual({ code: 9, stdout: 'in web\n', stderr: '' })
  expect(await sidestep(['exec', 'shop/ghost', '--', 'true'])).toMatchObject({ code: 1, stderr: expect.stringContaining('no pod shop/ghost') })
  expect((await sidestep(['logs', 'shop/web', '-c', 'main'])).stdout.split('\n').sort()).toEqual(['', 'err', 'one', 'two'])
  expect((await sidestep(['logs', 'shop/web', '--tail', '1'])).stdout.split('\n')).toHaveLength(2)

  const run = await sidestep(['run', 'job', '--namespace', 'shop', '--node', 'node-a', '--rm', '--', 'sh', '-c', 'hostname; sleep 0.2; echo done; exit 5'])
  expect(run).toEqual({ code: 5, stdout: 'job\ndone\n', stderr: '' })
  await eventually(async () => expect((await sidestep(['status', '-o', 'json'])).stdout).not.toContain('"job"'))

  const down = await sidestep(['down'])
  expect([down.stderr, down.code]).toEqual(['', 0])
  await expectNothingLeft(before, made)
  expect((await sidestep(['down'])).stdout).toContain('nothing to do')
  expect((await sidestep(['status'])).stderr).toContain('no mesh named')
})

test('logs -f shows lines as they come and ends with the pod', async () => {
  writeFileSync(join(directory, 'a.yaml'), podYaml('ticker', { command: ['sh', '-c', 'while :; do echo tick; sleep 0.1; done'] }))
  expect((await sidestep(['up', directory, '--no-mesh', '--nodes', '1'])).code).toBe(0)
  const follow = spawn(process.execPath, [program, 'logs', '--name', name, '-f', 'default/ticker'], { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  follow.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()))
  await eventually(() => expect(text.split('tick').length).toBeGreaterThan(5))
  const ended = new Promise((resolve) => follow.on('exit', resolve))
  rmSync(join(directory, 'a.yaml'))
  expect(await ended).toBe(0)
})

test.each([['down'], ['up']])('after kill -9 of the daemon, %s leaves nothing of it', async (next) => {
  writeFileSync(join(directory, 'a.yaml'), [
    namespaceYaml('shop', meshed),
    podYaml('in', { namespace: 'shop', command: ['sh', '-c', '(setsid sleep 1000 &); sleep 1000'] }),
    podYaml('out', {}),
  ].join('---\n'))
  const before = await hostState()
  // A process that is not the mesh's, in a namespace of its own: it must survive.
  const bystander = spawn('unshare', ['--net', 'sleep', '1000'], { stdio: 'ignore' })
  try {
    const up = await sidestep(['up', directory])
    expect([up.stderr, up.code]).toEqual(['', 0])
    const made = facts()
    process.kill(made.daemonPid, 'SIGKILL')
    await eventually(() => expect(existsSync(`/proc/${made.daemonPid}/exe`)).toBe(false))
    const orphans = processesIn(made.namespaces).flatMap((pid) => identify(pid) ?? [])
    expect(orphans.length).toBeGreaterThan(5)
    if (next === 'up') {
      expect((await sidestep(['up', directory, '--no-mesh'])).code).toBe(0)
      // By process, not by namespace: the kernel gives the number of a namespace that is gone to the next one.
      expect(orphans.filter(isAlive)).toEqual([])
      const again = facts()
      expect((await sidestep(['down'])).code).toBe(0)
      await expectNothingLeft(before, again)
    } else {
      const down = await sidestep(['down'])
      expect([down.stderr, down.code]).toEqual(['', 0])
    }
    await expectNothingLeft(before, made)
    expect(bystander.exitCode).toBeNull()
  } finally {
    bystander.kill('SIGKILL')
  }
})

test('a start that fails says why and leaves nothing', async () => {
  const up = await sidestep(['up', join(directory, 'nowhere'), '--no-mesh'])
  expect([up.code, up.stderr]).toEqual([1, expect.stringContaining('nowhere')])
  expect(existsSync(`/run/sidestep/${name}`)).toBe(false)
  const bad = await runCommand([process.execPath, program, 'up', directory, '--name', '../x'])
  expect([bad.code, bad.stderr]).toEqual([1, expect.stringContaining('lower-case letters')])
})
