// Serves HTTP on byte streams that somebody else accepted: a TLS socket, a tunnel's stream, any Duplex. One front serves many
// connections with one handler. Says what a stream speaks where that is not HTTP, and then leaves it alone.
import type { Duplex } from 'node:stream'
import type { Clock } from '../../core/clock.ts'
import { defaultPathRules } from '../../policy/l7/path.ts'
import type { PathRules } from '../../policy/l7/path.ts'
import { detect } from './detect.ts'
import type { Detected } from './detect.ts'
import type { ExchangeEvents } from './exchange.ts'
import { defaultLimits } from './message.ts'
import type { Handler, HttpLimits } from './message.ts'
import { Http1Side } from './serve-http1.ts'
import type { Http1Plan } from './serve-http1.ts'
import { Http2Connection } from './serve-http2.ts'
import type { ServedConnection } from './served-connection.ts'

export interface HttpFrontOptions<Connection> extends ExchangeEvents {
  readonly clock: Clock
  readonly handler: Handler<Connection>
  readonly limits?: Partial<HttpLimits>
  readonly paths?: PathRules
  /** Default: websocket. */
  readonly upgrades?: readonly string[]
}

export interface ServeOptions<Connection> {
  readonly connection: Connection
  readonly scheme: 'http' | 'https'
  /** What the port was declared to speak, or detect() has found. */
  readonly protocol: 'http1' | 'http2'
}

/** How long a connection that came while we end may take for its first request: it was let in, so it is served. */
const newcomerMs = 2_000

export class HttpFront<Connection> {
  readonly #plan: Http1Plan<Connection>
  readonly #http1: Http1Side<Connection>
  readonly #open = new Map<Duplex, ServedConnection>()
  #state: 'serving' | 'announced' | 'draining' = 'serving'

  constructor({ clock, handler, limits, paths = defaultPathRules, upgrades = ['websocket'], ...events }: HttpFrontOptions<Connection>) {
    this.#plan = { ...events, clock, handler, rules: { limits: { ...defaultLimits, ...limits }, paths, upgrades } }
    this.#http1 = new Http1Side(this.#plan)
  }

  get connections(): number {
    return this.#open.size
  }

  /** The stream is the front's from here on. */
  serve(stream: Duplex, { connection, scheme, protocol }: ServeOptions<Connection>): void {
    if (stream.destroyed) return
    stream.on('error', () => {
      // What was under way learns it from 'close'.
    })
    const served = protocol === 'http1'
      ? this.#http1.serve(stream, connection, scheme)
      : new Http2Connection(stream, connection, scheme, this.#plan)
    this.#open.set(stream, served)
    stream.once('close', () => this.#open.delete(stream))
    if (this.#state === 'serving') return
    served.announceEnd()
    if (this.#state === 'draining') stream.once('close', this.#plan.clock.after(newcomerMs, () => served.drain()))
  }

  /** Serves it if it is HTTP; else the answer says what it is, and the stream is the caller's with every byte still in it. */
  async detectAndServe(stream: Duplex, options: Omit<ServeOptions<Connection>, 'protocol'>, withinMs = 100): Promise<Detected> {
    const detected = await detect(stream, { clock: this.#plan.clock, withinMs })
    if (detected.t === 'http1' || detected.t === 'http2') this.serve(stream, { ...options, protocol: detected.t })
    return detected
  }

  /** To be called some time before drain(): who asks meanwhile learns it from the answer, and a connection that is closed while its next request is on the way becomes rare. */
  announceEnd(): void {
    this.#state = 'announced'
    for (const connection of this.#open.values()) connection.announceEnd()
  }

  /** Idle connections end, others after the answers that are under way. Upgraded ones are left alone. */
  drain(): void {
    this.#state = 'draining'
    for (const connection of this.#open.values()) connection.drain()
  }

  /** Cuts everything. */
  close(): void {
    this.#state = 'draining'
    for (const stream of this.#open.keys()) stream.destroy()
    this.#http1.close()
  }
}
