// The rules of some policies, found by the principal or the path that they require, so that a request meets the few that could
// concern it. Says nothing that trying each rule in order does not say.
import type { AuthorizationL7, L7Match, L7Rule } from '../../model/authorization-l7.ts'
import { compileRules, isEmptyL7Match, normalisedPattern, type CompiledL7Rule } from './authorization-compile.ts'
import type { RequestFacts } from './authorization-facts.ts'

interface Ordered {
  readonly order: number
  readonly rule: CompiledL7Rule
}

type KeyKind = 'principal' | 'path'

const keyReaders: Readonly<Record<KeyKind, (match: L7Match) => string[] | undefined>> = {
  principal: ({ l4: { principals } }) =>
    (principals.length > 0 && principals.every((p) => p.kind === 'exact') ? principals.map((p) => p.value) : undefined),
  path: ({ paths }) => {
    const exact = paths.map((p) => (p.kind === 'template' ? p : normalisedPattern(p)))
    return exact.length > 0 && exact.every((p) => p.kind === 'exact') ? exact.map((p) => p.value) : undefined
  },
}

/** Values one of which a request must have for the rule to hold, if a clause says so in each of its alternatives. */
function keysOf(rule: L7Rule): { readonly kind: KeyKind; readonly keys: ReadonlySet<string> } | undefined {
  for (const kind of ['principal', 'path'] as const) {
    for (const clause of rule) {
      if (clause.length === 0) continue
      const lists = clause.filter((match) => !isEmptyL7Match(match)).map(keyReaders[kind])
      if (lists.every((list) => list !== undefined)) return { kind, keys: new Set(lists.flat()) }
    }
  }
  return undefined
}

export class L7RuleTable {
  readonly #general: Ordered[] = []
  readonly #keyed: Readonly<Record<KeyKind, Map<string, Ordered[]>>> = { principal: new Map(), path: new Map() }
  readonly isEmpty: boolean

  constructor(policies: readonly AuthorizationL7[]) {
    let order = 0
    for (const policy of policies) {
      for (const rule of compileRules(policy)) {
        const entry = { order: order++, rule }
        const required = keysOf(policy.rules[rule.rule] ?? [])
        if (!required) this.#general.push(entry)
        else for (const key of required.keys) addTo(this.#keyed[required.kind], key, entry)
      }
    }
    this.isEmpty = order === 0
  }

  /** The first rule that holds. */
  first(facts: RequestFacts): CompiledL7Rule | undefined {
    let best: Ordered | undefined
    for (const list of this.#candidates(facts)) {
      for (const entry of list) {
        if (best && entry.order > best.order) break
        if (entry.rule.holds(facts)) {
          best = entry
          break
        }
      }
    }
    return best?.rule
  }

  /** The first rule that holds of each policy, in order. */
  firstOfEach(facts: RequestFacts): CompiledL7Rule[] {
    if (this.isEmpty) return []
    const found = this.#candidates(facts).flatMap((list) => list.filter(({ rule }) => rule.holds(facts)))
    found.sort((a, b) => a.order - b.order)
    return found.map(({ rule }) => rule).filter((rule, i, all) => rule.policy !== all[i - 1]?.policy)
  }

  #candidates(facts: RequestFacts): (readonly Ordered[])[] {
    const { principal } = facts.l4
    const lists: (readonly Ordered[])[] = [this.#general]
    const byPrincipal = principal === undefined ? undefined : this.#keyed.principal.get(principal)
    if (byPrincipal) lists.push(byPrincipal)
    for (const path of facts.path) {
      const byPath = this.#keyed.path.get(path)
      if (byPath) lists.push(byPath)
    }
    return lists
  }
}

function addTo(map: Map<string, Ordered[]>, key: string, entry: Ordered): void {
  const list = map.get(key)
  if (list) list.push(entry)
  else map.set(key, [entry])
}
