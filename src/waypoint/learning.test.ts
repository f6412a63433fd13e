import { expect, test } from 'vitest'
import { systemClock } from '../core/clock.ts'
import { LearnedDestinations } from '../member/learned-destinations.ts'
import { WorkloadStore } from '../model/workload-store.ts'
import { HeaderMap } from '../policy/l7/request-head.ts'
import type { ConnectionContext, Target } from './context.ts'
import { coveredTarget } from './covered.ts'
import { learningRecords } from './learning.ts'
import type { ExchangeReason, LiveRecord, RecordFactory } from './record.ts'
import { testRequest } from './telemetry/testing.ts'
import { service, workload } from './testing.ts'

const entry = service('api', '240.0.0.1', { hostname: 'api.example.com' })
const wild = service('wild', '240.0.0.2', { hostname: '*.example.org' })
const inside = service('web', '10.96.0.1')
const machine = workload('api-1', '203.0.113.1', { uid: 'Kubernetes/networking.istio.io/ServiceEntry/shop/api/0', tunnelProtocol: 'none' })
const store = new WorkloadStore()
store.apply({ services: [entry, wild, inside], workloads: [machine] })

/** What a record was told, in order. */
function setUp(): { readonly calls: string[]; readonly learned: LearnedDestinations; readonly records: RecordFactory; readonly made: LiveRecord[] } {
  const calls: string[] = []
  const made: LiveRecord[] = []
  const make = (): LiveRecord => {
    const told = (name: string) => (): void => void calls.push(name)
    const record: LiveRecord = {
      routed: told('routed'), backend: told('backend'), attempt: told('attempt'), because: told('because'), delayed: told('delayed'), policyHit: told('policyHit'),
      follow: told('follow'), answered: told('answered'), finish: told('finish'), traceHeaders: () => [['a', 'b']],
    }
    made.push(record)
    return record
  }
  const learned = new LearnedDestinations({ clock: systemClock })
  const covered = (context: ConnectionContext, host: string | undefined): Target | undefined => coveredTarget({ store, self: undefined, network: '' }, context, host)
  return { calls, learned, made, records: learningRecords({ records: { begin: make, carry: make }, learned, store, covered }) }
}

const context = (target: Target, serverName?: string): ConnectionContext => ({
  target, ...(serverName !== undefined && { serverName }),
  caller: { identity: { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'cart' }, address: { ip: '10.0.0.1', port: 1 }, workload: undefined },
})
const to = (of: typeof entry, port = 80): Target => ({ t: 'service', service: of, port })
const end = { status: 200, requestBytes: 0, responseBytes: 0, isCut: false }
const attempt = { service: entry, workload: undefined, address: '203.0.113.1:80' }
const ask = (target: Target, authority: string): ReturnType<typeof testRequest> => {
  const request = testRequest({ connection: context(target) })
  return { ...request, head: { ...request.head, authority } }
}

test('a request to outside is learned by its Host once it is on its way, once', () => {
  const { calls, learned, records } = setUp()
  const record = records.begin(ask(to(wild), 'A.example.org:80'))
  record.attempt(attempt)
  const expected = { namespace: 'shop', serviceAccount: 'cart', host: 'a.example.org', address: '240.0.0.2', port: 80, protocol: 'http', count: 1, verdict: 'allowed' }
  expect(learned.list()).toMatchObject([expected])
  record.attempt(attempt)
  record.because('upstreamReset')
  record.finish(end)
  expect(learned.list()).toMatchObject([expected])
  expect(calls).toEqual(['attempt', 'attempt', 'because', 'finish'])
})

test('what stays in the mesh, and who has no identity, is not learned, and its record is as it was', () => {
  const { learned, records, made } = setUp()
  const nobody = { ...context(to(entry)), caller: { ...context(to(entry)).caller, identity: undefined } }
  const found = [records.begin(ask(to(inside), 'evil.example.com')), records.carry(context(to(inside), 'evil.example.com')), records.carry(nobody)]
  expect(found).toEqual(made)
  found.forEach((each, i) => expect(each).toBe(made[i]))
  for (const each of found) each.finish(end)
  expect(learned.size).toBe(0)
})

test.each<[reason: ExchangeReason | undefined, host: string, verdict: string]>([
  ['denied', 'api.example.com', 'denied'], ['tokenInvalid', 'api.example.com', 'denied'], ['deniedByProvider', 'api.example.com', 'denied'], ['noRoute', 'api.example.com', 'denied'],
  ['noBackend', 'evil.example.net', 'denied'], ['noBackend', 'api.example.com', 'allowed'], ['overloaded', 'api.example.com', 'allowed'], [undefined, 'api.example.com', 'allowed'],
])('of a request that was not sent because of %s for %s', (reason, host, verdict) => {
  const { learned, records } = setUp()
  const record = records.begin(ask(to(entry), host))
  if (reason !== undefined) record.because(reason)
  record.because('clientGone')
  expect(learned.size).toBe(0)
  record.finish(end)
  expect(learned.list()).toMatchObject([{ host, verdict }])
})

test('connections are learned by server name, else by the name of their entry, else by address', () => {
  const { learned, records } = setUp()
  for (const each of [context(to(entry, 443), 'api.example.com'), context(to(entry, 25)), context(to(wild, 25)), context({ t: 'workload', workload: machine, port: 8080 })]) {
    records.carry(each).attempt(attempt)
  }
  expect(learned.list().map(({ host, address, port, protocol }) => [host, address, port, protocol])).toEqual([
    ['api.example.com', '240.0.0.1', 443, 'tls'], ['api.example.com', '240.0.0.1', 25, 'tcp'], [undefined, '240.0.0.2', 25, 'tcp'], [undefined, '203.0.113.1', 8080, 'tcp'],
  ])
})

test('everything else is passed on', () => {
  const { calls, records } = setUp()
  const record = records.begin(ask(to(entry), 'api.example.com'))
  record.routed(undefined)
  record.backend(undefined)
  record.delayed(1)
  record.policyHit({ policy: 'a/b', rule: 0, as: 'audit' })
  record.follow(() => [0, 0])
  record.answered(200, HeaderMap.of([]))
  expect(record.traceHeaders()).toEqual([['a', 'b']])
  expect(calls).toEqual(['routed', 'backend', 'delayed', 'policyHit', 'follow', 'answered'])
})
