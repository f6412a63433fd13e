// No call that fails may keep a descriptor: each is made to fail hundreds of times, and the process must then have as many
// as before. What an environment leaves behind when it ends, or the collector takes, is in lives.test.ts.
import { readFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ipToBytes } from '../../src/core/address.ts'
import { MeshError } from '../../src/core/errors.ts'
import { native } from '../../src/kernel/native.ts'
import type { OwnedFd } from '../../src/kernel/native.ts'
import { Netns } from '../../src/kernel/netns.ts'
import { Pins } from '../../src/kernel/pins.ts'
import { uniqueName } from '../helpers/instances.ts'
import { descriptors } from './descriptors.ts'
import { FencePrograms, objectPath } from './fence-programs.ts'
import { addresses, TestNetns } from './test-netns.ts'

const runs = 300
const scratch = mkdtempSync(join(tmpdir(), 'sidestep-descriptors-'))
const log = join(scratch, 'verifier.log')

let place: TestNetns
let fence: FencePrograms
let pins: Pins
let closed: OwnedFd

beforeAll(async () => {
  place = await TestNetns.make()
  fence = new FencePrograms()
  pins = new Pins(uniqueName('fd'))
  pins.pin(fence.program, 'taken')
  closed = native().openPath('/proc/self/ns/net')
  closed.close()
})
afterAll(async () => {
  pins.removeAll()
  fence[Symbol.dispose]()
  await place[Symbol.asyncDispose]()
  rmSync(scratch, { recursive: true })
})

const address = (ip: string, port: number): { ip: Uint8Array; port: number } => ({ ip: ipToBytes(ip) ?? new Uint8Array(16), port })

/** Makes `call` fail again and again, by exception or rejection, and compares the descriptors. */
async function failsClean(call: () => unknown, times = runs): Promise<void> {
  const before = descriptors()
  for (let i = 0; i < times; i++) {
    let error: unknown
    try {
      await call()
    } catch (thrown) {
      error = thrown
    }
    expect(error instanceof MeshError || error instanceof TypeError, String(error)).toBe(true)
  }
  // A rejection is told before the thread has let go of its job's last descriptor.
  await expect.poll(descriptors).toEqual(before)
}

const failing: Readonly<Record<string, () => unknown>> = {
  'a path that is not there': () => native().openPath('/nowhere/at/all'),
  'a path that is no string': () => native().openPath(7 as unknown as string),
  'a namespace that is none': () => Netns.open('/proc/self/status'),
  'a closed namespace': () => native().netnsInfo(closed),
  'a map that is none': () => native().mapEntries(fence.program),
  'a closed map': () => native().mapLookup(closed, new Uint8Array(4)),
  'an object that is not there': () => native().loadObject('/nowhere.o', {}, log),
  'an object with a closed map': () => native().loadObject(objectPath('fence'), { events: fence.maps.events, pods: closed }, log),
  'an object with something else as map': () => native().loadObject(objectPath('fence'), { pods: {} as OwnedFd }, log),
  'a pin that is taken': () => pins.pin(fence.program, 'taken'),
  'a pin outside the bpf file system': () => native().pin(fence.program, join(scratch, 'pin')),
  'a pin found in a directory': () => native().getPinned(pins.directory),
  'a link to a cgroup that is none': () => native().linkCreate(fence.program, place.netns.fd, 10),
  'a link to an interface that is none': () => native().linkCreate(fence.program, 9_999_999, 46),
  'a link in a namespace to an interface that is none': () => native().linkCreateIn(place.netns.fd, fence.program, 9999, 46),
  'a link in a namespace that is closed': () => native().linkCreateIn(closed, fence.program, 1, 46),
  'a link in a namespace of a closed program': () => native().linkCreateIn(place.netns.fd, closed, 1, 46),
  'a ring buffer that is none': () => new (native().RingBuffer)(fence.maps.flows.fd, 64, () => {}),
  'a ring buffer without a callback': () => new (native().RingBuffer)(fence.maps.events, 64, undefined as unknown as () => void),
  'a test run without context': () => native().programTestRun(fence.program, new Uint8Array(1)),
  'a connect that is refused': () => native().connectTcp(place.netns.fd, { address: address(addresses.one4, 7999) }),
  'a connect without a route': () => native().connectTcp(place.netns.fd, { address: address(addresses.nowhere4, 1) }),
  'a connect from a foreign address': () => native().connectTcp(place.netns.fd, { address: address(addresses.one4, 7999), source: address(addresses.foreign4, 0) }),
  'a connect between families': () => native().connectTcp(place.netns.fd, { address: address(addresses.one4, 7999), source: address(addresses.one6, 0) }),
  'a connect with a storage that is none': () =>
    native().connectTcp(place.netns.fd, { address: address(addresses.one4, 1), storageMap: fence.maps.flows.fd, storageValue: new Uint8Array(4) }),
  'a connect in something else than a namespace': () => native().connectTcp(fence.program, { address: address(addresses.one4, 1) }),
  'a listener on a foreign address': () => native().listenTcp(place.netns.fd, { address: address(addresses.foreign4, 80) }),
  'UDP on a foreign address': () => native().bindUdp(place.netns.fd, { address: address(addresses.foreign6, 80) }),
  'TCP_INFO of no socket': () => native().tcpInfo(1),
  'a rule for a namespace that is none': () => native().setReturnPath(fence.program, { mark: 1, table: 1, priority: 1, install: true }),
  'programs of a cgroup that is none': () => native().cgroupPrograms('/proc/self/status'),
}

