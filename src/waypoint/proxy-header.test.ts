import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { canonicalIp, ipToBytes } from '../core/address.ts'
import { crc32c, readProxyHeader } from './proxy-header.ts'

const read = (text: string): string => {
  const found = readProxyHeader(Buffer.from(text, 'latin1'))
  if (found.t === 'header') return `${found.length} ${found.source ? `${found.source.ip} ${found.source.port}` : '-'}`
  return found.t === 'bad' ? found.because : found.t
}

describe('version 1', () => {
  test('a line of one spelling', () => {
    expect(read('PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nGET / HTTP/1.1\r\n')).toBe('45 192.0.2.1 56324')
    expect(read('PROXY TCP6 2001:DB8::1 2001:db8::2 1 2\r\n')).toBe('40 2001:db8::1 1')
    expect(read('PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n')).toBe('37 192.0.2.1 1')
    expect(read('PROXY UNKNOWN\r\nx')).toBe('15 -')
    expect(read(`PROXY UNKNOWN ${'f'.repeat(90)}\r\n`)).toBe('106 -')
  })

  test.each([
    ['PROXY TCP4 192.0.2.1 198.51.100.1 56324 65536\r\n', 'badAddress'], ['PROXY TCP4 192.0.2.01 198.51.100.1 1 2\r\n', 'badAddress'],
    ['PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n', 'badAddress'], ['PROXY TCP4 ::1 198.51.100.1 1 2\r\n', 'badAddress'], ['PROXY TCP6 192.0.2.1 ::1 1 2\r\n', 'badAddress'],
    ['PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n', 'badAddress'], ['PROXY TCP4  192.0.2.1 198.51.100.1 1 2\r\n', 'badLine'], ['PROXY TCP4 192.0.2.1 198.51.100.1 01 2\r\n', 'badLine'],
    ['PROXY tcp4 192.0.2.1 198.51.100.1 1 2\r\n', 'badLine'], ['PROXY TCP4 192.0.2.1 198.51.100.1 1 2 \r\n', 'badLine'], ['PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n', 'badLine'],
    ['PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n', 'badLine'], ['PROXY TCP4 192.0.2.1\x00 198.51.100.1 1 2\r\n', 'badLine'], ['PROXY UDP4 192.0.2.1 198.51.100.1 1 2\r\n', 'badLine'],
    [`PROXY ${'x'.repeat(107)}`, 'tooLong'], ['PROX', 'more'], ['PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r', 'more'], ['proxy TCP4', 'none'], ['GET / HTTP/1.1\r\n', 'none'], ['', 'more'],
  ])('%j is %s', (text, expected) => {
    expect(read(text)).toBe(expected)
  })
})

describe('version 2', () => {
  const signature = '\r\n\r\n\x00\r\nQUIT\n'
  const tcp4 = '\xc0\x00\x02\x01\xc6\x33\x64\x01\x12\x34\x01\xbb'

  test('addresses of TCP; what is the proxy itself has none', () => {
    expect(read(`${signature}\x21\x11\x00\x0c${tcp4}rest`)).toBe('28 192.0.2.1 4660')
    expect(read(`${signature}\x20\x11\x00\x0c${tcp4}`)).toBe('28 -')
    expect(read(`${signature}\x21\x00\x00\x00`)).toBe('16 -')
    expect(read(`${signature}\x21\x11\x00\x12${tcp4}\xd0\x00\x03abc`)).toBe('34 192.0.2.1 4660')
  })

  test.each([
    [`${signature}\x11\x11\x00\x0c${tcp4}`, 'badVersion'], [`${signature}\x22\x11\x00\x0c${tcp4}`, 'badVersion'], [`${signature}\x21\x12\x00\x0c${tcp4}`, 'badFamily'],
    [`${signature}\x21\x31\x00\x0c${tcp4}`, 'badFamily'], [`${signature}\x21\x21\x00\x0c${tcp4}`, 'badLength'], [`${signature}\x21\x11\x00\x0d${tcp4}x`, 'badLength'],
    [`${signature}\x21\x11\x00\x10${tcp4}\x01\x00\x02x`, 'badLength'], [`${signature}\x21\x11\xff\xff`, 'tooLong'], [`${signature}\x21\x11\x00\x0c`, 'more'], ['\r\n\r\n', 'more'],
    [`${signature}\x21\x11\x00\x13${tcp4}\x03\x00\x04aaaa`, 'badChecksum'], ['\r\n\r\nGET', 'none'],
  ])('%j is %s', (text, expected) => {
    expect(read(text)).toBe(expected)
  })

  test('a checksum that fits', () => {
    expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283)
    const header = Buffer.from(`${signature}\x21\x11\x00\x13${tcp4}\x03\x00\x04\0\0\0\0`, 'latin1')
    header.writeUInt32BE(crc32c(header), header.length - 4)
    expect(read(header.toString('latin1'))).toBe('35 192.0.2.1 4660')
  })
})

const ip = fc.oneof(fc.ipV4(), fc.ipV6()).map((text) => canonicalIp(text) ?? '::1')
const port = fc.integer({ min: 0, max: 65_535 })

/** Of IPv6 if one of them is. */
function version2(from: string, to: string, fromPort: number, toPort: number): Buffer {
  const is4 = !from.includes(':') && !to.includes(':')
  const ports = Buffer.alloc(4)
  ports.writeUInt16BE(fromPort, 0)
  ports.writeUInt16BE(toPort, 2)
  const addresses = [from, to].map((each) => Buffer.from(ipToBytes(each) ?? []).subarray(is4 ? 12 : 0))
  return Buffer.concat([Buffer.from('0d0a0d0a000d0a515549540a21', 'hex'), Buffer.from([is4 ? 0x11 : 0x21, 0, is4 ? 12 : 36]), ...addresses, ports])
}

test('what is written is read, however it is cut and whatever follows', () => {
  fc.assert(fc.property(ip, ip, port, port, fc.uint8Array({ maxLength: 20 }), fc.nat(), (from, to, fromPort, toPort, rest, cutAt) => {
    const header = version2(from, to, fromPort, toPort)
    expect(readProxyHeader(Buffer.concat([header, rest]))).toEqual({ t: 'header', length: header.length, source: { ip: from, port: fromPort } })
    expect(readProxyHeader(header.subarray(0, cutAt % header.length))).toEqual({ t: 'more' })
    const isV6 = from.includes(':')
    const line = Buffer.from(`PROXY ${isV6 ? 'TCP6' : 'TCP4'} ${from} ${isV6 ? '::1' : '192.0.2.1'} ${fromPort} ${toPort}\r\n`)
    expect(readProxyHeader(Buffer.concat([line, rest]))).toEqual({ t: 'header', length: line.length, source: { ip: from, port: fromPort } })
    expect(readProxyHeader(line.subarray(0, cutAt % line.length))).toEqual({ t: 'more' })
  }))
})

test('whatever the bytes: an answer, and no header that is longer than what there is', () => {
  const start = fc.constantFrom('', 'PROXY ', 'PROXY TCP4 ', '\r\n\r\n\x00\r\nQUIT\n', '\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00', '\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x30')
  fc.assert(fc.property(start, fc.uint8Array({ maxLength: 200 }), (begin, bytes) => {
    const all = Buffer.concat([Buffer.from(begin, 'latin1'), bytes])
    const found = readProxyHeader(all)
    if (found.t === 'header') {
      expect(found.length).toBeLessThanOrEqual(all.length)
      if (found.source) expect(canonicalIp(found.source.ip)).toBe(found.source.ip)
    }
  }), { numRuns: 3_000 })
})
