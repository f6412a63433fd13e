// Applications of all manners through the hooks and the passthrough ztunnel: each sees what it would see without a mesh,
// and the counters say that it really went through.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { runGoclient, runProbe, startServer } from '../helpers/apps.ts'
import type { RunningServer } from '../helpers/apps.ts'
import { World } from '../helpers/meshed-world.ts'

let world: World
let server: RunningServer
let outside: RunningServer
const arguments_ = ['--echo', '7001', '--banner', '7002', '--dns', '53', '--record', 'shop.test=192.0.2.7', '--record', 'shop6.test=2001:db8::7']

beforeAll(async () => {
  const service = `apiVersion: v1
kind: Service
metadata: {name: server, namespace: closed}
spec: {clusterIP: 10.96.0.50, selector: {app: server}, ports: [{name: echo, port: 7001}, {name: banner, port: 7002}]}`
  world = await World.start([{ name: 'client', node: 'node-a' }, { name: 'server', node: 'node-b' }, { name: 'stranger', node: 'node-a', isPlain: true }], service)
  server = await startServer(arguments_, world.inside('server'))
  outside = await startServer(arguments_, world.inside('outside'))
})
afterAll(async () => {
  await server?.stop()
  await outside?.stop()
  await world?.[Symbol.asyncDispose]()
})

const styles: readonly (readonly [string, readonly string[]])[] = [
  ['blocking', []],
  ['non-blocking', ['--nonblock']],
  ['io_uring', ['--io-uring']],
  ['TCP Fast Open by sendmsg', ['--tfo']],
  ['TCP Fast Open by socket option', ['--tfo-connect']],
  ['with a mark of its own', ['--mark', '1337']],
]

describe.each([4, 6] as const)('IPv%i', (family) => {
  test.each(styles)('connect %s reaches a pod and an outside address, and shows what was asked for', async (_style, flags) => {
    for (const target of ['server', 'outside'] as const) {
      const host = world.ip(target, family)
      const before = await world.counts('client')
      const result = await runProbe('connect', [host, 7001, '--send', 'hello', ...flags], world.inside('client'))
      expect(result).toMatchObject({ ok: true, reply: 'hello', end: 'eof' })
      const shown = family === 4 ? `${host}:7001` : `[${host}]:7001`
      const names = result.talking ?? result.after
      expect(names.peer).toBe(shown)
      expect(names.local).toContain(world.ip('client', family))
      expect((await world.counts('client')).outbound).toBe(before.outbound + 1)
    }
  })

  test('a connection bound before connect keeps its address and port', async () => {
    const own = world.ip('client', family)
    const bind = family === 4 ? `${own}:5555` : `[${own}]:5555`
    const result = await runProbe('connect', [world.ip('server', family), 7001, '--bind', bind, '--send', 'x'], world.inside('client'))
    expect(result).toMatchObject({ ok: true, reply: 'x' })
    expect(result.talking?.local ?? result.after.local).toBe(bind)
  })

  test('the server speaks first and sees the client\'s address', async () => {
    const result = await runProbe('connect', [world.ip('server', family), 7002, '--expect-banner'], world.inside('client'))
    expect(result.banner).toContain(world.ip('client', family))
    expect(result.banner).toContain(world.ip('server', family))
    expect((await world.counts('server')).inbound).toBeGreaterThan(0)
  })

  test('a client that is not captured is seen with its own address', async () => {
    const result = await runProbe('connect', [world.ip('server', family), 7002, '--expect-banner'], world.inside('stranger'))
    expect(result.banner).toContain(world.ip('stranger', family))
  })

  test('Go dials', async () => {
    const host = world.ip('server', family)
    const result = await runGoclient('dial', ['tcp', family === 4 ? `${host}:7002` : `[${host}]:7002`, '--banner'], world.inside('client'))
    expect(result).toMatchObject({ ok: true })
    expect(result.banner).toContain(world.ip('client', family))
  })

  test('a pod talks to itself and to its loopback untouched', async () => {
    const before = await world.counts('server')
    for (const host of [world.ip('server', family), family === 4 ? '127.0.0.1' : '::1']) {
      expect(await runProbe('connect', [host, 7001, '--send', 'me'], world.inside('server'))).toMatchObject({ ok: true, reply: 'me' })
    }
    const after = await world.counts('server')
    expect([after.inbound, after.outbound, after.refused]).toEqual([before.inbound, before.outbound, before.refused])
  })

  test('nobody listening is a connection that ends, not one that hangs', async () => {
    const result = await runProbe('connect', [world.ip('server', family), 7999, '--send', 'x', '--timeout', '5000'], world.inside('client'))
    expect(result.reply ?? '').toBe('')
    expect(result.end).not.toBe('timeout')
  })
})

