import { expect, test } from 'vitest'
import { requestCounts, requestRates, requestRows, type RequestSample } from './requests.ts'
import { parseMetrics } from './traffic.ts'

interface Row {
  readonly from?: string
  readonly to?: string
  readonly code?: string
  readonly tls?: string
  readonly value: number
}
const text = (rows: readonly Row[], retries = 0): string => [
  ...rows.map(({ from = 'shop/web', to = 'shop/pay', code = '200', tls = 'mutual_tls', value }) => {
    const [[ns, name], [toNs, toName]] = [from.split('/'), to.split('/')]
    return `istio_requests_total{reporter="waypoint",source_workload="${name}",source_workload_namespace="${ns}",destination_workload="${toName}",destination_workload_namespace="${toNs}",response_code="${code}",connection_security_policy="${tls}"} ${value}`
  }),
  `sidestep_upstream_retries_total{destination_service="shop/pay",because="response"} ${retries}`,
].join('\n')
const sample = (atMs: number, pods: Readonly<Record<string, string>>): RequestSample =>
  ({ atMs, proxies: new Map(Object.entries(pods).map(([pod, metrics]) => [pod, requestCounts(parseMetrics(metrics))])) })

test('outcomes are told apart, and who is outside', () => {
  const { edges, retries } = requestCounts(parseMetrics(text([
    { value: 5 }, { code: '403', value: 2 }, { code: '429', value: 1 }, { code: '503', value: 3 }, { code: '0', value: 1 }, { code: '404', value: 4 },
    { from: 'unknown/unknown', tls: 'none', value: 7 },
  ], 9)))
  expect([...edges.values()]).toEqual([
    { from: 'shop/web', to: 'shop/pay', all: 16, refused: 3, failed: 4 }, { from: 'outside', to: 'shop/pay', all: 7, refused: 0, failed: 0 },
  ])
  expect(retries).toBe(9)
})

test('rates are per second and over all replicas; one that is new counts from zero, never backwards', () => {
  const before = sample(1_000, { a: text([{ value: 100 }], 10), b: text([{ value: 50 }], 4) })
  const now = sample(3_000, { a: text([{ value: 120 }, { code: '403', value: 2 }], 14), b: text([{ value: 6 }], 2), c: text([{ value: 2 }]) })
  expect(requestRates(before, now)).toEqual({ edges: [{ from: 'shop/web', to: 'shop/pay', all: (22 + 6 + 2) / 2, refused: 1, failed: 0 }], retries: (4 + 2) / 2 })
  expect(requestRows(requestRates(before, now))).toEqual([['shop/web', 'shop/pay', '15.0', '1.0', '-']])
  expect(requestRows(requestRates(now, { ...now, atMs: 5_000 }))).toEqual([])
})
