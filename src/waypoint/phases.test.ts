// Requests through the whole of the phases, with a real front and real backends on loopback.
import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import type { IncomingHttpHeaders } from 'node:http2'
import { afterEach, describe, expect, it } from 'vitest'
import type { HttpRule } from '../model/route.ts'
import { HeaderMap } from '../policy/l7/request-head.ts'
import {
  contextOf, echo, listenerTarget, outsideContext, responseOf, ruleOf, serviceAt, shopService, startBackend, startWorld,
} from './filters/testing.ts'
import type { Backing, Echoed, World, WorldParts } from './filters/testing.ts'
import { curl, dial } from './http/testing.ts'

const open: { close(): unknown }[] = []
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
})

async function world(parts: WorldParts, backings?: readonly Backing[]): Promise<World> {
  const backend = await startBackend(echo)
  open.push(backend)
  const made = await startWorld(parts, backings ?? [{ service: shopService, port: backend.port }])
  open.push(made)
  return made
}

const ask = async (url: string, init?: RequestInit): Promise<{
  readonly status: number; readonly headers: Headers; readonly text: string
}> => {
  const answer = await fetch(url, { redirect: 'manual', ...init })
  return { status: answer.status, headers: answer.headers, text: await answer.text() }
}
const echoOf = async (url: string, init?: RequestInit): Promise<Echoed> => JSON.parse((await ask(url, init)).text) as Echoed
const ended = (made: World): Promise<unknown> => expect.poll(() => made.records.every(({ end }) => end !== undefined)).toBe(true)

describe('a request without rules', () => {
  it('goes to what the client asked for, and its record ends with it', async () => {
    const made = await world({})
    const seen = await echoOf(`${made.url}/a/b?c=d`, { method: 'POST', body: 'hello' })
    expect(seen).toMatchObject({ method: 'POST', url: '/a/b?c=d', body: 'hello' })
    await ended(made)
    expect(made.records[0]).toMatchObject({
      rule: undefined, service: 'web', answered: { status: 200 }, end: { status: 200, requestBytes: 5, isCut: false },
    })
    expect(made.records[0]?.end?.responseBytes).toBeGreaterThan(50)
  })

  it('is answered 404 at a listener', async () => {
    const made = await world({ context: outsideContext() })
    expect(await ask(made.url)).toMatchObject({ status: 404, text: 'no route matches this request' })
    expect(made.records[0]?.reasons[0]?.[0]).toBe('noRoute')
  })

  it('gets its trace headers from the record, which may take some away', async () => {
    const made = await world({})
    const seen = await echoOf(made.url, { headers: { traceparent: 'forged', b3: '0' } })
    expect(seen.headers['traceparent']).toMatch(/^00-0af7/)
    expect(seen.headers['b3']).toBeUndefined()
  })
})

