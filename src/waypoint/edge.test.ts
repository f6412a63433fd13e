import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect as connectTcp, createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Duplex } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import type { TLSSocket } from 'node:tls'
import { promisify } from 'node:util'
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { systemClock } from '../core/clock.ts'
import { silentLogger } from '../core/log.ts'
import { ConnectionLimit } from '../member/connection-limit.ts'
import type { GatewayListener, TcpRule } from '../model/route.ts'
import type { WaypointResource } from '../model/waypoint-config.ts'
import { WorkloadStore } from '../model/workload-store.ts'
import { makeLeaf, makeRoot } from '../pki/testing.ts'
import type { Made } from '../pki/testing.ts'
import { HeaderMap } from '../policy/l7/request-head.ts'
import { CompiledChains } from './chains.ts'
import { Connections } from './connections.ts'
import type { ConnectionContext } from './context.ts'
import { Edge } from './edge.ts'
import { PortListeners } from './edge-listeners.ts'
import { alternativeNames } from './edge-tls.ts'
import type { Handler } from './http/message.ts'
import { HttpFront } from './http/serve.ts'
import { PortMemory } from './port-memory.ts'
import type { LiveRecord } from './record.ts'
import { GatewayResources } from './resources.ts'
import { service } from './testing.ts'

const run = promisify(execFile)
const directory = mkdtempSync(join(tmpdir(), 'sidestep-edge-'))
const record: LiveRecord = {
  routed() {}, backend() {}, attempt() {}, because() {}, traceHeaders: () => [], delayed() {}, policyHit() {}, follow() {}, answered() {}, finish() {},
}
const web = service('web', '10.96.0.1')
let root: Made
let otherRoot: Made
let certificates: Record<'a' | 'a2' | 'wild' | 'client' | 'stranger', Made>

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '::')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  await new Promise<void>((resolve) => server.close(() => resolve()))
  return port
}

/** An edge with real ports. Requests are answered with the listener that they came to; connections are echoed with it. */
class Bench {
  readonly resources = new GatewayResources()
  readonly refused: string[] = []
  readonly contexts: ConnectionContext[] = []
  readonly edge: Edge
  readonly front: HttpFront<ConnectionContext>
  #listeners: readonly GatewayListener[] = []

  constructor(parts: { readonly proxyProtocol?: 'optional' | 'required'; readonly proxyProtocolFrom?: readonly string[]; readonly limit?: number } = {}) {
    const store = new WorkloadStore()
    store.apply({ services: [web] })
    this.front = new HttpFront<ConnectionContext>({ clock: systemClock, handler: (request) => handler(request) })
    const connections = new Connections({
      chains: new CompiledChains(this.resources), store, front: this.front, memory: new PortMemory({ clock: systemClock }), clock: systemClock, random: () => 0,
      covered: ({ target }) => target, detectMs: 50, helloMs: 500, ownIp: '127.0.0.1', records: { carry: () => record },
      forwarder: {
        connect: (to, context) => {
          this.contexts.push(context)
          const stream: Duplex = new Duplex({
            read() {},
            write(chunk: Buffer, _encoding, done) {
              stream.push(`${to.t === 'service' ? to.service.name : ''} ${context.serverName ?? '-'} ${chunk[0] === 22 ? 'hello' : String(chunk)}`)
              done()
            },
            final(done) {
              stream.push(null)
              done()
            },
          })
          return Promise.resolve(stream)
        },
      },
    })
    this.edge = new Edge({
      resources: this.resources, connections, front: this.front, records: { begin: () => record }, limit: new ConnectionLimit(parts.limit ?? 1_000), keepAliveSeconds: 60, helloMs: 500,
      proxyProtocol: parts.proxyProtocol ?? 'off', proxyProtocolFrom: parts.proxyProtocolFrom ?? [], clock: systemClock, onRefused: (because) => void this.refused.push(because), logger: silentLogger,
    })
    this.edge.start()
    const handler: Handler<ConnectionContext> = this.edge.handler((request) => {
      this.contexts.push(request.connection)
      const { target } = request.connection
      const body = `${target.t === 'listener' ? target.listener.name : '?'} ${request.protocol} ${request.head.scheme}`
      return Promise.resolve({ t: 'response', status: 200, headers: HeaderMap.of([['content-type', 'text/plain']]), body })
    })
  }

