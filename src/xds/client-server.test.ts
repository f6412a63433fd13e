// The story of discovery: a control plane and nodes over real gRPC and TLS on loopback.
import { Client, Metadata, credentials, status as grpcStatus } from '@grpc/grpc-js'
import { afterEach, describe, expect, test } from 'vitest'
import { deltaMethod } from './client.ts'
import type { XdsClientOptions } from './client-options.ts'
import type { TestControlPlane } from './testing.ts'
import { WatchedClient, aPolicy, aService, aWorkload, makeCertificate, startControlPlane, until } from './testing.ts'
import type { XdsStore } from './store.ts'

const certificate = makeCertificate()
const cleanups: (() => void | Promise<void>)[] = []

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

async function controlPlane(options: Parameters<typeof startControlPlane>[1] = {}): Promise<TestControlPlane> {
  const started = await startControlPlane(certificate, options)
  cleanups.push(() => started.stop())
  return started
}

function node(port: number, options: Partial<XdsClientOptions> = {}): WatchedClient {
  const watched = new WatchedClient(port, certificate, options)
  cleanups.push(() => watched.client.close())
  watched.client.start()
  return watched
}

function publishShop(store: XdsStore): void {
  store.apply({
    workloads: [aWorkload('cart', { services: new Map([['shop/cart.shop.svc.cluster.local', []]]) }), aWorkload('pay', { ips: ['10.0.0.2'] })],
    services: [aService('cart')],
    policies: [aPolicy('allow-cart')],
  })
}

const shop = ['c1//Pod/shop/cart', 'c1//Pod/shop/pay', 'shop/allow-cart', 'shop/cart.shop.svc.cluster.local']

describe('everything subscribed', () => {
  test('a node learns what is there, what changes and what goes', async () => {
    const { store, port, xds } = await controlPlane()
    publishShop(store)
    const a = node(port)
    await a.client.ready()
    expect(a.names).toEqual(shop)
    expect(a.responses.map(({ type }) => type)).toEqual(['address', 'authorization'])
    expect(a.client.state.t).toBe('ready')

    store.apply({ workloads: [aWorkload('pay', { ips: ['10.0.0.3'] })] })
    await until(() => a.deltas.length === 3, 'the change')
    expect(a.deltas[2]).toMatchObject({ workloads: [{ uid: 'c1//Pod/shop/pay', ips: ['10.0.0.3'] }], services: [], removedAddresses: [] })

    store.apply({ removedAddresses: ['c1//Pod/shop/pay'], removedPolicies: ['shop/allow-cart'] })
    await until(() => a.names.length === 2, 'the removals')
    expect(a.names).toEqual(['c1//Pod/shop/cart', 'shop/cart.shop.svc.cluster.local'])

    await until(() => xds.nodes()[0]?.types.authorization.waitingSinceMs === undefined, 'the last answers')
    expect(xds.nodes()).toMatchObject([{
      node: 'ztunnel~10.9.9.9~ztunnel-a.sidestep~sidestep.svc.cluster.local',
      identity: 'agent',
      disconnectedAtMs: undefined,
      types: { address: { subscribed: 'all', behind: 0, nacked: 0 }, authorization: { subscribed: 'all', behind: 0, pushes: 2 } },
      nacks: [],
    }])
  })

  test('a mesh with nothing in it is ready too', async () => {
    const { port } = await controlPlane()
    await node(port).client.ready()
  })

  test('the same content again is no push', async () => {
    const { store, port, xds } = await controlPlane()
    publishShop(store)
    const a = node(port)
    await a.client.ready()
    publishShop(store)
    store.apply({ services: [aService('late')] })
    await until(() => a.names.length === 5, 'the one change')
    expect(a.deltas.at(-1)).toMatchObject({ workloads: [], services: [{ name: 'late' }] })
    expect(xds.nodes()[0]?.types.address.pushes).toBe(2)
  })

  test('a whole new state removes what is not in it', async () => {
    const { store, port } = await controlPlane()
    publishShop(store)
    const a = node(port)
    await a.client.ready()
    store.replace({ workloads: [aWorkload('cart')], services: [], policies: [] })
    await until(() => a.names.length === 1, 'the new state')
    expect(a.names).toEqual(['c1//Pod/shop/cart'])
  })

  test('a burst of changes is gathered', async () => {
    const { store, port, xds } = await controlPlane({ debounceMs: 40 })
    const a = node(port)
    await a.client.ready()
    for (let i = 0; i < 50; i++) {
      store.apply({ workloads: [aWorkload(`w${i}`)] })
      await new Promise((resolve) => { setTimeout(resolve, 1) })
    }
    await until(() => a.names.length === 50, 'all of them')
    // On a busy machine the burst takes long; debounce.test.ts has the exact times.
    expect(xds.nodes()[0]?.types.address.pushes).toBeLessThan(30)
  })
})

