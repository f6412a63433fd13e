// Whether a request would be allowed here, and why, policy by policy: the target and its chain are those of real requests, and
// so is the code that decides. What depends on somebody else (an authorizer) is `unknown` rather than guessed. Reads only.
import { canonicalIp } from '../core/address.ts'
import { formatIdentity } from '../core/identity.ts'
import { clientOf, podsNamed, serviceNamed } from '../member/named.ts'
import type { Client } from '../member/named.ts'
import { isVisible } from '../model/service-index.ts'
import type { WorkloadStore } from '../model/workload-store.ts'
import type { ExplainAnswer, ExplainHttpRequest } from '../model/ztunnel-views.ts'
import { isBehind } from '../policy/destination.ts'
import { explainL7 } from '../policy/l7/authorization-explain.ts'
import { normalisePath } from '../policy/l7/path.ts'
import type { PathRules } from '../policy/l7/path.ts'
import { HeaderMap } from '../policy/l7/request-head.ts'
import { isBoundHere } from './accept.ts'
import type { AcceptFacts } from './accept.ts'
import type { Chain, Target } from './context.ts'
import { coveredTarget } from './covered.ts'
import { destinationOf } from './filters/authorization.ts'

export interface ExplainParts extends AcceptFacts {
  readonly chainOf: (target: Target) => Chain
  readonly paths: PathRules
}

const unknown = (because: string, line: string): ExplainAnswer =>
  ({ answer: 'unknown', because, lines: [`cannot tell: ${line}`] })
const refused = (because: string, line: string): ExplainAnswer => ({ answer: 'denied', because, lines: [`REFUSED: ${line}`] })
/** Of a client of whom only its identity is known. */
const noAddress = '0.0.0.0'

export function explainRequest(parts: ExplainParts, asked: ExplainHttpRequest): ExplainAnswer {
  const client = clientOf(parts.store, asked)
  if (!client) return unknown('unknownSource', `${asked.from} is no pod, service, address or identity that is known here`)
  if (!client.identity) return unknown('noIdentity', `${client.text} proves no identity, and a waypoint is for those who do`)
  const found = targetNamed(parts, asked)
  if ('answer' in found) return found
  const host = asked.host ?? hostNamed(found)
  const target = coveredTarget(parts, { target: found, caller: callerOf(client) }, host)
  if (!target) return refused('foreignHost', `${host} is not one of ${asked.to}: 421`)
  const [rawPath = '', ...query] = asked.path.split('?')
  const path = normalisePath(rawPath, parts.paths)
  if (path.t === 'refused') return refused('badPath', `the path is refused (${path.because}): 400`)
  const headers = headersOf(asked.header)
  if (!headers) return unknown('badHeader', 'a header is given as NAME: VALUE')
  const { method } = asked
  const head: Head = { method, scheme: 'http', authority: host.toLowerCase(), path, query: query.join('?'), headers }
  return judged(parts.chainOf(target), client, target, head)
}

type Head = Parameters<typeof explainL7>[1]['head']

function judged({ authorizer, jwtRules }: Chain, client: Client, target: Target, head: Head): ExplainAnswer {
  const { identity, address } = callerOf(client)
  const named: Head = identity ? { ...head, sourceIdentity: formatIdentity(identity), sourceNamespace: identity.namespace } : head
  const { verdict, lines } = explainL7(authorizer, {
    head: named, remoteIp: address.ip, connection: { identity, sourceIp: address.ip, destination: destinationOf(target) },
  })
  const { because, policy, rule } = verdict
  const decided = { because, ...(policy !== undefined && { policy }), ...(rule !== undefined && { rule }) }
  const notes = [
    ...lines,
    ...(client.workload ? [] : [`no pod is known that runs as ${client.text}: its address counts as ${noAddress}`]),
    ...(jwtRules.length > 0 ? ['tokens are believed here; the question has none'] : []),
  ]
  if (verdict.allowed && verdict.ask.length > 0) return { ...decided, answer: 'unknown', because: 'asksProvider', lines: notes }
  return { ...decided, answer: verdict.allowed ? 'allowed' : 'denied', lines: notes }
}

function callerOf({ identity, workload }: Client) {
  return { identity, workload, address: { ip: workload?.ips[0] ?? noAddress, port: 0 } }
}

/** Undefined where one is none. */
function headersOf(texts: readonly string[]): HeaderMap | undefined {
  const pairs = texts.map((text) => /^([^:\s]+)\s*[:=]\s*(.*)$/.exec(text))
  if (!pairs.every((pair) => pair !== null)) return undefined
  return HeaderMap.of(pairs.map(([, name = '', value = '']) => [name, value] as const))
}

function hostNamed(target: Target): string {
  if (target.t === 'service') return target.service.hostname.replace(/^\*/, 'any')
  return target.t === 'workload' ? target.workload.ips[0] ?? '' : target.listener.hostname ?? ''
}

function targetNamed({ store, self, network }: ExplainParts, { from, to, port }: ExplainHttpRequest): Target | ExplainAnswer {
  if (!self) return unknown('unknownSelf', 'the mesh has not told this waypoint yet who it is')
  const ip = canonicalIp(to)
  const namespace = clientNamespace(store, from)
  const service = ip === undefined ? serviceNamed(store, to) : store.serviceByAddress(network, ip, namespace)
  const pod = ip === undefined ? podsNamed(store, to)[0] : store.workloadByIp(network, ip)
  if (pod && !(ip !== undefined && service)) {
    if (!pod.waypoint || !isBehind(pod.waypoint, self, store)) return unknown('notBoundHere', `${to} is not behind this waypoint`)
    if (port === undefined) return unknown('portNeeded', 'say with --port which port of the pod is meant')
    return { t: 'workload', workload: pod, port }
  }
  if (!service || !isVisible(service, namespace)) {
    return unknown('unknownDestination', `${to} is no pod, service or address that is known here`)
  }
  if (!isBoundHere(service, self, store)) return unknown('notBoundHere', `${to} is not behind this waypoint`)
  const ports = service.ports.map(({ servicePort }) => servicePort)
  const [only, ...others] = ports
  const chosen = port ?? (others.length === 0 ? only : undefined)
  const { hostname } = service
  if (chosen === undefined) return unknown('portNeeded', `${hostname} has the ports ${ports.join(', ')}; say which with --port`)
  if (!ports.includes(chosen)) return refused('unknownPort', `${hostname} has no port ${chosen}`)
  return { t: 'service', service, port: chosen }
}

function clientNamespace(store: WorkloadStore, from: string): string {
  const client = clientOf(store, { from, mesh: true })
  return client?.identity?.namespace ?? ''
}
