import { expect, test } from 'vitest'
import fc from 'fast-check'
import { MeshError } from '../../core/errors.ts'
import type { Logger } from '../../core/log.ts'
import { silentLogger } from '../../core/log.ts'
import { ConnectionRecord, recordFailure } from './connection-record.ts'
import type { ConnectionFacts } from './connection-record.ts'
import { trafficLabelNames, trafficLabels } from '../../member/telemetry/labels.ts'
import { LogLevels } from '../../member/log-levels.ts'
import { logText, textLogger } from '../../member/telemetry/log-text.ts'
import { ZtunnelMetrics } from './metrics.ts'

const facts: ConnectionFacts = {
  reporter: 'source', direction: 'outbound', isMutualTls: true,
  source: { identity: { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'web' } }, destination: {},
  service: { namespace: 'shop', name: 'db', hostname: 'db.shop.svc.cluster.local' },
  sourceAddr: { ip: '10.0.0.1', port: 40_000 }, destinationAddr: { ip: 'fd00::2', port: 5_432 }, hboneAddr: { ip: 'fd00::2', port: 15_008 },
}
const toService = (name: string) => trafficLabels({ ...facts, responseFlags: '-', service: { namespace: 'n', name, hostname: `${name}.n` } })

async function value(metrics: ZtunnelMetrics, name: string): Promise<number> {
  const found = await metrics.registry.getSingleMetric(name)?.get()
  return found?.values.reduce((sum, each) => sum + each.value, 0) ?? 0
}

/** Keeps what was logged. */
function recording(): { logger: Logger; lines: object[] } {
  const lines: object[] = []
  const keep = (level: string) => (fields: object | string, message?: string): void => void lines.push({ level, message, ...(fields as object) })
  return { lines, logger: { ...silentLogger, debug: keep('debug'), info: keep('info'), warn: keep('warn'), error: keep('error') } }
}

test('labels are Istio\'s, all of them, and unknown where nothing is known', () => {
  const labels = trafficLabels({ ...facts, responseFlags: '-' })
  expect(Object.keys(labels).toSorted()).toEqual([...trafficLabelNames].toSorted())
  expect(labels).toMatchObject({
    source_principal: 'spiffe://cluster.local/ns/shop/sa/web', destination_service: 'db.shop.svc.cluster.local', destination_workload: 'unknown',
    connection_security_policy: 'mutual_tls', request_protocol: 'tcp', response_flags: '-',
  })
})

test('labels are computed once for the same two, and anew for whatever differs', () => {
  const web = { name: 'web-1', namespace: 'shop', workloadName: 'web', canonicalName: 'web', canonicalRevision: 'v1', clusterId: 'c' }
  const of = (change: Partial<Parameters<typeof trafficLabels>[0]> = {}) => trafficLabels({ ...facts, source: { workload: web }, responseFlags: '-', ...change })
  expect(of()).toBe(of())
  expect(of({ source: { workload: { ...web, canonicalRevision: 'v2' } } })).toMatchObject({ source_version: 'v2' })
  expect(of({ source: { workload: web, identity: facts.source.identity } })).toMatchObject({ source_principal: 'spiffe://cluster.local/ns/shop/sa/web' })
  expect(of({ source: {}, destination: { workload: web } })).toMatchObject({ source_workload: 'unknown', destination_workload: 'web' })
  expect(of({ reporter: 'destination' })).toMatchObject({ reporter: 'destination', source_version: 'v1' })
  expect(of({ responseFlags: 'DENY' })).toMatchObject({ response_flags: 'DENY' })
  expect(of({ isMutualTls: false })).toMatchObject({ connection_security_policy: 'unknown' })
  expect(of({ service: undefined })).toMatchObject({ destination_service: 'unknown' })
  for (let i = 0; i < 5_000; i++) expect(toService(`s${i}`)).toMatchObject({ destination_service_name: `s${i}` })
  expect(of()).toMatchObject({ source_version: 'v1', response_flags: '-', connection_security_policy: 'mutual_tls' })
})

