// What monitoring needs to know of us: where metrics are, what to wake somebody for, and what to look at then. Branches on no value.
import { controlPlaneName, ztunnelName } from '../model/kubernetes-names.ts'
import { alertGroups } from './alerts.ts'
import { labelsOf, partLabels, type InstallObject } from './common.ts'
import { dashboards } from './dashboards.ts'
import type { InstallValues } from './values.ts'

const labelsFor = ({ monitoring }: InstallValues): Readonly<Record<string, string>> => ({ ...labelsOf('monitoring'), ...monitoring.labels })

export function podMonitors(values: InstallValues): InstallObject[] {
  const { namespace } = values
  const monitor = (name: string, selector: object, ports: readonly string[], namespaceSelector: object): InstallObject => ({
    apiVersion: 'monitoring.coreos.com/v1', kind: 'PodMonitor', metadata: { name, namespace, labels: labelsFor(values) },
    spec: { selector, namespaceSelector, podMetricsEndpoints: ports.map((port) => ({ port, path: '/metrics' })) },
  })
  const own = { matchNames: [namespace] }
  return [
    monitor(controlPlaneName, { matchLabels: partLabels(controlPlaneName) }, ['metrics'], own),
    monitor(ztunnelName, { matchLabels: partLabels(ztunnelName) }, ['metrics', 'agent'], own),
    monitor('sidestep-gateways', {
      matchExpressions: [{ key: 'gateway.networking.k8s.io/gateway-class-name', operator: 'In', values: ['sidestep-waypoint', 'sidestep-ingress'] }],
    }, ['metrics'], { any: true }),
  ]
}

export function alertObjects(values: InstallValues): InstallObject[] {
  return [{
    apiVersion: 'monitoring.coreos.com/v1', kind: 'PrometheusRule', metadata: { name: 'sidestep', namespace: values.namespace, labels: labelsFor(values) },
    spec: { groups: alertGroups },
  }]
}

export function dashboardObjects(values: InstallValues): InstallObject[] {
  return Object.entries(dashboards).map(([file, dashboard]) => ({
    apiVersion: 'v1', kind: 'ConfigMap',
    metadata: { name: `sidestep-dashboard-${file.replace(/\.json$/, '')}`, namespace: values.namespace, labels: { ...labelsFor(values), grafana_dashboard: '1' } },
    data: { [file]: JSON.stringify(dashboard) },
  }))
}
