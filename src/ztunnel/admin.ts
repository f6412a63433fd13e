// The admin API: what this ztunnel does, as JSON over HTTP, on a unix socket that only root can open and on loopback for
// people. What every proxy has of it is member/admin.ts; shapes are this file's neighbours.
import { readFileSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { pagesHandler, startAdminServers } from '../member/admin.ts'
import type { AdminPages, AdminServers, AdminServersOptions, Route } from '../member/admin.ts'
import { answerJson, answerStream, list } from '../member/admin-answers.ts'
import type { Handler } from '../member/admin-listener.ts'
import { certificateDump, certificateView } from '../member/certificate-views.ts'
import { learnedView } from '../member/learned-view.ts'
import { serviceKey } from '../model/workload.ts'
import type { Service, Workload } from '../model/workload.ts'
import { explainRequestSchema } from '../model/ztunnel-views.ts'
import type { AdminSource } from './admin-source.ts'
import { policyView, serviceView, workloadView } from './admin-views.ts'

export type AdminOptions = Omit<AdminServersOptions<AdminSource>, 'pages'>

/** Resolves when the unix socket serves. The others are no reason not to start: where a port is taken they go on trying. */
export function startAdmin(options: AdminOptions): Promise<AdminServers> {
  return startAdminServers({ ...options, pages })
}

/** All of the API but the metrics. */
export function adminHandler(source: AdminSource): Handler {
  return pagesHandler(source, pages)
}

const workloadViews = (source: AdminSource) => (workload: Workload) => workloadView(workload, source.waypointState)
const serviceViews = (source: AdminSource) => (service: Service) => serviceView(service, source.endpoints(serviceKey(service)), source.waypointState)

const gets: Readonly<Record<string, Route<AdminSource>>> = {
  '/workloads': (source, _query, _request, response) => answerStream(response, list(source.workloads(), workloadViews(source))),
  '/services': (source, _query, _request, response) => answerStream(response, list(source.services(), serviceViews(source))),
  '/policies': (source, _query, _request, response) => answerStream(response, list(source.policies(), policyView)),
  '/connections': (source, _query, _request, response) => answerStream(response, list(source.connections(), (connection) => connection)),
  '/egress': (source, _query, _request, response) => answerStream(response, list(source.learned(), learnedView)),
  '/certificates': (source, _query, _request, response) => answerStream(response, list(source.certificates(), certificateView)),
  '/config_dump': configDump,
  '/explain': (source, query, _request, response) => {
    const asked = explainRequestSchema.safeParse({ ...Object.fromEntries(query), mesh: query.get('mesh') === 'true' })
    if (asked.success) answerJson(response, 200, source.explain(asked.data))
    else answerJson(response, 400, { error: asked.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; ') })
  },
}

/** Istio's config dump, field by field. */
function configDump(source: AdminSource, _query: URLSearchParams, _request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { version, config, stagedServices } = source.configDump()
  const connections = source.connections()
  const state = source.state()
  const workloadState = Object.fromEntries(state.pods.map(({ namespace, name, ...info }) => {
    const own = connections.filter(({ pod }) => pod === `${namespace}/${name}`)
    const of = (direction: 'inbound' | 'outbound'): unknown[] => own.filter((connection) => connection.direction === direction)
    return [`${namespace}/${name}`, { state: 'Up', connections: { inbound: of('inbound'), outbound: of('outbound') }, info }]
  }))
  const value = (given: unknown) => ({ t: 'value', value: given }) as const
  return answerStream(response, {
    version: value(version), config: value(config), state: value(state), staticConfig: value({}), stagedServices: value(stagedServices), workloadState: value(workloadState),
    certificates: list(source.certificates(), certificateDump),
    workloads: list(source.workloads(), workloadViews(source)),
    services: list(source.services(), serviceViews(source)),
    policies: list(source.policies(), policyView),
  })
}

const pages: AdminPages<AdminSource> = { program: 'ztunnel', gets, index: readFileSync(new URL('./admin-index.html', import.meta.url), 'utf8') }
