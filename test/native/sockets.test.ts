// Sockets made inside a namespace by the addon's thread and handed to Node: every family and option, every way in which
// a connect can fail, and a thread that keeps no namespace alive.
import { execFileSync } from 'node:child_process'
import { statSync } from 'node:fs'
import { createServer } from 'node:net'
import type { AddressInfo, Server, Socket } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ipToBytes } from '../../src/core/address.ts'
import { MeshError } from '../../src/core/errors.ts'
import { native } from '../../src/kernel/native.ts'
import { Netns } from '../../src/kernel/netns.ts'
import { bindUdpInNetns, connectInNetns, datagramSocket, listenInNetns } from '../../src/kernel/sockets.ts'
import type { ConnectOptions } from '../../src/kernel/sockets.ts'
import { loadProgram } from './fence-programs.ts'
import { addresses, hold, TestNetns } from './test-netns.ts'

let place: TestNetns
/** Tells each client its address and port, then echoes; on every address of both families. */
let server: Server
const port = 7100
const accepted = new Set<Socket>()

function greet(socket: Socket): void {
  accepted.add(socket)
  socket.on('close', () => accepted.delete(socket))
  socket.on('error', () => {}) // some tests reset their end
  socket.write(`${socket.remoteAddress} ${socket.remotePort} ${socket.localAddress}\n`)
  socket.pipe(socket)
}

beforeAll(async () => {
  place = await TestNetns.make()
  server = createServer(greet).listen({ fd: (await listenInNetns(place.netns, { port })).release() })
})
afterAll(async () => {
  server.close()
  for (const socket of accepted) socket.destroy()
  await place[Symbol.asyncDispose]()
})

const connect = (host: string, options: Partial<ConnectOptions> = {}): Promise<Socket> => connectInNetns(place.netns, { host, port, ...options })

/** Reads until a whole line is there. */
function line(socket: Socket): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = ''
    socket.setEncoding('utf8')
    socket.on('data', (chunk) => {
      text += chunk
      if (text.includes('\n')) resolve(text.trim())
    })
    socket.once('error', reject)
    socket.once('end', () => reject(new Error('ended')))
  })
}

async function greeting(socket: Socket): Promise<string[]> {
  const text = await line(socket)
  socket.destroy()
  return text.split(' ')
}

async function failureOf(promise: Promise<unknown>): Promise<MeshError> {
  try {
    await promise
  } catch (error) {
    if (error instanceof MeshError) return error
    throw error
  }
  throw new Error('it succeeded')
}

