// Against the tunnels of a mesh that serves others all the while: every certificate that must not be believed, valid ones that
// ask for what is not theirs, servers that are not who they should be, revocation, silence by the thousand and floods. Each is
// refused and counted under its reason, and nobody else notices.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import type http2 from 'node:http2'
import type { Socket } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import { TLSSocket, createSecureContext } from 'node:tls'
import type { ConnectionOptions } from 'node:tls'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { RawPeer, field, frame, type, u32 } from '../../src/hbone/testing-frames.ts'
import { isClosed, runProbe, startProbe, startServer } from '../helpers/apps.ts'
import type { RunningServer } from '../helpers/apps.ts'
import { ForgingCa, Hostile, showing, statusOf } from '../helpers/hostile.ts'
import type { Stolen } from '../helpers/hostile.ts'
import type { LineProcess } from '../helpers/line-process.ts'
import { eventually } from '../helpers/meshed-world.ts'
import { TunnelWorld, policyYaml } from '../helpers/tunnel-world.ts'
import { inNetns, serviceYaml } from '../helpers/world.ts'

const day = 86_400_000
/** The record says that more follows. */
const halfHello = Buffer.from('1603010200010001fc0303', 'hex')
const port = { echo: 7001, banner: 7002 } as const
/** The clients whose connections stand through everything. */
const standing = 20

let world: TunnelWorld
let server: RunningServer
let hostile: Hostile
let ca: ForgingCa
let lookalike: ForgingCa
let bystanders: LineProcess

beforeAll(async () => {
  world = await TunnelWorld.start({
    client: { node: 'node-a' },
    late: { node: 'node-a' },
    thief: { node: 'node-a' },
    server: { node: 'node-b' },
    victim: { node: 'node-b' },
    doomed: { node: 'node-b' },
    stranger: { node: 'node-a', namespace: 'plain' },
  }, {
    namespaces: { plain: {} },
    yaml: [
      serviceYaml('server', [{ port: 80, targetPort: port.echo }], {}, 'shop'), serviceYaml('victim', [{ port: 80, targetPort: port.echo }], {}, 'shop'),
      policyYaml('AuthorizationPolicy', 'shop', 'no-thieves', { action: 'DENY', rules: [{ from: [{ source: { serviceAccounts: ['thief'] } }] }] }),
    ],
  })
  await world.inForce('shop/no-thieves')
  ca = await ForgingCa.ofMesh(world)
  lookalike = await ForgingCa.lookingLike(ca)
  server = await startServer(['--echo', port.echo, '--banner', port.banner, '--log'], world.inside('server'))
  bystanders = await startProbe('many', [world.ip('server'), port.echo, standing, '--echo', '--hold', 600], world.inside('client', { timeoutMs: 600_000 }))
  await eventually('the bystanders stand', async () => await bystandersLeft() === standing)
})
afterAll(async () => {
  await bystanders?.stop()
  await server?.stop()
  await world?.[Symbol.asyncDispose]()
})
beforeEach(() => {
  hostile = new Hostile(world)
})
afterEach(async () => {
  await hostile[Symbol.asyncDispose]()
  // Nobody's connection was cut, and new ones are made as before.
  expect(await bystandersLeft()).toBe(standing)
  expect(await world.reaches('client', 'server', port.echo)).toBe(true)
})

async function bystandersLeft(): Promise<number> {
  const [from, to] = [`${world.ip('client')}:`, `${world.ip('server')}:${port.echo}`]
  return (await world.connections('node-b')).filter(({ source, destination }) => source.addr.startsWith(from) && destination.addr === to).length
}

/** Waits until a series of that name and reason has grown by `count` at least since it was called. */
async function growing(
  node: 'node-a' | 'node-b', name: string, labels: Readonly<Record<string, string>>, count = 1,
): Promise<() => Promise<unknown>> {
  const before = await world.metric(node, name, labels)
  return () => eventually(`${name} ${JSON.stringify(labels)} of ${node} grows by ${count}`, async () => await world.metric(node, name, labels) >= before + count)
}

