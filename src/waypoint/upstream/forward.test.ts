// Requests to real backends on loopback: that they arrive in the right words, how they fail, and that nothing is left of them.
import { once } from 'node:events'
import { createServer } from 'node:net'
import { createHash } from 'node:crypto'
import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import { afterEach, describe, expect, it } from 'vitest'
import { World, rule, service, textOf, workload } from './testing.ts'

const worlds: World[] = []
const world = (...args: ConstructorParameters<typeof World>): World => {
  const made = new World(...args)
  worlds.push(made)
  return made
}
afterEach(async () => {
  for (const each of worlds.splice(0)) await each.close()
})

/** A server that does with a connection's first bytes whatever the test wants. */
async function rawBackend(w: World, name: string, onData: (socket: Socket, text: string) => void): Promise<Set<Socket>> {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    socket.on('error', () => {
      // Reset on purpose.
    })
    socket.on('data', (chunk: Buffer) => onData(socket, chunk.toString('latin1')))
  })
  w.onClose(() => {
    for (const socket of sockets) socket.destroy()
  })
  w.add(workload(name, await w.listen(server)))
  return sockets
}

const settled = async (w: World): Promise<void> => {
  await expect.poll(() => w.idle()).toBe(true)
}

describe('a request', () => {
  it('gets its answer, and its record says from where', async () => {
    const w = world()
    await w.backend('a', (req, res) => res.end(`${req.method} ${req.url} ${req.headers.host}`))
    const answer = await w.get({ path: '/x?y' })
    expect(answer).toMatchObject({ status: 200, body: 'GET /x?y api.shop' })
    expect(answer.record.attempts).toMatchObject([{ service: { name: 'api' }, workload: { name: 'a' }, address: expect.stringMatching(/^127\.0\.0\.1:\d+$/) }])
    expect(answer.record.reasons).toEqual([])
    await settled(w)
  })

  it('goes to another endpoint where the first cannot be reached', async () => {
    const w = world()
    w.policy({ loadBalancer: { kind: 'roundRobin' } })
    w.add(workload('dead', 1))
    await w.backend('a', (_, res) => res.end('a'))
    for (let i = 0; i < 20; i++) expect(await w.get({ method: 'POST', body: 'x' })).toMatchObject({ status: 200, body: 'a' })
    expect(w.count('retried', 'connectFailure')).toBeGreaterThan(0)
    await settled(w)
  })

  it('fails with 503 where none can be reached', async () => {
    const w = world()
    w.add(workload('dead', 1))
    const { status, body, record } = await w.get({ rule: rule() })
    expect([status, body]).toEqual([503, 'connectFailure'])
    expect(record.reasons).toEqual([['connectFailure', 'CONNECT_REFUSED']])
    expect(record.attempts.length).toBe(3)
    await settled(w)
  })

  it('of a service without endpoints waits, is served when one comes, and fails fast after a while', async () => {
    const w = world({ limits: { queueMs: 300 } })
    const waiting = w.get()
    await expect.poll(() => w.forwarder.stats()[0]?.pending).toBe(1)
    await w.backend('a', (_, res) => res.end('came'))
    expect(await waiting).toMatchObject({ status: 200, body: 'came' })
    w.remove('a')
    expect(await w.get()).toMatchObject({ status: 503, body: 'noBackend' })
    expect(w.events).toContainEqual(expect.objectContaining({ t: 'failFast', isOn: true }))
    const startedMs = performance.now()
    for (let i = 0; i < 50; i++) expect(await w.get()).toMatchObject({ status: 503, body: 'noBackend' })
    expect(performance.now() - startedMs).toBeLessThan(300 * 25)
    await w.backend('b', (_, res) => res.end('b'))
    expect(await w.get()).toMatchObject({ status: 200, body: 'b' })
    expect(w.events).toContainEqual(expect.objectContaining({ t: 'failFast', isOn: false }))
    await settled(w)
  })

  it('to a pod itself goes to that pod', async () => {
    const w = world()
    const { port } = await w.backend('a', (_, res) => res.end('a'))
    await w.backend('b', (_, res) => res.end('b'))
    const a = w.store.workload('cluster//Pod/shop/a')
    if (!a) throw new Error('no workload')
    for (let i = 0; i < 5; i++) expect(await w.get({ to: { t: 'workload', workload: a, port } })).toMatchObject({ status: 200, body: 'a' })
    w.remove('a')
    expect((await w.get({ to: { t: 'workload', workload: a, port }, signal: AbortSignal.timeout(300) })).status).toBe(499)
  })

  it('of a subset that nobody defined fails', async () => {
    const w = world()
    await w.backend('a', (_, res) => res.end('a'))
    const { status, record } = await w.get({ to: { t: 'service', service: service(), port: 80, subset: 'v9' } })
    expect([status, record.reasons]).toEqual([503, [['noBackend', 'unknownSubset']]])
  })
})

