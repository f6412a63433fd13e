// Metrics of the parts around the connections: discovery, certificates, limits, log. Each function registers its
// metrics once and hands back what the part calls; Istio's names where Istio has one.
import { MeshError } from '../../core/errors.ts'
import type { CertificateAuthorityClient, CertificateState } from '../../pki/certificates.ts'
import type { XdsClientOptions, XdsState } from '../../xds/client-options.ts'
import { typeUrls } from '../../xds/resource-types.ts'
import type { ProxyMetrics } from './metrics.ts'

/** For XdsClientOptions. */
export function xdsMetrics(metrics: ProxyMetrics): Required<Pick<XdsClientOptions, 'onState' | 'onResponse'>> {
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

export function certificateMetrics(metrics: ProxyMetrics, certificates: CertificateStates): void {
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
export function countedAuthority(metrics: ProxyMetrics, ca: CertificateAuthorityClient): CertificateAuthorityClient {
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

/** `limit` and how much of it is used. */
export function limitMetrics(metrics: ProxyMetrics, limit: { readonly open: number; readonly limit: number }): void {
  metrics.gauge('sidestep_connections_open', 'Connections that are carried', () => limit.open)
  metrics.gauge('sidestep_connections_limit', 'Connections that may be carried at once', () => limit.limit)
}

/** Returns what to call for lines of the log that could not be written in time. */
export function logMetrics(metrics: ProxyMetrics): (lines: number) => void {
  const dropped = metrics.counter('sidestep_log_lines_dropped_total', 'Lines of the log that nobody took in time', [])
  dropped.inc({}, 0)
  return (lines) => dropped.inc({}, lines)
}
