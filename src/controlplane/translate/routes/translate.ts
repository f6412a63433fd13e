// From Gateway API routes, VirtualServices, DestinationRules and our policies to what L7 proxies do: route tables, listeners,
// destinations and filters, and what there is to say of each object. Pure: the same objects give the same result in whatever
// order they come, and no object, however odd, makes it throw.
import type { RouteCondition } from '../../../model/control-plane-status.ts'
import { objectKey, type ManifestObject } from '../../../model/manifest.ts'
import type { DestinationPolicy, GatewayListener, RouteTable } from '../../../model/route.ts'
import type { RequestFilter } from '../../../model/waypoint-config.ts'
import { getOrMake } from '../selectors.ts'
import type { TranslateSettings } from '../settings.ts'
import type { RefFailure, RouteContext } from './backends.ts'
import { destinationPolicies } from './destinations.ts'
import { attachedFilters } from './filters.ts'
import { Findings, type ObjectFindings } from './findings.ts'
import { listenerKey, serveGateways, type ServedListener } from './gateways.ts'
import { fullName } from './order.ts'
import { attach, type Attachment, type Slot } from './parents.ts'
import { buildRoute, type BuiltRoute } from './rules.ts'
import { streamEntries } from './streams.ts'
import { listenerTables, serviceTable, type ListenerEntries, type PortGroup, type ServicePort } from './tables.ts'
import { virtualServices } from './virtual-service.ts'
import { World } from './world.ts'

export interface RouteTranslation {
  /** Sorted by key, and of one key the most specific hostnames first. */
  readonly tables: readonly RouteTable[]
  readonly listeners: readonly GatewayListener[]
  /** By `namespace/hostname`; only services that somebody says something of. */
  readonly destinations: ReadonlyMap<string, DestinationPolicy>
  /** By object key, as HttpRule.filters names them. */
  readonly filters: ReadonlyMap<string, RequestFilter>
  /** By object key; only objects of which there is something to say. */
  readonly findings: ReadonlyMap<string, ObjectFindings>
}

export function translateRoutes(objects: Iterable<ManifestObject>, settings: TranslateSettings): RouteTranslation {
  const findings = new Findings()
  return { ...routesOf(new World(objects, settings), findings), findings: findings.result() }
}

/** The same for who has more to say of these objects. */
export function routesOf(world: World, findings: Findings): Omit<RouteTranslation, 'findings'> {
  const gateways = serveGateways(world, findings)
  const attached = attachedFilters({ world })
  const destinations = destinationPolicies(world, findings)
  const ports = new Map<string, ServicePort>()
  const listeners = new Map<string, ListenerEntries>()
  const place = new Placer(world, attached, ports, listeners, findings)
  for (const attachment of attach(world, gateways, findings)) place.put(attachment)
  for (const { target, port, callers, rules } of virtualServices(world, destinations, attached, findings, (key, port, callers) => place.isTaken(key, port, callers))) {
    portGroup(ports, target, port, callers).virtual = rules
  }
  for (const [key, target] of world.targets) {
    const filters = attached.get(objectKey(target.owner))
    if (filters) for (const { number } of target.ports) getOrMake(ports, `${key}:${number}`, () => ({ target, port: number, groups: new Map<string, PortGroup>() }))
  }
  const tables = [...ports.values()].flatMap((port) => serviceTable(port, attached.get(objectKey(port.target.owner)) ?? []) ?? [])
  const served = [...gateways.values()].flat()
  for (const each of served) tables.push(...listenerTables(each, listeners.get(listenerKey(each.gateway, each.spec)) ?? { http: [], streams: [] }))
  for (const table of tables) remarkUnreached(table, findings)
  remarkTargets(world, served, findings)
  return {
    tables: tables.map((table, i) => ({ table, i })).sort((a, b) => (a.table.key < b.table.key ? -1 : a.table.key > b.table.key ? 1 : a.i - b.i)).map(({ table }) => table),
    listeners: served.flatMap(({ listener }) => listener ?? []).sort((a, b) => (a.key < b.key ? -1 : 1)),
    destinations,
    filters: filtersOf(world),
  }
}

