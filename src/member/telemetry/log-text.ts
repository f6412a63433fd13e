// Text that peers had a part in, made fit for a log: one line stays one line, a terminal is told nothing, and nobody can
// write an entry that is not theirs. Also the text form of the access log.
import type { LogLevel } from '../../core/errors.ts'
import type { Logger } from '../../core/log.ts'

const maxLength = 512
// C0, DEL, C1, the line separators, and what turns the direction of writing around.
// oxlint-disable-next-line no-control-regex
const unsafe = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g

/** Control characters become visible escapes; what is longer than 512 characters is cut and says so. */
export function logText(text: string): string {
  if (text.length <= maxLength && plain.test(text)) return text
  const short = text.length > maxLength ? `${text.slice(0, maxLength)}...` : text
  return short.toWellFormed().replace(unsafe, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

/** Values of a line without anything that needs quotes, as in logfmt. */
const plain = /^[\w.:/@[\]*+,-]+$/

/**
 * One line per entry: time, level, message, then `key=value` in the order given; values with anything beyond letters,
 * digits and a few marks are quoted. `write` gets the line with its newline.
 */
export function textLogger(write: (line: string) => void, now: () => number = Date.now): Logger {
  return bound({})

  function bound(bindings: Readonly<Record<string, unknown>>): Logger {
    const at = (level: LogLevel) => (first: object | string, second?: string): void => {
      const [fields, message] = typeof first === 'string' ? [{}, first] : [first, second ?? '']
      const parts = Object.entries({ ...bindings, ...fields }).flatMap(([key, value]) => (value === undefined ? [] : [`${key}=${textOf(value)}`]))
      write(`${[new Date(now()).toISOString(), level, logText(message), ...parts].join(' ')}\n`)
    }
    return {
      debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error'),
      child: (more) => bound({ ...bindings, ...more }),
    }
  }
}

function textOf(value: unknown): string {
  const text = typeof value === 'string' ? value : typeof value === 'object' ? JSON.stringify(value) : String(value)
  return plain.test(text) ? text : `"${logText(text).replace(/(["\\])/g, '\\$1')}"`
}
