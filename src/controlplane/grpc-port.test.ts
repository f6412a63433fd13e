// The port that nodes call, over real sockets: what strangers can do to it, and a new certificate while streams stand.
import { connect as netConnect, type Socket } from 'node:net'
import { createPrivateKey } from 'node:crypto'
import { connect as tlsConnect, type ConnectionOptions, type TLSSocket } from 'node:tls'
import { Client, credentials, Metadata, Server, type ClientDuplexStream, type ServerDuplexStream } from '@grpc/grpc-js'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { makeCertificate, until } from '../xds/testing.ts'
import { GrpcPort, type ServingCertificate } from './grpc-port.ts'

const bytes = (value: Buffer): Buffer => value
const made = (): ServingCertificate & { pem: string } => {
  const { cert, key } = makeCertificate()
  return { chainPem: cert, key: createPrivateKey(key), pem: cert }
}
const first = made()
const closers: (() => unknown)[] = []
let port: GrpcPort
let handshakeErrors = 0

let handshakeTimeoutMs = 5_000

beforeEach(async () => {
  handshakeErrors = 0
  const server = new Server()
  const same = { requestSerialize: bytes, requestDeserialize: bytes, responseSerialize: bytes, responseDeserialize: bytes }
  server.addService(
    { echo: { path: '/test/echo', requestStream: true, responseStream: true, ...same } },
    { echo: (call: ServerDuplexStream<Buffer, Buffer>) => void call.on('data', (chunk: Buffer) => call.write(chunk)).on('end', () => call.end()) },
  )
  port = await GrpcPort.listen({
    server, host: '127.0.0.1', port: 0, certificate: first, maxConnections: 50, maxConnectionsPerAddress: 5, handshakeTimeoutMs, onHandshakeError: () => handshakeErrors++,
  })
})
afterEach(async () => {
  for (const close of closers.splice(0)) close()
  await port.close(50)
})

function echo(pem: string): { call: ClientDuplexStream<Buffer, Buffer>; said: string[]; ended: () => unknown } {
  const client = new Client(`127.0.0.1:${port.port}`, credentials.createSsl(Buffer.from(pem)), { 'grpc.ssl_target_name_override': 'localhost', 'grpc.use_local_subchannel_pool': 1 })
  closers.push(() => client.close())
  const call = client.makeBidiStreamRequest('/test/echo', bytes, bytes, new Metadata())
  const said: string[] = []
  let error: unknown
  call.on('data', (chunk: Buffer) => said.push(chunk.toString())).on('error', (cause) => (error = cause))
  return { call, said, ended: () => error }
}
function tls(options: ConnectionOptions = {}): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = tlsConnect({ host: '127.0.0.1', port: port.port, servername: 'localhost', ca: first.pem, ALPNProtocols: ['h2'], ...options }, () => resolve(socket))
    socket.on('error', reject)
    closers.push(() => socket.destroy())
  })
}
function tcp(localAddress = '127.0.0.1'): Promise<Socket & { isClosed?: boolean }> {
  return new Promise((resolve) => {
    const socket: Socket & { isClosed?: boolean } = netConnect({ port: port.port, host: '127.0.0.1', localAddress }, () => resolve(socket))
    // Read, or its end is never seen.
    socket.on('error', () => {}).on('close', () => (socket.isClosed = true)).resume()
    closers.push(() => socket.destroy())
  })
}

describe('the port that nodes call', () => {
  test('carries calls, and goes on carrying them under a new certificate that new connections see', async () => {
    const old = echo(first.pem)
    old.call.write(Buffer.from('one'))
    await until(() => old.said.length === 1, 'an echo')
    const next = made()
    port.setCertificate(next)
    const later = echo(next.pem)
    later.call.write(Buffer.from('new'))
    await until(() => later.said.length === 1, 'an echo under the new certificate')
    old.call.write(Buffer.from('two'))
    await until(() => old.said.length === 2, 'the old connection stands')
    expect(old.ended()).toBeUndefined()
    await expect(tls()).rejects.toThrow()
  })

  test('wants TLS 1.3 and HTTP/2', async () => {
    await expect(tls({ maxVersion: 'TLSv1.2' })).rejects.toThrow()
    await expect(tls({ ALPNProtocols: ['http/1.1'] })).rejects.toThrow()
    expect(handshakeErrors).toBeGreaterThanOrEqual(2)
    const without = await tls({ ALPNProtocols: [] })
    await until(() => without.destroyed || without.closed, 'closed without ALPN')
  })

  test('holds no more connections than it was told to, neither of one address nor in all', async () => {
    const crowd = (await Promise.all(Array.from({ length: 20 }, (_, i) => tcp(`127.0.0.${1 + (i % 4)}`)))).flat()
    await until(() => port.connections === 20, 'five of each of four addresses')
    const more = await tcp('127.0.0.2')
    await until(() => more.isClosed === true, 'a sixth of one address is closed')
    for (let i = 0; i < 30; i++) crowd.push(await tcp(`127.0.1.${1 + i}`))
    await until(() => port.connections === 50, 'as many as it may hold')
    const late = await tcp('127.0.2.1')
    await until(() => late.isClosed === true, 'one above is closed')
  })

  test('serves who was there before in a crowd, and is there for others when they leave', async () => {
    const good = echo(first.pem)
    good.call.write(Buffer.from('one'))
    await until(() => good.said.length === 1, 'an echo')
    const crowd = await Promise.all(Array.from({ length: 20 }, () => tcp()))
    await until(() => crowd.filter((socket) => socket.isClosed === true).length >= 16, 'those above the limit are closed')
    expect(port.connections).toBeLessThanOrEqual(5)
    good.call.write(Buffer.from('two'))
    await until(() => good.said.length === 2, 'who was there before is served')
    for (const socket of crowd) socket.destroy()
    await until(() => port.connections === 1, 'only the good one is left')
    const later = echo(first.pem)
    later.call.write(Buffer.from('in'))
    await until(() => later.said.length === 1, 'there is room again')
  })

  test('ends within its time though a stream never would', async () => {
    const endless = echo(first.pem)
    endless.call.write(Buffer.from('one'))
    await until(() => endless.said.length === 1, 'an echo')
    await port.close(20)
    await until(() => endless.ended() !== undefined, 'the stream was ended')
  })

  test('an address that cannot be had is a wrong setting', async () => {
    const other = GrpcPort.listen({ server: new Server(), host: '127.0.0.1', port: port.port, certificate: first, maxConnections: 1, maxConnectionsPerAddress: 1 })
    await expect(other).rejects.toMatchObject({ code: 'BAD_CONFIG' })
  })
})

describe('the port that nodes call, with little patience,', () => {
  beforeAll(() => void (handshakeTimeoutMs = 300))

  test('gives up handshakes that do not come on, and what is no handshake', async () => {
    const silent = await tcp()
    const noise = await tcp()
    noise.write('GET / HTTP/1.1\r\n\r\n')
    await until(() => silent.isClosed === true && noise.isClosed === true, 'both are closed')
    await until(() => port.connections === 0, 'none is kept')
    expect(handshakeErrors).toBe(2)
  })
})
