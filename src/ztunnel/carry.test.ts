// A ztunnel in one process: real sockets on loopback, with carry() between the client's and the server's.
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import type { AddressInfo, Server, Socket } from 'node:net'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { carry } from './carry.ts'
import type { Carried } from './carry.ts'

let back: Server
let front: Server
let carried: Promise<Carried>
let accepted: Promise<Socket>
const sockets: Socket[] = []

const listening = async (server: Server): Promise<number> => {
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return (server.address() as AddressInfo).port
}
const arrival = (server: Server): Promise<Socket> => new Promise((resolve) => server.once('connection', resolve))
const kept = (socket: Socket): Socket => {
  sockets.push(socket)
  return socket
}

beforeEach(async () => {
  back = createServer({ allowHalfOpen: true, pauseOnConnect: true })
  front = createServer({ allowHalfOpen: true, pauseOnConnect: true })
  const port = await listening(back)
  accepted = arrival(back).then(kept)
  carried = arrival(front).then(async (first) => {
    first.on('error', () => {}) // as the ztunnel does while it dials
    const second = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    await once(second, 'connect')
    return carry(first, second)
  })
  await listening(front)
})
afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy()
  front.close()
  back.close()
})

async function pair(): Promise<{ client: Socket; server: Socket }> {
  const client = kept(connect({ port: (front.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true }))
  client.on('error', () => {}) // resets are what some of these tests want
  const server = await accepted
  server.on('error', () => {})
  return { client, server }
}

/** Writes until nothing has been taken for a while. */
async function fill(socket: Socket): Promise<number> {
  const chunk = Buffer.alloc(1 << 20)
  for (;;) {
    if (socket.write(chunk)) continue
    const drained = await Promise.race([once(socket, 'drain'), new Promise<undefined>((resolve) => setTimeout(() => resolve(undefined), 150))])
    if (drained === undefined) return socket.bytesWritten
  }
}

async function readAll(socket: Socket): Promise<number> {
  socket.resume()
  await once(socket, 'end')
  return socket.bytesRead
}

test('bytes, half-close both ways, and what was carried', async () => {
  const { client, server } = await pair()
  client.end('a question')
  expect(await readAll(server)).toBe(10)
  server.end('and its answer')
  expect(await readAll(client)).toBe(14)
  expect(await carried).toEqual({ sent: 10, received: 14, because: 'finished' })
})

test.each([['a few', 5], ['many', 3 << 20]])('%s bytes of which Node had read the first arrive in their order, and so does the end', async (_much, size) => {
  const text = Buffer.from(Uint8Array.from({ length: size }, (_, i) => (i * 31 + (i >> 8)) % 251))
  const source = createServer((socket) => kept(socket).end(text))
  const first = kept(connect({ port: await listening(source), host: '127.0.0.1', allowHalfOpen: true }))
  await once(first, 'readable')
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect(first.readableLength).toBeGreaterThan(0)
  const second = kept(connect({ port: (back.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true }))
  await once(second, 'connect')
  const over = carry(first, second)
  const server = await accepted
  expect(Buffer.concat((await server.toArray()) as Buffer[]).equals(text)).toBe(true)
  server.end()
  expect(await over).toEqual({ sent: size, received: 0, because: 'finished' })
  expect([first.destroyed, second.destroyed]).toEqual([true, true])
  source.close()
})

describe('a reset is passed on', () => {
  test('while both are read', async () => {
    const { client, server } = await pair()
    server.resume()
    const failed = once(server, 'error')
    client.resetAndDestroy()
    expect(await failed).toMatchObject([{ code: 'ECONNRESET' }])
    expect(await carried).toMatchObject({ because: 'resetByFirst' })
  })

  test('while the other side does not read and the buffers are full', async () => {
    const { client } = await pair()
    await fill(client)
    client.resetAndDestroy()
    expect(await carried).toMatchObject({ because: 'resetByFirst' })
  })

  test('after its sender had finished sending', async () => {
    const { client, server } = await pair()
    client.end('x')
    await readAll(server)
    client.resetAndDestroy()
    expect(await carried).toMatchObject({ because: 'resetByFirst' })
  })

  test('before anything was carried', async () => {
    const { client, server } = await pair()
    client.resetAndDestroy()
    server.resume()
    expect(await carried).toMatchObject({ because: 'resetByFirst', received: 0 })
  })

  test('from the server, while the client does not read', async () => {
    const { client, server } = await pair()
    client.pause()
    await fill(server)
    server.resetAndDestroy()
    expect(await carried).toMatchObject({ because: 'resetBySecond' })
  })
})

test('a side that closed in good order long ago is not taken for a reset, and its bytes are delivered', async () => {
  const { client, server } = await pair()
  client.pause()
  client.end()
  await readAll(server)
  const size = 8 << 20
  server.end(Buffer.alloc(size))
  // Longer than it takes to look for resets on sockets that are not read.
  await new Promise((resolve) => setTimeout(resolve, 1_200))
  expect(await readAll(client)).toBe(size)
  expect(await carried).toMatchObject({ received: size, because: 'finished' })
})