  async listen(...listeners: readonly GatewayListener[]): Promise<void> {
    this.resources.apply({
      waypoint: listeners.map((listener): WaypointResource => ({ kind: 'listener', key: listener.key, listener })), refusedWaypoint: [],
      removedWaypoint: this.#listeners.filter(({ key }) => !listeners.some((each) => each.key === key)).map(({ key }) => `shop/edge/listener/${key}`),
    })
    this.#listeners = listeners
    const ports = [...new Set(listeners.map(({ port }) => port))].sort()
    await expect.poll(() => this.edge.ports.sort()).toEqual(ports)
  }

  tell(...resources: readonly WaypointResource[]): void {
    this.resources.apply({ waypoint: resources, removedWaypoint: [], refusedWaypoint: [] })
  }

  secret(name: string, made: Made): void {
    this.tell({ kind: 'secret', key: `Secret shop/${name}`, certificate: { chain: made.pem, privateKey: String(made.key.export({ format: 'pem', type: 'pkcs8' })) } })
  }

  authority(name: string, made: Made): void {
    this.tell({ kind: 'secret', key: `ConfigMap shop/${name}`, authorities: made.pem })
  }

  close(): void {
    this.edge.stopListening()
    this.front.close()
  }
}

const listener = (name: string, port: number, parts: Partial<GatewayListener> = {}): GatewayListener =>
  ({ key: `Gateway shop/edge/${name}`, gateway: { namespace: 'shop', name: 'edge' }, name, port, protocol: 'http', ...parts })
const https = (name: string, port: number, hostname: string | undefined, secret: string, parts: Partial<GatewayListener> = {}): GatewayListener =>
  listener(name, port, { protocol: 'https', ...(hostname !== undefined && { hostname }), tls: { mode: 'terminate', certificates: [`shop/${secret}`] }, ...parts })
const tcpRule: TcpRule = { origin: 'TCPRoute shop/t', name: '0', serverNames: [], backends: [{ service: { namespace: 'shop', hostname: web.hostname }, port: 80, weight: 1 }] }
const routes = (name: string, ...tcp: readonly TcpRule[]): WaypointResource =>
  ({ kind: 'routes', key: `Gateway shop/edge/${name}`, tables: [{ key: `Gateway shop/edge/${name}`, hostnames: [], http: [], tcp, hasDefault: false }] })

/** The status and the body that curl got, or its exit code. */
async function curl(...args: readonly string[]): Promise<string> {
  const result = await run('curl', ['-sS', '--max-time', '5', '-w', ' %{http_code}', '--cacert', join(directory, 'root.pem'), ...args]).catch((error: { code: number }) => ({ stdout: `exit ${error.code}` }))
  return result.stdout.trim()
}

