// Where a CONNECT leads in a pod, and who it is said to come from.
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { ClientAddr } from '../core/address.ts'
import type { Identity } from '../core/identity.ts'
import { silentLogger } from '../core/log.ts'
import { parseAuthority } from '../hbone/authority.ts'
import type { ConnectRequest } from '../hbone/server-session.ts'
import type { Workload } from '../model/workload.ts'
import { testService, testWorkload } from '../policy/test-fixtures.ts'
import { deliveryOf, sourceOf, tunnelSource } from './inbound.ts'
import { MeshState } from '../member/mesh-state.ts'

const peerIdentity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'web' }
const client: ClientAddr = { ip: '10.0.0.9', port: 4_000 }
const local = { ip: '10.0.0.1', port: 15_008 }

let mesh: MeshState
beforeEach(() => {
  mesh = new MeshState({ xds: undefined, stateDirectory: '/nonexistent', clusterId: 'c', network: '', trustDomain: 'cluster.local', logger: silentLogger })
})
afterEach(() => mesh.close())

/** Of what only the connection knows nothing is read here. */
function request(authority: string, more: Partial<ConnectRequest> = {}): ConnectRequest {
  const parsed = parseAuthority(authority)
  if ('fault' in parsed) throw new Error(parsed.fault)
  return { authority: parsed.ok, peerIdentity, signal: new AbortController().signal, ...more } as ConnectRequest
}

describe('an application that takes tunnels itself', () => {
  const waypoint = (parts: Partial<Workload> = {}): Workload => testWorkload('wp', { applicationTunnel: { protocol: 'proxy', port: 15_088 }, ...parts })

  test('is dialled on loopback, and told who wanted to go where', () => {
    const { destination, applicationTunnel } = deliveryOf(mesh, waypoint(), request('10.96.0.5:80'), local, client)
    expect(destination).toEqual({ ip: '10.0.0.1', port: 15_088 })
    expect(applicationTunnel?.dial).toEqual({ ip: '127.0.0.1', port: 15_088 })
    const header = applicationTunnel?.header ?? expect.fail()
    expect([...header.subarray(16, 24)]).toEqual([10, 0, 0, 9, 10, 96, 0, 5])
    expect(header.readUInt16BE(26)).toBe(80)
    expect(header.toString('utf8', 31)).toBe('spiffe://cluster.local/ns/shop/sa/web')
  })

  test('on its own port where no other is named, and by the family that was connected to', () => {
    const parts = { applicationTunnel: { protocol: 'proxy' } } as const
    const v6 = { ip: 'fd00::1', port: 15_008 }
    expect(deliveryOf(mesh, waypoint(parts), request('[fd00::1]:8080'), v6, { ip: 'fd00::9', port: 1 }).applicationTunnel?.dial).toEqual({ ip: '::1', port: 8080 })
  })

  test('is told an address of the service where a name was asked for: near, and IPv4 if there is one', () => {
    mesh.store.apply({
      services: [testService('web.shop', { addresses: [{ network: 'far', ip: '10.96.0.1' }, { network: '', ip: 'fd00::96' }, { network: '', ip: '10.96.0.2' }] }), testService('none.shop')],
      workloads: [],
    })
    const { header } = deliveryOf(mesh, waypoint(), request('web.shop:80'), local, client).applicationTunnel ?? expect.fail()
    expect([...(header ?? expect.fail()).subarray(20, 24)]).toEqual([10, 96, 0, 2])
    for (const name of ['none.shop:80', 'unknown.shop:80']) {
      expect(() => deliveryOf(mesh, waypoint(), request(name), local, client)).toThrow(expect.objectContaining({ code: 'NO_HEALTHY_UPSTREAM', detail: { because: 'noServiceAddress' } }))
    }
  })

  test('without the header gets the bytes alone, and only for this pod', () => {
    const plain = waypoint({ applicationTunnel: { protocol: 'none', port: 9_000 } })
    expect(deliveryOf(mesh, plain, request('10.0.0.1:80'), local, client)).toMatchObject({
      destination: { ip: '10.0.0.1', port: 9_000 }, applicationTunnel: { dial: { ip: '127.0.0.1', port: 9_000 }, header: undefined },
    })
    expect(() => deliveryOf(mesh, plain, request('10.0.0.2:80'), local, client)).toThrow(expect.objectContaining({ code: 'PEER_IDENTITY_MISMATCH' }))
  })

  test('any other pod is no ticket to elsewhere', () => {
    const pod = testWorkload('pod')
    expect(deliveryOf(mesh, pod, request('10.0.0.1:80'), local, client)).toEqual({
      destination: { ip: '10.0.0.1', port: 80 }, source: { client, identity: peerIdentity, seenAs: client },
    })
    expect(() => deliveryOf(mesh, pod, request('10.96.0.5:80'), local, client)).toThrow(expect.objectContaining({ code: 'PEER_IDENTITY_MISMATCH' }))
  })
})

