// The feed of facts from its server to its client over a real socket, and what a client does with a feed that is not one. The
// server is local's; the two must agree, so this test is about both.
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { silentLogger, type Logger } from '../../src/core/log.ts'
import { encodeLine } from '../../src/core/ndjson.ts'
import { FactsServer } from '../../src/local/facts-server.ts'
import { runningPodSchema, type RunningPod, type RuntimeFacts } from '../../src/model/running-pod.ts'
import type { PodListener } from '../../src/controlplane/pod-source.ts'
import { SocketPods } from '../../src/controlplane/socket-pods.ts'

const pod = (namespace: string, name: string, more: Partial<RunningPod> = {}): RunningPod => ({
  uid: `${namespace}-${name}`, namespace, name, node: 'node-a', ips: ['10.0.0.1'], ready: true, labels: {}, serviceAccount: 'default', isCaptured: false,
  isHostNetwork: false, ports: [], ...more,
})
const factsOf = (pods: readonly RunningPod[], ips: Readonly<Record<string, readonly string[]>> = {}): RuntimeFacts =>
  ({ pods: new Map(pods.map((each) => [`${each.namespace}/${each.name}`, each])), serviceIps: new Map(Object.entries(ips)) })

/** What a listener was told, put together. */
class Told implements PodListener {
  readonly pods = new Map<string, RunningPod>()
  readonly serviceIps = new Map<string, readonly string[]>()
  words = 0

  putPod(told: RunningPod): void {
    this.words++
    this.pods.set(`${told.namespace}/${told.name}`, told)
  }

  removePod(namespace: string, name: string): void {
    this.words++
    expect(this.pods.delete(`${namespace}/${name}`)).toBe(true)
  }

  setServiceIps(namespace: string, name: string, ips: readonly string[] | undefined): void {
    this.words++
    if (ips) this.serviceIps.set(`${namespace}/${name}`, ips)
    else expect(this.serviceIps.delete(`${namespace}/${name}`)).toBe(true)
  }
}

let directory = ''
let path = ''
const closers: (() => unknown)[] = []

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sidestep-facts-'))
  path = join(directory, 'facts.sock')
})
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
  rmSync(directory, { recursive: true })
})

async function until(check: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 1000 && !check(); i++) await sleep(5)
  expect(check(), what).toBe(true)
}
async function serve(stalledMs?: number): Promise<FactsServer> {
  const server = new FactsServer({ path, logger: silentLogger, ...(stalledMs !== undefined && { stalledMs }) })
  await server.listen()
  closers.push(() => server.close())
  return server
}
function client(told: PodListener, more: { logger?: Logger; maxFacts?: number } = {}): { pods: SocketPods; synced: Promise<void> } {
  const pods = new SocketPods({ path, logger: silentLogger, backoff: { firstMs: 2, maxMs: 10 }, ...more })
  closers.push(() => pods.close())
  return { pods, synced: pods.start(told) }
}

const names = fc.constantFrom('a', 'b', 'c')
const anyPod = fc.record({
  namespace: names, name: names, ready: fc.boolean(), isCaptured: fc.boolean(), node: names,
  ips: fc.constantFrom<string[]>([], ['10.0.0.1'], ['10.0.0.2', 'fd00::1']), labels: fc.dictionary(names, fc.string({ maxLength: 5 })),
  owner: fc.option(fc.record({ type: fc.constantFrom('deployment' as const, 'job' as const), name: names })),
}).map(({ owner, namespace, name, ...rest }) => pod(namespace, name, { ...rest, ...(owner && { owner }) }))
const anyFacts = fc.record({
  pods: fc.array(anyPod, { maxLength: 6 }), ips: fc.dictionary(fc.tuple(names, names).map((parts) => parts.join('/')), fc.constantFrom<string[]>([], ['10.96.0.1'])),
}).map(({ pods, ips }) => factsOf(pods, ips))