describe('what a node refuses', () => {
  // The server would not encode such a thing, so it is put into the store's log as bytes.
  const broken = { name: 'c1//Pod/shop/broken', aliases: [], memberOf: [], value: Uint8Array.of(0x0a, 0x02, 0x28, 0x07) }

  test('is named with its reason, its neighbours are taken, and the good version before it stays', async () => {
    const { store, port, xds } = await controlPlane()
    store.apply({ workloads: [aWorkload('broken')] })
    const a = node(port)
    await a.client.ready()
    store.logs.address.set(broken)
    store.apply({ workloads: [aWorkload('cart')] })
    await until(() => a.names.length === 2, 'the neighbour')
    expect(a.known.get('c1//Pod/shop/broken')).toMatchObject({ tunnelProtocol: 'hbone' })
    await until(() => xds.nodes()[0]?.nacks.length === 1, 'the refusal')
    expect(xds.nodes()[0]?.nacks[0]).toMatchObject({ type: 'address', resource: 'c1//Pod/shop/broken', because: 'uid is missing' })

    store.apply({ workloads: [aWorkload('broken', { node: 'n2' })] })
    await until(() => xds.nodes()[0]?.nacks.length === 0, 'the refusal is over')
    expect(a.known.get('c1//Pod/shop/broken')).toMatchObject({ node: 'n2' })
  })

  test('is sent again after a reconnect, and removed when it is gone', async () => {
    const { store, port, stop } = await controlPlane()
    store.apply({ workloads: [aWorkload('broken'), aWorkload('cart')] })
    const a = node(port)
    await a.client.ready()
    store.logs.address.set(broken)
    store.apply({ workloads: [aWorkload('other')] })
    await until(() => a.responses.some(({ rejected }) => rejected === 1), 'the refusal')
    stop()
    store.apply({ removedAddresses: ['c1//Pod/shop/broken'] })
    await controlPlane({ store, port })
    await until(() => a.names.length === 2, 'the removal')
    expect(a.names).toEqual(['c1//Pod/shop/cart', 'c1//Pod/shop/other'])
  })
})