test('a record is finished exactly once, in log and metrics alike', async () => {
  const metrics = new ZtunnelMetrics()
  const { logger, lines } = recording()
  let nowMs = 1_000
  {
    using record = new ConnectionRecord({ ...facts, verdict: { because: 'allowPolicy', policy: 'shop/web', rule: 1 } }, metrics, logger, () => nowMs)
    nowMs += 250
    record.finish({ bytesFromSource: 10, bytesFromDestination: 20, because: 'finished', rttUs: 44, retransmits: 2 })
    record.finish({ bytesFromSource: 99, bytesFromDestination: 99, because: 'finished' })
  }
  expect(lines).toEqual([{
    level: 'info', message: 'connection complete', direction: 'outbound', 'src.addr': '10.0.0.1:40000', 'src.identity': 'spiffe://cluster.local/ns/shop/sa/web',
    'dst.addr': '[fd00::2]:5432', 'dst.hbone_addr': '[fd00::2]:15008', 'dst.service': 'db.shop.svc.cluster.local', bytes_sent: 10, bytes_recv: 20,
    duration: '250ms', verdict: 'allowed', reason: 'finished', allowed_because: 'allowPolicy', policy: 'shop/web', rule: 1, rtt: '44us', retransmits: 2,
  }])
  // Sent and received as Istio means them.
  expect(await value(metrics, 'istio_tcp_received_bytes_total')).toBe(10)
  expect(await value(metrics, 'istio_tcp_sent_bytes_total')).toBe(20)
  expect([await value(metrics, 'istio_tcp_connections_opened_total'), await value(metrics, 'istio_tcp_connections_closed_total')]).toEqual([1, 1])
})

test('bytes of a connection count while it lasts, and once', async () => {
  const metrics = new ZtunnelMetrics()
  const { logger, lines } = recording()
  let bytes: [number, number] = [5, 7]
  {
    using record = new ConnectionRecord(facts, metrics, logger)
    record.follow(() => bytes)
    expect(await value(metrics, 'istio_tcp_received_bytes_total')).toBe(5)
    expect(await value(metrics, 'istio_tcp_sockets_open')).toBe(1)
    bytes = [8, 70]
    expect(await metrics.registry.metrics()).toMatch(/istio_tcp_sent_bytes_total\{[^}]*\} 70\n/)
  }
  expect(lines).toEqual([expect.objectContaining({ reason: 'closedByDrain', bytes_sent: 8, bytes_recv: 70 })])
  expect([await value(metrics, 'istio_tcp_received_bytes_total'), await value(metrics, 'istio_tcp_sent_bytes_total')]).toEqual([8, 70])
  expect(await value(metrics, 'istio_tcp_sockets_open')).toBe(0)
})

test('a refusal is a warning that names the rule', async () => {
  const metrics = new ZtunnelMetrics()
  const { logger, lines } = recording()
  const dryRun = [{ policy: 'shop/try', rule: 0, action: 'deny' }]
  recordFailure(facts, new MeshError('POLICY_DENIED', 'no', { detail: { because: 'denyPolicy', policy: 'shop/closed', rule: 3, dryRun } }), metrics, logger, 1.4)
  recordFailure(facts, new MeshError('CONNECT_REFUSED', 'ECONNREFUSED\nsrc.addr=forged'), metrics, logger, 2)
  recordFailure(facts, new TypeError('oops'), metrics, logger, 3)
  expect(lines).toEqual([
    expect.objectContaining({
      level: 'warn', message: 'connection refused', verdict: 'denied', reason: 'denyPolicy', policy: 'shop/closed', rule: 3, duration: '1ms', code: 'POLICY_DENIED',
      dry_run: 'deny shop/try rule 0',
    }),
    expect.objectContaining({ level: 'warn', message: 'connection failed', verdict: 'failed', reason: 'CONNECT_REFUSED', error: expect.stringContaining('ECONNREFUSED\\u000asrc.addr') as string }),
    expect.objectContaining({ level: 'warn', reason: 'unexpected' }),
  ])
  const text = await metrics.registry.metrics()
  expect(text).toMatch(/istio_tcp_connections_failed_total\{[^}]*response_flags="DENY"[^}]*\} 1/)
  expect(text).toContain('sidestep_refusals_total{because="denyPolicy"} 1')
  expect(text).toContain('sidestep_policy_dry_run_total{policy="shop/try",action="deny"} 1')
  expect(text).not.toMatch(/istio_tcp_connections_opened_total\{/)
})

