// L4 authorization policies: pure data, the meaning of istio.security.Authorization without its encoding. What each part
// means is decided in src/policy.

export type StringMatch =
  | { readonly kind: 'exact'; readonly value: string }
  | { readonly kind: 'prefix'; readonly value: string }
  | { readonly kind: 'suffix'; readonly value: string }
  /** Anything that is there at all. */
  | { readonly kind: 'presence' }

/** Canonical address and prefix length in bits. */
export interface Cidr {
  readonly ip: string
  readonly prefixLength: number
}

export interface ServiceAccountMatch {
  readonly namespace: string
  readonly serviceAccount: string
}

/** Each kind that is not empty must hold: one of the positive, none of the negative. Wholly empty never matches. */
export interface Match {
  readonly namespaces: readonly StringMatch[]
  readonly notNamespaces: readonly StringMatch[]
  /** Compared with the identity without `spiffe://`. */
  readonly principals: readonly StringMatch[]
  readonly notPrincipals: readonly StringMatch[]
  readonly serviceAccounts: readonly ServiceAccountMatch[]
  readonly notServiceAccounts: readonly ServiceAccountMatch[]
  readonly sourceIps: readonly Cidr[]
  readonly notSourceIps: readonly Cidr[]
  readonly destinationIps: readonly Cidr[]
  readonly notDestinationIps: readonly Cidr[]
  readonly destinationPorts: readonly number[]
  readonly notDestinationPorts: readonly number[]
}

/** Alternatives: one must match; none at all is true. */
export type Clause = readonly Match[]
/** Conjunction of clauses (from, to, when). */
export type Rule = readonly Clause[]

export interface Authorization {
  readonly name: string
  readonly namespace: string
  readonly scope: 'global' | 'namespace' | 'workloadSelector'
  readonly action: 'allow' | 'deny'
  /** Alternatives; a policy without rules never matches. */
  readonly rules: readonly Rule[]
  readonly isDryRun: boolean
  /** Why this node cannot evaluate it (an extension it does not know): it then refuses rather than passes. */
  readonly unsupported?: string
}

/** `namespace/name`, the resource name of a policy. */
export function policyKey({ namespace, name }: { readonly namespace: string; readonly name: string }): string {
  return `${namespace}/${name}`
}
