// The HTTP/1.1 side of a client's connection: Node's parser and framing, our reading of the head, and one answer for each request.
// Never lets a connection go on whose next byte could be read in two ways.
import http from 'node:http'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Clock } from '../../core/clock.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import { Exchange, hasContent } from './exchange.ts'
import type { ExchangeEvents, Side } from './exchange.ts'
import type { Handler, Refusal, RefusalReason, Response } from './message.ts'
import { isStream } from './header-lists.ts'
import { cut, pump } from './pump.ts'
import { RequestBody, noBody } from './request-body.ts'
import { readHttp1Head, readTrailers } from './strict.ts'
import type { ServedConnection } from './served-connection.ts'
import type { StrictRules } from './strict.ts'

export interface Http1Plan<Connection> extends ExchangeEvents {
  readonly clock: Clock
  readonly rules: StrictRules
  readonly handler: Handler<Connection>
}

/** One connection's. */
interface Client<Connection> {
  readonly stream: Duplex
  readonly connection: Connection
  readonly scheme: 'http' | 'https'
  active: number
  /** The head of an answer is out, and that answer is not finished. */
  isAnswering: boolean
  /** Nothing more is read of it. */
  isRefused: boolean
  /** Nothing more is written to it. */
  isCut: boolean
  isUpgraded: boolean
  isDraining: boolean
  callOffIdle: (() => void) | undefined
}

/** How long a connection that ends with a refusal may take the refusal. */
const lingerMs = 1_000
const noCall = (): void => {}

export class Http1Side<Connection> {
  readonly #plan: Http1Plan<Connection>
  readonly #server: Server
  readonly #clients = new WeakMap<Duplex, Client<Connection>>()

