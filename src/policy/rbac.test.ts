import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ipToBytes } from '../core/address.ts'
import { policyKey, type Authorization, type Cidr, type Match, type StringMatch } from '../model/authorization.ts'
import { PolicyIndex } from '../model/policy-index.ts'
import { explain } from './rbac-explain.ts'
import type { PeerConnection } from './rbac-facts.ts'
import { Rbac, type PolicyTarget, type RbacReason } from './rbac.ts'

const emptyMatch: Match = {
  namespaces: [], notNamespaces: [], principals: [], notPrincipals: [], serviceAccounts: [], notServiceAccounts: [],
  sourceIps: [], notSourceIps: [], destinationIps: [], notDestinationIps: [], destinationPorts: [], notDestinationPorts: [],
}
const match = (parts: Partial<Match>): Match => ({ ...emptyMatch, ...parts })
const policy = (parts: Partial<Authorization>): Authorization => ({
  name: 'p', namespace: 'shop', scope: 'namespace', action: 'allow', rules: [], isDryRun: false, ...parts,
})
const exact = (value: string): StringMatch => ({ kind: 'exact', value })
const alice = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'alice' }
const target: PolicyTarget = { namespace: 'shop', policies: [] }
const fromAlice: PeerConnection = { identity: alice, sourceIp: '10.1.0.7', destination: { ip: '10.1.0.9', port: 8080 } }
const plaintext: PeerConnection = { sourceIp: '10.1.0.7', destination: { ip: '10.1.0.9', port: 8080 } }

function rbacOf(...policies: Authorization[]): Rbac {
  const index = new PolicyIndex()
  for (const p of policies) index.upsert(p)
  return new Rbac(index)
}

