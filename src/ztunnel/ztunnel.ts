// One node's ztunnel put together from its rooms: what the mesh is, who the pods are, what is captured and carried. Knows no
// environment variables, signals or exits; src/bin/ztunnel.ts does.
import { mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { formatAddr } from '../core/address.ts'
import { systemClock } from '../core/clock.ts'
import { MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { Resolver } from '../dns/resolver.ts'
import { HbonePool } from '../hbone/pool.ts'
import { watchEvents } from '../kernel/hook-events.ts'
import { Netns } from '../kernel/netns.ts'
import { Redirection } from '../kernel/redirection.ts'
import { connectInNetns } from '../kernel/sockets.ts'
import type { StoreChange } from '../model/workload-store.ts'
import { CaClient } from '../pki/ca-client.ts'
import { AgentClient } from './agent-client.ts'
import type { Config } from './config.ts'
import { caOptionsOf, xdsOptionsOf } from '../member/control-plane-options.ts'
import { ConnectionLimit, doorLimit, limitFromOpenFiles } from '../member/connection-limit.ts'
import { NodeIdentities } from '../member/identities.ts'
import { LearnedDestinations } from '../member/learned-destinations.ts'
import { LiveConnections } from './live-connections.ts'
import { MeshNames } from './mesh-names.ts'
import { MeshState } from '../member/mesh-state.ts'
import { NameLookup } from '../member/name-lookup.ts'
import { retireStale } from '../member/stale-tunnels.ts'
import type { DnsQueryFacts } from './dns-proxy.ts'
import { PodSet } from './pod-set.ts'
import { certificateMetrics, countedAuthority, limitMetrics, xdsMetrics } from '../member/telemetry/component-metrics.ts'
import { dnsMetrics, hookMetrics, podMetrics } from './telemetry/pod-metrics.ts'
import type { DnsCounters } from './telemetry/pod-metrics.ts'
import { hboneEvents, poolMetrics } from '../member/telemetry/tunnel-metrics.ts'
import type { ZtunnelMetrics } from './telemetry/metrics.ts'
import type { Spans } from './telemetry/spans.ts'
import { WaypointGuard } from './waypoint-guard.ts'
import { ZdsClient } from './zds-client.ts'

export interface ZtunnelParts {
  readonly config: Config
  readonly metrics: ZtunnelMetrics
  readonly accessLog: Logger
  readonly spans: Spans
  readonly logger: Logger
}

export class Ztunnel {
  readonly config: Config
  readonly mesh: MeshState
  readonly identities: NodeIdentities | undefined
  readonly pool: HbonePool | undefined
  readonly live = new LiveConnections()
  readonly learned = new LearnedDestinations({ clock: systemClock })
  readonly limit: ConnectionLimit
  readonly pods: PodSet
  readonly redirection: Redirection
  readonly agent: AgentClient | ZdsClient
  readonly #logger: Logger
  readonly #stopEvents: () => void

  private constructor({ config, metrics, accessLog, spans, logger }: ZtunnelParts, redirection: Redirection) {
    this.config = config
    this.redirection = redirection
    this.#logger = logger
    this.limit = new ConnectionLimit(config.maxConnections === 0 ? limitFromOpenFiles() : config.maxConnections)
    const events = hboneEvents(metrics)
    const xds = xdsOptions(config)
    this.mesh = new MeshState({ ...config, xds: xds && { ...xds, ...xdsMetrics(metrics) }, logger })
    this.identities = isMeshed(config) ? makeIdentities(config, metrics, logger) : undefined
    this.pool = this.identities && new HbonePool({
      certificates: this.identities.source, verifier: this.identities.verifier, events,
      timeouts: { dialTimeoutMs: config.connectTimeoutMs },
      dial: (target) => {
        const netns = this.pods.netnsOf(target.sourceKey)
        if (!netns) throw new MeshError('CLOSED', 'the pod is not captured any more')
        return connectInNetns(netns, {
          host: target.address.ip, port: target.address.port, timeoutMs: config.connectTimeoutMs,
          keepAliveSeconds: config.keepAliveSeconds, socketMark: redirection.bypassMark(),
        })
      },
    })
    const names = new NameLookup()
    this.pods = new PodSet({
      redirection, limit: this.limit, doors: new ConnectionLimit(doorLimit()), mesh: this.mesh, guard: new WaypointGuard(this.mesh.store), identities: this.identities, pool: this.pool, live: this.live, learned: this.learned, metrics, hboneEvents: events, accessLog, spans,
      resolver: this.mesh.hasControlPlane ? new Resolver(new MeshNames({ store: this.mesh.store, network: config.network, clusterDomain: config.clusterDomain, isKnown: () => this.mesh.isKnown })) : undefined,
      onDnsQuery: countDns(dnsMetrics(metrics)), clusterDomain: config.clusterDomain,
      podCounters: podMetrics(metrics, { active: () => this.pods.captured, pending: () => this.pods.pending }),
      lookup: (hostname, preferIpv6) => names.lookup(hostname, preferIpv6), connectTimeoutMs: config.connectTimeoutMs, keepAliveSeconds: config.keepAliveSeconds, logger,
    })
    if (this.identities) certificateMetrics(metrics, this.identities.manager)
    if (this.pool) poolMetrics(metrics, this.pool, () => this.pods.serverConnections)
    hookMetrics(metrics, () => redirection.counters())
    limitMetrics(metrics, this.limit)
    metrics.watchLearned(() => this.learned.size)
    this.mesh.store.onChange((changes) => this.#onMeshChange(changes))
    this.agent = makeAgent(config, this.pods, logger.child({ component: 'agent' }))
    this.#stopEvents = watchEvents(redirection.maps.events, (events) => {
      for (const event of events) {
        const facts = { 'dst.addr': formatAddr(event.destination), 'src.addr': formatAddr(event.source), because: event.reason, pid: event.pid }
        logger.info({ ...facts, 'pod.cookie': String(event.netnsCookie) }, event.kind === 'passed' ? 'connection passed unmeshed' : 'connection refused by hook')
      }
    })
  }

  /** Attaches the hooks, restores what was known and begins to serve. Throws what Redirection.open() throws. */
  static async start(parts: ZtunnelParts): Promise<Ztunnel> {
    const { config, logger } = parts
    mkdirSync(dirname(config.adminSocket), { recursive: true, mode: 0o700 })
    mkdirSync(config.stateDirectory, { recursive: true, mode: 0o700 })
    const redirection = Redirection.open({
      instance: config.instance,
      nodeNetns: await Netns.open(config.hostNetns),
      kubeletCgroupId: config.kubeletCgroupId,
      verifierLog: join(dirname(config.adminSocket), `${config.instance}-verifier.log`),
      logger,
    })
    const ztunnel = new Ztunnel(parts, redirection)
    if (!ztunnel.mesh.hasControlPlane) logger.warn('no control plane: everything is carried in plain text, without identities and policies')
    await ztunnel.identities?.start()
    await ztunnel.mesh.start()
    ztunnel.agent.start()
    return ztunnel
  }

  /** What must be there before it can take over; empty when it is ready. */
  waitingFor(): string[] {
    return [
      ...(this.mesh.isKnown ? [] : ['the first answer of the control plane']),
      ...(this.agent.isSynced ? [] : ['the node agent']),
      ...(this.agent instanceof ZdsClient && this.agent.pending > 0 ? ['pods that could not be captured'] : []),
    ]
  }

  #onMeshChange(changes: readonly StoreChange[]): void {
    this.pods.recheck(changes)
    if (this.pool) retireStale(this.pool, changes)
  }

  /** Takes nothing new, since a successor does; resolves when everything carried has ended, or after the configured time. */
  async drain(): Promise<void> {
    void this.agent.close()
    this.#logger.info({ open: this.limit.open }, 'ztunnel is finishing its connections')
    const done = this.pods.drain().then(() => this.pool?.drain())
    const { drainSeconds } = this.config
    if (drainSeconds === 0) return await done
    await Promise.race([done, new Promise<void>((resolve) => setTimeout(resolve, drainSeconds * 1_000))])
  }

  /** What is pinned stays in force. */
  async close(): Promise<void> {
    void this.agent.close()
    this.#stopEvents()
    await this.mesh.close()
    await this.identities?.close()
  }
}

