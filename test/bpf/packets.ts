// Ethernet frames as a pod might send them, written by hand: only what the fence looks at.
import { ipToBytes } from '../../src/core/address.ts'

export interface TcpPacket {
  readonly source: string
  readonly destination: string
  readonly sourcePort?: number
  readonly destinationPort?: number
  readonly flags?: readonly ('syn' | 'ack' | 'rst' | 'fin')[]
  readonly payloadBytes?: number
  /** IPv4: more fragments follow. IPv6: a fragment header is there. */
  readonly isFragment?: boolean
  /** IPv6: a destination-options header in front. */
  readonly hasOptions?: boolean
  readonly protocol?: number
}

const flagBits = { fin: 1, syn: 2, rst: 4, ack: 16 } as const

export function tcpFrame(packet: TcpPacket): Buffer {
  const tcp = Buffer.alloc(20 + (packet.payloadBytes ?? 0))
  tcp.writeUInt16BE(packet.sourcePort ?? 40_000, 0)
  tcp.writeUInt16BE(packet.destinationPort ?? 80, 2)
  tcp[12] = 5 << 4
  tcp[13] = (packet.flags ?? ['syn']).reduce((bits, flag) => bits | flagBits[flag], 0)
  return packet.source.includes(':') ? ip6Frame(packet, tcp) : ip4Frame(packet, tcp)
}

function ethernet(type: number, rest: Buffer): Buffer {
  const head = Buffer.alloc(14)
  head.writeUInt16BE(type, 12)
  return Buffer.concat([head, rest])
}

function bytesOf(ip: string): Uint8Array {
  const bytes = ipToBytes(ip)
  if (!bytes) throw new TypeError(`not an address: ${ip}`)
  return bytes
}

function ip4Frame(packet: TcpPacket, rest: Buffer): Buffer {
  const ip = Buffer.alloc(20)
  ip[0] = 0x45
  ip.writeUInt16BE(20 + rest.length, 2)
  ip.writeUInt16BE(packet.isFragment === true ? 0x2000 : 0, 6)
  ip[8] = 64
  ip[9] = packet.protocol ?? 6
  ip.set(bytesOf(packet.source).subarray(12), 12)
  ip.set(bytesOf(packet.destination).subarray(12), 16)
  return ethernet(0x0800, Buffer.concat([ip, rest]))
}

function ip6Frame(packet: TcpPacket, rest: Buffer): Buffer {
  const extensions: Buffer[] = []
  let next = packet.protocol ?? 6
  if (packet.isFragment === true) {
    extensions.unshift(Buffer.from([next, 0, 0, 1, 0, 0, 0, 1]))
    next = 44
  }
  if (packet.hasOptions === true) {
    extensions.unshift(Buffer.from([next, 0, 1, 4, 0, 0, 0, 0]))
    next = 60
  }
  const body = Buffer.concat([...extensions, rest])
  const ip = Buffer.alloc(40)
  ip[0] = 0x60
  ip.writeUInt16BE(body.length, 4)
  ip[6] = next
  ip[7] = 64
  ip.set(bytesOf(packet.source), 8)
  ip.set(bytesOf(packet.destination), 24)
  return ethernet(0x86dd, Buffer.concat([ip, body]))
}

export function arpFrame(): Buffer {
  return ethernet(0x0806, Buffer.alloc(28))
}

export function otherFrame(type: number): Buffer {
  return ethernet(type, Buffer.alloc(46))
}
