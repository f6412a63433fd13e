// HTTPRoute, GRPCRoute, TCPRoute and TLSRoute of the Gateway API, as its CRDs have them and with what those check. Unknown
// fields are refused: a misspelt header match that were dropped would widen its rule. Durations are milliseconds after reading.
import { z } from 'zod'
import { metadata, portNumber, shortName } from './manifest-fields.ts'
import { gatewayGroup, group, kind, preciseHostname, referentName, routeHostname, sectionName } from './manifest-gateway.ts'

const units = { h: 3_600_000, m: 60_000, s: 1_000, ms: 1 } as const

/** GEP-2257: `1h30m`, `500ms`. To milliseconds. */
export const gatewayDuration = z
  .string()
  .regex(/^([0-9]{1,5}(h|m|s|ms)){1,4}$/, 'must be a duration such as 10s, 500ms or 1h30m')
  .transform((text) => {
    let total = 0
    for (const [, amount = '0', unit = 'ms'] of text.matchAll(/(\d+)(ms|h|m|s)/g)) total += Number(amount) * units[unit as keyof typeof units]
    return total
  })

export const headerName = z.string().min(1).max(256).regex(/^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$/, 'must be the name of a header')
/** What could end a header early or start another one is no part of a value. */
export const headerValue = z.string().min(1).max(4096).regex(/^[!-~]+([\t ]?[!-~]+)*$/, 'must be printable ASCII, words separated by single spaces')
/** Framing and connection are the proxy's: changed by a rule they would let one request become two. */
const proxyHeaders = new Set([
  'connection', 'content-length', 'host', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade',
])

export function proxyHeaderProblem(name: string): string | undefined {
  const lower = name.toLowerCase()
  if (!proxyHeaders.has(lower)) return undefined
  return lower === 'host' ? 'the host is changed by a rewrite of the hostname' : `${lower} is set by the proxy itself`
}

const headerFilter = z
  .strictObject({
    set: z.array(z.strictObject({ name: headerName, value: headerValue })).max(16).default([]),
    add: z.array(z.strictObject({ name: headerName, value: headerValue })).max(16).default([]),
    remove: z.array(headerName).max(16).default([]),
  })
  .superRefine((filter, ctx) => {
    const seen = new Set<string>()
    const check = (name: string, path: PropertyKey[]): void => {
      const lower = name.toLowerCase()
      if (seen.has(lower)) ctx.addIssue({ code: 'custom', path, message: `more than one action for the header ${name}` })
      seen.add(lower)
      const problem = proxyHeaderProblem(name)
      if (problem !== undefined) ctx.addIssue({ code: 'custom', path, message: problem })
    }
    filter.set.forEach(({ name }, i) => check(name, ['set', i, 'name']))
    filter.add.forEach(({ name }, i) => check(name, ['add', i, 'name']))
    filter.remove.forEach((name, i) => check(name, ['remove', i]))
  })
export type HeaderFilter = z.infer<typeof headerFilter>

