// Calls the CNI plugin as a container runtime does: a command in the environment, a configuration on standard input.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { CniServer, type CniHandler } from '../../src/agent/cni-server.ts'
import { silentLogger } from '../../src/core/log.ts'
import { buildDirectory } from '../../src/kernel/native.ts'

export const plugin = join(buildDirectory, 'cni/sidestep-cni')

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** `environment` is all that the plugin sees. */
export async function callPlugin(environment: Record<string, string>, input: string | Buffer, executable = plugin): Promise<Ended> {
  const child = spawn(executable, [], { env: environment, stdio: 'pipe' })
  child.stdin.on('error', () => {
    // It may end before it has read everything.
  })
  child.stdin.end(input)
  const [stdout, stderr, [code, signal]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>])
  return { code, signal, stdout, stderr }
}

export const previousResult = {
  cniVersion: '1.0.0',
  interfaces: [{ name: 'veth1', mac: 'aa:bb:cc:dd:ee:01' }, { name: 'eth0', mac: 'aa:bb:cc:dd:ee:02', sandbox: '/var/run/netns/cni-1' }],
  ips: [{ interface: 1, address: '10.1.2.3/24', gateway: '10.1.2.1' }, { interface: 1, address: 'FD00:1:0:0::3/64' }, { interface: 0, address: '10.1.2.1/24' }],
  dns: {},
}

/** A directory with a socket's path and a namespaces' file, and what the runtime would say. */
export class Place implements AsyncDisposable {
  readonly directory: string
  readonly #servers: CniServer[] = []

  private constructor(directory: string) {
    this.directory = directory
  }

  static async make(): Promise<Place> {
    return new Place(await mkdtemp(join(tmpdir(), 'cni-')))
  }

  get socket(): string {
    return join(this.directory, 'cni.sock')
  }

  get namespaces(): string {
    return join(this.directory, 'namespaces.json')
  }

  async serve(handle: CniHandler, options: { readonly requestTimeoutMs?: number; readonly answerTimeoutMs?: number; readonly watchMs?: number } = {}): Promise<CniServer> {
    const server = new CniServer({ path: this.socket, handle, logger: silentLogger, ...options })
    await server.listen()
    this.#servers.push(server)
    return server
  }

  config(more: object = {}): object {
    return { cniVersion: '1.0.0', name: 'k8s', type: 'sidestep-cni', socket: this.socket, namespaces: this.namespaces, timeoutMs: 3000, prevResult: previousResult, ...more }
  }

  call(command: string, { config = this.config(), environment = {}, pod = 'shop/web-1' }: { readonly config?: unknown; readonly environment?: Record<string, string>; readonly pod?: string } = {}): Promise<Ended> {
    const [namespace, name] = pod.split('/')
    return callPlugin({
      CNI_COMMAND: command, CNI_CONTAINERID: 'abc', CNI_NETNS: '/var/run/netns/cni-1', CNI_IFNAME: 'eth0', CNI_PATH: '/opt/cni/bin',
      CNI_ARGS: `IgnoreUnknown=1;K8S_POD_NAMESPACE=${namespace};K8S_POD_NAME=${name};K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=uid-1`,
      ...environment,
    }, typeof config === 'string' ? config : JSON.stringify(config))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#servers) await server.close()
    await rm(this.directory, { recursive: true, force: true })
  }
}
