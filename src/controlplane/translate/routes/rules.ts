// HTTPRoute and GRPCRoute rules in the model's terms, each match with its rank. A rule that cannot be done as written keeps its
// matches and answers 500: dropped, its requests would fall to another rule that was not meant for them.
import { createHash } from 'node:crypto'
import type {
  GrpcRouteMatch, GrpcRouteRule, HttpRouteMatch, HttpRouteRule, SessionPersistenceSpec,
} from '../../../model/manifest-route.ts'
import { objectKey, type GrpcRouteManifest, type HttpRouteManifest } from '../../../model/manifest.ts'
import type { Backend, HttpRule, NamedMatch, PathMatch, RequestMatch, Retry, SessionPersistence } from '../../../model/route.ts'
import { MeshError } from '../../../core/errors.ts'
import { compilePattern } from '../../../policy/l7/pattern.ts'
import { backendFilters, ruleFilters } from './filters.ts'
import { resolveBackend, type RefFailure, type RouteContext } from './backends.ts'
import { given } from './findings.ts'
import { grpcRank, httpRank, plainPrefix, plainService, type Rank } from './order.ts'

export interface RankedMatch {
  readonly match: RequestMatch
  readonly rank: Rank
}

export interface BuiltRule {
  readonly rule: Omit<HttpRule, 'matches'>
  /** At least one, unless none of them can be evaluated. */
  readonly matches: readonly RankedMatch[]
}

export interface BuiltRoute {
  readonly rules: readonly BuiltRule[]
  readonly failures: readonly RefFailure[]
  /** Rules that are not in force as written, by position, with the reason. */
  readonly invalid: ReadonlyMap<number, string>
  readonly notes: readonly string[]
}

/** `attached` are filters of policies, by what they attach to. */
export function buildRoute(
  route: HttpRouteManifest | GrpcRouteManifest, context: RouteContext, attached: ReadonlyMap<string, readonly string[]>,
): BuiltRoute {
  const failures: RefFailure[] = []
  const invalid = new Map<number, string>()
  const notes = new Set<string>()
  const object = objectKey(route)
  const build = (spec: HttpRouteRule | GrpcRouteRule, index: number, ranked: readonly RankedMatch[], bad: readonly string[]): BuiltRule => {
    const name = spec.name ?? String(index)
    const parts = ruleFilters(spec.filters, context)
    failures.push(...parts.failures)
    const [problem] = [parts.unsupported, ...bad].filter((each) => each !== undefined)
    if (problem !== undefined) invalid.set(index, problem)
    const backends = spec.backendRefs.map((ref): Backend => {
      const { backend, failure } = resolveBackend(ref, ref.weight, context)
      if (failure) failures.push(failure)
      const { blocked, ...changes } = backendFilters(ref.filters)
      if (blocked !== undefined) invalid.set(index, blocked)
      return { ...backend, ...changes, ...(backend.broken === undefined && blocked !== undefined ? { broken: blocked } : {}) }
    })
    const policies = [
      ...context.parentFilters, ...(attached.get(object) ?? []), ...(spec.name === undefined ? [] : (attached.get(`${object}/${spec.name}`) ?? [])), ...parts.filters,
    ]
    const shared = { origin: object, name, mirrors: parts.mirrors, timeouts: {}, filters: [...new Set(policies)] }
    if (parts.blocked !== undefined || parts.unsupported !== undefined) {
      // 503 is what gRPC clients read as UNAVAILABLE.
      return {
        rule: { ...shared, mirrors: [], filters: [], action: { t: 'respond', status: route.kind === 'GRPCRoute' ? 503 : 500 } },
        matches: ranked,
      }
    }
    const { requestHeaders, responseHeaders, redirect, rewrite, cors } = parts
    const extras = 'timeouts' in spec || 'retry' in spec ? { timeouts: timeoutsOf(spec), ...given({ retry: retryOf(spec) }) } : { timeouts: {} }
    return {
      rule: {
        ...shared,
        ...extras,
        action: redirect ? { t: 'redirect', redirect } : { t: 'forward', backends },
        ...given({ requestHeaders, responseHeaders, rewrite, cors, sessionPersistence: spec.sessionPersistence && persistenceOf(spec.sessionPersistence, `${object} ${name}`) }),
      },
      matches: ranked,
    }
  }
  const rules = route.kind === 'HTTPRoute'
    ? route.spec.rules.map((spec, index) => build(spec, index, ...evaluable(spec.matches, anyHttp, (match) => httpMatch(match, notes))))
    : route.spec.rules.map((spec, index) => build(spec, index, ...evaluable(spec.matches, anyGrpc, (match) => grpcMatch(match, notes))))
  return { rules, failures, invalid, notes: [...notes] }
}

