// What AuthorizationPolicy and PeerAuthentication come to, judged by the decisions that ztunnels make of it.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Identity } from '../../core/identity.ts'
import type { ManifestObject } from '../../model/manifest.ts'
import { PolicyIndex } from '../../model/policy-index.ts'
import type { RunningPod } from '../../model/running-pod.ts'
import { Rbac } from '../../policy/rbac.ts'
import { object } from './arbitraries.ts'
import { parseCidr, translateAuthorizationPolicy } from './authorization-policy.ts'
import { defaultSettings, type TranslateSettings } from './settings.ts'
import { Translator } from './translator.ts'

const web: RunningPod = {
  uid: 'u', namespace: 'shop', name: 'web', node: 'n', ips: ['10.0.0.1'], ready: true, labels: { app: 'web' }, serviceAccount: 'web', isCaptured: true,
  isHostNetwork: false, ports: [],
}
const who = (text: string): Identity => {
  const [namespace = '', serviceAccount = ''] = text.split('/')
  return { trustDomain: 'cluster.local', namespace, serviceAccount }
}
const policy = (name: string, spec: object, metadata: object = {}): ManifestObject => object('AuthorizationPolicy', name, { spec }, metadata)
const peer = (name: string, spec: object, metadata: object = {}): ManifestObject => object('PeerAuthentication', name, { spec }, metadata)

/** Whether a connection to the pod `shop/web` is let in, under these objects. */
function world(objects: readonly ManifestObject[], settings: Partial<TranslateSettings> = {}) {
  const translator = new Translator({ ...defaultSettings, ...settings })
  for (const each of objects) translator.put(each)
  translator.putPod(web)
  translator.flush()
  const index = new PolicyIndex()
  for (const each of translator.policies.values()) index.upsert(each)
  const workload = translator.workloads.get('Kubernetes//Pod/shop/web')
  const rbac = new Rbac(index)
  return {
    translator,
    names: workload?.policies,
    allows: (from: string | undefined, port = 80, sourceIp = '10.9.9.9'): boolean => rbac.evaluate(
      { namespace: 'shop', policies: workload?.policies ?? [] },
      { ...(from === undefined ? {} : { identity: who(from) }), sourceIp, destination: { ip: '10.0.0.1', port } },
    ).allowed,
  }
}

