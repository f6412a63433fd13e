// The client of Istio's node agent against a real SOCK_SEQPACKET server that says what the agent says, or what it must
// never say. Namespaces are real; the pods are only noted.
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import type { MessageInitShape } from '@bufbuild/protobuf'
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { silentLogger } from '../../src/core/log.ts'
import { FdServer } from '../../src/kernel/fd-socket.ts'
import type { FdSocket } from '../../src/kernel/fd-socket.ts'
import { native } from '../../src/kernel/native.ts'
import type { OwnedFd } from '../../src/kernel/native.ts'
import type { PodEnrolment } from '../../src/model/enrolment.ts'
import { WorkloadRequestSchema, WorkloadResponseSchema, ZdsHelloSchema } from '../../src/proto/zds_pb.ts'
import { ZdsClient } from '../../src/ztunnel/zds-client.ts'
import { descriptorCount } from './descriptors.ts'
import { TestNetns } from './test-netns.ts'

type Payload = NonNullable<MessageInitShape<typeof WorkloadRequestSchema>['payload']>

/** One connection as the agent sees it. */
class Call {
  readonly socket: FdSocket
  readonly got: Uint8Array[] = []
  isClosed = false
  constructor(socket: FdSocket) {
    this.socket = socket
    socket.start({ onMessage: (bytes) => this.got.push(bytes), onClose: () => (this.isClosed = true) })
  }

  async hello(): Promise<void> {
    await expect.poll(() => this.got.length, { interval: 2 }).toBe(1)
    expect(fromBinary(ZdsHelloSchema, this.got.shift() ?? new Uint8Array()).version).toBe(1)
  }

  say(payload: Payload, fds: readonly OwnedFd[] = []): void {
    this.socket.send(toBinary(WorkloadRequestSchema, create(WorkloadRequestSchema, { payload })), fds)
  }

  /** The error of the answer, empty for a plain one. */
  async answer(): Promise<string> {
    await expect.poll(() => this.got.length, { interval: 2, timeout: 5_000 }).toBeGreaterThan(0)
    const { payload } = fromBinary(WorkloadResponseSchema, this.got.shift() ?? new Uint8Array())
    if (payload.case !== 'ack') throw new TypeError('not an answer')
    return payload.value.error
  }

  async ask(payload: Payload, fds: readonly OwnedFd[] = []): Promise<string> {
    this.say(payload, fds)
    return this.answer()
  }

  async ends(): Promise<void> {
    await expect.poll(() => this.isClosed, { interval: 2, timeout: 5_000 }).toBe(true)
  }
}

class Agent {
  readonly path = join(mkdtempSync(join(tmpdir(), 'sidestep-zds-')), 'ztunnel.sock')
  readonly calls: Call[] = []
  server = this.listen()
  listen(): FdServer {
    return FdServer.listen({ path: this.path, type: 'seqpacket', onConnection: (socket) => this.calls.push(new Call(socket)) })
  }

  async call(): Promise<Call> {
    await expect.poll(() => this.calls.length, { interval: 2, timeout: 5_000 }).toBeGreaterThan(0)
    const call = this.calls.shift()
    if (!call) throw new TypeError('nobody called')
    await call.hello()
    return call
  }

  close(): void {
    this.server.close()
    for (const { socket } of this.calls) socket.close()
    rmSync(join(this.path, '..'), { recursive: true })
  }
}

