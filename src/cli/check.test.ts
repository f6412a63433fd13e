import { afterEach, expect, test } from 'vitest'
import type { Feature } from '../model/feature.ts'
import { checkCommand, featureTable } from './check.ts'

const good: Feature = { name: 'BTF', status: 'pass', found: 'there', why: 'fits the programs' }
const slow: Feature = { name: 'BPF JIT', status: 'warn', found: 'off', why: 'speed', fix: 'Turn it on.' }
const bad: Feature = { name: 'cgroup2', status: 'fail', found: 'not mounted', why: 'hooks attach there', fix: 'Mount it.' }
const note: Feature = { name: 'kernel TLS', status: 'info', found: 'not loaded', why: 'not needed' }

afterEach(() => {
  process.exitCode = undefined
})

async function run(features: readonly Feature[], ...args: string[]): Promise<string> {
  let printed = ''
  const command = checkCommand(async () => features, async () => [bad], (text) => (printed += text)).exitOverride()
  command.configureOutput({ writeErr: () => {} })
  await command.parseAsync(args, { from: 'user' })
  return printed
}

test('the table is aligned, and what did not pass has its remedy below', () => {
  expect(featureTable([good, slow, bad, note])).toBe(`pass  BTF         there        fits the programs
warn  BPF JIT     off          speed
                  -> Turn it on.
fail  cgroup2     not mounted  hooks attach there
                  -> Mount it.
info  kernel TLS  not loaded   not needed

1 pass, 1 warn, 1 fail. Sidestep cannot run here.`)
})

test('a warning is no reason to fail', async () => {
  expect(await run([good, slow, note])).toContain('1 pass, 1 warn, 0 fail. Sidestep can run here.')
  expect(process.exitCode).toBeUndefined()
})

test('a fail sets the exit code', async () => {
  await run([good, bad])
  expect(process.exitCode).toBe(1)
})

test('-o json is the rows and the verdict', async () => {
  expect(JSON.parse(await run([good, bad], '-o', 'json'))).toEqual({ ok: false, features: [good, bad] })
})

test('another form is refused', async () => {
  await expect(run([good], '-o', 'xml')).rejects.toMatchObject({ code: 'commander.invalidArgument' })
})
