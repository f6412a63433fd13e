// What a VirtualService's HTTP rule does with a request, in the model's terms. What cannot be done as written is said; where
// leaving it out would change what happens to requests, they are answered 500 instead.
import type {
  DestinationSpec, HeaderOperations, HeadersSpec, VirtualCors, VirtualFault, VirtualHttpRoute, VirtualRedirect, VirtualRetries,
} from '../../../model/manifest-traffic.ts'
import { proxyHeaderProblem } from '../../../model/manifest-route.ts'
import type {
  Backend, Cors, Fault, Fraction, HeaderChange, HttpRule, Mirror, PathRewrite, Redirect, Retry,
} from '../../../model/route.ts'
import { compileSubstitution } from '../../../policy/l7/pattern.ts'
import { MeshError } from '../../../core/errors.ts'
import { given } from './findings.ts'
import { quoted, valueOf } from './virtual-match.ts'

export interface ActionContext {
  /** The port that requests came to. */
  readonly port: number
  /** The backend that a destination means, broken if there is none. */
  resolve(destination: DestinationSpec, weight: number): Backend
  problem(text: string): void
  note(text: string): void
}

type RuleBody = Omit<HttpRule, 'origin' | 'name' | 'matches' | 'filters'>

const answered = (status: number): RuleBody => ({ action: { t: 'respond', status }, mirrors: [], timeouts: {} })

export function ruleBody(route: VirtualHttpRoute, context: ActionContext): RuleBody {
  const broken = (why: string): RuleBody => {
    context.problem(`${why}; its requests are answered 500`)
    return answered(500)
  }
  if (route.delegate) return broken('delegate is not supported')
  if (route.rateLimit) return broken('rateLimit is not supported: a RateLimitPolicy does it')
  const { change: requestHeaders, host } = headerChange(route.headers?.request, context)
  const { change: responseHeaders } = headerChange(route.headers?.response, context)
  const shared = given({
    requestHeaders, responseHeaders, cors: route.corsPolicy && corsOf(route.corsPolicy, context),
    fault: route.fault && faultOf(route.fault, context),
  })
  if (route.redirect) {
    const redirect = redirectOf(route.redirect, context.port)
    return typeof redirect === 'string' ? broken(redirect) : {
      ...shared, action: { t: 'redirect', redirect }, mirrors: [], timeouts: {},
    }
  }
  if (route.directResponse) {
    const { status, body } = route.directResponse
    const text = body?.bytes === undefined ? body?.string : textOf(body.bytes)
    if (body?.bytes !== undefined && text === undefined) return broken('directResponse.body.bytes is no UTF-8 text')
    return {
      ...shared, action: { t: 'respond', status, ...(text === undefined ? {} : { body: text }) }, mirrors: [], timeouts: {},
    }
  }
  const backends = backendsOf(route, context)
  if (backends.length > 1 && backends.every(({ weight }) => weight === 0)) return broken('all weights are 0')
  const authority = route.rewrite?.authority ?? host
  return {
    ...shared,
    action: { t: 'forward', backends },
    mirrors: mirrorsOf(route, context),
    timeouts: given({ requestMs: route.timeout }),
    retry: retryOf(route.retries, context),
    ...(authority === undefined ? {} : { rewrite: { hostname: authority } }),
  }
}

function backendsOf(route: VirtualHttpRoute, context: ActionContext): Backend[] {
  return route.route.map(({ destination, weight, headers }) => {
    // A single destination gets everything, whatever its weight says.
    const backend = context.resolve(destination, route.route.length === 1 ? 1 : weight)
    return { ...backend, ...destinationHeaders(headers, context) }
  })
}

function destinationHeaders(
  headers: HeadersSpec | undefined, context: ActionContext,
): Pick<Backend, 'requestHeaders' | 'responseHeaders'> {
  const request = headerChange(headers?.request, context)
  if (request.host !== undefined) context.problem('the host cannot be changed for a single destination; use rewrite.authority')
  return given({ requestHeaders: request.change, responseHeaders: headerChange(headers?.response, context).change })
}

function headerChange(
  spec: HeaderOperations | undefined, context: ActionContext,
): { readonly change?: HeaderChange; readonly host?: string } {
  if (!spec) return {}
  let host: string | undefined
  const pairs = (map: Readonly<Record<string, string>>): [string, string][] => Object.entries(map).flatMap(([written, value]): [string, string][] => {
    const name = written.toLowerCase()
    if (name === 'host' || name === ':authority') {
      host ??= value
      return []
    }
    const problem = proxyHeaderProblem(name)
    if (problem !== undefined) context.problem(`headers: ${problem}`)
    return problem === undefined ? [[name, value]] : []
  })
  const set = pairs(spec.set)
  const add = pairs(spec.add)
  const remove = spec.remove.map((name) => name.toLowerCase()).filter((name) => {
    const problem = proxyHeaderProblem(name)
    if (problem !== undefined) context.problem(`headers: ${problem}`)
    return problem === undefined
  })
  const isEmpty = set.length + add.length + remove.length === 0
  return given({ change: isEmpty ? undefined : { set, add, remove }, host })
}

