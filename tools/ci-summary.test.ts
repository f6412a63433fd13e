import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { failedFiles, isGreen, summary, summaryLine, type Totals } from './ci-summary.ts'

const file = (status: string, ...tests: string[]): object => ({
  status,
  assertionResults: tests.map((each) => ({ status: each })),
})

const totals = (report: unknown): Totals => {
  const { passed, failed, skipped } = summary(report)
  return { passed, failed, skipped }
}

describe('totals', () => {
  test('counts tests over all files', () => {
    const report = { testResults: [file('passed', 'passed', 'passed'), file('failed', 'passed', 'failed')] }
    expect(totals(report)).toEqual({ passed: 3, failed: 1, skipped: 0 })
  })

  test('a file that could not be loaded is one failure', () => {
    expect(totals({ testResults: [file('failed')] })).toEqual({ passed: 0, failed: 1, skipped: 0 })
  })

  test('a file whose hook failed after its tests passed is one failure', () => {
    expect(totals({ testResults: [file('failed', 'passed')] })).toEqual({ passed: 1, failed: 1, skipped: 0 })
  })

  test('every way of not running counts as skipped, anything unknown as failed', () => {
    const report = { testResults: [file('passed', 'skipped', 'pending', 'todo', 'disabled', 'who knows')] }
    expect(totals(report)).toEqual({ passed: 0, failed: 1, skipped: 4 })
  })

  test.each([null, {}, { testResults: 7 }, 'text'])('%j is not a report', (report) => {
    expect(() => totals(report)).toThrow(TypeError)
  })
})

test('skips are named only when there are some', () => {
  expect(summaryLine({ passed: 12, failed: 0, skipped: 0 })).toBe('12 passed, 0 failed')
  expect(summaryLine({ passed: 12, failed: 1, skipped: 2 })).toBe('12 passed, 1 failed, 2 skipped')
})

test('green means that something ran and nothing failed or was skipped', () => {
  expect(isGreen({ passed: 1, failed: 0, skipped: 0 })).toBe(true)
  expect(isGreen({ passed: 0, failed: 0, skipped: 0 })).toBe(false)
  expect(isGreen({ passed: 1, failed: 1, skipped: 0 })).toBe(false)
  expect(isGreen({ passed: 1, failed: 0, skipped: 1 })).toBe(false)
})

describe('another try of what failed', () => {
  const named = (name: string, status: string, tests: Readonly<Record<string, string>>): object => ({
    name, status, assertionResults: Object.entries(tests).map(([fullName, each]) => ({ fullName, status: each })),
  })
  const first = { testResults: [named('a.ts', 'passed', { one: 'passed' }), named('b.ts', 'failed', { two: 'failed', three: 'passed', four: 'failed' }), named('c.ts', 'failed', {})] }

  test('names the files that failed, also those whose tests never ran', () => {
    expect(failedFiles(first)).toEqual(['b.ts', 'c.ts'])
  })

  test('counts what passed then, and names it', () => {
    const again = { testResults: [named('b.ts', 'failed', { two: 'passed', three: 'passed', four: 'failed' }), named('c.ts', 'passed', { five: 'passed' })] }
    expect(summary(first, again)).toEqual({
      passed: 4, failed: 1, skipped: 0, failures: ['b.ts: four'], flaky: ['b.ts: two', 'c.ts: the file itself'],
    })
  })

  test('a file that was not tried again, or broke then in another way, has failed', () => {
    expect(summary(first, { testResults: [] })).toMatchObject({ failed: 3, flaky: [] })
    expect(summary(first, { testResults: [named('b.ts', 'failed', { two: 'passed', three: 'failed', four: 'passed' })] })).toMatchObject({ failed: 2, flaky: ['b.ts: two', 'b.ts: four'] })
  })

  test('a file that passed is not touched by what another report says of it', () => {
    expect(summary(first, { testResults: [named('a.ts', 'failed', { one: 'failed' })] }).failures).not.toContain('a.ts: one')
  })
})

describe('as a program', () => {
  const dir = mkdtempSync(join(tmpdir(), 'sidestep-ci-'))
  afterAll(() => rmSync(dir, { recursive: true }))
  const program = join(import.meta.dirname, 'ci-summary.ts')

  test('prints one line', () => {
    const path = join(dir, 'report.json')
    writeFileSync(path, JSON.stringify({ testResults: [file('passed', 'passed')] }))
    expect(execFileSync(process.execPath, [program, path], { encoding: 'utf8' })).toBe('1 passed, 0 failed\n')
  })

  test('no report is a failure', () => {
    const run = spawnSync(process.execPath, [program, join(dir, 'missing.json')], { encoding: 'utf8' })
    expect(run.status).toBe(1)
    expect(run.stdout).toBe('0 passed, 1 failed\n')
  })
})
