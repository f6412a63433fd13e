// Addresses and address ranges prepared for lookup: one hash probe per distinct prefix length, whatever the number of
// ranges. Families never meet: no IPv6 range contains an IPv4 address (mapped ones were folded to IPv4 when parsed).
import { ipToBytes } from '../core/address.ts'

/** An address as numbers: IPv4 in `v4` (unsigned), IPv6 as 32 hex digits in `v6` (then `v4` is -1). */
export interface PackedIp {
  readonly v4: number
  readonly v6: string
}

/** Undefined if the text is not an address. Never throws. */
export function packIp(ip: string): PackedIp | undefined {
  const v4 = packIpv4(ip)
  if (v4 >= 0) return { v4, v6: '' }
  const bytes = ipToBytes(ip)
  if (!bytes) return undefined
  const hex = Buffer.from(bytes.buffer, bytes.byteOffset, 16).toString('hex')
  if (hex.startsWith('00000000000000000000ffff')) return { v4: Number.parseInt(hex.slice(24), 16), v6: '' }
  return { v4: -1, v6: hex }
}

/** -1 unless the text is a dotted quad without leading zeros; no allocation, because every connection passes here twice. */
function packIpv4(text: string): number {
  if (text.length < 7 || text.length > 15) return -1
  let value = 0
  let octet = -1
  let dots = 0
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code === 46) {
      if (octet < 0 || ++dots > 3) return -1
      value = value * 256 + octet
      octet = -1
      continue
    }
    const digit = code - 48
    if (digit < 0 || digit > 9 || octet === 0) return -1
    octet = octet < 0 ? digit : octet * 10 + digit
    if (octet > 255) return -1
  }
  return dots === 3 && octet >= 0 ? value * 256 + octet : -1
}

type Key = number | string

function maskedKey(ip: PackedIp, prefixLength: number): Key {
  if (ip.v4 >= 0) return prefixLength === 0 ? 0 : (ip.v4 & (-1 << (32 - prefixLength))) >>> 0
  const whole = prefixLength >> 2
  const rest = prefixLength & 3
  const head = ip.v6.slice(0, whole)
  if (rest === 0) return head
  return head + (Number.parseInt(ip.v6.charAt(whole), 16) & (0xf << (4 - rest))).toString(16)
}

interface Length<V> {
  readonly prefixLength: number
  readonly values: Map<Key, V>
}

/** A map from address ranges to values. Host bits of a range are ignored. */
export class CidrMap<V> {
  // Longest prefix first.
  readonly #v4: Length<V>[] = []
  readonly #v6: Length<V>[] = []
  #size = 0

  get size(): number {
    return this.#size
  }

  /** The value of exactly this range. */
  get(ip: PackedIp, prefixLength: number): V | undefined {
    return this.#lengths(ip).find((l) => l.prefixLength === prefixLength)?.values.get(maskedKey(ip, prefixLength))
  }

  /** `prefixLength` must be within the family (see `isPrefixLength`). */
  set(ip: PackedIp, prefixLength: number, value: V): void {
    const lengths = this.#lengths(ip)
    let length = lengths.find((l) => l.prefixLength === prefixLength)
    if (!length) {
      length = { prefixLength, values: new Map() }
      lengths.push(length)
      lengths.sort((a, b) => b.prefixLength - a.prefixLength)
    }
    const key = maskedKey(ip, prefixLength)
    if (!length.values.has(key)) this.#size++
    length.values.set(key, value)
  }

  delete(ip: PackedIp, prefixLength: number): void {
    const lengths = this.#lengths(ip)
    const at = lengths.findIndex((l) => l.prefixLength === prefixLength)
    const length = lengths[at]
    if (!length?.values.delete(maskedKey(ip, prefixLength))) return
    this.#size--
    if (length.values.size === 0) lengths.splice(at, 1)
  }

  /** Whether any range contains the address. */
  contains(ip: PackedIp): boolean {
    return this.#lengths(ip).some(({ prefixLength, values }) => values.has(maskedKey(ip, prefixLength)))
  }

  /** Values of all ranges that contain the address, longest prefix first. */
  covering(ip: PackedIp): { readonly prefixLength: number; readonly value: V }[] {
    const found: { prefixLength: number; value: V }[] = []
    for (const { prefixLength, values } of this.#lengths(ip)) {
      const value = values.get(maskedKey(ip, prefixLength))
      if (value !== undefined) found.push({ prefixLength, value })
    }
    return found
  }

  #lengths(ip: PackedIp): Length<V>[] {
    return ip.v4 >= 0 ? this.#v4 : this.#v6
  }
}

/** The number of bits in addresses of this family. */
export function addressBits(ip: PackedIp): 32 | 128 {
  return ip.v4 >= 0 ? 32 : 128
}

export function isPrefixLength(ip: PackedIp, prefixLength: number): boolean {
  return Number.isInteger(prefixLength) && prefixLength >= 0 && prefixLength <= addressBits(ip)
}
