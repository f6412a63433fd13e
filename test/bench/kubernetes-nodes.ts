// Simulated ztunnels of the part `kubernetes`: real discovery clients, each with its own connection, node and token, several in one
// process. What they learn is decoded and held as a ztunnel holds it for a restart; nothing is decided with it. Driven over the
// channel of fork(): `node test/bench/kubernetes-nodes.ts` alone does nothing.
import { readFile } from 'node:fs/promises'
import { silentLogger } from '../../src/core/log.ts'
import { policyKey } from '../../src/model/authorization.ts'
import { XdsClient } from '../../src/xds/client.ts'
import type { XdsDelta } from '../../src/xds/resource-cache.ts'

export interface NodesOptions {
  readonly address: string
  readonly rootsFile: string
  readonly nodes: readonly { readonly name: string; readonly token: string }[]
}

/** What is waited for: that all of these are in force. */
export type Awaited =
  | { readonly t: 'healthy'; readonly workloads: readonly string[] }
  | { readonly t: 'revision'; readonly workloads: readonly string[]; readonly revision: string }
  | { readonly t: 'gone'; readonly workloads: readonly string[] }
  | { readonly t: 'policy'; readonly policy: string }

export type ToNodes =
  | { readonly t: 'start'; readonly options: NodesOptions }
  | { readonly t: 'await'; readonly awaited: Awaited }

export type FromNodes =
  | { readonly t: 'up' }
  /** All know everything; workloads of each. */
  | { readonly t: 'ready'; readonly atNs: string; readonly workloads: readonly number[] }
  | { readonly t: 'waiting' }
  /** When each had acknowledged. */
  | { readonly t: 'inForce'; readonly atNs: readonly string[] }

class SimulatedZtunnel {
  readonly #known = new Set<string>()
  readonly #client: XdsClient
  #left: Set<string> | undefined
  #matches: (delta: XdsDelta) => Iterable<string> = () => []
  #onSeen = (): void => {}

  constructor({ address, rootsFile }: NodesOptions, name: string, token: string) {
    this.#client = new XdsClient({
      address, serverName: 'localhost', clusterId: 'Kubernetes', logger: silentLogger,
      roots: () => readFile(rootsFile, 'utf8'),
      token: () => Promise.resolve(token),
      node: { id: `ztunnel~127.0.0.1~ztunnel-${name}.sidestep-system~sidestep-system.svc.cluster.local`, metadata: { NODE_NAME: name } },
      onDelta: (delta) => this.#take(delta),
    })
  }

  get workloads(): number {
    return this.#known.size
  }

  async start(): Promise<void> {
    this.#client.start()
    await this.#client.ready()
  }

  /** Resolves with when everything was there, as process.hrtime tells it. */
  async seen(awaited: Awaited): Promise<bigint> {
    this.#left = new Set(awaited.t === 'policy' ? [awaited.policy] : awaited.workloads)
    this.#matches = (delta) => matching(delta, awaited)
    return new Promise((done) => {
      this.#onSeen = () => done(process.hrtime.bigint())
    })
  }

  #take(delta: XdsDelta): void {
    for (const name of delta.removedAddresses) this.#known.delete(name)
    for (const { uid } of delta.workloads) this.#known.add(uid)
    if (!this.#left) return
    for (const name of this.#matches(delta)) this.#left.delete(name)
    if (this.#left.size > 0) return
    this.#left = undefined
    // The client acknowledges when we have returned.
    setImmediate(this.#onSeen)
  }
}

function matching(delta: XdsDelta, awaited: Awaited): string[] {
  switch (awaited.t) {
    case 'gone':
      return [...delta.removedAddresses]
    case 'policy':
      return delta.policies.map(policyKey)
    case 'healthy':
      return delta.workloads.filter(({ isHealthy, ips }) => isHealthy && ips.length > 0).map(({ uid }) => uid)
    case 'revision':
      return delta.workloads.filter(({ canonicalRevision }) => canonicalRevision === awaited.revision).map(({ uid }) => uid)
  }
}

let ztunnels: readonly SimulatedZtunnel[] = []

function tell(message: FromNodes): void {
  process.send?.(message)
}

process.on('message', (message: ToNodes) => void handle(message))

async function handle(message: ToNodes): Promise<void> {
  if (message.t === 'start') {
    ztunnels = message.options.nodes.map(({ name, token }) => new SimulatedZtunnel(message.options, name, token))
    await Promise.all(ztunnels.map((ztunnel) => ztunnel.start()))
    tell({ t: 'ready', atNs: String(process.hrtime.bigint()), workloads: ztunnels.map(({ workloads }) => workloads) })
    return
  }
  const seen = ztunnels.map((ztunnel) => ztunnel.seen(message.awaited))
  tell({ t: 'waiting' })
  tell({ t: 'inForce', atNs: (await Promise.all(seen)).map(String) })
}

tell({ t: 'up' })
process.on('disconnect', () => process.exit())
process.once('SIGTERM', () => process.exit())
