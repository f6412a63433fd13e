// What a format of the access log can name, as Envoy names it: `%START_TIME%`, `%REQ(X?Y):Z%` ... Each becomes a function that reads
// one value of an exchange that has ended; nothing is parsed when a line is written. Values are as they were sent: escaping is the line's.
import { formatAddr } from '../../../core/address.ts'
import { MeshError } from '../../../core/errors.ts'
import { formatIdentity } from '../../../core/identity.ts'
import { serviceKey } from '../../../model/workload.ts'
import type { HeaderValues } from '../../../policy/l7/request-head.ts'
import { longResponseFlags } from '../response-flags.ts'
import type { Finished } from '../finished.ts'
import { compileTimeFormat } from './time-format.ts'

/** Undefined where it is not known, or the exchange has no such thing. */
export type Read = (of: Finished) => string | number | undefined

export interface Operator {
  readonly read: Read
  /** Characters, where the format says how many. */
  readonly longest: number | undefined
  /** What it reads has a form that the format's owner chose, spaces included. */
  readonly isOwn: boolean
  /** What it depends on, where that is less than the exchange: the same for all of a connection, or towards a destination. */
  readonly scope: Scope | undefined
}

export type Scope = 'connection' | 'destination'


const grpcNames = [
  'OK', 'Canceled', 'Unknown', 'InvalidArgument', 'DeadlineExceeded', 'NotFound', 'AlreadyExists', 'PermissionDenied', 'ResourceExhausted',
  'FailedPrecondition', 'Aborted', 'OutOfRange', 'Unimplemented', 'Internal', 'Unavailable', 'DataLoss', 'Unauthenticated',
]

const protocols = { http1: 'HTTP/1.1', http2: 'HTTP/2' }
const round = (ms: number | undefined): number | undefined => (ms === undefined ? undefined : Math.round(ms))

/** `outbound|port||hostname`, as Istio's control plane names clusters, so that what reads its logs reads ours. */
function upstreamCluster({ destination: { service }, context: { target } }: Finished): string | undefined {
  if (!service) return undefined
  return `outbound|${target.t === 'service' && target.service === service ? target.port : ''}||${service.hostname}`
}

/** What the client wanted to reach. */
function targetText({ context: { target } }: Finished): string {
  switch (target.t) {
    case 'service': return `${target.service.hostname}:${target.port}`
    case 'workload': return `${target.workload.ips[0] ?? target.workload.uid}:${target.port}`
    case 'listener': return target.listener.key
    default: return target satisfies never
  }
}

function details({ reason, detail, request, attempts }: Finished): string | undefined {
  if (reason === undefined) return request && attempts > 0 ? 'via_upstream' : undefined
  return detail === undefined ? reason : `${reason}{${detail}}`
}

