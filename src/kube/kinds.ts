// Watches of kinds whose definitions come and go: it knows from the CustomResourceDefinitions which versions are served, watches each
// kind in the one that is best for us, and tells that every object is gone when the kind goes. Of the definitions themselves, large as
// they are, it watches only the metadata and reads those that it is after.
import { Backoff } from '../core/backoff.ts'
import { systemClock, type Clock } from '../core/clock.ts'
import { describeError, MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { isNotFound } from './answers.ts'
import type { KubeApi, KubeObject, ObjectListener, ResourceType } from './api.ts'
import type { WatchApi } from './client.ts'
import { ListWatch, type ListWatchLimits, type ListWatchState } from './list-watch.ts'

/** A kind that may be absent. `trim` sees in `apiVersion` which version it is. */
export interface OptionalKind<T = unknown> {
  readonly group: string
  readonly plural: string
  readonly kind: string
  readonly namespaced: boolean
  /** Those that `trim` understands, the best first. */
  readonly versions: readonly string[]
  readonly namespace?: string
  readonly labelSelector?: string
  readonly trim: (object: KubeObject) => T | undefined
  readonly listener: ObjectListener<T>
}

export interface OptionalKindsOptions {
  readonly api: WatchApi & Pick<KubeApi, 'get'>
  readonly log: Logger
  readonly clock?: Clock
  readonly limits?: Partial<ListWatchLimits>
  /** A kind began or ceased to be watched; `version` undefined: it is not there, or in no version that we know. */
  readonly onVersion?: (group: string, plural: string, version: string | undefined) => void
}

export interface OptionalKindState {
  /** Undefined: not there. */
  readonly version: string | undefined
  readonly watch?: ListWatchState
  /** Why it could not be seen which versions there are. */
  readonly because?: string
}

const crdType: ResourceType = {
  group: 'apiextensions.k8s.io', version: 'v1', plural: 'customresourcedefinitions', kind: 'CustomResourceDefinition', namespaced: false,
}
const crdPath = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions'

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The versions that a definition serves; none before it is established. One about to go still has its objects, until they are gone. */
export function servedVersions(crd: KubeObject): readonly string[] {
  const spec = isRecord(crd.spec) ? crd.spec : {}
  const status = isRecord(crd.status) ? crd.status : {}
  const conditions: readonly unknown[] = Array.isArray(status['conditions']) ? status['conditions'] : []
  const isEstablished = conditions.some((one) => isRecord(one) && one['type'] === 'Established' && one['status'] === 'True')
  if (!isEstablished) return []
  const versions: readonly unknown[] = Array.isArray(spec['versions']) ? spec['versions'] : []
  return versions.flatMap((one) => (isRecord(one) && one['served'] === true && typeof one['name'] === 'string' ? [one['name']] : []))
}

/** One kind: looks at its definition when that changes, and holds the watch of the chosen version. */
class KindFollower {
  readonly kind: OptionalKind
  readonly #options: OptionalKindsOptions
  readonly #clock: Clock
  readonly #backoff = new Backoff({ firstMs: 200, maxMs: 15_000 })
  readonly #seen = Promise.withResolvers<void>()
  #watch: { readonly version: string; readonly listWatch: ListWatch<unknown> } | undefined
  /** Of all objects that the listener has, whichever version told them. */
  readonly #told = new Set<string>()
  /** Counts what was told of its definition. */
  #change = 0
  #isPresent = false
  #isClosed = false
  #looking = false
  #because: string | undefined
  #cancelRetry = (): void => {}

  constructor(kind: OptionalKind, options: OptionalKindsOptions) {
    this.kind = kind
    this.#options = options
    this.#clock = options.clock ?? systemClock
    this.#seen.promise.catch(() => {})
  }

  /** Its definition is there, new or changed, or is not. */
  definition(isPresent: boolean): void {
    this.#isPresent = isPresent
    this.#change += 1
    this.#cancelRetry()
    if (!this.#looking) void this.#look()
  }

  get isTold(): boolean {
    return this.#change > 0
  }

  /** Resolves when it is known whether the kind is there, and all its objects were told if it is. */
  async synced(): Promise<void> {
    await this.#seen.promise
    // It may be replaced by the watch of another version meanwhile; whichever is there in the end counts.
    for (let watch = this.#watch; watch; watch = this.#watch) {
      try {
        await watch.listWatch.synced()
        return
      } catch (error) {
        if (this.#isClosed || this.#watch === watch) throw error
      }
    }
  }

  state(): OptionalKindState {
    return {
      version: this.#watch?.version,
      ...(this.#watch && { watch: this.#watch.listWatch.state() }),
      ...(this.#because !== undefined && { because: this.#because }),
    }
  }

  close(): void {
    this.#isClosed = true
    this.#cancelRetry()
    this.#watch?.listWatch.close()
    this.#seen.reject(new MeshError('CLOSED', 'the watches of optional kinds are closed'))
  }

  /** One look at a time; what changes meanwhile is looked at after it. */
  async #look(): Promise<void> {
    this.#looking = true
    try {
      for (let change = -1; change !== this.#change && !this.#isClosed;) {
        change = this.#change
        const versions = this.#isPresent ? await this.#versions() : []
        if (this.#isClosed) return
        // What was read may be older than what we were told meanwhile: look again rather than act on it.
        if (change === this.#change) this.#choose(versions)
      }
      this.#because = undefined
      this.#backoff.succeeded()
    } catch (error) {
      this.#because = describeError(error)
      const waitMs = this.#backoff.next()
      const { group, plural } = this.kind
      this.#options.log.warn({ group, plural, because: this.#because, waitMs }, 'definition of a kind could not be read')
      this.#cancelRetry = this.#clock.after(waitMs, () => {
        if (!this.#looking && !this.#isClosed) void this.#look()
      })
    } finally {
      this.#looking = false
    }
  }

  async #versions(): Promise<readonly string[]> {
    try {
      return servedVersions(await this.#options.api.get(`${crdPath}/${encodeURIComponent(`${this.kind.plural}.${this.kind.group}`)}`))
    } catch (error) {
      if (isNotFound(error)) return []
      throw error
    }
  }

  #choose(served: readonly string[]): void {
    const { group, plural, versions } = this.kind
    const version = versions.find((one) => served.includes(one))
    if (version !== this.#watch?.version) {
      this.#watch?.listWatch.close()
      this.#watch = version === undefined ? undefined : { version, listWatch: this.#begin(version) }
      if (version === undefined) for (const key of this.#told) this.#remove(key)
      this.#options.log.info({ group, plural, version: version ?? 'none' }, 'kind is watched in another version')
      this.#options.onVersion?.(group, plural, version)
    }
    this.#seen.resolve()
  }

  /**
   * What another version told stays in force until this one has told everything: a policy must not be away for a moment because its
   * definition learnt a new version.
   */
  #begin(version: string): ListWatch<unknown> {
    const { group, plural, kind, namespaced, trim, listener, namespace, labelSelector } = this.kind
    const { api, log, clock, limits } = this.#options
    const old = new Set(this.#told)
    const listWatch = new ListWatch<unknown>({
      api, log, type: { group, plural, kind, namespaced, version }, trim,
      listener: {
        put: (key, object) => {
          old.delete(key)
          this.#told.add(key)
          listener.put(key, object)
        },
        remove: (key) => {
          old.delete(key)
          this.#remove(key)
        },
      },
      ...(clock && { clock }), ...(limits && { limits }),
      ...(namespace !== undefined && { namespace }), ...(labelSelector !== undefined && { labelSelector }),
    })
    listWatch.start()
    void listWatch.synced().then(() => {
      if (this.#watch?.listWatch === listWatch) for (const key of old) this.#remove(key)
    }).catch(() => {
      // Closed first: whoever closed it sees to what was told.
    })
    return listWatch
  }

  #remove(key: string): void {
    if (this.#told.delete(key)) this.kind.listener.remove(key)
  }
}

export class OptionalKinds {
  readonly #followers = new Map<string, KindFollower>()
  readonly #definitions: ListWatch<true>

  constructor(kinds: readonly OptionalKind[], options: OptionalKindsOptions) {
    for (const kind of kinds) this.#followers.set(`${kind.plural}.${kind.group}`, new KindFollower(kind, options))
    this.#definitions = new ListWatch<true>({
      api: options.api, log: options.log, type: crdType, isMetadataOnly: true,
      trim: ({ metadata }) => (this.#followers.has(metadata.name) ? true : undefined),
      listener: {
        put: (name) => this.#followers.get(name)?.definition(true),
        remove: (name) => this.#followers.get(name)?.definition(false),
      },
      ...(options.clock && { clock: options.clock }), ...(options.limits && { limits: options.limits }),
    })
  }

  start(): void {
    this.#definitions.start()
    void this.#definitions.synced().then(() => this.#tellAbsent()).catch(() => {
      // Closed before there was anything to tell.
    })
  }

  /** Resolves when it is known which kinds there are and all their objects have been told; rejects with CLOSED. */
  async synced(): Promise<void> {
    await this.#definitions.synced()
    this.#tellAbsent()
    await Promise.all([...this.#followers.values()].map((follower) => follower.synced()))
  }

  /** Those whose definition nobody told of are not there. */
  #tellAbsent(): void {
    for (const follower of this.#followers.values()) if (!follower.isTold) follower.definition(false)
  }

  /** By `plural.group`, as the definitions are named; and of the watch of the definitions. */
  state(): { readonly definitions: ListWatchState; readonly kinds: Readonly<Record<string, OptionalKindState>> } {
    return {
      definitions: this.#definitions.state(),
      kinds: Object.fromEntries([...this.#followers].map(([name, follower]) => [name, follower.state()])),
    }
  }

  /** Tells nothing any more, and takes nothing back. */
  close(): void {
    this.#definitions.close()
    for (const follower of this.#followers.values()) follower.close()
  }
}
