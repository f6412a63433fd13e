// Who a limit counts: route, identity, header, claim or address, as one text that no two different lists of values share.
import { createHash } from 'node:crypto'

/** Longer values are hashed, so that a client cannot fill memory with keys of its own making. */
const longest = 96

/** An absent value is different from an empty one. */
export function limitKey(parts: readonly (string | undefined)[]): string {
  const text = parts.map((part) => (part === undefined ? '-' : `${part.length}:${part}`)).join('|')
  return text.length <= longest ? text : `#${createHash('sha256').update(text).digest('base64url')}`
}
