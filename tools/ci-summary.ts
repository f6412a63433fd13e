// Reads vitest's JSON reports and prints what CI shows last: `N passed, N failed`, with `, N skipped` if any, under a line for
// each test that failed. A second report is of another try of the files that failed in the first: a test that passes then is
// counted as passed and named, so that nobody overlooks it. Must never count in a test's favour: what it does not understand
// has failed.
//
//   ci-summary.ts REPORT [AGAIN]       the lines; exits 1 unless every test ran and passed
//   ci-summary.ts --failed REPORT      the files to try again, a line each
import { existsSync, readFileSync } from 'node:fs'

/** How many tests ended how. A file that could not be loaded counts as one failed test. */
export interface Totals {
  readonly passed: number
  readonly failed: number
  readonly skipped: number
}

interface TestReport {
  readonly status?: unknown
  readonly fullName?: unknown
}

interface FileReport {
  readonly name?: unknown
  readonly status?: unknown
  readonly assertionResults?: unknown
}

export interface Outcome extends Totals {
  /** `FILE: NAME` of each test that failed, also the second time. */
  readonly failures: readonly string[]
  /** Of each that failed and passed when it was tried again. */
  readonly flaky: readonly string[]
}

function filesOf(report: unknown): readonly FileReport[] {
  const files = (report as { testResults?: unknown } | null)?.testResults
  if (!Array.isArray(files)) throw new TypeError('not a vitest JSON report: it has no testResults')
  return files as readonly FileReport[]
}

const fileName = ({ name }: FileReport): string => (typeof name === 'string' ? name : '')
const testsOf = ({ assertionResults }: FileReport): readonly TestReport[] => (Array.isArray(assertionResults) ? assertionResults as readonly TestReport[] : [])
const testName = ({ fullName }: TestReport): string => (typeof fullName === 'string' ? fullName : 'a test without a name')

function hasFailed(file: FileReport): boolean {
  return file.status !== 'passed' || testsOf(file).some(({ status }) => outcome(status) === 'failed')
}

/** Names of the files in which something failed. */
export function failedFiles(report: unknown): string[] {
  return filesOf(report).filter((file) => hasFailed(file) && fileName(file) !== '').map(fileName)
}

/** Throws a TypeError if one is no report of vitest's `json` reporter. */
export function summary(report: unknown, again?: unknown): Outcome {
  const second = new Map((again === undefined ? [] : filesOf(again)).map((file) => [fileName(file), file]))
  const sum = { passed: 0, failed: 0, skipped: 0 }
  const failures: string[] = []
  const flaky: string[] = []
  for (const first of filesOf(report)) {
    const file = (hasFailed(first) && second.get(fileName(first))) || first
    const tests = testsOf(file)
    for (const test of tests) {
      sum[outcome(test.status)]++
      if (outcome(test.status) === 'failed') failures.push(`${fileName(file)}: ${testName(test)}`)
    }
    // A failing import or hook fails the file and no test in it.
    if (file.status !== 'passed' && !tests.some((test) => outcome(test.status) === 'failed')) {
      sum.failed++
      failures.push(`${fileName(file)}: the file itself`)
    }
    if (file === first) continue
    const broken = testsOf(first).filter(({ status }) => outcome(status) === 'failed').map(testName)
    const passed = new Set(tests.filter(({ status }) => outcome(status) === 'passed').map(testName))
    for (const name of broken.length === 0 ? ['the file itself'] : broken) {
      if (passed.has(name) || (broken.length === 0 && !hasFailed(file))) flaky.push(`${fileName(file)}: ${name}`)
    }
  }
  return { ...sum, failures, flaky }
}

function outcome(status: unknown): keyof Totals {
  if (status === 'passed') return 'passed'
  return status === 'skipped' || status === 'pending' || status === 'todo' || status === 'disabled' ? 'skipped' : 'failed'
}

export function summaryLine({ passed, failed, skipped }: Totals): string {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`
}

/** Whether CI may be content: something ran, and nothing failed or was left out. */
export function isGreen({ passed, failed, skipped }: Totals): boolean {
  return passed > 0 && failed === 0 && skipped === 0
}

function readReport(path: string): unknown {
  return JSON.parse(readFileSync(path, 'utf8')) as unknown
}

function read(path: string, again: string | undefined): Outcome {
  try {
    return summary(readReport(path), again !== undefined && existsSync(again) ? readReport(again) : undefined)
  } catch (error) {
    // No report means that the run broke off, and then nothing is known to have passed.
    console.error(`no test report in ${path}: ${error instanceof Error ? error.message : String(error)}`)
    return { passed: 0, failed: 1, skipped: 0, failures: [], flaky: [] }
  }
}

if (import.meta.main) {
  const [first = '.setup/test-report.json', second] = process.argv.slice(2)
  if (first === '--failed') {
    for (const file of failedFiles(readReport(second ?? ''))) console.log(file)
  } else {
    const result = read(first, second)
    for (const each of result.flaky) console.log(`passed only when tried again: ${each}`)
    for (const each of result.failures) console.log(`failed: ${each}`)
    console.log(summaryLine(result))
    process.exitCode = isGreen(result) ? 0 : 1
  }
}
