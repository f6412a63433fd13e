// AuthorizationPolicy to the L4 policy that a ztunnel enforces, as istiod compiles it. What only an L7 proxy can answer
// makes the result stricter, never wider: an ALLOW rule with such a part is dropped, a DENY rule keeps its L4 part.
import { bytesToIp, ipToBytes } from '../../core/address.ts'
import type { Authorization, Cidr, Clause, Match, Rule, ServiceAccountMatch, StringMatch } from '../../model/authorization.ts'
import type { AuthorizationPolicyManifest } from '../../model/manifest.ts'
import { isL4Condition, type L4Condition, type PolicyCondition, type PolicyOperation, type PolicyRule, type PolicySource } from '../../model/manifest-policy.ts'
import type { Remarks, TranslateSettings } from './settings.ts'

const dryRunAnnotations = ['sidestep.dev/dry-run', 'istio.io/dry-run'] as const

export interface TranslatedPolicy extends Remarks {
  /** Absent where ztunnels have nothing to enforce. */
  readonly authorization?: Authorization
}

export const emptyMatch: Match = Object.freeze({
  namespaces: [], notNamespaces: [], principals: [], notPrincipals: [], serviceAccounts: [], notServiceAccounts: [],
  sourceIps: [], notSourceIps: [], destinationIps: [], notDestinationIps: [], destinationPorts: [], notDestinationPorts: [],
})

/** Labels that a policy selects by; undefined if it is for a whole namespace or mesh. */
export function selectorOf(spec: { readonly selector?: { readonly matchLabels: Readonly<Record<string, string>> } | undefined }): Readonly<Record<string, string>> | undefined {
  const labels = spec.selector?.matchLabels
  return labels && Object.keys(labels).length > 0 ? labels : undefined
}

export type TargetReference = NonNullable<AuthorizationPolicyManifest['spec']['targetRef']>

/** What a policy names to be enforced by a gateway; empty for policies of ztunnels. */
export function targetsOf({ targetRef, targetRefs }: {
  readonly targetRef?: TargetReference | undefined; readonly targetRefs?: readonly TargetReference[] | undefined
}): readonly TargetReference[] {
  return [...(targetRef ? [targetRef] : []), ...(targetRefs ?? [])]
}

export const dryRunNote = 'dry run: counted and logged, not enforced'

export function isDryRunPolicy({ annotations }: AuthorizationPolicyManifest['metadata']): boolean {
  return dryRunAnnotations.some((name) => annotations[name] === 'true')
}

export function translateAuthorizationPolicy({ metadata, spec }: AuthorizationPolicyManifest, settings: TranslateSettings): TranslatedPolicy {
  // What is targeted is for gateways alone, and what they say of it stands with it.
  if (targetsOf(spec).length > 0) return { problems: [], notes: [] }
  if (spec.action === 'AUDIT' || spec.action === 'CUSTOM') {
    return { problems: [`the action ${spec.action} is not supported without targetRefs, because ztunnels do not have it: nothing of this policy is enforced`], notes: [] }
  }
  const action = spec.action === 'DENY' ? 'deny' : 'allow'
  const notes: string[] = []
  const rules = spec.rules.flatMap((rule, i) => {
    const translated = translateRule(rule, action, metadata.namespace, settings)
    if (translated.note !== undefined) notes.push(`rules[${i}] ${translated.note}`)
    return translated.rule ? [translated.rule] : []
  })
  const isRoot = settings.rootNamespaces.includes(metadata.namespace)
  const scope = selectorOf(spec) ? 'workloadSelector' : isRoot ? 'global' : 'namespace'
  const isDryRun = isDryRunPolicy(metadata)
  if (isDryRun) notes.push(dryRunNote)
  return { authorization: { name: metadata.name, namespace: metadata.namespace, scope, action, rules, isDryRun }, problems: [], notes }
}

interface TranslatedRule {
  readonly rule?: Rule
  readonly note?: string
}

const l7Sources = ['requestPrincipals', 'notRequestPrincipals', 'remoteIpBlocks', 'notRemoteIpBlocks'] as const satisfies readonly (keyof PolicySource)[]
const l7Operations = ['hosts', 'notHosts', 'methods', 'notMethods', 'paths', 'notPaths'] as const satisfies readonly (keyof PolicyOperation)[]

function translateRule(rule: PolicyRule, action: 'allow' | 'deny', namespace: string, settings: TranslateSettings): TranslatedRule {
  const l7 = [...new Set([
    ...(rule.from ?? []).flatMap(({ source }) => l7Sources.filter((name) => source[name] !== undefined)),
    ...(rule.to ?? []).flatMap(({ operation }) => l7Operations.filter((name) => operation[name] !== undefined)),
    ...(rule.when ?? []).map(({ key }) => key).filter((key) => !isL4Condition(key)),
  ])]
  if (l7.length > 0 && action === 'allow') return { note: `needs an L7 proxy (${l7.join(', ')}): without one it allows nothing` }
  const clauses = [
    clauseOf((rule.to ?? []).map(({ operation }) => operationMatch(operation))),
    clauseOf((rule.from ?? []).map(({ source }) => sourceMatch(source, namespace, settings))),
    ...(rule.when ?? []).map((condition) => clauseOf([conditionMatch(condition, namespace, settings)])),
  ].filter((clause) => clause !== undefined)
  if (l7.length === 0) return { rule: clauses }
  if (clauses.length === 0) return { note: `has only parts that need an L7 proxy (${l7.join(', ')}): without one it denies nothing` }
  return { rule: clauses, note: `has parts that need an L7 proxy (${l7.join(', ')}): without one it denies whatever the rest matches` }
}

