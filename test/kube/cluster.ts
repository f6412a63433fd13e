// A real Kubernetes on this machine: control plane and nodes as machines of their own, dual stack, in seconds. Several run side by side,
// each with a number of its own. A cluster outlives the process that made it; if it is kept for a process that has ended, whoever makes
// the next one removes it. Nothing on the host changes but one link with two routes for each cluster.
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { MeshError } from '../../src/core/errors.ts'
import { runCommand } from '../../src/local/command.ts'
import { identify, isAlive, processIdentitySchema } from '../../src/local/process-identity.ts'
import { addons } from './addons.ts'
import type { Layout } from './addresses.ts'
import { clustersDirectory, lastInstance, layoutOf, nodeNames } from './addresses.ts'
import type { Binaries, Say } from './binaries.ts'
import { binaries } from './binaries.ts'
import { ControlPlane } from './control-plane.ts'
import { clusterImages } from './images.ts'
import { Kubectl } from './kubectl.ts'
import { eventually, Machine } from './machine.ts'
import type { ProxyMode } from './node.ts'
import { ClusterNode, removeCgroups } from './node.ts'
import { writeKeys } from './pki.ts'

const readyTimeoutMs = 120_000
/** Numbers below are people's; tests take the first free one from here. */
const firstOfTests = 20

export interface ClusterWish {
  /** 0 to 99; the first free one from 20 unless told. */
  readonly instance?: number
  /** How many nodes; 2 unless told. */
  readonly nodes?: number
  readonly proxyMode?: ProxyMode
  /** Archives of images that each node shall have. */
  readonly images?: readonly string[]
  /** Process for which it is: once that has ended, whoever makes the next cluster removes this one. Without one it stays until it is told to go. */
  readonly keeper?: number
  readonly say?: Say
}

const recordSchema = z.object({
  instance: z.int(), nodes: z.array(z.string()), proxyMode: z.enum(['iptables', 'nftables', 'ipvs']), keeper: processIdentitySchema.optional(),
})
type ClusterRecord = z.infer<typeof recordSchema>

export class Cluster extends Kubectl {
  readonly layout: Layout
  readonly control: ControlPlane
  readonly nodes: readonly ClusterNode[]

  private constructor(record: ClusterRecord, programs: Binaries) {
    const layout = layoutOf(record.instance)
    super(join(programs.kube, 'kubectl'), join(layout.directory, 'admin.kubeconfig'))
    this.layout = layout
    this.control = new ControlPlane(this.layout, programs)
    this.nodes = record.nodes.map((name, index) => new ClusterNode(name, index, this.layout, programs, record.proxyMode))
  }

  /** Builds what is missing, claims a number, and returns when nodes and name server are ready. Nothing stays if that fails. */
  static async up(wish: ClusterWish = {}): Promise<Cluster> {
    const say: Say = wish.say ?? (() => {})
    const programs = await binaries(say)
    const images = await clusterImages(programs)
    await removeAbandoned(say)
    const instance = claim(wish.instance)
    const keeper = wish.keeper === undefined ? undefined : identify(wish.keeper)
    const record: ClusterRecord = { instance, nodes: nodeNames.slice(0, wish.nodes ?? 2), proxyMode: wish.proxyMode ?? 'iptables', ...(keeper ? { keeper } : {}) }
    const directory = layoutOf(instance).directory
    writeFileSync(join(directory, 'cluster.new'), JSON.stringify(record))
    renameSync(join(directory, 'cluster.new'), join(directory, 'cluster.json'))
    const cluster = new Cluster(record, programs)
    try {
      await cluster.#start([...images, ...wish.images ?? []], say)
      return cluster
    } catch (error) {
      // What says why it failed would go with it.
      say(`cluster ${instance} did not come up; its logs are kept in ${keepLogs(directory)}`)
      await cluster.down()
      throw error
    }
  }

  /** One that is up. NOT_FOUND if there is none of that number. */
  static async open(instance: number): Promise<Cluster> {
    const record = readRecord(instance)
    if (!record) throw new MeshError('NOT_FOUND', `there is no cluster ${instance}`)
    return new Cluster(record, await binaries(() => {}))
  }