describe('Istio semantics', () => {
  const says = (rbac: Rbac, connection: PeerConnection, at = target): RbacReason => rbac.evaluate(at, connection).because

  test('without policies everybody may', () => {
    expect(says(rbacOf(), plaintext)).toBe('noAllowPolicies')
  })

  test('DENY goes before ALLOW, and the rule that decided is named', () => {
    const allow = policy({ name: 'a', rules: [[[match({ principals: [exact('cluster.local/ns/shop/sa/alice')] })]]] })
    const deny = policy({ name: 'd', action: 'deny', rules: [[[match({ destinationPorts: [1] })]],
      [[match({ destinationPorts: [8080] })]]] })
    expect(rbacOf(allow).evaluate(target, fromAlice)).toMatchObject({ allowed: true, policy: 'shop/a', rule: 0 })
    expect(says(rbacOf(allow), plaintext)).toBe('noAllowMatched')
    expect(rbacOf(allow, deny).evaluate(target, fromAlice)).toMatchObject({ allowed: false, because: 'denyPolicy',
      policy: 'shop/d', rule: 1 })
  })

  test('an empty clause holds, an empty alternative and a policy without rules never do', () => {
    expect(says(rbacOf(policy({ rules: [[[]]] })), plaintext)).toBe('allowPolicy')
    expect(says(rbacOf(policy({ rules: [[]] })), plaintext)).toBe('allowPolicy')
    expect(says(rbacOf(policy({ rules: [[[emptyMatch]]] })), plaintext)).toBe('noAllowMatched')
    expect(says(rbacOf(policy({ rules: [] })), plaintext)).toBe('noAllowMatched')
    expect(says(rbacOf(policy({ rules: [], action: 'deny' })), plaintext)).toBe('noAllowPolicies')
  })

  test('nobody is no principal: STRICT as a DENY of what has none', () => {
    const strict = policy({ scope: 'global', namespace: 'istio-system', action: 'deny',
      rules: [[[match({ notPrincipals: [{ kind: 'presence' }] })]]] })
    expect(says(rbacOf(strict), plaintext)).toBe('denyPolicy')
    expect(says(rbacOf(strict), fromAlice)).toBe('noAllowPolicies')
    for (const kind of ['prefix', 'suffix', 'exact'] as const) {
      const open = policy({ rules: [[[match({ namespaces: [{ kind, value: '' }] })]]] })
      expect(says(rbacOf(open), plaintext)).toBe('noAllowMatched')
    }
  })

  test('scopes: global, the namespace, and what the workload names', () => {
    const everyone = [[[]]]
    const other = policy({ namespace: 'other', action: 'deny', rules: everyone })
    const selector = policy({ name: 's', scope: 'workloadSelector', action: 'deny', rules: everyone })
    expect(says(rbacOf(other, selector), fromAlice)).toBe('noAllowPolicies')
    expect(says(rbacOf(selector), fromAlice, { namespace: 'shop', policies: ['shop/s'] })).toBe('denyPolicy')
    expect(says(rbacOf(policy({ namespace: 'x', scope: 'global', action: 'deny', rules: everyone })),
      fromAlice)).toBe('denyPolicy')
    expect(rbacOf(selector).evaluate({ namespace: 'shop', policies: ['shop/gone'] }, fromAlice)).toMatchObject({ allowed: true,
      missing: ['shop/gone'] })
  })

  test('the trust domain counts for principals, not for service accounts', () => {
    const stranger = { ...fromAlice, identity: { ...alice, trustDomain: 'elsewhere' } }
    const byPrincipal = rbacOf(policy({ rules: [[[match({ principals: [exact('cluster.local/ns/shop/sa/alice')] })]]] }))
    const byAccount = rbacOf(policy({ rules: [[[match({ serviceAccounts: [{ namespace: 'shop',
      serviceAccount: 'alice' }] })]]] }))
    expect(says(byPrincipal, stranger)).toBe('noAllowMatched')
    expect(says(byAccount, stranger)).toBe('allowPolicy')
  })

  test('dry run decides nothing and is told', () => {
    const rbac = rbacOf(policy({ name: 'd', action: 'deny', isDryRun: true, rules: [[[]]] }))
    expect(rbac.evaluate(target, fromAlice)).toMatchObject({
      allowed: true, because: 'noAllowPolicies', allowedWithDryRun: false, dryRun: [{ policy: 'shop/d', rule: 0,
        action: 'deny' }],
    })
    expect(rbacOf(policy({ isDryRun: true })).evaluate(target, fromAlice)).toMatchObject({ allowed: true,
      allowedWithDryRun: false, dryRun: [] })
  })

  test('what cannot be evaluated refuses', () => {
    const everyone = policy({ name: 'all', rules: [[[]]] })
    expect(says(rbacOf(everyone, policy({ action: 'deny', unsupported: 'extension x' })), fromAlice)).toBe('unsupportedPolicy')
    expect(says(rbacOf(policy({ unsupported: 'extension x', rules: [[[]]] })), fromAlice)).toBe('unsupportedPolicy')
    expect(says(rbacOf(everyone, policy({ unsupported: 'extension x' })), fromAlice)).toBe('allowPolicy')
    const badRange = policy({ action: 'deny', rules: [[[match({ sourceIps: [{ ip: '10.0.0.0', prefixLength: 33 }] })]]] })
    expect(says(rbacOf(badRange), fromAlice)).toBe('unsupportedPolicy')
    expect(says(rbacOf(), { ...plaintext, sourceIp: 'nonsense' })).toBe('unreadableAddress')
  })

  test('follows changes of the policies', () => {
    const index = new PolicyIndex()
    const rbac = new Rbac(index)
    const at = { namespace: 'shop', policies: ['shop/p'] }
    for (const scope of ['global', 'namespace', 'workloadSelector'] as const) {
      expect(says(rbac, fromAlice, at)).toBe('noAllowPolicies')
      index.upsert(policy({ scope, action: 'deny', rules: [[[]]] }))
      expect(says(rbac, fromAlice, at)).toBe('denyPolicy')
      index.upsert(policy({ scope, action: 'allow', rules: [[[]]] }))
      expect(says(rbac, fromAlice, at)).toBe('allowPolicy')
      index.remove('shop/p')
    }
  })
})

describe('the explanation', () => {
  test('reads as a trace', () => {
    const rbac = rbacOf(
      policy({ name: 'callers', rules: [[[match({ principals: [exact('cluster.local/ns/shop/sa/bob')] })],
        [match({ destinationPorts: [8080] })]]] }),
      policy({ name: 'no-strangers', scope: 'global', namespace: 'root', action: 'deny',
        rules: [[[match({ notNamespaces: [exact('shop')] })]]] }),
    )
    expect(explain(rbac, target, fromAlice).lines).toEqual([
      'REFUSED: ALLOW policies are in scope and none of their rules matched',
      'from spiffe://cluster.local/ns/shop/sa/alice at 10.1.0.7 to 10.1.0.9:8080 in namespace shop',
      'DENY root/no-strangers (global): did not match',
      '  rule 0: clause 0 does not hold: namespace shop is excluded by shop',
      'ALLOW shop/callers (namespace): did not match',
      '  rule 0: clause 0 does not hold: principal cluster.local/ns/shop/sa/alice is not cluster.local/ns/shop/sa/bob',
    ])
  })
})

