// The JSON inside of a waypoint's resources, kind by kind, checked before anything of it is believed. Its types are those of the
// model, which waypoint-schema.test.ts compares; shape only, the meaning is decided in src/policy/l7.
//
// A newer control plane may say what this version does not know. A field that is dropped could widen what its owner meant: a
// condition of a match, a limit, a header that is part of a cache's key, a demand on certificates. So an unknown field or kind
// refuses its resource, and what was in force before stays so. The exception are TrafficPolicies outside of their `tls`: they
// say how endpoints are used and never who may do what, and a new knob must not cost a service all of its old ones.
import { z } from 'zod'

const count = z.int().min(0)
const amount = z.number().min(0)
const port = z.int().min(0).max(65_535)
const status = z.int().min(100).max(599)
const strings = z.array(z.string())
const identified = z.string().min(1)

const pathMatch = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.enum(['exact', 'prefix', 'regex']), value: z.string(), isCaseInsensitive: z.literal(true).exactOptional() }),
  z.strictObject({ kind: z.literal('grpc'), service: z.string().exactOptional(), method: z.string().exactOptional(), isRegex: z.literal(true).exactOptional() }),
])

const valueMatch = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.enum(['exact', 'prefix', 'suffix', 'regex']), value: z.string() }),
  z.strictObject({ kind: z.literal('presence') }),
])

const namedMatches = z.array(z.strictObject({ name: z.string(), match: valueMatch, isInverted: z.literal(true).exactOptional() }))

const requestMatch = z.strictObject({
  path: pathMatch.exactOptional(),
  method: valueMatch.exactOptional(),
  headers: namedMatches,
  query: namedMatches,
  cookies: namedMatches,
  sourceIdentities: strings.exactOptional(),
  sourceNamespaces: strings.exactOptional(),
  authority: valueMatch.exactOptional(),
  scheme: z.enum(['http', 'https']).exactOptional(),
})

const namedValues = z.array(z.tuple([z.string(), z.string()]))
const headerChange = z.strictObject({ set: namedValues, add: namedValues, remove: strings })

const pathRewrite = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.enum(['full', 'prefix']), value: z.string() }),
  z.strictObject({ kind: z.literal('regex'), pattern: z.string(), substitution: z.string() }),
])

const redirect = z.strictObject({
  scheme: z.enum(['http', 'https']).exactOptional(),
  hostname: z.string().exactOptional(),
  port: port.exactOptional(),
  path: pathRewrite.exactOptional(),
  status: z.literal([301, 302, 303, 307, 308]),
})

const fraction = z.strictObject({ numerator: amount, denominator: amount })

const backend = z.strictObject({
  service: z.strictObject({ namespace: z.string(), hostname: z.string() }),
  port,
  weight: count,
  subset: z.string().exactOptional(),
  requestHeaders: headerChange.exactOptional(),
  responseHeaders: headerChange.exactOptional(),
  broken: z.string().exactOptional(),
})

const httpRule = z.strictObject({
  origin: z.string(),
  name: z.string(),
  matches: z.array(requestMatch),
  action: z.discriminatedUnion('t', [
    z.strictObject({ t: z.literal('forward'), backends: z.array(backend) }),
    z.strictObject({ t: z.literal('redirect'), redirect }),
    z.strictObject({ t: z.literal('respond'), status, body: z.string().exactOptional() }),
  ]),
  requestHeaders: headerChange.exactOptional(),
  responseHeaders: headerChange.exactOptional(),
  rewrite: z.strictObject({ hostname: z.string().exactOptional(), path: pathRewrite.exactOptional() }).exactOptional(),
  mirrors: z.array(z.strictObject({ backend, fraction })),
  cors: z.strictObject({
    allowOrigins: z.array(valueMatch),
    allowMethods: strings,
    allowHeaders: strings,
    exposeHeaders: strings,
    maxAgeSeconds: amount.exactOptional(),
    allowCredentials: z.boolean(),
  }).exactOptional(),
  timeouts: z.strictObject({ requestMs: amount.exactOptional(), backendRequestMs: amount.exactOptional(), idleMs: amount.exactOptional() }),
  retry: z.strictObject({
    attempts: count,
    perTryTimeoutMs: amount.exactOptional(),
    backoffMs: amount,
    statuses: z.array(z.int()),
    on: z.array(z.enum(['connectFailure', 'refusedStream', 'reset', 'gatewayError', '5xx', 'retriableGrpc'])),
  }).exactOptional(),
  fault: z.strictObject({
    delay: z.strictObject({ ms: amount, fraction }).exactOptional(),
    abort: z.strictObject({ status: z.int().exactOptional(), grpcStatus: z.int().exactOptional(), fraction }).exactOptional(),
  }).exactOptional(),
  sessionPersistence: z.strictObject({
    kind: z.enum(['cookie', 'header']),
    name: z.string(),
    idleMs: amount.exactOptional(),
    absoluteMs: amount.exactOptional(),
    isPermanent: z.literal(true).exactOptional(),
  }).exactOptional(),
  filters: strings,
})

