import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { canonicalIp, ipToBytes } from '../core/address.ts'
import { addressBits, CidrMap, isPrefixLength, packIp, type PackedIp } from './cidr-map.ts'

const packed = (ip: string): PackedIp => {
  const found = packIp(ip)
  if (!found) throw new Error(`not an address: ${ip}`)
  return found
}
const near = fc.oneof(fc.ipV4(), fc.ipV6(), fc.tuple(fc.nat(3), fc.nat(255)).map(([a, b]) => `10.0.${a}.${b}`),
  fc.nat(9).map((n) => `fd00::${n}`), fc.nat(15).map((n) => `fd00::f${n.toString(16)}`))

const isIPv4 = (ip: string): boolean => ip.includes('.') && !ip.includes(':')
const bits = (ip: string): string => [...(ipToBytes(ip) ?? [])].map((byte) => byte.toString(2).padStart(8, '0')).join('')

describe('an address', () => {
  test('packs what core parses, and nothing else', () => {
    fc.assert(fc.property(fc.oneof(near, fc.string(), fc.stringMatching(/^[0-9.]{5,16}$/)), (text) => {
      const bytes = ipToBytes(text)
      const got = packIp(text)
      expect(got === undefined).toBe(bytes === undefined)
      if (!got || !bytes) return
      const isV4 = isIPv4(canonicalIp(text) ?? '')
      expect(got.v4 >= 0).toBe(isV4)
      expect(isV4 ? got.v4.toString(16).padStart(8, '0') : got.v6).toBe(Buffer.from(bytes).toString('hex').slice(isV4 ? 24 : 0))
    }), { numRuns: 1000 })
  })
})

describe('a map of ranges', () => {
  test('contains what a comparison bit by bit contains', () => {
    const range = fc.tuple(near, fc.oneof(fc.nat(128), fc.integer({ min: 120, max: 128 }),
      fc.integer({ min: 20, max: 32 }))).filter(([ip, length]) => isPrefixLength(packed(ip), length))
    fc.assert(fc.property(fc.array(range, { maxLength: 20 }), fc.array(near, { minLength: 1 }), (ranges, ips) => {
      const map = new CidrMap<string>()
      for (const [ip, length] of ranges) map.set(packed(ip), length, `${ip}/${length}`)
      for (const ip of ips) {
        const expected = ranges.some(([r, l]) => addressBits(packed(r)) === addressBits(packed(ip)) &&
          bits(r).slice(128 - addressBits(packed(r))).startsWith(bits(ip).slice(128 - addressBits(packed(ip))).slice(0, l)))
        expect(map.contains(packed(ip))).toBe(expected)
        expect(map.covering(packed(ip)).length > 0).toBe(expected)
      }
    }), { numRuns: 500 })
  })

  test('gives the longest prefix first and forgets what is deleted', () => {
    const map = new CidrMap<string>()
    for (const [ip, length] of [['10.0.0.0', 8], ['10.1.0.0', 16], ['10.1.2.3', 32], ['0.0.0.0', 0], ['fd00::', 8]] as const) {
      map.set(packed(ip), length, `${ip}/${length}`)
    }
    expect(map.covering(packed('10.1.2.3')).map((c) => c.prefixLength)).toEqual([32, 16, 8, 0])
    expect(map.covering(packed('fd12::1')).map((c) => c.value)).toEqual(['fd00::/8'])
    map.delete(packed('10.1.255.255'), 16)
    expect(map.covering(packed('10.1.2.4')).map((c) => c.prefixLength)).toEqual([8, 0])
    expect(map.size).toBe(4)
  })
})
