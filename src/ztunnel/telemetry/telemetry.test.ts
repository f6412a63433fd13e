import { expect, test } from 'vitest'
import type { Logger } from '../../core/log.ts'
import { silentLogger } from '../../core/log.ts'
import { ConnectionRecord } from './connection-record.ts'
import type { ConnectionFacts } from './connection-record.ts'
import { trafficLabelNames, trafficLabels } from './labels.ts'
import { ZtunnelMetrics } from './metrics.ts'

const facts: ConnectionFacts = {
  reporter: 'source', direction: 'outbound', isMutualTls: true,
  source: { identity: { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'web' } }, destination: {},
  service: { namespace: 'shop', name: 'db', hostname: 'db.shop.svc.cluster.local' },
  sourceAddr: { ip: '10.0.0.1', port: 40_000 }, destinationAddr: { ip: 'fd00::2', port: 5_432 }, hboneAddr: { ip: 'fd00::2', port: 15_008 },
}

async function value(metrics: ZtunnelMetrics, name: string): Promise<number> {
  const found = await metrics.registry.getSingleMetric(name)?.get()
  return found?.values.reduce((sum, each) => sum + each.value, 0) ?? 0
}

/** Keeps what was logged. */
function recording(): { logger: Logger; lines: object[] } {
  const lines: object[] = []
  return { lines, logger: { ...silentLogger, info: (fields: object | string) => void lines.push(fields as object) } }
}

test('labels are Istio\'s, all of them, and unknown where nothing is known', () => {
  const labels = trafficLabels({ ...facts, responseFlags: '-' })
  expect(Object.keys(labels).toSorted()).toEqual([...trafficLabelNames].toSorted())
  expect(labels).toMatchObject({
    source_principal: 'spiffe://cluster.local/ns/shop/sa/web', destination_service: 'db.shop.svc.cluster.local', destination_workload: 'unknown',
    connection_security_policy: 'mutual_tls', request_protocol: 'tcp', response_flags: '-',
  })
})

test('a record is finished exactly once, in log and metrics alike', async () => {
  const metrics = new ZtunnelMetrics()
  const { logger, lines } = recording()
  let nowMs = 1_000
  {
    using record = new ConnectionRecord(facts, metrics, logger, () => nowMs)
    nowMs += 250
    record.finish({ bytesFromSource: 10, bytesFromDestination: 20, because: 'finished', rttUs: 44 })
    record.finish({ bytesFromSource: 99, bytesFromDestination: 99, because: 'finished' })
  }
  expect(lines).toEqual([expect.objectContaining({
    'src.addr': '10.0.0.1:40000', 'dst.addr': '[fd00::2]:5432', 'dst.hboneAddr': '[fd00::2]:15008', 'dst.service': 'db.shop.svc.cluster.local',
    direction: 'outbound', bytesSent: 10, bytesRecv: 20, durationMs: 250, because: 'finished', rttUs: 44,
  })])
  // Sent and received as Istio means them.
  expect(await value(metrics, 'istio_tcp_received_bytes_total')).toBe(10)
  expect(await value(metrics, 'istio_tcp_sent_bytes_total')).toBe(20)
  expect([await value(metrics, 'istio_tcp_connections_opened_total'), await value(metrics, 'istio_tcp_connections_closed_total')]).toEqual([1, 1])
})

test('a record that nobody finished is finished by its scope', () => {
  const { logger, lines } = recording()
  {
    using record = new ConnectionRecord(facts, new ZtunnelMetrics(), logger)
    expect(record).toBeDefined()
  }
  expect(lines).toEqual([expect.objectContaining({ because: 'closedByDrain' })])
})

test('label sets are bounded: what is beyond is counted under other', async () => {
  const metrics = new ZtunnelMetrics(3)
  for (let i = 0; i < 10; i++) metrics.opened(trafficLabels({ ...facts, responseFlags: '-', service: { namespace: 'n', name: `s${i}`, hostname: `s${i}.n` } }))
  const text = await metrics.registry.metrics()
  expect(text.match(/^istio_tcp_connections_opened_total\{/gm)).toHaveLength(4)
  expect(text).toMatch(/istio_tcp_connections_opened_total\{[^}]*destination_service="other"[^}]*\} 7/)
  expect(await value(metrics, 'sidestep_metrics_folded_total')).toBe(7)
})

test('failures carry their reason', async () => {
  const metrics = new ZtunnelMetrics()
  metrics.failed(trafficLabels({ ...facts, responseFlags: 'DENY' }), 'policyDenied')
  metrics.stage('connect', 'source', 0.002)
  metrics.gauge('sidestep_pool_sessions', 'Sessions in the pool', () => 5)
  const text = await metrics.registry.metrics()
  expect(text).toContain('sidestep_refusals_total{because="policyDenied"} 1')
  expect(text).toContain('sidestep_connection_stage_seconds_bucket{le="0.0025",stage="connect",reporter="source"} 1')
  expect(text).toContain('sidestep_pool_sessions 5')
})
