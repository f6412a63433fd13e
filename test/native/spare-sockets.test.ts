// Sockets made ahead of need in a namespace: who connects often gets one of them, and each behaves as one made for it, in
// success and in every failure. What nobody uses is closed, and none outlives its namespace.
import { createServer } from 'node:net'
import type { Server, Socket } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { MeshError } from '../../src/core/errors.ts'
import { native } from '../../src/kernel/native.ts'
import { Netns, nativeAddress } from '../../src/kernel/netns.ts'
import { connectInNetns, listenInNetns } from '../../src/kernel/sockets.ts'
import { connectSpare } from '../../src/kernel/spare-sockets.ts'
import type { ConnectOptions } from '../../src/kernel/sockets.ts'
import { descriptors } from './descriptors.ts'
import { addresses, TestNetns } from './test-netns.ts'

const port = 7300
let place: TestNetns
let server: Server
/** Sockets that are this process's own. */
let baseline = 0
const accepted = new Set<Socket>()

beforeAll(async () => {
  place = await TestNetns.make()
  server = createServer((socket) => {
    accepted.add(socket)
    socket.on('close', () => accepted.delete(socket)).on('error', () => {})
    socket.resume().end(`${socket.remoteAddress} ${socket.remotePort}`)
  }).listen({ fd: (await listenInNetns(place.netns, { port })).release() })
  baseline = openSockets()
})
afterAll(async () => {
  server.close()
  for (const socket of accepted) socket.destroy()
  await place[Symbol.asyncDispose]()
})

const openSockets = (): number => descriptors()['socket'] ?? 0

async function said(socket: Socket): Promise<string> {
  let text = ''
  for await (const chunk of socket.setEncoding('utf8')) text += String(chunk)
  return text
}

/** A namespace of which connects were asked in a row, so that sockets wait in it. */
async function busy(host: string): Promise<Netns> {
  const netns = await Netns.open(`/proc/self/fd/${place.netns.fd.fd}`)
  const before = openSockets()
  await expect.poll(async () => {
    for (let i = 0; i < 2; i++) (await connectInNetns(netns, { host, port })).destroy()
    return openSockets()
  }).toBeGreaterThan(before + 8)
  return netns
}

async function failure(promise: Promise<unknown>): Promise<string> {
  return promise.then(() => 'it succeeded', (error: unknown) => (error instanceof MeshError ? error.code : String(error)))
}

test.each([['IPv4', addresses.one4, addresses.foreign4], ['IPv6', addresses.one6, addresses.foreign6]])('hundreds of connects in a row, %s, plain and as a foreign client', async (_family, host, foreign) => {
  const mark = 0x78
  const returnPath = { mark, table: 778, priority: 778 }
  await native().setReturnPath(place.netns.fd, { ...returnPath, install: true })
  const netns = await busy(host)
  const ports = new Set<string>()
  for (let i = 0; i < 200; i++) {
    const options: Partial<ConnectOptions> = i % 2 === 0 ? {} : { source: { ip: foreign, port: 0 }, transparent: true, mark, portRange: [30_000, 40_000] }
    const [ip = '', from = ''] = (await said(await connectInNetns(netns, { host, port, ...options }))).split(' ')
    if (i % 2 === 0) continue
    expect(ip.replace('::ffff:', '')).toBe(foreign)
    expect(Number(from)).toBeGreaterThanOrEqual(30_000)
    expect(Number(from)).toBeLessThanOrEqual(40_000)
    ports.add(from)
  }
  expect(ports.size).toBeGreaterThan(50)
  netns.close()
  await native().setReturnPath(place.netns.fd, { ...returnPath, install: false })
})

test('every failure is told as ever, and keeps no descriptor', async () => {
  const netns = await busy(addresses.one4)
  const options = (host: string, timeoutMs = 2_000, more: Partial<ConnectOptions> = {}): ConnectOptions => ({ host, port: 7399, timeoutMs, ...more })
  for (let i = 0; i < 20; i++) {
    expect(await failure(connectInNetns(netns, options(addresses.one4)))).toBe('CONNECT_REFUSED')
    expect(await failure(connectInNetns(netns, options(addresses.nowhere4)))).toBe('CONNECT_UNREACHABLE')
    expect(await failure(connectInNetns(netns, options(addresses.unreachable4)))).toBe('CONNECT_UNREACHABLE')
  }
  const slow = await Promise.all(Array.from({ length: 8 }, () => failure(connectInNetns(netns, options(addresses.blackHole4, 200)))))
  expect(new Set(slow)).toEqual(new Set(['CONNECT_TIMEOUT']))
  netns.close()
  await expect.poll(openSockets).toBeLessThanOrEqual(baseline)
})

test('a range with one port, which is taken: another socket is asked for, and the first one closed', async () => {
  const [holder, spare] = await native().makeTcpSockets(place.netns.fd, false, 2)
  const options = { address: nativeAddress({ ip: addresses.one4, port }), source: nativeAddress({ ip: addresses.two4, port: 0 }), portRange: (23_500 << 16) | 23_500, timeoutMs: 1_000 }
  if (!holder || !spare) throw new Error('no sockets')
  expect(await connectSpare(holder, options)).toBe(holder)
  expect(await connectSpare(spare, options)).toBeUndefined()
  expect(() => spare.fd).not.toThrow()
  expect(spare.fd).toBe(-1)
  holder.close()
})

test('a socket of another family, a closed one and one that is connected say so', async () => {
  const [spare] = await native().makeTcpSockets(place.netns.fd, false, 1)
  const options = { address: nativeAddress({ ip: addresses.one6, port }), timeoutMs: 1_000 }
  if (!spare) throw new Error('no socket')
  expect(await failure(connectSpare(spare, options))).toBe('SYSCALL_FAILED')
  expect(await failure(connectSpare(spare, options))).toBe('SYSCALL_FAILED')
  expect(() => native().connectMade(place.netns.fd, options)).toThrow(MeshError)
  expect(() => native().makeTcpSockets(place.netns.fd, false, 257)).toThrow(TypeError)
})

test('what nobody uses is closed after a while', async () => {
  const netns = await busy(addresses.one4)
  await expect.poll(openSockets, { timeout: 5_000 }).toBeLessThanOrEqual(baseline)
  netns.close()
})

test('a namespace that is closed while sockets are being made keeps none', async () => {
  for (let i = 0; i < 20; i++) {
    const netns = await Netns.open(`/proc/self/fd/${place.netns.fd.fd}`)
    netns.spareSockets.take('ip4')
    netns.spareSockets.take('ip4')
    netns.close()
  }
  await expect.poll(openSockets).toBeLessThanOrEqual(baseline)
})
