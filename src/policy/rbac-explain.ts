// Why a connection is allowed or refused, policy by policy, for people: the answer of `sidestep authz explain`. Reads policies
// plainly, without the compiled form, so it is slow, and says the same verdict as rbac.ts (tested).
import { formatAddr } from '../core/address.ts'
import { formatIdentity } from '../core/identity.ts'
import {
  policyKey, type Authorization, type Cidr, type Clause, type Match, type Rule, type StringMatch,
} from '../model/authorization.ts'
import { CidrMap, packIp, type PackedIp } from '../model/cidr-map.ts'
import { isEmptyMatch, unsupportedBecause } from './rbac-compile.ts'
import { factsOf, matchesString, type Facts, type PeerConnection } from './rbac-facts.ts'
import type { PolicyTarget, Rbac, Verdict } from './rbac.ts'

export interface PolicyStep {
  readonly policy: string
  readonly scope: Authorization['scope']
  readonly action: Authorization['action']
  readonly isDryRun: boolean
  /** `unsupported`: it cannot be evaluated here. */
  readonly outcome: 'matched' | 'notMatched' | 'unsupported'
  /** The rule that matched. */
  readonly rule?: number
  /** One sentence per rule, or the reason it is unsupported. */
  readonly details: readonly string[]
}

export interface Explanation {
  readonly verdict: Verdict
  readonly steps: readonly PolicyStep[]
  /** Lines to print. */
  readonly lines: readonly string[]
}

export function explain(rbac: Rbac, target: PolicyTarget, connection: PeerConnection): Explanation {
  const verdict = rbac.evaluate(target, connection)
  const facts = factsOf(connection)
  const { policies } = rbac.inScope(target)
  const steps = facts ? policies.map((policy) => explainPolicy(policy, facts)) : []
  const who = connection.identity ? formatIdentity(connection.identity) : 'a client without identity (plaintext)'
  const lines = [
    `${verdict.allowed ? 'ALLOWED' : 'REFUSED'}: ${verdictText(verdict)}`,
    `from ${who} at ${connection.sourceIp} to ${formatAddr(connection.destination)} in namespace ${target.namespace}`,
    ...steps.flatMap(stepLines),
    ...verdict.missing.map((key) => `policy ${key} is named by the workload but not known here: ignored`),
  ]
  if (verdict.allowed !== verdict.allowedWithDryRun) {
    lines.push(`with dry-run policies in force it would be ${verdict.allowedWithDryRun ? 'allowed' : 'refused'}`)
  }
  return { verdict, steps, lines }
}

function verdictText(verdict: Verdict): string {
  const rule = `rule ${verdict.rule} of policy ${verdict.policy}`
  switch (verdict.because) {
    case 'noAllowPolicies':
      return 'no DENY rule matched and no ALLOW policy is in scope'
    case 'allowPolicy':
      return `${rule} (ALLOW) matched`
    case 'denyPolicy':
      return `${rule} (DENY) matched`
    case 'noAllowMatched':
      return 'ALLOW policies are in scope and none of their rules matched'
    case 'unsupportedPolicy':
      return `policy ${verdict.policy} cannot be evaluated on this node`
    case 'unreadableAddress':
      return 'one of the addresses is not an IP address'
  }
}

function stepLines(step: PolicyStep): string[] {
  const words = { matched: 'matched', notMatched: 'did not match', unsupported: 'cannot be evaluated' }
  const where = step.isDryRun ? `${step.scope}, dry run` : step.scope
  const head = `${step.action.toUpperCase()} ${step.policy} (${where}): ${words[step.outcome]}`
  return [head, ...step.details.map((detail) => `  ${detail}`)]
}

function explainPolicy(policy: Authorization, facts: Facts): PolicyStep {
  const { scope, action, isDryRun, rules } = policy
  const common = { policy: policyKey(policy), scope, action, isDryRun }
  const unsupported = unsupportedBecause(policy)
  if (unsupported !== undefined) return { ...common, outcome: 'unsupported', details: [unsupported] }
  if (rules.length === 0) return { ...common, outcome: 'notMatched', details: ['it has no rules, so it never matches'] }
  const details: string[] = []
  for (const [index, rule] of rules.entries()) {
    const obstacle = whyNotRule(rule, facts)
    details.push(`rule ${index}: ${obstacle ?? 'every clause holds'}`)
    if (obstacle === undefined) return { ...common, outcome: 'matched', rule: index, details }
  }
  return { ...common, outcome: 'notMatched', details }
}

function whyNotRule(rule: Rule, facts: Facts): string | undefined {
  for (const [index, clause] of rule.entries()) {
    const obstacle = whyNotClause(clause, facts)
    if (obstacle !== undefined) return `clause ${index} does not hold: ${obstacle}`
  }
  return undefined
}

function whyNotClause(clause: Clause, facts: Facts): string | undefined {
  const obstacles = clause.map((match) => whyNotMatch(match, facts))
  return obstacles.length === 0 || obstacles.includes(undefined) ? undefined : obstacles.join('; or ')
}

function whyNotMatch(match: Match, facts: Facts): string | undefined {
  if (isEmptyMatch(match)) return 'an empty alternative never holds'
  const named = (value: string | undefined): string => value ?? 'nobody'
  return (
    kind(match.destinationPorts, match.notDestinationPorts, 'port', String(facts.port), (port) => port === facts.port, String) ??
    kind(match.principals, match.notPrincipals, 'principal', named(facts.principal),
      (m) => matchesString(m, facts.principal), stringText) ??
    kind(match.serviceAccounts, match.notServiceAccounts, 'service account', named(facts.account),
      (a) => facts.account === `${a.namespace}/${a.serviceAccount}`, (a) => `${a.namespace}/${a.serviceAccount}`) ??
    kind(match.namespaces, match.notNamespaces, 'namespace', named(facts.namespace),
      (m) => matchesString(m, facts.namespace), stringText) ??
    kind(match.sourceIps, match.notSourceIps, 'source address', ipText(facts.source), (c) => isIn(c, facts.source), cidrText) ??
    kind(match.destinationIps, match.notDestinationIps, 'destination address', ipText(facts.destination),
      (c) => isIn(c, facts.destination), cidrText)
  )
}

function kind<T>(
  positive: readonly T[], negative: readonly T[], what: string, actual: string,
  holds: (value: T) => boolean, text: (value: T) => string,
): string | undefined {
  if (positive.length > 0 && !positive.some(holds)) return `${what} ${actual} is not ${positive.map(text).join(' or ')}`
  const excluded = negative.find(holds)
  return excluded === undefined ? undefined : `${what} ${actual} is excluded by ${text(excluded)}`
}

function isIn({ ip, prefixLength }: Cidr, address: PackedIp): boolean {
  const packed = packIp(ip)
  if (!packed) return false
  const map = new CidrMap<true>()
  map.set(packed, prefixLength, true)
  return map.contains(address)
}

const cidrText = ({ ip, prefixLength }: Cidr): string => `${ip}/${prefixLength}`

function ipText(ip: PackedIp): string {
  return ip.v4 >= 0 ? [24, 16, 8, 0].map((shift) => (ip.v4 >>> shift) & 255).join('.') : (ip.v6.match(/.{4}/g) ?? []).join(':')
}

function stringText(match: StringMatch): string {
  switch (match.kind) {
    case 'exact':
      return match.value
    case 'prefix':
      return `${match.value}*`
    case 'suffix':
      return `*${match.value}`
    case 'presence':
      return 'anybody'
  }
}