function portGroup(ports: Map<string, ServicePort>, target: ServicePort['target'], port: number, callers: string): PortGroup {
  const { groups } = getOrMake(ports, `${target.key}:${port}`, () => ({ target, port, groups: new Map<string, PortGroup>() }))
  return getOrMake(groups, callers, () => ({ http: [], streams: [] }))
}

/** Puts the rules of each route where it is attached, and says what became of it there. */
class Placer {
  readonly #world: World
  readonly #attached: ReadonlyMap<string, readonly string[]>
  readonly #ports: Map<string, ServicePort>
  readonly #listeners: Map<string, ListenerEntries>
  readonly #findings: Findings
  readonly #built = new Map<string, BuiltRoute>()

  constructor(world: World, attached: ReadonlyMap<string, readonly string[]>, ports: Map<string, ServicePort>, listeners: Map<string, ListenerEntries>, findings: Findings) {
    this.#world = world
    this.#attached = attached
    this.#ports = ports
    this.#listeners = listeners
    this.#findings = findings
  }

  /** Whether routes of the Gateway API have a port, as callers of a namespace ('' for everybody) see it. */
  isTaken(targetKey: string, port: number, callers: string): boolean {
    return this.#ports.get(`${targetKey}:${port}`)?.groups.has(callers) ?? false
  }

