// One pod from its namespaces to its end: sandbox, link, capture, containers, in that order, and the way back. It runs
// what it was given on the node it was given; which pods there should be is the mesh's business.
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import type { PodStatus } from '../model/local-status.ts'
import { resolvePort, type PodSpec } from '../model/manifest-pod.ts'
import { podIps } from './addresses.ts'
import { Container } from './container.ts'
import { hostsFile, resolvConf, type PodFacts } from './environment.ts'
import { podLines, podLinkLines, podSysctls, podUnlinkLines } from './links.ts'
import { LogFile } from './log-file.ts'
import type { ProbeTarget } from './probe.ts'
import { isAlive } from './process-identity.ts'
import { Sandbox, type SandboxOptions } from './sandbox.ts'
import { stateRoot, type StatePaths } from './state.ts'
import type { VirtualNode } from './virtual-node.ts'

export type PodState =
  | { readonly t: 'creating' }
  | { readonly t: 'waitingForCapture' }
  | { readonly t: 'running' }
  | { readonly t: 'terminating' }
  | { readonly t: 'failed'; readonly because: string }
  | { readonly t: 'ended' }

export interface PodOptions {
  readonly uid: string
  readonly namespace: string
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly spec: PodSpec
  /** Of the spec (or the Deployment's template), to tell whether it must be replaced. */
  readonly hash: string
  /** `namespace/name` of the Deployment, if one made it. */
  readonly owner: string | undefined
  readonly node: VirtualNode
  /** Taken from the node's numbers; given back at the end. */
  readonly host: number
  readonly paths: StatePaths
  readonly dial: (netns: string, host: string, port: number, timeoutMs: number) => ReturnType<ProbeTarget['dial']>
  readonly hostPath: string
  readonly hostResolvConf: string
  /** What it sees of the mesh's own directory, which is hidden from all others. */
  readonly shows: (pod: Pick<PodOptions, 'uid' | 'namespace' | 'name' | 'owner'>) => SandboxOptions['shows']
  readonly logger: Logger
  /** After every change of state or readiness. */
  readonly onChange: () => void
  /** Whether containers may start; asked again after `recheckCapture`. */
  readonly mayStart: (pod: Pod) => boolean
}

export class Pod {
  readonly options: PodOptions
  readonly facts: PodFacts
  readonly createdMs = Date.now()
  labels: Readonly<Record<string, string>>
  #state: PodState = { t: 'creating' }
  #sandbox: Sandbox | undefined
  #containers: Container[] = []
  #openGate = (): void => {}
  #started: Promise<void> | undefined
  #stopped: Promise<void> | undefined

  constructor(options: PodOptions) {
    this.options = options
    this.labels = options.labels
    const { v4, v6 } = podIps(options.node.index, options.host)
    this.facts = {
      uid: options.uid,
      namespace: options.namespace,
      name: options.name,
      hostname: (options.spec.hostname ?? options.name).slice(0, 63).replace(/[-.]+$/, ''),
      node: options.node.name,
      nodeIp: options.node.ips.v4,
      serviceAccount: options.spec.serviceAccountName,
      ips: [v4, v6],
    }
  }

  get id(): string {
    return `${this.options.namespace}/${this.options.name}`
  }

  get state(): PodState {
    return this.#state
  }

  get isTerminating(): boolean {
    return this.#state.t === 'terminating' || this.#state.t === 'ended'
  }

  get isReady(): boolean {
    return this.#state.t === 'running' && this.#containers.every((container) => container.isReady)
  }

  /** All containers ended and stay so. */
  get isFinished(): boolean {
    return this.#state.t === 'running' && this.#containers.every((container) => container.state.t === 'terminated')
  }

  /** The holder of its namespaces died under it: nothing of it runs any more. */
  get isLost(): boolean {
    return this.#sandbox !== undefined && !this.isTerminating && !isAlive(this.#sandbox.identity)
  }

  get netns(): string | undefined {
    return this.#sandbox?.netns
  }

  get sandbox(): Sandbox | undefined {
    return this.#sandbox
  }

  container(name?: string): Container | undefined {
    return name === undefined ? this.#containers[0] : this.#containers.find((container) => container.name === name)
  }

  /** TCP ports on which the node may probe it. */
  get probePorts(): number[] {
    const ports = this.options.spec.containers.flatMap((container) =>
      [container.livenessProbe, container.readinessProbe, container.startupProbe].flatMap((probe) => {
        const reference = probe?.httpGet?.port ?? probe?.tcpSocket?.port
        return (reference !== undefined && resolvePort(reference, container.ports)) || []
      }),
    )
    return [...new Set(ports)].slice(0, 64)
  }