describe('connections', () => {
  test('over IPv4 and IPv6 to one dual-stack listener', async () => {
    expect((await greeting(await connect(addresses.one4)))[0]).toBe(`::ffff:${addresses.one4}`)
    expect((await greeting(await connect(addresses.one6)))[0]).toBe(addresses.one6)
  })

  test.each([['IPv4', addresses.one4, addresses.one6], ['IPv6', addresses.two6, addresses.two4]])('a listener of %s alone', async (_family, host, other) => {
    const fd = await listenInNetns(place.netns, { host, port: 7200 })
    const alone = createServer(greet).listen({ fd: fd.release() })
    expect((alone.address() as AddressInfo).address).toBe(host)
    expect((await greeting(await connect(host, { port: 7200 })))[2]).toBe(host)
    expect((await failureOf(connect(other, { port: 7200 }))).code).toBe('CONNECT_REFUSED')
    alone.close()
  })

  test('from a source address, with and without a port, and from a range of ports', async () => {
    const from = async (source: { ip: string; port: number }, options: Partial<ConnectOptions> = {}): Promise<string[]> =>
      greeting(await connect(source.ip.includes(':') ? addresses.one6 : addresses.one4, { source, ...options }))
    expect((await from({ ip: addresses.two4, port: 0 }))[0]).toBe(`::ffff:${addresses.two4}`)
    expect((await from({ ip: addresses.two6, port: 0 }))[0]).toBe(addresses.two6)
    expect((await from({ ip: addresses.two4, port: 23_456 }))[1]).toBe('23456')
    for (let i = 0; i < 20; i++) {
      const [, sourcePort] = await from({ ip: addresses.two4, port: 0 }, { portRange: [20_000, 20_100] })
      expect(Number(sourcePort)).toBeGreaterThanOrEqual(20_000)
      expect(Number(sourcePort)).toBeLessThanOrEqual(20_100)
    }
  })

  test('as a foreign client, marked, with its answers routed back', async () => {
    const mark = 0x77
    const returnPath = { mark, table: 777, priority: 777 }
    await native().setReturnPath(place.netns.fd, { ...returnPath, install: true })
    await native().setReturnPath(place.netns.fd, { ...returnPath, install: true }) // again does nothing
    for (const [ip, host] of [[addresses.foreign4, addresses.one4], [addresses.foreign6, addresses.one6]] as const) {
      const socket = await connect(host, { source: { ip, port: 0 }, transparent: true, mark })
      const said = await line(socket)
      expect(said).toContain(ip)
      const live = await place.netns.liveConnections()
      expect(live).toContainEqual({ source: { ip, port: Number(said.split(' ')[1]) }, destination: { ip: host, port }, mark })
      socket.destroy()
    }
    await native().setReturnPath(place.netns.fd, { ...returnPath, install: false })
    await native().setReturnPath(place.netns.fd, { ...returnPath, install: false })
    expect(await failureOf(connect(addresses.one4, { source: { ip: addresses.foreign4, port: 0 } }))).toMatchObject({
      code: 'SYSCALL_FAILED', detail: { call: 'bind', errno: 'EADDRNOTAVAIL' },
    })
  })

  test('many at once', async () => {
    const sockets = await Promise.all(Array.from({ length: 500 }, (_, i) => connect(i % 2 === 0 ? addresses.one4 : addresses.two6)))
    expect(new Set(sockets.map((socket) => `${socket.localAddress} ${socket.localPort}`)).size).toBe(500)
    for (const socket of sockets) socket.destroy()
  })

  test('with the socket state that a program will find', async () => {
    const programs = loadProgram('fence', 'fence_pod')
    const { sockets: storageMap } = programs.maps
    const { valueSize } = native().mapInfo(storageMap)
    const storageValue = Uint8Array.from({ length: valueSize }, (_, i) => i)
    const socket = await connect(addresses.one4, { socketMark: { storageMap, storageValue } })
    socket.destroy()
    const fd = await listenInNetns(place.netns, { host: addresses.one4, port: 7300, socketMark: { storageMap, storageValue } })
    const key = new Uint8Array(new Int32Array([fd.fd]).buffer)
    expect(Buffer.compare(native().mapLookup(storageMap, key) ?? Buffer.alloc(0), storageValue)).toBe(0)
    fd.close()
    for (const wrong of [{ storageMap, storageValue: new Uint8Array(valueSize - 1) }, { storageMap: programs.maps.flows.fd, storageValue: new Uint8Array(4) }]) {
      // Thrown at once or rejected: an async function makes both a rejection.
      expect(await failureOf((async () => connect(addresses.one4, { socketMark: wrong }))())).toMatchObject({ code: 'SYSCALL_FAILED' })
    }
    programs[Symbol.dispose]()
  })
})

