// A mesh whose ztunnels are told by hand what is in it, so that it can have what our control plane does not say: a service in
// another network behind a gateway, and an application that is a proxy. Certificates are those of the local mesh.
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import type { AddressInfo, Server, Socket } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { formatIdentity, parseIdentity } from '../../src/core/identity.ts'
import { silentLogger } from '../../src/core/log.ts'
import { HboneServer } from '../../src/hbone/server.ts'
import type { ConnectHandler, ConnectRequest } from '../../src/hbone/server-session.ts'
import { forwarding } from '../../src/hbone/testing.ts'
import { Netns } from '../../src/kernel/netns.ts'
import { listenInNetns } from '../../src/kernel/sockets.ts'
import { underlayIps } from '../../src/local/addresses.ts'
import { LocalMesh } from '../../src/local/mesh.ts'
import { statePaths } from '../../src/local/state.ts'
import { aService, aWorkload, makeCertificate, startControlPlane } from '../../src/xds/testing.ts'
import type { TestControlPlane } from '../../src/xds/testing.ts'
import { runProbe } from '../helpers/apps.ts'
import { ForgingCa } from '../helpers/hostile.ts'
import { uniqueName } from '../helpers/instances.ts'
import type { TunnelWorld } from '../helpers/tunnel-world.ts'
import { namespaceYaml } from '../helpers/world.ts'

const port = { discovery: 15_999, application: 15_088 } as const
const nodes = { client: 'node-a', proxy: 'node-b', gateway: 'node-b' } as const
type Pod = keyof typeof nodes
const day = 86_400_000

let mesh: LocalMesh
let discovery: TestControlPlane
const servers: Server[] = []
const tunnels: HboneServer[] = []
const outer: ConnectRequest[] = []
const inner: ConnectRequest[] = []
let proxied: Buffer

const identityOf = (pod: string): string => `spiffe://cluster.local/ns/shop/sa/${pod}`
const ip = (pod: Pod): string => mesh.pod('shop', pod).facts.ips.find((each) => !each.includes(':')) ?? expect.fail()

async function listen(netnsPath: string, to: number, host: string, onConnection: (socket: Socket) => void): Promise<void> {
  const netns = await Netns.open(netnsPath)
  const fd = await listenInNetns(netns, { host, port: to })
  netns.close()
  const server = createServer({ allowHalfOpen: true }, onConnection)
  servers.push(server)
  server.listen({ fd: fd.release() })
  await once(server, 'listening')
}

/** With the certificate of an account of the mesh. */
async function hboneServer(account: string, handler: ConnectHandler): Promise<HboneServer> {
  const ca = await ForgingCa.ofMesh({ mesh } as TunnelWorld)
  const identity = parseIdentity(identityOf(account)) ?? expect.fail()
  const certified = { ...await ca.leaf(formatIdentity(identity)), identity, rootsPem: [], notBeforeMs: Date.now() - day, notAfterMs: Date.now() + day }
  const uri = (leaf: Uint8Array | undefined): string => /URI:(\S+)/.exec(new X509Certificate(leaf ?? expect.fail()).subjectAltName ?? '')?.[1] ?? ''
  const server = new HboneServer({
    identity, handler, events: () => {},
    certificates: { peek: () => certified, get: async () => certified, onChange: () => () => {}, revocation: () => undefined },
    verifier: { verifyPeer: ([leaf]) => ({ ok: parseIdentity(uri(leaf)) ?? expect.fail() }) },
  })
  tunnels.push(server)
  return server
}

