import { once } from 'node:events'
import { createServer, connect } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import { afterEach, describe, expect, test } from 'vitest'
import { systemClock } from '../core/clock.ts'
import { MeshError } from '../core/errors.ts'
import { emptyL7Match, type AuthorizationL7, type L7Match } from '../model/authorization-l7.ts'
import type { Backend, HttpRule, RouteTable, TcpRule } from '../model/route.ts'
import type { WaypointResource } from '../model/waypoint-config.ts'
import { waypointResourceName } from '../model/waypoint-config.ts'
import { WorkloadStore } from '../model/workload-store.ts'
import type { AppProtocol } from '../model/workload.ts'
import { CompiledChains } from './chains.ts'
import { Connections } from './connections.ts'
import { coveredTarget } from './covered.ts'
import type { ConnectionContext } from './context.ts'
import { PortMemory } from './port-memory.ts'
import type { LiveRecord } from './record.ts'
import { GatewayResources } from './resources.ts'
import { service, workload } from './testing.ts'

const web = service('web', '10.96.0.1')
const v2 = service('v2', '10.96.0.2')
const key = 'shop/web.shop.svc.cluster.local'
const httpRule: HttpRule = { origin: 'HTTPRoute shop/web', name: '0', matches: [], action: { t: 'respond', status: 200 }, mirrors: [], timeouts: {}, filters: [] }
const backend = (name: typeof web, parts: Partial<Backend> = {}): Backend => ({ service: { namespace: 'shop', hostname: name.hostname }, port: 80, weight: 1, ...parts })
const tcpRule = (parts: Partial<TcpRule> = {}): TcpRule => ({ origin: 'TCPRoute shop/web', name: '0', serverNames: [], backends: [backend(v2)], ...parts })
const table = (parts: Partial<RouteTable>): RouteTable => ({ key: `${key}:80`, hostnames: [], http: [], tcp: [], hasDefault: false, ...parts })
const match = (parts: Partial<Omit<L7Match, 'l4'>>, l4: Partial<L7Match['l4']> = {}): L7Match => ({ ...emptyL7Match, ...parts, l4: { ...emptyL7Match.l4, ...l4 } })
const policy = (action: 'allow' | 'deny', of: L7Match): AuthorizationL7 => ({ name: action, namespace: 'shop', action, isDryRun: false, rules: [[[of]]] })

const ends: (() => void)[] = []
afterEach(() => {
  for (const end of ends.splice(0)) end()
})

/** A real client's socket, a backend that answers (or speaks first), and what became known of the connection. */
class Bench {
  readonly resources = new GatewayResources()
  readonly store = new WorkloadStore()
  readonly memory = new PortMemory({ clock: systemClock })
  readonly served: { readonly protocol: string; readonly bytes: Promise<string> }[] = []
  readonly connected: string[] = []
  readonly told: string[] = []
  readonly connections: Connections
  #greeting: string | undefined
  #failure: MeshError | undefined

  constructor(protocol: AppProtocol = 'unknown') {
    this.store.apply({ services: [{ ...web, ports: [{ servicePort: 80, targetPort: 8080, appProtocol: protocol }] }, v2], workloads: [workload('alice-1', '10.0.0.1')] })
    this.connections = new Connections({
      chains: new CompiledChains(this.resources), store: this.store, memory: this.memory, clock: systemClock, random: () => 0, detectMs: 60, helloMs: 500, ownIp: '10.0.0.9',
      front: {
        serve: (stream: Duplex, { protocol: spoken }) => void this.served.push({ protocol: spoken, bytes: once(stream, 'data').then(([chunk]) => String(chunk)) }),
      },
      forwarder: { connect: (to) => this.#connect(to.t === 'service' ? to.service.name : to.workload.name) },
      records: { carry: () => this.#record() },
      covered: (context, host) => coveredTarget({ store: this.store, self: undefined, network: '' }, context, host),
    })
  }

  tell(...given: readonly WaypointResource[]): void {
    this.resources.apply({ waypoint: given, removedWaypoint: [], refusedWaypoint: [] })
  }

  routes(...tables: readonly RouteTable[]): void {
    this.tell({ kind: 'routes', key: `${key}:80`, tables })
  }

  policies(...policies: readonly AuthorizationL7[]): void {
    this.tell({ kind: 'security', key, security: { policies, jwtRules: [] } })
  }

  greet(text: string): void {
    this.#greeting = text
  }

  fail(error: MeshError): void {
    this.#failure = error
  }

  /** Both ends of a new connection. */
  async dial(namespace = 'shop'): Promise<{ readonly client: Socket; readonly taken: Promise<void> }> {
    const server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const client = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true })
    client.on('error', () => {})
    const [accepted] = await once(server, 'connection') as [Socket]
    ends.push(() => {
      client.destroy()
      accepted.destroy()
      server.close()
    })
    return { client, taken: this.connections.take(accepted, this.context(namespace)) }
  }

