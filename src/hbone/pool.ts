// The client's pool of HBONE connections. A tunnel costs one stream, and a handshake only where no connection can take it.
// Dials through a function it is given, because only others know in which network namespace. Never retries what a peer may
// have acted upon.
import type { IncomingHttpHeaders } from 'node:http2'
import type { Socket } from 'node:net'
import { formatAddr } from '../core/address.ts'
import type { SocketAddr } from '../core/address.ts'
import type { CertificateSource, PeerVerifier } from '../core/certificates.ts'
import { systemClock } from '../core/clock.ts'
import type { Clock } from '../core/clock.ts'
import { MeshError } from '../core/errors.ts'
import { formatIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import type { Authority } from './authority.ts'
import type { ConnectHeaders } from './connect-headers.ts'
import { dialTarget, isOutOfDescriptors } from './dial.ts'
import type { HboneEvents } from './events.ts'
import { FairGate } from './fair-gate.ts'
import { openSession } from './handshake.ts'
import { InnerTunnels } from './inner-tunnels.ts'
import type { InnerRequest } from './inner-tunnels.ts'
import { PoolEntry } from './pool-entry.ts'
import type { EntryLimits } from './pool-entry.ts'
import type { ClientSession } from './session.ts'
import { defaultTimeouts } from './settings.ts'
import type { SessionTimeouts } from './settings.ts'
import type { TunnelStream } from './tunnel-stream.ts'

/** What connections are kept apart by. */
export interface PoolTarget {
  readonly source: Identity
  /** Whom we may meet there. */
  readonly identities: readonly Identity[]
  readonly address: SocketAddr
  /** The address (or pod) that the connection is made from: tunnels of two pods never share one. */
  readonly sourceKey: string
}

export interface TunnelRequest {
  readonly target: PoolTarget
  readonly authority: Authority
  readonly headers: ConnectHeaders
  /** Gives the request up. */
  readonly signal?: AbortSignal
}

export interface OpenTunnel {
  readonly stream: TunnelStream
  readonly peerIdentity: Identity
  readonly responseHeaders: IncomingHttpHeaders
  /** No handshake was needed. */
  readonly isReused: boolean
  /** The connection below, for its addresses and TCP statistics; not to be read or written. */
  readonly socket: Socket
}

export interface PoolLimits extends EntryLimits {
  readonly maxStreams: number
  readonly maxHandshakes: number
  /** Over all keys. */
  readonly maxWaiting: number
}

export const defaultPoolLimits: PoolLimits = {
  maxStreams: 100, maxConnectionsPerKey: 256, maxWaitingPerKey: 10_000, spreadAtStreams: 50, maxHandshakes: 64, maxWaiting: 20_000,
}

export interface PoolTimeouts extends SessionTimeouts {
  readonly dialTimeoutMs: number
  /** For the answer to a CONNECT, and for a place on a connection. The server dials the application meanwhile. */
  readonly connectTimeoutMs: number
  readonly idleTimeoutMs: number
}

export const defaultPoolTimeouts: PoolTimeouts = { ...defaultTimeouts, dialTimeoutMs: 10_000, connectTimeoutMs: 15_000, idleTimeoutMs: 300_000 }

export interface PoolOptions {
  readonly certificates: CertificateSource
  readonly verifier: PeerVerifier
  /** Connects TCP to `target.address`; must give up when `signal` aborts. */
  readonly dial: (target: PoolTarget, signal: AbortSignal) => Promise<Socket>
  readonly events: HboneEvents
  readonly limits?: Partial<PoolLimits>
  readonly timeouts?: Partial<PoolTimeouts>
  readonly clock?: Clock
}

export interface PoolConnection {
  readonly target: PoolTarget
  readonly peerIdentity: Identity
  readonly streams: number
  readonly state: ClientSession['state']['t']
}

type PoolState = { readonly t: 'open' } | { readonly t: 'draining' } | { readonly t: 'closed' }

/**
 * A request that a connection's end overtook is tried this often; one that the peer looked at and sent back, once more. A peer that
 * is being replaced ends all its connections, one after the other: some patience between the later attempts lets it get there.
 */
const maxAttempts = { closedBefore: 16, goaway: 16, refusedStream: 2 }
const attemptsAtOnce = 4
const pauseMs = (attempt: number): number => (attempt < attemptsAtOnce ? 0 : Math.min(250, 5 * 2 ** (attempt - attemptsAtOnce)))

export class HbonePool {
  readonly #options: PoolOptions
  readonly #limits: PoolLimits
  readonly #timeouts: PoolTimeouts
  readonly #clock: Clock
  readonly #entries = new Map<string, { readonly target: PoolTarget; readonly entry: PoolEntry }>()
  readonly #gate: FairGate
  readonly #abort = new AbortController()
  readonly #inner: InnerTunnels
  readonly #whenEmpty: (() => void)[] = []
  readonly #stopWatching: () => void
  #cancelSweep: (() => void) | undefined
  #waiting = 0
  #state: PoolState = { t: 'open' }

  constructor(options: PoolOptions) {
    this.#options = options
    this.#limits = { ...defaultPoolLimits, ...options.limits }
    this.#timeouts = { ...defaultPoolTimeouts, ...options.timeouts }
    this.#clock = options.clock ?? systemClock
    this.#gate = new FairGate(this.#limits.maxHandshakes, this.#limits.maxWaiting)
    this.#inner = new InnerTunnels({ ...options, clock: this.#clock, gate: this.#gate, timeouts: this.#timeouts, signal: this.#abort.signal })
    this.#stopWatching = options.certificates.onChange(() => this.recheckPeers())
  }

  get waiting(): number {
    return this.#waiting
  }

  get handshakesInFlight(): number {
    return this.#gate.running
  }

  connections(): PoolConnection[] {
    return [...this.#entries.values()].flatMap(({ target, entry }) => entry.sessions.map((session) => ({
      target, peerIdentity: session.facts.peerIdentity, streams: session.streams, state: session.state.t,
    })))
  }

  /**
   * Rejects with a MeshError: CERTIFICATE_UNAVAILABLE, CONNECT_*, TLS_FAILED, PEER_IDENTITY_MISMATCH, PEER_REVOKED, POLICY_DENIED,
   * TUNNEL_REFUSED, TUNNEL_CLOSED, OVERLOADED, CLOSED. Its `retry` says whether another endpoint may do better.
   */
  async openTunnel({ target, authority, headers, signal }: TunnelRequest): Promise<OpenTunnel> {
    const startedMs = this.#clock.monotonicMs()
    const request = { authority, headers, timeoutMs: this.#timeouts.connectTimeoutMs, ...(signal && { signal }) }
    for (let attempt = 1; ; attempt++) {
      if (this.#state.t !== 'open') throw this.#count(new MeshError('CLOSED', 'the tunnel pool takes nothing new'))
      const { outcome, session, isReused } = await this.#entryOf(target).open(request).catch((error: unknown) => {
        throw this.#count(error)
      })
      if (outcome.t === 'opened') {
        this.#options.events({ t: 'streamOpened', side: 'client', isReused, durationMs: this.#clock.monotonicMs() - startedMs })
        return {
          stream: outcome.stream, peerIdentity: session.facts.peerIdentity, responseHeaders: outcome.responseHeaders, isReused, socket: session.facts.socket,
        }
      }
      if (attempt >= maxAttempts[outcome.because]) {
        throw this.#count(new MeshError('TUNNEL_CLOSED', 'the peer does not take new streams', {
          source: 'upstream', retry: 'always', detail: { because: outcome.because },
        }))
      }
      this.#options.events({ t: 'streamRetried', because: outcome.because })
      const ms = pauseMs(attempt)
      if (ms > 0) await new Promise<void>((resolve) => void this.#clock.after(ms, resolve))
    }
  }

  /**
   * A tunnel inside a tunnel: `outer` to a gateway, from the pool as any other, and in it one of its own to who is behind. Rejects
   * as openTunnel() does; `detail.hop` is 'inner' where the way to the gateway was good.
   */
  async openTunnelThrough(outer: TunnelRequest, inner: Omit<InnerRequest, 'source' | 'sourceKey'>): Promise<OpenTunnel> {
    const { source, sourceKey } = outer.target
    return await this.#inner.open(await this.openTunnel(outer), { ...inner, source, sourceKey })
  }

  #count(error: unknown): unknown {
    const because = error instanceof MeshError ? error.code : 'unexpected'
    this.#options.events(because === 'OVERLOADED' ? { t: 'shed', side: 'client', because: 'tunnels' } : { t: 'streamRefused', side: 'client', because })
    return error
  }

  #entryOf(target: PoolTarget): PoolEntry {
    const key = keyOf(target)
    const known = this.#entries.get(key)
    if (known) return known.entry
    const entry: PoolEntry = new PoolEntry({
      limits: this.#limits,
      clock: this.#clock,
      connect: () => this.#connect(target),
      mayWait: () => {
        if (this.#waiting >= this.#limits.maxWaiting) return false
        this.#waiting++
        return true
      },
      onWaitingEnds: () => this.#waiting--,
      onConnected: () => this.#settleIfEmpty(),
      onSessionClosed: (session, because) => {
        this.#options.events({ t: 'sessionClosed', side: 'client', peer: session.facts.peerIdentity, because })
        this.#settleIfEmpty()
      },
    })
    this.#entries.set(key, { target, entry })
    this.#scheduleSweep()
    return entry
  }

  async #connect(target: PoolTarget): Promise<ClientSession> {
    const startedMs = this.#clock.monotonicMs()
    if (!await this.#gate.enter(target.sourceKey)) {
      throw new MeshError('OVERLOADED', 'too many handshakes wait', { detail: { because: 'handshakes' } })
    }
    try {
      const { certificates } = this.#options
      const certified = certificates.peek(target.source) ?? await certificates.get(target.source, this.#timeouts.certificateTimeoutMs)
      const socket = await this.#dial(target)
      const session = await openSession(socket, {
        socket, certified, verifier: this.#options.verifier, identities: target.identities, maxStreams: this.#limits.maxStreams,
        timeouts: this.#timeouts, clock: this.#clock, signal: this.#abort.signal,
      })
      // Revoked between the server's certificate and its SETTINGS: recheckPeers() did not know this session yet.
      const revoked = certificates.revocation(session.facts.peerChain)
      if (revoked !== undefined) {
        session.destroy('revoked')
        throw new MeshError('PEER_REVOKED', `the peer's certificate is revoked: ${revoked}`, { source: 'upstream', detail: { because: 'revoked' } })
      }
      this.#options.events({ t: 'handshake', side: 'client', peer: session.facts.peerIdentity, durationMs: this.#clock.monotonicMs() - startedMs })
      return session
    } catch (error) {
      const because = error instanceof MeshError ? String(error.detail['because'] ?? error.code) : 'unexpected'
      this.#options.events({ t: 'handshakeFailed', side: 'client', because, detail: String(error), remote: formatAddr(target.address) })
      throw error
    } finally {
      this.#gate.leave()
    }
  }

  async #dial(target: PoolTarget): Promise<Socket> {
    const plan = { dial: this.#options.dial, clock: this.#clock, timeoutMs: this.#timeouts.dialTimeoutMs, signal: this.#abort.signal }
    try {
      return await dialTarget(target, plan)
    } catch (error) {
      if (!isOutOfDescriptors(error) || this.#closeIdle(0) === 0) throw error
      // Descriptors come back when the sockets have closed, which is on a later turn.
      await new Promise<void>((resolve) => this.#clock.after(50, resolve))
      return dialTarget(target, plan)
    }
  }

  /** How many were idle for at least that long and are closing now. */
  #closeIdle(idleMs: number): number {
    const nowMs = this.#clock.monotonicMs()
    let closed = 0
    for (const [key, { entry }] of this.#entries) {
      for (const session of entry.sessions) {
        if (session.streams > 0 || session.state.t !== 'ready' || nowMs - session.idleSinceMs < idleMs) continue
        session.drain('idle')
        closed++
      }
      if (entry.isEmpty) this.#entries.delete(key)
    }
    return closed
  }

  #scheduleSweep(): void {
    if (this.#cancelSweep || this.#state.t === 'closed') return
    this.#cancelSweep = this.#clock.after(Math.max(10, this.#timeouts.idleTimeoutMs / 4), () => {
      this.#cancelSweep = undefined
      this.#closeIdle(this.#timeouts.idleTimeoutMs)
      if (this.#entries.size > 0) this.#scheduleSweep()
    })
  }

  /** The workload behind it has gone: connections of these targets take nothing new. `cut`: what runs on them ends, too. */
  evict(isMeant: (target: PoolTarget) => boolean, cut = false): void {
    for (const { target, entry } of this.#entries.values()) {
      if (isMeant(target)) entry.retire('evicted', cut)
    }
  }

  /** Cuts every connection whose peer is revoked by now. Called at each change of certificates, too. */
  recheckPeers(): void {
    this.#inner.recheckPeers()
    for (const { entry } of this.#entries.values()) {
      for (const session of entry.sessions) {
        if (this.#options.certificates.revocation(session.facts.peerChain) !== undefined) session.destroy('revoked')
      }
    }
  }

  /** Takes nothing new; resolves when all streams have ended and all connections closed. */
  drain(): Promise<void> {
    if (this.#state.t === 'open') this.#state = { t: 'draining' }
    for (const { entry } of this.#entries.values()) entry.retire('drained', false)
    return new Promise((resolve) => {
      this.#whenEmpty.push(resolve)
      this.#settleIfEmpty()
    })
  }

  /** Cuts everything; resolves when nothing is left. */
  async close(): Promise<void> {
    this.#state = { t: 'closed' }
    this.#stopWatching()
    this.#cancelSweep?.()
    this.#abort.abort()
    for (const { entry } of this.#entries.values()) entry.retire('closed', true)
    await this.drain()
  }

  #settleIfEmpty(): void {
    if (this.#state.t === 'open') return
    if ([...this.#entries.values()].some(({ entry }) => !entry.isEmpty)) return
    for (const resolve of this.#whenEmpty.splice(0)) resolve()
  }
}

function keyOf({ source, identities, address, sourceKey }: PoolTarget): string {
  // No part contains a space; an order of identities must not make two keys of one.
  return [formatIdentity(source), formatAddr(address), sourceKey, ...identities.map(formatIdentity).sort()].join(' ')
}
