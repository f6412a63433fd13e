import { createServer, connect } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { once } from 'node:events'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { bytesToIp } from '../core/address.ts'
import type { SocketAddr } from '../core/address.ts'
import { formatIdentity } from '../core/identity.ts'
import { proxyHeader, sendHeader } from './proxy-protocol.ts'

const identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'web' }

test('bytes as the specification draws them', () => {
  const header = proxyHeader({ ip: '10.0.0.1', port: 4660 }, { ip: '10.96.0.1', port: 80 }, undefined)
  expect(header.toString('hex')).toBe(`0d0a0d0a000d0a515549540a${'21'}${'11'}${'000c'}${'0a000001'}${'0a600001'}${'1234'}${'0050'}`)
  const named = proxyHeader({ ip: 'fd00::1', port: 1 }, { ip: 'fd00::2', port: 2 }, identity)
  const uri = 'spiffe://cluster.local/ns/shop/sa/web'
  expect(named.toString('hex', 12)).toBe(
    `2121${(36 + 3 + uri.length).toString(16).padStart(4, '0')}${'fd'.padEnd(30, '0')}01${'fd'.padEnd(30, '0')}0200010002${'d0'}${uri.length.toString(16).padStart(4, '0')}${Buffer.from(uri).toString('hex')}`,
  )
})

test('what is no address is refused', () => {
  expect(() => proxyHeader({ ip: 'localhost', port: 1 }, { ip: '10.0.0.1', port: 2 }, undefined)).toThrow(expect.objectContaining({ code: 'BAD_MESSAGE' }))
})

/** Reads as HAProxy's own example code does. */
function read(bytes: Buffer): { source: SocketAddr; destination: SocketAddr; tlvs: [number, string][] } {
  expect(bytes.subarray(0, 12).equals(Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1'))).toBe(true)
  expect(bytes[12]).toBe(0x21)
  const is4 = bytes[13] === 0x11
  if (!is4) expect(bytes[13]).toBe(0x21)
  expect(bytes.readUInt16BE(14)).toBe(bytes.length - 16)
  const size = is4 ? 4 : 16
  const ip = (at: number): string => is4 ? [...bytes.subarray(at, at + 4)].join('.') : bytesToIp(bytes.subarray(at, at + 16))
  const ports = 16 + 2 * size
  const tlvs: [number, string][] = []
  for (let at = ports + 4; at < bytes.length;) {
    const length = bytes.readUInt16BE(at + 1)
    expect(at + 3 + length).toBeLessThanOrEqual(bytes.length)
    tlvs.push([bytes[at] ?? 0, bytes.toString('utf8', at + 3, at + 3 + length)])
    at += 3 + length
  }
  return {
    source: { ip: ip(16), port: bytes.readUInt16BE(ports) }, destination: { ip: ip(16 + size), port: bytes.readUInt16BE(ports + 2) }, tlvs,
  }
}

test('every pair of addresses, of whatever families, is read back as it was', () => {
  const addr = fc.record({ ip: fc.uint8Array({ minLength: 16, maxLength: 16 }).map(bytesToIp), port: fc.nat(65_535) })
  const addr4 = fc.record({ ip: fc.ipV4(), port: fc.nat(65_535) })
  const segment = fc.stringMatching(/^[a-z0-9]{1,253}$/)
  const anyIdentity = fc.option(fc.record({ trustDomain: segment, namespace: segment, serviceAccount: segment }), { nil: undefined })
  fc.assert(fc.property(fc.oneof(addr, addr4), fc.oneof(addr, addr4), anyIdentity, (source, destination, who) => {
    expect(read(proxyHeader(source, destination, who))).toEqual({ source, destination, tlvs: who ? [[0xd0, formatIdentity(who)]] : [] })
  }), { numRuns: 500 })
})

test('a header that an application does not take is a failed connection, not the end of the process', async () => {
  const server = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const application = connect((server.address() as AddressInfo).port, '127.0.0.1')
  const [socket] = await once(server, 'connection') as [Socket]
  application.resetAndDestroy()
  await new Promise((resolve) => setTimeout(resolve, 50))
  await expect(sendHeader(socket, Buffer.from('x'))).rejects.toMatchObject({ code: 'CONNECT_FAILED' })
  expect(socket.destroyed).toBe(true)
  server.close()
})
