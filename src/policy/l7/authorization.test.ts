import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Cidr, StringMatch } from '../../model/authorization.ts'
import { emptyL7Match, type AuthorizationL7, type L7Action, type L7Match,
  type PathPattern } from '../../model/authorization-l7.ts'
import { explainL7 } from './authorization-explain.ts'
import { claimTexts, type AuthorizationRequest, type VerifiedToken } from './authorization-facts.ts'
import { L7Authorizer, type L7Reason } from './authorization.ts'
import { normalisePath } from './path.ts'
import { compileTemplate } from './path-template.ts'
import { headOf, type HeadParts } from './testing.ts'

const match = (parts: Partial<L7Match>): L7Match => ({ ...emptyL7Match, ...parts })
const l4 = (parts: Partial<L7Match['l4']>): L7Match => match({ l4: { ...emptyL7Match.l4, ...parts } })
const exact = (value: string): StringMatch => ({ kind: 'exact', value })
const prefix = (value: string): StringMatch => ({ kind: 'prefix', value })
const anything: StringMatch = { kind: 'presence' }
const policy = (action: L7Action, matches: readonly L7Match[], parts: Partial<AuthorizationL7> = {}): AuthorizationL7 => ({
  name: action, namespace: 'shop', action, isDryRun: false, rules: [[matches]],
    ...(action === 'custom' ? { provider: 'opa' } : {}), ...parts,
})
const alice = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'alice' }
const token: VerifiedToken = {
  issuer: 'https://idp.test', subject: 'ann', audiences: ['shop', 'bank'], presenter: 'app',
  claims: { groups: ['a', 'b'], realm: { roles: ['admin', 7], nested: { deep: 'x' } }, scope: 'read write', level: 3, ok: true,
    'a.b': 'dot', none: null },
}
interface Parts extends HeadParts {
  path?: string; anonymous?: true; token?: VerifiedToken; remoteIp?: string; serverName?: string
}
const request = ({ path = '/', anonymous, token, remoteIp = '203.0.113.9', serverName,
  ...head }: Parts = {}): AuthorizationRequest => ({
  head: headOf(path, head), remoteIp, ...(token ? { token } : {}), ...(serverName === undefined ? {} : { serverName }),
  connection: { ...(anonymous ? {} : { identity: alice }), sourceIp: '10.1.0.7', destination: { ip: '10.1.0.9', port: 8080 } },
})
const says = (policies: readonly AuthorizationL7[], parts: Parts = {}): L7Reason =>
  new L7Authorizer(policies).evaluate(request(parts)).because
/** Whether a match holds, asked as an ALLOW and as a DENY. */
const holds = (parts: Partial<L7Match>, of: Parts = {}): readonly [allow: boolean, deny: boolean] =>
  [says([policy('allow', [match(parts)])], of) === 'allowPolicy', says([policy('deny', [match(parts)])], of) === 'denyPolicy']
const yes = [true, true]
const no = [false, false]

