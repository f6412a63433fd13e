// Our agent as Istio's ztunnel sees it: ZdsServer with our own client of that protocol, over a real socket and with real namespaces.
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { ZdsServer } from '../../src/agent/zds-server.ts'
import { silentLogger } from '../../src/core/log.ts'
import { FdServer, FdSocket } from '../../src/kernel/fd-socket.ts'
import type { PodEnrolment } from '../../src/model/enrolment.ts'
import { encodeAck, encodeHello } from '../../src/zds/message.ts'
import { ZdsClient } from '../../src/ztunnel/zds-client.ts'
import { descriptorCount } from './descriptors.ts'
import { TestNetns } from './test-netns.ts'

/** A ztunnel's pods; `failing` cannot be captured. */
class Pods {
  readonly captured = new Map<string, PodEnrolment & { inode: number }>()
  readonly failing = new Set<string>()
  async add(pod: PodEnrolment): Promise<number> {
    if (this.failing.has(pod.uid)) throw new RangeError(`${pod.name} cannot be captured`)
    this.captured.set(pod.uid, { ...pod, inode: statSync(pod.netns).ino })
    return 0
  }

  delete(uid: string): void {
    this.captured.delete(uid)
  }

  prune(uids: ReadonlySet<string>): void {
    for (const uid of this.captured.keys()) if (!uids.has(uid)) this.captured.delete(uid)
  }

  get uids(): string[] {
    return [...this.captured.keys()].sort()
  }
}

let place: TestNetns
let directory: string
let before: number
let server: ZdsServer
let changes: number
const clients: ZdsClient[] = []

beforeAll(async () => {
  place = await TestNetns.make()
  // What the addon opens at the first use of a socket stays open.
  const path = join(tmpdir(), `sidestep-zds-${process.pid}.sock`)
  FdServer.listen({ path, type: 'seqpacket', onConnection: () => {} }).close()
})
afterAll(() => place[Symbol.asyncDispose]())
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sidestep-zds-'))
  before = descriptorCount()
  changes = 0
  server = new ZdsServer({ path: join(directory, 'zds.sock'), logger: silentLogger, onChange: () => changes++, retryMs: 20, answerMs: 300 })
  server.listen()
})
afterEach(async () => {
  for (const client of clients.splice(0)) await client.close()
  await server.close()
  await expect.poll(() => descriptorCount(), { timeout: 5_000 }).toBe(before)
  rmSync(directory, { recursive: true })
})

function pod(uid: string): PodEnrolment {
  return { uid, namespace: 'shop', name: `pod-${uid}`, serviceAccount: 'cart', node: 'one', netns: place.path, ips: ['10.77.0.1'], failureMode: 'closed', dns: true, probePorts: [] }
}

function ztunnel(pods = new Pods()): { pods: Pods; client: ZdsClient } {
  const client = new ZdsClient({ path: join(directory, 'zds.sock'), pods, logger: silentLogger, node: 'one', failureMode: 'closed', dns: true })
  clients.push(client)
  client.start()
  return { pods, client }
}

test('a ztunnel that connects is told all pods with their namespaces, then the snapshot, then changes', async () => {
  server.set(pod('a'))
  expect(server.stateOf('a')).toMatchObject({ t: 'waiting', because: expect.stringContaining('not connected') })
  const pods = new Pods()
  pods.captured.set('old', {} as never)
  const { client } = ztunnel(pods)
  await server.settled('a')
  expect(pods.captured.get('a')).toMatchObject({ name: 'pod-a', namespace: 'shop', serviceAccount: 'cart', inode: statSync(place.path).ino })
  // Nobody is dropped before everybody was looked for.
  await sleep(50)
  expect([pods.uids, client.isSynced]).toEqual([['a', 'old'], false])
  server.complete(new Set())
  await expect.poll(() => client.isSynced).toBe(true)
  expect(pods.uids).toEqual(['a'])
  server.set(pod('b'))
  await server.settled('b')
  await server.remove('a')
  expect([pods.uids, server.stateOf('a'), server.stateOf('b')]).toEqual([['b'], { t: 'absent' }, { t: 'captured' }])
  // What is not told in this protocol is no news.
  const told = changes
  server.set({ ...pod('b'), probePorts: [80] })
  expect(changes).toBe(told)
  expect(await server.repeat('b')).toBeUndefined()
  expect(client.isReady).toBe(true)
})

test('pods whose namespaces are still to be found are kept', async () => {
  server.set(pod('a'))
  server.complete(new Set(['lost']))
  const pods = new Pods()
  for (const uid of ['lost', 'old']) pods.captured.set(uid, {} as never)
  ztunnel(pods)
  await expect.poll(() => pods.uids).toEqual(['a', 'lost'])
  server.set(pod('lost'))
  await server.settled('lost')
  server.complete(new Set())
  await sleep(50)
  expect(pods.uids).toEqual(['a', 'lost'])
})

test('a refusal is kept as the reason and tried again', async () => {
  server.complete(new Set())
  const pods = new Pods()
  pods.failing.add('a')
  ztunnel(pods)
  server.set(pod('a'))
  await expect.poll(() => server.stateOf('a')).toMatchObject({ t: 'waiting', because: expect.stringContaining('pod-a cannot be captured') })
  pods.failing.delete('a')
  await server.settled('a')
})

test('a ztunnel that replaces another is told everything, gets what is new, and both hear of the end', async () => {
  server.complete(new Set())
  server.set(pod('a'))
  const first = ztunnel()
  await server.settled('a')
  const second = ztunnel()
  await expect.poll(() => second.pods.uids).toEqual(['a'])
  await expect.poll(() => second.client.isSynced).toBe(true)
  server.set(pod('b'))
  await server.settled('b')
  expect([first.pods.uids, second.pods.uids]).toEqual([['a'], ['a', 'b']])
  await server.remove('a')
  expect([first.pods.uids, second.pods.uids]).toEqual([[], ['b']])
  await second.client.close()
  await expect.poll(() => server.isConnected).toBe(true)
  await first.client.close()
  await expect.poll(() => server.isConnected).toBe(false)
  expect(server.stateOf('b')).toEqual({ t: 'captured' })
})

const hostile: readonly (readonly [string, (socket: FdSocket) => void])[] = [
  ['says nothing', () => {}],
  ['greets with something else', (socket) => void socket.send(encodeAck())],
  ['greets with nothing', (socket) => void socket.send(new Uint8Array())],
  ['answers what was not asked', (socket) => {
    socket.send(encodeHello())
    for (let i = 0; i < 5; i++) socket.send(encodeAck())
  }],
  ['does not answer', (socket) => void socket.send(encodeHello())],
  ['sends a descriptor', (socket) => void socket.send(encodeHello(), [place.netns.fd])],
  ['sends too much', (socket) => void socket.send(new Uint8Array(10_000))],
]

test.each(hostile)('a ztunnel that %s is cut off; another is served', async (_what, act) => {
  server.set(pod('a'))
  let isClosed = false
  const socket = FdSocket.connect(join(directory, 'zds.sock'), 'seqpacket')
  socket.start({ onMessage: (_bytes, fds) => fds.forEach((fd) => fd.close()), onClose: () => (isClosed = true) })
  act(socket)
  await expect.poll(() => isClosed, { timeout: 5_000 }).toBe(true)
  socket.close()
  const { pods } = ztunnel()
  await expect.poll(() => pods.uids, { timeout: 5_000 }).toEqual(['a'])
})
