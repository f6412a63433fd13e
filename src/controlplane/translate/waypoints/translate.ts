// From all objects to what each gateway of ours (a waypoint or an ingress) is told, and what there is to say of each object.
// Pure: the same objects give the same in whatever order they come. A gateway is told what is its own: routes of the services
// behind it, what those lead to, and of Secrets only those that their owners let it have, and of those only the part it needs.
import { gatewayGroup } from '../../../model/manifest-gateway.ts'
import {
  objectKey, type ConfigMapManifest, type GatewayManifest, type ManifestObject, type SecretManifest,
} from '../../../model/manifest.ts'
import type { Backend, DestinationPolicy, GatewayListener, RouteTable, TrafficPolicy } from '../../../model/route.ts'
import { waypointResourceName, type SecurityScope, type WaypointResource } from '../../../model/waypoint-config.ts'
import { serviceKey } from '../../../model/workload.ts'
import { serviceBindings, waypointFailureModeAnnotation, type WaypointBinding } from '../routes/bindings.ts'
import { Findings, type ObjectFindings } from '../routes/findings.ts'
import { roleOf } from '../routes/gateways.ts'
import { byAgeAndName, fullName } from '../routes/order.ts'
import { routesOf, type RouteTranslation } from '../routes/translate.ts'
import { ownerName, World } from '../routes/world.ts'
import { getOrMake } from '../selectors.ts'
import type { TranslateSettings } from '../settings.ts'
import { remarkSecrets, Secrets } from './secrets.ts'
import { Providers } from './providers.ts'
import { Security } from './security.ts'
import { remarkWishes } from './wishes.ts'

export interface WaypointTranslation {
  /** By `waypointResourceName`. */
  readonly resources: ReadonlyMap<string, WaypointResource>
  /** By object key; only objects of which there is something to say. */
  readonly findings: ReadonlyMap<string, ObjectFindings>
  /** Object keys of the Secrets and ConfigMaps that somebody may use and refers to, also of those that are not there. */
  readonly wanted: ReadonlySet<string>
}

export function translateWaypoints(objects: Iterable<ManifestObject>, settings: TranslateSettings): WaypointTranslation {
  const all = [...objects]
  const world = new World(all, settings)
  const findings = new Findings()
  const routes = routesOf(world, findings)
  const bindings = serviceBindings(world, settings)
  const policies = ofKinds(all, 'AuthorizationPolicy', 'RequestAuthentication').sort(byAgeAndName)
  const providers = new Providers(ofKinds(all, 'AuthorizationProvider'), world, findings)
  const security = new Security(policies, world, bindings, providers, findings)
  const secrets = new Map<string, SecretManifest | ConfigMapManifest>()
  for (const object of ofKinds(all, 'Secret', 'ConfigMap')) secrets.set(objectKey(object), object)
  remarkSecrets(secrets.values(), findings)
  remarkWishes(all, world, settings, findings)
  remarkUnserved(routes, world, bindings, findings)
  const parts = new Parts(routes, bindings)
  const resources = new Map<string, WaypointResource>()
  const wanted = new Set<string>()
  for (const gateway of [...world.gateways].sort((a, b) => (fullName(a) < fullName(b) ? -1 : 1))) {
    const role = roleOf(gateway, world)
    if (role === undefined) continue
    remarkFailureMode(gateway, role === 'waypoint', findings)
    const own = new Resources(gateway, world, parts, { security, providers, secrets, wanted }, findings)
    for (const resource of role === 'waypoint' ? own.ofWaypoint() : own.ofIngress()) {
      resources.set(waypointResourceName(gateway.metadata, resource), resource)
    }
  }
  return { resources, findings: findings.result(), wanted }
}

function ofKinds<K extends ManifestObject['kind']>(objects: readonly ManifestObject[], ...kinds: readonly K[]): Extract<ManifestObject, { kind: K }>[] {
  return objects.filter((object): object is Extract<ManifestObject, { kind: K }> => kinds.some((kind) => kind === object.kind))
}

function remarkFailureMode(gateway: GatewayManifest, isWaypoint: boolean, findings: Findings): void {
  const { [waypointFailureModeAnnotation]: mode } = gateway.metadata.annotations
  if (mode === undefined) return
  const text = `the annotation ${waypointFailureModeAnnotation} is`
  if (!isWaypoint) findings.note(objectKey(gateway), `${text} for waypoints`)
  else if (mode !== 'open' && mode !== 'closed') {
    findings.problem(objectKey(gateway), `${text} ${JSON.stringify(mode.slice(0, 63))}, neither open nor closed: it counts as closed`)
  }
}

