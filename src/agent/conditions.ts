// Writes each pod's condition, which tells people and the control plane whether its traffic is captured: only on change, the last word
// alone, so many a second, and again until it is said. Never touches a pod of the same name with another uid.
import { Backoff } from '../core/backoff.ts'
import { describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { kubeStatus } from '../kube/answers.ts'
import { resourcePath } from '../kube/api.ts'
import type { KubeApi, ResourceType } from '../kube/api.ts'
import { capturedCondition } from '../model/kubernetes-names.ts'
import type { Ineligible, KnownCondition, NodePod } from './node-pod.ts'

export const podType: ResourceType = { group: '', version: 'v1', plural: 'pods', kind: 'Pod', namespaced: true }

export type NotCaptured =
  | Ineligible
  /** The network namespace was not found, or is not proved to be the pod's. */
  | 'NetworkNamespaceNotFound' | 'NetworkNamespaceNotProven'
  | 'ZtunnelAway' | 'ZtunnelRefused'
  /** It was captured, and the audit could not restore it. */
  | 'CaptureLost'
  | 'NotInMesh' | 'PodEnded'

export type Condition =
  | { readonly status: 'True'; readonly reason: 'Captured'; readonly message: string }
  | { readonly status: 'False'; readonly reason: NotCaptured; readonly message: string }

export interface ConditionWriterOptions {
  readonly api: Pick<KubeApi, 'patch'>
  readonly logger: Logger
  readonly perSecond: number
  readonly burst?: number
  readonly onWritten?: (result: 'written' | 'failed') => void
  readonly nowMs?: () => number
}

interface Entry {
  readonly pod: Pick<NodePod, 'namespace' | 'name' | 'uid'>
  wanted: Condition
  /** What the API has, as far as we know. */
  last: Pick<KnownCondition, 'status' | 'reason' | 'message' | 'lastTransitionTime'> | undefined
  /** The API has shown us what we wrote: what differs from it after that is somebody else's doing. */
  isConfirmed: boolean
  /** It waits for its turn, or is being written: either way it is looked at again. */
  isQueued: boolean
  readonly backoff: Backoff
  waiters: (() => void)[]
}

const concurrent = 8
const longestMessage = 1_000

export class ConditionWriter {
  readonly #options: ConditionWriterOptions
  readonly #burst: number
  readonly #entries = new Map<string, Entry>()
  readonly #queue: Entry[] = []
  #tokens: number
  #refilledMs: number
  #underWay = 0
  #timer: NodeJS.Timeout | undefined
  #isPaused = false
  #isClosed = false

  constructor(options: ConditionWriterOptions) {
    this.#options = options
    this.#burst = options.burst ?? 100
    this.#tokens = this.#burst
    this.#refilledMs = performance.now()
  }

  /** Says what the condition should be. `known`: what the API shows of it now. */
  set(pod: Pick<NodePod, 'namespace' | 'name' | 'uid'>, condition: Condition, known: KnownCondition | undefined): void {
    const wanted = { ...condition, message: condition.message.slice(0, longestMessage) }
    const entry = this.#entries.get(pod.uid) ?? this.#make(pod, wanted, known)
    entry.wanted = wanted
    if (known && entry.last && isSame(known, entry.last)) entry.isConfirmed = true
    else if (entry.isConfirmed) entry.last = known
    if (entry.last && isSame(entry.last, wanted)) this.#wake(entry)
    else this.#enqueue(entry)
  }

  #make(pod: Pick<NodePod, 'namespace' | 'name' | 'uid'>, wanted: Condition, known: KnownCondition | undefined): Entry {
    const { namespace, name, uid } = pod
    const made: Entry = {
      pod: { namespace, name, uid }, wanted, last: known, isConfirmed: known !== undefined, isQueued: false, backoff: new Backoff({ firstMs: 500, maxMs: 30_000 }), waiters: [],
    }
    this.#entries.set(uid, made)
    return made
  }

  /** Resolves when what is wanted is written, or nobody wants it any more. */
  written(uid: string): Promise<void> {
    const entry = this.#entries.get(uid)
    if (!entry || (entry.last && isSame(entry.last, entry.wanted))) return Promise.resolve()
    return new Promise((resolve) => entry.waiters.push(resolve))
  }

  /** The pod is gone. */
  forget(uid: string): void {
    const entry = this.#entries.get(uid)
    if (!entry) return
    this.#entries.delete(uid)
    this.#wake(entry)
  }

  /** Nothing is written while somebody else does. */
  pause(isPaused: boolean): void {
    this.#isPaused = isPaused
    this.#next()
  }

  /** Conditions that wait to be written. */
  get waiting(): number {
    return this.#queue.length + this.#underWay
  }

  close(): void {
    this.#isClosed = true
    clearTimeout(this.#timer)
    for (const uid of this.#entries.keys()) this.forget(uid)
  }

  #wake(entry: Entry): void {
    for (const wake of entry.waiters.splice(0)) wake()
  }

  #enqueue(entry: Entry): void {
    if (entry.isQueued) return
    entry.isQueued = true
    this.#queue.push(entry)
    this.#next()
  }

  #next(): void {
    if (this.#isPaused || this.#isClosed) return
    const now = performance.now()
    this.#tokens = Math.min(this.#burst, this.#tokens + (now - this.#refilledMs) / 1000 * this.#options.perSecond)
    this.#refilledMs = now
    while (this.#queue.length > 0 && this.#underWay < concurrent && this.#tokens >= 1) {
      const entry = this.#queue.shift()
      if (!entry) return
      this.#tokens -= 1
      this.#underWay++
      void this.#write(entry).finally(() => {
        this.#underWay--
        this.#next()
      })
    }
    if (this.#queue.length === 0 || this.#tokens >= 1) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#next(), Math.ceil((1 - this.#tokens) * 1000 / this.#options.perSecond))
  }

  async #write(entry: Entry): Promise<void> {
    const { api, logger, onWritten, nowMs = Date.now } = this.#options
    const { pod, wanted } = entry
    if (this.#entries.get(pod.uid) !== entry) return
    const isTransition = entry.last?.status !== wanted.status || entry.last.lastTransitionTime === ''
    const lastTransitionTime = isTransition ? new Date(nowMs()).toISOString().replace(/\.\d+Z$/, 'Z') : entry.last?.lastTransitionTime ?? ''
    const condition = { type: capturedCondition, ...wanted, lastTransitionTime }
    try {
      // With the uid, so that a pod made since under the same name is refused.
      const path = resourcePath(podType, { namespace: pod.namespace, name: pod.name, subresource: 'status' })
      await api.patch(path, { metadata: { uid: pod.uid }, status: { conditions: [condition] } }, 'strategic')
      onWritten?.('written')
      entry.backoff.succeeded()
      entry.last = condition
      entry.isConfirmed = false
      entry.isQueued = false
      if (isSame(condition, entry.wanted)) this.#wake(entry)
      else this.#enqueue(entry)
    } catch (error) {
      const status = kubeStatus(error)
      if (status === 404 || status === 409) return this.forget(pod.uid)
      onWritten?.('failed')
      const waitMs = 100 + entry.backoff.next()
      logger.warn({ 'pod.namespace': pod.namespace, 'pod.name': pod.name, because: describeError(error), waitMs }, 'condition of a pod was not written')
      setTimeout(() => {
        entry.isQueued = false
        if (this.#entries.get(pod.uid) === entry) this.#enqueue(entry)
      }, waitMs).unref()
    }
  }
}

function isSame(a: Pick<Condition, 'message'> & { readonly status: string; readonly reason: string }, b: typeof a): boolean {
  return a.status === b.status && a.reason === b.reason && a.message === b.message
}
