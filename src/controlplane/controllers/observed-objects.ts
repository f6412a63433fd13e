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

export class ObservedObjects {
  readonly #objects = new Map<string, ObservedObject>()
  #onChange: (key: string) => void = () => undefined

  /** One listener; told with the id of what is new, different or gone. */
  onChange(listener: (id: string) => void): void {
    this.#onChange = listener
  }

  put(type: ResourceType, object: KubeObject): void {
    if (!kinds.has(type.kind)) return
    const seen = observe(type, object)
    const id = observedId(seen)
    this.#objects.set(id, seen)
    this.#onChange(id)
  }

  remove(type: ResourceType, name: { readonly namespace?: string; readonly name: string }): void {
    const id = observedId({ type, namespace: name.namespace ?? '', name: name.name })
    if (this.#objects.delete(id)) this.#onChange(id)
  }

  /** By `observedId`. */
  get(id: string): ObservedObject | undefined {
    return this.#objects.get(id)
  }

  values(): IterableIterator<ObservedObject> {
    return this.#objects.values()
  }

  get size(): number {
    return this.#objects.size
  }
}

/** `gateway.networking.k8s.io/HTTPRoute shop/web`: two groups may have a kind of one name. */
export function observedId({ type: { group, kind }, namespace, name }: Pick<ObservedObject, 'type' | 'namespace' | 'name'>): string {
  return `${group}/${kind} ${namespace === '' ? name : `${namespace}/${name}`}`
}

/** As model/manifest.ts names it. */
export function keyOf({ type: { kind }, namespace, name }: Pick<ObservedObject, 'type' | 'namespace' | 'name'>): string {
  return `${kind} ${namespace === '' ? name : `${namespace}/${name}`}`
}

function observe(type: ResourceType, { metadata, spec, status }: KubeObject): ObservedObject {
  const { gatewayClassName, controllerName, parentRefs, targetRefs } = isRecord(spec) ? spec : nothing
  return {
    type, namespace: metadata.namespace ?? '', name: metadata.name, uid: metadata.uid ?? '', resourceVersion: metadata.resourceVersion ?? '',
    generation: metadata.generation ?? 0,
    status: statusOf(type.kind, status),
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
