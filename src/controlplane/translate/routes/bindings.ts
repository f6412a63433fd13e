// Which waypoint stands before a service or a workload: `sidestep.dev/use-waypoint: NAME|none` on itself, else on its namespace.
// Pure; whether that waypoint is ready is decided elsewhere. A binding that cannot be had is `refused`, not `none`: its
// owner wanted requests to be looked at, so who follows bindings must not let them pass by.
import { gatewayNameLabel, useWaypointLabel, waypointForLabel, waypointNamespaceLabel } from '../../../model/gateway-labels.ts'
import { objectKey, type GatewayManifest } from '../../../model/manifest.ts'
import { allowsNamespace, roleOf } from './gateways.ts'
import { ownerName, type World } from './world.ts'

const istioLabels: Readonly<Record<string, string>> = {
  [useWaypointLabel]: 'istio.io/use-waypoint', [waypointNamespaceLabel]: 'istio.io/use-waypoint-namespace', [waypointForLabel]: 'istio.io/waypoint-for',
}

export interface WaypointName {
  readonly namespace: string
  readonly name: string
}

export type WaypointBinding =
  | { readonly t: 'none'; readonly because: 'notAsked' | 'optedOut' | 'isGateway' | 'otherTraffic' }
  | { readonly t: 'bound'; readonly waypoint: WaypointName }
  | { readonly t: 'refused'; readonly waypoint: WaypointName; readonly because: 'notFound' | 'notWaypoint' | 'notPermitted' | 'unsupportedTraffic'; readonly message: string }

export interface BoundThing {
  readonly kind: 'service' | 'workload'
  readonly namespace: string
  readonly labels: Readonly<Record<string, string>>
}

type Labels = Readonly<Record<string, string>>

function labelOf(labels: Labels, name: string, readsIstio: boolean): string | undefined {
  const own = Object.hasOwn(labels, name) ? labels[name] : undefined
  const istio = istioLabels[name] ?? ''
  return own ?? (readsIstio && Object.hasOwn(labels, istio) ? labels[istio] : undefined)
}

export interface BindingSettings {
  /** Whether Istio's labels of the same meaning are read, where ours are not there. */
  readonly istioLabels: boolean
}

/** What one service or workload is bound to. */
export function resolveBinding(thing: BoundThing, world: World, settings: BindingSettings): WaypointBinding {
  const { namespace, labels, kind } = thing
  const of = (of: Labels, name: string): string | undefined => labelOf(of, name, settings.istioLabels)
  // A waypoint before itself would send requests in a circle; an ingress decides for itself.
  if (isPartOfGateway(thing, world)) return { t: 'none', because: 'isGateway' }
  const own = of(labels, useWaypointLabel)
  const source = own === undefined ? world.namespaceLabels(namespace) : labels
  const wanted = own ?? of(source, useWaypointLabel)
  if (wanted === undefined || wanted === '') return { t: 'none', because: 'notAsked' }
  if (wanted === 'none') return { t: 'none', because: 'optedOut' }
  const waypoint = { namespace: of(source, waypointNamespaceLabel) ?? namespace, name: wanted }
  const text = `${waypoint.namespace}/${waypoint.name}`
  const gateway = world.gateways.find(({ metadata }) => metadata.namespace === waypoint.namespace && metadata.name === waypoint.name)
  const refuse = (because: Extract<WaypointBinding, { t: 'refused' }>['because'], message: string): WaypointBinding => ({ t: 'refused', waypoint, because, message })
  if (!gateway) return refuse('notFound', `there is no Gateway ${text}`)
  if (roleOf(gateway, world) !== 'waypoint') return refuse('notWaypoint', `the Gateway ${text} is of the class ${gateway.spec.gatewayClassName}, which is no waypoint`)
  if (!opensTo(gateway, namespace, world)) return refuse('notPermitted', `the Gateway ${text} takes nothing from the namespace ${namespace} (allowedRoutes)`)
  const serves = of(gateway.metadata.labels, waypointForLabel) ?? 'all'
  if (serves === 'all' || serves === kind) return { t: 'bound', waypoint }
  // Named by the thing itself it is a mistake; by its namespace it only means the other things there.
  return own === undefined && (serves === 'service' || serves === 'workload' || serves === 'none')
    ? { t: 'none', because: 'otherTraffic' }
    : refuse('unsupportedTraffic', `the Gateway ${text} is for ${serves}, not for a ${kind}`)
}

function opensTo({ metadata, spec }: GatewayManifest, namespace: string, world: World): boolean {
  const listeners = spec.listeners.filter(({ protocol }) => protocol === 'HBONE')
  return metadata.namespace === namespace || listeners.some(({ allowedRoutes }) => allowsNamespace(allowedRoutes.namespaces, metadata.namespace, namespace, world))
}

function isPartOfGateway({ namespace, labels }: BoundThing, world: World): boolean {
  const name = Object.hasOwn(labels, gatewayNameLabel) ? labels[gatewayNameLabel] : undefined
  const gateway = name === undefined ? undefined : world.gateways.find(({ metadata }) => metadata.namespace === namespace && metadata.name === name)
  return gateway !== undefined && roleOf(gateway, world) !== undefined
}

/** Of every service of the world, by `namespace/hostname`, sorted; `problems` by object key say which wish cannot be had. */
export function serviceBindings(
  world: World, settings: BindingSettings,
): { readonly bindings: ReadonlyMap<string, WaypointBinding>; readonly problems: ReadonlyMap<string, string> } {
  const bindings = new Map<string, WaypointBinding>()
  const problems = new Map<string, string>()
  for (const target of [...world.targets.values()].sort((a, b) => (a.key < b.key ? -1 : 1))) {
    const { owner } = target
    const binding = resolveBinding({ kind: 'service', namespace: owner.metadata.namespace, labels: owner.metadata.labels }, world, settings)
    bindings.set(target.key, binding)
    if (binding.t === 'refused') problems.set(objectKey(owner), `${ownerName(target)} cannot use the waypoint that it is to use: ${binding.message}`)
  }
  return { bindings, problems }
}

