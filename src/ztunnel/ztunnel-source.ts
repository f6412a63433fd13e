// What the admin API shows of a running ztunnel. Reads; the only things it changes are log levels.
import { formatAddr } from '../core/address.ts'
import { formatIdentity } from '../core/identity.ts'
import type { XdsState } from '../xds/client-options.ts'
import type { ConnectionView, LogLevelName } from '../model/ztunnel-views.ts'
import type { ZtunnelState } from '../model/ztunnel-state.ts'
import { waypointState } from '../policy/waypoint-binding.ts'
import { explainConnection } from './admin-explain.ts'
import { settingViews } from '../model/settings-table.ts'
import type { AdminSource } from './admin-source.ts'
import { certificateSummary } from '../member/certificate-views.ts'
import { configSchema, secretSettings } from './config.ts'
import type { LiveConnection } from './live-connections.ts'
import type { LogLevels } from '../member/log-levels.ts'
import type { Peer } from '../member/telemetry/labels.ts'
import type { Ztunnel } from './ztunnel.ts'

export interface ZtunnelSourceOptions {
  readonly levels: LogLevels
  readonly version: string
  readonly quit: () => void
}

export function ztunnelSource(ztunnel: Ztunnel, { levels, version, quit }: ZtunnelSourceOptions): AdminSource {
  const { mesh, config, live } = ztunnel
  const certificates = (): ReturnType<AdminSource['certificates']> => ztunnel.identities?.manager.states() ?? []
  return {
    state: () => ztunnelState(ztunnel, certificates()),
    isReady: () => {
      const waitingFor = ztunnel.waitingFor()
      return { ready: waitingFor.length === 0, waitingFor }
    },
    workloads: () => mesh.store.workloads(),
    services: () => mesh.store.services.values(),
    endpoints: (key) => mesh.store.endpoints(key),
    policies: () => mesh.store.policies.values(),
    waypointState: (waypoint, namespace) => waypointState(waypoint, namespace, mesh.store),
    connections: () => [...live.entries()].map(([id, connection]) => connectionView(id, connection, ztunnel)),
    learned: () => ztunnel.learned.list(),
    certificates,
    configDump: () => ({ version, config: settingViews(configSchema, config, secretSettings), stagedServices: mesh.store.stagedServices() }),
    explain: (request) => explainConnection(mesh, request),
    logLevels: () => levels.levels(),
    setLogLevel: (component: string | undefined, level: LogLevelName) => levels.set(component, level),
    quit,
  }
}

function ztunnelState(ztunnel: Ztunnel, certificates: ReturnType<AdminSource['certificates']>): ZtunnelState {
  const { config, agent, limit, pods, redirection, mesh } = ztunnel
  const { store } = mesh
  return {
    node: config.node,
    pid: process.pid,
    synced: agent.isSynced,
    draining: pods.draining,
    connections: { open: limit.open, limit: limit.limit },
    xds: xdsView(mesh.xdsState, mesh.isKnown),
    certificates: certificateSummary(certificates),
    mesh: { workloads: store.workloadCount, services: store.services.size, policies: store.policies.size },
    pods: pods.states().map((pod) => ({ ...pod })),
    counters: redirection.counters(),
    memory: { rss: process.memoryUsage.rss() },
  }
}

function xdsView(state: XdsState | undefined, isKnown: boolean): ZtunnelState['xds'] {
  if (!state) return { state: 'off', synced: false, because: '' }
  return { state: state.t, synced: isKnown, because: state.t === 'waiting' ? state.because : '' }
}

function connectionView(id: number, connection: LiveConnection, { pods }: Ztunnel): ConnectionView {
  const { direction, podUid, protocol, isReused, sinceMs, sourceAddr, destinationAddr, hboneAddr, service } = connection
  const { sent, received } = connection.counts()
  return {
    id: String(id), direction, pod: pods.nameOf(podUid), protocol, reused: isReused, ageMs: Math.max(0, Date.now() - sinceMs),
    source: { addr: formatAddr(sourceAddr), ...peerView(connection.source), ...(connection.via && { via: formatIdentity(connection.via) }) },
    destination: {
      addr: formatAddr(destinationAddr), ...peerView(connection.destination),
      ...(hboneAddr && { hboneAddr: formatAddr(hboneAddr) }), ...(service && { service: service.hostname }),
    },
    bytesSent: sent, bytesReceived: received,
  }
}

function peerView({ workload, identity }: Peer): { workload?: string; namespace?: string; identity?: string } {
  return { ...(workload && { workload: workload.name, namespace: workload.namespace }), ...(identity && { identity: formatIdentity(identity) }) }
}
