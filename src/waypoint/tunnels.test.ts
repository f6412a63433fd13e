import { once } from 'node:events'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { silentLogger } from '../core/log.ts'
import { MeshError } from '../core/errors.ts'
import { HbonePool } from '../hbone/pool.ts'
import type { OpenTunnel, TunnelRequest } from '../hbone/pool.ts'
import { client, dialLoopback, payments, TestCa, TestCertificates, TestVerifier } from '../hbone/testing.ts'
import { ConnectionLimit } from '../member/connection-limit.ts'
import { WorkloadStore } from '../model/workload-store.ts'
import type { ConnectionContext } from './context.ts'
import type { LiveRecord } from './record.ts'
import { service, workload } from './testing.ts'
import { Tunnels } from './tunnels.ts'

const ours = { destination: { kind: 'hostname', name: { namespace: 'shop', hostname: 'gate.shop.svc.cluster.local' } }, hbonePort: 15008 } as const
const self = workload('gate-1', '127.0.0.9', { serviceAccount: 'payments', services: new Map([['shop/gate.shop.svc.cluster.local', []]]) })
const record: LiveRecord = {
  routed() {}, backend() {}, attempt() {}, because() {}, traceHeaders: () => [], delayed() {}, policyHit() {}, follow() {}, answered() {}, finish() {},
}

let tunnels: Tunnels
let pool: HbonePool
let contexts: ConnectionContext[]
let refusals: string[]
let isKnown: boolean
let isAllowed: boolean
let store: WorkloadStore

beforeEach(async () => {
  const ca = await TestCa.make()
  const certificates = new TestCertificates().put(await ca.leaf(client)).put(await ca.leaf(payments))
  const shared = { certificates, verifier: new TestVerifier(), events: () => {} }
  store = new WorkloadStore()
  store.apply({ workloads: [self, workload('web-1', '127.0.0.1', { serviceAccount: 'web' })], services: [service('api', '10.96.0.1', { waypoint: ours }), service('bare', '10.96.0.2')] })
  contexts = []
  refusals = []
  isKnown = isAllowed = true
  tunnels = new Tunnels({
    ...shared, identity: payments, store, network: '', self: () => self, isKnown: () => isKnown, limit: new ConnectionLimit(9), doors: new ConnectionLimit(100), keepAliveSeconds: 60,
    records: { carry: () => record }, onRefused: (because) => void refusals.push(because), logger: silentLogger,
    connections: {
      foresee: () => (isAllowed ? undefined : { allowed: false, because: 'denyPolicy', ask: [], audit: [], dryRun: [], allowedWithDryRun: false }),
      take: (stream, context) => {
        contexts.push(context)
        stream.on('error', () => {})
        stream.pipe(stream)
        return Promise.resolve()
      },
    },
  })
  await tunnels.listen('127.0.0.1', 0)
  pool = new HbonePool({ dial: dialLoopback, ...shared })
})
afterEach(async () => {
  await pool.close()
  await tunnels.close()
})

function open(ip: string, port = 80, headers: TunnelRequest['headers'] = {}): Promise<OpenTunnel> {
  const target = { source: client, identities: [payments], address: { ip: '127.0.0.1', port: tunnels.port ?? 0 }, sourceKey: '10.0.0.1' }
  return pool.openTunnel({ target, authority: { t: 'address', address: { ip, port } }, headers })
}

const refusal = (ip: string, port = 80): Promise<string> => open(ip, port).then(() => 'open', (error: MeshError) => `${error.code} ${String(error.detail['status'])}`)

describe('a real peer with a certificate of the mesh', () => {
  test('is served what is bound here, as who it is', async () => {
    const { stream } = await open('10.96.0.1', 80, { forwarded: { client: { ip: '127.0.0.1', port: 777 } }, traceParent: { traceId: 'a'.repeat(32), spanId: 'b'.repeat(16), isSampled: true } })
    stream.write('hello')
    expect(String((await once(stream, 'data'))[0])).toBe('hello')
    expect(contexts).toMatchObject([{
      caller: { identity: client, address: { ip: '127.0.0.1', port: 777 }, workload: { name: 'web-1' } }, target: { t: 'service', service: { name: 'api' }, port: 80 },
      traceParent: { traceId: 'a'.repeat(32), parentId: 'b'.repeat(16), flags: 1 },
    }])
    stream.destroy()
  })

  test('is refused everything else, with a status that says why', async () => {
    expect(await refusal('10.96.0.2')).toBe('POLICY_DENIED 403')
    expect(await refusal('127.0.0.9', 15_000)).toBe('POLICY_DENIED 403')
    expect(await refusal('127.0.0.2', 15_000)).toBe('TUNNEL_REFUSED 404')
    expect(await refusal('169.254.169.254')).toBe('TUNNEL_REFUSED 404')
    expect(await refusal('10.96.0.1', 22)).toBe('TUNNEL_REFUSED 404')
    expect(refusals).toEqual(['notBoundHere', 'notBoundHere', 'unknownDestination', 'unknownDestination', 'unknownPort'])
    expect(contexts).toEqual([])
  })

  test('is refused before a byte where a policy is known to refuse, and before we know any', async () => {
    isAllowed = false
    expect(await refusal('10.96.0.1')).toBe('POLICY_DENIED 401')
    isAllowed = true
    isKnown = false
    expect(await refusal('10.96.0.1')).toBe('TUNNEL_REFUSED 503')
    expect(contexts).toEqual([])
  })

  test('has a share of the streams, which it gets back', async () => {
    const opened: OpenTunnel[] = []
    for (;;) {
      const next = await open('10.96.0.1').catch((error: MeshError) => error)
      if (next instanceof MeshError) {
        expect(next).toMatchObject({ code: 'OVERLOADED', detail: { status: 429 } })
        break
      }
      opened.push(next)
    }
    expect(opened).toHaveLength(8)
    for (const { stream } of opened) stream.destroy()
    await expect.poll(() => refusal('10.96.0.1')).toBe('open')
  })

  test('is told to go elsewhere when we end, and finishes what it has', async () => {
    const { stream } = await open('10.96.0.1')
    const drained = tunnels.drain()
    await expect(open('10.96.0.1')).rejects.toBeInstanceOf(MeshError)
    stream.end('last words')
    expect(String((await once(stream, 'data'))[0])).toBe('last words')
    await drained
  })
})
