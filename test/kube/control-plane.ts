// etcd, API server, controller-manager and scheduler of a test cluster, on a machine of their own that also routes between the host,
// the nodes and their pods.
import { basename, join } from 'node:path'
import { mustRun, runCommand } from '../../src/local/command.ts'
import type { Layout } from './addresses.ts'
import type { Binaries } from './binaries.ts'
import { store } from './binaries.ts'
import { eventually, Machine } from './machine.ts'
import { apiPort } from './pki.ts'

const readyTimeoutMs = 60_000
const etcdUrl = 'http://127.0.0.1:2379'
/** Where the programs' store is inside machines. */
export const programs = '/run/programs'

/** A path below the store as machines see it. */
export function inMachine(path: string): string {
  return path.replace(store, programs)
}

export class ControlPlane {
  readonly machine: Machine
  readonly #layout: Layout
  readonly #binaries: Binaries

  constructor(layout: Layout, binaries: Binaries) {
    this.#layout = layout
    this.#binaries = binaries
    this.machine = new Machine('control', layout.directory)
  }

  /** The machine and its network, not yet the programs. */
  async startMachine(): Promise<void> {
    const { link, host, control, all } = this.#layout
    await this.machine.start()
    await this.machine.configureNetwork([
      // Where the bridge has no filter there is nothing to switch off.
      'for each in /proc/sys/net/bridge/bridge-nf-call-ip*; do [ ! -e "$each" ] || echo 0 > "$each"; done',
      'sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0',
      'ip link add br0 type bridge',
      'ip link set br0 up',
      `ip addr add ${control.v4}/24 dev br0`,
      `ip addr add ${control.v6}/64 dev br0 nodad`,
    ].join('\n'))
    await this.plug(undefined, link)
    const setUp = [
      `echo 0 > /proc/sys/net/ipv6/conf/${link}/accept_dad`,
      `ip link set ${link} up`,
      `ip addr add ${host.v4}/24 dev ${link}`,
      `ip addr add ${host.v6}/64 dev ${link} nodad`,
      `ip route add ${all.v4} via ${control.v4}`,
      `ip route add ${all.v6} via ${control.v6}`,
    ]
    await mustRun(['sh', '-ec', setUp.join('\n')])
  }

  /** A cable from the bridge to `eth0` of the machine with that init, or to a link `name` of the host. */
  async plug(init: number | undefined, name: string): Promise<void> {
    const end = init === undefined ? 'host' : name
    // The end of a machine that was killed goes when the kernel gets to it.
    await this.machine.configureNetwork(`ip link del ${end} 2>/dev/null || true`)
    const peer = init === undefined ? `name ${name} netns ${process.pid}` : `name eth0 netns ${init}`
    // Process ids are the host's, so the cable is laid from there.
    await mustRun(['sh', '-ec', `ip link add ${end} netns ${this.machine.init} type veth peer ${peer}`])
    await this.machine.configureNetwork(`ip link set ${end} master br0 up`)
  }

