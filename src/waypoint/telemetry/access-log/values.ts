// Values that clients and backends had a part in, made fit for a line of a log: whatever they contain, the line stays one line and its
// fields stay where the format put them.
// C0, DEL, C1, the line separators, and what turns the direction of writing around.
// oxlint-disable-next-line no-control-regex
const unsafe = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g
/** What most values consist of: nothing in it needs a change; without spaces, not even outside of quotes. */
const harmless = /^[\w.:/?&=@+,;*~!$'()[\]{}<>|^`#-]*$/
const harmlessWithSpaces = /^[\w.:/?&=@+,;*~!$'()[\]{}<>|^`# -]*$/

/** Characters of one value, unless a format says otherwise. */
export const defaultLongest = 512

const escape = (character: string): string => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`

function cut(text: string, longest: number): string {
  return text.length > longest ? text.slice(0, longest) : text
}

/** For a text line. Within quotes, spaces stay; outside, they would begin another field. Empty is `-`. */
export function textValue(text: string, isQuoted: boolean, longest = defaultLongest): string {
  if (text === '') return '-'
  const short = cut(text, longest)
  if ((isQuoted ? harmlessWithSpaces : harmless).test(short)) return short
  const sound = short.toWellFormed()
  // Outside of quotes nothing may look as if it opened some, escaped or not.
  return isQuoted ? sound.replace(/["\\]/g, '\\$&').replace(unsafe, escape) : sound.replace(/["\\\s]/g, escape).replace(unsafe, escape)
}

/** A JSON string with its quotes. */
export function jsonValue(text: string, longest = defaultLongest): string {
  const short = cut(text, longest)
  if (harmlessWithSpaces.test(short)) return `"${short}"`
  // JSON escapes C0; a terminal minds more than that.
  return JSON.stringify(short.toWellFormed()).replace(unsafe, escape)
}
