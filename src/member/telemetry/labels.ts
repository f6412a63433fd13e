// The labels of Istio's standard TCP metrics for one connection, so that dashboards made for Istio work. What is not known
// is the word `unknown`, never an empty string. Computed once for all connections between the same two.
import { MeshError } from '../../core/errors.ts'
import type { Identity } from '../../core/identity.ts'
import { formatIdentity } from '../../core/identity.ts'
import type { NamespacedHostname, Service, Workload } from '../../model/workload.ts'

export const trafficLabelNames = [
  'reporter', 'source_workload', 'source_workload_namespace', 'source_principal', 'source_app', 'source_version', 'source_cluster',
  'source_canonical_service', 'source_canonical_revision', 'destination_service', 'destination_service_name',
  'destination_service_namespace', 'destination_workload', 'destination_workload_namespace', 'destination_principal', 'destination_app',
  'destination_version', 'destination_cluster', 'destination_canonical_service', 'destination_canonical_revision', 'request_protocol',
  'response_flags', 'connection_security_policy',
] as const
export type TrafficLabel = (typeof trafficLabelNames)[number]
export type TrafficLabels = Readonly<Record<TrafficLabel, string>>

/** What telemetry says of a workload; one of another network is known by what it says of itself only, and has no uid here. */
export type PeerWorkload = Pick<Workload, 'name' | 'namespace' | 'workloadName' | 'canonicalName' | 'canonicalRevision' | 'clusterId'> & { readonly uid?: string }

/** One end of a connection, as far as it is known. The identity is set only where a certificate proved it. */
export interface Peer {
  readonly workload?: PeerWorkload | undefined
  readonly identity?: Identity | undefined
}

/** Who counts: a waypoint stands between the two and counts what passes on its own. */
export type Reporter = 'source' | 'destination' | 'waypoint'

export interface TrafficFacts {
  readonly reporter: Reporter
  readonly source: Peer
  readonly destination: Peer
  readonly service?: (NamespacedHostname & Pick<Service, 'name'>) | undefined
  readonly isMutualTls: boolean
  /** `-`, or why it failed: a word of a closed set. */
  readonly responseFlags: string
}

/** Istio's response flags. */
export type ResponseFlag = '-' | 'DENY' | 'CONNECT' | 'TLS_FAILURE' | 'H2_HANDSHAKE_FAILURE' | 'NETWORK_POLICY' | 'IDENTITY_ERROR' | 'CERT_REVOKED'

/** For a connection that was not made. */
export function responseFlag(error: unknown): ResponseFlag {
  if (!(error instanceof MeshError)) return 'CONNECT'
  switch (error.code) {
    case 'POLICY_DENIED': return 'DENY'
    case 'TLS_FAILED': return 'TLS_FAILURE'
    case 'TUNNEL_REFUSED':
    case 'TUNNEL_CLOSED': return 'H2_HANDSHAKE_FAILURE'
    case 'PEER_IDENTITY_MISMATCH':
    case 'CERTIFICATE_UNAVAILABLE':
    case 'CERTIFICATE_REFUSED': return 'IDENTITY_ERROR'
    case 'PEER_REVOKED': return 'CERT_REVOKED'
    // A tunnel's port that does not answer is most often a NetworkPolicy that forgot it.
    case 'CONNECT_TIMEOUT': return error.detail['hbone'] === true ? 'NETWORK_POLICY' : 'CONNECT'
    default: return 'CONNECT'
  }
}

/** A word of a closed set, for logs and labels: what a decision said, else the error's code. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof MeshError)) return 'unexpected'
  const because = error.detail['because']
  return typeof because === 'string' ? because : error.code
}

const unknown = 'unknown'
export const known = (text: string | undefined): string => (text === undefined || text === '' ? unknown : text)

/** What the mesh says of a workload or service never changes within an object: a change is another object. */
const numbers = new WeakMap<object, number>()
let lastNumber = 0

/** Of an object, for keys: the same as long as it lives. 0 for none. */
export function numberOf(thing: object | undefined): number {
  if (!thing) return 0
  let number = numbers.get(thing)
  if (number === undefined) numbers.set(thing, (number = ++lastNumber))
  return number
}

const peerKey = ({ workload, identity }: Peer): string => `${numberOf(workload)} ${identity ? formatIdentity(identity) : ''}`
const computed = new Map<string, TrafficLabels>()
const mostComputed = 4_096

/** The same object for the same facts, as long as there are not too many of them. */
export function trafficLabels(facts: TrafficFacts): TrafficLabels {
  const { reporter, source, destination, service, isMutualTls, responseFlags } = facts
  const key = `${reporter} ${responseFlags} ${isMutualTls ? 1 : 0} ${numberOf(service)} ${peerKey(source)} ${peerKey(destination)}`
  let labels = computed.get(key)
  if (!labels) {
    if (computed.size >= mostComputed) computed.clear()
    computed.set(key, (labels = labelsOf(facts)))
  }
  return labels
}

function labelsOf(facts: TrafficFacts): TrafficLabels {
  const { source, destination, service } = facts
  return {
    reporter: facts.reporter,
    ...peerLabels('source', source),
    ...peerLabels('destination', destination),
    destination_service: known(service?.hostname),
    destination_service_name: known(service?.name),
    destination_service_namespace: known(service?.namespace),
    request_protocol: 'tcp',
    response_flags: facts.responseFlags,
    connection_security_policy: facts.isMutualTls ? 'mutual_tls' : unknown,
  }
}

export type PeerLabels<Side extends 'source' | 'destination'> = Record<Extract<TrafficLabel, `${Side}_${PeerField}`>, string>
type PeerField = 'workload' | 'workload_namespace' | 'principal' | 'app' | 'version' | 'cluster' | 'canonical_service' | 'canonical_revision'

export function peerLabels<Side extends 'source' | 'destination'>(side: Side, { workload, identity }: Peer): PeerLabels<Side> {
  const fields: Record<PeerField, string> = {
    workload: known(workload?.workloadName),
    workload_namespace: known(workload?.namespace),
    principal: identity ? formatIdentity(identity) : unknown,
    app: known(workload?.canonicalName),
    version: known(workload?.canonicalRevision),
    cluster: known(workload?.clusterId),
    canonical_service: known(workload?.canonicalName),
    canonical_revision: known(workload?.canonicalRevision),
  }
  return Object.fromEntries(Object.entries(fields).map(([field, value]) => [`${side}_${field}`, value])) as PeerLabels<Side>
}
