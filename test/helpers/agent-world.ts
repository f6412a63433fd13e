// A node of a cluster, as far as the node agent sees one: an API server, a container runtime, a node's namespace with pods on veths and
// in cgroups, a ztunnel and an agent as processes. Only the API server and the runtime are the test's own; all else is real.
import { randomUUID } from 'node:crypto'
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, rmdirSync, statSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { create, toBinary } from '@bufbuild/protobuf'
import { Server, ServerCredentials } from '@grpc/grpc-js'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { findCgroup2 } from '../../src/kernel/cgroup.ts'
import { capturedCondition } from '../../src/model/kubernetes-names.ts'
import { ListPodSandboxResponseSchema, PodSandboxState, PodSandboxStatusResponseSchema } from '../../src/proto/cri_pb.ts'
import { FakeKubeApi, namespaceType, podType } from '../../src/kube/testing.ts'
import { hold } from '../native/test-netns.ts'
import { uniqueName } from './instances.ts'
import { LineProcess } from './line-process.ts'

const bin = (name: string): string => join(import.meta.dirname, '../../src/bin', `${name}.ts`)

export const nodeName = 'worker-1'

export interface PodWish {
  readonly namespace?: string
  readonly labels?: Readonly<Record<string, string>>
  readonly annotations?: Readonly<Record<string, string>>
  readonly spec?: Readonly<Record<string, unknown>>
  /** Addresses that the API and the runtime tell; the pod's own unless told. */
  readonly ips?: readonly string[]
  /** Not yet known to the API: for the plugin. */
  readonly isPending?: boolean
}

/** A namespace on a veth, with a process in a cgroup as the kubelet makes them. */
export interface WorldPod {
  readonly namespace: string
  readonly name: string
  readonly uid: string
  readonly ip: string
  readonly sandboxId: string
  readonly process: LineProcess
  readonly netns: string
}

export interface ZtunnelPod {
  readonly uid: string
  readonly ips: readonly string[]
  readonly netnsCookie: string
}

interface Condition {
  readonly status: string
  readonly reason: string
  readonly message: string
}

export class AgentWorld implements AsyncDisposable {
  readonly api: FakeKubeApi
  readonly directory = mkdtempSync(join(tmpdir(), 'sidestep-agent-'))
  readonly instance = uniqueName('agent')
  readonly node: LineProcess
  readonly #cgroup: string
  readonly #cgroups: string[] = []
  readonly #started: LineProcess[] = []
  readonly #runtime = new Map<string, { pod: WorldPod; ips: readonly string[]; path: string; pid: number; createdAt: bigint }>()
  #runtimeServer: Server | undefined
  #next = 1
  ztunnel: LineProcess | undefined
  agent: LineProcess | undefined

  private constructor(api: FakeKubeApi, node: LineProcess) {
    this.api = api
    this.node = node
    this.#cgroup = join(findCgroup2(), this.instance)
  }

