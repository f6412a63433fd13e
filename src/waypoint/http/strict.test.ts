import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { defaultPathRules } from '../../policy/l7/path.ts'
import { defaultLimits } from './message.ts'
import { readAnswerHeaders, readHttp1Head, readHttp2Head, readTrailers } from './strict.ts'
import type { HeadDecision, StrictRules } from './strict.ts'
import { rawExchange, readAll, startFront, text } from './testing.ts'
import type { RunningFront } from './testing.ts'

const rules: StrictRules = { limits: defaultLimits, paths: defaultPathRules, upgrades: ['websocket'] }
const http1 = (rawHeaders: string[], method = 'GET', target = '/', minorVersion = 1): HeadDecision => (
  readHttp1Head({ method, target, minorVersion, rawHeaders }, 'http', rules)
)
const http2 = (raw: string[], isEnd = true): HeadDecision => readHttp2Head(raw, isEnd, 'http', rules)
const base = [':method', 'GET', ':scheme', 'https', ':path', '/', ':authority', 'shop']

describe('on the wire, HTTP/1.1', () => {
  let front: RunningFront
  beforeAll(async () => {
    front = await startFront(async (request) => text(200, `${request.head.path.path}|${await readAll(request.body)}`), {
      headMs: 400, bodyIdleMs: 300, idleMs: 3_000, uriBytes: 1_000, headBytes: 4_000, headerCount: 20, pipelined: 4,
    })
  })
  afterAll(() => front.close())

  const post = (headers: string, body = ''): string => `POST /x HTTP/1.1\r\nHost: a\r\n${headers}\r\n${body}`
  const get = (headers: string): string => `GET /x HTTP/1.1\r\nHost: a\r\n${headers}\r\n`
  it.each([
    ['both framings', post('Content-Length: 5\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\nGET /y HTTP/1.1\r\nHost: a\r\n\r\n'), 400],
    ['both framings, the other way', post('Transfer-Encoding: chunked\r\nContent-Length: 5\r\n', '0\r\n\r\n'), 400],
    ['two lengths', post('Content-Length: 1\r\nContent-Length: 1\r\n', 'a'), 400],
    ['two lengths that differ', post('Content-Length: 1\r\nContent-Length: 2\r\n', 'ab'), 400],
    ['a list of lengths', post('Content-Length: 1, 1\r\n', 'a'), 400],
    ['a signed length', post('Content-Length: +1\r\n', 'a'), 400],
    ['a hexadecimal length', post('Content-Length: 0x1\r\n', 'a'), 400],
    ['another coding', post('Transfer-Encoding: gzip, chunked\r\n', '0\r\n\r\n'), 501],
    ['chunked twice', post('Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n'), 400],
    ['chunked that is not last', post('Transfer-Encoding: chunked, identity\r\n', '0\r\n\r\n'), 400],
    ['a coding with a tab', post('Transfer-Encoding:\tchunked\v\r\n', '0\r\n\r\n'), 400],
    ['a space before the colon', post('Content-Length : 1\r\n', 'a'), 400],
    ['a folded line', get('X-A: 1\r\n 2\r\n'), 400],
    ['a folded first line', 'GET /x HTTP/1.1\r\n Host: a\r\n\r\n', 400],
    ['a bare LF', get('X-A: 1\nX-B: 2\r\n'), 400],
    ['a bare CR', get('X-A: 1\rX-B: 2\r\n'), 400],
    ['a NUL', get('X-A: 1\x002\r\n'), 400],
    ['a name that is none', get('X A: 1\r\n'), 400],
    ['a name with a bracket', get('X(A): 1\r\n'), 400],
    ['an empty name', get(': 1\r\n'), 400],
    ['no host', 'GET /x HTTP/1.1\r\n\r\n', 400],
    ['two hosts', get('Host: b\r\n'), 400],
    ['a host with a path', 'GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n', 400],
    ['a host with a user', 'GET /x HTTP/1.1\r\nHost: u@a\r\n\r\n', 400],
    ['a host with a large port', 'GET /x HTTP/1.1\r\nHost: a:99999\r\n\r\n', 400],
    ['another host in the target', 'GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n', 400],
    ['a fragment', 'GET /x#y HTTP/1.1\r\nHost: a\r\n\r\n', 400],
    ['a path above the root', 'GET /../x HTTP/1.1\r\nHost: a\r\n\r\n', 400],
    ['an escaped slash', 'GET /a%2Fb HTTP/1.1\r\nHost: a\r\n\r\n', 400],
    ['no method of HTTP', 'FOO /x HTTP/1.1\r\nHost: a\r\n\r\n', 400],
    ['CONNECT', 'CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n', 405],
    ['version 1.2', 'GET /x HTTP/1.2\r\nHost: a\r\n\r\n', 400],
    ['chunked in 1.0', 'POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n', 400],
    ['a connection option that hides the host', get('Connection: host\r\n'), 400],
    ['a connection option that hides credentials', get('Connection: close, Authorization\r\n'), 400],
    ['a connection option that hides the sender', get('Connection: x-forwarded-for\r\n'), 400],
    ['another expectation', post('Expect: the-unexpected\r\nContent-Length: 1\r\n', 'a'), 417],
    ['an upgrade with a body', get('Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n') + 'abc', 400],
    ['a long target', `GET /${'a'.repeat(2_000)} HTTP/1.1\r\nHost: a\r\n\r\n`, 414],
    ['a large head', get(`X-A: ${'a'.repeat(4_500)}\r\n`), 431],
    ['a larger head', get(`X-A: ${'a'.repeat(20_000)}\r\n`), 431],
    ['many headers', get('X-A: 1\r\n'.repeat(30)), 431],
    ['a chunk size that is none', post('Transfer-Encoding: chunked\r\n', 'zz\r\na\r\n0\r\n\r\n'), 400],
    ['a chunk size with a bare LF', post('Transfer-Encoding: chunked\r\n', '1\na\r\n0\r\n\r\n'), 400],
    ['a head that does not come', 'GET /x HTTP/1.1\r\nHost: a\r\n', 408],
    ['a body that does not come', post('Content-Length: 5\r\n', 'ab'), 408],
    ['a chunk that does not come', post('Transfer-Encoding: chunked\r\n', '5\r\nab'), 408],
  ])('refuses %s with its status and ends the connection', async (_, bytes, status) => {
    const answer = await rawExchange(front.port, bytes)
    expect(answer).toMatch(new RegExp(`^HTTP/1.1 ${status} `))
    expect(answer.match(/HTTP\/1\.1 /g)).toHaveLength(1)
    expect(answer).not.toContain('/y')
  })

  it('takes what is right', async () => {
    expect(await rawExchange(front.port, get('Connection: close\r\n'))).toMatch(/^HTTP\/1.1 200 .*\/x\|$/s)
    expect(await rawExchange(front.port, 'GET http://A/z HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')).toMatch(/200 .*\/z\|$/s)
    expect(await rawExchange(front.port, 'GET /old HTTP/1.0\r\nHost: a\r\n\r\n')).toMatch(/200 .*\/old\|$/s)
    expect(await rawExchange(front.port, post('Transfer-Encoding: Chunked\r\nConnection: close\r\n', '1;x=y\r\na\r\n0\r\n\r\n'))).toMatch(/\/x\|a$/)
    expect(await rawExchange(front.port, get('Connection: upgrade, http2-settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n'))).toMatch(/200 .*\/x\|$/s)
  })

  it('does not take more requests ahead than it may', async () => {
    const answer = await rawExchange(front.port, get('').repeat(12))
    expect(answer.match(/HTTP\/1\.1 200/g)?.length).toBeLessThanOrEqual(4)
    expect(answer).toMatch(/HTTP\/1\.1 503 /)
  })

  it('answers pipelined requests in order', async () => {
    const answer = await rawExchange(front.port, `GET /1 HTTP/1.1\r\nHost: a\r\n\r\n${post('Content-Length: 2\r\n', 'hi')}GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`)
    expect(answer.match(/\/\w\|(?:hi)?/g)).toEqual(['/1|', '/x|hi', '/3|'])
  })

  it('survives mutated requests, and answers each connection in HTTP or not at all', async () => {
    const seeds = fc.constantFrom(get('A: b\r\n'), post('Content-Length: 3\r\n', 'abc'), post('Transfer-Encoding: chunked\r\n', '3\r\nabc\r\n0\r\n\r\n'))
    const change = fc.record({ at: fc.nat(90), remove: fc.nat(3), insert: fc.constantFrom('\r', '\n', ' ', ':', '\0', '\r\n', ',', '\t', 'chunked', '\xff', ';') })
    await fc.assert(fc.asyncProperty(seeds, fc.array(change, { minLength: 1, maxLength: 3 }), async (seed, changes) => {
      let bytes = seed
      for (const { at, remove, insert } of changes) bytes = bytes.slice(0, at) + insert + bytes.slice(at + remove)
      const answer = await rawExchange(front.port, bytes, 1_000)
      expect(answer).toMatch(/^$|^HTTP\/1\.1 [2-5]\d\d /)
    }), { numRuns: 60, interruptAfterTimeLimit: 8_000 })
    expect(front.errors).toEqual([])
  }, 30_000)
})

