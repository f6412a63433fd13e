// What Prometheus gets, of every part at once, held against the text formats' own rules (Prometheus 0.0.4 and OpenMetrics 1.0):
// a scrape that breaks one of them loses everything.
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { MeshError } from '../../core/errors.ts'
import { silentLogger } from '../../core/log.ts'
import type { HboneEvent } from '../../hbone/events.ts'
import type { CertificateState } from '../../pki/certificates.ts'
import { certificateMetrics, countedAuthority, limitMetrics, logMetrics, xdsMetrics } from '../../member/telemetry/component-metrics.ts'
import { dnsMetrics, hookMetrics, podMetrics } from './pod-metrics.ts'
import { ConnectionRecord } from './connection-record.ts'
import { exposition, prefersOpenMetrics } from '../../member/telemetry/exposition.ts'
import { metricFamilies } from '../../member/telemetry/testing.ts'
import { ZtunnelMetrics } from './metrics.ts'
import { processMetrics } from '../../member/telemetry/process-metrics.ts'
import { openSpans } from './spans.ts'
import { hboneEvents, poolMetrics } from '../../member/telemetry/tunnel-metrics.ts'

let metrics: ZtunnelMetrics
let stop = (): void => {}
beforeEach(() => {
  metrics = new ZtunnelMetrics()
})
afterEach(() => stop())

const peer = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'web' }
const text = async (): Promise<string> => (await exposition(metrics, undefined)).text
const value = async (series: string): Promise<number | undefined> => {
  const line = (await text()).split('\n').find((each) => each.startsWith(`${series} `))
  return line === undefined ? undefined : Number(line.slice(series.length + 1))
}

/** Everything there is, each with something in it. */
function registerAll(): void {
  stop = processMetrics(metrics, 'ztunnel', '0.1.0 "beta"\\\n')
  const events: HboneEvent[] = [
    { t: 'handshake', side: 'client', peer, durationMs: 2 }, { t: 'handshakeFailed', side: 'server', because: 'revoked', detail: 'x', remote: 'y' },
    { t: 'sessionClosed', side: 'client', peer, because: 'idle' }, { t: 'streamOpened', side: 'client', isReused: true, durationMs: 1 },
    { t: 'streamRefused', side: 'server', because: 'denied' }, { t: 'streamRetried', because: 'goaway' }, { t: 'flood', because: 'ping', peer }, { t: 'shed', side: 'server', because: 'handshakes' },
  ]
  const count = hboneEvents(metrics)
  for (const event of events) count(event)
  poolMetrics(metrics, { waiting: 1, handshakesInFlight: 2, connections: () => [{ streams: 3, state: 'ready' }, { streams: 1, state: 'draining' }] }, () => 4)
  xdsMetrics(metrics).onResponse({ type: 'address', bytes: 100, rejected: 1 })
  certificateMetrics(metrics, { states: () => [], load: () => ({ queued: 1, running: 2 }) })
  const dns = dnsMetrics(metrics)
  dns.request('udp')
  dns.upstreamAnswered(0.01)
  podMetrics(metrics, { active: () => 3, pending: () => 1 }).started()
  hookMetrics(metrics, () => ({ redirected: 5 }))
  limitMetrics(metrics, { open: 1, limit: 2 })
  logMetrics(metrics)(2)
  metrics.egress('shop', 'egressAudited')
  metrics.watchLearned(() => 2)
  metrics.retried('CONNECT_REFUSED')
  metrics.stage('firstByte', 'source', 0.2)
  new ConnectionRecord({
    reporter: 'source', direction: 'outbound', isMutualTls: false, source: {}, destination: {},
    service: { namespace: 'a"b', name: 'c\\d', hostname: 'e\nf' }, sourceAddr: { ip: '::1', port: 1 }, destinationAddr: { ip: '::1', port: 2 },
  }, metrics, silentLogger).finish({ bytesFromSource: 1, bytesFromDestination: 2, because: 'finished' })
}

test('both forms keep to their rules, and have the same families', async () => {
  registerAll()
  const plain = metricFamilies(await text(), 'plain')
  const open = (await exposition(metrics, 'application/openmetrics-text')).text
  expect(open.endsWith('\n# EOF\n')).toBe(true)
  expect(open).not.toContain('\n\n')
  // prom-client has gauges that end so as well.
  const withoutTotal = (families: readonly string[]): string[] => families.map((family) => family.replace(/_total$/, ''))
  expect(withoutTotal(metricFamilies(open, 'open'))).toEqual(withoutTotal(plain))
  expect(plain).toEqual(expect.arrayContaining([
    'istio_tcp_connections_opened_total', 'istio_tcp_sent_bytes_total', 'istio_tcp_sockets_open', 'istio_build', 'istio_xds_message_total', 'istio_dns_requests_total',
    'workload_manager_active_proxy_count', 'process_open_fds', 'process_max_fds', 'process_resident_memory_bytes', 'sidestep_event_loop_delay_seconds',
  ]))
})

