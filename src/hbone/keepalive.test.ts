// Pings that are answered, that are not, and sessions on which none can be sent.
import { once } from 'node:events'
import http2 from 'node:http2'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { systemClock } from '../core/clock.ts'
import { keepAlive } from './keepalive.ts'

const timeouts = { pingIntervalMs: 20, pingTimeoutMs: 200 }
const undo: (() => void)[] = []
afterEach(() => {
  for (const each of undo.splice(0)) each()
})

interface Pair {
  readonly client: http2.ClientHttp2Session
  readonly server: http2.ServerHttp2Session
  /** Echoes. */
  readonly stream: http2.ClientHttp2Stream
}

async function pair(): Promise<Pair> {
  const listener = http2.createServer().on('stream', (stream: http2.ServerHttp2Stream) => {
    stream.on('error', () => {}) // it ends with its session
    stream.respond({ ':status': 200 })
    stream.pipe(stream)
  })
  await once(listener.listen(0, '127.0.0.1'), 'listening')
  const accepted = once(listener, 'session') as Promise<[http2.ServerHttp2Session]>
  const client = http2.connect(`http://127.0.0.1:${(listener.address() as AddressInfo).port}`)
  client.on('error', () => {})
  const stream = client.request({ ':method': 'CONNECT', ':authority': 'a:1' }, { endStream: false })
  stream.on('error', () => {})
  await once(stream, 'response')
  const [server] = await accepted
  server.on('error', () => {})
  undo.push(() => {
    client.destroy()
    server.destroy()
    listener.close()
  })
  return { client, server, stream }
}

describe.each(['client', 'server'] as const)('of the %s', (side) => {
  test('a peer that answers is alive', async () => {
    const both = await pair()
    const onDead = vi.fn<() => void>()
    undo.push(keepAlive(both[side], systemClock, timeouts, onDead))
    await sleep(500)
    expect(onDead).not.toHaveBeenCalled()
  })

  test.each(['client', 'server'] as const)('a session that drains because the %s said so carries its streams on', async (drains) => {
    const both = await pair()
    const onDead = vi.fn<() => void>()
    undo.push(keepAlive(both[side], systemClock, timeouts, onDead))
    await sleep(50)
    both[drains].close()
    await sleep(500)
    expect(onDead).not.toHaveBeenCalled()
    both.stream.write('still')
    expect(String((await once(both.stream, 'data'))[0])).toBe('still')
  })

  test('one that was destroyed without a word is told', async () => {
    const both = await pair()
    const onDead = vi.fn<() => void>()
    both[side].destroy()
    undo.push(keepAlive(both[side], systemClock, timeouts, onDead))
    await vi.waitFor(() => expect(onDead).toHaveBeenCalledOnce(), 5_000)
  })

  test('a peer that says nothing is dead, once', async () => {
    const both = await pair()
    const onDead = vi.fn<() => void>()
    vi.spyOn(both[side], 'ping').mockImplementation(() => true)
    undo.push(keepAlive(both[side], systemClock, timeouts, onDead))
    await sleep(600)
    expect(onDead).toHaveBeenCalledOnce()
  })
})
