import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { isGreen, summaryLine, totals } from './ci-summary.ts'

const file = (status: string, ...tests: string[]): object => ({
  status,
  assertionResults: tests.map((each) => ({ status: each })),
})

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