describe('a connect that fails says how', () => {
  test.each([addresses.one4, addresses.one6])('nobody listens on %s', async (host) => {
    expect(await failureOf(connect(host, { port: 7999 }))).toMatchObject({ code: 'CONNECT_REFUSED', source: 'upstream' })
  })

  test.each([addresses.blackHole4, addresses.blackHole6])('nobody answers on %s, in the time that was given', async (host) => {
    const start = performance.now()
    expect((await failureOf(connect(host, { timeoutMs: 300 }))).code).toBe('CONNECT_TIMEOUT')
    const took = performance.now() - start
    expect(took).toBeGreaterThanOrEqual(299)
    expect(took).toBeLessThan(3000)
  })

  test('each of many keeps its own time', async () => {
    const times = [50, 400, 100, 200, 50]
    const start = performance.now()
    const took = await Promise.all(times.map(async (timeoutMs) => {
      expect((await failureOf(connect(addresses.blackHole4, { timeoutMs }))).code).toBe('CONNECT_TIMEOUT')
      return performance.now() - start
    }))
    for (const [i, time] of times.entries()) expect(took[i]).toBeGreaterThanOrEqual(time - 1)
    expect(Math.max(...took)).toBeLessThan(3000)
  })

  test.each([addresses.unreachable4, addresses.unreachable6, addresses.nowhere4, addresses.nowhere6])('no way to %s', async (host) => {
    expect((await failureOf(connect(host))).code).toBe('CONNECT_UNREACHABLE')
  })

  test('an address in use and a descriptor that is no namespace', async () => {
    const first = await native().listenTcp(place.netns.fd, { address: { ip: ipToBytes(addresses.one4) ?? new Uint8Array(16), port: 7400 } })
    await expect(native().listenTcp(place.netns.fd, { address: { ip: ipToBytes(addresses.one4) ?? new Uint8Array(16), port: 7400 } })).rejects.toMatchObject({
      code: 'SYSCALL_FAILED', detail: { call: 'bind', errno: 'EADDRINUSE' },
    })
    first.close()
    const file = native().openPath('/proc/self/status')
    await expect(native().netnsInfo(file)).rejects.toMatchObject({ code: 'SYSCALL_FAILED', detail: { call: 'setns' } })
    file.close()
    expect(() => native().netnsInfo(file)).toThrow(expect.objectContaining({ detail: expect.objectContaining({ errno: 'EBADF' }) }))
  })

  test('wrong options are TypeErrors, at once', () => {
    const ip = ipToBytes(addresses.one4) ?? new Uint8Array(16)
    const address = { ip, port }
    const addon = native() as unknown as Record<'connectTcp' | 'listenTcp' | 'bindUdp' | 'destroySocket' | 'setReturnPath', (...args: unknown[]) => unknown>
    const wrong: unknown[] = [
      undefined, null, 1, {}, { address: 1 }, { address: {} }, { address: { ip: new Uint8Array(4), port } }, { address: { ip, port: 65_536 } },
      { address: { ip, port: -1 } }, { address, source: {} }, { address, source: null }, { address, mark: 'x' }, { address, timeoutMs: -1 },
      { address, dualStack: 1 }, { address, backlog: 2 ** 31 }, { address, storageMap: {}, storageValue: new Uint8Array(24) }, { address, storageMap: place.netns.fd },
      { address, source: address, portRange: 5 * 65_536 + 6 }, { address, portRange: 6 * 65_536 + 5 },
      { address: { ip, get port(): never { throw new TypeError('from a getter') } } },
    ]
    for (const [i, options] of wrong.entries()) {
      for (const call of ['connectTcp', 'listenTcp', 'bindUdp'] as const) expect(() => addon[call](place.netns.fd, options), `${call} ${i}`).toThrow(TypeError)
    }
    for (const options of [undefined, {}, { source: address }, { source: address, destination: { ip } }]) expect(() => addon.destroySocket(place.netns.fd, options)).toThrow(TypeError)
    for (const options of [undefined, { mark: -1 }, { install: 'yes' }]) expect(() => addon.setReturnPath(place.netns.fd, options)).toThrow(TypeError)
  })
})

test.each([['IPv4', addresses.one4], ['IPv6', addresses.one6], ['both families', undefined]])('UDP sockets of %s', async (_family, host) => {
  const answering = await datagramSocket(await bindUdpInNetns(place.netns, { ...(host === undefined ? {} : { host }), port: 7500 }), host)
  answering.on('message', (message, from) => answering.send(`${message.toString()} back`, from.port, from.address))
  const target = host ?? `::ffff:${addresses.one4}`
  const asking = await datagramSocket(await bindUdpInNetns(place.netns, { ...(host === undefined ? {} : { host }), port: 0 }), host)
  const reply = new Promise<string>((resolve) => asking.once('message', (message) => resolve(message.toString())))
  asking.send('there and', 7500, target)
  expect(await reply).toBe('there and back')
  answering.close()
  asking.close()
})

