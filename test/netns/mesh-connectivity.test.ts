// Captured pods reach whatever they could reach without a mesh: pods, services and what is outside, in both families, on their
// own node and on others. What is in the mesh is reached through tunnels, which the ztunnels' logs prove.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import type { ClosedEvent, ConnectResult } from '../helpers/app-results.ts'
import { isClosed, runProbe, startProbe, startServer } from '../helpers/apps.ts'
import type { RunningServer } from '../helpers/apps.ts'
import { eventually } from '../helpers/meshed-world.ts'
import { TunnelWorld, nodeNames } from '../helpers/tunnel-world.ts'
import { serviceYaml } from '../helpers/world.ts'

const MiB = 1024 * 1024
const port = { echo: 7001, banner: 7002, halfclose: 7004, bulk: 7006, reset: 7007, hold: 7011 } as const
const servers = ['near', 'far', 'plain', 'good', 'outside'] as const
const families = [4, 6] as const

/** A service of a fixed number in both families, for pods with the label `role: ROLE`. */
const service = (name: string, number: number, role: string, more: Record<string, unknown> = {}): string =>
  serviceYaml(name, [{ name: 'banner', port: 80, targetPort: port.banner }, { name: 'hold', port: 81, targetPort: port.hold }], {
    selector: { role }, ipFamilyPolicy: 'RequireDualStack', clusterIPs: [`10.96.0.${number}`, `fd00:10:96::${number}`], ...more,
  }, 'shop')
const vip = (number: number, family: 4 | 6 = 4): string => (family === 4 ? `10.96.0.${number}` : `fd00:10:96::${number}`)
const entryVip = (number: number, family: 4 | 6): string => (family === 4 ? `240.240.0.${number}` : `2001:db8::${number}`)

const entry = (name: string, number: number, spec: object): string => stringify({
  apiVersion: 'networking.istio.io/v1', kind: 'ServiceEntry', metadata: { name, namespace: 'shop' },
  spec: {
    hosts: [`${name}.example.com`], addresses: [entryVip(number, 4), entryVip(number, 6)], resolution: 'STATIC',
    ports: [{ number: 80, name: 'tcp', targetPort: port.banner }], ...spec,
  },
})
const workloadEntry = (name: string, address: string): string => stringify({
  apiVersion: 'networking.istio.io/v1', kind: 'WorkloadEntry', metadata: { name, namespace: 'shop' }, spec: { address, labels: { role: 'machine' } },
})

let world: TunnelWorld
const running = new Map<string, RunningServer>()

beforeAll(async () => {
  world = await TunnelWorld.start({
    client: { node: 'node-a' },
    other: { node: 'node-b' },
    near: { node: 'node-a', labels: { role: 'server' } },
    far: { node: 'node-b', labels: { role: 'server', only: 'far' } },
    good: { node: 'node-b', labels: { role: 'flaky' } },
    closed: { node: 'node-b', labels: { role: 'flaky' } },
    plain: { node: 'node-b', namespace: 'plain' },
  }, {
    namespaces: { plain: {} },
    yaml: [
      service('server', 50, 'server'),
      service('sticky', 51, 'server', { sessionAffinity: 'ClientIP' }),
      service('local', 52, 'server', { internalTrafficPolicy: 'Local' }),
      service('elsewhere', 53, 'server', { selector: { only: 'far' }, internalTrafficPolicy: 'Local' }),
      service('flaky', 54, 'flaky'),
      service('nobody', 55, 'nobody'),
      entry('machines', 1, { workloadSelector: { labels: { role: 'machine' } } }),
      workloadEntry('machine4', '172.30.255.254'), workloadEntry('machine6', 'fd00:172:30::ffff'),
      entry('listed', 2, { endpoints: [{ address: '172.30.255.254' }, { address: 'fd00:172:30::ffff' }] }),
      entry('broken', 4, { endpoints: [{ address: '172.30.255.254', ports: { tcp: 7999 } }, { address: 'fd00:172:30::ffff' }] }),
      entry('inside', 3, { location: 'MESH_INTERNAL', workloadSelector: { labels: { role: 'server' } } }),
    ],
  })
  for (const name of servers) {
    const options = Object.entries(port).flatMap(([manner, number]) => [`--${manner}`, number])
    running.set(name, await startServer([...options, '--log'], world.inside(name)))
  }
})
afterAll(async () => {
  for (const server of running.values()) await server.stop()
  await world?.[Symbol.asyncDispose]()
})

const shown = (ip: string): string => (ip.includes(':') ? `[${ip}]` : ip)

/** Who answered, and whom it saw: the server speaks first and the client says nothing before. */
async function greeting(from: string, host: string, number: number = port.banner): Promise<{ client: string; server: string; result: ConnectResult }> {
  const result = await world.connect(from, host, number, ['--expect-banner', '--send', 'thanks'])
  expect(result, `${from} to ${host}:${number}`).toMatchObject({ ok: true, reply: 'thanks', end: 'eof' })
  const [, client = '', server = ''] = /^hello (\S+):\d+ at (\S+):\d+/.exec(result.banner ?? '') ?? []
  return { client, server, result }
}

