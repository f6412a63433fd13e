// Dashboards for Grafana, as the JSON that it imports: what the mesh carries, and how its own parts are. A test compares every metric
// named here with those that the processes have.
import type { Json } from './common.ts'

interface Panel {
  readonly title: string
  readonly unit: 'short' | 'ops' | 'reqps' | 'Bps' | 's' | 'ms' | 'percentunit' | 'bytes' | 'dtdurations'
  /** Legend and expression. */
  readonly queries: readonly (readonly [string, string])[]
  readonly description?: string
  /** One number instead of a graph. */
  readonly isStat?: boolean
}

interface Dashboard {
  readonly title: string
  readonly uid: string
  readonly rows: readonly (readonly [string, readonly Panel[]])[]
}

const rate = (metric: string, by: string, where = ''): string => `sum by (${by}) (rate(${metric}${where === '' ? '' : `{${where}}`}[$__rate_interval]))`
const quantile = (q: number, metric: string, by: string, where = ''): string => `histogram_quantile(${q}, ${rate(`${metric}_bucket`, by === '' ? 'le' : `${by}, le`, where)})`
const quantiles = (metric: string, where = ''): [string, string][] => [0.5, 0.9, 0.99].map((q) => [`p${q * 100}`, quantile(q, metric, '', where)])

const mesh: Dashboard = {
  title: 'Sidestep: traffic', uid: 'sidestep-traffic',
  rows: [
    ['Connections', [
      { title: 'Opened, by destination', unit: 'ops', queries: [['{{destination_workload_namespace}}/{{destination_workload}}', rate('istio_tcp_connections_opened_total', 'destination_workload_namespace, destination_workload', 'reporter="destination"')]] },
      { title: 'With mTLS, and without', unit: 'ops', queries: [['{{connection_security_policy}}', rate('istio_tcp_connections_opened_total', 'connection_security_policy', 'reporter="destination"')]], description: 'unknown: the caller is outside the mesh, and nobody demands mTLS.' },
      { title: 'Refused, by reason', unit: 'ops', queries: [['{{because}}', rate('sidestep_refusals_total', 'because')]] },
      { title: 'Sent', unit: 'Bps', queries: [['{{source_workload_namespace}}/{{source_workload}}', rate('istio_tcp_sent_bytes_total', 'source_workload_namespace, source_workload', 'reporter="source"')]] },
      { title: 'Received', unit: 'Bps', queries: [['{{source_workload_namespace}}/{{source_workload}}', rate('istio_tcp_received_bytes_total', 'source_workload_namespace, source_workload', 'reporter="source"')]] },
      { title: 'Until connected, by stage (p99)', unit: 's', queries: [['{{stage}} ({{reporter}})', quantile(0.99, 'sidestep_connection_stage_seconds', 'stage, reporter')]] },
    ]],
    ['Requests through waypoints and ingresses', [
      { title: 'Requests, by service', unit: 'reqps', queries: [['{{destination_service_name}}.{{destination_service_namespace}}', rate('istio_requests_total', 'destination_service_name, destination_service_namespace')]] },
      { title: 'By status', unit: 'reqps', queries: [['{{response_code}} {{response_flags}}', rate('istio_requests_total', 'response_code, response_flags')]] },
      { title: 'Duration', unit: 'ms', queries: quantiles('istio_request_duration_milliseconds') },
      { title: 'In flight', unit: 'short', queries: [['{{instance}}', 'sum by (instance) (sidestep_requests_in_flight)']] },
      { title: 'Retries', unit: 'ops', queries: [['all', 'sum(rate(sidestep_upstream_retries_total[$__rate_interval]))']] },
      { title: 'Rate limits', unit: 'ops', queries: [['{{decision}}', rate('sidestep_rate_limit_decisions_total', 'decision')]] },
    ]],
    ['Names and the outside', [
      { title: 'DNS, by answer', unit: 'ops', queries: [['{{result}}', rate('sidestep_dns_results_total', 'result')]] },
      { title: 'Egress', unit: 'ops', queries: [['{{because}}', rate('sidestep_egress_total', 'because')]] },
    ]],
  ],
}

