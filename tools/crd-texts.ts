// What `kubectl explain` says of our kinds: a sentence for each kind and for each field of its spec that says more than its name.
// Paths are as in structural-schema.ts. gen-crds.ts refuses a path that no schema has, and a field of a spec that has no sentence.

export interface KindTexts {
  readonly plural: string
  readonly shortNames: readonly string[]
  readonly about: string
  /** Beside the age: name, JSON path. */
  readonly columns: readonly (readonly [name: string, path: string])[]
  readonly fields: Readonly<Record<string, string>>
}

const selector = 'Pods of this namespace that it is about; without it, all of them.'
const targetRefs = 'Services, Gateways and the like that it is about, whose waypoint or gateway applies it.'
const policyTargets = 'What it is attached to: routes, services or Gateways of its own namespace.'
const action: readonly [string, string] = ['Action', '.spec.action']
const hosts: readonly [string, string] = ['Hosts', '.spec.hosts']
const accepted: readonly [string, string] = ['Accepted', '.status.conditions[?(@.type=="Accepted")].status']

export const kindTexts: Readonly<Record<string, KindTexts>> = {
  AuthorizationPolicy: {
    plural: 'authorizationpolicies', shortNames: ['authzpol'], columns: [action, accepted],
    about: "Says who may talk to whom, with Istio's spec. On pods (selector) it is about connections, on what has a waypoint or gateway (targetRefs) about requests, too.",
    fields: {
      selector, targetRefs, targetRef: 'One of targetRefs, the older way to say it.',
      action: 'What happens to what a rule matches: DENY and CUSTOM come before ALLOW; where there is any ALLOW, what none matches is refused.',
      provider: 'Who is asked, for CUSTOM: an AuthorizationProvider of this namespace.',
      rules: 'It matches what any of these matches. Without rules it matches nothing: an ALLOW then refuses everything.',
      'rules.from': 'Who asks; any of these.', 'rules.to': 'What is asked for; any of these.', 'rules.when': 'Conditions, all of which must hold.',
      'rules.from.source.principals': 'Identities of workloads, as in cluster.local/ns/shop/sa/cart; * at the end, at the start or alone stands for anything.',
      'rules.from.source.namespaces': 'Namespaces of the workloads that ask.', 'rules.from.source.serviceAccounts': 'Service accounts, as NAMESPACE/NAME or NAME.',
      'rules.from.source.ipBlocks': 'Addresses of who connects.', 'rules.from.source.remoteIpBlocks': 'Addresses of the client as forwarded headers say it; needs a waypoint or gateway.',
      'rules.from.source.requestPrincipals': 'ISSUER/SUBJECT of a token that was verified; needs a waypoint or gateway.',
      'rules.to.operation.ports': 'Ports, in quotes.', 'rules.to.operation.hosts': 'Host names of requests; needs a waypoint or gateway.',
      'rules.to.operation.methods': 'HTTP methods; needs a waypoint or gateway.', 'rules.to.operation.paths': 'Paths of requests; needs a waypoint or gateway.',
      'rules.when.key': 'What is looked at, as in source.namespace, destination.port or request.headers[x-user].',
    },
  },
  PeerAuthentication: {
    plural: 'peerauthentications', shortNames: ['peerauth'], columns: [['Mode', '.spec.mtls.mode']],
    about: "Says whether pods take plain text, with Istio's spec. In the mesh's root namespace it is about all pods.",
    fields: { selector, mtls: 'STRICT refuses plain text, PERMISSIVE takes it, too.', portLevelMtls: 'Other modes for single ports, in quotes; needs a selector.' },
  },
  RequestAuthentication: {
    plural: 'requestauthentications', shortNames: ['reqauth'], columns: [accepted],
    about: "Says whose tokens are believed, with Istio's spec. A request with a token that is none of these is refused; one without a token is for AuthorizationPolicies to judge.",
    fields: {
      selector, targetRefs, targetRef: 'One of targetRefs, the older way to say it.', jwtRules: 'Issuers, with their keys.',
      'jwtRules.issuer': 'The token\'s `iss`.', 'jwtRules.audiences': 'One of them must be in the token\'s `aud`.', 'jwtRules.jwksUri': 'Where the issuer publishes its keys.',
      'jwtRules.jwks': 'The keys themselves, instead of jwksUri.', 'jwtRules.forwardOriginalToken': 'Whether the backend gets the token, too.',
      'jwtRules.outputPayloadToHeader': 'Header that carries the token\'s payload to the backend.', 'jwtRules.outputClaimToHeaders': 'Headers that carry single claims to the backend.',
      'jwtRules.fromHeaders': 'Where the token is, if not in Authorization.', 'jwtRules.fromParams': 'Query parameters in which the token may be.',
      'jwtRules.fromCookies': 'Cookies in which the token may be.', 'jwtRules.timeout': 'How long fetching keys may take.',
      'jwtRules.spaceDelimitedClaims': 'Claims that are lists separated by blanks.',
    },
  },
  ServiceEntry: {
    plural: 'serviceentries', shortNames: ['se'], columns: [hosts, ['Location', '.spec.location'], ['Resolution', '.spec.resolution']],
    about: "A service that Kubernetes does not run, with Istio's spec: outside the cluster, or on machines of the mesh.",
    fields: {
      hosts: 'Its names; the first label of one may be *.', addresses: 'Addresses that belong to it.', ports: 'Its ports.', location: 'Whether its workloads are in the mesh.',
      resolution: 'How its endpoints are found: NONE goes where the client asked, STATIC to the endpoints given, DNS to what their names, or its own, resolve to.',
      endpoints: 'Its endpoints.', workloadSelector: 'WorkloadEntries and pods of this namespace that are its endpoints.', exportTo: 'Namespaces that see it: . for its own, * for all.',
      subjectAltNames: 'Names that its certificates may have.',
    },
  },
  WorkloadEntry: {
    plural: 'workloadentries', shortNames: ['we'], columns: [['Address', '.spec.address']],
    about: "A workload that Kubernetes does not run, with Istio's spec.",
    fields: {
      address: 'Its IP address, or a name that resolves to it.', ports: 'Ports by the names that services call them.', labels: 'By which services select it.',
      network: 'The network that it is in; empty for the cluster\'s.', locality: 'REGION/ZONE/SUBZONE.', weight: 'Its share of connections, beside others.', serviceAccount: 'Its identity.',
    },
  },
  RateLimitPolicy: {
    plural: 'ratelimitpolicies', shortNames: ['ratelimit'], columns: [['Scope', '.spec.scope'], accepted],
    about: 'Limits how many requests pass: as a filter of a route (ExtensionRef), or attached by targetRefs.',
    fields: {
      targetRefs: policyTargets, limits: 'All of them hold.', 'limits.requests': 'So many requests pass ...', 'limits.per': '... in this time, as in 1s or 5m.',
      'limits.burst': 'So many may come at once; as many as requests unless given.', 'limits.by': 'Counted for each distinct value of these together.',
      scope: 'Local: each proxy counts for itself. Global: all count in the shared store.', whenStoreUnavailable: 'What happens while the shared store cannot be asked.',
      isDryRun: 'Counted and told, but never refused.',
    },
  },
  CachePolicy: {
    plural: 'cachepolicies', shortNames: ['cachepol'], columns: [accepted],
    about: 'Lets waypoints and gateways keep responses: as a filter of a route (ExtensionRef), or attached by targetRefs.',
    fields: {
      targetRefs: policyTargets, defaultTtl: 'For responses that say nothing of their freshness; without it those are not kept.', maxTtl: 'No response is fresh for longer, whatever it says.',
      staleIfError: 'So long after its freshness a response is still better than an error.', staleWhileRevalidate: 'So long after its freshness a response is given while a new one is fetched.',
      maxBodyBytes: 'Longer responses are not kept.', varyOn: 'Headers that are part of the key beside method, host, path and query.',
    },
  },
  BackendPolicy: {
    plural: 'backendpolicies', shortNames: ['backendpol'], columns: [['Balancer', '.spec.loadBalancer.type'], accepted],
    about: "How a Service's endpoints are used by waypoints and gateways: balancing, limits, health.",
    fields: {
      targetRefs: 'Services of its own namespace.', loadBalancer: 'Which endpoint a request goes to.', slowStart: 'So long a new endpoint takes to its full share.',
      limits: 'More than that at once is refused.', timeouts: 'Of connections.', retryBudget: 'How many retries there may be, beside requests.',
      ejection: 'Endpoints that fail are left out for a time.', localityFailover: 'Prefer endpoints that are near.', healthCheck: 'Ask endpoints whether they are well, without waiting for requests.',
      'ejection.successRateStdevFactor': 'Endpoints whose success rate is that many standard deviations below the average; off unless given.',
    },
  },
  AuthorizationProvider: {
    plural: 'authorizationproviders', shortNames: ['authzprov'], columns: [['Protocol', '.spec.protocol'], ['Service', '.spec.service']],
    about: 'Who is asked whether a request may pass, by AuthorizationPolicies whose action is CUSTOM.',
    fields: {
      protocol: "Envoy's contracts: envoy.service.auth.v3.Authorization/Check, or a request of the same method and path.", service: 'Host name of a service, or its name in this namespace.',
      port: 'Of that service.', timeout: 'How long an answer may take.', failOpen: 'Where it cannot be asked: let the request pass.', statusOnError: 'Where it cannot be asked: answer so.',
      pathPrefix: 'Before the request\'s path; HTTP only.', includeRequestHeaders: 'Headers that it is told, beside those that it always is.',
      headersToUpstream: 'Headers of its answer that the backend gets; HTTP only.', headersToDownstream: 'Headers of its refusal that the client gets; HTTP only.',
      maxBodyBytes: "So much of the request's body goes along.",
    },
  },
}
