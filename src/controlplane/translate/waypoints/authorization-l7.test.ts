// AuthorizationPolicy at a gateway, part by part: each is judged by the decision that gateways make of it, with a request that it
// holds for and one that it does not.
import { describe, expect, test } from 'vitest'
import type { Identity } from '../../../core/identity.ts'
import { L7Authorizer, type L7Verdict } from '../../../policy/l7/authorization.ts'
import type { VerifiedToken } from '../../../policy/l7/authorization-facts.ts'
import { headOf, type HeadParts } from '../../../policy/l7/testing.ts'
import { object } from '../arbitraries.ts'
import { defaultSettings, type TranslateSettings } from '../settings.ts'
import { translateL7, type NamedProvider } from './authorization-l7.ts'

interface Asked extends HeadParts {
  readonly path?: string
  readonly from?: Identity | null
  readonly sourceIp?: string
  readonly remoteIp?: string
  readonly ip?: string
  readonly port?: number
  readonly token?: VerifiedToken
  readonly serverName?: string
}

const alice: Identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'alice' }
const token: VerifiedToken = { issuer: 'https://idp.test', subject: 'ann', audiences: ['bank'], presenter: 'app', claims: { groups: ['staff'], realm: { roles: ['admin'] }, 'https://x.test/tier': 'gold' } }
const provider: NamedProvider = { key: 'shop/opa' }

function verdict(spec: object, { path = '/', from = alice, sourceIp = '10.1.0.7', remoteIp = '203.0.113.9', ip = '10.96.0.1', port = 80, token, serverName, ...head }: Asked, settings: Partial<TranslateSettings> = {}, metadata: object = {}): L7Verdict {
  const policy = object('AuthorizationPolicy', 'shop/p', { spec: { targetRefs: [{ kind: 'Service', name: 'web' }], ...spec } }, metadata)
  const l7 = translateL7(policy, policy.spec.action === 'CUSTOM' ? provider : undefined, { ...defaultSettings, ...settings })
  return new L7Authorizer([l7]).evaluate({
    head: headOf(path, head), connection: { ...(from ? { identity: from } : {}), sourceIp, destination: { ip, port } }, remoteIp,
    ...(token ? { token } : {}), ...(serverName === undefined ? {} : { serverName }),
  })
}
const allows = (rule: object, asked: Asked): boolean => verdict({ rules: [rule] }, asked).allowed
const source = (fields: object): object => ({ from: [{ source: fields }] })
const operation = (fields: object): object => ({ to: [{ operation: fields }] })
const when = (key: string, ...values: readonly string[]): object => ({ when: [{ key, values }] })
const unless = (key: string, ...notValues: readonly string[]): object => ({ when: [{ key, notValues }] })
const header = (name: string, value: string): Asked => ({ headers: [[name, value]] })
const bob: Asked = { from: { ...alice, namespace: 'guest', serviceAccount: 'bob' } }

