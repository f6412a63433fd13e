// How the TCP connection below a session ends: nothing that has arrived is lost, nothing that was written is cut off, and no peer
// keeps a descriptor by neither reading nor closing.
import type { Http2Session } from 'node:http2'
import type { TLSSocket } from 'node:tls'
import type { Clock } from '../core/clock.ts'
import type { TunnelStream } from './tunnel-stream.ts'

/** For the peer to close after us. */
const lingerMs = 1_000
/** For the peer to take our last bytes. */
const flushMs = 30_000

export class ConnectionEnd {
  readonly #tls: TLSSocket
  readonly #clock: Clock
  readonly #tunnels = new Set<TunnelStream>()
  #isGoing = false

  /** `onEnd`: the peer closed, and what it had sent is safe. */
  constructor(session: Http2Session, tls: TLSSocket, clock: Clock, onEnd: () => void) {
    this.#tls = tls
    this.#clock = clock
    // A socket that allows half-open connections would stay; in HTTP/2 a connection that is closed one way is no connection.
    tls.once('end', () => {
      for (const tunnel of this.#tunnels) tunnel.absorb()
      // Streams whose last byte was just taken end on the next ticks.
      setImmediate(() => {
        onEnd()
        if (session.destroyed) this.letGo(true)
      })
    })
  }

  /** Knows what must be rescued. Returns the tunnel. */
  hold(tunnel: TunnelStream): TunnelStream {
    this.#tunnels.add(tunnel)
    tunnel.once('close', () => this.#tunnels.delete(tunnel))
    return tunnel
  }

  /** The session has ended or is about to. `now`: its last bytes need not arrive. */
  letGo(now = false): void {
    if (this.#tls.destroyed || (this.#isGoing && !now)) return
    this.#isGoing = true
    const go = (): void => void this.#clock.after(lingerMs, () => this.#tls.destroy())
    if (now || this.#tls.writableFinished) {
      go()
      return
    }
    this.#clock.after(flushMs, () => this.#tls.destroy())
    this.#tls.once('finish', go)
  }
}