describe('connections that end', () => {
  test('a restarted control plane sends only what differs', async () => {
    const { store, port, stop } = await controlPlane()
    publishShop(store)
    const a = node(port)
    await a.client.ready()
    stop()
    await until(() => a.client.state.t === 'waiting', 'the end is seen')
    expect(a.names).toEqual(shop)
    expect(a.client.isSynced).toBe(true)
    store.apply({ workloads: [aWorkload('new')], removedAddresses: ['c1//Pod/shop/pay'] })
    const pushes: number[] = []
    await controlPlane({ store, port, onPush: ({ resources }) => pushes.push(resources) })
    await until(() => a.client.state.t === 'ready', 'the second stream')
    expect(a.names).toEqual(['c1//Pod/shop/cart', 'c1//Pod/shop/new', 'shop/allow-cart', 'shop/cart.shop.svc.cluster.local'])
    expect(pushes).toEqual([1, 0])
    expect(a.deltas.at(-2)).toMatchObject({ removedAddresses: ['c1//Pod/shop/pay'] })
  })

  test('the state of one client is the beginning of the next', async () => {
    const { store, port } = await controlPlane()
    publishShop(store)
    const a = node(port)
    await a.client.ready()
    const snapshot = a.client.snapshot()
    await a.client.close()
    expect(a.client.state.t).toBe('closed')

    const b = new WatchedClient(port, certificate)
    cleanups.push(() => b.client.close())
    expect(await b.client.restore(snapshot)).toEqual([])
    expect(b.names).toEqual(shop)
    expect(b.client.isSynced).toBe(false)
    const before = b.deltas.length
    b.client.start()
    await b.client.ready()
    expect(b.deltas.slice(before).every((delta) => Object.values(delta).every((list) => list.length === 0))).toBe(true)
  })

  test('a wrong token is refused and asked for again', async () => {
    const { port } = await controlPlane()
    let token = 'bad'
    let asked = 0
    const a = node(port, { token: async () => { asked += 1; return token } })
    await until(() => asked >= 3, 'some attempts')
    expect(a.client.isSynced).toBe(false)
    await until(() => a.client.state.t === 'waiting', 'a wait')
    expect(a.client.state).toMatchObject({ t: 'waiting', because: 'UNAUTHENTICATED: no such token' })
    token = 'good'
    await a.client.ready()
  })

  test('wrong roots are refused, and read again for the next connection', async () => {
    const { port } = await controlPlane()
    const other = makeCertificate()
    let roots = other.cert
    const a = node(port, { roots: async () => roots, connectTimeoutMs: 200 })
    await until(() => a.states.filter((state) => state === 'waiting').length >= 2, 'some attempts', 10_000)
    roots = certificate.cert
    await a.client.ready()
  })

  test('close ends it in any state, and a signal does too', async () => {
    const { port } = await controlPlane()
    const stop = new AbortController()
    const a = node(port, { signal: stop.signal })
    await a.client.ready()
    stop.abort()
    await until(() => a.client.state.t === 'closed', 'the end')
    const b = node(1, { connectTimeoutMs: 60_000 })
    const ready = b.client.ready()
    await b.client.close()
    await expect(ready).rejects.toMatchObject({ code: 'CLOSED' })
  })

  test('a consumer that fails is asked again, and nothing is lost', async () => {
    const { store, port } = await controlPlane()
    publishShop(store)
    let failures = 2
    const a = node(port, {
      onDelta: () => {
        failures -= 1
        if (failures >= 0) throw new Error('index is closed')
      },
    })
    await a.client.ready()
    expect(a.names).toEqual(shop)
  })
})

describe('slow nodes', () => {
  test('get each resource once when they come back, and hold up nobody', async () => {
    const { store, port, xds } = await controlPlane({ debounceMs: 1 })
    const gate = Promise.withResolvers<void>()
    let isSlow = false
    const slow = node(port, { onDelta: async () => { if (isSlow) await gate.promise }, node: { id: 'slow', metadata: {} } })
    const quick = node(port, { node: { id: 'quick', metadata: {} } })
    await Promise.all([slow.client.ready(), quick.client.ready()])
    isSlow = true
    for (let i = 0; i < 20; i++) {
      store.apply({ workloads: [aWorkload('busy', { node: `n${i}` })] })
      await until(() => (quick.known.get('c1//Pod/shop/busy') as { node?: string } | undefined)?.node === `n${i}`, `change ${i}`)
    }
    store.apply({ workloads: [aWorkload('gone')] })
    store.apply({ removedAddresses: ['c1//Pod/shop/gone'] })
    const lagging = xds.nodes().find((each) => each.node === 'slow')?.types.address
    expect(lagging?.waitingSinceMs).toBeDefined()
    expect(lagging?.behind).toBeGreaterThan(0)
    const before = slow.deltas.length
    gate.resolve()
    await until(() => (slow.known.get('c1//Pod/shop/busy') as { node?: string } | undefined)?.node === 'n19', 'the last state')
    expect(slow.deltas.length - before).toBeLessThanOrEqual(2)
  })

  test('are let go when they never answer', async () => {
    const { store, port } = await controlPlane({ limits: { answerMs: 50 } })
    publishShop(store)
    let isStuck = true
    const a = node(port, { onDelta: async () => { if (isStuck) await new Promise((resolve) => { setTimeout(resolve, 120) }) } })
    await until(() => a.states.includes('waiting'), 'the server gives up')
    isStuck = false
    await a.client.ready()
    expect(a.names).toEqual(shop)
  })
})

