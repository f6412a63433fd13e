// Whether a workload takes plaintext: PeerAuthentication with Istio's precedence. Selector before namespace before mesh; of
// several on one level the oldest counts; UNSET takes what is around it; ports belong to selector policies only. On the
// wire the control plane says the same as a DENY policy; this answers for status, for `authz explain` and for tests.

export type MtlsMode = 'unset' | 'disable' | 'permissive' | 'strict'

export interface PeerAuthentication {
  readonly name: string
  readonly namespace: string
  /** Labels that all must be there; empty means every workload of the namespace, or of the mesh in a root namespace. */
  readonly selector: Readonly<Record<string, string>>
  readonly mode: MtlsMode
  /** By the workload's port; without effect where there is no selector. */
  readonly portModes: ReadonlyMap<number, MtlsMode>
  /** Milliseconds since 1970; the older of two on one level counts. */
  readonly createdMs: number
}

type SetMode = Exclude<MtlsMode, 'unset'>

interface EffectiveMode {
  readonly mode: SetMode
  /** `namespace/name` of the policy that said so; undefined for the default. */
  readonly policy: string | undefined
}

/** What holds for one workload. */
export interface CompiledPeerAuthentication extends EffectiveMode {
  /** Only ports for which something of their own was said. */
  readonly ports: ReadonlyMap<number, EffectiveMode>
}

/** Permissive unless said otherwise, as in Istio. */
const meshDefault: EffectiveMode = { mode: 'permissive', policy: undefined }

export function compilePeerAuthentication(
  policies: readonly PeerAuthentication[],
  workload: { readonly namespace: string; readonly labels: Readonly<Record<string, string>> },
  rootNamespaces: readonly string[],
): CompiledPeerAuthentication {
  let mesh: PeerAuthentication | undefined
  let namespace: PeerAuthentication | undefined
  let selected: PeerAuthentication | undefined
  for (const policy of policies) {
    const isRoot = rootNamespaces.includes(policy.namespace)
    const hasSelector = Object.keys(policy.selector).length > 0
    // A selector in the root namespace selects nothing.
    if (isRoot && !hasSelector) mesh = older(mesh, policy)
    if (isRoot || policy.namespace !== workload.namespace) continue
    if (!hasSelector) namespace = older(namespace, policy)
    else if (selects(policy, workload.labels)) selected = older(selected, policy)
  }
  let base = meshDefault
  for (const policy of [mesh, namespace, selected]) if (policy) base = within(base, policy.mode, policy)
  const ports = new Map<number, EffectiveMode>()
  if (selected) for (const [port, mode] of selected.portModes) ports.set(port, within(base, mode, selected))
  return { ...base, ports }
}

function selects({ selector }: PeerAuthentication, labels: Readonly<Record<string, string>>): boolean {
  return Object.entries(selector).every(([key, value]) => labels[key] === value)
}

function older(a: PeerAuthentication | undefined, b: PeerAuthentication): PeerAuthentication {
  if (!a) return b
  if (a.createdMs !== b.createdMs) return a.createdMs < b.createdMs ? a : b
  return `${a.namespace}/${a.name}` < `${b.namespace}/${b.name}` ? a : b
}

function within(inherited: EffectiveMode, mode: MtlsMode, { namespace, name }: PeerAuthentication): EffectiveMode {
  return mode === 'unset' ? inherited : { mode, policy: `${namespace}/${name}` }
}

/** Closed set: log field and metric label. */
export type PeerAuthenticationReason = 'authenticated' | 'plaintextPermitted' | 'mtlsDisabled' | 'strictMtls'

export interface PeerAuthenticationVerdict {
  readonly allowed: boolean
  readonly because: PeerAuthenticationReason
  readonly policy: string | undefined
}

/**
 * `hasIdentity`: the peer proved an identity in its tunnel. DISABLE lets plaintext in and does not turn the tunnel away: a
 * captured pod can always be reached through it.
 */
export function peerAuthenticationVerdict(
  compiled: CompiledPeerAuthentication, { hasIdentity, port }: { readonly hasIdentity: boolean; readonly port: number },
): PeerAuthenticationVerdict {
  const { mode, policy } = compiled.ports.get(port) ?? compiled
  if (hasIdentity) return { allowed: true, because: 'authenticated', policy }
  switch (mode) {
    case 'strict':
      return { allowed: false, because: 'strictMtls', policy }
    case 'permissive':
      return { allowed: true, because: 'plaintextPermitted', policy }
    case 'disable':
      return { allowed: true, because: 'mtlsDisabled', policy }
  }
}
