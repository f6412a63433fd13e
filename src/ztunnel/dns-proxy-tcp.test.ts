// One DNS connection over TCP on loopback, with clients and servers of all manners at its ends.
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import type { AddressInfo, Server, Socket } from 'node:net'
import { encode } from 'dns-packet'
import fc from 'fast-check'
import { afterEach, expect, test } from 'vitest'
import { MeshError } from '../core/errors.ts'
import { FrameReader, frameOf } from '../dns/frames.ts'
import { Resolver } from '../dns/resolver.ts'
import { DnsTcpConnection } from './dns-proxy-tcp.ts'

const resolver = new Resolver({
  isKnown: true, clusterDomain: 'cluster.local', hostnameOf: () => undefined,
  host: (hostname) => hostname === 'ours.test'
    ? { hostname, ipv4: ['10.0.0.1'], ipv6: [], endpoint: () => undefined, targets: () => [] } : undefined,
})
const query = (id: number, name = 'outside.test'): Buffer => encode({ type: 'query', id, questions: [{ type: 'A', name, class: 'IN' }] })
/** A message that is an answer to nothing but its id. */
const answer = (id: number, bytes = 12): Buffer => {
  const message = Buffer.alloc(bytes)
  message.writeUInt16BE(id, 0)
  message.writeUInt16BE(0x8000, 2)
  return message
}

const cleanups: (() => void)[] = []
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup()
})

async function listen(onConnection: (socket: Socket) => void): Promise<{ server: Server; dial: () => Promise<Socket> }> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, onConnection)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const dial = async (): Promise<Socket> => {
    const socket = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true })
    await once(socket, 'connect')
    cleanups.push(() => socket.destroy())
    return socket
  }
  cleanups.push(() => server.close())
  return { server, dial }
}

interface Setting {
  readonly client: Socket
  /** Ids of what came back, in order. */
  readonly ids: number[]
  readonly results: string[]
  readonly closed: Promise<MeshError | undefined>
  readonly inside: () => Socket
}

/** A client whose connection is taken over; `onUpstream` is the server that it asked, and `refusals` how often that is not there. */
async function setting(onUpstream: (socket: Socket) => void, refusals = 0): Promise<Setting> {
  const results: string[] = []
  let left = refusals
  let inside: Socket | undefined
  const upstream = await listen((socket) => {
    socket.on('error', () => {})
    onUpstream(socket)
    socket.resume()
  })
  let tellClosed: (because: MeshError | undefined) => void = () => {}
  const closed = new Promise<MeshError | undefined>((resolve) => (tellClosed = resolve))
  const { dial } = await listen((socket) => {
    inside = socket
    new DnsTcpConnection(socket, {
      resolve: (message) => resolver.resolve(message, { namespace: 'shop', searchDomains: [] }, 'tcp'),
      dial: () => (left-- > 0 ? Promise.reject(new MeshError('CONNECT_REFUSED', 'nobody is there')) : upstream.dial()),
      onQuery: (result) => results.push(result),
      onClose: tellClosed,
    }).start()
  })
  const client = await dial()
  client.on('error', () => {})
  const ids: number[] = []
  const reader = new FrameReader()
  client.on('data', (chunk: Buffer) => ids.push(...reader.push(chunk).map((message) => message.readUInt16BE(0))))
  return { client, ids, results, closed, inside: () => inside ?? client }
}

const until = async (check: () => boolean): Promise<void> => {
  while (!check()) await new Promise((resolve) => setTimeout(resolve, 5))
}

/** Calls back for each query. */
function serve(onQuery: (id: number, socket: Socket) => void): (socket: Socket) => void {
  return (socket) => {
    const reader = new FrameReader()
    socket.on('data', (chunk: Buffer) => reader.push(chunk).forEach((message) => onQuery(message.readUInt16BE(0), socket)))
  }
}

test('what nobody asked is not passed on, and an answer of several messages is', async () => {
  const { client, ids, results } = await setting(serve((id, socket) => {
    socket.write(Buffer.concat([frameOf(answer(999)), frameOf(answer(id)), frameOf(answer(id))]))
  }))
  client.write(Buffer.concat([frameOf(query(1)), frameOf(query(2, 'ours.test'))]))
  await until(() => ids.length === 3)
  expect(ids).toEqual([2, 1, 1])
  expect(results).toEqual(['answered', 'forwarded'])
})

