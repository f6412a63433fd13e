// The way of a connection through a waypoint, with real servers on loopback: which replica, which other when one does not take
// it, and past it where the owner chose that and nobody is there.
import { once } from 'node:events'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { ClientAddr, OriginalDst } from '../core/address.ts'
import { MeshError } from '../core/errors.ts'
import type { Identity } from '../core/identity.ts'
import { silentLogger } from '../core/log.ts'
import type { ConnectHandler } from '../hbone/server-session.ts'
import { client, payments, startBench, TestCa, TestCertificates } from '../hbone/testing.ts'
import type { Bench } from '../hbone/testing.ts'
import { freshTraceParent } from '../hbone/traceparent.ts'
import { MeshState } from '../member/mesh-state.ts'
import type { Service } from '../model/workload.ts'
import { testService, testWorkload } from '../policy/test-fixtures.ts'
import { LiveConnections } from './live-connections.ts'
import { openUpstream } from './outbound.ts'
import type { OutboundFacts, Upstream } from './outbound.ts'

const waypoint: Identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'wp' }
const own = testWorkload('own', { ips: ['10.0.0.1'], namespace: client.namespace, serviceAccount: client.serviceAccount })

let certificates: TestCertificates
let replicas: Bench[]
let backend: Bench
let asked: string[]
let mesh: MeshState
let retries: string[]
let skips: number

beforeEach(async () => {
  [asked, retries, replicas, skips] = [[], [], [], 0]
  const ca = await TestCa.make()
  certificates = new TestCertificates()
  for (const identity of [client, payments, waypoint]) certificates.put(await ca.leaf(identity))
  backend = await startBench({ certificates, handler: accepting('backend') }, { certificates, timeouts: { connectTimeoutMs: 1_000 } })
  mesh = new MeshState({ xds: undefined, stateDirectory: '/nonexistent', clusterId: 'c', network: '', trustDomain: 'cluster.local', logger: silentLogger })
})
afterEach(async () => {
  await Promise.all([backend, ...replicas].map((bench) => bench.close()))
  await mesh.close()
})

function accepting(name: string): ConnectHandler {
  return async () => {
    asked.push(name)
    return { t: 'accept', carry: (stream) => void stream.on('error', () => {}).pipe(stream) }
  }
}

/** A replica that answers so; its port. */
async function replica(handler: ConnectHandler, identity = waypoint): Promise<number> {
  const bench = await startBench({ certificates, identity, handler }, { certificates })
  replicas.push(bench)
  return bench.port
}

async function closedPort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  return port
}

/** `ports` of the waypoint's replicas. */
function put(ports: readonly number[], parts: Partial<Service> = {}): void {
  mesh.store.apply({
    services: [
      testService('web', {
        addresses: [{ network: '', ip: '10.96.0.1' }], subjectAltNames: [],
        waypoint: { destination: { kind: 'hostname', name: { namespace: 'shop', hostname: 'wp' } }, hbonePort: 15_008 }, ...parts,
      }),
      testService('wp', { ports: [{ servicePort: 15_008, targetPort: 0, appProtocol: 'unknown' }] }),
    ],
    workloads: [
      own,
      testWorkload('web-1', { ips: ['127.0.0.1'], serviceAccount: 'payments', services: new Map([['shop/web', []]]) }),
      ...ports.map((targetPort, i) => testWorkload(`wp-${i}`, {
        ips: ['127.0.0.1'], serviceAccount: 'wp', services: new Map([['shop/wp', [{ servicePort: 15_008, targetPort, appProtocol: 'unknown' as const }]]]),
      })),
    ],
  })
}

async function open(facts: OutboundFacts[] = []): Promise<Upstream> {
  return await openUpstream({
    mesh, pool: backend.pool, live: new LiveConnections(),
    dial: () => Promise.reject(new Error('nothing may be dialled in plain text')), lookup: () => Promise.reject(new Error('no names here')),
    onRetry: (because) => void retries.push(because), onEgress: () => {}, learned: { saw: () => {} }, onSkipped: () => void skips++,
  }, { source: own, sourceKey: 'own', client: { ip: '10.0.0.1', port: 4_000 } as ClientAddr, original: { ip: '10.96.0.1', port: 80 } as OriginalDst, traceParent: freshTraceParent() }, (found) => void facts.push(found))
}

