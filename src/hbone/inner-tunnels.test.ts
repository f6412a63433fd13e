// A tunnel inside a tunnel, to a gateway and through it to a server that the gateway knows nothing about but its port.
import { once } from 'node:events'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Identity } from '../core/identity.ts'
import type { ConnectRequest } from './server-session.ts'
import type { ServerOptions } from './server.ts'
import { client, forwarding, payments, readAll, startBench, TestCa, TestCertificates, until } from './testing.ts'
import type { Bench } from './testing.ts'
import type { TunnelStream } from './tunnel-stream.ts'
import type { OpenTunnel } from './pool.ts'

const gatewayIdentity: Identity = { trustDomain: 'cluster.local', namespace: 'istio-system', serviceAccount: 'eastwest' }
const authority = { t: 'hostname', hostname: 'payments.shop.svc.cluster.local', port: 80 } as const

let ca: TestCa
let certificates: TestCertificates
let gateway: Bench
let destination: Bench
/** What the destination's application got: one for each tunnel. */
let arrived: TunnelStream[]
let requests: ConnectRequest[]
let outerRequests: ConnectRequest[]
let outerTunnels: TunnelStream[]
let forwardTo: number

const forward: ServerOptions['handler'] = async (request) => {
  outerRequests.push(request)
  return {
    t: 'accept',
    carry: (stream) => {
      outerTunnels.push(stream)
      forwarding(() => forwardTo)(stream)
    },
  }
}

beforeEach(async () => {
  [arrived, requests, outerRequests, outerTunnels] = [[], [], [], []]
  ca = await TestCa.make()
  certificates = new TestCertificates()
  for (const identity of [client, payments, gatewayIdentity]) certificates.put(await ca.leaf(identity))
  destination = await startBench({
    certificates,
    handler: async (request) => {
      requests.push(request)
      return { t: 'accept', baggage: { namespace: 'shop', service: 'payments' }, carry: (stream) => void arrived.push(stream) }
    },
  })
  forwardTo = destination.port
  gateway = await startBench({ certificates, identity: gatewayIdentity, handler: forward }, { certificates, timeouts: { handshakeTimeoutMs: 500, connectTimeoutMs: 500 } })
})
afterEach(async () => {
  await gateway.close()
  await destination.close()
})

function open(identities: readonly Identity[] = [payments]): Promise<OpenTunnel> {
  const { pool, request, target } = gateway
  return pool.openTunnelThrough(
    request({ target: { ...target, identities: [gatewayIdentity] }, authority }),
    { identities, authority, headers: { forwardedNetwork: 'west', baggage: { namespace: 'shop', service: 'web' } } },
  )
}

const innerHandshakes = (): number => gateway.events.filter((event) => event.t === 'handshake' && event.side === 'client' && event.peer.serviceAccount === 'payments').length

test('bytes and ends go both ways, and each side learns who the other is', async () => {
  const { stream, peerIdentity, responseHeaders } = await open()
  expect(peerIdentity).toEqual(payments)
  expect(responseHeaders['baggage']).toBe('k8s.namespace.name=shop,service.name=payments')
  expect(requests[0]).toMatchObject({ authority, forwardedNetwork: 'west', peerIdentity: client, baggage: { service: 'web' } })
  expect(outerRequests[0]).toMatchObject({ authority, peerIdentity: client })
  expect(outerRequests[0]?.forwardedNetwork).toBeUndefined()
  const question = Buffer.alloc(3_000_000, 'q')
  stream.end(question)
  const [server] = arrived
  if (!server) throw new Error('nothing arrived')
  expect((await readAll(server)).equals(question)).toBe(true)
  server.end('answer')
  expect(String(await readAll(stream))).toBe('answer')
  // The outer stream ends with it, in good order; the connection to the gateway stays.
  await until(() => outerTunnels[0]?.destroyed === true && destination.sockets.size === 0)
  expect(outerTunnels[0]?.readableEnded).toBe(true)
  expect(gateway.pool.connections()).toMatchObject([{ streams: 0, state: 'ready' }])
})

test('each connection has an inner session of its own, over one connection to the gateway', async () => {
  const opened = await Promise.all([open(), open(), open()])
  expect(innerHandshakes()).toBe(3)
  expect(gateway.pool.connections()).toHaveLength(1)
  expect(destination.sockets.size).toBe(3)
  opened[1]?.stream.resetAndDestroy()
  await until(() => arrived.filter((stream) => stream.destroyed).length === 1)
  for (const { stream } of [opened[0], opened[2]].filter((tunnel) => tunnel !== undefined)) stream.end('still here')
  const others = arrived.filter((stream) => !stream.destroyed)
  expect((await Promise.all(others.map(readAll))).map(String)).toEqual(['still here', 'still here'])
})

