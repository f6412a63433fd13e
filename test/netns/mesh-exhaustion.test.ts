// A ztunnel that has too little: of descriptors, which one pod and strangers at the door want all of, and of memory, which
// readers that do not read would fill. It refuses what it cannot carry, counts that, stays alive and ready, and serves the others.
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import type { Server, Socket } from 'node:net'
import { createServer } from 'node:net'
import { fileURLToPath } from 'node:url'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { Netns } from '../../src/kernel/netns.ts'
import { connectInNetns, listenInNetns } from '../../src/kernel/sockets.ts'
import { carryingFlags } from '../../src/local/ztunnel-process.ts'
import { startServer } from '../helpers/apps.ts'
import type { RunningServer } from '../helpers/apps.ts'
import { eventually } from '../helpers/meshed-world.ts'
import { TunnelWorld } from '../helpers/tunnel-world.ts'
import type { NodeName } from '../helpers/tunnel-world.ts'
import { inNetns } from '../helpers/world.ts'

const port = { echo: 7001, mute: 7002 } as const
const MiB = 1_048_576
const ztunnel = [process.execPath, ...carryingFlags, fileURLToPath(new URL('../../src/bin/ztunnel.ts', import.meta.url))]

let world: TunnelWorld
const cleanUp: (() => unknown)[] = []
afterEach(async () => {
  for (const step of cleanUp.splice(0).reverse()) await step()
})

const stateSchema = z.object({ pid: z.int(), connections: z.object({ open: z.int(), limit: z.int() }), memory: z.object({ rss: z.int() }) })
const stateOf = async (node: NodeName): Promise<z.infer<typeof stateSchema>> => stateSchema.parse(await world.admin(node, '/state'))
const isReady = async (node: NodeName): Promise<boolean> =>
  (await inNetns(world.netns(node), ['curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', '--max-time', '5', 'http://127.0.0.1:15021/healthz/ready'])).stdout === '200'
const openFiles = async (node: NodeName): Promise<number> => readdirSync(`/proc/${(await stateOf(node)).pid}/fd`).length

/** Processor time of a process so far, in seconds. */
function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) / 100
}

class Crowd {
  readonly sockets: Socket[] = []
  failed = 0

  /** Up to `count` connections from a pod's namespace, not all at once. */
  static async gather(from: string, host: string, to: number, count: number): Promise<Crowd> {
    const crowd = new Crowd()
    const netns = await Netns.open(world.netns(from))
    cleanUp.push(() => netns.close(), () => crowd.leave())
    let left = count
    const work = async (): Promise<void> => {
      while (left-- > 0) {
        try {
          const socket = await connectInNetns(netns, { host, port: to, timeoutMs: 10_000 })
          socket.on('error', () => {}) // refused ones end so; 'close' follows
          crowd.sockets.push(socket)
        } catch {
          crowd.failed++
        }
      }
    }
    await Promise.all(Array.from({ length: 32 }, work))
    return crowd
  }

  /** Those over which an echo came. */
  async echoed(): Promise<number> {
    const answers = await Promise.all(this.sockets.map(async (socket) => {
      if (socket.destroyed) return false
      const answer = Promise.race([once(socket, 'data').then(() => true, () => false), once(socket, 'close').then(() => false, () => false)])
      socket.write('x')
      return await answer
    }))
    return answers.filter(Boolean).length
  }

  leave(): void {
    for (const socket of this.sockets) socket.destroy()
  }
}

