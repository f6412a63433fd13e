// Where the mesh's tunnels come in: mutual TLS under the waypoint's own identity, one decision per CONNECT, and a share of the
// limit for each identity, so that one caller cannot take what all need. What it lets in is connections.ts's.
import type { CertificateSource, PeerVerifier } from '../core/certificates.ts'
import { formatIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import type { Logger } from '../core/log.ts'
import { formatAuthority } from '../hbone/authority.ts'
import type { HboneEvents } from '../hbone/events.ts'
import { HboneServer } from '../hbone/server.ts'
import type { ConnectDecision, ConnectRequest } from '../hbone/server-session.ts'
import { baggageOf } from '../member/baggage.ts'
import { handshakeLimit } from '../member/connection-limit.ts'
import type { ConnectionLimit } from '../member/connection-limit.ts'
import { peerOf } from '../member/socket-address.ts'
import type { WorkloadStore } from '../model/workload-store.ts'
import type { Workload } from '../model/workload.ts'
import { callerOf, statusOfRefusal, targetOf } from './accept.ts'
import { CallerShares } from './caller-shares.ts'
import { deniedText } from './connections.ts'
import type { Connections } from './connections.ts'
import type { ConnectionContext } from './context.ts'
import { listenTcp } from './listening.ts'
import type { Listening } from './listening.ts'
import type { RecordFactory } from './record.ts'

export interface TunnelParts {
  readonly identity: Identity
  readonly certificates: CertificateSource
  readonly verifier: PeerVerifier
  readonly store: WorkloadStore
  readonly network: string
  readonly self: () => Workload | undefined
  /** Whether we were told what holds for whom: nobody is let in before that. */
  readonly isKnown: () => boolean
  readonly connections: Pick<Connections, 'take' | 'foresee'>
  readonly records: Pick<RecordFactory, 'carry'>
  /** Of streams. */
  readonly limit: ConnectionLimit
  /** Of connections that bring them. */
  readonly doors: ConnectionLimit
  readonly keepAliveSeconds: number
  readonly events: HboneEvents
  /** Of what was not let in, a word of a closed set. */
  readonly onRefused: (because: string) => void
  readonly logger: Logger
}

export class Tunnels {
  readonly #parts: TunnelParts
  readonly #server: HboneServer
  readonly #shares: CallerShares
  #listening: Listening | undefined

  constructor(parts: TunnelParts) {
    this.#parts = parts
    this.#shares = new CallerShares(parts.limit)
    this.#server = new HboneServer({
      identity: parts.identity, certificates: parts.certificates, verifier: parts.verifier, events: parts.events,
      limits: { maxHandshakes: handshakeLimit(parts.doors.limit), maxConnections: parts.doors.limit },
      handler: (request) => Promise.resolve(this.#decide(request)),
    })
  }

  /** Rejects with BAD_CONFIG. */
  async listen(host: string, port: number): Promise<void> {
    const { doors, keepAliveSeconds, events } = this.#parts
    this.#listening = await listenTcp({
      host, port, share: doors.share(), keepAliveSeconds, pauseOnConnect: false,
      onConnection: (socket) => this.#server.accept(socket),
      onShed: () => events({ t: 'shed', side: 'server', because: 'doors' }),
    })
  }

  get port(): number | undefined {
    return this.#listening?.port
  }

  get connections(): number {
    return this.#server.connections
  }

  get streams(): number {
    return this.#server.streams
  }

  #decide(request: ConnectRequest): ConnectDecision {
    const { store, network, connections, records, logger } = this.#parts
    const { peerIdentity, authority } = request
    const peer = peerOf(request.socket)
    if (!peer) return { t: 'refuse', status: 503, because: 'closed' }
    if (!this.#parts.isKnown()) return { t: 'refuse', status: 503, because: 'notSynced' }
    const self = this.#parts.self()
    const acceptance = targetOf({ store, self, network }, authority, peerIdentity)
    if (acceptance.t === 'refused') {
      const { because } = acceptance
      this.#parts.onRefused(because)
      const facts = { 'dst.authority': formatAuthority(authority), 'src.identity': formatIdentity(peerIdentity), 'src.addr': peer.ip }
      logger.info({ because, ...facts }, 'tunnel refused')
      return { t: 'refuse', status: statusOfRefusal[because], because }
    }
    const { traceParent } = request
    const context: ConnectionContext = {
      caller: callerOf({ store, network }, peerIdentity, peer, request.forwarded?.client), target: acceptance.target,
      ...(traceParent && {
        traceParent: { traceId: traceParent.traceId, parentId: traceParent.spanId, flags: traceParent.isSampled ? 1 : 0 },
      }),
    }
    const verdict = connections.foresee(context)
    if (verdict && !verdict.allowed) {
      const record = records.carry(context)
      record.because('denied', deniedText(verdict))
      record.finish({ status: 0, requestBytes: 0, responseBytes: 0, isCut: true })
      return { t: 'refuse', status: 401, because: 'POLICY_DENIED' }
    }
    const key = formatIdentity(peerIdentity)
    if (!this.#shares.acquire(key)) {
      this.#parts.onRefused('connectionsOfCaller')
      return { t: 'refuse', status: 429, because: 'connectionsOfCaller' }
    }
    return {
      t: 'accept', ...(self && { baggage: baggageOf(self) }),
      carry: (stream) => {
        if (stream.closed) this.#shares.release(key)
        else stream.once('close', () => this.#shares.release(key))
        void connections.take(stream, context)
      },
    }
  }

  /** No new connections come in; those that are there go on. */
  stopListening(): void {
    this.#listening?.close()
  }

  /** Tells peers to go elsewhere; resolves when all streams have ended. */
  async drain(): Promise<void> {
    this.stopListening()
    await this.#server.drain()
  }

  async close(): Promise<void> {
    this.stopListening()
    await this.#server.close()
  }
}
