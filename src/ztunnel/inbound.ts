// From a client to a captured pod's application: who may, and to which of the pod's ports. Every connection is judged by the
// policies in force, with the identity that the tunnel proved or without any. What cannot be judged is refused.
import { formatAddr } from '../core/address.ts'
import type { ClientAddr, SocketAddr } from '../core/address.ts'
import { MeshError } from '../core/errors.ts'
import type { Identity } from '../core/identity.ts'
import type { Authority } from '../hbone/authority.ts'
import { formatAuthority } from '../hbone/authority.ts'
import { serviceKey } from '../model/workload.ts'
import type { Workload } from '../model/workload.ts'
import type { Verdict } from '../policy/rbac.ts'
import type { MeshState } from './mesh-state.ts'

export interface InboundRequest {
  readonly client: ClientAddr
  /** Undefined for plain text. */
  readonly identity: Identity | undefined
  readonly destination: SocketAddr
}

/** The policies' answer; POLICY_DENIED is thrown for a no, with `detail.policy` where one said so. */
export function authorize(mesh: MeshState, workload: Workload, { client, identity, destination }: InboundRequest): Verdict & { readonly allowed: true } {
  const verdict = mesh.rbac.evaluate(workload, { identity, sourceIp: client.ip, destination })
  if (verdict.allowed) return verdict
  throw new MeshError('POLICY_DENIED', `${verdict.because}${verdict.policy === undefined ? '' : ` (${verdict.policy})`}`, {
    source: 'downstream', detail: { because: verdict.because, dryRun: verdict.dryRun, ...(verdict.policy !== undefined && { policy: verdict.policy, rule: verdict.rule }) },
  })
}

/**
 * Where the authority of a CONNECT leads in this pod. PEER_IDENTITY_MISMATCH (400) for another's address; NO_HEALTHY_UPSTREAM
 * (503) for a service that this pod does not serve.
 */
export function destinationOf(mesh: MeshState, workload: Workload, authority: Authority, local: SocketAddr): SocketAddr {
  if (authority.t === 'address') {
    const { address } = authority
    // The connection's own address, as the reference has it: a valid certificate is no ticket to other pods. Nor to the pod's
    // address of the other family, which could only be delivered as if the pod itself had connected.
    if (address.ip === local.ip) return address
    throw new MeshError('PEER_IDENTITY_MISMATCH', `${formatAddr(address)} is not the address that was connected to`, { source: 'downstream', detail: { because: 'ipMismatch' } })
  }
  const service = mesh.store.serviceByHostname(authority.hostname, workload.namespace, workload.namespace)
  const own = service && workload.services.get(serviceKey(service))
  const mapping = own?.find(({ servicePort }) => servicePort === authority.port) ?? (own && service?.ports.find(({ servicePort }) => servicePort === authority.port))
  if (!mapping || mapping.targetPort === 0) {
    throw new MeshError('NO_HEALTHY_UPSTREAM', `this pod does not serve ${formatAuthority(authority)}`, { source: 'downstream', detail: { because: 'notServedHere' } })
  }
  return { ip: local.ip, port: mapping.targetPort }
}
