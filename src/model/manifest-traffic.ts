// VirtualService with Istio's spec, for people who arrive with one. Unknown fields are refused, as a dropped condition would
// widen its rule; what Istio knows and we do not serve is kept, so that translation can say so on the object. Durations are
// milliseconds after reading.
import { z } from 'zod'
import { metadata, portNumber, shortName } from './manifest-fields.ts'
import { headerName } from './manifest-route.ts'

const units = { h: 3_600_000, m: 60_000, s: 1_000, ms: 1, us: 0.001, ns: 0.000_001 } as const

/** `1h`, `1.5s`, `1m30s`, `20ms`. To milliseconds. */
export const istioDuration = z
  .string()
  .max(100)
  .regex(/^(0|(\d{1,12}(\.\d{1,9})?(h|ms|m|s|us|ns))+)$/, 'must be a duration such as 10s, 500ms or 1h30m')
  .transform((text) => {
    let total = 0
    for (const [, amount = '0', unit = 'ms'] of text.matchAll(/(\d+(?:\.\d+)?)(ms|us|ns|h|m|s)/g)) total += Number(amount) * units[unit as keyof typeof units]
    return Math.round(total)
  })
  .refine((ms) => ms <= 2 ** 31 - 1, 'is longer than a timer can be')
/** Where nothing at all is no answer. */
export const positiveDuration = istioDuration.refine((ms) => ms >= 1, 'must be at least 1ms')

const text = z.string().max(4096)
/** At most one of them; none means that the thing is there. */
const stringMatch = z
  .strictObject({ exact: text.optional(), prefix: text.optional(), regex: z.string().max(1024).optional() })
  .refine((match) => Object.values(match).filter((each) => each !== undefined).length <= 1, 'only one of exact, prefix and regex')
export type StringMatchSpec = z.infer<typeof stringMatch>
const matches = z.record(z.string().min(1).max(1024), stringMatch).default({})
const strings = z.array(z.string().max(1024)).max(1000)
const labels = z.record(z.string().max(317), z.string().max(63)).default({})

/** Header values that rules may set; line ends would begin another header. */
const headerText = z.string().max(4096).regex(/^[^\0\r\n]*$/, 'must not contain line ends')
const ruleHeader = z.union([headerName, z.literal(':authority')])
const headerOperations = z.strictObject({
  set: z.record(ruleHeader, headerText).default({}),
  add: z.record(ruleHeader, headerText).default({}),
  remove: z.array(headerName).max(1000).default([]),
})
export type HeaderOperations = z.infer<typeof headerOperations>
const headers = z.strictObject({ request: headerOperations.optional(), response: headerOperations.optional() })
export type HeadersSpec = z.infer<typeof headers>

const host = z.string().min(1).max(253)
const destination = z.strictObject({
  host,
  subset: z.string().max(253).optional(),
  port: z.strictObject({ number: portNumber.optional() }).optional(),
})
export type DestinationSpec = z.infer<typeof destination>
const weight = z.int().min(0).max(2 ** 31 - 1).default(0)
const percentage = z.strictObject({ value: z.number().min(0).max(100).default(0) })

const common = {
  port: portNumber.optional(),
  sourceLabels: labels,
  gateways: strings.default([]),
  sourceNamespace: z.union([shortName, z.literal('')]).default(''),
}
const httpMatch = z.strictObject({
  ...common,
  name: z.string().max(253).optional(),
  uri: stringMatch.optional(),
  scheme: stringMatch.optional(),
  method: stringMatch.optional(),
  authority: stringMatch.optional(),
  headers: matches,
  queryParams: matches,
  withoutHeaders: matches,
  ignoreUriCase: z.boolean().default(false),
  statPrefix: z.string().max(253).optional(),
})
export type VirtualHttpMatch = z.infer<typeof httpMatch>

const redirect = z
  .strictObject({
    uri: z.string().max(4096).regex(/^[!-~]*$/, 'must be a path').optional(),
    authority: z.string().max(260).regex(/^[A-Za-z0-9._~:[\]-]*$/, 'must be a host and perhaps a port').optional(),
    port: portNumber.optional(),
    derivePort: z.enum(['FROM_PROTOCOL_DEFAULT', 'FROM_REQUEST_PORT']).optional(),
    scheme: z.string().max(20).optional(),
    redirectCode: z.int().min(300).max(399).optional(),
  })
  .refine(({ port, derivePort }) => port === undefined || derivePort === undefined, 'only one of port and derivePort')
export type VirtualRedirect = z.infer<typeof redirect>

const rewrite = z
  .strictObject({
    uri: z.string().max(4096).regex(/^[!-~]*$/, 'must be a path').optional(),
    authority: z.string().max(260).regex(/^[A-Za-z0-9._~:[\]-]*$/, 'must be a host and perhaps a port').optional(),
    uriRegexRewrite: z.strictObject({ match: z.string().max(1024), rewrite: z.string().max(1024).regex(/^[!-~]*$/, 'must be a path') }).optional(),
  })
  .refine(({ uri, uriRegexRewrite }) => uri === undefined || uriRegexRewrite === undefined, 'only one of uri and uriRegexRewrite')
  .refine((each) => Object.values(each).some((value) => value !== undefined), 'must change something')
