// Metrics of the parts around the connections: discovery, certificates, DNS, pods, hooks, log. Each function registers its
// metrics once and hands back what the part calls; Istio's names where Istio has one.
import { MeshError } from '../../core/errors.ts'
import type { CertificateAuthorityClient, CertificateState } from '../../pki/certificates.ts'
import type { XdsClientOptions, XdsState } from '../../xds/client-options.ts'
import { typeUrls } from '../../xds/resource-types.ts'
import type { ZtunnelMetrics } from './metrics.ts'

/** For XdsClientOptions. */
export function xdsMetrics(metrics: ZtunnelMetrics): Required<Pick<XdsClientOptions, 'onState' | 'onResponse'>> {
  const terminations = metrics.counter('istio_xds_connection_terminations_total', 'Ends of the stream to the control plane, by reason', ['reason'])
  const messages = metrics.counter('istio_xds_message_total', 'Messages of the control plane', ['url'])
  const bytes = metrics.counter('istio_xds_message_bytes_total', 'Bytes of those messages', ['url'])
  const rejected = metrics.counter('sidestep_xds_rejected_total', 'Resources of the control plane that were refused', ['url'])
  for (const reason of ['ConnectionError', 'Error', 'Complete']) terminations.inc({ reason }, 0)
  for (const url of Object.values(typeUrls)) for (const each of [messages, bytes, rejected]) each.inc({ url }, 0)
  let state: XdsState = { t: 'idle' }
  metrics.gauge('sidestep_xds_connected', '1 while the stream to the control plane is there and both types were answered on it', () => (state.t === 'ready' ? 1 : 0))
  return {
    onState(next) {
      if (next.t === 'waiting') {
        const hadStream = state.t === 'ready' || state.t === 'syncing'
        // `because` starts with the gRPC status.
        terminations.inc({ reason: !hadStream ? 'ConnectionError' : /^OK\b/.test(next.because) ? 'Complete' : 'Error' })
      }
      state = next
    },
    onResponse({ type, bytes: size, rejected: refused }) {
      const url = typeUrls[type]
      messages.inc({ url })
      bytes.inc({ url }, size)
      rejected.inc({ url }, refused)
    },
  }
}

/** What CertificateManager says of itself. */
export interface CertificateStates {
  states(): readonly { readonly state: CertificateState }[]
  load(): { readonly queued: number; readonly running: number }
}

export function certificateMetrics(metrics: ZtunnelMetrics, certificates: CertificateStates): void {
  metrics.gauges('sidestep_certificates', 'Identities on this node, by the state of their certificate', 'state', () => {
    const states: Record<string, number> = { waiting: 0, fetching: 0, ready: 0, failed: 0 }
    for (const { state } of certificates.states()) states[state.t] = (states[state.t] ?? 0) + 1
    return states
  })
  metrics.gauge('sidestep_certificates_soonest_expiry_timestamp_seconds', 'When the first certificate expires, in seconds since 1970; 0 without certificates', () => {
    const expiries = certificates.states().flatMap(({ state }) => state.current?.notAfterMs ?? [])
    return expiries.length === 0 ? 0 : expiries.reduce((soonest, each) => Math.min(soonest, each)) / 1000
  })
  metrics.gauges('sidestep_certificate_requests', 'Certificate requests, by whether they wait or run', 'state', () => ({ ...certificates.load() }))
}

/** The CA as it is, counted. */
export function countedAuthority(metrics: ZtunnelMetrics, ca: CertificateAuthorityClient): CertificateAuthorityClient {
  const requests = metrics.counter('sidestep_certificate_requests_total', 'Certificates asked of the CA, by result: ok, or the code of the failure', ['result'])
  requests.inc({ result: 'ok' }, 0)
  return {
    async request(request) {
      try {
        const chain = await ca.request(request)
        requests.inc({ result: 'ok' })
        return chain
      } catch (error) {
        requests.inc({ result: error instanceof MeshError ? error.code : 'unexpected' })
        throw error
      }
    },
  }
}

/** Called for each DNS query of a pod and each time one is sent on. */
export interface DnsCounters {
  request(protocol: 'udp' | 'tcp'): void
  /** `answered` from the mesh, `forwarded`, or `dropped`. */
  result(result: 'answered' | 'forwarded' | 'dropped'): void
  upstreamRequest(): void
  upstreamFailed(): void
  upstreamAnswered(seconds: number): void
}

export function dnsMetrics(metrics: ZtunnelMetrics): DnsCounters {
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

export function podMetrics(metrics: ZtunnelMetrics, counts: { readonly active: () => number; readonly pending: () => number }): PodCounters {
  metrics.gauge('workload_manager_active_proxy_count', 'Pods that are captured', counts.active)
  metrics.gauge('workload_manager_pending_proxy_count', 'Pods that are being captured', counts.pending)
  const started = metrics.counter('workload_manager_proxies_started_total', 'Captures begun', [])
  const stopped = metrics.counter('workload_manager_proxies_stopped_total', 'Captures ended', [])
  return { started: () => started.inc({}), stopped: () => stopped.inc({}) }
}

/** The counters of the eBPF programs, by name. They outlive the process and never go back, but read as a gauge. */
export function hookMetrics(metrics: ZtunnelMetrics, read: () => Readonly<Record<string, number>>): void {
  metrics.gauges('sidestep_hook_events', 'What the hooks in the kernel did and refused, since they were loaded', 'event', read)
}

/** `limit` and how much of it is used. */
export function limitMetrics(metrics: ZtunnelMetrics, limit: { readonly open: number; readonly limit: number }): void {
  metrics.gauge('sidestep_connections_open', 'Connections that are carried', () => limit.open)
  metrics.gauge('sidestep_connections_limit', 'Connections that may be carried at once', () => limit.limit)
}

/** Returns what to call for lines of the log that could not be written in time. */
export function logMetrics(metrics: ZtunnelMetrics): (lines: number) => void {
  const dropped = metrics.counter('sidestep_log_lines_dropped_total', 'Lines of the log that nobody took in time', [])
  dropped.inc({}, 0)
  return (lines) => dropped.inc({}, lines)
}