test('every metric of ours is in docs/observability.md', async () => {
  registerAll()
  const spans = await openSpans({ endpoint: 'http://127.0.0.1:9', node: 'n', version: '1', metrics, logger: silentLogger })
  const documentation = readFileSync(new URL('../../../docs/observability.md', import.meta.url), 'utf8')
  const documented = new Set(documentation.match(/`[a-z_]+`/g))
  const names = [...(await text()).matchAll(/^# TYPE (\S+) /gm)].flatMap(([, name = '']) => (/^(nodejs|process)_/.test(name) ? [] : [name]))
  expect(names.length).toBeGreaterThan(40)
  expect(names.filter((name) => !documented.has(`\`${name}\``))).toEqual([])
  await spans.close()
})

test('tunnels: handshakes, what pooling saved, and depths', async () => {
  registerAll()
  expect(await value('sidestep_hbone_handshakes_total{side="client"}')).toBe(1)
  expect(await value('sidestep_hbone_handshakes_saved_total{side="client"}')).toBe(1)
  expect(await value('sidestep_hbone_handshakes_saved_total{side="server"}')).toBe(0)
  expect(await value('istio_crl_policy_rejections_total{reporter="destination"}')).toBe(1)
  expect(await value('sidestep_shed_total{because="handshakes"}')).toBe(1)
  expect(await value('sidestep_connection_stage_seconds_count{stage="handshake",reporter="source"}')).toBe(1)
  expect(await value('sidestep_pool_connections{state="draining"}')).toBe(1)
  expect(await value('sidestep_pool_streams')).toBe(4)
})

test('discovery: ends of the stream by their reason', async () => {
  const { onState, onResponse } = xdsMetrics(metrics)
  onState({ t: 'connecting', attempt: 1 })
  onState({ t: 'waiting', attempt: 1, delayMs: 1, because: 'no connection' })
  onState({ t: 'syncing', missing: [] })
  onState({ t: 'waiting', attempt: 1, delayMs: 1, because: 'UNAVAILABLE: gone' })
  onState({ t: 'ready', sinceMs: 0 })
  expect(await value('sidestep_xds_connected')).toBe(1)
  onState({ t: 'waiting', attempt: 1, delayMs: 1, because: 'OK' })
  for (const reason of ['ConnectionError', 'Error', 'Complete']) expect(await value(`istio_xds_connection_terminations_total{reason="${reason}"}`), reason).toBe(1)
  expect(await value('sidestep_xds_connected')).toBe(0)
  onResponse({ type: 'authorization', bytes: 70, rejected: 0 })
  expect(await value('istio_xds_message_bytes_total{url="type.googleapis.com/istio.security.Authorization"}')).toBe(70)
})

test('certificates: states, the first expiry, and what the CA answers', async () => {
  const current = { identity: peer, notAfterMs: 5_000 } as never
  const states: { state: CertificateState }[] = [
    { state: { t: 'ready', current, renewAtMs: 1 } }, { state: { t: 'failed', because: 'no', attempts: 1, retryAtMs: 1 } }, { state: { t: 'fetching', sinceMs: 1 } },
  ]
  certificateMetrics(metrics, { states: () => states, load: () => ({ queued: 0, running: 1 }) })
  expect(await value('sidestep_certificates{state="failed"}')).toBe(1)
  expect(await value('sidestep_certificates_soonest_expiry_timestamp_seconds')).toBe(5)
  states.length = 0
  expect(await value('sidestep_certificates_soonest_expiry_timestamp_seconds')).toBe(0)
  expect(await value('sidestep_certificates{state="ready"}')).toBe(0)
  const authority = countedAuthority(metrics, { request: ({ ttlSeconds }) => (ttlSeconds === 1 ? Promise.resolve(['pem']) : Promise.reject(new MeshError('CERTIFICATE_REFUSED', 'no'))) })
  expect(await authority.request({ identity: peer, csrPem: '', ttlSeconds: 1 })).toEqual(['pem'])
  await expect(authority.request({ identity: peer, csrPem: '', ttlSeconds: 2 })).rejects.toThrow('no')
  expect([await value('sidestep_certificate_requests_total{result="ok"}'), await value('sidestep_certificate_requests_total{result="CERTIFICATE_REFUSED"}')]).toEqual([1, 1])
})

test('a blocked event loop shows', async () => {
  stop = processMetrics(metrics, 'ztunnel', '0.1.0')
  const isLate = async (): Promise<boolean> => {
    const all = await value('sidestep_event_loop_delay_seconds_count')
    const soon = await value('sidestep_event_loop_delay_seconds_bucket{le="0.1"}')
    return (all ?? 0) > (soon ?? 0)
  }
  await sleep(100)
  const until = performance.now() + 300
  while (performance.now() < until) { /* busy on purpose */ }
  await expect.poll(isLate, { timeout: 10_000 }).toBe(true)
})

test.each([
  ['', false], ['*/*', false], ['text/plain', false], ['application/openmetrics-text', true], ['application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1', true],
  ['application/openmetrics-text;q=0.2,text/plain;q=0.9', false], ['application/openmetrics-text;q=0', false], ['application/openmetrics-text;q=x', false],
])('Accept %j', (accept, expected) => {
  expect(prefersOpenMetrics(accept)).toBe(expected)
})
