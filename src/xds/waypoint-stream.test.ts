// A gateway's own resources over real gRPC and TLS on loopback: it gets what is its and nothing else, in an order in which
// nothing points to what is not there yet, and nobody gets anything by asking in strange ways.
import fc from 'fast-check'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { gatewayPrefix, waypointResourceName, type GatewayName, type WaypointResource } from '../model/waypoint-config.ts'
import type { XdsClientOptions } from './client-options.ts'
import { PrefixView, ResourceLog } from './resource-log.ts'
import { typeUrls } from './resource-types.ts'
import type { Caller, XdsServerOptions } from './server-options.ts'
import { loadState, saveState } from './state-file.ts'
import type { XdsStore } from './store.ts'
import { Subscription } from './subscription.ts'
import { RawStream, aService, makeCertificate, startControlPlane, until, WatchedClient, type RawRequest, type TestControlPlane } from './testing.ts'

const certificate = makeCertificate()
const cleanups: (() => void | Promise<void>)[] = []

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

const way: GatewayName = { namespace: 'shop', name: 'way' }
const way2: GatewayName = { namespace: 'shop', name: 'way-2' }
const other: GatewayName = { namespace: 'other', name: 'way' }

/** `POD@NAMESPACE/GATEWAY` is a gateway's pod, anything else a node. */
async function authenticate({ metadata }: Caller): ReturnType<XdsServerOptions['authenticate']> {
  const [identity = '', namespace, name] = (metadata.get('authorization') ?? '').replace('Bearer ', '').split(/[@/]/)
  return { ok: true, identity, ...(namespace !== undefined && name !== undefined ? { gateway: { namespace, name } } : {}) }
}

async function controlPlane(options: Parameters<typeof startControlPlane>[1] = {}): Promise<TestControlPlane> {
  const started = await startControlPlane(certificate, { authenticate, ...options })
  cleanups.push(() => started.stop())
  return started
}

function gateway(port: number, name: GatewayName, pod = 'way-1', options: Partial<XdsClientOptions> = {}): WatchedClient {
  const watched = new WatchedClient(port, certificate, {
    types: ['waypoint', 'address'], gateway: name, token: async () => `${pod}@${name.namespace}/${name.name}`, node: { id: `waypoint~${pod}`, metadata: { NODE_NAME: 'n1' } }, ...options,
  })
  cleanups.push(() => watched.client.close())
  watched.client.start()
  return watched
}

const secret = (key: string, authorities = 'PEM'): WaypointResource => ({ kind: 'secret', key, authorities })
const set = (store: XdsStore, name: GatewayName, ...resources: readonly WaypointResource[]): void =>
  store.apply({ waypoint: new Map(resources.map((resource) => [waypointResourceName(name, resource), resource])) })

