// Counts what the tunnels report. The pool and the server take the function; they know nothing of Prometheus.
import type { HboneEvent, HboneEvents, Side } from '../../hbone/events.ts'
import type { ProxyMetrics } from './metrics.ts'

const reporterOf = (side: Side): 'source' | 'destination' => (side === 'client' ? 'source' : 'destination')

/** One for each process: its metrics are registered once. `onEvent` is told everything, too, for logs. */
export function hboneEvents(metrics: ProxyMetrics, onEvent: HboneEvents = () => {}): HboneEvents {
  const handshakes = metrics.counter('sidestep_hbone_handshakes_total', 'Tunnel connections made', ['side'])
  const failures = metrics.counter('sidestep_hbone_handshake_failures_total', 'Tunnel connections that could not be made, by reason', ['side', 'because'])
  const saved = metrics.counter('sidestep_hbone_handshakes_saved_total', 'Connections that found a tunnel connection there already', ['side'])
  const streams = metrics.counter('sidestep_hbone_streams_total', 'Connections carried in a tunnel', ['side'])
  const refused = metrics.counter('sidestep_hbone_streams_refused_total', 'Connections that a tunnel refused, by reason', ['side', 'because'])
  const retried = metrics.counter('sidestep_hbone_streams_retried_total', 'Connections tried again on another tunnel connection', ['because'])
  const closed = metrics.counter('sidestep_hbone_connections_closed_total', 'Tunnel connections that ended, by reason', ['side', 'because'])
  const floods = metrics.counter('sidestep_hbone_floods_total', 'Tunnel connections ended because their peer misbehaved', ['because'])
  const revoked = metrics.counter('istio_crl_policy_rejections_total', 'Connections refused because the certificate of the peer is revoked', ['reporter'])
  for (const side of ['client', 'server'] as const) {
    for (const each of [handshakes, saved, streams]) each.inc({ side }, 0)
    revoked.inc({ reporter: reporterOf(side) }, 0)
  }

  const count = (event: HboneEvent): void => {
    switch (event.t) {
      case 'handshake':
        handshakes.inc({ side: event.side })
        return metrics.stage('handshake', reporterOf(event.side), event.durationMs / 1000)
      case 'handshakeFailed':
        if (event.because === 'revoked') revoked.inc({ reporter: reporterOf(event.side) })
        return failures.inc({ side: event.side, because: event.because })
      case 'sessionClosed': return closed.inc({ side: event.side, because: event.because })
      case 'streamOpened':
        streams.inc({ side: event.side })
        if (event.isReused) saved.inc({ side: event.side })
        return metrics.stage('tunnel', reporterOf(event.side), event.durationMs / 1000)
      case 'streamRefused': return refused.inc({ side: event.side, because: event.because })
      case 'streamRetried': return retried.inc({ because: event.because })
      case 'flood': return floods.inc({ because: event.because })
      case 'shed': return metrics.shed(event.because)
    }
  }
  return (event) => {
    count(event)
    onEvent(event)
  }
}

/** What HbonePool says of itself. */
export interface PoolView {
  readonly waiting: number
  readonly handshakesInFlight: number
  connections(): readonly { readonly streams: number; readonly state: string }[]
}

/** Depths of pool and queues, read when somebody asks. `serverConnections`: tunnel connections of others to us. */
export function poolMetrics(metrics: ProxyMetrics, pool: PoolView, serverConnections: () => number): void {
  metrics.gauges('sidestep_pool_connections', 'Tunnel connections of the pool, by state', 'state', () => {
    const states: Record<string, number> = { ready: 0, draining: 0 }
    for (const { state } of pool.connections()) states[state] = (states[state] ?? 0) + 1
    return states
  })
  metrics.gauge('sidestep_pool_streams', 'Connections carried in tunnels of the pool', () => pool.connections().reduce((sum, { streams }) => sum + streams, 0))
  metrics.gauge('sidestep_pool_waiting', 'Connections that wait for a tunnel', () => pool.waiting)
  metrics.gauge('sidestep_pool_handshakes_in_flight', 'Tunnel connections being made', () => pool.handshakesInFlight)
  metrics.gauge('sidestep_hbone_server_connections', 'Tunnel connections from others', serverConnections)
}