  constructor(plan: Http1Plan<Connection>) {
    this.#plan = plan
    const { limits, upgrades } = plan.rules
    const server = http.createServer({
      // The target is counted, too; what is over one limit and not over both gets a status that says which.
      maxHeaderSize: limits.headBytes + limits.uriBytes,
      requireHostHeader: false,
      headersTimeout: limits.headMs,
      requestTimeout: 0,
      keepAliveTimeout: 0,
      connectionsCheckingInterval: Math.max(20, Math.min(1_000, limits.headMs / 4)),
      httpValidation: 'strict',
      shouldUpgradeCallback: ({ headers }) => upgrades.includes(headers.upgrade?.toLowerCase().trim() ?? ''),
    })
    // Node drops headers above a number without a word, and what it drops could have been the one that frames the message.
    server.maxHeadersCount = 0
    server.timeout = 0
    server.on('request', (req, res) => this.#onRequest(req, res))
    server.on('checkContinue', (req, res) => this.#onRequest(req, res))
    server.on('checkExpectation', (req, res) => this.#onRequest(req, res))
    server.on('upgrade', (req: IncomingMessage, stream: Duplex, head: Buffer) => this.#onUpgrade(req, stream, head))
    server.on('connect', (_: IncomingMessage, stream: Duplex) => this.#refuseRaw(stream, { status: 405, because: 'badMethod' }))
    server.on('clientError', (error: NodeJS.ErrnoException, stream: Duplex) => this.#onClientError(error, stream))
    // Node looks for slow heads only on servers that listen, which this one never does.
    server.emit('listening')
    this.#server = server
  }

  serve(stream: Duplex, connection: Connection, scheme: 'http' | 'https'): ServedConnection {
    const client: Client<Connection> = {
      stream, connection, scheme, active: 0, isAnswering: false, isRefused: false, isCut: false, isUpgraded: false, isDraining: false, callOffIdle: undefined,
    }
    this.#clients.set(stream, client)
    stream.once('close', () => client.callOffIdle?.())
    this.#rest(client)
    this.#server.emit('connection', stream)
    return {
      announceEnd: () => {
        client.isDraining = true
      },
      drain: () => {
        client.isDraining = true
        if (client.active === 0 && !client.isUpgraded) stream.destroy()
      },
    }
  }

  close(): void {
    // It never listened; only its timer is to be stopped.
    this.#server.close(noCall)
  }

  #onRequest(req: IncomingMessage, res: ServerResponse): void {
    const client = this.#clients.get(req.socket)
    if (!client || client.isRefused) return
    this.#begin(client)
    // Node keeps what was pipelined in memory, however long the first answer takes.
    if (client.active > this.#plan.rules.limits.pipelined) {
      this.#end(client, req, res, { status: 503, because: 'pipelineTooDeep' })
      return
    }
    const read = this.#read(req, client)
    if (read.t === 'refused') {
      this.#end(client, req, res, read)
      return
    }
    const { method } = read.head
    let body: RequestBody | undefined
    const onEarlyEnd = (): void => this.#discard(client, body)
    const side: Side = {
      protocol: 'http1',
      inform: (status, headers) => writeInformation(res, status, headers),
      respond: (answer) => {
        // It waits for 100 (Continue): whether it will send its body after another answer, nobody knows.
        const isUnsure = read.expectsContinue && body?.isStarted === false
        this.#respond(client, res, answer, method, read.acceptsTrailers, isUnsure, onEarlyEnd)
      },
      upgrade: () => undefined,
    }
    const exchange = new Exchange<Connection>(side, this.#plan)
    if (read.hasBody) {
      body = new RequestBody(req, {
        clock: this.#plan.clock,
        idleMs: this.#plan.rules.limits.bodyIdleMs,
        onFirstRead: () => {
          if (read.expectsContinue && !res.headersSent) res.writeContinue()
        },
        onSlow: () => {
          client.isDraining = true
          if (!exchange.refuse({ status: 408, because: 'slowBody' })) client.stream.destroy()
        },
      })
    } else req.resume()
    res.once('close', () => {
      if (res.writableFinished) exchange.finished()
      else exchange.gone('clientGone')
      this.#finish(client)
    })
    res.on('error', noCall)
    exchange.start(read, body ?? noBody(), () => readTrailers(req.rawTrailers), client.connection, this.#plan.handler)
  }

  #respond(
    client: Client<Connection>, res: ServerResponse, answer: Response & { t: 'response' }, method: string, acceptsTrailers: boolean, isLast: boolean,
    onEarlyEnd: () => void,
  ): void {
    const { headers, body, status } = answer
    if (client.isCut) {
      if (isStream(body)) body.destroy()
      return
    }
    client.isAnswering = true
    res.once('finish', onEarlyEnd)
    if (client.isDraining || isLast) res.shouldKeepAlive = false
    const isBodiless = body === undefined || !hasContent(method, status)
    headers.delete('transfer-encoding')
    if (status === 204) headers.delete('content-length')
    else if (isBodiless && method !== 'HEAD' && status !== 304) headers.set('content-length', '0')
    else if (body !== undefined && !isStream(body)) headers.set('content-length', String(Buffer.byteLength(body)))
    try {
      res.writeHead(status, headers.flat())
    } catch (error) {
      this.#plan.onHandlerError?.(error)
      client.stream.destroy()
      return
    }
    if (isBodiless) {
      if (isStream(body)) body.destroy()
      res.end()
    } else if (!isStream(body)) res.end(body)
    else {
      // Most answers come whole: head and body then go in one call. A body that is late does not hold its head back.
      let isFlowing = false
      body.once('data', () => (isFlowing = true))
      const late = setImmediate(() => {
        if (!isFlowing && !res.writableEnded && !res.destroyed) res.flushHeaders()
      })
      pump(body, res, (error) => {
        clearImmediate(late)
        if (error) {
          body.destroy()
          // Only a broken connection tells an HTTP/1.1 client that this is not all.
          client.stream.destroy()
          return
        }
        const trailers = acceptsTrailers && res.chunkedEncoding ? answer.trailers?.() : undefined
        if (trailers) res.addTrailers([...trailers.entries()].map(([name, value]): [string, string] => [name, value]))
        res.end()
      })
    }
  }

  #onUpgrade(req: IncomingMessage, stream: Duplex, head: Buffer): void {
    const client = this.#clients.get(stream)
    if (!client || client.isRefused) return
    this.#begin(client)
    const read = this.#read(req, client)
    if (read.t === 'refused' || read.upgrade === undefined || client.active > 1) {
      this.#refuseRaw(stream, read.t === 'refused' ? read : { status: 400, because: 'badUpgrade' })
      return
    }
    const protocol = req.headers.upgrade ?? read.upgrade
    if (head.length > 0) stream.unshift(head)
    client.isUpgraded = true
    const side: Side = {
      protocol: 'http1',
      inform: noCall,
      respond: (answer) => this.#respondRaw(stream, answer),
      upgrade: (headers) => {
        if (stream.destroyed) return undefined
        stream.off('error', noCall)
        stream.write(rawHead(101, headers, `connection: upgrade\r\nupgrade: ${protocol}\r\n`), 'latin1')
        return stream
      },
    }
    const exchange = new Exchange<Connection>(side, this.#plan)
    stream.on('error', noCall)
    stream.once('close', () => {
      exchange.gone('clientGone')
      this.#finish(client)
    })
    exchange.start(read, noBody(), () => undefined, client.connection, this.#plan.handler)
  }

  /** An answer in place of an upgrade. Node has let go of the connection, so it ends with it. */
  #respondRaw(stream: Duplex, { status, headers, body }: Response & { t: 'response' }): void {
    if (stream.destroyed) {
      if (isStream(body)) body.destroy()
      return
    }
    headers.delete('content-length')
    stream.write(rawHead(status, headers, 'connection: close\r\n'), 'latin1')
    if (!isStream(body)) this.#endRaw(stream, hasContent('GET', status) ? body : undefined)
    else if (!hasContent('GET', status)) {
      body.destroy()
      this.#endRaw(stream)
    } else {
      pump(body, stream, (error) => {
        if (!error) this.#endRaw(stream)
        else {
          body.destroy()
          // Without a length the end of the connection is the end of the body, so this must not look like one.
          cut(stream)
        }
      })
    }
  }

  #endRaw(stream: Duplex, last?: string | Uint8Array): void {
    if (last === undefined) stream.end()
    else stream.end(last)
    // Reads on, so that a reset for unread bytes does not overtake the answer.
    stream.resume()
    this.#plan.clock.after(lingerMs, () => stream.destroy())
  }

  #onClientError(error: NodeJS.ErrnoException, stream: Duplex): void {
    const refusal = refusalOf(error.code ?? '')
    if (refusal) this.#refuseRaw(stream, refusal)
    else stream.destroy()
  }

  #refuseRaw(stream: Duplex, refusal: Refusal): void {
    const client = this.#clients.get(stream)
    if (client?.isRefused === true) return
    if (client) client.isRefused = client.isCut = true
    this.#plan.onRefused?.(refusal)
    // In the middle of another exchange on this connection no answer can be told from that exchange's.
    const isOther = client !== undefined && (client.active > 1 || client.isAnswering)
    if (stream.destroyed || !stream.writable || isOther) {
      stream.destroy()
      return
    }
    stream.on('error', noCall)
    stream.write(rawHead(refusal.status, new HeaderMap(), 'connection: close\r\ncontent-length: 0\r\n'), 'latin1')
    this.#endRaw(stream)
  }

  /** Answers, and lets the connection end with that. */
  #end(client: Client<Connection>, req: IncomingMessage, res: ServerResponse, refusal: Refusal): void {
    client.isRefused = true
    this.#plan.onRefused?.(refusal)
    res.on('error', noCall)
    res.once('close', () => this.#finish(client))
    req.on('error', noCall)
    req.resume()
    // Earlier answers have to go first. Without any, not Node but we end the connection, and it takes its time.
    if (client.active > 1) {
      res.shouldKeepAlive = false
      res.writeHead(refusal.status, ['content-length', '0'])
      res.end()
    } else {
      client.stream.write(rawHead(refusal.status, new HeaderMap(), 'connection: close\r\ncontent-length: 0\r\n'), 'latin1')
      client.stream.end()
    }
    this.#plan.clock.after(lingerMs, () => client.stream.destroy())
  }

  #read(req: IncomingMessage, client: Client<Connection>): ReturnType<typeof readHttp1Head> {
    const raw = { method: req.method ?? '', target: req.url ?? '', minorVersion: req.httpVersionMinor, rawHeaders: req.rawHeaders }
    return readHttp1Head(raw, client.scheme, this.#plan.rules)
  }

  #discard(client: Client<Connection>, body: RequestBody | undefined): void {
    if (!body || body.isComplete) return
    const cut = (): void => {
      client.stream.destroy()
    }
    body.discardRest(this.#plan.rules.limits.discardBytes, cut)
    const callOff = this.#plan.clock.after(lingerMs, () => {
      if (!body.isComplete) cut()
    })
    client.stream.once('close', callOff)
  }

  #begin(client: Client<Connection>): void {
    client.active++
    client.callOffIdle?.()
    client.callOffIdle = undefined
  }

