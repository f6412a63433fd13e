// Drops handles without closing them and calls the collector, which must give back every descriptor; a reader that is
// still in use is not collected. Prints the descriptors before, with all handles, and after. Needs --expose-gc.
import { setTimeout as sleep } from 'node:timers/promises'
import { ipToBytes } from '../../../src/core/address.ts'
import { sizeEvent } from '../../../src/kernel/generated/layout.ts'
import { native } from '../../../src/kernel/native.ts'
import { Netns } from '../../../src/kernel/netns.ts'
import { descriptorCount } from '../descriptors.ts'
import { FencePrograms } from '../fence-programs.ts'
import { addresses } from '../test-netns.ts'

const [, , path = ''] = process.argv
const collect = globalThis.gc
if (!collect) throw new TypeError('run with --expose-gc')

async function drop(): Promise<void> {
  const netns = await Netns.open(path)
  for (let i = 0; i < 50; i++) {
    native().openPath(path)
    await native().bindUdp(netns.fd, { address: { ip: ipToBytes(addresses.one4) ?? new Uint8Array(16), port: 0 } })
    await native().listenTcp(netns.fd, { address: { ip: ipToBytes(addresses.one6) ?? new Uint8Array(16), port: 0 } })
  }
  for (let i = 0; i < 5; i++) void new FencePrograms()
}

const fence = new FencePrograms()
const seen = { events: 0 }
void new (native().RingBuffer)(fence.maps.events, sizeEvent, (records) => (seen.events += records.length / sizeEvent))
await (await Netns.open(path)).veths() // the addon's thread has its own descriptors from here on
const before = descriptorCount()
await drop()
const held = descriptorCount()
let after = held
for (let i = 0; i < 100 && after > before; i++) {
  collect()
  await sleep(10)
  after = descriptorCount()
}
fence.refuse(1)
for (let i = 0; i < 100 && seen.events === 0; i++) await sleep(10)
console.log(JSON.stringify({ before, held, after, events: seen.events }))
