// What ztunnels do about waypoints, with an HBONE server of the test standing as the waypoint and a mesh told by hand: who is let
// in past it, whom it may speak for, whom the application sees, and what becomes of connections when it is away.
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import type { Server, Socket } from 'node:net'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { CertificateSource, PeerVerifier } from '../../src/core/certificates.ts'
import { formatIdentity, parseIdentity } from '../../src/core/identity.ts'
import { silentLogger } from '../../src/core/log.ts'
import type { ConnectHeaders } from '../../src/hbone/connect-headers.ts'
import { HbonePool } from '../../src/hbone/pool.ts'
import type { OpenTunnel, PoolTarget } from '../../src/hbone/pool.ts'
import { HboneServer } from '../../src/hbone/server.ts'
import type { ConnectRequest } from '../../src/hbone/server-session.ts'
import type { TunnelStream } from '../../src/hbone/tunnel-stream.ts'
import { Netns } from '../../src/kernel/netns.ts'
import { connectInNetns, listenInNetns } from '../../src/kernel/sockets.ts'
import { underlayIps } from '../../src/local/addresses.ts'
import { LocalMesh } from '../../src/local/mesh.ts'
import { statePaths } from '../../src/local/state.ts'
import type { Authorization } from '../../src/model/authorization.ts'
import type { GatewayAddress, Service, Workload } from '../../src/model/workload.ts'
import { aService, aWorkload, makeCertificate, startControlPlane } from '../../src/xds/testing.ts'
import type { TestControlPlane } from '../../src/xds/testing.ts'
import { policy } from '../../src/ztunnel/testing-admin.ts'
import type { ConnectResult } from '../helpers/app-results.ts'
import { runProbe, startProbe } from '../helpers/apps.ts'
import { ForgingCa } from '../helpers/hostile.ts'
import { uniqueName } from '../helpers/instances.ts'
import type { LineProcess } from '../helpers/line-process.ts'
import { eventually } from '../helpers/meshed-world.ts'
import { sumOf } from '../helpers/tunnel-world.ts'
import type { LogLine, NodeName, TunnelWorld } from '../helpers/tunnel-world.ts'
import { inNetns, namespaceYaml } from '../helpers/world.ts'

const port = { discovery: 15_999, web: 8080, other: 9090 } as const
const vip = { web: '10.96.77.1', waypoint: '10.96.77.2' } as const
const nodes = { client: 'node-a', rival: 'node-a', stranger: 'node-a', server: 'node-b', waypoint: 'node-b' } as const
type Pod = keyof typeof nodes
const day = 86_400_000
const waypoint: GatewayAddress = { destination: { kind: 'hostname', name: { namespace: 'shop', hostname: 'waypoint.shop.svc.cluster.local' } }, hbonePort: 15_008 }

let mesh: LocalMesh
let discovery: TestControlPlane
let ca: ForgingCa
let pool: HbonePool
let waypointDoor: HboneServer
const servers: Server[] = []
/** Addresses that the application saw, in order. */
const seen: string[] = []
/** What the waypoint was asked. */
const asked: ConnectRequest[] = []
/** What the waypoint says to the server of who asked it. */
let says: (request: ConnectRequest) => ConnectHeaders
const held: LineProcess[] = []

const namespaceOf = (pod: Pod): string => (pod === 'stranger' ? 'plain' : 'shop')
const netnsOf = (pod: Pod): string => mesh.podNetns(namespaceOf(pod), pod)
const ip = (pod: Pod): string => mesh.pod(namespaceOf(pod), pod).facts.ips.find((each) => !each.includes(':')) ?? expect.fail()
const identity = (pod: string): string => `spiffe://cluster.local/ns/shop/sa/${pod}`
const parsed = (pod: string) => parseIdentity(identity(pod)) ?? expect.fail()

