// Keeps this node's knowledge of the mesh equal to the control plane's: one delta stream, first addresses, then the rest. It
// lives through anything the network does: what is known stays in force, and a reconnect asks only for what differs. A
// resource that does not parse is refused by name while its neighbours are taken. It must never decide what is ready to serve.
import { create, toBinary } from '@bufbuild/protobuf'
import type { MessageInitShape } from '@bufbuild/protobuf'
import type { ClientDuplexStream, StatusObject } from '@grpc/grpc-js'
import { Client, Metadata, credentials, status as grpcStatus } from '@grpc/grpc-js'
import { MeshError, describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { DeltaDiscoveryRequestSchema } from '../proto/discovery_pb.ts'
import { Backoff } from '../core/backoff.ts'
import { clientDefaults } from './client-options.ts'
import type { XdsClientOptions, XdsState } from './client-options.ts'
import { Demand } from './demand.ts'
import type { Answer } from './demand.ts'
import { parseResponse } from './frames.ts'
import type { RawResource } from './frames.ts'
import { refusalStatus } from './refusal.ts'
import { ResourceCache } from './resource-cache.ts'
import type { ReadResponse, Rejection } from './resource-cache.ts'
import { resourceTypes, typeOfUrl, typeUrls } from './resource-types.ts'
import type { ResourceType } from './resource-types.ts'

export const deltaMethod = '/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources'

type Request = MessageInitShape<typeof DeltaDiscoveryRequestSchema>
type Call = ClientDuplexStream<Request, Buffer>

/** All resources a client holds, undecoded, to be given to `restore` of a later one. */
export type XdsSnapshot = Readonly<Record<ResourceType, readonly RawResource[]>>

// These end streams every day: a control plane that restarts, a load balancer that rebalances.
const everyday: ReadonlySet<number> = new Set([
  grpcStatus.OK, grpcStatus.CANCELLED, grpcStatus.UNKNOWN, grpcStatus.DEADLINE_EXCEEDED, grpcStatus.UNAVAILABLE,
])

// A stream that lasted so long and was of use is followed by the next without much waiting.
const healthyMs = 5_000

function serialize(request: Request): Buffer {
  return Buffer.from(toBinary(DeltaDiscoveryRequestSchema, create(DeltaDiscoveryRequestSchema, request)))
}

export class XdsClient {
  readonly #options: XdsClientOptions
  readonly #log: Logger
  readonly #backoff: Backoff
  readonly #demand: Demand
  readonly #types: readonly ResourceType[]
  readonly #caches: Readonly<Record<ResourceType, ResourceCache>>
  readonly #stop = new AbortController()
  /** Types that have been acknowledged at least once since this client was made. */
  readonly #synced = new Set<ResourceType>()
  readonly #ready = Promise.withResolvers<void>()
  #state: XdsState = { t: 'idle' }
  #call: Call | undefined
  #running: Promise<void> | undefined
  #unsent: string[] = []
  #hasAccepted = false

  constructor(options: XdsClientOptions) {
    this.#options = options
    this.#log = options.logger
    const types: readonly ResourceType[] = options.types ?? clientDefaults.types
    // Always in the same order, addresses first.
    this.#types = resourceTypes.filter((type) => types.includes(type))
    this.#caches = {
      address: new ResourceCache('address'), authorization: new ResourceCache('authorization'), waypoint: new ResourceCache('waypoint', options.gateway),
    }
    this.#backoff = new Backoff(options.backoff ?? clientDefaults.backoff)
    this.#demand = new Demand(options.maxNames ?? clientDefaults.maxNames)
    // Who never waits for readiness must not die of a rejection at close.
    this.#ready.promise.catch(() => {})
    options.signal?.addEventListener('abort', () => this.#stop.abort(), { once: true, signal: this.#stop.signal })
    if (options.signal?.aborted) this.#stop.abort()
  }

  get state(): XdsState {
    return this.#state
  }

  /** All types have been acknowledged once; stays true when the control plane goes away. */
  get isSynced(): boolean {
    return this.#synced.size === this.#types.length
  }

  /** When all types have been acknowledged once. Rejects with CLOSED if the client is closed before. */
  ready(): Promise<void> {
    return this.#ready.promise
  }

  /** Everything that is held; cheap, and safe to keep. */
  snapshot(): XdsSnapshot {
    const { address, authorization, waypoint } = this.#caches
    return { address: address.resources(), authorization: authorization.resources(), waypoint: waypoint.resources() }
  }

  /**
   * Takes the state of an earlier client in force, before `start`. What does not decode any more is left out, returned, and
   * asked for again.
   */
  async restore(snapshot: XdsSnapshot): Promise<readonly Rejection[]> {
    const rejections: Rejection[] = []
    for (const type of this.#types) {
      const read = await this.#caches[type].readRaw(snapshot[type])
      await this.#options.onDelta(read.delta)
      this.#caches[type].commit(read)
      rejections.push(...read.rejections)
    }
    return rejections
  }

  start(): void {
    this.#running ??= this.#run()
  }

  /** Ends the stream; nothing is called back after the promise. */
  async close(): Promise<void> {
    this.#stop.abort()
    await this.#running
    if (this.#state.t !== 'closed') this.#finish()
  }

  /**
   * On demand: asks for `network/ip`, a workload's uid or `namespace/hostname` and waits for the answer; the resource itself
   * comes through onDelta before the promise resolves, and so does every later change. Rejects with
   * CONTROL_PLANE_UNAVAILABLE after `timeoutMs`, and with OVERLOADED when too many names were asked for.
   */
  async request(name: string, timeoutMs: number): Promise<Answer> {
    if (!this.#options.isOnDemand || this.#caches.address.has(name)) return this.#caches.address.has(name) ? 'present' : 'absent'
    if (this.#demand.ask(name)) {
      this.#unsent.push(name)
      if (this.#unsent.length === 1) queueMicrotask(() => this.#sendUnsent())
    }
    return await this.#demand.answerTo(name, timeoutMs)
  }

  #sendUnsent(): void {
    const names = this.#unsent
    this.#unsent = []
    // Without a stream there is nothing to do: the next one begins with all names.
    if (names.length > 0) this.#call?.write({ typeUrl: typeUrls.address, resourceNamesSubscribe: names })
  }

  #setState(state: XdsState): void {
    this.#state = state
    this.#options.onState?.(state)
  }

  #finish(): void {
    this.#setState({ t: 'closed' })
    this.#ready.reject(new MeshError('CLOSED', 'the xDS client was closed'))
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop
    while (!signal.aborted) {
      const fromMs = performance.now()
      this.#hasAccepted = false
      const { because, isEveryday } = await this.#session()
      if (signal.aborted) break
      // A server that answers and hangs up at once must not be called again at once for ever.
      if (this.#hasAccepted && performance.now() - fromMs >= healthyMs) this.#backoff.succeeded()
      const delayMs = this.#backoff.next()
      const { attempts: attempt } = this.#backoff
      const level = isEveryday && attempt < 5 ? 'info' : 'warn'
      this.#log[level]({ because, attempt, delayMs, 'xds.address': this.#options.address }, 'xds stream ended')
      this.#setState({ t: 'waiting', attempt, delayMs, because })
      await new Promise<void>((resolve) => {
        const done = (): void => {
          clearTimeout(timer)
          signal.removeEventListener('abort', done)
          resolve()
        }
        const timer = setTimeout(done, delayMs)
        signal.addEventListener('abort', done)
      })
    }
    this.#finish()
  }

  /** One connection with one stream, from dialling to its end; never throws. */
  async #session(): Promise<{ because: string; isEveryday: boolean }> {
    this.#setState({ t: 'connecting', attempt: this.#backoff.attempts + 1 })
    let client: Client | undefined
    try {
      const { token, roots } = this.#options
      // Read now, not at start: both are rotated under our feet.
      const rootsPem = await roots()
      const bearer = (await token?.())?.trim()
      if (this.#stop.signal.aborted) return { because: 'closed', isEveryday: true }
      client = this.#dial(rootsPem)
      await this.#connected(client)
      if (this.#stop.signal.aborted) return { because: 'closed', isEveryday: true }
      return await this.#stream(client, bearer)
    } catch (error) {
      return { because: describeError(error), isEveryday: false }
    } finally {
      client?.close()
    }
  }

  #dial(rootsPem: string | undefined): Client {
    const { address, serverName, keepalive = clientDefaults.keepalive, maxMessageBytes = clientDefaults.maxMessageBytes } = this.#options
    return new Client(address, credentials.createSsl(rootsPem === undefined ? null : Buffer.from(rootsPem)), {
      'grpc.keepalive_time_ms': keepalive.timeMs,
      'grpc.keepalive_timeout_ms': keepalive.timeoutMs,
      'grpc.max_receive_message_length': maxMessageBytes,
      'grpc.max_send_message_length': maxMessageBytes,
      'grpc.enable_retries': 0,
      'grpc.service_config_disable_resolution': 1,
      'grpc.enable_http_proxy': 0,
      // A connection of its own, because the roots may have changed since the last.
      'grpc.use_local_subchannel_pool': 1,
      ...(serverName === undefined ? {} : { 'grpc.ssl_target_name_override': serverName, 'grpc.default_authority': serverName }),
    })
  }

  async #connected(client: Client): Promise<void> {
    const { connectTimeoutMs = clientDefaults.connectTimeoutMs, address } = this.#options
    await new Promise<void>((resolve, reject) => {
      const abort = (): void => resolve()
      this.#stop.signal.addEventListener('abort', abort, { once: true })
      client.waitForReady(Date.now() + connectTimeoutMs, (error) => {
        this.#stop.signal.removeEventListener('abort', abort)
        if (!error) return resolve()
        const message = `no connection to ${address}: ${error.message}`
        reject(new MeshError('CONTROL_PLANE_UNAVAILABLE', message, { source: 'upstream', cause: error }))
      })
    })
  }

  async #stream(client: Client, bearer: string | undefined): Promise<{ because: string; isEveryday: boolean }> {
    const metadata = new Metadata()
    if (bearer !== undefined) metadata.set('authorization', `Bearer ${bearer}`)
    if (this.#options.clusterId !== undefined) metadata.set('clusterid', this.#options.clusterId)
    for (const [name, value] of Object.entries(this.#options.headers ?? {})) metadata.set(name, value)
    const call: Call = client.makeBidiStreamRequest(deltaMethod, serialize, (bytes) => bytes, metadata)
    const ended = new Promise<StatusObject>((resolve) => { call.on('status', resolve) })
    // The status tells the same, and comes in every case.
    call.on('error', () => {})
    const cancel = (): void => call.cancel()
    this.#stop.signal.addEventListener('abort', cancel)
    this.#call = call
    try {
      for (const type of this.#types) call.write(this.#firstRequest(type))
      this.#unsent = []
      const missing = new Set<ResourceType>(this.#types)
      this.#setState({ t: 'syncing', missing: [...missing] })
      await this.#receive(call, missing)
    } catch (error) {
      // An end with a status is thrown by the iteration too, and told below; what is not a status is our own failure.
      if (!(error instanceof Error && 'code' in error && typeof error.code === 'number')) throw error
    } finally {
      this.#stop.signal.removeEventListener('abort', cancel)
      this.#call = undefined
      call.cancel()
    }
    const { code, details } = await ended
    return { because: `${grpcStatus[code] ?? code}${details === '' ? '' : `: ${details}`}`, isEveryday: everyday.has(code) }
  }

  #firstRequest(type: ResourceType): Request {
    const { node: { id, metadata: told }, gateway } = this.#options
    const metadata = gateway ? { ...told, GATEWAY: `${gateway.namespace}/${gateway.name}` } : told
    const request: Request = { node: { id, metadata }, typeUrl: typeUrls[type], initialResourceVersions: this.#caches[type].versions() }
    if (type !== 'address' || !this.#options.isOnDemand) return request
    // Subscribing to everything and leaving it at once is how a server learns that this client asks by name.
    return { ...request, resourceNamesSubscribe: ['*', ...this.#demand.names], resourceNamesUnsubscribe: ['*'] }
  }

  async #receive(call: Call, missing: Set<ResourceType>): Promise<void> {
    for await (const bytes of call as AsyncIterable<Buffer>) {
      const response = parseResponse(bytes)
      const type = typeOfUrl(response.typeUrl)
      // Never asked for; there is nobody who could take or refuse it.
      if (!type || !this.#types.includes(type)) continue
      const cache = this.#caches[type]
      const read = await cache.read(response.frames, response.removed)
      if (this.#stop.signal.aborted) return
      await this.#options.onDelta(read.delta)
      cache.commit(read)
      call.write({ typeUrl: typeUrls[type], responseNonce: response.nonce, ...refusalStatus(read.rejections) })
      this.#accepted(type, read, bytes.length, missing)
    }
  }

  #accepted(type: ResourceType, read: ReadResponse, bytes: number, missing: Set<ResourceType>): void {
    const { rejections, delta } = read
    this.#hasAccepted = true
    if (rejections.length > 0) {
      this.#log.warn({ 'xds.type': type, rejected: rejections.length, first: rejections[0] }, 'xds resources refused')
    }
    this.#options.onResponse?.({ type, bytes, rejected: rejections.length })
    if (type === 'address' && this.#options.isOnDemand) this.#answer(read)
    if (Object.values(delta).some((list) => list.length > 0)) this.#options.onChanged?.()
    this.#synced.add(type)
    if (this.isSynced) this.#ready.resolve()
    if (missing.delete(type)) {
      this.#setState(missing.size === 0 ? { t: 'ready', sinceMs: Date.now() } : { t: 'syncing', missing: [...missing] })
    }
  }

  #answer({ accepted, removed, rejections }: ReadResponse): void {
    for (const name of removed) this.#demand.answered(name, 'absent')
    for (const { name } of rejections) this.#demand.answered(name, 'absent')
    for (const { name, aliases } of accepted) for (const each of [name, ...aliases]) this.#demand.answered(each, 'present')
    // A removed resource goes by its name, but may have been asked for by an alias.
    if (removed.length > 0) for (const name of this.#demand.names) if (!this.#caches.address.has(name)) this.#demand.withdrawn(name)
  }
}