test('a reset by either end is a reset at the other', async () => {
  const first = await open()
  const reset = once(arrived[0] ?? expect.fail(), 'error')
  first.stream.resetAndDestroy()
  expect(await reset).toMatchObject([{ code: 'TUNNEL_CLOSED' }])
  const second = await open()
  const failed = once(second.stream.resume(), 'error')
  arrived[1]?.resetAndDestroy()
  expect(await failed).toMatchObject([{ code: 'TUNNEL_CLOSED' }])
  await until(() => destination.sockets.size === 0)
})

test('what comes through a gateway that is cut ends in an error, never in an end', async () => {
  const { stream } = await open()
  const failed = once(stream.resume(), 'error')
  for (const socket of gateway.sockets) socket.resetAndDestroy()
  expect(await failed).toMatchObject([{ code: 'TUNNEL_CLOSED' }])
  expect(stream.readableEnded).toBe(false)
})

test.each([['the gateway', gatewayIdentity], ['who is behind it', payments]])('revoking %s cuts the tunnel', async (_whom, identity) => {
  const { stream } = await open()
  const failed = once(stream.resume(), 'error')
  certificates.revoke(certificates.peek(identity) ?? expect.fail())
  expect(await failed).toMatchObject([{ code: 'TUNNEL_CLOSED' }])
  const again = await open().catch((error: unknown) => error)
  expect(again).toMatchObject({ code: 'PEER_REVOKED' })
})

test('the identity of the gateway is not good enough for who is behind it', async () => {
  await expect(open([gatewayIdentity])).rejects.toMatchObject({ code: 'PEER_IDENTITY_MISMATCH', detail: { hop: 'inner' } })
  await expect(open([])).rejects.toMatchObject({ code: 'PEER_IDENTITY_MISMATCH', detail: { hop: 'inner' } })
  await until(() => outerTunnels.every((stream) => stream.destroyed))
  expect(requests).toEqual([])
})

test('a gateway that leads to somebody who says nothing, garbage or an end is given up', async () => {
  const silent = await startBench()
  silent.tcp.removeAllListeners('connection')
  forwardTo = silent.port
  await expect(open()).rejects.toMatchObject({ code: 'TLS_FAILED', retry: 'always', detail: { because: 'timeout', hop: 'inner' } })
  silent.tcp.on('connection', (socket) => socket.on('error', () => {}).end('220 who are you?\r\n'))
  await expect(open()).rejects.toMatchObject({ code: 'TLS_FAILED', detail: { hop: 'inner' } })
  silent.tcp.removeAllListeners('connection').on('connection', (socket) => socket.on('error', () => {}).end())
  await expect(open()).rejects.toMatchObject({ code: 'TLS_FAILED', detail: { hop: 'inner' } })
  await until(() => outerTunnels.every((stream) => stream.destroyed))
  // The connection to the gateway has not suffered.
  forwardTo = destination.port
  expect((await open()).peerIdentity).toEqual(payments)
  expect(gateway.pool.connections()).toHaveLength(1)
  await silent.close()
})

test('a refusal and a missing answer from behind the gateway are told apart from those of the gateway', async () => {
  const refusing = await startBench({ certificates, handler: async () => ({ t: 'refuse', status: 401, because: 'no' }) })
  forwardTo = refusing.port
  await expect(open()).rejects.toMatchObject({ code: 'POLICY_DENIED', detail: { hop: 'inner', status: 401 } })
  const mute = await startBench({ certificates, handler: () => new Promise(() => {}) })
  forwardTo = mute.port
  await expect(open()).rejects.toMatchObject({ code: 'CONNECT_TIMEOUT', detail: { hop: 'inner' } })
  const busy = await startBench({ certificates, identity: gatewayIdentity, handler: async () => ({ t: 'refuse', status: 503, because: 'no' }) }, { certificates })
  const { pool, request, target } = busy
  const error = await pool.openTunnelThrough(request({ target: { ...target, identities: [gatewayIdentity] } }), { identities: [payments], authority, headers: {} }).catch((failure: unknown) => failure)
  expect(error).toMatchObject({ code: 'TUNNEL_REFUSED' })
  expect(error).not.toMatchObject({ detail: { hop: 'inner' } })
  await busy.close()
  await Promise.all([refusing.close(), mute.close()])
})

test('closing the pool ends what is inside tunnels, too', async () => {
  const { stream } = await open()
  const failed = once(stream.resume(), 'error')
  await gateway.pool.close()
  await failed
  await until(() => destination.sockets.size === 0)
})
