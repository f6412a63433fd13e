// Secrets and ConfigMaps of the Kubernetes API, each watched by its name, and only those that somebody refers to: what nobody refers
// to is never read, and whoever installs us may allow exactly the names that are needed.
import type { Logger } from '../../core/log.ts'
import type { KubeObject, ResourceType } from '../../kube/api.ts'
import type { WatchApi } from '../../kube/client.ts'
import { ListWatch } from '../../kube/list-watch.ts'
import type { Problem } from '../../model/manifest.ts'
import { isKubernetesName } from '../gateway-pods.ts'
import { apiOrigin } from './slim.ts'

type NamedKind = 'Secret' | 'ConfigMap'

const types: Readonly<Record<NamedKind, ResourceType>> = {
  Secret: { group: '', version: 'v1', plural: 'secrets', kind: 'Secret', namespaced: true },
  ConfigMap: { group: '', version: 'v1', plural: 'configmaps', kind: 'ConfigMap', namespaced: true },
}

/** Each is a request that stays open. */
const maxWatched = 2_000
/** Who waits for one that cannot be read goes on without it after this. */
const waitMs = 3_000

export interface NamedObjectsOptions {
  readonly api: WatchApi
  readonly logger: Logger
  readonly put: (kind: NamedKind, name: string, object: KubeObject) => void
  readonly remove: (kind: NamedKind, name: string) => void
}

export class NamedObjects {
  readonly #options: NamedObjectsOptions
  /** By object key. */
  readonly #watches = new Map<string, ListWatch<KubeObject>>()
  #refused: readonly Problem[] = []
  #isClosed = false

  constructor(options: NamedObjectsOptions) {
    this.#options = options
  }

  /** All that are wanted from now on. Resolves when each was read, is known not to be there, or took too long. */
  async want(keys: ReadonlySet<string>): Promise<void> {
    if (this.#isClosed) return
    for (const [key, watch] of this.#watches) {
      if (keys.has(key)) continue
      this.#watches.delete(key)
      watch.close()
      const name = nameOf(key)
      if (name) this.#options.remove(name.kind, `${name.namespace}/${name.name}`)
    }
    const refused: Problem[] = []
    for (const key of keys) {
      if (this.#watches.has(key)) continue
      const watch = this.#watches.size < maxWatched ? this.#watch(key) : undefined
      if (watch) this.#watches.set(key, watch)
      else refused.push({ ...apiOrigin, object: key, reason: this.#watches.size < maxWatched ? 'has no name of Kubernetes' : `is not read: more than ${maxWatched} are referred to` })
    }
    this.#refused = refused
    await this.#allRead()
  }

  async #allRead(): Promise<void> {
    const unread = [...this.#watches.values()].filter((watch) => !watch.state().isSynced)
    if (unread.length === 0) return
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, waitMs)))
    // One that is wanted no longer is as good as read.
    await Promise.race([Promise.allSettled(unread.map((watch) => watch.synced())), late])
    clearTimeout(timer)
  }

  #watch(key: string): ListWatch<KubeObject> | undefined {
    const found = nameOf(key)
    if (!found) return undefined
    const { kind, namespace, name } = found
    const { api, logger, put, remove } = this.#options
    const watch = new ListWatch<KubeObject>({
      api, log: logger, type: types[kind], namespace, fieldSelector: `metadata.name=${name}`,
      // A server that does not know the selector must not make us read the rest.
      trim: (object) => (object.metadata.name === name && object.metadata.namespace === namespace ? object : undefined),
      listener: { put: (id, object) => put(kind, id, object), remove: (id) => remove(kind, id) },
    })
    watch.start()
    return watch
  }

  /** Those that cannot be read. */
  problems(): readonly Problem[] {
    const failing = [...this.#watches].flatMap(([key, watch]): Problem[] => {
      const { because } = watch.state()
      return because === undefined ? [] : [{ ...apiOrigin, object: key, reason: `cannot be read from the Kubernetes API: ${because}` }]
    })
    return [...this.#refused, ...failing]
  }

  close(): void {
    this.#isClosed = true
    for (const watch of this.#watches.values()) watch.close()
  }
}

function nameOf(key: string): { readonly kind: NamedKind; readonly namespace: string; readonly name: string } | undefined {
  const [, kind, namespace = '', name = ''] = /^(Secret|ConfigMap) ([^/]+)\/(.+)$/.exec(key) ?? []
  return (kind === 'Secret' || kind === 'ConfigMap') && isKubernetesName(namespace) && isKubernetesName(name) ? { kind, namespace, name } : undefined
}