describe('facts over a socket', () => {
  test('any sequence of facts, with clients that come at any time, gives the same at each client', async () => {
    await fc.assert(fc.asyncProperty(fc.array(anyFacts, { minLength: 1, maxLength: 8 }), fc.nat(7), fc.array(fc.boolean(), { minLength: 8, maxLength: 8 }), async (sequence, joinAt, waits) => {
      path = join(directory, `${randomBytes(6).toString('hex')}.sock`)
      const server = await serve()
      const early = new Told()
      const late = new Told()
      await client(early).synced
      for (const [i, facts] of sequence.entries()) {
        if (i === joinAt) void client(late).synced
        server.update(facts)
        if (waits[i] === true) await sleep(1)
      }
      if (joinAt >= sequence.length) await client(late).synced
      const last = sequence.at(-1) ?? factsOf([])
      const same = (told: Told): boolean => JSON.stringify([[...told.pods].sort(), [...told.serviceIps].sort()]) === JSON.stringify([[...last.pods].sort(), [...last.serviceIps].sort()])
      try {
        await until(() => same(early) && same(late), 'both clients know the last facts')
      } finally {
        for (const close of closers.splice(0).reverse()) await close()
      }
    }), { numRuns: 60 })
  })

  test('what did not change is not told again, not by the server and not by a new connection', async () => {
    let server = await serve()
    const told = new Told()
    server.update(factsOf([pod('s', 'one'), pod('s', 'two')], { 's/web': ['10.96.0.1'] }))
    const { pods, synced } = client(told)
    await synced
    expect(told.words).toBe(3)
    server.update(factsOf([pod('s', 'one'), pod('s', 'two', { ready: false })], { 's/web': ['10.96.0.1'] }))
    await until(() => told.words === 4, 'one change told')
    await server.close()
    await until(() => !pods.isConnected, 'the end was seen')
    // Away: everything stays. Back with one pod less: only that is told.
    expect([...told.pods.keys()]).toEqual(['s/one', 's/two'])
    server = await serve()
    server.update(factsOf([pod('s', 'two', { ready: false })], { 's/web': ['10.96.0.1'] }))
    await until(() => pods.isConnected && told.pods.size === 1, 'the difference was told')
    expect(told.words).toBe(5)
  })

  test('nothing is believed before all there is was told: start waits for it', async () => {
    const half = await rawServer((socket) => socket.write(encodeLine({ t: 'pod', pod: pod('s', 'one') })))
    const told = new Told()
    const { synced, pods } = client(told)
    let isSynced = false
    void synced.then(() => (isSynced = true))
    await until(() => half.sockets.length > 0, 'connected')
    await sleep(30)
    expect([isSynced, told.words, pods.isConnected]).toEqual([false, 0, false])
    half.sockets[0]?.write(encodeLine({ t: 'synced' }))
    await synced
    expect(told.words).toBe(1)
  })

  test.each<[string, string]>([
    ['no JSON', 'hello\n'],
    ['a shape that is unknown', '{"t":"synced","more":1}\n'],
    ['a pod with an address that is none', encodeLine({ t: 'pod', pod: pod('s', 'x', { ips: ['10.0.0.256'] }) })],
    ['a pod that is given a slash', encodeLine({ t: 'pod', pod: pod('s/t', 'x') })],
    ['a second end', '{"t":"synced"}\n{"t":"synced"}\n'],
    ['a line without end', 'x'.repeat(5 << 20)],
    ['too many pods', [1, 2, 3, 4].map((n) => encodeLine({ t: 'pod', pod: pod('s', `p${n}`) })).join('')],
  ])('a feed with %s is cut off, and asked for again', async (_what, text) => {
    const bad = await rawServer((socket) => socket.write(text))
    client(new Told(), { maxFacts: 3 })
    await until(() => bad.sockets.length >= 2, 'connected again')
    expect(bad.sockets[0]?.destroyed).toBe(true)
  })

  test('whatever a feed says, the client only cuts it off', async () => {
    const noise = fc.oneof(fc.string(), fc.json(), anyPod.map((each) => encodeLine({ t: 'pod', pod: each })), fc.constant('{"t":"synced"}'), fc.uint8Array().map((bytes) => Buffer.from(bytes).toString('latin1')))
    await fc.assert(fc.asyncProperty(fc.array(noise, { maxLength: 10 }), async (lines) => {
      path = join(directory, `${randomBytes(6).toString('hex')}.sock`)
      const server = await rawServer((socket) => socket.end(`${lines.join('\n')}\n`))
      client(new Told())
      await until(() => server.sockets.length >= 2, 'connected again')
      for (const close of closers.splice(0).reverse()) await close()
    }), { numRuns: 40 })
  })

  test('a client that stops reading is cut off; what waited for it is bounded by what there is, and others go on', async () => {
    const server = await serve(50)
    const { connect } = await import('node:net')
    const stalled = connect(path)
    stalled.pause()
    closers.push(() => stalled.destroy())
    await until(() => server.clients === 1, 'it is there')
    const told = new Told()
    await client(told).synced
    const big = (n: number): RuntimeFacts => factsOf(Array.from({ length: 50 }, (_, i) => pod('s', `p${i}`, { labels: { n: `${n}`, text: 'x'.repeat(20_000) } })))
    for (let n = 0; n < 30; n++) {
      server.update(big(n))
      await sleep(1)
    }
    await until(() => server.clients === 1, 'only the other is left')
    await until(() => told.pods.get('s/p49')?.labels['n'] === '29', 'the other knows the last')
  })
})

test('a pod that the schema takes is the pod that was sent', () => {
  fc.assert(fc.property(anyPod, (each) => {
    expect(runningPodSchema.parse(JSON.parse(JSON.stringify(each)))).toEqual(each)
  }))
})

interface RawServer {
  readonly sockets: Socket[]
  readonly server: Server
}
async function rawServer(onSocket: (socket: Socket) => void): Promise<RawServer> {
  const sockets: Socket[] = []
  const server = createServer((socket) => {
    sockets.push(socket)
    socket.on('error', () => {})
    socket.resume()
    onSocket(socket)
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  closers.push(() => {
    for (const socket of sockets) socket.destroy()
    return new Promise((resolve) => server.close(resolve))
  })
  return { sockets, server }
}
