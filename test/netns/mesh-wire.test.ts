// What is on the wire between the nodes, seen by tcpdump on the link of one of them: nothing of captured pods but TLS 1.3 on
// 15008. Then who gets in without it: everybody under PERMISSIVE, nobody under STRICT, at each level that STRICT can be said at.
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { underlayIps } from '../../src/local/addresses.ts'
import { isClosed, runProbe, startProbe, startServer } from '../helpers/apps.ts'
import type { RunningServer } from '../helpers/apps.ts'
import { Capture, helloOf, streamsOf, tlsRecords } from '../helpers/capture.ts'
import type { Packet, Stream } from '../helpers/capture.ts'
import { eventually } from '../helpers/meshed-world.ts'
import { TunnelWorld, policyYaml } from '../helpers/tunnel-world.ts'
import { serviceYaml } from '../helpers/world.ts'

const MiB = 1024 * 1024
const port = { echo: 7001, banner: 7002, bulk: 7006 } as const
const captured = ['near', 'far', 'vault'] as const
const tls13 = 0x0304
/** The link of node-a to all others. */
const link = 'node1'

let world: TunnelWorld
let capture: Capture
const servers = new Map<string, RunningServer>()

beforeAll(async () => {
  world = await TunnelWorld.start({
    client: { node: 'node-a' },
    near: { node: 'node-a' },
    far: { node: 'node-b' },
    vault: { node: 'node-b', namespace: 'bank' },
    stranger: { node: 'node-a', namespace: 'plain' },
  }, {
    namespaces: { plain: {} },
    yaml: [serviceYaml('far', [{ port: 80, targetPort: port.echo }], { clusterIP: '10.96.0.60' }, 'shop')],
  })
  // Before any tunnel is there, so that each is seen from its first byte.
  capture = await Capture.start(world.netns('outside'), link)
  for (const name of [...captured, 'stranger']) {
    const options = Object.entries(port).flatMap(([manner, number]) => [`--${manner}`, number])
    servers.set(name, await startServer([...options, '--log'], world.inside(name)))
  }
})
afterAll(async () => {
  for (const server of servers.values()) await server.stop()
  await capture?.[Symbol.asyncDispose]()
  await world?.[Symbol.asyncDispose]()
})

const packets = async (): Promise<readonly Packet[]> => capture.packets('172.30.0.1')
const seen = (list: readonly Packet[], text: string): boolean => streamsOf(list).some(({ bytes }) => bytes.includes(text)) || list.some(({ payload }) => payload.includes(text))
const newMarker = (): string => `marker-${randomBytes(12).toString('hex')}`
const underlay: readonly string[] = Object.values(underlayIps)
const isControlPlane = ({ source, destination }: Packet): boolean => [source, destination].some(({ ip, port: number }) => underlay.includes(ip) && number === 15_012)
const isTunnel = ({ source, destination }: Pick<Packet, 'source' | 'destination'>): boolean => source.port === 15_008 || destination.port === 15_008

/** As both ends must speak it: one Hello in the clear, then nothing but what is encrypted. */
function expectTls13(stream: Stream): void {
  const { records, rest } = tlsRecords(stream)
  expect(stream.isWhole).toBe(true)
  expect(rest.length).toBe(0)
  // Handshake, change_cipher_spec for middleboxes (RFC 8446, D.4), application data; alerts are application data to an onlooker.
  expect(records.map(({ contentType }) => contentType).join(' ')).toMatch(/^22( 20)?( 23)+$/)
  const [first, ...others] = records
  if (!first) throw new Error('no record')
  // 0x0301 in a first ClientHello is for old servers (RFC 8446, 5.1); the version that counts is in the extension.
  expect([0x0301, 0x0303]).toContain(first.version)
  expect(new Set(others.map(({ version }) => version))).toEqual(new Set([0x0303]))
  const hello = helloOf(first)
  expect(hello.kind).toBe(stream.destination.port === 15_008 ? 1 : 2)
  expect(hello.versions).toEqual([tls13])
  // No server name: whom a pod talks to is nobody's business.
  expect(hello.extensions.has(0)).toBe(false)
}

