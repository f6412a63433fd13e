// Whether a connection may leave for a destination outside the mesh. The control plane says for each workload what its namespace,
// else the mesh, wants. A setting that cannot be read refuses: somebody wanted something other than the default.
import type { WorkloadStore } from '../model/workload-store.ts'
import type { Service, Workload } from '../model/workload.ts'
import type { Destination } from './destination.ts'

/** Closed set: log field and metric label. */
export type EgressReason = 'egressAllowed' | 'egressAudited' | 'egressDenied' | 'egressUnreadable'

export type EgressVerdict =
  | { readonly allowed: true; readonly because: 'egressAllowed' | 'egressAudited'; readonly isAudited: boolean }
  | { readonly allowed: false; readonly because: 'egressDenied' | 'egressUnreadable' }

/**
 * Whether nobody in the mesh knows the destination. Loopback never leaves, so it is no egress. A machine outside that is known as the
 * endpoint of a service is known by that service's ports, to those who may see the service: naming one of its ports to one namespace
 * opens nothing else.
 */
export function leavesMesh(destination: Destination, source: Pick<Workload, 'namespace'>, store: WorkloadStore): boolean {
  if (destination.t === 'plain') {
    if (destination.choice.because !== 'addressed' || isPod(destination.workload)) return false
    return !isOffered(destination.workload, destination.to.kind === 'address' ? destination.to.addr.port : destination.to.port, source, store)
  }
  if (destination.t !== 'passthrough' || destination.because !== 'unknownDestination') return false
  return destination.to.ip !== '::1' && !destination.to.ip.startsWith('127.')
}

/** The names of Kubernetes' own services say whose they are; all others are given by a ServiceEntry. */
export function isEntry({ name, namespace, hostname }: Pick<Service, 'name' | 'namespace' | 'hostname'>): boolean {
  return !hostname.startsWith(`${name}.${namespace}.svc.`)
}

/** The host of the ServiceEntry by which a connection leaves in plain text, or would but for its port; undefined where none does. */
export function entryHost(destination: Destination): string | undefined {
  switch (destination.t) {
    case 'plain': return isPod(destination.workload) ? undefined : hostOfEntry(destination.service)
    case 'passthrough': return hostOfEntry(destination.service)
    case 'refuse': return destination.because === 'noEndpointWithPort' ? hostOfEntry(destination.service) : undefined
    default: return undefined
  }
}

function hostOfEntry(service: Service | undefined): string | undefined {
  return service && isEntry(service) ? service.hostname : undefined
}

export function isPod({ uid }: Pick<Workload, 'uid'>): boolean {
  return uid.includes('//Pod/')
}

/** Whether a service that the namespace may see leads to that port of the workload. */
export function isOffered({ services }: Pick<Workload, 'services'>, port: number, { namespace }: { readonly namespace: string }, store: WorkloadStore): boolean {
  return [...services].some(([key, own]) => {
    const service = store.service(key)
    if (!service || (service.isNamespaceLocal && service.namespace !== namespace)) return false
    return (own.length > 0 ? own : service.ports).some(({ targetPort, servicePort }) => (targetPort === 0 ? servicePort : targetPort) === port)
  })
}

/** For a connection that leaves the mesh; of others this must not be asked. */
export function egressVerdict({ egress = 'allow' }: Pick<Workload, 'egress'>): EgressVerdict {
  switch (egress) {
    case 'allow':
      return { allowed: true, because: 'egressAllowed', isAudited: false }
    case 'audit':
      return { allowed: true, because: 'egressAudited', isAudited: true }
    case 'deny':
      return { allowed: false, because: 'egressDenied' }
    case 'unreadable':
      return { allowed: false, because: 'egressUnreadable' }
  }
}