describe('a gateway', () => {
  test('learns what is its own, what changes of it and what goes', async () => {
    const { store, port, xds } = await controlPlane()
    set(store, way, secret('a'), { kind: 'security', key: '', security: { policies: [], jwtRules: [] } })
    set(store, way2, secret('b'))
    set(store, other, secret('c'))
    store.apply({ services: [aService('web')] })
    const a = gateway(port, way)
    await a.client.ready()
    expect(a.names).toEqual(['secret/a', 'security/', 'shop/web.shop.svc.cluster.local'])
    expect(a.responses.map(({ type }) => type)).toEqual(['address', 'waypoint'])

    set(store, way, secret('a', 'NEWER'))
    set(store, other, secret('c', 'NEWER'))
    await until(() => (a.known.get('secret/a') as { authorities: string }).authorities === 'NEWER', 'the change')
    store.apply({ removedWaypoint: ['shop/way/secret/a', 'shop/way-2/secret/b'] })
    await until(() => !a.known.has('secret/a'), 'the removal')
    expect(a.deltas.flatMap((delta) => delta.removedWaypoint)).toEqual(['shop/way/secret/a'])
    expect(a.deltas.flatMap((delta) => delta.waypoint.map(({ key }) => key)).sort()).toEqual(['', 'a', 'a'])
    expect(xds.nodes()).toMatchObject([{ identity: 'way-1', gateway: way, types: { authorization: { subscribed: 'none' }, waypoint: { subscribed: 'all', nacked: 0 } } }])

    store.replace({ workloads: [], services: [], policies: [], waypoint: new Map([['shop/way/secret/z', secret('z')]]) })
    await until(() => a.names.length === 1, 'the whole new state')
    expect(a.names).toEqual(['secret/z'])
  })

  test('has replicas that are told apart, also by what they refuse', async () => {
    const { store, port, xds } = await controlPlane()
    const [a, b] = [gateway(port, way, 'way-1'), gateway(port, way, 'way-2')]
    await Promise.all([a.client.ready(), b.client.ready()])
    set(store, way, secret('a'))
    await until(() => a.known.has('secret/a') && b.known.has('secret/a'), 'both have it')
    expect(xds.nodes().map(({ identity, node }) => [identity, node]).sort()).toEqual([['way-1', 'waypoint~way-1'], ['way-2', 'waypoint~way-2']])
    await a.client.close()
    await until(() => xds.nodes().some(({ identity, disconnectedAtMs }) => identity === 'way-1' && disconnectedAtMs !== undefined), 'one is gone')
    expect(xds.nodes().find(({ identity }) => identity === 'way-2')?.disconnectedAtMs).toBeUndefined()
  })

  test('is let go when it is not what it was, and may come again', async () => {
    const { store, port, xds } = await controlPlane()
    const [a, b] = [gateway(port, way, 'way-1'), gateway(port, way, 'way-2')]
    await Promise.all([a.client.ready(), b.client.ready()])
    xds.end('way-1', 'the pod is not what it was')
    await until(() => a.client.state.t === 'waiting', 'the end')
    expect(a.client.state).toMatchObject({ because: 'PERMISSION_DENIED: the pod is not what it was' })
    set(store, way, secret('a'))
    await until(() => a.known.has('secret/a') && b.known.has('secret/a'), 'it came again')
    expect(b.states).not.toContain('waiting')
  })

  test('is let go, too, before it has asked for anything', async () => {
    let asked = 0
    const { port, xds } = await controlPlane({ authenticate: async (caller) => (asked++, await authenticate(caller)) })
    const stream = rawStream(port, 'way-1@shop/way')
    await until(() => asked === 1, 'it is let in')
    await settle()
    xds.end('way-1', 'the pod is not what it was')
    await until(() => stream.isOver, 'the end')
    expect(xds.nodes()).toEqual([])
  })

  test('starts with what the last one knew, from the file', async () => {
    const { store, port, stop } = await controlPlane()
    set(store, way, secret('a'), secret('b'))
    const a = gateway(port, way)
    await a.client.ready()
    const folder = mkdtempSync(join(tmpdir(), 'sidestep-xds-'))
    cleanups.push(() => rmSync(folder, { recursive: true }))
    const file = { path: join(folder, 'state'), scope: 'test' }
    await saveState(file, a.client.snapshot())
    await a.client.close()
    store.apply({ removedWaypoint: ['shop/way/secret/b'] })
    stop()
    const loaded = await loadState(file)
    const b = new WatchedClient(port, certificate, { types: ['address', 'waypoint'], gateway: way, token: async () => 'way-1@shop/way', node: { id: 'w', metadata: {} } })
    cleanups.push(() => b.client.close())
    expect(loaded.ok && await b.client.restore(loaded.value)).toEqual([])
    expect(b.names).toEqual(['secret/a', 'secret/b'])
    await controlPlane({ store, port })
    b.client.start()
    await until(() => b.names.length === 1, 'what is gone is removed')
    expect(b.deltas.slice(2).flatMap((delta) => delta.waypoint)).toEqual([])
  })
})

describe('a ztunnel', () => {
  test('asks for what it always asked for, and hears of nothing else', async () => {
    const { store, port, xds } = await controlPlane()
    set(store, way, secret('a'))
    const a = new WatchedClient(port, certificate)
    cleanups.push(() => a.client.close())
    a.client.start()
    await a.client.ready()
    set(store, way, secret('b'))
    store.apply({ services: [aService('web')] })
    await until(() => a.names.length === 1, 'the service')
    expect(a.responses.map(({ type }) => type)).toEqual(['address', 'authorization', 'address'])
    expect(xds.nodes()[0]).toMatchObject({ types: { waypoint: { subscribed: 'none', pushes: 0 } } })
    expect(xds.nodes()[0]?.gateway).toBeUndefined()
  })
})

