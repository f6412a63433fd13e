// A mesh with a waypoint, and its rivals in the same place: the client's end, the application and its end are the same for all, so what
// differs is who stands in the middle. The ends are Envoys with identities of the mesh; no ztunnel carries anything here.
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, realpathSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { MeshError } from '../../../src/core/errors.ts'
import { silentLogger } from '../../../src/core/log.ts'
import { mustRun, runCommand } from '../../../src/local/command.ts'
import { LocalMesh } from '../../../src/local/mesh.ts'
import { nativeTunnelLabel } from '../../../src/model/enrolment.ts'
import { uniqueName } from '../../helpers/instances.ts'
import { LineProcess } from '../../helpers/line-process.ts'
import { eventually } from '../../helpers/meshed-world.ts'
import { identities, makeCredentials, servingName } from '../rivals/credentials.ts'
import type { AllCredentials } from '../rivals/credentials.ts'
import type { EnvoyFiles, NginxFiles } from '../rivals/fetch.ts'
import type { Undo } from '../undo.ts'
import { clientEnd, serverEnd, waypoint } from './envoy.ts'
import type { Entry } from './envoy.ts'
import { backendCommand, grpcMessage, proxyCommand } from './nginx.ts'
import { entryPort, hbonePort, messageBytes, protocolNames, protocols, tlsPort } from './protocols.ts'
import type { ProtocolName } from './protocols.ts'

export const proxyNames = ['mesh', 'envoy', 'nginx'] as const
export type ProxyName = (typeof proxyNames)[number]
type Pod = 'client' | 'server' | 'middle'

/** A rule of a route may have so many siblings in one object. */
const rulesPerObject = 16
/** A file of YAML has a limit, too. */
const routesPerFile = 2_000
const service = 'web.bench.svc.cluster.local'
/** The proxy that is measured has this core for itself, if there is another. */
const proxyCore = 0

type Yaml = Readonly<Record<string, unknown>>
const yamlOf = (objects: readonly Yaml[]): string => objects.map((each) => stringify(each)).join('---\n')

function objectsOf(): Yaml[] {
  const pod = (name: Pod, node: string): Yaml => ({
    apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace: 'bench', labels: { app: name, [nativeTunnelLabel]: 'http' } },
    spec: { nodeName: node, serviceAccountName: name, terminationGracePeriodSeconds: 0, containers: [{ name: 'main', command: ['sleep', 'infinity'] }] },
  })
  return [
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'bench', labels: { 'sidestep.dev/mesh': 'enabled', 'sidestep.dev/use-waypoint': 'waypoint' } } },
    {
      apiVersion: 'gateway.networking.k8s.io/v1', kind: 'Gateway', metadata: { name: 'waypoint', namespace: 'bench' },
      spec: { gatewayClassName: 'sidestep-waypoint', listeners: [{ name: 'mesh', port: hbonePort, protocol: 'HBONE' }] },
    },
    pod('client', 'node-a'), pod('middle', 'node-b'), pod('server', 'node-b'),
    {
      apiVersion: 'v1', kind: 'Service', metadata: { name: 'web', namespace: 'bench' },
      spec: {
        selector: { app: 'server' },
        ports: protocolNames.map((name) => ({ name, port: protocols[name].servicePort, targetPort: protocols[name].backendPort, appProtocol: protocols[name].appProtocol })),
      },
    },
    {
      apiVersion: 'security.istio.io/v1', kind: 'AuthorizationPolicy', metadata: { name: 'methods', namespace: 'bench' },
      spec: { targetRefs: [{ group: '', kind: 'Service', name: 'web' }], rules: [{ to: [{ operation: { methods: ['GET', 'POST'] } }] }] },
    },
    {
      apiVersion: 'gateway.networking.k8s.io/v1', kind: 'GRPCRoute', metadata: { name: 'grpc', namespace: 'bench' },
      spec: { parentRefs: [parent('grpc')], rules: [{ backendRefs: [backend('grpc')] }] },
    },
  ]
}

const parent = (protocol: ProtocolName): Yaml => ({ group: '', kind: 'Service', name: 'web', port: protocols[protocol].servicePort })
const backend = (protocol: ProtocolName): Yaml => ({ name: 'web', port: protocols[protocol].servicePort })

function routesOf(protocol: ProtocolName, from: number, to: number): Yaml[] {
  const objects: Yaml[] = []
  for (let start = from; start < to; start += rulesPerObject) {
    const rules = Array.from({ length: Math.min(rulesPerObject, to - start) }, (_, i) => (
      { matches: [{ path: { type: 'PathPrefix', value: `/route-${start + i}` } }], backendRefs: [backend(protocol)] }))
    objects.push({
      apiVersion: 'gateway.networking.k8s.io/v1', kind: 'HTTPRoute', metadata: { name: `${protocol}-${start}`, namespace: 'bench' },
      spec: { parentRefs: [parent(protocol)], rules },
    })
  }
  return objects
}

