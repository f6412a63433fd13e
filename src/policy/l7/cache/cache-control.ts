// Cache-Control, Vary, Age and dates as RFC 9111 reads them. Whatever cannot be read counts as the strictest: a broken max-age
// is 0, a broken date is in the past. Never throws.
import type { HeaderValues } from '../request-head.ts'

export interface CacheControl {
  /** Lower-case directive to argument; empty where there is none. */
  readonly directives: ReadonlyMap<string, string>
}

const mostDirectives = 64

export function parseCacheControl(values: readonly string[]): CacheControl {
  const directives = new Map<string, string>()
  for (const part of splitList(values.join(','))) {
    const equals = part.indexOf('=')
    const name = (equals < 0 ? part : part.slice(0, equals)).trim().toLowerCase()
    const argument = equals < 0 ? '' : unquote(part.slice(equals + 1).trim())
    const known = directives.get(name)
    if (name === '') continue
    // Twice: the stricter one (RFC 9111, 4.2.1, allows to treat such an answer as stale).
    directives.set(name, known !== undefined && isDelta(known)
      && isDelta(argument) ? (Number(known) <= Number(argument) ? known : argument) : argument)
    if (known !== undefined && !(isDelta(known) && isDelta(argument)) && known !== argument) directives.set(name, '')
  }
  return { directives }
}

/** Commas inside quotes do not separate. */
function splitList(text: string): string[] {
  const parts: string[] = []
  let start = 0
  let isQuoted = false
  for (let i = 0; i < text.length && parts.length < mostDirectives; i++) {
    if (isQuoted && text[i] === '\\') i++
    else if (text[i] === '"') isQuoted = !isQuoted
    else if (text[i] === ',' && !isQuoted) {
      parts.push(text.slice(start, i))
      start = i + 1
    }
  }
  if (parts.length < mostDirectives) parts.push(text.slice(start))
  return parts
}

function unquote(text: string): string {
  return text.length > 1 && text.startsWith('"') && text.endsWith('"') ? text.slice(1, -1).replaceAll(/\\(.)/g, '$1') : text
}

const isDelta = (text: string): boolean => /^\d+$/.test(text)
const largestDelta = 2 ** 31

export function has(control: CacheControl, name: string): boolean {
  return control.directives.has(name)
}

/** Seconds of a directive; undefined if it is not there, 0 if its argument is none. */
export function deltaSeconds(control: CacheControl, name: string): number | undefined {
  const text = control.directives.get(name)
  if (text === undefined) return undefined
  return isDelta(text) ? Math.min(largestDelta, Number(text)) : 0
}

/** Header names in the argument of `no-cache` or `private`, lower case. */
export function fieldNames(control: CacheControl, name: string): string[] {
  return (control.directives.get(name) ?? '').split(',').map((field) => field.trim().toLowerCase()).filter((field) =>
    field !== '')
}

const month = 'Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec'
const imfDate = new RegExp(`^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \\d{2} (?:${month}) \\d{4} \\d{2}:\\d{2}:\\d{2} GMT$`)

/** Milliseconds of an HTTP date in the form that all must send (RFC 9110, 5.6.7); undefined for anything else. */
export function parseHttpDate(value: string | undefined): number | undefined {
  if (value === undefined || !imfDate.test(value)) return undefined
  const ms = Date.parse(value)
  return Number.isNaN(ms) ? undefined : ms
}

/** `Age` in seconds; something broken is ignored (RFC 9111, 5.1), the first of several counts. */
export function parseAge(headers: HeaderValues): number {
  const [first = ''] = headers.all('age').flatMap((value) => value.split(','))
  return isDelta(first.trim()) ? Math.min(largestDelta, Number(first.trim())) : 0
}
