// L7 policies made fast: each alternative becomes tests, cheap ones first; exact texts become sets. Says nothing that the plain
// reading does not say; authorization.test.ts compares the two.
import { policyKey, type Cidr, type Match, type StringMatch } from '../../model/authorization.ts'
import type { AuthorizationL7, L7Action, L7Clause, L7Match, PathPattern, ValueCondition } from '../../model/authorization-l7.ts'
import { CidrMap, isPrefixLength, packIp } from '../../model/cidr-map.ts'
import { compileMatch as compileL4Match, isEmptyMatch } from '../rbac-compile.ts'
import type { RequestFacts, Sense } from './authorization-facts.ts'
import { patternPath } from './path.ts'
import { compileTemplate } from './path-template.ts'

type Test = (facts: RequestFacts) => boolean
type Texts = (facts: RequestFacts) => readonly string[]

export interface CompiledL7Rule {
  readonly policy: AuthorizationL7
  /** `namespace/name`. */
  readonly key: string
  /** Position in the policy. */
  readonly rule: number
  readonly holds: Test
}

export const senseOf = (action: L7Action): Sense => (action === 'allow' ? 'permit' : 'refuse')
const opposite = (sense: Sense): Sense => (sense === 'permit' ? 'refuse' : 'permit')

/** Why it cannot be evaluated; undefined if it can. */
export function unsupportedL7(policy: AuthorizationL7): string | undefined {
  if (policy.unsupported !== undefined) return policy.unsupported
  if (policy.action === 'custom' && policy.provider === undefined) return 'a CUSTOM policy names no provider'
  for (const { l4, paths, notPaths, remoteIps, notRemoteIps } of policy.rules.flat(2)) {
    const bad = [...remoteIps, ...notRemoteIps, ...l4.sourceIps, ...l4.notSourceIps, ...l4.destinationIps,
      ...l4.notDestinationIps].find((cidr) => !isRange(cidr))
    if (bad) return `address range ${bad.ip}/${bad.prefixLength} is not one`
    const problem = [...paths, ...notPaths].map(badPath).find((each) => each !== undefined)
    if (problem !== undefined) return problem
  }
  return undefined
}

function isRange({ ip, prefixLength }: Cidr): boolean {
  const packed = packIp(ip)
  return packed !== undefined && isPrefixLength(packed, prefixLength)
}

export function isEmptyL7Match(match: L7Match): boolean {
  const { l4, ...kinds } = match
  return isEmptyMatch(l4) && Object.values(kinds).every((kind: readonly unknown[]) => kind.length === 0)
}

/** Holds for one of the texts. Presence is that there is one. */
function anyText(patterns: readonly StringMatch[], texts: Texts): Test {
  const exact = new Set(patterns.flatMap((p) => (p.kind === 'exact' ? [p.value] : [])))
  const others = patterns.filter((p) => p.kind !== 'exact')
  const holds = (text: string): boolean => exact.has(text) || others.some((p) => matchesText(p, text))
  return (facts) => texts(facts).some(holds)
}

export function matchesText(pattern: StringMatch, text: string): boolean {
  switch (pattern.kind) {
    case 'exact':
      return text === pattern.value
    case 'prefix':
      return text.startsWith(pattern.value)
    case 'suffix':
      return text.endsWith(pattern.value)
    case 'presence':
      return true
  }
}

/**
 * The pattern as normalised paths have it. Where a pattern ends within a segment, that segment is decoded and nothing else, so
 * that no pattern becomes wider than it was written.
 */
export function normalisedPattern(pattern: StringMatch): StringMatch {
  if (pattern.kind === 'presence') return pattern
  const { kind, value } = pattern
  if (kind === 'exact') return { kind, value: patternPath(value) ?? value }
  if (kind === 'prefix') {
    const slash = value.lastIndexOf('/') + 1
    return { kind, value: (patternPath(value.slice(0, slash)) ?? value.slice(0, slash)) + decodedPart(value.slice(slash)) }
  }
  const slash = value.indexOf('/')
  if (slash < 0) return { kind, value: decodedPart(value) }
  return { kind, value: decodedPart(value.slice(0, slash)) + (patternPath(value.slice(slash)) ?? value.slice(slash)) }
}

function decodedPart(part: string): string {
  return part === '' || part === '.' || part === '..' ? part : (patternPath(`/${part}`)?.slice(1) ?? part)
}