describe('heads', () => {
  it('removes what belongs to one connection, and what the client says belongs to it', () => {
    const read = http1(['Host', 'Shop:80', 'Connection', 'X-Hop, keep-alive', 'X-Hop', '1', 'Keep-Alive', '5', 'TE', 'trailers, deflate;q=0.5', 'Proxy-Connection', 'a', 'X-Stays', '1', 'Upgrade', 'h2c'])
    if (read.t !== 'head') throw new Error(read.because)
    expect([...read.head.headers.entries()]).toEqual([['x-stays', '1']])
    expect(read).toMatchObject({ acceptsTrailers: true, hasBody: false, head: { authority: 'shop:80', scheme: 'http' } })
    expect(read.upgrade).toBeUndefined()
  })

  it('knows an upgrade only with its connection option, and only those it was told', () => {
    expect(http1(['Host', 'a', 'Upgrade', 'websocket'])).not.toHaveProperty('upgrade')
    expect(http1(['Host', 'a', 'Connection', 'Upgrade', 'Upgrade', 'WebSocket'])).toMatchObject({ upgrade: 'websocket' })
    expect(http1(['Host', 'a', 'Connection', 'Upgrade', 'Upgrade', 'websocket'], 'POST')).toMatchObject({ because: 'badUpgrade' })
  })

  it.each<[string, string[], boolean, number]>([
    ['two authorities', [...base, 'host', 'other'], true, 400],
    ['no authority', base.slice(0, 6), true, 400],
    ['connection', [...base, 'connection', 'close'], true, 400],
    ['transfer-encoding', [...base, 'transfer-encoding', 'chunked'], false, 400],
    ['upgrade', [...base, 'upgrade', 'websocket'], true, 400],
    ['te with more', [...base, 'te', 'gzip'], true, 400],
    ['a length without a body', [...base, 'content-length', '4'], true, 400],
    ['two lengths', [...base, 'content-length', '4', 'content-length', '4'], false, 400],
    ['a pseudo-header after others', [...base, 'a', 'b', ':path', '/'], true, 400],
    ['CR in a value', [...base, 'a', 'b\rc'], true, 400],
    ['LF in a path', [':method', 'GET', ':path', '/a\nb', ':authority', 'a'], true, 400],
    ['a method with a space', [':method', 'GET /x', ':path', '/', ':authority', 'a'], true, 400],
    ['plain CONNECT', [':method', 'CONNECT', ':authority', 'a:1'], false, 405],
    ['another protocol', [':method', 'CONNECT', ':protocol', 'connect-udp', ':path', '/', ':authority', 'a'], false, 501],
    ['a protocol without CONNECT', [...base.slice(2), ':method', 'GET', ':protocol', 'websocket'], true, 400],
    ['a long path', [':method', 'GET', ':path', `/${'a'.repeat(20_000)}`, ':authority', 'a'], true, 414],
    ['a large head', [...base, 'a', 'b'.repeat(70_000)], true, 431],
  ])('refuses in HTTP/2: %s', (_, raw, isEnd, status) => {
    expect(http2(raw, isEnd)).toMatchObject({ t: 'refused', status })
  })

  it('joins cookie crumbs, takes the host for the authority, and makes a GET of an extended CONNECT', () => {
    const read = http2([':method', 'GET', ':path', '/a?b', ':scheme', 'https', 'host', 'Shop', 'cookie', 'a=1', 'cookie', 'b=2', 'te', 'trailers'])
    if (read.t !== 'head') throw new Error(read.because)
    expect(read.head).toMatchObject({ authority: 'shop', query: 'b', scheme: 'http' })
    expect([...read.head.headers.entries()]).toEqual([['cookie', 'a=1; b=2']])
    expect(http2([':method', 'CONNECT', ':protocol', 'websocket', ':path', '/', ':authority', 'a'], false)).toMatchObject({ upgrade: 'websocket', hasBody: false, head: { method: 'GET' } })
  })

  it('never throws, and what it lets through has nothing that breaks out of a line', () => {
    const piece = fc.oneof(fc.string({ unit: 'binary', maxLength: 12 }), fc.constantFrom('host', 'a', 'connection', 'close', 'te', 'content-length', '3', 'transfer-encoding', 'chunked', '/', 'x\r\ny'))
    fc.assert(fc.property(fc.array(fc.tuple(piece, piece), { maxLength: 8 }), piece, piece, fc.boolean(), (pairs, method, target, isHttp2) => {
      const raw = pairs.flat()
      const read = isHttp2 ? http2([':method', method, ':path', target, ':authority', 'a', ...raw], false) : http1(['host', 'a', ...raw], method, target)
      readTrailers(raw)
      readAnswerHeaders(raw)
      if (read.t === 'refused') return
      const said = [read.head.method, read.head.path.path, read.head.query, read.head.authority, ...[...read.head.headers.entries()].flat()]
      for (const each of said) expect(each).not.toMatch(/[\r\n\0]/)
      for (const name of ['connection', 'transfer-encoding', 'te', 'upgrade', 'keep-alive', 'expect']) expect(read.head.headers.has(name)).toBe(false)
    }), { numRuns: 2_000 })
  })

  it('drops trailers that would change what the head said', () => {
    expect([...(readTrailers(['Content-Length', '5', 'grpc-status', '0', 'Authorization', 'x', 'X-Sum', '1', 'bad name', 'x'])?.entries() ?? [])]).toEqual([['grpc-status', '0'], ['x-sum', '1']])
    expect(readTrailers(['host', 'a'])).toBeUndefined()
  })

  it('cleans an answer of hop-by-hop headers', () => {
    const headers = readAnswerHeaders(['Connection', 'X-Hop', 'X-Hop', '1', 'Set-Cookie', 'a=1', 'Set-Cookie', 'b=2', 'Keep-Alive', 'timeout=5', 'Transfer-Encoding', 'chunked'])
    expect([...(headers?.entries() ?? [])]).toEqual([['set-cookie', 'a=1'], ['set-cookie', 'b=2']])
    expect(readAnswerHeaders(['Content-Length', '1', 'Content-Length', '2'])).toBeUndefined()
    expect(readAnswerHeaders(['a', 'b\nc'])).toBeUndefined()
  })
})