/** Notes what is asked; `failing` pods cannot be captured. */
class Pods {
  readonly captured = new Map<string, PodEnrolment & { inode: number }>()
  readonly failing = new Set<string>()
  tries = 0
  add(pod: PodEnrolment): Promise<number> {
    this.tries++
    if (this.failing.has(pod.uid)) return Promise.reject(new RangeError(`${pod.name} cannot be captured`))
    this.captured.set(pod.uid, { ...pod, inode: statSync(pod.netns).ino })
    return Promise.resolve(0)
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

const pod = (uid: string): Payload => ({ case: 'add', value: { uid, workloadInfo: { name: `pod-${uid}`, namespace: 'shop', serviceAccount: 'cart' } } })
const keep = (uid: string): Payload => ({ case: 'keep', value: { uid } })
const remove = (uid: string): Payload => ({ case: 'del', value: { uid } })
const snapshot: Payload = { case: 'snapshotSent', value: {} }

let place: TestNetns
let netns: OwnedFd
let agent: Agent
let pods: Pods
let client: ZdsClient
let before: number

beforeAll(async () => {
  place = await TestNetns.make()
  netns = native().openPath(place.path)
})
afterAll(() => place[Symbol.asyncDispose]())
beforeEach(() => {
  agent = new Agent()
  before = descriptorCount()
  pods = new Pods()
  client = new ZdsClient({ path: agent.path, pods, logger: silentLogger, node: 'one', failureMode: 'closed', dns: true, retryPendingMs: 20 })
  client.start()
})
afterEach(async () => {
  await client.close()
  for (let i = 0; i < 100 && descriptorCount() > before; i++) await sleep(10)
  // The agent's own ends are closed once the client's are.
  expect(descriptorCount()).toBe(before)
  agent.close()
})

test('pods come with their namespace and its addresses, and the snapshot drops all others', async () => {
  const call = await agent.call()
  pods.captured.set('old', {} as never)
  pods.captured.set('kept', {} as never)
  expect(await call.ask(pod('a'), [netns])).toBe('')
  expect(await call.ask(pod('b'), [netns])).toBe('')
  expect(await call.ask(keep('kept'))).toBe('')
  expect(await call.ask(remove('b'))).toBe('')
  expect(client.isSynced).toBe(false)
  expect(pods.uids).toEqual(['a', 'b', 'kept', 'old'])
  expect(await call.ask(snapshot)).toBe('')
  expect(pods.uids).toEqual(['a', 'kept'])
  expect(client.isReady).toBe(true)
  expect(pods.captured.get('a')).toMatchObject({
    uid: 'a', name: 'pod-a', namespace: 'shop', serviceAccount: 'cart', node: 'one', ips: ['10.77.0.1', 'fd77::1'],
    failureMode: 'closed', dns: true, probePorts: [], inode: statSync(place.path).ino,
  })
  expect(await call.ask(pod('c'), [netns])).toBe('')
  expect(await call.ask(remove('a'))).toBe('')
  expect(await call.ask(remove('never named'))).toBe('')
  expect(pods.uids).toEqual(['c', 'kept'])
})

test('the agent goes and comes: not ready in between, pods stay until the next snapshot', async () => {
  const first = await agent.call()
  await first.ask(pod('a'), [netns])
  await first.ask(snapshot)
  agent.server.close()
  first.socket.close()
  await expect.poll(() => client.isReady).toBe(false)
  await sleep(50)
  expect(pods.uids).toEqual(['a'])
  agent.server = agent.listen()
  const second = await agent.call()
  expect(client.isReady).toBe(false)
  await second.ask(pod('b'), [netns])
  expect(pods.uids).toEqual(['a', 'b'])
  await second.ask(snapshot)
  expect(pods.uids).toEqual(['b'])
  expect(client.isReady).toBe(true)
})

test('a pod that cannot be captured is refused, kept, and tried again until it can', async () => {
  const call = await agent.call()
  pods.failing.add('a').add('b').add('c')
  expect(await call.ask(pod('a'), [netns])).toContain('pod-a cannot be captured')
  expect(await call.ask(pod('b'), [netns])).toContain('pod-b cannot be captured')
  expect(await call.ask(pod('c'), [netns])).toContain('pod-c cannot be captured')
  expect(await call.ask(remove('c'))).toBe('')
  expect(await call.ask(snapshot)).toBe('')
  expect({ synced: client.isSynced, ready: client.isReady, pending: client.pending }).toEqual({ synced: true, ready: false, pending: 2 })
  await expect.poll(() => pods.tries, { interval: 2 }).toBeGreaterThan(6)
  pods.failing.delete('a')
  await expect.poll(() => pods.uids).toEqual(['a'])
  expect(client.isReady).toBe(false)
  expect(await call.ask(remove('b'))).toBe('')
  expect(client.isReady).toBe(true)
  // Pending ones that a new snapshot does not name are forgotten.
  pods.failing.add('d')
  await call.ask(pod('d'), [netns])
  call.socket.close()
  const again = await agent.call()
  expect(client.pending).toBe(1)
  await again.ask(pod('a'), [netns])
  await again.ask(snapshot)
  expect(client.isReady).toBe(true)
})

test('a descriptor that is no network namespace is refused, not followed', async () => {
  const call = await agent.call()
  for (const path of ['/dev/null', '/proc/self/ns/mnt', tmpdir()]) {
    const fd = native().openPath(path)
    expect(await call.ask(pod('a'), [fd])).not.toBe('')
    fd.close()
  }
  await call.ask(remove('a'))
  expect(pods.tries).toBe(0)
})

const hostile: readonly (readonly [string, (call: Call) => void])[] = [
  ['a pod without its namespace', (call) => call.say(pod('x'))],
  ['two namespaces', (call) => call.say(pod('x'), [netns, netns])],
  ['a descriptor with a deletion', (call) => call.say(remove('x'), [netns])],
  ['a descriptor with the snapshot', (call) => call.say(snapshot, [netns])],
  ['a message that is too long', (call) => call.socket.send(new Uint8Array(1_025), [netns])],
  ['a long message of unknown fields', (call) => call.socket.send(new Uint8Array(1_024).fill(0x78), [netns])],
  ['garbage', (call) => call.socket.send(new Uint8Array([0xff, 0xff, 0xff]))],
  ['an empty message', (call) => call.socket.send(new Uint8Array())],
  ['a pod without a name', (call) => call.say({ case: 'add', value: { uid: 'x' } }, [netns])],
  ['a name that would change the identity', (call) => call.say({ case: 'add', value: { uid: 'x', workloadInfo: { name: 'x', namespace: 'shop/sa/admin', serviceAccount: 'y' } } }, [netns])],
  ['messages without waiting for answers', (call) => {
    for (let i = 0; i < 100; i++) call.say(pod(`x${i}`), [netns])
  }],
]

test.each(hostile)('an agent that sends %s is left and called again; pods stay', async (_what, send) => {
  const call = await agent.call()
  await call.ask(pod('a'), [netns])
  await call.ask(snapshot)
  send(call)
  await call.ends()
  expect(client.isReady).toBe(false)
  expect(pods.captured.has('a')).toBe(true)
  const again = await agent.call()
  expect(await again.ask(pod('a'), [netns])).toBe('')
  expect(await again.ask(snapshot)).toBe('')
  expect(pods.uids).toEqual(['a'])
  again.socket.close()
})

test.each([['a second snapshot', snapshot], ['a keep after the snapshot', keep('a')]] as const)('%s breaks the protocol', async (_what, payload) => {
  const call = await agent.call()
  await call.ask(pod('a'), [netns])
  await call.ask(snapshot)
  call.say(payload)
  await call.ends()
  expect(pods.uids).toEqual(['a'])
})

test('an agent that hangs up at once is called less and less often', async () => {
  let calls = 0
  const end = Date.now() + 600
  while (Date.now() < end || calls < 3) {
    for (const call of agent.calls.splice(0)) {
      calls++
      call.socket.close()
    }
    await sleep(1)
  }
  // After 10, 20, 40.. ms, or half of that at least: however slow the machine, 600 ms have no room for more.
  expect(calls).toBeLessThanOrEqual(8)
})

test('closing in the middle of everything leaves nothing', async () => {
  const call = await agent.call()
  pods.failing.add('a')
  await call.ask(pod('a'), [netns])
  for (let i = 0; i < 20; i++) call.say(pod(`x${i}`), [netns])
  await client.close()
  expect(client.isReady).toBe(false)
  await call.ends()
})
