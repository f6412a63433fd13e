// Every accepted connection, from a tunnel or from an edge, on its way to who serves it: says what it speaks, hands requests to
// the HTTP front, and carries the rest as it is where rules and policies let it. What has rules for requests and is none is
// refused, never passed by them. Opens no backend itself; the forwarder does.
import type { Duplex } from 'node:stream'
import { formatAddr } from '../core/address.ts'
import type { Clock } from '../core/clock.ts'
import { describeError, MeshError } from '../core/errors.ts'
import { formatIdentity } from '../core/identity.ts'
import { serviceKey } from '../model/workload.ts'
import type { WorkloadStore } from '../model/workload-store.ts'
import type { Backend, TcpRule } from '../model/route.ts'
import { judgeConnection } from '../policy/l7/connection-policies.ts'
import { compileWeights } from '../policy/l7/weights.ts'
import type { WeightedBackends } from '../policy/l7/weights.ts'
import type { L7Verdict } from '../policy/l7/authorization.ts'
import { declaredProtocol, portKey } from './accept.ts'
import type { CompiledChain } from './chains.ts'
import type { ConnectionContext, Target } from './context.ts'
import { needsServerName } from './covered.ts'
import type { Covered } from './covered.ts'
import type { BackendTarget, Forwarder } from './forwarding.ts'
import { detect } from './http/detect.ts'
import { cut, join } from './http/pump.ts'
import type { HttpFront } from './http/serve.ts'
import type { PortMemory } from './port-memory.ts'
import type { ExchangeReason, LiveRecord, RecordFactory } from './record.ts'

export interface ConnectionParts {
  readonly chains: { chainOf(target: Target): CompiledChain }
  readonly store: WorkloadStore
  readonly front: Pick<HttpFront<ConnectionContext>, 'serve'>
  readonly forwarder: Pick<Forwarder, 'connect'>
  readonly records: Pick<RecordFactory, 'carry'>
  readonly memory: PortMemory
  readonly covered: Covered
  readonly clock: Clock
  /** 0 <= x < 1. */
  readonly random: () => number
  /** How long a port that nobody declared waits for its client's first bytes. */
  readonly detectMs: number
  /** How long a client of TLS may take for its first message. */
  readonly helloMs: number
  /** Our own address, for policies that name the destination's where it has none. */
  readonly ownIp: string
}

/** What becomes of a connection. */
type Way =
  | { readonly t: 'http'; readonly protocol: 'http1' | 'http2' }
  | { readonly t: 'carry'; readonly serverName?: string }
  | { readonly t: 'refuse'; readonly because: ExchangeReason; readonly detail: string }

/** One that is carried as it is. */
interface Carried {
  readonly context: ConnectionContext
  readonly end: (because: ExchangeReason, detail: string) => void
}

const notHttp: Way = { t: 'refuse', because: 'noRoute', detail: 'there are rules for requests, and what came is no HTTP' }

export class Connections {
  readonly #parts: ConnectionParts
  readonly #carried = new Set<Carried>()
  readonly #weights = new WeakMap<TcpRule, WeightedBackends>()
  readonly #whenIdle: (() => void)[] = []

  constructor(parts: ConnectionParts) {
    this.#parts = parts
  }

  /** Those that are carried as they are. */
  get carried(): number {
    return this.#carried.size
  }

  /** The verdict on a connection that is known to be carried as it is before a byte of it is there; undefined for all others. */
  foresee(context: ConnectionContext): L7Verdict | undefined {
    const chain = this.#parts.chains.chainOf(context.target)
    return this.#wayAtOnce(chain, context)?.t === 'carry' ? this.#judge(chain, context) : undefined
  }

  /** The stream is ours from here on. Never throws. `scheme` is that of requests. */
  async take(stream: Duplex, context: ConnectionContext, scheme: 'http' | 'https' = 'http'): Promise<void> {
    stream.on('error', () => {
      // It may break before somebody serves it; who does learns that from the stream itself.
    })
    const chain = this.#parts.chains.chainOf(context.target)
    const way = this.#wayAtOnce(chain, context) ?? await this.#look(stream, chain, context)
    if (way.t === 'http') this.#parts.front.serve(stream, { connection: context, scheme, protocol: way.protocol })
    else await this.#carry(stream, context, way)
  }

  /** One that is carried whatever it says: TLS ended here, and the server name is that of its handshake. Never throws. */
  async carry(stream: Duplex, context: ConnectionContext, serverName: string | undefined): Promise<void> {
    await this.#carry(stream, context, { t: 'carry', ...(serverName !== undefined && { serverName }) })
  }

