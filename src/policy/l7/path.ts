// The one path that routes, policies, limits and caches see, and the one that is sent on. It is made once per request, so that
// no two decisions read the same request differently. What could be read in two ways is refused, never guessed at:
//
// - Percent-encoding (RFC 3986, 6.2.2): an escaped unreserved character is that character; other escapes get upper-case digits.
//   Bytes that are no URI characters are escaped. Escapes of control characters, broken escapes and escapes that do not form
//   UTF-8 (overlong forms of `/` and `.` among them) are refused.
// - `%2F`, `%5C`: some backends decode them to separators, others do not, so they are refused; with `keep` they stay escaped and
//   separate nothing, but a `.` or `..` between them is still refused. A plain backslash is always refused.
// - Dot segments are resolved, escaped ones too; above the root is refused. Empty segments are dropped (`//` is `/`).
// - `;` parameters: servers of the servlet kind cut them off, others do not. Matching sees the segment without them; they are
//   sent on unchanged. A dot segment with parameters (`..;`) is refused.
//
// `matched` is decoded text without parameters: `/caf%C3%A9`, `/café` and `/caf%c3%a9;v=1` are one path. Only `%` itself (and
// kept slashes) stay escaped in it, so decoding twice cannot make two of one. Never throws.

export interface NormalPath {
  /** What is sent to the backend: canonical, escaped, with parameters. */
  readonly path: string
  /** What matchers compare. Has exactly as many segments as `path`. */
  readonly matched: string
}

export type PathRefusal =
  | 'notAbsolute' | 'tooLong' | 'badCharacter' | 'badEscape' | 'escapedControl' | 'escapedSlash' | 'notUtf8' | 'aboveRoot'
    | 'dotWithParameters'

export type PathDecision = ({ readonly t: 'path' } & NormalPath) | { readonly t: 'refused'; readonly because: PathRefusal }

export interface PathRules {
  /** What becomes of `%2F` and `%5C`. */
  readonly escapedSlashes: 'refuse' | 'keep'
}

export const defaultPathRules: PathRules = { escapedSlashes: 'refuse' }

/** Characters; every server here refuses longer request lines anyway. */
export const longestPath = 65_536

const plain = 1
const encode = 2
// Per character below 128: 1 stands for itself in both forms, 2 is escaped when sent on, 0 needs a look or is refused.
const kinds = new Uint8Array(128)
for (const c of "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,=:@/") kinds[c.charCodeAt(0)] = plain
for (const c of '"<>^`{|}') kinds[c.charCodeAt(0)] = encode

/** Whether nothing in the path needs work: the common case, in one pass without allocation. */
function isCanonical(path: string): boolean {
  if (path.charCodeAt(0) !== 47) return false
  let previous = 0
  for (let i = 0; i < path.length; i++) {
    const code = path.charCodeAt(i)
    if (code >= 128 || kinds[code] !== plain) return false
    // After a slash neither another one nor a dot: `.hidden` takes the slow way and is fine there.
    if (previous === 47 && (code === 47 || code === 46)) return false
    previous = code
  }
  return true
}

const refused = (because: PathRefusal): PathDecision => ({ t: 'refused', because })

/** `path` is the target's path as received, without the query; characters are bytes (latin1), as Node's parsers give them. */
export function normalisePath(path: string, rules: PathRules = defaultPathRules): PathDecision {
  if (path.length > longestPath) return refused('tooLong')
  if (isCanonical(path)) return { t: 'path', path, matched: path }
  if (path === '*') return { t: 'path', path, matched: path }
  if (path.charCodeAt(0) !== 47) return refused('notAbsolute')
  const sent: string[] = []
  const matched: string[] = []
  const raw = path.split('/')
  let endsOpen = false
  for (let i = 1; i < raw.length; i++) {
    const segment = raw[i] ?? ''
    const isLast = i === raw.length - 1
    const semicolon = segment.indexOf(';')
    const name = canonicalSegment(semicolon < 0 ? segment : segment.slice(0, semicolon), rules)
    if ('because' in name) return refused(name.because)
    endsOpen = false
    if (name.sent === '' || name.sent === '.' || name.sent === '..') {
      // Parameters of a nameless segment go with it.
      if (semicolon >= 0 && name.sent !== '') return refused('dotWithParameters')
      if (semicolon >= 0) {
        const dropped = canonicalSegment(segment.slice(semicolon), rules)
        if ('because' in dropped) return refused(dropped.because)
      }
      if (name.sent === '..') {
        if (sent.pop() === undefined) return refused('aboveRoot')
        matched.pop()
      }
      endsOpen = isLast
      continue
    }
    const parameters = semicolon < 0 ? undefined : canonicalSegment(segment.slice(semicolon), rules)
    if (parameters && 'because' in parameters) return refused(parameters.because)
    // Servers that decode before they cut parameters off would see a dot segment here.
    if (name.matched.startsWith('.;') || name.matched.startsWith('..;')) return refused('dotWithParameters')
    sent.push(parameters ? name.sent + parameters.sent : name.sent)
    matched.push(name.matched)
  }
  const tail = endsOpen && sent.length > 0 ? '/' : ''
  return { t: 'path', path: `/${sent.join('/')}${tail}`, matched: `/${matched.join('/')}${tail}` }
}