test('a JVM-style IPv6 socket speaks to an IPv4 address and is shown mapped addresses', async () => {
  const host = world.ip('server')
  const result = await runProbe('connect', [host, 7002, '--v4mapped', '--expect-banner'], world.inside('client'))
  expect(result).toMatchObject({ ok: true, after: { peer: `[::ffff:${host}]:7002` } })
  expect(result.after.local).toContain(`::ffff:${world.ip('client')}`)
  expect(result.banner).toContain(world.ip('client'))
})

test('a service address is reached through its endpoint, and stays the peer that the application sees', async () => {
  const result = await runProbe('connect', ['10.96.0.50', 7002, '--expect-banner'], world.inside('client'))
  expect(result).toMatchObject({ ok: true, after: { peer: '10.96.0.50:7002' } })
  expect(result.banner).toContain(world.ip('server'))
})

test('multipath TCP is refused as not supported, so that applications fall back to TCP', async () => {
  const before = await world.counters('node-a')
  const result = await runProbe('connect', [world.ip('server'), 7001, '--mptcp'], world.inside('client'))
  expect(result).toMatchObject({ ok: false, stage: 'socket', errno: 'EPROTONOSUPPORT' })
  expect((await world.counters('node-a'))['mptcp']).toBe((before['mptcp'] ?? 0) + 1)
})

describe('DNS', () => {
  const manners: readonly (readonly [string, readonly string[]])[] = [
    ['unconnected', []],
    ['connected', ['--connected']],
    ['unconnected through sendmsg and recvmsg', ['--msg']],
    ['over TCP', ['--tcp']],
    ['from a mapped IPv6 socket', ['--v4mapped']],
    ['from a connected mapped IPv6 socket', ['--v4mapped', '--connected']],
  ]
  test.each(manners)('%s: the answer comes from the server that was asked', async (_manner, flags) => {
    const before = await world.counts('client')
    const result = await runProbe('dns', ['shop.test', world.ip('outside'), ...flags], world.inside('client'))
    expect(result.ok).toBe(true)
    expect(result.exchanges[0]).toMatchObject({ answers: ['192.0.2.7'] })
    if (!flags.includes('--tcp')) expect(result.exchanges[0]?.fromServer).toBe(true)
    const after = await world.counts('client')
    expect(after.dnsQueries + after.outbound).toBe(before.dnsQueries + before.outbound + 1)
  })

  test.each([[[]], [['--connected']]])('over IPv6 %j', async (flags) => {
    const result = await runProbe('dns', ['shop6.test', world.ip('outside', 6), '--type', 'AAAA', ...flags], world.inside('client'))
    expect(result.exchanges[0]).toMatchObject({ answers: ['2001:db8::7'], fromServer: true })
  })

  test('one socket asks two servers, one after the other', async () => {
    const result = await runProbe('dns', ['shop.test', world.ip('outside'), '--two-servers', world.ip('server')], world.inside('client'))
    expect(result.exchanges.map(({ fromServer, answers }) => ({ fromServer, answers }))).toEqual([
      { fromServer: true, answers: ['192.0.2.7'] },
      { fromServer: true, answers: ['192.0.2.7'] },
    ])
  })

  test('Go\'s own resolver', async () => {
    const result = await runGoclient('resolve', ['shop.test', '--server', `${world.ip('outside')}:53`], world.inside('client'))
    expect(result).toMatchObject({ ok: true, addresses: ['192.0.2.7'] })
  })
})
