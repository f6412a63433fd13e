import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import type { ClientHttp2Session, IncomingHttpHeaders } from 'node:http2'
import { Readable } from 'node:stream'
import { afterEach, describe, expect, it } from 'vitest'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import type { Handler, Request } from './message.ts'
import { curl, dial, rawExchange, readAll, startFront, text } from './testing.ts'
import type { RunningFront } from './testing.ts'

const open: { close(): unknown }[] = []
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
})

async function front(handler: Handler<string>, limits = {}): Promise<RunningFront> {
  const running = await startFront(handler, limits)
  open.push(running)
  return running
}

function session(port: number): ClientHttp2Session {
  const client = connectHttp2(`http://127.0.0.1:${port}`)
  client.on('error', () => {
    // The test looks at streams.
  })
  open.push({ close: () => client.destroy() })
  return client
}

const echo: Handler<string> = async (request) => {
  const body = await readAll(request.body)
  const { head } = request
  return text(200, `${request.protocol} ${head.method} ${head.authority.split(':')[0]} ${head.path.path}?${head.query} ${body}`, [['x-a', '1'], ['x-a', '2']])
}

describe.each([['HTTP/1.1', '--http1.1', 'http1'], ['HTTP/2', '--http2-prior-knowledge', 'http2']] as const)('curl over %s', (_, flag, protocol) => {
  it('gets an answer to what it posts', async () => {
    const { port } = await front(echo)
    const { out, code } = await curl(flag, '-d', 'hello', `http://127.0.0.1:${port}/a/b?c=d`)
    expect({ out, code }).toEqual({ code: 0, out: `${protocol} POST 127.0.0.1 /a/b?c=d hello` })
  })

  it('waits for 100 (Continue), which comes when somebody reads', async () => {
    const { port } = await front(async (request) => {
      if (request.head.path.path === '/no') return text(403, 'no')
      return echo(request)
    })
    const parts = [flag, '-v', '--expect100-timeout', '20', '-H', 'Expect: 100-continue', '-d', 'x']
    const yes = await curl(...parts, `http://127.0.0.1:${port}/yes`)
    expect(yes.error).toMatch(/< HTTP\/[\d.]+ 100/)
    expect(yes.out).toContain('x')
    const no = await curl(...parts, `http://127.0.0.1:${port}/no`)
    expect(no.error).not.toMatch(/< HTTP\/[\d.]+ 100/)
    expect(no.out).toBe('no')
  })

  it('gets heads without bodies where there are none', async () => {
    const { port } = await front(async ({ head }) => {
      const status = Number(head.path.path.slice(1))
      return { t: 'response', status, headers: HeaderMap.of([['content-length', '5'], ['etag', '"a"']]), body: Readable.from([Buffer.from('12345')]) }
    })
    const base = `http://127.0.0.1:${port}`
    const head = await curl(flag, '-I', `${base}/200`)
    expect(head.code).toBe(0)
    expect(head.out.toLowerCase()).toContain('content-length: 5')
    for (const status of [204, 304]) {
      const { out, code } = await curl(flag, '-i', `${base}/${status}`)
      expect(code).toBe(0)
      expect(out).toMatch(/\r\n\r\n$/)
    }
    expect((await curl(flag, `${base}/200`)).out).toBe('12345')
  })

  it('sees information before the answer', async () => {
    const { port } = await front(async (request) => {
      request.inform(103, HeaderMap.of([['link', '</a.css>; rel=preload']]))
      return text(200, 'done')
    })
    const { out } = await curl(flag, '-i', `http://127.0.0.1:${port}/`)
    expect(out).toMatch(/^HTTP\/[\d.]+ 103[^]*link: <\/a.css>[^]*HTTP\/[\d.]+ 200[^]*done$/i)
  })

  it('does not take a part for the whole when the body fails', async () => {
    const { port } = await front(async () => {
      const body = new Readable({ read() {} })
      body.push('part')
      setTimeout(() => body.destroy(new Error('upstream gone')), 50)
      return { t: 'response', status: 200, headers: new HeaderMap(), body }
    })
    expect((await curl(flag, `http://127.0.0.1:${port}/`)).code).not.toBe(0)
  })

  it('gets 500 where the handler fails, and nothing of why', async () => {
    const { port, errors } = await front(() => Promise.reject(new Error('secret')))
    const { out } = await curl(flag, '-i', `http://127.0.0.1:${port}/`)
    expect(out).toMatch(/^HTTP\/[\d.]+ 500/)
    expect(out).not.toContain('secret')
    expect(errors).toHaveLength(1)
  })

  it('is told apart from a client that goes away', async () => {
    const gone = Promise.withResolvers<unknown>()
    const { port } = await front((request) => new Promise(() => {
      request.signal.addEventListener('abort', () => gone.resolve(request.signal.reason))
    }))
    await curl(flag, '--max-time', '0.3', `http://127.0.0.1:${port}/`)
    expect(await gone.promise).toMatchObject({ code: 'REQUEST_CUT', detail: { because: 'clientGone' } })
  })
})