async function listen(netnsPath: string, to: number, host: string, onConnection: (socket: Socket) => void): Promise<void> {
  const netns = await Netns.open(netnsPath)
  const fd = await listenInNetns(netns, { host, port: to })
  netns.close()
  const server = createServer({ allowHalfOpen: true }, onConnection)
  servers.push(server)
  server.listen({ fd: fd.release() })
  await once(server, 'listening')
}

const uri = (leaf: Uint8Array | undefined): string => /URI:(\S+)/.exec(new X509Certificate(leaf ?? expect.fail()).subjectAltName ?? '')?.[1] ?? ''
const verifier: PeerVerifier = { verifyPeer: ([leaf]) => ({ ok: parseIdentity(uri(leaf)) ?? expect.fail() }) }

/** Certificates of whoever is asked for, as somebody has them who has broken into the control plane. */
async function certificates(...pods: readonly string[]): Promise<CertificateSource> {
  const all = new Map<string, Awaited<ReturnType<CertificateSource['get']>>>()
  for (const pod of pods) {
    all.set(identity(pod), { ...await ca.leaf(identity(pod)), identity: parsed(pod), rootsPem: [], notBeforeMs: Date.now() - day, notAfterMs: Date.now() + day })
  }
  const get: CertificateSource['peek'] = (who) => all.get(formatIdentity(who))
  return { peek: get, get: async (who) => get(who) ?? expect.fail(), onChange: () => () => {}, revocation: () => undefined }
}

/** A tunnel to the server from that pod's namespace, by whoever is named. */
function tunnel(as: string, from: Pod, headers: ConnectHeaders = {}, to: number = port.web): Promise<OpenTunnel> {
  const target = { source: parsed(as), identities: [parsed('server')], address: { ip: ip('server'), port: 15_008 }, sourceKey: from }
  return pool.openTunnel({ target, authority: { t: 'address', address: { ip: ip('server'), port: to } }, headers })
}

async function dial({ sourceKey, address }: PoolTarget): Promise<Socket> {
  const netns = await Netns.open(netnsOf(sourceKey as Pod))
  try {
    return await connectInNetns(netns, { host: address.ip, port: address.port, timeoutMs: 5_000 })
  } finally {
    netns.close()
  }
}

const pipe = (a: TunnelStream, b: TunnelStream): void => {
  for (const [from, to] of [[a, b], [b, a]] as const) from.on('error', () => to.destroy()).pipe(to)
}

beforeAll(async () => {
  const certificate = makeCertificate()
  discovery = await startControlPlane(certificate, { authenticate: async () => ({ ok: true, identity: 'ztunnel' }) })
  const name = uniqueName('m')
  const manifests = Object.entries(nodes).map(([pod, node]) => `apiVersion: v1
kind: ServiceAccount
metadata: {name: ${pod}, namespace: ${namespaceOf(pod as Pod)}}
---
apiVersion: v1
kind: Pod
metadata: {name: ${pod}, namespace: ${namespaceOf(pod as Pod)}, labels: {app: ${pod}${pod === 'waypoint' ? ", networking.istio.io/tunnel: 'http'" : ''}}}
spec:
  nodeName: ${node}
  serviceAccountName: ${pod}
  terminationGracePeriodSeconds: 0
  containers: [{name: main, command: [sleep, infinity]${pod === 'server' ? `, livenessProbe: {tcpSocket: {port: ${port.other}}, periodSeconds: 3600, initialDelaySeconds: 3600}` : ''}}]`)
  const paths = statePaths(name)
  mesh = await LocalMesh.start({
    name, logger: silentLogger, manifests: [namespaceYaml('shop', { 'sidestep.dev/mesh': 'enabled' }), namespaceYaml('plain', {}), ...manifests].join('\n---\n'),
    ztunnelEnvironment: {
      SIDESTEP_XDS_ADDRESS: `${underlayIps.v4}:${port.discovery}`, SIDESTEP_SERVER_NAME: 'localhost', SIDESTEP_ROOTS_FILE: certificate.cert,
      SIDESTEP_CA_ADDRESS: `${underlayIps.v4}:15012`, SIDESTEP_CA_SERVER_NAME: 'sidestep-controlplane.sidestep-system.svc', SIDESTEP_CA_ROOTS_FILE: paths.rootsFile,
    },
  })
  // The nodes' way to a control plane that runs in this process.
  await listen(mesh.underlayNetns, port.discovery, underlayIps.v4, (socket) => {
    const to = connect({ host: '127.0.0.1', port: discovery.port, allowHalfOpen: true })
    for (const [from, other] of [[socket, to], [to, socket]] as const) from.on('error', () => other.destroy()).pipe(other)
  })
  await mesh.waitReady(40_000)
  ca = await ForgingCa.ofMesh({ mesh } as TunnelWorld)
  const source = await certificates('client', 'rival', 'waypoint')
  pool = new HbonePool({ certificates: source, verifier, events: () => {}, dial })
  waypointDoor = new HboneServer({
    identity: parsed('waypoint'), certificates: source, verifier, events: () => {},
    handler: async (request) => {
      asked.push(request)
      const { stream } = await tunnel('waypoint', 'waypoint', says(request))
      return { t: 'accept', carry: (downstream) => pipe(downstream, stream) }
    },
  })
  await listen(netnsOf('waypoint'), 15_008, '0.0.0.0', (socket) => waypointDoor.accept(socket))
  for (const each of [port.web, port.other]) {
    await listen(netnsOf('server'), each, '0.0.0.0', (socket) => {
      seen.push(socket.remoteAddress ?? '')
      socket.on('error', () => {}).pipe(socket)
    })
  }
})
afterAll(async () => {
  await pool?.close()
  await waypointDoor?.close()
  for (const server of servers) server.close()
  await mesh?.stop(0)
  discovery?.stop()
})

