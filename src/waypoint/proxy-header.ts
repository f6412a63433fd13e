// The PROXY protocol's header as a load balancer before an ingress sends it, versions 1 and 2 (haproxy.org/download/2.9/doc/
// proxy-protocol.txt): who the client really is. Strict, because who can get a header misread chooses the address that policies
// see: one spelling, nothing guessed, nothing skipped. Pure, and never throws.
import { canonicalIp } from '../core/address.ts'
import type { SocketAddr } from '../core/address.ts'

export type ProxyHeader =
  /** So many bytes are the header. Without a source it is the proxy's own connection (LOCAL, UNKNOWN): its address counts. */
  | { readonly t: 'header'; readonly length: number; readonly source?: SocketAddr }
  | { readonly t: 'more' }
  /** It does not begin as one. */
  | { readonly t: 'none' }
  /** It begins as one, and is wrong. */
  | { readonly t: 'bad'; readonly because: ProxyFault }

export type ProxyFault = 'tooLong' | 'badLine' | 'badVersion' | 'badFamily' | 'badLength' | 'badAddress' | 'badChecksum'

const signature = Buffer.from('0d0a0d0a000d0a515549540a', 'hex')
const word = Buffer.from('PROXY ')
/** Version 1: 107 octets at most, with the end of the line. */
const longestLine = 107
/** Version 2 has room for 64 KiB of extensions; who needs more than this is not a load balancer. */
const longestBody = 4_096
const line1 = /^PROXY (TCP4|TCP6) ([\x21-\x7e]+) ([\x21-\x7e]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})$/
const unknown1 = /^PROXY UNKNOWN(?: [\x20-\x7e]*)?$/

const more: ProxyHeader = { t: 'more' }
const none: ProxyHeader = { t: 'none' }
const bad = (because: ProxyFault): ProxyHeader => ({ t: 'bad', because })

/** What the bytes so far say. */
export function readProxyHeader(bytes: Uint8Array): ProxyHeader {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (begins(view, signature)) return view.length < 16 ? more : readVersion2(view)
  if (begins(view, word)) return readVersion1(view)
  return none
}

/** As far as there are bytes. */
function begins(view: Buffer, with_: Buffer): boolean {
  const length = Math.min(view.length, with_.length)
  return view.subarray(0, length).equals(with_.subarray(0, length))
}

function readVersion1(view: Buffer): ProxyHeader {
  const end = view.subarray(0, longestLine).indexOf('\r\n')
  if (end < 0) {
    // A line may end between the two; any other control character ends the matter.
    const isLast = (i: number): boolean => i === view.length - 1
    const isLine = view.subarray(0, longestLine).every((byte, i) => (byte >= 0x20 && byte < 0x7f) || (byte === 0x0d && isLast(i)))
    if (!isLine) return bad('badLine')
    return view.length < longestLine ? more : bad('tooLong')
  }
  const line = view.toString('latin1', 0, end)
  if (unknown1.test(line)) return { t: 'header', length: end + 2 }
  const [, family, from = '', to = '', fromPort = '', toPort = ''] = line1.exec(line) ?? []
  if (family === undefined) return bad('badLine')
  const ip = addressOf(from, family)
  const arePorts = Number(fromPort) <= 65_535 && Number(toPort) <= 65_535
  if (ip === undefined || addressOf(to, family) === undefined || !arePorts) return bad('badAddress')
  return { t: 'header', length: end + 2, source: { ip, port: Number(fromPort) } }
}

/** No zones, no leading zeros, the family that was said. */
function addressOf(text: string, family: string): string | undefined {
  if (text.includes(':') !== (family === 'TCP6') || text.includes('%')) return undefined
  if (family === 'TCP4' && !/^(?:(?:0|[1-9][0-9]{0,2})(?:\.|$)){4}$/.test(text)) return undefined
  return canonicalIp(text)
}

const checksumType = 0x03

function readVersion2(view: Buffer): ProxyHeader {
  const versionAndCommand = view[12] ?? 0
  const family = view[13] ?? 0
  const length = view.readUInt16BE(14)
  if (versionAndCommand >> 4 !== 2 || (versionAndCommand & 15) > 1) return bad('badVersion')
  if (length > longestBody) return bad('tooLong')
  if (view.length < 16 + length) return more
  const total = 16 + length
  const isLocal = (versionAndCommand & 15) === 0
  if (isLocal || family === 0) return { t: 'header', length: total }
  const width = family === 0x11 ? 4 : family === 0x21 ? 16 : 0
  // UDP and unix sockets: no connection that we take is of those.
  if (width === 0) return bad('badFamily')
  const addresses = 2 * width + 4
  if (length < addresses) return bad('badLength')
  const fault = readExtensions(view.subarray(0, total), 16 + addresses)
  if (fault) return bad(fault)
  const ip = canonicalIp(textOf(view.subarray(16, 16 + width)))
  if (ip === undefined) return bad('badAddress')
  return { t: 'header', length: total, source: { ip, port: view.readUInt16BE(16 + 2 * width) } }
}

/** They must fill what is left, and a checksum must be right; what else they say counts for nothing here. */
function readExtensions(header: Buffer, from: number): ProxyFault | undefined {
  for (let at = from; at < header.length;) {
    if (at + 3 > header.length) return 'badLength'
    const type = header[at] ?? 0
    const end = at + 3 + header.readUInt16BE(at + 1)
    if (end > header.length) return 'badLength'
    if (type === checksumType) {
      if (end !== at + 7) return 'badLength'
      const zeroed = Buffer.from(header)
      zeroed.fill(0, at + 3, end)
      if (crc32c(zeroed) !== header.readUInt32BE(at + 3)) return 'badChecksum'
    }
    at = end
  }
  return undefined
}

function textOf(bytes: Buffer): string {
  if (bytes.length === 4) return bytes.join('.')
  return Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(2 * i).toString(16)).join(':')
}

/** Castagnoli's; headers are small and few carry one. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  }
  return (crc ^ 0xffffffff) >>> 0
}
