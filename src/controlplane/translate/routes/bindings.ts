// Which waypoint stands before a service or a workload: `sidestep.dev/use-waypoint: NAME|none` on itself, else on its namespace.
// Pure; whether that waypoint is ready is decided elsewhere. A binding that cannot be had is `refused`, not `none`: its
// owner wanted requests to be looked at, so who follows bindings must not let them pass by.
import { gatewayNameLabel, useWaypointLabel, waypointForLabel, waypointNamespaceLabel } from '../../../model/gateway-labels.ts'
import type { GatewayManifest, ServiceEntryManifest, ServiceManifest } from '../../../model/manifest.ts'
import type { GatewayAddress, Workload } from '../../../model/workload.ts'
import { serviceHostname } from '../service.ts'
import type { TranslateSettings } from '../settings.ts'
import { allowsNamespace, roleOf } from './gateways.ts'
import type { World } from './world.ts'

export { gatewayNameLabel }

/** Annotation of a waypoint's Gateway: `open` lets connections past while no waypoint is ready. */
export const waypointFailureModeAnnotation = 'sidestep.dev/waypoint-failure-mode'
/** Where waypoints take tunnels. */
const hbonePort = 15_008

const istioLabels: Readonly<Record<string, string>> = {
  [useWaypointLabel]: 'istio.io/use-waypoint', [waypointNamespaceLabel]: 'istio.io/use-waypoint-namespace',
  [waypointForLabel]: 'istio.io/waypoint-for',
}
/** Every label by which a thing says its wish. */
export const wishLabels: readonly string[] = [useWaypointLabel, istioLabels[useWaypointLabel] ?? '']

export interface WaypointName {
  readonly namespace: string
  readonly name: string
}

interface Wish {
  readonly waypoint: WaypointName
  /** Said by the thing itself; else by its namespace. */
  readonly isOwn: boolean
}

export type RefusedBecause = 'notFound' | 'notWaypoint' | 'notPermitted' | 'unsupportedTraffic'
export type WaypointBinding =
  | { readonly t: 'none'; readonly because: 'notAsked' | 'optedOut' | 'isGateway' | 'otherTraffic' }
  | ({ readonly t: 'bound'; /** Skipped while no waypoint is ready. */ readonly isOpen: boolean } & Wish)
  | ({ readonly t: 'refused'; readonly because: RefusedBecause; readonly message: string } & Wish)

export interface BoundThing {
  readonly kind: 'service' | 'workload'
  readonly namespace: string
  readonly labels: Readonly<Record<string, string>>
  /** Of a Service: that of a waypoint has its Gateway's name. */
  readonly name?: string
}

/** Of all objects only what bindings depend on. */
export type BindingWorld = Pick<World, 'gateway' | 'class' | 'namespaceLabels'>
type Labels = Readonly<Record<string, string>>

function labelOf(labels: Labels, name: string, readsIstio: boolean): string | undefined {
  const own = Object.hasOwn(labels, name) ? labels[name] : undefined
  const istio = istioLabels[name] ?? ''
  return own ?? (readsIstio && Object.hasOwn(labels, istio) ? labels[istio] : undefined)
}

export type BindingSettings = Pick<TranslateSettings, 'istioLabels'>

/** The waypoint that labels of something in a namespace name; undefined without any, or with `none`. */
export function wishOf(
  labels: Labels, namespace: string, { istioLabels: readsIstio }: BindingSettings,
): WaypointName | 'none' | undefined {
  const name = labelOf(labels, useWaypointLabel, readsIstio)
  if (name === undefined || name === '' || name === 'none') return name === 'none' ? 'none' : undefined
  return { namespace: labelOf(labels, waypointNamespaceLabel, readsIstio) ?? namespace, name }
}