  /** Where nothing of it need be seen. */
  #wayAtOnce({ sort, tcp, routesRequests }: CompiledChain, { target }: ConnectionContext): Way | undefined {
    const declared = declaredProtocol(this.#parts.store, target)
    if (sort === 'http' || tcp.hasServerNames || needsServerName(this.#parts, target)) return undefined
    if (sort === 'tcp' || declared === 'tcp') return { t: 'carry' }
    if (declared !== 'unknown' || routesRequests) return undefined
    return this.#parts.memory.isServerFirst(portKey(target)) ? { t: 'carry' } : undefined
  }

  async #look(stream: Duplex, chain: CompiledChain, context: ConnectionContext): Promise<Way> {
    const { clock, detectMs, helloMs, store } = this.#parts
    const declared = declaredProtocol(store, context.target)
    const isHttp = declared === 'http11' || declared === 'http2' || declared === 'grpc'
    // Without a server name nobody would take it, so it is waited for.
    const needsName = needsServerName(this.#parts, context.target)
      || (chain.sort === 'tcp' && chain.tcp.match(undefined, context.caller.identity?.namespace) === undefined)
    const isForTls = (declared === 'tls' && chain.sort !== 'http') || needsName
    // Where clients speak first, one that is slow to do so is waited for: taken for HTTP/1 it could not speak HTTP/2 any more.
    const speaksFirst = isForTls || isHttp || chain.sort === 'http'
    const detected = await detect(stream, { clock, withinMs: speaksFirst ? helloMs : detectMs })
    const { serverName } = detected.t === 'tls' ? detected : {}
    const carry: Way = { t: 'carry', ...(serverName !== undefined && { serverName }) }
    if (chain.sort === 'tcp') return carry
    if (detected.t === 'http1' || detected.t === 'http2') {
      return declared === 'tls' || declared === 'tcp' ? carry : { t: 'http', protocol: detected.t }
    }
    // What is no HTTP gets its 400 from the front, where only HTTP was declared.
    if (isHttp) return { t: 'http', protocol: declared === 'http11' ? 'http1' : 'http2' }
    const isSilent = detected.t === 'opaque' && detected.because === 'silent'
    const isForRequests = chain.sort === 'http'
      || (chain.routesRequests && chain.tcp.match(serverName, context.caller.identity?.namespace) === undefined)
    // A client that opened its connection ahead of its request must not be taken for one of another protocol.
    if (isSilent && (isForRequests || (chain.hasHttpRules && !this.#judge(chain, context).allowed))) {
      return { t: 'http', protocol: 'http1' }
    }
    return isForRequests ? notHttp : carry
  }

  async #carry(stream: Duplex, context: ConnectionContext, way: Exclude<Way, { t: 'http' }>): Promise<void> {
    const serverName = way.t === 'carry' ? way.serverName : undefined
    const isNamed = serverName !== undefined || needsServerName(this.#parts, context.target)
    const target = isNamed ? this.#parts.covered(context, serverName) : context.target
    const own: ConnectionContext = { ...context, target: target ?? context.target, ...(serverName !== undefined && { serverName }) }
    const record = this.#parts.records.carry(own)
    const sent = { fromA: 0, fromB: 0 }
    const abort = new AbortController()
    const carried: Carried = {
      context: own,
      end: (because, detail) => {
        record.because(because, detail)
        abort.abort(new MeshError('POLICY_DENIED', detail, { source: 'downstream' }))
        cut(stream)
      },
    }
    this.#carried.add(carried)
    const onGone = (): void => {
      record.because('clientGone')
      abort.abort(new MeshError('CLOSED', 'the client has gone', { source: 'downstream' }))
    }
    stream.once('close', onGone)
    let isCut = true
    try {
      if (!target) throw new Refusal('noBackend', 'the server name is not one of the service')
      const to = this.#destination(own, way, record)
      const upstream = await this.#parts.forwarder.connect(to, own, record, abort.signal)
      stream.off('close', onGone)
      if (abort.signal.aborted || stream.destroyed) {
        upstream.on('error', () => {})
        cut(upstream)
      }
      record.follow(() => [sent.fromA, sent.fromB])
      const first = this.#watchFirst(stream, upstream, own.target)
      const { error } = await join(stream, upstream, sent)
      first()
      isCut = error !== undefined
    } catch (error) {
      record.because(reasonOf(error), describeError(error))
      if (!stream.destroyed) cut(stream)
    } finally {
      stream.off('close', onGone)
      record.finish({ status: 0, requestBytes: sent.fromA, responseBytes: sent.fromB, isCut })
      this.#carried.delete(carried)
      this.#settleIfIdle()
    }
  }

  /** Throws a Refusal. */
  #destination(context: ConnectionContext, way: Exclude<Way, { t: 'http' }>, record: LiveRecord): BackendTarget {
    if (way.t === 'refuse') throw new Refusal(way.because, way.detail)
    const { chains, random } = this.#parts
    const chain = chains.chainOf(context.target)
    const verdict = this.#judge(chain, context)
    for (const hit of verdict.audit) record.policyHit({ ...hit, as: 'audit' })
    for (const { policy, rule } of verdict.dryRun) record.policyHit({ policy, rule, as: 'dryRun' })
    if (!verdict.allowed) throw new Refusal('denied', deniedText(verdict))
    const rule = chain.tcp.match(way.serverName, context.caller.identity?.namespace)
    record.routed(rule)
    if (!rule) {
      if (!chain.hasDefault || context.target.t === 'listener') throw new Refusal('noRoute', 'no rule is for this connection')
      return context.target
    }
    if (rule.backends.length === 0) throw new Refusal('noRoute', `${rule.origin}: no rule is for this connection`)
    let weights = this.#weights.get(rule)
    if (!weights) this.#weights.set(rule, (weights = compileWeights(rule.backends)))
    const chosen = weights.choose(random())
    if (chosen.t === 'error') throw new Refusal('routeBroken', `${rule.origin}: ${chosen.detail ?? chosen.because}`)
    return this.#backend(chosen.backend, rule)
  }

  #backend({ service: name, port, subset }: Backend, { origin }: TcpRule): BackendTarget {
    const service = this.#parts.store.service(serviceKey(name))
    if (!service) throw new Refusal('routeBroken', `${origin}: there is no service ${serviceKey(name)}`)
    return { t: 'service', service, port, ...(subset !== undefined && { subset }) }
  }

  #judge(chain: CompiledChain, { caller, target, serverName }: ConnectionContext): L7Verdict {
    const { identity, address } = caller
    return judgeConnection(chain.authorizer, {
      connection: {
        identity, sourceIp: address.ip,
        destination: { ip: this.#ipOf(target), port: target.t === 'listener' ? target.listener.port : target.port },
      },
      remoteIp: address.ip, ...(serverName !== undefined && { serverName }),
    })
  }

  #ipOf(target: Target): string {
    const { ownIp } = this.#parts
    if (target.t === 'service') {
      return target.service.addresses.find(({ prefixLength }) => prefixLength === undefined)?.ip ?? ownIp
    }
    return target.t === 'workload' ? target.workload.ips[0] ?? ownIp : ownIp
  }

  /** Learns who speaks first. Returns how to end, where nobody did. */
  #watchFirst(client: Duplex, server: Duplex, target: Target): () => void {
    if (declaredProtocol(this.#parts.store, target) !== 'unknown') return () => {}
    const stop = (): void => {
      client.off('data', byClient)
      server.off('data', byServer)
    }
    const saw = (first: 'server' | 'client') => (): void => {
      stop()
      this.#parts.memory.saw(portKey(target), first)
    }
    const byClient = saw('client')
    const byServer = saw('server')
    client.on('data', byClient)
    server.on('data', byServer)
    // A listener for data makes a stream flow; join() that comes in this same tick takes what flows.
    return stop
  }

  /** Policies have changed: connections that may not be any more end. */
  recheck(): void {
    for (const { context, end } of this.#carried) {
      const verdict = this.#judge(this.#parts.chains.chainOf(context.target), context)
      if (!verdict.allowed) end('denied', deniedText(verdict))
    }
  }

  views(): { readonly caller: string; readonly client: string; readonly target: string }[] {
    return [...this.#carried].map(({ context: { caller, target } }) => ({
      caller: caller.identity ? formatIdentity(caller.identity) : '', client: formatAddr(caller.address), target: portKey(target),
    }))
  }