test('between nodes nothing but TLS 1.3 on 15008, and no marker: by pod, service and both families, either way', async () => {
  const marker = newMarker()
  for (const host of [world.ip('far'), world.ip('far', 6)]) {
    expect(await world.connect('client', host, port.echo, ['--send', marker])).toMatchObject({ ok: true, reply: marker })
    expect((await world.connect('client', host, port.banner, ['--expect-banner', '--send', marker])).banner).toMatch(/^hello /)
  }
  expect(await world.connect('client', '10.96.0.60', 80, ['--send', marker])).toMatchObject({ ok: true, reply: marker })
  expect(await world.connect('far', 'near', port.echo, ['--send', marker])).toMatchObject({ ok: true, reply: marker })
  const bulk = await runProbe('bulk', [world.ip('far'), port.bulk, 'both', 4 * MiB], world.inside('client'))
  expect(bulk).toMatchObject({ ok: true, received: 4 * MiB })

  const all = (await packets()).filter((packet) => !isControlPlane(packet))
  // Neighbours are found by ARP and ICMPv6; everything else that leaves the node is a tunnel.
  const others = all.filter((packet) => !['arp', 'icmp6'].includes(packet.protocol) && !(packet.protocol === 'tcp' && isTunnel(packet)))
  expect(others).toEqual([])
  for (const text of [marker, 'hello ', 'spiffe://', 'CONNECT', 'both 4194304']) expect(seen(all, text), text).toBe(false)

  const streams = streamsOf(all)
  for (const stream of streams) expectTls13(stream)
  // Both directions of: client to far in each family, and far to near.
  const ends = new Set(streams.map(({ source, destination }) => [source, destination].map(({ ip, port: number }) => `${ip} ${number === 15_008 ? 'tunnel' : 'any'}`).join(' > ')))
  for (const [from, to] of [[world.ip('client'), world.ip('far')], [world.ip('client', 6), world.ip('far', 6)], [world.ip('far'), world.ip('near')]]) {
    expect(ends).toContain(`${from} any > ${to} tunnel`)
    expect(ends).toContain(`${to} tunnel > ${from} any`)
  }
  const carried = streams.reduce((sum, { bytes }) => sum + bytes.length, 0)
  expect(carried).toBeGreaterThan(2 * 4 * MiB)
})

test('who is not captured is served in plain text, and that can be seen: so the capture would have shown a marker', async () => {
  const marker = newMarker()
  expect(await world.connect('stranger', 'far', port.echo, ['--send', marker])).toMatchObject({ ok: true, reply: marker })
  const all = await packets()
  expect(seen(all, marker)).toBe(true)
  // Nor does the mesh hide what leaves it.
  const leaving = newMarker()
  await using outside = await startServer(['--echo', port.echo], world.inside('outside'))
  expect(await world.connect('client', 'outside', outside.port('echo'), ['--send', leaving])).toMatchObject({ ok: true, reply: leaving })
  expect(seen(await packets(), leaving)).toBe(true)
})

