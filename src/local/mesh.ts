// A mesh on one machine: virtual nodes, pods, services and ztunnels, kept in line with a directory of YAML and with what
// was applied. This file composes the parts and answers questions; each decision lives in a room of its own.
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { DirectoryWatcher, type DirectoryReading } from '../core/directory.ts'
import { MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import type { ExecPlan, LocalStatus, RunRequest } from '../model/local-status.ts'
import { objectKey, type ManifestObject } from '../model/manifest.ts'
import { manifestFiles, parseManifest, type ParsedManifest } from '../model/manifest-parse.ts'
import { maxNodes, nodeName } from './addresses.ts'
import { EnrolmentAgent } from '../agent/enrolment-agent.ts'
import { AppliedObjects } from './applied-objects.ts'
import { CaptureGate } from './capture-gate.ts'
import { Catalogue, type Desired } from './catalogue.ts'
import { removeLeftovers } from './cleanup.ts'
import { runCommand, type CommandOptions, type CommandResult } from './command.ts'
import { ControlPlaneProcess } from './controlplane-process.ts'
import { NodeDialer } from './dialer.ts'
import { FactsServer } from './facts-server.ts'
import { gatewayAdminSocket, gatewayDirectories, gatewayRun } from './gateway-run.ts'
import { publishWishes } from './gateway-status.ts'
import { GatewayWorkloads } from './gateway-workloads.ts'
import { hostResolvConf } from './host-files.ts'
import type { LogFile } from './log-file.ts'
import type { LocalMeshOptions } from './mesh-options.ts'
import { endpointPods, meshStatus } from './mesh-status.ts'
import type { Pod } from './pod.ts'
import { PodSet } from './pod-set.ts'
import { identify } from './process-identity.ts'
import { Publisher } from './publisher.ts'
import { runtimeFacts } from './runtime-facts.ts'
import { isVirtual, routeOf, ServiceAddresses } from './services.ts'
import { lockInstance, makeStateDirectories, removeState, statePaths, writeRecord, type InstanceLock, type StatePaths } from './state.ts'
import { makeTopology, type Topology, type VirtualNode } from './virtual-node.ts'
import { Waiting } from './waiting.ts'
import { carryingFlags, cleanUpZtunnel, startZtunnel, watchZtunnel, ztunnelIsReady } from './ztunnel-process.ts'

const lostPodCheckMs = 2000
const defaultStopGraceMs = 2000

const defaultZtunnel = (): string[] => [process.execPath, ...carryingFlags, fileURLToPath(new URL('../bin/ztunnel.ts', import.meta.url))]
export const defaultHostPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

export class LocalMesh {
  readonly name: string
  readonly paths: StatePaths
  readonly #logger: Logger
  readonly #isMeshed: boolean
  readonly #lock: InstanceLock
  readonly #ztunnelCommand: readonly string[]
  readonly #ztunnelEnvironment: Readonly<Record<string, string>>
  readonly #hasControlPlane: boolean
  readonly #hostPath: string
  readonly #onFacts: LocalMeshOptions['onFacts']
  readonly #topology: Topology
  readonly #dialer = new NodeDialer()
  readonly #gateways: GatewayWorkloads
  readonly #catalogue: Catalogue
  readonly #addresses = new ServiceAddresses()
  readonly #facts: FactsServer
  readonly #applied: AppliedObjects
  readonly #generated: AppliedObjects
  readonly #publish: NonNullable<LocalMeshOptions['publish']>
  readonly #publisher: Publisher
  #controlPlane: ControlPlaneProcess | undefined
  readonly #pods: PodSet
  readonly #capture = new CaptureGate((namespace) => this.#desired.namespaces.get(namespace) ?? {})
  #watcher: DirectoryWatcher<ParsedManifest> | undefined
  #desired: Desired
  #addressProblems: LocalStatus['problems'] = []
  #isScheduled = false
  #isSettled = false
  #isStopping = false
  #stopped: Promise<void> | undefined
  readonly #lostTimer: NodeJS.Timeout
  readonly #waiting = new Waiting()
  #reported = ''

  private constructor(options: LocalMeshOptions, paths: StatePaths, lock: InstanceLock, topology: Topology) {
    this.name = options.name
    this.paths = paths
    this.#logger = options.logger
    this.#isMeshed = options.mesh ?? true
    this.#ztunnelCommand = options.ztunnelCommand ?? defaultZtunnel()
    this.#ztunnelEnvironment = options.ztunnelEnvironment ?? {}
    this.#hasControlPlane = this.#isMeshed && (options.controlPlane ?? true)
    this.#facts = new FactsServer({ path: paths.factsSocket, logger: options.logger })
    this.#applied = new AppliedObjects(paths.applied)
    this.#generated = new AppliedObjects(paths.applied, 'generated')
    this.#gateways = new GatewayWorkloads((gateway) => gatewayRun(gateway, options.gatewayCommand))
    this.#catalogue = new Catalogue(this.#hasControlPlane ? this.#gateways : undefined)
    this.#publish = options.publish ?? []
    this.#publisher = new Publisher({
      // From a node, which balances services; the namespace between the nodes does not.
      dial: (ip, port, timeoutMs) => this.#dialer.dial(this.nodeNetns(nodeName(1)), ip, port, timeoutMs),
      logger: this.#logger, onChange: () => this.#schedule(),
    })
    this.#hostPath = options.hostPath ?? defaultHostPath
    this.#onFacts = options.onFacts
    this.#lock = lock
    this.#topology = topology
    this.#desired = this.#catalogue.desired()
    this.#pods = new PodSet({
      nodes: topology.nodes,
      logger: this.#logger,
      common: {
        paths,
        dial: (netns, host, port, timeoutMs) => this.#dialer.dial(netns, host, port, timeoutMs),
        hostPath: this.#hostPath,
        hostResolvConf: hostResolvConf(),
        shows: ({ owner = '', ...pod }) => (this.#desired.generated.deployments.has(owner) ? gatewayDirectories(paths, { ...pod, gateway: owner }) : undefined),
        mayStart: (pod) => this.#capture.mayStart(pod),
      },
      onChange: () => this.#schedule(),
      onNetwork: (pod) => this.#capture.enrol(pod),
      drained: () => this.#syncServices(),
    })
    this.#lostTimer = setInterval(() => {
      if ([...this.#pods.pods.values()].some((pod) => pod.isLost)) this.#schedule()
    }, lostPodCheckMs)
    this.#lostTimer.unref()
  }

  /**
   * Makes nodes (and ztunnels), reads the directory and starts what it asks for; `waitReady` waits for that. What a
   * crashed mesh of the name left is removed first. ALREADY_RUNNING, BAD_CONFIG, BAD_MANIFEST, NATIVE_MISSING, COMMAND_FAILED.
   */
  static async start(options: LocalMeshOptions): Promise<LocalMesh> {
    const paths = statePaths(options.name)
    const count = options.nodes ?? 2
    if (!Number.isInteger(count) || count < 1 || count > maxNodes) {
      throw new MeshError('BAD_CONFIG', `a local mesh has 1 to ${maxNodes} nodes, not ${count}`)
    }
    if (process.getuid?.() !== 0) throw new MeshError('NOT_ROOT', 'making network namespaces needs root')
    const lock = await lockInstance(options.name)
    const hostPath = options.hostPath ?? defaultHostPath
    let mesh: LocalMesh | undefined
    try {
      const problems = await removeLeftovers(paths, hostPath)
      if (problems.length > 0) throw new MeshError('COMMAND_FAILED', `what was left of an earlier run cannot be removed: ${problems.join('; ')}`)
      makeStateDirectories(paths)
      const self = identify(process.pid)
      if (!self) throw new MeshError('SYSCALL_FAILED', 'cannot read /proc/self/stat')
      const ztunnel = (options.mesh ?? true) ? [...(options.ztunnelCommand ?? defaultZtunnel())] : []
      writeRecord(paths.daemon, { process: self, nodes: Array.from({ length: count }, (_, i) => nodeName(i + 1)), ztunnel })
      const topology = await makeTopology(paths, count, options.logger, options.nameServers)
      mesh = new LocalMesh(options, paths, lock, topology)
      await mesh.#begin(options)
      return mesh
    } catch (error) {
      if (mesh) await mesh.stop()
      else {
        await removeLeftovers(paths, hostPath)
        await lock.release()
      }
      throw error
    }
  }

  async #begin(options: LocalMeshOptions): Promise<void> {
    if (this.#hasControlPlane) this.#startControlPlane(options)
    if (this.#isMeshed) for (const node of this.#topology.nodes) await this.#startZtunnel(node)
    if (options.manifests !== undefined) this.apply(options.manifests)
    if (options.directory !== undefined) {
      this.#watcher = await DirectoryWatcher.start(options.directory, manifestFiles, (reading) => this.#onReading(reading))
    }
    this.#step()
    // The control plane waits for it: before all was read, the facts would look like the rest being gone.
    if (this.#hasControlPlane) await this.#facts.listen()
  }

  #startControlPlane({ directory, controlPlaneEnvironment }: LocalMeshOptions): void {
    this.#controlPlane = new ControlPlaneProcess({
      paths: this.paths, netns: this.underlayNetns, nodes: this.#topology.nodes.map(({ name }) => name),
      directory: directory === undefined ? undefined : resolve(directory), hostPath: this.#hostPath, logger: this.#logger,
      ...(controlPlaneEnvironment && { environment: controlPlaneEnvironment }), onChange: () => this.#schedule(),
    })
  }

  async #startZtunnel(node: VirtualNode): Promise<void> {
    const logger = this.#logger.child({ node: node.name })
    node.agent = new EnrolmentAgent(this.paths.agentSocket(node.name), logger, () => this.#onCapture())
    await node.agent.listen()
    node.ztunnel = startZtunnel({
      paths: this.paths, node: node.name, netns: node.sandbox.netns, command: this.#ztunnelCommand, hostPath: this.#hostPath,
      hasControlPlane: this.#hasControlPlane, environment: this.#ztunnelEnvironment, logger,
    })
    if (this.#hasControlPlane) node.serving = watchZtunnel(this.paths.adminSocket(node.name), node.ztunnel, () => this.#schedule())
  }

  #onReading(reading: DirectoryReading<ParsedManifest>): void {
    this.#catalogue.setReading(reading)
    this.#schedule()
  }

  #onCapture(): void {
    for (const pod of this.#pods.pods.values()) pod.recheckCapture()
    this.#schedule()
  }

  /** Calls of one turn of the event loop become one step. */
  #schedule(): void {
    if (this.#isScheduled || this.#isStopping) return
    this.#isScheduled = true
    setImmediate(() => {
      this.#isScheduled = false
      if (!this.#isStopping) this.#step()
      this.#waiting.wake()
    })
  }

  #step(): void {
    this.#desired = this.#catalogue.desired()
    this.#generated.replace(this.#desired.generated.forControlPlane)
    this.#isSettled = this.#pods.reconcile(this.#desired)
    const addressProblems = this.#addresses.update(this.#desired.services)
    const published = publishWishes(this.#desired, this.#publish, (id) => this.#addresses.of(id)[0])
    this.#addressProblems = [...addressProblems, ...published.problems]
    this.#publisher.update(published.wishes)
    for (const pod of this.#pods.pods.values()) {
      if (pod.state.t !== 'creating') this.#capture.enrol(pod)
      pod.recheckCapture()
    }
    void this.#syncServices()
    const facts = runtimeFacts(this.#pods.pods, this.#desired.services, this.#addresses)
    this.#facts.update(facts)
    this.#topology.dns.update(this.#desired.services, facts)
    this.#onFacts?.(facts)
    this.#report()
  }

  #report(): void {
    const problems = [...this.#desired.problems, ...this.#addressProblems]
    const text = JSON.stringify(problems)
    if (text === this.#reported) return
    this.#reported = text
    for (const problem of problems) this.#logger.warn({ ...problem }, 'manifest problem, the last good state stays')
    for (const note of this.#desired.notes) this.#logger.info({ ...note }, 'manifest note')
  }

  /** Resolves when all nodes balance over the endpoints that are ready now. */
  async #syncServices(): Promise<void> {
    const pods = endpointPods(this.#pods.pods)
    const routes = [...this.#desired.services]
      .filter(([, service]) => isVirtual(service.spec))
      .map(([id, service]) => routeOf(service, this.#addresses.of(id), pods))
    await Promise.all(this.#topology.nodes.map((node) => node.setServices(routes)))
  }

  /** Adds or replaces objects, as `kubectl apply` does. BAD_MANIFEST names the first mistake; nothing is applied then. */
  apply(manifest: string): readonly ManifestObject[] {
    const { objects, problems } = parseManifest(manifest, 'applied')
    const [first] = problems
    if (first) throw new MeshError('BAD_MANIFEST', `line ${first.line}: ${first.reason}`, { detail: { problems } })
    this.#catalogue.apply(objects)
    this.#applied.apply(manifest)
    this.#schedule()
    return objects
  }

  /** Takes back objects that were applied (not those of the directory). `key` is `Kind namespace/name` or `Namespace name`. */
  unapply(key: string): boolean {
    const was = this.#catalogue.unapply(key)
    this.#applied.unapply(key)
    this.#schedule()
    return was
  }

  /** Replaces a Gateway's pods one after the other. NOT_FOUND if its pods are not made here. */
  restartGateway(namespace: string, name: string): void {
    const id = `${namespace}/${name}`
    if (this.#desired.generated.gateways.get(id)?.madeBy !== 'us') throw new MeshError('NOT_FOUND', `there is no Gateway ${id} whose pods this mesh makes`)
    this.#gateways.restart(id, new Date().toISOString())
    this.#schedule()
  }

  /** Makes a pod for one command; it stays, ended, until `unapply('Pod NAMESPACE/NAME')`. ALREADY_RUNNING if the name is taken. */
  run(request: RunRequest): void {
    if (this.#pods.pods.has(`${request.namespace}/${request.name}`)) {
      throw new MeshError('ALREADY_RUNNING', `there is a pod ${request.namespace}/${request.name}`)
    }
    const { name, namespace, labels, node, command } = request
    const spec = { restartPolicy: 'Never', containers: [{ name, command }], ...(node === undefined ? {} : { nodeName: node }) }
    const [object] = this.apply(JSON.stringify({ apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace, labels }, spec }))
    if (object) this.#logger.info({ object: objectKey(object) }, 'pod made for a command')
  }

  /** NOT_FOUND if there is no such pod (an ending one counts as there). */
  pod(namespace: string, name: string): Pod {
    const pod = this.#pods.pods.get(`${namespace}/${name}`)
    if (!pod) throw new MeshError('NOT_FOUND', `there is no pod ${namespace}/${name}`)
    return pod
  }

  /** Path that opens the pod's network namespace. NOT_FOUND until it has one. */
  podNetns(namespace: string, name: string): string {
    const { netns } = this.pod(namespace, name)
    if (netns === undefined) throw new MeshError('NOT_FOUND', `pod ${namespace}/${name} has no network yet`)
    return netns
  }

  nodeNetns(name: string): string {
    const node = this.#topology.nodes.find((candidate) => candidate.name === name)
    if (!node) throw new MeshError('NOT_FOUND', `there is no node ${name}`)
    return node.sandbox.netns
  }

  /** The namespace between the nodes; its bridge is what pods see as the outside. */
  get underlayNetns(): string {
    return this.#topology.underlay.netns
  }

  get nodes(): readonly VirtualNode[] {
    return this.#topology.nodes
  }

  /** How to run a command in a container of a running pod; the first container unless named. NOT_FOUND. */
  execPlan(namespace: string, name: string, container: string | undefined, command: readonly string[]): ExecPlan {
    const found = this.pod(namespace, name).container(container)
    if (!found || this.pod(namespace, name).state.t !== 'running') {
      throw new MeshError('NOT_FOUND', `pod ${namespace}/${name} has no running container ${container ?? ''}`.trimEnd())
    }
    return found.execArguments(command)
  }

  /** Runs a command in a container to its end. */
  exec(namespace: string, name: string, container: string | undefined, command: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    const { argv, env } = this.execPlan(namespace, name, container, command)
    return runCommand(argv, { ...options, env: { ...env, ...options.env } })
  }

  log(namespace: string, name: string, container?: string): LogFile {
    const found = this.pod(namespace, name).container(container)
    if (!found) throw new MeshError('NOT_FOUND', `pod ${namespace}/${name} has no container ${container ?? 'yet'}`)
    return found.log
  }

  status(): LocalStatus {
    return meshStatus({
      name: this.name, isReady: this.isReady, isMeshed: this.#isMeshed, nodes: this.#topology.nodes, pods: this.#pods, desired: this.#desired,
      objects: this.#catalogue.objects, published: this.#publisher.status(),
      adminSocket: ({ options: { uid } }) => gatewayAdminSocket(this.paths, uid),
      addresses: this.#addresses, problems: this.#addressProblems, controlPlane: this.#controlPlane?.summary() ?? { state: 'off' },
    })
  }

  /** The same with what the control plane says of itself, if it answers. */
  async fullStatus(): Promise<LocalStatus> {
    const controlPlane = await this.#controlPlane?.status()
    return controlPlane ? { ...this.status(), controlPlane } : this.status()
  }

  /** Everything wanted runs and is ready (or has done its work), and nothing is about to change. */
  get isReady(): boolean {
    if (!this.#isSettled || this.#isScheduled || this.#pods.unplaced.size > 0) return false
    if (this.#controlPlane?.isReady === false || this.#topology.nodes.some(({ serving }) => serving?.isServing === false)) return false
    return [...this.#pods.pods.values()].every((pod) => pod.isReady || pod.isFinished) && this.#pods.pods.size >= this.#desired.pods.size
  }

  /** Resolves when everything is ready; after `timeoutMs` rejects with COMMAND_FAILED, naming the pods that are not. */
  async waitReady(timeoutMs = 30_000): Promise<void> {
    await this.waitUntil(() => this.isReady, timeoutMs, () => {
      const late = this.status().pods.filter((pod) => !pod.ready && pod.phase !== 'Succeeded')
      if (this.#controlPlane?.isReady === false) return `the control plane is not ready: see ${this.paths.logs}/controlplane.log`
      const waiting = this.#topology.nodes.filter(({ serving }) => serving?.isServing === false).map(({ name }) => `the ztunnel of ${name} is not ready`)
      return [...waiting, ...late.map((pod) => `${pod.namespace}/${pod.name} ${pod.phase} ${pod.reason}`.trimEnd())].join('; ') || 'changes are still being made'
    })
    await this.#syncServices()
  }

  /** Waits until `check` holds; asks after every change of the mesh. COMMAND_FAILED with `why()` after `timeoutMs`. */
  waitUntil(check: () => boolean, timeoutMs: number, why?: () => string): Promise<void> {
    return this.#waiting.until(check, timeoutMs, why)
  }

  /**
   * Gives a node a new ztunnel without an interruption: the successor takes over what is captured, the predecessor finishes what
   * it carries and leaves. NOT_FOUND, or COMMAND_FAILED if the successor does not become ready; nothing has changed then.
   */
  async replaceZtunnel(name: string): Promise<void> {
    const node = this.#topology.nodes.find((candidate) => candidate.name === name)
    if (!node?.ztunnel) throw new MeshError('NOT_FOUND', `there is no ztunnel on a node ${name}`)
    const socket = this.paths.adminSocket(name)
    await node.ztunnel.replace((pid) => ztunnelIsReady(socket, pid))
  }

  /** Ends everything and removes all that was made. Pods get `graceMs` at most. Safe to call again. */
  stop(graceMs = defaultStopGraceMs): Promise<void> {
    this.#stopped ??= this.#stop(graceMs)
    return this.#stopped
  }

  async #stop(graceMs: number): Promise<void> {
    this.#isStopping = true
    this.#watcher?.close()
    clearInterval(this.#lostTimer)
    this.#publisher.close()
    await this.#pods.stopAll(graceMs)
    const { nodes, underlay, dns } = this.#topology
    const controlPlaneStopped = this.#controlPlane?.stop()
    await Promise.all(nodes.map(async (node) => {
      node.serving?.stop()
      await node.ztunnel?.stop()
      await node.agent?.close()
      if (node.ztunnel) {
        const problem = await cleanUpZtunnel(this.paths, node.name, node.sandbox.netns, this.#ztunnelCommand, this.#hostPath)
        if (problem !== '') this.#logger.error({ node: node.name, because: problem }, 'ztunnel cleanup failed')
      }
      await node.idle()
      await node.sandbox.stop()
    }))
    await controlPlaneStopped
    await Promise.all([this.#facts.close(), this.#dialer.close(), dns.close()])
    await underlay.stop()
    removeState(this.paths)
    await this.#lock.release()
    this.#waiting.wake()
  }
}
