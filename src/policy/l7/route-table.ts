// Which rule decides a request: route tables compiled once, asked per request. Tables of more specific hostnames go first
// (Gateway API: the longest exact host, then the longest wildcard), within a table the rules in their order. The answer is
// always that of trying them one by one. Never throws for a request; rules that cannot be evaluated never match and are listed.
import { MeshError } from '../../core/errors.ts'
import type { HttpRule, RequestMatch, RouteTable } from '../../model/route.ts'
import { defaultPathRules, type PathRules } from './path.ts'
import { hostOf, type RequestHead } from './request-head.ts'
import { RouteIndex } from './route-index.ts'
import { compileMatch, RequestView, type CompiledMatch } from './route-match.ts'

export type RouteDecision =
  | {
    readonly t: 'rule'
    readonly table: RouteTable
    readonly rule: HttpRule
    /** The alternative of the rule that held; absent for a rule without any. A prefix rewrite needs its path. */
    readonly match?: RequestMatch
  }
  /** To the service as if there were no routes. */
  | { readonly t: 'default'; readonly table: RouteTable }
  | { readonly t: 'none'; readonly because: 'noHost' | 'noRule' }

/** A part of a table that cannot be evaluated. */
export interface RouteProblem {
  readonly table: string
  readonly origin: string
  readonly rule: string
  readonly message: string
}

interface Entry {
  readonly order: number
  readonly match: CompiledMatch
  readonly decision: RouteDecision
}

const noHost: RouteDecision = Object.freeze({ t: 'none', because: 'noHost' })
const noRule: RouteDecision = Object.freeze({ t: 'none', because: 'noRule' })
const everything: RequestMatch = Object.freeze({ headers: [], query: [], cookies: [] })

export class CompiledTable {
  readonly table: RouteTable
  readonly problems: readonly RouteProblem[]
  readonly fallback: RouteDecision
  readonly #index: RouteIndex<Entry>
  readonly #linear: readonly Entry[]

  constructor(table: RouteTable, rules: PathRules = defaultPathRules) {
    const entries: Entry[] = []
    const problems: RouteProblem[] = []
    for (const rule of table.http) {
      const decisions = rule.matches.length === 0 ? [everything] : rule.matches
      for (const source of decisions) {
        try {
          const match = compileMatch(source, rules)
          const decision: RouteDecision = Object.freeze(rule.matches.length === 0 ? { t: 'rule', table, rule }
            : { t: 'rule', table, rule, match: source })
          entries.push({ order: entries.length, match, decision })
        } catch (error) {
          if (!(error instanceof MeshError)) throw error
          problems.push({ table: table.key, origin: rule.origin, rule: rule.name, message: error.message })
        }
      }
    }
    this.table = table
    this.problems = problems
    this.fallback = Object.freeze({ t: 'default', table })
    this.#linear = entries
    this.#index = new RouteIndex(entries)
  }

  first(view: RequestView): RouteDecision | undefined {
    return this.#index.first(view)?.decision
  }

  /** What the index must answer, found by trying each rule: for tests and for the benchmark. */
  firstByTrying(view: RequestView): RouteDecision | undefined {
    return this.#linear.find((entry) => entry.match.holds(view))?.decision
  }
}

// A table that did not change is not compiled again when another one does.
const compiledTables = new WeakMap<RouteTable, { readonly rules: PathRules; readonly compiled: CompiledTable }>()

function compiledOf(table: RouteTable, rules: PathRules): CompiledTable {
  const known = compiledTables.get(table)
  if (known?.rules === rules) return known.compiled
  const compiled = new CompiledTable(table, rules)
  compiledTables.set(table, { rules, compiled })
  return compiled
}

/** All tables of one listener or one service's port. */
export class Routes {
  readonly problems: readonly RouteProblem[]
  readonly #exact = new Map<string, CompiledTable[]>()
  /** By suffix with its leading dot. */
  readonly #wildcard = new Map<string, CompiledTable[]>()
  readonly #any: CompiledTable[] = []
  readonly #hasHosts: boolean
  /** The lists that a host meets, for the last few hosts; bounded, because hosts come from clients. */
  readonly #forHost = new Map<string, readonly CompiledTable[]>()

  constructor(tables: readonly RouteTable[], rules: PathRules = defaultPathRules) {
    const problems: RouteProblem[] = []
    for (const table of tables) {
      const compiled = compiledOf(table, rules)
      problems.push(...compiled.problems)
      if (table.hostnames.length === 0) this.#any.push(compiled)
      for (const hostname of new Set(table.hostnames.map((name) => name.toLowerCase()))) {
        if (hostname === '*') this.#any.push(compiled)
        else if (hostname.startsWith('*.')) addTo(this.#wildcard, hostname.slice(1), compiled)
        else addTo(this.#exact, hostname, compiled)
      }
    }
    this.problems = problems
    this.#hasHosts = this.#exact.size + this.#wildcard.size > 0
  }

  match(head: RequestHead): RouteDecision {
    return this.#decide(head, (table, view) => table.first(view))
  }

  /** The slow reading of the same tables, for tests and for the benchmark. */
  matchByTrying(head: RequestHead): RouteDecision {
    return this.#decide(head, (table, view) => table.firstByTrying(view))
  }

  #decide(head: RequestHead, first: (table: CompiledTable, view: RequestView) => RouteDecision | undefined): RouteDecision {
    const tables = this.#hasHosts ? this.#tablesFor(hostOf(head.authority)) : this.#any
    if (tables.length === 0) return noHost
    const view = new RequestView(head)
    for (const table of tables) {
      const decision = first(table, view)
      if (decision) return decision
    }
    for (const { table, fallback } of tables) if (table.hasDefault) return fallback
    return noRule
  }

  #tablesFor(host: string): readonly CompiledTable[] {
    const known = this.#forHost.get(host)
    if (known) return known
    const found = [...(this.#exact.get(host) ?? [])]
    // `*.example.com` holds for any number of labels before it, and not for example.com itself.
    for (let dot = host.indexOf('.', 1); dot > 0; dot = host.indexOf('.',
      dot + 1)) found.push(...(this.#wildcard.get(host.slice(dot)) ?? []))
    found.push(...this.#any)
    const tables = [...new Set(found)]
    if (this.#forHost.size >= 1_024) this.#forHost.clear()
    if (host.length <= 253) this.#forHost.set(host, tables)
    return tables
  }
}

function addTo(map: Map<string, CompiledTable[]>, key: string, table: CompiledTable): void {
  const list = map.get(key)
  if (list) list.push(table)
  else map.set(key, [table])
}
