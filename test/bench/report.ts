// The bench's result: rows with units, as a table for people and as JSON for whoever follows figures over time.
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, release, totalmem } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { spreadOf } from './samples.ts'
import type { Pair, Spread } from './samples.ts'
import { setupNames, setupTitles } from './setups.ts'
import type { SetupName } from './setups.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

export const partNames = ['throughput', 'pingpong', 'connections', 'memory', 'enrolment', 'hooks', 'scale', 'kubernetes', 'l7'] as const
export type PartName = (typeof partNames)[number]

export interface Row {
  readonly part: PartName
  readonly name: string
  readonly unit: string
  /** Absent where there is nothing to compare with. */
  readonly baseline?: Spread
  readonly measured: Spread
  /** Measured by baseline, round by round. */
  readonly ratio?: Spread
  /** Where several setups are compared: `measured` is the mesh's. */
  readonly setups?: Readonly<Partial<Record<SetupName, Spread>>>
  /** The mesh by each of the others, round by round. */
  readonly ratios?: Readonly<Partial<Record<SetupName, Spread>>>
}

export interface Machine {
  readonly kernel: string
  readonly cpu: string
  readonly cores: number
  readonly memoryBytes: number
  readonly node: string
  /** Short hash; with `+` if the working copy differs from it. */
  readonly commit: string
  /** Processes that wanted to run in the minute before; above 0 others were at work. */
  readonly loadBefore: number
}

export interface Report {
  readonly startedAt: string
  readonly seconds: number
  readonly command: string
  readonly isQuick: boolean
  readonly machine: Machine
  readonly rows: readonly Row[]
  /** Payload carried by each setup, as the load generator's peer counted it. */
  readonly bytes: Readonly<Record<string, number>>
  readonly notes: readonly string[]
}

/** A row of both sides; `pick` says what to take from a measurement. */
export function compare<T>(part: PartName, name: string, unit: string, pairs: readonly Pair<T>[], pick: (side: T) => number): Row {
  return {
    part,
    name,
    unit,
    baseline: spreadOf(pairs.map(({ baseline }) => pick(baseline))),
    measured: spreadOf(pairs.map(({ measured }) => pick(measured))),
    ratio: spreadOf(pairs.map(({ baseline, measured }) => pick(measured) / pick(baseline))),
  }
}

/** A row of several setups; `pick` says what to take from a measurement. Ratios are those of the mesh by each of the others. */
export function compareSetups<T>(part: PartName, name: string, unit: string, rounds: readonly ReadonlyMap<SetupName, T>[], pick: (side: T) => number): Row {
  const of = (setup: SetupName): number[] => rounds.flatMap((round) => {
    const side = round.get(setup)
    return side === undefined ? [] : [pick(side)]
  })
  const present = setupNames.filter((setup) => of(setup).length > 0)
  const mesh = of('mesh')
  // What grew by nothing at all has no ratio.
  const ratio = (setup: SetupName): Spread => spreadOf(of(setup).map((value, i) => (mesh[i] ?? Number.NaN) / value).filter(Number.isFinite))
  return {
    part, name, unit, measured: spreadOf(mesh),
    setups: Object.fromEntries(present.map((setup) => [setup, spreadOf(of(setup))])),
    ratios: Object.fromEntries(present.filter((setup) => setup !== 'mesh' && ratio(setup).samples.length > 0).map((setup) => [setup, ratio(setup)])),
  }
}

export function single(part: PartName, name: string, unit: string, ...samples: readonly number[]): Row {
  return { part, name, unit, measured: spreadOf(samples) }
}

export function machineFacts(): Machine {
  return {
    kernel: release(),
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: cpus().length,
    memoryBytes: totalmem(),
    node: process.version,
    commit: commit(),
    loadBefore: loadavg()[0] ?? 0,
  }
}

function commit(): string {
  try {
    const git = (...args: string[]): string => execFileSync('git', args, { cwd: root, encoding: 'utf8', stdio: 'pipe' }).trim()
    return git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain', '--untracked-files=no') === '' ? '' : '+')
  } catch {
    // A release archive has no history; the figures are worth having all the same.
    return 'unknown'
  }
}

