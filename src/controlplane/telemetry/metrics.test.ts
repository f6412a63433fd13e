// The metrics of a control plane: under their names, with the numbers of the moment, and without labels from outside.
import { expect, test } from 'vitest'
import { ControlPlaneMetrics } from './metrics.ts'

test('counts what happened and reads the rest when asked', async () => {
  const metrics = new ControlPlaneMetrics()
  let nodes = 1
  const zero = (): number => 0
  metrics.watch({
    nodes: () => nodes, gatewayPods: () => 6, connections: zero, behind: zero, nacked: () => 2, nackedResponses: () => 3, workloads: zero, services: zero, policies: zero,
    objectsRefused: () => 4, podsConnected: () => 1, leads: () => 1, caExpirySeconds: () => 2e9, servingExpirySeconds: zero, roots: () => 2,
  })
  metrics.pushed({ type: 'address', resources: 3, removed: 1, bytes: 100 })
  metrics.streamRefused('unauthenticated')
  metrics.certificate('signed')
  metrics.certificate('notAllowed')
  metrics.handshakeError()
  metrics.translated(5)
  nodes = 7
  const text = await metrics.registry.metrics()
  for (const line of [
    'sidestep_controlplane_connected_nodes 7', 'sidestep_controlplane_connected_gateway_pods 6', 'sidestep_controlplane_resources_nacked 2', 'sidestep_controlplane_nacked_responses 3',
    'sidestep_controlplane_objects_refused 4', 'sidestep_ca_expiry_timestamp_seconds 2000000000', 'sidestep_ca_roots 2',
    'sidestep_xds_pushed_resources_total{type="address"} 4', 'sidestep_xds_pushed_bytes_total{type="address"} 100',
    'sidestep_xds_refused_streams_total{because="unauthenticated"} 1', 'sidestep_ca_requests_total{outcome="signed"} 1',
    'sidestep_ca_requests_total{outcome="notAllowed"} 1', 'sidestep_controlplane_handshake_errors_total 1',
    'sidestep_controlplane_translate_seconds_bucket{le="0.005"} 1',
  ]) expect(text.split('\n')).toContain(line)
})
