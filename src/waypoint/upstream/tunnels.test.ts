// Endpoints in the mesh: through tunnels, apart for each caller, with its name in the CONNECT; and what a ztunnel's refusal
// means.
import { connect } from 'node:net'
import http2 from 'node:http2'
import type { ServerHttp2Stream } from 'node:http2'
import { once } from 'node:events'
import { afterEach, describe, expect, it } from 'vitest'
import type { ConnectRequest } from '../../hbone/server-session.ts'
import { client, dialLoopback, payments, startBench } from '../../hbone/testing.ts'
import type { Bench } from '../../hbone/testing.ts'
import type { PoolTarget } from '../../hbone/pool.ts'
import { join } from '../http/pump.ts'
import { Recorded, World, rule, textOf, workload } from './testing.ts'
import type { AppProtocol } from '../../model/workload.ts'

const open: { close(): Promise<unknown> }[] = []
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
})

const other = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'other' }

interface Mesh {
  readonly w: World
  readonly bench: Bench
  readonly seen: ConnectRequest[]
  readonly refuse: { status: 403 | undefined }
}

/** A ztunnel before every pod, and pods that are where `port` says. */
async function mesh(appProtocol: AppProtocol, port: () => number): Promise<Mesh> {
  const seen: ConnectRequest[] = []
  const refuse: Mesh['refuse'] = { status: undefined }
  const at = { port: 0 }
  const bench = await startBench({
    handler: async (request) => {
      seen.push(request)
      if (refuse.status !== undefined) return { t: 'refuse', status: refuse.status, because: 'policy' }
      return { t: 'accept', carry: (stream) => void join(stream, connect({ port: port(), host: '127.0.0.1', allowHalfOpen: true })) }
    },
  }, { dial: (target: PoolTarget, signal) => dialLoopback({ ...target, address: { ip: '127.0.0.1', port: at.port } }, signal) })
  at.port = bench.port
  const w = new World({ tunnels: bench.pool, identity: client }, appProtocol)
  w.add(workload('a', 8080, { ips: ['10.1.0.1'], tunnelProtocol: 'hbone', serviceAccount: payments.serviceAccount }))
  open.push(bench, w)
  return { w, bench, seen, refuse }
}

describe('an endpoint in the mesh', () => {
  it('is reached through its tunnel, for whom it says, and callers do not share', async () => {
    const at = { port: 0 }
    const { w, bench, seen } = await mesh('http11', () => at.port)
    const backend = new World()
    open.push(backend)
    at.port = (await backend.backend('x', (req, res) => res.end(req.url))).port
    for (const source of [undefined, other, undefined, other]) expect(await w.get({ path: '/p', source })).toMatchObject({ status: 200, body: '/p' })
    expect(await w.get({ path: '/q' })).toMatchObject({ body: '/q' })
    expect(seen.map(({ sourceIdentity }) => sourceIdentity?.serviceAccount)).toEqual([undefined, 'other', 'web'])
    expect(seen[0]?.authority).toEqual({ t: 'address', address: { ip: '10.1.0.1', port: 8080 } })
    // One tunnel for all; a request's client is told by its headers, not by a CONNECT that many share.
    expect(bench.count('handshake')).toBe(2)
    expect(seen.every(({ forwarded }) => forwarded === undefined)).toBe(true)
    await expect.poll(() => w.idle()).toBe(true)
  })

  it('speaks gRPC through it, trailers and all', async () => {
    const at = { port: 0 }
    const { w } = await mesh('grpc', () => at.port)
    const backend = new World()
    open.push(backend)
    at.port = (await backend.http2Backend('x', (stream) => {
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }))
      stream.pipe(stream)
    })).port
    const { outcome } = await w.ask({ method: 'POST', headers: [['content-type', 'application/grpc']], body: 'ping' })
    if (outcome.t !== 'response' || !outcome.body) throw new Error('no answer')
    expect(await textOf(outcome.body)).toBe('ping')
    expect(outcome.trailers()?.get('grpc-status')).toBe('0')
    await expect.poll(() => w.idle()).toBe(true)
  })

  it('whose ztunnel forbids it is neither asked again nor taken out: 403', async () => {
    const { w, seen, refuse } = await mesh('http11', () => 1)
    w.policy({ ejection: { consecutiveErrors: 1, consecutiveGatewayErrors: 1, intervalMs: 1_000, baseMs: 60_000, maxPercent: 100, minHealthPercent: 0 } })
    refuse.status = 403
    const { status, record } = await w.get({ rule: rule() })
    expect([status, record.reasons]).toEqual([403, [['denied', 'POLICY_DENIED']]])
    expect(seen.length).toBe(1)
    expect(w.count('ejected')).toBe(0)
  })

  it('that is somebody else is not given a byte', async () => {
    const { w, bench } = await mesh('http11', () => 1)
    w.add(workload('a', 8080, { ips: ['10.1.0.1'], tunnelProtocol: 'hbone', serviceAccount: 'impostor' }))
    const { status, record } = await w.get()
    expect([status, record.reasons]).toEqual([503, [['connectFailure', 'PEER_IDENTITY_MISMATCH']]])
    expect(bench.count('streamOpened')).toBe(0)
  })

  it('that has gone loses its tunnels', async () => {
    const at = { port: 0 }
    const { w, bench } = await mesh('http11', () => at.port)
    const backend = new World()
    open.push(backend)
    at.port = (await backend.backend('x', (_, res) => res.end('x'))).port
    expect((await w.get()).status).toBe(200)
    expect(bench.pool.connections().length).toBe(1)
    w.remove('a')
    await expect.poll(() => bench.pool.connections().length).toBe(0)
  })

  it('is not reached without tunnels, and not in plain text either', async () => {
    const w = new World()
    open.push(w)
    w.add(workload('a', 1, { tunnelProtocol: 'hbone' }))
    const { status, record } = await w.get()
    expect([status, record.reasons]).toEqual([503, [['connectFailure', 'CERTIFICATE_UNAVAILABLE']]])
  })
})

