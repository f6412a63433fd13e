// What the kernel measured of a TCP connection (struct tcp_info of linux/tcp.h, whose first fields never move).
import type { Socket } from 'node:net'
import { descriptorOf } from './live-socket.ts'
import { native } from './native.ts'

export interface TcpStatistics {
  /** Smoothed round-trip time. */
  readonly rttUs: number
  /** Segments that had to be sent again, in all. */
  readonly retransmits: number
}

const rttOffset = 68
const totalRetransmitsOffset = 100

/** Shared: what is asked for is read from it at once. */
const info = new Uint8Array(totalRetransmitsOffset + 4)
const bytes = new DataView(info.buffer)

/** Undefined once the socket is closed, so ask before the last side ends. */
export function tcpStatistics(socket: Socket): TcpStatistics | undefined {
  const fd = socket.destroyed ? undefined : descriptorOf(socket)
  if (fd === undefined) return undefined
  if (native().tcpInfoInto(fd, info) < info.length) return undefined
  // Numbers of the machine itself, and it is little-endian wherever we run.
  return { rttUs: bytes.getUint32(rttOffset, true), retransmits: bytes.getUint32(totalRetransmitsOffset, true) }
}