export interface Programs {
  readonly envoy: EnvoyFiles
  readonly nginx: NginxFiles
}

export class RequestWorld {
  readonly #mesh: LocalMesh
  readonly #undo: Undo
  readonly #programs: Programs
  readonly #directory: string
  readonly #credentials: AllCredentials
  readonly #routes: Record<'http1' | 'http2', number> = { http1: 0, http2: 0 }
  readonly #pids = new Map<ProxyName, number>()
  readonly #rivals = new Map<ProxyName, LineProcess>()

  private constructor(mesh: LocalMesh, undo: Undo, programs: Programs, directory: string, credentials: AllCredentials) {
    this.#mesh = mesh
    this.#undo = undo
    this.#programs = programs
    this.#directory = directory
    this.#credentials = credentials
  }

  static async start(undo: Undo, programs: Programs, routes: number): Promise<RequestWorld> {
    const manifests = yamlOf([...objectsOf(), ...routesOf('http1', 0, routes), ...routesOf('http2', 0, routes)])
    const mesh = await undo.start(LocalMesh.start({ name: uniqueName('l7'), manifests, logger: silentLogger }), (made) => made.stop(0))
    await mesh.waitReady(60_000)
    const directory = mkdtempSync(join(tmpdir(), 'sidestep-bench-l7-'))
    undo.add(() => rmSync(directory, { recursive: true, force: true }))
    // Its own authority, so that the ends are who they say they are.
    const credentials = await makeCredentials(join(directory, 'credentials'), join(mesh.paths.controlPlane, 'ca'))
    const world = new RequestWorld(mesh, undo, programs, directory, credentials)
    world.#routes.http1 = routes
    world.#routes.http2 = routes
    await world.#startAll(routes)
    return world
  }

