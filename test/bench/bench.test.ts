// The bench end to end in its quick form: that it measures both sides, says in what units, and leaves nothing behind. No
// figure is asserted beyond being one: how fast a machine is, is not a test's business.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import { runCommand } from '../../src/local/command.ts'
import { leftoversSince, snapshotMachine } from '../helpers/bpf-leftovers.ts'
import { partNames } from './report.ts'
import type { Report, Row } from './report.ts'
import { inRounds, inTurns, quantile, spreadOf } from './samples.ts'

const program = fileURLToPath(new URL('bench.ts', import.meta.url))
const output = mkdtempSync(join(tmpdir(), 'sidestep-bench-test-'))
afterAll(() => rmSync(output, { recursive: true, force: true }))

describe('samples', () => {
  test('tell their median and their ends, and keep their order', () => {
    expect(spreadOf([3, 1, 2])).toEqual({ median: 2, min: 1, max: 3, samples: [3, 1, 2] })
    expect(quantile([1, 2, 3, 4], 0.5)).toBe(2.5)
    expect(quantile([5], 0.99)).toBe(5)
    expect(quantile([], 0.5)).toBeNaN()
  })

  test('are taken in turns, and neither side always goes first', async () => {
    const order: string[] = []
    const side = (name: string) => async (): Promise<string> => {
      order.push(name)
      return name
    }
    expect(await inTurns(3, side('a'), side('b'))).toEqual(Array.from({ length: 3 }, () => ({ baseline: 'a', measured: 'b' })))
    expect(order.join('')).toBe('abbaab')
  })

  test('of many sides are taken round by round, there and back', async () => {
    const order: string[] = []
    const sides = ['a', 'b', 'c'].map((name) => [name, async () => order.push(name)] as const)
    const rounds = await inRounds(2, sides, () => order.push('|'))
    expect(order.join('')).toBe('|abc|cba')
    expect(rounds.map((round) => round.get('a'))).toEqual([2, 8])
  })
})

const namesOf = (rows: readonly Row[], part: string): string[] => rows.filter((row) => row.part === part).map(({ name }) => name)

test('a quick run measures every part, and its JSON says what the table shows', async () => {
  const before = await snapshotMachine()
  const run = await runCommand([process.execPath, program, '--quick', '--no-fetch', '--output', output], { timeoutMs: 1_200_000 })
  expect(run.stderr).toContain('written to')
  expect(run.code).toBe(0)
  const files = readdirSync(output)
  expect(files).toContain('latest.json')
  expect(files).toHaveLength(2)
  const report = JSON.parse(readFileSync(join(output, 'latest.json'), 'utf8')) as Report

  expect(report.isQuick).toBe(true)
  expect(report.machine).toMatchObject({ node: process.version, commit: expect.any(String) as string })
  expect(report.machine.cores).toBeGreaterThan(0)
  // Between which ends should requests be measured, where Envoy cannot be had?
  const hasRequests = !report.notes.some((note) => note.startsWith('Requests were not measured'))
  for (const part of partNames) expect(namesOf(report.rows, part).length > 0, part).toBe(part !== 'l7' || hasRequests)
  for (const row of report.rows.filter(({ part }) => part === 'l7')) expect(Object.keys(row.setups ?? {}).toSorted(), row.name).toEqual(['envoy', 'mesh', 'nginx'])
  for (const row of report.rows) {
    const spreads = [row.measured, row.baseline, row.ratio, ...Object.values(row.setups ?? {}), ...Object.values(row.ratios ?? {})].filter((spread) => spread !== undefined)
    for (const { median, min, max, samples } of spreads) {
      expect(samples.length, row.name).toBeGreaterThan(0)
      expect(Number.isFinite(median), row.name).toBe(true)
      expect(min <= median && median <= max, row.name).toBe(true)
      // Memory may also shrink between two looks, and a control plane may need no time that a clock of 10 ms shows.
      if (!/memory|growth/.test(row.name) && row.part !== 'kubernetes') expect(min, row.name).toBeGreaterThan(0)
      else if (row.part === 'kubernetes') expect(min, row.name).toBeGreaterThanOrEqual(0)
    }
    expect(row.unit).not.toBe('')
    expect(run.stdout).toContain(row.name)
  }
  expect(report.rows.filter((row) => row.part === 'hooks' && row.baseline && row.ratio).length).toBeGreaterThan(0)
  for (const part of ['throughput', 'pingpong', 'connections', 'memory']) {
    for (const row of report.rows.filter((row) => row.part === part)) {
      expect(Object.keys(row.setups ?? {}), row.name).toEqual(expect.arrayContaining(['passthrough', 'mesh', 'tunnel']))
    }
  }
  for (const setup of ['none', 'passthrough', 'mesh', 'tunnel']) expect(report.bytes[setup], setup).toBeGreaterThan(0)
  expect(await leftoversSince(before)).toEqual([])
  // Building Kubernetes, where nobody did yet, takes most of it.
}, 1_260_000)

test.each([['SIGINT', 130], ['SIGTERM', 143]] as const)('%s in the middle ends it and removes what it made', async (signal, status) => {
  const before = await snapshotMachine()
  const child = spawn(process.execPath, [program, '--quick', '--no-fetch', '--only', 'memory,hooks', '--output', output], { stdio: ['ignore', 'ignore', 'pipe'] })
  let stderr = ''
  const ended = once(child, 'exit') as Promise<[number | null]>
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    // While connections are open, ztunnels run and hooks are attached.
    if (!stderr.includes('50 connections') && (stderr + text).includes('50 connections')) child.kill(signal)
    stderr += text
  })
  expect((await ended)[0], stderr).toBe(status)
  expect(await leftoversSince(before)).toEqual([])
}, 60_000)

test('what it cannot do it says in a sentence', async () => {
  const run = await runCommand([process.execPath, program, '--only', 'speed'])
  expect(run.code).toBe(1)
  expect(run.stderr).toContain('no such part: speed')
  expect((await runCommand([process.execPath, program, '--help'])).stdout).toContain('--only')
})
