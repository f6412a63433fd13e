// The pods this ztunnel serves, kept in step with what the agent says. Messages are handled one at a time, in order; a
// failed one is answered with its error and changes nothing for the others.
import type { Logger } from '../core/log.ts'
import { describeError } from '../core/errors.ts'
import { Netns } from '../kernel/netns.ts'
import type { PodEnrolment } from '../model/enrolment.ts'
import type { StoreChange } from '../model/workload-store.ts'
import { PodProxy } from './pod-proxy.ts'
import type { PodProxyParts, PodStatistics } from './pod-proxy.ts'

export interface PodState extends PodStatistics {
  readonly uid: string
  readonly namespace: string
  readonly name: string
  readonly ips: readonly string[]
  readonly failureMode: string
  readonly netnsCookie: string
}

export class PodSet {
  readonly #parts: PodProxyParts
  readonly #logger: Logger
  readonly #proxies = new Map<string, PodProxy>()
  /** Whose capture is being set up. In a handover each listener takes connections from the moment on when it is registered. */
  readonly #starting = new Set<PodProxy>()
  /** Un-enrolled, or never quite captured, with connections still being carried. */
  readonly #draining = new Set<PodProxy>()

  constructor(parts: PodProxyParts) {
    this.#parts = parts
    this.#logger = parts.logger
  }

  /** Captures the pod, or applies its changes. Resolves with the number of connections left alone at enrolment. */
  async add(pod: PodEnrolment): Promise<number> {
    const netns = await Netns.open(pod.netns)
    const known = this.#proxies.get(pod.uid)
    if (known && known.netns.inode === netns.inode) {
      netns.close()
      await known.update(pod)
      return known.statistics().existing
    }
    // Same pod, new namespace: its sandbox was made anew.
    if (known) this.delete(pod.uid)
    const proxy = new PodProxy(pod, netns, this.#parts)
    this.#starting.add(proxy)
    try {
      await proxy.start()
      this.#proxies.set(pod.uid, proxy)
      this.#parts.podCounters.started()
      this.#logger.info({ 'pod.name': pod.name, 'pod.namespace': pod.namespace, existing: proxy.statistics().existing }, 'pod captured')
      return proxy.statistics().existing
    } catch (error) {
      this.#draining.add(proxy)
      void proxy.abandon().finally(() => this.#draining.delete(proxy))
      throw error
    } finally {
      this.#starting.delete(proxy)
    }
  }

  #isCaptured(inode: bigint): boolean {
    return [...this.#starting, ...this.#proxies.values()].some(({ netns }) => netns.inode === inode)
  }

  /** Whoever may carry a connection. */
  #all(): PodProxy[] {
    return [...this.#proxies.values(), ...this.#starting, ...this.#draining]
  }

  /** Ends the pod's capture at once; connections being carried go on in the background. */
  delete(uid: string): void {
    const proxy = this.#proxies.get(uid)
    if (!proxy) return
    this.#proxies.delete(uid)
    this.#draining.add(proxy)
    this.#logger.info({ 'pod.name': proxy.pod.name, 'pod.namespace': proxy.pod.namespace }, 'pod released')
    proxy
      .stop(() => this.#isCaptured(proxy.netns.inode))
      .catch((error: unknown) => this.#logger.debug({ error: describeError(error) }, 'pod is gone already'))
      .finally(() => {
        this.#draining.delete(proxy)
        this.#parts.podCounters.stopped()
      })
  }

  /** Drops every pod that is not in `uids`, and what an earlier process enrolled and nobody named since, unless more are to be named. */
  prune(uids: ReadonlySet<string>, isPartial = false): void {
    for (const uid of this.#proxies.keys()) if (!uids.has(uid)) this.delete(uid)
    if (isPartial) return
    const ours = new Set([...this.#proxies.values()].map((proxy) => proxy.netns.cookie))
    for (const cookie of this.#parts.redirection.enrolled()) if (!ours.has(cookie)) this.#parts.redirection.unenrol(cookie)
  }

  /** The mesh changed: live connections are judged again. */
  recheck(changes: readonly StoreChange[]): void {
    for (const proxy of this.#all()) proxy.recheck(changes)
  }

  /** A successor serves the pods now. Resolves when the last connection has ended. */
  async drain(): Promise<void> {
    await Promise.all([...this.#proxies.values()].map((proxy) => proxy.drain()))
  }

  /** `namespace/name`; the uid of a pod that is unknown by now. */
  nameOf(uid: string): string {
    const pod = this.#find(uid)?.pod
    return pod ? `${pod.namespace}/${pod.name}` : uid
  }

  #find(uid: string): PodProxy | undefined {
    return this.#proxies.get(uid) ?? this.#all().find(({ pod }) => pod.uid === uid)
  }

  /** Tunnel connections of others to the pods. */
  get serverConnections(): number {
    return this.#all().reduce((sum, proxy) => sum + proxy.serverConnections, 0)
  }

  /** Pods whose capture is in force, and those for which it is being made. */
  get captured(): number {
    return this.#proxies.size
  }

  get pending(): number {
    return this.#starting.size
  }

  /** Of a pod that is captured or just being, or whose last connections are being carried. */
  netnsOf(uid: string): Netns | undefined {
    return this.#find(uid)?.netns
  }

  states(): PodState[] {
    return [...this.#proxies.values()].map((proxy) => ({
      uid: proxy.pod.uid,
      namespace: proxy.pod.namespace,
      name: proxy.pod.name,
      ips: proxy.pod.ips,
      failureMode: proxy.pod.failureMode,
      netnsCookie: String(proxy.netns.cookie),
      ...proxy.statistics(),
    }))
  }

  /** Pods that were released and still have connections. */
  get draining(): number {
    return [...this.#draining].filter((proxy) => proxy.statistics().open > 0).length
  }
}