  #set(state: PodState): void {
    this.#state = state
    this.options.onChange()
  }

  /**
   * Makes namespaces and link (the pod can be enrolled from then on: `onNetwork`), waits until it may start, and starts
   * its containers. A failure leaves it in state `failed`; it is then only good for `stop`.
   */
  start(onNetwork: () => void): Promise<void> {
    this.#started ??= this.#start(onNetwork).catch((error: unknown) => {
      this.options.logger.warn({ 'pod.namespace': this.options.namespace, 'pod.name': this.options.name, because: describeError(error) }, 'pod could not be made')
      if (!this.isTerminating) this.#set({ t: 'failed', because: describeError(error) })
    })
    return this.#started
  }

  async #start(onNetwork: () => void): Promise<void> {
    const { node, spec } = this.options
    const sandbox = await this.#makeSandbox()
    this.#sandbox = sandbox
    if (this.isTerminating) return
    onNetwork()
    if (!this.options.mayStart(this)) {
      this.#set({ t: 'waitingForCapture' })
      await new Promise<void>((resolve) => (this.#openGate = resolve))
      if (this.isTerminating) return
    }
    this.#containers = spec.containers.map((container) => new Container({
      spec: container,
      pod: spec,
      facts: this.facts,
      sandbox,
      log: new LogFile(this.logPath(container.name)),
      dial: (ip, port, timeoutMs) => this.options.dial(node.sandbox.netns, ip, port, timeoutMs),
      hostPath: this.options.hostPath,
      logger: this.options.logger.child({ 'pod.namespace': this.options.namespace, 'pod.name': this.options.name }),
      onChange: () => this.options.onChange(),
    }))
    this.#set({ t: 'running' })
    for (const container of this.#containers) container.start()
  }

  logPath(container: string): string {
    return join(this.options.paths.logs, `${this.options.namespace}_${this.options.name}_${container}.log`)
  }

  async #makeSandbox(): Promise<Sandbox> {
    const { paths, uid, spec, namespace, hostResolvConf, node, host } = this.options
    const directory = join(paths.pods, uid)
    mkdirSync(directory, { recursive: true, mode: 0o755 })
    const files = { 'resolv.conf': resolvConf(spec, namespace, hostResolvConf), hosts: hostsFile(this.facts), hostname: `${this.facts.hostname}\n` }
    for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), text, { mode: 0o644 })
    const shows = this.options.shows(this.options)
    return Sandbox.start({
      paths,
      role: 'pod',
      id: uid,
      label: this.id,
      hostname: this.facts.hostname,
      isPod: true,
      sysctls: podSysctls,
      binds: Object.keys(files).map((name) => ({ source: join(directory, name), target: `/etc/${name}` })),
      // Pods share the host's files; the mesh's sockets and pinned objects are not for them.
      hides: [stateRoot, '/sys/fs/bpf'],
      ...(shows && { shows }),
      link: {
        inside: podLines(node.index, host, node.sandbox.pid), outerNetns: node.sandbox.netns, outside: podLinkLines(node.index, host),
      },
    })
  }

  /** To be called when its capture, or whether it needs any, may have changed. */
  recheckCapture(): void {
    if (this.#state.t === 'waitingForCapture' && this.options.mayStart(this)) this.#openGate()
  }

  /**
   * Ends it: no new connections (`drained`), then its containers within `graceMs`, then its namespaces. Without `drained`
   * its node ends as well, so nothing of it need be tidied there. Resolves when nothing of it is left, always.
   */
  stop(graceMs: number, drained?: () => Promise<void>): Promise<void> {
    this.#stopped ??= this.#stop(graceMs, drained)
    return this.#stopped
  }

  async #stop(graceMs: number, drained: (() => Promise<void>) | undefined): Promise<void> {
    const { node, host, paths, uid, logger } = this.options
    const wasRunning = this.#state.t === 'running'
    this.#set({ t: 'terminating' })
    this.#openGate()
    await this.#started
    try {
      if (wasRunning) await drained?.()
      await Promise.all(this.#containers.map((container) => container.stop(graceMs)))
      await this.#sandbox?.stop()
      await node.agent?.remove(uid)
      // The kernel removes the link with the namespace, but not at once; it may be faster than we are.
      if (drained) await node.sandbox.ip(podUnlinkLines(host)).catch(() => {})
    } catch (error) {
      logger.error({ 'pod.name': this.options.name, because: describeError(error) }, 'pod did not end cleanly')
      await this.#sandbox?.stop()
    }
    for (const container of this.#containers) container.log.close(true)
    rmSync(join(paths.pods, uid), { recursive: true, force: true })
    node.hosts.free(host)
    this.#set({ t: 'ended' })
  }

  status(captured: PodStatus['captured'], captureReason: string): PodStatus {
    const containers = this.#containers.map((container) => ({
      name: container.name,
      ready: container.isReady,
      restarts: container.restarts,
      state: container.state.t === 'waiting' ? container.state.reason : container.state.t,
      message: container.message,
    }))
    return {
      namespace: this.options.namespace,
      name: this.options.name,
      node: this.facts.node,
      ips: [...this.facts.ips],
      phase: this.#phase(),
      reason: this.#reason(captureReason),
      ready: this.isReady,
      restarts: containers.reduce((sum, container) => sum + container.restarts, 0),
      captured,
      containers,
    }
  }

  #phase(): PodStatus['phase'] {
    switch (this.#state.t) {
      case 'creating':
      case 'failed':
      case 'waitingForCapture': return 'Pending'
      case 'terminating':
      case 'ended': return 'Terminating'
      case 'running': {
        if (!this.isFinished) return 'Running'
        return this.#containers.every((c) => c.state.t === 'terminated' && c.state.code === 0) ? 'Succeeded' : 'Failed'
      }
      default: return this.#state satisfies never
    }
  }

  #reason(captureReason: string): string {
    switch (this.#state.t) {
      case 'creating': return 'ContainerCreating'
      case 'failed': return this.#state.because
      case 'waitingForCapture': return `waiting for capture: ${captureReason}`
      case 'terminating':
      case 'ended': return ''
      case 'running': {
        for (const { state, message } of this.#containers) {
          if (state.t === 'waiting') return message === '' ? state.reason : `${state.reason}: ${message}`
          if (message !== '') return message
        }
        return ''
      }
      default: return this.#state satisfies never
    }
  }
}