const pathModifier = z
  .strictObject({
    type: z.enum(['ReplaceFullPath', 'ReplacePrefixMatch']),
    replaceFullPath: z.string().max(1024).optional(),
    replacePrefixMatch: z.string().max(1024).optional(),
  })
  .refine(
    ({ type, replaceFullPath, replacePrefixMatch }) => (type === 'ReplaceFullPath') === (replaceFullPath !== undefined) && (type === 'ReplacePrefixMatch') === (replacePrefixMatch !== undefined),
    'the value that the type names is needed, and no other',
  )
  .refine(({ replaceFullPath, replacePrefixMatch }) => !/[^!-~]|[?#]/.test(replaceFullPath ?? replacePrefixMatch ?? ''), 'must be a path')
export type PathModifier = z.infer<typeof pathModifier>

const objectReference = {
  group: group.default(''), kind: kind.default('Service'), namespace: shortName.optional(), name: referentName,
  port: portNumber.optional(),
}
const needsPort = ({ group, kind, port }: { group: string; kind: string; port?: number | undefined }): boolean => group !== '' || kind !== 'Service' || port !== undefined
const portMessage = { path: ['port'], message: 'a Service needs a port' }
const backendObject = z.strictObject(objectReference).refine(needsPort, portMessage)
const weight = z.int().min(0).max(1_000_000).default(1)
const backendRef = z.strictObject({ ...objectReference, weight }).refine(needsPort, portMessage)
export type BackendReference = z.infer<typeof backendRef>

const corsOrigin = z.string().max(253).regex(/^(\*|https?:\/\/(\*|(\*\.)?[A-Za-z0-9_.*-]+)(:(\d{1,5}|\*))?)$/, 'must be * or scheme://host with an optional port')
const corsHeader = z.union([z.literal('*'), headerName])
const corsFilter = z
  .strictObject({
    allowOrigins: z.array(corsOrigin).max(64).default([]),
    allowCredentials: z.boolean().default(false),
    allowMethods: z.array(z.enum(['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'CONNECT', 'OPTIONS', 'TRACE', 'PATCH', '*'])).max(9).default([]),
    allowHeaders: z.array(corsHeader).max(64).default([]),
    exposeHeaders: z.array(corsHeader).max(64).default([]),
    maxAge: z.int().min(1).max(2 ** 31 - 1).default(5),
  })
  .superRefine((cors, ctx) => {
    for (const list of ['allowOrigins', 'allowMethods'] as const) {
      if (cors[list].some((each) => each === '*') && cors[list].length > 1) ctx.addIssue({ code: 'custom', path: [list], message: '* stands alone' })
    }
  })
export type CorsFilter = z.infer<typeof corsFilter>

const mirrorFilter = z
  .strictObject({
    backendRef: backendObject,
    percent: z.int().min(0).max(100).optional(),
    fraction: z
      .strictObject({ numerator: z.int().min(0).max(2 ** 31 - 1), denominator: z.int().min(1).max(2 ** 31 - 1).default(100) })
      .refine(({ numerator, denominator }) => numerator <= denominator, 'must not be more than all')
      .optional(),
  })
  .refine(({ percent, fraction }) => percent === undefined || fraction === undefined, 'only one of percent and fraction')

const filterFields = {
  RequestHeaderModifier: 'requestHeaderModifier',
  ResponseHeaderModifier: 'responseHeaderModifier',
  RequestMirror: 'requestMirror',
  RequestRedirect: 'requestRedirect',
  URLRewrite: 'urlRewrite',
  CORS: 'cors',
  ExternalAuth: 'externalAuth',
  ExtensionRef: 'extensionRef',
} as const

const filter = z
  .strictObject({
    type: z.enum([
      'RequestHeaderModifier', 'ResponseHeaderModifier', 'RequestMirror', 'RequestRedirect', 'URLRewrite', 'CORS',
      'ExternalAuth', 'ExtensionRef',
    ]),
    requestHeaderModifier: headerFilter.optional(),
    responseHeaderModifier: headerFilter.optional(),
    requestMirror: mirrorFilter.optional(),
    requestRedirect: z
      .strictObject({
        scheme: z.enum(['http', 'https']).optional(),
        hostname: preciseHostname.optional(),
        path: pathModifier.optional(),
        port: portNumber.optional(),
        statusCode: z.union([z.literal(301), z.literal(302), z.literal(303), z.literal(307), z.literal(308)], 'must be 301, 302, 303, 307 or 308').default(302),
      })
      .optional(),
    urlRewrite: z.strictObject({ hostname: preciseHostname.optional(), path: pathModifier.optional() }).optional(),
    cors: corsFilter.optional(),
    externalAuth: z.record(z.string(), z.unknown()).optional(),
    extensionRef: z.strictObject({ group, kind, name: referentName }).optional(),
  })
  .superRefine((value, ctx) => {
    for (const [type, field] of Object.entries(filterFields)) {
      const isThere = value[field] !== undefined
      if (isThere && value.type !== type) ctx.addIssue({ code: 'custom', path: [field], message: `belongs to the type ${type}` })
      if (!isThere && value.type === type) ctx.addIssue({ code: 'custom', path: [field], message: `is needed for the type ${type}` })
    }
  })
export type RouteFilter = z.infer<typeof filter>

const once = ['RequestHeaderModifier', 'ResponseHeaderModifier', 'RequestRedirect', 'URLRewrite', 'CORS', 'ExternalAuth'] as const
const filters = z
  .array(filter)
  .max(16)
  .superRefine((list, ctx) => {
    for (const type of once) if (list.filter((each) => each.type === type).length > 1) ctx.addIssue({ code: 'custom', message: `the filter ${type} cannot be repeated` })
    if (list.some(({ type }) => type === 'RequestRedirect') && list.some(({ type }) => type === 'URLRewrite')) {
      ctx.addIssue({ code: 'custom', message: 'RequestRedirect and URLRewrite exclude each other' })
    }
  })
  .default([])
const grpcFilters = filters.refine(
  (list) => list.every(({ type }) => type !== 'RequestRedirect' && type !== 'URLRewrite' && type !== 'CORS' && type !== 'ExternalAuth'),
  'a GRPCRoute changes headers, mirrors and extends; nothing else',
)

const pathValue = /^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+$/
const pathMatch = z
  .strictObject({
    type: z.enum(['Exact', 'PathPrefix', 'RegularExpression']).default('PathPrefix'), value: z.string().max(1024).default('/'),
  })
  .superRefine(({ type, value }, ctx) => {
    const refuse = (message: string): void => ctx.addIssue({ code: 'custom', path: ['value'], message })
    if (type === 'RegularExpression') return
    if (!value.startsWith('/')) refuse('must start with /')
    if (!pathValue.test(value)) refuse('holds a character that paths do not have')
    if (value.includes('//') || value.includes('/./') || value.includes('/../') || /%2f/i.test(value) || value.endsWith('/..') || value.endsWith('/.')) {
      refuse('must not contain //, /./, /../ or %2f: no request has them after normalisation')
    }
  })
const textMatch = z.enum(['Exact', 'RegularExpression']).default('Exact')
const headerMatch = z.strictObject({ type: textMatch, name: headerName, value: z.string().min(1).max(4096) })
const queryMatch = z.strictObject({ type: textMatch, name: headerName, value: z.string().min(1).max(1024) })
const httpMatch = z.strictObject({
  path: pathMatch.prefault({}),
  headers: z.array(headerMatch).max(16).default([]),
  queryParams: z.array(queryMatch).max(16).default([]),
  method: z.enum(['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'CONNECT', 'OPTIONS', 'TRACE', 'PATCH']).optional(),
})
export type HttpRouteMatch = z.infer<typeof httpMatch>

const sessionPersistence = z
  .strictObject({
    sessionName: z.string().min(1).max(128).regex(/^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$/, 'must be the name of a cookie or header').optional(),
    absoluteTimeout: gatewayDuration.optional(),
    idleTimeout: gatewayDuration.optional(),
    type: z.enum(['Cookie', 'Header']).default('Cookie'),
    cookieConfig: z.strictObject({ lifetimeType: z.enum(['Permanent', 'Session']).default('Session') }).optional(),
  })
  .refine(({ cookieConfig, absoluteTimeout }) => cookieConfig?.lifetimeType !== 'Permanent' || absoluteTimeout !== undefined, {
    path: ['absoluteTimeout'], message: 'is needed for a permanent cookie',
  })
export type SessionPersistenceSpec = z.infer<typeof sessionPersistence>

const retry = z.strictObject({
  codes: z.array(z.int().min(400).max(599)).max(200).default([]),
  attempts: z.int().min(0).max(100).optional(),
  backoff: gatewayDuration.optional(),
})
const timeouts = z
  .strictObject({ request: gatewayDuration.optional(), backendRequest: gatewayDuration.optional() })
  .refine(({ request, backendRequest }) => !request || backendRequest === undefined || backendRequest <= request, {
    path: ['backendRequest'], message: 'cannot be longer than the whole request',
  })

const httpRule = z
  .strictObject({
    name: sectionName.optional(),
    matches: z.array(httpMatch).max(64).default([]),
    filters,
    backendRefs: z.array(z.strictObject({ ...objectReference, weight, filters }).refine(needsPort, portMessage)).max(16).default([]),
    timeouts: timeouts.optional(),
    retry: retry.optional(),
    sessionPersistence: sessionPersistence.optional(),
  })
  .superRefine((rule, ctx) => {
    if (rule.backendRefs.length > 0 && rule.filters.some(({ type }) => type === 'RequestRedirect')) {
      ctx.addIssue({ code: 'custom', path: ['filters'], message: 'a redirect has no backendRefs' })
    }
    const [first] = rule.matches
    const hasOnePrefix = (rule.matches.length === 0) || (rule.matches.length === 1 && first?.path.type === 'PathPrefix')
    const replacesPrefix = (each: RouteFilter): boolean => (each.requestRedirect?.path ?? each.urlRewrite?.path)?.type === 'ReplacePrefixMatch'
    if (!hasOnePrefix && [...rule.filters, ...rule.backendRefs.flatMap((each) => each.filters)].some(replacesPrefix)) {
      ctx.addIssue({
        code: 'custom', path: ['filters'], message: 'ReplacePrefixMatch needs exactly one match, with a PathPrefix',
      })
    }
  })
export type HttpRouteRule = z.infer<typeof httpRule>

const parentRef = z.strictObject({
  group: group.default(gatewayGroup),
  kind: kind.default('Gateway'),
  namespace: shortName.optional(),
  name: referentName,
  sectionName: sectionName.optional(),
  port: portNumber.optional(),
})
export type ParentReference = z.infer<typeof parentRef>

const parentRefs = z
  .array(parentRef)
  .max(32)
  .superRefine((refs, ctx) => {
    const keys = refs.map(({ group, kind, namespace = '', name, sectionName = '', port = 0 }) => `${group} ${kind} ${namespace}/${name} ${sectionName} ${port}`)
    keys.forEach((key, i) => {
      if (keys.indexOf(key) !== i) ctx.addIssue({ code: 'custom', path: [i], message: 'the same parent is named twice' })
    })
  })
  .default([])
const common = { parentRefs, useDefaultGateways: z.enum(['All', 'None']).optional() }
const hostnames = z.array(routeHostname).max(16).default([])

function uniqueNames(rules: readonly { readonly name?: string | undefined }[], ctx: z.RefinementCtx): void {
  rules.forEach(({ name }, i) => {
    if (name !== undefined && rules.findIndex((each) => each.name === name) !== i) ctx.addIssue({ code: 'custom', path: [i, 'name'], message: `two rules are named ${name}` })
  })
}

function fewMatches(rules: readonly { readonly matches: readonly unknown[] }[]): boolean {
  return rules.reduce((sum, { matches }) => sum + matches.length, 0) <= 128
}

export const httpRouteSchema = z.object({
  metadata,
  spec: z.strictObject({
    ...common,
    hostnames,
    rules: z.array(httpRule).min(1).max(16).superRefine(uniqueNames).refine(fewMatches, 'more than 128 matches').prefault([{}]),
  }),
})

const grpcMatch = z.strictObject({
  method: z
    .strictObject({ type: textMatch, service: z.string().max(1024).optional(), method: z.string().max(1024).optional() })
    .superRefine(({ type, service, method }, ctx) => {
      if (!service && !method) ctx.addIssue({ code: 'custom', message: 'service or method is needed' })
      if (type !== 'Exact') return
      const refuse = (field: string): void => ctx.addIssue({ code: 'custom', path: [field], message: `is no gRPC ${field}` })
      if (service && !/^\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*$/i.test(service)) refuse('service')
      if (method && !/^[A-Za-z_][A-Za-z_0-9]*$/.test(method)) refuse('method')
    })
    .optional(),
  headers: z.array(headerMatch).max(16).default([]),
})
export type GrpcRouteMatch = z.infer<typeof grpcMatch>
const grpcRule = z.strictObject({
  name: sectionName.optional(),
  matches: z.array(grpcMatch).max(64).default([]),
  filters: grpcFilters,
  backendRefs: z.array(z.strictObject({ ...objectReference, weight, filters: grpcFilters }).refine(needsPort, portMessage)).max(16).default([]),
  sessionPersistence: sessionPersistence.optional(),
})
export type GrpcRouteRule = z.infer<typeof grpcRule>

export const grpcRouteSchema = z.object({
  metadata,
  spec: z.strictObject({
    ...common,
    hostnames,
    rules: z.array(grpcRule).max(16).superRefine(uniqueNames).refine(fewMatches, 'more than 128 matches').prefault([{}]),
  }),
})

const streamRule = z.strictObject({ name: sectionName.optional(), backendRefs: z.array(backendRef).max(16).default([]) })
export type StreamRouteRule = z.infer<typeof streamRule>

export const tcpRouteSchema = z.object({
  metadata, spec: z.strictObject({ ...common, rules: z.array(streamRule).min(1).max(16).superRefine(uniqueNames) }),
})
export const tlsRouteSchema = z.object({
  metadata,
  spec: z.strictObject({
    ...common, hostnames: z.array(routeHostname).max(1024).default([]),
    rules: z.array(streamRule).min(1).max(16).superRefine(uniqueNames),
  }),
})
