// A control plane that is none: whatever comes to the client of discovery in its place, what it knew stays as it was, it asks
// again without haste, and a good one is heard as soon as it is there.
import { once } from 'node:events'
import { createServer } from 'node:tls'
import type { TLSSocket } from 'node:tls'
import { Server } from '@grpc/grpc-js'
import { create, toBinary } from '@bufbuild/protobuf'
import fc from 'fast-check'
import { afterEach, expect, test } from 'vitest'
import { DeltaDiscoveryResponseSchema } from '../proto/discovery_pb.ts'
import { deltaMethod } from './client.ts'
import type { XdsClientOptions } from './client-options.ts'
import { WatchedClient, aPolicy, aService, aWorkload, listen, makeCertificate, startControlPlane, until } from './testing.ts'

const certificate = makeCertificate()
const cleanups: (() => unknown)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

function node(port: number, options: Partial<XdsClientOptions> = {}): WatchedClient {
  const watched = new WatchedClient(port, certificate, { connectTimeoutMs: 300, ...options })
  cleanups.push(() => watched.client.close())
  watched.client.start()
  return watched
}

const names = ['c1//Pod/shop/cart', 'shop/allow-cart', 'shop/cart.shop.svc.cluster.local']

/** A client that knows the shop, and the port that its control plane has just left. */
async function informed(): Promise<{ client: WatchedClient; port: number; comeBack: () => Promise<void> }> {
  const publish = (started: Awaited<ReturnType<typeof startControlPlane>>): void => started.store.apply({
    workloads: [aWorkload('cart')], services: [aService('cart')], policies: [aPolicy('allow-cart')],
  })
  const first = await startControlPlane(certificate)
  const client = node(first.port)
  publish(first)
  await until(() => client.names.length === names.length, 'the shop is known')
  first.stop()
  return {
    client, port: first.port,
    comeBack: async () => {
      const again = await startControlPlane(certificate, { port: first.port })
      cleanups.push(() => again.stop())
      publish(again)
      again.store.apply({ workloads: [aWorkload('new', { ips: ['10.0.0.9'] })] })
      await until(() => client.names.includes('c1//Pod/shop/new'), 'the good one is heard', 15_000)
    },
  }
}

/** Answers as `answer` says to everybody who connects, until `count` have. */
async function impostor(port: number, count: number, answer: (socket: TLSSocket, i: number) => void): Promise<void> {
  let seen = 0
  const server = createServer({ cert: certificate.cert, key: certificate.key, ALPNProtocols: ['h2'] }, (socket) => {
    socket.on('error', () => {}) // the client's right
    answer(socket, seen++)
  })
  server.on('tlsClientError', () => {})
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  const sockets = new Set<TLSSocket>()
  server.on('secureConnection', (socket) => sockets.add(socket))
  await until(() => seen >= count, `${count} came`, 20_000)
  server.close()
  for (const socket of sockets) socket.destroy()
}

function frame(kind: number, flags: number, stream: number, payload: Uint8Array = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head[3] = kind
  head[4] = flags
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}
const settings = frame(4, 0, 0)

