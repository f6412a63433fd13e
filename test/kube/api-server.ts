// etcd and an API server alone, as processes on loopback: the real Kubernetes API in two seconds, without nodes, controllers or
// namespaces of the kernel. For what a cluster is too much for, and where nobody else may change what a test writes.
import { spawn, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { KubeClient, type KubeClientOptions } from '../../src/kube/client.ts'
import { loadConnection, type KubeConnection } from '../../src/kube/connection.ts'
import { endProcess, identify } from '../../src/local/process-identity.ts'
import { layoutOf } from './addresses.ts'
import { binaries, type Binaries, type Say } from './binaries.ts'
import { eventually } from './machine.ts'
import { writeKeys } from './pki.ts'

const readyTimeoutMs = 60_000

export interface ApiServerWish {
  readonly say?: Say
  /** More arguments of kube-apiserver. */
  readonly args?: readonly string[]
  /** The user whose requests `audited` counts. */
  readonly audit?: string
}

async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(Array.from({ length: count }, async () => {
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    return server
  }))
  return Promise.all(servers.map(async (server) => {
    const address = server.address()
    server.close()
    await once(server, 'close')
    return typeof address === 'object' && address !== null ? address.port : 0
  }))
}

export class ApiServer {
  readonly directory: string
  readonly #binaries: Binaries
  readonly #args: readonly string[]
  readonly #ports: { readonly api: number; readonly etcd: number; readonly peers: number }
  #etcd: ChildProcess | undefined
  #server: ChildProcess | undefined

  private constructor(directory: string, programs: Binaries, ports: readonly number[], args: readonly string[]) {
    const [api = 0, etcd = 0, peers = 0] = ports
    this.directory = directory
    this.#binaries = programs
    this.#ports = { api, etcd, peers }
    this.#args = args
  }

  /** Returns when it serves. `stop` removes all of it. */
  static async start({ say = () => {}, args = [], audit }: ApiServerWish = {}): Promise<ApiServer> {
    const programs = await binaries(say)
    const directory = mkdtempSync(join(tmpdir(), 'sidestep-api-server-'))
    const policy = join(directory, 'audit-policy.json')
    const auditing = audit === undefined ? [] : [`--audit-policy-file=${policy}`, `--audit-log-path=${join(directory, 'audit.log')}`]
    const made = new ApiServer(directory, programs, await freePorts(3), [...args, ...auditing])
    try {
      writeFileSync(policy, JSON.stringify({
        apiVersion: 'audit.k8s.io/v1', kind: 'Policy', omitStages: ['RequestReceived'],
        rules: [...(audit === undefined ? [] : [{ level: 'Metadata', users: [audit] }]), { level: 'None' }],
      }))
      const loopback = { v4: '127.0.0.1', v6: '::1' }
      await writeKeys({ ...layoutOf(0), directory, control: loopback }, [])
      // kubeconfigs of a cluster name its port; ours is another.
      writeFileSync(made.kubeconfig, readFileSync(made.kubeconfig, 'utf8').replace(/https:\/\/127\.0\.0\.1:\d+/, made.url))
      await made.#startEtcd()
      await made.startServer()
      return made
    } catch (error) {
      await made.stop()
      throw error
    }
  }

  get url(): string {
    return `https://127.0.0.1:${this.#ports.api}`
  }

  /** Of an administrator. */
  get kubeconfig(): string {
    return join(this.directory, 'admin.kubeconfig')
  }

  get pid(): number {
    return this.#server?.pid ?? 0
  }

  connection(): Promise<KubeConnection> {
    return loadConnection({ environment: { KUBECONFIG: this.kubeconfig } })
  }

  /** As an administrator. */
  async client(options: KubeClientOptions = {}): Promise<KubeClient> {
    return new KubeClient(await this.connection(), options)
  }

  /** As whoever has that token. */
  async clientWith(token: string): Promise<KubeClient> {
    const { ca } = await (await this.connection()).tls()
    const material = { ...(ca !== undefined && { ca }), isVerified: true }
    return new KubeClient({
      server: this.url, namespace: 'default', origin: 'a token', tls: async () => material, authorization: async () => `Bearer ${token}`,
    })
  }

  /** A kubeconfig of whoever has that token. */
  async kubeconfigWith(token: string): Promise<string> {
    const { ca = '' } = await (await this.connection()).tls()
    const path = join(this.directory, `${createHash('sha256').update(token).digest('hex').slice(0, 16)}.kubeconfig`)
    const cluster = { server: this.url, 'certificate-authority-data': Buffer.from(ca).toString('base64') }
    writeFileSync(path, JSON.stringify({
      apiVersion: 'v1', kind: 'Config', 'current-context': 'test', clusters: [{ name: 'test', cluster }], users: [{ name: 'test', user: { token } }],
      contexts: [{ name: 'test', context: { cluster: 'test', user: 'test' } }],
    }), { mode: 0o600 })
    return path
  }

