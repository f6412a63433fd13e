// To which ports of services and to which listeners a route attaches, or why not, in the words of the Gateway API's conditions.
// A route in its Service's namespace is a producer's and is for everybody; in another one it is a consumer's, and is for requests
// from its own namespace only (GEP-1294).
import type { RouteCondition, RouteParentStatus } from '../../../model/control-plane-status.ts'
import { gatewayGroup } from '../../../model/manifest-gateway.ts'
import type { ParentReference } from '../../../model/manifest-route.ts'
import { objectKey, type RouteManifest } from '../../../model/manifest.ts'
import { getOrMake } from '../selectors.ts'
import { given, type Findings } from './findings.ts'
import { allowsNamespace, roleOf, type ServedListener } from './gateways.ts'
import { covers, effectiveHostnames, type EffectiveHostname } from './hostnames.ts'
import { byAgeAndName } from './order.ts'
import { ownerName, type ServiceTarget, type World } from './world.ts'

/** One place where a route's rules are tried. */
export type Slot =
  | { readonly t: 'service'; readonly target: ServiceTarget; readonly port: number; /** Of a consumer. */ readonly callers?: string }
  | { readonly t: 'listener'; readonly served: ServedListener; readonly key: string; readonly hostnames: readonly EffectiveHostname[] }

export interface Attachment {
  readonly route: RouteManifest
  /** Position among the route's parentRefs. */
  readonly index: number
  readonly parent: RouteParentStatus['parent']
  /** Empty if it is not accepted. */
  readonly slots: readonly Slot[]
  readonly accepted: RouteCondition
}

const yes: RouteCondition = { status: true, reason: 'Accepted', message: '' }
const no = (reason: string, message: string): RouteCondition => ({ status: false, reason, message })
type Place = Pick<Attachment, 'slots' | 'accepted'>
const refused = (reason: string, message: string): Place => ({ slots: [], accepted: no(reason, message) })

const hostsOf = (route: RouteManifest): readonly string[] => (route.kind === 'TCPRoute' ? [] : route.spec.hostnames)
const entryGroups = ['networking.istio.io', 'sidestep.dev']

/** Every parentRef of every route, in the order of age. References to Gateways of others are left to those. */
export function attach(
  world: World, gateways: ReadonlyMap<string, readonly ServedListener[]>, findings: Findings,
): readonly Attachment[] {
  const attachments: Attachment[] = []
  for (const route of world.routes) {
    const own = route.metadata.namespace
    if (route.spec.parentRefs.length === 0) findings.note(objectKey(route), 'names no parent, so it is not in force anywhere')
    if (route.spec.useDefaultGateways === 'All') findings.note(objectKey(route), 'useDefaultGateways is not honoured: name the parents')
    route.spec.parentRefs.forEach((ref, index) => {
      const { group, kind, name, namespace = own } = ref
      const place = placeOf(route, ref, namespace, world, gateways, findings)
      const parent = given({ group, kind, namespace, name, sectionName: ref.sectionName, port: ref.port })
      if (place) attachments.push({ route, index, parent, ...place })
    })
  }
  return settle(attachments)
}

function placeOf(
  route: RouteManifest, ref: ParentReference, namespace: string, world: World, gateways: ReadonlyMap<string, readonly ServedListener[]>, findings: Findings,
): Place | undefined {
  if (ref.kind === 'Gateway' && ref.group === gatewayGroup) {
    const gateway = world.gateway(namespace, ref.name)
    if (!gateway) return refused('NoMatchingParent', `there is no Gateway ${namespace}/${ref.name}`)
    const role = roleOf(gateway, world)
    if (role === 'waypoint') return refused('NotAllowedByListeners', 'routes of a waypoint name the Service they are for as their parent')
    if (role === undefined) {
      findings.note(objectKey(route), `the Gateway ${namespace}/${ref.name} is served by somebody else`)
      return undefined
    }
    return atGateway(route, ref, gateways.get(objectKey(gateway)) ?? [], world)
  }
  const isService = ref.kind === 'Service' && ref.group === ''
  if (!isService && !(ref.kind === 'ServiceEntry' && entryGroups.includes(ref.group))) {
    return refused('NoMatchingParent', `${ref.kind} of the group ${JSON.stringify(ref.group)} is no parent here`)
  }
  return atService(route, ref, namespace, world, findings)
}