describe('actions of a rule', () => {
  it('answers 404 where no rule matches, UNIMPLEMENTED to gRPC', async () => {
    const made = await world({
      rules: [ruleOf({ matches: [{ headers: [], query: [], cookies: [], path: { kind: 'exact', value: '/only' } }] })],
    })
    expect((await ask(`${made.url}/other`)).status).toBe(404)
    expect((await ask(`${made.url}/only`)).status).toBe(200)
    const grpc = await ask(`${made.url}/other`, { headers: { 'content-type': 'application/grpc' } })
    expect(grpc).toMatchObject({ status: 200 })
    expect(grpc.headers.get('grpc-status')).toBe('12')
  })

  it('redirects and answers itself', async () => {
    const redirect: HttpRule['action'] = {
      t: 'redirect', redirect: { scheme: 'https', status: 301, path: { kind: 'full', value: '/new' } },
    }
    const made = await world({ rules: [
      ruleOf({
        name: 'old', matches: [{ headers: [], query: [], cookies: [], path: { kind: 'prefix', value: '/old' } }],
        action: redirect,
      }),
      ruleOf({ name: 'fixed', action: { t: 'respond', status: 418, body: 'short and stout' } }),
    ] })
    const moved = await ask(`${made.url}/old?x=1`, { headers: { host: 'shop.test' } })
    expect(moved.status).toBe(301)
    expect(moved.headers.get('location')).toMatch(/^https:\/\/127.0.0.1\/new\?x=1$/)
    expect(await ask(made.url)).toMatchObject({ status: 418, text: 'short and stout' })
    expect(made.records.map(({ rule, reasons }) => [rule, reasons[0]?.[0]])).toEqual([
      ['old', 'redirected'], ['fixed', 'responded'],
    ])
  })

  it('changes headers and rewrites for the backend, and headers of the answer', async () => {
    const change = { set: [['x-set', 'ours']] as const, add: [['x-add', '2']] as const, remove: ['x-gone'] }
    const backend = {
      service: shopService, port: 80, weight: 1, requestHeaders: { set: [['x-backend', 'b']] as const, add: [], remove: [] },
    }
    const made = await world({ rules: [ruleOf({
      matches: [{ headers: [], query: [], cookies: [], path: { kind: 'prefix', value: '/api' } }],
      requestHeaders: change, rewrite: { hostname: 'inner.test', path: { kind: 'prefix', value: '/v1' } },
      responseHeaders: { set: [['x-answer', 'yes']], add: [], remove: ['content-type'] },
      action: { t: 'forward', backends: [backend] },
    })] })
    const answer = await ask(`${made.url}/api/users?q=1`, { headers: { 'x-set': 'theirs', 'x-add': '1', 'x-gone': 'x' } })
    const seen = JSON.parse(answer.text) as Echoed
    expect(seen).toMatchObject({
      url: '/v1/users?q=1', headers: { host: 'inner.test', 'x-set': 'ours', 'x-add': '1, 2', 'x-backend': 'b' },
    })
    expect(seen.headers).not.toHaveProperty('x-gone')
    expect(answer.headers.get('x-answer')).toBe('yes')
    expect(answer.headers.get('content-type')).toBeNull()
  })

  it('shares by weight, a broken backend keeps its share and answers 500', async () => {
    const other = serviceAt('other')
    const second = await startBackend((_, res) => res.end('other'))
    open.push(second)
    const first = await startBackend((_, res) => res.end('web'))
    open.push(first)
    const draws = [0.1, 0.55, 0.95]
    const made = await world({
      random: () => draws.shift() ?? 0,
      rules: [ruleOf({ action: { t: 'forward', backends: [
        { service: shopService, port: 80, weight: 5 }, { service: other, port: 80, weight: 4 },
        { service: other, port: 80, weight: 1, broken: 'not granted' },
      ] } })],
    }, [{ service: shopService, port: first.port }, { service: other, port: second.port }])
    const answers = [await ask(made.url), await ask(made.url), await ask(made.url)]
    expect(answers.map(({ status, text }) => [status, text])).toEqual([
      [200, 'web'], [200, 'other'], [500, 'the route of this request cannot be served'],
    ])
    expect(made.records[2]?.reasons[0]).toEqual(['routeBroken', 'not granted'])
  })

  it('answers 503 where the backend is not known, 500 where a filter or a part of the rule is not', async () => {
    const made = await world({
      rules: [
        ruleOf({ action: { t: 'forward', backends: [{ service: { namespace: 'x', hostname: 'nobody' }, port: 1, weight: 1 }] } }),
      ],
    })
    expect((await ask(made.url)).status).toBe(503)
    made.change({ rules: [ruleOf({ filters: ['RateLimitPolicy shop/gone'] })] })
    expect((await ask(made.url)).status).toBe(500)
    made.change({ rules: [ruleOf({ rewrite: { path: { kind: 'regex', pattern: '(', substitution: '' } } })] })
    expect((await ask(made.url)).status).toBe(500)
    expect(made.records.map(({ reasons }) => reasons[0]?.[0])).toEqual(['noBackend', 'routeBroken', 'routeBroken'])
  })

  it('tells what failed in text, as a problem, or as a gRPC status', async () => {
    const made = await world({ rules: [ruleOf()] })
    made.intercept = () => ({
      t: 'failed', status: 503, because: 'overloaded', retryAfterSeconds: 7, message: 'too many requests wait',
    })
    const plain = await ask(made.url)
    expect(plain).toMatchObject({ status: 503, text: 'too many requests wait' })
    expect(plain.headers.get('retry-after')).toBe('7')
    const problem = await ask(made.url, { headers: { accept: 'application/json' } })
    expect(problem.headers.get('content-type')).toBe('application/problem+json')
    expect(JSON.parse(problem.text)).toMatchObject({ status: 503, detail: 'too many requests wait' })
    made.intercept = () => ({ t: 'failed', status: 504, because: 'requestTimeout', message: 'no answer in time' })
    const grpc = await ask(made.url, { method: 'POST', headers: { 'content-type': 'application/grpc+proto' }, body: '' })
    expect([grpc.status, grpc.headers.get('grpc-status'), grpc.headers.get('grpc-message')]).toEqual([
      200, '4', 'no answer in time',
    ])
  })
})