/** Why no path can be compared with it: a DENY that never holds would protect nothing, so its policy is unsupported. */
function badPath(pattern: PathPattern): string | undefined {
  if (pattern.kind === 'presence') return undefined
  const shown = JSON.stringify(pattern.value.slice(0, 100))
  if (pattern.kind === 'template') return compileTemplate(pattern.value) ? undefined : `${shown} is no path template`
  if (/[;\\]|%2f|%5c|%3b/i.test(pattern.value)) return `${shown}: paths are compared without parameters and escaped slashes`
  const segments = pattern.value.split('/')
  const whole = pattern.kind === 'prefix' ? segments.slice(0, -1) : segments
  return whole.some((segment) => /^(?:\.|%2e){1,2}$/i.test(segment))
    ? `${shown}: paths are compared after dot segments are resolved` : undefined
}

function anyPath(patterns: readonly PathPattern[]): Test {
  const plain = anyText(patterns.flatMap((p) => (p.kind === 'template' ? [] : [normalisedPattern(p)])), (facts) => facts.path)
  const templates = patterns.flatMap((p) => (p.kind === 'template' ? (compileTemplate(p.value) ?? []) : []))
  return (facts) => plain(facts) || templates.some((test) => facts.path.some(test))
}

const lower = (patterns: readonly StringMatch[]): StringMatch[] =>
  patterns.map((p) => (p.kind === 'presence' ? p : { kind: p.kind, value: p.value.toLowerCase() }))

function anyRange(cidrs: readonly Cidr[]): Test {
  const map = new CidrMap<true>()
  for (const { ip, prefixLength } of cidrs) {
    const packed = packIp(ip)
    if (packed) map.set(packed, prefixLength, true)
  }
  return (facts) => map.contains(facts.remote)
}

function compileMatch(match: L7Match, sense: Sense): Test {
  if (isEmptyL7Match(match)) return () => false
  const tests: Test[] = []
  /** The negative asks in the other sense: "not one of these" must not be true by a reading that hides one. */
  const kind = <T>(positive: readonly T[], negative: readonly T[], make: (list: readonly T[], sense: Sense) => Test): void => {
    if (positive.length > 0) tests.push(make(positive, sense))
    if (negative.length > 0) {
      const excluded = make(negative, opposite(sense))
      tests.push((facts) => !excluded(facts))
    }
  }
  const l4: Match = match.l4
  if (!isEmptyMatch(l4)) {
    const test = compileL4Match(l4)
    tests.push((facts) => test(facts.l4))
  }
  kind(match.methods, match.notMethods, (list, s) => anyText(list, (facts) => facts.method(s)))
  kind(match.paths, match.notPaths, (list) => anyPath(list))
  kind(match.hosts, match.notHosts, (list) => anyText(lower(list), (facts) => facts.host()))
  kind(match.requestPrincipals, match.notRequestPrincipals, (list) => anyText(list, (facts) => facts.requestPrincipal()))
  kind(match.audiences, match.notAudiences, (list) => anyText(list, (facts) => facts.audience()))
  kind(match.presenters, match.notPresenters, (list) => anyText(list, (facts) => facts.presenter()))
  kind(match.serverNames, match.notServerNames, (list) => anyText(lower(list), (facts) => facts.serverName()))
  kind(match.remoteIps, match.notRemoteIps, (list) => anyRange(list))
  const condition = (
    { values, notValues }: ValueCondition, texts: (facts: RequestFacts, sense: Sense) => readonly string[],
  ): void => {
    // A condition without values is none that could hold.
    if (values.length + notValues.length === 0) tests.push(() => false)
    kind(values, notValues, (list, s) => anyText(list, (facts) => texts(facts, s)))
  }
  for (const header of match.headers) {
    const name = header.name.toLowerCase()
    condition(header, (facts, s) => facts.header(name, s))
  }
  for (const claim of match.claims) condition(claim, (facts) => facts.claim(claim.path))
  return (facts) => tests.every((test) => test(facts))
}

function compileClause(clause: L7Clause, sense: Sense): Test {
  if (clause.length === 0) return () => true
  const tests = clause.map((match) => compileMatch(match, sense))
  const [only] = tests
  return only && tests.length === 1 ? only : (facts) => tests.some((test) => test(facts))
}

// One policy changes at a time: the others keep what was made of them.
const compiledRules = new WeakMap<AuthorizationL7, readonly CompiledL7Rule[]>()

export function compileRules(policy: AuthorizationL7): readonly CompiledL7Rule[] {
  let rules = compiledRules.get(policy)
  if (!rules) {
    const sense = senseOf(policy.action)
    const key = policyKey(policy)
    rules = policy.rules.map((rule, index): CompiledL7Rule => {
      const clauses = rule.map((clause) => compileClause(clause, sense))
      return { policy, key, rule: index, holds: (facts) => clauses.every((clause) => clause(facts)) }
    })
    compiledRules.set(policy, rules)
  }
  return rules
}