/** Which of the addresses answers, in several attempts. */
async function answering(from: string, host: string, attempts: number): Promise<Set<string>> {
  const found = await Promise.all(Array.from({ length: attempts }, () => greeting(from, host, 80)))
  return new Set(found.map(({ server }) => server))
}

const tunnelled = (to: string, family?: 4 | 6) => world.logged(world.node(to), {
  direction: 'inbound', 'dst.workload': to, 'src.identity': world.identity('client'), msg: 'connection complete',
  ...(family && { 'dst.addr': `${shown(world.ip(to, family))}:${port.banner}` }),
})

/** How connections to `server` in that manner ended, since it was called. */
function endsAt(server: string, mode: string): (count?: number) => Promise<readonly ClosedEvent[]> {
  const lines = running.get(server)?.process.lines ?? []
  const ofMode = (): ClosedEvent[] => lines.filter(isClosed).filter((event) => event.mode === mode)
  const before = ofMode().length
  return (count = 1) => eventually(`${count} ${mode} connections end at ${server}`, async () => {
    const ended = ofMode().slice(before)
    return ended.length >= count && ended
  })
}

describe.each(families)('IPv%i', (family) => {
  test.each(['near', 'far'] as const)('the address of a pod that is %s: through a tunnel, and the server sees the client\'s own address', async (to) => {
    const logged = tunnelled(to, family)
    const { client, server, result } = await greeting('client', world.ip(to, family))
    expect([client, server]).toEqual([shown(world.ip('client', family)), shown(world.ip(to, family))])
    // The application sees whom it asked for and its own address, too.
    expect(result.talking?.peer).toBe(`${shown(world.ip(to, family))}:${port.banner}`)
    expect(result.talking?.local).toContain(world.ip('client', family))
    const [line] = await logged()
    expect(line).toMatchObject({ 'dst.identity': world.identity(to), verdict: 'allowed' })
  })

  test('the address of a service leads to each of its endpoints, and stays the peer that the application sees', async () => {
    const expected = ['near', 'far'].map((name) => shown(world.ip(name, family)))
    expect(await answering('client', vip(50, family), 24)).toEqual(new Set(expected))
    const { result, client } = await greeting('client', vip(50, family), 80)
    expect(result.talking?.peer).toBe(`${shown(vip(50, family))}:80`)
    expect(client).toBe(shown(world.ip('client', family)))
  })

  test('what is outside and what is not captured: in plain text, from the pod\'s own address', async () => {
    for (const to of ['outside', 'plain']) {
      const logged = world.logged('node-a', { direction: 'outbound', 'dst.addr': `${shown(world.ip(to, family))}:${port.banner}`, msg: 'connection complete' })
      const { client, server } = await greeting('client', world.ip(to, family))
      expect([client, server]).toEqual([shown(world.ip('client', family)), shown(world.ip(to, family))])
      const [line] = await logged()
      expect(line).not.toHaveProperty(['dst.identity'])
      expect(line).not.toHaveProperty(['dst.hbone_addr'])
    }
  })

  test('from outside and from who is not captured to a captured pod', async () => {
    for (const from of ['outside', 'plain']) {
      const { client } = await greeting(from, world.ip('far', family))
      expect(client).toBe(shown(world.ip(from, family)))
    }
  })

  test.each([['machines, by WorkloadEntry', 1], ['listed endpoints', 2]] as const)('a ServiceEntry of %s leads to each, whatever its family', async (_what, number) => {
    expect(await answering('client', entryVip(number, family), 24)).toEqual(new Set(families.map((each) => shown(world.ip('outside', each)))))
  })

  test('a ServiceEntry of pods in the mesh leads to them through tunnels', async () => {
    const logged = [tunnelled('near'), tunnelled('far')]
    expect(await answering('client', entryVip(3, family), 24)).toEqual(new Set(['near', 'far'].map((name) => shown(world.ip(name, family)))))
    for (const line of logged) await line()
  })

  test('a service without endpoints, and a port that nobody has: a reset, not a hang', async () => {
    for (const [host, number] of [[vip(55, family), 80], [vip(50, family), 82], [world.ip('far', family), 7999]] as const) {
      expect(await world.connect('client', host, number, ['--read']), `${host} ${number}`).toMatchObject({ ok: false, errno: 'ECONNRESET' })
    }
  })
})

test('a JVM-style IPv6 socket reaches an IPv4 service and is shown mapped addresses', async () => {
  const result = await world.connect('client', vip(50), 80, ['--v4mapped', '--expect-banner'])
  expect(result).toMatchObject({ ok: true, after: { peer: `[::ffff:${vip(50)}]:80` } })
  expect(result.banner).toContain(world.ip('client'))
})