describe('on demand', () => {
  test('a node is told of what it asks for, and of that alone', async () => {
    const { store, port } = await controlPlane()
    publishShop(store)
    const a = node(port, { isOnDemand: true })
    await a.client.ready()
    expect(a.names).toEqual(['shop/allow-cart'])

    expect(await a.client.request('/10.0.0.2', 2_000)).toBe('present')
    expect(a.names).toEqual(['c1//Pod/shop/pay', 'shop/allow-cart'])
    expect(await a.client.request('/10.99.99.99', 2_000)).toBe('absent')

    expect(await a.client.request('/10.96.0.1', 2_000)).toBe('present')
    await until(() => a.names.length === 4, 'the service with its endpoints')

    store.apply({ workloads: [aWorkload('pay', { ips: ['10.0.0.2'], node: 'n7' }), aWorkload('stranger', { ips: ['10.0.0.9'] })] })
    await until(() => (a.known.get('c1//Pod/shop/pay') as { node: string }).node === 'n7', 'a change of what it asked for')
    expect(a.names).toEqual(shop)

    store.apply({ workloads: [aWorkload('late', { ips: ['10.99.99.99'] })] })
    await until(() => a.known.has('c1//Pod/shop/late'), 'what it had asked for in vain')
    store.apply({ workloads: [aWorkload('cart-2', { ips: ['10.0.0.8'], services: new Map([['shop/cart.shop.svc.cluster.local', []]]) })] })
    await until(() => a.known.has('c1//Pod/shop/cart-2'), 'a new endpoint of the service')
    expect(a.known.has('c1//Pod/shop/stranger')).toBe(false)

    store.apply({ removedAddresses: ['c1//Pod/shop/pay'] })
    await until(() => !a.known.has('c1//Pod/shop/pay'), 'the removal')
    expect(await a.client.request('/10.0.0.2', 2_000)).toBe('absent')
  })

  test('a restarted control plane goes on where the last stopped', async () => {
    const { store, port, stop } = await controlPlane()
    publishShop(store)
    const a = node(port, { isOnDemand: true })
    await a.client.ready()
    expect(await a.client.request('shop/cart.shop.svc.cluster.local', 2_000)).toBe('present')
    await until(() => a.known.has('c1//Pod/shop/cart'), 'its endpoint')
    stop()
    await until(() => a.client.state.t === 'waiting', 'the end is seen')
    store.apply({ workloads: [aWorkload('cart', { node: 'n5', services: new Map([['shop/cart.shop.svc.cluster.local', []]]) })] })
    const pushes: number[] = []
    await controlPlane({ store, port, onPush: ({ resources }) => pushes.push(resources) })
    await until(() => (a.known.get('c1//Pod/shop/cart') as { node: string }).node === 'n5', 'what differs')
    expect(pushes[0]).toBe(1)
    expect(a.known.has('c1//Pod/shop/pay')).toBe(false)
  })

  test('no more names than allowed, and no answer is said to be none', async () => {
    const { port, stop } = await controlPlane()
    const a = node(port, { isOnDemand: true, maxNames: 1 })
    await a.client.ready()
    stop()
    await expect(a.client.request('/10.0.0.1', 50)).rejects.toMatchObject({ code: 'CONTROL_PLANE_UNAVAILABLE' })
    await expect(a.client.request('/10.0.0.2', 50)).rejects.toMatchObject({ code: 'OVERLOADED' })
  })
})