/** However it ends. */
const closed = (socket: Socket): Promise<void> => new Promise((resolve) => {
  if (socket.closed) resolve()
  else socket.once('close', () => resolve())
})
const me = (): string => world.identity('client')

describe('at the door of a pod', () => {
  const cases: readonly (readonly [string, string, () => Promise<ConnectionOptions>])[] = [
    ['another trust domain', 'wrongTrustDomain', async () => showing(await ca.leaf('spiffe://evil.example/ns/shop/sa/client'))],
    ['expired', 'expired', async () => showing(await ca.leaf(me(), { notBeforeMs: Date.now() - 2 * day, notAfterMs: Date.now() - 60_000 }))],
    ['not valid yet', 'notYetValid', async () => showing(await ca.leaf(me(), { notBeforeMs: Date.now() + 3_600_000, notAfterMs: Date.now() + day }))],
    ['signed by itself', 'selfSigned', async () => showing(await ForgingCa.selfSigned(me()))],
    ['of a CA that looks like ours', 'badSignature', async () => showing(await lookalike.leaf(me()))],
    ['signed with a workload\'s certificate', 'notACa', async () => showing(await ca.belowLeaf(world.identity('thief'), me()))],
    ['none', 'noCertificate', async () => ({})],
    ['without an identity', 'noIdentity', async () => showing(await ca.leaf(me(), { names: [{ type: 'dns', value: 'client.shop.svc' }] }))],
    ['of a name that is no identity', 'noIdentity', async () => showing(await ca.leaf('spiffe://cluster.local/admin'))],
    ['with two identities', 'severalIdentities', async () => {
      const names = [me(), world.identity('thief')].map((value) => ({ type: 'url' as const, value }))
      return showing(await ca.leaf(me(), { names }))
    }],
    ['for servers only', 'wrongUsage', async () => showing(await ca.leaf(me(), { extended: ['1.3.6.1.5.5.7.3.1'] }))],
    ['of a CA', 'leafIsCa', async () => showing(await ca.leaf(me(), { ca: true }))],
    ['good, in TLS 1.2', 'protocolVersion', async () => ({ ...showing(await ca.leaf(me())), maxVersion: 'TLSv1.2' })],
    ['good, for HTTP/1.1', 'alpn', async () => ({ ...showing(await ca.leaf(me())), ALPNProtocols: ['http/1.1'] })],
  ]
  test.each(cases)('a certificate: %s', async (_what, because, options) => {
    for (const [from, family] of [['stranger', 4], ['outside', 6]] as const) {
      const counted = await growing('node-b', 'sidestep_hbone_handshake_failures_total', { side: 'server', because })
      const tls = await hostile.tls(from, world.ip('server', family), await options())
      let received = 0
      tls.on('data', (chunk: Buffer) => (received += chunk.length))
      // In TLS 1.3 a client is done before the server has looked at its certificate, and may speak.
      tls.on('secureConnect', () => tls.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'))
      await closed(tls)
      await counted()
      expect(received).toBe(0)
    }
  })

  test.each([
    ['HTTP', 'GET / HTTP/1.1\r\nhost: a\r\n\r\n', 'plaintext'], ['HTTP/2 without TLS', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'notTls'],
    ['random bytes', randomBytes(4_096), 'notTls'], ['half a Hello', halfHello, 'closed'],
  ] as const)('no TLS at all: %s', async (_what, bytes, because) => {
    const counted = await growing('node-b', 'sidestep_hbone_handshake_failures_total', { side: 'server', because })
    const socket = await hostile.tcp('stranger', world.ip('server'))
    let received = Buffer.alloc(0)
    socket.on('data', (chunk: Buffer) => (received = Buffer.concat([received, chunk])))
    socket.write(bytes)
    if (because === 'closed') socket.end()
    await closed(socket)
    await counted()
    // At most an alert.
    expect(received.length).toBeLessThan(16)
  })

  test.each([15_001, 15_006, 15_053])('port %i of the ztunnel itself, in both families and from everywhere', async (number) => {
    for (const from of ['stranger', 'outside', 'client']) {
      for (const host of [world.ip('server'), world.ip('server', 6)]) {
        const counted = await growing('node-b', 'sidestep_refusals_total', { because: 'selfCall' })
        const result = await world.connect(from, host, number, ['--send', 'x'])
        expect(result.reply ?? '').toBe('')
        await counted()
      }
    }
  })

  test('a captured pod that asks its own ztunnel for another\'s tunnel port', async () => {
    const counted = await growing('node-b', 'sidestep_refusals_total', { because: 'selfCall' })
    expect(await world.connect('client', 'server', 15_008, ['--send', 'x'])).toMatchObject({ ok: false, errno: 'ECONNRESET' })
    await counted()
  })
})

describe('with a certificate that is good', () => {
  let session: http2.ClientHttp2Session
  beforeEach(async () => {
    session = await hostile.session('outside', world.ip('server'), await ca.leaf(me()))
  })
  afterEach(() => session.destroy())
  const ask = (authority: string): Promise<number | 'reset'> => statusOf(session, { ':method': 'CONNECT', ':authority': authority })

  test('the pod\'s own address and services are served: so what follows could be', async () => {
    for (const authority of [`${world.ip('server')}:7001`, `[::ffff:${world.ip('server')}]:7001`, 'server.shop.svc.cluster.local:80']) {
      expect(await ask(authority), authority).toBe(200)
    }
  })

  test.each<[string, () => string, number, string]>([
    ['another pod of the node', () => `${world.ip('victim')}:7001`, 400, 'ipMismatch'],
    ['another pod in IPv6', () => `[${world.ip('victim', 6)}]:7001`, 400, 'ipMismatch'],
    ['the pod itself in the other family', () => `[${world.ip('server', 6)}]:7001`, 400, 'ipMismatch'],
    ['a pod of another node', () => `${world.ip('client')}:7001`, 400, 'ipMismatch'],
    ['the node', () => '172.30.0.2:15000', 400, 'ipMismatch'],
    ['the control plane', () => '172.30.255.254:15012', 400, 'ipMismatch'],
    ['loopback', () => '127.0.0.1:7001', 400, 'ipMismatch'],
    ['loopback in IPv6', () => '[::1]:7001', 400, 'ipMismatch'],
    ['any address', () => '0.0.0.0:7001', 400, 'ipMismatch'],
    ['cloud metadata', () => '169.254.169.254:80', 400, 'ipMismatch'],
    ['the ztunnel\'s outbound port', () => `${world.ip('server')}:15001`, 400, 'selfCall'],
    ['the ztunnel\'s inbound port', () => `${world.ip('server')}:15006`, 400, 'selfCall'],
    ['the ztunnel\'s tunnel port', () => `${world.ip('server')}:15008`, 400, 'selfCall'],
    ['the ztunnel\'s DNS port', () => `${world.ip('server')}:15053`, 400, 'selfCall'],
    ['a service of others', () => 'victim.shop.svc.cluster.local:80', 503, 'notServedHere'],
    ['a service that nobody has', () => 'nobody.example.com:80', 503, 'notServedHere'],
    ['a port that the service does not have', () => 'server.shop.svc.cluster.local:81', 503, 'notServedHere'],
    ['a port where nobody listens', () => `${world.ip('server')}:7999`, 503, 'CONNECT_REFUSED'],
  ])('it may not have %s', async (_what, authority, status, because) => {
    const refused = await growing('node-b', 'sidestep_refusals_total', { because })
    expect(await ask(authority())).toBe(status)
    await refused()
  })

  test.each<[string, http2.OutgoingHttpHeaders, string]>([
    ['GET', { ':method': 'GET', ':path': '/' }, 'notConnect'],
    ['no port', { ':method': 'CONNECT', ':authority': '10.0.0.2' }, 'badAuthority'],
    ['a port out of range', { ':method': 'CONNECT', ':authority': '10.0.0.2:70000' }, 'badAuthority'],
    ['something to log', { ':method': 'CONNECT', ':authority': '%0d%0a:1' }, 'badAuthority'],
  ])('it may not ask for %s', async (_what, headers, because) => {
    const refused = await growing('node-b', 'sidestep_hbone_streams_refused_total', { side: 'server', because })
    expect(await statusOf(session, headers)).toBe(400)
    await refused()
  })

  test('of an identity that a policy denies: 401, and whatever it claims in headers changes nothing', async () => {
    const thief = await hostile.session('outside', world.ip('server'), await ca.leaf(world.identity('thief')))
    const refused = await growing('node-b', 'sidestep_refusals_total', { because: 'denyPolicy' })
    const logged = world.logged('node-b', { direction: 'inbound', verdict: 'denied', 'src.identity': world.identity('thief') })
    expect(await statusOf(thief, {
      ':method': 'CONNECT', ':authority': `${world.ip('server')}:7001`,
      baggage: 'k8s.namespace.name=shop,k8s.pod.name=client', forwarded: `for="${world.ip('client')}:1"`, 'x-forwarded-client-cert': `URI=${me()}`,
    })).toBe(401)
    await refused()
    const [line] = await logged()
    // The client is who connected, not who a header names.
    expect(line?.['src.addr']).toMatch(/^172\.30\.255\.254:/)
    expect(line?.['src.workload']).not.toBe('client')
    thief.destroy()
  })
})

describe('revocation', () => {
  test('cuts the connections of that certificate, and lets it in no more; another of the same identity goes on', async () => {
    const [revoked, other] = [await ca.leaf(me()), await ca.leaf(me())]
    const open = async (stolen: Stolen): Promise<http2.ClientHttp2Stream> => {
      const session = await hostile.session('outside', world.ip('server'), stolen)
      const stream = session.request({ ':method': 'CONNECT', ':authority': `${world.ip('server')}:7001` }, { endStream: false })
      await once(stream, 'response')
      stream.on('error', () => {}) // being cut is what is wanted
      return stream
    }
    const [cut, kept] = [await open(revoked), await open(other)]
    const ended = await growing('node-b', 'sidestep_hbone_connections_closed_total', { side: 'server', because: 'revoked' })
    await world.controlPlane('POST', '/revoke', { serial: revoked.serial })
    await eventually('its stream is cut', async () => cut.closed)
    await ended()
    kept.write('still there')
    expect(String((await once(kept, 'data'))[0])).toBe('still there')

    const refused = await growing('node-b', 'sidestep_hbone_handshake_failures_total', { side: 'server', because: 'revoked' })
    const rejected = await growing('node-b', 'istio_crl_policy_rejections_total', { reporter: 'destination' })
    await closed(await hostile.tls('outside', world.ip('server'), showing(revoked)))
    await refused()
    await rejected()
    kept.session?.destroy()
  })

  test('of a pod that serves: the connections to it are cut, and its ztunnel gets it another certificate at once', async () => {
    await using _doomed = await startServer(['--echo', port.echo], world.inside('doomed'))
    await using held = await startProbe('many', [world.ip('doomed'), port.echo, 5, '--echo', '--hold', 60], world.inside('client', { timeoutMs: 70_000 }))
    const left = async (): Promise<number> => (await world.connections('node-a')).filter(({ destination }) => destination.workload === 'doomed').length
    const serial = async (): Promise<string | undefined> => {
      const all = await world.admin('node-b', '/certificates') as readonly { readonly identity: string; readonly serial: string }[]
      return all.find(({ identity }) => identity === world.identity('doomed'))?.serial
    }
    await eventually('five stand', async () => await left() === 5)
    const before = await serial()
    const cut = await growing('node-a', 'sidestep_hbone_connections_closed_total', { side: 'client', because: 'revoked' })
    await world.controlPlane('POST', '/revoke', { serial: before })
    await cut()
    await eventually('all are cut', async () => await left() === 0)
    await eventually('it is served with a new certificate', () => world.reaches('client', 'doomed', port.echo))
    expect(await serial()).not.toBe(before)
    await held.stop()
  })
})

describe('a server in the place of another', () => {
  const hijacked = '172.30.0.2'
  beforeAll(async () => {
    // Somebody on the path: what is meant for the victim's tunnel port goes to the node's own.
    const rules = [
      'add table ip hijack', 'add chain ip hijack pre { type nat hook prerouting priority -150; }',
      `add rule ip hijack pre ip daddr ${world.ip('victim')} tcp dport 15008 dnat to ${hijacked}:15008`,
    ]
    await inNetns(world.netns('node-b'), ['nft', rules.join('; ')])
  })
  afterAll(() => inNetns(world.netns('node-b'), ['nft', 'delete', 'table', 'ip', 'hijack']))

  /** Serves TLS as told; what a client says inside of it is collected. */
  async function impostor(stolen: Stolen, maxVersion?: 'TLSv1.2'): Promise<{ readonly heard: Buffer[]; readonly seen: () => number }> {
    const heard: Buffer[] = []
    let seen = 0
    const secureContext = createSecureContext({ ...showing(stolen), ...(maxVersion && { maxVersion }) })
    await hostile.listen('node-b', hijacked, 15_008, (socket) => {
      seen++
      const tls = new TLSSocket(socket, { isServer: true, secureContext, requestCert: true, rejectUnauthorized: false, ALPNProtocols: ['h2'] })
      tls.on('error', () => {}).on('data', (chunk: Buffer) => heard.push(chunk))
    })
    return { heard, seen: () => seen }
  }

  const cases: readonly (readonly [string, string, () => Promise<Stolen>, 'TLSv1.2'?])[] = [
    ['another identity of the mesh', 'identityMismatch', () => ca.leaf(world.identity('thief'))],
    ['the identity of the client itself', 'identityMismatch', () => ca.leaf(me())],
    ['the right identity by a CA that looks like ours', 'badSignature', () => lookalike.leaf(world.identity('victim'))],
    ['the right identity, expired', 'expired', () => ca.leaf(world.identity('victim'), { notBeforeMs: Date.now() - 2 * day, notAfterMs: Date.now() - 1_000 })],
    ['the right account of another trust domain', 'wrongTrustDomain', () => ca.leaf('spiffe://evil.example/ns/shop/sa/victim')],
    ['the right identity, for clients only', 'wrongUsage', () => ca.leaf(world.identity('victim'), { extended: ['1.3.6.1.5.5.7.3.2'] })],
    ['the right identity in TLS 1.2', 'protocolVersion', () => ca.leaf(world.identity('victim')), 'TLSv1.2'],
  ]
  for (const [what, because, stolen, maxVersion] of cases) {
    test(`that proves ${what} hears nothing`, async () => {
      const { heard, seen } = await impostor(await stolen(), maxVersion)
      const counted = await growing('node-a', 'sidestep_hbone_handshake_failures_total', { side: 'client', because })
      expect(await world.connect('client', 'victim', port.echo, ['--send', 'my secret'])).toMatchObject({ ok: false, errno: 'ECONNRESET' })
      await counted()
      expect(seen()).toBeGreaterThan(0)
      expect(Buffer.concat(heard).length).toBe(0)
    })
  }

  test('that has stolen the right certificate hears what is said: so the others could have', async () => {
    const { heard } = await impostor(await ca.leaf(world.identity('victim')))
    await using _client = await startProbe('connect', [world.ip('victim'), port.echo, '--send', 'my secret'], world.inside('client'))
    await eventually('a request is heard', async () => Buffer.concat(heard).includes('PRI * HTTP/2.0'))
  })

  test.each<[string, (socket: Socket) => unknown]>([
    ['speaks plain text', (socket) => socket.write('HTTP/1.1 200 OK\r\n\r\n')], ['hangs up', (socket) => socket.destroy()],
  ])(
    'that %s hears nothing but a Hello', async (_what, act) => {
      const heard: Buffer[] = []
      await hostile.listen('node-b', hijacked, 15_008, (socket) => {
        socket.on('data', (chunk: Buffer) => heard.push(chunk))
        act(socket)
      })
      const failed = world.logged('node-a', { direction: 'outbound', verdict: 'failed', 'dst.workload': 'victim' })
      expect(await world.connect('client', 'victim', port.echo, ['--send', 'my secret'])).toMatchObject({ ok: false })
      await failed()
      expect(Buffer.concat(heard).includes('my secret')).toBe(false)
    })
})

describe('floods', () => {
  const peer = async (): Promise<RawPeer> => RawPeer.connect(await hostile.tcp('outside', world.ip('server')), await ca.leaf(me()))
  const connectBlock = (): Buffer => Buffer.concat([field(':method', 'CONNECT'), field(':authority', `${world.ip('server')}:7001`)])

  /** Sends until the server has had enough. */
  async function flood(make: (i: number) => Buffer[]): Promise<void> {
    const raw = await peer()
    for (let i = 0; i < 50_000 && !raw.socket.destroyed && raw.goaways.length === 0; i++) {
      raw.send(...make(i))
      if (i % 50 === 49) await turn()
    }
    await closed(raw.socket)
  }

  const floods: readonly (readonly [string, (i: number) => Buffer[], string, string])[] = [
    ['PING', () => [frame(type.ping, 0, 0, Buffer.alloc(8))], 'sidestep_hbone_floods_total', 'pingFlood'],
    ['SETTINGS', () => [frame(type.settings, 0, 0)], 'sidestep_hbone_floods_total', 'settingsFlood'],
    ['rapid reset', (i) => [frame(type.headers, 4, 2 * i + 1, connectBlock()), frame(type.reset, 0, 2 * i + 1, u32(8))], 'sidestep_hbone_floods_total', 'rapidReset'],
    ['CONTINUATION', (i) => [frame(i === 0 ? type.headers : type.continuation, 0, 1, field(`x-${i}`, 'y'.repeat(100)))], 'sidestep_hbone_connections_closed_total', ''],
    ['empty CONTINUATION', (i) => [frame(i === 0 ? type.headers : type.continuation, 0, 1)], 'sidestep_hbone_connections_closed_total', ''],
  ]
  test.each(floods)('%s ends the connection of who floods', async (_what, make, name, because) => {
    const counted = await growing('node-b', name, because === '' ? { side: 'server' } : { because })
    await flood(make)
    await counted()
    // The applications are not left with connections of the flood.
    await eventually('nothing of it is carried', async () => (await world.connections('node-b')).every(({ source }) => !source.addr.startsWith('172.30.255.254:')))
  })

  test('2,000 silent connections, and 1,000 that begin a handshake: bounded, and who comes new is served meanwhile', async () => {
    const { pid } = await world.admin('node-b', '/state') as { pid: number }
    const files = (): number => readdirSync(`/proc/${pid}/fd`).length
    const before = files()
    const shed = await growing('node-b', 'sidestep_shed_total', { because: 'handshakes' }, 2_000)
    await using silent = await startProbe('many', [world.ip('server'), 15_008, 2_000, '--burst', 200, '--hold', 30], world.inside('stranger', { timeoutMs: 60_000 }))
    for (let i = 0; i < 20; i++) {
      const begun = await Promise.allSettled(Array.from({ length: 50 }, () => hostile.tcp('outside', world.ip('server'))))
      // Some are turned away at once.
      for (const each of begun) if (each.status === 'fulfilled') each.value.write(halfHello)
    }
    await shed()
    // A client that has no tunnel yet must shake hands in the middle of this.
    expect(await world.reaches('late', 'server', port.echo)).toBe(true)
    const crowd = await runProbe('many', [world.ip('server'), port.echo, 200, '--echo', '--timeout', 15_000], world.inside('late', { timeoutMs: 30_000 }))
    expect(crowd).toMatchObject({ ok: true, connected: 200, echoed: 200, failures: {} })
    expect(files() - before).toBeLessThan(1_000)
    await silent.stop()
    await hostile[Symbol.asyncDispose]()
    await eventually('its handshakes are over', async () => files() <= before + 50, 20_000)
  })
})

test('the application saw nobody but clients of the mesh and those with a good certificate', () => {
  const clients = server.process.lines.filter(isClosed).map(({ client }) => client.replace(/:\d+$/, ''))
  expect(clients.length).toBeGreaterThan(0)
  const known = [...['client', 'late'].map((name) => world.ip(name)), '172.30.255.254', '[fd00:172:30::ffff]']
  expect(clients.filter((client) => !known.includes(client))).toEqual([])
})
