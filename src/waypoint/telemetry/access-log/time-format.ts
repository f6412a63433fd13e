// Times in logs: ISO 8601 unless a format of strftime's common letters is given. UTC always: two machines' lines can be compared.
import { MeshError } from '../../../core/errors.ts'

type Part = (time: Date) => string

const two = (value: number): string => String(value).padStart(2, '0')
const weekdays = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat']
const months = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']
const date: Part = (time) => `${time.getUTCFullYear()}-${two(time.getUTCMonth() + 1)}-${two(time.getUTCDate())}`
const clock: Part = (time) => `${two(time.getUTCHours())}:${two(time.getUTCMinutes())}:${two(time.getUTCSeconds())}`
const millis: Part = (time) => String(time.getUTCMilliseconds()).padStart(3, '0')

const letters: Readonly<Record<string, Part>> = {
  Y: (time) => String(time.getUTCFullYear()), m: (time) => two(time.getUTCMonth() + 1), d: (time) => two(time.getUTCDate()),
  H: (time) => two(time.getUTCHours()), M: (time) => two(time.getUTCMinutes()), S: (time) => two(time.getUTCSeconds()),
  F: date, T: clock, b: (time) => months[time.getUTCMonth()] ?? '', a: (time) => weekdays[time.getUTCDay()] ?? '', e: (time) => String(time.getUTCDate()).padStart(2),
  z: () => '+0000', Z: () => 'UTC', s: (time) => String(Math.floor(time.getTime() / 1_000)),
  // Milliseconds are all that there is.
  '3f': millis, '6f': (time) => `${millis(time)}000`, '9f': (time) => `${millis(time)}000000`, f: (time) => `${millis(time)}000000`, '%': () => '%',
}

let isoSecond = Number.NaN
let isoUpToSecond = ''

/** Most times are of the second that the last one was of. */
export function isoTime(ms: number): string {
  const second = Math.floor(ms / 1_000)
  if (second !== isoSecond) {
    isoUpToSecond = new Date(second * 1_000).toISOString().slice(0, -4)
    isoSecond = second
  }
  return `${isoUpToSecond}${String(Math.floor(ms) - second * 1_000).padStart(3, '0')}Z`
}

/** Throws MeshError BAD_CONFIG. `format` is as in Envoy's START_TIME(...); empty for ISO 8601. */
export function compileTimeFormat(format: string): (ms: number) => string {
  if (format === '') return isoTime
  const parts: (string | Part)[] = []
  for (const [text, letter] of format.matchAll(/%([369]?[a-zA-Z%]?)|[^%]+/g)) {
    if (letter === undefined) {
      parts.push(text)
      continue
    }
    const part = letters[letter]
    if (!part) throw new MeshError('BAD_CONFIG', `a time format has ${text}, which is none of ${Object.keys(letters).map((each) => `%${each}`).join(' ')}`)
    parts.push(part)
  }
  return (ms) => {
    const time = new Date(ms)
    return parts.map((part) => (typeof part === 'string' ? part : part(time))).join('')
  }
}
