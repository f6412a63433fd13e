// Deliveries speak under the client's address, so their source ports must keep clear of the client's own: a SYN that meets
// the four-tuple of a delivery is answered like a lost packet, and its connection takes a second instead of a millisecond.
// And ports must not run out: all that a captured pod opens goes to one listener.
import { execFileSync } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { deliveryPorts } from '../../src/kernel/redirection.ts'
import { runLoad, runProbe, startLoadPeer, startServer } from '../helpers/apps.ts'
import { World } from '../helpers/meshed-world.ts'

let world: World

beforeAll(async () => {
  world = await World.start([{ name: 'client', node: 'node-a' }, { name: 'server', node: 'node-b' }])
})
afterAll(() => world?.[Symbol.asyncDispose]())

/** A counter of the pod's TCP stack since its namespace was made. */
function tcpCounter(pod: string, name: string): number {
  const text = execFileSync('nsenter', [`--net=${world.netns(pod)}`, '--', 'cat', '/proc/net/netstat'], { encoding: 'utf8' })
  const [names, values] = text.split('\n').filter((line) => line.startsWith('TcpExt:')).map((line) => line.split(' '))
  const index = names?.indexOf(name) ?? -1
  expect(index, name).toBeGreaterThan(0)
  return Number(values?.[index])
}

test.each([4, 6] as const)('an application sees an IPv%i client at a port that the client does not use itself', async (family) => {
  await using server = await startServer(['--banner', '7002'], world.inside('server'))
  for (let i = 0; i < 5; i++) {
    const { banner } = await runProbe('connect', [world.ip('server', family), server.port('banner'), '--expect-banner'], world.inside('client'))
    const port = Number(/^hello \S+:(\d+) /.exec(banner ?? '')?.[1])
    expect(port).toBeGreaterThanOrEqual(deliveryPorts[0])
    expect(port).toBeLessThanOrEqual(deliveryPorts[1])
  }
})

test.each([['the server', []], ['the client', ['--client-closes']]])('hundreds of short connections that %s closes never meet', async (_who, flags) => {
  await using peer = await startLoadPeer(0, [], world.inside('server'))
  const result = await runLoad('rate', [world.ip('server'), peer.port, '--seconds', 2, '--parallel', 4, ...flags], world.inside('client'))
  expect(result.failures).toEqual({})
  expect(result.count).toBeGreaterThan(100)
  expect(tcpCounter('client', 'TCPSynRetrans')).toBe(0)
  expect(tcpCounter('server', 'TCPChallengeACK')).toBe(0)
})

test('a pod whose connections it closes itself does not run out of ports', async () => {
  await using server = await startServer(['--echo', '7001'], world.inside('server'))
  execFileSync('nsenter', [`--net=${world.netns('client')}`, '--', 'sysctl', '-qw', 'net.ipv4.ip_local_port_range=40000 40099'])
  // 240 connections within seconds, each of which leaves its port in TIME_WAIT for a minute.
  for (let round = 0; round < 4; round++) {
    const result = await runProbe('many', [world.ip('server'), server.port('echo'), 60, '--echo'], world.inside('client'))
    expect(result).toMatchObject({ ok: true, connected: 60, failures: {} })
    await sleep(1_200)
  }
})
