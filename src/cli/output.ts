// How commands show what they were told: a table for people, or all of it as JSON or YAML. What others chose to be called
// reaches the terminal as text only.
import { Option } from 'commander'
import { stringify } from 'yaml'

export type OutputForm = 'table' | 'json' | 'yaml'

/** Where a command's text goes: standard output and standard error. */
export interface Output {
  readonly print: (text: string) => void
  readonly warn: (text: string) => void
}

export const standardOutput: Output = { print: console.log, warn: console.error }

export function outputOption(): Option {
  return new Option('-o, --output <form>', 'how to show it').choices(['table', 'json', 'yaml']).default('table')
}

/** `empty` is what a table without rows is called. */
export function show(form: OutputForm, items: unknown, head: readonly string[], rows: readonly (readonly string[])[], empty: string): string {
  switch (form) {
    case 'json': return JSON.stringify(items, null, 2)
    case 'yaml': return stringify(items).trimEnd()
    case 'table': return rows.length === 0 ? empty : alignedTable(head, rows)
    default: return form satisfies never
  }
}

function alignedTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const shown = [head, ...rows.map((row) => row.map(visible))]
  const widths = head.map((_title, i) => shown.reduce((widest, row) => Math.max(widest, row[i]?.length ?? 0), 0))
  return shown.map((row) => row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  ').trimEnd()).join('\n')
}

// C0 but for nothing, DEL, C1, and what turns the direction of writing around.
// oxlint-disable-next-line no-control-regex
const unsafe = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/g

/** Control characters as visible escapes: a terminal obeys them. */
export function visible(text: string): string {
  return text.replace(unsafe, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

/** `950 B`, `1.2 kB`, `34 MB`. */
export function bytesText(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB']
  let value = bytes
  let unit = 0
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return `${unit === 0 || value >= 10 ? Math.round(value) : value.toFixed(1)} ${units[unit] ?? ''}`
}

/** `850ms`, `12s`, `3m`, `5h`, `2d`; with a minus for what is over. */
export function durationText(ms: number): string {
  const sign = ms < 0 ? '-' : ''
  const size = Math.abs(ms)
  for (const [unit, length] of [['d', 86_400_000], ['h', 3_600_000], ['m', 60_000], ['s', 1_000]] as const) {
    if (size >= 2 * length || (unit === 's' && size >= length)) return `${sign}${Math.floor(size / length)}${unit}`
  }
  return `${sign}${Math.floor(size)}ms`
}