  async #start(images: readonly string[], say: Say): Promise<void> {
    const startedMs = performance.now()
    const saySince = (what: string): void => say(`${what} after ${((performance.now() - startedMs) / 1000).toFixed(1)} s`)
    await writeKeys(this.layout, this.nodes.map((node) => node.name))
    await this.control.startMachine()
    await Promise.all([
      this.control.startPrograms().then(() => saySince('API server ready')),
      ...this.nodes.map((node) => node.startMachine(this.control, this.nodes).then(() => node.load(images))),
    ])
    await Promise.all([
      this.apply(addons(this.layout)),
      ...this.nodes.map((node) => Promise.all([node.startKubelet(), node.startProxy()])),
    ])
    await Promise.all(this.nodes.map((node) => this.waitForNode(node.name)))
    saySince(`${this.nodes.length} nodes ready`)
    await this.kubectl(['-n', 'kube-system', 'rollout', 'status', 'deployment/coredns', `--timeout=${readyTimeoutMs / 1000}s`])
    await eventually('the default service account', readyTimeoutMs, async () => ((await this.tryKubectl(['get', 'serviceaccount', 'default'])).code === 0 ? true : undefined))
    saySince('name server ready')
  }

  node(name: string): ClusterNode {
    const found = this.nodes.find((node) => node.name === name)
    if (!found) throw new MeshError('NOT_FOUND', `no node ${name}: there are ${this.nodes.map((node) => node.name).join(', ')}`)
    return found
  }

  async waitForNode(name: string, state: 'True' | 'Unknown' = 'True', timeoutMs = readyTimeoutMs): Promise<void> {
    const path = '{.status.conditions[?(@.type=="Ready")].status}'
    await eventually(`node ${name} has Ready=${state}; its logs are in ${this.node(name).machine.logs}`, timeoutMs, async () => {
      const { code, stdout } = await this.tryKubectl(['get', 'node', name, '-o', `jsonpath=${path}`])
      return code === 0 && stdout === state ? true : undefined
    }, 200)
  }

  /** When its kubelet was last heard of. */
  async #lease(name: string): Promise<string> {
    return (await this.tryKubectl(['-n', 'kube-node-lease', 'get', 'lease', name, '-o', 'jsonpath={.spec.renewTime}'])).stdout
  }

  /** Imports archives of images on every node. */
  async load(archives: readonly string[]): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.load(archives)))
  }

  /** Power back on after `node.kill()`: what was on its disk is there, its pods are started anew. Returns when it is ready. */
  async startNode(name: string): Promise<void> {
    const node = this.node(name)
    const before = await this.#lease(name)
    await node.startMachine(this.control, this.nodes)
    await Promise.all([node.startKubelet(), node.startProxy()])
    await eventually(`the kubelet of ${name} speaks`, readyTimeoutMs, async () => ((await this.#lease(name)) === before ? undefined : true))
    await this.waitForNode(name)
  }

  /** Ends everything of it and removes what it had on this machine. */
  async down(): Promise<void> {
    await remove(this.layout)
  }
}

/** Numbers of the clusters on this machine. */
export function clusterInstances(): number[] {
  if (!existsSync(clustersDirectory)) return []
  return readdirSync(clustersDirectory).filter((name) => /^\d+$/.test(name)).map(Number).toSorted((a, b) => a - b)
}

/** Removes the cluster of that number, however little of it there is. */
export async function removeCluster(instance: number): Promise<void> {
  await remove(layoutOf(instance))
}

/** Number of a cluster that is up for that process. */
export function clusterKeptFor(pid: number): number | undefined {
  return clusterInstances().find((instance) => {
    const keeper = readRecord(instance)?.keeper
    return keeper !== undefined && keeper.pid === pid && isAlive(keeper)
  })
}

/** Removes the clusters whose keepers have ended. */
export async function removeAbandoned(say: Say = () => {}): Promise<void> {
  for (const instance of clusterInstances()) {
    const keeper = readRecord(instance)?.keeper
    if (!keeper || isAlive(keeper)) continue
    say(`removing cluster ${instance}, whose maker (pid ${keeper.pid}) has ended`)
    await removeCluster(instance)
  }
}

async function remove(layout: Layout): Promise<void> {
  const machines = join(layout.directory, 'machines')
  const names = existsSync(machines) ? readdirSync(machines) : []
  await Promise.all(names.map((name) => new Machine(name, layout.directory).kill()))
  // It goes with the machines, but when the kernel gets to it.
  await runCommand(['ip', 'link', 'del', layout.link])
  for (const name of names) await removeCgroups(`${layout.cgroup}-${name}`)
  rmSync(layout.directory, { recursive: true, force: true, maxRetries: 5 })
}

function claim(wanted: number | undefined): number {
  mkdirSync(clustersDirectory, { recursive: true })
  const candidates = wanted === undefined ? Array.from({ length: lastInstance - firstOfTests + 1 }, (_, index) => firstOfTests + index) : [wanted]
  for (const instance of candidates) {
    try {
      mkdirSync(layoutOf(instance).directory)
      return instance
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
  }
  throw new MeshError('COMMAND_FAILED', wanted === undefined ? 'all numbers of clusters are taken' : `there is a cluster ${wanted} already: take another number, or it down`)
}

function readRecord(instance: number): ClusterRecord | undefined {
  const file = join(layoutOf(instance).directory, 'cluster.json')
  return existsSync(file) ? recordSchema.parse(JSON.parse(readFileSync(file, 'utf8'))) : undefined
}

/** Copies the logs of a cluster out of its directory and returns where to. */
function keepLogs(directory: string): string {
  const kept = `${clustersDirectory}/failed`
  rmSync(kept, { recursive: true, force: true })
  const machines = join(directory, 'machines')
  for (const name of existsSync(machines) ? readdirSync(machines) : []) {
    const logs = join(machines, name, 'logs')
    if (!existsSync(logs)) continue
    mkdirSync(kept, { recursive: true })
    renameSync(logs, join(kept, name))
  }
  return kept
}
