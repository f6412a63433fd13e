// Objects from the Kubernetes API: every kind that the mesh reads, in the best version that is served, for as long as its definition
// is there; of Secrets and ConfigMaps those that are wanted. Nothing is told before everything was read once: half of the policies
// would let pass what the others refuse.
import { describeError } from '../../core/errors.ts'
import type { Logger } from '../../core/log.ts'
import type { KubeApi, KubeObject, ObjectListener } from '../../kube/api.ts'
import type { WatchApi } from '../../kube/client.ts'
import { OptionalKinds } from '../../kube/kinds.ts'
import { ListWatch, type ListWatchState } from '../../kube/list-watch.ts'
import type { Problem } from '../../model/manifest.ts'
import type { ObjectChanges } from '../../model/object-set.ts'
import type { ConfigSource } from '../config-source.ts'
import type { ObservedObjects } from '../controllers/observed-objects.ts'
import { kindSources, type KindSource } from './kinds.ts'
import { NamedObjects } from './named-objects.ts'
import { ObjectBook } from './object-book.ts'
import { apiOrigin } from './slim.ts'

export interface KubeSourceOptions {
  readonly api: WatchApi & Pick<KubeApi, 'get'>
  readonly logger: Logger
  /** Who writes statuses hears of all objects, too, before what they say is told. */
  readonly observed?: Pick<ObservedObjects, 'put' | 'remove'>
  /** Only these; for tests. */
  readonly kinds?: readonly KindSource[]
}

/** Served by the API server itself; others come with definitions, and go with them. */
function isBuiltIn({ group }: KindSource): boolean {
  return group === '' || group === 'discovery.k8s.io'
}

export class KubeSource implements ConfigSource {
  readonly #book = new ObjectBook()
  readonly #watches = new Map<KindSource, ListWatch<KubeObject>>()
  readonly #optional: OptionalKinds
  readonly #named: NamedObjects
  readonly #logger: Logger
  readonly #observed: KubeSourceOptions['observed']
  #onChanges: ((changes: ObjectChanges) => void) | undefined
  #isTelling = false

  constructor({ api, logger, observed, kinds = kindSources }: KubeSourceOptions) {
    this.#logger = logger
    this.#observed = observed
    for (const source of kinds.filter(isBuiltIn)) {
      const { group, plural, kind, namespaced, versions: [version = 'v1'], labelSelector } = source
      this.#watches.set(source, new ListWatch({
        api, log: logger, type: { group, plural, kind, namespaced, version }, trim: same, listener: this.#listener(source),
        ...(labelSelector === undefined ? {} : { labelSelector }),
      }))
    }
    const optional = kinds.filter((source) => !isBuiltIn(source)).map((source) => ({ ...source, trim: same, listener: this.#listener(source) as ObjectListener<unknown> }))
    this.#optional = new OptionalKinds(optional, { api, log: logger })
    this.#named = new NamedObjects({
      api, logger,
      put: (kind, name, object) => this.#changed(this.#book.put(kind, '', name, object)),
      remove: (kind, name) => this.#changed(this.#book.remove(kind, '', name)),
    })
  }

  #listener(source: KindSource): ObjectListener<KubeObject> {
    const { kind, group } = source
    return {
      put: (name, object) => {
        this.#observed?.put(source, object)
        this.#changed(this.#book.put(kind, group, name, object))
      },
      remove: (name) => {
        this.#observed?.remove(source, name)
        this.#changed(this.#book.remove(kind, group, name))
      },
    }
  }

  async start(onChanges: (changes: ObjectChanges) => void): Promise<void> {
    for (const watch of this.#watches.values()) watch.start()
    this.#optional.start()
    await Promise.all([...[...this.#watches.values()].map((watch) => watch.synced()), this.#optional.synced()])
    this.#onChanges = onChanges
    onChanges(this.#book.takeChanges())
  }

  /** What comes together (a page, a burst) is told together; a new problem is told too, with no changes. */
  #changed(isDifferent: boolean): void {
    if (!isDifferent || this.#isTelling || !this.#onChanges) return
    this.#isTelling = true
    queueMicrotask(() => {
      this.#isTelling = false
      try {
        this.#onChanges?.(this.#book.takeChanges())
      } catch (error) {
        this.#logger.error({ because: describeError(error) }, 'changes of objects were not taken')
      }
    })
  }

  async want(keys: ReadonlySet<string>): Promise<void> {
    await this.#named.want(keys)
  }

  problems(): readonly Problem[] {
    return [...this.#unread(), ...this.#named.problems(), ...this.#book.problems()]
  }

  /** Kinds of which we do not hear at this moment. */
  *#unread(): Generator<Problem> {
    for (const [what, { state, because }] of this.states()) {
      const reason = because ?? state?.because
      if (reason !== undefined) yield { ...apiOrigin, reason: `${what} cannot be read from the Kubernetes API, what is known stays in force: ${reason}` }
    }
  }

  /** By `plural.group`. A kind that is not there has no state. */
  *states(): Generator<[what: string, watched: { readonly state?: ListWatchState; readonly because?: string }]> {
    for (const [{ plural, group }, watch] of this.#watches) yield [group === '' ? plural : `${plural}.${group}`, { state: watch.state() }]
    const { definitions, kinds } = this.#optional.state()
    yield ['customresourcedefinitions.apiextensions.k8s.io', { state: definitions }]
    for (const [what, { watch, because }] of Object.entries(kinds)) yield [what, { ...(watch && { state: watch }), ...(because === undefined ? {} : { because }) }]
  }

  notes(): readonly Problem[] {
    return []
  }

  close(): void {
    this.#onChanges = undefined
    for (const watch of this.#watches.values()) watch.close()
    this.#optional.close()
    this.#named.close()
  }
}

function same(object: KubeObject): KubeObject {
  return object
}
