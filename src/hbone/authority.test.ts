import fc from 'fast-check'
import { expect, test } from 'vitest'
import { canonicalIp } from '../core/address.ts'
import { formatAuthority, parseAuthority } from './authority.ts'

test.each([
  ['10.1.2.3:80', { t: 'address', address: { ip: '10.1.2.3', port: 80 } }],
  ['[fd00::1]:65535', { t: 'address', address: { ip: 'fd00::1', port: 65_535 } }],
  ['[FD00:0::1]:1', { t: 'address', address: { ip: 'fd00::1', port: 1 } }],
  ['[::ffff:10.0.0.1]:80', { t: 'address', address: { ip: '10.0.0.1', port: 80 } }],
  ['web.shop.svc.cluster.local:8080', { t: 'hostname', hostname: 'web.shop.svc.cluster.local', port: 8_080 }],
  ['Web.Shop:80', { t: 'hostname', hostname: 'web.shop', port: 80 }],
  ['web.:80', { t: 'hostname', hostname: 'web', port: 80 }],
  ['1password.com:443', { t: 'hostname', hostname: '1password.com', port: 443 }],
])('%s', (text, authority) => {
  expect(parseAuthority(text)).toEqual({ ok: authority })
})

test.each([
  ['', 'empty'],
  ['a'.repeat(300), 'tooLong'],
  ['10.1.2.3', 'noPort'],
  ['[fd00::1]', 'noPort'],
  ['web:', 'badPort'], ['web:0', 'badPort'], ['web:080', 'badPort'], ['web:65536', 'badPort'], ['web:+80', 'badPort'], ['web:8 0', 'badPort'], ['web:80/', 'badPort'],
  ['fd00::1:80', 'badAddress'], ['10.1.2:80', 'badAddress'], ['010.1.2.3:80', 'badAddress'], ['256.1.1.1:80', 'badAddress'], ['127.1:80', 'badAddress'],
  ['2130706433:80', 'badAddress'], ['[10.1.2.3]:80', 'badAddress'], ['[fd00::1%eth0]:80', 'badAddress'], ['[]:80', 'badAddress'], [':80', 'badAddress'],
  ['user@web:80', 'badHostname'], ['we b:80', 'badHostname'], ['web..shop:80', 'badHostname'], ['-web:80', 'badHostname'], ['https//web:80', 'badHostname'],
  ['web\u0000:80', 'badHostname'], ['wëb:80', 'badHostname'],
])('%j is refused: %s', (text, fault) => {
  expect(parseAuthority(text)).toEqual({ fault })
})

test('what is formatted is parsed back, whatever the address', () => {
  const ip = fc.oneof(fc.ipV4(), fc.ipV6()).map((text) => canonicalIp(text) ?? '::')
  fc.assert(fc.property(ip, fc.integer({ min: 1, max: 65_535 }), (ip, port) => {
    const authority = { t: 'address', address: { ip, port } } as const
    expect(parseAuthority(formatAuthority(authority))).toEqual({ ok: authority })
  }))
  fc.assert(fc.property(fc.domain(), fc.integer({ min: 1, max: 65_535 }), (domain, port) => {
    const authority = { t: 'hostname', hostname: domain.toLowerCase(), port } as const
    expect(parseAuthority(formatAuthority(authority))).toEqual({ ok: authority })
  }))
})

test('any text gives an answer, and what is accepted has one spelling', () => {
  const near = fc.array(fc.constantFrom('[', ']', ':', '.', '%', '@', '1', '80', 'a', 'ffff', '-', '::', ' '), { maxLength: 12 }).map((parts) => parts.join(''))
  fc.assert(fc.property(fc.oneof(near, fc.string({ unit: 'binary' })), (text) => {
    const parsed = parseAuthority(text)
    if ('ok' in parsed) expect(parseAuthority(formatAuthority(parsed.ok))).toEqual(parsed)
  }), { numRuns: 2_000 })
})
