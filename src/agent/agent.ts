// One node's agent put together from its parts: what the API server says, what the plugin asks, what the ztunnel is told, what the audit
// sees. Knows no environment variables, signals or exits; src/bin/agent.ts does.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { buildDirectory } from '../kernel/native.ts'
import { Netns } from '../kernel/netns.ts'
import { isNotFound } from '../kube/answers.ts'
import { resourcePath } from '../kube/api.ts'
import type { ResourceType } from '../kube/api.ts'
import type { KubeClient } from '../kube/client.ts'
import { EventRecorder } from '../kube/event-recorder.ts'
import { ListWatch } from '../kube/list-watch.ts'
import type { FailureMode } from '../model/enrolment.ts'
import { readNameSearch } from '../model/resolv-conf.ts'
import type { NameSearch } from '../model/resolv-conf.ts'
import { Audit } from './audit.ts'
import { readNamespaces } from './cni-namespaces.ts'
import { answers } from './cni-server.ts'
import { CniService } from './cni-service.ts'
import { ConditionWriter, podType } from './conditions.ts'
import type { Config } from './config.ts'
import { CriClient } from './cri-client.ts'
import { EnrolmentAgent } from './enrolment-agent.ts'
import type { Enrolments } from './enrolment-agent.ts'
import { Claims, Finder } from './finder.ts'
import { NodeAgent } from './node-agent.ts'
import { readLabels, readNodePod } from './node-pod.ts'
import type { Labels, NodePod } from './node-pod.ts'
import { PluginRequests } from './plugin-requests.ts'
import { AgentMetrics } from './telemetry/metrics.ts'
import { ZdsServer } from './zds-server.ts'

const namespaceType: ResourceType = { group: '', version: 'v1', plural: 'namespaces', kind: 'Namespace', namespaced: false }
const ownerEveryMs = 250
/** A resolv.conf is read again after that. */
const searchKeptMs = 60_000
/** The agent decides before the plugin gives up. */
const pluginMarginMs = 2_000

export class Agent {
  readonly metrics = new AgentMetrics()
  readonly nodeAgent: NodeAgent
  readonly #config: Config
  readonly #logger: Logger
  readonly #enrolments: Enrolments
  readonly #runtime: CriClient | undefined
  readonly #conditions: ConditionWriter
  readonly #events: EventRecorder
  readonly #watches: readonly { readonly name: string; readonly watch: ListWatch<unknown> }[]
  readonly #cni: CniService
  readonly #audit: Audit
  #keptModes: ReadonlyMap<string, FailureMode> | undefined
  #search: { readonly value: NameSearch; readonly atMs: number } | undefined
  #isClosed = false

