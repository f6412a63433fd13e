// Reads vitest's JSON report and prints the one line that CI shows: `N passed, N failed`, with `, N skipped` if any.
// Exits 1 unless every test ran and passed. Must never count in a test's favour: what it does not understand has failed.
import { readFileSync } from 'node:fs'

/** How many tests ended how. A file that could not be loaded counts as one failed test. */
export interface Totals {
  readonly passed: number
  readonly failed: number
  readonly skipped: number
}

interface FileReport {
  readonly status?: unknown
  readonly assertionResults?: unknown
}

/** Totals of a parsed report of vitest's `json` reporter. Throws a TypeError if it is not one. */
export function totals(report: unknown): Totals {
  const files = (report as { testResults?: unknown } | null)?.testResults
  if (!Array.isArray(files)) throw new TypeError('not a vitest JSON report: it has no testResults')
  const sum = { passed: 0, failed: 0, skipped: 0 }
  for (const file of files as readonly FileReport[]) {
    const tests = Array.isArray(file.assertionResults) ? (file.assertionResults as readonly { status?: unknown }[]) : []
    for (const test of tests) sum[outcome(test.status)]++
    // A failing import or hook fails the file and no test in it.
    if (file.status !== 'passed' && !tests.some((test) => outcome(test.status) === 'failed')) sum.failed++
  }
  return sum
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

function readTotals(path: string): Totals {
  try {
    return totals(JSON.parse(readFileSync(path, 'utf8')))
  } catch (error) {
    // No report means that the run broke off, and then nothing is known to have passed.
    console.error(`no test report in ${path}: ${error instanceof Error ? error.message : String(error)}`)
    return { passed: 0, failed: 1, skipped: 0 }
  }
}

if (import.meta.main) {
  const result = readTotals(process.argv[2] ?? '.setup/test-report.json')
  console.log(summaryLine(result))
  process.exitCode = isGreen(result) ? 0 : 1
}