test('answers come as the server gives them, in whatever order, for an id in use twice too', async () => {
  const waiting: number[] = []
  const { client, ids, results } = await setting(serve((id, socket) => {
    waiting.push(id)
    if (waiting.length === 4) for (const each of waiting.toReversed()) socket.write(frameOf(answer(each)))
  }))
  client.end(Buffer.concat([1, 2, 2, 3].map((id) => frameOf(query(id)))))
  await once(client, 'end')
  expect(ids).toEqual([3, 2, 2, 1])
  expect(results).toEqual(['forwarded', 'forwarded', 'forwarded', 'forwarded'])
})

test('a server that cannot be reached fails the queries, not the connection', async () => {
  const { client, ids, results } = await setting(serve((id, socket) => socket.write(frameOf(answer(id)))), 1)
  client.write(Buffer.concat([frameOf(query(1)), frameOf(query(2))]))
  await until(() => ids.length === 2)
  client.write(frameOf(query(3)))
  await until(() => ids.length === 3)
  expect(results).toEqual(['failed', 'failed', 'forwarded'])
})

test('a server that hangs up between queries is called again; with a query unanswered the client loses its connection', async () => {
  let connections = 0
  const { client, ids, closed, results } = await setting((socket) => {
    connections++
    serve((id) => (id === 9 ? socket.destroy() : socket.end(frameOf(answer(id)))))(socket)
  })
  client.write(frameOf(query(1)))
  await until(() => ids.length === 1)
  await until(() => connections === 1)
  // The close must have reached us before we ask again, or it is the other case.
  await new Promise((resolve) => setTimeout(resolve, 50))
  client.write(frameOf(query(2)))
  await until(() => ids.length === 2)
  expect(connections).toBe(2)
  await new Promise((resolve) => setTimeout(resolve, 50))
  client.write(frameOf(query(9)))
  expect(await closed).toMatchObject({ code: 'CONNECT_FAILED', source: 'upstream' })
  expect(results).toEqual(['forwarded', 'forwarded', 'failed'])
})

test('a client that does not read stops the server instead of filling memory', async () => {
  const sent = { bytes: 0 }
  const { client, inside, closed } = await setting(serve((id, socket) => {
    const more = (): void => {
      while (!socket.destroyed && sent.bytes < 1e9) {
        sent.bytes += 60_000
        if (!socket.write(frameOf(answer(id, 60_000)))) break
      }
    }
    socket.on('drain', more)
    more()
  }))
  client.pause()
  client.write(frameOf(query(1)))
  let before = -1
  while (before !== sent.bytes || sent.bytes === 0) {
    before = sent.bytes
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
  expect(sent.bytes).toBeLessThan(64 << 20)
  expect(inside().writableLength).toBeLessThan(1 << 20)
  client.destroy()
  await closed
})

test('more queries than are taken at once wait for their turn', async () => {
  let open = 0
  let most = 0
  const { client, ids } = await setting(serve((id, socket) => {
    most = Math.max(most, ++open)
    setTimeout(() => {
      open--
      socket.write(frameOf(answer(id)))
    }, 2)
  }))
  client.end(Buffer.concat(Array.from({ length: 1_000 }, (_, id) => frameOf(query(id)))))
  await once(client, 'end')
  expect(ids).toHaveLength(1_000)
  expect(most).toBeLessThanOrEqual(64)
})

test('whatever a client sends and a server answers, the connection ends once and nothing is thrown', async () => {
  const bytes = fc.uint8Array({ maxLength: 300 })
  const valid = fc.tuple(fc.nat(65_535), fc.constantFrom('ours.test', 'outside.test')).map(([id, name]) => frameOf(query(id, name)))
  await fc.assert(fc.asyncProperty(fc.array(fc.oneof(bytes, valid), { maxLength: 6 }), fc.array(bytes, { maxLength: 4 }), async (sent, back) => {
    const { client, closed } = await setting((socket) => {
      for (const each of back) socket.write(each)
      socket.end()
    })
    client.write(Buffer.concat(sent))
    setTimeout(() => client.destroy(), 10)
    const because = await closed
    if (because) expect(because).toBeInstanceOf(MeshError)
    for (const cleanup of cleanups.splice(0)) cleanup()
  }), { numRuns: 100 })
})