type Segment = { readonly sent: string; readonly matched: string } | { readonly because: PathRefusal }

const escapeOf = (byte: number): string => `%${byte < 16 ? '0' : ''}${byte.toString(16).toUpperCase()}`

function isUnreserved(code: number): boolean {
  return (code >= 97 && code <= 122) || (code >= 65 && code <= 90) || (code >= 48 && code <= 57) || code === 45 || code === 46
    || code === 95 || code === 126
}

function canonicalSegment(text: string, { escapedSlashes }: PathRules): Segment {
  let sent = ''
  // Latin1 until the end, where bytes above 127 are read as UTF-8.
  let bytes = ''
  let isWide = false
  let hasSlash = false
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code > 255) return { because: 'badCharacter' }
    if (code === 37) {
      const byte = hexByte(text, i + 1)
      if (byte < 0) return { because: 'badEscape' }
      i += 2
      if (byte < 32 || byte === 127) return { because: 'escapedControl' }
      if (byte === 47 || byte === 92) {
        if (escapedSlashes === 'refuse') return { because: 'escapedSlash' }
        hasSlash = true
      }
      sent += isUnreserved(byte) ? String.fromCharCode(byte) : escapeOf(byte)
      bytes += byte === 37 || byte === 47 || byte === 92 ? escapeOf(byte) : String.fromCharCode(byte)
      isWide ||= byte > 127
    } else if (code > 127) {
      sent += escapeOf(code)
      bytes += String.fromCharCode(code)
      isWide = true
    } else if (code === 59 || kinds[code] === plain) {
      sent += text[i]
      bytes += text[i]
    } else if (kinds[code] === encode) {
      sent += escapeOf(code)
      bytes += text[i]
    } else {
      return { because: 'badCharacter' }
    }
  }
  if (hasSlash && bytes.split(/%2F|%5C/).some((part) => part === '.' || part === '..' || part.startsWith('.;')
    || part.startsWith('..;'))) {
    return { because: 'escapedSlash' }
  }
  if (!isWide) return { sent, matched: bytes }
  const matched = utf8(bytes)
  return matched === undefined ? { because: 'notUtf8' } : { sent, matched }
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function utf8(latin1: string): string | undefined {
  try {
    return decoder.decode(Buffer.from(latin1, 'latin1'))
  } catch {
    // TextDecoder has no other way to say that the bytes are no UTF-8.
    return undefined
  }
}

function hexByte(text: string, at: number): number {
  const high = hexDigit(text.charCodeAt(at))
  const low = hexDigit(text.charCodeAt(at + 1))
  return high < 0 || low < 0 ? -1 : high * 16 + low
}

function hexDigit(code: number): number {
  if (code >= 48 && code <= 57) return code - 48
  const lower = code | 32
  return lower >= 97 && lower <= 102 ? lower - 87 : -1
}

/** A path that somebody wrote in a rule, as `matched` would show it; undefined if no request can ever have it. */
export function patternPath(value: string, rules: PathRules = defaultPathRules): string | undefined {
  const decision = normalisePath(Buffer.from(value, 'utf8').toString('latin1'), rules)
  return decision.t === 'path' && value !== '*' ? decision.matched : undefined
}

/** `prefix` without a trailing slash holds for itself and what lies below it. `/` holds for everything that is absolute. */
export function isUnder(path: string, prefix: string): boolean {
  if (prefix === '/' || prefix === '') return path.startsWith('/')
  const end = prefix.endsWith('/') ? prefix.length - 1 : prefix.length
  if (!path.startsWith(end === prefix.length ? prefix : prefix.slice(0, end))) return false
  return path.length === end || path.charCodeAt(end) === 47
}
