// What to wake somebody for, as Prometheus' rules. Each says what it is and what to do. A test compares every metric named here with
// those that the processes have.
import type { Json } from './common.ts'

interface Alert {
  readonly name: string
  readonly expr: string
  readonly minutes: number
  readonly severity: 'critical' | 'warning' | 'info'
  readonly summary: string
  readonly description: string
}

const days = 86_400

const capture: readonly Alert[] = [
  {
    name: 'SidestepPodNotCaptured', minutes: 5, severity: 'critical', expr: 'sum by (instance, state) (sidestep_agent_pods{state=~"waiting|missing|lost"} and on (instance) sidestep_agent_acting == 1) > 0',
    summary: 'Pods whose labels ask for the mesh are outside of it.', description: '{{ $value }} pods of {{ $labels.instance }} are {{ $labels.state }}. The condition sidestep.dev/Captured of each says why: `sidestep check --cluster`.',
  },
  {
    name: 'SidestepCaptureRepaired', minutes: 0, severity: 'warning', expr: 'sum by (instance, because) (increase(sidestep_agent_repairs_total[15m])) > 3',
    summary: 'Something undoes the capture of pods again and again.', description: '{{ $labels.instance }} repaired {{ $value }} captures in 15 minutes ({{ $labels.because }}). Does another agent on the node remove hooks, or rewrite its CNI configuration?',
  },
  {
    name: 'SidestepAgentWithoutZtunnel', minutes: 2, severity: 'critical', expr: 'sidestep_agent_ztunnel_connected == 0 and sidestep_agent_acting == 1',
    summary: 'The ztunnel of a node takes no orders.', description: 'The agent {{ $labels.instance }} has no ztunnel: pods that start there wait, or fail. See the log of the container ztunnel.',
  },
  {
    name: 'SidestepAgentBlind', minutes: 5, severity: 'warning', expr: 'sidestep_agent_watches_synced == 0',
    summary: 'A node agent does not know the pods of its node.', description: '{{ $labels.instance }} cannot read from the API server: pods that start there wait. May it, and does the API server answer?',
  },
  {
    name: 'SidestepPassedUnmeshed', minutes: 5, severity: 'warning', expr: 'sum by (instance) (rate(sidestep_hook_events{event="passedOpen"}[5m])) > 0',
    summary: 'Connections pass outside of the mesh.', description: 'Namespaces that fail open on {{ $labels.instance }} had {{ $value }} connections a second without encryption and policy, because the mesh could not decide.',
  },
  {
    name: 'SidestepRefusedByHooks', minutes: 5, severity: 'warning', expr: 'sum by (instance, event) (rate(sidestep_hook_events{event=~"ztunnelAway|noHboneListener|mapFull|noSourcePort|eventLost"}[5m])) > 0.1',
    summary: 'The kernel refuses connections of captured pods.', description: '{{ $value }} a second on {{ $labels.instance }}: {{ $labels.event }}. docs/operations.md says what each word means.',
  },
  {
    name: 'SidestepSpoofing', minutes: 5, severity: 'warning', expr: 'sum by (instance) (rate(sidestep_hook_events{event="spoofedSource"}[5m])) > 1',
    summary: 'A pod sends from addresses that are not its own.', description: '{{ $value }} packets a second are refused on {{ $labels.instance }}.',
  },
]

const controlPlane: readonly Alert[] = [
  {
    name: 'SidestepControlPlaneDown', minutes: 5, severity: 'critical', expr: 'absent(sidestep_controlplane_connections)',
    summary: 'No control plane is there.', description: 'What is known stays in force and certificates are good for hours, but nothing changes any more. See the pods of sidestep-controlplane.',
  },
  {
    name: 'SidestepControlPlaneUnreachable', minutes: 5, severity: 'critical', expr: 'sidestep_xds_connected == 0',
    summary: 'A proxy does not reach the control plane.', description: '{{ $labels.instance }} goes on with what it knew. Its log says why; is port 15012 open to it?',
  },
  {
    name: 'SidestepNoLeader', minutes: 5, severity: 'critical', expr: 'sum(sidestep_controlplane_leader) != 1',
    summary: 'No replica of the control plane leads, or several think they do.', description: '{{ $value }} lead. Without a leader nobody writes status, makes what Gateways ask for, or rotates the CA.',
  },
  {
    name: 'SidestepNodesBehind', minutes: 5, severity: 'warning', expr: 'sidestep_controlplane_nodes_behind > 0',
    summary: 'Proxies do not have the newest state.', description: '{{ $value }} proxies of {{ $labels.instance }} were not sent, or did not take, all there is.',
  },
  {
    name: 'SidestepResourcesNacked', minutes: 5, severity: 'warning', expr: 'sidestep_controlplane_resources_nacked > 0',
    summary: 'A proxy refuses what the control plane tells it.', description: '{{ $value }} resources: `sidestep check --cluster`, and the log of the control plane. Are versions further apart than one?',
  },
  {
    name: 'SidestepObjectsRefused', minutes: 15, severity: 'info', expr: 'max(sidestep_controlplane_objects_refused) > 0',
    summary: 'Objects are not in force as they are written.', description: '{{ $value }} policies, routes or Gateways; the status of each says why.',
  },
  {
    name: 'SidestepStrangers', minutes: 10, severity: 'warning', expr: 'sum by (because) (rate(sidestep_xds_refused_streams_total[5m])) > 0.1',
    summary: 'Somebody asks the control plane who may not.', description: '{{ $value }} streams a second are refused: {{ $labels.because }}.',
  },
]

