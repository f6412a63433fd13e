// What this node knows of the mesh, kept in step with the control plane and with a file, so that a start without the
// control plane serves what was known last. Answers questions about it; carries nothing and decides about no connection.
import { join } from 'node:path'
import type { Logger } from '../core/log.ts'
import { MeshError } from '../core/errors.ts'
import type { PodEnrolment } from '../model/enrolment.ts'
import { WorkloadStore } from '../model/workload-store.ts'
import type { Workload } from '../model/workload.ts'
import { EndpointHealth, followStore } from '../policy/endpoint-health.ts'
import { Rbac } from '../policy/rbac.ts'
import { XdsClient } from '../xds/client.ts'
import type { XdsClientOptions, XdsState } from '../xds/client-options.ts'
import type { XdsDelta } from '../xds/resource-cache.ts'
import { loadState, StateKeeper } from '../xds/state-file.ts'

/** A pod that was captured a moment ago may reach us before the control plane's word about it does. */
const ownWorkloadTimeoutMs = 5_000

export interface MeshStateOptions {
  /** Undefined: no control plane, so nobody is known and everything is passed through. */
  readonly xds: Omit<XdsClientOptions, 'onDelta' | 'onChanged' | 'logger'> | undefined
  /** Called with each change after the store has it, for what else the client asks for. */
  readonly onDelta?: (delta: XdsDelta) => void
  /** Exists. */
  readonly stateDirectory: string
  readonly clusterId: string
  readonly network: string
  readonly trustDomain: string
  readonly logger: Logger
}

interface Waiter {
  readonly pod: PodEnrolment
  readonly settle: (workload: Workload | undefined) => void
}

export class MeshState {
  readonly store = new WorkloadStore()
  readonly health = new EndpointHealth({ now: () => performance.now() })
  readonly rbac = new Rbac(this.store.policies)
  readonly #options: MeshStateOptions
  readonly #client: XdsClient | undefined
  readonly #keeper: StateKeeper | undefined
  readonly #waiters = new Set<Waiter>()
  /** Loaded from disk: what was known last is in force though the control plane has not spoken. */
  #isRestored = false

  constructor(options: MeshStateOptions) {
    this.#options = options
    this.store.onChange(() => this.#settleWaiters())
    if (!options.xds) return
    const logger = options.logger.child({ component: 'xds' })
    this.#client = new XdsClient({
      ...options.xds, logger,
      onDelta: (delta) => this.#apply(delta),
      onChanged: () => this.#keeper?.changed(),
    })
    const client = this.#client
    this.#keeper = new StateKeeper(this.#stateFile, () => client.snapshot(), logger)
  }

  get #stateFile(): { readonly path: string; readonly scope: string } {
    const { stateDirectory, clusterId, trustDomain } = this.#options
    return { path: join(stateDirectory, 'mesh.state'), scope: `${clusterId} ${trustDomain}` }
  }

  /** Takes the saved state in force, then begins to listen to the control plane. Never rejects. */
  async start(): Promise<void> {
    const client = this.#client
    if (!client) return
    const { logger } = this.#options
    const saved = await loadState(this.#stateFile)
    if (saved.ok) {
      const rejected = await client.restore(saved.value)
      this.#isRestored = true
      logger.info({ workloads: this.store.workloadCount, rejected: rejected.length }, 'mesh state restored from disk')
    } else {
      logger.info({ because: saved.because }, 'no mesh state on disk')
    }
    client.start()
    // What is known at the start is not new: only later endpoints begin slowly.
    void client.ready().then(() => followStore(this.health, this.store), () => {})
  }

  #apply(delta: XdsDelta): void {
    this.store.apply(delta)
    this.#options.onDelta?.(delta)
  }

  get xdsState(): XdsState | undefined {
    return this.#client?.state
  }

  get hasControlPlane(): boolean {
    return this.#client !== undefined
  }

  /** Whether decisions can be made: the control plane has spoken once, now or before a restart. */
  get isKnown(): boolean {
    return !this.#client || this.#client.isSynced || this.#isRestored
  }

  /** Resolves once isKnown is true. Rejects with CLOSED. */
  async known(): Promise<void> {
    if (!this.isKnown) await this.#client?.ready()
  }

  /** The captured pod as the mesh knows it now. */
  peekWorkload(pod: PodEnrolment): Workload | undefined {
    return this.#client ? this.store.workloadByName(pod.namespace, pod.name, pod.serviceAccount) : this.#unmeshed(pod)
  }

  /** The same, waiting for the control plane a while. Rejects with CONTROL_PLANE_UNAVAILABLE. */
  ownWorkload(pod: PodEnrolment): Promise<Workload> {
    const known = this.peekWorkload(pod)
    if (known) return Promise.resolve(known)
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        pod,
        settle: (workload) => {
          clearTimeout(timer)
          this.#waiters.delete(waiter)
          if (workload) resolve(workload)
          else reject(new MeshError('CONTROL_PLANE_UNAVAILABLE', `the control plane has not named pod ${pod.namespace}/${pod.name} within ${ownWorkloadTimeoutMs} ms`))
        },
      }
      const timer = setTimeout(() => waiter.settle(undefined), ownWorkloadTimeoutMs)
      this.#waiters.add(waiter)
    })
  }

  #settleWaiters(): void {
    for (const waiter of this.#waiters) {
      const workload = this.peekWorkload(waiter.pod)
      if (workload) waiter.settle(workload)
    }
  }

  /** A pod where there is no control plane: in nobody's mesh, under nobody's policy. */
  #unmeshed({ uid, namespace, name, serviceAccount, ips, node }: PodEnrolment): Workload {
    const { clusterId, network, trustDomain } = this.#options
    return {
      uid, namespace, name, serviceAccount, ips, node, clusterId, network, trustDomain,
      tunnelProtocol: 'none', nativeTunnel: false, isHostNetwork: false, canonicalName: name, canonicalRevision: 'latest',
      workloadType: 'pod', workloadName: name, isHealthy: true, capacity: 1, locality: { region: '', zone: '', subzone: '' },
      policies: [], services: new Map(),
    }
  }

  async close(): Promise<void> {
    for (const waiter of this.#waiters) waiter.settle(undefined)
    await this.#client?.close()
    await this.#keeper?.close()
  }
}
