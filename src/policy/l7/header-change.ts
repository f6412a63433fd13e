// What a rule does to headers: removals, then `set` replaces, then `add` appends. Headers that frame the message or belong to one
// connection are not a rule's to change: a route could smuggle requests with them. Values that would break out of their
// line are dropped with the change, never sent.
import type { HeaderChange } from '../../model/route.ts'

/** What a change writes to. */
export interface MutableHeaders {
  append(name: string, value: string): void
  set(name: string, value: string): void
  delete(name: string): void
}

// RFC 9110, 7.6.1 and RFC 9112, 6; `host` and pseudo-headers are changed by rewrites.
const reserved = new Set([
  'connection', 'keep-alive', 'proxy-connection', 'transfer-encoding', 'te', 'trailer', 'upgrade', 'content-length', 'host',
    'http2-settings',
])

const token = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/

/** Whether a rule may touch a header of that name. */
export function isChangeable(name: string): boolean {
  return token.test(name) && !reserved.has(name.toLowerCase())
}

/** RFC 9110, 5.5: visible characters, spaces and tabs inside, and bytes above 127. */
export function isFieldValue(value: string): boolean {
  for (let i = 0; i < value.length; i++) {
    const code = value.charCodeAt(i)
    if ((code < 32 && code !== 9) || code === 127 || code > 255) return false
  }
  return true
}

export interface CompiledHeaderChange {
  apply(headers: MutableHeaders): void
  /** Parts that are never done, in words. */
  readonly problems: readonly string[]
}

export function compileHeaderChange(change: HeaderChange): CompiledHeaderChange {
  const problems: string[] = []
  const isGood = (name: string, value?: string): boolean => {
    const why = !isChangeable(name) ? 'is not a rule\'s to change' : value !== undefined
      && !isFieldValue(value) ? 'has no such value' : undefined
    if (why !== undefined) problems.push(`the header ${JSON.stringify(name.slice(0, 100))} ${why}`)
    return why === undefined
  }
  const remove = change.remove.filter((name) => isGood(name))
  const set = change.set.filter(([name, value]) => isGood(name, value))
  const add = change.add.filter(([name, value]) => isGood(name, value))
  return {
    problems,
    apply(headers) {
      for (const name of remove) headers.delete(name)
      for (const [name, value] of set) headers.set(name, value)
      for (const [name, value] of add) headers.append(name, value)
    },
  }
}
