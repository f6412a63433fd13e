// Attaching, pinning and replacing hooks: a hook that is updated is never away, and a pinned one outlives its descriptor.
import { createServer } from 'node:net'
import type { Server } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, afterEach, expect, test } from 'vitest'
import { ipToBytes } from '../../src/core/address.ts'
import { MeshError } from '../../src/core/errors.ts'
import { findCgroup2 } from '../../src/kernel/cgroup.ts'
import { reason } from '../../src/kernel/generated/layout.ts'
import { watchEvents } from '../../src/kernel/hook-events.ts'
import type { HookEvent } from '../../src/kernel/hook-events.ts'
import { native } from '../../src/kernel/native.ts'
import type { OwnedFd } from '../../src/kernel/native.ts'
import { Pins } from '../../src/kernel/pins.ts'
import { connectInNetns, listenInNetns } from '../../src/kernel/sockets.ts'
import { uniqueName } from '../helpers/instances.ts'
import { loadProgram } from './fence-programs.ts'
import type { Loaded } from './fence-programs.ts'
import { addresses, TestNetns } from './test-netns.ts'

const connect4 = 10
const port = 7000

let place: TestNetns
let server: Server
/** The same program twice, on the same maps. */
let first: Loaded
let second: Loaded
let cgroup: OwnedFd
let pins: Pins

beforeAll(async () => {
  place = await TestNetns.make()
  server = createServer((socket) => socket.end()).listen({ fd: (await listenInNetns(place.netns, { host: addresses.two4, port })).release() })
  cgroup = native().openPath(findCgroup2())
  first = loadProgram('connect', 'redirect_connect4')
  second = loadProgram('connect', 'redirect_connect4', first.maps.fds)
  // Captured, failing closed, and without a ztunnel: every connection that meets the hook is refused.
  first.maps.pods.set(place.netns.cookie, { ip4: ipToBytes(addresses.one4) ?? new Uint8Array(16), ip6: new Uint8Array(16), flags: 0 })
})
afterAll(async () => {
  server.close()
  cgroup.close()
  first[Symbol.dispose]()
  second[Symbol.dispose]()
  await place[Symbol.asyncDispose]()
})
beforeEach(() => {
  pins = new Pins(uniqueName('link'))
})
afterEach(() => pins.removeAll())

/** `passed`, or the code of the refusal. */
async function outcome(): Promise<string> {
  try {
    const socket = await connectInNetns(place.netns, { host: addresses.two4, port })
    socket.destroy()
    return 'passed'
  } catch (error) {
    return error instanceof MeshError ? error.code : String(error)
  }
}

const refused = (): number => Number(first.maps.counters.get(reason.ztunnelAway) ?? 0n)

test('a link puts the hook in force for the namespace whose cookie was asked, and its end takes it away', async () => {
  expect(await outcome()).toBe('passed')
  const events: HookEvent[] = []
  const stop = watchEvents(first.maps.events, (batch) => events.push(...batch))
  const link = native().linkCreate(first.program, cgroup, connect4)
  expect(await outcome()).toBe('CONNECT_REFUSED')
  link.close()
  // The kernel lets go of a link some time after its last descriptor.
  await expect.poll(outcome).toBe('passed')
  await expect.poll(() => events.length).toBeGreaterThan(0)
  stop()
  // The kernel's own reading of the cookie, in the hook, is the one that netnsInfo gave.
  expect(events[0]).toMatchObject({ netnsCookie: place.netns.cookie, destination: { ip: addresses.two4, port } })
})

test('no connection passes while the program is replaced again and again', async () => {
  const link = native().linkCreate(first.program, cgroup, connect4)
  const before = refused()
  let settled = 0
  const pending = Array.from({ length: 3000 }, () => outcome().finally(() => settled++))
  let updates = 0
  const ids = new Set<number>()
  // The addon's thread works the connects off while this one replaces the program under them.
  while (settled < pending.length) {
    for (let i = 0; i < 20; i++) native().linkUpdate(link, updates++ % 2 === 0 ? second.program : first.program)
    ids.add(native().linkInfo(link).programId)
    native().linkUpdate(link, updates++ % 2 === 0 ? second.program : first.program)
    ids.add(native().linkInfo(link).programId)
    await new Promise((resolve) => setImmediate(resolve))
  }
  const outcomes = await Promise.all(pending)
  expect(new Set(outcomes)).toEqual(new Set(['CONNECT_REFUSED']))
  expect(refused() - before).toBe(outcomes.length)
  expect(ids.size).toBe(2)
  link.close()
  await expect.poll(outcome).toBe('passed')
})

test('a pinned link stays in force without a descriptor, can be found again, and ends with its pin', async () => {
  const link = native().linkCreate(first.program, cgroup, connect4)
  const { id } = native().linkInfo(link)
  pins.pin(link, 'links/hook')
  link.close()
  expect(await outcome()).toBe('CONNECT_REFUSED')
  const again = pins.get('links/hook')
  expect(again && native().linkInfo(again).id).toBe(id)
  again?.close()
  expect(await outcome()).toBe('CONNECT_REFUSED')
  pins.remove('links/hook')
  await expect.poll(outcome).toBe('passed')
  expect(pins.get('links/hook')).toBeUndefined()
})

test('detach takes the hook away at once, pinned or not', async () => {
  const link = native().linkCreate(first.program, cgroup, connect4)
  pins.pin(link, 'links/hook')
  native().linkDetach(link)
  expect(await outcome()).toBe('passed')
  link.close()
})

test('a link in another namespace is for an interface there, and dies with it', async () => {
  const other = loadProgram('fence', 'fence_pod')
  const tcxIngress = 46
  const links = await native().netnsLinks(place.netns.fd)
  const hole = links.find(({ name }) => name === 'hole')
  const link = await native().linkCreateIn(place.netns.fd, other.program, hole?.index ?? 0, tcxIngress)
  expect(native().linkInfo(link).programId).toBeGreaterThan(0)
  link.close()
  await expect(native().linkCreateIn(place.netns.fd, other.program, 9999, tcxIngress)).rejects.toThrow(expect.objectContaining({ code: 'SYSCALL_FAILED' }))
  other[Symbol.dispose]()
})

test('pins that are taken or in no bpf file system, and descriptors of the wrong kind, are errors', () => {
  pins.pin(first.program, 'program')
  const failed = (call: () => unknown): unknown => expect(call).toThrow(expect.objectContaining({ code: 'SYSCALL_FAILED' }))
  failed(() => pins.pin(first.program, 'program'))
  failed(() => native().pin(first.program, '/tmp/not-bpffs'))
  failed(() => native().getPinned(pins.directory))
  expect(native().getPinned(join(pins.directory, 'none'))).toBeUndefined()
  failed(() => native().linkCreate(first.program, cgroup, 11))
  failed(() => native().linkCreate(cgroup, cgroup, connect4))
  failed(() => native().linkUpdate(cgroup, first.program))
  failed(() => native().linkDetach(first.program))
  failed(() => native().linkInfo(first.program))
  expect(() => native().linkCreate(first.program, cgroup, 1000)).toThrow(TypeError)
})
