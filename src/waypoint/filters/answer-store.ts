// Kept answers, bounded by bytes: the longest unused go first. An answer is found under what was asked for and, among the
// variants of that, by the headers that it varies by. Knows nothing of freshness, and never shows one variant for another.
import type { StoredAnswer } from '../../policy/l7/cache/lookup.ts'
import { varyKey } from '../../policy/l7/cache/key.ts'
import type { HeaderMap, RequestHead } from '../../policy/l7/request-head.ts'

export interface KeptAnswer extends StoredAnswer {
  readonly headers: HeaderMap
  readonly body: Buffer
  /** Names of request headers, sorted. */
  readonly vary: readonly string[]
}

interface Entry {
  readonly answer: KeptAnswer
  readonly primary: string
  readonly bytes: number
}

/** All entries of one thing that can be asked for. */
interface Primary {
  readonly keys: Set<string>
  /** Each list of names that one of its answers varies by. */
  readonly varies: Map<string, readonly string[]>
}

const overheadBytes = 512
const mostVaries = 8

export class AnswerStore {
  readonly #maxBytes: number
  /** The longest unused first. */
  readonly #entries = new Map<string, Entry>()
  readonly #primaries = new Map<string, Primary>()
  #bytes = 0

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  get bytes(): number {
    return this.#bytes
  }

  get size(): number {
    return this.#entries.size
  }

  /** `variant` is part of every key beside the headers. */
  find(primary: string, variant: string, head: RequestHead): KeptAnswer | undefined {
    const known = this.#primaries.get(primary)
    if (!known) return undefined
    for (const names of known.varies.values()) {
      const key = fullKey(primary, variant, names, head)
      const entry = this.#entries.get(key)
      if (!entry) continue
      this.#entries.delete(key)
      this.#entries.set(key, entry)
      return entry.answer
    }
    return undefined
  }

  /** Of what is known so far; for telling apart which requests ask for the same. */
  variesOf(primary: string): readonly (readonly string[])[] {
    return [...(this.#primaries.get(primary)?.varies.values() ?? [])]
  }

  /** False where it has no room. */
  put(primary: string, variant: string, head: RequestHead, answer: KeptAnswer): boolean {
    const key = fullKey(primary, variant, answer.vary, head)
    const bytes = bytesOf(key, answer)
    this.#remove(key)
    if (bytes > this.#maxBytes / 2) return false
    const known = this.#primaries.get(primary) ?? { keys: new Set<string>(), varies: new Map<string, readonly string[]>() }
    const names = answer.vary.join(',')
    // An origin that varies by something else each time is not worth its look-ups.
    if (!known.varies.has(names) && known.varies.size >= mostVaries) {
      this.forget(primary)
      return false
    }
    known.varies.set(names, answer.vary)
    known.keys.add(key)
    this.#primaries.set(primary, known)
    this.#entries.set(key, { answer, primary, bytes })
    this.#bytes += bytes
    for (const oldest of this.#entries.keys()) {
      if (this.#bytes <= this.#maxBytes) break
      this.#remove(oldest)
    }
    return true
  }

  /** All variants of it. */
  forget(primary: string): void {
    const known = this.#primaries.get(primary)
    if (known) for (const key of known.keys) this.#remove(key)
  }

  remove(primary: string, variant: string, head: RequestHead, { vary }: KeptAnswer): void {
    this.#remove(fullKey(primary, variant, vary, head))
  }

  #remove(key: string): void {
    const entry = this.#entries.get(key)
    if (!entry) return
    this.#entries.delete(key)
    this.#bytes -= entry.bytes
    const known = this.#primaries.get(entry.primary)
    known?.keys.delete(key)
    if (known?.keys.size === 0) this.#primaries.delete(entry.primary)
  }
}

// A blank line cannot be in any of the parts: their line feeds are counted lengths apart, or escaped.
function fullKey(primary: string, variant: string, names: readonly string[], head: RequestHead): string {
  return `${primary}\n\n${variant.length}:${variant}\n${varyKey(names, head)}`
}

function bytesOf(key: string, { headers, body }: KeptAnswer): number {
  let bytes = overheadBytes + 2 * key.length + body.length
  for (const [name, value] of headers.entries()) bytes += name.length + value.length + 32
  return bytes
}
