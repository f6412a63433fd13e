// One waypoint (or ingress) put together from its rooms: what the mesh is, who we are, what comes in, what holds for it, and where it
// goes. Knows no environment variables, signals or exits; src/bin/waypoint.ts does.
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { systemClock } from '../core/clock.ts'
import { describeError } from '../core/errors.ts'
import type { Identity } from '../core/identity.ts'
import type { Logger } from '../core/log.ts'
import { HbonePool } from '../hbone/pool.ts'
import { ConnectionLimit, doorLimit, limitFromOpenFiles } from '../member/connection-limit.ts'
import { caOptionsOf, xdsOptionsOf } from '../member/control-plane-options.ts'
import { NodeIdentities } from '../member/identities.ts'
import { LearnedDestinations } from '../member/learned-destinations.ts'
import { MeshState } from '../member/mesh-state.ts'
import { NameLookup } from '../member/name-lookup.ts'
import { retireStale } from '../member/stale-tunnels.ts'
import { certificateMetrics, countedAuthority, limitMetrics, xdsMetrics } from '../member/telemetry/component-metrics.ts'
import { hboneEvents, poolMetrics } from '../member/telemetry/tunnel-metrics.ts'
import type { GatewayName } from '../model/waypoint-config.ts'
import { serviceKey } from '../model/workload.ts'
import type { Workload } from '../model/workload.ts'
import { CaClient } from '../pki/ca-client.ts'
import type { SessionKeys } from '../policy/l7/session-persistence.ts'
import { isOwnIngress } from './accept.ts'
import { CompiledChains } from './chains.ts'
import { composePhases } from './compose-phases.ts'
import type { ComposedPhases } from './compose-phases.ts'
import type { Config } from './config.ts'
import { Connections } from './connections.ts'
import type { ConnectionContext } from './context.ts'
import { coveredTarget } from './covered.ts'
import type { Covered } from './covered.ts'
import { dialTcp } from './dial.ts'
import { Edge } from './edge.ts'
import type { ExplainParts } from './explain.ts'
import type { Handler } from './http/message.ts'
import { HttpFront } from './http/serve.ts'
import { learningRecords } from './learning.ts'
import { hostAndPort } from './listening.ts'
import { PortMemory } from './port-memory.ts'
import { GatewayResources } from './resources.ts'
import { loadSessionKeys } from './session-keys.ts'
import type { WaypointMetrics } from './telemetry/metrics.ts'
import type { Telemetry } from './telemetry/telemetry.ts'
import { Tunnels } from './tunnels.ts'
import { UpstreamForwarder } from './upstream/forwarder.ts'

/** A client of TLS says its first word at once; this one is only for those whose packets get lost. */
const helloMs = 5_000
const endCheckMs = 20

export interface WaypointParts {
  readonly config: Config
  readonly metrics: WaypointMetrics
  readonly telemetry: Telemetry
  readonly logger: Logger
}

export class Waypoint {
  readonly config: Config
  readonly gateway: GatewayName
  readonly identity: Identity
  readonly resources = new GatewayResources()
  readonly mesh: MeshState
  readonly identities: NodeIdentities
  readonly pool: HbonePool
  readonly forwarder: UpstreamForwarder
  readonly connections: Connections
  readonly tunnels: Tunnels
  readonly limit: ConnectionLimit
  readonly learned = new LearnedDestinations({ clock: systemClock })
  readonly front: HttpFront<ConnectionContext>
  readonly edge: Edge
  readonly #phases: ComposedPhases
  readonly #chains: CompiledChains
  readonly #podName: string
  readonly #logger: Logger
  #self: { readonly version: number; readonly workload: Workload | undefined } = { version: -1, workload: undefined }
  #state: 'starting' | 'serving' | 'draining' | 'closed' = 'starting'

