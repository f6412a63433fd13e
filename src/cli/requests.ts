// Who asks whom, how often and with what outcome: read from the Prometheus text of waypoints and ingresses, the difference of two
// looks. Pure.
import type { Series } from './traffic.ts'

/** Requests of one workload to another, so far or within some time. */
export interface RequestEdge {
  /** `namespace/workload`; `outside` for who has no identity in the mesh. */
  readonly from: string
  readonly to: string
  readonly all: number
  /** 401, 403 and 429: a rule or a limit said no. */
  readonly refused: number
  /** 5xx, or no answer. */
  readonly failed: number
}

/** One look at all proxies that answered: pod to what it counted. */
export interface RequestSample {
  readonly atMs: number
  readonly proxies: ReadonlyMap<string, RequestCounts>
}

export interface RequestCounts {
  readonly edges: ReadonlyMap<string, RequestEdge>
  /** Tries after the first. */
  readonly retries: number
}

export function requestCounts(series: readonly Series[]): RequestCounts {
  const edges = new Map<string, { -readonly [K in keyof RequestEdge]: RequestEdge[K] }>()
  let retries = 0
  for (const { name, labels, value } of series) {
    if (name === 'sidestep_upstream_retries_total') retries += value
    if (name !== 'istio_requests_total') continue
    const label = (key: string): string => labels.get(key) ?? 'unknown'
    const isOutside = label('source_workload') === 'unknown' && label('connection_security_policy') !== 'mutual_tls'
    const from = isOutside ? 'outside' : `${label('source_workload_namespace')}/${label('source_workload')}`
    const to = `${label('destination_workload_namespace')}/${label('destination_workload')}`
    const edge = edges.get(`${from} ${to}`) ?? { from, to, all: 0, refused: 0, failed: 0 }
    const code = label('response_code')
    edge.all += value
    if (['401', '403', '429'].includes(code)) edge.refused += value
    else if (code === '0' || code.startsWith('5')) edge.failed += value
    edges.set(`${from} ${to}`, edge)
  }
  return { edges, retries }
}

export interface RequestRates {
  readonly edges: readonly RequestEdge[]
  readonly retries: number
}

/** Per second. A proxy that is new since then counts from zero, and one that began anew, too. */
export function requestRates(before: RequestSample, now: RequestSample): RequestRates {
  const seconds = Math.max(0.001, (now.atMs - before.atMs) / 1_000)
  const edges = new Map<string, RequestEdge>()
  let retries = 0
  for (const [pod, counts] of now.proxies) {
    const known = before.proxies.get(pod)
    const was = known && [...known.edges].every(([key, edge]) => edge.all <= (counts.edges.get(key)?.all ?? 0)) ? known : undefined
    retries += Math.max(0, counts.retries - (was?.retries ?? 0)) / seconds
    for (const [key, edge] of counts.edges) {
      const [sum, old] = [edges.get(key), was?.edges.get(key)]
      const rate = (count: 'all' | 'refused' | 'failed'): number => (sum?.[count] ?? 0) + Math.max(0, edge[count] - (old?.[count] ?? 0)) / seconds
      edges.set(key, { from: edge.from, to: edge.to, all: rate('all'), refused: rate('refused'), failed: rate('failed') })
    }
  }
  return { edges: [...edges.values()].toSorted((a, b) => `${a.from} ${a.to}`.localeCompare(`${b.from} ${b.to}`)), retries }
}

export const requestHead = ['FROM', 'TO', 'REQ/S', 'REFUSED/S', 'FAILED/S'] as const

export function requestRows({ edges }: RequestRates): string[][] {
  const number = (value: number): string => (value === 0 ? '-' : value.toFixed(1))
  return edges.filter(({ all }) => all > 0).map(({ from, to, all, refused, failed }) => [from, to, number(all), number(refused), number(failed)])
}
