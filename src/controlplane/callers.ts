// Who calls the control plane: whoever holds a token for our audience (signed by us, or by Kubernetes: kube/callers.ts) speaks for
// the node named in it, or for the one pod named in it, and for no other. Refusals tell the reason, never the token.
import type { Identity } from '../core/identity.ts'
import type { AuthorityOptions, Caller } from '../pki/authority.ts'
import type { CaAdmission } from '../pki/ca-service.ts'
import type { TokenHolder, TokenIssuer, TokenRefusal } from '../pki/tokens.ts'
import type { Admission, Admitted } from '../xds/server-options.ts'
import { gatewayPodOf, type RunningPods } from './gateway-pods.ts'

/** Of a call, lower-case names. */
export type CallMetadata = ReadonlyMap<string, string>

export type CallerVerdict =
  | ({ readonly ok: true } & TokenHolder)
  | { readonly ok: false; readonly code: 'unauthenticated' | 'permissionDenied'; readonly because: string }

/** `peer`: address and port. Never rejects for what a caller sent. */
export type CallerCheck = (metadata: CallMetadata, peer: string) => Promise<CallerVerdict>

const sentences: Readonly<Record<TokenRefusal, string>> = {
  missing: 'there is no bearer token in the call',
  malformed: 'the token is not one of ours',
  badSignature: 'the token was not signed by this control plane',
  expired: 'the token has expired',
  notYetValid: 'the token is not valid yet',
  wrongAudience: 'the token is for another audience',
  wrongIssuer: 'the token is of another issuer',
  noNode: 'the token names no node',
  badPod: 'the token names a pod in a way that is not ours',
}

/** Asks the token, and that the caller does not take us for another cluster's control plane. */
export function callerCheck(tokens: Pick<TokenIssuer, 'verifyHeader'>, audience: string, clusterId: string): CallerCheck {
  return async (metadata) => {
    const verdict = await tokens.verifyHeader(metadata.get('authorization'), audience)
    return verdict.ok ? otherCluster(metadata, clusterId) ?? verdict : { ok: false, code: 'unauthenticated', because: sentences[verdict.because] }
  }
}

/** The refusal for who names another cluster than ours. */
export function otherCluster(metadata: CallMetadata, clusterId: string): Extract<CallerVerdict, { ok: false }> | undefined {
  const cluster = metadata.get('clusterid')
  if (cluster === undefined || cluster === clusterId) return undefined
  return { ok: false, code: 'unauthenticated', because: `this is the control plane of cluster ${clusterId}, not of ${JSON.stringify(cluster.slice(0, 253))}` }
}

/** For discovery: a node as itself, a gateway's pod as the gateway that the facts say it is; no other pod. */
export function admitToDiscovery(verdict: CallerVerdict, pods: RunningPods): Admission {
  if (!verdict.ok) return verdict
  const { node, pod } = verdict
  if (!pod) return { ok: true, identity: node, node }
  const found = gatewayPodOf({ node, pod }, pods)
  // Nodes have no slash in their names: nobody is taken for another.
  return found.ok
    ? { ok: true, identity: `${pod.namespace}/${pod.name}`, node, gateway: found.gateway }
    : { ok: false, code: 'permissionDenied', because: found.because }
}

/** Whether who was admitted may be what the first request of its stream claims to be: NODE_NAME, and GATEWAY of a gateway's pod. */
export function mayBeNode(caller: Admitted, metadata: Readonly<Record<string, unknown>>): Admission {
  const { node, gateway } = caller
  const own = gateway && `${gateway.namespace}/${gateway.name}`
  const wrong = mismatch('NODE_NAME', node, `node ${node}`, metadata) ?? mismatch('GATEWAY', own, own ? `gateway ${own}` : 'no gateway', metadata)
  return wrong === undefined ? caller : { ok: false, code: 'permissionDenied', because: wrong }
}

function mismatch(field: string, expected: string | undefined, what: string, metadata: Readonly<Record<string, unknown>>): string | undefined {
  const claimed = metadata[field]
  if (claimed === expected) return undefined
  const said = typeof claimed === 'string' ? `as ${JSON.stringify(claimed.slice(0, 253))}` : `without ${field} in the metadata of the node`
  return `the token is for ${what}, but the request comes ${said}`
}

/** For the certificate authority. A pod has an identity of its own, and asks for nothing else. */
export function admitToAuthority(verdict: CallerVerdict, trustDomain: string): CaAdmission {
  if (!verdict.ok) return verdict
  const { node, pod } = verdict
  if (!pod) return { ok: true, caller: { node } }
  const { namespace, serviceAccount } = pod
  return { ok: true, caller: { node, pod, identity: { trustDomain, namespace, serviceAccount } } }
}

/** What the authority may sign: for a node what runs on it, for a gateway's pod what it is itself. */
export function signingRule(mayHave: (node: string, identity: Identity) => true | string, pods: () => RunningPods): AuthorityOptions['maySign'] {
  return ({ node, pod }: Caller, identity) => {
    if (!pod) return mayHave(node, identity)
    if (identity.namespace !== pod.namespace || identity.serviceAccount !== pod.serviceAccount) {
      return `the token is for the pod ${pod.namespace}/${pod.name} alone, which runs as ${pod.serviceAccount}`
    }
    const found = gatewayPodOf({ node, pod }, pods())
    return found.ok ? true : found.because
  }
}
