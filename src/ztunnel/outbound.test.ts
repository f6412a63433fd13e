// Where outbound connections end up, with real servers on loopback: to a service in another network, through its gateway.
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { once } from 'node:events'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { ClientAddr, OriginalDst } from '../core/address.ts'
import { systemClock } from '../core/clock.ts'
import { MeshError } from '../core/errors.ts'
import { formatIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import { silentLogger } from '../core/log.ts'
import type { ConnectRequest } from '../hbone/server-session.ts'
import { client, forwarding, payments, readAll, startBench, TestCa, TestCertificates } from '../hbone/testing.ts'
import type { Bench } from '../hbone/testing.ts'
import { freshTraceParent } from '../hbone/traceparent.ts'
import type { Service, Workload } from '../model/workload.ts'
import { testService, testWorkload } from '../policy/test-fixtures.ts'
import { LiveConnections } from './live-connections.ts'
import { MeshState } from '../member/mesh-state.ts'
import { LearnedDestinations } from '../member/learned-destinations.ts'
import { openUpstream } from './outbound.ts'
import type { OutboundFacts, Upstream } from './outbound.ts'

const gatewayIdentity: Identity = { trustDomain: 'cluster.local', namespace: 'istio-system', serviceAccount: 'eastwest' }
const own = testWorkload('own', { network: 'west', ips: ['10.0.0.1'], namespace: client.namespace, serviceAccount: client.serviceAccount })

let gateway: Bench
let destination: Bench
let mesh: MeshState
let outer: ConnectRequest[]
let inner: ConnectRequest[]
let retries: string[]

beforeEach(async () => {
  [outer, inner, retries] = [[], [], []]
  const ca = await TestCa.make()
  const certificates = new TestCertificates()
  for (const identity of [client, payments, gatewayIdentity]) certificates.put(await ca.leaf(identity))
  destination = await startBench({
    certificates,
    handler: async (request) => {
      inner.push(request)
      return {
        t: 'accept', baggage: { cluster: 'east', namespace: 'elsewhere', workload: { type: 'deployment', name: 'payments-v2' }, service: 'payments', revision: 'v2' },
        carry: (stream) => void stream.on('error', () => {}).pipe(stream),
      }
    },
  })
  gateway = await startBench({
    certificates, identity: gatewayIdentity,
    handler: async (request) => {
      outer.push(request)
      return { t: 'accept', carry: forwarding(() => destination.port) }
    },
  }, { certificates, timeouts: { handshakeTimeoutMs: 500 } })
  mesh = new MeshState({ xds: undefined, stateDirectory: '/nonexistent', clusterId: 'c', network: 'west', trustDomain: 'cluster.local', logger: silentLogger })
})
afterEach(async () => {
  await gateway.close()
  await destination.close()
  await mesh.close()
})

const service = (more: Partial<Service> = {}): Service =>
  testService('payments', { addresses: [{ network: 'west', ip: '10.96.0.1' }], subjectAltNames: [formatIdentity(payments)], ...more })

function put(services: readonly Service[], ...workloads: readonly Workload[]): void {
  const east = testWorkload('gateway', {
    network: 'west', ips: ['127.0.0.1'], namespace: gatewayIdentity.namespace, serviceAccount: gatewayIdentity.serviceAccount,
  })
  mesh.store.apply({ services: [...services], workloads: [east, own, ...workloads] })
}

const remote = (uid: string, hbonePort = gateway.port): Workload => testWorkload(uid, {
  network: 'east', ips: [], services: new Map([['shop/payments', [{ servicePort: 80, targetPort: 8080, appProtocol: 'tcp' }]]]),
  networkGateway: { destination: { kind: 'address', address: { network: 'west', ip: '127.0.0.1' } }, hbonePort },
})

async function open(facts: OutboundFacts[] = []): Promise<Upstream> {
  return await openUpstream({
    mesh, pool: gateway.pool, live: new LiveConnections(),
    dial: () => Promise.reject(new Error('nothing may be dialled in plain text')), lookup: () => Promise.reject(new Error('no names here')),
    onRetry: (because) => void retries.push(because), onEgress: () => {}, learned: { saw: () => {} }, onSkipped: () => {},
  }, { source: own, sourceKey: 'own', client: { ip: '10.0.0.1', port: 4_000 } as ClientAddr, original: { ip: '10.96.0.1', port: 80 } as OriginalDst, traceParent: freshTraceParent() }, (found) => void facts.push(found))
}

test('a service in another network is reached through its gateway, by its name', async () => {
  put([service()], remote('east-payments'))
  const facts: OutboundFacts[] = []
  const upstream = await open(facts)
  if (upstream.t !== 'tunnel') throw new Error('that is plain text')
  upstream.stream.end('hello')
  expect(String(await readAll(upstream.stream))).toBe('hello')
  const authority = { t: 'hostname', hostname: service().hostname, port: 80 }
  expect(outer).toMatchObject([{ authority, peerIdentity: client }])
  expect(outer[0]?.forwardedNetwork).toBeUndefined()
  expect(inner).toMatchObject([{ authority, peerIdentity: client, forwardedNetwork: 'west' }])
  // What it says of itself names it, but its namespace is the one that it proved.
  expect(upstream).toMatchObject({
    identity: payments, workload: { workloadName: 'payments-v2', namespace: payments.namespace, canonicalRevision: 'v2', clusterId: 'east' },
    service: { hostname: service().hostname }, hboneAddr: { ip: '127.0.0.1', port: gateway.port }, isReused: false,
  })
  expect(facts).toMatchObject([{ service: { hostname: service().hostname }, hboneAddr: { port: gateway.port } }])
  await open()
  expect(gateway.pool.connections()).toHaveLength(1)
  expect(inner).toHaveLength(2)
})

test('without names for who serves it elsewhere, and with those of the gateway, nothing is sent', async () => {
  put([service({ subjectAltNames: [] })], remote('east-payments'))
  await expect(open()).rejects.toMatchObject({ code: 'PEER_IDENTITY_MISMATCH', detail: { because: 'noIdentitiesOfService' } })
  expect(outer).toEqual([])
  put([service({ subjectAltNames: [formatIdentity(gatewayIdentity)] })])
  await expect(open()).rejects.toMatchObject({ code: 'PEER_IDENTITY_MISMATCH' })
  expect(inner).toEqual([])
})

test('a gateway that cannot be reached is replaced by another way to the service', async () => {
  const closed = createServer().listen(0, '127.0.0.1')
  await once(closed, 'listening')
  const { port } = closed.address() as AddressInfo
  closed.close()
  put([service()], remote('a', port), remote('b', port), remote('c'))
  for (let i = 0; i < 10; i++) {
    const upstream = await open()
    expect(upstream.identity).toEqual(payments)
  }
  expect(new Set(retries)).toEqual(new Set(['CONNECT_REFUSED']))
})

test('what leaves the mesh is learned once, however many endpoints are tried, with what became of it', async () => {
  const machine = (uid: string): Workload => testWorkload(uid, {
    network: 'west', uid: `Kubernetes/networking.istio.io/ServiceEntry/shop/api/${uid}`, ips: [`203.0.113.${uid}`], tunnelProtocol: 'none',
    services: new Map([['shop/api.example.com', [{ servicePort: 80, targetPort: 8080, appProtocol: 'tcp' }]]]),
  })
  const api = testService('api.example.com', { name: 'api', addresses: [{ network: 'west', ip: '240.0.0.1' }] })
  put([api, service()], machine('1'), machine('2'), remote('a'))
  const learned = new LearnedDestinations({ clock: systemClock })
  const go = (ip: string, port: number, source = own): Promise<unknown> => openUpstream({
    mesh, pool: gateway.pool, live: new LiveConnections(), learned, lookup: () => Promise.reject(new Error('no names here')),
    dial: () => Promise.reject(new MeshError('CONNECT_REFUSED', 'nobody is there', { retry: 'always' })),
    onRetry: (because) => void retries.push(because), onEgress: () => {}, onSkipped: () => {},
  }, { source, sourceKey: 'own', client: { ip: '10.0.0.1', port: 4_000 } as ClientAddr, original: { ip, port } as OriginalDst, traceParent: freshTraceParent() }, () => {}).catch((error: unknown) => error)
  await go('240.0.0.1', 80)
  expect(retries).toEqual(['CONNECT_REFUSED', 'CONNECT_REFUSED'])
  await go('240.0.0.1', 81)
  await go('198.51.100.1', 443)
  await go('198.51.100.1', 22, { ...own, egress: 'deny' })
  await go('10.96.0.1', 80)
  const { namespace, serviceAccount } = client
  const common = { namespace, serviceAccount, protocol: 'tcp', count: 1 }
  expect(learned.list()).toMatchObject([
    { ...common, host: 'api.example.com', address: '240.0.0.1', port: 80, verdict: 'allowed' }, { ...common, host: 'api.example.com', port: 81, verdict: 'denied' },
    { ...common, address: '198.51.100.1', port: 443, verdict: 'allowed' }, { ...common, address: '198.51.100.1', port: 22, verdict: 'denied' },
  ])
  expect(learned.size).toBe(4)
})