  context(namespace = 'shop'): ConnectionContext {
    const target = { t: 'service', service: this.store.service(key) ?? web, port: 80 } as const
    return { caller: { identity: { trustDomain: 'cluster.local', namespace, serviceAccount: 'default' }, address: { ip: '10.0.0.1', port: 1 }, workload: undefined }, target }
  }

  #connect(name: string): Promise<Duplex> {
    if (this.#failure) return Promise.reject(this.#failure)
    this.connected.push(name)
    const greeting = this.#greeting
    const stream: Duplex = new Duplex({
      allowHalfOpen: true,
      read() {},
      write(chunk: Buffer, _encoding, done) {
        stream.push(`echo ${String(chunk)}`)
        done()
      },
      final(done) {
        stream.push('bye')
        stream.push(null)
        done()
      },
    })
    if (greeting !== undefined) setImmediate(() => stream.push(greeting))
    return Promise.resolve(stream)
  }

  #record(): LiveRecord {
    return {
      routed: (rule) => void this.told.push(`routed ${rule?.origin ?? '-'}`), backend() {}, attempt() {}, traceHeaders: () => [], delayed() {}, answered() {}, follow() {},
      because: (reason, detail) => void this.told.push(`${reason}${detail === undefined ? '' : `: ${detail}`}`), policyHit: ({ policy: hit }) => void this.told.push(`hit ${hit}`),
      finish: ({ requestBytes, responseBytes, isCut }) => void this.told.push(`end ${requestBytes} ${responseBytes}${isCut ? ' cut' : ''}`),
    }
  }
}

/** All that comes until the end; `reset` where it was cut. */
async function allOf(client: Socket): Promise<string> {
  let text = ''
  let isReset = false
  client.on('data', (chunk: Buffer) => (text += String(chunk)))
  client.on('error', () => (isReset = true))
  if (!client.closed) await once(client, 'close').catch(() => undefined)
  return isReset ? `${text}reset` : text
}

async function say(bench: Bench, text: string, namespace?: string): Promise<string> {
  const { client, taken } = await bench.dial(namespace)
  const all = allOf(client)
  client.end(text)
  await taken
  return bench.served.length > 0 ? `http ${bench.served[0]?.protocol} ${await bench.served[0]?.bytes}` : await all
}

const request = 'GET / HTTP/1.1\r\nhost: a\r\n\r\n'

describe('a port that nobody declared', () => {
  test('is looked at: HTTP goes to the front, the rest is carried with its half-closes', async () => {
    const http = new Bench()
    expect(await say(http, request)).toBe(`http http1 ${request}`)
    const other = new Bench()
    expect(await say(other, 'hello\n')).toBe('echo hello\nbye')
    expect([other.connected, other.told]).toEqual([['web'], ['routed -', 'end 6 14']])
  })

  test('a server that speaks first is waited for once, and forgotten when it does so no more', async () => {
    const bench = new Bench()
    bench.greet('ready\n')
    const first = await bench.dial()
    expect(String((await once(first.client, 'data'))[0])).toBe('ready\n')
    expect(bench.memory.isServerFirst(`${key}:80`)).toBe(true)
    expect(bench.connections.foresee(bench.context())).toMatchObject({ allowed: true })
    const second = await bench.dial()
    expect(bench.connected).toEqual(['web', 'web'])
    second.client.write('me first')
    await once(second.client, 'data')
    first.client.destroy()
    await first.taken
  })

  test('a slow client teaches nothing: the next request is still read as one', async () => {
    const bench = new Bench()
    const { client, taken } = await bench.dial()
    await expect.poll(() => bench.connected.length).toBe(1)
    client.end(request)
    await taken
    expect(bench.memory.isServerFirst(`${key}:80`)).toBe(false)
    expect(await say(bench, request)).toBe(`http http1 ${request}`)
  })
})