const plain: Readonly<Record<string, Read>> = {
  PROTOCOL: ({ request }) => request && protocols[request.protocol],
  RESPONSE_CODE: ({ status, request }) => (request ? status : undefined),
  RESPONSE_CODE_DETAILS: details,
  RESPONSE_FLAGS: ({ flags }) => flags,
  RESPONSE_FLAGS_LONG: ({ flags }) => longResponseFlags(flags),
  GRPC_STATUS: ({ grpcStatus }) => (grpcStatus === undefined ? undefined : grpcNames[grpcStatus] ?? String(grpcStatus)),
  GRPC_STATUS_NUMBER: ({ grpcStatus }) => grpcStatus,
  DURATION: ({ durationMs }) => round(durationMs),
  RESPONSE_DURATION: ({ headMs }) => round(headMs),
  RESPONSE_TX_DURATION: ({ headMs, durationMs }) => (headMs === undefined ? undefined : round(durationMs - headMs)),
  BYTES_SENT: ({ responseBytes }) => responseBytes,
  BYTES_RECEIVED: ({ requestBytes }) => requestBytes,
  UPSTREAM_HOST: ({ upstreamAddress }) => upstreamAddress,
  UPSTREAM_CLUSTER: upstreamCluster,
  UPSTREAM_CLUSTER_RAW: upstreamCluster,
  UPSTREAM_REQUEST_ATTEMPT_COUNT: ({ attempts }) => attempts,
  UPSTREAM_TRANSPORT_FAILURE_REASON: ({ reason, detail }) => (reason === 'connectFailure' ? detail ?? reason : undefined),
  UPSTREAM_PEER_URI_SAN: ({ destinationIdentity }) => destinationIdentity && formatIdentity(destinationIdentity),
  CONNECTION_TERMINATION_DETAILS: ({ request, reason }) => (request ? undefined : reason),
  DOWNSTREAM_REMOTE_ADDRESS: ({ context }) => formatAddr(context.caller.address),
  DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT: ({ context }) => context.caller.address.ip,
  DOWNSTREAM_REMOTE_PORT: ({ context }) => context.caller.address.port,
  DOWNSTREAM_LOCAL_ADDRESS: targetText,
  DOWNSTREAM_PEER_URI_SAN: ({ source }) => source.identity,
  DOWNSTREAM_PEER_SUBJECT: ({ context }) => context.clientCertificate?.subject,
  DOWNSTREAM_PEER_FINGERPRINT_256: ({ context }) => context.clientCertificate?.hash,
  REQUESTED_SERVER_NAME: ({ context }) => context.serverName,
  ROUTE_NAME: ({ rule }) => rule && `${rule.origin} ${rule.name}`,
  TRACE_ID: ({ traceId }) => traceId,
}

/** What Envoy has no operator for. */
const own: Readonly<Record<string, Read>> = {
  reason: ({ reason }) => reason,
  detail: ({ detail }) => detail,
  'src.workload': ({ source }) => source.peer.workload?.name,
  'src.namespace': ({ source }) => source.peer.workload?.namespace ?? source.peer.identity?.namespace,
  'src.identity': ({ source }) => source.identity,
  'dst.service': ({ destination }) => destination.service?.hostname,
  'dst.service_key': ({ destination }) => destination.service && serviceKey(destination.service),
  'dst.workload': ({ destination }) => destination.workload?.name,
  'dst.namespace': ({ destination }) => destination.service?.namespace ?? destination.workload?.namespace,
  'dst.identity': ({ destinationIdentity }) => destinationIdentity && formatIdentity(destinationIdentity),
  'policy.audit': ({ hits }) => hitsText(hits, 'audit'),
  'policy.dry_run': ({ hits }) => hitsText(hits, 'dryRun'),
}

function hitsText(hits: Finished['hits'], as: 'audit' | 'dryRun'): string | undefined {
  if (hits.length === 0) return undefined
  const found = hits.filter((hit) => hit.as === as)
  return found.length === 0 ? undefined : found.map(({ policy, rule }) => `${policy} rule ${rule}`).join(', ')
}

function pseudoHeader(name: string): ((of: Finished) => string | undefined) | undefined {
  switch (name) {
    case ':method': return ({ request }) => request?.head.method
    case ':authority': return ({ request }) => request?.head.authority
    case ':scheme': return ({ request }) => request?.head.scheme
    case ':path': return ({ request }) => request && (request.head.query === '' ? request.head.path.path : `${request.head.path.path}?${request.head.query}`)
    default: return undefined
  }
}