describe('limits of the server', () => {
  async function outcome(port: number, requests: readonly Buffer[], token = 'good'): Promise<{ code: number; details: string }> {
    const client = new Client(`127.0.0.1:${port}`, credentials.createSsl(Buffer.from(certificate.cert)), {
      'grpc.ssl_target_name_override': 'localhost', 'grpc.use_local_subchannel_pool': 1,
    })
    const metadata = new Metadata()
    metadata.set('authorization', `Bearer ${token}`)
    const call = client.makeBidiStreamRequest<Buffer, Buffer>(deltaMethod, (bytes) => bytes, (bytes) => bytes, metadata)
    call.on('error', () => {})
    call.on('data', () => {})
    for (const request of requests) call.write(request)
    try {
      return await new Promise((resolve) => { call.on('status', resolve) })
    } finally {
      client.close()
    }
  }

  test('garbage ends the stream it came on and no other', async () => {
    const { store, port } = await controlPlane()
    const a = node(port)
    await a.client.ready()
    for (const garbage of [Buffer.from([0xff, 0xff, 0xff]), Buffer.from('GET / HTTP/1.1\r\n'), Buffer.alloc(1000, 0x0a)]) {
      expect((await outcome(port, [garbage])).code).not.toBe(grpcStatus.OK)
    }
    publishShop(store)
    await until(() => a.names.length === 4, 'the other stream')
  })

  test('metadata nested without end ends its stream, too', async () => {
    const { port } = await controlPlane()
    // Values that are lists of one value, 5,000 deep, as the node's metadata.
    let value: Buffer = Buffer.alloc(0)
    const wrap = (tag: number, content: Buffer): Buffer => {
      const head = [tag]
      let { length } = content
      for (; length > 127; length >>>= 7) head.push((length & 127) | 128)
      return Buffer.concat([Buffer.from([...head, length]), content])
    }
    for (let i = 0; i < 5_000; i++) value = wrap(0x32, wrap(0x0a, value))
    const entry = wrap(0x0a, Buffer.concat([wrap(0x0a, Buffer.from('k')), wrap(0x12, value)]))
    const request = wrap(0x0a, Buffer.concat([wrap(0x0a, Buffer.from('n')), wrap(0x1a, entry)]))
    expect((await outcome(port, [request])).code).toBe(grpcStatus.INTERNAL)
    await node(port).client.ready()
  })

  test('a stream without node, of an unknown type, or with nothing to say is let go', async () => {
    const { port } = await controlPlane({ limits: { firstRequestMs: 50 } })
    expect(await outcome(port, [Buffer.alloc(0)])).toMatchObject({ code: grpcStatus.INVALID_ARGUMENT, details: 'the first request has no node id' })
    // Node 'n' and the type url 'x'.
    expect(await outcome(port, [Buffer.from([0x0a, 3, 0x0a, 1, 0x6e, 0x12, 1, 0x78])])).toMatchObject({ code: grpcStatus.INVALID_ARGUMENT })
    expect(await outcome(port, [])).toMatchObject({ code: grpcStatus.DEADLINE_EXCEEDED })
    expect(await outcome(port, [], 'bad')).toMatchObject({ code: grpcStatus.UNAUTHENTICATED })
  })

  test('streams, streams of one node and names have an end', async () => {
    const { port } = await controlPlane({ limits: { streams: 2, streamsPerNode: 1, names: 1 } })
    const a = node(port)
    await a.client.ready()
    const b = node(port)
    await until(() => b.client.state.t === 'waiting', 'the refusal')
    expect(b.client.state).toMatchObject({ because: 'RESOURCE_EXHAUSTED: more than 1 streams of one node' })
    await b.client.close()
    const c = node(port, { isOnDemand: true, node: { id: 'c', metadata: {} } })
    await until(() => c.client.state.t === 'waiting', 'the second refusal')
    expect(c.client.state).toMatchObject({ because: 'RESOURCE_EXHAUSTED: more than 1 names' })
  })

  test('who says to be another node is refused', async () => {
    const { port } = await controlPlane({
      admitNode: ({ identity }, { metadata }) => metadata['NODE_NAME'] === 'n1' && identity === 'agent'
        ? { ok: true, identity: 'agent on n1' }
        : { ok: false, code: 'permissionDenied', because: 'the token is of another node' },
    })
    await node(port).client.ready()
    const b = node(port, { node: { id: 'b', metadata: { NODE_NAME: 'n2' } } })
    await until(() => b.client.state.t === 'waiting', 'the refusal')
    expect(b.client.state).toMatchObject({ because: 'PERMISSION_DENIED: the token is of another node' })
  })
})