const refusing: ConnectHandler = () => Promise.resolve({ t: 'refuse', status: 503, because: 'draining' })

test('the waypoint gets what was asked for, under its own identity only', async () => {
  put([await replica(accepting('wp'))])
  const facts: OutboundFacts[] = []
  expect(await open(facts)).toMatchObject({ t: 'tunnel', identity: waypoint, service: { hostname: 'web' } })
  expect(facts).toMatchObject([{ workload: { uid: 'wp-0' }, service: { hostname: 'web' } }])
  put([await replica(accepting('impostor'), payments)])
  await expect(open()).rejects.toMatchObject({ code: 'PEER_IDENTITY_MISMATCH' })
  expect(asked).toEqual(['wp'])
})

describe('another replica is asked', () => {
  test.each<[string, () => Promise<number>, string]>([
    ['where one is leaving', () => replica(refusing), 'TUNNEL_REFUSED'],
    ['where nobody listens', closedPort, 'CONNECT_REFUSED'],
    ['where one ends before it has answered', () => replica(({ socket }) => {
      socket.destroy()
      return new Promise(() => {})
    }), 'TUNNEL_CLOSED'],
  ])('%s', async (_, broken, code) => {
    put([await broken(), await replica(accepting('good'))])
    for (let i = 0; i < 12; i++) expect(await open()).toMatchObject({ identity: waypoint })
    expect(new Set(asked)).toEqual(new Set(['good']))
    expect(new Set(retries)).toEqual(new Set([code]))
  })

  test('but not where policy says no', async () => {
    put([await replica(() => Promise.reject(new MeshError('POLICY_DENIED', 'no'))), await replica(() => Promise.reject(new MeshError('POLICY_DENIED', 'no')))])
    await expect(open()).rejects.toMatchObject({ code: 'POLICY_DENIED' })
    expect(retries).toEqual([])
  })

  test('and what a waypoint does not get to does not count against it', async () => {
    put([await replica(refusing), await replica(refusing)])
    for (let i = 0; i < 12; i++) await expect(open()).rejects.toMatchObject({ code: 'TUNNEL_REFUSED' })
    expect(mesh.health.ejected()).toEqual([])
  })
})

describe('a waypoint that nobody reaches', () => {
  test('refuses, and says which it is', async () => {
    put([await closedPort()])
    await expect(open()).rejects.toMatchObject({ code: 'CONNECT_REFUSED' })
    put([])
    mesh.store.apply({ removedAddresses: ['wp-0'] })
    await expect(open()).rejects.toMatchObject({ code: 'NO_HEALTHY_UPSTREAM', detail: { because: 'noHealthyWaypoint' }, message: expect.stringMatching(/the waypoint wp has no replica that is ready/) })
    mesh.store.apply({ removedAddresses: ['shop/wp'] })
    await expect(open()).rejects.toMatchObject({ detail: { because: 'unknownWaypoint' }, message: expect.stringMatching(/the waypoint wp is not there/) })
    expect([asked, skips]).toEqual([[], 0])
  })

  const isOpen = { waypointFailure: 'open', ports: [{ servicePort: 80, targetPort: 8080, appProtocol: 'tcp' }] } as const

  test('is passed by where its owner chose that, and this is counted', async () => {
    put([await closedPort()], isOpen)
    const facts: OutboundFacts[] = []
    // Nobody has a tunnel on 15008 of loopback here: that it is tried is what matters.
    await expect(open(facts)).rejects.toMatchObject({ code: 'CONNECT_REFUSED' })
    expect(facts.at(-1)).toMatchObject({ workload: { uid: 'web-1' }, waypointSkipped: 'wp', hboneAddr: { ip: '127.0.0.1', port: 15_008 } })
  })

  test('but one that answers, whatever it says, is not passed by', async () => {
    for (const handler of [refusing, () => Promise.reject(new MeshError('POLICY_DENIED', 'no')), () => Promise.reject(new MeshError('OVERLOADED', 'no'))]) {
      put([await replica(handler)], isOpen)
      const facts: OutboundFacts[] = []
      await expect(open(facts)).rejects.toThrow()
      expect(facts).toMatchObject([{ workload: { uid: 'wp-0' } }])
    }
    put([await replica(accepting('impostor'), payments)], isOpen)
    await expect(open()).rejects.toMatchObject({ code: 'PEER_IDENTITY_MISMATCH' })
    expect(asked).toEqual([])
  })
})
