// A worker that does one thing with the addon all the time and is terminated anywhere in it, inside a call as well: from
// then on each call into JavaScript fails, also those in the middle of making an object.
import { rmSync } from 'node:fs'
import { parentPort, threadId, workerData } from 'node:worker_threads'
import { ipToBytes } from '../../../src/core/address.ts'
import { sizeEvent } from '../../../src/kernel/generated/layout.ts'
import { native } from '../../../src/kernel/native.ts'
import type { NativeSocketOptions, OwnedFd, UnixSocket } from '../../../src/kernel/native.ts'
import { FencePrograms } from '../fence-programs.ts'
import { addresses } from '../test-netns.ts'

const { path, doing } = workerData as { path: string; doing: string }
const netns = native().openPath(path)
const at = (port: number): NativeSocketOptions => ({ address: { ip: ipToBytes(addresses.one4) ?? new Uint8Array(16), port }, reusePort: true, timeoutMs: 50 })

/** Many jobs at a time, so that their results come one after another, without JavaScript in between. */
async function jobs(make: () => Promise<unknown>): Promise<void> {
  for (;;) await Promise.allSettled(Array.from({ length: 200 }, make))
}

/** Until a termination, which no exception handler sees. */
function calls(call: () => void): void {
  for (;;) call()
}

let onReady = (): void => {}

function connected(): Record<'near' | 'far' | 'listener', UnixSocket> {
  const path = `/tmp/sidestep-terminated-${process.pid}-${threadId}`
  rmSync(path, { force: true })
  const make = (fd: OwnedFd | undefined): UnixSocket => {
    if (!fd) throw new RangeError('nobody connected')
    return new (native().UnixSocket)(fd, () => onReady())
  }
  const listener = make(native().unixListen(path, true, 0o600))
  const near = make(native().unixConnect(path, true))
  rmSync(path)
  return { near, far: make(listener.accept()), listener }
}

const things: Record<string, () => unknown> = {
  listens: () => jobs(async () => (await native().listenTcp(netns, at(7820))).close()),
  connects: () => jobs(async () => (await native().connectTcp(netns, at(7821))).close()),
  refused: () => jobs(() => native().connectTcp(netns, at(7822))),
  links: () => jobs(() => native().netnsLinks(netns)),
  paths: () => calls(() => native().openPath('/').close()),
  failures: () => calls(() => {
    try {
      native().openPath('/nowhere')
    } catch {
      // Wanted: it is about making the error.
    }
  }),
  maps: () => {
    const { counters } = new FencePrograms().maps
    calls(() => native().mapLookup(counters.fd, new Uint8Array(4)))
  },
  messages: () => {
    const { near, far } = connected()
    calls(() => {
      near.send(new Uint8Array(4), 0, [netns, netns])
      for (const fd of far.receive(10, 10)?.fds ?? []) fd.close()
    })
  },
  answers: () => {
    const { near, far } = connected()
    far.arm(false)
    const answer = (): void => {
      for (const fd of far.receive(10, 10)?.fds ?? []) fd.close()
      far.arm(false)
      near.send(new Uint8Array(4), 0, [netns])
    }
    onReady = answer
    answer()
  },
  connections: () => calls(() => {
    const { near, far, listener } = connected()
    for (const each of [near, far, listener]) each.close()
  }),
  readers: () => {
    const { events } = new FencePrograms().maps
    calls(() => new (native().RingBuffer)(events, sizeEvent, () => {}).close())
  },
}

if (doing === 'connects') await native().listenTcp(netns, { ...at(7821), backlog: 30_000 })
parentPort?.postMessage('busy', [])
// After the message has left: what comes next may never return.
setImmediate(() => void things[doing]?.())
setInterval(() => netns.fd, 1000)