const tcpRule = z.strictObject({
  origin: z.string(),
  name: z.string(),
  serverNames: strings,
  sourceNamespaces: strings.exactOptional(),
  backends: z.array(backend),
})

const routeTable = z.strictObject({ key: identified, hostnames: strings, http: z.array(httpRule), tcp: z.array(tcpRule), hasDefault: z.boolean() })

const gatewayListener = z.strictObject({
  key: identified,
  gateway: z.strictObject({ namespace: identified, name: identified }),
  name: identified,
  port,
  protocol: z.enum(['http', 'https', 'tls', 'tcp']),
  hostname: z.string().exactOptional(),
  tls: z.strictObject({ mode: z.enum(['terminate', 'passthrough']), certificates: strings }).exactOptional(),
  clientCertificates: z.strictObject({ authorities: strings, isOptional: z.boolean() }).exactOptional(),
})

const hashBy = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.enum(['header', 'cookie', 'query']), name: z.string(), ttlMs: amount.exactOptional(), path: z.string().exactOptional() }),
  z.strictObject({ kind: z.literal('sourceIp') }),
])

const trafficPolicy = z.object({
  loadBalancer: z.discriminatedUnion('kind', [
    z.object({ kind: z.enum(['roundRobin', 'random', 'leastRequest', 'peakEwma']) }),
    z.object({ kind: z.literal('consistentHash'), by: hashBy, algorithm: z.enum(['ring', 'maglev']), size: count }),
  ]),
  slowStartMs: amount,
  limits: z.object({ connections: count, pending: count, requests: count, retries: count, requestsPerConnection: count }),
  connectTimeoutMs: amount,
  idleTimeoutMs: amount,
  retryBudget: z.object({ percent: amount, minPerSecond: amount }),
  ejection: z.object({
    consecutiveErrors: count,
    consecutiveGatewayErrors: count,
    intervalMs: amount,
    baseMs: amount,
    maxPercent: amount,
    minHealthPercent: amount,
    successRateStdevFactor: amount.exactOptional(),
  }).exactOptional(),
  localityFailover: z.boolean(),
  tls: z.strictObject({
    mode: z.enum(['simple', 'mutual']),
    serverName: z.string().exactOptional(),
    caSecret: z.string().exactOptional(),
    certificateSecret: z.string().exactOptional(),
    subjectAltNames: strings,
  }).exactOptional(),
  isHttp2Wanted: z.boolean().exactOptional(),
  activeCheck: z.object({
    kind: z.enum(['http', 'grpc', 'tcp']),
    path: z.string().exactOptional(),
    service: z.string().exactOptional(),
    intervalMs: amount,
    timeoutMs: amount,
    healthyAfter: count,
    unhealthyAfter: count,
    expectedStatuses: z.array(z.int()),
  }).exactOptional(),
})

// Maps are lists of entries: JSON has no keys that are numbers, and no order to rely on.
const destination = z.strictObject({
  key: identified,
  policy: trafficPolicy,
  ports: z.array(z.tuple([port, trafficPolicy])).transform((entries) => new Map(entries)),
  subsets: z
    .array(z.tuple([z.string(), z.strictObject({ labels: namedValues.transform((entries) => Object.fromEntries(entries)), policy: trafficPolicy })]))
    .transform((entries) => new Map(entries)),
})

const limitKey = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('Identity') }),
  z.strictObject({ type: z.literal('Namespace') }),
  z.strictObject({ type: z.literal('SourceIP') }),
  z.strictObject({ type: z.literal('Header'), name: z.string() }),
  z.strictObject({ type: z.literal('Claim'), name: z.string() }),
])