test.each(Object.entries(failing))('%s', async (_what, call) => {
  await failsClean(call)
})

test('an object with a map of another shape', async () => {
  // Fewer of these: the kernel looks at the object for milliseconds before it comes to the map.
  await failsClean(() => native().loadObject(objectPath('fence'), { pods: fence.maps.flows.fd }, log), 50)
})

test('an address in use', async () => {
  const taken = await native().listenTcp(place.netns.fd, { address: address(addresses.one4, 7600) })
  await failsClean(() => native().listenTcp(place.netns.fd, { address: address(addresses.one4, 7600) }))
  taken.close()
})

test('connects that time out, hundreds at a time', async () => {
  const before = descriptors()
  const ends = await Promise.allSettled(
    Array.from({ length: runs }, () => native().connectTcp(place.netns.fd, { address: address(addresses.blackHole4, 1), timeoutMs: 100 })),
  )
  expect(new Set(ends.map((end) => end.status === 'rejected' && end.reason.code))).toEqual(new Set(['CONNECT_TIMEOUT']))
  await expect.poll(descriptors).toEqual(before)
})

test('a damaged object, wherever the damage is', async () => {
  const whole = readFileSync(objectPath('fence'))
  const path = join(scratch, 'damaged.o')
  for (const length of [0, 1, 63, 64, 1000, Math.floor(whole.length / 2), whole.length - 1]) {
    writeFileSync(path, whole.subarray(0, length))
    await failsClean(() => native().loadObject(path, {}, log), 20)
  }
  const btfMagic = Buffer.from([0x9f, 0xeb, 0x01])
  for (const part of [Buffer.from('license'), Buffer.from('.maps'), btfMagic]) {
    const at = whole.indexOf(part)
    expect(at).toBeGreaterThan(0)
    writeFileSync(path, Buffer.from(whole).fill(0xff, at, at + part.length))
    await failsClean(() => native().loadObject(path, {}, log), 20)
  }
  writeFileSync(path, whole.subarray(0, 1000))
  expect(() => native().loadObject(path, {}, log)).toThrow(/object format invalid/)
})

test('a program that the verifier refuses: its log is in the file, and nothing stays', async () => {
  // The first exit of the program becomes a jump to itself.
  const exit = Buffer.from([0x95, 0, 0, 0, 0, 0, 0, 0])
  const loop = Buffer.from([0x05, 0, 0xff, 0xff, 0, 0, 0, 0])
  const damaged = Buffer.from(readFileSync(objectPath('fence')))
  for (let at = damaged.indexOf(exit); at >= 0; at = damaged.indexOf(exit, at + 8)) loop.copy(damaged, at)
  const path = join(scratch, 'endless.o')
  const refusals = join(scratch, 'refusals.log')
  writeFileSync(path, damaged)
  await failsClean(() => native().loadObject(path, {}, refusals), 20)
  expect(() => native().loadObject(path, {}, refusals)).toThrow(expect.objectContaining({ code: 'VERIFIER_REJECTED', message: expect.stringContaining(refusals) }))
  expect(readFileSync(refusals, 'utf8')).toMatch(/back-edge|infinite loop|fence_pod/)
})

test('what succeeds and is closed leaves nothing either', async () => {
  const round = async (): Promise<void> => {
    const programs = new FencePrograms()
    const netns = await Netns.open(place.path)
    const listener = await native().listenTcp(netns.fd, { address: address(addresses.one4, 7700) })
    const socket = await native().connectTcp(netns.fd, { address: address(addresses.one4, 7700) })
    const udp = await native().bindUdp(netns.fd, { address: address(addresses.one6, 7700) })
    const ring = new (native().RingBuffer)(programs.maps.events, 64, () => {})
    for (const each of [listener, socket, udp, ring, netns, programs.program]) {
      each.close()
      each.close()
    }
    programs[Symbol.dispose]()
    expect(listener.fd).toBe(-1)
    expect(listener.release()).toBe(-1)
  }
  await round()
  const before = descriptors()
  for (let i = 0; i < 20; i++) await round()
  await expect.poll(descriptors).toEqual(before)
})
