// Brings the pods that run in line with the pods that should: creates, replaces, rolls out, removes. It is a loop that
// may be called at any time; it never waits for a pod, because every change of a pod leads to another call.
import { randomUUID } from 'node:crypto'
import type { Logger } from '../core/log.ts'
import type { DeploymentManifest } from '../model/manifest.ts'
import type { PodSpec } from '../model/manifest-pod.ts'
import { backoff, type Backoff } from './backoff.ts'
import type { Desired } from './catalogue.ts'
import { fingerprint } from './environment.ts'
import { Pod, type PodOptions } from './pod.ts'
import { chooseNode, planRollout, replicaName } from './rollout.ts'
import type { VirtualNode } from './virtual-node.ts'

/** Pods made at the same time: each takes a few short-lived processes, and more only get in each other's way. */
const maxConcurrentStarts = 6

export interface PodSetOptions {
  readonly nodes: readonly VirtualNode[]
  readonly logger: Logger
  /** What all pods have in common. */
  readonly common: Pick<PodOptions, 'paths' | 'dial' | 'hostPath' | 'hostResolvConf' | 'shows' | 'mayStart'>
  readonly onChange: () => void
  /** The pod's network is there; called before its containers start. */
  readonly onNetwork: (pod: Pod) => void
  /** Resolves when no node sends new connections to it any more. */
  readonly drained: (pod: Pod) => Promise<void>
}

export class PodSet {
  readonly #options: PodSetOptions
  readonly #pods = new Map<string, Pod>()
  readonly #unplaced = new Map<string, string>()
  /** Not before this time, after a pod of that name (or Deployment) failed to start. */
  readonly #retries = new Map<string, { backoff: Backoff; notBeforeMs: number; because: string }>()
  readonly #queue: (() => void)[] = []
  #starting = 0
  #maxGraceMs = Infinity

  constructor(options: PodSetOptions) {
    this.#options = options
  }

  /** By `namespace/name`, including those that are ending. */
  get pods(): ReadonlyMap<string, Pod> {
    return this.#pods
  }

  /** What should run and cannot be placed, with the reason. */
  get unplaced(): ReadonlyMap<string, string> {
    return this.#unplaced
  }

