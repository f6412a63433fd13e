// A world with a waypoint: on two nodes a namespace `shop` whose requests pass it, two versions of a backend, clients in that
// namespace and another, and curl as the client. Everything is said in YAML; what is asserted is for the tests.
import { fileURLToPath } from 'node:url'
import { stringify } from 'yaml'
import { silentLogger } from '../../src/core/log.ts'
import type { CommandResult } from '../../src/local/command.ts'
import { LocalMesh } from '../../src/local/mesh.ts'
import type { LocalMeshOptions } from '../../src/local/mesh-options.ts'
import { uniqueName } from './instances.ts'
import { LineProcess } from './line-process.ts'
import { eventually } from './meshed-world.ts'

export type Yaml = Readonly<Record<string, unknown>>

const backend = fileURLToPath(new URL('../apps/l7-backend.ts', import.meta.url))
const load = fileURLToPath(new URL('../apps/l7-load.ts', import.meta.url))

export function object(apiVersion: string, kind: string, name: string, spec: unknown, metadata: Yaml = {}): Yaml {
  return { apiVersion, kind, metadata: { name, namespace: 'shop', ...metadata }, ...(spec === undefined ? {} : { spec }) }
}

/** Clients live in a namespace; unless told, under an account of their own name. */
export function pod(name: string, node: string, spec: Yaml = {}, namespace = 'shop', labels: Yaml = {}): Yaml {
  return {
    apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace, labels: { app: name, ...labels } },
    spec: {
      nodeName: node, serviceAccountName: name, terminationGracePeriodSeconds: 0,
      containers: [{ name: 'main', command: ['sleep', 'infinity'], ...spec }],
    },
  }
}

export const httpRoute = (name: string, rules: unknown, parent = 'web'): Yaml =>
  object('gateway.networking.k8s.io/v1', 'HTTPRoute', name, { parentRefs: [{ group: '', kind: 'Service', name: parent }], rules })

export const to = (name: string, more: Yaml = {}): Yaml => ({ name, port: 80, ...more })

export const waypoint = (name = 'waypoint', annotations: Yaml = {}, labels: Yaml = {}): Yaml => object('gateway.networking.k8s.io/v1', 'Gateway', name, {
  gatewayClassName: 'sidestep-waypoint', listeners: [{ name: 'mesh', port: 15_008, protocol: 'HBONE', allowedRoutes: { namespaces: { from: 'Same' } } }],
}, { annotations, labels })

function version(name: string): Yaml[] {
  return [
    pod(name, name.endsWith('v2') ? 'node-a' : 'node-b', {
      command: [process.execPath, backend, '8080', '8081'], readinessProbe: { tcpSocket: { port: 8081 }, periodSeconds: 1 },
    }, 'shop', { group: 'web', version: name.slice(-2) }),
    {
      apiVersion: 'v1', kind: 'Service', metadata: { name, namespace: 'shop' },
      spec: { selector: { app: name }, ports: [{ name: 'http', port: 80, targetPort: 8080 }, { name: 'grpc', port: 81, targetPort: 8081 }] },
    },
  ]
}

export interface Asked {
  readonly status: number
  readonly headers: ReadonlyMap<string, string>
  readonly body: string
  /** Of the test's own backend: the pod that answered, and what it saw. */
  readonly seen: { readonly pod: string; readonly method: string; readonly path: string; readonly version: string; readonly headers: Readonly<Record<string, string>>; readonly client: string; readonly bodyBytes: number }
  /** Of curl: 0 where an answer came. */
  readonly code: number
}

export class WaypointWorld implements AsyncDisposable {
  readonly mesh: LocalMesh

  private constructor(mesh: LocalMesh) {
    this.mesh = mesh
  }