const rows: readonly (readonly [what: string, rule: object, holds: Asked, not: Asked])[] = [
  ['principals', source({ principals: ['cluster.local/ns/shop/sa/*'] }), {}, bob],
  ['notPrincipals', source({ notPrincipals: ['cluster.local/ns/guest/sa/bob'] }), {}, bob],
  ['namespaces', source({ namespaces: ['shop'] }), {}, bob],
  ['notNamespaces', source({ notNamespaces: ['guest'] }), {}, bob],
  ['serviceAccounts', source({ serviceAccounts: ['alice', 'x/y'] }), {}, bob],
  ['notServiceAccounts', source({ notServiceAccounts: ['guest/bob'] }), {}, bob],
  ['ipBlocks', source({ ipBlocks: ['10.1.0.0/16'] }), {}, { sourceIp: '10.2.0.1' }],
  ['notIpBlocks', source({ notIpBlocks: ['10.2.0.0/16'] }), {}, { sourceIp: '10.2.0.1' }],
  ['remoteIpBlocks', source({ remoteIpBlocks: ['203.0.113.0/24'] }), {}, { remoteIp: '198.51.100.1' }],
  ['notRemoteIpBlocks', source({ notRemoteIpBlocks: ['198.51.100.1'] }), {}, { remoteIp: '198.51.100.1' }],
  ['requestPrincipals', source({ requestPrincipals: ['https://idp.test/*'] }), { token }, {}],
  ['notRequestPrincipals', source({ notRequestPrincipals: ['https://idp.test/ann'] }), {}, { token }],
  ['hosts', operation({ hosts: ['*.test'] }), { authority: 'A.test:80' }, { authority: 'a.com' }],
  ['notHosts', operation({ notHosts: ['a.com'] }), { authority: 'a.test' }, { authority: 'a.com:8080' }],
  ['ports', operation({ ports: ['80'] }), {}, { port: 81 }],
  ['notPorts', operation({ notPorts: ['81'] }), {}, { port: 81 }],
  ['methods', operation({ methods: ['GET', 'HEAD'] }), { method: 'HEAD' }, { method: 'POST' }],
  ['notMethods', operation({ notMethods: ['POST'] }), {}, { method: 'POST' }],
  ['paths', operation({ paths: ['/cart', '/items/*'] }), { path: '/items/7' }, { path: '/admin' }],
  ['paths with a template', operation({ paths: ['/u/{*}/cart/{**}'] }), { path: '/u/7/cart/a/b' }, { path: '/u/7/8/cart/a' }],
  ['notPaths', operation({ notPaths: ['/admin*'] }), { path: '/cart' }, { path: '/admin/x' }],
  ['source.ip', when('source.ip', '10.1.0.7'), {}, { sourceIp: '10.1.0.8' }],
  ['source.namespace', when('source.namespace', 'shop'), {}, bob],
  ['source.principal', when('source.principal', '*/sa/alice'), {}, bob],
  ['source.serviceAccount', when('source.serviceAccount', 'shop/alice'), {}, bob],
  ['destination.ip', when('destination.ip', '10.96.0.0/16'), {}, { ip: '10.97.0.1' }],
  ['destination.port', when('destination.port', '80'), {}, { port: 443 }],
  ['remote.ip', when('remote.ip', '203.0.113.9'), {}, { remoteIp: '203.0.113.10' }],
  ['connection.sni', when('connection.sni', 'www.Shop.test'), { serverName: 'www.shop.test' }, {}],
  ['request.headers', when('request.headers[X-Tenant]', 'a*'), header('x-tenant', 'acme'), header('x-tenant', 'bcme')],
  ['request.headers, not', unless('request.headers[x-tenant]', 'acme'), {}, header('x-tenant', 'acme')],
  ['request.auth.principal', when('request.auth.principal', 'https://idp.test/ann'), { token }, {}],
  ['request.auth.audiences', when('request.auth.audiences', 'bank'), { token }, { token: { ...token, audiences: ['x'] } }],
  ['request.auth.presenter', when('request.auth.presenter', 'app'), { token }, { token: { ...token, presenter: 'x' } }],
  ['request.auth.claims', when('request.auth.claims[groups]', 'staff'), { token }, { token: { ...token, claims: {} } }],
  ['nested claims', when('request.auth.claims[realm][roles]', 'admin'), { token }, { token: { ...token, claims: { realm: {} } } }],
  ['claims with odd names', when('request.auth.claims[https://x.test/tier]', 'gold'), { token }, {}],
  ['claims, not', unless('request.auth.claims[groups]', 'staff'), {}, { token }],
]