describe('STRICT refuses plain text and nothing else', () => {
  const strict = { mtls: { mode: 'STRICT' } }
  const permissive = { mtls: { mode: 'PERMISSIVE' } }
  const far = { selector: { matchLabels: { app: 'far' } } }
  const peer = (namespace: string, spec: object, name = 'auth'): string => policyYaml('PeerAuthentication', namespace, name, spec)

  const cases: readonly (readonly [string, readonly string[], readonly string[], readonly string[]])[] = [
    // What is said, who refuses plain text then, who does not: as pod:port.
    ['in the mesh', [peer('sidestep-system', strict)], ['near:7001', 'far:7001', 'vault:7001'], []],
    ['in Istio\'s root namespace', [peer('istio-system', strict)], ['near:7001', 'far:7001', 'vault:7001'], []],
    ['in a namespace', [peer('shop', strict)], ['near:7001', 'far:7001', 'far:7002'], ['vault:7001']],
    ['of a workload', [peer('shop', { ...far, ...strict })], ['far:7001', 'far:7002'], ['near:7001', 'vault:7001']],
    ['of a port', [peer('shop', { ...far, ...permissive, portLevelMtls: { 7001: { mode: 'STRICT' } } })], ['far:7001'], ['far:7002', 'near:7001']],
    ['but for a port', [peer('shop', strict), peer('shop', { ...far, portLevelMtls: { 7001: { mode: 'PERMISSIVE' } } }, 'but')], ['far:7002', 'near:7001'], ['far:7001']],
    ['but for a workload', [peer('sidestep-system', strict), peer('shop', { ...far, ...permissive }, 'but')], ['near:7001', 'vault:7001'], ['far:7001', 'far:7002']],
    ['but for a namespace', [peer('sidestep-system', strict), peer('bank', { mtls: { mode: 'DISABLE' } })], ['near:7001', 'far:7001'], ['vault:7001']],
  ]

  async function served(from: string, places: readonly string[]): Promise<string[]> {
    const answers = await Promise.all(places.map((place) => {
      const [to = '', number] = place.split(':')
      return number === String(port.echo) ? world.reaches(from, to, port.echo) : world.connect(from, to, port.banner, ['--expect-banner']).then(({ banner = '' }) => banner.startsWith('hello'))
    }))
    return places.filter((_, i) => answers[i])
  }

  test.each(cases)('%s', async (_where, policies, refusing, serving) => {
    const places = [...refusing, ...serving]
    expect(await served('stranger', places)).toEqual(places)
    for (const policy of policies) world.mesh.apply(policy)
    try {
      await eventually('STRICT is in force where it was said', async () => (await served('stranger', refusing)).length === 0)
      expect(await served('stranger', serving)).toEqual(serving)
      expect(await served('outside', places)).toEqual(serving)
      expect(await served('client', places)).toEqual(places)
    } finally {
      for (const policy of policies) world.mesh.unapply(keyOf(policy))
    }
    await eventually('it is taken back', async () => (await served('stranger', places)).length === places.length)
  })

  const keyOf = (policy: string): string => {
    const [, name = '', namespace = ''] = /name: (\S+)\n {2}namespace: (\S+)/.exec(policy) ?? []
    return `PeerAuthentication ${namespace}/${name}`
  }

  test('no byte of who is refused reaches the application; it is logged and counted with its reason; what stood is cut', async () => {
    const ended = (): number => servers.get('far')?.process.lines.filter(isClosed).length ?? 0
    await using plain = await startProbe('many', [world.ip('far'), port.echo, 3, '--echo', '--hold', 20], world.inside('stranger'))
    await using meshed = await startProbe('many', [world.ip('far'), port.echo, 3, '--echo', '--hold', 3], world.inside('client'))
    await eventually('all six stand', async () => (await world.connections('node-b')).length === 6)
    const logged = world.logged('node-b', { direction: 'inbound', 'dst.workload': 'far', verdict: 'denied' })
    const cut = world.logged('node-b', { direction: 'inbound', 'dst.workload': 'far', reason: 'policyChanged' })
    const policy = peer('shop', strict)
    const stood = ended()
    world.mesh.apply(policy)
    try {
      await cut(3)
      expect(await world.connections('node-b')).toHaveLength(3)
      await eventually('their ends are seen by the application', async () => ended() === stood + 3)
      const before = ended()
      const refusals = await world.metric('node-b', 'sidestep_refusals_total')
      expect(await world.connect('stranger', 'far', port.echo, ['--send', 'in the clear'])).toMatchObject({ ok: false, errno: 'ECONNRESET' })
      const [line] = await logged()
      expect(line).toMatchObject({ 'src.workload': 'stranger', verdict: 'denied', code: 'POLICY_DENIED' })
      expect(line?.['policy']).toMatch(/strict/)
      expect(await world.metric('node-b', 'sidestep_refusals_total', { because: String(line?.['reason']) })).toBeGreaterThan(0)
      expect(await world.metric('node-b', 'sidestep_refusals_total')).toBe(refusals + 1)
      expect(ended()).toBe(before)
      expect(await meshed.ended).toMatchObject({ status: 0 })
      expect(meshed.lines.at(-1)).toMatchObject({ ok: true, alive: 3 })
    } finally {
      world.mesh.unapply(keyOf(policy))
    }
    await plain.stop()
  })
})
