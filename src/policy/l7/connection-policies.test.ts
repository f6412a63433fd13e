import fc from 'fast-check'
import { expect, test } from 'vitest'
import { emptyL7Match, type AuthorizationL7, type L7Action, type L7Match } from '../../model/authorization-l7.ts'
import type { StringMatch } from '../../model/authorization.ts'
import type { AuthorizationRequest } from './authorization-facts.ts'
import { L7Authorizer } from './authorization.ts'
import { judgeConnection, looksAtRequests, type ConnectionFacts } from './connection-policies.ts'
import { headOf } from './testing.ts'

const exact = (value: string): StringMatch => ({ kind: 'exact', value })
const match = (parts: Partial<Omit<L7Match, 'l4'>>, l4: Partial<L7Match['l4']> = {}): L7Match => ({ ...emptyL7Match, ...parts, l4: { ...emptyL7Match.l4, ...l4 } })
const policy = (action: L7Action, ...clauses: readonly (readonly L7Match[])[]): AuthorizationL7 =>
  ({ name: action, namespace: 'shop', action, isDryRun: false, rules: [clauses], ...(action === 'custom' && { provider: 'opa' }) })
const facts: ConnectionFacts = {
  connection: { identity: { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'alice' }, sourceIp: '10.1.0.7', destination: { ip: '10.9.0.1', port: 5432 } },
  remoteIp: '10.1.0.7',
}
const judge = (policies: readonly AuthorizationL7[], parts: Partial<ConnectionFacts> = {}): string => {
  const { allowed, because } = judgeConnection(new L7Authorizer(policies), { ...facts, ...parts })
  return `${allowed ? 'yes' : 'no'} ${because}`
}
const get = match({ methods: [exact('GET')] })
const fromShop = match({}, { namespaces: [exact('shop')] })
const fromBank = match({}, { namespaces: [exact('bank')] })

test('an ALLOW that asks about requests permits no connection', () => {
  expect(judge([policy('allow', [fromShop])])).toBe('yes allowPolicy')
  expect(judge([policy('allow', [fromBank])])).toBe('no noAllowMatched')
  expect(judge([policy('allow', [get])])).toBe('no noAllowMatched')
  expect(judge([policy('allow', [fromShop], [get])])).toBe('no noAllowMatched')
  expect(judge([policy('allow', [fromShop], [match({ notPaths: [exact('/admin')] })])])).toBe('no noAllowMatched')
  // Another alternative of the same clause may hold.
  expect(judge([policy('allow', [get, fromShop])])).toBe('yes allowPolicy')
  expect(judge([policy('allow', [match({ requestPrincipals: [{ kind: 'presence' }] })])])).toBe('no noAllowMatched')
})

test('a DENY that asks about requests refuses whom else it names', () => {
  expect(judge([policy('deny', [get])])).toBe('no denyPolicy')
  expect(judge([policy('deny', [fromBank], [get])])).toBe('yes noAllowPolicies')
  expect(judge([policy('deny', [fromShop], [match({ notMethods: [exact('GET')] })])])).toBe('no denyPolicy')
  expect(judge([policy('deny', [match({ methods: [exact('GET')] }, { destinationPorts: [80] })])])).toBe('yes noAllowPolicies')
  expect(judge([policy('deny', [match({ methods: [exact('GET')] }, { destinationPorts: [5432] })])])).toBe('no denyPolicy')
  expect(judge([{ ...policy('deny', [get]), rules: [] }])).toBe('yes noAllowPolicies')
})

test('addresses and the server name are known of connections, too', () => {
  expect(judge([policy('allow', [match({ serverNames: [exact('db.test')] })])], { serverName: 'DB.test' })).toBe('yes allowPolicy')
  expect(judge([policy('allow', [match({ serverNames: [exact('db.test')] })])])).toBe('no noAllowMatched')
  expect(judge([policy('deny', [match({ remoteIps: [{ ip: '203.0.113.0', prefixLength: 24 }] })])], { remoteIp: '203.0.113.9' })).toBe('no denyPolicy')
})

test('who would have to be asked cannot be: refused; what cannot be evaluated stays that', () => {
  expect(judge([policy('custom', [fromShop])])).toBe('no unsupportedPolicy')
  expect(judge([policy('custom', [get])])).toBe('no unsupportedPolicy')
  expect(judge([policy('custom', [fromBank])])).toBe('yes noAllowPolicies')
  expect(judge([policy('deny', [match({ paths: [exact('/a/../b')] }, { namespaces: [exact('bank')] })])])).toBe('no unsupportedPolicy')
  expect([policy('custom', [fromShop]), policy('deny', [get]), policy('allow', [fromShop])].map(looksAtRequests)).toEqual([true, true, false])
})

test('whatever the policies: a connection that may pass could carry no request that may not', () => {
  const strings = fc.subarray(['GET', 'POST', 'shop', 'bank', 'a.test', '/x', '/y'])
  const texts = strings.map((values) => values.map(exact))
  const l7 = fc.record({
    methods: texts, notMethods: texts, paths: texts, notPaths: texts, hosts: texts, notHosts: texts, requestPrincipals: texts, notRequestPrincipals: texts,
    serverNames: texts, notServerNames: texts,
    headers: fc.array(fc.record({ name: fc.constantFrom('x-a', 'x-b'), values: texts, notValues: texts }), { maxLength: 1 }),
    l4: fc.record({ namespaces: texts, notNamespaces: texts }),
  }, { requiredKeys: [] }).map(({ l4, ...parts }) => match(parts as Partial<L7Match>, l4))
  const policies = fc.array(fc.record({
    action: fc.constantFrom<L7Action>('allow', 'deny'), rules: fc.array(fc.array(fc.array(l7, { maxLength: 2 }), { maxLength: 2 }), { maxLength: 2 }),
  }).map(({ action, rules }, ): AuthorizationL7 => ({ name: action, namespace: 'shop', action, isDryRun: false, rules })), { maxLength: 3 })
  const head = fc.record({ method: fc.constantFrom('GET', 'POST', 'PUT'), path: fc.constantFrom('/x', '/y', '/z'), authority: fc.constantFrom('a.test', 'b.test'), a: fc.constantFrom('/x', 'GET') })
  let permitted = 0
  fc.assert(fc.property(policies, fc.array(head, { minLength: 1, maxLength: 6 }), fc.option(fc.constantFrom('a.test', 'c.test'), { nil: undefined }), (some, heads, serverName) => {
    const authorizer = new L7Authorizer(some)
    const of = { ...facts, ...(serverName !== undefined && { serverName }) }
    if (!judgeConnection(authorizer, of).allowed) return
    permitted++
    for (const { path, a, ...parts } of heads) {
      const request: AuthorizationRequest = { ...of, head: headOf(path, { ...parts, headers: [['x-a', a]] }) }
      expect(authorizer.evaluate(request).allowed).toBe(true)
    }
  }), { numRuns: 2_000 })
  expect(permitted).toBeGreaterThan(100)
})