const certificates: readonly Alert[] = [
  {
    name: 'SidestepCertificateExpiring', minutes: 10, severity: 'critical', expr: '0 < sidestep_certificates_soonest_expiry_timestamp_seconds < time() + 3600',
    summary: 'A certificate of a workload is about to expire.', description: '{{ $labels.instance }} renews at half of the lifetime and did not succeed; at expiry the workload can neither call nor be called.',
  },
  {
    name: 'SidestepControlPlaneCertificateExpiring', minutes: 10, severity: 'critical', expr: 'sidestep_controlplane_certificate_expiry_timestamp_seconds < time() + 3600',
    summary: "The control plane's own certificate is about to expire.", description: '{{ $labels.instance }} did not renew it: see its log.',
  },
  {
    name: 'SidestepCaExpiring', minutes: 10, severity: 'warning', expr: `sidestep_ca_expiry_timestamp_seconds < time() + ${30 * days}`,
    summary: 'The certificate that signs all others expires within 30 days.', description: 'Rotate the root, or renew the intermediate, as docs/operations.md says.',
  },
  {
    name: 'SidestepCaExpiringSoon', minutes: 10, severity: 'critical', expr: `sidestep_ca_expiry_timestamp_seconds < time() + ${7 * days}`,
    summary: 'The certificate that signs all others expires within a week.', description: 'When it does, every connection of the mesh fails. Rotate the root now, as docs/operations.md says.',
  },
  {
    name: 'SidestepCertificatesRefused', minutes: 10, severity: 'warning', expr: 'sum by (outcome) (rate(sidestep_ca_requests_total{outcome!="signed"}[5m])) > 0.1',
    summary: 'Requests for certificates are refused.', description: '{{ $value }} a second: {{ $labels.outcome }}.',
  },
]

const load: readonly Alert[] = [
  {
    name: 'SidestepShedding', minutes: 5, severity: 'warning', expr: 'sum by (instance, because) (rate(sidestep_shed_total[5m])) > 0.1',
    summary: 'A proxy refuses work to protect itself.', description: '{{ $value }} a second at {{ $labels.instance }}: {{ $labels.because }}.',
  },
  {
    name: 'SidestepConnectionLimitNear', minutes: 5, severity: 'warning', expr: 'sidestep_connections_open / (sidestep_connections_limit > 0) > 0.8',
    summary: 'A proxy carries nearly as many connections as it may.', description: '{{ $labels.instance }} is at {{ $value | humanizePercentage }} of its limit: SIDESTEP_MAX_CONNECTIONS, and the limit on open files.',
  },
  {
    name: 'SidestepEventLoopSlow', minutes: 5, severity: 'warning', expr: 'histogram_quantile(0.99, sum by (instance, le) (rate(sidestep_event_loop_delay_seconds_bucket[5m]))) > 0.25',
    summary: 'A proxy is late with everything.', description: '1 in 100 timers of {{ $labels.instance }} fires {{ $value }} s late: it has too little processor time, or too much to do.',
  },
]

const group = (name: string, alerts: readonly Alert[]): Json => ({
  name: `sidestep-${name}`,
  rules: alerts.map((alert) => ({
    alert: alert.name, expr: alert.expr, ...(alert.minutes === 0 ? {} : { for: `${alert.minutes}m` }), labels: { severity: alert.severity },
    annotations: { summary: alert.summary, description: alert.description },
  })),
})

export const alertGroups: readonly Json[] = [group('capture', capture), group('controlplane', controlPlane), group('certificates', certificates), group('load', load)]
