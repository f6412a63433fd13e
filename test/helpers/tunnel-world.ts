// A world for tests of the whole L4 mesh: two nodes, pods with accounts in namespaces of one's own choosing, a control plane,
// and ztunnels that are asked by their own admin API, metrics and logs what they did. Knows nothing of what is asserted.
import { readFileSync } from 'node:fs'
import { request } from 'node:http'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { z } from 'zod'
import { silentLogger } from '../../src/core/log.ts'
import { underlayIps } from '../../src/local/addresses.ts'
import { LocalMesh } from '../../src/local/mesh.ts'
import type { LocalMeshOptions } from '../../src/local/mesh-options.ts'
import { connectionViewSchema, policyViewSchema, workloadViewSchema } from '../../src/model/ztunnel-views.ts'
import type { ConnectionView, PolicyView, WorkloadView } from '../../src/model/ztunnel-views.ts'
import type { ConnectResult } from './app-results.ts'
import { runProbe } from './apps.ts'
import { uniqueName } from './instances.ts'
import type { RunOptions } from './line-process.ts'
import { eventually } from './meshed-world.ts'
import { inNetns, namespaceYaml } from './world.ts'

export const nodeNames = ['node-a', 'node-b'] as const
export type NodeName = (typeof nodeNames)[number]

export interface PodPlan {
  readonly node: NodeName
  /** `shop` unless told. */
  readonly namespace?: string
  /** Service account; the pod's name unless told. */
  readonly account?: string
  /** Beside `app: NAME`. */
  readonly labels?: Readonly<Record<string, string>>
}

export interface TunnelWorldOptions extends Partial<Pick<LocalMeshOptions, 'directory' | 'ztunnelCommand' | 'ztunnelEnvironment' | 'controlPlaneEnvironment'>> {
  /** Further YAML. */
  readonly yaml?: readonly string[]
  /** Labels of namespaces; those that are not named here are in the mesh. */
  readonly namespaces?: Readonly<Record<string, Readonly<Record<string, string>>>>
}

/** One line of a ztunnel's log. */
export type LogLine = Readonly<Record<string, unknown>>

export class TunnelWorld implements AsyncDisposable {
  readonly mesh: LocalMesh
  readonly #pods: Readonly<Record<string, PodPlan>>

  private constructor(mesh: LocalMesh, pods: Readonly<Record<string, PodPlan>>) {
    this.mesh = mesh
    this.#pods = pods
  }

  /** By names of pods. Resolves when both ztunnels know all of them and have the certificates that they need. */
  static async start(pods: Readonly<Record<string, PodPlan>>, options: TunnelWorldOptions = {}): Promise<TunnelWorld> {
    const { yaml = [], namespaces = {}, ...more } = options
    const names = new Set([...Object.values(pods).map(namespaceOf), ...Object.keys(namespaces)])
    const manifests = [
      ...[...names].map((name) => namespaceYaml(name, namespaces[name] ?? { 'sidestep.dev/mesh': 'enabled' })),
      ...Object.entries(pods).map(([name, plan]) => podYaml(name, plan)),
      ...yaml,
    ].join('---\n')
    const mesh = await LocalMesh.start({ name: uniqueName('m'), manifests, logger: silentLogger, ...more })
    const world = new TunnelWorld(mesh, pods)
    try {
      await mesh.waitReady(40_000)
      await world.#known()
      return world
    } catch (error) {
      await mesh.stop(0)
      throw error
    }
  }

  async #known(): Promise<void> {
    for (const node of nodeNames) {
      await eventually(`${node} knows every pod`, async () => {
        const known = new Set((await this.workloads(node)).map(({ name }) => name))
        return Object.keys(this.#pods).every((name) => known.has(name))
      })
      await eventually(`${node} has its certificates`, async () => {
        const { certificates } = z.object({ certificates: z.object({ total: z.int(), ready: z.int() }) }).parse(await this.admin(node, '/state'))
        return certificates.ready === certificates.total
      })
    }
  }

  plan(name: string): PodPlan {
    const plan = this.#pods[name]
    if (!plan) throw new TypeError(`the world has no pod ${name}`)
    return plan
  }

  node(name: string): NodeName {
    return this.plan(name).node
  }

  /** Of a pod, a node (`node-a`) or the `outside`, which is the bridge between the nodes. */
  netns(name: string): string {
    if (name === 'outside') return this.mesh.underlayNetns
    if (name.startsWith('node-')) return this.mesh.nodeNetns(name)
    return this.mesh.podNetns(namespaceOf(this.plan(name)), name)
  }

  /** Runs a program in that network namespace, with every capability. */
  inside(name: string, options: RunOptions = {}): RunOptions {
    return { ...options, wrap: ['nsenter', `--net=${this.netns(name)}`, '--'] }
  }

  ip(name: string, family: 4 | 6 = 4): string {
    if (name === 'outside') return family === 4 ? underlayIps.v4 : underlayIps.v6
    const { ips } = this.mesh.pod(namespaceOf(this.plan(name)), name).facts
    const found = ips.find((ip) => ip.includes(':') === (family === 6))
    if (found === undefined) throw new TypeError(`${name} has no IPv${family} address`)
    return found
  }

  /** Gives a running pod other labels beside its own; it is not made anew for that. */
  relabel(name: string, labels: Readonly<Record<string, string>>): void {
    const plan = this.plan(name)
    this.mesh.apply(podYaml(name, { ...plan, labels: { ...plan.labels, ...labels } }))
  }

  identity(name: string): string {
    return identityOf(name, this.plan(name))
  }

