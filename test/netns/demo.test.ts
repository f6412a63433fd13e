// `npm start` as a newcomer meets it: the example shop comes up, keeps what it claims, and leaves the machine as it was.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { leftoversSince, snapshotMachine } from '../helpers/bpf-leftovers.ts'
import { uniqueName } from '../helpers/instances.ts'

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

test('the demo shows live rates until it is interrupted, and then leaves nothing behind', async () => {
  const before = await snapshotMachine()
  const { child, output } = start(['--name', uniqueName('demo')])
  const closed = once(child, 'close')
  while (!/CAPTURED POD/.test(output()) && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 100))
  expect(output()).toContain('Things to try')
  child.kill('SIGINT')
  expect((await closed)[0]).toBe(0)
  expect(output()).toContain('nothing is left')
  expect(await leftoversSince(before)).toEqual([])
})