type Parts = { readonly workload?: Partial<Workload>; readonly service?: Partial<Service>; readonly waypoint?: Partial<Workload>; readonly policies?: readonly Authorization[] }

/** Puts this mesh in force at both nodes, and nothing of what was before. */
async function inForce({ workload = {}, service = {}, waypoint: gateway = {}, policies = [] }: Parts): Promise<void> {
  const own = (pod: Pod): Partial<Workload> => ({ ips: [ip(pod)], node: nodes[pod], serviceAccount: pod })
  const marker = uniqueName('v')
  discovery.store.apply({
    workloads: [
      aWorkload('client', own('client')), aWorkload('rival', own('rival')),
      aWorkload('server', {
        ...own('server'), canonicalRevision: marker, services: new Map([['shop/web.shop.svc.cluster.local', []]]),
        policies: policies.map((each) => `${each.namespace}/${each.name}`), ...workload,
      }),
      aWorkload('waypoint', { ...own('waypoint'), nativeTunnel: true, services: new Map([['shop/waypoint.shop.svc.cluster.local', []]]), ...gateway }),
    ],
    services: [
      aService('web', { addresses: [{ network: '', ip: vip.web }], ports: [{ servicePort: 80, targetPort: port.web, appProtocol: 'tcp' }], ...service }),
      aService('waypoint', { addresses: [{ network: '', ip: vip.waypoint }], ports: [{ servicePort: 15_008, targetPort: 15_008, appProtocol: 'unknown' }] }),
    ],
    policies: [...policies], removedPolicies: ['shop/rule'].filter((key) => !policies.some((each) => `${each.namespace}/${each.name}` === key)),
  })
  for (const node of ['node-a', 'node-b'] as const) {
    await eventually(`${node} has it`, async () => JSON.stringify(await admin(node, '/workloads')).includes(marker))
  }
}

async function admin(node: NodeName, path: string): Promise<unknown> {
  const { stdout } = await inNetns(mesh.nodeNetns(node), ['curl', '-sf', '--unix-socket', mesh.paths.adminSocket(node), `http://ztunnel${path}`])
  return JSON.parse(stdout)
}

async function metric(node: NodeName, name: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
  const { stdout } = await inNetns(mesh.nodeNetns(node), ['curl', '-sf', 'http://127.0.0.1:15020/metrics'])
  return sumOf(stdout, name, labels)
}

