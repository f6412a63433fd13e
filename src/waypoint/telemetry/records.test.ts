// From an exchange to what people see of it: the metrics as a scraper gets them over HTTP, and the line of the log.
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { beforeEach, describe, expect, test } from 'vitest'
import { exposition } from '../../member/telemetry/exposition.ts'
import { metricFamilies } from '../../member/telemetry/testing.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import { testService, testWorkload } from '../../policy/test-fixtures.ts'
import type { ExchangeEnd, ExchangeReason, RecordFactory } from '../record.ts'
import { openAccessLog } from './access-log/access-log.ts'
import { passingTracer } from './exchange-spans.ts'
import { WaypointMetrics } from './metrics.ts'
import { recordFactory } from './records.ts'
import { db, HandClock, service, testContext, testRequest } from './testing.ts'

let metrics: WaypointMetrics
let clock: HandClock
let lines: Record<string, unknown>[]
let records: RecordFactory

function start(maxLabelSets?: number): void {
  clock = new HandClock()
  metrics = new WaypointMetrics({ now: clock.monotonicMs, ...(maxLabelSets !== undefined && { maxLabelSets }) })
  lines = []
  const accessLog = openAccessLog({ format: 'json', filter: 'all', sample: 1 }, (line) => lines.push(JSON.parse(line) as Record<string, unknown>))
  records = recordFactory({ metrics, clock, accessLog, tracer: passingTracer })
}
beforeEach(() => start())

const end = (parts: Partial<ExchangeEnd> = {}): ExchangeEnd => ({ status: 200, requestBytes: 0, responseBytes: 10, isCut: false, ...parts })