const parts: Dashboard = {
  title: 'Sidestep: its own parts', uid: 'sidestep-parts',
  rows: [
    ['Capture', [
      { title: 'Pods that should be captured and are not', unit: 'short', isStat: true, queries: [['', 'sum(sidestep_agent_pods{state=~"waiting|missing|lost"} and on (instance) sidestep_agent_acting == 1)']] },
      { title: 'Pods, by what became of them', unit: 'short', queries: [['{{state}}', 'sum by (state) (sidestep_agent_pods and on (instance) sidestep_agent_acting == 1)']] },
      { title: 'From the start of a pod to its capture', unit: 's', queries: quantiles('sidestep_agent_capture_seconds') },
      { title: 'Repairs', unit: 'ops', queries: [['{{because}}', rate('sidestep_agent_repairs_total', 'because')]] },
      { title: 'What the hooks refused or passed', unit: 'ops', queries: [['{{event}}', rate('sidestep_hook_events', 'event', 'event!~"redirected|steered|dnsCaptured|probe"')]] },
      { title: 'Asked by the CNI plugin', unit: 'ops', queries: [['{{command}}: {{result}}', rate('sidestep_agent_cni_requests_total', 'command, result')]] },
    ]],
    ['Control plane', [
      { title: 'Leaders', unit: 'short', isStat: true, queries: [['', 'sum(sidestep_controlplane_leader)']] },
      { title: 'Proxies with a stream', unit: 'short', queries: [['nodes at {{instance}}', 'sidestep_controlplane_connected_nodes'], ['pods of gateways at {{instance}}', 'sidestep_controlplane_connected_gateway_pods']] },
      { title: 'Behind, or refusing', unit: 'short', queries: [['behind', 'sum(sidestep_controlplane_nodes_behind)'], ['refused resources', 'sum(sidestep_controlplane_resources_nacked)'], ['objects not in force', 'max(sidestep_controlplane_objects_refused)']] },
      { title: 'Translating a change', unit: 's', queries: quantiles('sidestep_controlplane_translate_seconds') },
      { title: 'Told to proxies', unit: 'Bps', queries: [['{{type}}', rate('sidestep_xds_pushed_bytes_total', 'type')]] },
      { title: 'What the mesh consists of', unit: 'short', queries: [['workloads', 'max(sidestep_controlplane_workloads)'], ['services', 'max(sidestep_controlplane_services)'], ['policies', 'max(sidestep_controlplane_policies)']] },
    ]],
    ['Certificates', [
      { title: 'Until the signing certificate expires', unit: 'dtdurations', isStat: true, queries: [['', 'min(sidestep_ca_expiry_timestamp_seconds) - time()']] },
      { title: 'Until the first certificate of a node expires', unit: 'dtdurations', queries: [['{{instance}}', '(sidestep_certificates_soonest_expiry_timestamp_seconds > 0) - time()']] },
      { title: 'Requests to the CA', unit: 'ops', queries: [['{{outcome}}', rate('sidestep_ca_requests_total', 'outcome')]] },
    ]],
    ['Proxies', [
      { title: 'Connections carried, of what they may', unit: 'percentunit', queries: [['{{instance}}', 'sidestep_connections_open / (sidestep_connections_limit > 0)']] },
      { title: 'Tunnels to others', unit: 'short', queries: [['{{state}}', 'sum by (state) (sidestep_pool_connections)']] },
      { title: 'Work refused', unit: 'ops', queries: [['{{because}}', rate('sidestep_shed_total', 'because')]] },
      { title: 'How late timers fire (p99)', unit: 's', queries: [['{{instance}}', quantile(0.99, 'sidestep_event_loop_delay_seconds', 'instance')]] },
      { title: 'Memory', unit: 'bytes', queries: [['{{instance}}', 'process_resident_memory_bytes{job=~".*sidestep.*"}']] },
      { title: 'Processor time', unit: 'percentunit', queries: [['{{instance}}', 'rate(process_cpu_seconds_total{job=~".*sidestep.*"}[$__rate_interval])']] },
    ]],
  ],
}

const [perLine, width, height] = [3, 8, 8]

function dashboardJson({ title, uid, rows }: Dashboard): Json {
  let [id, y] = [0, 0]
  const panels: Json[] = []
  for (const [name, members] of rows) {
    panels.push({ id: ++id, type: 'row', title: name, collapsed: false, gridPos: { x: 0, y: y++, w: perLine * width, h: 1 }, panels: [] })
    members.forEach((panel, i) => panels.push(panelJson(panel, ++id, { x: (i % perLine) * width, y: y + Math.floor(i / perLine) * height, w: width, h: height })))
    y += Math.ceil(members.length / perLine) * height
  }
  return {
    title, uid, tags: ['sidestep'], editable: true, schemaVersion: 39, version: 1, refresh: '30s', time: { from: 'now-1h', to: 'now' },
    templating: { list: [{ name: 'datasource', label: 'Data source', type: 'datasource', query: 'prometheus' }] },
    panels,
  }
}

function panelJson({ title, unit, queries, description, isStat }: Panel, id: number, gridPos: Json): Json {
  const datasource = { type: 'prometheus', uid: '${datasource}' }
  return {
    id, title, type: isStat === true ? 'stat' : 'timeseries', gridPos, datasource, ...(description === undefined ? {} : { description }),
    fieldConfig: { defaults: { unit, min: 0 }, overrides: [] },
    targets: queries.map(([legendFormat, expr], i) => ({ refId: String.fromCharCode(65 + i), datasource, expr, legendFormat: legendFormat === '' ? '__auto' : legendFormat })),
  }
}

/** By file name. */
export const dashboards: Readonly<Record<string, Json>> = { 'traffic.json': dashboardJson(mesh), 'parts.json': dashboardJson(parts) }
