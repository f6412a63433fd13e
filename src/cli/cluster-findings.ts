// What `sidestep check` finds out about a cluster, as rows like those about a machine: something looked at, how it is, and one advice
// where it is not as it should be.
import { isUsable, type Feature } from '../model/feature.ts'
import { featureRows } from './check.ts'
import { visible } from './output.ts'

export type Finding = Feature

/** A row that passed or failed; `fix` is shown only where it did not pass. */
export function finding(name: string, status: Finding['status'], found: string, why: string, fix?: string): Finding {
  return { name, status, found: visible(found), why, ...(fix === undefined || status === 'pass' || status === 'info' ? {} : { fix: visible(fix) }) }
}

export const isFit = isUsable

export function findingsTable(findings: readonly Finding[]): string {
  return featureRows(findings).join('\n')
}

/** `a, b, c and 4 more` */
export function some(names: readonly string[], limit = 3): string {
  return names.length <= limit ? names.join(', ') : `${names.slice(0, limit).join(', ')} and ${names.length - limit} more`
}