describe('what a gateway refuses', () => {
  const name = 'shop/way/secret/a'
  const broken = { name, aliases: [], memberOf: [], value: Uint8Array.of(0x0a, 1, 0x78) }

  test('is told to the control plane; what was good before stays', async () => {
    const { store, port, xds } = await controlPlane()
    set(store, way, secret('a'))
    const a = gateway(port, way)
    await a.client.ready()
    store.logs.waypoint.set(broken)
    set(store, way, secret('b'))
    await until(() => a.known.has('secret/b'), 'the neighbour')
    expect(a.known.has('secret/a')).toBe(true)
    expect(a.deltas.flatMap((delta) => delta.refusedWaypoint)).toEqual([])
    await until(() => xds.nodes()[0]?.nacks.length === 1, 'the refusal')
    expect(xds.nodes()[0]?.nacks[0]).toMatchObject({ type: 'waypoint', resource: name })
    set(store, way, secret('a', 'NEWER'))
    await until(() => xds.nodes()[0]?.nacks.length === 0, 'the refusal is over')
  })

  test('is known to be missing where there was nothing good, until it is given or gone', async () => {
    const { store, port, stop } = await controlPlane()
    store.logs.waypoint.set(broken)
    const a = gateway(port, way)
    await a.client.ready()
    expect(a.deltas.flatMap((delta) => delta.refusedWaypoint)).toMatchObject([{ name }])
    set(store, way, secret('a'))
    await until(() => a.known.has('secret/a'), 'a good one')

    store.apply({ removedWaypoint: [name] })
    await until(() => !a.known.has('secret/a'), 'none')
    const before = a.deltas.length
    store.logs.waypoint.set(broken)
    set(store, way, secret('b'))
    await until(() => a.known.has('secret/b'), 'the neighbour')
    expect(a.deltas.slice(before).flatMap((delta) => delta.refusedWaypoint)).toMatchObject([{ name }])
    // It goes while the gateway is away: that must be told, or the gateway would refuse for ever.
    stop()
    await until(() => a.client.state.t === 'waiting', 'the end')
    store.apply({ removedWaypoint: [name] })
    await controlPlane({ store, port })
    await until(() => a.deltas.at(-1)?.removedWaypoint.includes(name) === true, 'the removal')
  })

  test('of another gateway is never taken', async () => {
    const { store, port } = await controlPlane({ authenticate: async () => ({ ok: true, identity: 'x', gateway: other }) })
    set(store, other, secret('a'))
    const a = gateway(port, way)
    await a.client.ready()
    expect(a.names).toEqual([])
    expect(a.responses.at(-1)).toMatchObject({ type: 'waypoint', rejected: 1 })
    expect(a.deltas.flatMap((delta) => delta.refusedWaypoint)).toEqual([])
  })
})

function rawStream(port: number, token: string, id?: string): RawStream {
  const stream = new RawStream(port, certificate, token, id)
  cleanups.push(() => stream.close())
  return stream
}

const settle = (): Promise<void> => new Promise((resolve) => { setTimeout(resolve, 60) })