/** All that comes after that was said, or `reset`. */
async function say(socket: Socket | TLSSocket, ...parts: readonly (string | Buffer)[]): Promise<string> {
  let text = ''
  let isBroken = false
  socket.on('data', (chunk: Buffer) => (text += String(chunk)))
  socket.on('error', () => (isBroken = true))
  for (const part of parts) {
    socket.write(part)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  socket.end()
  if (!socket.closed) await once(socket, 'close').catch(() => {})
  return isBroken ? 'reset' : text
}

/** Once it is let go, without having said a word. */
function closed(socket: Socket): Promise<boolean> {
  return new Promise((resolve) => socket.on('error', () => {}).on('close', () => resolve(true)))
}

let port: number
let bench: Bench
beforeAll(async () => {
  root = await makeRoot()
  otherRoot = await makeRoot({ subject: 'CN=Other root' })
  const leaf = (issuer: Made, subject: string, ...dns: readonly string[]): Promise<Made> => makeLeaf(issuer, { subject: `CN=${subject}`, names: dns.map((value) => ({ type: 'dns' as const, value })) })
  certificates = {
    a: await leaf(root, 'a', 'a.test'), a2: await leaf(root, 'a2', 'a.test'), wild: await leaf(root, 'wild', '*.wild.test'),
    client: await makeLeaf(root, { subject: 'CN=client,O=shop', names: [{ type: 'dns', value: 'client.test' }, { type: 'url', value: 'spiffe://outside/c' }] }),
    stranger: await leaf(otherRoot, 'stranger', 'client.test'),
  }
  writeFileSync(join(directory, 'root.pem'), root.pem)
  for (const name of ['client', 'stranger'] as const) {
    writeFileSync(join(directory, `${name}.pem`), certificates[name].pem + String(certificates[name].key.export({ format: 'pem', type: 'pkcs8' })))
  }
})
beforeEach(async () => {
  port = await freePort()
})
afterEach(() => bench.close())
afterAll(() => rmSync(directory, { recursive: true }))

describe('HTTP', () => {
  test('a request belongs to the listener of the most specific hostname, on one connection too', async () => {
    bench = new Bench()
    await bench.listen(listener('any', port), listener('wild', port, { hostname: '*.wild.test' }), listener('exact', port, { hostname: 'a.wild.test' }))
    const url = `http://127.0.0.1:${port}/`
    expect(await curl('-H', 'host: b.c.wild.test', url)).toBe('wild http1 http 200')
    expect(await curl('-H', 'host: A.wild.test:8080', url)).toBe('exact http1 http 200')
    expect(await curl('-H', 'host: wild.test', url)).toBe('any http1 http 200')
    expect(await curl('--http2-prior-knowledge', url)).toBe('any http2 http 200')
    const pipelined = ['a.wild.test', 'x.wild.test', 'other'].map((host) => `GET / HTTP/1.1\r\nhost: ${host}\r\n\r\n`).join('')
    expect((await say(connectTcp(port, '127.0.0.1'), pipelined)).match(/(?:any|wild|exact) http1/g)).toEqual(['exact http1', 'wild http1', 'any http1'])
    expect(bench.contexts.every(({ caller }) => caller.identity === undefined && caller.address.ip === '127.0.0.1')).toBe(true)
  })

  test('404 for hosts of no listener; ports come and go with their listeners, and what stands goes on', async () => {
    bench = new Bench()
    await bench.listen(listener('a', port, { hostname: 'a.test' }))
    const url = `http://127.0.0.1:${port}/`
    expect(await curl('-H', 'host: b.test', url)).toBe('no listener is for this host 404')
    const standing = connectTcp(port, '127.0.0.1')
    const answers: string[] = []
    standing.on('data', (chunk: Buffer) => void answers.push(String(chunk)))
    standing.write('GET / HTTP/1.1\r\nhost: a.test\r\n\r\n')
    await expect.poll(() => answers.join('')).toContain('a http1')
    const other = await freePort()
    await bench.listen(listener('a', port, { hostname: 'a.test' }), listener('more', other))
    expect(await curl(`http://127.0.0.1:${other}/`)).toBe('more http1 http 200')
    await bench.listen(listener('more', other))
    expect(await curl(url)).toBe('exit 7')
    standing.write('GET / HTTP/1.1\r\nhost: a.test\r\n\r\n')
    await expect.poll(() => answers.join('')).toContain('no listener')
    standing.destroy()
  })

  test('a port that is taken is tried again, and said', async () => {
    bench = new Bench()
    const taken = createServer().listen(port, '::')
    await once(taken, 'listening')
    bench.tell({ kind: 'listener', key: 'Gateway shop/edge/a', listener: listener('a', port) })
    await expect.poll(() => bench.edge.views()[0]?.problem).toContain('EADDRINUSE')
    taken.close()
    await expect.poll(() => bench.edge.views()[0]?.problem, { timeout: 5_000 }).toBe('')
  })

  test('one address cannot take all connections', async () => {
    bench = new Bench({ limit: 9 })
    await bench.listen(listener('any', port))
    const sockets = Array.from({ length: 20 }, () => connectTcp(port, '127.0.0.1').on('error', () => {}))
    await expect.poll(() => bench.refused.length).toBeGreaterThan(10)
    expect(await curl(`http://[::1]:${port}/`)).toBe('any http1 http 200')
    for (const socket of sockets) socket.destroy()
  })
})

describe('HTTPS', () => {
  const resolve = (name: string): string[] => ['--resolve', `${name}:${port}:127.0.0.1`, `https://${name}:${port}/`]

  test('certificates by server name; HTTP/2 by ALPN; a new certificate is shown from the next handshake on', async () => {
    bench = new Bench()
    bench.secret('a', certificates.a)
    bench.secret('wild', certificates.wild)
    await bench.listen(https('a', port, 'a.test', 'a'), https('wild', port, '*.wild.test', 'wild'))
    expect(await curl('--http1.1', ...resolve('a.test'))).toBe('a http1 https 200')
    expect(await curl(...resolve('x.wild.test'))).toBe('wild http2 https 200')
    // No listener has that name.
    expect(await curl(...resolve('b.test'))).toMatch(/^exit (35|56)$/)
    const shown = async (): Promise<string> => {
      const socket = connectTls({ port, host: '127.0.0.1', servername: 'a.test', ca: root.pem })
      await once(socket, 'secureConnect')
      const { subject } = socket.getPeerCertificate()
      socket.destroy()
      return String(subject.CN)
    }
    expect(await shown()).toBe('a')
    bench.secret('a', certificates.a2)
    expect(await shown()).toBe('a2')
    // Gone, or broken: closed, not the old one.
    bench.tell({ kind: 'secret', key: 'Secret shop/a' })
    expect(await curl(...resolve('a.test'))).toMatch(/^exit (35|56)$/)
    expect(bench.edge.views().map(({ problem }) => problem)).toEqual(['cannot use Secret shop/a', ''])
    bench.tell({ kind: 'secret', key: 'Secret shop/a', certificate: { chain: certificates.a.pem, privateKey: 'nonsense' } })
    expect(await curl(...resolve('a.test'))).toMatch(/^exit (35|56)$/)
    expect(await curl(...resolve('x.wild.test'))).toBe('wild http2 https 200')
  })

  test('421 for the host of another listener on this connection', async () => {
    bench = new Bench()
    bench.secret('a', certificates.a)
    bench.secret('wild', certificates.wild)
    await bench.listen(https('a', port, 'a.test', 'a'), https('wild', port, '*.wild.test', 'wild'))
    expect(await curl('-H', 'host: x.wild.test', ...resolve('a.test'))).toBe('this host is not served on this connection 421')
    expect(await curl('-H', 'host: b.test', ...resolve('a.test'))).toBe('no listener is for this host 404')
  })

  test('certificates of clients: asked for, verified, and told', async () => {
    bench = new Bench()
    bench.secret('a', certificates.a)
    bench.authority('ca', root)
    const asking = { authorities: ['ConfigMap shop/ca'], isOptional: false }
    await bench.listen(https('a', port, 'a.test', 'a', { clientCertificates: asking }))
    const as = (name: string): string[] => ['--cert', join(directory, `${name}.pem`), ...resolve('a.test')]
    expect(await curl(...as('client'))).toBe('a http2 https 200')
    expect(bench.contexts.at(-1)?.clientCertificate).toEqual({
      hash: expect.stringMatching(/^[0-9a-f]{64}$/), subject: 'CN=client,O=shop', uris: ['spiffe://outside/c'], dnsNames: ['client.test'],
    })
    expect(await curl(...resolve('a.test'))).toMatch(/^exit/)
    expect(await curl(...as('stranger'))).toMatch(/^exit/)
    const before = bench.contexts.length
    await bench.listen(https('a', port, 'a.test', 'a', { clientCertificates: { ...asking, isOptional: true } }))
    expect(await curl(...resolve('a.test'))).toBe('a http2 https 200')
    expect(await curl(...as('stranger'))).toBe('a http2 https 200')
    expect(bench.contexts.slice(before).map(({ clientCertificate }) => clientCertificate)).toEqual([undefined, undefined])
    // No authority can be used: nobody's certificate is signed by one.
    await bench.listen(https('a', port, 'a.test', 'a', { clientCertificates: { authorities: ['ConfigMap shop/gone'], isOptional: false } }))
    expect(await curl(...as('client'))).toMatch(/^exit/)
    await bench.listen(https('a', port, 'a.test', 'a', { clientCertificates: { authorities: [], isOptional: false } }))
    expect(await curl(...as('client'))).toMatch(/^exit/)
  })

  test('what is no TLS, and who never ends a handshake, is let go', async () => {
    bench = new Bench()
    bench.secret('a', certificates.a)
    await bench.listen(https('a', port, undefined, 'a'))
    expect(await say(connectTcp(port, '127.0.0.1'), 'GET / HTTP/1.1\r\nhost: a.test\r\n\r\n')).toBe('reset')
    expect(bench.refused).toContain('notTls')
    expect(await closed(connectTcp(port, '127.0.0.1'))).toBe(true)
    // Without a server name: the listener for all, with its first certificate.
    expect(await curl('-k', `https://127.0.0.1:${port}/`)).toBe('a http2 https 200')
  })
})

describe('TCP and TLS', () => {
  test('TCP is carried to its rule, TLS is passed through or ended by its server name', async () => {
    bench = new Bench()
    bench.secret('a', certificates.a)
    const tls = await freePort()
    bench.tell(routes('tcp', tcpRule), routes('pass', { ...tcpRule, serverNames: ['pass.test'] }), routes('end', tcpRule))
    await bench.listen(
      listener('tcp', port, { protocol: 'tcp' }), listener('pass', tls, { protocol: 'tls', hostname: 'pass.test', tls: { mode: 'passthrough', certificates: [] } }),
      listener('end', tls, { protocol: 'tls', hostname: 'a.test', tls: { mode: 'terminate', certificates: ['shop/a'] } }),
    )
    expect(await say(connectTcp({ port, host: '127.0.0.1', allowHalfOpen: true }), 'hi')).toBe('web - hi')
    const ended = connectTls({ port: tls, host: '127.0.0.1', servername: 'a.test', ca: root.pem })
    await once(ended, 'secureConnect')
    expect(await say(ended, 'secret')).toBe('web a.test secret')
    const through = connectTls({ port: tls, host: '127.0.0.1', servername: 'pass.test' })
    through.on('error', () => {})
    await expect.poll(() => bench.contexts.at(-1)?.serverName).toBe('pass.test')
    expect(bench.contexts.at(-1)?.target).toMatchObject({ listener: { name: 'pass' } })
    through.destroy()
  })
})

describe('PROXY protocol', () => {
  const line = 'PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n'
  const get = 'GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n'
  const client = (): string | undefined => bench.contexts.at(-1)?.caller.address.ip

  test('required: the header names the client, however it is cut; nobody comes in without', async () => {
    bench = new Bench({ proxyProtocol: 'required' })
    await bench.listen(listener('any', port))
    expect(await say(connectTcp(port, '127.0.0.1'), line + get)).toContain('any http1')
    expect(client()).toBe('203.0.113.9')
    expect(await say(connectTcp(port, '127.0.0.1'), line.slice(0, 9), line.slice(9) + get.slice(0, 5), get.slice(5))).toContain('any http1')
    expect(await say(connectTcp(port, '127.0.0.1'), get)).toBe('reset')
    expect(await say(connectTcp(port, '127.0.0.1'), 'PROXY TCP4 1.2.3 127.0.0.1 1 2\r\n', get)).toBe('reset')
    expect(await closed(connectTcp(port, '127.0.0.1'))).toBe(true)
    expect(new Set(bench.refused)).toEqual(new Set(['proxyHeader']))
  })

  test('optional, before TLS, and only from who may', async () => {
    bench = new Bench({ proxyProtocol: 'optional', proxyProtocolFrom: ['127.0.0.1/32'] })
    bench.secret('a', certificates.a)
    await bench.listen(https('a', port, undefined, 'a'))
    expect(await curl('--haproxy-clientip', '203.0.113.7', '-k', `https://127.0.0.1:${port}/`)).toMatch(/^(a http2 https 200|exit 2)$/)
    expect(await curl('--haproxy-protocol', '-k', `https://127.0.0.1:${port}/`)).toBe('a http2 https 200')
    expect(await curl('-k', `https://127.0.0.1:${port}/`)).toBe('a http2 https 200')
    const raw = connectTcp(port, '127.0.0.1')
    await once(raw, 'connect')
    raw.write(line)
    const tls = connectTls({ socket: raw, servername: 'a.test', ca: root.pem, ALPNProtocols: ['http/1.1'] })
    await once(tls, 'secureConnect')
    expect(await say(tls, get)).toContain('a http1 https')
    expect(client()).toBe('203.0.113.9')
    // Another address's header is not read as one.
    expect(await curl('--haproxy-protocol', '-k', `https://[::1]:${port}/`)).toMatch(/^exit/)
  })
})

test('the listener of a host: exact, the longest wildcard, then any, whatever the order', () => {
  const names = ['a.test', 'b.a.test', '*.test', '*.a.test', '*.b.a.test', undefined]
  const host = fc.array(fc.constantFrom('a', 'b', 'c', 'test'), { minLength: 1, maxLength: 4 }).map((parts) => parts.join('.'))
  fc.assert(fc.property(fc.shuffledSubarray(names), host, (some, asked) => {
    const of = (name: string | undefined): number => {
      if (name === undefined) return 0
      if (!name.startsWith('*')) return name === asked ? 1_000 : -1
      return asked.endsWith(name.slice(1)) && asked.length >= name.length ? name.length : -1
    }
    const [best] = some.map((name) => ({ name })).sort((x, y) => of(y.name) - of(x.name))
    const found = new PortListeners(1, some.map((hostname, i) => listener(String(i), 1, hostname === undefined ? {} : { hostname }))).of(asked)
    expect(found && { name: found.hostname }).toEqual(best && of(best.name) >= 0 ? best : undefined)
  }))
})

test('names of certificates are not taken for several', () => {
  expect(alternativeNames('DNS:a.test, URI:spiffe://x/y, IP Address:10.0.0.1')).toEqual([['DNS', 'a.test'], ['URI', 'spiffe://x/y'], ['IP Address', '10.0.0.1']])
  expect(alternativeNames('DNS:"a.test, DNS:b.test", URI:x')).toEqual([['DNS', 'a.test, DNS:b.test'], ['URI', 'x']])
  expect(alternativeNames('')).toEqual([])
  fc.assert(fc.property(fc.string(), (text) => {
    alternativeNames(text)
  }))
})