/** Rules for a service are its waypoint's to follow: without one they are in force nowhere, nor are filters that only they have. */
function remarkUnserved(
  { tables }: Pick<RouteTranslation, 'tables'>, world: World, bindings: ReadonlyMap<string, WaypointBinding>, findings: Findings,
): void {
  const served = new Set<string>()
  const unserved = new Map<string, Set<string>>()
  for (const { key, http, tcp } of tables) {
    const target = world.targets.get(key.slice(0, key.lastIndexOf(':')))
    const isServed = key.startsWith('Gateway ') || (target && bindings.get(target.key)?.t === 'bound')
    const objects = [...http.flatMap(({ origin, filters }) => [origin, ...filters]), ...tcp.map(({ origin }) => origin)]
    for (const object of objects) {
      if (isServed) served.add(object)
      else if (target && object !== objectKey(target.owner)) {
        getOrMake(unserved, object, () => new Set<string>()).add(ownerName(target))
      }
    }
  }
  for (const [object, owners] of unserved) {
    const isFilter = object.startsWith('RateLimitPolicy ') || object.startsWith('CachePolicy ')
    if (isFilter && served.has(object)) continue
    for (const owner of owners) findings.problem(object, `${owner} is behind no waypoint, so nothing of it is in force there`)
  }
}

/** What was translated, by whom it is for. */
class Parts {
  readonly routes: Omit<RouteTranslation, 'findings'>
  /** Of a service's port (`namespace/hostname:port`) or a listener. */
  readonly tables = new Map<string, RouteTable[]>()
  /** Keys of the services behind a waypoint (`namespace/name`), sorted. */
  readonly bound = new Map<string, string[]>()
  readonly listeners = new Map<string, GatewayListener[]>()

  constructor(routes: Omit<RouteTranslation, 'findings'>, bindings: ReadonlyMap<string, WaypointBinding>) {
    this.routes = routes
    for (const table of routes.tables) getOrMake(this.tables, table.key, () => []).push(table)
    for (const [key, binding] of bindings) {
      if (binding.t === 'bound') getOrMake(this.bound, fullNameOf(binding.waypoint), () => []).push(key)
    }
    for (const listener of routes.listeners) getOrMake(this.listeners, fullNameOf(listener.gateway), () => []).push(listener)
  }
}

function fullNameOf({ namespace, name }: { readonly namespace: string; readonly name: string }): string {
  return `${namespace}/${name}`
}

interface Sources {
  readonly security: Security
  readonly providers: Providers
  readonly secrets: ReadonlyMap<string, SecretManifest | ConfigMapManifest>
  readonly wanted: Set<string>
}

/** What one gateway is told. */
class Resources {
  readonly #gateway: GatewayManifest
  readonly #world: World
  readonly #parts: Parts
  readonly #sources: Sources
  readonly #secrets: Secrets
  readonly #findings: Findings
  /** Services whose endpoints it may ask. */
  readonly #reached = new Set<string>()
  readonly #filters = new Set<string>()
  readonly #providers = new Set<string>()

  constructor(gateway: GatewayManifest, world: World, parts: Parts, sources: Sources, findings: Findings) {
    this.#gateway = gateway
    this.#world = world
    this.#parts = parts
    this.#sources = sources
    this.#secrets = new Secrets(sources.secrets, sources.wanted)
    this.#findings = findings
  }

  *ofWaypoint(): Generator<WaypointResource> {
    const bound = this.#parts.bound.get(fullName(this.#gateway)) ?? []
    yield this.#security('', this.#sources.security.ofGateway(this.#gateway))
    for (const key of bound) {
      const target = this.#world.targets.get(key)
      if (!target) continue
      this.#reached.add(key)
      for (const { number } of target.ports) yield* this.#routes(`${key}:${number}`)
      const own = this.#sources.security.ofService(this.#gateway, objectKey(target.owner))
      if (own) yield this.#security(key, own)
    }
    yield* this.#rest(new Set(bound))
  }