// The reference: policies read word for word, nothing prepared.
function plainString(m: StringMatch, value: string | undefined): boolean {
  if (value === undefined) return false
  if (m.kind === 'presence') return value.length > 0
  if (m.kind === 'exact') return value === m.value
  return m.kind === 'prefix' ? value.slice(0, m.value.length) === m.value : m.value === '' || value.slice(-m.value.length) === m.value
}
function plainCidr({ ip, prefixLength }: Cidr, address: string): boolean {
  if (ip.includes(':') !== address.includes(':')) return false
  const bits = (text: string): string => [...(ipToBytes(text) ?? [])].map((byte) => byte.toString(2).padStart(8, '0')).join('')
  const length = prefixLength + (ip.includes(':') ? 0 : 96)
  return bits(ip).slice(0, length) === bits(address).slice(0, length)
}
function plainMatch(m: Match, c: PeerConnection): boolean {
  if (Object.values(m).every((list: readonly unknown[]) => list.length === 0)) return false
  const id = c.identity
  const both = <T>(positive: readonly T[], negative: readonly T[], holds: (v: T) => boolean): boolean =>
    (positive.length === 0 || positive.some(holds)) && !negative.some(holds)
  const principal = id && `${id.trustDomain}/ns/${id.namespace}/sa/${id.serviceAccount}`
  return both(m.namespaces, m.notNamespaces, (s) => plainString(s, id?.namespace)) &&
    both(m.principals, m.notPrincipals, (s) => plainString(s, principal)) &&
    both(m.serviceAccounts, m.notServiceAccounts, (a) => id?.namespace === a.namespace && id.serviceAccount === a.serviceAccount) &&
    both(m.sourceIps, m.notSourceIps, (r) => plainCidr(r, c.sourceIp)) &&
    both(m.destinationIps, m.notDestinationIps, (r) => plainCidr(r, c.destination.ip)) &&
    both(m.destinationPorts, m.notDestinationPorts, (p) => p === c.destination.port)
}
const plainPolicy = (p: Authorization, c: PeerConnection): boolean =>
  p.rules.some((rule) => rule.every((clause) => clause.length === 0 || clause.some((m) => plainMatch(m, c))))

function plainAllowed(all: readonly Authorization[], at: PolicyTarget, c: PeerConnection, withDryRun: boolean): boolean {
  const inScope = all.filter((p) => (withDryRun || !p.isDryRun) &&
    (p.scope === 'global' || (p.scope === 'namespace' && p.namespace === at.namespace) || at.policies.includes(policyKey(p))))
  const deny = inScope.filter((p) => p.action === 'deny')
  const allow = inScope.filter((p) => p.action === 'allow')
  if (deny.some((p) => (p.unsupported !== undefined && !p.isDryRun) || (p.unsupported === undefined && plainPolicy(p,
    c)))) return false
  return allow.length === 0 || allow.some((p) => p.unsupported === undefined && plainPolicy(p, c))
}

const names = fc.constantFrom('a', 'b', 'ab', '')
const pattern: fc.Arbitrary<StringMatch> = fc.oneof(
  fc.record({ kind: fc.constantFrom('exact', 'prefix', 'suffix'),
    value: fc.oneof(names, fc.constantFrom('td/ns/a/sa/b', 'td/ns/', '/sa/a', 'td')) }),
  fc.constant<StringMatch>({ kind: 'presence' }),
)
const ip = fc.oneof(fc.constantFrom('10.0.0.1', '10.0.0.2', '10.1.0.1', 'fd00::1', 'fd00::2', '2001:db8::1'),
  fc.nat(255).map((n) => `10.0.0.${n}`))
const cidr: fc.Arbitrary<Cidr> = ip.chain((address) => fc.nat(address.includes(':') ? 128 : 32).map((prefixLength) => ({ ip: address, prefixLength })))
const port = fc.constantFrom(80, 443, 8080)
const account = fc.record({ namespace: names, serviceAccount: names })
const some = <T>(of: fc.Arbitrary<T>): fc.Arbitrary<T[]> => fc.oneof({ weight: 3, arbitrary: fc.constant<T[]>([]) },
  fc.array(of, { maxLength: 3 }))
