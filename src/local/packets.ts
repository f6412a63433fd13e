// Reads a capture of packets: frames as far as is asked here, TCP streams put together, TLS records and hellos in them. Pure.
// Whatever it does not know it names so; frames and records that are cut short decode to less, and never throw.
import { bytesToIp } from '../core/address.ts'
import { MeshError } from '../core/errors.ts'
import type { WireFlow, WireView } from '../model/wire-view.ts'

export interface Packet {
  readonly protocol: 'tcp' | 'udp' | 'icmp6' | 'arp' | `other ${string}`
  /** Empty where there are no addresses or ports. */
  readonly source: { readonly ip: string; readonly port: number }
  readonly destination: { readonly ip: string; readonly port: number }
  readonly payload: Buffer
  /** TCP alone. */
  readonly sequence: number
  readonly isSyn: boolean
}

/** One direction of a TCP connection. */
export interface Stream {
  readonly source: Packet['source']
  readonly destination: Packet['destination']
  /** Its beginning was seen, and nothing of it is missing. */
  readonly isWhole: boolean
  readonly bytes: Buffer
}

export interface TlsRecord {
  /** 20 change_cipher_spec, 21 alert, 22 handshake, 23 application_data. */
  readonly contentType: number
  readonly version: number
  readonly body: Buffer
}

/** Of a pcap file of Ethernet frames; what is still being written at its end is left out. BAD_MESSAGE if it is something else. */
export function decodeCapture(file: Buffer): Packet[] {
  if (file.length < 24) return []
  if (file.readUInt32LE(0) !== 0xa1b2c3d4 || file.readUInt32LE(20) !== 1) throw new MeshError('BAD_MESSAGE', 'not a capture of Ethernet frames')
  const packets: Packet[] = []
  for (let at = 24; at + 16 <= file.length;) {
    const [captured, whole] = [file.readUInt32LE(at + 8), file.readUInt32LE(at + 12)]
    if (at + 16 + captured > file.length) break
    if (captured < whole) throw new MeshError('BAD_MESSAGE', 'a packet was captured in part')
    packets.push(decodeFrame(file.subarray(at + 16, at + 16 + captured)))
    at += 16 + captured
  }
  return packets
}

const nowhere = { ip: '', port: 0 }
const bare = (protocol: Packet['protocol']): Packet => ({ protocol, source: nowhere, destination: nowhere, payload: Buffer.alloc(0), sequence: 0, isSyn: false })

/** 0 beyond the end, so that what is cut short reads as nothing. */
const u16 = (bytes: Buffer, at: number): number => ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0)
const u32 = (bytes: Buffer, at: number): number => u16(bytes, at) * 65_536 + u16(bytes, at + 2)

function decodeFrame(frame: Buffer): Packet {
  const type = u16(frame, 12)
  const packet = frame.subarray(14)
  if (type === 0x0806) return bare('arp')
  if (type === 0x0800) {
    const header = ((packet[0] ?? 0) & 15) * 4
    // Segments that the kernel makes of larger ones have 0 for "as long as it is".
    const total = u16(packet, 2) || packet.length
    return decodeTransport(packet[9] ?? 0, packet.subarray(12, 16), packet.subarray(16, 20), packet.subarray(header, total))
  }
  if (type === 0x86dd) {
    const [source, destination] = [packet.subarray(8, 24), packet.subarray(24, 40)]
    const length = u16(packet, 4)
    let [next, body] = [packet[6] ?? 0, packet.subarray(40, length === 0 ? undefined : 40 + length)]
    // Hop-by-hop options, as multicast reports and jumbo segments have them.
    while (next === 0 && body.length > 0) [next, body] = [body[0] ?? 0, body.subarray(8 * ((body[1] ?? 0) + 1))]
    return decodeTransport(next, source, destination, body)
  }
  return bare(`other ${type.toString(16)}`)
}

function decodeTransport(protocol: number, from: Buffer, to: Buffer, body: Buffer): Packet {
  const [fromIp, toIp] = [textOf(from), textOf(to)]
  const common = { sequence: 0, isSyn: false, source: { ip: fromIp, port: 0 }, destination: { ip: toIp, port: 0 } }
  if (protocol === 58) return { ...common, protocol: 'icmp6', payload: body }
  if (protocol !== 6 && protocol !== 17) return { ...common, protocol: `other ip ${protocol}`, payload: body }
  const ends = { source: { ip: fromIp, port: u16(body, 0) }, destination: { ip: toIp, port: u16(body, 2) } }
  if (protocol === 17) return { ...common, ...ends, protocol: 'udp', payload: body.subarray(8) }
  return { ...ends, protocol: 'tcp', sequence: u32(body, 4), isSyn: ((body[13] ?? 0) & 2) !== 0, payload: body.subarray(((body[12] ?? 0) >> 4) * 4) }
}

const textOf = (address: Buffer): string => (address.length === 4 ? address.join('.') : address.length === 16 ? bytesToIp(address) : '')

