// A gateway's pod and the real control plane, on loopback: it gets a token, with it a certificate and its own configuration, and
// nobody else gets either. Which pods run is told here, as a local mesh does it.
import { X509Certificate } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { askSocket } from '../src/core/ask-socket.ts'
import type { Identity } from '../src/core/identity.ts'
import { silentLogger } from '../src/core/log.ts'
import { encodeLine } from '../src/core/ndjson.ts'
import { controlPlaneReportSchema, type ControlPlaneReport } from '../src/model/control-plane-status.ts'
import { nativeTunnelLabel } from '../src/model/enrolment.ts'
import { gatewayNameLabel } from '../src/model/gateway-labels.ts'
import type { FactLine, RunningPod } from '../src/model/running-pod.ts'
import type { GatewayName } from '../src/model/waypoint-config.ts'
import { CaClient } from '../src/pki/ca-client.ts'
import { makeCsr, newKey } from '../src/pki/csr.ts'
import { TokenIssuer } from '../src/pki/tokens.ts'
import { XdsClient } from '../src/xds/client.ts'
import { LineProcess } from './helpers/line-process.ts'
import { eventually } from './helpers/world.ts'

const program = fileURLToPath(new URL('../src/bin/controlplane.ts', import.meta.url))
const base = mkdtempSync(join(tmpdir(), 'sidestep-gateways-'))
const at = (path: string): string => join(base, path)
const serverName = 'sidestep-controlplane.sidestep-system.svc'
const gatewayLabels = (name: string): Record<string, string> => ({ [gatewayNameLabel]: name, [nativeTunnelLabel]: 'http' })
const pod = (name: string, gateway: string, more: Partial<RunningPod> = {}): RunningPod => ({
  uid: `uid-${name}`, namespace: 'shop', name, node: 'node-a', ips: [`10.0.0.${name.length}`], ready: true, labels: gatewayLabels(gateway), serviceAccount: gateway,
  isCaptured: false, isHostNetwork: false, ports: [], ...more,
})

/** Who runs pods: tells what there is to whoever connects, and every change after it. */
class Facts {
  readonly #pods = new Map<string, RunningPod>()
  readonly #sockets = new Set<Socket>()
  readonly #server: Server

  constructor(path: string) {
    this.#server = createServer((socket) => {
      this.#sockets.add(socket)
      socket.on('error', () => {}).on('close', () => this.#sockets.delete(socket)).resume()
      for (const each of this.#pods.values()) socket.write(encodeLine({ t: 'pod', pod: each } satisfies FactLine))
      socket.write(encodeLine({ t: 'synced' } satisfies FactLine))
    }).listen(path)
  }

  put(each: RunningPod): void {
    this.#pods.set(each.name, each)
    this.#tell({ t: 'pod', pod: each })
  }

  remove({ namespace, name }: RunningPod): void {
    this.#pods.delete(name)
    this.#tell({ t: 'podGone', namespace, name })
  }

  #tell(line: FactLine): void {
    for (const socket of this.#sockets) socket.write(encodeLine(line))
  }