  /** How often who is audited asked, by verb and resource: `get leases`. */
  audited(): ReadonlyMap<string, number> {
    const counts = new Map<string, number>()
    for (const line of readFileSync(this.#auditLog, 'utf8').split('\n')) {
      if (line === '') continue
      const { stage, verb, objectRef } = JSON.parse(line) as { stage: string; verb: string; objectRef?: { resource?: string; subresource?: string } }
      // Those that go on are told when they begin, and again when they end.
      if (stage === 'ResponseComplete' && verb === 'watch') continue
      const what = `${verb} ${[objectRef?.resource ?? 'other', objectRef?.subresource ?? ''].filter((part) => part !== '').join('/')}`
      counts.set(what, (counts.get(what) ?? 0) + 1)
    }
    return counts
  }

  get #auditLog(): string {
    return join(this.directory, 'audit.log')
  }

  async startServer(): Promise<void> {
    const pki = join(this.directory, 'pki')
    this.#server = this.#spawn('apiserver', [
      join(this.#binaries.kube, 'kube-apiserver'), `--etcd-servers=http://127.0.0.1:${this.#ports.etcd}`, `--secure-port=${this.#ports.api}`,
      '--bind-address=127.0.0.1', '--advertise-address=127.0.0.1', '--endpoint-reconciler-type=none', '--service-cluster-ip-range=10.96.0.0/12',
      '--authorization-mode=RBAC', '--allow-privileged=true', `--cert-dir=${this.directory}`,
      `--client-ca-file=${pki}/ca.crt`, `--tls-cert-file=${pki}/apiserver.crt`, `--tls-private-key-file=${pki}/apiserver.key`,
      '--service-account-issuer=https://kubernetes.default.svc.cluster.local', `--service-account-key-file=${pki}/sa.pub`,
      `--service-account-signing-key-file=${pki}/sa.key`, ...this.#args,
    ], { GOMEMLIMIT: '1200MiB' })
    const client = await this.client()
    try {
      await eventually(`the API server is ready; its log is ${join(this.directory, 'apiserver.log')}`, readyTimeoutMs, async () => {
        // Listing needs etcd, caches and roles; what is listed is of no interest.
        try {
          await client.get('/api/v1/namespaces/default', { timeoutMs: 2_000 })
          return true
        } catch {
          return undefined
        }
      }, 50)
    } finally {
      client.close()
    }
  }

  async stopServer(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    await end(this.#server, signal)
    this.#server = undefined
  }

  /** etcd forgets everything older than now, and so does the API server, which is started anew for it. */
  async forget(): Promise<void> {
    await this.stopServer('SIGKILL')
    const revision = await this.#ask<{ header: { revision: string } }>('kv/range', { key: 'AA==', keys_only: true, limit: '1' })
    await this.#ask('kv/compaction', { revision: revision.header.revision, physical: true })
    await this.startServer()
  }

  async stop(): Promise<void> {
    await this.stopServer('SIGKILL')
    await end(this.#etcd, 'SIGKILL')
    rmSync(this.directory, { recursive: true, force: true })
  }

  async #startEtcd(): Promise<void> {
    const data = join(this.directory, 'etcd')
    mkdirSync(data, { mode: 0o700 })
    const [own, peers] = [`http://127.0.0.1:${this.#ports.etcd}`, `http://127.0.0.1:${this.#ports.peers}`]
    this.#etcd = this.#spawn('etcd', [
      this.#binaries.etcd, '--name=test', `--data-dir=${data}`, `--listen-client-urls=${own}`, `--advertise-client-urls=${own}`,
      `--listen-peer-urls=${peers}`, `--initial-advertise-peer-urls=${peers}`, `--initial-cluster=test=${peers}`, '--unsafe-no-fsync', '--log-level=warn',
    ], {})
    await eventually(`etcd is ready; its log is ${join(this.directory, 'etcd.log')}`, readyTimeoutMs, async () => {
      try {
        await this.#ask('kv/range', { key: 'AA==', limit: '1' })
        return true
      } catch {
        return undefined
      }
    }, 50)
  }

  #spawn(name: string, [program = '', ...args]: readonly string[], env: NodeJS.ProcessEnv): ChildProcess {
    const log = openSync(join(this.directory, `${name}.log`), 'a')
    // However this process ends, it ends too.
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', program, ...args], { stdio: ['ignore', log, log], env: { PATH: process.env['PATH'], HOME: this.directory, ...env } })
    closeSync(log)
    child.on('error', () => {
      // Whoever waits for it says so, with the place of its log.
    })
    return child
  }

  /** etcd's API as JSON over HTTP. */
  async #ask<T>(path: string, request: unknown): Promise<T> {
    const answer = await fetch(`http://127.0.0.1:${this.#ports.etcd}/v3/${path}`, { method: 'POST', body: JSON.stringify(request), signal: AbortSignal.timeout(5_000) })
    if (!answer.ok) throw new Error(`etcd answered ${answer.status} to ${path}`)
    return await answer.json() as T
  }
}

async function end(child: ChildProcess | undefined, signal: NodeJS.Signals): Promise<void> {
  if (child?.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  const identity = identify(child.pid)
  if (!identity) return
  child.kill(signal)
  await endProcess(identity, 10_000)
}
