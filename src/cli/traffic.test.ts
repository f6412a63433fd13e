import fc from 'fast-check'
import { Counter, Registry } from 'prom-client'
import { expect, test } from 'vitest'
import { edgesOf, parseMetrics, ratesBetween, trafficRows } from './traffic.ts'
import type { TrafficSample } from './traffic.ts'

test('what prom-client writes is read as it was meant, whatever is in a label', async () => {
  const label = fc.string({ unit: 'binary' })
  await fc.assert(fc.asyncProperty(label, label, fc.nat(), async (a, b, value) => {
    const registry = new Registry()
    new Counter({ name: 'some_total', help: 'with a\nline', labelNames: ['a', 'b'], registers: [registry] }).inc({ a, b }, value)
    expect(parseMetrics(await registry.metrics())).toEqual([{ name: 'some_total', labels: new Map([['a', a], ['b', b]]), value }])
  }), { numRuns: 200 })
})

test('any text is read, in time in proportion to its length', () => {
  fc.assert(fc.property(fc.string(), (text) => void parseMetrics(text)))
  parseMetrics(`a{${'b="c",'.repeat(20_000)}`)
  parseMetrics(`a{b="${'\\'.repeat(100_001)}`)
})

interface Row {
  readonly metric?: string
  readonly reporter: 'source' | 'destination'
  readonly from?: string
  readonly to?: string
  readonly tls?: boolean
  readonly flags?: string
  readonly value: number
}

const text = (rows: readonly Row[]): string => rows.map(({ metric = 'istio_tcp_connections_opened_total', reporter, from = 'shop/web', to = 'shop/pay', tls = true, flags = '-', value }) => {
  const [[ns, name], [toNs, toName]] = [from.split('/'), to.split('/')]
  const labels = { reporter, source_workload: name, source_workload_namespace: ns, destination_workload: toName, destination_workload_namespace: toNs, response_flags: flags, connection_security_policy: tls ? 'mutual_tls' : 'unknown' }
  return `${metric}{${Object.entries(labels).map(([key, value]) => `${key}="${value}"`).join(',')}} ${value}`
}).join('\n')
const sample = (atMs: number, nodes: Readonly<Record<string, readonly Row[]>>): TrafficSample =>
  ({ atMs, nodes: new Map(Object.entries(nodes).map(([node, rows]) => [node, edgesOf(parseMetrics(text(rows)))])) })

test('a connection counts once: at a captured source, else at the destination; a refusal where it was decided', () => {
  const legacy = { from: 'legacy/reporter', tls: false }
  const failed = 'istio_tcp_connections_failed_total'
  const edges = edgesOf(parseMetrics(text([
    { reporter: 'source', value: 5 }, { reporter: 'destination', value: 5 },
    { reporter: 'destination', ...legacy, value: 3 },
    { metric: failed, reporter: 'destination', flags: 'DENY', value: 2 }, { metric: failed, reporter: 'source', flags: 'CONNECT', value: 1 },
    { metric: failed, reporter: 'source', flags: 'DENY', value: 2 },
  ])))
  expect([...edges.values()]).toMatchObject([
    { from: 'shop/web', to: 'shop/pay', isMutualTls: true, opened: 5, refused: 2, failed: 1 },
    { from: 'legacy/reporter', isMutualTls: false, opened: 3, refused: 0 },
  ])
})

test('behind a waypoint the account is who asks, where the pod is not known', () => {
  const line = 'istio_tcp_connections_failed_total{reporter="destination",source_workload="unknown",source_workload_namespace="unknown",source_principal="spiffe://cluster.local/ns/shop/sa/web",destination_workload="pay",destination_workload_namespace="shop",response_flags="DENY",connection_security_policy="mutual_tls"} 3'
  expect([...edgesOf(parseMetrics(line)).values()]).toMatchObject([{ from: 'shop/web', to: 'shop/pay', refused: 3 }])
})

test('rates are per second and over all nodes; a ztunnel that was replaced counts from zero, never backwards', () => {
  const before = sample(1_000, { a: [{ reporter: 'source', value: 100 }], b: [{ reporter: 'source', value: 10 }] })
  const now = sample(3_000, { a: [{ reporter: 'source', value: 120 }], b: [{ reporter: 'source', value: 4 }], c: [{ reporter: 'source', value: 2 }] })
  expect(ratesBetween(before, now)).toMatchObject([{ opened: (20 + 4 + 2) / 2 }])
  expect(trafficRows(ratesBetween(before, now))).toEqual([['shop/web', 'shop/pay', 'mTLS', '13.0', '-', '-', '-', '-']])
  expect(trafficRows(ratesBetween(now, { ...now, atMs: 4_000 }))).toEqual([])
})