describe('order', () => {
  test('DENY before ALLOW; without ALLOW everybody may; the rule is named', () => {
    const get = policy('allow', [match({ methods: [exact('GET')] })])
    const admin = policy('deny', [match({ paths: [prefix('/admin')] })])
    expect(says([])).toBe('noAllowPolicies')
    expect(says([get])).toBe('allowPolicy')
    expect(says([get], { method: 'POST' })).toBe('noAllowMatched')
    expect(new L7Authorizer([get, admin]).evaluate(request({ path: '/admin/x' }))).toMatchObject({ allowed: false,
      because: 'denyPolicy', policy: 'shop/deny', rule: 0 })
    expect(says([policy('allow', [], { rules: [] })])).toBe('noAllowMatched')
    expect(says([policy('allow', [], { rules: [[]] })])).toBe('allowPolicy')
    expect(says([policy('allow', [emptyL7Match])])).toBe('noAllowMatched')
  })

  test('CUSTOM asks first, each provider once, and the rest is decided too', () => {
    const all = match({ paths: [anything] })
    const verdict = new L7Authorizer([policy('custom', [all], { name: 'c1' }), policy('custom', [all], { name: 'c2' }),
      policy('custom', [all], { name: 'c3', provider: 'other' }), policy('deny', [all])]).evaluate(request())
    expect(verdict.ask).toEqual([{ policy: 'shop/c1', rule: 0, provider: 'opa' },
      { policy: 'shop/c3', rule: 0, provider: 'other' }])
    expect(verdict).toMatchObject({ allowed: false, because: 'denyPolicy' })
    expect(new L7Authorizer([policy('custom', [match({ paths: [exact('/x')] })])]).evaluate(request()).ask).toEqual([])
  })

  test('AUDIT and dry runs decide nothing and are told', () => {
    const all = match({ paths: [anything] })
    const audit = new L7Authorizer([policy('audit', [all])]).evaluate(request())
    expect(audit).toMatchObject({ allowed: true, audit: [{ policy: 'shop/audit', rule: 0 }] })
    const dry = new L7Authorizer([policy('deny', [all], { isDryRun: true }),
      policy('allow', [all], { name: 'a' })]).evaluate(request())
    expect(dry).toMatchObject({ allowed: true, allowedWithDryRun: false,
      dryRun: [{ policy: 'shop/deny', rule: 0, action: 'deny' }] })
    const dryAllow = new L7Authorizer([policy('allow', [match({ paths: [exact('/x')] })], { isDryRun: true })])
    expect(dryAllow.evaluate(request())).toMatchObject({ allowed: true, allowedWithDryRun: false })
  })

  test('what cannot be evaluated refuses', () => {
    const all = match({ paths: [anything] })
    for (const action of ['custom', 'deny',
      'allow'] as const) expect(says([policy(action, [all], { unsupported: 'x' })])).toBe('unsupportedPolicy')
    expect(says([policy('audit', [all], { unsupported: 'x' })])).toBe('noAllowPolicies')
    expect(says([policy('deny', [match({ remoteIps: [{ ip: 'x', prefixLength: 8 }] })])])).toBe('unsupportedPolicy')
    const { provider: _, ...nobody } = policy('custom', [all])
    expect(says([nobody])).toBe('unsupportedPolicy')
    expect(says([], { remoteIp: 'nonsense' })).toBe('unreadableAddress')
    for (const value of ['/a;b', '/a/../b', '/a%2Fb', '/%2e/x',
      '/a\\b']) expect(says([policy('deny', [match({ paths: [exact(value)] })])])).toBe('unsupportedPolicy')
    expect(says([policy('deny', [match({ paths: [{ kind: 'template', value: '/{x}' }] })])])).toBe('unsupportedPolicy')
    expect(says([policy('allow', [all]), policy('allow', [all], { name: 'b', unsupported: 'x' })])).toBe('allowPolicy')
  })
})