  #finish(client: Client<Connection>): void {
    client.active--
    client.isAnswering = false
    if (client.active === 0 && !client.stream.destroyed) this.#rest(client)
  }

  /** Nothing is asked for. A head that has begun has its own limit. */
  #rest(client: Client<Connection>): void {
    client.callOffIdle = this.#plan.clock.after(this.#plan.rules.limits.idleMs, () => {
      if (client.active === 0 && !client.isUpgraded) client.stream.destroy()
    })
  }
}

const reasons: Readonly<Record<string, { readonly status: number; readonly because: RefusalReason }>> = {
  HPE_HEADER_OVERFLOW: { status: 431, because: 'largeHead' },
  HPE_CHUNK_EXTENSIONS_OVERFLOW: { status: 413, because: 'badChunk' },
  ERR_HTTP_REQUEST_TIMEOUT: { status: 408, because: 'slowHead' },
  HPE_INVALID_CONTENT_LENGTH: { status: 400, because: 'badFraming' },
  HPE_UNEXPECTED_CONTENT_LENGTH: { status: 400, because: 'badFraming' },
  HPE_INVALID_TRANSFER_ENCODING: { status: 400, because: 'badFraming' },
  HPE_INVALID_CHUNK_SIZE: { status: 400, because: 'badChunk' },
  HPE_INVALID_HEADER_TOKEN: { status: 400, because: 'badHeader' },
  HPE_INVALID_URL: { status: 400, because: 'badTarget' },
  HPE_INVALID_METHOD: { status: 400, because: 'badMethod' },
}

/** Undefined for errors of the connection itself. */
function refusalOf(code: string): Refusal | undefined {
  return reasons[code] ?? (code.startsWith('HPE_') ? { status: 400, because: 'badRequest' } : undefined)
}

function rawHead(status: number, headers: HeaderMap, own: string): string {
  let text = `HTTP/1.1 ${status} ${http.STATUS_CODES[status] ?? 'Unknown'}\r\n`
  for (const [name, value] of headers.entries()) text += `${name}: ${value}\r\n`
  return `${text}${own}\r\n`
}

function writeInformation(res: ServerResponse, status: number, headers: HeaderMap): void {
  if (res.headersSent || res.destroyed) return
  // Node has writeEarlyHints(), which wants a Link; this is what it does.
  const raw: unknown = Reflect.get(res, '_writeRaw')
  if (typeof raw === 'function') raw.call(res, rawHead(status, headers, ''), 'latin1')
}