  put(attachment: Attachment): void {
    const { route, slots, parent } = attachment
    for (const slot of slots) if (slot.t === 'listener') this.#findings.attached(objectKey(slot.served.gateway), slot.served.spec.name, objectKey(route))
    const failures: RefFailure[] = []
    let invalid: ReadonlyMap<number, string> = new Map()
    // A route that is nowhere accepted is still told which of its references lead nowhere.
    for (const slot of slots.length > 0 ? slots : [undefined]) {
      const context = this.#context(attachment, slot)
      if (route.kind === 'TCPRoute' || route.kind === 'TLSRoute') {
        const names = slot?.t === 'listener' ? slot.hostnames.map(({ hostname }) => hostname) : route.kind === 'TLSRoute' && route.spec.hostnames.length > 0 ? route.spec.hostnames : [undefined]
        const { entries, failures: found } = streamEntries(route, names, context, slot?.t === 'service' ? slot.callers : undefined)
        failures.push(...found)
        if (slot?.t === 'service') portGroup(this.#ports, slot.target, slot.port, slot.callers ?? '').streams.push(...entries)
        if (slot?.t === 'listener') this.#listener(slot.key).streams.push(...entries)
        continue
      }
      const built = getOrMake(this.#built, `${objectKey(route)} ${context.parentNamespace ?? ''} ${context.parentFilters.join()}`, () => buildRoute(route, context, this.#attached))
      failures.push(...built.failures)
      invalid = built.invalid
      for (const note of built.notes) this.#findings.note(objectKey(route), note)
      const entry = { route, rules: built.rules }
      if (slot?.t === 'service') portGroup(this.#ports, slot.target, slot.port, slot.callers ?? '').http.push(entry)
      if (slot?.t === 'listener') this.#listener(slot.key).http.push({ ...entry, hostnames: slot.hostnames })
    }
    const isWhollyInvalid = invalid.size > 0 && invalid.size === route.spec.rules.length
    const [failure] = failures
    const accepted: RouteCondition = attachment.accepted.status && isWhollyInvalid
      ? { status: false, reason: 'UnsupportedValue', message: invalidText(invalid) }
      : attachment.accepted
    const resolvedRefs: RouteCondition = failure
      ? { status: false, reason: failure.reason, message: [...new Set(failures.map(({ message }) => message))].join('; ') }
      : { status: true, reason: 'ResolvedRefs', message: '' }
    this.#findings.parent(objectKey(route), {
      parent, accepted, resolvedRefs,
      ...(invalid.size > 0 && accepted.status ? { partiallyInvalid: { status: true, reason: 'UnsupportedValue', message: invalidText(invalid) } } : {}),
    })
    const where = `under ${parent.kind} ${parent.namespace}/${parent.name}`
    if (!accepted.status) this.#findings.problem(objectKey(route), `not accepted ${where} (${accepted.reason}): ${accepted.message}`)
    else if (invalid.size > 0) this.#findings.problem(objectKey(route), invalidText(invalid))
    if (failure) this.#findings.problem(objectKey(route), `${where} (${failure.reason}): ${resolvedRefs.message}`)
  }

  #context({ route, parent }: Attachment, slot: Slot | undefined): RouteContext {
    const owner = slot?.t === 'service' ? objectKey(slot.target.owner) : slot && objectKey(slot.served.gateway)
    const section = slot?.t === 'listener' ? this.#attached.get(slot.key) : undefined
    return {
      world: this.#world, route,
      ...(parent.kind === 'Gateway' ? {} : { parentNamespace: parent.namespace }),
      parentFilters: [...(owner === undefined ? [] : (this.#attached.get(owner) ?? [])), ...(section ?? [])],
    }
  }

  #listener(key: string): ListenerEntries {
    return getOrMake(this.#listeners, key, () => ({ http: [], streams: [] }))
  }
}

/** The Gateway API wants these words at the beginning. */
function invalidText(invalid: ReadonlyMap<number, string>): string {
  return `Dropped Rule ${[...invalid].sort(([a], [b]) => a - b).map(([index, why]) => `${index} (${why})`).join(', ')}`
}

/** Of rules for all connections of the same callers only the first is ever tried. */
function remarkUnreached({ key, tcp }: RouteTable, findings: Findings): void {
  const first = new Map<string, string>()
  for (const { origin, serverNames, sourceNamespaces = [] } of tcp) {
    const callers = sourceNamespaces.join()
    const before = first.get(callers)
    if (before !== undefined && origin !== before) findings.note(origin, `never reached at ${key}: ${before} has all connections`)
    else if (serverNames.length === 0) first.set(callers, origin)
  }
}

/** Policies that attach to what is not there. */
function remarkTargets(world: World, listeners: readonly ServedListener[], findings: Findings): void {
  if (world.filters.length === 0) return
  const known = new Set<string>([
    ...world.routes.map(objectKey), ...world.gateways.map(objectKey),
    ...[...world.targets.values()].map(({ owner }) => objectKey(owner)),
  ])
  for (const { gateway, spec } of listeners) known.add(listenerKey(gateway, spec))
  for (const route of world.routes) for (const { name } of route.spec.rules) if (name !== undefined) known.add(`${objectKey(route)}/${name}`)
  for (const policy of world.filters) {
    for (const { kind, name, sectionName } of policy.spec.targetRefs) {
      const target = `${kind} ${policy.metadata.namespace}/${name}${sectionName === undefined ? '' : `/${sectionName}`}`
      if (!['HTTPRoute', 'GRPCRoute', 'Gateway', 'Service', 'ServiceEntry'].includes(kind)) findings.problem(objectKey(policy), `cannot be attached to a ${kind}`)
      else if (!known.has(target)) findings.problem(objectKey(policy), `there is no ${target} to attach to`)
    }
  }
}

function filtersOf(world: World): ReadonlyMap<string, RequestFilter> {
  const sorted = [...world.filters].sort((a, b) => (fullName(a) < fullName(b) ? -1 : 1))
  return new Map(sorted.map((policy): [string, RequestFilter] => {
    if (policy.kind === 'RateLimitPolicy') {
      const { targetRefs: _, ...spec } = policy.spec
      return [objectKey(policy), { t: 'rateLimit', spec }]
    }
    const { targetRefs: _, ...spec } = policy.spec
    return [objectKey(policy), { t: 'cache', spec }]
  }))
}