  /** One step towards `desired`. True if nothing is left to create or to remove. */
  reconcile(desired: Desired): boolean {
    this.#unplaced.clear()
    let isSettled = true
    for (const [id, pod] of this.#pods) {
      const manifest = desired.pods.get(id)
      const isWanted = pod.options.owner === undefined
        ? manifest !== undefined && fingerprint(manifest.spec) === pod.options.hash
        : desired.deployments.has(pod.options.owner)
      if (pod.isLost || pod.state.t === 'failed') this.#delay(pod)
      if (!isWanted || pod.isLost || pod.state.t === 'failed') this.#remove(pod)
      else if (manifest && pod.options.owner === undefined) pod.labels = manifest.metadata.labels
      isSettled &&= !pod.isTerminating
    }
    for (const [id, manifest] of desired.pods) {
      const { namespace, name, labels } = manifest.metadata
      if (this.#pods.has(id)) continue
      isSettled = false
      this.#create({ namespace, name, labels, spec: manifest.spec, hash: fingerprint(manifest.spec), owner: undefined })
    }
    for (const key of this.#retries.keys()) if (!desired.pods.has(key) && !desired.deployments.has(key)) this.#retries.delete(key)
    for (const [id, deployment] of desired.deployments) isSettled = this.#rollOut(id, deployment) && isSettled
    return isSettled
  }

  #rollOut(owner: string, { metadata, spec }: DeploymentManifest): boolean {
    const hash = fingerprint(spec.template)
    const own = [...this.#pods.values()].filter((pod) => pod.options.owner === owner)
    const step = planRollout(
      { replicas: spec.replicas, hash, strategy: spec.strategy?.type ?? 'RollingUpdate' },
      own.map((pod) => ({
        name: pod.options.name, hash: pod.options.hash, isReady: pod.isReady, isTerminating: pod.isTerminating, createdMs: pod.createdMs,
      })),
    )
    for (const name of step.remove) {
      const pod = this.#pods.get(`${metadata.namespace}/${name}`)
      if (pod) this.#remove(pod)
    }
    for (let i = 0; i < step.create; i++) {
      const name = replicaName(metadata.name, hash, (taken) => this.#pods.has(`${metadata.namespace}/${taken}`))
      const { labels } = spec.template.metadata
      if (!this.#create({ namespace: metadata.namespace, name, labels, spec: spec.template.spec, hash, owner })) break
    }
    return step.create === 0 && step.remove.length === 0 && own.every((pod) => pod.options.hash === hash)
  }

  /** False if it cannot be placed, or not yet. */
  #create(wanted: Pick<PodOptions, 'namespace' | 'name' | 'labels' | 'hash' | 'owner'> & { readonly spec: PodSpec }): boolean {
    const id = `${wanted.namespace}/${wanted.name}`
    const key = wanted.owner ?? id
    const waitMs = (this.#retries.get(key)?.notBeforeMs ?? 0) - performance.now()
    if (waitMs > 0) {
      this.#unplaced.set(key, `waiting to try again: ${this.#retries.get(key)?.because ?? ''}`)
      return false
    }
    const choice = chooseNode(wanted.spec, this.#options.nodes.map((node) => ({ name: node.name, pods: node.hosts.size })))
    const node = 'node' in choice ? this.#options.nodes.find(({ name }) => name === choice.node) : undefined
    const host = node?.hosts.take()
    if (!node || host === undefined) {
      this.#unplaced.set(key, 'because' in choice ? choice.because : `${choice.node} has no free pod address`)
      return false
    }
    const pod: Pod = new Pod({
      ...this.#options.common, ...wanted, uid: randomUUID(), node, host, logger: this.#options.logger,
      onChange: () => this.#options.onChange(),
    })
    this.#pods.set(id, pod)
    void this.#start(pod)
    return true
  }

  async #start(pod: Pod): Promise<void> {
    if (this.#starting >= maxConcurrentStarts) await new Promise<void>((resolve) => this.#queue.push(resolve))
    this.#starting++
    try {
      let release = (): void => {}
      const hasNetwork = new Promise<void>((resolve) => (release = resolve))
      if (!pod.isTerminating) {
        const started = pod.start(() => {
          this.#options.onNetwork(pod)
          release()
        })
        // Capture may take its time; others need not wait for it.
        await Promise.race([started, hasNetwork])
      }
    } finally {
      this.#starting--
      this.#queue.shift()?.()
    }
  }

  /** Puts off the next attempt at a pod that failed. */
  #delay(pod: Pod): void {
    const key = pod.options.owner ?? pod.id
    const retry = this.#retries.get(key) ?? { backoff: backoff(500, 30_000, 10_000), notBeforeMs: 0, because: '' }
    const waitMs = retry.backoff.next(Date.now() - pod.createdMs)
    retry.notBeforeMs = performance.now() + waitMs
    retry.because = pod.state.t === 'failed' ? pod.state.because : 'its namespaces were removed by somebody else'
    this.#retries.set(key, retry)
    setTimeout(() => this.#options.onChange(), waitMs + 1).unref()
  }

  #remove(pod: Pod): void {
    if (pod.isTerminating) return
    const graceMs = Math.min(this.#maxGraceMs, pod.options.spec.terminationGracePeriodSeconds * 1000)
    void this.#end(pod, graceMs, () => this.#options.drained(pod))
  }

  async #end(pod: Pod, graceMs: number, drained?: () => Promise<void>): Promise<void> {
    await pod.stop(graceMs, drained)
    if (this.#pods.get(pod.id) === pod) this.#pods.delete(pod.id)
    this.#options.onChange()
  }

  /** Ends all pods at once, with their nodes to follow; resolves when none is left. Grace periods are cut to `graceMs`. */
  async stopAll(graceMs: number): Promise<void> {
    this.#maxGraceMs = graceMs
    await Promise.all([...this.#pods.values()].map((pod) =>
      this.#end(pod, Math.min(graceMs, pod.options.spec.terminationGracePeriodSeconds * 1000))))
  }
}