/** Lines of that ztunnel's log from now on that have these fields; some, when asked. */
function logged(node: NodeName, fields: LogLine): () => Promise<readonly LogLine[]> {
  const read = (): LogLine[] => readFileSync(join(mesh.paths.logs, `ztunnel-${node}.log`), 'utf8').split('\n').filter((line) => line.endsWith('}')).map((line) => JSON.parse(line) as LogLine)
  const before = read().length
  return () => eventually(`${node} logs ${JSON.stringify(fields)}`, async () => {
    const found = read().slice(before).filter((line) => Object.entries(fields).every(([key, value]) => line[key] === value))
    return found.length > 0 && found
  })
}

const ask = (from: Pod | NodeName, host: string, to: number): Promise<ConnectResult> =>
  runProbe('connect', [host, to, '--timeout', 8_000, '--send', 'ping'], { wrap: ['nsenter', `--net=${from === 'node-a' || from === 'node-b' ? mesh.nodeNetns(from) : netnsOf(from)}`, '--'], timeoutMs: 20_000 })
const reaches = async (from: Pod | NodeName, host: string, to: number): Promise<boolean> => {
  const { ok, reply } = await ask(from, host, to)
  return ok && reply === 'ping'
}

/** Connections that stand until they are stopped or cut. */
async function hold(from: Pod, host: string, to: number): Promise<LineProcess> {
  const process = await startProbe('many', [host, to, 1, '--echo', '--hold', 600], { wrap: ['nsenter', `--net=${netnsOf(from)}`, '--'], timeoutMs: 600_000 })
  held.push(process)
  await eventually('it stands', async () => (await carried(ip(from))).length > 0)
  return process
}

/** Inbound connections at the server's node from that address. */
async function carried(from: string): Promise<readonly unknown[]> {
  const all = await admin('node-b', '/connections') as { direction: string; source: { addr: string } }[]
  return all.filter(({ direction, source }) => direction === 'inbound' && source.addr.startsWith(`${from}:`))
}

beforeEach(() => {
  [asked, seen].forEach((list) => list.splice(0))
  says = ({ peerIdentity, forwarded }) => ({ sourceIdentity: peerIdentity, ...(forwarded && { forwarded }) })
})
afterEach(async () => {
  await Promise.all(held.splice(0).map((process) => process.stop()))
})