  async startPrograms(): Promise<void> {
    const data = join('/run/machine', 'etcd')
    await this.machine.startService('etcd', [
      inMachine(this.#binaries.etcd), '--name=test', `--data-dir=${data}`, `--listen-client-urls=${etcdUrl}`, `--advertise-client-urls=${etcdUrl}`,
      '--listen-peer-urls=http://127.0.0.1:2380', '--initial-advertise-peer-urls=http://127.0.0.1:2380', '--initial-cluster=test=http://127.0.0.1:2380',
      '--unsafe-no-fsync', '--log-level=warn', '--quota-backend-bytes=2147483648',
    ])
    await this.startApiServer()
    await this.#waitUntilReady()
    await this.startManagers()
  }

  /** Controller-manager and scheduler. Without leader election: there is one of each. */
  async startManagers(): Promise<void> {
    const common = (name: string): string[] => {
      const kubeconfig = `/run/cluster/${name}.kubeconfig`
      return [`--kubeconfig=${kubeconfig}`, `--authentication-kubeconfig=${kubeconfig}`, `--authorization-kubeconfig=${kubeconfig}`, '--leader-elect=false']
    }
    await Promise.all([
      this.machine.startService('controller-manager', [
        this.#part('kube-controller-manager'), ...common('controller-manager'), '--use-service-account-credentials=true',
        '--service-account-private-key-file=/run/cluster/pki/sa.key', '--root-ca-file=/run/cluster/pki/ca.crt',
        '--cluster-signing-cert-file=/run/cluster/pki/ca.crt', '--cluster-signing-key-file=/run/cluster/pki/ca.key',
        '--node-monitor-grace-period=20s', '--node-monitor-period=2s', '--kube-api-qps=200', '--kube-api-burst=400',
        `--service-cluster-ip-range=${this.#layout.services.v4},${this.#layout.services.v6}`,
      ]),
      this.machine.startService('scheduler', [this.#part('kube-scheduler'), ...common('scheduler'), '--kube-api-qps=200', '--kube-api-burst=400']),
    ])
  }

  async startApiServer(): Promise<void> {
    const { control, services } = this.#layout
    const pki = '/run/cluster/pki'
    await this.machine.startService('apiserver', [
      this.#part('kube-apiserver'), `--etcd-servers=${etcdUrl}`, `--secure-port=${apiPort}`, `--advertise-address=${control.v4}`,
      `--service-cluster-ip-range=${services.v4},${services.v6}`, '--allow-privileged=true', '--enable-aggregator-routing=true',
      '--authorization-mode=Node,RBAC', '--enable-admission-plugins=NodeRestriction',
      `--client-ca-file=${pki}/ca.crt`, `--tls-cert-file=${pki}/apiserver.crt`, `--tls-private-key-file=${pki}/apiserver.key`,
      `--kubelet-client-certificate=${pki}/apiserver-kubelet-client.crt`, `--kubelet-client-key=${pki}/apiserver-kubelet-client.key`,
      '--kubelet-preferred-address-types=InternalIP', '--service-account-issuer=https://kubernetes.default.svc.cluster.local',
      `--service-account-key-file=${pki}/sa.pub`, `--service-account-signing-key-file=${pki}/sa.key`,
      '--default-not-ready-toleration-seconds=30', '--default-unreachable-toleration-seconds=30',
    ], { GOMEMLIMIT: '800MiB' })
  }

  async stopApiServer(signal: 'TERM' | 'KILL' = 'TERM'): Promise<void> {
    await this.machine.stopService('apiserver', signal)
  }

  /** Ends it and starts it again; returns when it serves. */
  async restartApiServer(): Promise<void> {
    await this.stopApiServer()
    await this.startApiServer()
    await this.#waitUntilReady()
  }

  /**
   * Forgets everything older than now in etcd: who watches from an older version, or lists at one, is answered with 410 Gone once its
   * connection was cut. The API server keeps the last events in its own memory, so it is restarted.
   */
  async expireWatches(): Promise<void> {
    await this.stopApiServer('KILL')
    const revision = await this.#etcd<{ header: { revision: string } }>('kv/range', { key: 'AA==', keys_only: true, limit: '1' })
    await this.#etcd('kv/compaction', { revision: revision.header.revision, physical: true })
    await this.startApiServer()
    await this.#waitUntilReady()
  }

  /** etcd's API as JSON over HTTP, asked from within its machine. */
  async #etcd<T>(path: string, request: unknown): Promise<T> {
    return JSON.parse(await this.machine.mustRun(['curl', '-sf', '-d', JSON.stringify(request), `${etcdUrl}/v3/${path}`])) as T
  }

  async kubectl(args: readonly string[], options: { readonly input?: string; readonly timeoutMs?: number } = {}): ReturnType<typeof runCommand> {
    return runCommand([join(this.#binaries.kube, 'kubectl'), ...args], { ...options, env: { ...process.env, KUBECONFIG: join(this.#layout.directory, 'admin.kubeconfig') } })
  }

  async #waitUntilReady(): Promise<void> {
    await eventually(`the API server is ready; its log is ${join(this.machine.logs, 'apiserver.log')}`, readyTimeoutMs, async () => {
      const pki = join(this.#layout.directory, 'pki')
      const { code } = await runCommand(['curl', '-sf', '--max-time', '2', '--cacert', join(pki, 'ca.crt'), '--cert', join(pki, 'admin.crt'), '--key', join(pki, 'admin.key'), `https://${this.#layout.control.v4}:${apiPort}/readyz`])
      return code === 0 ? true : undefined
    }, 100)
  }

  #part(name: string): string {
    return `${programs}/${basename(this.#binaries.kube)}/${name}`
  }
}
