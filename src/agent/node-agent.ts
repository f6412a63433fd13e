// Knows the pods of its node and sees to it that those of the mesh are captured: finds and proves their network namespaces, enrols
// them, says in a condition what became of each, and lets go of those that leave. Told by watches and by the CNI plugin; what is really
// in force is the audit's matter. Never gives a pod an identity in a namespace that is not proved to be its own.
import { performance } from 'node:perf_hooks'
import type { Logger } from '../core/log.ts'
import type { ObjectListener } from '../kube/api.ts'
import type { Netns } from '../kernel/netns.ts'
import type { FailureMode, PodEnrolment } from '../model/enrolment.ts'
import type { NameSearch } from '../model/resolv-conf.ts'
import type { Condition, ConditionWriter } from './conditions.ts'
import type { Enrolments } from './enrolment-agent.ts'
import type { Claims, Found, Finder } from './finder.ts'
import { nameSearch } from './name-search.ts'
import { within } from './within.ts'
import { namespaceMode, podIps, wishOf } from './node-pod.ts'
import type { Labels, NodePod, WishSettings } from './node-pod.ts'
import { conditionOf } from './pod-condition.ts'
import type { Entry, Proven } from './pod-entry.ts'
import type { PodStateName } from './telemetry/metrics.ts'

export interface NodeAgentOptions extends WishSettings {
  readonly node: string
  readonly clusterDomain: string
  readonly releaseMs: number
  readonly complainMs: number
  readonly enrolments: Enrolments
  readonly conditions: ConditionWriter
  readonly finder: Finder
  readonly claims: Claims
  /** What the node's own resolv.conf says. */
  readonly nodeSearch: () => NameSearch
  /** A pod should be captured and has not been for too long. */
  readonly onComplaint: (pod: NodePod, condition: Condition) => void
  readonly onFound?: (by: 'plugin' | 'runtime' | 'processes') => void
  /** Which namespaces are in the mesh has changed. */
  readonly onNamespaces: (modes: ReadonlyMap<string, FailureMode>) => void
  readonly logger: Logger
}

const tickMs = 500
const firstTryMs = 250
const lastTryMs = 10_000
/** A pod of which only the plugin knows is forgotten after that, if the watch does not show it. */
const unwatchedMs = 60_000

export class NodeAgent {
  readonly #options: NodeAgentOptions
  readonly #logger: Logger
  /** By `namespace/name`: one pod of a name at a time. */
  readonly #entries = new Map<string, Entry>()
  readonly #namespaces = new Map<string, Labels>()
  readonly #seen = new Map<string, number>()
  #isActing = false
  #isFinding = false
  #isComplete = false
  #timer: NodeJS.Timeout | undefined

  readonly pods: ObjectListener<NodePod> = {
    put: (key, pod) => this.#put(key, pod, true),
    remove: (key) => this.#remove(key),
  }

  readonly namespaces: ObjectListener<Labels> = {
    put: (name, labels) => {
      this.#namespaces.set(name, labels)
      this.#onNamespace(name)
    },
    remove: (name) => {
      this.#namespaces.delete(name)
      this.#onNamespace(name)
    },
  }

  constructor(options: NodeAgentOptions) {
    this.#options = options
    this.#logger = options.logger
  }

