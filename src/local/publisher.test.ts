// Published ports with real sockets: bytes and ends pass both ways, failures stay failures, and no more is held open than agreed.
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { silentLogger } from '../core/log.ts'
import { Publisher, type PublishWish } from './publisher.ts'

let server: Server
let publisher: Publisher
let changes: () => void = () => {}
let onClient: (socket: Socket) => void = (socket) => void socket.pipe(socket)
let hostPort = 0

beforeEach(async () => {
  onClient = (socket) => void socket.pipe(socket)
  server = createServer({ allowHalfOpen: true }, (socket) => onClient(socket.on('error', () => {})))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const free = createServer().listen(0, '127.0.0.1')
  await once(free, 'listening')
  hostPort = (free.address() as AddressInfo).port
  await new Promise((resolve) => free.close(resolve))
  publisher = new Publisher({
    dial: async (host, port) => {
      const socket = connect({ host, port, allowHalfOpen: true })
      await once(socket, 'connect')
      return socket
    },
    logger: silentLogger, onChange: () => changes(), maxConnections: 3,
  })
})
afterEach(async () => {
  publisher.close()
  await new Promise((resolve) => server.close(resolve))
})

async function publish(more: Partial<PublishWish> = {}): Promise<void> {
  const listens = new Promise<void>((resolve) => (changes = resolve))
  publisher.update([{ gateway: 'shop/ingress', hostPort, port: (server.address() as AddressInfo).port, ip: '127.0.0.1', scheme: 'http', problem: '', ...more }])
  await listens
}
const dial = (): Socket => connect({ host: '127.0.0.1', port: hostPort, allowHalfOpen: true })

test('bytes pass both ways, however many, and the end of one way is not the end of the other', async () => {
  onClient = (socket) => {
    let bytes = 0
    socket.on('data', (part: Buffer) => (bytes += part.length)).on('end', () => socket.end(`${bytes}`))
  }
  await publish()
  const socket = dial()
  socket.end(Buffer.alloc(5_000_000))
  let text = ''
  for await (const part of socket) text += String(part)
  expect(text).toBe('5000000')
  await expect.poll(() => publisher.status()).toMatchObject([{ connections: 0, listening: true, gateway: 'shop/ingress', url: `http://127.0.0.1:${hostPort}/` }])
})

test('a reset is passed on, and an ingress that does not answer is a reset', async () => {
  onClient = (socket) => void socket.resetAndDestroy()
  await publish()
  const [error] = (await once(dial(), 'error')) as [NodeJS.ErrnoException]
  expect(error.code).toBe('ECONNRESET')
  publisher.update([{ ...wish(), ip: undefined }])
  const [away] = (await once(dial(), 'error')) as [NodeJS.ErrnoException]
  expect(away.code).toBe('ECONNRESET')
})

function wish(): PublishWish {
  return { gateway: 'shop/ingress', hostPort, port: (server.address() as AddressInfo).port, ip: '127.0.0.1', scheme: 'http', problem: '' }
}

test('no more connections than agreed, and one that ends makes room', async () => {
  await publish()
  const sockets = [dial(), dial(), dial()]
  for (const socket of sockets) {
    socket.write('x')
    await once(socket, 'data')
  }
  const [error] = (await once(dial(), 'error')) as [NodeJS.ErrnoException]
  expect(error.code).toBe('ECONNRESET')
  sockets[0]?.destroy()
  await expect.poll(() => publisher.status()[0]?.connections).toBe(2)
  const next = dial()
  next.write('y')
  await once(next, 'data')
  for (const socket of [...sockets, next]) socket.destroy()
})

test('what is not wanted any more is closed, with its connections; what stays goes on', async () => {
  await publish()
  const socket = dial()
  socket.write('x')
  await once(socket, 'data')
  publisher.update([wish(), { ...wish(), gateway: 'other/ingress' }, { ...wish(), hostPort: 1, problem: 'there is none' }])
  expect(publisher.status()).toMatchObject([
    { address: '127.0.0.1:1', listening: false, because: 'there is none' }, { listening: true, connections: 1 }, { gateway: 'other/ingress', because: `the port ${hostPort} leads to shop/ingress already` },
  ])
  socket.write('y')
  await once(socket, 'data')
  publisher.update([])
  await once(socket.resume(), 'end')
  socket.destroy()
  const [error] = (await once(dial(), 'error')) as [NodeJS.ErrnoException]
  expect(error.code).toBe('ECONNREFUSED')
})