describe('rules for requests', () => {
  test('what is no HTTP does not slip by them, and it is said why', async () => {
    const bench = new Bench()
    bench.routes(table({ http: [httpRule] }))
    expect(await say(bench, 'hello\n')).toBe('reset')
    expect(bench.told).toEqual(['noRoute: there are rules for requests, and what came is no HTTP (POLICY_DENIED). A policy refuses this connection; `sidestep authz explain` names the rule.', 'end 0 0 cut'])
    expect(bench.connected).toEqual([])
  })

  test('a connection that was opened ahead of its request is waited for', async () => {
    const bench = new Bench()
    bench.routes(table({ http: [httpRule] }))
    const { client } = await bench.dial()
    await expect.poll(() => bench.served.length).toBe(1)
    client.write(request)
    expect(await bench.served[0]?.bytes).toBe(request)
  })

  test('a TCP rule beside them takes the rest', async () => {
    const bench = new Bench()
    bench.routes(table({ http: [httpRule], tcp: [tcpRule()] }))
    expect(await say(bench, 'hello\n')).toBe('echo hello\nbye')
    expect(bench.connected).toEqual(['v2'])
    expect(await say(bench, request)).toBe(`http http1 ${request}`)
  })

  test('only TCP rules: all connections are of that sort, and the callers of one namespace have their own', async () => {
    const bench = new Bench()
    bench.routes(table({ tcp: [tcpRule({ sourceNamespaces: ['guest'], backends: [] }), tcpRule()] }))
    expect(await say(bench, request)).toContain('echo GET')
    expect(await say(bench, request, 'guest')).toBe('reset')
    expect([bench.connected, bench.served]).toEqual([['v2'], []])
    expect(bench.told.filter((each) => each.startsWith('noRoute'))).toHaveLength(1)
  })
})