  static async make(): Promise<AgentWorld> {
    const world = new AgentWorld(await new FakeKubeApi().start(), await hold('link set lo up\nlink add br0 type bridge\naddr add 10.63.0.1/24 dev br0\nlink set br0 up\n'))
    for (const name of ['etc', 'bin']) mkdirSync(world.path(name))
    writeFileSync(world.path('etc/10-test.conflist'), JSON.stringify({ cniVersion: '1.0.0', name: 'test', plugins: [{ type: 'bridge' }] }))
    const config = { clusters: [{ name: 'c', cluster: { server: world.api.url } }], users: [{ name: 'u', user: {} }], contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }], 'current-context': 'x' }
    writeFileSync(world.path('kubeconfig'), JSON.stringify({ apiVersion: 'v1', kind: 'Config', ...config }))
    return world
  }

  path(name: string): string {
    return join(this.directory, name)
  }

  namespace(name: string, labels: Readonly<Record<string, string>>): void {
    this.api.put(namespaceType, { metadata: { name, labels } })
  }

  /** The container runtime, which knows all pods made so far and later. */
  async startRuntime(): Promise<void> {
    const server = new Server()
    const same = (bytes: Buffer): Buffer => bytes
    const method = (name: string): object => ({
      [name]: { path: `/runtime.v1.RuntimeService/${name}`, requestStream: false, responseStream: false, requestSerialize: same, requestDeserialize: same, responseSerialize: same, responseDeserialize: same },
    })
    const metadata = ({ namespace, name, uid }: WorldPod): object => ({ namespace, name, uid })
    server.addService({ ...method('ListPodSandbox'), ...method('PodSandboxStatus') } as never, {
      ListPodSandbox: (_call: unknown, done: (error: null, bytes: Buffer) => void) => {
        const items = [...this.#runtime].map(([id, { pod, createdAt }]) => ({ id, metadata: metadata(pod), state: PodSandboxState.SANDBOX_READY, createdAt }))
        done(null, Buffer.from(toBinary(ListPodSandboxResponseSchema, create(ListPodSandboxResponseSchema, { items } as never))))
      },
      PodSandboxStatus: (call: { request: Buffer }, done: (error: null, bytes: Buffer) => void) => {
        const known = [...this.#runtime].find(([id]) => call.request.includes(id))
        const value = known && {
          status: { id: known[0], metadata: metadata(known[1].pod), state: PodSandboxState.SANDBOX_READY, createdAt: known[1].createdAt, network: { ip: known[1].ips[0] ?? '', additionalIps: known[1].ips.slice(1).map((ip) => ({ ip })) } },
          info: { info: JSON.stringify({ pid: known[1].pid, runtimeSpec: { linux: { namespaces: [{ type: 'pid' }, { type: 'network', path: known[1].path }] } } }) },
        }
        done(null, Buffer.from(toBinary(PodSandboxStatusResponseSchema, create(PodSandboxStatusResponseSchema, (value ?? {}) as never))))
      },
    } as never)
    await new Promise<void>((resolve, reject) => server.bindAsync(`unix:${this.path('cri.sock')}`, ServerCredentials.createInsecure(), (error) => (error ? reject(error) : resolve())))
    this.#runtimeServer = server
  }

  /** Says of a pod's sandbox what a runtime would, or something else. */
  runtimeSays(pod: WorldPod, other: { readonly path?: string; readonly pid?: number; readonly ips?: readonly string[] } = {}): void {
    this.#runtime.set(pod.sandboxId, { pod, ips: [pod.ip], path: pod.netns, pid: pod.process.pid, createdAt: BigInt(this.#next++), ...other })
  }

  runtimeForgets(pod: WorldPod): void {
    this.#runtime.delete(pod.sandboxId)
  }

  /** A pod with a namespace and a cgroup of its own, known to the API unless it is pending; the runtime is told by `runtimeSays`. */
  async pod(name: string, wish: PodWish = {}): Promise<WorldPod> {
    const { namespace = 'shop' } = wish
    const pod = await this.sandbox({ namespace, name, uid: randomUUID() })
    this.show(pod, wish)
    return pod
  }

  /** A new sandbox of a pod: another namespace with another address. */
  async sandbox({ namespace, name, uid }: Pick<WorldPod, 'namespace' | 'name' | 'uid'>): Promise<WorldPod> {
    const number = this.#next++
    const ip = `10.63.0.${10 + number}`
    const holder = await hold('link set lo up')
    this.#started.push(holder)
    const inside = (pid: number, lines: string): unknown => execFileSync('nsenter', [`--net=/proc/${pid}/ns/net`, 'ip', '-batch', '-'], { input: lines })
    inside(this.node.pid, `link add veth${number} type veth peer name eth0 netns /proc/${holder.pid}/ns/net\nlink set veth${number} master br0 up\n`)
    inside(holder.pid, `addr add ${ip}/24 dev eth0\nlink set eth0 up\nroute add default via 10.63.0.1\n`)
    this.joinCgroup(holder.pid, `kubepods/burstable/pod${uid}/container-${number}`)
    return { namespace, name, uid, ip, sandboxId: randomUUID().replaceAll('-', '').repeat(2), process: holder, netns: `/proc/${holder.pid}/ns/net` }
  }

  /** Puts a process into a cgroup below the world's own. */
  joinCgroup(pid: number, path: string): void {
    const cgroup = join(this.#cgroup, path)
    mkdirSync(cgroup, { recursive: true })
    for (let at = cgroup; at.length >= this.#cgroup.length; at = join(at, '..')) if (!this.#cgroups.includes(at)) this.#cgroups.push(at)
    writeFileSync(join(cgroup, 'cgroup.procs'), String(pid))
  }

  /** The pod as the API has it from now on. */
  show({ namespace, name, uid, ip }: WorldPod, { labels = {}, annotations = {}, spec = {}, ips = [ip], isPending = false }: PodWish = {}): void {
    const known = this.api.get(podType, name, namespace)
    const status = { ...(known?.status as object | undefined), phase: isPending ? 'Pending' : 'Running', ...(isPending ? {} : { podIP: ips[0], podIPs: ips.map((each) => ({ ip: each })) }) }
    this.api.put(podType, { metadata: { namespace, name, uid, labels, annotations }, spec: { nodeName, serviceAccountName: 'web', containers: [], ...spec }, status })
  }

  end(pod: WorldPod): void {
    this.api.remove(podType, pod.name, pod.namespace)
  }

  condition({ namespace, name }: Pick<WorldPod, 'namespace' | 'name'>): Condition | undefined {
    const status = this.api.get(podType, name, namespace)?.status as { conditions?: { type: string }[] } | undefined
    return status?.conditions?.find(({ type }) => type === capturedCondition) as Condition | undefined
  }

  async captured(pod: WorldPod): Promise<void> {
    await expect.poll(() => this.condition(pod), { timeout: 60_000, interval: 50 }).toMatchObject({ status: 'True', reason: 'Captured' })
  }

  /** A ztunnel that carries everything in plain text: who is captured is what counts here. */
  startZtunnel(more: Readonly<Record<string, string>> = {}): LineProcess {
    const environment = {
      SIDESTEP_NODE: nodeName, SIDESTEP_XDS_ADDRESS: 'none', SIDESTEP_INSTANCE: this.instance, SIDESTEP_AGENT_SOCKET: this.path('agent.sock'), SIDESTEP_ADMIN_SOCKET: this.path('ztunnel.sock'),
      SIDESTEP_HOST_NETNS: `/proc/${this.node.pid}/ns/net`, SIDESTEP_STATE_DIRECTORY: this.path('state'), SIDESTEP_ADMIN_ADDRESS: 'none', SIDESTEP_METRICS_ADDRESS: 'none',
      SIDESTEP_READINESS_ADDRESS: 'none', SIDESTEP_DRAIN_SECONDS: '1', ...more,
    }
    const made = new LineProcess([process.execPath, bin('ztunnel')], { env: environment, wrap: ['nsenter', `--net=/proc/${this.node.pid}/ns/net`] })
    this.#started.push(made)
    if (Object.keys(more).length === 0) this.ztunnel = made
    return made
  }

  startAgent(more: Readonly<Record<string, string>> = {}): LineProcess {
    const environment = {
      KUBECONFIG: this.path('kubeconfig'), SIDESTEP_NODE: nodeName, SIDESTEP_INSTANCE: this.instance, SIDESTEP_AGENT_SOCKET: this.path('agent.sock'), SIDESTEP_ZTUNNEL_ADMIN_SOCKET: this.path('ztunnel.sock'),
      SIDESTEP_HOST_NETNS: `/proc/${this.node.pid}/ns/net`, SIDESTEP_CRI_SOCKET: existsSync(this.path('cri.sock')) ? this.path('cri.sock') : 'none', SIDESTEP_CNI_SOCKET: this.path('cni.sock'),
      SIDESTEP_CNI_BIN_DIRECTORY: this.path('bin'), SIDESTEP_CNI_CONF_DIRECTORY: this.path('etc'), SIDESTEP_NAMESPACES_FILE: this.path('namespaces.json'), SIDESTEP_NODE_RESOLV_CONF: '/dev/null',
      SIDESTEP_METRICS_ADDRESS: 'none', SIDESTEP_AUDIT_SECONDS: '1', SIDESTEP_LOG_LEVEL: 'debug', ...more,
    }
    const made = new LineProcess([process.execPath, bin('agent')], { env: environment })
    this.#started.push(made)
    this.agent = made
    return made
  }

  /** Everything that runs on a node; resolves when the plugin would be answered. */
  async start(more: Readonly<Record<string, string>> = {}): Promise<void> {
    this.startAgent(more)
    this.startZtunnel()
    for (let i = 0; i < 1_000 && !(existsSync(this.path('cni.sock')) && existsSync(this.path('ztunnel.sock'))); i++) await sleep(100)
  }

  /** Starts a program in the pod that says a line of JSON when it is ready. */
  async inside({ netns }: WorldPod, command: readonly string[]): Promise<LineProcess> {
    const made = new LineProcess(command, { wrap: ['nsenter', `--net=${netns}`] })
    this.#started.push(made)
    await made.waitFor((line): line is string => typeof line === 'string')
    return made
  }

  /** What the ztunnel serves; empty while it does not answer. */
  served(): Promise<readonly ZtunnelPod[]> {
    return new Promise((resolve) => {
      request({ socketPath: this.path('ztunnel.sock'), path: '/state' }, (response) => {
        response.setEncoding('utf8').toArray().then((parts) => resolve((JSON.parse(parts.join('')) as { pods: ZtunnelPod[] }).pods), () => resolve([]))
      }).on('error', () => resolve([])).end()
    })
  }

  async serves(...pods: readonly WorldPod[]): Promise<void> {
    const uids = pods.map(({ uid }) => uid).sort()
    await expect.poll(async () => (await this.served()).map(({ uid }) => uid).sort(), { timeout: 60_000, interval: 50 }).toEqual(uids)
  }

  /** What the agent, or the ztunnel, has logged with that message. */
  logged(process: LineProcess | undefined, message: string): unknown[] {
    return (process?.lines ?? []).filter((line) => typeof line === 'object' && line !== null && 'msg' in line && line.msg === message)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#runtimeServer?.forceShutdown()
    for (const each of this.#started.reverse()) await each.stop()
    execFileSync(process.execPath, [bin('ztunnel'), 'cleanup'], { env: { ...process.env, SIDESTEP_INSTANCE: this.instance } })
    await this.node.stop()
    await this.api.stop()
    for (const each of this.#cgroups.sort((a, b) => b.length - a.length)) if (existsSync(each)) rmdirSync(each)
    rmSync(this.directory, { recursive: true })
  }
}

/** Of a namespace, by a path that opens it. */
export function inodeOf(path: string): bigint {
  return statSync(path, { bigint: true }).ino
}