describe('what is matched', () => {
  test('paths as they are normalised', () => {
    for (const path of ['/admin', '//admin', '/x/../admin', '/%61dmin', '/admin;x=1', '/;/admin', '/./admin']) {
      expect(holds({ paths: [exact('/admin')] }, { path })).toEqual(yes)
      expect(holds({ notPaths: [prefix('/adm')] }, { path })).toEqual(no)
    }
    expect(holds({ paths: [exact('/caf%C3%A9')] }, { path: '/caf\u00c3\u00a9' })).toEqual(yes)
    expect(holds({ paths: [prefix('/caf%C3')] }, { path: '/caf%C3%A9' })).toEqual(no)
    expect(holds({ paths: [{ kind: 'suffix', value: '/info' }] }, { path: '/a/info' })).toEqual(yes)
    expect(holds({ paths: [prefix('/a/.')] }, { path: '/a/b' })).toEqual(no)
    expect(holds({ paths: [prefix('/a/')] }, { path: '/a' })).toEqual(no)
  })

  test('templates', () => {
    const cases: readonly [string, string, boolean][] = [
      ['/a/{*}/c', '/a/b/c', true], ['/a/{*}/c', '/a/b/b/c', false], ['/a/{*}', '/a/', false], ['/a/{**}', '/a', true],
        ['/a/{**}', '/a/', true],
      ['/a/{**}', '/a/b/c', true], ['/{**}/c', '/a/b/c', true], ['/{**}/c', '/c', true], ['/a/{**}/b/{*}', '/a/b/x/b/y', true],
        ['/a/{**}/b/{*}', '/a/b', false],
      ['/{*}', '/a', true], ['/{*}', '/a/b', false],
    ]
    for (const [template, path, expected] of cases) expect([template, path,
      compileTemplate(template)?.(path)]).toEqual([template, path, expected])
    for (const bad of ['a', '/{x}', '/a{*}', '/*', '/{*', '/..']) expect(compileTemplate(bad)).toBeUndefined()
    const part = fc.constantFrom('a', 'b', '{*}', '{**}')
    const segments = fc.array(fc.constantFrom('a', 'b', 'c'), { minLength: 1, maxLength: 6 })
    fc.assert(fc.property(fc.array(part, { minLength: 1, maxLength: 5 }), segments, (parts, path) => {
      // Slow and plain: each part eats what it may.
      const slow = (p: readonly string[], s: readonly string[]): boolean => {
        const [head, ...rest] = p
        if (head === undefined) return s.length === 0
        if (head === '{**}') return Array.from({ length: s.length + 1 }, (_, n) => n).some((n) => slow(rest, s.slice(n)))
        return s.length > 0 && (head === '{*}' || head === s[0]) && slow(rest, s.slice(1))
      }
      expect(compileTemplate(`/${parts.join('/')}`)?.(`/${path.join('/')}`)).toBe(slow(parts, path))
    }))
  })

  test('hosts without case and with any port, methods, ports, principals, addresses', () => {
    expect(holds({ hosts: [exact('Shop.Test')] }, { authority: 'sHop.test:8080' })).toEqual(yes)
    expect(holds({ hosts: [exact('shop.test:8080')] }, { authority: 'shop.test' })).toEqual(no)
    expect(holds({ notHosts: [{ kind: 'suffix', value: '.test' }] }, { authority: 'a.test.:1' })).toEqual(no)
    expect(holds({ methods: [exact('DELETE')] }, { method: 'delete' })).toEqual([false, true])
    expect(holds({ notMethods: [exact('DELETE')] }, { method: 'delete' })).toEqual([false, true])
    expect(holds(l4({ destinationPorts: [8080] }))).toEqual(yes)
    expect(holds(l4({ principals: [prefix('cluster.local/ns/shop/')] }))).toEqual(yes)
    expect(holds(l4({ principals: [anything] }), { anonymous: true })).toEqual(no)
    expect(holds({ remoteIps: [{ ip: '203.0.113.0', prefixLength: 24 }] })).toEqual(yes)
    expect(holds({ notRemoteIps: [{ ip: '203.0.113.0', prefixLength: 24 }] })).toEqual(no)
    expect(holds(l4({ sourceIps: [{ ip: '10.1.0.0', prefixLength: 16 }] }))).toEqual(yes)
    expect(holds({ serverNames: [exact('Shop.test')] }, { serverName: 'shop.TEST' })).toEqual(yes)
    expect(holds({ notServerNames: [exact('shop.test')] })).toEqual(yes)
  })

  test('a header sent twice or as a list is read so that it is refused', () => {
    const role = (values: readonly StringMatch[], notValues: readonly StringMatch[] = []): Partial<L7Match> =>
      ({ headers: [{ name: 'X-Role', values, notValues }] })
    const headers = (...values: string[]): Parts => ({ headers: values.map((value) => ['x-role', value] as const) })
    expect(holds(role([exact('admin')]), headers('admin'))).toEqual(yes)
    expect(holds(role([exact('admin')]), headers('user', 'admin'))).toEqual([false, true])
    expect(holds(role([exact('admin')]), headers('user, admin'))).toEqual([false, true])
    expect(holds(role([], [exact('admin')]), headers('user', 'admin'))).toEqual([false, true])
    expect(holds(role([], [exact('admin')]), headers('user'))).toEqual(yes)
    expect(holds(role([], [exact('admin')]))).toEqual(yes)
    expect(holds(role([anything]), headers(''))).toEqual(yes)
    expect(holds(role([anything]))).toEqual(no)
    expect(holds(role([], [anything]))).toEqual(yes)
    expect(holds(role([]), headers('x'))).toEqual(no)
  })

  test('tokens: principals, audiences, claims nested as deep as they are', () => {
    expect(holds({ requestPrincipals: [exact('https://idp.test/ann')] }, { token })).toEqual(yes)
    expect(holds({ requestPrincipals: [anything] })).toEqual(no)
    expect(holds({ notRequestPrincipals: [anything] })).toEqual(yes)
    expect(holds({ audiences: [exact('bank')] }, { token })).toEqual(yes)
    expect(holds({ notAudiences: [exact('bank')] }, { token })).toEqual(no)
    expect(holds({ presenters: [exact('app')] }, { token })).toEqual(yes)
    const claim = (path: readonly string[], value: string): Partial<L7Match> =>
      ({ claims: [{ path, values: [exact(value)], notValues: [] }] })
    for (const [path, value] of [[['groups'], 'b'], [['realm', 'roles'], 'admin'], [['realm', 'roles'], '7'],
      [['realm', 'nested', 'deep'], 'x'], [['scope'], 'write'],
      [['scope'], 'read write'], [['level'], '3'], [['ok'], 'true'], [['a.b'], 'dot']] as const) {
      expect(holds(claim(path, value), { token })).toEqual(yes)
      expect(holds(claim(path, value))).toEqual(no)
    }
    for (const path of [['realm'], ['none'], ['groups', '0'], ['constructor'], ['__proto__', 'x'],
      ['realm', 'constructor', 'name'], ['x']]) {
      expect(claimTexts(token.claims, path)).toEqual([])
    }
  })

  test('several kinds all hold, several alternatives one, several clauses all', () => {
    const both = match({ methods: [exact('GET')], paths: [prefix('/a')] })
    const rules = [[[both, match({ methods: [exact('PUT')] })], [match({ hosts: [exact('shop.test')] })]]]
    const allow = policy('allow', [], { rules })
    expect([{ path: '/a' }, { path: '/b' }, { path: '/b', method: 'PUT' },
      { path: '/a', authority: 'x' }].map((parts) => says([allow], parts)))
      .toEqual(['allowPolicy', 'noAllowMatched', 'allowPolicy', 'noAllowMatched'])
  })
})