  /** Begins, or ends, to act on what is known: call it when the watches have told everything, and only while no newer agent is there. */
  act(isActing: boolean): void {
    if (this.#isActing === isActing) return
    this.#isActing = isActing
    this.#options.conditions.pause(!isActing)
    clearInterval(this.#timer)
    if (!isActing) return
    this.#tellNamespaces()
    for (const entry of this.#entries.values()) this.#reconcile(entry)
    this.#timer = setInterval(() => this.#tick(), tickMs)
    void this.#find()
  }

  get isActing(): boolean {
    return this.#isActing
  }

  /** Every pod was looked for at least once, and the ztunnel told which it may drop. */
  get isComplete(): boolean {
    return this.#isComplete
  }

  /** A pod's capture state may have changed; a ztunnel came or went. */
  enrolmentsChanged(): void {
    if (this.#isActing) for (const entry of this.#entries.values()) this.#judge(entry)
  }

  close(): void {
    this.act(false)
    for (const entry of this.#entries.values()) {
      entry.leaving?.abort()
      entry.proven?.netns.close()
    }
  }

  labelsOf(namespace: string): Labels | undefined {
    return this.#namespaces.get(namespace)
  }

  entryOf(namespace: string, name: string): Entry | undefined {
    return this.#entries.get(`${namespace}/${name}`)
  }

  /** Those that are enrolled, for the audit. */
  enrolled(): { readonly entry: Entry; readonly enrolment: PodEnrolment; readonly netns: Netns }[] {
    return [...this.#entries.values()].flatMap((entry) => {
      const { proven } = entry
      const enrolment = proven && !entry.leaving ? this.#enrolmentOf(entry) : undefined
      return proven && enrolment ? [{ entry, enrolment, netns: proven.netns }] : []
    })
  }

  counts(): Record<PodStateName, number> {
    const counts = { captured: 0, waiting: 0, missing: 0, lost: 0, leaving: 0, ineligible: 0 }
    for (const entry of this.#entries.values()) {
      const state = this.#stateOf(entry)
      if (state) counts[state]++
    }
    return counts
  }

  #stateOf(entry: Entry): PodStateName | undefined {
    if (entry.leaving) return 'leaving'
    if (entry.wish.t === 'ineligible') return 'ineligible'
    if (entry.wish.t !== 'wanted') return undefined
    if (!entry.proven) return 'missing'
    if (entry.lost !== undefined) return 'lost'
    return this.#options.enrolments.stateOf(entry.pod.uid).t === 'captured' ? 'captured' : 'waiting'
  }

  /** What the plugin needs before the watch has shown the pod. */
  adopt(pod: NodePod, namespaceLabels: Labels): Entry {
    // Asked for just now, so newer than what the watch has told.
    this.#namespaces.set(pod.namespace, namespaceLabels)
    const key = `${pod.namespace}/${pod.name}`
    const known = this.#entries.get(key)
    if (known?.pod.uid !== pod.uid) return this.#put(key, pod, false)
    this.#reconcile(known)
    return known
  }

  /** Enrols a pod in a namespace that was proved to be its own; what was proved before goes. */
  enrol(entry: Entry, proven: Proven, by: 'plugin' | 'runtime' | 'processes'): void {
    const before = entry.proven
    entry.leaving?.abort()
    entry.leaving = undefined
    entry.proven = proven
    entry.missing = undefined
    entry.lost = undefined
    entry.failures = 0
    this.#options.claims.take(proven.netns.inode, entry.pod)
    this.#options.onFound?.(by)
    this.#logger.info({ ...names(entry.pod), 'pod.cookie': String(proven.netns.cookie), by }, 'network namespace is proved')
    this.#reconcile(entry)
    if (before) this.#close(entry.pod.uid, before)
  }

  /** The sandbox is gone, or was another than we thought: looked for anew where the pod is still wanted. */
  lose(entry: Entry, because: string): void {
    const { proven } = entry
    if (!proven) return
    this.#logger.info({ ...names(entry.pod), because }, 'network namespace is let go')
    entry.proven = undefined
    entry.missing = { t: 'missing', reason: 'NetworkNamespaceNotFound', because }
    entry.nextTryAt = 0
    void this.#release(entry.pod.uid, proven)
    this.#reconcile(entry)
  }

  /** The audit's word: undefined where all is in force. */
  setLost(entry: Entry, because: string | undefined): void {
    if (entry.lost === because) return
    entry.lost = because
    this.#judge(entry)
  }

  #put(key: string, pod: NodePod, isWatched: boolean): Entry {
    const before = this.#entries.get(key)
    if (before && before.pod.uid !== pod.uid) this.#drop(key, before)
    const known = before?.pod.uid === pod.uid ? before : undefined
    const entry: Entry = known ?? {
      pod, wish: { t: 'outside' }, proven: undefined, missing: undefined, lost: undefined, leaving: undefined, uncapturedSince: undefined, hasBeenCaptured: false,
      hasComplained: false, isWatched, nextTryAt: 0, failures: 0,
    }
    if (!known) this.#entries.set(key, entry)
    entry.pod = pod
    if (isWatched) {
      entry.isWatched = true
      this.#seen.delete(key)
    } else if (!entry.isWatched) this.#seen.set(key, performance.now())
    if (known && this.#isActing) this.#checkAddresses(entry)
    this.#reconcile(entry)
    return entry
  }

  /** The kubelet's word on the addresses is the last: a namespace that does not have them is not the pod's any more. */
  #checkAddresses(entry: Entry): void {
    const { proven, pod } = entry
    if (!proven || pod.ips.every((ip) => proven.ips.includes(ip))) return
    proven.netns.allAddresses().then((there) => {
      if (entry.proven !== proven) return
      const missing = pod.ips.filter((ip) => !there.includes(ip))
      if (missing.length > 0) return this.lose(entry, `its namespace does not have the address ${missing.join(' and ')}`)
      entry.proven = { ...proven, ips: podIps([...pod.ips, ...proven.ips]) }
      this.#reconcile(entry)
    }, (error: unknown) => {
      if (entry.proven === proven) this.lose(entry, `its namespace cannot be looked at (${String(error)})`)
    })
  }

  #remove(key: string): void {
    const entry = this.#entries.get(key)
    if (entry) this.#drop(key, entry)
  }

