// L7 authorization policies: pure data, the meaning of AuthorizationPolicy with everything that a proxy of requests can answer.
// The shape is that of L4 policies (authorization.ts): a rule is clauses that must all hold (from, to, each when), a clause is
// alternatives, an alternative is kinds. What each part means is decided in src/policy/l7.
import type { Cidr, Match, StringMatch } from './authorization.ts'

/** `template` is Istio's path template: `{*}` is one segment, `{**}` any number of them. */
export type PathPattern = StringMatch | { readonly kind: 'template'; readonly value: string }

/** One of `values` (if any are given) and none of `notValues`. */
export interface ValueCondition {
  readonly values: readonly StringMatch[]
  readonly notValues: readonly StringMatch[]
}

/**
 * Each kind that is not empty must hold: one of the positive, none of the negative; every header and claim. Wholly empty never
 * matches.
 */
export interface L7Match {
  /** Principals, namespaces, addresses and ports; `sourceIps` are compared with the real client of the mesh. */
  readonly l4: Match
  readonly paths: readonly PathPattern[]
  readonly notPaths: readonly PathPattern[]
  readonly methods: readonly StringMatch[]
  readonly notMethods: readonly StringMatch[]
  readonly hosts: readonly StringMatch[]
  readonly notHosts: readonly StringMatch[]
  readonly headers: readonly (ValueCondition & { readonly name: string })[]
  /** `issuer/subject` of a verified token. */
  readonly requestPrincipals: readonly StringMatch[]
  readonly notRequestPrincipals: readonly StringMatch[]
  readonly audiences: readonly StringMatch[]
  readonly notAudiences: readonly StringMatch[]
  readonly presenters: readonly StringMatch[]
  readonly notPresenters: readonly StringMatch[]
  /** Claims of a verified token by their names from the outside in. */
  readonly claims: readonly (ValueCondition & { readonly path: readonly string[] })[]
  /** Compared with the client before trusted proxies (X-Forwarded-For, PROXY protocol). */
  readonly remoteIps: readonly Cidr[]
  readonly notRemoteIps: readonly Cidr[]
  readonly serverNames: readonly StringMatch[]
  readonly notServerNames: readonly StringMatch[]
}

/** Alternatives; none at all is true. */
export type L7Clause = readonly L7Match[]
/** Conjunction of clauses. */
export type L7Rule = readonly L7Clause[]

export type L7Action = 'custom' | 'deny' | 'allow' | 'audit'

export interface AuthorizationL7 {
  readonly name: string
  readonly namespace: string
  readonly action: L7Action
  /** Alternatives; a policy without rules never matches. */
  readonly rules: readonly L7Rule[]
  readonly isDryRun: boolean
  /** Of CUSTOM: who is asked. */
  readonly provider?: string
  /** Why it cannot be evaluated: what it would protect is then refused. */
  readonly unsupported?: string
}

const emptyL4: Match = Object.freeze({
  namespaces: [], notNamespaces: [], principals: [], notPrincipals: [], serviceAccounts: [], notServiceAccounts: [],
  sourceIps: [], notSourceIps: [], destinationIps: [], notDestinationIps: [], destinationPorts: [], notDestinationPorts: [],
})

/** Matches nothing; to be filled in. */
export const emptyL7Match: L7Match = Object.freeze({
  l4: emptyL4, paths: [], notPaths: [], methods: [], notMethods: [], hosts: [], notHosts: [], headers: [], requestPrincipals: [],
  notRequestPrincipals: [], audiences: [], notAudiences: [], presenters: [], notPresenters: [], claims: [], remoteIps: [],
    notRemoteIps: [],
  serverNames: [], notServerNames: [],
})