describe('AuthorizationPolicy', () => {
  test('is for the mesh in a root namespace, for its namespace elsewhere, for workloads with a selector', () => {
    const scopeOf = (name: string, spec: object) => {
      const translated = object('AuthorizationPolicy', name, { spec })
      return translateAuthorizationPolicy(translated, defaultSettings).authorization?.scope
    }
    expect(scopeOf('istio-system/p', {})).toBe('global')
    expect(scopeOf('shop/p', {})).toBe('namespace')
    expect(scopeOf('shop/p', { selector: { matchLabels: {} } })).toBe('namespace')
    expect(scopeOf('shop/p', { selector: { matchLabels: { app: 'web' } } })).toBe('workloadSelector')
  })

  test('a selector in a root namespace selects in every namespace, elsewhere only in its own', () => {
    const deny = { action: 'DENY', rules: [{}], selector: { matchLabels: { app: 'web' } } }
    expect(world([policy('istio-system/p', deny)])).toMatchObject({ names: ['istio-system/p'] })
    expect(world([policy('istio-system/p', deny)]).allows('a/x')).toBe(false)
    expect(world([policy('other/p', deny)])).toMatchObject({ names: [] })
    expect(world([policy('shop/p', { ...deny, selector: { matchLabels: { app: 'db' } } })]).allows('a/x')).toBe(true)
  })

  test('an ALLOW without rules lets nobody in; an empty rule everybody', () => {
    expect(world([policy('shop/p', {})]).allows('a/x')).toBe(false)
    expect(world([policy('shop/p', { rules: [{}] })]).allows('a/x')).toBe(true)
    expect(world([policy('shop/p', { action: 'DENY', rules: [{}] })]).allows('a/x')).toBe(false)
  })

  test('principals, namespaces, accounts, addresses, ports and conditions', () => {
    const { allows } = world([policy('shop/p', { rules: [
      { from: [{ source: { principals: ['cluster.local/ns/a/sa/x'] } }], to: [{ operation: { ports: ['80'] } }] },
      { from: [{ source: { namespaces: ['b*'], notIpBlocks: ['10.1.0.0/16'] } }] },
      { from: [{ source: { serviceAccounts: ['cart', 'c/y'] } }], when: [{ key: 'destination.port', notValues: ['22'] }] },
      { when: [{ key: 'source.ip', values: ['192.0.2.7/24'] }] },
    ] })])
    expect([allows('a/x', 80), allows('a/x', 81), allows('a/y', 80), allows(undefined, 80)]).toEqual([true, false, false, false])
    expect([allows('bb/z'), allows('bb/z', 80, '10.1.2.3')]).toEqual([true, false])
    expect([allows('shop/cart'), allows('c/y'), allows('c/y', 22), allows('d/cart')]).toEqual([true, true, false, false])
    expect([allows(undefined, 80, '192.0.2.200'), allows(undefined, 80, '192.0.3.1')]).toEqual([true, false])
  })

  test('parts for L7 make an ALLOW rule vanish and a DENY rule wider, and the policy says so', () => {
    const l7Allow = world([policy('shop/p', { rules: [{ from: [{ source: { namespaces: ['a'] } }], to: [{ operation: { methods: ['GET'] } }] }] })])
    expect(l7Allow.allows('a/x')).toBe(false)
    expect(l7Allow.translator.remarksOf('AuthorizationPolicy shop/p').notes).toEqual([expect.stringContaining('methods')])
    const l7Deny = world([policy('shop/p', { action: 'DENY', rules: [{
      from: [{ source: { namespaces: ['a'] } }], to: [{ operation: { ports: ['80'] } }, { operation: { paths: ['/x'] } }],
    }] })])
    // Of the two operations one is left without anything to look at: it matches every connection.
    expect([l7Deny.allows('a/x', 80), l7Deny.allows('a/x', 81), l7Deny.allows('b/x', 80)]).toEqual([false, false, true])
    const nothingLeft = world([policy('shop/p', { action: 'DENY', rules: [{ to: [{ operation: { paths: ['/x'] } }] }] })])
    expect(nothingLeft.allows('a/x')).toBe(true)
    expect(nothingLeft.translator.remarksOf('AuthorizationPolicy shop/p').notes).toEqual([expect.stringContaining('denies nothing')])
    const mixed = world([policy('shop/p', { action: 'DENY', rules: [{ when: [{ key: 'request.headers[x]', values: ['1'] }, { key: 'source.namespace', values: ['a'] }] }] })])
    expect([mixed.allows('a/x'), mixed.allows('b/x')]).toEqual([false, true])
  })

  test('a dry run is marked; actions for others are refused with a reason; targets are left to waypoints', () => {
    const dry = object('AuthorizationPolicy', 'shop/p', { spec: { action: 'DENY', rules: [{}] } }, { annotations: { 'istio.io/dry-run': 'true' } })
    expect(translateAuthorizationPolicy(dry, defaultSettings).authorization?.isDryRun).toBe(true)
    expect(world([dry]).allows('a/x')).toBe(true)
    for (const action of ['AUDIT', 'CUSTOM']) {
      const { translator } = world([policy('shop/p', { action, rules: [{}] })])
      expect(translator.remarksOf('AuthorizationPolicy shop/p').problems).toEqual([expect.stringContaining(action)])
      expect(translator.policies.has('shop/p')).toBe(false)
    }
    const targeted = world([policy('shop/p', { targetRefs: [{ kind: 'Gateway', name: 'w' }], action: 'DENY', rules: [{}] })])
    expect(targeted.allows('a/x')).toBe(true)
    targeted.translator.flushWaypoints()
    expect(targeted.translator.remarksOf('AuthorizationPolicy shop/p')).toEqual({ problems: ['there is no Gateway shop/w (TargetNotFound)'], notes: [] })
  })

  test('trust domains that mean the same are all meant', () => {
    const translated = translateAuthorizationPolicy(
      object('AuthorizationPolicy', 'a/p', { spec: { rules: [{ from: [{ source: { principals: ['cluster.local/ns/a/sa/x', 'old/ns/b/*', 'else/ns/c/sa/z'] } }] }] } }),
      { ...defaultSettings, trustDomain: 'new', trustDomainAliases: ['old'] },
    )
    expect(translated.authorization?.rules[0]?.[0]?.[0]?.principals).toEqual([
      { kind: 'exact', value: 'new/ns/a/sa/x' }, { kind: 'exact', value: 'old/ns/a/sa/x' },
      { kind: 'prefix', value: 'new/ns/b/' }, { kind: 'prefix', value: 'old/ns/b/' }, { kind: 'exact', value: 'else/ns/c/sa/z' },
    ])
  })

  test('ranges lose their host bits; mapped ones become what they mean', () => {
    expect(parseCidr('10.1.2.3/8')).toEqual({ ip: '10.0.0.0', prefixLength: 8 })
    expect(parseCidr('10.1.2.3')).toEqual({ ip: '10.1.2.3', prefixLength: 32 })
    expect(parseCidr('::ffff:10.1.2.3/104')).toEqual({ ip: '10.0.0.0', prefixLength: 8 })
    expect(parseCidr('2001:db8::1/32')).toEqual({ ip: '2001:db8::', prefixLength: 32 })
    expect(parseCidr('0.0.0.0/0')).toEqual({ ip: '0.0.0.0', prefixLength: 0 })
    for (const bad of ['10.0.0.0/33', 'x', '::ffff:10.0.0.0/8', '1.2.3.4/']) expect([bad, parseCidr(bad)?.ip === bad]).toEqual([bad, false])
  })
})

