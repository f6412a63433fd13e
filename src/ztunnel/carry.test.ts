// A ztunnel in one process: real sockets on loopback, with carry() between the client's and the server's; and two of them, with
// carryTunnel() at both ends of a real tunnel. An application must not see a difference.
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import type { AddressInfo, Server, Socket } from 'node:net'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { startBench } from '../hbone/testing.ts'
import type { Bench } from '../hbone/testing.ts'
import { carryTunnel } from './carry-tunnel.ts'
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

let tunnel: Bench | undefined

async function dialBack(): Promise<Socket> {
  const socket = connect({ port: (back.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true })
  await once(socket, 'connect')
  return socket
}

/** As the ztunnel does: dial while the client waits, its errors ignored, then carry. */
const carriers = {
  async plain(first: Socket): Promise<Carried> {
    return carry(first, await dialBack()).done
  },
  async tunnel(first: Socket): Promise<Carried> {
    if (!tunnel) throw new Error('no tunnel')
    const { stream } = await tunnel.pool.openTunnel(tunnel.request())
    return carryTunnel(first, stream).done
  },
}
let way: keyof typeof carriers = 'plain'

beforeEach(async () => {
  back = createServer({ allowHalfOpen: true, pauseOnConnect: true })
  front = createServer({ allowHalfOpen: true, pauseOnConnect: true })
  await listening(back)
  accepted = arrival(back).then(kept)
  tunnel = way === 'plain' ? undefined : await startBench({
    handler: async () => {
      const upstream = await dialBack()
      return { t: 'accept', carry: (stream) => void carryTunnel(upstream, stream) }
    },
  })
  carried = arrival(front).then((first) => {
    first.on('error', () => {})
    return carriers[way](first)
  })
  await listening(front)
})
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy()
  front.close()
  back.close()
  await tunnel?.close()
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

describe.each(['plain', 'tunnel'] as const)('%s', (given) => {
  beforeAll(() => {
    way = given
  })

  test('bytes, half-close both ways, and what was carried', async () => {
    const { client, server } = await pair()
    client.end('a question')
    expect(await readAll(server)).toBe(10)
    server.end('and its answer')
    expect(await readAll(client)).toBe(14)
    expect(await carried).toMatchObject({ sent: 10, received: 14, because: 'finished' })
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
  const over = carry(first, second).done
  const server = await accepted
  expect(Buffer.concat((await server.toArray()) as Buffer[]).equals(text)).toBe(true)
  server.end()
  expect(await over).toMatchObject({ sent: size, received: 0, because: 'finished' })
  expect([first.destroyed, second.destroyed]).toEqual([true, true])
  source.close()
})