  get messageFile(): string {
    return join(this.#directory, 'message')
  }

  get logFile(): string {
    return join(this.#directory, 'h2load.log')
  }

  /** Of the proxy that is measured. */
  pid(name: ProxyName): number {
    const pid = this.#pids.get(name)
    if (pid === undefined) throw new MeshError('NOT_FOUND', `${name} does not run`)
    return pid
  }

  port(name: ProxyName, protocol: ProtocolName): number {
    return entryPort(proxyNames.indexOf(name), protocol)
  }

  /** For the load generator. */
  get wrap(): readonly string[] {
    return [...this.#inside('client'), ...this.#otherCores()]
  }

  /** For all three; resolves when the last route is served by each. */
  async setRoutes(routes: number): Promise<void> {
    for (let from = this.#routes.http1; from < routes; from += routesPerFile) {
      this.#mesh.apply(yamlOf(routesOf('http1', from, Math.min(routes, from + routesPerFile))))
    }
    this.#routes.http1 = routes
    for (const name of ['envoy', 'nginx'] as const) {
      await this.#rivals.get(name)?.stop()
      await this.#startRival(name, routes)
    }
    await this.#served(['http1'], routes)
  }

  async #startAll(routes: number): Promise<void> {
    const { envoy, nginx } = this.#programs
    const { client, server, serving } = this.#credentials
    writeFileSync(this.messageFile, grpcMessage(messageBytes))
    const to = this.#ip('server')
    await this.#run('server', backendCommand(nginx.binary, join(this.#directory, 'backend')), protocols.http1.backendPort)
    await this.#run('server', serverEnd(envoy.binary, join(this.#directory, 'server'), server.files, serving, to), hbonePort)
    await this.#startRival('envoy', routes)
    await this.#startRival('nginx', routes)
    const entries: Entry[] = [
      { number: 0, ip: this.#waypointIp(), by: { t: 'hbone', authority: (protocol) => `${service}:${protocols[protocol].servicePort}` } },
      { number: 1, ip: this.#ip('middle'), by: { t: 'hbone', authority: (protocol) => `${to}:${protocols[protocol].servicePort}` } },
      { number: 2, ip: this.#ip('middle'), by: { t: 'tls' } },
    ]
    await this.#run('client', clientEnd(envoy.binary, join(this.#directory, 'client'), client.files, entries), entryPort(0, 'http1'))
    this.#pids.set('mesh', this.#waypointPid())
    await this.#pin(this.pid('mesh'))
    await this.#served(protocolNames, routes)
  }

  async #startRival(name: 'envoy' | 'nginx', routes: number): Promise<void> {
    const { client, server, serving } = this.#credentials
    const [ip, to] = [this.#ip('middle'), this.#ip('server')]
    const directory = join(this.#directory, `${name}-${routes}`)
    const otherRoutes = this.#routes.http2
    const child = name === 'envoy'
      ? await this.#run('middle', waypoint(this.#programs.envoy.binary, directory, { files: server.files, client: identities.client, server: identities.server, ip, to, routes, otherRoutes }), hbonePort)
      : await this.#run('middle', proxyCommand(this.#programs.nginx.binary, directory, { serving, client: client.files, servingName, listen: ip, to, routes, otherRoutes }), tlsPort('http1'))
    this.#rivals.set(name, child)
    this.#pids.set(name, child.pid)
    await this.#pin(child.pid)
  }

  async #served(wanted: readonly ProtocolName[], routes: number): Promise<void> {
    for (const name of proxyNames) {
      for (const protocol of wanted.filter((each) => each !== 'grpc')) {
        const url = `http://127.0.0.1:${this.port(name, protocol)}/route-${routes - 1}`
        const curl = [...this.#inside('client'), 'curl', '-s', '-o', '/dev/null', '--max-time', '5', '-w', '%{http_code}', ...(protocols[protocol].isHttp2 ? ['--http2-prior-knowledge'] : []), url]
        let last = ''
        await eventually(`${name} serves ${routes} routes over ${protocols[protocol].title}`, async () => (last = (await runCommand(curl)).stdout) === '200', 240_000).catch((error: unknown) => {
          throw new MeshError('COMMAND_FAILED', `${name} answers ${last} over ${protocols[protocol].title}`, { cause: error })
        })
      }
    }
  }

  async #run(pod: Pod, command: readonly string[], port: number): Promise<LineProcess> {
    const wrap = [...this.#inside(pod), ...this.#otherCores(), 'sh', '-c', 'ulimit -n "$(ulimit -Hn)"; exec "$@"', 'sh']
    const child = new LineProcess(command, { wrap, timeoutMs: 3_600_000 })
    this.#undo.add(() => child.stop())
    let isOver = false
    void child.ended.finally(() => (isOver = true)).catch(() => {})
    await eventually(`${command[0] ?? ''} listens on ${port} in ${pod}`, async () => {
      if (isOver) throw new MeshError('COMMAND_FAILED', `${command.join(' ')} ended: ${child.stderr.trim()}`)
      return (await runCommand([...this.#inside(pod), 'ss', '-Hltn', `sport = :${port}`])).stdout !== ''
    }, 240_000)
    return child
  }

  #inside(pod: Pod): string[] {
    return ['nsenter', `--net=${this.#mesh.podNetns('bench', pod)}`, '--']
  }

  #otherCores(): string[] {
    return cores() > 1 ? ['taskset', '-c', `1-${cores() - 1}`] : []
  }

  async #pin(pid: number): Promise<void> {
    if (cores() > 1) await mustRun(['taskset', '-a', '-cp', String(proxyCore), String(pid)])
  }

  #ip(pod: string): string {
    const found = this.#mesh.status().pods.find((each) => each.namespace === 'bench' && each.name === pod)?.ips.find((ip) => !ip.includes(':'))
    if (found === undefined) throw new MeshError('NOT_FOUND', `${pod} has no address`)
    return found
  }

  get #waypointPod(): string {
    const found = this.#mesh.status().pods.find(({ namespace, name }) => namespace === 'bench' && name.startsWith('waypoint'))
    if (!found) throw new MeshError('NOT_FOUND', 'there is no pod of the waypoint')
    return found.name
  }

  #waypointIp(): string {
    return this.#ip(this.#waypointPod)
  }

  /** Whoever runs its program in its pod's network namespace. */
  #waypointPid(): number {
    const inode = statSync(this.#mesh.podNetns('bench', this.#waypointPod)).ino
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      try {
        const isInside = statSync(`/proc/${pid}/ns/net`).ino === inode && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('bin/waypoint.ts')
        // What led it into its pod waits there, with the same words.
        if (isInside && readlinkSync(`/proc/${pid}/exe`) === realpathSync(process.execPath)) return Number(pid)
      } catch {
        // It ended meanwhile.
      }
    }
    throw new MeshError('NOT_FOUND', 'the process of the waypoint is not to be found')
  }
}

let known: number | undefined
function cores(): number {
  return (known ??= readFileSync('/proc/cpuinfo', 'utf8').match(/^processor\s/gm)?.length ?? 1)
}