function redirectOf(
  { uri, authority, port, derivePort, scheme, redirectCode = 301 }: VirtualRedirect, requestPort: number,
): Redirect | string {
  const statuses = [301, 302, 303, 307, 308] as const
  const status = statuses.find((each) => each === redirectCode)
  if (status === undefined) return `redirectCode ${redirectCode} is not supported`
  if (scheme !== undefined && scheme !== '' && scheme !== 'http' && scheme !== 'https') return `the scheme ${scheme} is not supported`
  const split = /^(.*[^:]):(\d{1,5})$/.exec(authority ?? '')
  return {
    status,
    ...(scheme === 'http' || scheme === 'https' ? { scheme } : {}),
    ...given({
      hostname: split?.[1] ?? (authority === '' ? undefined : authority),
      port: port ?? (derivePort === 'FROM_REQUEST_PORT' ? requestPort : split ? Number(split[2]) : undefined),
      path: uri === undefined || uri === '' ? undefined : { kind: 'full' as const, value: uri },
    }),
  }
}

function textOf(base64: string): string | undefined {
  const bytes = Buffer.from(base64, 'base64')
  const text = bytes.toString('utf8')
  return Buffer.from(text, 'utf8').equals(bytes) ? text : undefined
}

/** The path rewrite for requests that came by this condition on the URI; a text is a reason why there is none. */
export function pathRewriteOf(
  { rewrite }: VirtualHttpRoute,
  uri: { readonly exact?: string | undefined; readonly prefix?: string | undefined; readonly regex?: string | undefined } | undefined,
  isFolded: boolean,
): PathRewrite | string | undefined {
  if (rewrite?.uriRegexRewrite) {
    const { match: pattern, rewrite: substitution } = rewrite.uriRegexRewrite
    return checked({ kind: 'regex', pattern, substitution })
  }
  if (rewrite?.uri === undefined || rewrite.uri === '') return undefined
  if (uri?.exact !== undefined || uri?.regex !== undefined) return { kind: 'full', value: rewrite.uri }
  // Istio replaces the text of the prefix, and without a condition the slash that every path begins with.
  const prefix = quoted(uri?.prefix ?? '/')
  return checked({ kind: 'regex', pattern: isFolded ? `^(?i:${prefix})` : `^${prefix}`, substitution: rewrite.uri.replaceAll('\\', '\\\\') })
}

function checked(rewrite: Extract<PathRewrite, { kind: 'regex' }>): PathRewrite | string {
  try {
    compileSubstitution(rewrite.pattern, rewrite.substitution)
    return rewrite
  } catch (error) {
    if (!(error instanceof MeshError)) throw error
    return error.message
  }
}

function percentOf(value: number): Fraction {
  return { numerator: Math.round(value * 10_000), denominator: 1_000_000 }
}

function mirrorsOf(route: VirtualHttpRoute, context: ActionContext): Mirror[] {
  const percent = route.mirrorPercentage?.value ?? route.mirrorPercent ?? route.mirror_percent ?? 100
  const all = [
    ...(route.mirror ? [{ destination: route.mirror, value: percent }] : []),
    ...route.mirrors.map(({ destination, percentage }) => ({ destination, value: percentage?.value ?? 100 })),
  ]
  return all.flatMap(({ destination, value }): Mirror[] => {
    const backend = context.resolve(destination, 1)
    return value > 0 && backend.broken === undefined ? [{ backend, fraction: percentOf(value) }] : []
  })
}

/** What Istio retries where nobody says anything. */
const istioDefault: Retry = {
  attempts: 2, backoffMs: 25, statuses: [503], on: ['connectFailure', 'refusedStream', 'retriableGrpc'],
}

const conditions: Readonly<Record<string, readonly Retry['on'][number][]>> = {
  '5xx': ['5xx'], 'gateway-error': ['gatewayError'], reset: ['reset'], 'reset-before-request': ['reset'], 'connect-failure': ['connectFailure'],
  'refused-stream': ['refusedStream'], 'retriable-4xx': [], 'retriable-status-codes': [], cancelled: ['retriableGrpc'], unavailable: ['retriableGrpc'],
  'resource-exhausted': ['retriableGrpc'],
}