// The oracle: policies read word by word, sharing nothing with the compiled form but the data.
const word = fc.constantFrom('a', 'b', 'ab')
const stringMatch: fc.Arbitrary<StringMatch> = fc.oneof(fc.record({ kind: fc.constantFrom('exact', 'prefix', 'suffix'),
  value: word }), fc.constant(anything))
const pathPattern: fc.Arbitrary<PathPattern> = fc.oneof(
  fc.record({ kind: fc.constantFrom('exact', 'prefix'), value: fc.constantFrom('/a', '/a/', '/a/b', '/ab', '/%61') }),
  fc.record({ kind: fc.constant('suffix' as const), value: fc.constantFrom('/b', 'b', 'a') }),
  fc.constantFrom<PathPattern>({ kind: 'template', value: '/{*}/b' }, { kind: 'template', value: '/a/{**}' }, anything))
const cidr: fc.Arbitrary<Cidr> = fc.constantFrom({ ip: '10.0.0.0', prefixLength: 8 }, { ip: '10.1.0.0', prefixLength: 16 },
  { ip: 'fd00::', prefixLength: 8 })
const few = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T[]> =>
  fc.oneof({ weight: 3, arbitrary: fc.constant<T[]>([]) }, fc.array(arbitrary, { maxLength: 2 }))
const conditions = { values: few(stringMatch), notValues: few(stringMatch) }
const l7Match: fc.Arbitrary<L7Match> = fc.record({
  l4: fc.record({ principals: few(fc.constantFrom(exact('td/ns/a/sa/b'), prefix('td/'))), notNamespaces: few(stringMatch),
    destinationPorts: few(fc.constantFrom(80, 90)) })
    .map((parts) => ({ ...emptyL7Match.l4, ...parts })),
  paths: few(pathPattern), notPaths: few(pathPattern), methods: few(fc.constantFrom(exact('GET'), exact('PUT'))),
    notMethods: few(fc.constantFrom(exact('GET'), exact('PUT'))),
  hosts: few(stringMatch), notHosts: few(stringMatch),
    headers: few(fc.record({ name: fc.constantFrom('X', 'y'), ...conditions })),
  requestPrincipals: few(fc.constantFrom(exact('i/s'), anything)),
    notRequestPrincipals: few(fc.constantFrom(exact('i/s'), anything)),
  audiences: few(stringMatch), notAudiences: few(stringMatch), presenters: few(stringMatch), notPresenters: few(stringMatch),
  claims: few(fc.record({ path: fc.constantFrom(['a'], ['n', 'a']), ...conditions })),
  remoteIps: few(cidr), notRemoteIps: few(cidr), serverNames: few(stringMatch), notServerNames: few(stringMatch),
})
const anyPolicy: fc.Arbitrary<AuthorizationL7> = fc.tuple(fc.constantFrom<L7Action>('custom', 'deny', 'allow', 'audit'),
  fc.nat(9), fc.boolean(),
  fc.array(fc.array(fc.array(l7Match, { maxLength: 2 }), { maxLength: 2 }), { maxLength: 3 }))
  .map(([action, n, isDryRun, rules]) => policy(action, [], { name: `p${n}`, isDryRun, rules }))