const filter = z.discriminatedUnion('t', [
  z.strictObject({
    t: z.literal('rateLimit'),
    spec: z.strictObject({
      limits: z.array(z.strictObject({
        name: z.string().optional(), requests: count, per: amount, burst: count.optional(), by: z.array(limitKey),
      })),
      scope: z.enum(['Local', 'Global']),
      whenStoreUnavailable: z.enum(['CountLocally', 'Allow', 'Deny']),
      isDryRun: z.boolean(),
    }),
  }),
  z.strictObject({
    t: z.literal('cache'),
    spec: z.strictObject({
      defaultTtl: amount.optional(), maxTtl: amount.optional(), staleIfError: amount.optional(), staleWhileRevalidate: amount.optional(),
      maxBodyBytes: count, varyOn: strings,
    }),
  }),
])

const stringMatch = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('exact'), value: z.string() }),
  z.strictObject({ kind: z.literal('prefix'), value: z.string() }),
  z.strictObject({ kind: z.literal('suffix'), value: z.string() }),
  z.strictObject({ kind: z.literal('presence') }),
])
const stringMatches = z.array(stringMatch)
const pathPatterns = z.array(z.discriminatedUnion('kind', [...stringMatch.options, z.strictObject({ kind: z.literal('template'), value: z.string() })]))
const cidrs = z.array(z.strictObject({ ip: z.string(), prefixLength: z.int().min(0).max(128) }))
const accounts = z.array(z.strictObject({ namespace: z.string(), serviceAccount: z.string() }))
const ports = z.array(port)

const l4Match = z.strictObject({
  namespaces: stringMatches, notNamespaces: stringMatches, principals: stringMatches, notPrincipals: stringMatches,
  serviceAccounts: accounts, notServiceAccounts: accounts, sourceIps: cidrs, notSourceIps: cidrs,
  destinationIps: cidrs, notDestinationIps: cidrs, destinationPorts: ports, notDestinationPorts: ports,
})

const condition = { values: stringMatches, notValues: stringMatches }

const l7Match = z.strictObject({
  l4: l4Match,
  paths: pathPatterns, notPaths: pathPatterns, methods: stringMatches, notMethods: stringMatches, hosts: stringMatches, notHosts: stringMatches,
  headers: z.array(z.strictObject({ name: z.string(), ...condition })),
  requestPrincipals: stringMatches, notRequestPrincipals: stringMatches, audiences: stringMatches, notAudiences: stringMatches,
  presenters: stringMatches, notPresenters: stringMatches,
  claims: z.array(z.strictObject({ path: strings, ...condition })),
  remoteIps: cidrs, notRemoteIps: cidrs, serverNames: stringMatches, notServerNames: stringMatches,
})

const security = z.strictObject({
  policies: z.array(z.strictObject({
    name: z.string(),
    namespace: z.string(),
    action: z.enum(['custom', 'deny', 'allow', 'audit']),
    rules: z.array(z.array(z.array(l7Match))),
    isDryRun: z.boolean(),
    provider: z.string().exactOptional(),
    unsupported: z.string().exactOptional(),
  })),
  jwtRules: z.array(z.strictObject({
    issuer: identified,
    audiences: strings,
    jwksUri: z.string().optional(),
    jwks: z.string().optional(),
    fromHeaders: z.array(z.strictObject({ name: z.string(), prefix: z.string().optional() })),
    fromParams: strings,
    fromCookies: strings,
    outputPayloadToHeader: z.string().optional(),
    forwardOriginalToken: z.boolean(),
    outputClaimToHeaders: z.array(z.strictObject({ header: z.string(), claim: z.string() })),
    timeout: amount.optional(),
    spaceDelimitedClaims: strings,
  })),
})

const provider = z.strictObject({
  name: identified,
  protocol: z.enum(['grpc', 'http']),
  service: identified,
  port,
  timeoutMs: amount,
  isFailOpen: z.boolean(),
  pathPrefix: z.string(),
  includeRequestHeaders: strings,
  headersToUpstream: strings,
  headersToDownstream: strings,
  bodyBytes: count,
  statusOnError: status,
})

/** What `content` of each kind holds: the fields of a WaypointResource beside `kind` and `key`. */
export const contentSchemas = {
  routes: z.strictObject({ tables: z.array(routeTable) }),
  listener: z.strictObject({ listener: gatewayListener }),
  destination: z.strictObject({ destination }),
  filter: z.strictObject({ filter }),
  security: z.strictObject({ security }),
  provider: z.strictObject({ provider }),
  secret: z.strictObject({
    certificate: z.strictObject({ chain: z.string(), privateKey: z.string() }).exactOptional(),
    authorities: z.string().exactOptional(),
  }),
}