function retryOf(spec: VirtualRetries | undefined, context: ActionContext): Retry {
  if (!spec) return istioDefault
  if (spec.retryRemoteLocalities) context.note('retries.retryRemoteLocalities is not honoured: another endpoint is tried, near ones first')
  if (spec.retryIgnorePreviousHosts === false) context.note('retries.retryIgnorePreviousHosts is not honoured: endpoints that failed are avoided')
  const shared = {
    attempts: spec.attempts, backoffMs: spec.backoff ?? istioDefault.backoffMs,
    ...given({ perTryTimeoutMs: spec.perTryTimeout }),
  }
  const words = (spec.retryOn ?? '').split(',').map((word) => word.trim()).filter((word) => word !== '')
  if (words.length === 0) return { ...shared, statuses: istioDefault.statuses, on: istioDefault.on }
  const statuses = new Set<number>()
  const on = new Set<Retry['on'][number]>()
  for (const word of words) {
    if (/^[1-5]\d\d$/.test(word)) statuses.add(Number(word))
    else if (!Object.hasOwn(conditions, word)) context.problem(`retries.retryOn: ${word.slice(0, 50)} is not supported and not retried`)
    else for (const each of conditions[word] ?? []) on.add(each)
    if (word === 'retriable-4xx') statuses.add(409)
  }
  return { ...shared, statuses: [...statuses], on: [...on] }
}

/** https://github.com/grpc/grpc/blob/master/doc/statuscodes.md */
const grpcStatuses = [
  'OK', 'CANCELLED', 'UNKNOWN', 'INVALID_ARGUMENT', 'DEADLINE_EXCEEDED', 'NOT_FOUND', 'ALREADY_EXISTS', 'PERMISSION_DENIED', 'RESOURCE_EXHAUSTED',
  'FAILED_PRECONDITION', 'ABORTED', 'OUT_OF_RANGE', 'UNIMPLEMENTED', 'INTERNAL', 'UNAVAILABLE', 'DATA_LOSS', 'UNAUTHENTICATED',
]

function faultOf({ delay, abort }: VirtualFault, context: ActionContext): Fault | undefined {
  const delayPercent = delay?.percentage?.value ?? delay?.percent ?? 0
  if (delay?.exponentialDelay !== undefined) context.problem('fault.delay.exponentialDelay is not supported')
  if (abort?.http2Error !== undefined) context.problem('fault.abort.http2Error is not supported')
  const grpcStatus = abort?.grpcStatus === undefined ? undefined : grpcStatuses.indexOf(abort.grpcStatus)
  if (grpcStatus === -1) context.problem(`fault.abort.grpcStatus ${JSON.stringify(abort?.grpcStatus)} is no gRPC status`)
  const abortPercent = abort?.percentage?.value ?? 0
  if ((delay && delayPercent === 0) || (abort && abortPercent === 0)) context.note('a fault without percentage happens to no request, as in Istio')
  const isAborting = abortPercent > 0 && (abort?.httpStatus !== undefined || (grpcStatus !== undefined && grpcStatus >= 0))
  const fault: Fault = given({
    delay: delay?.fixedDelay !== undefined && delayPercent > 0 ? { ms: delay.fixedDelay, fraction: percentOf(delayPercent) } : undefined,
    abort: isAborting ? { ...given({ status: abort?.httpStatus, grpcStatus: grpcStatus === -1 ? undefined : grpcStatus }), fraction: percentOf(abortPercent) } : undefined,
  })
  return fault.delay || fault.abort ? fault : undefined
}

function corsOf(spec: VirtualCors, context: ActionContext): Cors {
  const listed = spec.allowOrigins ?? (spec.allowOrigin ?? []).map((exact) => ({ exact }))
  if (spec.unmatchedPreflights === 'FORWARD') context.note('corsPolicy.unmatchedPreflights FORWARD is not honoured: such preflights are answered without permission')
  const allowOrigins = listed.flatMap((each): Cors['allowOrigins'] => {
    try {
      const value = valueOf(each)
      if (value.kind === 'exact' && value.value === '*') return [{ kind: 'presence' }]
      // Only Gateway API origins have stars within; here one would let in more than was written.
      if (value.kind === 'exact' && value.value.includes('*')) throw new MeshError('BAD_CONFIG', `${JSON.stringify(value.value.slice(0, 100))} has a star, which means nothing in an exact origin`)
      return [value]
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      context.problem(`corsPolicy.allowOrigins: ${error.message}`)
      return []
    }
  })
  return {
    allowOrigins, allowMethods: spec.allowMethods, allowHeaders: spec.allowHeaders, exposeHeaders: spec.exposeHeaders, allowCredentials: spec.allowCredentials,
    ...(spec.maxAge === undefined ? {} : { maxAgeSeconds: Math.floor(spec.maxAge / 1000) }),
  }
}
