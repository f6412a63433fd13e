// Everything that the addon does, right and wrong, in a few seconds and in one process: for builds with sanitizers, which
// judge what the other tests cannot see. Run with a namespace of TestNetns as argument; ends with `done` or an exception.
import { readFileSync, rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { ipToBytes } from '../../src/core/address.ts'
import { MeshError } from '../../src/core/errors.ts'
import { findCgroup2 } from '../../src/kernel/cgroup.ts'
import { sizeEvent } from '../../src/kernel/generated/layout.ts'
import { native } from '../../src/kernel/native.ts'
import type { NativeSocketOptions } from '../../src/kernel/native.ts'
import { Netns } from '../../src/kernel/netns.ts'
import { Pins } from '../../src/kernel/pins.ts'
import { uniqueName } from '../helpers/instances.ts'
import { FencePrograms, loadProgram, objectPath } from './fence-programs.ts'
import { addresses } from './test-netns.ts'

const [, , path = ''] = process.argv
const netns = await Netns.open(path)
const fence = new FencePrograms()

const at = (ip: string, port: number): NativeSocketOptions['address'] => ({ ip: ipToBytes(ip) ?? new Uint8Array(16), port })

/** Runs what may fail as the addon fails. */
async function may<T>(call: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await call()
  } catch (error) {
    if (error instanceof MeshError || error instanceof TypeError) return undefined
    throw error
  }
}

async function maps(): Promise<void> {
  const { flows, counters } = fence.maps
  const count = 3000
  const keys = Buffer.alloc(36 * count)
  for (let i = 0; i < count; i++) keys.writeUInt32LE(i, i * 36)
  native().mapUpdateBatch(flows.fd, keys, Buffer.alloc(4 * count))
  if (native().mapEntries(flows.fd).length !== count) throw new Error('entries are missing')
  for (const [key] of native().mapEntries(flows.fd).slice(0, 100)) native().mapTake(flows.fd, key)
  counters.entries()
  for (const fd of [...Object.values(fence.maps.fds), fence.program, netns.fd]) {
    await may(() => native().mapEntries(fd))
    for (const size of [0, 1, 4, 8, 36, 300]) {
      const bytes = new Uint8Array(size)
      for (const call of [() => native().mapLookup(fd, bytes), () => native().mapUpdate(fd, bytes, bytes), () => native().mapDelete(fd, bytes), () => native().mapTake(fd, bytes), () => native().mapUpdateBatch(fd, bytes, bytes)]) await may<unknown>(call)
    }
  }
}

async function objects(): Promise<void> {
  const cgroup = native().openPath(findCgroup2())
  const pins = new Pins(uniqueName('exercise'))
  const first = loadProgram('connect', 'redirect_connect4')
  const second = loadProgram('connect', 'redirect_connect4', first.maps.fds)
  const link = native().linkCreate(first.program, cgroup, 10)
  for (let i = 0; i < 50; i++) native().linkUpdate(link, i % 2 === 0 ? second.program : first.program)
  pins.pin(link, 'link')
  native().linkInfo(pins.get('link') ?? link)
  native().linkDetach(link)
  pins.removeAll()
  for (const call of [
    () => native().loadObject('/nowhere', {}, '/dev/null'),
    () => native().loadObject(objectPath('fence'), { pods: fence.maps.flows.fd }, '/dev/null'),
    () => native().loadObject(objectPath('fence'), { pods: fence.program }, '/dev/null'),
    () => native().loadObject(process.execPath, {}, '/dev/null'),
    () => native().linkInfo(fence.program),
    () => native().pin(link, '/tmp/none'),
    () => native().linkCreateIn(netns.fd, fence.program, 9999, 46),
    () => native().getPinned('/sys/fs/bpf'),
  ]) await may<unknown>(call)
  await native().probeKernel()
  native().cgroupPrograms(findCgroup2())
  for (const each of [cgroup, link]) each.close()
  second[Symbol.dispose]()
  first[Symbol.dispose]()
}

async function events(): Promise<void> {
  for (let round = 0; round < 10; round++) {
    let batches = 0
    await new Promise<void>((resolve) => {
      const ring = new (native().RingBuffer)(fence.maps.events, sizeEvent, () => {
        for (let i = 1; i <= 1500; i++) fence.refuse(i)
        if (++batches < 3) return
        ring.close()
        resolve()
      })
      fence.refuse(1)
    })
  }
  await may(() => new (native().RingBuffer)(fence.maps.flows.fd, 64, () => {}))
  // Left open: it ends with the process.
  void new (native().RingBuffer)(fence.maps.events, sizeEvent, () => fence.refuse(1))
}