  /** One connection by the probe; a name of a pod stands for its IPv4 address. */
  connect(from: string, to: string, port: number, flags: readonly (string | number)[] = []): Promise<ConnectResult> {
    const host = to in this.#pods || to === 'outside' ? this.ip(to) : to
    return runProbe('connect', [host, port, '--timeout', 8_000, ...flags], this.inside(from, { timeoutMs: 20_000 }))
  }

  /** Whether an echo comes back. */
  async reaches(from: string, to: string, port: number): Promise<boolean> {
    const { ok, reply } = await this.connect(from, to, port, ['--send', 'ping'])
    return ok && reply === 'ping'
  }

  /** JSON of a ztunnel's admin API. */
  admin(node: NodeName, path: string): Promise<unknown> {
    return askSocket(this.mesh.paths.adminSocket(node), 'GET', path)
  }

  /** Asks the control plane's admin API. */
  controlPlane(method: string, path: string, body?: unknown): Promise<unknown> {
    return askSocket(this.mesh.paths.controlPlaneSocket, method, path, body)
  }

  async workloads(node: NodeName): Promise<readonly WorkloadView[]> {
    return z.array(workloadViewSchema).parse(await this.admin(node, '/workloads'))
  }

  async policies(node: NodeName): Promise<readonly PolicyView[]> {
    return z.array(policyViewSchema).parse(await this.admin(node, '/policies'))
  }

  async connections(node: NodeName): Promise<readonly ConnectionView[]> {
    return z.array(connectionViewSchema).parse(await this.admin(node, '/connections'))
  }

  /** Waits until both ztunnels hold (or no longer hold) policies of such keys: `namespace/name`. */
  async inForce(...wanted: readonly (string | { readonly gone: string })[]): Promise<void> {
    for (const node of nodeNames) {
      await eventually(`the policies of ${node} are ${JSON.stringify(wanted)}`, async () => {
        const keys = new Set((await this.policies(node)).map(({ namespace, name }) => `${namespace}/${name}`))
        return wanted.every((each) => (typeof each === 'string' ? keys.has(each) : !keys.has(each.gone)))
      })
    }
  }

  /** Sum of the series of that name which have these labels; 0 if there is none. */
  async metric(node: NodeName, name: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
    const { stdout } = await inNetns(this.netns(node), ['curl', '-sf', '--max-time', '5', 'http://127.0.0.1:15020/metrics'])
    if (stdout === '') throw new Error(`${node} shows no metrics`)
    return sumOf(stdout, name, labels)
  }

  /** What a ztunnel logged, all of it so far. */
  log(node: NodeName): readonly LogLine[] {
    return readFileSync(join(this.mesh.paths.logs, `ztunnel-${node}.log`), 'utf8').split('\n').flatMap(jsonOf)
  }

  /**
   * The next lines of a ztunnel's log that have these fields: call it before, await the answer of what it returns after. Lines are
   * written late and in batches, so their own time counts, not when they are there.
   */
  logged(node: NodeName, fields: LogLine): (count?: number) => Promise<readonly LogLine[]> {
    const sinceMs = Date.now()
    const isWanted = (line: LogLine): boolean => Number(line['time']) >= sinceMs && Object.entries(fields).every(([key, value]) => line[key] === value)
    return (count = 1) => eventually(`${node} logs ${count} of ${JSON.stringify(fields)}`, async () => {
      const found = this.log(node).filter(isWanted)
      return found.length >= count && found
    })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.mesh.stop(0)
  }
}

const namespaceOf = ({ namespace = 'shop' }: PodPlan): string => namespace

function identityOf(name: string, plan: PodPlan): string {
  return `spiffe://cluster.local/ns/${namespaceOf(plan)}/sa/${plan.account ?? name}`
}

function podYaml(name: string, plan: PodPlan): string {
  return stringify({
    apiVersion: 'v1', kind: 'Pod',
    metadata: { name, namespace: namespaceOf(plan), labels: { app: name, ...plan.labels } },
    spec: {
      nodeName: plan.node, serviceAccountName: plan.account ?? name, terminationGracePeriodSeconds: 0,
      containers: [{ name: 'main', command: ['sleep', 'infinity'] }],
    },
  })
}

/** A policy object in `namespace`. */
export function policyYaml(kind: 'AuthorizationPolicy' | 'PeerAuthentication', namespace: string, name: string, spec: object, annotations: Readonly<Record<string, string>> = {}): string {
  return stringify({ apiVersion: 'security.istio.io/v1', kind, metadata: { name, namespace, annotations }, spec })
}

function jsonOf(line: string): LogLine[] {
  if (!line.startsWith('{')) return []
  try {
    return [JSON.parse(line) as LogLine]
  } catch {
    // The last line may still be being written.
    return []
  }
}

/** From Prometheus' text format. */
export function sumOf(text: string, name: string, labels: Readonly<Record<string, string>>): number {
  return text.split('\n').reduce((sum, line) => {
    const series = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line)
    if (series?.[1] !== name) return sum
    const found = Object.fromEntries([...(series[2] ?? '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, value]) => [key, value]))
    return Object.entries(labels).every(([key, value]) => found[key] === value) ? sum + Number(series[3]) : sum
  }, 0)
}

/** JSON of an answer with status 200; others are errors. */
function askSocket(socketPath: string, method: string, path: string, body?: unknown): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath, method, path, agent: false, timeout: 10_000 }, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (part: string) => (text += part))
      response.on('error', reject)
      response.on('end', () => {
        if (response.statusCode === 200) resolve(JSON.parse(text))
        else reject(new Error(`${method} ${path}: ${response.statusCode} ${text}`))
      })
    })
    sent.on('timeout', () => sent.destroy(new Error(`${socketPath} does not answer`)))
    sent.on('error', reject)
    sent.end(body === undefined ? undefined : JSON.stringify(body))
  })
}
