// Resources of waypoints of every kind and shape, for property tests only; product code never imports this.
import fc from 'fast-check'
import type { AuthorizationL7, L7Match } from '../model/authorization-l7.ts'
import type { Match, StringMatch } from '../model/authorization.ts'
import type { JwtRule } from '../model/manifest-traffic-auth.ts'
import type {
  Backend, Cors, DestinationPolicy, Fault, Fraction, GatewayListener, HeaderChange, HttpRule, LoadBalancer, NamedMatch, PathMatch, PathRewrite, Redirect,
  RequestMatch, Retry, RouteTable, SessionPersistence, TcpRule, Timeouts, TrafficPolicy, ValueMatch,
} from '../model/route.ts'
import type { AuthorizationProvider, RequestFilter, WaypointResource } from '../model/waypoint-config.ts'

const id = fc.oneof(fc.stringMatching(/^[a-z][a-z0-9./-]{0,12}$/), fc.constantFrom('shop/web.shop.svc.cluster.local:80', 'Gateway shop/way/http', '__proto__'))
const text = fc.oneof(fc.constant(''), id, fc.string({ unit: 'grapheme', maxLength: 8 }), fc.string({ unit: 'binary', maxLength: 3 }))
const flag = fc.boolean()
const yes = fc.constant(true as const)
const port = fc.integer({ min: 0, max: 65_535 })
const count = fc.nat()
const ms = fc.oneof(fc.nat(), fc.double({ min: 0, max: 1e9, noNaN: true }).map((value) => value + 0))
const few = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T[]> => fc.array(arbitrary, { maxLength: 2 })
const texts = few(text)

const pathMatch: fc.Arbitrary<PathMatch> = fc.oneof(
  fc.record({ kind: fc.constantFrom('exact' as const, 'prefix' as const, 'regex' as const), value: text, isCaseInsensitive: yes }, { requiredKeys: ['kind', 'value'] }),
  fc.record({ kind: fc.constant('grpc' as const), service: text, method: text, isRegex: yes }, { requiredKeys: ['kind'] }),
)

const valueMatch: fc.Arbitrary<ValueMatch> = fc.oneof(
  fc.record({ kind: fc.constantFrom('exact' as const, 'prefix' as const, 'suffix' as const, 'regex' as const), value: text }),
  fc.constant({ kind: 'presence' as const }),
)

const namedMatch: fc.Arbitrary<NamedMatch> = fc.record({ name: text, match: valueMatch, isInverted: yes }, { requiredKeys: ['name', 'match'] })

const requestMatch: fc.Arbitrary<RequestMatch> = fc.record({
  path: pathMatch, method: valueMatch, headers: few(namedMatch), query: few(namedMatch), cookies: few(namedMatch), sourceIdentities: texts, sourceNamespaces: texts,
  authority: valueMatch, scheme: fc.constantFrom('http' as const, 'https' as const),
}, { requiredKeys: ['headers', 'query', 'cookies'] })

const pair = fc.tuple(text, text)
const headerChange: fc.Arbitrary<HeaderChange> = fc.record({ set: few(pair), add: few(pair), remove: texts })

const pathRewrite: fc.Arbitrary<PathRewrite> = fc.oneof(
  fc.record({ kind: fc.constantFrom('full' as const, 'prefix' as const), value: text }),
  fc.record({ kind: fc.constant('regex' as const), pattern: text, substitution: text }),
)

const redirect: fc.Arbitrary<Redirect> = fc.record({
  scheme: fc.constantFrom('http' as const, 'https' as const), hostname: text, port, path: pathRewrite,
  status: fc.constantFrom(301 as const, 302 as const, 303 as const, 307 as const, 308 as const),
}, { requiredKeys: ['status'] })

const fraction: fc.Arbitrary<Fraction> = fc.record({ numerator: ms, denominator: count })

