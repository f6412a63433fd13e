// Pods of a local mesh without control plane or ztunnel whose DNS is answered by a DnsProxy in the test's own process, with
// names that the test fills in; and name servers outside. For what DNS itself must do.
import { createServer } from 'node:net'
import type { Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { canonicalIp } from '../../src/core/address.ts'
import { silentLogger } from '../../src/core/log.ts'
import { Resolver } from '../../src/dns/resolver.ts'
import { port as ports } from '../../src/kernel/generated/layout.ts'
import { abortSocket } from '../../src/kernel/live-socket.ts'
import { Netns } from '../../src/kernel/netns.ts'
import { Redirection } from '../../src/kernel/redirection.ts'
import { listenInNetns } from '../../src/kernel/sockets.ts'
import type { LocalMesh } from '../../src/local/mesh.ts'
import { WorkloadStore } from '../../src/model/workload-store.ts'
import { DnsProxy } from '../../src/ztunnel/dns-proxy.ts'
import type { DnsQueryFacts } from '../../src/ztunnel/dns-proxy.ts'
import { clusterSearchDomains, MeshNames } from '../../src/ztunnel/mesh-names.ts'
import { uniqueName } from './instances.ts'
import { LineProcess } from './line-process.ts'

interface CapturedPod {
  readonly netns: Netns
  readonly proxy: DnsProxy
  readonly server: Server
}

export class DnsWorld implements AsyncDisposable {
  readonly mesh: LocalMesh
  readonly store = new WorkloadStore()
  readonly redirection: Redirection
  /** What became of each query so far, of all pods. */
  readonly queries: (DnsQueryFacts & { readonly pod: string })[] = []
  isKnown = true
  readonly #instance: string
  readonly #nodeNetns: Netns
  readonly #pods = new Map<string, CapturedPod>()
  readonly #servers: LineProcess[] = []

  private constructor(mesh: LocalMesh, instance: string, nodeNetns: Netns) {
    this.mesh = mesh
    this.#instance = instance
    this.#nodeNetns = nodeNetns
    this.redirection = Redirection.open({ instance, nodeNetns, verifierLog: join(tmpdir(), `${instance}-verifier.log`), logger: silentLogger })
  }

  /** Captures these pods of namespace `default`, all on `node-a`. Stops the mesh when disposed of. */
  static async capture(mesh: LocalMesh, pods: readonly string[]): Promise<DnsWorld> {
    const world = new DnsWorld(mesh, uniqueName('dns'), await Netns.open(mesh.nodeNetns('node-a')))
    for (const pod of pods) await world.#capture(pod)
    return world
  }

  async #capture(name: string): Promise<void> {
    const netns = await Netns.open(this.mesh.podNetns('default', name))
    const names = new MeshNames({ store: this.store, network: '', isKnown: () => this.isKnown })
    const proxy = new DnsProxy({
      netns, redirection: this.redirection, resolver: new Resolver(names), logger: silentLogger,
      client: { namespace: 'default', searchDomains: clusterSearchDomains('default') },
      onQuery: (facts) => this.queries.push({ pod: name, ...facts }),
    })
    const descriptor = await listenInNetns(netns, { port: ports.outbound })
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      const client = { ip: canonicalIp(socket.remoteAddress ?? '') ?? '', port: socket.remotePort ?? 0 }
      const original = this.redirection.takeOriginalDestination(netns.cookie, client)
      if (original?.port === 53) proxy.serveTcp(socket, original)
      else abortSocket(socket)
    })
    this.redirection.registerListener(netns.cookie, 'outbound', descriptor.fd)
    await new Promise<void>((resolve) => server.listen({ fd: descriptor.release() }, resolve))
    await proxy.listen()
    this.#pods.set(name, { netns, proxy, server })
    await this.redirection.enrol({
      uid: name, namespace: 'default', name, serviceAccount: 'default', node: 'node-a', netns: this.mesh.podNetns('default', name),
      ips: [...this.mesh.pod('default', name).facts.ips], failureMode: 'closed', dns: true, probePorts: [],
    }, netns)
  }

  pod(name: string): CapturedPod {
    const pod = this.#pods.get(name)
    if (!pod) throw new TypeError(`${name} is not captured`)
    return pod
  }

  ip(name: string, family: 4 | 6 = 4): string {
    const found = this.mesh.pod('default', name).facts.ips.find((ip) => ip.includes(':') === (family === 6))
    if (found === undefined) throw new TypeError(`${name} has no IPv${family} address`)
    return found
  }

  /** Runs a program to its end inside a pod; what it wrote, whatever its exit code. */
  async run(pod: string, ...command: string[]): Promise<{ readonly code: number; readonly stdout: string; readonly stderr: string }> {
    const { code, stdout, stderr } = await this.mesh.exec('default', pod, undefined, command)
    return { code: code ?? -1, stdout: stdout.trim(), stderr: stderr.trim() }
  }

  /** A real name server outside, on that address, which becomes one of the underlay's. */
  async dnsmasq(address: string, ...options: string[]): Promise<LineProcess> {
    return await this.outside(address, [
      'dnsmasq', '--keep-in-foreground', '--user=root', '--conf-file=/dev/null', '--pid-file=', '--no-resolv', '--no-hosts', '--bind-interfaces',
      '--no-daemon', '--edns-packet-max=4096', `--listen-address=${address}`, ...options,
    ])
  }

  /** Any program outside, once that address is there. It is stopped with the world. */
  async outside(address: string, command: readonly string[]): Promise<LineProcess> {
    const wrap = ['nsenter', `--net=${this.mesh.underlayNetns}`, '--']
    await new LineProcess(['sh', '-c', `ip addr add ${address}/32 dev lo 2>/dev/null || true`], { wrap }).ended
    const process = new LineProcess(command, { wrap })
    this.#servers.push(process)
    return process
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#servers) await server.stop()
    for (const { netns, proxy, server } of this.#pods.values()) {
      this.redirection.unenrol(netns.cookie)
      server.close()
      await proxy.close()
      await this.redirection.removeReturnPath(netns)
      netns.close()
    }
    this.redirection.close()
    this.#nodeNetns.close()
    Redirection.remove(this.#instance)
    await this.mesh.stop(0)
  }
}
