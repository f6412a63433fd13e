// Which protocol a connection speaks, by its first bytes and at most a hundred milliseconds: for ports that nobody declared. All
// bytes are given back to the stream. What begins like HTTP counts as HTTP even if it stops short: a client that drips its request
// must not get past the rules for requests by being taken for something else.
import type { Duplex } from 'node:stream'
import type { Clock } from '../../core/clock.ts'
import { longestHelloBytes, readClientHello } from './client-hello.ts'

export type Detected =
  | { readonly t: 'http1' }
  | { readonly t: 'http2' }
  /** Without a name where the hello has none, or had not come whole. */
  | { readonly t: 'tls'; readonly serverName?: string; readonly alpn: readonly string[] }
  /** `silent`: the server is expected to speak first. `closed`: the client ended, or broke, before it said anything. */
  | { readonly t: 'opaque'; readonly because: 'silent' | 'unknown' | 'closed' }

type Look = Detected | { readonly t: 'more'; readonly ifNoMore: Detected }

const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1')
const http1: Detected = { t: 'http1' }
const http2: Detected = { t: 'http2' }
const unknown: Detected = { t: 'opaque', because: 'unknown' }
/** A first line longer than this is HTTP if it has begun so. */
const longestLineBytes = 4_096
const methods = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'CONNECT', 'OPTIONS', 'TRACE', 'PATCH', 'QUERY', 'PROPFIND']
const lineStart = /^([A-Z][A-Z-]{0,31}) (?=[/*hH]|$)/
const connectStart = /^CONNECT [^ ]*/
const lineEnd = / HTTP\/\d\.\d$/

/** What the bytes so far say; pure. */
export function look(bytes: Buffer): Look {
  if (bytes.length === 0) return { t: 'more', ifNoMore: { t: 'opaque', because: 'silent' } }
  if (bytes[0] === 22) return lookAtTls(bytes)
  // RFC 9112, 2.2: empty lines before a request are ignored, and Node's parser does so.
  let from = 0
  while (from < bytes.length && from < 8 && (bytes[from] === 13 || bytes[from] === 10)) from++
  if (from === bytes.length) return from < 8 ? { t: 'more', ifNoMore: unknown } : unknown
  const start = Math.min(preface.length, bytes.length)
  if (from === 0 && bytes.length >= 4 && preface.subarray(0, start).equals(bytes.subarray(0, start))) {
    return bytes.length >= preface.length ? http2 : { t: 'more', ifNoMore: http2 }
  }
  const text = bytes.toString('latin1', from, from + longestLineBytes)
  const end = text.indexOf('\n')
  const line = (end < 0 ? text : text.slice(0, end)).replace(/\r$/, '')
  if (end < 0 && text.length < 12 && !text.includes(' ')) {
    if (methods.some((method) => method.startsWith(text)) || 'PRI'.startsWith(text)) return { t: 'more', ifNoMore: http1 }
    return /^[A-Z][A-Z-]*$/.test(text) ? { t: 'more', ifNoMore: unknown } : unknown
  }
  if (!lineStart.test(line) && !connectStart.test(line)) return unknown
  if (end >= 0) return lineEnd.test(line) ? http1 : unknown
  return text.length >= longestLineBytes ? http1 : { t: 'more', ifNoMore: http1 }
}

function lookAtTls(bytes: Buffer): Look {
  const decision = readClientHello(bytes)
  if (decision.t === 'hello') return { t: 'tls', ...decision.hello }
  if (decision.t === 'notTls' || bytes.length > longestHelloBytes + 4_096) return unknown
  return { t: 'more', ifNoMore: bytes.length > 5 ? { t: 'tls', alpn: [] } : unknown }
}

export interface DetectOptions {
  readonly clock: Clock
  /** Default 100. */
  readonly withinMs?: number
}

/** Never rejects. The stream is paused afterwards, with every byte still in it; an error or end stays there to be met by its user. */
export function detect(stream: Duplex, { clock, withinMs = 100 }: DetectOptions): Promise<Detected> {
  return new Promise((resolve) => {
    let bytes: Buffer = Buffer.alloc(0)
    let last: Detected = { t: 'opaque', because: 'silent' }
    let isDone = false
    const finish = (detected: Detected): void => {
      if (isDone) return
      isDone = true
      callOff()
      stream.off('readable', onReadable)
      stream.off('end', onEnd)
      stream.off('close', onEnd)
      stream.off('error', onEnd)
      if (bytes.length > 0 && !stream.destroyed && !stream.readableEnded) stream.unshift(bytes)
      resolve(detected)
    }
    const onEnd = (): void => finish(bytes.length > 0 ? last : { t: 'opaque', because: 'closed' })
    const onReadable = (): void => {
      const chunk: unknown = stream.read()
      if (Buffer.isBuffer(chunk)) {
        bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk])
        const seen = look(bytes)
        if (seen.t !== 'more') {
          finish(seen)
          return
        }
        last = seen.ifNoMore
      }
      // Bytes cannot be given back to a stream that has told its end; so it is asked before.
      if (isEnding(stream)) onEnd()
    }
    const callOff = clock.after(withinMs, () => finish(last))
    // It may break between us and who takes it next; that it is destroyed cannot be overlooked.
    stream.on('error', () => {})
    stream.on('readable', onReadable)
    stream.on('end', onEnd)
    stream.on('close', onEnd)
    stream.on('error', onEnd)
    if (stream.destroyed || stream.readableEnded) onEnd()
  })
}

/** Its end has come and lies behind what is buffered. Node keeps it to itself until the last byte is read. */
function isEnding(stream: Duplex): boolean {
  const state: unknown = Reflect.get(stream, '_readableState')
  return typeof state === 'object' && state !== null && Reflect.get(state, 'ended') === true && !stream.readableEnded
}
