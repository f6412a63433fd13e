// The conditions of a VirtualService in the model's terms. A condition that cannot be tried makes its match hold never, not
// always, and the object says so. Istio's prefixes are plain text (`/foo` holds for `/foobar`), so they become patterns here.
import { MeshError } from '../../../core/errors.ts'
import type { StringMatchSpec, VirtualHttpMatch } from '../../../model/manifest-traffic.ts'
import type { NamedMatch, PathMatch, RequestMatch, ValueMatch } from '../../../model/route.ts'
import { compilePattern } from '../../../policy/l7/pattern.ts'
import { given } from './findings.ts'

/** Where a rule is tried. */
export interface MatchPlace {
  readonly port: number
  /** Namespace of the callers that the rule is for; undefined for everybody. */
  readonly callers?: string
}

export type MadeMatch =
  | { readonly t: 'match'; readonly match: RequestMatch; readonly notes: readonly string[] }
  /** It is for another port, gateway or namespace: nothing to say. */
  | { readonly t: 'elsewhere' }
  | { readonly t: 'never'; readonly because: string }

interface Scope {
  readonly port?: number | undefined
  readonly gateways: readonly string[]
  readonly sourceLabels: Readonly<Record<string, string>>
  readonly sourceNamespace: string
}

/** Whose connections a match is for, before its other conditions: `callers` are undefined for everybody. */
export function scopeOf(
  { port, gateways, sourceLabels, sourceNamespace }: Scope, place: MatchPlace,
): { readonly callers: readonly string[] | undefined } | Exclude<MadeMatch, { t: 'match' }> {
  if (port !== undefined && port !== place.port) return { t: 'elsewhere' }
  if (gateways.length > 0) {
    // Naming gateways frees a match from its other conditions on the source, in Istio too.
    return gateways.includes('mesh') ? { callers: place.callers === undefined ? undefined : [place.callers] } : { t: 'elsewhere' }
  }
  if (Object.keys(sourceLabels).length > 0) return {
    t: 'never', because: 'sourceLabels are not known where the destination\'s proxy decides',
  }
  if (sourceNamespace === '') return { callers: place.callers === undefined ? undefined : [place.callers] }
  return place.callers === undefined || place.callers === sourceNamespace ? { callers: [sourceNamespace] } : { t: 'elsewhere' }
}

export function requestMatch(spec: VirtualHttpMatch, place: MatchPlace): MadeMatch {
  const scope = scopeOf(spec, place)
  if ('t' in scope) return scope
  const notes: string[] = []
  if (spec.statPrefix !== undefined) notes.push('statPrefix is not honoured: metrics have Istio\'s standard names')
  try {
    const scheme = spec.scheme && schemeOf(spec.scheme)
    if (scheme === 'none') return { t: 'never', because: 'no request has such a scheme' }
    const headers = [
      ...headerMatches(spec.headers, notes),
      ...headerMatches(spec.withoutHeaders, notes).map((each) => ({ ...each, isInverted: true as const })),
    ]
    const match: RequestMatch = given({
      path: spec.uri && pathOf(spec.uri, spec.ignoreUriCase),
      method: spec.method && valueOf(spec.method),
      authority: spec.authority && valueOf(spec.authority),
      scheme: scheme === 'any' ? undefined : scheme,
      headers,
      query: Object.entries(spec.queryParams).map(([name, each]) => ({ name, match: valueOf(each) })),
      cookies: [],
      sourceNamespaces: scope.callers,
    })
    return { t: 'match', match, notes }
  } catch (error) {
    if (!(error instanceof MeshError)) throw error
    return { t: 'never', because: error.message }
  }
}

/** Istio ignores these names among headers: they have fields of their own. */
const ownFields = new Set(['uri', 'scheme', 'method', 'authority'])

function headerMatches(specs: Readonly<Record<string, StringMatchSpec>>, notes: string[]): NamedMatch[] {
  return Object.entries(specs).flatMap(([written, spec]): NamedMatch[] => {
    const name = written.toLowerCase()
    if (ownFields.has(name)) {
      notes.push(`the header condition ${name} is ignored, as in Istio: it has a field of its own`)
      return []
    }
    if (!/^[a-z0-9!#$%&'*+\-.^_`|~]+$/.test(name)) throw new MeshError('BAD_CONFIG', `${JSON.stringify(written.slice(0, 100))} is no header that can be asked for here`)
    return [{ name, match: valueOf(spec) }]
  })
}

/** Throws MeshError BAD_CONFIG for a pattern that is none. */
export function valueOf({ exact, prefix, regex }: StringMatchSpec): ValueMatch {
  if (exact !== undefined) return { kind: 'exact', value: exact }
  if (prefix !== undefined) return { kind: 'prefix', value: prefix }
  // A lone star is no pattern; Istio reads it as presence.
  if (regex === undefined || regex === '*') return { kind: 'presence' }
  compilePattern(regex)
  return { kind: 'regex', value: regex }
}

function pathOf({ exact, prefix, regex }: StringMatchSpec, isCaseInsensitive: boolean): PathMatch | undefined {
  const folded = isCaseInsensitive ? { isCaseInsensitive: true as const } : {}
  if (exact !== undefined) return { kind: 'exact', value: exact, ...folded }
  if (prefix !== undefined) {
    if (prefix === '/' || prefix === '') return undefined
    const value = `${quoted(prefix)}.*`
    compilePattern(value)
    return { kind: 'regex', value, ...folded }
  }
  if (regex === undefined) return undefined
  compilePattern(regex)
  return { kind: 'regex', value: regex }
}

/** Text as an RE2 pattern for itself. */
export function quoted(text: string): string {
  return text.replace(/[\\.+*?()|[\]{}^$]/g, '\\$&')
}

function schemeOf(spec: StringMatchSpec): 'http' | 'https' | 'any' | 'none' {
  const value = valueOf(spec)
  const holds = (scheme: string): boolean => {
    switch (value.kind) {
      case 'exact': return value.value === scheme
      case 'prefix': return scheme.startsWith(value.value)
      case 'suffix': return scheme.endsWith(value.value)
      case 'regex': return compilePattern(value.value).holds(scheme)
      case 'presence': return true
    }
  }
  const [http, https] = [holds('http'), holds('https')]
  return http ? (https ? 'any' : 'http') : https ? 'https' : 'none'
}
