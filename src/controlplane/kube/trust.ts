// The roots and the revocations of the mesh in a ConfigMap, in our own namespace and in each that has a Gateway of ours, from where
// pods mount them. Written by the leader alone; what somebody changed or deleted is put back, what is needed no longer is removed.
// Only ConfigMaps that bear our label are ever touched.
import { describeError } from '../../core/errors.ts'
import type { Logger } from '../../core/log.ts'
import { isForbidden, isNotFound } from '../../kube/answers.ts'
import { resourcePath, type KubeApi, type KubeObject, type ResourceType } from '../../kube/api.ts'
import type { WatchApi } from '../../kube/client.ts'
import { ListWatch } from '../../kube/list-watch.ts'
import { trustConfigMap, trustKeys } from '../../model/kubernetes-names.ts'
import type { TrustSink } from '../ca-keeper.ts'
import { isRecord } from './slim.ts'

const type: ResourceType = { group: '', version: 'v1', plural: 'configmaps', kind: 'ConfigMap', namespaced: true }
/** On each that we made. */
export const trustLabel = 'sidestep.dev/trust'
const retryMs = 5_000

export interface TrustConfigMapsOptions {
  readonly api: Pick<KubeApi, 'apply' | 'delete'> & WatchApi
  /** Our own. */
  readonly namespace: string
  /** Those with a Gateway of ours. */
  readonly gatewayNamespaces: () => ReadonlySet<string>
  readonly logger: Logger
}

/** What a ConfigMap of ours says. */
interface Said {
  readonly roots: unknown
  readonly crl: unknown
}

export class TrustConfigMaps implements TrustSink {
  readonly #options: TrustConfigMapsOptions
  #roots: string | undefined
  #crl: string | undefined
  #watch: ListWatch<Said> | undefined
  /** By namespace: what is there. */
  readonly #there = new Map<string, Said>()
  #timer: NodeJS.Timeout | undefined
  #working: Promise<void> | undefined
  #isAgain = false

  constructor(options: TrustConfigMapsOptions) {
    this.#options = options
  }

  async setRoots(pem: string): Promise<void> {
    this.#roots = pem
    this.changed()
  }

  async setCrl(pem: string): Promise<void> {
    this.#crl = pem
    this.changed()
  }

  /** From now on we lead. */
  start(): void {
    if (this.#watch) return
    this.#there.clear()
    const watch = new ListWatch<Said>({
      api: this.#options.api, log: this.#options.logger, type, labelSelector: `${trustLabel}=true`,
      trim: (object) => (object.metadata.name === trustConfigMap ? said(object) : undefined),
      listener: {
        put: (key, each) => {
          this.#there.set(namespaceOf(key), each)
          this.changed()
        },
        remove: (key) => {
          this.#there.delete(namespaceOf(key))
          this.changed()
        },
      },
    })
    this.#watch = watch
    watch.start()
    watch.synced().then(() => this.changed(), () => {
      // Somebody else leads by now.
    })
  }

  /** Something of this is different now, perhaps. Costs nothing while somebody else leads. */
  changed(): void {
    if (!this.#watch) return
    clearTimeout(this.#timer)
    if (this.#working) {
      this.#isAgain = true
      return
    }
    // What comes together is done together.
    this.#timer = setTimeout(() => this.#begin(), 10)
  }

  #begin(): void {
    this.#isAgain = false
    this.#working = this.#work().then((isDone) => {
      this.#working = undefined
      if (!this.#watch) return
      if (this.#isAgain) this.changed()
      else if (!isDone) this.#timer = setTimeout(() => this.#begin(), retryMs)
    })
  }

  /** False if something is to be tried again. */
  async #work(): Promise<boolean> {
    const { namespace, gatewayNamespaces, api, logger } = this.#options
    const [roots, crl, watch] = [this.#roots, this.#crl, this.#watch]
    if (roots === undefined || crl === undefined || !watch?.state().isSynced) return true
    let isDone = true
    const attempt = async (at: string, work: () => Promise<unknown>): Promise<void> => {
      if (this.#watch !== watch) return
      try {
        await work()
      } catch (error) {
        // A namespace that is gone, or about to be, needs nothing; a watch tells us.
        if (isNotFound(error) || isForbidden(error)) logger.debug({ namespace: at, because: describeError(error) }, 'trust is not written there')
        else {
          isDone = false
          logger.warn({ namespace: at, because: describeError(error) }, 'trust could not be written, trying again')
        }
      }
    }
    const wanted = new Set([namespace, ...gatewayNamespaces()])
    for (const each of wanted) {
      const there = this.#there.get(each)
      if (there?.roots === roots && there.crl === crl) continue
      await attempt(each, () => api.apply(type, configMap(each, roots, crl), { force: true }))
    }
    const needless = new Set(this.#there.keys()).difference(wanted)
    for (const each of needless) await attempt(each, () => api.delete(resourcePath(type, { namespace: each, name: trustConfigMap })))
    return isDone
  }

  /** Somebody else leads. Resolves when nothing is written any more. */
  async stop(): Promise<void> {
    this.#watch?.close()
    this.#watch = undefined
    clearTimeout(this.#timer)
    await this.#working
  }
}

function namespaceOf(key: string): string {
  return key.slice(0, key.indexOf('/'))
}

function said({ data }: KubeObject): Said {
  return isRecord(data) ? { roots: data[trustKeys.roots], crl: data[trustKeys.crl] } : { roots: undefined, crl: undefined }
}

function configMap(namespace: string, roots: string, crl: string): KubeObject {
  return {
    apiVersion: 'v1', kind: 'ConfigMap',
    metadata: { name: trustConfigMap, namespace, labels: { 'app.kubernetes.io/part-of': 'sidestep', [trustLabel]: 'true' } },
    data: { [trustKeys.roots]: roots, [trustKeys.crl]: crl },
  }
}