  private constructor(config: Config, api: KubeClient, hostInode: bigint, enrolments: (onChange: () => void) => Enrolments, logger: Logger) {
    this.#config = config
    this.#logger = logger
    this.#enrolments = enrolments(() => this.nodeAgent.enrolmentsChanged())
    this.#runtime = CriClient.find(config.criSocket)
    const settings = { systemNamespace: config.podNamespace, istioLabels: config.istioLabels }
    const { metrics } = this
    this.#conditions = new ConditionWriter({ api, logger, perSecond: config.conditionsPerSecond, onWritten: (result) => metrics.condition(result) })
    this.#conditions.pause(true)
    this.#events = new EventRecorder({ api, log: logger, controller: 'sidestep.dev/agent', instance: config.podName || config.node })
    const claims = new Claims()
    const finder = new Finder({ runtime: this.#runtime, claims, hostInode, logger })
    this.nodeAgent = new NodeAgent({
      ...settings, node: config.node, clusterDomain: config.clusterDomain, releaseMs: config.releaseSeconds * 1000, complainMs: config.complainSeconds * 1000,
      enrolments: this.#enrolments, conditions: this.#conditions, finder, claims, nodeSearch: () => this.#nodeSearch(), logger,
      onFound: (by) => metrics.found(by),
      onComplaint: ({ namespace, name, uid }, { reason, message }) => {
        const regarding = { apiVersion: 'v1', kind: 'Pod', metadata: { namespace, name, uid } }
        this.#events.record(regarding, { type: 'Warning', reason: 'NotCaptured', action: 'Capture', note: `Its traffic is not captured (${reason}): ${message}` })
      },
      onNamespaces: (modes) => {
        this.#keptModes = modes
        this.#cni.setNamespaces(modes)
      },
    })
    const requests = new PluginRequests({
      agent: this.nodeAgent, enrolments: this.#enrolments, claims, hostInode, settings, timeoutMs: config.cniTimeoutSeconds * 1000 - pluginMarginMs,
      getPod: (namespace, name, signal) => getPod(api, config.node, namespace, name, signal),
      getNamespace: (name, signal) => getNamespace(api, name, signal),
      keptModes: () => this.#keptModes, metrics, logger,
    })
    this.#cni = new CniService({
      socket: config.cniSocket, namespacesFile: config.namespacesFile, executable: config.cniExecutable || join(buildDirectory, 'cni/sidestep-cni'), binDirectory: config.cniBinDirectory,
      confDirectory: config.cniConfDirectory, timeoutMs: config.cniTimeoutSeconds * 1000, exempt: [config.podNamespace], handle: requests.handle, logger,
    })
    const watched = { api, log: logger } as const
    this.#watches = [
      { name: 'pods', watch: new ListWatch({ ...watched, type: podType, fieldSelector: `spec.nodeName=${config.node}`, trim: readNodePod, listener: this.nodeAgent.pods }) as ListWatch<unknown> },
      { name: 'namespaces', watch: new ListWatch({ ...watched, type: namespaceType, isMetadataOnly: true, trim: ({ metadata }) => readLabels(metadata.labels), listener: this.nodeAgent.namespaces }) as ListWatch<unknown> },
    ]
    this.#audit = new Audit({
      agent: this.nodeAgent, enrolments: this.#enrolments, finder, instance: config.zdsServerSocket === '' ? config.instance : undefined,
      ztunnelAdminSocket: config.ztunnelAdminSocket, everyMs: config.auditSeconds * 1000, metrics, logger,
    })
    metrics.watch({
      pods: () => this.nodeAgent.counts(), ztunnelConnected: () => this.#enrolments.isConnected, watchesSynced: () => this.#isSynced,
      acting: () => this.nodeAgent.isActing, conditionsWaiting: () => this.#conditions.waiting,
    })
  }

  /** Listens for the ztunnel, and begins. What is away then is waited for in the background. */
  static async start(config: Config, api: KubeClient, logger: Logger): Promise<Agent> {
    const host = await Netns.open(config.hostNetns)
    const { inode } = host
    host.close()
    let listen: () => void | Promise<void> = () => {}
    const agent = new Agent(config, api, inode, (onChange) => {
      if (config.zdsServerSocket !== '') {
        const server = new ZdsServer({ path: config.zdsServerSocket, logger, onChange })
        listen = () => server.listen()
        return server
      }
      const server = new EnrolmentAgent(config.agentSocket, logger, onChange, { awaitsComplete: true })
      listen = () => server.listen()
      return server
    }, logger)
    await listen()
    agent.#begin()
    return agent
  }

  /** Sentences without a full stop; empty when ready. */
  waitingFor(): string[] {
    const cni = this.#cni.state
    return [
      ...this.#watches.filter(({ watch }) => !watch.state().isSynced).map(({ name, watch }) => `the API server to tell the ${name}${because(watch.state().because)}`),
      ...(this.#enrolments.isConnected ? [] : ['the ztunnel']),
      ...(this.nodeAgent.isComplete ? [] : ['the first look at all pods']),
      ...(cni.t === 'waiting' ? [`the CNI plugin to be in the chain${because(cni.because)}`] : []),
    ]
  }

  get #isSynced(): boolean {
    return this.#watches.every(({ watch }) => watch.state().isSynced)
  }

  #begin(): void {
    for (const { watch } of this.#watches) watch.start()
    this.#audit.start()
    this.#takeOver().catch((error: unknown) => this.#logger.error({ because: describeError(error) }, 'the node agent could not begin'))
  }

  /** Another agent may be at work until our ztunnel is: it is asked by the plugin until then, and leaves the node to us when we are. */
  async #takeOver(): Promise<void> {
    this.#keptModes ??= await readNamespaces(this.#config.namespacesFile).catch(() => undefined)
    while (!this.#isClosed && !(this.#isSynced && this.#enrolments.isConnected) && await answers(this.#config.cniSocket)) await tick()
    if (this.#isClosed) return
    await this.#cni.start()
    while (!this.#isClosed) {
      const isOwner = await this.#cni.isOwner()
      if (this.#isClosed) return
      if (this.nodeAgent.isActing && !isOwner) this.#logger.info('a newer node agent has taken over')
      this.nodeAgent.act(isOwner && this.#isSynced)
      await tick()
    }
  }

  #nodeSearch(): NameSearch {
    const now = performance.now()
    if (!this.#search || now - this.#search.atMs > searchKeptMs) this.#search = { value: readNameSearch(readText(this.#config.nodeResolvConf)), atMs: now }
    return this.#search.value
  }

  /** Leaves everything as it is: pods stay captured, and another agent goes on. */
  async close(): Promise<void> {
    this.#isClosed = true
    this.#audit.close()
    for (const { watch } of this.#watches) watch.close()
    await this.#cni.close()
    this.nodeAgent.close()
    this.#conditions.close()
    await this.#enrolments.close()
    this.#runtime?.close()
  }
}

const tick = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, ownerEveryMs))

const because = (text: string | undefined): string => (text === undefined || text === '' ? '' : ` (${text})`)

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return '' // a node without one searches in no domains
  }
}

/** A pod of that name on our node. */
async function getPod(api: KubeClient, node: string, namespace: string, name: string, signal: AbortSignal): Promise<NodePod | undefined> {
  try {
    const object = await api.get(resourcePath(podType, { namespace, name }), { signal })
    const { spec } = object
    return typeof spec === 'object' && spec !== null && 'nodeName' in spec && spec.nodeName === node ? readNodePod(object) : undefined
  } catch (error) {
    if (isNotFound(error)) return undefined
    throw error
  }
}

async function getNamespace(api: KubeClient, name: string, signal: AbortSignal): Promise<Labels | undefined> {
  try {
    return readLabels((await api.get(resourcePath(namespaceType, { name }), { signal })).metadata.labels)
  } catch (error) {
    if (isNotFound(error)) return undefined
    throw error
  }
}