  close(): void {
    this.#server.close()
    for (const socket of this.#sockets) socket.destroy()
  }
}

const gatewayYaml = (name: string): string => [
  'apiVersion: gateway.networking.k8s.io/v1', 'kind: Gateway', `metadata: { name: ${name}, namespace: shop }`,
  'spec: { gatewayClassName: sidestep-waypoint, listeners: [{ name: mesh, port: 15008, protocol: HBONE }] }',
].join('\n')
const shopYaml = [
  'apiVersion: v1\nkind: Namespace\nmetadata: { name: shop, labels: { sidestep.dev/mesh: enabled, sidestep.dev/use-waypoint: way } }',
  gatewayYaml('way'), gatewayYaml('side'),
  'apiVersion: v1\nkind: Service\nmetadata: { name: web, namespace: shop }\nspec: { clusterIP: 10.96.0.7, selector: { app: web }, ports: [{ name: http, port: 80 }] }',
].join('\n---\n')
const routeYaml = [
  'apiVersion: gateway.networking.k8s.io/v1', 'kind: HTTPRoute', 'metadata: { name: web, namespace: shop }',
  'spec: { parentRefs: [{ group: "", kind: Service, name: web }], rules: [{ backendRefs: [{ name: web, port: 80 }] }] }',
].join('\n')

let facts: Facts
let controlPlane: LineProcess
let address = ''
const closers: (() => unknown)[] = []

const report = async (): Promise<ControlPlaneReport> =>
  controlPlaneReportSchema.parse(await askSocket(at('admin.sock'), '/status', { who: 'control plane', code: 'CONTROL_PLANE_UNAVAILABLE', timeoutMs: 5_000 }))
const tokenFile = (name: string): string => at(`tokens/pods/shop/${name}/token`)
const roots = async (): Promise<string> => readFileSync(at('roots.pem'), 'utf8')
const fileToken = (path: string) => async (): Promise<string> => readFileSync(path, 'utf8').trim()
const identity = (serviceAccount: string, namespace = 'shop'): Identity => ({ trustDomain: 'cluster.local', namespace, serviceAccount })

function start(): LineProcess {
  return new LineProcess([process.execPath, program, 'run'], { env: {
    SIDESTEP_LISTEN_ADDRESS: address === '' ? '127.0.0.1:0' : address, SIDESTEP_METRICS_ADDRESS: 'none', SIDESTEP_ADMIN_SOCKET: at('admin.sock'), SIDESTEP_PODS_SOCKET: at('facts.sock'),
    SIDESTEP_CONFIG_DIRECTORY: at('manifests'), SIDESTEP_CA_DIRECTORY: at('ca'), SIDESTEP_TOKEN_KEY_FILE: at('token.key'), SIDESTEP_TOKEN_DIRECTORY: at('tokens'),
    SIDESTEP_NODES: 'node-a', SIDESTEP_ROOTS_FILE: at('roots.pem'),
  } })
}
async function started(): Promise<void> {
  const line = await controlPlane.waitFor((each): each is { port: number } => typeof each === 'object' && each !== null && 'port' in each)
  address = `127.0.0.1:${line.port}`
}

interface Watched {
  readonly client: XdsClient
  readonly names: Set<string>
  because: string
  isReady: boolean
}
function listen(token: () => Promise<string>, gateway: GatewayName | undefined, node = 'node-a', id = 'w'): Watched {
  const names = new Set<string>()
  const watched: Watched = {
    names, because: '', isReady: false,
    client: new XdsClient({
      address, serverName, roots, token, clusterId: 'Kubernetes', node: { id, metadata: { NODE_NAME: node } }, logger: silentLogger, backoff: { firstMs: 5, maxMs: 50 },
      ...(gateway && { gateway, types: ['address', 'waypoint'] }),
      onDelta: (delta) => {
        for (const name of [...delta.removedAddresses, ...delta.removedWaypoint]) names.delete(name)
        for (const each of delta.services) names.add(`${each.namespace}/${each.hostname}`)
        for (const { kind, key } of delta.waypoint) names.add(`${gateway?.namespace}/${gateway?.name}/${kind}/${key}`)
      },
      onState: (state) => {
        watched.isReady = state.t === 'ready'
        if (state.t === 'waiting') watched.because = state.because
      },
    }),
  }
  closers.push(() => watched.client.close())
  watched.client.start()
  return watched
}
async function certificate(token: () => Promise<string>, wanted: Identity, isImpersonating: boolean): Promise<readonly string[]> {
  const client = new CaClient({ address, serverName, roots, token, clusterId: 'Kubernetes', isImpersonating })
  try {
    return await client.request({ identity: wanted, csrPem: await makeCsr(wanted, await newKey()), ttlSeconds: 60 })
  } finally {
    client.close()
  }
}

const way: GatewayName = { namespace: 'shop', name: 'way' }
const routes = 'shop/way/routes/shop/web.shop.svc.cluster.local:80'
const [first, second, side] = [pod('way-1', 'way'), pod('way-22', 'way'), pod('side-333', 'side')]

beforeAll(async () => {
  mkdirSync(at('manifests'))
  writeFileSync(at('manifests/shop.yaml'), shopYaml)
  writeFileSync(at('manifests/route.yaml'), routeYaml)
  facts = new Facts(at('facts.sock'))
  for (const each of [first, second, side, pod('web-4444', '', { labels: { app: 'web' }, serviceAccount: 'web', isCaptured: true })]) facts.put(each)
  controlPlane = start()
  await started()
})
afterAll(async () => {
  for (const close of closers) await close()
  await controlPlane.stop()
  facts.close()
  rmSync(base, { recursive: true })
})

describe('a pod of a gateway', () => {
  test('finds a token of its own, and pods of no gateway none', async () => {
    await eventually(() => expect([first, second, side].map(({ name }) => existsSync(tokenFile(name)))).toEqual([true, true, true]))
    expect(existsSync(tokenFile('web-4444'))).toBe(false)
  })

  test('gets a certificate for what it is, whether it says so or not', async () => {
    for (const isImpersonating of [false, true]) {
      const [leaf = ''] = await certificate(fileToken(tokenFile('way-1')), identity('way'), isImpersonating)
      expect(new X509Certificate(leaf).subjectAltName).toBe('URI:spiffe://cluster.local/ns/shop/sa/way')
    }
  })

  test.each<[string, Identity]>([
    ['of another gateway', identity('side')], ['of a workload on its node', identity('web')], ['of another namespace', identity('way', 'other')], ['of nobody', identity('nobody')],
  ])('gets none %s', async (_what, wanted) => {
    for (const isImpersonating of [false, true]) {
      await expect(certificate(fileToken(tokenFile('way-1')), wanted, isImpersonating)).rejects.toMatchObject({ code: 'CERTIFICATE_REFUSED' })
    }
  })

  test('hears of addresses and of its own routes, and of changes', async () => {
    const a = listen(fileToken(tokenFile('way-1')), way, 'node-a', 'waypoint~way-1')
    await a.client.ready()
    await eventually(() => expect(a.names).toContain(routes))
    expect(a.names).toContain('shop/web.shop.svc.cluster.local')
    rmSync(at('manifests/route.yaml'))
    await eventually(() => expect(a.names).not.toContain(routes))
    writeFileSync(at('manifests/route.yaml'), routeYaml)
    await eventually(() => expect(a.names).toContain(routes))
    const other = listen(fileToken(tokenFile('side-333')), { namespace: 'shop', name: 'side' })
    await other.client.ready()
    expect([...other.names].filter((name) => name.startsWith('shop/way/'))).toEqual([])
    expect([...other.names].filter((name) => name.includes('/routes/'))).toEqual([])
  })

  test('is told apart from its replicas in the report, which knows nodes from gateways', async () => {
    const streams = [first, second].map(({ name }) => listen(fileToken(tokenFile(name)), way, 'node-a', `waypoint~${name}`))
    await Promise.all(streams.map(({ client }) => client.ready()))
    const node = listen(fileToken(at('tokens/node-a.token')), undefined)
    await node.client.ready()
    await eventually(async () => expect((await report()).nodes.filter(({ connected }) => connected)).toEqual(expect.arrayContaining([
      expect.objectContaining({ node: 'shop/way-1', gateway: 'shop/way', current: true, nacks: [] }),
      expect.objectContaining({ node: 'shop/way-22', gateway: 'shop/way', current: true }),
      expect.not.objectContaining({ gateway: expect.anything() }),
    ])))
    expect((await report()).nodes.find((each) => each.node === 'node-a')).toMatchObject({ connected: true, current: true })
  })
})

describe('who is refused', () => {
  test.each<[string, string, GatewayName | undefined, string, string]>([
    ['says that it is another gateway', 'pods/shop/way-1/token', { namespace: 'shop', name: 'side' }, 'node-a', 'the token is for gateway shop/way, but the request comes as "shop/side"'],
    ['says that it is no gateway', 'pods/shop/way-1/token', undefined, 'node-a', 'the token is for gateway shop/way, but the request comes without GATEWAY'],
    ['says that it is on another node', 'pods/shop/way-1/token', way, 'node-b', 'the token is for node node-a'],
    ['is a node and says that it is a gateway', 'node-a.token', way, 'node-a', 'the token is for no gateway, but the request comes as "shop/way"'],
  ])('who %s', async (_what, token, gateway, node, because) => {
    const stream = listen(fileToken(at(`tokens/${token}`)), gateway, node)
    await eventually(() => expect(stream.because).toContain(because))
    expect(stream.names.size).toBe(0)
    await stream.client.close()
  })

  test.each<[string, object, string]>([
    ['another life', { uid: 'uid-before' }, 'does not run any more'], ['another account', { serviceAccount: 'web' }, 'does not run as web'],
    ['a pod of no gateway', { name: 'web-4444', serviceAccount: 'web', uid: 'uid-web-4444' }, 'belongs to no gateway'], ['nobody', { name: 'ghost' }, 'does not run any more'],
  ])('a token of %s, though we signed it', async (_what, more, because) => {
    const issuer = await TokenIssuer.open(at('token.key'))
    const own = { namespace: 'shop', name: 'way-1', serviceAccount: 'way', uid: 'uid-way-1', ...more }
    const { text } = await issuer.issue({ node: 'node-a', subject: 'x', pod: own }, 'sidestep-controlplane', 60)
    const stream = listen(async () => text, way)
    await eventually(() => expect(stream.because).toContain(because))
    await stream.client.close()
    await expect(certificate(async () => text, identity(own.serviceAccount), false)).rejects.toMatchObject({ code: 'CERTIFICATE_REFUSED', message: expect.stringContaining(because) })
  })

  test('a node that wants a gateway\'s certificate', async () => {
    await expect(certificate(fileToken(at('tokens/node-a.token')), identity('way'), true)).rejects.toMatchObject({ code: 'CERTIFICATE_REFUSED' })
  })
})

describe('what ends', () => {
  test('a pod that is gone loses its token and its stream', async () => {
    const kept = readFileSync(tokenFile('way-22'), 'utf8').trim()
    const stream = listen(async () => kept, way, 'node-a', 'waypoint~leaving')
    const other = listen(fileToken(tokenFile('way-1')), way, 'node-a', 'waypoint~staying')
    await Promise.all([stream.client.ready(), other.client.ready()])
    facts.remove(second)
    await eventually(() => expect(stream.because).toContain('does not run any more'))
    await eventually(() => expect(existsSync(tokenFile('way-22'))).toBe(false))
    expect(other.isReady).toBe(true)
    await stream.client.close()
  })

  test('a control plane that is killed takes nothing with it', async () => {
    const stream = listen(fileToken(tokenFile('way-1')), way, 'node-a', 'waypoint~outliving')
    await stream.client.ready()
    await eventually(() => expect(stream.names).toContain(routes))
    const before = new Set(stream.names)
    await controlPlane.stop()
    await eventually(() => expect(stream.isReady).toBe(false))
    expect(stream.names).toEqual(before)
    facts.remove(side)
    controlPlane = start()
    await started()
    await eventually(() => expect(stream.isReady).toBe(true))
    expect(stream.names).toEqual(before)
    await eventually(() => expect([existsSync(tokenFile('way-1')), existsSync(tokenFile('side-333'))]).toEqual([true, false]))
  })
})