/** An alternative of which nothing is left for L4 matches everything, and with it the whole clause; undefined says so. */
function clauseOf(matches: readonly (Match | undefined)[]): Clause | undefined {
  const known = matches.filter((match) => match !== undefined)
  return known.length === 0 || known.length < matches.length ? undefined : known
}

function matchOf(parts: Partial<Match>): Match | undefined {
  return Object.values(parts).some((part) => part.length > 0) ? { ...emptyMatch, ...parts } : undefined
}

/** The part that a connection alone can answer, of these three; undefined if there is none. */
export function operationMatch({ ports, notPorts }: PolicyOperation): Match | undefined {
  return matchOf({ destinationPorts: portsOf(ports), notDestinationPorts: portsOf(notPorts) })
}

export function sourceMatch(source: PolicySource, namespace: string, settings: TranslateSettings): Match | undefined {
  return matchOf({
    namespaces: stringsOf(source.namespaces),
    notNamespaces: stringsOf(source.notNamespaces),
    principals: principalsOf(source.principals, settings),
    notPrincipals: principalsOf(source.notPrincipals, settings),
    serviceAccounts: accountsOf(source.serviceAccounts, namespace),
    notServiceAccounts: accountsOf(source.notServiceAccounts, namespace),
    sourceIps: cidrsOf(source.ipBlocks),
    notSourceIps: cidrsOf(source.notIpBlocks),
  })
}

export function conditionMatch({ key, values, notValues }: PolicyCondition, namespace: string, settings: TranslateSettings): Match | undefined {
  if (!isL4Condition(key)) return undefined
  const known: L4Condition = key
  switch (known) {
    case 'source.ip': return matchOf({ sourceIps: cidrsOf(values), notSourceIps: cidrsOf(notValues) })
    case 'source.namespace': return matchOf({ namespaces: stringsOf(values), notNamespaces: stringsOf(notValues) })
    case 'source.principal': return matchOf({ principals: principalsOf(values, settings), notPrincipals: principalsOf(notValues, settings) })
    case 'source.serviceAccount':
      return matchOf({ serviceAccounts: accountsOf(values, namespace), notServiceAccounts: accountsOf(notValues, namespace) })
    case 'destination.ip': return matchOf({ destinationIps: cidrsOf(values), notDestinationIps: cidrsOf(notValues) })
    case 'destination.port': return matchOf({ destinationPorts: portsOf(values), notDestinationPorts: portsOf(notValues) })
  }
}

/** Istio's patterns: `*` is anything that is there, a star at one end leaves the other end fixed. */
export function stringMatch(text: string): StringMatch {
  if (text === '*') return { kind: 'presence' }
  if (text.startsWith('*')) return { kind: 'suffix', value: text.slice(1) }
  if (text.endsWith('*')) return { kind: 'prefix', value: text.slice(0, -1) }
  return { kind: 'exact', value: text }
}

export function stringsOf(texts: readonly string[] | undefined): StringMatch[] {
  return (texts ?? []).map(stringMatch)
}

/** `cluster.local` means our own trust domain, and one that has aliases means all of them. */
function principalsOf(texts: readonly string[] | undefined, { trustDomain, trustDomainAliases }: TranslateSettings): StringMatch[] {
  const own = [trustDomain, ...trustDomainAliases]
  const expanded = (texts ?? []).flatMap((text) => {
    const plain = text.startsWith('spiffe://') ? text.slice('spiffe://'.length) : text
    const slash = plain.indexOf('/')
    const domain = plain.slice(0, Math.max(0, slash))
    if (domain !== 'cluster.local' && !own.includes(domain)) return [plain]
    return own.map((each) => each + plain.slice(slash))
  })
  return [...new Set(expanded)].map(stringMatch)
}

/** `namespace/account`, or an account of the policy's own namespace. */
function accountsOf(texts: readonly string[] | undefined, namespace: string): ServiceAccountMatch[] {
  return (texts ?? []).map((text) => {
    const slash = text.indexOf('/')
    return slash < 0 ? { namespace, serviceAccount: text } : { namespace: text.slice(0, slash), serviceAccount: text.slice(slash + 1) }
  })
}

function portsOf(texts: readonly string[] | undefined): number[] {
  return (texts ?? []).map(Number)
}

export function cidrsOf(texts: readonly string[] | undefined): Cidr[] {
  return (texts ?? []).flatMap((text) => {
    const range = parseCidr(text)
    return range ? [range] : []
  })
}

/** A range with its host bits cleared, or a single address as the narrowest range; undefined if the text is neither. */
export function parseCidr(text: string): Cidr | undefined {
  const slash = text.indexOf('/')
  const bytes = ipToBytes(slash < 0 ? text : text.slice(0, slash))
  if (!bytes) return undefined
  const isV4 = !bytesToIp(bytes).includes(':')
  const isMapped = isV4 && text.includes(':')
  const bits = isV4 && !isMapped ? 32 : 128
  const given = slash < 0 ? bits : Number(text.slice(slash + 1))
  if (!Number.isInteger(given) || given < 0 || given > bits || (isMapped && given < 96)) return undefined
  const prefixLength = isMapped ? given - 96 : given
  const kept = isV4 ? prefixLength + 96 : prefixLength
  for (let i = 0; i < 16; i++) {
    const keep = Math.min(8, Math.max(0, kept - i * 8))
    bytes[i] = (bytes[i] ?? 0) & (0xff << (8 - keep))
  }
  return { ip: bytesToIp(bytes), prefixLength }
}