describe('what was declared', () => {
  test('tcp is carried before anybody said a word; http is served whatever comes', async () => {
    const tcp = new Bench('tcp')
    const { taken, client } = await tcp.dial()
    await expect.poll(() => tcp.connected).toEqual(['web'])
    client.destroy()
    await taken
    expect(await say(new Bench('http11'), 'hello\n')).toBe('http http1 hello\n')
    expect(await say(new Bench('http2'), request)).toBe(`http http1 ${request}`)
    expect(await say(new Bench('http11'), 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')).toContain('http http2 PRI')
  })

  test('a client of an http port that is slow to begin may still begin with HTTP/2', async () => {
    const bench = new Bench('http11')
    bench.routes(table({ http: [httpRule] }))
    const { client } = await bench.dial()
    setTimeout(() => client.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), 150)
    await expect.poll(() => bench.served.map(({ protocol }) => protocol)).toEqual(['http2'])
  })

  test('tls is routed by its server name', async () => {
    const bench = new Bench('tls')
    bench.routes(table({ tcp: [tcpRule({ serverNames: ['*.test'] })] }))
    const { client, taken } = await bench.dial()
    const all = allOf(client)
    client.end(await helloFor('a.test'))
    await taken
    expect([(await all).startsWith('echo'), bench.connected]).toEqual([true, ['v2']])
    expect(await say(bench, 'hello\n')).toBe('reset')
  })
})

describe('policies on what is carried', () => {
  test('names and addresses count; what only a request could answer permits nothing', async () => {
    const allowed = new Bench('tcp')
    allowed.policies(policy('allow', match({}, { namespaces: [{ kind: 'exact', value: 'shop' }] })))
    expect(await say(allowed, 'hello\n')).toBe('echo hello\nbye')
    expect(await say(allowed, 'hello\n', 'bank')).toBe('reset')
    expect(allowed.told.find((each) => each.startsWith('denied'))).toContain('noAllowMatched')
    expect(allowed.connections.foresee(allowed.context('bank'))).toMatchObject({ allowed: false })
    const http = new Bench()
    http.policies(policy('allow', match({ methods: [{ kind: 'exact', value: 'GET' }] })))
    expect(await say(http, 'hello\n')).toBe('reset')
    expect(await say(http, request)).toBe(`http http1 ${request}`)
  })

  test('a policy that comes later ends what it forbids, and nothing else', async () => {
    const bench = new Bench('tcp')
    const [mine, theirs] = [await bench.dial('shop'), await bench.dial('bank')]
    mine.client.write('a')
    theirs.client.write('b')
    await Promise.all([once(mine.client, 'data'), once(theirs.client, 'data')])
    bench.policies(policy('deny', match({}, { namespaces: [{ kind: 'exact', value: 'bank' }] })))
    bench.connections.recheck()
    expect(await allOf(theirs.client)).toBe('reset')
    mine.client.end('more')
    expect(await allOf(mine.client)).toBe('echo morebye')
    expect(bench.told.filter((each) => each.startsWith('denied'))).toEqual(['denied: denyPolicy (shop/deny)'])
    await bench.connections.idle()
  })
})

test('what was said and is not understood refuses', async () => {
  const bench = new Bench()
  const gateway = { namespace: 'shop', name: 'gate' }
  bench.resources.apply({ waypoint: [], removedWaypoint: [], refusedWaypoint: [{ name: waypointResourceName(gateway, { kind: 'security', key }), because: 'new' }] })
  expect(await say(bench, 'hello\n')).toBe('reset')
  bench.policies()
  expect(await say(bench, 'hello\n')).toBe('echo hello\nbye')
  bench.resources.apply({ waypoint: [], removedWaypoint: [], refusedWaypoint: [{ name: waypointResourceName(gateway, { kind: 'routes', key: `${key}:80` }), because: 'new' }] })
  expect(await say(bench, 'hello\n')).toBe('reset')
})

test('a backend that cannot be reached cuts the client, and so does a client that is gone its backend', async () => {
  const bench = new Bench('tcp')
  bench.fail(new MeshError('NO_HEALTHY_UPSTREAM', 'nobody is there'))
  expect(await say(bench, 'hello\n')).toBe('reset')
  expect(bench.told[1]).toMatch(/^noHealthyBackend: nobody is there/)
})

test('a chain is the same object until what it is made of changes', () => {
  const bench = new Bench()
  const chains = new CompiledChains(bench.resources)
  const { target } = bench.context()
  const before = chains.chainOf(target)
  bench.tell({ kind: 'routes', key: 'shop/other:80', tables: [] }, { kind: 'security', key: 'shop/other', security: { policies: [], jwtRules: [] } })
  expect(chains.chainOf(target)).toBe(before)
  expect(chains.chainOf({ ...target })).toBe(before)
  bench.policies()
  const after = chains.chainOf(target)
  expect(after).not.toBe(before)
  // What has none of its own has what is said of those.
  bench.tell({ kind: 'security', key: '', security: { policies: [policy('deny', match({}, { destinationPorts: [80] }))], jwtRules: [] } })
  expect(chains.chainOf(target)).toBe(after)
  const pod = { t: 'workload', workload: workload('web-1', '10.0.0.3'), port: 80 } as const
  expect(chains.chainOf(pod)).toMatchObject({ key: '10.0.0.3:80', hasDefault: true, authorizer: { policies: [{ name: 'deny' }] } })
})

/** The first message of a real client. */
function helloFor(servername: string): Promise<Buffer> {
  return new Promise((resolve) => {
    const wire = new Duplex({
      read() {},
      write(chunk: Buffer, _encoding, done) {
        done()
        resolve(chunk)
      },
    })
    connectTls({ socket: wire, servername }).on('error', () => {})
  })
}