const anyMatch: fc.Arbitrary<Match> = fc.record({
  namespaces: some(pattern), notNamespaces: some(pattern), principals: some(pattern), notPrincipals: some(pattern),
  serviceAccounts: some(account), notServiceAccounts: some(account), sourceIps: some(cidr), notSourceIps: some(cidr),
  destinationIps: some(cidr), notDestinationIps: some(cidr), destinationPorts: some(port), notDestinationPorts: some(port),
})
const anyPolicy: fc.Arbitrary<Authorization> = fc.record({
  name: fc.constantFrom('p', 'q', 'r', 's'), namespace: fc.constantFrom('a', 'b'), isDryRun: fc.boolean(),
  scope: fc.constantFrom('global', 'namespace', 'workloadSelector'), action: fc.constantFrom('allow', 'deny'),
  rules: fc.array(fc.array(fc.array(anyMatch, { maxLength: 2 }), { maxLength: 2 }), { maxLength: 3 }),
}).chain((p) => fc.oneof({ weight: 8, arbitrary: fc.constant(p) }, fc.constant({ ...p, unsupported: 'x' })))
const connection: fc.Arbitrary<PeerConnection> = fc.record({
  identity: fc.option(fc.record({ trustDomain: fc.constantFrom('td', 'other'), namespace: names.filter((n) => n !== ''),
    serviceAccount: names.filter((n) => n !== '') }), { nil: undefined }),
  sourceIp: ip, destination: fc.record({ ip, port }),
})
const anyTarget: fc.Arbitrary<PolicyTarget> = fc.record({
  namespace: fc.constantFrom('a', 'b'), policies: fc.subarray(['a/p', 'a/q', 'b/r', 'b/s', 'a/gone']),
})

describe('the compiled form', () => {
  test('decides what a plain reading decides, through changes, and explains the same', () => {
    fc.assert(fc.property(fc.array(anyPolicy, { maxLength: 10 }), fc.array(connection, { minLength: 1, maxLength: 5 }),
      anyTarget, (policies, connections, at) => {
      const index = new PolicyIndex()
      const rbac = new Rbac(index)
      const current = new Map<string, Authorization>()
      for (const p of [...policies, undefined]) {
        for (const c of connections) {
          const all = [...current.values()]
          const verdict = rbac.evaluate(at, c)
          expect(verdict.allowed).toBe(plainAllowed(all, at, c, false))
          expect(verdict.allowedWithDryRun).toBe(plainAllowed(all, at, c, true))
          const { steps } = explain(rbac, at, c)
          const named = steps.find((s) => s.policy === verdict.policy)
          if (verdict.because === 'allowPolicy' || verdict.because === 'denyPolicy') expect(named).toMatchObject({ outcome: 'matched', rule: verdict.rule })
          const matched = steps.filter((s) => s.outcome === 'matched')
          expect(matched.filter((s) => s.isDryRun).map((s) => `${s.policy} ${s.rule}`).sort()).toEqual(verdict.dryRun.map((h) => `${h.policy} ${h.rule}`).sort())
          const deciding = matched.find((s) => !s.isDryRun && s.action === 'deny') ?? (verdict.allowed ? matched.find((s) => !s.isDryRun) : undefined)
          if (deciding) expect(deciding.policy).toBe(verdict.policy)
        }
        if (!p) break
        index.upsert(p)
        current.set(policyKey(p), p)
      }
    }), { numRuns: 500 })
  })

  test('never throws, whatever the policy says', () => {
    const wild = fc.record({ ip: fc.string(), prefixLength: fc.integer() })
    fc.assert(fc.property(anyMatch, fc.array(wild), fc.string(), fc.integer(), (m, ranges, text, number) => {
      const rbac = rbacOf(policy({ action: 'deny', rules: [[[{ ...m, sourceIps: ranges }]]] }))
      const verdict = rbac.evaluate(target, { sourceIp: text, destination: { ip: text, port: number } })
      expect(typeof verdict.allowed).toBe('boolean')
      expect(explain(rbac, target, { sourceIp: '10.0.0.1', destination: { ip: '10.0.0.2',
        port: number } }).lines.length).toBeGreaterThan(1)
    }))
  })
})