describe('an AuthorizationPolicy at a gateway', () => {
  test.each(rows)('%s', (_what, rule, holds, not) => {
    expect([allows(rule, holds), allows(rule, not)]).toEqual([true, false])
    expect([holds, not].map((asked) => verdict({ action: 'DENY', rules: [rule] }, asked).allowed)).toEqual([false, true])
  })

  test('every part of a rule must hold, one of each list, and one of the rules', () => {
    const rule = { ...source({ namespaces: ['shop'] }), ...operation({ methods: ['GET'], paths: ['/a'] }), ...when('request.headers[x]', '1', '2') }
    expect(allows(rule, { path: '/a', headers: [['x', '2']] })).toBe(true)
    for (const asked of [{ path: '/b', headers: [['x', '2']] }, { path: '/a', headers: [['x', '3']] }, { ...bob, path: '/a', headers: [['x', '1']] }] as const) expect(allows(rule, asked)).toBe(false)
    const either = { to: [{ operation: { paths: ['/a'] } }, { operation: { methods: ['PUT'] } }] }
    expect([allows(either, { path: '/a' }), allows(either, { path: '/b', method: 'PUT' }), allows(either, { path: '/b' })]).toEqual([true, true, false])
    expect(verdict({ rules: [rule, {}] }, bob).allowed).toBe(true)
    expect(verdict({ rules: [] }, {}).allowed).toBe(false)
  })

  test('trust domains that mean the same are all meant', () => {
    const rules = [source({ principals: ['cluster.local/ns/shop/sa/alice'] })]
    expect(verdict({ rules }, { from: { ...alice, trustDomain: 'old' } }, { trustDomain: 'new', trustDomainAliases: ['old'] }).allowed).toBe(true)
    expect(verdict({ rules }, { from: { ...alice, trustDomain: 'cluster.local' } }, { trustDomain: 'new' }).allowed).toBe(false)
  })

  test('AUDIT marks, CUSTOM asks, a dry run is told', () => {
    const rules = [operation({ paths: ['/a'] })]
    expect(verdict({ action: 'AUDIT', rules }, { path: '/a' })).toMatchObject({ allowed: true, audit: [{ policy: 'shop/p', rule: 0 }] })
    expect(verdict({ action: 'CUSTOM', provider: { name: 'opa' }, rules }, { path: '/a' })).toMatchObject({ allowed: true, ask: [{ provider: 'shop/opa' }] })
    expect(verdict({ action: 'CUSTOM', provider: { name: 'opa' }, rules }, { path: '/b' })).toMatchObject({ ask: [] })
    for (const name of ['sidestep.dev/dry-run', 'istio.io/dry-run']) {
      expect(verdict({ action: 'DENY', rules }, { path: '/a' }, {}, { annotations: { [name]: 'true' } })).toMatchObject({ allowed: true, dryRun: [{ action: 'deny' }], allowedWithDryRun: false })
    }
  })

  test.each([
    ['an experimental key', when('experimental.envoy.filters.a', 'b')], ['a header that is none', when('request.headers[:path]', '/')],
    ['a claim that is none', when('request.auth.claims[a][]', 'c')], ['an address that is none', when('remote.ip', 'home')],
    ['a template that is none', operation({ paths: ['/{x}'] })], ['a path that cannot be', operation({ paths: ['/a/../b'] })],
  ])('%s closes what the policy is for, whatever its action', (_what, rule) => {
    expect(verdict({ rules: [rule] }, {}).because).toBe('unsupportedPolicy')
    expect(verdict({ action: 'DENY', rules: [rule, operation({ paths: ['/never'] })] }, {}).because).toBe('unsupportedPolicy')
    expect(verdict({ action: 'CUSTOM', provider: { name: 'x' }, rules: [rule] }, {}).allowed).toBe(false)
  })

  test('a provider that is not there closes it, too', () => {
    const policy = object('AuthorizationPolicy', 'shop/p', { spec: { action: 'CUSTOM', provider: { name: 'x' }, rules: [{}] } })
    expect(translateL7(policy, { missing: 'there is none' }, defaultSettings)).toMatchObject({ unsupported: 'there is none', action: 'custom' })
  })
})
