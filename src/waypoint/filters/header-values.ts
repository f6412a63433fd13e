// Texts of others (claims, answers of authorizers) as values of headers. What would break out of its line is no value; nothing is
// repaired.
import { isFieldValue } from '../../policy/l7/header-change.ts'

const longest = 8_192

/** UTF-8 as the bytes of a header; undefined where it cannot be one. */
export function fieldValueOf(text: string): string | undefined {
  if (text.length > longest) return undefined
  const bytes = Buffer.from(text, 'utf8').toString('latin1')
  return isFieldValue(bytes) ? bytes.trim() : undefined
}