  /** When nothing is carried any more; requests are the front's. */
  idle(): Promise<void> {
    return new Promise((resolve) => {
      this.#whenIdle.push(resolve)
      this.#settleIfIdle()
    })
  }

  /** Cuts what is carried. */
  close(): void {
    for (const { end } of this.#carried) end('drained', 'the time for finishing is over')
  }

  #settleIfIdle(): void {
    if (this.#carried.size === 0) for (const resolve of this.#whenIdle.splice(0)) resolve()
  }
}

/** A refusal that is no failure of anybody. */
class Refusal extends MeshError {
  readonly reason: ExchangeReason

  constructor(reason: ExchangeReason, message: string) {
    super('POLICY_DENIED', message, { source: 'downstream' })
    this.reason = reason
  }
}

function reasonOf(error: unknown): ExchangeReason {
  if (error instanceof Refusal) return error.reason
  if (!(error instanceof MeshError)) return 'internal'
  switch (error.code) {
    case 'NO_HEALTHY_UPSTREAM': return 'noHealthyBackend'
    case 'OVERLOADED':
    case 'TOO_MANY_CONNECTIONS': return 'overloaded'
    case 'POLICY_DENIED': return 'denied'
    default: return 'connectFailure'
  }
}

export function deniedText({ because, policy }: L7Verdict): string {
  return policy === undefined ? because : `${because} (${policy})`
}