beforeAll(async () => {
  const certificate = makeCertificate()
  discovery = await startControlPlane(certificate, { authenticate: async () => ({ ok: true, identity: 'ztunnel' }) })
  const name = uniqueName('m')
  const pods = Object.entries(nodes).map(([pod, node]) => `apiVersion: v1
kind: ServiceAccount
metadata: {name: ${pod}, namespace: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: ${pod}, namespace: shop, labels: {app: ${pod}${pod === 'gateway' ? ", networking.istio.io/tunnel: 'http'" : ''}}}
spec:
  nodeName: ${node}
  serviceAccountName: ${pod}
  terminationGracePeriodSeconds: 0
  containers: [{name: main, command: [sleep, infinity]}]`)
  const paths = statePaths(name)
  mesh = await LocalMesh.start({
    name, logger: silentLogger, manifests: [namespaceYaml('shop', { 'sidestep.dev/mesh': 'enabled' }), ...pods].join('\n---\n'),
    ztunnelEnvironment: {
      SIDESTEP_XDS_ADDRESS: `${underlayIps.v4}:${port.discovery}`, SIDESTEP_SERVER_NAME: 'localhost', SIDESTEP_ROOTS_FILE: certificate.cert,
      SIDESTEP_CA_ADDRESS: `${underlayIps.v4}:15012`, SIDESTEP_CA_SERVER_NAME: 'sidestep-controlplane.sidestep-system.svc', SIDESTEP_CA_ROOTS_FILE: paths.rootsFile,
      SIDESTEP_NETWORK: 'west',
    },
  })
  // The nodes' way to a control plane that runs in this process.
  await listen(mesh.underlayNetns, port.discovery, underlayIps.v4, (socket) => {
    const to = connect({ host: '127.0.0.1', port: discovery.port, allowHalfOpen: true })
    for (const [from, other] of [[socket, to], [to, socket]] as const) from.on('error', () => other.destroy()).pipe(other)
  })
  await mesh.waitReady(40_000)
  const own = (pod: Pod): Parameters<typeof aWorkload>[1] => ({ ips: [ip(pod)], network: 'west', node: nodes[pod], serviceAccount: pod })
  discovery.store.apply({
    workloads: [
      aWorkload('client', own('client')),
      aWorkload('proxy', { ...own('proxy'), applicationTunnel: { protocol: 'proxy', port: port.application } }),
      aWorkload('gateway', { ...own('gateway'), nativeTunnel: true }),
      aWorkload('payments-east', {
        ips: [], network: 'east', services: new Map([['shop/payments.shop.svc.cluster.local', [{ servicePort: 80, targetPort: 8080, appProtocol: 'tcp' }]]]),
        networkGateway: { destination: { kind: 'address', address: { network: 'west', ip: ip('gateway') } }, hbonePort: 15_008 },
      }),
    ],
    services: [aService('payments', { addresses: [{ network: 'west', ip: '10.99.0.1' }], subjectAltNames: [identityOf('payments')] })],
  })

  const payments = await hboneServer('payments', async (request) => {
    inner.push(request)
    return { t: 'accept', baggage: { cluster: 'east', namespace: 'shop', workload: { type: 'deployment', name: 'payments' } }, carry: (stream) => void stream.on('error', () => {}).pipe(stream) }
  })
  const behind = createServer({ allowHalfOpen: true }, (socket) => payments.accept(socket)).listen(0, '127.0.0.1')
  servers.push(behind)
  await once(behind, 'listening')
  const gateway = await hboneServer('gateway', async (request) => {
    outer.push(request)
    return { t: 'accept', carry: forwarding(() => (behind.address() as AddressInfo).port) }
  })
  await listen(mesh.podNetns('shop', 'gateway'), 15_008, '0.0.0.0', (socket) => gateway.accept(socket))

  proxied = Buffer.alloc(0)
  await listen(mesh.podNetns('shop', 'proxy'), port.application, '127.0.0.1', (socket) => {
    socket.on('error', () => {}).on('data', (chunk: Buffer) => {
      proxied = Buffer.concat([proxied, chunk])
      if (proxied.subarray(-4).equals(Buffer.from('ping'))) socket.end('ping')
    })
  })
})
afterAll(async () => {
  await Promise.all(tunnels.map((server) => server.close()))
  for (const server of servers) server.close()
  await mesh?.stop(0)
  discovery?.stop()
})

const ask = (host: string, to: number): ReturnType<typeof runProbe<'connect'>> =>
  runProbe('connect', [host, to, '--timeout', 8_000, '--send', 'ping'], { wrap: ['nsenter', `--net=${mesh.podNetns('shop', 'client')}`, '--'], timeoutMs: 20_000 })

test('a service of another network is reached in a tunnel inside a tunnel', async () => {
  expect(await ask('10.99.0.1', 80)).toMatchObject({ ok: true, reply: 'ping' })
  const authority = { t: 'hostname', hostname: 'payments.shop.svc.cluster.local', port: 80 }
  expect(outer).toMatchObject([{ authority, peerIdentity: parseIdentity(identityOf('client')) }])
  expect(inner).toMatchObject([{ authority, peerIdentity: parseIdentity(identityOf('client')), forwardedNetwork: 'west' }])
})

test('an application that is a proxy is told who connects, and where to', async () => {
  expect(await ask(ip('proxy'), 80)).toMatchObject({ ok: true, reply: 'ping' })
  expect(proxied.toString('hex', 0, 14)).toBe('0d0a0d0a000d0a515549540a2111')
  const text = (at: number): string => [...proxied.subarray(at, at + 4)].join('.')
  expect([text(16), text(20), proxied.readUInt16BE(26)]).toEqual([ip('client'), ip('proxy'), 80])
  expect(proxied[28]).toBe(0xd0)
  const length = proxied.readUInt16BE(29)
  expect(proxied.toString('utf8', 31, 31 + length)).toBe(identityOf('client'))
  expect(proxied.toString('utf8', 31 + length)).toBe('ping')
})
