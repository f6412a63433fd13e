// Who talks to whom, how fast and how: read from the ztunnels' Prometheus text, the difference of two looks. Pure.
import { bytesText } from './output.ts'

/** One number of Prometheus' text format. */
export interface Series {
  readonly name: string
  readonly labels: ReadonlyMap<string, string>
  readonly value: number
}

const escapes: Readonly<Record<string, string>> = { n: '\n', '"': '"', '\\': '\\' }
const seriesPattern = /^([a-zA-Z_:][\w:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})? (\S+)/
const labelPattern = /(\w+)="((?:[^"\\]|\\.)*)"/g

/** Lines that are no series are left out, and so are values that are no numbers. */
export function parseMetrics(text: string): Series[] {
  return text.split('\n').flatMap((line) => {
    const [, name, labels = '', value] = seriesPattern.exec(line) ?? []
    if (name === undefined || Number.isNaN(Number(value))) return []
    const found = new Map([...labels.matchAll(labelPattern)].map(([, key = '', each = '']) => [key, each.replace(/\\(.)/g, (_, letter: string) => escapes[letter] ?? letter)]))
    return [{ name, labels: found, value: Number(value) }]
  })
}

/** What passed between two workloads, so far or within some time. */
export interface Edge {
  /** `namespace/workload`. */
  readonly from: string
  readonly to: string
  readonly isMutualTls: boolean
  readonly opened: number
  /** Not made for another reason than policy. */
  readonly failed: number
  readonly refused: number
  readonly bytesFromSource: number
  readonly bytesFromDestination: number
}
type Count = 'opened' | 'failed' | 'refused' | 'bytesFromSource' | 'bytesFromDestination'
const counts: readonly Count[] = ['opened', 'failed', 'refused', 'bytesFromSource', 'bytesFromDestination']

/**
 * Of one ztunnel. Each connection counts once in the mesh: at its source where that is captured, else at its destination; what a
 * policy refused counts where it was decided.
 */
export function edgesOf(series: readonly Series[]): Map<string, Edge> {
  const edges = new Map<string, { -readonly [K in keyof Edge]: Edge[K] }>()
  for (const { name, labels, value } of series) {
    const label = (key: string): string => labels.get(key) ?? 'unknown'
    const count = countOf(name, label)
    if (!count) continue
    const from = label('source_workload') === 'unknown' ? accountOf(label('source_principal')) : `${label('source_workload_namespace')}/${label('source_workload')}`
    const to = `${label('destination_workload_namespace')}/${label('destination_workload')}`
    const isMutualTls = label('connection_security_policy') === 'mutual_tls'
    const key = `${from} ${to} ${isMutualTls}`
    const edge = edges.get(key) ?? { from, to, isMutualTls, opened: 0, failed: 0, refused: 0, bytesFromSource: 0, bytesFromDestination: 0 }
    edge[count] += value
    edges.set(key, edge)
  }
  return edges
}

/** Behind a waypoint it is known for whom it asks, and not which of its pods that is: `namespace/account`. */
function accountOf(principal: string): string {
  const [, namespace, account] = /\/ns\/([^/]+)\/sa\/([^/]+)$/.exec(principal) ?? []
  return namespace === undefined ? 'unknown/unknown' : `${namespace}/${account}`
}

function countOf(name: string, label: (key: string) => string): Count | undefined {
  const isSource = label('reporter') === 'source'
  const isMutualTls = label('connection_security_policy') === 'mutual_tls'
  if (name === 'istio_tcp_connections_failed_total') {
    if (label('response_flags') === 'DENY') return isSource ? undefined : 'refused'
    return isSource ? 'failed' : undefined
  }
  if (!isSource && isMutualTls) return undefined
  switch (name) {
    case 'istio_tcp_connections_opened_total': return 'opened'
    case 'istio_tcp_received_bytes_total': return 'bytesFromSource'
    case 'istio_tcp_sent_bytes_total': return 'bytesFromDestination'
    default: return undefined
  }
}

/** One look at all ztunnels that answered: node to its edges. */
export interface TrafficSample {
  readonly atMs: number
  readonly nodes: ReadonlyMap<string, ReadonlyMap<string, Edge>>
}

/** What passed between two looks, per second. A ztunnel that is new since then counts from zero. */
export function ratesBetween(before: TrafficSample, now: TrafficSample): Edge[] {
  const seconds = Math.max(0.001, (now.atMs - before.atMs) / 1_000)
  const rates = new Map<string, Edge>()
  for (const [node, edges] of now.nodes) {
    const known = before.nodes.get(node)
    const isNew = known === undefined || [...edges].some(([key, edge]) => edge.opened < (known.get(key)?.opened ?? 0))
    for (const [key, edge] of edges) {
      const was = isNew ? undefined : known.get(key)
      const sum = rates.get(key)
      const rate = (count: Count): number => (sum?.[count] ?? 0) + Math.max(0, edge[count] - (was?.[count] ?? 0)) / seconds
      const [opened = 0, failed = 0, refused = 0, bytesFromSource = 0, bytesFromDestination = 0] = counts.map(rate)
      rates.set(key, { ...edge, opened, failed, refused, bytesFromSource, bytesFromDestination })
    }
  }
  return [...rates.values()].toSorted((a, b) => `${a.from} ${a.to}`.localeCompare(`${b.from} ${b.to}`))
}

/** Title and cells for a table; edges without anything to tell are left out. */
export const trafficHead = ['FROM', 'TO', 'ON THE WIRE', 'CONN/S', 'SENT', 'RECEIVED', 'REFUSED/S', 'FAILED/S'] as const

export function trafficRows(rates: readonly Edge[]): string[][] {
  const number = (value: number): string => (value === 0 ? '-' : value.toFixed(1))
  const bytes = (value: number): string => (value === 0 ? '-' : `${bytesText(Math.round(value))}/s`)
  return rates.filter((edge) => counts.some((count) => edge[count] > 0)).map((edge) => [
    edge.from, edge.to, edge.isMutualTls ? 'mTLS' : 'plain text', number(edge.opened), bytes(edge.bytesFromSource), bytes(edge.bytesFromDestination),
    edge.refused > 0 ? `${number(edge.refused)} by policy` : '-', number(edge.failed),
  ])
}