describe('what the kernel knows of connections', () => {
  test('tcpInfo counts the bytes, and refuses what is no TCP socket', async () => {
    const fd = await native().connectTcp(place.netns.fd, { address: { ip: ipToBytes(addresses.one4) ?? new Uint8Array(16), port } })
    const established = 1
    const bytesReceivedOffset = 128
    expect(native().tcpInfo(fd.fd)[0]).toBe(established)
    const greetingBytes = (): bigint => native().tcpInfo(fd.fd).readBigUInt64LE(bytesReceivedOffset)
    await expect.poll(greetingBytes).toBeGreaterThan(20n)
    const number = fd.fd
    fd.close()
    expect(() => native().tcpInfo(number)).toThrow(MeshError)
    expect(() => native().tcpInfo(1)).toThrow(MeshError)
    expect(() => native().tcpInfo(-1)).toThrow(TypeError)
  })

  test.each([addresses.one4, addresses.one6])('destroyConnection ends a live one to %s, and says when there is none', async (host) => {
    const socket = await connect(host)
    const [, sourcePort] = (await line(socket)).split(' ')
    const source = { ip: host, port: Number(sourcePort) }
    const failed = new Promise<string | undefined>((resolve) => socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code)))
    expect(await place.netns.destroyConnection(source, { ip: host, port })).toBe(true)
    expect(await failed).toBe('ECONNABORTED')
    await expect.poll(() => place.netns.destroyConnection(source, { ip: host, port })).toBe(false)
  })
})

describe('namespaces', () => {
  test('cookie and inode are the same however the namespace was opened, and unlike any other', async () => {
    const again = await Netns.open(place.path)
    const own = await Netns.open('/proc/self/ns/net')
    expect(again.cookie).toBe(place.netns.cookie)
    expect(again.inode).toBe(BigInt(statSync(place.path).ino))
    expect(own.cookie).not.toBe(place.netns.cookie)
    again.close()
    own.close()
  })

  test('links are those of the namespace, veths lead elsewhere', async () => {
    const links = await native().netnsLinks(place.netns.fd)
    expect(links.map(({ name }) => name).sort()).toEqual(['hole', 'lo', 'pit'])
    expect(await place.netns.veths()).toEqual([]) // both ends are here
  })

  test('its addresses are those that others reach it by: not of loopback, of a link, in question or second', async () => {
    expect(await place.netns.addresses()).toEqual([addresses.hole4, addresses.hole6])
    const holder = await hold(`
link add left type veth peer name right
addr add fe80::5/64 dev left nodad
addr add 192.168.5.1/24 dev left
addr add 192.168.5.2/24 dev left
addr add fd05::1/64 dev left nodad preferred_lft 0
addr add fd05::2/64 dev left nodad
addr add 192.168.6.1/24 dev right
addr add 169.254.9.9/16 scope link dev right
link set lo up
addr add 10.5.5.5/32 dev lo
`)
    const netns = await Netns.open(`/proc/${holder.pid}/ns/net`)
    // The right one was made first.
    expect(await netns.addresses()).toEqual(['192.168.6.1', 'fd05::2'])
    netns.close()
    await holder.stop()
  })

  test('the thread keeps none alive: with the last holder its links go, connects under way or not', async () => {
    await using near = await TestNetns.make()
    const far = await hold('link set lo up')
    const ip = (netns: string, lines: string): unknown => execFileSync('nsenter', [`--net=${netns}`, 'ip', '-batch', '-'], { input: lines })
    ip(near.path, `link add near type veth peer name far netns /proc/${far.pid}/ns/net\nlink set near up\n`)
    // The neighbour is given: a packet that waits for its neighbour keeps the namespace for seconds, in any program.
    ip(`/proc/${far.pid}/ns/net`, 'addr add 10.55.0.1/24 dev far\nlink set far up\nneigh add 10.55.0.2 lladdr 02:00:00:00:00:09 dev far\n')
    const farNetns = await Netns.open(`/proc/${far.pid}/ns/net`)
    expect((await near.netns.veths()).map(({ name }) => name)).toEqual(['near'])
    const pending = failureOf(connectInNetns(farNetns, { host: '10.55.0.2', port: 1, timeoutMs: 300 }))
    farNetns.close()
    await far.stop()
    expect((await pending).code).toBe('CONNECT_TIMEOUT')
    await expect.poll(() => near.netns.veths(), { timeout: 10_000 }).toEqual([])
  })
})
