// What the API has of the objects that controllers write about: who they are, which generation, and what their status says. Whoever
// watches them for translation tells them here too, so that each is watched once; what they want is not kept again. Looks only.
import type { KubeObject, ResourceType } from '../../kube/api.ts'

export interface ObservedObject {
  readonly type: ResourceType
  /** Empty for kinds without namespaces. */
  readonly namespace: string
  readonly name: string
  readonly uid: string
  readonly resourceVersion: string
  /** 0 where the kind counts none, as Services and namespaces. */
  readonly generation: number
  /** Only of kinds with a status that we write. */
  readonly status: Readonly<Record<string, unknown>>
  /** Of Gateways and routes: what tells whose they are when all else of them cannot be read. */
  readonly gatewayClassName?: string
  readonly controllerName?: string
  readonly parentRefs?: readonly unknown[]
  readonly targetRefs?: readonly unknown[]
}

/** Kinds that are kept here; of others nothing. */
const kinds: ReadonlySet<string> = new Set([
  'Namespace', 'Service', 'GatewayClass', 'Gateway', 'HTTPRoute', 'GRPCRoute', 'TCPRoute', 'TLSRoute', 'AuthorizationPolicy', 'PeerAuthentication',
  'RequestAuthentication', 'ServiceEntry', 'WorkloadEntry', 'VirtualService', 'DestinationRule', 'RateLimitPolicy', 'CachePolicy', 'BackendPolicy', 'AuthorizationProvider',
])

const ourFields: Readonly<Record<string, readonly string[]>> = {
  // Addresses and load balancers of all services are nobody's business here.
  Service: ['conditions'], Namespace: ['conditions'],
}

const nothing: Readonly<Record<string, unknown>> = Object.freeze({})

/** A kind whatever its version; that is said by each object. */
export type ObservedKind = Omit<ResourceType, 'version'>

export class ObservedObjects {
  readonly #objects = new Map<string, ObservedObject>()
  readonly #byKind = new Map<string, Map<string, ObservedObject>>()
  #onChange: () => void = () => undefined

  /** One listener, told after something is new, different or gone. */
  onChange(listener: () => void): void {
    this.#onChange = listener
  }

  put(kind: ObservedKind, object: KubeObject): void {
    if (!kinds.has(kind.kind)) return
    this.#set(observe(kind, object))
    this.#onChange()
  }

  #set(seen: ObservedObject): void {
    const id = observedId(seen)
    this.#objects.set(id, seen)
    const ofKind = this.#byKind.get(seen.type.kind)
    if (ofKind) ofKind.set(id, seen)
    else this.#byKind.set(seen.type.kind, new Map([[id, seen]]))
  }

  /** `name` as watches have it: `namespace/name`, or `name` alone. */
  remove(kind: ObservedKind, name: string): void {
    const id = `${kind.group}/${kind.kind} ${name}`
    if (!this.#objects.delete(id)) return
    this.#byKind.get(kind.kind)?.delete(id)
    this.#onChange()
  }

  /** What the API answered to a write of ours, before a watch tells it. Its spec may be newer than what is translated: then it waits. */
  written(before: ObservedObject, answer: KubeObject): void {
    const id = observedId(before)
    const now = this.#objects.get(id)
    if (now?.resourceVersion !== before.resourceVersion || (answer.metadata.generation ?? 0) !== before.generation) return
    this.#set(observe(before.type, answer))
  }

  /** By `observedId`. */
  get(id: string): ObservedObject | undefined {
    return this.#objects.get(id)
  }

  values(): IterableIterator<ObservedObject> {
    return this.#objects.values()
  }

  ofKind(kind: string): Iterable<ObservedObject> {
    return this.#byKind.get(kind)?.values() ?? []
  }

  get size(): number {
    return this.#objects.size
  }
}

/** `gateway.networking.k8s.io/HTTPRoute shop/web`: two groups may have a kind of one name. */
export function observedId({ type: { group, kind }, namespace, name }: { readonly type: ObservedKind; readonly namespace: string; readonly name: string }): string {
  return `${group}/${kind} ${namespace === '' ? name : `${namespace}/${name}`}`
}

/** As model/manifest.ts names it. */
export function keyOf({ type: { kind }, namespace, name }: { readonly type: ObservedKind; readonly namespace: string; readonly name: string }): string {
  return `${kind} ${namespace === '' ? name : `${namespace}/${name}`}`
}

function observe({ group, plural, kind, namespaced }: ObservedKind, { apiVersion, metadata, spec, status }: KubeObject): ObservedObject {
  const { gatewayClassName, controllerName, parentRefs, targetRefs } = isRecord(spec) ? spec : nothing
  return {
    type: { group, version: apiVersion.slice(apiVersion.indexOf('/') + 1), plural, kind, namespaced },
    namespace: metadata.namespace ?? '', name: metadata.name, uid: metadata.uid ?? '', resourceVersion: metadata.resourceVersion ?? '',
    generation: metadata.generation ?? 0,
    status: statusOf(kind, status),
    ...(typeof gatewayClassName === 'string' ? { gatewayClassName } : {}),
    ...(typeof controllerName === 'string' ? { controllerName } : {}),
    ...(Array.isArray(parentRefs) ? { parentRefs } : {}),
    ...(Array.isArray(targetRefs) ? { targetRefs } : {}),
  }
}

function statusOf(kind: string, status: unknown): Readonly<Record<string, unknown>> {
  if (!isRecord(status)) return nothing
  const fields = Object.hasOwn(ourFields, kind) ? ourFields[kind] : undefined
  if (!fields) return status
  const kept = Object.entries(status).filter(([name]) => fields.includes(name))
  return kept.length === 0 ? nothing : Object.fromEntries(kept)
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