describe('of descriptors', () => {
  const files = 700
  let server: RunningServer
  let outside: RunningServer
  let third: RunningServer

  beforeAll(async () => {
    const command = `[ "$SIDESTEP_NODE" != node-a ] || set -- prlimit --nofile=${files}:${files} "$@"; exec "$@"`
    world = await TunnelWorld.start({
      greedy: { node: 'node-a' }, modest: { node: 'node-a' }, third: { node: 'node-a' }, fourth: { node: 'node-a' },
      server: { node: 'node-b' }, stranger: { node: 'node-b', namespace: 'plain' },
    }, { namespaces: { plain: {} }, ztunnelCommand: ['sh', '-c', command, 'limited', ...ztunnel] })
    server = await startServer(['--echo', port.echo], world.inside('server'))
    outside = await startServer(['--echo', port.echo], world.inside('outside'))
    third = await startServer(['--echo', port.echo], world.inside('third'))
    for (const target of ['server', 'outside']) expect(await world.reaches('modest', target, port.echo)).toBe(true)
  })
  afterAll(async () => {
    await server?.stop()
    await outside?.stop()
    await third?.stop()
    await world?.[Symbol.asyncDispose]()
  })

  test.each([['in plain text', 'outside'], ['through tunnels', 'server']] as const)('one pod that wants more connections %s than there are', async (_how, target) => {
    const before = await stateOf('node-a')
    const filesBefore = await openFiles('node-a')
    const refusedBefore = await world.metric('node-a', 'sidestep_refusals_total', { because: 'TOO_MANY_CONNECTIONS' })
    expect(before.connections.limit).toBeLessThan(files / 2)

    const crowd = await Crowd.gather('greedy', world.ip(target), port.echo, 600)
    const served = await crowd.echoed()
    expect(served).toBeGreaterThan(before.connections.limit / 2)
    expect(served).toBeLessThan(before.connections.limit)
    expect(await world.metric('node-a', 'sidestep_refusals_total', { because: 'TOO_MANY_CONNECTIONS' })).toBe(refusedBefore + 600 - served)

    // Another pod of the node is served all the while, both ways.
    for (const each of ['server', 'outside']) expect(await world.reaches('modest', each, port.echo)).toBe(true)
    expect(await isReady('node-a')).toBe(true)
    crowd.leave()
    await eventually('everything is back', async () => (await stateOf('node-a')).connections.open === before.connections.open)
    await eventually('the descriptors are back', async () => await openFiles('node-a') <= filesBefore + 24)
    expect(await world.reaches('greedy', target, port.echo)).toBe(true)
    expect((await stateOf('node-a')).pid).toBe(before.pid)
  })

  test('strangers who knock at every door and say nothing', async () => {
    const { pid } = await stateOf('node-a')
    const filesBefore = await openFiles('node-a')
    const crowds = await Promise.all(['greedy', 'modest', 'third', 'fourth'].map((pod) => Crowd.gather('stranger', world.ip(pod), 15_008, 400)))
    // Each holds a descriptor, and they are refused before the process has none left.
    expect(await openFiles('node-a')).toBeGreaterThan(filesBefore)
    expect(await openFiles('node-a')).toBeLessThan(files - 100)
    expect(await world.metric('node-a', 'sidestep_shed_total', { because: 'connectionsOfPod' }) + await world.metric('node-a', 'sidestep_shed_total', { because: 'handshakes' })).toBeGreaterThan(1_000)
    // Nor must they keep it busy.
    const before = cpuSeconds(pid)
    await sleep(2_000)
    expect(cpuSeconds(pid) - before).toBeLessThan(1)
    expect(await isReady('node-a')).toBe(true)
    // Whoever else wants in has as good a chance as they, and those who are in do not notice.
    for (const to of ['server', 'outside']) expect(await world.reaches('modest', to, port.echo)).toBe(true)
    expect(await world.reaches('server', 'third', port.echo)).toBe(true)
    for (const crowd of crowds) crowd.leave()
    await eventually('the descriptors are back', async () => await openFiles('node-a') <= filesBefore + 24, 20_000)
    expect(await world.reaches('modest', 'server', port.echo)).toBe(true)
    expect((await stateOf('node-a')).pid).toBe(pid)
  })
})

describe('of memory', () => {
  const streams = 2_000
  /** Of all streams of a process together, see src/hbone/unread.ts and src/ztunnel/carry-tunnel.ts; as much may be in the making. */
  const budget = 2 * 64 * MiB
  /** Compiled code, and what is not collected yet. */
  const garbage = 96 * MiB
  let server: RunningServer
  let mute: Server
  let stalled: Socket[]

  beforeAll(async () => {
    world = await TunnelWorld.start({ greedy: { node: 'node-a' }, modest: { node: 'node-a' }, server: { node: 'node-b' } }, { ztunnelCommand: ztunnel })
    server = await startServer(['--echo', port.echo], world.inside('server'))
    // What the kernel itself keeps of so many is not what this is about.
    for (const pod of ['greedy', 'server']) {
      await inNetns(world.netns(pod), ['sh', '-c', 'sysctl -qw net.ipv4.tcp_rmem="4096 16384 65536" net.ipv4.tcp_wmem="4096 16384 65536"'])
    }
    const netns = await Netns.open(world.netns('server'))
    const fd = await listenInNetns(netns, { host: '0.0.0.0', port: port.mute })
    netns.close()
    stalled = []
    mute = createServer({ pauseOnConnect: true }, (socket) => void stalled.push(socket.on('error', () => {})))
    await new Promise<void>((resolve) => mute.listen({ fd: fd.release() }, resolve))
  })
  afterAll(async () => {
    for (const socket of stalled ?? []) socket.destroy()
    mute?.close()
    await server?.stop()
    await world?.[Symbol.asyncDispose]()
  })

  test('thousands of readers that do not read', async () => {
    const before = await Promise.all([stateOf('node-a'), stateOf('node-b')])
    const crowd = await Crowd.gather('greedy', world.ip('server'), port.mute, streams)
    const much = Buffer.alloc(8 * MiB)
    for (const socket of crowd.sockets) socket.write(much)
    const grown = [0, 0]
    for (let i = 0; i < 8; i++) {
      await sleep(1_000)
      const now = await Promise.all([stateOf('node-a'), stateOf('node-b')])
      now.forEach(({ memory }, n) => (grown[n] = Math.max(grown[n] ?? 0, memory.rss - (before[n]?.memory.rss ?? 0))))
      // Of the same pod, so over the same connections.
      expect(await world.reaches('greedy', 'server', port.echo)).toBe(true)
    }
    expect((await stateOf('node-a')).connections.open).toBe(streams)
    // On its way out: the budget, and of each what was read last. On its way in: the budget, and of each a small window.
    expect(grown[0]).toBeLessThan(garbage + budget + streams * 384 * 1_024)
    expect(grown[1]).toBeLessThan(garbage + budget + streams * 192 * 1_024)
    expect(await isReady('node-a') && await isReady('node-b')).toBe(true)

    crowd.leave()
    for (const socket of stalled) socket.destroy()
    await eventually('everything is back', async () => (await Promise.all([stateOf('node-a'), stateOf('node-b')])).every(({ connections }) => connections.open === 0))
    expect(await world.reaches('greedy', 'server', port.echo)).toBe(true)
    expect((await Promise.all([stateOf('node-a'), stateOf('node-b')])).map(({ pid }) => pid)).toEqual(before.map(({ pid }) => pid))
  })
})