describe('what a tunnel says of others', () => {
  const waypoint = { destination: { kind: 'hostname', name: { namespace: 'shop', hostname: 'wp' } }, hbonePort: 15_008 } as const
  const own = testWorkload('own', { services: new Map([['shop/web', []]]), waypoint })
  const peer: ClientAddr = { ip: '10.0.9.1', port: 4_000 }
  const alice: Identity = { trustDomain: 'cluster.local', namespace: 'users', serviceAccount: 'alice' }
  const said = { sourceIdentity: alice, forwarded: { client: { ip: '10.0.7.7', port: 5_000 } } }
  const wp: Identity = { ...peerIdentity, serviceAccount: 'wp' }
  beforeEach(() => mesh.store.apply({
    services: [testService('web'), testService('web6')],
    workloads: [testWorkload('wp', { ips: [peer.ip], serviceAccount: 'wp', services: new Map([['shop/wp', []]]) })],
  }))
  const of = (more: Partial<ConnectRequest>, workload = own, destination = { ip: '10.0.0.1', port: 8080 }) =>
    tunnelSource(mesh, workload, request('10.0.0.1:8080', { peerIdentity: wp, ...more }), peer, destination)

  test('is believed of the waypoint before the pod, and judged, told and shown to the application', () => {
    expect(of(said)).toEqual({ client: said.forwarded.client, identity: alice, via: wp, seenAs: said.forwarded.client })
    expect(of({ sourceIdentity: alice })).toEqual({ client: peer, identity: alice, via: wp, seenAs: peer })
    // Without a name the waypoint itself is judged, from wherever it says.
    expect(of({ forwarded: said.forwarded })).toEqual({ client: said.forwarded.client, identity: wp, via: wp, seenAs: said.forwarded.client })
    expect(of({})).toEqual({ client: peer, identity: wp, seenAs: peer })
  })

  test('is believed of the waypoint of a service, for where the service leads', () => {
    const { waypoint: _, ...plain } = own
    mesh.store.apply({ services: [testService('web', { waypoint })] })
    expect(of(said, plain)).toMatchObject({ identity: alice, via: wp })
    expect(of(said, plain, { ip: '10.0.0.1', port: 22 })).toEqual({ client: peer, identity: wp, seenAs: peer, isClaimIgnored: true })
  })

  test('is nothing of anybody else, also where it cannot be read', () => {
    for (const more of [said, { ...said, isSourceUnreadable: true } as const]) {
      expect(of({ ...more, peerIdentity })).toEqual({ client: peer, identity: peerIdentity, seenAs: peer, isClaimIgnored: true })
    }
    expect(of({ forwarded: said.forwarded, peerIdentity })).toEqual({ client: peer, identity: peerIdentity, seenAs: peer })
    mesh.store.apply({ removedAddresses: ['wp'] })
    expect(of(said)).toEqual({ client: peer, identity: wp, seenAs: peer, isClaimIgnored: true })
  })

  test('of a waypoint and unreadable refuses, or who is denied could be taken for the waypoint', () => {
    expect(() => of({ isSourceUnreadable: true })).toThrow(expect.objectContaining({ code: 'BAD_MESSAGE', detail: { because: 'unreadableSource' } }))
  })

  test('never makes a client of an address that no client has, and shows one of the other family as the waypoint', () => {
    for (const ip of ['127.0.0.1', '0.0.0.0', '169.254.1.1', '224.0.0.1', '239.1.1.1', '255.255.255.255', '::', '::1', 'ff02::1', 'fe80::1']) {
      expect(of({ sourceIdentity: alice, forwarded: { client: { ip, port: 1 } } })).toEqual({ client: peer, identity: alice, via: wp, seenAs: peer })
    }
    for (const ip of ['12.7.0.1', '223.1.1.1', '100.64.0.1']) expect(of({ forwarded: { client: { ip, port: 1 } } }).seenAs.ip).toBe(ip)
    const v6 = { ip: 'fd00::7', port: 1 }
    expect(of({ sourceIdentity: alice, forwarded: { client: v6 } })).toEqual({ client: v6, identity: alice, via: wp, seenAs: peer })
    expect(of({ sourceIdentity: alice, forwarded: { client: v6 } }, own, { ip: 'fd00::1', port: 8080 }).seenAs).toEqual(v6)
  })

  test('names the source for telemetry where the address fits the identity', () => {
    mesh.store.apply({ workloads: [testWorkload('alice', { ips: ['10.0.7.7'], namespace: 'users', serviceAccount: 'alice' })] })
    const { client: from, identity } = of(said)
    expect(sourceOf(mesh, own, from, request('10.0.0.1:8080', said), identity)).toMatchObject({ identity: alice, workload: { uid: 'alice' } })
    expect(sourceOf(mesh, own, peer, request('10.0.0.1:8080', said), identity)).toEqual({ identity: alice, workload: undefined })
  })
})

describe('who a tunnel comes from', () => {
  const own = testWorkload('own', { network: 'west' })
  const baggage = { cluster: 'east', namespace: 'bank', workload: { type: 'deployment', name: 'web-v2' }, service: 'web', revision: 'v2' } as const
  beforeEach(() => mesh.store.apply({ services: [], workloads: [testWorkload('client', { network: 'west', ips: [client.ip] })] }))

  test('is the workload at its address, if its certificate fits', () => {
    expect(sourceOf(mesh, own, client, request('10.0.0.1:80', { baggage }))).toMatchObject({ workload: { uid: 'client' }, identity: peerIdentity })
    const stranger = request('10.0.0.1:80', { baggage, peerIdentity: { ...peerIdentity, serviceAccount: 'other' } })
    expect(sourceOf(mesh, own, client, stranger).workload).toBeUndefined()
    expect(sourceOf(mesh, own, client)).toMatchObject({ workload: { uid: 'client' }, identity: undefined })
  })

  test('is what it says of itself where it comes from another network, in the namespace that it proved', () => {
    const source = sourceOf(mesh, own, client, request('10.0.0.1:80', { baggage, forwardedNetwork: 'east' }))
    expect(source).toEqual({
      identity: peerIdentity,
      workload: { name: 'web-v2', namespace: 'shop', workloadName: 'web-v2', canonicalName: 'web', canonicalRevision: 'v2', clusterId: 'east' },
    })
  })

  test('is looked up as ever where the network named is our own', () => {
    expect(sourceOf(mesh, own, client, request('10.0.0.1:80', { baggage, forwardedNetwork: 'west' })).workload).toMatchObject({ uid: 'client' })
  })
})
