// Why a request is allowed or refused, policy by policy, for people. Reads policies plainly, without the compiled form, so it
// is slow, and says the same as authorization.ts (tested).
import { policyKey, type Cidr, type Match, type StringMatch } from '../../model/authorization.ts'
import type { AuthorizationL7, L7Action, L7Match, L7Rule, PathPattern, ValueCondition } from '../../model/authorization-l7.ts'
import { CidrMap, packIp } from '../../model/cidr-map.ts'
import { compileMatch as compileL4Match, isEmptyMatch } from '../rbac-compile.ts'
import { isEmptyL7Match, matchesText, normalisedPattern, senseOf, unsupportedL7 } from './authorization-compile.ts'
import { RequestFacts, type AuthorizationRequest, type Sense } from './authorization-facts.ts'
import type { L7Authorizer, L7Verdict } from './authorization.ts'
import { compileTemplate } from './path-template.ts'

export interface L7PolicyStep {
  readonly policy: string
  readonly action: L7Action
  readonly isDryRun: boolean
  readonly outcome: 'matched' | 'notMatched' | 'unsupported'
  readonly rule?: number
  /** One sentence per rule, or why it is unsupported. */
  readonly details: readonly string[]
}

export interface L7Explanation {
  readonly verdict: L7Verdict
  readonly steps: readonly L7PolicyStep[]
  /** Lines to print. */
  readonly lines: readonly string[]
}

const order: readonly L7Action[] = ['custom', 'deny', 'allow', 'audit']

export function explainL7(authorizer: L7Authorizer, request: AuthorizationRequest): L7Explanation {
  const verdict = authorizer.evaluate(request)
  const facts = RequestFacts.of(request)
  const policies = order.flatMap((action) => authorizer.policies.filter((policy) => policy.action === action))
  const steps = facts ? policies.map((policy) => explainPolicy(policy, facts)) : []
  const { head } = request
  const lines = [
    `${verdict.allowed ? 'ALLOWED' : 'REFUSED'}: ${verdictText(verdict)}`,
    `${quoted(head.method)} ${quoted(head.authority)} ${quoted(head.path.matched)}`,
    ...verdict.ask.map(({ provider, policy }) => `first ${quoted(provider)} is asked (policy ${policy})`),
    ...steps.flatMap((step) => [
      `${step.action.toUpperCase()} ${step.policy}${step.isDryRun ? ' (dry run)' : ''}: ${outcomes[step.outcome]}`,
      ...step.details.map((detail) => `  ${detail}`),
    ]),
  ]
  if (verdict.allowed !== verdict.allowedWithDryRun) {
    lines.push(`with dry-run policies in force it would be ${verdict.allowedWithDryRun ? 'allowed' : 'refused'}`)
  }
  return { verdict, steps, lines }
}

const outcomes = { matched: 'matched', notMatched: 'did not match', unsupported: 'cannot be evaluated' } as const

function verdictText({ because, policy, rule }: L7Verdict): string {
  switch (because) {
    case 'noAllowPolicies':
      return 'no DENY rule matched and there is no ALLOW policy'
    case 'allowPolicy':
      return `rule ${rule} of policy ${policy} (ALLOW) matched`
    case 'denyPolicy':
      return `rule ${rule} of policy ${policy} (DENY) matched`
    case 'noAllowMatched':
      return 'there are ALLOW policies and none of their rules matched'
    case 'unsupportedPolicy':
      return `policy ${policy} cannot be evaluated`
    case 'unreadableAddress':
      return 'one of the addresses is not an IP address'
  }
}

function explainPolicy(policy: AuthorizationL7, facts: RequestFacts): L7PolicyStep {
  const common = { policy: policyKey(policy), action: policy.action, isDryRun: policy.isDryRun }
  const unsupported = unsupportedL7(policy)
  if (unsupported !== undefined) return { ...common, outcome: 'unsupported', details: [unsupported] }
  if (policy.rules.length === 0) return { ...common, outcome: 'notMatched', details: ['it has no rules, so it never matches'] }
  const details: string[] = []
  for (const [index, rule] of policy.rules.entries()) {
    const obstacle = whyNotRule(rule, facts, senseOf(policy.action))
    details.push(`rule ${index}: ${obstacle ?? 'every clause holds'}`)
    if (obstacle === undefined) return { ...common, outcome: 'matched', rule: index, details }
  }
  return { ...common, outcome: 'notMatched', details }
}

function whyNotRule(rule: L7Rule, facts: RequestFacts, sense: Sense): string | undefined {
  for (const [index, clause] of rule.entries()) {
    const obstacles = clause.map((match) => whyNotMatch(match, facts, sense))
    if (obstacles.length > 0 && !obstacles.includes(undefined)) return `clause ${index} does not hold: ${obstacles.join('; or ')}`
  }
  return undefined
}