describe('through the waypoint', () => {
  test('a service and a pod are reached; the server knows the caller, and who said so', async () => {
    await inForce({ workload: { waypoint }, service: { waypoint } })
    const outbound = logged('node-a', { direction: 'outbound', 'src.workload': 'client', 'dst.identity': identity('waypoint') })
    const inbound = logged('node-b', { direction: 'inbound', 'src.via': identity('waypoint'), 'src.identity': identity('client'), 'src.workload': 'client' })
    expect(await reaches('client', vip.web, 80)).toBe(true)
    expect(await reaches('client', ip('server'), port.web)).toBe(true)
    expect(asked.map(({ authority }) => authority)).toEqual([vip.web, ip('server')].map((each, i) => ({ t: 'address', address: { ip: each, port: [80, port.web][i] } })))
    expect(asked.map(({ peerIdentity }) => formatIdentity(peerIdentity))).toEqual([identity('client'), identity('client')])
    // The application sees the client, not the waypoint.
    expect(seen).toEqual([ip('client'), ip('client')])
    await outbound()
    const [line] = await inbound()
    expect(String(line?.['src.addr']).startsWith(`${ip('client')}:`)).toBe(true)
    expect(await metric('node-b', 'istio_tcp_connections_opened_total', { reporter: 'destination', source_principal: identity('client') })).toBeGreaterThan(0)
  })

  test('L4 policies judge the caller by name and by address, and again when they change', async () => {
    const denied = (match: Parameters<typeof policy>[1]) => policy('rule', match, { scope: 'workloadSelector', action: 'deny' })
    const byName = denied({ principals: [{ kind: 'exact', value: 'cluster.local/ns/shop/sa/rival' }] })
    const byAddress = denied({ sourceIps: [{ ip: ip('rival'), prefixLength: 32 }] })
    for (const rule of [byName, byAddress]) {
      await inForce({ workload: { waypoint }, service: { waypoint }, policies: [rule] })
      const refused = logged('node-b', { direction: 'inbound', reason: 'denyPolicy', 'src.identity': identity('rival'), 'src.via': identity('waypoint') })
      expect(await reaches('client', vip.web, 80)).toBe(true)
      expect(await reaches('rival', vip.web, 80)).toBe(false)
      await refused()
    }
    await inForce({ workload: { waypoint }, service: { waypoint } })
    await hold('client', vip.web, 80)
    await hold('rival', vip.web, 80)
    const cut = logged('node-b', { direction: 'inbound', reason: 'policyChanged', 'src.identity': identity('rival') })
    await inForce({ workload: { waypoint }, service: { waypoint }, policies: [byName] })
    await cut()
    expect([(await carried(ip('client'))).length, (await carried(ip('rival'))).length]).toEqual([1, 0])
  })

  test('one that names nobody is judged itself, and seen as it is', async () => {
    await inForce({ workload: { waypoint }, service: { waypoint }, policies: [policy('rule', { principals: [{ kind: 'exact', value: 'cluster.local/ns/shop/sa/client' }] }, { scope: 'workloadSelector' })] })
    says = () => ({})
    expect(await reaches('client', vip.web, 80)).toBe(false)
    await inForce({ workload: { waypoint }, service: { waypoint } })
    expect(await reaches('client', vip.web, 80)).toBe(true)
    expect(seen).toEqual([ip('waypoint')])
    says = ({ peerIdentity }) => ({ sourceIdentity: peerIdentity, forwarded: { client: { ip: '127.0.0.1', port: 1 } } })
    expect(await reaches('client', vip.web, 80)).toBe(true)
    expect(seen[1]).toBe(ip('waypoint'))
  })
})