/** What one service or workload is bound to. */
export function resolveBinding(thing: BoundThing, world: BindingWorld, settings: BindingSettings): WaypointBinding {
  const { namespace, labels, kind } = thing
  // A waypoint before itself would send requests in a circle; an ingress decides for itself.
  if (isPartOfGateway(thing, world)) return { t: 'none', because: 'isGateway' }
  const isOwn = labelOf(labels, useWaypointLabel, settings.istioLabels) !== undefined
  const waypoint = wishOf(isOwn ? labels : world.namespaceLabels(namespace), namespace, settings)
  if (waypoint === undefined) return { t: 'none', because: 'notAsked' }
  if (waypoint === 'none') return { t: 'none', because: 'optedOut' }
  const text = `${waypoint.namespace}/${waypoint.name}`
  const gateway = world.gateway(waypoint.namespace, waypoint.name)
  const refuse = (because: RefusedBecause, message: string): WaypointBinding => ({ t: 'refused', waypoint, isOwn, because, message })
  if (!gateway) return refuse('notFound', `there is no Gateway ${text}`)
  const { spec: { gatewayClassName }, metadata: { annotations, labels: own } } = gateway
  if (roleOf(gateway, world) !== 'waypoint') {
    return refuse('notWaypoint', `the Gateway ${text} is of the class ${gatewayClassName}, which is no waypoint`)
  }
  if (!opensTo(gateway, namespace, world)) {
    return refuse('notPermitted', `the Gateway ${text} takes nothing from the namespace ${namespace} (allowedRoutes)`)
  }
  const serves = labelOf(own, waypointForLabel, settings.istioLabels) ?? 'all'
  if (serves === 'all' || serves === kind) {
    return { t: 'bound', waypoint, isOwn, isOpen: annotations[waypointFailureModeAnnotation] === 'open' }
  }
  // Named by the thing itself it is a mistake; by its namespace it only means the other things there.
  return !isOwn && (serves === 'service' || serves === 'workload' || serves === 'none')
    ? { t: 'none', because: 'otherTraffic' }
    : refuse('unsupportedTraffic', `the Gateway ${text} is for ${serves}, not for a ${kind}`)
}

/** Whether things of a namespace that wish for this waypoint may have it. */
export function opensTo({ metadata, spec }: GatewayManifest, namespace: string, world: Pick<World, 'namespaceLabels'>): boolean {
  const listeners = spec.listeners.filter(({ protocol }) => protocol === 'HBONE')
  return metadata.namespace === namespace
    || listeners.some(({ allowedRoutes }) => allowsNamespace(allowedRoutes.namespaces, metadata.namespace, namespace, world))
}

function isPartOfGateway({ kind, namespace, labels, name }: BoundThing, world: BindingWorld): boolean {
  const label = Object.hasOwn(labels, gatewayNameLabel) ? labels[gatewayNameLabel] : undefined
  const gateway = label === undefined ? undefined : world.gateway(namespace, label)
  if (gateway && roleOf(gateway, world) !== undefined) return true
  const named = kind === 'service' && name !== undefined ? world.gateway(namespace, name) : undefined
  return named !== undefined && roleOf(named, world) === 'waypoint'
}

/**
 * Where clients send what is bound. A binding that is refused leads to a host that nobody serves, so that they refuse with its
 * name: a waypoint that is there and does not serve the thing must not get its traffic.
 */
export function waypointFields(
  binding: WaypointBinding, settings: TranslateSettings,
): Pick<Workload, 'waypoint' | 'waypointFailure'> {
  if (binding.t === 'none') return {}
  const { namespace } = binding.waypoint
  const own = serviceHostname(binding.waypoint, settings)
  const hostname = binding.t === 'bound' || binding.because === 'notFound' ? own : `${deadEnds[binding.because]}.${own}`
  const waypoint: GatewayAddress = { destination: { kind: 'hostname', name: { namespace, hostname } }, hbonePort }
  return { waypoint, ...(binding.t === 'bound' && binding.isOpen ? { waypointFailure: 'open' } : {}) }
}

const deadEnds = {
  notWaypoint: 'not-a-waypoint', notPermitted: 'not-permitted', unsupportedTraffic: 'unsupported-traffic',
} as const

/** Of every service of the world, by `namespace/hostname`, sorted. */
export function serviceBindings(world: World, settings: BindingSettings): ReadonlyMap<string, WaypointBinding> {
  const bindings = new Map<string, WaypointBinding>()
  for (const [key, { owner }] of [...world.targets].sort(([a], [b]) => (a < b ? -1 : 1))) {
    bindings.set(key, resolveBinding(serviceThing(owner), world, settings))
  }
  return bindings
}

export function serviceThing({ kind, metadata: { namespace, name, labels } }: ServiceManifest | ServiceEntryManifest): BoundThing {
  return { kind: 'service', namespace, labels, ...(kind === 'Service' ? { name } : {}) }
}