describe('who asks in strange ways', () => {
  const typeUrl = typeUrls.waypoint
  const all = ['shop/way/secret/a', 'shop/way-2/secret/b', 'other/way/secret/c', 'shop/wa/secret/d']

  async function asked(token: string, ...requests: readonly RawRequest[]): Promise<RawStream> {
    const { store, port } = await controlPlane()
    set(store, way, secret('a'))
    set(store, way2, secret('b'))
    set(store, other, secret('c'))
    set(store, { namespace: 'shop', name: 'wa' }, secret('d'))
    const stream = rawStream(port, token)
    for (const request of requests) stream.send({ typeUrl, ...request })
    await until(() => stream.got.length > 0 || stream.isOver, 'the first answer')
    for (let i = 0; i < 3; i++) {
      stream.answer()
      await settle()
    }
    set(store, way2, secret('b', 'NEWER'))
    set(store, other, secret('c', 'NEWER'))
    store.apply({ removedWaypoint: ['other/way/secret/c'] })
    await settle()
    return stream
  }

  const strange: readonly [string, readonly RawRequest[]][] = [
    ['all', [{}]],
    ['all by the star', [{ resourceNamesSubscribe: ['*'] }]],
    ['every name', [{ resourceNamesSubscribe: all }]],
    ['every name and all', [{ resourceNamesSubscribe: [...all, '*'] }]],
    ['prefixes and patterns', [{ resourceNamesSubscribe: ['', '/', 'shop', 'shop/', 'shop/way', 'shop/way-2/', 'other/*', '*/*', '../way-2/secret/b', 'shop/way/../way-2/secret/b', 'secret/b', 'b'] }]],
    ['what it says to hold', [{ initialResourceVersions: Object.fromEntries(all.map((name) => [name, ''])) }]],
    ['all, then less, then names', [{}, { resourceNamesUnsubscribe: ['*'] }, { resourceNamesSubscribe: all }, { resourceNamesUnsubscribe: all }, { resourceNamesSubscribe: ['*', ...all] }]],
    ['names on demand', [{ resourceNamesSubscribe: ['*', ...all], resourceNamesUnsubscribe: ['*'], initialResourceVersions: { 'other/way/secret/c': 'x' } }]],
    ['as another node', [{ node: { id: 'waypoint~other', metadata: { GATEWAY: 'other/way' } } }]],
  ]

  test.each(strange)('a gateway that asks for %s gets its own', async (what, requests) => {
    const stream = await asked('way-1@shop/way', ...requests)
    expect(new Set(stream.names)).toEqual(new Set(what === 'prefixes and patterns' ? [] : ['shop/way/secret/a']))
  })

  test.each(strange)('a node that asks for %s gets nothing', async (_what, requests) => {
    const stream = await asked('node-a', ...requests)
    expect(stream.names).toEqual([])
  })

  test('the answer to a name is the same whether another gateway has it or nobody', async () => {
    const stream = await asked('way-1@shop/way', { resourceNamesSubscribe: ['other/way/secret/c', 'other/way/secret/nobody', 'shop/way/secret/a'] })
    expect(stream.got[0]).toMatchObject({ names: ['shop/way/secret/a'], removed: ['other/way/secret/c', 'other/way/secret/nobody'] })
    expect(stream.got.slice(1)).toEqual([])
  })

  test('whatever is asked for, a view shows only what begins with its prefix', () => {
    const name = fc.constantFrom(...all, 'shop/way/', 'shop/way', '', '*', 'shop/way/routes/x')
    const list = fc.array(name, { maxLength: 4 })
    fc.assert(fc.property(
      fc.constantFrom(undefined, gatewayPrefix(way), gatewayPrefix(other)), fc.array(fc.record({ subscribe: list, unsubscribe: list }), { minLength: 1, maxLength: 4 }), list,
      fc.array(fc.tuple(name, fc.nat(3)), { maxLength: 12 }),
      (prefix, interests, held, changes) => {
        const log = new ResourceLog('waypoint')
        const [first = { subscribe: [], unsubscribe: [] }, ...later] = interests
        const subscription = new Subscription(new PrefixView(log, prefix), { ...first, initialVersions: Object.fromEntries(held.map((each) => [each, 'v'])) }, 1e6)
        const told: string[] = []
        const take = (): void => {
          for (let push = subscription.next(); push; push = subscription.next()) told.push(...push.names)
        }
        changes.forEach(([each, content], i) => {
          if (content === 0) log.remove(each)
          else log.set({ name: each, aliases: ['alias', ...all], memberOf: all, value: Uint8Array.of(content) })
          const interest = later[i]
          if (interest) subscription.change(interest)
          take()
        })
        expect(told.filter((each) => prefix === undefined || !each.startsWith(prefix))).toEqual([])
      },
    ), { numRuns: 500 })
  })
})

