// A node of a test cluster: a machine with containerd, kubelet and kube-proxy, and the network of its pods (routed, without a bridge, so
// that kube-proxy sees what pods of one node say to each other).
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { mustRun } from '../../src/local/command.ts'
import type { Layout } from './addresses.ts'
import type { Binaries } from './binaries.ts'
import type { ControlPlane } from './control-plane.ts'
import { inMachine, programs } from './control-plane.ts'
import { eventually, Machine } from './machine.ts'
import { pauseReference } from './images.ts'

const runtimeTimeoutMs = 30_000
const importTimeoutMs = 300_000
const cgroupTimeoutMs = 5_000
const cgroupRoot = '/sys/fs/cgroup'

export const proxyModes = ['iptables', 'nftables', 'ipvs'] as const
export type ProxyMode = (typeof proxyModes)[number]

export class ClusterNode {
  readonly machine: Machine
  readonly name: string
  readonly #index: number
  readonly #layout: Layout
  readonly #binaries: Binaries
  readonly #proxyMode: ProxyMode

  constructor(name: string, index: number, layout: Layout, binaries: Binaries, proxyMode: ProxyMode) {
    this.name = name
    this.#index = index
    this.#layout = layout
    this.#binaries = binaries
    this.#proxyMode = proxyMode
    this.machine = new Machine(name, layout.directory)
  }

  get addresses(): { readonly v4: string; readonly v6: string } {
    return this.#layout.node(this.#index).address
  }

