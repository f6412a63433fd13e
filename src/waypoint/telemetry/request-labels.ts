// The labels of Istio's standard HTTP metrics, and who is at the two ends of an exchange. Computed once for all exchanges of the same
// two: what the mesh says of a workload or service never changes within an object, so objects stand for their text.
import { formatIdentity } from '../../core/identity.ts'
import type { Identity } from '../../core/identity.ts'
import type { Service, Workload } from '../../model/workload.ts'
import { known, numberOf, peerLabels, trafficLabels } from '../../member/telemetry/labels.ts'
import type { Peer, TrafficLabel, TrafficLabels } from '../../member/telemetry/labels.ts'
import type { ConnectionContext } from '../context.ts'

export type RequestLabel = TrafficLabel | 'response_code' | 'grpc_response_status'
export type RequestLabels = Readonly<Record<RequestLabel, string>>

export const requestLabelNames: readonly RequestLabel[] = [
  'reporter', 'source_workload', 'source_workload_namespace', 'source_principal', 'source_app', 'source_version', 'source_cluster',
  'source_canonical_service', 'source_canonical_revision', 'destination_service', 'destination_service_name',
  'destination_service_namespace', 'destination_workload', 'destination_workload_namespace', 'destination_principal', 'destination_app',
  'destination_version', 'destination_cluster', 'destination_canonical_service', 'destination_canonical_revision', 'request_protocol',
  'response_code', 'grpc_response_status', 'response_flags', 'connection_security_policy',
]

/** Who asked, as far as it is known. The same object for all exchanges of a connection. */
export interface Source {
  readonly peer: Peer
  readonly identity: string | undefined
  /** Stands for it in keys. */
  readonly key: string
}

const sources = new WeakMap<ConnectionContext, Source>()

export function sourceOf(context: ConnectionContext): Source {
  let source = sources.get(context)
  if (!source) {
    const { identity, workload } = context.caller
    const text = identity && formatIdentity(identity)
    sources.set(context, (source = { peer: { workload, identity }, identity: text, key: `${numberOf(workload)} ${text ?? ''}` }))
  }
  return source
}

/** Who was asked: the service that it counts as, and the endpoint that had the last attempt. */
export interface Destination {
  readonly service: Service | undefined
  readonly workload: Workload | undefined
}

/** What is asked before a backend is chosen. */
export function destinationOf({ target }: ConnectionContext): Destination {
  switch (target.t) {
    case 'service': return { service: target.service, workload: undefined }
    case 'workload': return { service: undefined, workload: target.workload }
    case 'listener': return { service: undefined, workload: undefined }
    default: return target satisfies never
  }
}

/** Proved by its certificate where it is reached through a tunnel; else nobody's word. */
export function identityOf(workload: Workload | undefined): Identity | undefined {
  if (workload?.tunnelProtocol !== 'hbone') return undefined
  return { trustDomain: workload.trustDomain, namespace: workload.namespace, serviceAccount: workload.serviceAccount }
}

export interface RequestFacts {
  readonly source: Source
  readonly destination: Destination
  readonly protocol: 'http' | 'grpc'
  readonly status: number
  readonly grpcStatus: number | undefined
  readonly flags: string
}

/** Short and the same for what has the same labels; not for people. */
export function requestKey({ source, destination, protocol, status, grpcStatus, flags }: RequestFacts): string {
  return `${source.key} ${numberOf(destination.service)} ${numberOf(destination.workload)} ${protocol} ${status} ${grpcStatus ?? ''} ${flags}`
}

export function requestLabels({ source, destination, protocol, status, grpcStatus, flags }: RequestFacts): RequestLabels {
  const { service, workload } = destination
  return {
    reporter: 'waypoint',
    ...peerLabels('source', source.peer),
    ...peerLabels('destination', { workload, identity: identityOf(workload) }),
    destination_service: known(service?.hostname),
    destination_service_name: known(service?.name),
    destination_service_namespace: known(service?.namespace ?? workload?.namespace),
    request_protocol: protocol,
    response_code: String(status),
    grpc_response_status: protocol === 'grpc' && grpcStatus !== undefined ? String(grpcStatus) : '',
    response_flags: flags,
    connection_security_policy: source.identity === undefined ? 'none' : 'mutual_tls',
  }
}

/** Of a connection that is carried as it is. */
export function connectionLabels(source: Source, { service, workload }: Destination, flags: string): TrafficLabels {
  return trafficLabels({
    reporter: 'waypoint', source: source.peer, destination: { workload, identity: identityOf(workload) }, service,
    isMutualTls: source.identity !== undefined, responseFlags: flags,
  })
}