  *ofIngress(): Generator<WaypointResource> {
    const scope = this.#sources.security.ofGateway(this.#gateway)
    yield this.#security('', scope)
    for (const listener of this.#parts.listeners.get(fullName(this.#gateway)) ?? []) {
      const { key } = listener
      yield { kind: 'listener', key, listener }
      yield* this.#routes(key)
      yield this.#security(key, scope)
      this.#useSecrets(listener)
    }
    yield* this.#rest(new Set())
  }

  #security(key: string, security: SecurityScope): WaypointResource {
    for (const { provider } of security.policies) if (provider !== undefined) this.#providers.add(provider)
    return { kind: 'security', key, security }
  }

  *#routes(key: string): Generator<WaypointResource> {
    const tables = this.#parts.tables.get(key)
    if (!tables) return
    for (const table of tables) {
      for (const backend of backendsOf(table)) if (backend.broken === undefined) this.#reached.add(serviceKey(backend.service))
      for (const { filters } of table.http) for (const filter of filters) this.#filters.add(filter)
    }
    yield { kind: 'routes', key, tables }
  }

  /** What that leads to. */
  *#rest(bound: ReadonlySet<string>): Generator<WaypointResource> {
    for (const key of [...this.#providers].sort()) {
      const provider = this.#sources.providers.get(key)
      if (!provider) continue
      this.#reached.add(provider.service)
      yield { kind: 'provider', key, provider }
    }
    for (const key of [...this.#filters].sort()) {
      const filter = this.#parts.routes.filters.get(key)
      if (filter) yield { kind: 'filter', key, filter }
    }
    for (const key of [...this.#reached].sort()) {
      const destination = this.#parts.routes.destinations.get(key)
      if (!destination) continue
      this.#useDestination(destination, bound.has(key))
      yield { kind: 'destination', key, destination }
    }
    yield* this.#secrets.resources()
  }

  #useSecrets({ name, tls, clientCertificates }: GatewayListener): void {
    const unresolved = (reason: string, text: string): void => this.#findings.unresolved(objectKey(this.#gateway), name, reason, text)
    for (const each of tls?.certificates ?? []) {
      const missing = this.#secrets.use(`Secret ${each}`, 'certificate')
      if (missing !== undefined) unresolved('InvalidCertificateRef', missing)
    }
    if (!clientCertificates) return
    let usable = 0
    for (const each of clientCertificates.authorities) {
      const missing = this.#secrets.use(each, 'authorities')
      if (missing === undefined) usable += 1
      else unresolved('InvalidCACertificateRef', missing)
    }
    // Still served: its handshakes fail, where nobody listening could be taken for a network that is broken.
    if (usable === 0) this.#findings.refuseListener(objectKey(this.#gateway), name, 'NoValidCACertificate', 'of no authority that it names a certificate could be accepted')
  }

  /** The owner of a service that chose this gateway lets it speak for the service; others must say so in a ReferenceGrant. */
  #useDestination({ key, policy, ports, subsets }: DestinationPolicy, isBound: boolean): void {
    const policies: TrafficPolicy[] = [policy, ...ports.values()]
    for (const subset of subsets.values()) policies.push(subset.policy)
    for (const { tls } of policies) {
      for (const [each, part] of [[tls?.caSecret, 'authorities'], [tls?.certificateSecret, 'certificate']] as const) {
        if (each === undefined) continue
        const why = isBound || this.#mayName(each)
          ? this.#secrets.use(`Secret ${each}`, part)
          : `no ReferenceGrant lets it use the Secret ${each} (RefNotPermitted)`
        if (why !== undefined) this.#findings.problem(objectKey(this.#gateway), `connections to ${key}: ${why}, so none is made`)
      }
    }
  }

  #mayName(secret: string): boolean {
    const [namespace = '', name = ''] = secret.split('/')
    const { namespace: own } = this.#gateway.metadata
    const from = { group: gatewayGroup, kind: 'Gateway', namespace: own }
    return namespace === own || this.#world.mayName(from, { group: '', kind: 'Secret', namespace, name })
  }
}

function* backendsOf({ http, tcp }: RouteTable): Generator<Backend> {
  for (const { action, mirrors } of http) {
    if (action.t === 'forward') yield* action.backends
    for (const { backend } of mirrors) yield backend
  }
  for (const { backends } of tcp) yield* backends
}
