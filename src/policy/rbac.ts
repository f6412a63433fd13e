// Who may connect to a workload: Istio's L4 authorization. DENY first; then, unless no ALLOW policy is in scope, one ALLOW rule
// must hold. Pure decisions over a PolicyIndex; what was compiled is kept with the frozen lists it was compiled from,
// so a policy that changes costs its own scope and nothing else. Never fails open: what cannot be evaluated refuses.
import { policyKey, type Authorization } from '../model/authorization.ts'
import { type PolicyIndex } from '../model/policy-index.ts'
import { compilePolicies, type CompiledPolicies, type CompiledRule } from './rbac-compile.ts'
import { factsOf, type Facts, type PeerConnection } from './rbac-facts.ts'

export type AllowedBecause = 'noAllowPolicies' | 'allowPolicy'
export type DeniedBecause = 'denyPolicy' | 'noAllowMatched' | 'unsupportedPolicy' | 'unreadableAddress'
/** Closed set: log field, metric label and answer of the command line. */
export type RbacReason = AllowedBecause | DeniedBecause

/** A dry-run policy that matched. It decides nothing. */
export interface DryRunHit {
  readonly policy: string
  readonly rule: number
  readonly action: 'allow' | 'deny'
}

interface VerdictCommon {
  /** `namespace/name` of the policy that decided; absent where the absence of one decided. */
  readonly policy?: string
  /** Position of the rule in that policy. */
  readonly rule?: number
  readonly dryRun: readonly DryRunHit[]
  /** What the answer would be if dry-run policies were in force. */
  readonly allowedWithDryRun: boolean
  /** Policies that the workload names and that are not known here; ignored, as Istio does, and worth a warning. */
  readonly missing: readonly string[]
}
export type Verdict = VerdictCommon & (
  | { readonly allowed: true; readonly because: AllowedBecause }
  | { readonly allowed: false; readonly because: DeniedBecause }
)

/** What a workload brings to the decision. */
export interface PolicyTarget {
  readonly namespace: string
  /** `namespace/name` of selector policies. */
  readonly policies: readonly string[]
}

interface NamedPolicies {
  readonly version: number
  readonly list: readonly Authorization[]
  readonly missing: readonly string[]
}

const nothingMissing: readonly string[] = Object.freeze([])
const noHits: readonly DryRunHit[] = Object.freeze([])

export class Rbac {
  readonly #index: PolicyIndex
  readonly #compiled = new WeakMap<readonly Authorization[], CompiledPolicies>()
  readonly #named = new WeakMap<readonly string[], Map<string, NamedPolicies>>()

  constructor(index: PolicyIndex) {
    this.#index = index
  }

  /** Decides one connection to a workload. Never throws. */
  evaluate(target: PolicyTarget, connection: PeerConnection): Verdict {
    const facts = factsOf(connection)
    const named = target.policies.length === 0 ? undefined : this.#namedPolicies(target)
    const missing = named?.missing ?? nothingMissing
    if (!facts) return { allowed: false, because: 'unreadableAddress', dryRun: noHits, allowedWithDryRun: false, missing }
    const parts: CompiledPolicies[] = []
    this.#addPart(parts, this.#index.global())
    this.#addPart(parts, this.#index.inNamespace(target.namespace))
    if (named) this.#addPart(parts, named.list)
    return decide(parts, facts, missing)
  }

  /** Policies in the order of decision, each once; and the named ones that are not known. */
  inScope(target: PolicyTarget): { readonly policies: readonly Authorization[]; readonly missing: readonly string[] } {
    const named = this.#namedPolicies(target)
    const policies = [...this.#index.global(), ...this.#index.inNamespace(target.namespace), ...named.list]
    return { policies, missing: named.missing }
  }

  #addPart(parts: CompiledPolicies[], list: readonly Authorization[]): void {
    if (list.length === 0) return
    let compiled = this.#compiled.get(list)
    if (!compiled) this.#compiled.set(list, (compiled = compilePolicies(list)))
    parts.push(compiled)
  }

  #namedPolicies({ namespace, policies }: PolicyTarget): NamedPolicies {
    let byNamespace = this.#named.get(policies)
    if (!byNamespace) this.#named.set(policies, (byNamespace = new Map()))
    const known = byNamespace.get(namespace)
    if (known?.version === this.#index.version) return known
    const found: Authorization[] = []
    const missing: string[] = []
    for (const key of new Set(policies)) {
      const policy = this.#index.get(key)
      if (!policy) missing.push(key)
      // Those of the other scopes count once, where they are at home.
      else if (policy.scope === 'namespace' ? policy.namespace !== namespace : policy.scope !== 'global') found.push(policy)
    }
    found.sort((a, b) => (policyKey(a) < policyKey(b) ? -1 : 1))
    const isSame = known?.list.length === found.length && found.every((policy, i) => policy === known.list[i])
    const fresh = { version: this.#index.version, list: isSame ? known.list : found, missing }
    byNamespace.set(namespace, fresh)
    return fresh
  }
}

function firstRule(parts: readonly CompiledPolicies[], facts: Facts, action: 'deny' | 'allow'): CompiledRule | undefined {
  for (const part of parts) {
    const rule = part[action].first(facts)
    if (rule) return rule
  }
  return undefined
}

function decide(parts: readonly CompiledPolicies[], facts: Facts, missing: readonly string[]): Verdict {
  const denied = firstRule(parts, facts, 'deny')
  const unsupportedDeny = parts.find((part) => part.unsupportedDeny !== undefined)?.unsupportedDeny
  const hasAllow = parts.some((part) => part.hasAllow)
  const allowed = hasAllow ? firstRule(parts, facts, 'allow') : undefined
  const isDenied = denied !== undefined || unsupportedDeny !== undefined
  const dryRun = parts.some((part) => part.hasDryRun) ? dryRunHits(parts, facts) : noHits
  const wouldDeny = isDenied || dryRun.some((hit) => hit.action === 'deny')
  const wouldHaveAllow = hasAllow || parts.some((part) => part.hasDryRunAllow)
  const wouldMatch = allowed !== undefined || dryRun.some((hit) => hit.action === 'allow')
  const common = { dryRun, allowedWithDryRun: !wouldDeny && (!wouldHaveAllow || wouldMatch), missing }

  if (denied) return { allowed: false, because: 'denyPolicy', policy: denied.policy, rule: denied.rule, ...common }
  if (unsupportedDeny !== undefined) return { allowed: false, because: 'unsupportedPolicy', policy: unsupportedDeny, ...common }
  if (!hasAllow) return { allowed: true, because: 'noAllowPolicies', ...common }
  if (allowed) return { allowed: true, because: 'allowPolicy', policy: allowed.policy, rule: allowed.rule, ...common }
  const unsupportedAllow = parts.find((part) => part.unsupportedAllow !== undefined)?.unsupportedAllow
  if (unsupportedAllow !== undefined) return { allowed: false, because: 'unsupportedPolicy', policy: unsupportedAllow, ...common }
  return { allowed: false, because: 'noAllowMatched', ...common }
}

function dryRunHits(parts: readonly CompiledPolicies[], facts: Facts): DryRunHit[] {
  return parts.flatMap((part) => [
    ...part.dryRunDeny.firstOfEach(facts).map(({ policy, rule }): DryRunHit => ({ policy, rule, action: 'deny' })),
    ...part.dryRunAllow.firstOfEach(facts).map(({ policy, rule }): DryRunHit => ({ policy, rule, action: 'allow' })),
  ])
}
