// Tunnels inside a tunnel: a TLS and HTTP/2 session of its own through another tunnel's stream, for one CONNECT, to whoever is
// behind the gateway at which the outer tunnel ends. Never shared and never kept: the gateway chooses a destination for each
// outer stream, and a session that is used again would stay with the first.
import type { IncomingHttpHeaders } from 'node:http2'
import type { CertificateSource, PeerVerifier } from '../core/certificates.ts'
import type { Clock } from '../core/clock.ts'
import { MeshError } from '../core/errors.ts'
import type { Identity } from '../core/identity.ts'
import type { Authority } from './authority.ts'
import type { ConnectHeaders } from './connect-headers.ts'
import type { HboneEvents } from './events.ts'
import type { FairGate } from './fair-gate.ts'
import { openSession } from './handshake.ts'
import type { OpenTunnel } from './pool.ts'
import type { ClientSession } from './session.ts'
import type { SessionTimeouts } from './settings.ts'

export interface InnerRequest {
  readonly source: Identity
  /** The pod, for taking turns. */
  readonly sourceKey: string
  /** Whom we may meet at the far end. */
  readonly identities: readonly Identity[]
  readonly authority: Authority
  readonly headers: ConnectHeaders
  readonly signal?: AbortSignal
}

export interface InnerTunnelsOptions {
  readonly certificates: CertificateSource
  readonly verifier: PeerVerifier
  readonly events: HboneEvents
  readonly clock: Clock
  /** Handshakes take their turn with those of the pool. */
  readonly gate: FairGate
  readonly timeouts: SessionTimeouts & { readonly connectTimeoutMs: number }
  /** Ends every handshake under way. */
  readonly signal: AbortSignal
}

export class InnerTunnels {
  readonly #options: InnerTunnelsOptions
  readonly #sessions = new Set<ClientSession>()

  constructor(options: InnerTunnelsOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#sessions.size
  }

  /**
   * Owns the outer tunnel from the call on: it ends with the inner one. Rejects as HbonePool.openTunnel() does, with
   * `detail.hop` 'inner', since the way to the gateway was good.
   */
  async open(outer: OpenTunnel, request: InnerRequest): Promise<OpenTunnel> {
    const { events, clock } = this.#options
    const startedMs = clock.monotonicMs()
    try {
      const session = await this.#handshake(outer, request)
      const { stream, responseHeaders } = await this.#connect(session, request)
      events({ t: 'streamOpened', side: 'client', isReused: false, durationMs: clock.monotonicMs() - startedMs })
      return { stream, responseHeaders, peerIdentity: session.facts.peerIdentity, isReused: false, socket: outer.socket }
    } catch (error) {
      outer.stream.resetAndDestroy()
      const failure = ofInnerHop(error)
      events({ t: 'streamRefused', side: 'client', because: failure.code })
      throw failure
    }
  }

  async #handshake({ stream, socket }: OpenTunnel, { source, sourceKey, identities }: InnerRequest): Promise<ClientSession> {
    const { certificates, verifier, events, clock, gate, timeouts, signal } = this.#options
    const startedMs = clock.monotonicMs()
    if (!await gate.enter(sourceKey)) throw new MeshError('OVERLOADED', 'too many handshakes wait', { detail: { because: 'handshakes' } })
    try {
      const certified = certificates.peek(source) ?? await certificates.get(source, timeouts.certificateTimeoutMs)
      const session = await openSession(stream, { certified, verifier, identities, maxStreams: 1, timeouts, clock, signal, socket })
      this.#keep(session, stream)
      if (this.#isRevoked(session)) {
        session.destroy('revoked')
        throw new MeshError('PEER_REVOKED', 'the certificate of the peer behind the gateway is revoked', { source: 'upstream', detail: { because: 'revoked' } })
      }
      events({ t: 'handshake', side: 'client', peer: session.facts.peerIdentity, durationMs: clock.monotonicMs() - startedMs })
      return session
    } catch (error) {
      const because = error instanceof MeshError ? String(error.detail['because'] ?? error.code) : 'unexpected'
      events({ t: 'handshakeFailed', side: 'client', because, detail: String(error), remote: 'behind the gateway' })
      throw error
    } finally {
      gate.leave()
    }
  }

  #keep(session: ClientSession, outer: OpenTunnel['stream']): void {
    this.#sessions.add(session)
    session.onChange = ({ state, streams }) => {
      if (state.t === 'closed') {
        if (this.#sessions.delete(session)) this.#options.events({ t: 'sessionClosed', side: 'client', peer: session.facts.peerIdentity, because: state.because })
      } else if (state.t === 'ready' && streams === 0) {
        // Its one stream has ended; in good order, so that the gateway sees the outer one end so, too.
        session.drain('finished')
      }
    }
    // A stream below that was cut does not say so to TLS above it.
    outer.once('close', () => session.destroy('outerClosed'))
    if (outer.destroyed) session.destroy('outerClosed')
  }

  async #connect(session: ClientSession, { authority, headers, signal }: InnerRequest): Promise<{ readonly stream: OpenTunnel['stream']; readonly responseHeaders: IncomingHttpHeaders }> {
    const outcome = await session.openStream({ authority, headers, timeoutMs: this.#options.timeouts.connectTimeoutMs, ...(signal && { signal }) })
    if (outcome.t === 'opened') return outcome
    throw new MeshError('TUNNEL_CLOSED', 'the peer behind the gateway takes no stream', { source: 'upstream', retry: 'always', detail: { because: outcome.because } })
  }

  #isRevoked({ facts }: ClientSession): boolean {
    return this.#options.certificates.revocation(facts.peerChain) !== undefined
  }

  /** Cuts every tunnel whose peer is revoked by now. */
  recheckPeers(): void {
    for (const session of this.#sessions) if (this.#isRevoked(session)) session.destroy('revoked')
  }
}

function ofInnerHop(error: unknown): MeshError {
  if (!(error instanceof MeshError)) return new MeshError('CONNECT_FAILED', String(error), { source: 'internal', detail: { hop: 'inner' }, cause: error })
  const { code, message, source, retry, detail } = error
  return new MeshError(code, `behind the gateway: ${message}`, { source, retry, detail: { ...detail, hop: 'inner' }, cause: error })
}
