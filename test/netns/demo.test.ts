// `npm start` as a newcomer meets it: the example shop comes up, keeps what it claims, and leaves the machine as it was.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test, vi } from 'vitest'
import { leftoversSince, snapshotMachine } from '../helpers/bpf-leftovers.ts'
import { uniqueName } from '../helpers/instances.ts'

// Twenty claims with real traffic, on a machine that may have others to serve.
vi.setConfig({ testTimeout: 180_000 })

const program = fileURLToPath(new URL('../../src/bin/sidestep.ts', import.meta.url))

function start(args: readonly string[]): { child: ReturnType<typeof spawn>; output: () => string } {
  const child = spawn(process.execPath, [program, 'demo', ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
  return { child, output: () => text }
}

test('the demo keeps every claim it makes and leaves nothing behind', async () => {
  const before = await snapshotMachine()
  const { child, output } = start(['--check', '--name', uniqueName('demo')])
  const [code] = (await once(child, 'close')) as [number]
  expect(output()).toContain('nothing is left')
  expect(output()).not.toMatch(/^NO /m)
  expect(code).toBe(0)
  expect(await leftoversSince(before)).toEqual([])
})

test('the demo shows who talks to whom until it is interrupted, and then leaves nothing behind', async () => {
  const before = await snapshotMachine()
  const name = uniqueName('demo')
  const { child, output } = start(['--name', name])
  const closed = once(child, 'close')
  const shows = async (what: RegExp): Promise<void> => {
    while (!what.test(output()) && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 100))
    expect(output()).toMatch(what)
  }
  await shows(/the shop serves, \d/)
  const edges = [
    /shop\/frontend +shop\/waypoint +mTLS +\d/, /legacy\/reporter +shop\/stock +plain text +\d/, /shop\/scraper +shop\/payments +mTLS .* by policy/,
    /shop\/frontend +shop\/catalogue-v1 +\d/, /shop\/scraper +shop\/payments +\d+\.\d +\d+\.\d/,
  ]
  for (const edge of edges) await shows(edge)
  for (const word of ['captured', 'encrypted', 'logs', 'metrics', 'config', 'Four things to try']) expect(output()).toContain(word)

  // One of those things, word for word.
  const command = /npm run sidestep -- (replace-ztunnel .*)/.exec(output())?.[1] ?? ''
  const replaced = await run(command.split(' '))
  expect(replaced.text).toMatch(/node-a: ztunnel \d+ serves 3 pods/)
  expect(replaced.code).toBe(0)
  const kill = /kill -9 .*/.exec(output())?.[0] ?? 'no such words'
  const after = /ztunnel (\d+) serves/.exec(replaced.text)?.[1] ?? ''
  expect((await bash(kill)).code).toBe(0)
  await expect.poll(() => existsSync(`/proc/${after}`), { timeout: 5_000 }).toBe(false)
  const unknown = await run(['replace-ztunnel', 'node-z', '--name', name])
  expect(unknown).toMatchObject({ code: 1, text: expect.stringContaining('it has node-a, node-b') as string })

  child.kill('SIGINT')
  expect((await closed)[0]).toBe(0)
  expect(output()).toContain('nothing is left')
  expect(await leftoversSince(before)).toEqual([])
})

test('a reader that goes away ends the demo, and it leaves nothing behind', async () => {
  const before = await snapshotMachine()
  const { child, output } = start(['--name', uniqueName('demo')])
  const closed = once(child, 'close')
  while (!output().includes('pods ready') && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 50))
  child.stdout?.destroy()
  await closed
  expect(await leftoversSince(before)).toEqual([])
})

const run = (args: readonly string[]): ReturnType<typeof outcome> => outcome(process.execPath, [program, ...args])
const bash = (line: string): ReturnType<typeof outcome> => outcome('bash', ['-c', line])

async function outcome(file: string, args: readonly string[]): Promise<{ readonly code: number; readonly text: string }> {
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
  const [code] = (await once(child, 'close')) as [number]
  return { code, text }
}
