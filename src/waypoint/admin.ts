// The admin API of a waypoint: what it was told and what it does, as JSON over HTTP on loopback. What every proxy has of it is
// member/admin.ts. Shows no key, token or password: secrets are named and nothing more.
import { readFileSync } from 'node:fs'
import { formatIdentity } from '../core/identity.ts'
import type { CommonSource, AdminPages, Route } from '../member/admin.ts'
import { answerJson, answerStream, list } from '../member/admin-answers.ts'
import { certificateDump, certificateSummary, certificateView } from '../member/certificate-views.ts'
import { learnedView } from '../member/learned-view.ts'
import type { LogLevels } from '../member/log-levels.ts'
import { settingViews } from '../model/settings-table.ts'
import { explainHttpRequestSchema } from '../model/ztunnel-views.ts'
import type { LogLevelName } from '../model/ztunnel-views.ts'
import { configSchema, secretSettings } from './config.ts'
import { explainRequest } from './explain.ts'
import type { Waypoint } from './waypoint.ts'

export interface WaypointSource extends CommonSource {
  readonly waypoint: Waypoint
  readonly version: string
}

export interface WaypointSourceOptions {
  readonly levels: LogLevels
  readonly version: string
  readonly quit: () => void
}

export function waypointSource(waypoint: Waypoint, { levels, version, quit }: WaypointSourceOptions): WaypointSource {
  return {
    waypoint, version, quit,
    state: () => stateOf(waypoint),
    isReady: () => {
      const waitingFor = waypoint.waitingFor()
      return { ready: waitingFor.length === 0, waitingFor }
    },
    logLevels: () => levels.levels(),
    setLogLevel: (component: string | undefined, level: LogLevelName) => levels.set(component, level),
  }
}

function stateOf({ gateway, identity, mesh, identities, tunnels, front, connections, limit, isDraining }: Waypoint): object {
  const { xdsState, isKnown, store } = mesh
  return {
    gateway: `${gateway.namespace}/${gateway.name}`, identity: formatIdentity(identity), pid: process.pid, draining: isDraining,
    xds: { state: xdsState?.t ?? 'off', synced: isKnown, because: xdsState?.t === 'waiting' ? xdsState.because : '' },
    certificates: certificateSummary(identities.manager.states()), mesh: { workloads: store.workloadCount, services: store.services.size },
    tunnels: { connections: tunnels.connections, streams: tunnels.streams }, http: { connections: front.connections },
    carried: connections.carried, streams: { open: limit.open, limit: limit.limit }, memory: { rss: process.memoryUsage.rss() },
  }
}

/** Without what a secret is. */
function resourcesOf({ resources }: Waypoint): object {
  return {
    routes: resources.all('routes').map(({ key, tables }) => ({ key, tables })),
    listeners: resources.all('listener').map(({ listener }) => listener),
    destinations: resources.all('destination').map(({ destination }) => ({ ...destination, ports: Object.fromEntries(destination.ports), subsets: Object.fromEntries(destination.subsets) })),
    filters: resources.all('filter').map(({ key, filter }) => ({ key, ...filter })),
    security: resources.all('security').map(({ key, security }) => ({ key, ...security })),
    providers: resources.all('provider').map(({ provider }) => provider),
    secrets: resources.all('secret').map(({ key, certificate, authorities }) => ({ key, hasCertificate: certificate !== undefined, hasAuthorities: authorities !== undefined })),
    notUnderstood: resources.refusals(),
  }
}

const gets: Readonly<Record<string, Route<WaypointSource>>> = {
  '/listeners': ({ waypoint }, _query, _request, response) => answerJson(response, 200, waypoint.listeners()),
  '/resources': ({ waypoint }, _query, _request, response) => answerJson(response, 200, resourcesOf(waypoint)),
  '/clusters': ({ waypoint }, _query, _request, response) => answerStream(response, list(waypoint.forwarder.stats(), (cluster) => cluster)),
  '/connections': ({ waypoint }, _query, _request, response) => answerStream(response, list(waypoint.connections.views(), (connection) => connection)),
  '/egress': ({ waypoint }, _query, _request, response) => answerStream(response, list(waypoint.learned.list(), learnedView)),
  '/explain': ({ waypoint }, query, _request, response) => {
    const asked = explainHttpRequestSchema.safeParse({ ...Object.fromEntries(query), mesh: query.get('mesh') === 'true', header: query.getAll('header') })
    if (asked.success) answerJson(response, 200, explainRequest(waypoint.explainParts, asked.data))
    else answerJson(response, 400, { error: asked.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; ') })
  },
  '/certificates': ({ waypoint }, _query, _request, response) => answerStream(response, list(waypoint.identities.manager.states(), certificateView)),
  '/config_dump': ({ waypoint, version }, _query, _request, response) => answerJson(response, 200, {
    version, config: settingViews(configSchema, waypoint.config, secretSettings), state: stateOf(waypoint), resources: resourcesOf(waypoint),
    certificates: waypoint.identities.manager.states().map(certificateDump),
  }),
}

export const waypointPages: AdminPages<WaypointSource> = { program: 'waypoint', gets, index: readFileSync(new URL('./admin-index.html', import.meta.url), 'utf8') }