const backend: fc.Arbitrary<Backend> = fc.record({
  service: fc.record({ namespace: text, hostname: text }), port, weight: count, subset: text, requestHeaders: headerChange, responseHeaders: headerChange, broken: text,
}, { requiredKeys: ['service', 'port', 'weight'] })

const cors: fc.Arbitrary<Cors> = fc.record({
  allowOrigins: few(valueMatch), allowMethods: texts, allowHeaders: texts, exposeHeaders: texts, maxAgeSeconds: ms, allowCredentials: flag,
}, { requiredKeys: ['allowOrigins', 'allowMethods', 'allowHeaders', 'exposeHeaders', 'allowCredentials'] })

const retry: fc.Arbitrary<Retry> = fc.record({
  attempts: count, perTryTimeoutMs: ms, backoffMs: ms, statuses: few(count),
  on: few(fc.constantFrom('connectFailure' as const, 'refusedStream' as const, 'reset' as const, 'gatewayError' as const, '5xx' as const, 'retriableGrpc' as const)),
}, { requiredKeys: ['attempts', 'backoffMs', 'statuses', 'on'] })

const fault: fc.Arbitrary<Fault> = fc.record({
  delay: fc.record({ ms, fraction }), abort: fc.record({ status: count, grpcStatus: count, fraction }, { requiredKeys: ['fraction'] }),
}, { requiredKeys: [] })

const timeouts: fc.Arbitrary<Timeouts> = fc.record({ requestMs: ms, backendRequestMs: ms, idleMs: ms }, { requiredKeys: [] })

const sessionPersistence: fc.Arbitrary<SessionPersistence> = fc.record({
  kind: fc.constantFrom('cookie' as const, 'header' as const), name: text, idleMs: ms, absoluteMs: ms, isPermanent: yes,
}, { requiredKeys: ['kind', 'name'] })

const httpRule: fc.Arbitrary<HttpRule> = fc.record({
  origin: text, name: text, matches: few(requestMatch),
  action: fc.oneof(
    fc.record({ t: fc.constant('forward' as const), backends: few(backend) }),
    fc.record({ t: fc.constant('redirect' as const), redirect }),
    fc.record({ t: fc.constant('respond' as const), status: fc.integer({ min: 100, max: 599 }), body: text }, { requiredKeys: ['t', 'status'] }),
  ),
  requestHeaders: headerChange, responseHeaders: headerChange,
  rewrite: fc.record({ hostname: text, path: pathRewrite }, { requiredKeys: [] }),
  mirrors: few(fc.record({ backend, fraction })), cors, timeouts, retry, fault, sessionPersistence, filters: texts,
}, { requiredKeys: ['origin', 'name', 'matches', 'action', 'mirrors', 'timeouts', 'filters'] })

const tcpRule: fc.Arbitrary<TcpRule> = fc.record({
  origin: text, name: text, serverNames: texts, sourceNamespaces: texts, backends: few(backend),
}, { requiredKeys: ['origin', 'name', 'serverNames', 'backends'] })

const routeTable: fc.Arbitrary<RouteTable> = fc.record({ key: id, hostnames: texts, http: few(httpRule), tcp: few(tcpRule), hasDefault: flag })

const listener: fc.Arbitrary<GatewayListener> = fc.record({
  key: id, gateway: fc.record({ namespace: id, name: id }), name: id, port,
  protocol: fc.constantFrom('http' as const, 'https' as const, 'tls' as const, 'tcp' as const), hostname: text,
  tls: fc.record({ mode: fc.constantFrom('terminate' as const, 'passthrough' as const), certificates: texts }),
  clientCertificates: fc.record({ authorities: texts, isOptional: flag }),
}, { requiredKeys: ['key', 'gateway', 'name', 'port', 'protocol'] })