test('label sets are bounded: what is beyond is counted under other', async () => {
  const metrics = new ZtunnelMetrics({ maxLabelSets: 3 })
  for (let i = 0; i < 10; i++) metrics.opened(toService(`s${i}`))
  const text = await metrics.registry.metrics()
  expect(text.match(/^istio_tcp_connections_opened_total\{/gm)).toHaveLength(4)
  expect(text).toMatch(/istio_tcp_connections_opened_total\{[^}]*destination_service="other"[^}]*\} 7/)
  expect(await value(metrics, 'sidestep_metrics_folded_total')).toBe(7)
})

test('label sets that nothing uses any more make room, and those in use do not', async () => {
  let nowMs = 0
  const metrics = new ZtunnelMetrics({ maxLabelSets: 3, now: () => nowMs })
  metrics.opened(toService('open'))
  metrics.opened(toService('old')).closed(1, 1)
  nowMs = 700_000
  metrics.opened(toService('recent')).closed(1, 1)
  metrics.opened(toService('new'))
  metrics.opened(toService('one-too-many'))
  const services = (await metrics.registry.metrics()).match(/^istio_tcp_connections_opened_total\{.*$/gm)?.map((line) => /destination_service="([^"]*)"/.exec(line)?.[1])
  expect(services?.toSorted()).toEqual(['new.n', 'open.n', 'other', 'recent.n'])
})

test('reasons are bounded as well', async () => {
  const metrics = new ZtunnelMetrics()
  for (let i = 0; i < 1_000; i++) metrics.refused(`reason ${i}`)
  const text = await metrics.registry.metrics()
  expect(text.match(/^sidestep_refusals_total\{/gm)).toHaveLength(201)
  expect(text).toContain('sidestep_refusals_total{because="other"} 800')
})

test('whatever a peer calls itself, a line of the log stays one line that nobody forged', () => {
  fc.assert(fc.property(fc.string({ unit: 'binary', maxLength: 2_000 }), (name) => {
    const lines: string[] = []
    textLogger((line) => lines.push(line), () => 0).child({ component: name }).info({ 'src.workload': logText(name), raw: name, 'src.addr': '10.0.0.1:1' }, 'connection complete')
    expect(lines).toHaveLength(1)
    // oxlint-disable-next-line no-control-regex
    expect(lines[0]?.trimEnd()).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202e]/)
    expect(lines[0]).toMatch(/^1970-01-01T00:00:00\.000Z info connection complete component=/)
    // Outside of quotes there is only one source.
    expect(lines[0]?.replace(/"(\\.|[^"\\])*"/g, '').match(/src\.addr=/g)).toHaveLength(1)
    expect(lines[0]?.length).toBeLessThan(4 * 6 * 520)
  }))
})

test('each component has a level of its own', () => {
  const { logger, lines } = recording()
  const sink: Logger = { ...logger, child: (bindings) => ({ ...logger, info: (fields: object | string) => void lines.push({ ...bindings, ...(fields as object) }) }) }
  const levels = new LogLevels(sink, 'warn')
  const xds = levels.logger.child({ component: 'xds' })
  levels.logger.info({ n: 1 }, 'quiet')
  xds.info({ n: 2 }, 'quiet')
  expect(levels.set('xds', 'debug')).toBe(true)
  expect(levels.set('nobody', 'debug')).toBe(false)
  levels.logger.info({ n: 3 }, 'still quiet')
  xds.info({ n: 4 }, 'heard')
  expect(levels.levels()).toEqual({ default: 'warn', xds: 'debug' })
  levels.set(undefined, 'error')
  levels.logger.warn({ n: 5 }, 'quiet')
  expect(lines).toEqual([{ component: 'xds', n: 4 }])
})
