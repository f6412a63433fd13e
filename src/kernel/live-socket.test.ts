// Sockets on loopback, in the states in which Node itself would not see or not send a reset.
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import type { AddressInfo, Server, Socket } from 'node:net'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { abortSocket, socketsWithError } from './live-socket.ts'

let server: Server
let near: Socket
let far: Socket

beforeEach(async () => {
  server = createServer({ allowHalfOpen: true, pauseOnConnect: true })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const arrival = new Promise<Socket>((resolve) => server.once('connection', resolve))
  near = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true })
  await once(near, 'connect')
  far = await arrival
})
afterEach(() => {
  near.destroy()
  far.destroy()
  server.close()
})

const whenClosed = (socket: Socket): Promise<void> => new Promise((resolve) => socket.once('close', () => resolve()))
const errorOf = (socket: Socket): Promise<unknown> => new Promise((resolve) => socket.once('error', resolve))

const states: readonly (readonly [string, (socket: Socket) => unknown])[] = [
  ['that is idle', () => undefined],
  ['that has just been told to finish', (socket) => socket.end()],
  ['that has more to send than its peer takes', (socket) => socket.end(Buffer.alloc(32 << 20))],
  ['that has finished', (socket) => once(socket.end(), 'finish')],
]
test.each(states)('a socket %s is aborted: it closes, and its peer sees a reset', async (_state, bring) => {
  await bring(near)
  const closed = whenClosed(near)
  abortSocket(near)
  await closed
  const failed = errorOf(far)
  far.write('x')
  far.resume()
  expect(await failed).toMatchObject({ code: expect.stringMatching(/^(ECONNRESET|EPIPE)$/) })
})

test('aborting a socket that is closed already does nothing', async () => {
  const closed = whenClosed(near)
  near.destroy()
  abortSocket(near)
  await closed
  abortSocket(near)
})

test('no error is seen where there is none, nor in a socket that is closed', async () => {
  expect(socketsWithError([near, far])).toEqual([])
  near.destroy()
  expect(socketsWithError([near, far])).toEqual([])
  abortSocket(far)
  expect(socketsWithError([near, far])).toEqual([])
})

test('a reset is seen on a socket that is not read, and left to be read', async () => {
  near.on('error', () => {}) // it is about to be reset
  abortSocket(near)
  await expect.poll(() => socketsWithError([near, far])).toEqual([far])
  expect(socketsWithError([far])).toEqual([far])
  const failed = errorOf(far)
  far.resume()
  expect(await failed).toMatchObject({ code: 'ECONNRESET' })
})