const loadBalancer: fc.Arbitrary<LoadBalancer> = fc.oneof(
  fc.record({ kind: fc.constantFrom('roundRobin' as const, 'random' as const, 'leastRequest' as const, 'peakEwma' as const) }),
  fc.record({
    kind: fc.constant('consistentHash' as const),
    by: fc.oneof(
      fc.record({ kind: fc.constantFrom('header' as const, 'cookie' as const, 'query' as const), name: text, ttlMs: ms, path: text }, { requiredKeys: ['kind', 'name'] }),
      fc.constant({ kind: 'sourceIp' as const }),
    ),
    algorithm: fc.constantFrom('ring' as const, 'maglev' as const), size: count,
  }),
)

const trafficPolicy: fc.Arbitrary<TrafficPolicy> = fc.record({
  loadBalancer, slowStartMs: ms, limits: fc.record({ connections: count, pending: count, requests: count, retries: count, requestsPerConnection: count }),
  connectTimeoutMs: ms, idleTimeoutMs: ms, retryBudget: fc.record({ percent: ms, minPerSecond: count }),
  ejection: fc.record({
    consecutiveErrors: count, consecutiveGatewayErrors: count, intervalMs: ms, baseMs: ms, maxPercent: count, minHealthPercent: count, successRateStdevFactor: ms,
  }, { requiredKeys: ['consecutiveErrors', 'consecutiveGatewayErrors', 'intervalMs', 'baseMs', 'maxPercent', 'minHealthPercent'] }),
  localityFailover: flag,
  tls: fc.record({
    mode: fc.constantFrom('simple' as const, 'mutual' as const), serverName: text, caSecret: text, certificateSecret: text, subjectAltNames: texts,
  }, { requiredKeys: ['mode', 'subjectAltNames'] }),
  isHttp2Wanted: flag,
  activeCheck: fc.record({
    kind: fc.constantFrom('http' as const, 'grpc' as const, 'tcp' as const), path: text, service: text, intervalMs: ms, timeoutMs: ms, healthyAfter: count,
    unhealthyAfter: count, expectedStatuses: few(count),
  }, { requiredKeys: ['kind', 'intervalMs', 'timeoutMs', 'healthyAfter', 'unhealthyAfter', 'expectedStatuses'] }),
}, { requiredKeys: ['loadBalancer', 'slowStartMs', 'limits', 'connectTimeoutMs', 'idleTimeoutMs', 'retryBudget', 'localityFailover'] })

const destination: fc.Arbitrary<DestinationPolicy> = fc.record({
  key: id, policy: trafficPolicy, ports: few(fc.tuple(port, trafficPolicy)).map((entries) => new Map(entries)),
  subsets: few(fc.tuple(text, fc.record({ labels: few(pair).map((entries): Record<string, string> => Object.fromEntries(entries)), policy: trafficPolicy })))
    .map((entries) => new Map(entries)),
})

const filter: fc.Arbitrary<RequestFilter> = fc.oneof(
  fc.record({
    t: fc.constant('rateLimit' as const),
    spec: fc.record({
      limits: few(fc.record({
        name: text, requests: count, per: ms, burst: count,
        by: few(fc.oneof(
          fc.record({ type: fc.constantFrom('Identity' as const, 'Namespace' as const, 'SourceIP' as const) }),
          fc.record({ type: fc.constantFrom('Header' as const, 'Claim' as const), name: text }),
        )),
      }, { requiredKeys: ['requests', 'per', 'by'] })),
      scope: fc.constantFrom('Local' as const, 'Global' as const), whenStoreUnavailable: fc.constantFrom('CountLocally' as const, 'Allow' as const, 'Deny' as const),
      isDryRun: flag,
    }),
  }),
  fc.record({
    t: fc.constant('cache' as const),
    spec: fc.record({
      defaultTtl: ms, maxTtl: ms, staleIfError: ms, staleWhileRevalidate: ms, maxBodyBytes: count, varyOn: texts,
    }, { requiredKeys: ['maxBodyBytes', 'varyOn'] }),
  }),
)

