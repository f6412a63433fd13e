// What is known of a request before its body: the only thing that L7 decisions look at. Headers are a multi-map without
// case; query and cookies are read when a rule asks for them, and once. Never throws, whatever a client sent.
import type { NormalPath } from './path.ts'

/** Read-only view of headers. Names are given in lower case. */
export interface HeaderValues {
  /** All values joined by commas (RFC 9110, 5.3), or undefined. */
  get(name: string): string | undefined
  all(name: string): readonly string[]
  has(name: string): boolean
}

const noValues: readonly string[] = Object.freeze([])

export class HeaderMap implements HeaderValues {
  readonly #values = new Map<string, string | string[]>()

  /** From name, value, name, value ... in the order of the wire, as `IncomingMessage.rawHeaders` has them. */
  static fromRaw(raw: readonly string[]): HeaderMap {
    const map = new HeaderMap()
    for (let i = 0; i + 1 < raw.length; i += 2) map.append(raw[i] ?? '', raw[i + 1] ?? '')
    return map
  }

  static of(entries: Iterable<readonly [name: string, value: string]>): HeaderMap {
    const map = new HeaderMap()
    for (const [name, value] of entries) map.append(name, value)
    return map
  }

  get(name: string): string | undefined {
    const value = this.#values.get(name)
    return typeof value === 'object' ? value.join(',') : value
  }

  all(name: string): readonly string[] {
    const value = this.#values.get(name)
    if (value === undefined) return noValues
    return typeof value === 'string' ? [value] : value
  }

  has(name: string): boolean {
    return this.#values.has(name)
  }

  append(name: string, value: string): void {
    const key = name.toLowerCase()
    const known = this.#values.get(key)
    if (known === undefined) this.#values.set(key, value)
    else if (typeof known === 'string') this.#values.set(key, [known, value])
    else known.push(value)
  }

  set(name: string, value: string): void {
    this.#values.set(name.toLowerCase(), value)
  }

  delete(name: string): void {
    this.#values.delete(name.toLowerCase())
  }

  /** In lower case; what is asked for may be deleted meanwhile. */
  names(): IterableIterator<string> {
    return this.#values.keys()
  }

  copy(): HeaderMap {
    const map = new HeaderMap()
    for (const [name, value] of this.#values) map.#values.set(name, typeof value === 'string' ? value : [...value])
    return map
  }

  /** Name, value, name, value ... as entries() has them. */
  flat(): string[] {
    const list: string[] = []
    for (const [name, value] of this.#values) {
      if (typeof value === 'string') list.push(name, value)
      else for (const each of value) list.push(name, each)
    }
    return list
  }

  /** Each value on its own, names in lower case. */
  *entries(): IterableIterator<readonly [name: string, value: string]> {
    for (const [name, value] of this.#values) {
      if (typeof value === 'string') yield [name, value]
      else for (const each of value) yield [name, each]
    }
  }
}

export interface RequestHead {
  /** As sent: methods have case. */
  readonly method: string
  readonly scheme: 'http' | 'https'
  /** Host and perhaps port, lower case. */
  readonly authority: string
  readonly path: NormalPath
  /** Without the question mark; empty if there is none. */
  readonly query: string
  readonly headers: HeaderValues
  /** SPIFFE URI of the verified caller. */
  readonly sourceIdentity?: string
  readonly sourceNamespace?: string
}

/** The host of an authority, without port and without the dot of a full name; IPv6 keeps its brackets. Lower case is expected. */
export function hostOf(authority: string): string {
  let end = authority.length
  const colon = authority.lastIndexOf(':')
  if (colon > 0 && authority.charCodeAt(authority.length - 1) !== 93 && authority.lastIndexOf(']') < colon) end = colon
  if (end > 1 && authority.charCodeAt(end - 1) === 46) end--
  return end === authority.length ? authority : authority.slice(0, end)
}

/** Parameters and cookies that are looked at; the rest of a hostile list is as if it were not there. */
const mostPairs = 256

/** Name to first value, decoded. */
export function parseQuery(query: string): ReadonlyMap<string, string> {
  const found = new Map<string, string>()
  if (query === '') return found
  for (const pair of query.split('&', mostPairs)) {
    const equals = pair.indexOf('=')
    const name = decodeForm(equals < 0 ? pair : pair.slice(0, equals))
    if (pair !== '' && !found.has(name)) found.set(name, equals < 0 ? '' : decodeForm(pair.slice(equals + 1)))
  }
  return found
}

/** Broken escapes stand for themselves. */
function decodeForm(text: string): string {
  if (!text.includes('%') && !text.includes('+')) return text
  const spaced = text.replaceAll('+', ' ')
  try {
    return decodeURIComponent(spaced)
  } catch {
    // Not UTF-8 or not an escape: a matcher sees what was sent.
    return spaced
  }
}

/** Name to first value, without surrounding quotes (RFC 6265, 5.4 on the server's side). */
export function parseCookies(headers: readonly string[]): ReadonlyMap<string, string> {
  const found = new Map<string, string>()
  for (const pair of headers.flatMap((header) => header.split(';', mostPairs))) {
    const equals = pair.indexOf('=')
    if (equals < 0) continue
    const name = pair.slice(0, equals).trim()
    const value = pair.slice(equals + 1).trim()
    const isQuoted = value.length > 1 && value.startsWith('"') && value.endsWith('"')
    if (name !== '' && !found.has(name)) found.set(name, isQuoted ? value.slice(1, -1) : value)
  }
  return found
}
