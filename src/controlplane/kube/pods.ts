// Which pods run where, from the Kubernetes API. Those that have no node yet, or have ended, are not even asked for. While the API
// server is away, what was told last stays true.
import { isDeepStrictEqual } from 'node:util'
import type { Logger } from '../../core/log.ts'
import type { ResourceType } from '../../kube/api.ts'
import type { WatchApi } from '../../kube/client.ts'
import { ListWatch, type ListWatchState } from '../../kube/list-watch.ts'
import type { RunningPod, RuntimeFacts } from '../../model/running-pod.ts'
import type { PodListener, PodSource } from '../pod-source.ts'
import { Interner } from './interner.ts'
import { runningPod } from './running-pod.ts'

export const podType: ResourceType = { group: '', version: 'v1', plural: 'pods', kind: 'Pod', namespaced: true }

export interface KubePodsOptions {
  readonly api: WatchApi
  readonly logger: Logger
}

export class KubePods implements PodSource {
  readonly #pods = new Map<string, RunningPod>()
  readonly #texts = new Interner()
  readonly #watch: ListWatch<RunningPod>
  #listener: PodListener | undefined

  constructor({ api, logger }: KubePodsOptions) {
    this.#watch = new ListWatch({
      api, log: logger, type: podType,
      fieldSelector: 'spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed',
      trim: runningPod,
      listener: { put: (key, pod) => this.#put(key, pod), remove: (key) => this.#remove(key) },
    })
  }

  /** Resolves when all there is was told once: to go on without would mean telling nodes that nothing runs. */
  async start(listener: PodListener): Promise<void> {
    this.#listener = listener
    this.#watch.start()
    await this.#watch.synced()
  }

  #put(key: string, pod: RunningPod): void {
    // Most of what is written to a pod is not used here.
    if (isDeepStrictEqual(this.#pods.get(key), pod)) return
    const kept = this.#kept(pod)
    this.#pods.set(key, kept)
    this.#listener?.putPod(kept)
  }

  /** Pods repeat what others of their kind say. */
  #kept(pod: RunningPod): RunningPod {
    const text = (each: string): string => this.#texts.get(each)
    return {
      ...pod, namespace: text(pod.namespace), node: text(pod.node), serviceAccount: text(pod.serviceAccount),
      labels: Object.fromEntries(Object.entries(pod.labels).map(([key, value]) => [key, text(value)])),
      ...(pod.owner ? { owner: { type: pod.owner.type, name: text(pod.owner.name) } } : {}),
    }
  }

  #remove(key: string): void {
    const pod = this.#pods.get(key)
    if (!pod) return
    this.#pods.delete(key)
    this.#listener?.removePod(pod.namespace, pod.name)
  }

  /** The addresses of Services are said by the Services themselves. */
  get facts(): RuntimeFacts {
    return { pods: this.#pods, serviceIps: noIps }
  }

  get isConnected(): boolean {
    return this.#watch.state().t === 'watching'
  }

  state(): ListWatchState {
    return this.#watch.state()
  }

  close(): void {
    this.#listener = undefined
    this.#watch.close()
  }
}

const noIps: ReadonlyMap<string, readonly string[]> = new Map()
