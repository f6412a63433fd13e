// The examples of docs/policy.md do what the page says of them.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import type { ManifestObject } from '../../model/manifest.ts'
import { parseManifest } from '../../model/manifest-parse.ts'
import { PolicyIndex } from '../../model/policy-index.ts'
import { egressVerdict } from '../../policy/egress.ts'
import { L7Authorizer } from '../../policy/l7/authorization.ts'
import { headOf } from '../../policy/l7/testing.ts'
import { Rbac, type Verdict } from '../../policy/rbac.ts'
import { make } from './routes/testing.ts'
import { defaultSettings } from './settings.ts'
import { Translator } from './translator.ts'

const page = readFileSync(new URL('../../../docs/policy.md', import.meta.url), 'utf8')
const examples = new Map([...page.matchAll(/^```yaml\n# example: (\S+)\n(.*?)^```$/gms)].map(([, name = '', text = '']) => [name, text]))

function load(name: string) {
  const { objects, problems, notes } = parseManifest(examples.get(name) ?? '', 'policy.md')
  expect([objects.length, problems, notes]).toEqual([1, [], []])
  const translator = new Translator(defaultSettings)
  for (const object of objects) translator.put(object)
  for (const app of ['payments', 'catalogue']) {
    translator.putPod({
      uid: app, namespace: 'shop', name: app, node: 'n', ips: ['10.0.0.1'], ready: true, labels: { app }, serviceAccount: app, isCaptured: true, isHostNetwork: false, ports: [],
    })
  }
  translator.flush()
  const index = new PolicyIndex()
  for (const policy of translator.policies.values()) index.upsert(policy)
  const rbac = new Rbac(index)
  const workload = (app: string) => {
    const found = translator.workloads.get(`Kubernetes//Pod/shop/${app}`)
    if (!found) throw new Error(`${app} is not there`)
    return found
  }
  /** `from` is NAMESPACE/ACCOUNT, or nothing for plaintext. */
  const verdict = (from: string | undefined, app: string, port: number): Verdict => {
    const [namespace = '', serviceAccount = ''] = from?.split('/') ?? []
    return rbac.evaluate(workload(app), {
      ...(from === undefined ? {} : { identity: { trustDomain: 'cluster.local', namespace, serviceAccount } }),
      sourceIp: '10.0.0.9', destination: { ip: '10.0.0.1', port },
    })
  }
  return { translator, workload, verdict, remarks: [...translator.remarks.values()] }
}

describe('docs/policy.md', () => {
  test('has these examples and no other', () => {
    expect([...examples.keys()]).toEqual(['payments', 'no-writes', 'try-it', 'only-frontend-pays', 'customers', 'opa', 'strict', 'egress', 'partner'])
    expect(page.match(/```yaml/g)).toHaveLength(examples.size)
  })

  test('payments: one account, one port, one workload', () => {
    const { verdict } = load('payments')
    expect([
      verdict('shop/frontend', 'payments', 8080), verdict('shop/frontend', 'payments', 22), verdict('shop/catalogue', 'payments', 8080),
      verdict('guest/frontend', 'payments', 8080), verdict(undefined, 'payments', 8080), verdict('guest/x', 'catalogue', 8080),
    ].map(({ allowed }) => allowed)).toEqual([true, false, false, false, false, true])
  })

  test('no-writes: what a ztunnel cannot see makes it stricter, and the object says so', () => {
    const { verdict, remarks } = load('no-writes')
    expect(['guest/x', 'shop/frontend'].map((from) => verdict(from, 'payments', 8080).allowed)).toEqual([false, true])
    expect(remarks).toMatchObject([{ problems: [], notes: [expect.stringContaining('methods')] }])
  })

  test('try-it: decides nothing, and tells what it would have', () => {
    expect(load('try-it').verdict('guest/x', 'payments', 8080)).toMatchObject({ allowed: true, allowedWithDryRun: false, dryRun: [{ policy: 'shop/try-it', action: 'deny' }] })
  })

  /** What the waypoint of the shop is told of payments. */
  const told = (name: string, ...others: readonly ManifestObject[]) => {
    const { translator } = load(name)
    for (const each of [
      ...others, make('Gateway', 'shop/w', { gatewayClassName: 'sidestep-waypoint', listeners: [{ name: 'mesh', port: 15008, protocol: 'HBONE' }] }),
      make('Service', 'shop/payments', { ports: [{ port: 80 }] }, { labels: { 'sidestep.dev/use-waypoint': 'w' } }), make('Service', 'shop/opa', { ports: [{ port: 9191 }] }),
    ]) translator.put(each)
    translator.flush()
    translator.flushWaypoints()
    expect([...translator.remarks]).toEqual([])
    const found = translator.waypoints.get('shop/w/security/shop/payments.shop.svc.cluster.local')
    return { translator, security: found?.kind === 'security' ? found.security : undefined }
  }

  test('only-frontend-pays: others may read and not write, and no ztunnel minds', () => {
    const { translator, security } = told('only-frontend-pays')
    const authorizer = new L7Authorizer(security?.policies ?? [])
    const allows = (serviceAccount: string, method: string, path: string): boolean => authorizer.evaluate({
      head: headOf(path, { method }), remoteIp: '10.0.0.9',
      connection: { identity: { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount }, sourceIp: '10.0.0.9', destination: { ip: '10.96.0.1', port: 80 } },
    }).allowed
    expect([allows('frontend', 'POST', '/payments'), allows('cart', 'POST', '/payments'), allows('cart', 'POST', '/payments/7'), allows('cart', 'GET', '/payments'), allows('cart', 'POST', '/other')])
      .toEqual([true, false, false, true, true])
    expect(translator.policies.has('shop/only-frontend-pays')).toBe(false)
  })

  test('customers: the issuer is believed at payments', () => {
    expect(told('customers').security?.jwtRules.map(({ issuer, audiences }) => [issuer, audiences])).toEqual([['https://login.example.com', ['payments']]])
  })

  test('opa: is told with the policy that names it, and closed unless it answers', () => {
    const { translator, security } = told('opa', make('AuthorizationPolicy', 'shop/ask', { targetRefs: [{ kind: 'Service', name: 'payments' }], action: 'CUSTOM', provider: { name: 'opa' }, rules: [{}] }))
    expect(security?.policies[0]?.provider).toBe('shop/opa')
    expect(translator.waypoints.get('shop/w/provider/shop/opa')).toMatchObject({ provider: { service: 'shop/opa.shop.svc.cluster.local', timeoutMs: 1000, isFailOpen: false, statusOnError: 403 } })
  })

  test('strict: no plaintext but on the metrics port, under the name that the page tells', () => {
    const { verdict, workload } = load('strict')
    expect([verdict(undefined, 'payments', 8080), verdict(undefined, 'payments', 9090), verdict('a/b', 'payments', 8080), verdict(undefined, 'catalogue', 8080)]
      .map(({ allowed }) => allowed)).toEqual([false, true, true, true])
    expect(workload('payments').policies).toEqual(['shop/converted_peer_authentication_payments'])
  })

  test('egress: nothing leaves the namespace', () => {
    expect(egressVerdict(load('egress').workload('payments'))).toEqual({ allowed: false, because: 'egressDenied' })
  })
  test('partner: two hosts at one address, behind the waypoint that the entry names', () => {
    const { translator } = load('partner')
    expect([...translator.services.values()].map(({ hostname, addresses, waypoint }) => [hostname, addresses[0]?.ip, waypoint !== undefined]))
      .toEqual([['api.partner.com', '240.0.0.1', true], ['*.eu.partner.com', '240.0.0.1', true]])
  })
})