describe('past the waypoint', () => {
  test('nobody gets: not with a certificate, not in plain text, not by naming the waypoint', async () => {
    await inForce({ workload: { waypoint }, service: { waypoint } })
    const inTunnel = logged('node-b', { direction: 'inbound', reason: 'bypassedWaypoint', verdict: 'denied', 'src.identity': identity('rival') })
    const plain = logged('node-b', { direction: 'inbound', reason: 'bypassedWaypoint', code: 'POLICY_DENIED' })
    for (const headers of [{}, { sourceIdentity: parsed('waypoint') }, { sourceIdentity: parsed('client'), forwarded: { client: { ip: ip('waypoint'), port: 1 } } }]) {
      await expect(tunnel('rival', 'stranger', headers)).rejects.toMatchObject({ code: 'POLICY_DENIED' })
    }
    await inTunnel()
    expect(await reaches('stranger', ip('server'), port.web)).toBe(false)
    const lines = await eventually('both ways were refused', async () => {
      const all = await plain()
      return all.some((line) => line['src.identity'] === undefined) && all
    })
    expect(String(lines[0]?.['error'])).toMatch(/only through the waypoint waypoint\.shop\.svc\.cluster\.local/)
    expect(seen).toEqual([])
    expect(await metric('node-b', 'sidestep_refusals_total', { because: 'bypassedWaypoint' })).toBeGreaterThanOrEqual(4)
    expect(await reaches('client', ip('server'), port.web)).toBe(true)
  })

  test('the kubelet probes and the pod talks to itself as ever', async () => {
    await inForce({ workload: { waypoint } })
    expect(await reaches('node-b', ip('server'), port.other)).toBe(true)
    expect(await reaches('server', ip('server'), port.web)).toBe(true)
    expect(await reaches('node-b', ip('server'), port.web)).toBe(false)
    expect(asked).toEqual([])
  })

  test('everybody gets where only a service has one; and what a pod says of others there is nothing', async () => {
    await inForce({ service: { waypoint }, policies: [policy('rule', { principals: [{ kind: 'exact', value: 'cluster.local/ns/shop/sa/rival' }] }, { scope: 'workloadSelector', action: 'deny' })] })
    expect(await reaches('client', ip('server'), port.web)).toBe(true)
    expect(asked).toEqual([])
    expect(await reaches('stranger', ip('server'), port.web)).toBe(true)
    // A rival who pretends to be asked by the client stays the rival; so does a waypoint on a port that its service does not lead to.
    const before = await metric('node-b', 'sidestep_source_claims_ignored_total', { namespace: 'shop' })
    const ignored = logged('node-b', { direction: 'inbound', source_claim: 'ignored', 'src.identity': identity('rival'), reason: 'denyPolicy' })
    const forged: ConnectHeaders = { sourceIdentity: parsed('client'), forwarded: { client: { ip: ip('client'), port: 1 } } }
    await expect(tunnel('rival', 'stranger', forged)).rejects.toMatchObject({ code: 'POLICY_DENIED' })
    const [line] = await ignored()
    expect(String(line?.['src.addr']).startsWith(`${ip('stranger')}:`)).toBe(true)
    seen.splice(0)
    const elsewhere = await tunnel('waypoint', 'waypoint', forged, port.other)
    await eventually('the application was reached', async () => seen.length > 0)
    expect(seen).toEqual([ip('waypoint')])
    elsewhere.stream.destroy()
    expect(await metric('node-b', 'sidestep_source_claims_ignored_total', { namespace: 'shop' })).toBe(before + 2)
  })

  test('a connection that stands when the waypoint begins to be required stays; new ones go through it', async () => {
    await inForce({})
    const process = await hold('client', ip('server'), port.web)
    await hold('stranger', ip('server'), port.web)
    await inForce({ workload: { waypoint } })
    await eventually('what comes the old way is refused', async () => !await reaches('stranger', ip('server'), port.web))
    expect(await reaches('client', ip('server'), port.web)).toBe(true)
    expect(asked).toHaveLength(1)
    expect([(await carried(ip('client'))).length, (await carried(ip('stranger'))).length]).toEqual([1, 1])
    expect(process.lines.filter((line) => JSON.stringify(line).includes('closed'))).toEqual([])
  })
})

describe('a waypoint that is not ready', () => {
  const away = { isHealthy: false }

  test('refuses, and the log says which it is', async () => {
    await inForce({ workload: { waypoint }, service: { waypoint }, waypoint: away })
    const refused = logged('node-a', { direction: 'outbound', reason: 'noHealthyWaypoint' })
    for (const [host, to] of [[vip.web, 80], [ip('server'), port.web]] as const) expect(await reaches('client', host, to)).toBe(false)
    const [line] = await refused()
    expect(String(line?.['error'])).toMatch(/waypoint\.shop\.svc\.cluster\.local has no replica that is ready/)
  })

  test('is passed by where its owner chose that, and the destination lets it in', async () => {
    const isOpen = { waypoint, waypointFailure: 'open' } as const
    await inForce({ workload: isOpen, service: isOpen, waypoint: away })
    const before = await metric('node-a', 'sidestep_waypoint_skipped_total', { namespace: 'shop' })
    const skipped = logged('node-a', { direction: 'outbound', because: 'waypointSkipped', 'dst.waypoint': 'waypoint.shop.svc.cluster.local', 'dst.identity': identity('server') })
    for (const [host, to] of [[vip.web, 80], [ip('server'), port.web]] as const) expect(await reaches('client', host, to)).toBe(true)
    await skipped()
    expect(asked).toEqual([])
    expect(await metric('node-a', 'sidestep_waypoint_skipped_total', { namespace: 'shop' })).toBe(before + 2)
    // When it is back it is used again.
    await inForce({ workload: isOpen, service: isOpen })
    expect(await reaches('client', vip.web, 80)).toBe(true)
    expect(asked).toHaveLength(1)
  })
})