test.each<[string, (socket: TLSSocket, i: number) => void]>([
  ['hangs up', (socket) => void socket.destroy()],
  ['ends at once', (socket) => void socket.end()],
  ['says nothing', () => {}],
  ['speaks HTTP/1', (socket) => void socket.end('HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n')],
  ['sends random bytes', (socket, i) => void socket.write(Buffer.from(Array.from({ length: 500 }, (_, n) => (n * 7919 + i * 104729) % 256)))],
  ['says GOAWAY', (socket) => void socket.write(Buffer.concat([settings, frame(7, 0, 0, Buffer.alloc(8))]))],
  ['ends every stream', (socket) => void socket.write(Buffer.concat([settings, frame(3, 0, 1, Buffer.from([0, 0, 0, 7]))]))],
  ['promises pushes', (socket) => void socket.write(Buffer.concat([settings, frame(5, 4, 1, Buffer.from([0, 0, 0, 2, 0x82]))]))],
  ['answers with HPACK of nothing', (socket) => void socket.write(Buffer.concat([settings, frame(1, 4, 1, Buffer.alloc(200, 0xff))]))],
  ['announces a header without end', (socket) => void socket.write(Buffer.concat([settings, frame(1, 0, 1, Buffer.from([0x88])), ...Array.from({ length: 2_000 }, () => frame(9, 0, 1, Buffer.from([0x00, 1, 120, 1, 120])))]))],
  ['floods with PINGs and SETTINGS', (socket) => void socket.write(Buffer.concat(Array.from({ length: 5_000 }, () => Buffer.concat([settings, frame(6, 0, 0, Buffer.alloc(8))]))))],
  ['sends a message longer than it is', (socket) => {
    const header = Buffer.concat([Buffer.from([0x88, 0x00, 12]), Buffer.from('content-type'), Buffer.from([16]), Buffer.from('application/grpc')])
    socket.write(Buffer.concat([settings, frame(1, 4, 1, header), frame(0, 0, 1, Buffer.from([0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]))]))
  }],
])('one that %s', async (_what, answer) => {
  const { client, port, comeBack } = await informed()
  const { deltas } = client
  const before = deltas.length
  await impostor(port, 3, answer)
  expect(client.names).toEqual(names)
  expect(deltas.length).toBe(before)
  await comeBack()
})

/** gRPC in order, and what it carries is `make`'s. */
async function speaker(port: number, make: (i: number) => Uint8Array[], calls: number): Promise<void> {
  let seen = 0
  const server = new Server()
  const [, service = '', method = ''] = deltaMethod.split('/')
  const bytes = (message: Buffer): Buffer => message
  const definition = {
    [method]: { path: `/${service}/${method}`, requestStream: true, responseStream: true, requestSerialize: bytes, requestDeserialize: bytes, responseSerialize: bytes, responseDeserialize: bytes },
  }
  server.addService(definition, {
    [method]: (call: { write(message: Buffer): void; end(): void; on(event: string, listener: (value: unknown) => void): void }) => {
      call.on('error', () => {})
      call.on('data', () => {})
      for (const message of make(seen++)) call.write(Buffer.from(message))
      setTimeout(() => call.end(), 20)
    },
  })
  await listen(server, certificate, port)
  await until(() => seen >= calls, `${calls} calls came`, 20_000)
  server.forceShutdown()
}

test('messages of any kind, and of nearly the right one', async () => {
  const { client, port, comeBack } = await informed()
  const url = fc.constantFrom('type.googleapis.com/istio.workload.Address', 'type.googleapis.com/istio.security.Authorization', 'type.googleapis.com/envoy.config.cluster.v3.Cluster', '')
  const resource = fc.record({ name: fc.string({ maxLength: 20 }), version: fc.string({ maxLength: 5 }), resource: fc.option(fc.record({ typeUrl: url, value: fc.uint8Array({ maxLength: 60 }) }), { nil: undefined }) })
  const nearly = fc.record({ typeUrl: url, nonce: fc.string({ maxLength: 5 }), resources: fc.array(resource, { maxLength: 5 }) })
    .map(({ typeUrl, nonce, resources }) => toBinary(DeltaDiscoveryResponseSchema, create(DeltaDiscoveryResponseSchema, {
      typeUrl, nonce, resources: resources.map(({ resource: any, ...rest }) => ({ ...rest, ...(any && { resource: any }) })),
    })))
  const cut = fc.tuple(nearly, fc.nat(100), fc.nat(255)).map(([bytes, at, value]) => bytes.map((byte, i) => (i === at % Math.max(1, bytes.length) ? value : byte)))
  const batches = fc.sample(fc.array(fc.oneof(fc.uint8Array({ maxLength: 80 }), nearly, cut), { minLength: 1, maxLength: 6 }), { seed: 20_261_121, numRuns: 60 })
  await speaker(port, (i) => batches[i % batches.length] ?? [], 60)
  // What was known by its right name is still there, whatever else was made up.
  expect(client.names).toEqual(expect.arrayContaining(names))
  await comeBack()
  await until(() => client.names.length === names.length + 1, 'nothing is left of what was made up')
})