describe('where a service sends whom', () => {
  test('session affinity by the client\'s address: always the same endpoint for one client', async () => {
    for (const from of ['client', 'other']) expect((await answering(from, vip(51), 16)).size, from).toBe(1)
    expect(await answering('client', vip(51), 4)).toEqual(await answering('client', vip(51), 4))
  })

  test('internalTrafficPolicy Local: only to the own node, and nowhere if nobody is there', async () => {
    expect(await answering('client', vip(52), 12)).toEqual(new Set([world.ip('near')]))
    expect(await answering('other', vip(52), 12)).toEqual(new Set([world.ip('far')]))
    expect(await answering('other', vip(53), 4)).toEqual(new Set([world.ip('far')]))
    const logged = world.logged('node-a', { direction: 'outbound', reason: 'noneInScope' })
    expect(await world.connect('client', vip(53), 80, ['--read'])).toMatchObject({ ok: false, errno: 'ECONNRESET' })
    await logged()
  })

  test.each([
    ['in the mesh', (): string => vip(54), (): string => world.ip('good')],
    ['outside it', (): string => entryVip(4, 4), (): string => shown(world.ip('outside', 6))],
  ] as const)('an endpoint %s whose port is closed is replaced before any client notices, then left alone', async (_where, host, good) => {
    const retries = (): Promise<number> => world.metric('node-a', 'sidestep_connect_retries_total')
    const before = await retries()
    // One after the other until the closed one has had its three failures.
    await eventually('the closed endpoint is tried and replaced', async () => {
      expect((await greeting('client', host(), 80)).server).toBe(good())
      return await retries() >= before + 3
    })
    const ejected = await retries()
    for (let i = 0; i < 12; i++) expect((await greeting('client', host(), 80)).server).toBe(good())
    expect(await retries()).toBe(ejected)
  })
})

describe.each(['near', 'far'] as const)('through the tunnel to a pod that is %s', (to) => {
  const host = (): string => world.ip(to)

  test('128 MiB each way at once, both families, every byte as it was sent', async () => {
    for (const family of families) {
      const size = 128 * MiB
      const result = await runProbe('bulk', [world.ip(to, family), port.bulk, 'both', size], world.inside('client', { timeoutMs: 60_000 }))
      expect(result).toMatchObject({ ok: true, sent: size, received: size, firstBadOffset: -1 })
      expect([result.serverReceivedHash, result.serverSentHash]).toEqual([result.sentHash, result.receivedHash])
    }
  })

  test('a client that has finished sending still gets its answer', async () => {
    const ended = endsAt(to, 'halfclose')
    expect(await world.connect('client', host(), port.halfclose, ['--send', 'over to you'])).toMatchObject({ ok: true, reply: 'after eof: 11\n', end: 'eof' })
    expect(await ended()).toMatchObject([{ end: 'eof', bytes: 11 }])
  })

  test('a reset of either end is a reset at the other, an end of file is none', async () => {
    expect(await world.connect('client', host(), port.reset, ['--send', 'boom', '--keep-open'])).toMatchObject({ ok: false, errno: 'ECONNRESET' })
    const ended = endsAt(to, 'hold')
    await world.connect('client', host(), port.hold, ['--send', 'x', '--keep-open', '--rst', '--timeout', 300])
    expect(await ended()).toMatchObject([{ end: 'ECONNRESET', bytes: 1 }])
    await world.connect('client', host(), port.hold, ['--send', 'xyz'])
    expect((await ended(2))[1]).toMatchObject({ end: 'eof', bytes: 3 })
  })
})

test('400 connections at once, of one client and service, share few connections between the nodes', async () => {
  const count = 400
  const handshakes = async (): Promise<number> => {
    const perNode = await Promise.all(nodeNames.map((node) => world.metric(node, 'sidestep_hbone_handshakes_total', { side: 'server' })))
    return perNode.reduce((a, b) => a + b)
  }
  const ofCrowd = async (): Promise<string[]> => (await world.connections('node-a'))
    .flatMap(({ destination, direction }) => (direction === 'outbound' && destination.service?.startsWith('server.') ? destination.workload ?? [] : []))
  const streams = (): Promise<number> => world.metric('node-a', 'sidestep_hbone_streams_total', { side: 'client' })
  const before = [await handshakes(), await streams()] as const
  await using crowd = await startProbe('many', [vip(50), 81, count, '--hold', 10, '--timeout', 20_000], world.inside('client', { timeoutMs: 60_000 }))
  await eventually('all are carried', async () => (await ofCrowd()).length === count, 20_000)
  const carried = await ofCrowd()
  // Least loaded of two: neither endpoint has much more than the other.
  for (const name of ['near', 'far']) expect(carried.filter((each) => each === name).length).toBeGreaterThan(count / 4)
  expect(await crowd.ended).toMatchObject({ status: 0 })
  expect(crowd.lines.at(-1)).toMatchObject({ ok: true, connected: count, alive: count })
  expect(await streams() - before[1]).toBeGreaterThanOrEqual(count)
  // 100 streams for each connection: at least two to each of two endpoints, and a few more for the burst at the start.
  expect(await handshakes() - before[0]).toBeLessThanOrEqual(16)
})

test('when all is over the ztunnels carry nothing', async () => {
  for (const node of nodeNames) await eventually(`${node} is idle`, async () => (await world.connections(node)).length === 0)
})