const anyRequest: fc.Arbitrary<AuthorizationRequest> = fc.record({
  path: fc.constantFrom('/a', '/a/', '/a/b', '/ab', '/x', '/b/b'), method: fc.constantFrom('GET', 'get', 'PUT'),
    authority: fc.constantFrom('a', 'ab:80', 'B'),
  headers: fc.array(fc.tuple(fc.constantFrom('x', 'y'), fc.constantFrom('a', 'b', 'a,b', '')), { maxLength: 3 }),
  remoteIp: fc.constantFrom('10.1.2.3', '10.2.0.1', 'fd00::1', '192.0.2.1'), serverName: fc.option(word, { nil: undefined }),
    port: fc.constantFrom(80, 90),
  namespace: fc.option(word, { nil: undefined }),
  token: fc.option(fc.record({ issuer: fc.constant('i'), subject: fc.constantFrom('s', 't'), audiences: few(word),
    presenter: word,
    claims: fc.record({ a: fc.oneof(word, fc.array(word)), n: fc.record({ a: word }) }) }), { nil: undefined }),
}).map(({ path, method, authority, headers, remoteIp, serverName, port, namespace, token: jwt }) => ({
  head: headOf(path, { method, authority, headers }), remoteIp, ...(serverName === undefined ? {} : { serverName }),
    ...(jwt ? { token: jwt } : {}),
  connection: { ...(namespace === undefined ? {} : { identity: { trustDomain: 'td', namespace, serviceAccount: 'b' } }),
    sourceIp: '10.9.9.9', destination: { ip: '10.0.0.1', port } },
}))

function oracle(policies: readonly AuthorizationL7[],
  { head, connection, token: jwt, remoteIp, serverName }: AuthorizationRequest): { because: string; ask: number; audit: number } {
  const is = (p: StringMatch, v: string): boolean => p.kind === 'presence'
    || (p.kind === 'exact' ? v === p.value : p.kind === 'prefix' ? v.startsWith(p.value) : v.endsWith(p.value))
  const low = (v: string): string => v.toLowerCase()
  const values = (name: string): string[] =>
    head.headers.all(low(name)).flatMap((v) => v.split(',')).concat(head.headers.all(low(name)))
  const inRange = ({ ip }: Cidr): boolean => remoteIp.startsWith(ip === '10.0.0.0' ? '10.' : ip === '10.1.0.0' ? '10.1.' : 'fd')
  const who = connection.identity
  const matches = (m: L7Match, isAllow: boolean): boolean => {
    let said = 0
    const pair = <T>(yes: readonly T[], not: readonly T[], texts: (strict: boolean) => readonly string[],
      hit: (p: T, v: string) => boolean): boolean => {
      said += yes.length + not.length
      return (yes.length === 0 || texts(isAllow).some((v) => yes.some((p) => hit(p, v))))
        && !texts(!isAllow).some((v) => not.some((p) => hit(p, v)))
    }
    const path = (p: PathPattern, v: string): boolean =>
      (p.kind !== 'template' ? is(p.kind === 'presence' ? p : { ...p, value: p.value.replace('%61', 'a') }, v)
      : p.value === '/{*}/b' ? /^\/[^/]+\/b$/.test(v) : v === '/a' || v.startsWith('/a/'))
    const head1 = low(head.authority)
    const cond = (c: { values: readonly StringMatch[]; notValues: readonly StringMatch[] },
      texts: (strict: boolean) => readonly string[]): boolean => {
      said++
      return c.values.length + c.notValues.length > 0 && pair(c.values, c.notValues, texts, is)
    }
    const claim = (p: readonly string[]): string[] => {
      const a = p.reduce<unknown>((o, k) => (o as Record<string, unknown> | undefined)?.[k], jwt?.claims)
      return a === undefined ? [] : ([] as string[]).concat(a as string | string[])
    }
    const joined = (name: string): string[] => (head.headers.has(low(name)) ? [head.headers.all(low(name)).join(',')] : [])
    const all = [
      pair(m.l4.principals, [], () => (who ? [`td/ns/${who.namespace}/sa/b`] : []), is),
      pair([], m.l4.notNamespaces, () => (who ? [who.namespace] : []), is),
      pair(m.l4.destinationPorts, [], () => [String(connection.destination.port)], (p, v) => String(p) === v),
      pair(m.paths, m.notPaths, () => [head.path.matched], path),
      pair(m.methods, m.notMethods, (strict) => (strict ? [head.method] : [head.method, head.method.toUpperCase()]), is),
      pair(m.hosts, m.notHosts, () => [head1, head1.split(':')[0] ?? ''], is),
      pair(m.requestPrincipals, m.notRequestPrincipals, () => (jwt ? [`i/${jwt.subject}`] : []), is),
      pair(m.audiences, m.notAudiences, () => jwt?.audiences ?? [], is),
        pair(m.presenters, m.notPresenters, () => (jwt?.presenter === undefined ? [] : [jwt.presenter]), is),
      pair(m.serverNames, m.notServerNames, () => (serverName === undefined ? [] : [serverName]), is),
      pair(m.remoteIps, m.notRemoteIps, () => [remoteIp], (c) => inRange(c)),
      ...m.headers.map((h) => cond(h, (strict) => (strict ? joined(h.name) : [...joined(h.name), ...values(h.name)]))),
      ...m.claims.map((c) => cond(c, () => claim(c.path))),
    ]
    return said > 0 && all.every(Boolean)
  }
  const hits = (action: L7Action): AuthorizationL7[] => policies.filter((p) => !p.isDryRun && p.action === action
    && p.rules.some((rule) => rule.every((clause) => clause.length === 0 || clause.some((m) => matches(m, action === 'allow')))))
  const hasAllow = policies.some((p) => !p.isDryRun && p.action === 'allow')
  const because = hits('deny').length > 0 ? 'denyPolicy' : !hasAllow ? 'noAllowPolicies' : hits('allow').length > 0
    ? 'allowPolicy' : 'noAllowMatched'
  return { because, ask: Math.min(1, hits('custom').length), audit: hits('audit').length }
}