async function sockets(): Promise<void> {
  const listener = await native().listenTcp(netns.fd, { address: at('::', 7777), dualStack: true, reusePort: true, transparent: true })
  await native().setReturnPath(netns.fd, { mark: 5, table: 555, priority: 555, install: true })
  const wishes: NativeSocketOptions[] = [
    { address: at(addresses.one4, 7777) }, { address: at(addresses.one6, 7777) },
    { address: at(addresses.one4, 7777), source: at(addresses.two4, 0), portRange: 20_100 * 65_536 + 20_000 },
    { address: at(addresses.one4, 7777), source: at(addresses.foreign4, 0), transparent: true, mark: 5 },
    { address: at(addresses.one4, 7777), source: at(addresses.one6, 0) }, { address: at(addresses.one4, 7999) },
    { address: at(addresses.blackHole4, 1), timeoutMs: 30 }, { address: at(addresses.nowhere6, 1) }, { address: at(addresses.unreachable4, 1) },
    { address: at(addresses.one4, 7777), storageMap: fence.maps.sockets, storageValue: new Uint8Array(24) },
    { address: at(addresses.one4, 7777), storageMap: fence.maps.sockets, storageValue: new Uint8Array(3) },
  ]
  for (let round = 0; round < 20; round++) {
    const made = await Promise.all(wishes.map((wish) => may(() => native().connectTcp(netns.fd, wish))))
    for (const { source, destination } of (await native().listSockets(netns.fd)).slice(0, 4)) await native().destroySocket(netns.fd, { source, destination })
    for (const fd of made) {
      if (fd) native().tcpInfo(fd.fd)
      fd?.close()
    }
  }
  const udp = await native().bindUdp(netns.fd, { address: at(addresses.one6, 0) })
  await may(() => native().tcpInfo(udp.fd))
  udp.close()
  listener.close()
  await native().setReturnPath(netns.fd, { mark: 5, table: 555, priority: 555, install: false })
  await native().netnsLinks(netns.fd)
  await native().netnsAddresses(netns.fd)
  await may(() => native().netnsInfo(fence.program))
}

const open: { close(): void }[] = []

function messages(): void {
  const where = `/tmp/${uniqueName('exercise')}`
  for (let round = 0; round < 50; round++) {
    const isSeqpacket = round % 2 === 0
    const listener = new (native().UnixSocket)(native().unixListen(where, isSeqpacket, 0o600), () => {})
    const near = new (native().UnixSocket)(native().unixConnect(where, isSeqpacket), () => {})
    rmSync(where)
    const accepted = listener.accept()
    if (!accepted) throw new RangeError('nobody connected')
    const far = new (native().UnixSocket)(accepted, () => {})
    near.peer()
    for (const fds of [0, 1, 10, 253]) {
      near.send(new Uint8Array(300), 299, Array.from({ length: fds }, () => netns.fd))
      const got = far.receive(round, 10)
      if (!got) throw new RangeError('nothing came')
      for (const fd of got.fds) fd.close()
    }
    far.receive(1 << 20, 0)
    near.arm(true)
    // Open sockets keep the process running.
    open.push(near, far, listener)
    const values: unknown[] = [undefined, null, -1, 'text', {}, [1], new Uint8Array(3), fence.program, [fence.program], Array.from({ length: 300 }, () => netns.fd)]
    for (const first of values) {
      for (const second of values) {
        for (const method of ['arm', 'accept', 'send', 'receive', 'peer']) {
          try {
            const call: unknown = Reflect.get(far, method)
            if (typeof call === 'function') call.call(far, first, second, second)
          } catch (error) {
            if (!(error instanceof MeshError) && !(error instanceof TypeError)) throw error
          }
        }
        try {
          new (native().UnixSocket as unknown as new (...args: unknown[]) => { close(): void })(first, second).close()
        } catch (error) {
          if (!(error instanceof MeshError) && !(error instanceof TypeError)) throw error
        }
      }
    }
  }
}

/** Ends workers in the middle: what they leave is freed by nobody else. */
async function workers(): Promise<void> {
  for (let round = 0; round < 3; round++) {
    await Promise.all([7810, 7811].map(async (port) => {
      const worker = new Worker(new URL('lives/worker.ts', import.meta.url), { workerData: { netns: path, port, ending: 'never' } })
      await new Promise<void>((resolve, reject) => {
        worker.once('message', () => resolve())
        worker.once('error', reject)
      })
      await sleep(Math.random() * 20)
      await worker.terminate()
    }))
  }
}

function wrongArguments(): void {
  const addon = native() as unknown as Record<string, unknown>
  const values: unknown[] = [undefined, null, -1, 2 ** 40, Number.NaN, 'text', {}, [], new Uint8Array(3), fence.program, fence.maps.flows.fd, netns.fd, (): void => {}]
  for (const [name, call] of Object.entries(addon)) {
    // Classes and what takes no arguments are not for this.
    if (typeof call !== 'function' || ['initialise', 'OwnedFd', 'RingBuffer', 'UnixSocket', 'probeKernel'].includes(name)) continue
    for (const first of values) {
      for (const second of values) {
        try {
          const result: unknown = call(first, second, second, second)
          // What succeeds by chance is dropped for the collector; what is rejected was an answer.
          if (result instanceof Promise) result.catch(() => {})
        } catch (error) {
          if (!(error instanceof MeshError) && !(error instanceof TypeError)) throw error
        }
      }
    }
  }
}

// A reader alone does not keep the process running.
const alive = setInterval(() => {}, 1000)
await maps()
await objects()
await events()
await sockets()
messages()
await workers()
wrongArguments()
await sleep(200)
clearInterval(alive)
for (const each of open) each.close()
// The library that is loaded, so that a test can tell that it was the sanitized one that ran.
const loaded = readFileSync('/proc/self/maps', 'utf8').split('\n').find((line) => line.includes('sidestep.node'))
console.log(JSON.stringify({ done: true, library: loaded?.slice(loaded.indexOf('/')) }))
