// Connections for bytes, and copies of requests: where they go, how they fail, and that they are counted while they last.
import { once } from 'node:events'
import { createServer } from 'node:net'
import type { Duplex } from 'node:stream'
import { afterEach, describe, expect, it } from 'vitest'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import { Recorded, World, workload } from './testing.ts'
import type { Ask } from './testing.ts'

const worlds: World[] = []
const world = (...args: ConstructorParameters<typeof World>): World => {
  const made = new World(...args)
  worlds.push(made)
  return made
}
afterEach(async () => {
  for (const each of worlds.splice(0)) await each.close()
})

const never = new AbortController().signal

function open(w: World, signal = never, record = new Recorded(), ask: Partial<Ask> = {}): Promise<Duplex> {
  return w.forwarder.connect({ t: 'service', service: w.service, port: 80 }, w.context(ask), record, signal)
}

/** Says who it is first, then echoes. */
async function greeter(w: World, name: string): Promise<void> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {
      // Cut on purpose.
    })
    socket.write(name)
    socket.pipe(socket)
  })
  w.add(workload(name, await w.listen(server)))
}

async function word(stream: Duplex): Promise<string> {
  const [chunk] = await once(stream, 'data') as [Buffer]
  return chunk.toString()
}

describe('a connection', () => {
  it('carries bytes both ways, server first, with half-close', async () => {
    const w = world()
    await greeter(w, 'a')
    const record = new Recorded()
    const stream = await open(w, never, record)
    expect(await word(stream)).toBe('a')
    stream.end('ping')
    expect(await word(stream)).toBe('ping')
    await once(stream, 'close')
    expect(record.attempts).toMatchObject([{ workload: { name: 'a' } }])
    expect(w.forwarder.stats()[0]).toMatchObject({ connections: 0 })
  })

  it('is made to another endpoint where one cannot be reached, and fails where none can', async () => {
    const w = world()
    w.policy({ loadBalancer: { kind: 'roundRobin' } })
    w.add(workload('dead', 1))
    await greeter(w, 'a')
    for (let i = 0; i < 4; i++) {
      const stream = await open(w)
      expect(await word(stream)).toBe('a')
      stream.destroy()
    }
    w.remove('a')
    const record = new Recorded()
    await expect(open(w, never, record)).rejects.toMatchObject({ code: 'CONNECT_REFUSED' })
    expect(record.reasons).toEqual([['connectFailure', 'CONNECT_REFUSED']])
    expect(record.attempts.length).toBe(3)
  })

  it('is refused over the limit, and without endpoints', async () => {
    const w = world({ limits: { queueMs: 100 } })
    const record = new Recorded()
    await expect(open(w, never, record)).rejects.toMatchObject({ code: 'NO_HEALTHY_UPSTREAM' })
    expect(record.reasons).toEqual([['noBackend', 'noEndpoints']])
    w.policy({ limits: { connections: 1, pending: 1, requests: 1, retries: 1, requestsPerConnection: 0 } })
    await greeter(w, 'a')
    const stream = await open(w)
    const second = new Recorded()
    await expect(open(w, never, second)).rejects.toMatchObject({ code: 'OVERLOADED' })
    expect(second.reasons).toEqual([['breakerOpen', 'OVERLOADED']])
    stream.destroy()
    await once(stream, 'close')
    const third = await open(w)
    third.destroy()
  })

  it('is given up when the client goes, and when it takes too long', async () => {
    let given: AbortSignal | undefined
    const w = world({
      dial: (_, signal) => {
        given = signal
        return new Promise(() => {})
      },
    })
    w.policy({ connectTimeoutMs: 50 })
    w.add(workload('a', 1))
    await expect(open(w)).rejects.toMatchObject({ code: 'CONNECT_TIMEOUT' })
    expect(given?.aborted).toBe(true)
    w.policy({ connectTimeoutMs: 60_000 })
    const abort = new AbortController()
    const record = new Recorded()
    const opening = open(w, abort.signal, record)
    await new Promise((resolve) => setTimeout(resolve, 20))
    abort.abort()
    await expect(opening).rejects.toMatchObject({ code: 'CLOSED' })
    expect(record.reasons).toEqual([['clientGone', 'CLOSED']])
    expect(w.forwarder.stats()[0]).toMatchObject({ pending: 0 })
  })

  it('of one client keeps to one endpoint where the policy hashes addresses', async () => {
    const w = world()
    for (const name of ['a', 'b', 'c']) await greeter(w, name)
    w.policy({ loadBalancer: { kind: 'consistentHash', by: { kind: 'sourceIp' }, algorithm: 'maglev', size: 65_537 } })
    const found = new Set<string>()
    for (let i = 0; i < 6; i++) {
      const stream = await open(w, never, new Recorded(), { address: '10.7.7.7' })
      found.add(await word(stream))
      stream.destroy()
    }
    expect(found.size).toBe(1)
  })
})

describe('a copy', () => {
  const send = (w: World, path: string, body?: string): void => {
    const headers = new HeaderMap()
    const request = { ...({} as Parameters<World['forwarder']['mirror']>[0]['request']), connection: w.context(), isGrpc: false, protocol: 'http1' as const }
    w.forwarder.mirror({ request, to: { t: 'service', service: w.service, port: 80 }, head: { method: 'POST', scheme: 'http', authority: 'api.shop', target: path, headers } }, body === undefined ? undefined : Buffer.from(body))
  }

  it('arrives with its body, and its answer is thrown away', async () => {
    const w = world()
    const got: string[] = []
    await w.backend('a', (req, res) => {
      let body = ''
      req.on('data', (chunk: Buffer) => (body += chunk.toString()))
      req.on('end', () => {
        got.push(`${req.url} ${body}`)
        res.end('x'.repeat(10_000_000))
      })
    })
    send(w, '/a', 'hello')
    send(w, '/b')
    await expect.poll(() => [...got].sort()).toEqual(['/a hello', '/b '])
    await expect.poll(() => w.count('mirrored', 'answered')).toBe(2)
    await expect.poll(() => w.idle() && w.forwarder.held.mirrors === 0).toBe(true)
  })

  it('is left out where there are too many, where there is nobody, and given up after a while', async () => {
    const w = world({ limits: { mirrors: 2, mirrorMs: 150 } })
    send(w, '/nobody')
    expect(w.count('mirrored', 'shed')).toBe(1)
    await w.backend('a', () => {
      // Never answers.
    })
    for (let i = 0; i < 5; i++) send(w, '/')
    expect(w.forwarder.held.mirrors).toBe(2)
    expect(w.count('mirrored', 'shed')).toBe(4)
    await expect.poll(() => w.count('mirrored', 'failed')).toBe(2)
    expect(w.forwarder.held.mirrors).toBe(0)
    await expect.poll(() => w.idle()).toBe(true)
  })
})
