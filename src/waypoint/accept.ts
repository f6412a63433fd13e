// What a CONNECT asks of this waypoint, and who asks. A waypoint is no open relay: it leads to what names it as its waypoint
// and to nothing else, whoever asks. Decides by what the mesh says now; opens no connection.
import type { SocketAddr } from '../core/address.ts'
import type { Identity } from '../core/identity.ts'
import type { Authority } from '../hbone/authority.ts'
import { gatewayClassLabel, gatewayRole } from '../model/gateway-labels.ts'
import { serviceKey } from '../model/workload.ts'
import type { AppProtocol, Service, Workload } from '../model/workload.ts'
import type { WorkloadStore } from '../model/workload-store.ts'
import { isBehind } from '../policy/destination.ts'
import { isOffered, isPod } from '../policy/egress.ts'
import type { Caller, Target } from './context.ts'

/**
 * `unknownDestination` 404, `unknownPort` 404, `notBoundHere` 403; `unknownSelf` 503: the mesh has not told us yet who we are.
 */
export type NotAcceptedBecause = 'unknownDestination' | 'unknownPort' | 'notBoundHere' | 'unknownSelf'
export type Acceptance =
  | { readonly t: 'target'; readonly target: Exclude<Target, { t: 'listener' }> }
  | { readonly t: 'refused'; readonly because: NotAcceptedBecause }

export interface AcceptFacts {
  readonly store: WorkloadStore
  /** This waypoint's own pod as the mesh knows it. */
  readonly self: Workload | undefined
  /** In which addresses mean something. */
  readonly network: string
}

export const statusOfRefusal: Readonly<Record<NotAcceptedBecause, 403 | 404 | 503>> = {
  unknownDestination: 404, unknownPort: 404, notBoundHere: 403, unknownSelf: 503,
}

const refused = (because: NotAcceptedBecause): Acceptance => ({ t: 'refused', because })

/** `caller` sees the services that its namespace may see. */
export function targetOf({ store, self, network }: AcceptFacts, authority: Authority, caller: Identity): Acceptance {
  if (!self) return refused('unknownSelf')
  const found = find(store, authority, network, caller.namespace, self.namespace)
  if (!found) return refused('unknownDestination')
  if (found.t === 'workload') {
    const { workload } = found
    // Nor to itself or another of its kind, whatever is said of its namespace.
    const { waypoint } = workload
    const isBound = waypoint !== undefined && isBehind(waypoint, self, store) && !isBehind(waypoint, workload, store)
    if (!isBound) return refused('notBoundHere')
    // A machine outside is opened by the ports that a service names, and no further; else every entry would open all of it.
    const isOpen = workload.tunnelProtocol !== 'none' || isPod(workload) || isOffered(workload, found.port, caller, store)
    return isOpen ? { t: 'target', target: found } : refused('unknownPort')
  }
  const { service, port } = found
  if (!isBoundHere(service, self, store)) return refused('notBoundHere')
  return service.ports.some(({ servicePort }) => servicePort === port) ? { t: 'target', target: found } : refused('unknownPort')
}

/** Whether the service names us as its waypoint, and is not ourselves. */
export function isBoundHere(service: Service, self: Workload, store: WorkloadStore): boolean {
  const waypoints = [service.waypoint ?? [], ...(service.weightedWaypoints ?? []).map(({ destination }) => destination)].flat()
  return !self.services.has(serviceKey(service)) && waypoints.some((waypoint) => isBehind(waypoint, self, store))
}

/**
 * As a client's ztunnel finds it: a service of this very address, then the workload at it, then a service of a range around it.
 */
function find(
  store: WorkloadStore, authority: Authority, network: string, namespace: string, preferred: string,
): Exclude<Target, { t: 'listener' }> | undefined {
  if (authority.t === 'hostname') {
    const service = serviceOfName(store, authority.hostname, namespace, preferred)
    return service && { t: 'service', service, port: authority.port }
  }
  const { ip, port } = authority.address
  const exact = store.services.byExactAddress(network, ip, namespace)
  if (exact) return { t: 'service', service: exact, port }
  const workload = store.workloadByIp(network, ip)
  if (workload) return { t: 'workload', workload, port }
  const range = store.services.byRange(network, ip, namespace)
  return range && { t: 'service', service: range, port }
}

/** Its own name, else the longest `*.` that covers it. */
export function serviceOfName(store: WorkloadStore, hostname: string, namespace: string, preferred: string): Service | undefined {
  const exact = store.serviceByHostname(hostname, namespace, preferred)
  if (exact) return exact
  for (let dot = hostname.indexOf('.'); dot >= 0; dot = hostname.indexOf('.', dot + 1)) {
    const found = store.serviceByHostname(`*${hostname.slice(dot)}`, namespace, preferred)
    if (found) return found
  }
  return undefined
}

/**
 * Who asks: as the certificate proves. The address is what its ztunnel says in `forwarded`, since the connection's own is the
 * same for all pods of a node behind one ztunnel in some setups, and may be a NAT's. A ztunnel holds the keys, not the
 * application, so an application cannot say it; who holds its own key (a gateway) cannot take the address of a pod that runs as
 * somebody else.
 */
export function callerOf(
  { store, network }: Pick<AcceptFacts, 'store' | 'network'>, identity: Identity, peer: SocketAddr, forwarded: SocketAddr | undefined,
): Caller {
  const said = forwarded ?? peer
  const there = store.workloadByIp(network, said.ip)
  const isSelf = there !== undefined && isOf(there, identity)
  if (isSelf || !there) return { identity, address: said, workload: isSelf ? there : undefined }
  const behind = store.workloadByIp(network, peer.ip)
  return { identity, address: peer, workload: behind && isOf(behind, identity) ? behind : undefined }
}

function isOf({ namespace, serviceAccount }: Workload, identity: Identity): boolean {
  return namespace === identity.namespace && serviceAccount === identity.serviceAccount
}

/**
 * Whether the caller is an ingress of our own namespace, which speaks for its clients. Its pod says so by a label, and whoever
 * writes pods there decides about this waypoint, too; ingresses of other namespaces have to be named in the settings.
 */
export function isOwnIngress({ identity, workload }: Caller, own: Identity): boolean {
  if (identity?.namespace !== own.namespace || identity.trustDomain !== own.trustDomain) return false
  if (workload?.nativeTunnel !== true) return false
  const name = workload.labels?.[gatewayClassLabel]
  return name !== undefined && gatewayRole(name, undefined) === 'ingress'
}

/**
 * What the port was declared to speak; `unknown` where nobody said. A workload's is that of the services that it serves there.
 */
export function declaredProtocol(store: WorkloadStore, target: Target): AppProtocol {
  if (target.t === 'service') {
    return target.service.ports.find(({ servicePort }) => servicePort === target.port)?.appProtocol ?? 'unknown'
  }
  if (target.t === 'listener') {
    const { protocol } = target.listener
    return protocol === 'tcp' || protocol === 'tls' ? protocol : 'http11'
  }
  for (const [key, own] of target.workload.services) {
    const ports = own.length > 0 ? own : store.service(key)?.ports ?? []
    const protocol = ports.find(({ targetPort }) => targetPort === target.port)?.appProtocol
    if (protocol !== undefined && protocol !== 'unknown') return protocol
  }
  return 'unknown'
}

/** One name for a port, for what is remembered of it. */
export function portKey(target: Target): string {
  if (target.t === 'listener') return target.listener.key
  return target.t === 'service' ? `${serviceKey(target.service)}:${target.port}` : `${target.workload.uid}:${target.port}`
}
