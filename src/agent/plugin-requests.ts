// Answers the CNI plugin: whether a pod that starts may start. A pod of the mesh may once it is captured; any other at once, also when
// the API server is away. What cannot be known is refused for closed namespaces, and the kubelet tries again.
import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { describeError, MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { Netns } from '../kernel/netns.ts'
import type { FailureMode } from '../model/enrolment.ts'
import type { CniAnswer, CniRequest } from './cni-server.ts'
import type { Enrolments } from './enrolment-agent.ts'
import type { Claims } from './finder.ts'
import { proveNetns } from './netns-proof.ts'
import type { NodeAgent } from './node-agent.ts'
import { namespaceMode, podIps } from './node-pod.ts'
import type { Labels, NodePod, WishSettings } from './node-pod.ts'
import type { Entry } from './pod-entry.ts'
import type { AgentMetrics } from './telemetry/metrics.ts'
import { within } from './within.ts'

export interface PluginRequestsOptions {
  readonly agent: NodeAgent
  readonly enrolments: Enrolments
  readonly claims: Claims
  readonly hostInode: bigint
  readonly settings: WishSettings
  /** How long an ADD may wait for the capture. */
  readonly timeoutMs: number
  /** Asks the API server; undefined where there is none of that name. Rejects where it does not answer. */
  readonly getPod: (namespace: string, name: string, signal: AbortSignal) => Promise<NodePod | undefined>
  readonly getNamespace: (name: string, signal: AbortSignal) => Promise<Labels | undefined>
  /** What is kept for the time when the API server does not answer: namespaces of the mesh. */
  readonly keptModes: () => ReadonlyMap<string, FailureMode> | undefined
  readonly metrics: AgentMetrics
  readonly logger: Logger
}

/** The API server is asked that long; then what was known counts. */
const apiMs = 3_000
/** The API may show a pod a moment later than the kubelet has it. */
const podAppearsMs = 3_000
const askAgainMs = 200
/** An IPv6 address is checked for duplicates that long. */
const addressMs = 2_000

type Decided = { readonly t: 'wanted'; readonly entry: Entry; readonly failureMode: FailureMode } | { readonly t: 'outside' }

export class PluginRequests {
  readonly #options: PluginRequestsOptions

  constructor(options: PluginRequestsOptions) {
    this.#options = options
  }

  /** For CniServer. */
  readonly handle = async (request: CniRequest, signal: AbortSignal): Promise<CniAnswer> => {
    const answer = await this.#answer(request, signal)
    this.#options.metrics.cni(request.command, answer.ok ? (answer.captured ? 'captured' : 'outside') : 'refused')
    return answer
  }

  async #answer(request: CniRequest, signal: AbortSignal): Promise<CniAnswer> {
    switch (request.command) {
      case 'ADD': return await this.#add(request, signal)
      case 'DEL': return this.#del(request)
      case 'CHECK': return this.#check(request)
      default: return request.command satisfies never
    }
  }

  async #add(request: CniRequest, signal: AbortSignal): Promise<CniAnswer> {
    const { namespace, name } = request
    const startedAt = performance.now()
    const facts = { 'pod.namespace': namespace, 'pod.name': name }
    let mode: FailureMode | undefined
    try {
      const decided = await this.#decide(request, signal, (found) => (mode = found))
      if (decided.t === 'outside') return { ok: true, captured: false }
      mode = decided.failureMode
      await this.#capture(decided.entry, request, startedAt, signal)
      this.#options.metrics.captured((performance.now() - startedAt) / 1000)
      return { ok: true, captured: true }
    } catch (error) {
      const because = error instanceof MeshError ? error.message : describeError(error)
      this.#options.logger.warn({ ...facts, because, failureMode: mode ?? 'unknown' }, 'pod that starts is not captured')
      return mode === undefined ? { ok: false, because } : { ok: false, because, failureMode: mode }
    }
  }

  /** Throws where a pod may be of the mesh and it cannot be known. `onMode` is told what counts until the pod itself is known. */
  async #decide(request: CniRequest, signal: AbortSignal, onMode: (mode: FailureMode) => void): Promise<Decided> {
    const { agent, settings } = this.#options
    const labels = await this.#namespaceLabels(request.namespace, signal)
    const mode = labels ? namespaceMode(request.namespace, labels, settings) : this.#options.keptModes()?.get(request.namespace)
    if (mode) onMode(mode)
    const pod = await this.#pod(request, signal, mode !== undefined)
    if (!pod || !labels) {
      if (mode === undefined) return { t: 'outside' }
      throw new MeshError('KUBE_UNREACHABLE', pod ? 'the labels of its namespace are not known' : 'the API server does not tell of this pod')
    }
    const entry = agent.adopt(pod, labels)
    return entry.wish.t === 'wanted' ? { t: 'wanted', entry, failureMode: entry.wish.failureMode } : { t: 'outside' }
  }

  async #namespaceLabels(name: string, signal: AbortSignal): Promise<Labels | undefined> {
    const { agent, getNamespace, logger } = this.#options
    try {
      return await getNamespace(name, AbortSignal.any([signal, AbortSignal.timeout(apiMs)]))
    } catch (error) {
      logger.debug({ 'pod.namespace': name, because: describeError(error) }, 'namespace cannot be asked for: going by what is known')
      return agent.labelsOf(name)
    }
  }

  /** The pod of that name and uid. `mustBe`: its namespace is in the mesh, so that it is waited for. */
  async #pod({ namespace, name, uid }: CniRequest, signal: AbortSignal, mustBe: boolean): Promise<NodePod | undefined> {
    const { agent, getPod, logger } = this.#options
    const isIt = (pod: NodePod | undefined): pod is NodePod => pod !== undefined && (uid === '' || pod.uid === uid || pod.isStatic)
    const deadline = performance.now() + (mustBe ? podAppearsMs : 0)
    for (;;) {
      const known = agent.entryOf(namespace, name)?.pod
      if (uid !== '' && known?.uid === uid) return known
      try {
        const pod = await getPod(namespace, name, AbortSignal.any([signal, AbortSignal.timeout(apiMs)]))
        if (isIt(pod)) return pod
      } catch (error) {
        logger.debug({ 'pod.namespace': namespace, 'pod.name': name, because: describeError(error) }, 'pod cannot be asked for')
        if (isIt(known)) return known
      }
      if (performance.now() >= deadline || signal.aborted) return undefined
      await sleep(askAgainMs)
    }
  }

  async #capture(entry: Entry, request: CniRequest, startedAt: number, signal: AbortSignal): Promise<void> {
    const { agent, enrolments, timeoutMs } = this.#options
    await this.#prove(entry, request)
    await within(enrolments.settled(entry.pod.uid), Math.max(0, startedAt + timeoutMs - performance.now()), signal)
    if (!agent.isActing) throw new MeshError('AGENT_UNAVAILABLE', 'a newer node agent has taken over; it will be asked')
    const state = enrolments.stateOf(entry.pod.uid)
    if (state.t !== 'captured') throw new MeshError('AGENT_UNAVAILABLE', state.t === 'waiting' ? state.because : 'it left the mesh meanwhile')
  }

  async #prove(entry: Entry, { netns: path, ips: given, containerId }: CniRequest): Promise<void> {
    const { agent, claims, hostInode } = this.#options
    const { uid } = entry.pod
    const ips = given.length > 0 ? podIps(given) : await addressesAt(path)
    if (ips.length === 0) throw new MeshError('NOT_FOUND', 'its network namespace has no address')
    const proof = await proveNetns(path, { ips, hostInode, claimant: (inode) => claims.claimant(inode, uid), waitMs: addressMs })
    if (proof.t === 'refused') throw new MeshError('NOT_FOUND', proof.because)
    // Asked twice for the same sandbox, or found by ourselves meanwhile.
    if (entry.proven?.netns.inode === proof.netns.inode) {
      entry.proven = { ...entry.proven, sandboxId: containerId }
      proof.netns.close()
      return
    }
    if (entry.wish.t !== 'wanted') {
      proof.netns.close()
      return
    }
    agent.enrol(entry, { netns: proof.netns, ips, sandboxId: containerId }, 'plugin')
  }

  /** Late, repeated and unknown ones are all the same: whoever is still captured under that sandbox is let go. */
  #del({ namespace, name, containerId }: CniRequest): CniAnswer {
    const { agent } = this.#options
    const entry = agent.entryOf(namespace, name)
    if (entry?.proven && entry.proven.sandboxId === containerId && agent.isActing) agent.lose(entry, 'its sandbox is being removed')
    return { ok: true, captured: false }
  }

  #check({ namespace, name, uid }: CniRequest): CniAnswer {
    const { agent, enrolments } = this.#options
    const entry = agent.entryOf(namespace, name)
    if (entry?.wish.t !== 'wanted' || (uid !== '' && entry.pod.uid !== uid)) return { ok: true, captured: false }
    const state = enrolments.stateOf(entry.pod.uid)
    if (state.t === 'captured' && entry.lost === undefined) return { ok: true, captured: true }
    return { ok: false, because: entry.lost ?? (state.t === 'waiting' ? state.because : 'it is not captured'), failureMode: entry.wish.failureMode }
  }
}

async function addressesAt(path: string): Promise<string[]> {
  const netns = await Netns.open(path)
  try {
    return await netns.addresses()
  } finally {
    netns.close()
  }
}