  static async start(more: readonly Yaml[] = [], gateway: Yaml = waypoint(), controlPlaneEnvironment: Readonly<Record<string, string>> = {}, options: Partial<LocalMeshOptions> = {}): Promise<WaypointWorld> {
    const objects = [
      { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop', labels: { 'sidestep.dev/mesh': 'enabled', 'sidestep.dev/use-waypoint': 'waypoint' } } },
      { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'away', labels: { 'sidestep.dev/mesh': 'enabled' } } },
      { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'plain' } },
      gateway,
      pod('client', 'node-a'), pod('other', 'node-a'), pod('guest', 'node-a', {}, 'away'), pod('stranger', 'node-a', {}, 'plain'),
      ...version('web-v1'), ...version('web-v2'),
      {
        apiVersion: 'v1', kind: 'Service', metadata: { name: 'web', namespace: 'shop' },
        spec: { selector: { group: 'web' }, ports: [{ name: 'http', port: 80, targetPort: 8080 }, { name: 'grpc', port: 81, targetPort: 8081 }] },
      },
      ...more,
    ]
    const mesh = await LocalMesh.start({ name: uniqueName('wp'), manifests: yamlOf(objects), logger: silentLogger, controlPlaneEnvironment, ...options })
    const world = new WaypointWorld(mesh)
    try {
      await mesh.waitReady(60_000)
      await eventually('a request passes the waypoint', async () => (await world.curl('client', 'http://web/')).status === 200, 30_000)
      return world
    } catch (error) {
      await mesh.stop(0)
      throw error
    }
  }

  apply(...objects: readonly Yaml[]): void {
    this.mesh.apply(yamlOf(objects))
  }

  /** Applies, waits until `holds`, tries the rest, takes it back, and waits until it no longer holds. */
  async during(objects: readonly Yaml[], holds: () => Promise<boolean>, rest: () => Promise<void> = async () => {}): Promise<void> {
    const names = objects.map(keyOf).join(', ')
    this.apply(...objects)
    try {
      await eventually(`${names} in force`, holds, 5_000)
      await rest()
    } finally {
      for (const each of objects) this.mesh.unapply(keyOf(each))
    }
    await eventually(`${names} no longer in force`, async () => !await holds(), 15_000)
  }

  exec(from: string, command: readonly string[], input?: string, timeoutMs = 60_000): Promise<CommandResult> {
    return this.mesh.exec(namespaceOf(from), from, undefined, command, { timeoutMs, ...(input !== undefined && { input }) })
  }

  /** One request by curl from a pod; the arguments go before the URL. */
  async curl(from: string, url: string, ...args: readonly string[]): Promise<Asked> {
    const { stdout, code } = await this.exec(from, ['curl', '-sS', '--max-time', '20', '-D', '-', ...args, url])
    return answerOf(stdout, code)
  }

  /** A program that runs beside the test, until its input is closed or the test ends. */
  start(from: string, command: readonly string[]): LineProcess {
    const { argv, env } = this.mesh.execPlan(namespaceOf(from), from, undefined, command)
    return new LineProcess(argv, { env: env as Record<string, string>, timeoutMs: 240_000 })
  }

  /** Requests without pause while `change` happens; what came of all of them. */
  async load(from: string, url: string, change: () => Promise<void>, lines = 4, method = 'GET'): Promise<LoadResult> {
    const child = this.start(from, [process.execPath, load, url, String(lines), method])
    await child.waitFor((line): line is object => typeof line === 'object' && line !== null && 'event' in line, 20_000)
    try {
      await change()
    } finally {
      child.closeInput()
      await child.ended
    }
    return child.lines.at(-1) as LoadResult
  }

  /** How many of so many requests met what. */
  async tally(from: string, url: string, count: number, of: (asked: Asked) => string, ...args: readonly string[]): Promise<Record<string, number>> {
    const found: Record<string, number> = {}
    for (let done = 0; done < count; done += 10) {
      for (const asked of await Promise.all(Array.from({ length: Math.min(10, count - done) }, () => this.curl(from, url, ...args)))) {
        found[of(asked)] = (found[of(asked)] ?? 0) + 1
      }
    }
    return found
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.mesh.stop(0)
  }
}

export interface LoadResult {
  readonly asked: number
  readonly outcomes: Readonly<Record<string, number>>
  readonly bad: readonly string[]
}

function namespaceOf(name: string): string {
  return name === 'guest' ? 'away' : name === 'stranger' ? 'plain' : 'shop'
}

function yamlOf(objects: readonly Yaml[]): string {
  return objects.map((each) => stringify(each)).join('---\n')
}

function keyOf({ kind, metadata }: Yaml): string {
  const { namespace, name } = metadata as { namespace?: string; name: string }
  return `${String(kind)} ${namespace === undefined ? '' : `${namespace}/`}${name}`
}

function answerOf(stdout: string, code: number): Asked {
  let rest = stdout
  let head = ''
  // An answer before the answer (1xx), or a redirect that was followed, has a head of its own.
  while (/^HTTP\/\S+ \d/.test(rest)) {
    const end = rest.indexOf('\r\n\r\n')
    if (end < 0) break
    head = rest.slice(0, end)
    rest = rest.slice(end + 4)
  }
  const [first = '', ...lines] = head.split('\r\n')
  const headers = new Map(lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]))
  let seen: unknown
  try {
    seen = JSON.parse(rest)
  } catch {
    // Not every answer is of the test's own backend.
  }
  return { status: Number(/^HTTP\/\S+ (\d+)/.exec(first)?.[1] ?? 0), headers, body: rest, seen: (seen ?? {}) as Asked['seen'], code }
}
