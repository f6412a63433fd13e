// IP addresses and sockets in one canonical form. IPv4-mapped IPv6 (::ffff:a.b.c.d) is folded to IPv4 here, once, so
// that no policy or log ever sees two spellings of one address. Uses nothing but arithmetic; never throws on bad
// text, it returns undefined.
import { isIPv4, isIPv6 } from 'node:net'

/** A canonical IP address and a TCP or UDP port (0 to 65535). */
export interface SocketAddr {
  readonly ip: string
  readonly port: number
}

/** The client as the server should see it. */
export type ClientAddr = SocketAddr & { readonly __role?: 'client' }
/** Where the application meant to go. */
export type OriginalDst = SocketAddr & { readonly __role?: 'originalDst' }

/** 16 bytes in network order; IPv4 becomes ::ffff:a.b.c.d. Undefined if the text is not an address. */
export function ipToBytes(ip: string): Uint8Array | undefined {
  const bytes = new Uint8Array(16)
  if (isIPv4(ip)) {
    bytes[10] = bytes[11] = 0xff
    const parts = ip.split('.')
    for (let i = 0; i < 4; i++) bytes[12 + i] = Number(parts[i])
    return bytes
  }
  const percent = ip.indexOf('%')
  const text = percent < 0 ? ip : ip.slice(0, percent)
  if (!isIPv6(text)) return undefined
  const [head = '', tail] = text.split('::')
  const front = groups(head)
  const back = tail === undefined ? [] : groups(tail)
  front.forEach((group, i) => putGroup(bytes, i, group))
  back.forEach((group, i) => putGroup(bytes, 8 - back.length + i, group))
  return bytes
}

function groups(text: string): number[] {
  if (text === '') return []
  return text.split(':').flatMap((part) => {
    if (!part.includes('.')) return [Number.parseInt(part, 16)]
    const [a = 0, b = 0, c = 0, d = 0] = part.split('.').map(Number)
    return [(a << 8) | b, (c << 8) | d]
  })
}

function putGroup(bytes: Uint8Array, index: number, group: number): void {
  bytes[index * 2] = group >> 8
  bytes[index * 2 + 1] = group & 0xff
}

/** Canonical text (RFC 5952; mapped IPv4 as dotted quad) of 16 bytes in network order. */
export function bytesToIp(bytes: Uint8Array): string {
  if (isMappedBytes(bytes)) return `${bytes[12]}.${bytes[13]}.${bytes[14]}.${bytes[15]}`
  const words: number[] = []
  for (let i = 0; i < 8; i++) words.push(((bytes[i * 2] ?? 0) << 8) | (bytes[i * 2 + 1] ?? 0))
  const { start, length } = longestZeroRun(words)
  const text = (list: number[]): string => list.map((w) => w.toString(16)).join(':')
  if (length < 2) return text(words)
  return `${text(words.slice(0, start))}::${text(words.slice(start + length))}`
}

function isMappedBytes(bytes: Uint8Array): boolean {
  for (let i = 0; i < 10; i++) if (bytes[i] !== 0) return false
  return bytes[10] === 0xff && bytes[11] === 0xff
}

function longestZeroRun(words: readonly number[]): { start: number; length: number } {
  let best = { start: 0, length: 0 }
  for (let i = 0; i < words.length; i++) {
    let end = i
    while (end < words.length && words[end] === 0) end++
    if (end - i > best.length) best = { start: i, length: end - i }
    if (end > i) i = end
  }
  return best
}

/** Canonical spelling, mapped IPv4 folded; undefined if the text is not an address. */
export function canonicalIp(ip: string): string | undefined {
  const bytes = ipToBytes(ip)
  return bytes && bytesToIp(bytes)
}

export function isIpv6Address(ip: string): boolean {
  return ip.includes(':')
}

/** `1.2.3.4:80` or `[::1]:80`. */
export function formatAddr(addr: SocketAddr): string {
  return isIpv6Address(addr.ip) ? `[${addr.ip}]:${addr.port}` : `${addr.ip}:${addr.port}`
}