export type VirtualRewrite = z.infer<typeof rewrite>

const retries = z.strictObject({
  attempts: z.int().min(0).max(100).default(0),
  perTryTimeout: positiveDuration.optional(),
  retryOn: z.string().max(1024).optional(),
  retryRemoteLocalities: z.boolean().optional(),
  retryIgnorePreviousHosts: z.boolean().optional(),
  backoff: positiveDuration.optional(),
})
export type VirtualRetries = z.infer<typeof retries>

const fault = z.strictObject({
  delay: z
    .strictObject({
      fixedDelay: positiveDuration.optional(), exponentialDelay: istioDuration.optional(), percentage: percentage.optional(),
      percent: z.int().min(0).max(100).optional(),
    })
    .optional(),
  abort: z
    .strictObject({
      httpStatus: z.int().min(200).max(599).optional(), grpcStatus: z.string().max(50).optional(),
      http2Error: z.string().max(50).optional(), percentage: percentage.optional(),
    })
    .optional(),
})
export type VirtualFault = z.infer<typeof fault>

const corsPolicy = z.strictObject({
  allowOrigin: strings.optional(),
  allowOrigins: z.array(stringMatch).max(1000).optional(),
  allowMethods: z.array(z.string().max(50).regex(/^[A-Za-z*-]+$/, 'must be a method')).max(100).default([]),
  allowHeaders: z.array(z.union([headerName, z.literal('*')])).max(1000).default([]),
  exposeHeaders: z.array(z.union([headerName, z.literal('*')])).max(1000).default([]),
  maxAge: istioDuration.optional(),
  allowCredentials: z.boolean().default(false),
  unmatchedPreflights: z.enum(['UNSPECIFIED', 'FORWARD', 'IGNORE']).optional(),
})
export type VirtualCors = z.infer<typeof corsPolicy>

const httpRoute = z.strictObject({
  name: z.string().max(253).optional(),
  match: z.array(httpMatch).max(1000).default([]),
  route: z.array(z.strictObject({ destination, weight, headers: headers.optional() })).max(1000).default([]),
  redirect: redirect.optional(),
  directResponse: z
    .strictObject({
      status: z.int().min(200).max(599),
      body: z
        .strictObject({ string: z.string().max(1 << 20).optional(), bytes: z.base64().max(1 << 21).optional() })
        .refine(({ string, bytes }) => string === undefined || bytes === undefined, 'only one of string and bytes')
        .optional(),
    })
    .optional(),
  delegate: z.strictObject({ name: z.string().max(253).optional(), namespace: z.string().max(253).optional() }).optional(),
  rewrite: rewrite.optional(),
  timeout: istioDuration.optional(),
  retries: retries.optional(),
  fault: fault.optional(),
  mirror: destination.optional(),
  mirrors: z.array(z.strictObject({ destination, percentage: percentage.optional() })).max(100).default([]),
  mirrorPercent: z.int().min(0).max(100).optional(),
  mirror_percent: z.int().min(0).max(100).optional(),
  mirrorPercentage: percentage.optional(),
  corsPolicy: corsPolicy.optional(),
  headers: headers.optional(),
  rateLimit: z.record(z.string(), z.unknown()).optional(),
})
export type VirtualHttpRoute = z.infer<typeof httpRoute>

const streamDestinations = z.array(z.strictObject({ destination, weight })).max(1000).default([])
const subnets = strings.default([])
const tlsMatch = z.strictObject({ ...common, sniHosts: z.array(host).min(1).max(1000), destinationSubnets: subnets })
export type VirtualTlsMatch = z.infer<typeof tlsMatch>
const tcpMatch = z.strictObject({ ...common, destinationSubnets: subnets, sourceSubnet: z.string().max(50).optional() })
export type VirtualTcpMatch = z.infer<typeof tcpMatch>

export const virtualServiceSchema = z
  .object({
    metadata,
    spec: z.strictObject({
      hosts: z.array(host).max(1000).default([]),
      gateways: strings.default([]),
      http: z.array(httpRoute).max(1000).default([]),
      tls: z.array(z.strictObject({ match: z.array(tlsMatch).min(1).max(1000), route: streamDestinations })).max(1000).default([]),
      tcp: z.array(z.strictObject({ match: z.array(tcpMatch).max(1000).default([]), route: streamDestinations })).max(1000).default([]),
      exportTo: strings.default([]),
    }),
  })
  .superRefine(({ spec }, ctx) => {
    spec.http.forEach((route, i) => {
      const actions = [route.route.length > 0, route.redirect, route.directResponse, route.delegate].filter(Boolean)
      if (actions.length !== 1) ctx.addIssue({
        code: 'custom', path: ['spec', 'http', i],
        message: 'exactly one of route, redirect, directResponse and delegate is needed',
      })
      if (route.rewrite && route.route.length === 0) ctx.addIssue({
        code: 'custom', path: ['spec', 'http', i, 'rewrite'], message: 'belongs to a route',
      })
    })
  })
