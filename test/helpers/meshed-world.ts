// A small world for redirection tests: two nodes, captured and plain pods that only hold their namespaces, and the
// underlay as the outside. Programs are run inside by sentence: world.inside('client').
import { ztunnelState } from '../../src/cli/ztunnel-client.ts'
import { silentLogger } from '../../src/core/log.ts'
import { underlayIps } from '../../src/local/addresses.ts'
import { LocalMesh } from '../../src/local/mesh.ts'
import type { ZtunnelState } from '../../src/model/ztunnel-state.ts'
import { uniqueName } from './instances.ts'
import type { RunOptions } from './line-process.ts'

export interface PodSpec {
  readonly name: string
  readonly node: 'node-a' | 'node-b'
  /** Captured unless told. */
  readonly isPlain?: boolean
  readonly failureMode?: 'open' | 'closed'
  readonly labels?: Readonly<Record<string, string>>
  readonly probePort?: number
}

export type PodCounts = ZtunnelState['pods'][number]

const namespaceOf = (pod: PodSpec): string => (pod.isPlain === true ? 'plain' : pod.failureMode === 'open' ? 'open' : 'closed')

export class World implements AsyncDisposable {
  readonly mesh: LocalMesh
  readonly #pods: ReadonlyMap<string, PodSpec>

  private constructor(mesh: LocalMesh, pods: readonly PodSpec[]) {
    this.mesh = mesh
    this.#pods = new Map(pods.map((pod) => [pod.name, pod]))
  }

  /** `more` is further YAML; `ztunnelCommand` stands in for our own start of the ztunnel; without control plane all is passthrough, without mesh there are only pods. */
  static async start(pods: readonly PodSpec[], more = '', ztunnelCommand?: readonly string[], { mesh: isMeshed = true, controlPlane = true } = {}): Promise<World> {
    const namespaces = [
      'apiVersion: v1\nkind: Namespace\nmetadata: {name: closed, labels: {sidestep.dev/mesh: enabled}}',
      'apiVersion: v1\nkind: Namespace\nmetadata: {name: open, labels: {sidestep.dev/mesh: enabled, sidestep.dev/failure-mode: open}}',
      'apiVersion: v1\nkind: Namespace\nmetadata: {name: plain}',
    ]
    const manifests = [...namespaces, ...pods.map(manifestOf), ...(more === '' ? [] : [more])].join('\n---\n')
    const mesh = await LocalMesh.start({ name: uniqueName('w'), manifests, logger: silentLogger, mesh: isMeshed, controlPlane, ...(ztunnelCommand && { ztunnelCommand }) })
    try {
      await mesh.waitReady(30_000)
    } catch (error) {
      await mesh.stop()
      throw error
    }
    return new World(mesh, pods)
  }

  #spec(name: string): PodSpec {
    const spec = this.#pods.get(name)
    if (!spec) throw new TypeError(`the world has no pod ${name}`)
    return spec
  }

  netns(name: string): string {
    if (name === 'outside') return this.mesh.underlayNetns
    if (name.startsWith('node-')) return this.mesh.nodeNetns(name)
    return this.mesh.podNetns(namespaceOf(this.#spec(name)), name)
  }

  /** Runs a program in a pod's (a node's, the outside's) network namespace, with every capability. */
  inside(name: string, options: RunOptions = {}): RunOptions {
    return { ...options, wrap: ['nsenter', `--net=${this.netns(name)}`, '--'] }
  }

  ip(name: string, family: 4 | 6 = 4): string {
    if (name === 'outside') return family === 4 ? underlayIps.v4 : underlayIps.v6
    const ips = this.mesh.status().pods.find((pod) => pod.name === name)?.ips ?? []
    const found = ips.find((ip) => ip.includes(':') === (family === 6))
    if (found === undefined) throw new TypeError(`${name} has no IPv${family} address`)
    return found
  }

  /** What a node's ztunnel says of itself. */
  ztunnel(node: 'node-a' | 'node-b'): Promise<ZtunnelState> {
    return ztunnelState(`/run/sidestep/${this.mesh.name}/${node}-ztunnel.sock`)
  }

  async counters(node: 'node-a' | 'node-b'): Promise<Readonly<Record<string, number>>> {
    return (await this.ztunnel(node)).counters
  }

  async counts(name: string): Promise<PodCounts> {
    const state = await this.ztunnel(this.#spec(name).node)
    const found = state.pods.find((pod) => pod.name === name)
    if (!found) throw new TypeError(`the ztunnel does not know ${name}`)
    return found
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.mesh.stop(0)
  }
}

function manifestOf(pod: PodSpec): string {
  const labels = JSON.stringify({ app: pod.name, ...pod.labels })
  const probe = pod.probePort === undefined ? '' : `, livenessProbe: {tcpSocket: {port: ${pod.probePort}}, periodSeconds: 3600, initialDelaySeconds: 3600}`
  return `apiVersion: v1
kind: Pod
metadata: {name: ${pod.name}, namespace: ${namespaceOf(pod)}, labels: ${labels}}
spec:
  nodeName: ${pod.node}
  terminationGracePeriodSeconds: 0
  containers: [{name: main, command: [sleep, infinity]${probe}}]`
}

/** Polls until `check` gives something true; fails with `what` after `timeoutMs`. */
export async function eventually<T>(what: string, check: () => Promise<T | undefined | false>, timeoutMs = 10_000): Promise<T> {
  const deadline = performance.now() + timeoutMs
  for (;;) {
    const found = await check()
    if (found !== undefined && found !== false) return found
    if (performance.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