describe('behind somebody else\'s waypoint', () => {
  it('the waypoint is asked, in our own name', async () => {
    const at = { port: 0 }
    const { w, seen } = await mesh('http11', () => at.port)
    const backend = new World()
    open.push(backend)
    at.port = (await backend.backend('x', (_, res) => res.end('through'))).port
    w.store.apply({
      services: [
        { ...w.service, waypoint: { destination: { kind: 'hostname', name: { namespace: 'shop', hostname: 'wp.shop' } }, hbonePort: 15008 } },
        { ...w.service, name: 'wp', hostname: 'wp.shop', addresses: [], ports: [{ servicePort: 15008, targetPort: 15008, appProtocol: 'unknown' }] },
      ],
    })
    w.add(workload('wp', 0, {
      ips: ['10.1.0.9'], tunnelProtocol: 'hbone', serviceAccount: payments.serviceAccount,
      services: new Map([['shop/wp.shop', [{ servicePort: 15008, targetPort: 15008, appProtocol: 'unknown' }]]]),
    }))
    expect(await w.get()).toMatchObject({ status: 200, body: 'through' })
    expect(seen.map(({ authority, sourceIdentity }) => [authority, sourceIdentity])).toEqual([[{ t: 'address', address: { ip: '10.96.0.9', port: 80 } }, undefined]])
  })
})

describe('bytes that nobody looks into', () => {
  it('have a tunnel of their own, with the client\'s address and trace', async () => {
    const at = { port: 0 }
    const { w, seen } = await mesh('tcp', () => at.port)
    const server = http2.createServer()
    server.on('stream', (stream: ServerHttp2Stream) => {
      stream.respond()
      stream.end('h2')
    })
    const backend = new World()
    open.push(backend)
    at.port = await backend.listen(server as never)
    const record = new Recorded()
    const stream = await w.forwarder.connect({ t: 'service', service: w.service, port: 80 }, w.context(), record, new AbortController().signal)
    expect(seen[0]).toMatchObject({ sourceIdentity: { serviceAccount: 'web' }, forwarded: { client: { ip: '10.0.0.1', port: 1234 } }, traceParent: { traceId: '0123456789abcdef0123456789abcdef' } })
    expect(w.forwarder.stats()[0]).toMatchObject({ connections: 1 })
    const session = http2.connect('http://x', { createConnection: () => stream })
    const asked = session.request({ ':path': '/' })
    expect(await textOf(asked)).toBe('h2')
    session.destroy()
    await once(stream, 'close')
    await expect.poll(() => w.forwarder.stats()[0]?.connections).toBe(0)
  })
})
