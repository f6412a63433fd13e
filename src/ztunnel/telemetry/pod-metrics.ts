// Metrics of what only a ztunnel has: DNS, pods, hooks. Each function registers its metrics once and hands back what the part
// calls; Istio's names where Istio has one.
import type { ProxyMetrics } from '../../member/telemetry/metrics.ts'

/** Called for each DNS query of a pod and each time one is sent on. */
export interface DnsCounters {
  request(protocol: 'udp' | 'tcp'): void
  /** `answered` from the mesh, `forwarded`, or `dropped`. */
  result(result: 'answered' | 'forwarded' | 'dropped'): void
  upstreamRequest(): void
  upstreamFailed(): void
  upstreamAnswered(seconds: number): void
}

export function dnsMetrics(metrics: ProxyMetrics): DnsCounters {
  const requests = metrics.counter('istio_dns_requests_total', 'DNS queries of pods', ['request_protocol'])
  const results = metrics.counter('sidestep_dns_results_total', 'DNS queries, by what became of them', ['result'])
  const upstream = metrics.counter('istio_dns_upstream_requests_total', 'DNS queries sent on to the server that the pod asked', [])
  const failures = metrics.counter('istio_dns_upstream_failures_total', 'DNS queries sent on and not answered', [])
  const seconds = metrics.histogram('istio_dns_upstream_request_duration_seconds', 'Time until the server answered', [])
  for (const protocol of ['udp', 'tcp']) requests.inc({ request_protocol: protocol }, 0)
  for (const result of ['answered', 'forwarded', 'dropped']) results.inc({ result }, 0)
  return {
    request: (protocol) => requests.inc({ request_protocol: protocol }),
    result: (result) => results.inc({ result }),
    upstreamRequest: () => upstream.inc({}),
    upstreamFailed: () => failures.inc({}),
    upstreamAnswered: (duration) => seconds.observe(duration),
  }
}

export interface PodCounters {
  started(): void
  stopped(): void
}

export function podMetrics(metrics: ProxyMetrics, counts: { readonly active: () => number; readonly pending: () => number }): PodCounters {
  metrics.gauge('workload_manager_active_proxy_count', 'Pods that are captured', counts.active)
  metrics.gauge('workload_manager_pending_proxy_count', 'Pods that are being captured', counts.pending)
  const started = metrics.counter('workload_manager_proxies_started_total', 'Captures begun', [])
  const stopped = metrics.counter('workload_manager_proxies_stopped_total', 'Captures ended', [])
  return { started: () => started.inc({}), stopped: () => stopped.inc({}) }
}

/** The counters of the eBPF programs, by name. They outlive the process and never go back, but read as a gauge. */
export function hookMetrics(metrics: ProxyMetrics, read: () => Readonly<Record<string, number>>): void {
  metrics.gauges('sidestep_hook_events', 'What the hooks in the kernel did and refused, since they were loaded', 'event', read)
}