  get #cgroup(): string {
    return `${this.#layout.cgroup}-${this.name}`
  }

  /** Machine, network and container runtime: what needs no API server yet. */
  async startMachine(control: ControlPlane, others: readonly ClusterNode[]): Promise<void> {
    await removeCgroups(this.#cgroup)
    this.#makeCgroups()
    await this.machine.start()
    this.#writeFiles()
    await control.plug(this.machine.init, this.name)
    const { address, pods } = this.#layout.node(this.#index)
    const routes = others.filter((other) => other !== this).flatMap((other) => {
      const there = this.#layout.node(other.#index)
      return [`ip route replace ${there.pods.v4} via ${there.address.v4}`, `ip route replace ${there.pods.v6} via ${there.address.v6}`]
    })
    await this.machine.configureNetwork([
      'sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.eth0.accept_dad=0',
      'ip link set eth0 up',
      `ip addr add ${address.v4}/24 dev eth0`,
      `ip addr add ${address.v6}/64 dev eth0 nodad`,
      `ip route add default via ${this.#layout.control.v4}`,
      `ip route add default via ${this.#layout.control.v6}`,
      ...routes,
    ].join('\n'))
    await control.machine.configureNetwork([
      `ip route replace ${pods.v4} via ${address.v4}`,
      `ip route replace ${pods.v6} via ${address.v6}`,
      // What the host asks of a service's address, the first node translates.
      ...this.#index === 0 ? [`ip route replace ${this.#layout.services.v4} via ${address.v4}`, `ip route replace ${this.#layout.services.v6} via ${address.v6}`] : [],
    ].join('\n'))
    const path = { PATH: `${inMachine(this.#binaries.containerd)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin` }
    await this.machine.startService('containerd', [`${inMachine(this.#binaries.containerd)}/containerd`, '--config', '/run/machine/containerd.toml'], path)
    await eventually(`containerd of ${this.name} answers`, runtimeTimeoutMs, async () => ((await this.#ctr(['version'])).code === 0 ? true : undefined))
  }

  /** Imports images from archives on the host, so that pods may use them at once. */
  async load(archives: readonly string[]): Promise<void> {
    for (const archive of archives) {
      // The machine sees the host's files but for those below /var, /opt and /run: so the archive is handed over open.
      await mustRun(['sh', '-c', 'exec "$@" < "$0"', archive, ...this.machine.entering([...this.#ctrCommand, 'images', 'import', '-'])], { timeoutMs: importTimeoutMs })
    }
  }

  get #ctrCommand(): string[] {
    return [`${inMachine(this.#binaries.containerd)}/ctr`, '-n', 'k8s.io']
  }

  #ctr(args: readonly string[]): ReturnType<Machine['run']> {
    return this.machine.run([...this.#ctrCommand, ...args])
  }

  async startKubelet(): Promise<void> {
    const { address } = this.#layout.node(this.#index)
    const path = { PATH: `${inMachine(this.#binaries.containerd)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin` }
    await this.machine.startService('kubelet', [
      this.#part('kubelet'), '--config=/run/machine/kubelet.json', `--kubeconfig=/run/cluster/${this.name}.kubeconfig`, `--hostname-override=${this.name}`,
      `--node-ip=${address.v4},${address.v6}`, `--node-labels=topology.kubernetes.io/zone=zone-${this.name.slice(-1)},topology.kubernetes.io/region=test`, '-v=2',
    ], path)
  }

  async startProxy(mode: ProxyMode = this.#proxyMode): Promise<void> {
    const { v4, v6 } = this.#layout.pods
    await this.machine.startService('kube-proxy', [
      this.#part('kube-proxy'), '--kubeconfig=/run/cluster/proxy.kubeconfig', `--proxy-mode=${mode}`, `--hostname-override=${this.name}`,
      `--cluster-cidr=${v4},${v6}`, '--conntrack-max-per-core=0', '--conntrack-tcp-timeout-established=0', '--conntrack-tcp-timeout-close-wait=0',
      `--bind-address=${this.addresses.v4}`,
    ])
  }

  async restartKubelet(): Promise<void> {
    await this.machine.stopService('kubelet')
    await this.startKubelet()
  }

  /** As if its power went away: pods end without a word, and the API server is not told. */
  async kill(): Promise<void> {
    await this.machine.kill()
    await removeCgroups(this.#cgroup)
  }

  /** Cgroups that a node has in each hierarchy, made beforehand: kubelet refuses to make its own root. */
  #makeCgroups(): void {
    for (const hierarchy of hierarchies()) {
      const own = join(hierarchy, this.#cgroup)
      mkdirSync(own, { recursive: true })
      // A new cpuset has no processors and no memory, and takes nobody in.
      for (const file of ['cpuset.cpus', 'cpuset.mems']) {
        if (basename(hierarchy).startsWith('cpuset')) writeFileSync(join(own, file), readFileSync(join(hierarchy, file)))
      }
    }
  }

  #writeFiles(): void {
    const { pods } = this.#layout.node(this.#index)
    const bin = this.machine.file('opt/cni/bin')
    for (const plugin of readdirSync(this.#binaries.cni)) {
      if (!existsSync(join(bin, plugin))) copyFileSync(join(this.#binaries.cni, plugin), join(bin, plugin))
    }
    const conflist = this.machine.file('etc/cni/net.d/10-test.conflist')
    mkdirSync(this.machine.file('etc/cni/net.d'), { recursive: true })
    // A node that was up before keeps what others chained in.
    if (!existsSync(conflist)) writeFileSync(conflist, JSON.stringify(cniConfiguration(pods), null, 2))
    writeFileSync(this.machine.file('containerd.toml'), containerdConfiguration)
    writeFileSync(this.machine.file('kubelet.json'), JSON.stringify(kubeletConfiguration(this.#cgroup, [this.#layout.dnsService.v4, this.#layout.dnsService.v6]), null, 2))
  }

  #part(name: string): string {
    return `${programs}/${basename(this.#binaries.kube)}/${name}`
  }
}

/** The v1 hierarchies that kubelet and runc use and cgroup2 beside them, or cgroup2's root where that is all there is. */
function hierarchies(): string[] {
  const wanted = ['cpu', 'cpuacct', 'cpu,cpuacct', 'cpuset', 'memory', 'devices', 'freezer', 'blkio', 'pids', 'hugetlb', 'systemd', 'unified']
  const there = wanted.map((name) => join(cgroupRoot, name)).filter((path) => existsSync(path))
  return there.length > 0 ? there : [cgroupRoot]
}

/** Those of a node that was killed: left there, a kubelet looks for seconds at each. */
export async function removeCgroups(name: string): Promise<void> {
  const deadline = performance.now() + cgroupTimeoutMs
  for (;;) {
    const left = hierarchies().map((hierarchy) => join(hierarchy, name)).filter((own) => existsSync(own))
    if (left.length === 0 || performance.now() > deadline) return
    left.forEach(removeTree)
    await sleep(20)
  }
}

function removeTree(cgroup: string): void {
  try {
    for (const entry of readdirSync(cgroup, { withFileTypes: true })) if (entry.isDirectory()) removeTree(join(cgroup, entry.name))
    rmdirSync(cgroup)
  } catch {
    // A process in it is still ending, or the kernel was quicker; whoever called looks again.
  }
}

function cniConfiguration(pods: { readonly v4: string; readonly v6: string }): Record<string, unknown> {
  return {
    cniVersion: '1.0.0',
    name: 'test',
    plugins: [
      {
        type: 'ptp', ipMasq: false, mtu: 1500,
        ipam: { type: 'host-local', dataDir: '/var/lib/cni/networks', ranges: [[{ subnet: pods.v4 }], [{ subnet: pods.v6 }]], routes: [{ dst: '0.0.0.0/0' }, { dst: '::/0' }] },
      },
      { type: 'portmap', capabilities: { portMappings: true }, snat: true },
    ],
  }
}

const containerdConfiguration = `version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing"]
[plugins."io.containerd.grpc.v1.cri"]
  # The machine may lack CAP_SYS_RESOURCE, without which no score can be lowered.
  restrict_oom_score_adj = true
  sandbox_image = "${pauseReference}"
  max_concurrent_downloads = 1
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
`

function kubeletConfiguration(cgroup: string, clusterDNS: readonly string[]): Record<string, unknown> {
  return {
    apiVersion: 'kubelet.config.k8s.io/v1beta1', kind: 'KubeletConfiguration',
    failCgroupV1: false, cgroupDriver: 'cgroupfs', cgroupRoot: `/${cgroup}`, cgroupsPerQOS: true, enforceNodeAllocatable: [],
    failSwapOn: false, makeIPTablesUtilChains: false, protectKernelDefaults: false, localStorageCapacityIsolation: true,
    containerRuntimeEndpoint: 'unix:///run/containerd/containerd.sock', resolvConf: '', clusterDNS, clusterDomain: 'cluster.local',
    authentication: { anonymous: { enabled: false }, webhook: { enabled: true }, x509: { clientCAFile: '/run/cluster/pki/ca.crt' } },
    authorization: { mode: 'Webhook' },
    evictionHard: { 'memory.available': '100Mi', 'nodefs.available': '0%', 'imagefs.available': '0%', 'nodefs.inodesFree': '0%', 'imagefs.inodesFree': '0%' },
    imageGCHighThresholdPercent: 100, imageGCLowThresholdPercent: 99,
    nodeStatusUpdateFrequency: '4s', nodeLeaseDurationSeconds: 16, syncFrequency: '10s', maxPods: 200,
    kubeAPIQPS: 200, kubeAPIBurst: 400, serializeImagePulls: false,
  }
}
