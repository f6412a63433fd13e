// Keeps the addon as busy as a ztunnel would: events flow, connects succeed, are refused and hang, sockets are listed.
// For scripts whose process or worker ends in the middle of it.
import { ipToBytes } from '../../../src/core/address.ts'
import { MeshError } from '../../../src/core/errors.ts'
import { sizeEvent } from '../../../src/kernel/generated/layout.ts'
import { native } from '../../../src/kernel/native.ts'
import type { NativeSocketOptions, OwnedFd } from '../../../src/kernel/native.ts'
import { Netns } from '../../../src/kernel/netns.ts'
import { FencePrograms } from '../fence-programs.ts'
import { addresses } from '../test-netns.ts'

export interface Work {
  events: number
  connected: number
  failed: number
}

const at = (ip: string, port: number, timeoutMs = 50): NativeSocketOptions => ({ address: { ip: ipToBytes(ip) ?? new Uint8Array(16), port }, timeoutMs })

/**
 * Starts, never stops, and counts in what it returns. `onEvents` runs in the reader's callback. `port` is for a listener
 * of one's own. Connects of its own that come back wrong are thrown, hence uncaught.
 */
export async function keepBusy(netnsPath: string, port: number, onEvents: () => void = () => {}): Promise<Work> {
  const work: Work = { events: 0, connected: 0, failed: 0 }
  const netns = await Netns.open(netnsPath)
  const fence = new FencePrograms()
  const listener = await native().listenTcp(netns.fd, at(addresses.one4, port))
  // Not kept anywhere: a reader lives until it is closed.
  void new (native().RingBuffer)(fence.maps.events, sizeEvent, (records) => {
    work.events += records.length / sizeEvent
    onEvents()
  })
  const flow = (): void => {
    for (let i = 1; i <= 200; i++) fence.refuse(i)
    setImmediate(flow)
  }
  flow()

  const attempt = async (options: NativeSocketOptions): Promise<void> => {
    try {
      const socket: OwnedFd = await native().connectTcp(netns.fd, options)
      work.connected++
      socket.close()
    } catch (error) {
      if (!(error instanceof MeshError) || !error.code.startsWith('CONNECT_')) throw error
      work.failed++
    }
  }
  const again = async (options: NativeSocketOptions): Promise<void> => {
    for (;;) await attempt(options)
  }
  for (let i = 0; i < 8; i++) {
    // The listener's queue is never emptied, so that some of these hang: all ends of a connect occur.
    void again(at(addresses.one4, port))
    void again(at(addresses.one4, 7999))
    void again(at(addresses.blackHole4, 1, 20))
  }
  void (async () => {
    for (;;) await native().listSockets(netns.fd)
  })()
  // Nothing above keeps the process running once nothing is under way; the listener is closed by its collector.
  setInterval(() => listener.fd, 10)
  return work
}

/** Resolves when all that keepBusy does has happened at least once. */
export async function busy(work: Work): Promise<void> {
  while (work.events === 0 || work.connected === 0 || work.failed === 0) await new Promise((resolve) => setTimeout(resolve, 5))
}
