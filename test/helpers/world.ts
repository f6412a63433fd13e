// Worlds by sentence: `world().namespace('shop', meshed).pod('client').start()` gives a running local mesh of its own
// name that the test must stop; and a look at the machine, to prove that nothing stays behind.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { stringify } from 'yaml'
import { silentLogger } from '../../src/core/log.ts'
import type { CommandOptions, CommandResult } from '../../src/local/command.ts'
import { runCommand } from '../../src/local/command.ts'
import type { LocalMeshOptions } from '../../src/local/mesh-options.ts'
import { LocalMesh } from '../../src/local/mesh.ts'

export const meshed = { 'sidestep.dev/mesh': 'enabled' } as const
export const testPath = process.env['PATH'] ?? ''

let worlds = 0

/** A mesh name that no other test process uses. */
export function uniqueName(): string {
  return `t${process.pid}-${++worlds}`
}

/** A server that answers each HTTP request with its host name and the client's address; `/slow` after 300 ms. */
export function whoServer(port = 8080): string[] {
  return [process.execPath, '-e', `require('node:http').createServer((q, s) => setTimeout(() =>
    s.end(require('node:os').hostname() + ' ' + q.socket.remoteAddress.replace('::ffff:', '') + '\\n'), q.url === '/slow' ? 300 : 0)
  ).listen(${port}, '::')`]
}

export interface PodWish {
  readonly namespace?: string
  readonly node?: string
  readonly labels?: Readonly<Record<string, string>>
  /** `sleep` for ever unless told. */
  readonly command?: readonly string[]
  readonly args?: readonly string[]
  readonly ports?: readonly { readonly name?: string; readonly containerPort: number; readonly protocol?: 'TCP' | 'UDP' }[]
  /** Merged into the container. */
  readonly container?: Readonly<Record<string, unknown>>
  /** Merged into the pod's spec. */
  readonly spec?: Readonly<Record<string, unknown>>
}

function podSpec(wish: PodWish): Record<string, unknown> {
  return {
    ...(wish.node === undefined ? {} : { nodeName: wish.node }),
    terminationGracePeriodSeconds: 1,
    ...wish.spec,
    containers: [{
      name: 'main', command: wish.command ?? ['sleep', 'infinity'],
      ...(wish.args ? { args: wish.args } : {}), ...(wish.ports ? { ports: wish.ports } : {}), ...wish.container,
    }],
  }
}

/** YAML of one pod. */
export function podYaml(name: string, wish: PodWish = {}): string {
  return stringify({
    apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace: wish.namespace ?? 'default', labels: wish.labels ?? {} }, spec: podSpec(wish),
  })
}

export function deploymentYaml(name: string, replicas: number, wish: PodWish = {}): string {
  return stringify({
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name, namespace: wish.namespace ?? 'default' },
    spec: { replicas, template: { metadata: { labels: wish.labels ?? { app: name } }, spec: podSpec(wish) } },
  })
}

export function namespaceYaml(name: string, labels: Readonly<Record<string, string>> = {}): string {
  return stringify({ apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels } })
}

/** A Service for pods with label `app: NAME`, unless `spec` says otherwise. */
export function serviceYaml(name: string, ports: readonly Record<string, unknown>[], spec: Record<string, unknown> = {}, namespace = 'default'): string {
  return stringify({ apiVersion: 'v1', kind: 'Service', metadata: { name, namespace }, spec: { selector: { app: name }, ports, ...spec } })
}

export class World {
  readonly #parts: string[] = []
  #nodes = 2

  nodes(count: number): this {
    this.#nodes = count
    return this
  }

  namespace(name: string, labels: Readonly<Record<string, string>> = {}): this {
    return this.yaml(namespaceYaml(name, labels))
  }

  pod(name: string, wish: PodWish = {}): this {
    return this.yaml(podYaml(name, wish))
  }

  deployment(name: string, replicas: number, wish: PodWish = {}): this {
    return this.yaml(deploymentYaml(name, replicas, wish))
  }

  service(name: string, ports: readonly Record<string, unknown>[], spec: Record<string, unknown> = {}): this {
    return this.yaml(serviceYaml(name, ports, spec))
  }

  yaml(text: string): this {
    this.#parts.push(text)
    return this
  }

  /** Starts it and waits until all is ready. Stop it in the test's end, whatever happened. */
  async start(options: Partial<LocalMeshOptions> & { readonly readyTimeoutMs?: number } = {}): Promise<LocalMesh> {
    const mesh = await this.launch(options)
    try {
      await mesh.waitReady(options.readyTimeoutMs ?? 20_000)
      return mesh
    } catch (error) {
      await mesh.stop(100)
      throw error
    }
  }

  /** Starts it and does not wait. */
  launch(options: Partial<LocalMeshOptions> = {}): Promise<LocalMesh> {
    return LocalMesh.start({
      name: uniqueName(), nodes: this.#nodes, logger: silentLogger, hostPath: testPath,
      ...(this.#parts.length > 0 ? { manifests: this.#parts.join('---\n') } : {}), ...options,
    })
  }
}

export function world(): World {
  return new World()
}

/** Runs a command in a network namespace of a mesh (a node's, or the underlay's). */
export function inNetns(netns: string, command: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
  return runCommand(['nsenter', `--net=${netns}`, '--', ...command], options)
}

/** Tries until it holds, every 20 ms; the last failure is thrown after `timeoutMs`. */
export async function eventually<T>(check: () => T | Promise<T>, timeoutMs = 10_000): Promise<T> {
  const deadline = performance.now() + timeoutMs
  for (;;) {
    try {
      return await check()
    } catch (error) {
      if (performance.now() >= deadline) throw error
      await sleep(20)
    }
  }
}

/** Pids of living processes by the network namespace that they are in. */
export function processesIn(netnsInodes: ReadonlySet<string>): number[] {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map(Number).filter((pid) => {
    try {
      return netnsInodes.has(readlinkSync(`/proc/${pid}/ns/net`))
    } catch {
      // It ended while we looked, or is a zombie, which has no namespaces.
      return false
    }
  })
}

/** What the host itself has, apart from processes: links and mounts of the namespaces that the test runs in. */
export async function hostState(): Promise<{ links: string[]; mounts: string[] }> {
  const { stdout } = await runCommand(['ip', '-o', 'link'])
  return {
    links: stdout.split('\n').map((line) => line.split(':')[1]?.trim() ?? '').filter(Boolean),
    mounts: readFileSync('/proc/self/mounts', 'utf8').split('\n').filter(Boolean),
  }
}