describe('what a backend may do', () => {
  it('reset before an answer: 503; an idempotent request is tried again, another is not', async () => {
    const w = world()
    const asked: string[] = []
    await rawBackend(w, 'a', (socket, text) => {
      asked.push(text.split(' ')[0] ?? '')
      socket.resetAndDestroy()
    })
    expect(await w.get({ method: 'POST', body: 'x' })).toMatchObject({ status: 503, body: 'upstreamReset' })
    expect(asked.length).toBe(1)
    expect(await w.get()).toMatchObject({ status: 503, body: 'upstreamReset' })
    expect(asked.length).toBe(4)
    await settled(w)
  })

  it('say what is not HTTP: 502', async () => {
    const w = world()
    await rawBackend(w, 'a', (socket) => socket.end('SSH-2.0-OpenSSH\r\n\r\n'))
    expect(await w.get({ method: 'POST', body: 'x' })).toMatchObject({ status: 502, body: 'badAnswer' })
  })

  it('stall: 504 after the try\'s time, after the request\'s time, and in the middle of the answer a cut', async () => {
    const w = world()
    const sockets = await rawBackend(w, 'a', (socket, text) => {
      if (text.startsWith('GET /half')) socket.write('HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf')
    })
    expect(await w.get({ rule: rule({ timeouts: { backendRequestMs: 60 } }), method: 'POST', body: 'x' })).toMatchObject({ status: 504, body: 'upstreamTimeout' })
    const whole = await w.get({ rule: rule({ timeouts: { requestMs: 60 } }) })
    expect([whole.status, whole.record.reasons]).toEqual([504, [['requestTimeout', 'UPSTREAM_TIMEOUT']]])
    const idle = await w.get({ path: '/half', rule: rule({ timeouts: { idleMs: 60 } }) })
    expect([idle.status, idle.record.reasons[0]?.[0]]).toEqual([-1, 'upstreamTimeout'])
    const late = await w.get({ path: '/half', rule: rule({ timeouts: { requestMs: 60 } }) })
    expect([late.status, late.record.reasons[0]?.[0]]).toEqual([-1, 'requestTimeout'])
    await settled(w)
    await expect.poll(() => sockets.size).toBe(0)
    expect(await w.get({ path: '/half', rule: rule({ timeouts: { requestMs: 0 } }), signal: AbortSignal.timeout(100) })).toMatchObject({ status: -1 })
  })

  it('cut its answer: the client sees a cut, never a short answer', async () => {
    const w = world()
    await rawBackend(w, 'a', (socket) => socket.end('HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf'))
    const { status, record } = await w.get()
    expect([status, record.reasons[0]?.[0]]).toEqual([-1, 'upstreamReset'])
    await settled(w)
  })

  it('close idle connections: nobody notices', async () => {
    const w = world()
    const { server } = await w.backend('a', (_, res) => res.end('a'))
    for (let i = 0; i < 10; i++) {
      expect(await w.get()).toMatchObject({ status: 200 })
      server.closeIdleConnections()
    }
  })

  it('tell of early hints: they are passed on before the answer', async () => {
    const w = world()
    await w.backend('a', (_, res) => {
      res.writeEarlyHints({ link: '</a.css>; rel=preload' })
      res.end('a')
    })
    const { outcome, informed } = await w.ask()
    expect([outcome.t === 'response' && outcome.status, informed]).toEqual([200, [103]])
    if (outcome.t === 'response' && outcome.body) await textOf(outcome.body)
  })

  it('hold a WebSocket longer than connections may rest', async () => {
    const w = world({ limits: { unusedMs: 60 } })
    w.policy({ idleTimeoutMs: 30 })
    const { server } = await w.backend('a', (_, res) => res.end())
    server.on('upgrade', (req, socket: Socket) => {
      const accept = createHash('sha1').update(`${req.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
      socket.write(`HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: ${accept}\r\n\r\n`)
      socket.pipe(socket)
    })
    const { outcome } = await w.ask({ upgrade: 'websocket' })
    if (outcome.t !== 'upgraded') throw new Error(`not upgraded: ${outcome.t}`)
    await expect.poll(() => w.forwarder.stats()[0]?.pools).toBe(0)
    w.remove('a')
    outcome.stream.write('still here')
    const [chunk] = await once(outcome.stream, 'data') as [Buffer]
    expect(chunk.toString()).toBe('still here')
    outcome.stream.destroy()
    await settled(w)
    await expect.poll(() => w.forwarder.stats()).toEqual([])
  })

  it('change to WebSocket', async () => {
    const w = world()
    const { server } = await w.backend('a', (_, res) => res.writeHead(426).end())
    server.on('upgrade', (req, socket: Socket) => {
      const accept = createHash('sha1').update(`${req.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
      socket.write(`HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: ${accept}\r\n\r\n`)
      socket.on('data', (chunk: Buffer) => socket.write(`echo ${chunk}`))
    })
    const { outcome } = await w.ask({ upgrade: 'websocket', protocol: 'http2' })
    if (outcome.t !== 'upgraded') throw new Error(`not upgraded: ${outcome.t}`)
    outcome.stream.write('hi')
    const [chunk] = await once(outcome.stream, 'data') as [Buffer]
    expect(chunk.toString()).toBe('echo hi')
    expect(w.forwarder.stats()[0]?.active).toBe(1)
    outcome.stream.destroy()
    await settled(w)
  })
})

describe('a client that goes away', () => {
  it('while it waits for an endpoint, for an answer, or reads one', async () => {
    const w = world()
    const closed: string[] = []
    const gone = async (path: string): Promise<unknown> => {
      const abort = new AbortController()
      const asked = w.get({ path, signal: abort.signal })
      await expect.poll(() => w.forwarder.stats()[0]?.active).toBe(1)
      await new Promise((resolve) => setTimeout(resolve, 50))
      abort.abort()
      return (await asked).status
    }
    expect(await gone('/nobody')).toBe(499)
    await w.backend('a', (req, res) => {
      res.on('close', () => closed.push(req.url ?? ''))
      if (req.url === '/reading') res.write('x')
    })
    expect(await gone('/answer')).toBe(499)
    expect(await gone('/reading')).toBe(-1)
    await expect.poll(() => closed).toEqual(['/answer', '/reading'])
    await settled(w)
  })

  it('with its body half sent: the backend is cut, and it is the client\'s fault', async () => {
    const w = world()
    let got = 0
    await w.backend('a', (req) => {
      req.on('data', (chunk: Buffer) => (got += chunk.length))
      req.on('error', () => {
        // That is what is expected.
      })
    })
    const body = new Readable({ read() {} })
    const asked = w.get({ method: 'PUT', body })
    body.push('half')
    await expect.poll(() => got).toBe(4)
    body.destroy(new Error('gone'))
    expect(await asked).toMatchObject({ status: 400, body: 'clientGone' })
    await settled(w)
  })
})

describe('bodies', () => {
  it('stream at the speed of the slower, whatever their size', async () => {
    const w = world()
    let readBytes = 0
    const resumes: (() => void)[] = []
    await w.backend('a', (req, res) => {
      // Reads nothing until told to.
      resumes.push(() => {
        req.on('data', (chunk: Buffer) => (readBytes += chunk.length))
        req.on('end', () => res.end(String(readBytes)))
      })
    })
    let madeBytes = 0
    const size = 200 * 65_536
    const body = new Readable({
      read() {
        if (madeBytes >= size) this.push(null)
        else {
          madeBytes += 65_536
          this.push(Buffer.alloc(65_536))
        }
      },
    })
    const asked = w.get({ method: 'POST', body })
    await expect.poll(() => resumes.length).toBe(1)
    await new Promise((resolve) => setTimeout(resolve, 200))
    // What sockets hold, and no more.
    expect(madeBytes).toBeLessThan(size / 2)
    expect(w.forwarder.held.replayBytes).toBe(0)
    resumes[0]?.()
    expect(await asked).toMatchObject({ status: 200, body: String(size) })
    await settled(w)
  })

  it('of a slow reader stop the backend', async () => {
    const w = world()
    let written = 0
    await w.backend('a', (_, res) => {
      const chunk = Buffer.alloc(65_536)
      const push = (): void => {
        while (written < 200 * chunk.length) {
          written += chunk.length
          if (!res.write(chunk)) {
            res.once('drain', push)
            return
          }
        }
        res.end()
      }
      push()
    })
    const { outcome } = await w.ask()
    if (outcome.t !== 'response' || !outcome.body) throw new Error('no body')
    await new Promise((resolve) => setTimeout(resolve, 200))
    const before = written
    expect(before).toBeLessThan(180 * 65_536)
    expect((await textOf(outcome.body)).length).toBe(200 * 65_536)
    await settled(w)
  })
})