/** As a scraper asks for them. */
async function scrape(accept?: string): Promise<string> {
  const server = createServer((request, response) => void exposition(metrics, request.headers.accept).then(({ type, text }) => response.setHeader('content-type', type).end(text)))
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve))
  try {
    const answer = await fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}/metrics`, { headers: accept === undefined ? {} : { accept } })
    return await answer.text()
  } finally {
    server.close()
  }
}

/** Series of a metric: labels to value. */
async function series(name: string): Promise<(readonly [labels: Record<string, string>, value: number])[]> {
  return [...(await scrape()).matchAll(new RegExp(`^${name}(?:\\{(.*)\\})? (\\S+)$`, 'gm'))].map(([, labels = '', value]) => [
    Object.fromEntries([...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key = '', text = '']) => [key, text])), Number(value),
  ] as const)
}

describe('requests', () => {
  test('are counted once, with all of Istio\'s labels, however often they were tried', async () => {
    const record = records.begin(testRequest({ path: '/items', query: 'a=1', fields: [['user-agent', 'curl/8 (x; y)'], ['x-request-id', 'r-1']] }))
    expect((await series('sidestep_requests_in_flight'))[0]?.[1]).toBe(1)
    record.routed({ origin: 'HTTPRoute shop/db', name: 'rule 0' })
    record.backend(service)
    record.attempt({ service, workload: testWorkload('db-0'), address: '10.0.0.9:80' })
    record.attempt({ service, workload: db, address: '10.0.0.2:80' })
    clock.ms = 7
    record.answered(200, HeaderMap.of([]))
    clock.ms = 9
    record.finish(end({ requestBytes: 120 }))
    record.finish(end({ status: 500 }))
    expect(await series('istio_requests_total')).toEqual([[{
      reporter: 'waypoint', source_workload: 'web', source_workload_namespace: 'shop', source_principal: 'spiffe://cluster.local/ns/shop/sa/web', source_app: 'web',
      source_version: 'v1', source_cluster: 'c', source_canonical_service: 'web', source_canonical_revision: 'v1', destination_service: 'db.shop.svc.cluster.local',
      destination_service_name: 'db', destination_service_namespace: 'shop', destination_workload: 'db', destination_workload_namespace: 'shop',
      destination_principal: 'spiffe://cluster.local/ns/shop/sa/db', destination_app: 'db', destination_version: 'v2', destination_cluster: 'c',
      destination_canonical_service: 'db', destination_canonical_revision: 'v2', request_protocol: 'http', response_code: '200', grpc_response_status: '',
      response_flags: '-', connection_security_policy: 'mutual_tls',
    }, 1]])
    expect((await series('istio_request_duration_milliseconds_bucket')).map(([{ le }, value]) => [le, value]).filter(([le]) => le === '5' || le === '10' || le === '+Inf'))
      .toEqual([['5', 0], ['10', 1], ['+Inf', 1]])
    expect([(await series('istio_request_duration_milliseconds_sum'))[0]?.[1], (await series('istio_request_bytes_sum'))[0]?.[1], (await series('istio_response_bytes_count'))[0]?.[1]])
      .toEqual([9, 120, 1])
    expect((await series('sidestep_requests_in_flight'))[0]?.[1]).toBe(0)
    expect(lines).toEqual([expect.objectContaining({
      start_time: '2026-11-21T12:00:00.000Z', method: 'GET', path: '/items?a=1', protocol: 'HTTP/1.1', authority: 'db.shop', response_code: 200, response_flags: '-',
      response_code_details: 'via_upstream', bytes_received: 120, bytes_sent: 10, duration: 9, upstream_service_time: 7, attempts: 2, user_agent: 'curl/8 (x; y)',
      request_id: 'r-1', upstream_host: '10.0.0.2:80', upstream_cluster: 'outbound|80||db.shop.svc.cluster.local', downstream_remote_address: '10.0.0.1:40000',
      route_name: 'HTTPRoute shop/db rule 0', 'src.workload': 'web-1', 'src.identity': 'spiffe://cluster.local/ns/shop/sa/web', 'dst.workload': 'db-1',
    })])
  })

  test.each<[ExchangeReason, string]>([
    ['noRoute', 'NR'], ['noHealthyBackend', 'UH'], ['connectFailure', 'UF'], ['upstreamReset', 'UC'], ['upstreamTimeout', 'UT'], ['rateLimited', 'RL'], ['faultAbort', 'FI'],
    ['breakerOpen', 'UO'], ['deniedByProvider', 'UAEX'], ['clientGone', 'DC'], ['fromCache', 'RFCF'], ['denied', '-'], ['redirected', '-'],
  ])('say why they were not answered by a backend: %s is %s', async (reason, flag) => {
    const record = records.begin(testRequest())
    record.because(reason, 'the first counts')
    record.because('internal')
    record.finish(end({ status: 503 }))
    expect((await series('istio_requests_total'))[0]?.[0]).toMatchObject({ response_flags: flag, destination_service_name: 'db', destination_workload: 'unknown' })
    expect(await series('sidestep_exchanges_ended_total')).toEqual([[{ because: reason }, 1]])
    expect(lines[0]).toMatchObject({ response_flags: flag, response_code_details: `${reason}{the first counts}` })
  })

  test('flags add up: a delay, retries at their end, an answer cut off', async () => {
    const delayed = records.begin(testRequest())
    delayed.delayed(100)
    delayed.attempt({ service, workload: db, address: '10.0.0.2:80' })
    delayed.attempt({ service, workload: db, address: '10.0.0.2:80' })
    delayed.because('connectFailure')
    delayed.finish(end({ status: 503 }))
    records.begin(testRequest()).finish(end({ isCut: true }))
    expect((await series('istio_requests_total')).map(([{ response_flags: flags }]) => flags)).toEqual(['UF,URX,DI', 'DC'])
    expect(await series('sidestep_faults_injected_total')).toEqual([[{ kind: 'delay' }, 1]])
  })

  test('of gRPC have its status and count its messages', async () => {
    const record = records.begin(testRequest({ isGrpc: true, protocol: 'http2' }))
    record.finish(end({ grpcStatus: 14, requestMessages: 3, responseMessages: 1 }))
    records.begin(testRequest()).finish(end())
    expect(await series('istio_request_messages_total')).toEqual([[expect.objectContaining({ grpc_response_status: '14', request_protocol: 'grpc', response_code: '200' }), 3]])
    expect((await series('istio_response_messages_total')).map(([, value]) => value)).toEqual([1])
    expect(await series('istio_requests_total')).toHaveLength(2)
    expect(lines[0]).toMatchObject({ grpc_status: 14, protocol: 'HTTP/2' })
  })

  test('of strangers through a gateway are from unknown, and nobody\'s certificate is claimed', async () => {
    const caller = { identity: undefined, workload: undefined, address: { ip: '203.0.113.9', port: 1 } }
    const record = records.begin(testRequest({ connection: testContext({ caller }) }))
    record.attempt({ service, workload: { ...db, tunnelProtocol: 'none' }, address: '10.0.0.2:80' })
    record.finish(end())
    expect((await series('istio_requests_total'))[0]?.[0]).toMatchObject({
      source_workload: 'unknown', source_principal: 'unknown', destination_principal: 'unknown', destination_workload: 'db', connection_security_policy: 'none',
    })
  })

  test('policies that only watch are counted and named', async () => {
    const record = records.begin(testRequest())
    for (let i = 0; i < 100; i++) record.policyHit({ policy: 'shop/watch', rule: i, as: 'audit' })
    record.policyHit({ policy: 'shop/later', rule: 0, as: 'dryRun' })
    record.finish(end())
    expect(await series('sidestep_policy_hits_total')).toEqual([[{ policy: 'shop/watch', as: 'audit' }, 100], [{ policy: 'shop/later', as: 'dryRun' }, 1]])
    expect(lines[0]?.['audit']).toMatch(/^shop\/watch rule 0, shop\/watch rule 1/)
  })
})

describe('connections', () => {
  test('count while they last, with a waypoint as reporter', async () => {
    let bytes: [number, number] = [0, 0]
    const record = records.carry(testContext())
    record.attempt({ service, workload: db, address: '10.0.0.2:80' })
    record.follow(() => bytes)
    bytes = [5, 7]
    expect(await series('istio_tcp_received_bytes_total')).toEqual([[expect.objectContaining({ reporter: 'waypoint', destination_workload: 'db', request_protocol: 'tcp' }), 5]])
    expect(await series('istio_tcp_sockets_open')).toEqual([[{ reporter: 'waypoint' }, 1]])
    record.finish(end({ status: 0, requestBytes: 6, responseBytes: 8 }))
    expect((await series('istio_tcp_sent_bytes_total'))[0]?.[1]).toBe(8)
    expect((await series('istio_tcp_connections_closed_total'))[0]?.[1]).toBe(1)
    expect(await series('istio_requests_total')).toEqual([])
    expect(lines[0]).not.toHaveProperty('response_code')
    expect(lines[0]).toMatchObject({ bytes_received: 6, bytes_sent: 8, response_flags: '-' })
  })

  test('that were not made are failures', async () => {
    const record = records.carry(testContext())
    record.because('denied', 'shop/deny')
    record.finish(end({ status: 0, responseBytes: 0, isCut: true }))
    const other = records.carry(testContext())
    other.attempt({ service, workload: db, address: '10.0.0.2:80' })
    other.because('connectFailure')
    other.finish(end({ status: 0, responseBytes: 0, isCut: true }))
    expect(await series('istio_tcp_connections_opened_total')).toEqual([])
    expect((await series('istio_tcp_connections_failed_total')).map(([{ response_flags: flags }]) => flags)).toEqual(['-', 'UF'])
    expect(lines[1]).toMatchObject({ connection_termination_details: 'connectFailure', response_flags: 'UF' })
  })
})

test('the number of series is bounded, and what nothing has used makes room', async () => {
  start(10)
  const ask = (name: string): void => {
    const record = records.begin(testRequest())
    record.backend(testService(name, { name }))
    record.finish(end())
  }
  for (let i = 0; i < 1_000; i++) ask(`s${i}`)
  expect(await series('istio_requests_total')).toHaveLength(11)
  expect((await series('istio_requests_total')).filter(([{ destination_service: name }]) => name === 'other'))
    .toEqual([[expect.objectContaining({ response_code: '2xx', reporter: 'waypoint' }), 990]])
  expect(await series('sidestep_requests_folded_total')).toEqual([[{}, 990]])
  clock.ms += 600_001
  ask('new')
  const names = (await series('istio_requests_total')).map(([{ destination_service_name: name }]) => name)
  expect(names).toContain('new')
  expect(names).toHaveLength(11)
})

test('an object that changes without another name stays one series', async () => {
  for (let i = 0; i < 3; i++) {
    const record = records.begin(testRequest())
    record.attempt({ service: { ...service }, workload: { ...db, capacity: i + 1 }, address: '10.0.0.2:80' })
    record.finish(end())
  }
  expect((await series('istio_requests_total')).map(([, value]) => value)).toEqual([3])
})

function everything(): void {
  const cluster = { service: 'shop/db', port: 80 }
  for (const event of [
    { t: 'ejected', cluster, endpoint: '10.0.0.2:80', because: 'consecutiveErrors', forMs: 1 }, { t: 'readmitted', cluster, endpoint: '10.0.0.2:80' },
    { t: 'health', cluster, endpoint: '10.0.0.2:80', isHealthy: false }, { t: 'breaker', cluster, because: 'requests' }, { t: 'failFast', cluster, isOn: true },
    { t: 'failFast', cluster, isOn: false }, { t: 'connected', cluster, durationMs: 3 }, { t: 'connectFailed', cluster, because: 'CONNECT_REFUSED' },
    { t: 'mirrored', cluster, because: 'shed' },
  ] as const) metrics.upstreamEvents(event)
  metrics.watchUpstream(() => [{ ...cluster, active: 3, pending: 2, connections: 4, usable: 1, ejected: 1, isFailingFast: true }])
  metrics.watch({ httpConnections: () => 1, chains: () => 2, cacheEntries: () => 3, cacheBytes: () => 4, learnedDestinations: () => 5 })
  metrics.unread({ status: 400, because: 'badFraming' })
  metrics.cache('hit')
  metrics.rateLimit('RateLimitPolicy shop/a"b\\c\nd', 'refused')
  metrics.limitStore('failed')
  metrics.keysFetched('failed')
  metrics.providerAsked('opa', 'refused')
}

test('saturation and dependencies, in both forms of the text', async () => {
  everything()
  const record = records.begin(testRequest())
  record.because('noRoute')
  record.finish(end({ status: 404 }))
  const cluster = { destination_service: 'shop/db', port: '80' }
  expect(await series('sidestep_upstream_breaker_trips_total')).toEqual([[{ ...cluster, because: 'requests' }, 1]])
  expect(await series('sidestep_upstream_mode_changes_total')).toEqual([[{ ...cluster, mode: 'failFast' }, 1]])
  expect(await series('sidestep_upstream_requests_pending')).toEqual([[{ ...cluster, subset: '' }, 2]])
  expect(await series('sidestep_upstream_failing_fast')).toEqual([[{ ...cluster, subset: '' }, 1]])
  expect(await series('sidestep_requests_refused_total')).toEqual([[{ because: 'badFraming' }, 1]])
  const families = metricFamilies(await scrape(), 'plain')
  expect(metricFamilies(await scrape('application/openmetrics-text'), 'open').length).toBe(families.length)
})

test('every metric is in docs/observability.md', async () => {
  everything()
  const documented = new Set(readFileSync(new URL('../../../docs/observability.md', import.meta.url), 'utf8').match(/`[a-z_]+`/g))
  expect(metricFamilies(await scrape(), 'plain').filter((name) => !documented.has(`\`${name}\``))).toEqual([])
})