const headerName = /^[!#$%&'*+.^_`|~0-9a-z-]+$/

function headerRead(argument: string, headersOf: (of: Finished) => HeaderValues | undefined, operator: string): Read {
  const names = argument.toLowerCase().split('?')
  if (names.length > 2) throw bad(`%${operator}(${argument})% has more than one alternative`)
  const reads = names.map((name) => {
    const pseudo = operator === 'REQ' ? pseudoHeader(name) : undefined
    if (pseudo) return pseudo
    if (!headerName.test(name)) throw bad(`%${operator}(${argument})%: '${name}' is no name of a header`)
    return (of: Finished) => headersOf(of)?.get(name)
  })
  const [first, second] = reads
  return (of) => {
    const found = first?.(of)
    return found === undefined || found === '' ? second?.(of) : found
  }
}

const ofConnection: ReadonlySet<string> = new Set([
  'DOWNSTREAM_REMOTE_ADDRESS', 'DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT', 'DOWNSTREAM_REMOTE_PORT', 'DOWNSTREAM_LOCAL_ADDRESS', 'DOWNSTREAM_PEER_URI_SAN',
  'DOWNSTREAM_PEER_SUBJECT', 'DOWNSTREAM_PEER_FINGERPRINT_256', 'REQUESTED_SERVER_NAME', 'SIDESTEP src.workload', 'SIDESTEP src.namespace', 'SIDESTEP src.identity',
])
const ofDestination: ReadonlySet<string> = new Set([
  'UPSTREAM_PEER_URI_SAN', 'SIDESTEP dst.service', 'SIDESTEP dst.service_key', 'SIDESTEP dst.workload', 'SIDESTEP dst.namespace', 'SIDESTEP dst.identity',
])

function scopeOf(name: string, argument: string | undefined): Scope | undefined {
  const key = argument === undefined ? name : `${name} ${argument}`
  return ofConnection.has(key) ? 'connection' : ofDestination.has(key) ? 'destination' : undefined
}

const bad = (message: string): MeshError => new MeshError('BAD_CONFIG', `access log format: ${message}`)

function readOf(name: string, argument: string | undefined): Read {
  switch (name) {
    case 'REQ':
    case 'RESP':
      if (argument === undefined) throw bad(`%${name}% needs the name of a header, as in %${name}(USER-AGENT)%`)
      return headerRead(argument, name === 'REQ' ? ({ request }) => request?.head.headers : ({ answerHeaders }) => answerHeaders, name)
    case 'START_TIME': {
      const format = compileTimeFormat(argument ?? '')
      return ({ startedAtMs }) => format(startedAtMs)
    }
    case 'SIDESTEP': {
      const read = own[argument ?? '']
      if (!read) throw bad(`%SIDESTEP(${argument ?? ''})% is none of ${Object.keys(own).join(', ')}`)
      return read
    }
    case 'GRPC_STATUS':
      if (argument === 'NUMBER') return ({ grpcStatus }) => grpcStatus
      break
    default:
  }
  const read = plain[name]
  if (!read) throw bad(`%${name}% is none of ${[...Object.keys(plain), 'START_TIME', 'REQ(name)', 'RESP(name)', 'SIDESTEP(name)'].join(', ')}`)
  if (argument !== undefined) throw bad(`%${name}% takes nothing in parentheses`)
  return read
}

/** Whoever wants longer values may say so, up to here. */
const longestLength = 8_192

/** Text and operators in their order; neighbouring text is one. Throws MeshError BAD_CONFIG that says what and where. */
export function parseFormat(format: string): readonly (string | Operator)[] {
  const parts: (string | Operator)[] = []
  let text = ''
  let at = 0
  while (at < format.length) {
    const percent = format.indexOf('%', at)
    text += format.slice(at, percent < 0 ? undefined : percent)
    if (percent < 0) break
    if (format[percent + 1] === '%') {
      text += '%'
      at = percent + 2
      continue
    }
    const found = /%([A-Z][A-Z0-9_]*)(?:\(([^()]*)\))?(?::(\d{1,5}))?%/y
    found.lastIndex = percent
    const match = found.exec(format)
    if (!match) throw bad(`nothing that can be read at position ${percent + 1}: '${format.slice(percent, percent + 40)}'; a percent sign itself is %%`)
    const [whole, name = '', argument, length] = match
    const longest = length === undefined ? undefined : Number(length)
    if (longest !== undefined && (longest < 1 || longest > longestLength)) throw bad(`${whole}: a length is 1 to ${longestLength}`)
    if (text !== '') parts.push(text)
    text = ''
    parts.push({ read: readOf(name, argument), longest, isOwn: name === 'START_TIME', scope: scopeOf(name, argument) })
    at = percent + whole.length
  }
  if (text !== '') parts.push(text)
  return parts
}