  /** A pod that is gone is let go of at once. */
  #drop(key: string, entry: Entry): void {
    this.#entries.delete(key)
    this.#seen.delete(key)
    entry.leaving?.abort()
    this.#options.conditions.forget(entry.pod.uid)
    if (entry.proven) void this.#release(entry.pod.uid, entry.proven)
    entry.proven = undefined
    this.#tellUnnamed()
  }

  #onNamespace(name: string): void {
    if (!this.#isActing) return
    this.#tellNamespaces()
    for (const entry of this.#entries.values()) if (entry.pod.namespace === name) this.#reconcile(entry)
    void this.#find()
  }

  #tellNamespaces(): void {
    const modes = new Map<string, FailureMode>()
    for (const [name, labels] of this.#namespaces) {
      const mode = namespaceMode(name, labels, this.#options)
      if (mode) modes.set(name, mode)
    }
    this.#options.onNamespaces(modes)
  }

  #reconcile(entry: Entry): void {
    entry.wish = wishOf(entry.pod, this.#namespaces.get(entry.pod.namespace) ?? {}, this.#options)
    if (!this.#isActing) return
    const { enrolments } = this.#options
    if (entry.wish.t === 'wanted') {
      entry.leaving?.abort()
      entry.leaving = undefined
      const enrolment = this.#enrolmentOf(entry)
      if (enrolment) enrolments.set(enrolment)
      else if (entry.nextTryAt <= performance.now()) void this.#find()
    } else if (entry.proven && !entry.leaving) {
      void this.#leave(entry, entry.proven, entry.wish.t === 'ended' ? 0 : this.#options.releaseMs)
    }
    this.#judge(entry)
  }

  #enrolmentOf({ pod, wish, proven }: Entry): PodEnrolment | undefined {
    if (!proven || wish.t !== 'wanted') return undefined
    const { node, clusterDomain, nodeSearch } = this.#options
    const search = nameSearch(pod.dns, pod.namespace, clusterDomain, nodeSearch())
    return {
      uid: pod.uid, namespace: pod.namespace, name: pod.name, serviceAccount: pod.serviceAccount, node,
      // Opens that very namespace, whatever becomes of the process or file by which it was found. Host's pid: we share its PID namespace.
      netns: `/proc/${process.pid}/fd/${proven.netns.fd.fd}`,
      ips: [...proven.ips], failureMode: wish.failureMode, dns: wish.dns, ...(search && { nameSearch: search }), probePorts: [...pod.probePorts],
    }
  }

  /** The others are told first, and stop tunnelling to it; then it is let go. */
  async #leave(entry: Entry, proven: Proven, waitMs: number): Promise<void> {
    const leaving = new AbortController()
    entry.leaving = leaving
    this.#judge(entry)
    if (waitMs > 0) {
      // An API server that is away must not keep it for ever.
      await within(this.#options.conditions.written(entry.pod.uid), 5 * waitMs, leaving.signal)
      await within(undefined, waitMs, leaving.signal)
    }
    if (leaving.signal.aborted || entry.leaving !== leaving) return
    entry.leaving = undefined
    entry.proven = undefined
    await this.#release(entry.pod.uid, proven)
    this.#judge(entry)
  }

  async #release(uid: string, proven: Proven): Promise<void> {
    await this.#options.enrolments.remove(uid)
    this.#close(uid, proven)
  }

  #close(uid: string, proven: Proven): void {
    this.#options.claims.release(proven.netns.inode, uid)
    proven.netns.close()
  }

  /** Says in the condition what is so now, and complains when it is wrong for too long. */
  #judge(entry: Entry): void {
    if (!this.#isActing) return
    const { conditions, enrolments } = this.#options
    const { pod, wish } = entry
    const now = performance.now()
    const isCaptured = wish.t === 'wanted' && entry.proven !== undefined && entry.lost === undefined && enrolments.stateOf(pod.uid).t === 'captured'
    if (isCaptured) entry.hasBeenCaptured = true
    if (isCaptured || wish.t !== 'wanted') {
      entry.uncapturedSince = undefined
      entry.hasComplained = false
    } else entry.uncapturedSince ??= now
    const uncapturedMs = now - (entry.uncapturedSince ?? now)
    const condition = conditionOf(entry, enrolments.stateOf(pod.uid), enrolments.isConnected, uncapturedMs)
    if (condition) conditions.set(pod, condition, pod.condition)
    if (condition && !entry.hasComplained && uncapturedMs > this.#options.complainMs && (pod.ips.length > 0 || entry.proven)) {
      entry.hasComplained = true
      this.#options.onComplaint(pod, condition)
    }
    this.#tellUnnamed()
  }

  #tick(): void {
    const now = performance.now()
    for (const [key, since] of this.#seen) {
      const entry = this.#entries.get(key)
      if (entry && now - since > unwatchedMs) this.#drop(key, entry)
    }
    for (const entry of this.#entries.values()) if (entry.uncapturedSince !== undefined) this.#judge(entry)
    void this.#find()
  }

  /** Looks for all that are wanted and due. One pass at a time. */
  async #find(): Promise<void> {
    if (this.#isFinding || !this.#isActing) return
    this.#isFinding = true
    try {
      for (let due = this.#due(); due.length > 0 && this.#isActing; due = this.#due()) {
        const answers = await this.#options.finder.find(due.map(({ pod: { uid, namespace, name, ips } }) => ({ uid, namespace, name, ips })))
        for (const entry of due) this.#onFound(entry, answers.get(entry.pod.uid))
      }
      this.#isComplete = true
      this.#tellUnnamed()
    } finally {
      this.#isFinding = false
    }
  }

  #due(): Entry[] {
    const now = performance.now()
    return [...this.#entries.values()].filter((entry) => entry.wish.t === 'wanted' && !entry.proven && entry.nextTryAt <= now)
  }

  #onFound(entry: Entry, found: Found | undefined): void {
    const waitMs = Math.min(lastTryMs, firstTryMs * 2 ** entry.failures)
    entry.nextTryAt = performance.now() + waitMs
    entry.failures = Math.min(entry.failures + 1, 20)
    if (!found) return
    const isStale = this.#entries.get(`${entry.pod.namespace}/${entry.pod.name}`) !== entry || entry.wish.t !== 'wanted' || entry.proven !== undefined
    if (found.t === 'found' && isStale) return this.#close(entry.pod.uid, found)
    if (isStale) return
    if (found.t === 'found') return this.enrol(entry, found, found.by)
    if (found.because !== entry.missing?.because) this.#logger.debug({ ...names(entry.pod), because: found.because }, 'network namespace is not found')
    entry.missing = found
    this.#judge(entry)
  }

  /** Wanted pods that run and whose namespaces are still to be found: nobody may drop them meanwhile. */
  #tellUnnamed(): void {
    if (!this.#isComplete || !this.#isActing) return
    const unnamed = [...this.#entries.values()].filter(({ wish, proven, pod }) => wish.t === 'wanted' && !proven && pod.ips.length > 0)
    this.#options.enrolments.complete(new Set(unnamed.map(({ pod }) => pod.uid)))
  }
}

function names({ namespace, name }: NodePod): Record<string, string> {
  return { 'pod.namespace': namespace, 'pod.name': name }
}
