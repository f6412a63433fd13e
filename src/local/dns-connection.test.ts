import { connect, createServer, type Server, type Socket } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { FrameReader, frameOf } from '../dns/frames.ts'
import { DnsConnection, type Respond } from './dns-connection.ts'

let server: Server | undefined
afterEach(() => {
  server?.close()
})

async function client(respond: Respond, timeoutMs?: number): Promise<{ socket: Socket; received: string[]; end: Promise<'eof' | 'reset'> }> {
  const made = createServer({ allowHalfOpen: true }, (socket) => new DnsConnection(socket, respond, timeoutMs === undefined ? {} : { timeoutMs }))
  server = made
  await new Promise<void>((resolve) => made.listen(0, '127.0.0.1', resolve))
  const address = made.address()
  const socket = connect({ port: typeof address === 'object' && address ? address.port : 0, host: '127.0.0.1', allowHalfOpen: true })
  const received: string[] = []
  const reader = new FrameReader()
  let hasEnded = false
  socket.on('data', (chunk: Buffer) => received.push(...reader.push(chunk).map((each) => each.toString())))
  socket.on('error', () => {}) // a reset is what some tests are about
  socket.on('end', () => {
    hasEnded = true
    socket.end()
  })
  const end = new Promise<'eof' | 'reset'>((resolve) => socket.on('close', () => resolve(hasEnded ? 'eof' : 'reset')))
  return { socket, received, end }
}
const message = (text: string): Buffer => frameOf(Buffer.from(text.padEnd(12, '.')))

test('questions in one piece, or byte by byte, are answered as answers come, and the last before the end', async () => {
  const { socket, received, end } = await client((asked) => (asked.toString().startsWith('slow') ? new Promise((resolve) => setTimeout(resolve, 50, asked)) : asked))
  socket.write(Buffer.concat([message('slow'), message('one'), message('two')]))
  for (const byte of message('three')) socket.write(Buffer.from([byte]))
  socket.end()
  expect(await end).toBe('eof')
  expect(received).toEqual(['one.........', 'two.........', 'three.......', 'slow........'])
})

test('no more questions wait than may, and all are answered', async () => {
  let waiting = 0
  let most = 0
  const { socket, received, end } = await client(async (asked) => {
    most = Math.max(most, ++waiting)
    await new Promise((resolve) => setTimeout(resolve, 5))
    waiting--
    return asked
  })
  socket.end(Buffer.concat(Array.from({ length: 100 }, (_, i) => message(`q${i}`))))
  expect(await end).toBe('eof')
  expect([received.length, most]).toEqual([100, 16])
})

test('who sends no DNS, stops in the middle, or asks nothing, loses the connection', async () => {
  const rubbish = await client((asked) => asked)
  rubbish.socket.write(Buffer.from([0, 3, 1, 2, 3]))
  expect(await rubbish.end).toBe('reset')
  server?.close()
  const dawdles = await client((asked) => asked, 50)
  dawdles.socket.write(message('one'))
  dawdles.socket.write(message('two').subarray(0, 5))
  const drip = setInterval(() => dawdles.socket.writable && dawdles.socket.write(Buffer.from([46])), 30)
  expect(await dawdles.end).toBe('reset')
  clearInterval(drip)
  expect(dawdles.received[0]).toBe('one.........')
})

test('who does not read what it asked for loses the connection', async () => {
  const big = Buffer.alloc(60_000, 120)
  const { socket, end } = await client(() => big, 300)
  socket.pause()
  const closed = new Promise<void>((resolve) => server?.on('connection', (served) => served.on('close', () => resolve())))
  socket.write(Buffer.concat(Array.from({ length: 500 }, () => message('x'))))
  await closed
  socket.resume()
  expect(await end).toBe('reset')
})
