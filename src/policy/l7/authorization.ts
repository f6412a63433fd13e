// Who may make which request: Istio's order. CUSTOM first (somebody else is asked), then DENY, then, unless there is no ALLOW
// policy, one ALLOW rule must hold; AUDIT marks and decides nothing. A dry-run policy decides nothing and is reported. Total:
// never throws, and what cannot be evaluated refuses.
import type { AuthorizationL7, L7Action } from '../../model/authorization-l7.ts'
import { policyKey } from '../../model/authorization.ts'
import { RequestFacts, type AuthorizationRequest } from './authorization-facts.ts'
import { unsupportedL7, type CompiledL7Rule } from './authorization-compile.ts'
import { L7RuleTable } from './authorization-index.ts'

export type L7AllowedBecause = 'noAllowPolicies' | 'allowPolicy'
export type L7DeniedBecause = 'denyPolicy' | 'noAllowMatched' | 'unsupportedPolicy' | 'unreadableAddress'
/** Closed set: log field, metric label and answer of the command line. */
export type L7Reason = L7AllowedBecause | L7DeniedBecause

export interface PolicyHit {
  readonly policy: string
  readonly rule: number
}

export interface L7Verdict {
  /**
   * Whom to ask before the rest counts, in order, each provider once. All must agree; if one refuses, its answer is the client's.
   * Asked before DENY is told, because an answer may be a login page where the rest would say 403.
   */
  readonly ask: readonly (PolicyHit & { readonly provider: string })[]
  readonly allowed: boolean
  readonly because: L7Reason
  /** `namespace/name` of what decided; absent where the absence of a policy did. */
  readonly policy?: string
  readonly rule?: number
  /** AUDIT policies that matched. */
  readonly audit: readonly PolicyHit[]
  readonly dryRun: readonly (PolicyHit & { readonly action: L7Action })[]
  /** What the answer would be if dry-run policies were in force, CUSTOM ones aside. */
  readonly allowedWithDryRun: boolean
}

interface Rules {
  readonly table: L7RuleTable
  readonly unsupported: string | undefined
  readonly count: number
}

const none: readonly never[] = Object.freeze([])
const unreadable: L7Verdict = Object.freeze({
  ask: none, allowed: false, because: 'unreadableAddress', audit: none, dryRun: none, allowedWithDryRun: false,
})

/** All policies that concern one destination, in order of `namespace/name`. */
export class L7Authorizer {
  readonly policies: readonly AuthorizationL7[]
  readonly #custom: Rules
  readonly #deny: Rules
  readonly #allow: Rules
  readonly #audit: Rules
  readonly #dryRun: Rules
  readonly #hasDryRunAllow: boolean
  readonly #hasDryRunUnsupported: boolean

  constructor(policies: readonly AuthorizationL7[]) {
    this.policies = [...policies].sort((a, b) => (policyKey(a) < policyKey(b) ? -1 : 1))
    const real = this.policies.filter(({ isDryRun }) => !isDryRun)
    const dry = this.policies.filter(({ isDryRun }) => isDryRun)
    this.#custom = rulesOf(real, 'custom')
    this.#deny = rulesOf(real, 'deny')
    this.#allow = rulesOf(real, 'allow')
    this.#audit = rulesOf(real, 'audit')
    this.#dryRun = rulesOf(dry, undefined)
    this.#hasDryRunAllow = dry.some(({ action }) => action === 'allow')
    this.#hasDryRunUnsupported = dry.some((policy) => policy.action === 'deny' && unsupportedL7(policy) !== undefined)
  }

  evaluate(request: AuthorizationRequest): L7Verdict {
    const facts = RequestFacts.of(request)
    if (!facts) return unreadable
    const denied = this.#deny.table.first(facts)
    const hasAllow = this.#allow.count > 0
    const permitted = hasAllow ? this.#allow.table.first(facts) : undefined
    const unsupported = this.#custom.unsupported ?? this.#deny.unsupported
    const dryRun = this.#dryRun.table.firstOfEach(facts).map(({ key, rule, policy }) =>
      ({ policy: key, rule, action: policy.action }))
    const wouldDeny = denied !== undefined || unsupported !== undefined || this.#hasDryRunUnsupported
      || dryRun.some(({ action }) => action === 'deny')
    const wouldPermit = (!hasAllow && !this.#hasDryRunAllow) || permitted !== undefined
      || dryRun.some(({ action }) => action === 'allow')
    const common = {
      ask: asked(this.#custom.table.firstOfEach(facts)),
      audit: this.#audit.table.firstOfEach(facts).map(({ key, rule }) => ({ policy: key, rule })),
      dryRun, allowedWithDryRun: !wouldDeny && wouldPermit,
    }
    if (denied) return { allowed: false, because: 'denyPolicy', policy: denied.key, rule: denied.rule, ...common }
    if (unsupported !== undefined) return { allowed: false, because: 'unsupportedPolicy', policy: unsupported, ...common }
    if (!hasAllow) return { allowed: true, because: 'noAllowPolicies', ...common }
    if (permitted) return { allowed: true, because: 'allowPolicy', policy: permitted.key, rule: permitted.rule, ...common }
    const unsupportedAllow = this.#allow.unsupported
    if (unsupportedAllow === undefined) return { allowed: false, because: 'noAllowMatched', ...common }
    return { allowed: false, because: 'unsupportedPolicy', policy: unsupportedAllow, ...common }
  }
}

function rulesOf(policies: readonly AuthorizationL7[], action: L7Action | undefined): Rules {
  const wanted = action === undefined ? policies : policies.filter((policy) => policy.action === action)
  const unsupported = wanted.find((policy) => unsupportedL7(policy) !== undefined)
  return {
    table: new L7RuleTable(wanted.filter((policy) => unsupportedL7(policy) === undefined)),
    unsupported: unsupported && policyKey(unsupported),
    count: wanted.length,
  }
}

function asked(rules: readonly CompiledL7Rule[]): L7Verdict['ask'] {
  const found: (PolicyHit & { readonly provider: string })[] = []
  for (const { key, rule, policy: { provider } } of rules) {
    if (provider !== undefined && !found.some((each) => each.provider === provider)) found.push({ policy: key, rule, provider })
  }
  return found
}