test('says what a plain reading says, and so does the explanation', () => {
  const seen = new Map<string, number>()
  fc.assert(fc.property(fc.uniqueArray(anyPolicy, { maxLength: 6, selector: (p) => p.name }), anyRequest, (policies, asked) => {
    const authorizer = new L7Authorizer(policies)
    const verdict = authorizer.evaluate(asked)
    const expected = oracle(policies, asked)
    expect({ because: verdict.because, ask: verdict.ask.length, audit: verdict.audit.length }).toEqual(expected)
    const { steps } = explainL7(authorizer, asked)
    const matched = (action: L7Action, isDryRun: boolean): string[] =>
      steps.filter((s) => s.action === action && s.isDryRun === isDryRun && s.outcome === 'matched').map((s) => s.policy)
    expect(matched('audit', false)).toEqual(verdict.audit.map((hit) => hit.policy))
    expect(matched('deny', false)[0]).toBe(verdict.because === 'denyPolicy' ? verdict.policy : undefined)
    if (verdict.because === 'allowPolicy') expect(matched('allow', false)[0]).toBe(verdict.policy)
    expect(verdict.dryRun.length).toBe((['custom', 'deny', 'allow', 'audit'] as const).flatMap((action) =>
      matched(action, true)).length)
    seen.set(verdict.because, (seen.get(verdict.because) ?? 0) + 1)
  }), { numRuns: 800 })
  for (const reason of ['denyPolicy', 'noAllowPolicies', 'allowPolicy',
    'noAllowMatched']) expect(seen.get(reason) ?? 0).toBeGreaterThan(25)
})

test('total: whatever comes, an answer; and no line of an explanation is the client\'s', () => {
  const policies = [policy('deny',
    [match({ hosts: [exact('a')], headers: [{ name: 'x', values: [exact('a')], notValues: [] }] })]),
    policy('allow', [match({ claims: [{ path: ['a', 'b'], values: [anything], notValues: [] }] })]),
      policy('allow', [match({ paths: [{ kind: 'template', value: '/{**}/a' }] })], { name: 'z' })]
  const authorizer = new L7Authorizer(policies)
  const text = fc.string()
  fc.assert(fc.property(fc.record({ path: text, method: text, authority: text, header: text, ip: text,
    claims: fc.dictionary(text, fc.jsonValue()) }), (r) => {
    const decision = normalisePath(r.path)
    const path = decision.t === 'path' ? decision : { path: r.path, matched: r.path }
    const asked: AuthorizationRequest = {
      head: { ...headOf('/', { method: r.method, authority: r.authority, headers: [['x', r.header]] }), path },
        remoteIp: r.ip.length > 3 ? r.ip : '::1',
      token: { issuer: r.path, subject: r.header, audiences: [r.ip], claims: { ...r.claims, a: r.claims } },
      connection: { sourceIp: '10.0.0.1', destination: { ip: '10.0.0.2', port: 1 } },
    }
    expect(typeof authorizer.evaluate(asked).allowed).toBe('boolean')
    for (const line of explainL7(authorizer, asked).lines) expect(line).not.toContain('\n')
  }))
})
