// The labels and annotations by which Gateways of ours, and what uses them, say what they want; and which classes are ours. Pure
// data: what follows from a label is decided where the label is read.

/** On a namespace, service or workload: the waypoint before it, or `none`. */
export const useWaypointLabel = 'sidestep.dev/use-waypoint'
/** Where that waypoint is, if not in the same namespace. */
export const waypointNamespaceLabel = 'sidestep.dev/use-waypoint-namespace'
/** On a waypoint's Gateway: `all` (also without it), `service`, `workload` or `none`. */
export const waypointForLabel = 'sidestep.dev/waypoint-for'
export const waypointFor = ['all', 'service', 'workload', 'none'] as const
export type WaypointFor = (typeof waypointFor)[number]
/** Kubernetes' names for what belongs to a Gateway. */
export const gatewayNameLabel = 'gateway.networking.k8s.io/gateway-name'
export const gatewayClassLabel = 'gateway.networking.k8s.io/gateway-class-name'
/** Of what was made for a Gateway. */
export const managedByLabel = 'app.kubernetes.io/managed-by'
export const managedBy = 'sidestep'

/** How many pods a Gateway has: `3`, or `2-10` for who scales. */
export const replicasAnnotation = 'sidestep.dev/replicas'
/** Further settings of its processes, `SIDESTEP_NAME=VALUE`, a line each. */
export const settingsAnnotation = 'sidestep.dev/settings'
/** Ports of this machine's loopback address that lead to an ingress of a local mesh: `HOSTPORT=PORT, ...`. */
export const publishAnnotation = 'sidestep.dev/publish'

export type GatewayRole = 'waypoint' | 'ingress'

/** Classes that need no GatewayClass, and the controllers of classes by other names. */
const roles: Readonly<Record<string, GatewayRole>> = { 'sidestep-waypoint': 'waypoint', 'sidestep-ingress': 'ingress' }
export const gatewayControllers = { waypoint: 'sidestep.dev/waypoint', ingress: 'sidestep.dev/ingress' } as const satisfies Record<GatewayRole, string>
const controllers: Readonly<Record<string, GatewayRole>> = { 'sidestep.dev/waypoint': 'waypoint', 'sidestep.dev/ingress': 'ingress' }

/** What a Gateway of that class is here; undefined if somebody else serves it. `controllerName` is that of the class's GatewayClass, where there is one. */
export function gatewayRole(gatewayClassName: string, controllerName: string | undefined): GatewayRole | undefined {
  const [table, key] = controllerName === undefined ? [roles, gatewayClassName] : [controllers, controllerName]
  return Object.hasOwn(table, key) ? table[key] : undefined
}

type Labels = Readonly<Record<string, string>>

/** Which waypoint these labels ask for, in Istio's words too; undefined where they ask for none or say nothing. Whether it can be had is another question. */
export function waypointWish(labels: Labels, ownNamespace: string): { readonly namespace: string; readonly name: string } | undefined {
  const read = (label: string): string | undefined => {
    const istio = label.replace('sidestep.dev/', 'istio.io/')
    return Object.hasOwn(labels, label) ? labels[label] : Object.hasOwn(labels, istio) ? labels[istio] : undefined
  }
  const name = read(useWaypointLabel) ?? ''
  return name === '' || name === 'none' ? undefined : { namespace: read(waypointNamespaceLabel) ?? ownNamespace, name }
}
