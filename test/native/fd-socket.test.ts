// Messages with descriptors over real unix sockets: what arrives is what was sent, and whatever goes wrong, no descriptor
// is left behind.
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { existsSync, fstatSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { MeshError } from '../../src/core/errors.ts'
import { FdServer, FdSocket } from '../../src/kernel/fd-socket.ts'
import type { FdServerOptions, FdSocketLimits, FdSocketType } from '../../src/kernel/fd-socket.ts'
import { duplicateDescriptor } from '../../src/kernel/live-socket.ts'
import { native } from '../../src/kernel/native.ts'
import type { OwnedFd } from '../../src/kernel/native.ts'
import { LineProcess } from '../helpers/line-process.ts'
import { descriptorCount } from './descriptors.ts'

let directory: string
let path: string
let before: number

beforeEach(() => {
  native().duplicate(0).close()
  directory = mkdtempSync(join(tmpdir(), 'sidestep-fd-'))
  path = join(directory, 'socket')
  // The poller's own two stay from its first use on.
  FdServer.listen({ path, type: 'seqpacket', onConnection: () => {} }).close()
  before = descriptorCount()
})
afterEach(() => rmSync(directory, { recursive: true }))

/** The sockets of the test are closed; what is left over was leaked. */
async function expectNoneLeft(): Promise<void> {
  for (let i = 0; i < 100 && descriptorCount() > before; i++) await sleep(10)
  expect(descriptorCount()).toBe(before)
}

/** One end of a connection, with what came. */
class End {
  readonly socket: FdSocket
  readonly got: { text: string; fds: readonly OwnedFd[] }[] = []
  closed: { error: MeshError | undefined } | undefined
  constructor(socket: FdSocket) {
    this.socket = socket
  }

  start(): this {
    this.socket.start({
      onMessage: (bytes, fds) => this.got.push({ text: new TextDecoder().decode(bytes), fds }),
      onClose: (error) => (this.closed = { error }),
    })
    return this
  }

  send(text: string, fds: readonly OwnedFd[] = []): boolean {
    return this.socket.send(new TextEncoder().encode(text), fds)
  }

  async has(count: number): Promise<void> {
    await expect.poll(() => this.got.length, { timeout: 5_000, interval: 2 }).toBe(count)
  }

  async ends(): Promise<MeshError | undefined> {
    await expect.poll(() => this.closed, { timeout: 5_000, interval: 2 }).toBeDefined()
    return this.closed?.error
  }
}

interface Pair extends Disposable {
  readonly server: FdServer
  readonly near: End
  readonly far: End
}

async function pair(type: FdSocketType = 'seqpacket', limits: FdSocketLimits = {}): Promise<Pair> {
  const made = Promise.withResolvers<FdSocket>()
  const server = FdServer.listen({ path, type, limits, onConnection: made.resolve })
  const near = new End(FdSocket.connect(path, type, limits))
  const far = new End(await made.promise)
  const close = (): void => {
    for (const { socket, got } of [near, far]) {
      socket.close()
      for (const { fds } of got) for (const fd of fds) fd.close()
    }
    server.close()
  }
  return { server, near, far, [Symbol.dispose]: close }
}

test('messages stay apart, in order, both ways, with their descriptors', async () => {
  {
    using ends = await pair()
    const near = ends.near.start()
    const far = ends.far.start()
    const file = native().openPath(directory)
    far.send('first')
    near.send('one', [file])
    near.send('')
    near.send('three', [file, file])
    file.close()
    await far.has(3)
    await near.has(1)
    expect(far.got.map(({ text, fds }) => [text, fds.length])).toEqual([['one', 1], ['', 0], ['three', 2]])
    expect(near.got.map(({ text }) => text)).toEqual(['first'])
    for (const fd of far.got.flatMap(({ fds }) => fds)) {
      expect(fstatSync(fd.fd).ino).toBe(statSync(directory).ino)
      // O_CLOEXEC: a child of ours must not inherit it.
      expect(Number.parseInt(/flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd.fd}`, 'utf8'))?.[1] ?? '', 8) & 0o2000000).toBe(0o2000000)
    }
    expect(near.socket.peer()).toEqual({ pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() })
    // What was sent before the end arrives before it.
    near.send('last')
    near.socket.close()
    expect(await far.ends()).toBeUndefined()
    expect(far.got.at(-1)?.text).toBe('last')
    expect(far.send('nobody')).toBe(false)
  }
  await expectNoneLeft()
})

test('a stream gives all bytes, and the descriptor with the first of them', async () => {
  {
    using ends = await pair('stream', { maxQueuedBytes: 1 << 24 })
    const far = ends.far
    const file = native().openPath(directory)
    const megabyte = new Uint8Array(1 << 20).map((_, i) => i % 251)
    ends.near.start()
    for (let i = 0; i < 4; i++) ends.near.socket.send(megabyte, i === 0 ? [file] : [])
    file.close()
    const received: Uint8Array[] = []
    let fds = 0
    far.socket.start({
      onMessage: (bytes, taken) => {
        received.push(bytes)
        fds += taken.length
        for (const fd of taken) fd.close()
      },
      onClose: () => {},
    })
    await expect.poll(() => received.reduce((sum, { length }) => sum + length, 0), { timeout: 5_000 }).toBe(4 << 20)
    const all = Buffer.concat(received)
    for (let i = 0; i < 4; i++) expect(all.subarray(i << 20, (i + 1) << 20).equals(megabyte)).toBe(true)
    expect(fds).toBe(1)
  }
  await expectNoneLeft()
})

test.each([
  ['a message that is too long', { maxMessageBytes: 10 }, 'eleven byte', 1],
  ['too many descriptors', { maxFds: 2 }, 'three', 3],
  ['a descriptor where none is taken', { maxFds: 0 }, 'one', 1],
] as const)('%s ends the connection, and its descriptors are closed', async (_what, limits, text, count) => {
  {
    using ends = await pair('seqpacket', limits)
    const far = ends.far.start()
    const near = ends.near.start()
    const udp = await boundUdp()
    near.send('fine')
    near.send(text, Array.from({ length: count }, () => udp))
    near.send('never seen')
    udp.close()
    expect(await far.ends()).toMatchObject({ code: 'BAD_MESSAGE', source: 'upstream' })
    expect(far.got.map((each) => each.text)).toEqual(['fine'])
    // The other end learns of it, with its message unread there.
    expect(await near.ends()).toMatchObject({ detail: { errno: 'ECONNRESET' } })
  }
  await expectNoneLeft()
})

async function boundUdp(): Promise<OwnedFd> {
  const socket = createSocket('udp4')
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  const fd = duplicateDescriptor(socket)
  socket.close()
  if (!fd) throw new TypeError('no descriptor')
  return fd
}

test('a peer that does not read is given up in the end, and what waited for it is closed', async () => {
  {
    using ends = await pair('seqpacket', { maxQueuedMessages: 20 })
    const udp = await boundUdp()
    let sent = 0
    const error = await (async () => {
      try {
        for (; sent < 10_000; sent++) ends.near.send('x'.repeat(1_000), [udp])
      } catch (caught) {
        return caught
      }
      return undefined
    })()
    udp.close()
    // SYSCALL_FAILED where the kernel's own limit on descriptors under way came first.
    expect(error).toMatchObject({ code: 'OVERLOADED', detail: { limit: 'queue' } })
    expect(descriptorCount()).toBeGreaterThanOrEqual(before + 20)
    // It is not lost yet: a reader gets all that was accepted.
    const far = ends.far.start()
    ends.near.start()
    await far.has(sent)
  }
  await expectNoneLeft()
})

test('closing with descriptors on the way and in the queue leaves none', async () => {
  {
    using ends = await pair()
    const udp = await boundUdp()
    for (let i = 0; i < 300; i++) ends.near.send('x'.repeat(1_000), [udp, udp])
    udp.close()
  }
  await expectNoneLeft()
})

test('a message that the kernel never takes is said at once', async () => {
  {
    using ends = await pair()
    const udp = await boundUdp()
    udp.close()
    expect(() => ends.near.send('x', [udp])).toThrow(expect.objectContaining({ code: 'SYSCALL_FAILED' }))
    expect(() => ends.near.socket.send(new Uint8Array(50 << 20))).toThrow(expect.objectContaining({ detail: expect.objectContaining({ errno: 'EMSGSIZE' }) }))
  }
  await expectNoneLeft()
})

test('a listener may close the connection in the middle of a message, or throw', async () => {
  {
    using ends = await pair()
    const thrown = Promise.withResolvers<unknown>()
    const handlers = process.listeners('uncaughtException')
    process.removeAllListeners('uncaughtException')
    process.once('uncaughtException', thrown.resolve)
    const texts: string[] = []
    ends.far.socket.start({
      onMessage: (bytes) => {
        texts.push(new TextDecoder().decode(bytes))
        if (texts.length === 1) throw new RangeError('on purpose')
        ends.far.socket.close()
      },
      onClose: () => texts.push('never'),
    })
    for (const text of ['one', 'two', 'three']) ends.near.send(text)
    const error = await thrown.promise
    for (const handler of handlers) process.on('uncaughtException', handler)
    expect(error).toEqual(new RangeError('on purpose'))
    expect(await ends.near.start().ends()).toMatchObject({ detail: { errno: 'ECONNRESET' } })
    expect(texts).toEqual(['one', 'two'])
  }
  await expectNoneLeft()
})

test('connects say why they fail', async () => {
  expect(() => FdSocket.connect(path, 'seqpacket')).toThrow(expect.objectContaining({ code: 'CONNECT_FAILED', detail: expect.objectContaining({ errno: 'ENOENT' }) }))
  native().unixListen(path, true, 0o600).close()
  expect(() => FdSocket.connect(path, 'seqpacket')).toThrow(expect.objectContaining({ code: 'CONNECT_REFUSED' }))
  rmSync(path)
  const listener = native().unixListen(path, true, 0o600)
  expect(() => FdSocket.connect(path, 'stream')).toThrow(expect.objectContaining({ detail: expect.objectContaining({ errno: 'EPROTOTYPE' }) }))
  expect(() => FdSocket.connect(`/${'x'.repeat(200)}`, 'stream')).toThrow(expect.objectContaining({ detail: expect.objectContaining({ errno: 'ENAMETOOLONG' }) }))
  const made: FdSocket[] = []
  expect(() => {
    for (let i = 0; i < 1_000; i++) made.push(FdSocket.connect(path, 'seqpacket'))
  }).toThrow(expect.objectContaining({ code: 'CONNECT_FAILED', detail: expect.objectContaining({ errno: 'EAGAIN' }) }))
  for (const each of [...made, listener]) each.close()
  await expectNoneLeft()
})

test('a server takes the place of another in one step, only its file is its own, and nothing but a socket is replaced', async () => {
  const options = (name: string, seen: string[]): FdServerOptions => ({
    path,
    type: 'seqpacket',
    onConnection: (socket) => {
      seen.push(name)
      socket.close()
    },
  })
  const seen: string[] = []
  const old = FdServer.listen(options('old', seen))
  expect(statSync(path).mode & 0o777).toBe(0o600)
  FdSocket.connect(path, 'seqpacket').close()
  await expect.poll(() => seen.length).toBe(1)
  const successor = FdServer.listen(options('successor', seen))
  old.close()
  FdSocket.connect(path, 'seqpacket').close()
  await expect.poll(() => seen).toEqual(['old', 'successor'])
  successor.close()
  expect(existsSync(path)).toBe(false)
  writeFileSync(path, 'precious')
  expect(() => FdServer.listen(options('x', []))).toThrow(expect.objectContaining({ code: 'BAD_CONFIG' }))
  expect(readFileSync(path, 'utf8')).toBe('precious')
  await expectNoneLeft()
})

test('a thousand connections come and go', async () => {
  let served = 0
  const server = FdServer.listen({
    path,
    type: 'seqpacket',
    onConnection: (socket) => socket.start({
      onMessage: (bytes, fds) => {
        for (const fd of fds) fd.close()
        socket.send(bytes)
      },
      onClose: () => served++,
    }),
  })
  const file = native().openPath(directory)
  for (let round = 0; round < 20; round++) {
    await Promise.all(Array.from({ length: 50 }, async (_, i) => {
      const end = new End(FdSocket.connect(path, 'seqpacket')).start()
      end.send(String(i), [file])
      await end.has(1)
      expect(end.got[0]?.text).toBe(String(i))
      end.socket.close()
    }))
  }
  file.close()
  await expect.poll(() => served, { timeout: 5_000 }).toBe(1_000)
  server.close()
  await expectNoneLeft()
})

test('listening sockets pass to another process, which serves while the first one goes', async () => {
  const server = createServer((socket) => socket.end('first'))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const datagrams = createSocket('udp4')
  datagrams.bind(0, '127.0.0.1')
  await once(datagrams, 'listening')
  const udpPort = datagrams.address().port
  const asked = async (): Promise<string> => {
    const socket = connect(port, '127.0.0.1')
    socket.setEncoding('utf8')
    const text = (await socket.toArray()).join('')
    socket.destroy()
    return text
  }
  expect(await asked()).toBe('first')

  const arrived = Promise.withResolvers<FdSocket>()
  const hand = FdServer.listen({ path, type: 'seqpacket', onConnection: arrived.resolve })
  await using child = new LineProcess([process.execPath, join(import.meta.dirname, 'lives/successor.ts'), path])
  const end = new End(await arrived.promise).start()
  const [listener, udp] = [duplicateDescriptor(server), duplicateDescriptor(datagrams)]
  if (!listener || !udp) throw new TypeError('no descriptor')
  end.send('tcp udp', [listener, udp])
  listener.close()
  udp.close()
  await end.has(1)
  server.close()
  datagrams.close()
  expect(duplicateDescriptor(server)).toBeUndefined()
  for (let i = 0; i < 5; i++) expect(await asked()).toBe(String(child.pid))
  const client = createSocket('udp4')
  client.send('who', udpPort, '127.0.0.1')
  const [answer] = await once(client, 'message') as [Buffer]
  expect(answer.toString()).toBe(String(child.pid))
  client.close()
  end.socket.close()
  hand.close()
  await child.stop()
  await expectNoneLeft()
})

test('an open server keeps a process running, a closed one does not', async () => {
  const script = `
    import { FdServer } from '${join(import.meta.dirname, '../../src/kernel/fd-socket.ts')}'
    const server = FdServer.listen({ path: '${path}', type: 'seqpacket', onConnection: () => {} })
    setTimeout(() => { console.log('"open"'); server.close() }, 50).unref()`
  await using child = new LineProcess([process.execPath, '--input-type=module-typescript', '-e', script])
  expect(await child.ended).toMatchObject({ status: 0, signal: null })
  expect(child.lines).toEqual(['open'])
})
