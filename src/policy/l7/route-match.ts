// One RequestMatch as a function of a request head. What is cheap and decides most is asked first; nothing here looks at a body,
// allocates per rule, or runs a user's text as anything but RE2.
import type { PathMatch, RequestMatch } from '../../model/route.ts'
import { defaultPathRules, isUnder, patternPath, type PathRules } from './path.ts'
import { compilePattern } from './pattern.ts'
import { hostOf, parseCookies, parseQuery, type RequestHead } from './request-head.ts'
import { compileNamed, compileValue } from './value-match.ts'
import { MeshError } from '../../core/errors.ts'

/** A request with what several rules want to know of it, read once. */
export class RequestView {
  readonly head: RequestHead
  #query: ReadonlyMap<string, string> | undefined
  #cookies: ReadonlyMap<string, string> | undefined
  #folded: string | undefined
  #host: string | undefined

  constructor(head: RequestHead) {
    this.head = head
  }

  get path(): string {
    return this.head.path.matched
  }

  get foldedPath(): string {
    return (this.#folded ??= this.head.path.matched.toLowerCase())
  }

  get host(): string {
    return (this.#host ??= hostOf(this.head.authority))
  }

  get query(): ReadonlyMap<string, string> {
    return (this.#query ??= parseQuery(this.head.query))
  }

  get cookies(): ReadonlyMap<string, string> {
    return (this.#cookies ??= parseCookies(this.head.headers.all('cookie')))
  }
}

export type MatchTest = (view: RequestView) => boolean

/** Where an index can find a match: by its whole path, by segments that the path begins with, or only by trying. */
export type PathPlace =
  | { readonly t: 'exact'; readonly path: string }
  | { readonly t: 'under'; readonly prefix: string }
  | { readonly t: 'anywhere' }

/** Values that the request must have in full, for an index: header, method and authority, the most telling first. */
export interface MatchKey {
  readonly name: string
  readonly value: string
}

export interface CompiledMatch {
  readonly source: RequestMatch
  readonly place: PathPlace
  readonly keys: readonly MatchKey[]
  readonly holds: MatchTest
}

export const authorityKey = ':authority'
export const methodKey = ':method'

/** Throws MeshError BAD_CONFIG when it cannot be evaluated: a bad pattern, or a path that no request can have. */
export function compileMatch(match: RequestMatch, rules: PathRules = defaultPathRules): CompiledMatch {
  const tests: MatchTest[] = []
  const keys: MatchKey[] = []
  const { path, method, authority, scheme, sourceIdentities, sourceNamespaces } = match
  if (method) {
    const test = compileValue(method)
    tests.push((view) => test(view.head.method))
    if (method.kind === 'exact') keys.push({ name: methodKey, value: method.value })
  }
  if (scheme) tests.push((view) => view.head.scheme === scheme)
  if (authority) {
    // Written without a port it holds for every port, written with one for that one.
    const test = compileValue(authority.kind === 'exact' ? { ...authority, value: authority.value.toLowerCase() } : authority)
    tests.push((view) => test(view.head.authority) || test(view.host))
    if (authority.kind === 'exact'
      && hostOf(authority.value) === authority.value) keys.unshift({ name: authorityKey, value: authority.value.toLowerCase() })
  }
  if (sourceNamespaces) {
    const wanted = new Set(sourceNamespaces)
    tests.push(({ head }) => head.sourceNamespace !== undefined && wanted.has(head.sourceNamespace))
  }
  if (sourceIdentities) {
    const wanted = new Set(sourceIdentities)
    tests.push(({ head }) => head.sourceIdentity !== undefined && wanted.has(head.sourceIdentity))
  }
  const placed: PlacedPath = path ? compilePath(path, rules) : { place: { t: 'anywhere' } }
  if (placed.test) tests.push(placed.test)
  for (const header of match.headers) {
    const name = header.name.toLowerCase()
    const test = compileNamed(header)
    tests.push(({ head }) => test(head.headers.get(name)))
    if (header.match.kind === 'exact' && !header.isInverted) keys.unshift({ name, value: header.match.value })
  }
  for (const parameter of match.query) {
    const { name } = parameter
    const test = compileNamed(parameter)
    tests.push((view) => test(view.query.get(name)))
  }
  for (const cookie of match.cookies) {
    const { name } = cookie
    const test = compileNamed(cookie)
    tests.push((view) => test(view.cookies.get(name)))
  }
  return { source: match, place: placed.place, keys, holds: all(tests) }
}

function all(tests: readonly MatchTest[]): MatchTest {
  const [first, second] = tests
  if (!first) return () => true
  if (!second) return first
  if (tests.length === 2) return (view) => first(view) && second(view)
  return (view) => {
    for (const test of tests) if (!test(view)) return false
    return true
  }
}

interface PlacedPath {
  readonly place: PathPlace
  /** Absent where the place says it all. */
  readonly test?: MatchTest
}

function compilePath(path: PathMatch, rules: PathRules): PlacedPath {
  switch (path.kind) {
    case 'exact': {
      const wanted = pathOf(path.value, rules)
      if (!path.isCaseInsensitive) return { place: { t: 'exact', path: wanted }, test: (view) => view.path === wanted }
      const folded = wanted.toLowerCase()
      return { place: { t: 'anywhere' }, test: (view) => view.foldedPath === folded }
    }
    case 'prefix': {
      const wanted = pathOf(path.value, rules)
      if (!path.isCaseInsensitive) return { place: { t: 'under', prefix: wanted }, test: (view) => isUnder(view.path, wanted) }
      const folded = wanted.toLowerCase()
      return { place: { t: 'anywhere' }, test: (view) => isUnder(view.foldedPath, folded) }
    }
    case 'regex': {
      const pattern = compilePattern(path.isCaseInsensitive ? `(?i:${path.value})` : path.value)
      const test: MatchTest = (view) => pattern.holds(view.path)
      const slash = pattern.literalPrefix.lastIndexOf('/')
      return slash > 0 ? { place: { t: 'under', prefix: pattern.literalPrefix.slice(0, slash) }, test }
        : { place: { t: 'anywhere' }, test }
    }
    case 'grpc':
      return compileGrpc(path)
  }
}

function pathOf(value: string, rules: PathRules): string {
  const path = patternPath(value, rules)
  if (path === undefined) throw new MeshError('BAD_CONFIG',
    `no request has the path ${JSON.stringify(value.slice(0, 100))}: paths are normalised first`)
  return path
}

/** gRPC paths have exactly two segments. */
function compileGrpc({ service, method,
  isRegex }: { readonly service?: string; readonly method?: string; readonly isRegex?: true }): PlacedPath {
  if (isRegex) {
    const testService = service === undefined ? undefined : compilePattern(service)
    const testMethod = method === undefined ? undefined : compilePattern(method)
    return {
      place: { t: 'anywhere' },
      test: ({ path }) => {
        const slash = path.indexOf('/', 1)
        if (slash < 2 || slash === path.length - 1 || path.includes('/', slash + 1)) return false
        return (testService?.holds(path.slice(1, slash)) ?? true) && (testMethod?.holds(path.slice(slash + 1)) ?? true)
      },
    }
  }
  if (service !== undefined && method !== undefined) {
    const wanted = `/${service}/${method}`
    return { place: { t: 'exact', path: wanted }, test: (view) => view.path === wanted }
  }
  if (service === undefined && method === undefined) return { place: { t: 'anywhere' } }
  const prefix = service === undefined ? undefined : `/${service}/`
  const suffix = method === undefined ? undefined : `/${method}`
  const test: MatchTest = ({ path }) => {
    const slash = path.indexOf('/', 1)
    if (slash < 2 || slash === path.length - 1 || path.includes('/', slash + 1)) return false
    return (prefix === undefined || path.startsWith(prefix))
      && (suffix === undefined || (path.endsWith(suffix) && path.length - suffix.length === slash))
  }
  return { place: prefix === undefined ? { t: 'anywhere' } : { t: 'under', prefix: prefix.slice(0, -1) }, test }
}