function atService(route: RouteManifest, ref: ParentReference, namespace: string, world: World, findings: Findings): Place {
  const targets = world.targetsOf(ref.kind, namespace, ref.name)
  const [first] = targets
  if (!first) return refused('NoMatchingParent', `there is no ${ref.kind} ${namespace}/${ref.name}`)
  const { owner } = first
  if (owner.kind === 'Service' && owner.spec.type === 'ExternalName') return refused('NoMatchingParent', 'a Service of type ExternalName is an alias and no parent')
  if (owner.kind === 'Service' && owner.spec.clusterIP === 'None') return refused('NoMatchingParent', 'a headless Service has no address that requests go to')
  if (hostsOf(route).length > 0 && route.kind !== 'TLSRoute') findings.note(objectKey(route), 'hostnames are ignored under a Service, as the Gateway API has it')
  const isAsked = ref.port !== undefined || ref.sectionName !== undefined
  const isHttp = route.kind === 'HTTPRoute' || route.kind === 'GRPCRoute'
  const slots: Slot[] = []
  for (const target of targets) {
    for (const { number, name, protocol } of target.ports) {
      if ((ref.port ?? number) !== number || (ref.sectionName ?? name) !== name) continue
      if (isHttp && (protocol === 'tcp' || protocol === 'tls')) {
        if (isAsked) return refused('NoMatchingParent', `port ${number} of ${ownerName(target)} speaks ${protocol}, not HTTP`)
        findings.note(objectKey(route), `port ${number} of ${ownerName(target)} speaks ${protocol}, so the route is not for it`)
        continue
      }
      slots.push({
        t: 'service', target, port: number,
        ...(namespace === route.metadata.namespace ? {} : { callers: route.metadata.namespace }),
      })
    }
  }
  return slots.length > 0 ? { slots, accepted: yes } : refused('NoMatchingParent', `${ownerName(first)} has no such port`)
}

function atGateway(route: RouteManifest, ref: ParentReference, listeners: readonly ServedListener[], world: World): Place {
  const named = listeners.filter(({ spec }) => (ref.sectionName ?? spec.name) === spec.name && (ref.port ?? spec.port) === spec.port)
  if (named.length === 0) return refused('NoMatchingParent', 'the Gateway has no such listener')
  const inForce = named.filter(({ listener }) => listener !== undefined)
  if (inForce.length === 0) return refused('NoMatchingParent', 'the listener is not in force')
  const open = inForce.filter(({ spec, kinds, gateway }) =>
    kinds.has(route.kind) && allowsNamespace(spec.allowedRoutes.namespaces, gateway.metadata.namespace, route.metadata.namespace, world))
  if (open.length === 0) return refused('NotAllowedByListeners', 'no listener takes routes of this kind from this namespace')
  const slots = open.flatMap((served): Slot[] => {
    const hostnames = effectiveHostnames(served.spec.hostname, hostsOf(route))
    return served.listener && hostnames.length > 0 ? [{ t: 'listener', served, key: served.listener.key, hostnames }] : []
  })
  return slots.length > 0 ? { slots, accepted: yes } : refused('NoMatchingListenerHostname', 'no listener has a hostname that the route names')
}

/** GEP-1294: of routes of several kinds at one port only the most specific kind is in force. */
const kindOrder = ['GRPCRoute', 'HTTPRoute', 'TLSRoute', 'TCPRoute'] as const

function settle(attachments: readonly Attachment[]): readonly Attachment[] {
  const bestKind = new Map<string, number>()
  for (const { route, slots } of attachments) {
    for (const slot of slots) {
      if (slot.t === 'service') bestKind.set(groupKey(slot), Math.min(bestKind.get(groupKey(slot)) ?? Infinity, kindOrder.indexOf(route.kind)))
    }
  }
  // At a listener an HTTPRoute and a GRPCRoute may not share a host: the older one has it.
  const held = new Map<string, { readonly route: RouteManifest; readonly hostnames: readonly EffectiveHostname[] }[]>()
  const rivals: Readonly<Record<string, string>> = { HTTPRoute: 'GRPCRoute', GRPCRoute: 'HTTPRoute' }
  return [...attachments].sort((a, b) => byAgeAndName(a.route, b.route) || a.index - b.index).map((attachment) => {
    let lost = ''
    const slots = attachment.slots.filter((slot) => {
      if (slot.t === 'service') {
        const best = kindOrder[bestKind.get(groupKey(slot)) ?? 0]
        if (best !== attachment.route.kind) lost = `port ${slot.port} has a ${best}`
        return best === attachment.route.kind
      }
      const { route } = attachment
      const rival = held.get(`${rivals[route.kind]} ${slot.key}`)?.find(({ hostnames }) => meet(hostnames, slot.hostnames))
      if (rival) lost = `${objectKey(rival.route)} is older and has these hosts`
      else getOrMake(held, `${route.kind} ${slot.key}`, () => []).push({ route, hostnames: slot.hostnames })
      return !rival
    })
    if (slots.length > 0 || attachment.slots.length === 0) return { ...attachment, slots }
    return { ...attachment, slots, accepted: no('Conflicted', `routes of different kinds do not mix: ${lost}`) }
  })
}

function meet(a: readonly EffectiveHostname[], b: readonly EffectiveHostname[]): boolean {
  return a.some((one) => b.some((other) => covers(one.hostname, other.hostname) || covers(other.hostname, one.hostname)))
}

/** Where rules are merged: a port as everybody sees it, or as one namespace of consumers does. */
function groupKey({ target, port, callers = '' }: Extract<Slot, { t: 'service' }>): string {
  return `${target.key}:${port} ${callers}`
}