describe('the order', () => {
  test('is addresses first, whatever is asked for first, and the rest in their company', async () => {
    const { store, port } = await controlPlane()
    set(store, way, secret('a'))
    store.apply({ services: [aService('web')] })
    const stream = rawStream(port, 'way-1@shop/way')
    stream.send({ typeUrl: typeUrls.waypoint })
    stream.send({ typeUrl: typeUrls.address })
    await until(() => stream.got.length === 2, 'both')
    expect(stream.got.map(({ typeUrl }) => typeUrl)).toEqual([typeUrls.address, typeUrls.waypoint])
  })

  test('holds a route back until the service that came with it is sent, though answers are late', async () => {
    const { store, port, xds } = await controlPlane()
    const stream = rawStream(port, 'way-1@shop/way')
    stream.send({ typeUrl: typeUrls.address })
    await until(() => stream.got.length === 1, 'the first addresses')
    stream.send({ typeUrl: typeUrls.waypoint })
    await until(() => stream.got.length === 2, 'the first of the gateway')
    stream.answer()
    await settle()
    // The first addresses are not answered, so the service has to wait, and with it the route.
    const web = aService('web')
    const tables = [{ key: 'shop/web:80', hostnames: [], http: [], tcp: [], hasDefault: true }]
    store.apply({ services: [web], waypoint: new Map([['shop/way/routes/shop/web:80', { kind: 'routes', key: 'shop/web:80', tables }]]) })
    await settle()
    expect(stream.got.length).toBe(2)
    expect(xds.nodes()[0]?.types.waypoint).toMatchObject({ behind: 1, waitingSinceMs: undefined })
    stream.send({ typeUrl: typeUrls.address, responseNonce: stream.got[0]?.nonce ?? '' })
    await until(() => stream.got.length === 4, 'both')
    expect(stream.got.slice(2).map(({ names }) => names)).toEqual([['shop/web.shop.svc.cluster.local'], ['shop/way/routes/shop/web:80']])
    // What needs no new address does not wait for answers about addresses.
    stream.answer()
    set(store, way, secret('a'))
    await until(() => stream.got.length === 5, 'the secret')
  })

  test('takes a service away after the route that pointed to it, though answers are late', async () => {
    const { store, port } = await controlPlane()
    const rule = { kind: 'routes', key: 'shop/web:80', tables: [{ key: 'shop/web:80', hostnames: [], http: [], tcp: [], hasDefault: true }] } as const
    const name = 'shop/way/routes/shop/web:80'
    store.apply({ services: [aService('old'), aService('other')], waypoint: new Map([[name, rule]]) })
    const stream = rawStream(port, 'way-1@shop/way')
    stream.send({ typeUrl: typeUrls.address })
    stream.send({ typeUrl: typeUrls.waypoint })
    await until(() => stream.got.length === 2, 'the first state')
    for (const { typeUrl, nonce } of stream.got) stream.send({ typeUrl, responseNonce: nonce })
    await settle()
    const later = { ...rule, tables: [] }
    const key = (service: string): string => `shop/${service}.shop.svc.cluster.local`
    store.apply({ services: [aService('new'), aService('other', { isCanonical: false })], removedAddresses: [key('old'), key('other')], waypoint: new Map([[name, later]]) })
    await until(() => stream.got.length === 4, 'the new service and the route')
    expect(stream.got.slice(2).map(({ names, removed }) => [names, removed])).toEqual([[[key('new'), key('other')], []], [[name], []]])
    await settle()
    expect(stream.got.length).toBe(4)
    for (const { typeUrl, nonce } of stream.got.slice(2)) stream.send({ typeUrl, responseNonce: nonce })
    await until(() => stream.got.length === 5, 'the removal')
    expect(stream.got[4]).toMatchObject({ typeUrl: typeUrls.address, names: [], removed: [key('old')] })

    // Only a removal: it need not wait for an answer to anything.
    stream.answer()
    store.apply({ removedAddresses: [key('new')], removedWaypoint: [name] })
    await until(() => stream.got.length === 7, 'both removals')
    expect(stream.got.slice(5).map(({ removed }) => removed)).toEqual([[name], [key('new')]])
  })

  test('a gateway without answer costs one push, and others none of theirs', async () => {
    const { store, port, xds } = await controlPlane()
    const silent = rawStream(port, 'way-1@shop/way', 'silent')
    silent.send({ typeUrl: typeUrls.waypoint })
    await until(() => silent.got.length === 1, 'the first')
    const b = gateway(port, way, 'way-2')
    await b.client.ready()
    for (let i = 0; i < 20; i++) {
      set(store, way, secret(`s${i}`))
      await new Promise((resolve) => { setTimeout(resolve, 2) })
    }
    await until(() => b.known.has('secret/s19'), 'the other has all')
    expect(silent.got.length).toBe(1)
    expect(xds.nodes().find(({ node }) => node === 'silent')?.types.waypoint).toMatchObject({ behind: 20 })
    silent.answer()
    await until(() => silent.got.length === 2, 'all at once')
    expect(silent.got[1]?.names.length).toBe(20)
  })
})

describe('the store', () => {
  test('refuses a name that is not the resource\'s, and tells nobody of a part that is good but not new', async () => {
    const { store } = await controlPlane()
    for (const name of ['shop/way/secret/b', 'shop/way/routes/a', 'shop/way', '/way/secret/a', 'a']) {
      expect(() => store.apply({ waypoint: new Map([[name, secret('a')]]) })).toThrow(expect.objectContaining({ code: 'BAD_MESSAGE' }))
    }
    set(store, way, secret('a'))
    const { seq } = store.logs.waypoint
    set(store, way, secret('a'))
    expect(store.logs.waypoint.seq).toBe(seq)
  })
})