function isMeshed({ xdsAddress }: Config): boolean {
  return xdsAddress !== 'none'
}

function xdsOptions(config: Config): ConstructorParameters<typeof MeshState>[0]['xds'] {
  return isMeshed(config) ? xdsOptionsOf(config, 'ztunnel') : undefined
}

/** Istio's node agent where its socket is named, else our own. */
function makeAgent({ zdsSocket: path, agentSocket, node, captureDns: dns }: Config, pods: PodSet, logger: Logger): AgentClient | ZdsClient {
  return path === '' ? new AgentClient(agentSocket, pods, logger) : new ZdsClient({ path, pods, node, dns, failureMode: 'closed', logger })
}

function makeIdentities(config: Config, metrics: ZtunnelMetrics, logger: Logger): NodeIdentities {
  return new NodeIdentities({
    ca: countedAuthority(metrics, new CaClient(caOptionsOf(config))),
    trustDomain: config.trustDomain,
    trustDomainAliases: config.trustDomainAliases.split(',').map((name) => name.trim()).filter((name) => name !== ''),
    ttlSeconds: config.certificateTtlSeconds,
    crlFile: config.crlFile,
    certificatesFile: join(config.stateDirectory, 'certificates.json'),
    logger: logger.child({ component: 'pki' }),
  })
}

function countDns(counters: DnsCounters): (facts: DnsQueryFacts) => void {
  return ({ transport, result, durationMs }) => {
    counters.request(transport)
    counters.result(result === 'failed' ? 'forwarded' : result)
    if (result !== 'forwarded' && result !== 'failed') return
    counters.upstreamRequest()
    if (result === 'failed') counters.upstreamFailed()
    else counters.upstreamAnswered(durationMs / 1_000)
  }
}