describe('PeerAuthentication', () => {
  const strict = { mtls: { mode: 'STRICT' } }
  const permissive = { mtls: { mode: 'PERMISSIVE' } }
  const select = { selector: { matchLabels: { app: 'web' } } }

  test.each([
    ['none', [], true],
    ['mesh', [peer('istio-system/d', strict)], false],
    ['namespace', [peer('shop/d', strict)], false],
    ['another namespace', [peer('other/d', strict)], true],
    ['namespace over mesh', [peer('istio-system/d', strict), peer('shop/d', permissive)], true],
    ['unset falls back to the mesh', [peer('istio-system/d', strict), peer('shop/d', {})], false],
    ['workload over namespace', [peer('shop/d', strict), peer('shop/w', { ...select, ...permissive })], true],
    ['workload alone', [peer('shop/w', { ...select, ...strict })], false],
    ['another workload', [peer('shop/w', { selector: { matchLabels: { app: 'db' } }, ...strict })], true],
    ['disable lets plaintext in', [peer('istio-system/d', strict), peer('shop/d', { mtls: { mode: 'DISABLE' } })], true],
  ])('%s', (_name, objects, lets) => {
    const { allows } = world(objects)
    expect([allows(undefined), allows('a/x')]).toEqual([lets, true])
  })

  test('ports are exceptions from what applies to the workload', () => {
    const open = world([peer('shop/w', { ...select, ...strict, portLevelMtls: { 80: { mode: 'DISABLE' }, 81: { mode: 'UNSET' } } })])
    expect([80, 81, 82].map((port) => open.allows(undefined, port))).toEqual([true, false, false])
    expect(open.names).toEqual(['shop/converted_peer_authentication_w'])
    const closed = world([peer('shop/w', { ...select, ...permissive, portLevelMtls: { 80: { mode: 'STRICT' } } })])
    expect([80, 81].map((port) => closed.allows(undefined, port))).toEqual([false, true])
    const inherits = world([peer('istio-system/d', strict), peer('shop/w', { ...select, portLevelMtls: { 80: { mode: 'PERMISSIVE' } } })])
    expect([80, 81].map((port) => inherits.allows(undefined, port))).toEqual([true, false])
    expect(world([peer('shop/w', { ...select, ...strict, portLevelMtls: { 80: { mode: 'STRICT' } } })]).names).toEqual(['sidestep-system/istio_converted_static_strict'])
  })

  test('of several for one thing the oldest counts, then the first by name; the others say so', () => {
    const { allows, translator } = world([peer('shop/a', permissive), peer('shop/b', strict)])
    expect(allows(undefined)).toBe(true)
    expect(translator.remarksOf('PeerAuthentication shop/b').problems).toEqual([expect.stringContaining('PeerAuthentication shop/a')])
    expect(world([peer('shop/a', permissive), peer('shop/b', strict, { creationTimestamp: '2020-01-01T00:00:00Z' })]).allows(undefined)).toBe(false)
    expect(translator.resourcesOf('PeerAuthentication shop/b').policies).toEqual(['sidestep-system/istio_converted_static_strict'])
    translator.remove('PeerAuthentication shop/a')
    translator.flush()
    expect(translator.remarksOf('PeerAuthentication shop/b').problems).toEqual([])
  })

  test('refuses plaintext exactly where a plain reading says STRICT, and never an identity', () => {
    const mode = fc.constantFrom('UNSET', 'DISABLE', 'PERMISSIVE', 'STRICT')
    const written = fc.record({
      namespace: fc.constantFrom('sidestep-system', 'istio-system', 'shop', 'other'), name: fc.constantFrom('a', 'b', 'c'),
      selector: fc.constantFrom<Record<string, string>[]>({}, { app: 'web' }, { app: 'db' }, { app: 'web', tier: 'front' }),
      mode: fc.option(mode, { nil: undefined }), ports: fc.dictionary(fc.constantFrom('80', '81'), mode, { maxKeys: 2 }), year: fc.constantFrom(undefined, 2020, 2021),
    })
    type Written = typeof written extends fc.Arbitrary<infer T> ? T : never
    const root = (each: Written): boolean => each.namespace === 'sidestep-system' || each.namespace === 'istio-system'
    const isWide = ({ selector }: Written): boolean => Object.keys(selector).length === 0
    const oldestOf = (list: readonly Written[]): Written | undefined => list.toSorted((a, b) =>
      (a.year ?? 9999) - (b.year ?? 9999) || (`${a.namespace}/${a.name}` < `${b.namespace}/${b.name}` ? -1 : 1))[0]
    fc.assert(fc.property(fc.array(written, { maxLength: 8 }), fc.constantFrom(80, 81, 82), (list, port) => {
      const peers = new Map(list.map((each) => [`${each.namespace}/${each.name}`, each]))
      // Written twice under one name: the later replaces the earlier, so that changes are in this test too.
      const { allows } = world(list.map((each) => peer(`${each.namespace}/${each.name}`, {
        ...(isWide(each) ? {} : { selector: { matchLabels: each.selector }, portLevelMtls: Object.fromEntries(Object.entries(each.ports).map(([key, own]) => [key, { mode: own }])) }),
        ...(each.mode === undefined ? {} : { mtls: { mode: each.mode } }),
      }, each.year === undefined ? {} : { creationTimestamp: `${each.year}-01-01T00:00:00Z` })))
      const all = [...peers.values()]
      const selected = oldestOf(all.filter((each) => each.namespace === 'shop' && !isWide(each) && each.selector['app'] === 'web' && each.selector['tier'] === undefined))
      const chain = [
        selected?.ports[String(port)], selected?.mode, oldestOf(all.filter((each) => each.namespace === 'shop' && isWide(each)))?.mode,
        oldestOf(all.filter((each) => root(each) && isWide(each)))?.mode,
      ]
      const says = chain.find((each) => each !== undefined && each !== 'UNSET') ?? 'PERMISSIVE'
      expect([allows(undefined, port), allows('a/x', port)]).toEqual([says !== 'STRICT', true])
    }), { numRuns: 500 })
  })
})
