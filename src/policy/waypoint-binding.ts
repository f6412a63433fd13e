// Which waypoints stand before a workload, and whether a peer is one of them: what the destination asks before it takes a
// connection, or believes what a peer says of others. Nobody is a waypoint by an address: only by an identity that was proved,
// and that the mesh names for one of the workloads behind the waypoint. A waypoint that nobody knows is nobody.
import { formatIdentity, type Identity } from '../core/identity.ts'
import { workloadIdentity, type WorkloadStore } from '../model/workload-store.ts'
import { serviceKey, type GatewayAddress, type Service, type Workload } from '../model/workload.ts'
import { targetPortOf } from './load-balance.ts'

const nobody: ReadonlySet<string> = new Set()

/** For people: the host name, or the address, without the port that is always the same. */
export function waypointName({ destination }: GatewayAddress): string {
  return destination.kind === 'hostname' ? destination.name.hostname : destination.address.ip
}

/** SPIFFE URIs of the workloads that the address stands for, ready or not: one that is leaving still finishes its work. */
function identitiesBehind({ destination }: GatewayAddress, { namespace }: Workload, store: WorkloadStore): ReadonlySet<string> {
  if (destination.kind === 'hostname') return store.identitiesBehind(serviceKey(destination.name))
  const { network, ip } = destination.address
  const service = store.services.byExactAddress(network, ip, namespace)
  if (service) return store.identitiesBehind(serviceKey(service))
  const workload = store.workloadByIp(network, ip)
  return workload ? new Set([workloadIdentity(workload)]) : nobody
}

/** `unknown`: nobody has ever said what is there, or does not any more. */
export type WaypointState = 'ready' | 'notReady' | 'unknown'

/** Whether connections can go through it now, as far as the mesh says; `namespace` is that of who asks. */
export function waypointState({ destination }: GatewayAddress, namespace: string, store: WorkloadStore): WaypointState {
  const service = destination.kind === 'hostname'
    ? store.service(serviceKey(destination.name))
    : store.services.byExactAddress(destination.address.network, destination.address.ip, namespace)
  if (service) return store.endpoints(serviceKey(service)).length > 0 ? 'ready' : 'notReady'
  const workload = destination.kind === 'address' ? store.workloadByIp(destination.address.network, destination.address.ip) : undefined
  return workload ? (workload.isHealthy ? 'ready' : 'notReady') : 'unknown'
}

function waypointsOf({ waypoint, weightedWaypoints = [] }: Service): readonly GatewayAddress[] {
  return [...(waypoint ? [waypoint] : []), ...weightedWaypoints.map(({ destination }) => destination)]
}

/**
 * Whether the one who proved this identity is a waypoint before that port of the workload: the workload's own, or that of a
 * service which the workload serves on this port. The waypoint of a service has no say over the workload's other ports.
 */
export function standsBefore(identity: Identity, workload: Workload, port: number, store: WorkloadStore): boolean {
  const name = formatIdentity(identity)
  const isIt = (gateway: GatewayAddress): boolean => identitiesBehind(gateway, workload, store).has(name)
  if (workload.waypoint && isIt(workload.waypoint)) return true
  for (const [key, ports] of workload.services) {
    const service = store.service(key)
    if (!service || (!service.waypoint && !service.weightedWaypoints)) continue
    const isServed = [...ports, ...service.ports].some(({ servicePort }) => targetPortOf({ workload, ports }, service, servicePort) === port)
    if (isServed && waypointsOf(service).some(isIt)) return true
  }
  return false
}

/** The waypoint that connections to the workload must have passed; undefined where there is none, or its owner lets them past it. */
export function requiredWaypoint({ waypoint, waypointFailure }: Workload): GatewayAddress | undefined {
  return waypointFailure === 'open' ? undefined : waypoint
}

/** The waypoint that a connection should have come through and did not. `identity`: what the peer proved; undefined for plain text. */
export function bypassedWaypoint(identity: Identity | undefined, workload: Workload, port: number, store: WorkloadStore): GatewayAddress | undefined {
  const required = requiredWaypoint(workload)
  return required && !(identity && standsBefore(identity, workload, port, store)) ? required : undefined
}