/** Three significant digits, never in exponents. */
function figure(value: number): string {
  if (Number.isNaN(value)) return '-'
  const size = Math.abs(value)
  if (size >= 1_000) return Math.round(value).toLocaleString('en')
  return value.toFixed(size >= 100 || size === 0 ? 0 : size >= 10 ? 1 : size >= 0.1 ? 2 : 3)
}

function cell(spread: Spread | undefined): string {
  if (!spread) return ''
  return spread.samples.length < 2 ? figure(spread.median) : `${figure(spread.median)} (${figure(spread.min)} to ${figure(spread.max)})`
}

const headings: Readonly<Record<'hooks' | 'kubernetes' | 'single', readonly [string, string]>> = {
  hooks: ['no hooks', 'hooks attached'],
  kubernetes: ['few pods', 'many pods'],
  single: ['', 'measured'],
}

function headingOf(row: Row): keyof typeof headings {
  return row.part === 'hooks' || row.part === 'kubernetes' ? row.part : 'single'
}

/** As Markdown, so that it reads the same in a terminal and in docs/bench.md. */
export function table(report: Report): string {
  const { machine } = report
  const gigabytes = Math.round(machine.memoryBytes / 2 ** 30)
  const lines = [
    `Sidestep ${machine.commit}, ${report.startedAt.slice(0, 16).replace('T', ' ')} UTC, \`${report.command}\``,
    `Linux ${machine.kernel}, ${machine.cores} cores (${machine.cpu}), ${gigabytes} GiB, Node.js ${machine.node}, load before ${figure(machine.loadBefore)}`,
    'Machines are noisy: the ratios, taken pair by pair in one run, count; the figures themselves only say what machine this was.',
  ]
  const compared = report.rows.filter((row) => row.setups)
  if (compared.length > 0) {
    lines.push('', ...setupTable(compared, 'setups', 'Medians of the rounds'), '', ...setupTable(compared, 'ratios', 'Sidestep by each of the others'))
  }
  let heading = ''
  let group: string[][] = []
  const flush = (): void => {
    if (group.length > 0) lines.push('', ...aligned(group))
    group = []
  }
  for (const row of report.rows.filter(({ setups }) => !setups)) {
    const now = headingOf(row)
    if (now !== heading) {
      flush()
      const [baseline, measured] = headings[now]
      group.push(now === 'single' ? ['', 'unit', measured] : ['', 'unit', baseline, measured, 'ratio'])
      heading = now
    }
    const values = now === 'single' ? [cell(row.measured)] : [cell(row.baseline), cell(row.measured), cell(row.ratio)]
    group.push([row.name, row.unit, ...values])
  }
  flush()
  if (report.notes.length > 0) lines.push('', ...report.notes)
  return lines.join('\n')
}

function setupTable(rows: readonly Row[], what: 'setups' | 'ratios', title: string): string[] {
  const columns = setupNames.filter((setup) => rows.some((row) => row[what]?.[setup]))
  const short = (spread: Spread | undefined): string => (spread === undefined ? '' : what === 'ratios' ? cell(spread) : figure(spread.median))
  return aligned([
    [title, 'unit', ...columns.map((setup) => setupTitles[setup])],
    ...rows.map((row) => [row.name, what === 'ratios' ? 'ratio' : row.unit, ...columns.map((setup) => short(row[what]?.[setup]))]),
  ])
}

function aligned(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(3, ...rows.map((row) => row[column]?.length ?? 0)))
  const line = (row: readonly string[]): string => `| ${widths.map((width, column) => (row[column] ?? '').padEnd(width)).join(' | ')} |`
  const [head = [], ...rest] = rows
  return [line(head), `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`, ...rest.map(line)]
}

/** Writes `<date>.json` and `latest.json`; returns the first's path. */
export function save(report: Report, directory = join(root, 'build/bench')): string {
  mkdirSync(directory, { recursive: true })
  const path = join(directory, `${report.startedAt.slice(0, 19).replaceAll(':', '-')}.json`)
  const text = `${JSON.stringify(report, undefined, 2)}\n`
  writeFileSync(path, text)
  writeFileSync(join(directory, 'latest.json'), text)
  return path
}