describe('HTTP/1.1', () => {
  it('keeps the connection after an answer that came before the body, if little of it is left', async () => {
    const { port } = await front(async ({ head }) => text(200, head.path.path))
    const answer = await rawExchange(port, `POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`)
    expect(answer.match(/\/(early|next)/g)).toEqual(['/early', '/next'])
  })

  it('sends trailers to who wants them', async () => {
    const { port } = await front(async () => ({
      t: 'response', status: 200, headers: new HeaderMap(), body: Readable.from([Buffer.from('a')]), trailers: () => HeaderMap.of([['x-sum', '7']]),
    }))
    const get = (more: string): Promise<string> => rawExchange(port, `GET / HTTP/1.1\r\nHost: a\r\n${more}\r\n`)
    expect(await get('TE: trailers\r\nConnection: close, TE\r\n')).toMatch(/0\r\nx-sum: 7\r\n\r\n$/)
    expect(await get('Connection: close\r\n')).toMatch(/0\r\n\r\n$/)
  })

  it('hands an upgraded stream over, with what came with the request', async () => {
    const { port } = await front(async (request) => ({
      t: 'upgrade', headers: HeaderMap.of([['x-protocol', request.upgrade ?? '']]), carry: (stream) => void stream.pipe(stream),
    }))
    const socket = await dial(port)
    open.push({ close: () => socket.destroy() })
    socket.write('GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst')
    let got = ''
    socket.on('data', (chunk: Buffer) => (got += chunk.toString()))
    await expect.poll(() => got).toMatch(/^HTTP\/1.1 101 [^]*x-protocol: websocket\r\n[^]*upgrade: websocket\r\n\r\nfirst$/)
    socket.write(' second')
    await expect.poll(() => got).toMatch(/first second$/)
  })

  it('answers an upgrade it does not want like any request', async () => {
    const { port } = await front(async () => text(403, 'no'))
    const answer = await rawExchange(port, 'GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
    expect(answer).toMatch(/^HTTP\/1.1 403 [^]*connection: close[^]*no$/)
  })

  it('ends idle connections, and others after their answer, when it drains', async () => {
    const { port, front: running } = await front(async () => {
      await new Promise((done) => setTimeout(done, 100))
      return text(200, 'late')
    })
    const idle = await dial(port)
    idle.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    await once(idle, 'data')
    const busy = rawExchange(port, 'GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    await expect.poll(() => running.connections).toBe(2)
    running.drain()
    idle.resume()
    await Promise.all([once(idle, 'close'), idle.once('end', () => idle.end())])
    expect(await busy).toMatch(/connection: close[^]*late$/i)
  })

  it('tells who asks before the end, and serves who was let in late', async () => {
    const { port, front: running } = await front(async () => text(200, 'here'))
    const standing = await dial(port)
    standing.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    expect(String((await once(standing, 'data'))[0])).not.toMatch(/connection: close/i)
    running.announceEnd()
    standing.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    expect(String((await once(standing, 'data'))[0])).toMatch(/connection: close[^]*here$/i)
    standing.destroy()
    running.drain()
    expect(await rawExchange(port, 'GET / HTTP/1.1\r\nHost: a\r\n\r\n')).toMatch(/connection: close[^]*here$/i)
    // Who says nothing is not waited for.
    const silent = await dial(port)
    silent.resume()
    await Promise.all([once(silent, 'close'), silent.once('end', () => silent.end())])
    expect(running.connections).toBe(0)
  })
})

describe('HTTP/2', () => {
  it('carries an extended CONNECT as an upgrade', async () => {
    const seen: Request<string>[] = []
    const { port } = await front(async (request) => {
      seen.push(request)
      return { t: 'upgrade', headers: HeaderMap.of([['sec-websocket-accept', 'x']]), carry: (stream) => void stream.pipe(stream) }
    })
    const client = session(port)
    await once(client, 'remoteSettings')
    expect(client.remoteSettings.enableConnectProtocol).toBe(true)
    const stream = client.request({ ':method': 'CONNECT', ':protocol': 'websocket', ':path': '/chat', ':scheme': 'http', ':authority': 'shop' })
    const [headers] = await once(stream, 'response') as [IncomingHttpHeaders]
    expect(headers[':status']).toBe(200)
    expect(headers['sec-websocket-accept']).toBeUndefined()
    stream.write('hello')
    expect(String((await once(stream, 'data'))[0])).toBe('hello')
    expect(seen[0]).toMatchObject({ upgrade: 'websocket', head: { method: 'GET' } })
    stream.end()
    await once(stream, 'close')
    expect(stream.rstCode).toBe(0)
  })

  it('refuses with a status what is no request, and goes on', async () => {
    const { port, refusals } = await front(echo, { headBytes: 4_000, uriBytes: 1_000 })
    const client = session(port)
    const ask = async (headers: Record<string, string>): Promise<number> => {
      const stream = client.request({ ':path': '/', ...headers })
      stream.on('error', () => {
        // Some are reset.
      })
      const [answer] = await once(stream, 'response') as [IncomingHttpHeaders]
      stream.resume()
      return Number(answer[':status'])
    }
    expect(await ask({ ':path': `/${'a'.repeat(1_500)}` })).toBe(414)
    expect(await ask({ 'x-a': 'b'.repeat(6_000) })).toBe(431)
    expect(await ask({ host: 'other', ':authority': 'shop' })).toBe(400)
    expect(await ask({ ':path': '/../a' })).toBe(400)
    expect(await ask({})).toBe(200)
    expect(refusals.map(({ because }) => because)).toEqual(['longUri', 'largeHead', 'badHost', 'badPath'])
  })

  it('gives a body without a byte to who reads it late', async () => {
    const { port } = await front(async (request) => {
      await new Promise((resolve) => setTimeout(resolve, 50))
      return text(200, `read ${(await readAll(request.body)).length}`)
    })
    const stream = session(port).request({ ':method': 'POST', ':path': '/' })
    stream.end()
    expect(await readAll(stream)).toBe('read 0')
  })

  it('answers 408 to a body that does not come', async () => {
    const { port } = await front(echo, { bodyIdleMs: 100 })
    const stream = session(port).request({ ':method': 'POST', ':path': '/' })
    stream.on('error', () => {
      // It may be reset after the answer.
    })
    stream.write('a')
    const [answer] = await once(stream, 'response') as [IncomingHttpHeaders]
    expect(answer[':status']).toBe(408)
  })

  it('says which code a client reset with', async () => {
    const gone = Promise.withResolvers<unknown>()
    const begun = Promise.withResolvers<void>()
    const { port } = await front((request) => new Promise(() => {
      request.signal.addEventListener('abort', () => gone.resolve(request.signal.reason))
      begun.resolve()
    }))
    const stream = session(port).request({ ':path': '/' })
    stream.on('error', () => {
      // Our own doing.
    })
    await begun.promise
    stream.close(8)
    expect(await gone.promise).toMatchObject({ detail: { because: 'clientGone', rstCode: 8 } })
  })
})
