// From what the rooms hold to what the admin API shows: shapes of model/ztunnel-views.ts.
import type { PolicyView, ServiceView, WorkloadView } from '../model/ztunnel-views.ts'
import type { Authorization, Match } from '../model/authorization.ts'
import { workloadIdentity } from '../model/workload-store.ts'
import type { Endpoint } from '../model/workload-store.ts'
import type { GatewayAddress, PortMapping, Service, Workload } from '../model/workload.ts'
import type { AdminSource } from './admin-source.ts'

/** AdminSource.waypointState(). */
type StateOf = AdminSource['waypointState']

function stateText(stateOf: StateOf, { namespace, waypoint, waypointFailure }: Pick<Workload | Service, 'namespace' | 'waypoint' | 'waypointFailure'>): string {
  if (!waypoint) return ''
  const state = stateOf(waypoint, namespace)
  return state !== 'ready' && waypointFailure === 'open' ? 'skipped' : state
}

export function workloadView(workload: Workload, stateOf: StateOf): WorkloadView {
  const { uid, namespace, name, ips, network, node, clusterId, tunnelProtocol, workloadType, workloadName, canonicalName, canonicalRevision, capacity } = workload
  return {
    uid, namespace, name, ips: [...ips], network, node, clusterId, identity: workloadIdentity(workload), tunnelProtocol, healthy: workload.isHealthy,
    hostNetwork: workload.isHostNetwork, workloadType, workloadName, canonicalName, canonicalRevision, capacity, locality: workload.locality,
    waypoint: gatewayText(workload.waypoint), waypointState: stateText(stateOf, workload), policies: [...workload.policies],
    services: Object.fromEntries([...workload.services].map(([key, ports]) => [key, ports.map(portView)])),
  }
}

export function serviceView(service: Service, endpoints: readonly Endpoint[], stateOf: StateOf): ServiceView {
  const { namespace, name, hostname, addresses, ports, subjectAltNames, waypoint, loadBalancing, sessionAffinity, ipFamilies } = service
  return {
    namespace, name, hostname, ports: ports.map(portView), subjectAltNames: [...subjectAltNames], waypoint: gatewayText(waypoint), waypointState: stateText(stateOf, service), ipFamilies,
    addresses: addresses.map(({ network, ip, prefixLength }) => `${network === '' ? '' : `${network}/`}${ip}${prefixLength === undefined ? '' : `/${prefixLength}`}`),
    loadBalancing: loadBalancing ? [loadBalancing.mode, ...loadBalancing.routingPreference].join(' ') : '',
    sessionAffinity: sessionAffinity?.kind ?? '',
    endpoints: endpoints.map(({ workload }) => ({ uid: workload.uid, name: workload.name, ips: [...workload.ips], healthy: workload.isHealthy })),
  }
}

export function policyView({ namespace, name, scope, action, isDryRun, unsupported, rules }: Authorization): PolicyView {
  return { namespace, name, scope, action, dryRun: isDryRun, unsupported: unsupported ?? '', rules: rules.map((rule) => rule.map((clause) => clause.map(matchView))) }
}

/** Without the kinds that say nothing. */
function matchView(match: Match): Record<string, unknown> {
  return Object.fromEntries(Object.entries(match).filter(([, values]) => (values as readonly unknown[]).length > 0))
}

function portView({ servicePort, targetPort, appProtocol }: PortMapping): { servicePort: number; targetPort: number; appProtocol: string } {
  return { servicePort, targetPort, appProtocol }
}

function gatewayText(gateway: GatewayAddress | undefined): string {
  if (!gateway) return ''
  const { destination, hbonePort } = gateway
  return `${destination.kind === 'hostname' ? destination.name.hostname : destination.address.ip}:${hbonePort}`
}
