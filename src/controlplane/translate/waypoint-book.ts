// What gateways are told, kept until something that it depends on changes. Routes and policies are translated all together, so
// this only remembers that something changed; when to translate is for who knows how much time there is. A mesh without anything
// for gateways never pays for it, and pods coming and going are no change.
import { isDeepStrictEqual } from 'node:util'
import { policyKey } from '../../model/authorization.ts'
import type { ManifestObject } from '../../model/manifest.ts'
import type { WaypointResource } from '../../model/waypoint-config.ts'
import { targetsOf } from './authorization-policy.ts'
import { wishLabels } from './routes/bindings.ts'
import type { ObjectFindings } from './routes/findings.ts'
import { getOrMake } from './selectors.ts'
import type { TranslateSettings } from './settings.ts'
import { labelsOfEntry } from './workload.ts'
import { tlsNames } from './waypoints/certificates.ts'
import { translateWaypoints } from './waypoints/translate.ts'

export interface WaypointDelta {
  /** By resource name. */
  readonly waypoint: ReadonlyMap<string, WaypointResource>
  readonly removedWaypoint: readonly string[]
}

/** `cause`: without any of these there is nothing to translate. `context`: what those are about. */
type Role = 'cause' | 'context' | 'none'

export class WaypointBook {
  readonly #settings: TranslateSettings
  readonly #objects = new Map<string, ManifestObject>()
  readonly #causes = new Set<string>()
  #resources: ReadonlyMap<string, WaypointResource> = new Map()
  #findings: ReadonlyMap<string, ObjectFindings> = new Map()
  #wanted: ReadonlySet<string> = new Set()
  #remarked: readonly string[] = []
  #isStale = false
  /** Names of resources by the objects that they were made of; made when somebody asks. */
  #byObject: ReadonlyMap<string, readonly string[]> | undefined

  constructor(settings: TranslateSettings) {
    this.#settings = settings
  }

  /** `after` is undefined for an object that is gone. */
  changed(key: string, before: ManifestObject | undefined, after: ManifestObject | undefined): void {
    const role = after ? roleOf(after) : 'none'
    const was = this.#objects.has(key)
    if (!was && role === 'none') return
    if (after && role !== 'none') this.#objects.set(key, after)
    else this.#objects.delete(key)
    const wasCause = this.#causes.delete(key)
    if (role === 'cause') this.#causes.add(key)
    if (role === 'cause' || wasCause) this.#isStale = true
    else if (this.#causes.size > 0 && !(before && after && saysTheSame(before, after))) this.#isStale = true
  }

  /** Whether `update` may come to something else than it did. */
  get isStale(): boolean {
    return this.#isStale
  }

  /** Translates anew; the difference to the last call. */
  update(): WaypointDelta {
    const waypoint = new Map<string, WaypointResource>()
    if (!this.#isStale) return { waypoint, removedWaypoint: [] }
    this.#isStale = false
    const before = this.#resources
    const { resources, findings, wanted } = this.#causes.size === 0 ? nothing : translateWaypoints(this.#objects.values(), this.#settings)
    for (const [name, resource] of resources) if (!isDeepStrictEqual(before.get(name), resource)) waypoint.set(name, resource)
    this.#resources = resources
    this.#findings = findings
    this.#wanted = wanted
    this.#remarked = [...findings].flatMap(([key, { problems, notes }]) => (problems.length + notes.length > 0 ? [key] : []))
    this.#byObject = undefined
    return { waypoint, removedWaypoint: [...before.keys()].filter((name) => !resources.has(name)) }
  }

  /** As of the last update. */
  get resources(): ReadonlyMap<string, WaypointResource> {
    return this.#resources
  }

  /** Object keys of the Secrets and ConfigMaps that it would use, as of the last update; also of those that are not there. */
  get wanted(): ReadonlySet<string> {
    return this.#wanted
  }

  /** Names of the resources that an object became a part of; of what leaves no name there, none. */
  resourcesOf(key: string): readonly string[] {
    if (!this.#byObject) {
      const found = new Map<string, string[]>()
      for (const [name, resource] of this.#resources) {
        for (const object of new Set(madeOf(name, resource))) getOrMake(found, object, () => []).push(name)
      }
      this.#byObject = found
    }
    return this.#byObject.get(key) ?? none
  }

  /** Keys of the objects with problems or notes: few, where findings are of every route. */
  get remarked(): readonly string[] {
    return this.#remarked
  }

  /** By object key. */
  get findings(): ReadonlyMap<string, ObjectFindings> {
    return this.#findings
  }
}

const none: readonly string[] = Object.freeze([])

/** Keys of the gateway and of the objects that can be told from the resource. */
function* madeOf(name: string, resource: WaypointResource): Generator<string> {
  const [namespace = '', gateway = ''] = name.split('/')
  yield `Gateway ${namespace}/${gateway}`
  switch (resource.kind) {
    case 'routes':
      for (const { http, tcp } of resource.tables) for (const { origin } of [...http, ...tcp]) yield origin
      return
    case 'security':
      for (const policy of resource.security.policies) yield `AuthorizationPolicy ${policyKey(policy)}`
      return
    case 'provider': return yield `AuthorizationProvider ${resource.key}`
    case 'filter':
    case 'secret': return yield resource.key
    case 'destination':
    case 'listener':
      return
  }
}

const nothing = { resources: new Map<string, WaypointResource>(), findings: new Map<string, ObjectFindings>(), wanted: new Set<string>() }

function roleOf(object: ManifestObject): Role {
  switch (object.kind) {
    case 'Node':
    case 'ServiceAccount':
    case 'EndpointSlice':
    case 'PeerAuthentication':
      return 'none'
    case 'Namespace':
    case 'Service':
    case 'ServiceEntry':
      return wishes(object.metadata.labels) ? 'cause' : 'context'
    case 'Pod': return wishes(object.metadata.labels) ? 'cause' : 'none'
    case 'Deployment': return wishes(object.spec.template.metadata.labels) ? 'cause' : 'none'
    case 'WorkloadEntry': return wishes(labelsOfEntry(object.metadata.labels, object.spec.labels)) ? 'cause' : 'none'
    case 'ConfigMap': return 'context'
    // What says itself that it is for TLS is looked at whoever names it.
    case 'Secret': return object.type === 'kubernetes.io/tls' ? 'cause' : 'context'
    case 'AuthorizationPolicy': return targetsOf(object.spec).length > 0 ? 'cause' : 'none'
    default: return 'cause'
  }
}

function wishes(labels: Readonly<Record<string, string>>): boolean {
  return wishLabels.some((name) => Object.hasOwn(labels, name))
}

/** Whether only parts are different that gateways are not told: whom a Service selects, annotations, what else a ConfigMap holds. */
function saysTheSame(before: ManifestObject, after: ManifestObject): boolean {
  return isDeepStrictEqual(told(before), told(after))
}

function told(object: ManifestObject): unknown {
  const { kind, metadata: { labels, creationTimestamp } } = object
  switch (object.kind) {
    case 'Service': return { kind, labels, creationTimestamp, spec: { ...object.spec, selector: undefined } }
    case 'ConfigMap':
    case 'Secret': return { kind, parts: tlsNames.map((name) => object.data[name]) }
    default: return { kind, labels, creationTimestamp, spec: 'spec' in object ? object.spec : undefined }
  }
}