/** Each direction of each connection, in the order in which they appear. */
export function streamsOf(packets: readonly Packet[]): Stream[] {
  const byEnds = new Map<string, [Packet, ...Packet[]]>()
  for (const packet of packets) {
    if (packet.protocol !== 'tcp') continue
    const key = JSON.stringify([packet.source, packet.destination])
    const known = byEnds.get(key)
    // A port that is used again makes another connection.
    if (known && !(packet.isSyn && known.some(({ isSyn, sequence }) => isSyn && sequence !== packet.sequence))) known.push(packet)
    else byEnds.set(packet.isSyn && known ? `${key} ${packet.sequence}` : key, [packet])
  }
  return [...byEnds.values()].map(assemble)
}

function assemble([first, ...others]: readonly [Packet, ...Packet[]]): Stream {
  const packets = [first, ...others]
  const syn = packets.find(({ isSyn }) => isSyn)
  const base = ((syn?.sequence ?? first.sequence) + (syn ? 1 : 0)) >>> 0
  const parts = packets.filter(({ payload }) => payload.length > 0)
    .map(({ sequence, payload }) => ({ offset: (sequence - base) >>> 0, payload }))
    .toSorted((a, b) => a.offset - b.offset)
  const bytes: Buffer[] = []
  let at = 0
  let isWhole = syn !== undefined
  for (const { offset, payload } of parts) {
    if (offset > at) isWhole = false
    // Sent again, in part or as a whole; a keep-alive has one byte from before.
    if (offset < at) bytes.push(payload.subarray(at - offset))
    else bytes.push(payload)
    at = Math.max(at, offset + payload.length)
  }
  return { source: first.source, destination: first.destination, isWhole, bytes: Buffer.concat(bytes) }
}

/** The records of a stream; `rest` is what is not a whole record. */
export function tlsRecords({ bytes }: Stream): { readonly records: readonly TlsRecord[]; readonly rest: Buffer } {
  const records: TlsRecord[] = []
  let at = 0
  while (at + 5 <= bytes.length) {
    const end = at + 5 + u16(bytes, at + 3)
    if (end > bytes.length) break
    records.push({ contentType: bytes[at] ?? 0, version: u16(bytes, at + 1), body: bytes.subarray(at + 5, end) })
    at = end
  }
  return { records, rest: bytes.subarray(at) }
}

export interface Hello {
  /** 1 for a client's, 2 for a server's. */
  readonly kind: number
  readonly extensions: ReadonlyMap<number, Buffer>
  /** Of supported_versions (43); empty without. */
  readonly versions: readonly number[]
}

/** The Hello that a handshake record begins with (RFC 8446, 4.1.2 and 4.1.3). */
export function helloOf({ body }: TlsRecord): Hello {
  const kind = body[0] ?? 0
  let at = 4 + 2 + 32
  at += 1 + (body[at] ?? 0)
  // A client offers suites and compressions; a server names one of each.
  at += kind === 1 ? 2 + u16(body, at) : 2
  at += kind === 1 ? 1 + (body[at] ?? 0) : 1
  const end = at + 2 + u16(body, at)
  const extensions = new Map<number, Buffer>()
  for (at += 2; at + 4 <= end;) {
    const length = u16(body, at + 2)
    extensions.set(u16(body, at), body.subarray(at + 4, at + 4 + length))
    at += 4 + length
  }
  const versions = extensions.get(43) ?? Buffer.alloc(0)
  const list = kind === 1 ? versions.subarray(1) : versions
  return { kind, extensions, versions: Array.from({ length: Math.floor(list.length / 2) }, (_, i) => u16(list, 2 * i)) }
}

const tls13 = 0x0304

/** How a stream speaks, judged by its first bytes; `begunBefore` without them. */
function manner(stream: Stream): WireFlow['speaks'] {
  if (!stream.isWhole) return 'begunBefore'
  if (stream.bytes.length === 0) return 'nothing'
  const { records: [first, ...others], rest } = tlsRecords(stream)
  // A handshake that begins, in what calls itself TLS 1.0 to 1.2; all after it is application data but for a change_cipher_spec
  // for middleboxes (RFC 8446, D.4). The last record may still be on its way.
  const isTls = first?.contentType === 22 && others.every(({ contentType, version }) => (contentType === 20 || contentType === 23) && version === 0x0303)
  if (!first || !isTls || (rest.length > 0 && !(rest[0] === 20 || rest[0] === 23))) return 'plain'
  return helloOf(first).versions.every((version) => version === tls13) && helloOf(first).versions.length > 0 ? 'TLS 1.3' : 'TLS records'
}

/** The same for somebody who only asks whether it is encrypted. */
export function wireView(packets: readonly Packet[]): WireView {
  const streams = streamsOf(packets)
  const flows: WireFlow[] = streams.map((stream) => ({
    protocol: 'tcp', source: stream.source, destination: stream.destination, bytes: stream.bytes.length, speaks: manner(stream),
  }))
  for (const { protocol, source, destination, payload } of packets) {
    if (protocol !== 'tcp') flows.push({ protocol, source, destination, bytes: payload.length, speaks: payload.length > 0 ? 'plain' : 'nothing' })
  }
  return {
    packets: packets.length,
    flows,
    contains: (text) => streams.some(({ bytes }) => bytes.includes(text)) || packets.some(({ payload }) => payload.includes(text)),
  }
}
