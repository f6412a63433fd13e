import { createSocket } from 'node:dgram'
import { createServer, type Server } from 'node:net'
import { decode, encode } from 'dns-packet'
import fc from 'fast-check'
import { afterEach, expect, test } from 'vitest'
import type { SocketAddr } from '../core/address.ts'
import { FrameReader, frameOf } from '../dns/frames.ts'
import { DnsForwarder, nameServersOf } from './dns-forwarder.ts'

const open: (() => void)[] = []
afterEach(() => {
  for (const close of open.splice(0)) close()
})

type Reply = (query: Buffer) => Buffer[]
const answer = (query: Buffer, ip = '192.0.2.1'): Buffer => {
  const { id = 0, questions = [] } = decode(query)
  return encode({ type: 'response', id, questions, answers: [{ type: 'A', name: questions[0]?.name ?? '', ttl: 9, data: ip }] })
}
const failure = (query: Buffer, rcode: number): Buffer => {
  const copy = Buffer.from(query)
  copy.writeUInt16BE(0x8180 | rcode, 2)
  return copy
}
/** A name server on loopback, over UDP and TCP at one port. */
async function nameServer(reply: Reply): Promise<SocketAddr> {
  const tcp: Server = createServer((socket) => {
    const reader = new FrameReader()
    socket.on('error', () => {}) // the forwarder hangs up when it has what it wants
    socket.on('data', (chunk: Buffer) => reader.push(chunk).flatMap((query) => reply(query)).forEach((each) => socket.write(frameOf(each))))
  })
  const port = await new Promise<number>((resolve) => tcp.listen(0, '127.0.0.1', () => {
    const address = tcp.address()
    resolve(typeof address === 'object' && address ? address.port : 0)
  }))
  const udp = createSocket('udp4')
  udp.on('message', (query, from) => reply(query).forEach((each) => udp.send(each, from.port, from.address)))
  await new Promise<void>((resolve) => udp.bind(port, '127.0.0.1', resolve))
  open.push(() => tcp.close(), () => udp.close())
  return { ip: '127.0.0.1', port }
}
const query = encode({ type: 'query', id: 77, flags: 256, questions: [{ type: 'A', name: 'a.example', class: 'IN' }] })
const forwarder = (servers: readonly SocketAddr[], timeoutMs = 5000): DnsForwarder => {
  const made = new DnsForwarder({ servers: () => servers, timeoutMs })
  open.push(() => made.close())
  return made
}
const ipsOf = (message: Buffer | undefined): unknown => (message ? decode(message).answers?.map((each) => ('data' in each ? each.data : each)) : message)

test.each(['udp', 'tcp'] as const)('over %s the answer comes as it was', async (transport) => {
  const server = await nameServer((asked) => [answer(asked)])
  expect(await forwarder([server]).ask(query, transport)).toEqual(answer(query))
})

test.each(['udp', 'tcp'] as const)('over %s a server that refuses, is not there or is silent is passed over, whatever order they are in', async (transport) => {
  const refuses = await nameServer((asked) => [failure(asked, 5)])
  const answers = await nameServer((asked) => [answer(asked)])
  const silent = await nameServer(() => [])
  const absent: SocketAddr = { ip: '127.0.0.1', port: 1 }
  expect(ipsOf(await forwarder([refuses, absent, answers]).ask(query, transport))).toEqual(['192.0.2.1'])
  expect(ipsOf(await forwarder([silent, answers], 1000).ask(query, transport))).toEqual(['192.0.2.1'])
  expect(await forwarder([answers, silent]).addresses('a.example', 'A')).toEqual({ ips: ['192.0.2.1'], exists: true })
  expect(await forwarder([absent, refuses]).ask(query, transport)).toEqual(failure(query, 5))
  expect(await forwarder([absent, silent], 200).ask(query, transport)).toBeUndefined()
})

test('a name that is not there is a last word', async () => {
  const gone = await nameServer((asked) => [failure(asked, 3)])
  const never = await nameServer((asked) => [answer(asked)])
  expect(await forwarder([gone, never]).ask(query, 'udp')).toEqual(failure(query, 3))
  expect(await forwarder([gone, never]).addresses('a.example', 'A')).toEqual({ ips: [], exists: false })
})

test('neither questions nor answers of somebody else are taken', async () => {
  const other = Buffer.from(query)
  other.writeUInt16BE(78)
  const server = await nameServer((asked) => [Buffer.alloc(3), answer(other, '198.51.100.66'), asked, answer(asked)])
  expect(ipsOf(await forwarder([server]).ask(query, 'udp'))).toEqual(['192.0.2.1'])
})

test('no bytes of a server do harm', async () => {
  let says: Buffer[] = []
  const server = await nameServer(() => says)
  await fc.assert(fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 3 }), fc.constantFrom('udp' as const, 'tcp' as const), async (list, transport) => {
    says = [...list.map((bytes) => Buffer.from(bytes)), failure(query, 3)]
    const got = await forwarder([server], 2000).ask(query, transport)
    expect(got === undefined || got.readUInt16BE(0) === 77).toBe(true)
  }), { numRuns: 60 })
})

test('what waits ends with the forwarder', async () => {
  const silent = await nameServer(() => [])
  const waits = forwarder([silent], 60_000)
  const asked = [waits.ask(query, 'udp'), waits.ask(query, 'tcp'), waits.addresses('a.example', 'AAAA')]
  await new Promise((resolve) => setImmediate(resolve))
  waits.close()
  expect(await Promise.all(asked)).toEqual([undefined, undefined, undefined])
  expect(await waits.ask(query, 'udp')).toBeUndefined()
})

test('servers of a resolv.conf', () => {
  expect(nameServersOf('# nameserver 192.0.2.9\nsearch x\n nameserver\t192.0.2.1\nnameserver 2001:db8::1\nnameserver name\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n'))
    .toEqual([{ ip: '192.0.2.1', port: 53 }, { ip: '2001:db8::1', port: 53 }, { ip: '192.0.2.3', port: 53 }])
  expect(nameServersOf('search x\n')).toEqual([{ ip: '127.0.0.1', port: 53 }])
})