const stringMatch: fc.Arbitrary<StringMatch> = fc.oneof(
  fc.record({ kind: fc.constantFrom('exact' as const, 'prefix' as const, 'suffix' as const), value: text }), fc.constant({ kind: 'presence' as const }),
)
const strings = few(stringMatch)
const paths = few(fc.oneof(stringMatch, fc.record({ kind: fc.constant('template' as const), value: text })))
const cidrs = few(fc.record({ ip: text, prefixLength: fc.nat(128) }))
const accounts = few(fc.record({ namespace: text, serviceAccount: text }))
const l4: fc.Arbitrary<Match> = fc.record({
  namespaces: strings, notNamespaces: strings, principals: strings, notPrincipals: strings, serviceAccounts: accounts, notServiceAccounts: accounts,
  sourceIps: cidrs, notSourceIps: cidrs, destinationIps: cidrs, notDestinationIps: cidrs, destinationPorts: few(port), notDestinationPorts: few(port),
})
const l7Match: fc.Arbitrary<L7Match> = fc.record({
  l4, paths, notPaths: paths, methods: strings, notMethods: strings, hosts: strings, notHosts: strings,
  headers: few(fc.record({ name: text, values: strings, notValues: strings })), requestPrincipals: strings, notRequestPrincipals: strings, audiences: strings,
  notAudiences: strings, presenters: strings, notPresenters: strings, claims: few(fc.record({ path: texts, values: strings, notValues: strings })),
  remoteIps: cidrs, notRemoteIps: cidrs, serverNames: strings, notServerNames: strings,
})
const authorization: fc.Arbitrary<AuthorizationL7> = fc.record({
  name: text, namespace: text, action: fc.constantFrom('custom' as const, 'deny' as const, 'allow' as const, 'audit' as const),
  rules: few(few(few(l7Match))), isDryRun: flag, provider: text, unsupported: text,
}, { requiredKeys: ['name', 'namespace', 'action', 'rules', 'isDryRun'] })
const jwtRule: fc.Arbitrary<JwtRule> = fc.record({
  issuer: id, audiences: texts, jwksUri: text, jwks: text, fromHeaders: few(fc.record({ name: text, prefix: text }, { requiredKeys: ['name'] })), fromParams: texts,
  fromCookies: texts, outputPayloadToHeader: text, forwardOriginalToken: flag, outputClaimToHeaders: few(fc.record({ header: text, claim: text })), timeout: ms,
  spaceDelimitedClaims: texts,
}, {
  requiredKeys: ['issuer', 'audiences', 'fromHeaders', 'fromParams', 'fromCookies', 'forwardOriginalToken', 'outputClaimToHeaders', 'spaceDelimitedClaims'],
})

const provider: fc.Arbitrary<AuthorizationProvider> = fc.record({
  name: id, protocol: fc.constantFrom('grpc' as const, 'http' as const), service: id, port, timeoutMs: ms, isFailOpen: flag, pathPrefix: text,
  includeRequestHeaders: texts, headersToUpstream: texts, headersToDownstream: texts, bodyBytes: count, statusOnError: fc.integer({ min: 100, max: 599 }),
})

export const waypointResources: { readonly [Kind in WaypointResource['kind']]: fc.Arbitrary<Extract<WaypointResource, { readonly kind: Kind }>> } = {
  routes: fc.record({ kind: fc.constant('routes'), key: text, tables: few(routeTable) }),
  listener: fc.record({ kind: fc.constant('listener'), key: text, listener }),
  destination: fc.record({ kind: fc.constant('destination'), key: text, destination }),
  filter: fc.record({ kind: fc.constant('filter'), key: text, filter }),
  security: fc.record({ kind: fc.constant('security'), key: text, security: fc.record({ policies: few(authorization), jwtRules: few(jwtRule) }) }),
  provider: fc.record({ kind: fc.constant('provider'), key: text, provider }),
  secret: fc.record({
    kind: fc.constant('secret'), key: text, certificate: fc.record({ chain: text, privateKey: text }), authorities: text,
  }, { requiredKeys: ['kind', 'key'] }),
}

export const waypointResource: fc.Arbitrary<WaypointResource> = fc.oneof(...Object.values(waypointResources))
