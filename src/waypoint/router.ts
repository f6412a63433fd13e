// What a rule does, compiled once per rule: changes of headers, rewrites, weights, CORS. The plan for one request is made of that
// and of chance. A rule of which a part cannot be done answers 500 (or 503 to gRPC) and never goes on without that part.
import { createHash } from 'node:crypto'
import { MeshError } from '../core/errors.ts'
import type { Backend, HeaderChange, HttpRule, RequestMatch } from '../model/route.ts'
import type { RequestFilter } from '../model/waypoint-config.ts'
import { compileCors } from '../policy/l7/cors.ts'
import type { CompiledCors } from '../policy/l7/cors.ts'
import { compileHeaderChange } from '../policy/l7/header-change.ts'
import type { CompiledHeaderChange } from '../policy/l7/header-change.ts'
import { compileRedirect } from '../policy/l7/redirect.ts'
import type { CompiledRedirect } from '../policy/l7/redirect.ts'
import { rewrittenAuthority, compilePathRewrite } from '../policy/l7/rewrite.ts'
import type { CompiledPathRewrite } from '../policy/l7/rewrite.ts'
import type { RequestHead } from '../policy/l7/request-head.ts'
import { compileWeights } from '../policy/l7/weights.ts'
import type { WeightedBackends } from '../policy/l7/weights.ts'
import type { Chain, Chains, Target } from './context.ts'

export interface BackendChanges {
  readonly request: CompiledHeaderChange | undefined
  readonly response: CompiledHeaderChange | undefined
}

export interface CompiledRule {
  readonly rule: HttpRule
  readonly request: CompiledHeaderChange | undefined
  readonly response: CompiledHeaderChange | undefined
  readonly cors: CompiledCors | undefined
  readonly redirect: CompiledRedirect | undefined
  readonly path: CompiledPathRewrite | undefined
  readonly weights: WeightedBackends | undefined
  readonly backends: ReadonlyMap<Backend, BackendChanges>
  /** Why nothing may be answered by it but an error. */
  readonly problem: string | undefined
}

export type Routed =
  | { readonly t: 'rule'; readonly compiled: CompiledRule; readonly match: RequestMatch | undefined }
  /** As if there were no routes: to what the client asked for. */
  | { readonly t: 'default' }
  | { readonly t: 'none' }

const rules = new WeakMap<HttpRule, CompiledRule>()

export function compiledRule(rule: HttpRule): CompiledRule {
  const known = rules.get(rule)
  if (known) return known
  const compiled = compile(rule)
  rules.set(rule, compiled)
  return compiled
}

function compile(rule: HttpRule): CompiledRule {
  const problems: string[] = []
  const part = <Result>(make: () => Result): Result | undefined => {
    try {
      return make()
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      problems.push(error.message)
      return undefined
    }
  }
  const change = (each: HeaderChange | undefined): CompiledHeaderChange | undefined => {
    if (!each || each.set.length + each.add.length + each.remove.length === 0) return undefined
    const compiled = compileHeaderChange(each)
    problems.push(...compiled.problems)
    return compiled
  }
  const { action, rewrite } = rule
  const listed = action.t === 'forward' ? action.backends : []
  const all = [...listed, ...rule.mirrors.map(({ backend }) => backend)]
  const cors = rule.cors && part(() => compileCors(rule.cors ?? missing()))
  const redirect = action.t === 'redirect' ? part(() => compileRedirect(action.redirect)) : undefined
  const path = rewrite?.path && part(() => compilePathRewrite(rewrite.path ?? missing()))
  const backends = new Map(all.map((backend) => [
    backend, { request: change(backend.requestHeaders), response: change(backend.responseHeaders) },
  ]))
  const request = change(rule.requestHeaders)
  const response = change(rule.responseHeaders)
  return {
    rule, request, response, cors, redirect, path, backends,
    weights: action.t === 'forward' ? compileWeights(action.backends) : undefined, problem: problems[0],
  }
}

function missing(): never {
  throw new MeshError('BAD_CONFIG', 'a part of the rule is missing')
}

/** What the chain's routes say of a request whose identity is in the head. */
export function route(chain: Chain, target: Target, head: RequestHead): Routed {
  const decision = chain.routes.match(head)
  if (decision.t === 'rule') return { t: 'rule', compiled: compiledRule(decision.rule), match: decision.match }
  if (decision.t === 'default') return target.t === 'listener' ? { t: 'none' } : decision
  // A service or a pod without any table is reached as it is; a listener is nothing by itself.
  return decision.because === 'noHost' && target.t !== 'listener' ? { t: 'default' } : { t: 'none' }
}

export interface NamedFilter<Kind extends RequestFilter['t']> {
  readonly key: string
  readonly spec: Extract<RequestFilter, { t: Kind }>['spec']
}

export type RuleFilters =
  | {
    readonly t: 'filters'; readonly limits: readonly NamedFilter<'rateLimit'>[]; readonly cache: NamedFilter<'cache'> | undefined
  }
  /** The rule names a filter that is not known: what it was to do may be what protects the backend. */
  | { readonly t: 'missing'; readonly key: string }

const noFilters: RuleFilters = Object.freeze({ t: 'filters', limits: Object.freeze([]), cache: undefined })

/** Of several caches the first counts. */
export function filtersOf({ filters }: HttpRule, chains: Chains): RuleFilters {
  if (filters.length === 0) return noFilters
  const limits: NamedFilter<'rateLimit'>[] = []
  let cache: NamedFilter<'cache'> | undefined
  for (const key of filters) {
    const filter = chains.filter(key)
    if (!filter) return { t: 'missing', key }
    if (filter.t === 'rateLimit') limits.push({ key, spec: filter.spec })
    else cache ??= { key, spec: filter.spec }
  }
  return { t: 'filters', limits, cache }
}

/** The head as the backend gets it, but for headers; undefined where the rewritten path is no path. */
export function rewritten(head: RequestHead, compiled: CompiledRule, match: RequestMatch | undefined): {
  readonly authority: string; readonly target: string
} | undefined {
  const path = compiled.path ? compiled.path.apply(head.path, match) : head.path
  if (!path) return undefined
  return { authority: rewrittenAuthority(head.authority, compiled.rule.rewrite), target: targetOf(path.path, head.query) }
}

export function targetOf(path: string, query: string): string {
  return query === '' ? path : `${path}?${query}`
}

const prints = new WeakMap<HttpRule, string>()

/** The same for two readings of the same rule, another one after each change of it. */
export function fingerprint(rule: HttpRule | undefined): string {
  if (!rule) return ''
  const known = prints.get(rule)
  if (known !== undefined) return known
  const print = createHash('sha256').update(JSON.stringify(rule)).digest('base64url').slice(0, 22)
  prints.set(rule, print)
  return print
}
