// Authorization policies made fast: exact strings become sets, ranges become prefix tables, and rules that can only hold for
// certain callers or ports are found by those, so that a connection meets the few rules that could concern it. Says
// nothing that the plain reading of a policy does not say; rbac.test.ts compares the two.
import {
  policyKey, type Authorization, type Cidr, type Clause, type Match, type Rule, type StringMatch,
} from '../model/authorization.ts'
import { CidrMap, isPrefixLength, packIp, type PackedIp } from '../model/cidr-map.ts'
import { matchesString, type Facts } from './rbac-facts.ts'

type Test = (facts: Facts) => boolean

/** One rule of one policy, in the order of decision. */
export interface CompiledRule {
  readonly order: number
  /** `namespace/name`. */
  readonly policy: string
  /** Position in the policy. */
  readonly rule: number
  readonly holds: Test
}

/** Why this policy cannot be evaluated on this node: an extension, or a range that is none. Undefined if it can. */
export function unsupportedBecause(policy: Authorization): string | undefined {
  if (policy.unsupported !== undefined) return policy.unsupported
  if (!checked.has(policy)) checked.set(policy, badRange(policy))
  return checked.get(policy)
}

const checked = new WeakMap<Authorization, string | undefined>()

function badRange(policy: Authorization): string | undefined {
  for (const match of policy.rules.flat(2)) {
    for (const cidr of [...match.sourceIps, ...match.notSourceIps, ...match.destinationIps, ...match.notDestinationIps]) {
      const ip = packIp(cidr.ip)
      if (!ip || !isPrefixLength(ip, cidr.prefixLength)) return `address range ${cidr.ip}/${cidr.prefixLength} is not one`
    }
  }
  return undefined
}

export function isEmptyMatch(match: Match): boolean {
  return Object.values(match).every((kind: readonly unknown[]) => kind.length === 0)
}

const always: Test = () => true
const never: Test = () => false

function all(tests: readonly Test[]): Test {
  const [first = always, second] = tests
  if (tests.length <= 1) return first
  if (second && tests.length === 2) return (facts) => first(facts) && second(facts)
  return (facts) => {
    for (const test of tests) if (!test(facts)) return false
    return true
  }
}

function any(tests: readonly Test[]): Test {
  const [first = never] = tests
  if (tests.length <= 1) return first
  return (facts) => {
    for (const test of tests) if (test(facts)) return true
    return false
  }
}

const not = (test: Test): Test => (facts) => !test(facts)

function strings(matches: readonly StringMatch[], read: (facts: Facts) => string | undefined): Test {
  const exact = new Set(matches.flatMap((m) => (m.kind === 'exact' ? [m.value] : [])))
  const others = matches.filter((m) => m.kind !== 'exact')
  return (facts) => {
    const value = read(facts)
    if (value === undefined) return false
    return exact.has(value) || others.some((m) => matchesString(m, value))
  }
}

function ranges(cidrs: readonly Cidr[], read: (facts: Facts) => PackedIp): Test {
  const map = new CidrMap<true>()
  for (const { ip, prefixLength } of cidrs) {
    const packed = packIp(ip)
    if (packed) map.set(packed, prefixLength, true)
  }
  return (facts) => map.contains(read(facts))
}

export function compileMatch(match: Match): Test {
  if (isEmptyMatch(match)) return never
  const tests: Test[] = []
  const kind = <T>(positive: readonly T[], negative: readonly T[], make: (list: readonly T[]) => Test): void => {
    if (positive.length > 0) tests.push(make(positive))
    if (negative.length > 0) tests.push(not(make(negative)))
  }
  kind(match.destinationPorts, match.notDestinationPorts, (list) => {
    const ports = new Set(list)
    return (facts) => ports.has(facts.port)
  })
  kind(match.principals, match.notPrincipals, (list) => strings(list, (facts) => facts.principal))
  kind(match.serviceAccounts, match.notServiceAccounts, (list) => {
    const accounts = new Set(list.map((a) => `${a.namespace}/${a.serviceAccount}`))
    return (facts) => facts.account !== undefined && accounts.has(facts.account)
  })
  kind(match.namespaces, match.notNamespaces, (list) => strings(list, (facts) => facts.namespace))
  kind(match.sourceIps, match.notSourceIps, (list) => ranges(list, (facts) => facts.source))
  kind(match.destinationIps, match.notDestinationIps, (list) => ranges(list, (facts) => facts.destination))
  return all(tests)
}

function compileClause(clause: Clause): Test {
  return clause.length === 0 ? always : any(clause.map(compileMatch))
}

type KeyKind = 'principal' | 'account' | 'namespace' | 'port'
interface RuleKeys {
  readonly kind: KeyKind
  readonly keys: ReadonlySet<string | number>
}

const exactValues = (matches: readonly StringMatch[]): string[] | undefined =>
  matches.length > 0 && matches.every((m) => m.kind === 'exact') ? matches.map((m) => m.value) : undefined

const keyReaders: Readonly<Record<KeyKind, (match: Match) => (string | number)[] | undefined>> = {
  principal: (match) => exactValues(match.principals),
  account: ({ serviceAccounts: list }) => (list.length > 0 ? list.map((a) => `${a.namespace}/${a.serviceAccount}`) : undefined),
  namespace: (match) => exactValues(match.namespaces),
  port: (match) => (match.destinationPorts.length > 0 ? [...match.destinationPorts] : undefined),
}

