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

export class HttpFront<Connection> {
  readonly #plan: Http1Plan<Connection>
  readonly #http1: Http1Side<Connection>
  readonly #open = new Map<Duplex, { drain(): void }>()
  #isDraining = false

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
    this.#open.set(stream, protocol === 'http1'
      ? this.#http1.serve(stream, connection, scheme)
      : new Http2Connection(stream, connection, scheme, this.#plan))
    stream.once('close', () => this.#open.delete(stream))
    if (this.#isDraining) this.#open.get(stream)?.drain()
  }

  /** Serves it if it is HTTP; else the answer says what it is, and the stream is the caller's with every byte still in it. */
  async detectAndServe(stream: Duplex, options: Omit<ServeOptions<Connection>, 'protocol'>, withinMs = 100): Promise<Detected> {
    const detected = await detect(stream, { clock: this.#plan.clock, withinMs })
    if (detected.t === 'http1' || detected.t === 'http2') this.serve(stream, { ...options, protocol: detected.t })
    return detected
  }

  /** Idle connections end, others after the answers that are under way. Upgraded ones are left alone. */
  drain(): void {
    this.#isDraining = true
    for (const connection of this.#open.values()) connection.drain()
  }

  /** Cuts everything. */
  close(): void {
    this.#isDraining = true
    for (const stream of this.#open.keys()) stream.destroy()
    this.#http1.close()
  }
}
