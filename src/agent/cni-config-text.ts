// Puts our entry into the text of a CNI network configuration and takes it out again, by cutting and pasting: every other byte
// stays as it was, so that what is left after an uninstall is what stood there before, also where others changed the rest in
// between. Pure; cni-install.ts has the files.
import { MeshError } from '../core/errors.ts'

export const pluginType = 'sidestep-cni'

/** Versions in which plugins can be chained and that ours speaks. */
export const chainableVersions: readonly string[] = ['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0']

/** Our entry; all paths are the node's. What each means is said in native/cni/call.h. */
export interface PluginEntry {
  readonly socket: string
  readonly namespaces: string
  readonly timeoutMs: number
  readonly exempt: readonly string[]
}

interface Span {
  readonly start: number
  readonly end: number
}

interface Chain {
  /** Between the brackets. */
  readonly inside: Span
  readonly plugins: readonly (Span & { readonly type: string })[]
}

export function entryText(entry: PluginEntry): string {
  const { socket, namespaces, timeoutMs, exempt } = entry
  return JSON.stringify({ type: pluginType, socket, namespaces, timeoutMs, exempt })
}

/** The list with our entry as its last plugin; the same text where it is so already. BAD_CONFIG where that cannot be. */
export function withEntry(list: string, entry: PluginEntry): string {
  const wanted = entryText(entry)
  const bare = withoutEntry(list)
  const { plugins } = chainOf(bare)
  const last = plugins.at(-1)
  if (last === undefined) throw refused('it has no plugins')
  const { cniVersion } = parse(bare)
  if (!chainableVersions.includes(String(cniVersion))) {
    throw refused(`its cniVersion ${JSON.stringify(cniVersion)} is none of ${chainableVersions.join(', ')}`)
  }
  const before = bare.slice(plugins.at(-2)?.end ?? chainOf(bare).inside.start, last.start)
  // On a line of its own where the others have one.
  const blank = /\s*$/.exec(before)?.[0] ?? ''
  return `${bare.slice(0, last.end)},${blank}${wanted}${bare.slice(last.end)}`
}

/** The list without any entry of ours; the same text where there is none. */
export function withoutEntry(list: string): string {
  let text = list
  for (;;) {
    const { inside, plugins } = chainOf(text)
    const at = plugins.findIndex(({ type }) => type === pluginType)
    const own = plugins[at]
    if (own === undefined) return text
    const [previous, next] = [plugins[at - 1], plugins[at + 1]]
    if (previous) text = text.slice(0, previous.end) + text.slice(own.end)
    else if (next) text = text.slice(0, own.start) + text.slice(next.start)
    else text = text.slice(0, inside.start) + text.slice(own.end)
  }
}

export function hasEntry(list: string): boolean {
  return chainOf(list).plugins.some(({ type }) => type === pluginType)
}

/** The list that a runtime makes of a configuration of one plugin. BAD_CONFIG where it is none. */
export function listOf(single: string): string {
  const { name, cniVersion, type } = parse(single)
  if (typeof type !== 'string' || type === '') throw refused('it has no type')
  if (typeof name !== 'string' || name === '') throw refused('it has no name')
  const version = cniVersion === undefined ? '' : `  "cniVersion": ${JSON.stringify(cniVersion)},\n`
  return `{\n${version}  "name": ${JSON.stringify(name)},\n  "plugins": [\n    ${single.trim()}\n  ]\n}\n`
}

function refused(because: string): MeshError {
  return new MeshError('BAD_CONFIG', because)
}

function parse(text: string): Readonly<Record<string, unknown>> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new MeshError('BAD_CONFIG', 'it is not JSON', { cause })
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw refused('it is no JSON object')
  return Object.fromEntries(Object.entries(value))
}

/** Where the plugins stand in the text. */
function chainOf(text: string): Chain {
  const { plugins } = parse(text)
  if (!Array.isArray(plugins)) throw refused('it has no list of plugins')
  // The last of a name counts, for JSON.parse as for the runtimes.
  const list = membersOf(text, 0).findLast(({ key }) => key === 'plugins')
  if (list === undefined) throw refused('it has no list of plugins')
  const spans = itemsOf(text, list.start)
  return {
    inside: { start: list.start + 1, end: list.end - 1 },
    plugins: spans.map((span, i) => ({ ...span, type: typeOf(plugins[i]) })),
  }
}

function typeOf(plugin: unknown): string {
  return typeof plugin === 'object' && plugin !== null && 'type' in plugin && typeof plugin.type === 'string' ? plugin.type : ''
}

// --- where values stand in a text that JSON.parse has taken ------------------------------------------------------------

function skipBlanks(text: string, at: number): number {
  let next = at
  while (/\s/.test(text.charAt(next))) next += 1
  return next
}

/** Behind the value that begins at `at`. Not recursive: the text may be nested as deeply as JSON.parse allows. */
function endOfValue(text: string, at: number): number {
  let depth = 0
  let next = at
  for (;;) {
    const c = text.charAt(next)
    if (c === '"') next = endOfString(text, next)
    else if (c === '{' || c === '[') {
      depth += 1
      next += 1
    } else if (c === '}' || c === ']') {
      depth -= 1
      next += 1
    } else if (depth === 0) {
      while (next < text.length && !/[\s,\]}]/.test(text.charAt(next))) next += 1
    } else next += 1
    if (depth === 0) return next
  }
}

function endOfString(text: string, at: number): number {
  let next = at + 1
  while (text.charAt(next) !== '"') next += text.charAt(next) === '\\' ? 2 : 1
  return next + 1
}

function membersOf(text: string, from: number): (Span & { readonly key: string })[] {
  const members: (Span & { readonly key: string })[] = []
  let at = skipBlanks(text, skipBlanks(text, from) + 1)
  while (text.charAt(at) !== '}') {
    const keyEnd = endOfString(text, at)
    const key = String(JSON.parse(text.slice(at, keyEnd)))
    const start = skipBlanks(text, skipBlanks(text, keyEnd) + 1)
    const end = endOfValue(text, start)
    members.push({ key, start, end })
    at = skipBlanks(text, end)
    if (text.charAt(at) === ',') at = skipBlanks(text, at + 1)
  }
  return members
}

function itemsOf(text: string, from: number): Span[] {
  const items: Span[] = []
  let at = skipBlanks(text, from + 1)
  while (text.charAt(at) !== ']') {
    const end = endOfValue(text, at)
    items.push({ start: at, end })
    at = skipBlanks(text, end)
    if (text.charAt(at) === ',') at = skipBlanks(text, at + 1)
  }
  return items
}