describe('what is inside', () => {
  it('answers 500 and tells the record when a part of it fails', async () => {
    const made = await world({ rules: [ruleOf()] })
    made.intercept = () => {
      throw new Error('a mistake of ours')
    }
    const answer = await ask(made.url)
    expect(answer).toMatchObject({ status: 500 })
    expect(answer.text).not.toContain('mistake')
    expect(made.records[0]?.reasons[0]).toEqual(['internal', 'a mistake of ours'])
  })

  it('follows a change within a connection', async () => {
    const made = await world({ rules: [ruleOf({ action: { t: 'respond', status: 201 } })] })
    const client = connectHttp2(made.url)
    open.push({ close: () => client.destroy() })
    const status = async (): Promise<unknown> => {
      const stream = client.request({ ':path': '/' })
      const [headers] = await once(stream, 'response') as [IncomingHttpHeaders]
      stream.resume()
      return headers[':status']
    }
    expect(await status()).toBe(201)
    made.change({ rules: [ruleOf({ action: { t: 'respond', status: 202 } })] })
    expect(await status()).toBe(202)
  })

  it('ends the record of an answer that the client did not wait for as cut', async () => {
    const backend = await startBackend((_, res) => {
      res.write('begin')
    })
    open.push(backend)
    const made = await world({ rules: [ruleOf()] }, [{ service: shopService, port: backend.port }])
    await curl('--max-time', '0.5', made.url)
    await ended(made)
    expect(made.records[0]).toMatchObject({ end: { isCut: true, responseBytes: 5 } })
    expect(made.records[0]?.reasons[0]?.[0]).toBe('clientGone')
  })

  it('carries an upgraded stream and counts it once', async () => {
    const backend = await startBackend(() => {})
    open.push(backend)
    const made = await world({ rules: [ruleOf()] })
    const { Duplex } = await import('node:stream')
    made.intercept = () => {
      const stream = new Duplex({ read() {}, write(chunk: Buffer, _, done) {
        this.push(chunk)
        done()
      }, final(done) {
        this.push(null)
        done()
      } })
      return { t: 'upgraded', headers: new HeaderMap(), stream }
    }
    const socket = await dial(made.port)
    let got = ''
    socket.on('data', (chunk: Buffer) => (got += chunk.toString()))
    socket.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
    await expect.poll(() => got).toContain('101')
    socket.end('ping')
    await expect.poll(() => got).toMatch(/ping$/)
    await ended(made)
    expect(made.records[0]).toMatchObject({
      answered: { status: 101 }, end: { status: 101, requestBytes: 4, responseBytes: 4, isCut: false },
    })
    socket.destroy()
  })

  it('reads the status of gRPC from trailers', async () => {
    const made = await world({ rules: [ruleOf()] })
    made.intercept = () => {
      const outcome = responseOf(200, HeaderMap.of([['content-type', 'application/grpc']]), 'xxxxx')
      return { ...outcome, trailers: () => HeaderMap.of([['grpc-status', '5']]) } as typeof outcome
    }
    const client = connectHttp2(made.url)
    open.push({ close: () => client.destroy() })
    const stream = client.request({ ':method': 'POST', ':path': '/a.B/C', 'content-type': 'application/grpc', te: 'trailers' })
    stream.end()
    stream.resume()
    const [trailers] = await once(stream, 'trailers') as [IncomingHttpHeaders]
    expect(trailers['grpc-status']).toBe('5')
    await ended(made)
    expect(made.records[0]?.end).toMatchObject({ status: 200, grpcStatus: 5, isCut: false })
  })

  it('serves a listener by its own routes', async () => {
    const table = { key: 'Gateway shop/edge/web', hostnames: ['shop.test'], http: [ruleOf()], tcp: [], hasDefault: false }
    const made = await world({ tables: [table], context: contextOf({ target: listenerTarget() }) })
    const get = (host: string): Promise<{ readonly out: string }> => curl(
      '-o', '/dev/null', '-w', '%{http_code}', '-H', `Host: ${host}`, made.url,
    )
    expect([(await get('shop.test')).out, (await get('other.test')).out]).toEqual(['200', '404'])
  })
})
