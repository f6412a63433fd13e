// Every call with 0, 1, 2.. descriptors left in the process. Prints what was thrown that should not have been, the
// descriptors before and after, and whether all works again at the end. Start it with a low limit (prlimit --nofile).
import { closeSync, openSync, rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { ipToBytes } from '../../../src/core/address.ts'
import { MeshError } from '../../../src/core/errors.ts'
import { native } from '../../../src/kernel/native.ts'
import type { OwnedFd } from '../../../src/kernel/native.ts'
import { descriptorCount } from '../descriptors.ts'
import { FencePrograms, objectPath } from '../fence-programs.ts'
import { addresses } from '../test-netns.ts'

const [, , path = ''] = process.argv
const netns = native().openPath(path)
const fence = new FencePrograms()
const unexpected: string[] = []
let failures = 0

function closeAll(result: unknown): void {
  if (typeof result !== 'object' || result === null) return
  if ('close' in result && typeof result.close === 'function') result.close()
  else for (const each of Object.values(result)) closeAll(each)
}

/** A message with two descriptors: where there are too few left for them, they are closed, which is said. */
function message(): void {
  const path = `/tmp/sidestep-exhausted-${process.pid}`
  const made: { close(): void }[] = []
  const keep = <T extends { close(): void }>(each: T): T => {
    made.push(each)
    return each
  }
  try {
    const listener = keep(new (native().UnixSocket)(keep(native().unixListen(path, true, 0o600)), () => {}))
    const near = keep(new (native().UnixSocket)(keep(native().unixConnect(path, true)), () => {}))
    const accepted = listener.accept()
    if (!accepted) return
    const far = keep(new (native().UnixSocket)(keep(accepted), () => {}))
    near.send(new Uint8Array(1), 0, [netns, netns])
    const got = far.receive(10, 10)
    if (!got || got.fds.length !== (got.isTruncated ? 0 : 2)) throw new RangeError('neither all nor nothing arrived')
    for (const fd of got.fds) keep(fd)
    if (got.isTruncated) failures++
  } finally {
    for (const each of made) each.close()
    rmSync(path, { force: true })
  }
}

const address = { ip: ipToBytes(addresses.one4) ?? new Uint8Array(16), port: 7950 }
const storage = (): { storageMap: OwnedFd; storageValue: Uint8Array } => ({ storageMap: fence.maps.sockets, storageValue: new Uint8Array(24) })
const calls: (() => unknown)[] = [
  // First, so that it is with few descriptors that the addon's thread has to start.
  () => native().netnsInfo(netns),
  () => native().openPath(path),
  () => native().loadObject(objectPath('fence'), {}, '/dev/null'),
  () => new (native().RingBuffer)(fence.maps.events, 64, () => {}),
  () => native().listenTcp(netns, { address, ...storage() }),
  () => native().connectTcp(netns, { address, ...storage() }),
  () => native().listSockets(netns),
  () => native().netnsLinks(netns),
  () => native().linkCreateIn(netns, fence.program, 1, 46),
  () => native().cgroupPrograms('/sys'),
  () => native().mapEntries(fence.maps.nodes.fd),
  () => native().duplicate(netns),
  message,
]

async function tryAll(): Promise<void> {
  for (const call of calls) {
    try {
      closeAll(await call())
    } catch (error) {
      failures++
      if (!(error instanceof MeshError)) unexpected.push(String(error))
    }
  }
}

await import('node:fs/promises') // what Node opens lazily must be open by now
const before = descriptorCount()
for (let left = 0; left < 40; left++) {
  const fillers: number[] = []
  try {
    for (;;) fillers.push(openSync('/dev/null', 'r'))
  } catch {
    // That was the limit.
  }
  for (const fd of fillers.splice(0, left)) closeSync(fd)
  await tryAll()
  for (const fd of fillers) closeSync(fd)
}
const failed = failures
failures = 0
await tryAll()
let after = 0
for (let i = 0; i < 50; i++) {
  after = descriptorCount()
  if (after === before + 5) break
  await sleep(20)
}
// The addon's threads have five of their own: an epoll and an eventfd each, and the way home.
console.log(JSON.stringify({ unexpected, failed, failuresAtEnd: failures, grown: after - before - 5 }))
