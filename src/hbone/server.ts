// An HBONE server for one listener: takes accepted connections, lets in whom the verifier knows, and asks one handler about
// every CONNECT. It does not listen, dial or decide; every limit it has protects the others from one peer.
import type { Socket } from 'node:net'
import type { CertificateSource, CertifiedKey, PeerVerifier } from '../core/certificates.ts'
import { systemClock } from '../core/clock.ts'
import type { Clock } from '../core/clock.ts'
import { formatIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import type { HboneEvents } from './events.ts'
import { HandshakeSlots } from './handshake-slots.ts'
import { acceptTls } from './server-handshake.ts'
import type { ServerHandshake } from './server-handshake.ts'
import { ServerSession } from './server-session.ts'
import type { ConnectHandler } from './server-session.ts'
import { defaultTimeouts } from './settings.ts'
import type { SessionTimeouts } from './settings.ts'

export interface ServerLimits {
  readonly maxStreams: number
  readonly maxConnections: number
  readonly maxConnectionsPerPeer: number
  readonly maxHandshakes: number
}

export const defaultServerLimits: ServerLimits = { maxStreams: 200, maxConnections: 4_096, maxConnectionsPerPeer: 1_024, maxHandshakes: 256 }

export interface ServerOptions {
  /** Whose certificate this listener shows. */
  readonly identity: Identity
  readonly certificates: CertificateSource
  readonly verifier: PeerVerifier
  readonly handler: ConnectHandler
  readonly events: HboneEvents
  readonly limits?: Partial<ServerLimits>
  readonly timeouts?: Partial<SessionTimeouts>
  readonly clock?: Clock
}

type ServerState = { readonly t: 'serving' } | { readonly t: 'draining' } | { readonly t: 'closed' }

export class HboneServer {
  readonly #options: ServerOptions
  readonly #limits: ServerLimits
  readonly #timeouts: SessionTimeouts
  readonly #clock: Clock
  readonly #slots: HandshakeSlots
  readonly #sessions = new Set<ServerSession>()
  readonly #perPeer = new Map<string, number>()
  readonly #handshakes = new Set<AbortController>()
  readonly #whenEmpty: (() => void)[] = []
  readonly #stopWatching: () => void
  #state: ServerState = { t: 'serving' }

  constructor(options: ServerOptions) {
    this.#options = options
    this.#limits = { ...defaultServerLimits, ...options.limits }
    this.#timeouts = { ...defaultTimeouts, ...options.timeouts }
    this.#clock = options.clock ?? systemClock
    this.#slots = new HandshakeSlots(this.#limits.maxHandshakes, this.#clock)
    this.#stopWatching = options.certificates.onChange(() => this.recheckPeers())
  }

  get connections(): number {
    return this.#sessions.size
  }

  get handshakesInFlight(): number {
    return this.#slots.inFlight
  }

  get streams(): number {
    return [...this.#sessions].reduce((sum, session) => sum + session.streams, 0)
  }

  /** Takes over an accepted TCP connection. Never throws; what is refused is closed and counted. */
  accept(socket: Socket): void {
    socket.on('error', () => {
      // A connection that dies before it is served; the handshake or the session reports it where it matters.
    })
    if (this.#state.t !== 'serving') {
      this.#turnAway(socket, 'draining')
      return
    }
    if (this.#sessions.size >= this.#limits.maxConnections) {
      this.#turnAway(socket, 'connections')
      return
    }
    const abort = new AbortController()
    const slot = this.#slots.take(socket.remoteAddress ?? '', () => {
      this.#options.events({ t: 'shed', side: 'server', because: 'handshakes' })
      abort.abort('shed')
    })
    if (!slot) {
      this.#turnAway(socket, 'handshakes')
      return
    }
    this.#handshakes.add(abort)
    void this.#serve(socket, abort.signal).catch((error: unknown) => {
      // Our own certificate that OpenSSL cannot read, or a peer that went between two ticks: this connection's end, nobody else's.
      socket.destroy()
      this.#options.events({ t: 'handshakeFailed', side: 'server', because: 'unexpected', detail: String(error), remote: socket.remoteAddress ?? '' })
    }).finally(() => {
      slot.release()
      this.#handshakes.delete(abort)
      this.#settleIfEmpty()
    })
  }

  #turnAway(socket: Socket, because: string): void {
    this.#options.events({ t: 'shed', side: 'server', because })
    // A reset costs us nothing afterwards: no TIME_WAIT, no waiting for the peer.
    socket.resetAndDestroy()
  }

  async #serve(socket: Socket, signal: AbortSignal): Promise<void> {
    const remote = socket.remoteAddress ?? ''
    const startedMs = this.#clock.monotonicMs()
    const outcome = await this.#handshake(socket, signal)
    if (outcome.t === 'refused') {
      this.#options.events({ t: 'handshakeFailed', side: 'server', because: outcome.because, detail: outcome.detail, remote })
      return
    }
    const { tls, peer, chain } = outcome
    const key = formatIdentity(peer)
    const ofPeer = this.#perPeer.get(key) ?? 0
    const isFull = this.#sessions.size >= this.#limits.maxConnections
    if (isFull || ofPeer >= this.#limits.maxConnectionsPerPeer || this.#state.t === 'closed') {
      this.#options.events({ t: 'shed', side: 'server', because: this.#state.t === 'closed' ? 'closed' : isFull ? 'connections' : 'connectionsOfPeer' })
      tls.destroy()
      return
    }
    this.#options.events({ t: 'handshake', side: 'server', peer, durationMs: this.#clock.monotonicMs() - startedMs })
    this.#perPeer.set(key, ofPeer + 1)
    const session = new ServerSession(tls, {
      peer, chain,
      maxStreams: this.#limits.maxStreams, timeouts: this.#timeouts, clock: this.#clock,
      events: this.#options.events, handler: this.#options.handler,
      onClose: () => this.#forget(session, key),
    })
    this.#sessions.add(session)
    // It began before we drained: the client has requests for it, and will learn by GOAWAY to go elsewhere afterwards.
    if (this.#state.t === 'draining') session.drain()
  }

  async #handshake(socket: Socket, signal: AbortSignal): Promise<ServerHandshake> {
    let certified: CertifiedKey
    try {
      const { certificates, identity } = this.#options
      certified = certificates.peek(identity) ?? await certificates.get(identity, this.#timeouts.certificateTimeoutMs)
    } catch (error) {
      socket.destroy()
      return { t: 'refused', because: 'certificateUnavailable', detail: String(error) }
    }
    if (socket.destroyed) return { t: 'refused', because: 'closed', detail: 'the client went away' }
    return acceptTls(socket, {
      certified, verifier: this.#options.verifier, clock: this.#clock, timeoutMs: this.#timeouts.handshakeTimeoutMs, signal,
    })
  }

  #forget(session: ServerSession, key: string): void {
    this.#sessions.delete(session)
    const left = (this.#perPeer.get(key) ?? 1) - 1
    if (left > 0) this.#perPeer.set(key, left)
    else this.#perPeer.delete(key)
    this.#settleIfEmpty()
  }

  /** Cuts every connection whose peer is revoked by now. Called at each change of certificates, too. */
  recheckPeers(): void {
    for (const session of this.#sessions) {
      if (this.#options.certificates.revocation(session.chain) !== undefined) session.destroy('revoked')
    }
  }

  /** Takes nothing new, lets all streams finish. Resolves when the last connection has gone. */
  drain(): Promise<void> {
    if (this.#state.t === 'serving') {
      this.#state = { t: 'draining' }
      for (const session of this.#sessions) session.drain()
    }
    return new Promise((resolve) => {
      this.#whenEmpty.push(resolve)
      this.#settleIfEmpty()
    })
  }

  /** Cuts everything. Resolves when nothing is left. */
  async close(): Promise<void> {
    this.#state = { t: 'closed' }
    this.#stopWatching()
    for (const abort of this.#handshakes) abort.abort('closed')
    for (const session of this.#sessions) session.destroy('closed')
    await this.drain()
  }

  #settleIfEmpty(): void {
    if (this.#sessions.size > 0 || this.#handshakes.size > 0 || this.#state.t === 'serving') return
    for (const resolve of this.#whenEmpty.splice(0)) resolve()
  }
}