const anyHttp: HttpRouteMatch = { path: { type: 'PathPrefix', value: '/' }, headers: [], queryParams: [] }
const anyGrpc: GrpcRouteMatch = { headers: [] }

/** Matches that can be tried, and what is wrong with the others. No match at all is one for everything. */
function evaluable<M>(matches: readonly M[], everything: M, make: (match: M) => RankedMatch): [RankedMatch[], string[]] {
  const bad: string[] = []
  const ranked = (matches.length === 0 ? [everything] : matches).flatMap((match) => {
    try {
      return [make(match)]
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      bad.push(error.message)
      return []
    }
  })
  return [ranked, bad]
}

function httpMatch(match: HttpRouteMatch, notes: Set<string>): RankedMatch {
  const headers = namedMatches(match.headers, (name) => name.toLowerCase(), notes)
  const query = namedMatches(match.queryParams, (name) => name, notes)
  const path = pathOf(match.path)
  return {
    match: given({
      path, method: match.method === undefined ? undefined : { kind: 'exact' as const, value: match.method }, headers, query,
      cookies: [],
    }),
    rank: httpRank(match, headers.length, query.length),
  }
}

/** The prefix that everything begins with says nothing. */
function pathOf({ type, value }: HttpRouteMatch['path']): PathMatch | undefined {
  if (type === 'Exact') return { kind: 'exact', value }
  if (type === 'PathPrefix') return value === '/' ? undefined : { kind: 'prefix', value: plainPrefix(value) }
  compilePattern(value)
  return { kind: 'regex', value }
}

function grpcMatch(match: GrpcRouteMatch, notes: Set<string>): RankedMatch {
  const headers = namedMatches(match.headers, (name) => name.toLowerCase(), notes)
  const { type, service, method } = match.method ?? { type: 'Exact' }
  if (type === 'RegularExpression') for (const pattern of [service, method]) if (pattern) compilePattern(pattern)
  const path: PathMatch = {
    kind: 'grpc',
    ...given({ service: (type === 'Exact' ? plainService(service) : service) || undefined, method: method || undefined }),
    ...(type === 'RegularExpression' ? { isRegex: true as const } : {}),
  }
  return { match: { path, headers, query: [], cookies: [] }, rank: grpcRank(match, headers.length) }
}

/** Of several conditions on one name only the first counts, as the Gateway API has it. */
function namedMatches(list: HttpRouteMatch['headers'], canonical: (name: string) => string, notes: Set<string>): NamedMatch[] {
  const seen = new Set<string>()
  return list.flatMap(({ name: written, type, value }): NamedMatch[] => {
    const name = canonical(written)
    if (seen.has(name)) {
      notes.add(`of two conditions on ${name} in one match only the first counts`)
      return []
    }
    seen.add(name)
    if (type === 'RegularExpression') compilePattern(value)
    return [{ name, match: { kind: type === 'Exact' ? 'exact' : 'regex', value } }]
  })
}

function timeoutsOf({ timeouts }: HttpRouteRule): HttpRule['timeouts'] {
  return given({ requestMs: timeouts?.request, backendRequestMs: timeouts?.backendRequest })
}

/** Retries of a Gateway API route, unless it says how many, and how long between them at least. */
const defaultAttempts = 2
const defaultBackoffMs = 25

function retryOf({ retry }: HttpRouteRule): Retry | undefined {
  if (!retry) return undefined
  return {
    attempts: retry.attempts ?? defaultAttempts, backoffMs: retry.backoff ?? defaultBackoffMs, statuses: retry.codes,
    // "Implementations SHOULD retry on connection errors if a retry stanza is configured."
    on: ['connectFailure', 'refusedStream', 'reset'],
  }
}

function persistenceOf(
  { type, sessionName, idleTimeout, absoluteTimeout, cookieConfig }: SessionPersistenceSpec, scope: string,
): SessionPersistence {
  const generated = `sidestep-session-${createHash('sha256').update(scope).digest('hex').slice(0, 8)}`
  return {
    kind: type === 'Cookie' ? 'cookie' : 'header',
    name: sessionName ?? generated,
    ...given({ idleMs: idleTimeout, absoluteMs: absoluteTimeout }),
    ...(cookieConfig?.lifetimeType === 'Permanent' ? { isPermanent: true as const } : {}),
  }
}
