// The Kubernetes API as the rest of Sidestep sees it: plain JSON objects by path, and changes of a kind as they come. Shapes only;
// client.ts speaks to a real API server. Nothing here knows what the mesh makes of an object.

export interface KubeMetadata {
  readonly name: string
  readonly namespace?: string
  readonly uid?: string
  readonly resourceVersion?: string
  readonly generation?: number
  readonly labels?: Readonly<Record<string, string>>
  readonly annotations?: Readonly<Record<string, string>>
  readonly ownerReferences?: readonly KubeOwner[]
  readonly deletionTimestamp?: string
  readonly creationTimestamp?: string
}

export interface KubeOwner {
  readonly apiVersion: string
  readonly kind: string
  readonly name: string
  readonly uid: string
  readonly controller?: boolean
  readonly blockOwnerDeletion?: boolean
}

/** As the API gives it, unchecked but for the metadata. */
export interface KubeObject {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: KubeMetadata
  readonly spec?: unknown
  readonly status?: unknown
  readonly [field: string]: unknown
}

/** One kind of one version: `{ group: '', version: 'v1', plural: 'pods', kind: 'Pod', namespaced: true }`. */
export interface ResourceType {
  /** Empty for the core group. */
  readonly group: string
  readonly version: string
  readonly plural: string
  readonly kind: string
  readonly namespaced: boolean
}

export interface ResourceName {
  /** Empty, or absent, for a kind without namespaces. */
  readonly namespace?: string
  readonly name: string
}

/** `/apis/GROUP/VERSION/namespaces/NAMESPACE/PLURAL/NAME/SUBRESOURCE`, as far as it is said. Each part is escaped. */
export function resourcePath(type: ResourceType, at: { readonly namespace?: string; readonly name?: string; readonly subresource?: string } = {}): string {
  const parts = [
    ...(type.group === '' ? ['api'] : ['apis', type.group]), type.version,
    ...(type.namespaced && at.namespace !== undefined && at.namespace !== '' ? ['namespaces', at.namespace] : []),
    type.plural,
    ...(at.name === undefined ? [] : [at.name]),
    ...(at.subresource === undefined ? [] : [at.subresource]),
  ]
  return `/${parts.map(encodeURIComponent).join('/')}`
}

export interface CallOptions {
  readonly query?: Readonly<Record<string, string | number | boolean | undefined>>
  readonly signal?: AbortSignal
  /** 30 s unless told. */
  readonly timeoutMs?: number
}

export type PatchType = 'merge' | 'strategic' | 'json' | 'apply'

/**
 * One API server. Every call rejects with KUBE_API where the server refuses (`detail` has `status`, the HTTP status, and `reason`,
 * as in NotFound or Conflict), with KUBE_UNREACHABLE where it does not answer.
 */
export interface KubeApi {
  get(path: string, options?: CallOptions): Promise<KubeObject>
  create(path: string, object: unknown, options?: CallOptions): Promise<KubeObject>
  replace(path: string, object: unknown, options?: CallOptions): Promise<KubeObject>
  patch(path: string, patch: unknown, type: PatchType, options?: CallOptions): Promise<KubeObject>
  /** Server-side apply under our field manager; takes fields from others. */
  apply(type: ResourceType, object: KubeObject, options?: CallOptions & { readonly subresource?: string; readonly force?: boolean }): Promise<KubeObject>
  /** Resolves also when there is nothing of that name. */
  delete(path: string, options?: CallOptions & { readonly propagation?: 'Foreground' | 'Background' | 'Orphan' }): Promise<void>
  /** All pages of a list, and the resourceVersion that a watch goes on from. */
  list(path: string, options?: CallOptions): Promise<{ readonly items: readonly KubeObject[]; readonly resourceVersion: string }>
}

/** What a watch tells. Keys are `namespace/name`, or `name` for kinds without namespaces. */
export interface ObjectListener<T> {
  /** New or changed; it may be another object (`uid`) of the same name, whose predecessor went while nobody looked. */
  put(key: string, object: T): void
  remove(key: string): void
}

export interface WatchOptions<T> {
  readonly type: ResourceType
  readonly namespace?: string
  readonly labelSelector?: string
  readonly fieldSelector?: string
  /** Takes of each object only what is used, so that memory is bounded by that; undefined leaves the object out. */
  readonly trim: (object: KubeObject) => T | undefined
  readonly listener: ObjectListener<T>
}