  private constructor({ config, metrics, telemetry, logger }: WaypointParts, sessionKeys: SessionKeys) {
    this.config = config
    this.gateway = gatewayOf(config)
    const namespace = config.podNamespace === '' ? this.gateway.namespace : config.podNamespace
    this.identity = { trustDomain: config.trustDomain, namespace, serviceAccount: config.serviceAccount === '' ? this.gateway.name : config.serviceAccount }
    this.#podName = config.podName === '' ? this.gateway.name : config.podName
    this.#logger = logger
    const settings = { ...config, podName: this.#podName, podNamespace: namespace }
    this.mesh = new MeshState({
      ...config, logger, onDelta: (delta) => this.resources.apply(delta),
      xds: config.xdsAddress === 'none' ? undefined : {
        ...xdsOptionsOf(settings, 'waypoint'), types: ['address', 'waypoint'], gateway: this.gateway, ...xdsMetrics(metrics),
      },
    })
    this.identities = new NodeIdentities({
      ca: countedAuthority(metrics, new CaClient(caOptionsOf(settings))), trustDomain: config.trustDomain, trustDomainAliases: listOf(config.trustDomainAliases),
      ttlSeconds: config.certificateTtlSeconds, crlFile: config.crlFile, certificatesFile: join(config.stateDirectory, 'certificates.json'),
      logger: logger.child({ component: 'pki' }),
    })
    const dialOptions = { timeoutMs: config.connectTimeoutMs, keepAliveSeconds: config.keepAliveSeconds }
    const events = hboneEvents(metrics)
    this.pool = new HbonePool({
      certificates: this.identities.source, verifier: this.identities.verifier, events, timeouts: { dialTimeoutMs: config.connectTimeoutMs },
      dial: ({ address }, signal) => dialTcp(address, { ...dialOptions, signal }),
    })
    const common = { clock: systemClock, random: Math.random }
    const names = new NameLookup(common)
    this.forwarder = new UpstreamForwarder({
      ...common, store: this.mesh.store, self: () => this.self(), destination: (key) => this.resources.get('destination', key)?.destination,
      secret: (key) => this.resources.get('secret', key), tunnels: this.pool, identity: this.identity, sourceKey: this.#podName,
      dial: (to, signal) => dialTcp(to, { ...dialOptions, signal }), resolve: (host) => names.all(host), log: logger.child({ component: 'upstream' }), sessionKeys, events: metrics.upstreamEvents,
    })
    const paths = { escapedSlashes: config.escapedSlashes }
    const chains = new CompiledChains(this.resources, paths)
    this.#chains = chains
    const covered: Covered = (context, host) =>
      coveredTarget({ store: this.mesh.store, self: this.self(), network: config.network }, context, host)
    const records = learningRecords({ records: telemetry.records, learned: this.learned, store: this.mesh.store, covered })
    this.#phases = composePhases({
      ...common, chains, forwarder: this.forwarder, records, serviceOf: (name) => this.mesh.store.service(serviceKey(name)), own: () => this.identity,
      isForwarder: (caller) => isOwnIngress(caller, this.identity),
      settings: {
        trustedForwarders: listOf(config.trustedForwarders), trustedHops: config.trustedHops, cacheBytes: config.cacheBytes, limitKeys: config.limitKeys,
        limitStoreTimeoutMs: config.limitStoreTimeoutMs, mayFetchLocally: config.mayFetchLocally, ...(config.limitStore !== '' && { limitStoreUrl: config.limitStore }),
      },
      log: logger.child({ component: 'filters' }), counters: metrics, covered,
    })
    this.front = new HttpFront<ConnectionContext>({
      clock: systemClock, handler: (request) => handler(request), paths,
      limits: { headBytes: config.maxHeaderBytes, streams: config.maxHttp2Streams, headMs: config.headMs, bodyIdleMs: config.bodyIdleMs, idleMs: config.idleMs },
      onRefused: (refusal) => metrics.unread(refusal),
      onHandlerError: (error) => logger.error({ because: describeError(error) }, 'a request failed inside'),
    })
    this.connections = new Connections({
      ...common, chains, store: this.mesh.store, front: this.front, forwarder: this.forwarder, records, memory: new PortMemory({ clock: systemClock }),
      covered, detectMs: config.detectMs, helloMs, ownIp: config.instanceIp === '' ? '127.0.0.1' : config.instanceIp,
    })
    this.limit = new ConnectionLimit(config.maxConnections === 0 ? limitFromOpenFiles() : config.maxConnections)
    this.tunnels = new Tunnels({
      identity: this.identity, certificates: this.identities.source, verifier: this.identities.verifier, store: this.mesh.store, network: config.network,
      self: () => this.self(), isKnown: () => this.mesh.isKnown, connections: this.connections, records, limit: this.limit, doors: new ConnectionLimit(doorLimit()),
      keepAliveSeconds: config.keepAliveSeconds, events, onRefused: (because) => metrics.refused(because), logger: logger.child({ component: 'tunnels' }),
    })
    this.edge = new Edge({
      resources: this.resources, connections: this.connections, front: this.front, records, limit: this.limit, keepAliveSeconds: config.keepAliveSeconds, helloMs,
      proxyProtocol: config.proxyProtocol, proxyProtocolFrom: listOf(config.proxyProtocolFrom), clock: systemClock,
      onRefused: (because) => metrics.refused(because), logger: logger.child({ component: 'edge' }),
    })
    const handler: Handler<ConnectionContext> = this.edge.handler(this.#phases.handler)
    this.mesh.store.onChange((changes) => retireStale(this.pool, changes))
    this.resources.onChange((kinds) => this.#onResources(kinds))
    certificateMetrics(metrics, this.identities.manager)
    poolMetrics(metrics, this.pool, () => this.tunnels.connections)
    limitMetrics(metrics, this.limit)
    metrics.watchUpstream(() => this.forwarder.stats())
    metrics.watch({
      httpConnections: () => this.front.connections, chains: () => chains.size, cacheEntries: () => this.#phases.stats().cachedAnswers, cacheBytes: () => this.#phases.stats().cacheBytes,
      learnedDestinations: () => this.learned.size,
    })
  }

  /** Restores what was known and begins to serve. Rejects with BAD_CONFIG. */
  static async start(parts: WaypointParts): Promise<Waypoint> {
    const { config } = parts
    mkdirSync(config.stateDirectory, { recursive: true, mode: 0o700 })
    const waypoint = new Waypoint(parts, await loadSessionKeys(config.sessionKeyFile))
    await waypoint.identities.start()
    waypoint.identities.hold(waypoint.identity)
    await waypoint.mesh.start()
    if (config.hboneAddress !== 'none') {
      const { host, port } = hostAndPort(config.hboneAddress)
      await waypoint.tunnels.listen(host, port)
    }
    // Not before the rules for its requests are known; closed meanwhile, it opens none.
    void waypoint.mesh.known().then(() => waypoint.edge.start(), () => {})
    waypoint.#state = 'serving'
    return waypoint
  }

  /** Our own pod as the mesh knows it. What was known last stays, should the mesh lose sight of us for a while. */
  self(): Workload | undefined {
    const { store } = this.mesh
    if (this.#self.version === store.version) return this.#self.workload
    const { namespace, serviceAccount } = this.identity
    const workload = store.workloadByName(namespace, this.#podName, serviceAccount) ?? this.#self.workload
    this.#self = { version: store.version, workload }
    return workload
  }

  /** What must be there before somebody is sent here; empty when it is ready. */
  waitingFor(): string[] {
    if (this.isDraining) return ['the end of what is under way']
    return [
      ...(this.#state === 'starting' ? ['its listeners'] : []),
      ...(this.mesh.isKnown ? [] : ['the first answer of the control plane']),
      ...(this.identities.source.peek(this.identity) ? [] : ['its certificate']),
      ...(this.self() ? [] : ['the mesh to name its own pod']),
    ]
  }

  /** What questions about requests are answered by. */
  get explainParts(): ExplainParts {
    const { config: { network, escapedSlashes }, mesh: { store } } = this
    return { store, self: this.self(), network, paths: { escapedSlashes }, chainOf: (target) => this.#chains.chainOf(target) }
  }

  /** Where it listens. */
  listeners(): { readonly name: string; readonly port: number | undefined; readonly protocol: string }[] {
    return [{ name: 'hbone', port: this.tunnels.port, protocol: 'hbone' }, ...this.edge.views()]
  }

  get isDraining(): boolean {
    return this.#state === 'draining' || this.#state === 'closed'
  }

  #onResources(kinds: ReadonlySet<string>): void {
    if (kinds.has('destination') || kinds.has('secret')) {
      this.forwarder.policiesChanged(this.resources.all('destination').map(({ destination }) => destination))
    }
    if (kinds.has('security')) this.connections.recheck()
  }

  /**
   * Not ready from now on; takes what still comes for a moment, then nothing new, and resolves when everything has ended or the time
   * for it is over. close() must follow.
   */
  async drain(): Promise<void> {
    if (this.isDraining) return
    this.#state = 'draining'
    const { drainDelayMs, drainSeconds } = this.config
    this.#logger.info({ streams: this.tunnels.streams, http: this.front.connections }, 'finishing what is under way')
    this.front.announceEnd()
    await new Promise<void>((resolve) => setTimeout(resolve, drainDelayMs))
    this.edge.stopListening()
    this.front.drain()
    const done = Promise.all([this.tunnels.drain(), this.connections.idle(), this.#requestsEnd()])
    const timer = Promise.withResolvers<'late'>()
    const late = drainSeconds === 0 ? undefined : setTimeout(() => timer.resolve('late'), drainSeconds * 1_000)
    const outcome = await Promise.race([done.then(() => 'done' as const), timer.promise])
    clearTimeout(late)
    if (outcome === 'late') this.#logger.warn({ streams: this.tunnels.streams, http: this.front.connections }, 'the time for finishing is over')
  }

  /** Those of tunnels end with them; an ingress has others. */
  async #requestsEnd(): Promise<void> {
    while (this.front.connections > 0 && this.#state !== 'closed') await new Promise<void>((resolve) => setTimeout(resolve, endCheckMs))
  }

  /** Cuts what there is. */
  async close(): Promise<void> {
    this.#state = 'closed'
    this.edge.stopListening()
    this.connections.close()
    this.front.close()
    this.forwarder.close({ cut: true })
    await Promise.allSettled([this.tunnels.close(), this.pool.close(), this.mesh.close(), this.identities.close(), this.#phases.close()])
  }
}

function gatewayOf({ gateway }: Config): GatewayName {
  const [namespace = '', name = ''] = gateway.split('/')
  return { namespace, name }
}

function listOf(text: string): string[] {
  return text.split(',').map((name) => name.trim()).filter((name) => name !== '')
}
