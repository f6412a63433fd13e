import fc from 'fast-check'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { PassThrough } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import { describe, expect, it } from 'vitest'
import { systemClock } from '../../core/clock.ts'
import { readClientHello } from './client-hello.ts'
import { detect, look } from './detect.ts'
import { dial, listen } from './testing.ts'

async function helloOf(serverName: string, ALPNProtocols: string[]): Promise<Buffer> {
  const server = createServer()
  const port = await listen(server)
  const accepted = once(server, 'connection')
  const client = connectTls({ port, host: '127.0.0.1', servername: serverName, ALPNProtocols })
  client.on('error', () => {
    // It never gets an answer.
  })
  const [socket] = await accepted
  const [bytes] = await once(socket, 'data')
  client.destroy()
  socket.destroy()
  server.close()
  return bytes
}

const seen = (text: string): string => {
  const found = look(Buffer.from(text, 'latin1'))
  return found.t === 'more' ? `more/${found.ifNoMore.t}` : found.t
}

describe('look', () => {
  it.each([
    ['GET / HTTP/1.1\r\n', 'http1'],
    ['\r\nGET / HTTP/1.1\r\n', 'http1'],
    ['GET http://shop/ HTTP/1.0\r\n', 'http1'],
    ['CONNECT shop:443 HTTP/1.1\r\n', 'http1'],
    ['OPTIONS * HTTP/1.1\r\n', 'http1'],
    ['PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'http2'],
    ['PRI * HTTP/2.0\r\n\r\n', 'more/http2'],
    ['P', 'more/http1'],
    ['PRI', 'more/http1'],
    ['GE', 'more/http1'],
    ['GET /slow', 'more/http1'],
    ['FOOBAR', 'more/opaque'],
    ['FOO /bar', 'more/http1'],
    ['EHLO mail.example\r\n', 'opaque'],
    ['get key\r\n', 'opaque'],
    ['GET key\r\n', 'opaque'],
    ['GET /key\r\n', 'opaque'],
    ['*1\r\n$4\r\nPING\r\n', 'opaque'],
    ['\x00\x00\x00\x08\x04\xd2\x16\x2f', 'opaque'],
    ['\x16\x03', 'more/opaque'],
    ['\x16\x02\x01\x00\x05', 'opaque'],
    ['', 'more/opaque'],
  ])('%j is %s', (text, verdict) => {
    expect(seen(text)).toBe(verdict)
  })

  it('reads the name and the protocols of a real ClientHello, in one piece, in several records and cut off', async () => {
    const hello = await helloOf('Shop.Example', ['h2', 'http/1.1'])
    const whole = { t: 'tls', serverName: 'shop.example', alpn: ['h2', 'http/1.1'] }
    expect(look(hello)).toEqual(whole)
    const message = hello.subarray(5)
    const records: Buffer[] = []
    for (let at = 0; at < message.length; at += 50) {
      const part = message.subarray(at, at + 50)
      records.push(Buffer.from([22, 3, 1, 0, part.length]), part)
    }
    expect(look(Buffer.concat(records))).toEqual(whole)
    for (let length = 6; length < hello.length; length += 7) {
      expect(look(hello.subarray(0, length))).toEqual({ t: 'more', ifNoMore: { t: 'tls', alpn: [] } })
    }
  })

  it('never throws, and once decided stays decided', async () => {
    const hello = await helloOf('a.example', [])
    const begin = fc.constantFrom('GET /a HTTP/1.1\r\n', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', hello.toString('latin1'), '\x16\x03\x01', '')
    fc.assert(fc.property(begin, fc.uint8Array({ maxLength: 200 }), fc.nat(600), fc.nat(255), (start, tail, at, byte) => {
      const bytes = Buffer.concat([Buffer.from(start, 'latin1'), tail])
      if (at < bytes.length) bytes[at] = byte
      readClientHello(bytes)
      let decided: unknown
      for (let length = 0; length <= bytes.length; length += 5) {
        const found = look(bytes.subarray(0, length))
        if (decided !== undefined && typeof decided === 'string') expect(found.t).toBe(decided)
        if (found.t !== 'more') decided = found.t
      }
    }), { numRuns: 500 })
  })
})

describe('detect', () => {
  it('gives every byte back, also with the end right behind them', async () => {
    for (const [sent, verdict] of [['GET / HTTP/1.1\r\nhost: a\r\n\r\n', 'http1'], ['hello world', 'opaque'], ['GE', 'http1']] as const) {
      const stream = new PassThrough()
      stream.end(sent)
      const detected = await detect(stream, { clock: systemClock })
      expect(detected.t).toBe(verdict)
      let got = ''
      for await (const chunk of stream) got += String(chunk)
      expect(got).toBe(sent)
    }
  })

  it('takes a silent client for one whose server speaks first, and leaves its stream alone', async () => {
    const server = createServer()
    const port = await listen(server)
    const accepted = once(server, 'connection')
    const client = await dial(port)
    const [socket] = await accepted
    expect(await detect(socket, { clock: systemClock, withinMs: 30 })).toEqual({ t: 'opaque', because: 'silent' })
    client.write('later')
    expect(String((await once(socket, 'data'))[0])).toBe('later')
    client.destroy()
    server.close()
  })

  it('survives a client that breaks off', async () => {
    const stream = new PassThrough()
    const detected = detect(stream, { clock: systemClock })
    stream.destroy(new Error('reset'))
    expect(await detected).toEqual({ t: 'opaque', because: 'closed' })
  })
})