function whyNotMatch(match: L7Match, facts: RequestFacts, sense: Sense): string | undefined {
  if (isEmptyL7Match(match)) return 'an empty alternative never holds'
  const other: Sense = sense === 'permit' ? 'refuse' : 'permit'
  const kind = <T>(what: string, positive: readonly T[], negative: readonly T[], texts: (s: Sense) => readonly string[],
    holds: (pattern: T, text: string) => boolean, text: (pattern: T) => string): string | undefined => {
    if (positive.length > 0 && !texts(sense).some((each) => positive.some((pattern) => holds(pattern, each)))) {
      return `${what} ${texts(sense).map(quoted).join(' or ') || 'is not there and'} is not ${positive.map(text).join(' or ')}`
    }
    const excluded = negative.find((pattern) => texts(other).some((each) => holds(pattern, each)))
    return excluded === undefined ? undefined
      : `${what} ${texts(other).map(quoted).join(' or ')} is excluded by ${text(excluded)}`
  }
  const condition = (
    what: string, { values, notValues }: ValueCondition, texts: (s: Sense) => readonly string[],
  ): string | undefined =>
    values.length + notValues.length === 0 ? `${what} has no values to compare with`
      : kind(what, values, notValues, texts, matchesText, patternText)
  const folded = (pattern: StringMatch, text: string): boolean =>
    matchesText(pattern.kind === 'presence' ? pattern : { kind: pattern.kind, value: pattern.value.toLowerCase() }, text)
  const ip = facts.remote.v4 >= 0 ? [24, 16, 8, 0].map((shift) => (facts.remote.v4 >>> shift) & 255).join('.')
    : (facts.remote.v6.match(/.{4}/g) ?? []).join(':')
  const steps: (() => string | undefined)[] = [
    () => whyNotL4(match.l4, facts),
    () => kind('method', match.methods, match.notMethods, (s) => facts.method(s), matchesText, patternText),
    () => kind('path', match.paths, match.notPaths, () => facts.path, matchesPath, patternText),
    () => kind('host', match.hosts, match.notHosts, () => facts.host(), folded, patternText),
    () => kind('request principal', match.requestPrincipals, match.notRequestPrincipals, () => facts.requestPrincipal(),
      matchesText, patternText),
    () => kind('audience', match.audiences, match.notAudiences, () => facts.audience(), matchesText, patternText),
    () => kind('presenter', match.presenters, match.notPresenters, () => facts.presenter(), matchesText, patternText),
    () => kind('server name', match.serverNames, match.notServerNames, () => facts.serverName(), folded, patternText),
    () => kind('remote address', match.remoteIps, match.notRemoteIps, () => [ip], (cidr) => isIn(cidr, facts),
      ({ ip: range, prefixLength }) => `${range}/${prefixLength}`),
    ...match.headers.map((header) => () =>
      condition(`header ${header.name}`, header, (s) => facts.header(header.name.toLowerCase(), s))),
    ...match.claims.map((claim) => () => condition(`claim ${claim.path.join('.')}`, claim, () => facts.claim(claim.path))),
  ]
  for (const step of steps) {
    const obstacle = step()
    if (obstacle !== undefined) return obstacle
  }
  return undefined
}

function whyNotL4(l4: Match, facts: RequestFacts): string | undefined {
  if (isEmptyMatch(l4) || compileL4Match(l4)(facts.l4)) return undefined
  const { principal, port } = facts.l4
  const kinds = Object.entries(l4).filter(([, list]: [string, readonly unknown[]]) => list.length > 0).map(([name]) => name)
  return `${kinds.join(', ')} do not hold for ${principal ?? 'a client without identity'} at port ${port}`
}

function matchesPath(pattern: PathPattern, path: string): boolean {
  return pattern.kind === 'template' ? (compileTemplate(pattern.value)?.(path) ?? false)
    : matchesText(normalisedPattern(pattern), path)
}

function isIn({ ip, prefixLength }: Cidr, { remote }: RequestFacts): boolean {
  const packed = packIp(ip)
  if (!packed) return false
  const map = new CidrMap<true>()
  map.set(packed, prefixLength, true)
  return map.contains(remote)
}

/** What a client sent, so that it cannot forge lines. */
const quoted = (text: string): string => JSON.stringify(text.slice(0, 200))

function patternText(pattern: PathPattern): string {
  switch (pattern.kind) {
    case 'exact':
    case 'template':
      return pattern.value
    case 'prefix':
      return `${pattern.value}*`
    case 'suffix':
      return `*${pattern.value}`
    case 'presence':
      return 'anything'
  }
}