/** The values one of which a connection must have for the rule to hold, if some clause says so in each alternative. */
function keysOf(rule: Rule): RuleKeys | undefined {
  for (const kind of ['principal', 'account', 'namespace', 'port'] as const) {
    for (const clause of rule) {
      if (clause.length === 0) continue
      const lists = clause.filter((match) => !isEmptyMatch(match)).map(keyReaders[kind])
      if (lists.every((list) => list !== undefined)) return { kind, keys: new Set(lists.flat()) }
    }
  }
  return undefined
}

interface PreparedRule {
  readonly holds: Test
  readonly required: RuleKeys | undefined
}

// One policy changes at a time: the others of its scope keep what was made of them.
const prepared = new WeakMap<Authorization, readonly PreparedRule[]>()

function prepare(policy: Authorization): readonly PreparedRule[] {
  let rules = prepared.get(policy)
  if (!rules) {
    rules = policy.rules.map((rule) => ({ holds: all(rule.map(compileClause)), required: keysOf(rule) }))
    prepared.set(policy, rules)
  }
  return rules
}

/** The rules of some policies of one action. */
export class RuleTable {
  readonly #general: CompiledRule[] = []
  readonly #keyed: Readonly<Record<KeyKind, Map<string | number, CompiledRule[]>>> = {
    principal: new Map(), account: new Map(), namespace: new Map(), port: new Map(),
  }

  constructor(policies: readonly Authorization[]) {
    let order = 0
    for (const policy of policies) {
      const key = policyKey(policy)
      prepare(policy).forEach(({ holds, required }, index) => {
        this.#add(required, { order: order++, policy: key, rule: index, holds })
      })
    }
  }

  /** The first rule that holds. */
  first(facts: Facts): CompiledRule | undefined {
    let best: CompiledRule | undefined
    for (const list of this.#candidates(facts)) {
      for (const rule of list) {
        if (best && rule.order > best.order) break
        if (rule.holds(facts)) {
          best = rule
          break
        }
      }
    }
    return best
  }

  /** The first rule that holds of each policy, in order. */
  firstOfEach(facts: Facts): CompiledRule[] {
    const found = [...this.#candidates(facts)].flatMap((list) => list.filter((rule) => rule.holds(facts)))
    found.sort((a, b) => a.order - b.order)
    return found.filter((rule, i) => rule.policy !== found[i - 1]?.policy)
  }

  #add(required: RuleKeys | undefined, compiled: CompiledRule): void {
    if (!required) {
      this.#general.push(compiled)
      return
    }
    const map = this.#keyed[required.kind]
    for (const key of required.keys) {
      const list = map.get(key)
      if (list) list.push(compiled)
      else map.set(key, [compiled])
    }
  }

  // Each list is in order, and no rule is in two lists that one connection meets.
  #candidates({ principal, account, namespace, port }: Facts): readonly CompiledRule[][] {
    const lists = [this.#general]
    const { principal: byPrincipal, account: byAccount, namespace: byNamespace, port: byPort } = this.#keyed
    const add = (list: CompiledRule[] | undefined): void => void (list && lists.push(list))
    if (principal !== undefined && byPrincipal.size > 0) add(byPrincipal.get(principal))
    if (account !== undefined && byAccount.size > 0) add(byAccount.get(account))
    if (namespace !== undefined && byNamespace.size > 0) add(byNamespace.get(namespace))
    if (byPort.size > 0) add(byPort.get(port))
    return lists
  }
}

/** What some policies say together. */
export interface CompiledPolicies {
  readonly deny: RuleTable
  readonly allow: RuleTable
  readonly dryRunDeny: RuleTable
  readonly dryRunAllow: RuleTable
  readonly hasAllow: boolean
  readonly hasDryRun: boolean
  readonly hasDryRunAllow: boolean
  /** Keys of enforced policies that cannot be evaluated here, first of each action. */
  readonly unsupportedDeny: string | undefined
  readonly unsupportedAllow: string | undefined
}

export function compilePolicies(policies: readonly Authorization[]): CompiledPolicies {
  const unsupported = new Map(policies.map((policy) => [policy, unsupportedBecause(policy) !== undefined]))
  const select = (action: 'allow' | 'deny', isDryRun: boolean): Authorization[] =>
    policies.filter((p) => p.action === action && p.isDryRun === isDryRun)
  const usable = (list: readonly Authorization[]): RuleTable => new RuleTable(list.filter((p) => !unsupported.get(p)))
  const firstUnsupported = (list: readonly Authorization[]): string | undefined => {
    const found = list.find((p) => unsupported.get(p))
    return found && policyKey(found)
  }
  const [deny, allow] = [select('deny', false), select('allow', false)]
  const [dryRunDeny, dryRunAllow] = [select('deny', true), select('allow', true)]
  return {
    deny: usable(deny),
    allow: usable(allow),
    dryRunDeny: usable(dryRunDeny),
    dryRunAllow: usable(dryRunAllow),
    hasAllow: allow.length > 0,
    hasDryRun: dryRunDeny.length + dryRunAllow.length > 0,
    hasDryRunAllow: dryRunAllow.length > 0,
    unsupportedDeny: firstUnsupported(deny),
    unsupportedAllow: firstUnsupported(allow),
  }
}
