// From a client to a captured pod's application: who may, and to which of the pod's ports. Every connection is judged by the
// policies in force, with the identity that the tunnel proved, the one that the pod's own waypoint speaks for, or without any.
// What cannot be judged is refused, and nobody but a waypoint before the pod is believed about others.
import { formatAddr, isIpv6Address } from '../core/address.ts'
import type { ClientAddr, SocketAddr } from '../core/address.ts'
import { MeshError } from '../core/errors.ts'
import type { Identity } from '../core/identity.ts'
import type { Authority } from '../hbone/authority.ts'
import { formatAuthority } from '../hbone/authority.ts'
import type { ConnectRequest } from '../hbone/server-session.ts'
import { serviceKey } from '../model/workload.ts'
import type { Workload } from '../model/workload.ts'
import type { Verdict } from '../policy/rbac.ts'
import { standsBefore } from '../policy/waypoint-binding.ts'
import { workloadOf } from '../member/baggage.ts'
import type { MeshState } from '../member/mesh-state.ts'
import { proxyHeader } from './proxy-protocol.ts'
import type { Peer } from '../member/telemetry/labels.ts'

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

/** For whom a tunnel's connection is. */
export interface TunnelSource {
  /** What policies judge, and what is told of it. */
  readonly client: ClientAddr
  readonly identity: Identity
  /** The waypoint that says so; absent where the peer speaks for itself. */
  readonly via?: Identity
  /** The application sees this: the client, if it has an address of the destination's family, else who connected to us. */
  readonly seenAs: ClientAddr
  /** The peer named a source, and is not one to be believed. */
  readonly isClaimIgnored?: true
}

/**
 * What the peer proved, unless it is a waypoint that stands before that port of the pod: then what it says. A waypoint that names
 * no source is judged itself; one that names it unreadably is refused (BAD_MESSAGE), or who is denied could hide behind it.
 */
export function tunnelSource(mesh: MeshState, own: Workload, request: ConnectRequest, peer: ClientAddr, { ip, port }: SocketAddr): TunnelSource {
  const { peerIdentity, sourceIdentity, isSourceUnreadable = false, forwarded } = request
  const itself: TunnelSource = { client: peer, identity: peerIdentity, seenAs: peer }
  const isNamed = sourceIdentity !== undefined || isSourceUnreadable
  // Every ztunnel says `forwarded`, and nearly always what we see ourselves.
  if (!isNamed && (!forwarded?.client || forwarded.client.ip === peer.ip)) return itself
  if (!standsBefore(peerIdentity, own, port, mesh.store)) return isNamed ? { ...itself, isClaimIgnored: true } : itself
  if (isSourceUnreadable) {
    throw new MeshError('BAD_MESSAGE', 'the waypoint names its client in a way that cannot be read', { source: 'downstream', detail: { because: 'unreadableSource' } })
  }
  const client = forwarded?.client && isClientIp(forwarded.client.ip) ? forwarded.client : peer
  return { client, identity: sourceIdentity ?? peerIdentity, via: peerIdentity, seenAs: isIpv6Address(client.ip) === isIpv6Address(ip) ? client : peer }
}

/** Applications trust some addresses more than others, and no client elsewhere has one of those: not even a waypoint may give them. */
function isClientIp(ip: string): boolean {
  if (isIpv6Address(ip)) return !/^(::1?$|ff[0-9a-f]{2}:|fe[89ab][0-9a-f]:)/.test(ip)
  return !/^(0|127|169\.254|22[4-9]|2[345]\d)\./.test(ip)
}

/** Where a CONNECT is delivered to, and for whom. */
export interface Delivery {
  /** In this pod; what policies judge. */
  readonly destination: SocketAddr
  readonly source: TunnelSource
  /** The application is a proxy that takes tunnels' bytes itself: dialled on loopback, and told this first, where it wants that. */
  readonly applicationTunnel?: { readonly dial: SocketAddr; readonly header: Buffer | undefined }
}

/**
 * What a CONNECT asks of this pod; `local` is the address that its connection came to. PEER_IDENTITY_MISMATCH (400) for another
 * address; NO_HEALTHY_UPSTREAM (503) for a service that this pod does not serve.
 */
export function deliveryOf(mesh: MeshState, workload: Workload, request: ConnectRequest, local: SocketAddr, peer: ClientAddr): Delivery {
  const { applicationTunnel } = workload
  const { authority } = request
  if (!applicationTunnel) {
    const destination = destinationOf(mesh, workload, authority, local)
    return { destination, source: tunnelSource(mesh, workload, request, peer, destination) }
  }
  const { protocol, port } = applicationTunnel
  const isProxy = protocol === 'proxy'
  // Such an application decides itself where the bytes go on to: it is told any address that the client named.
  const asked = isProxy ? { ip: local.ip, port: authorityPort(authority) } : destinationOf(mesh, workload, authority, local)
  const destination = { ...asked, port: port ?? asked.port }
  const source = tunnelSource(mesh, workload, request, peer, destination)
  const header = isProxy ? proxyHeader(source.client, namedAddress(mesh, workload, authority), source.identity) : undefined
  return { destination, source, applicationTunnel: { dial: { ip: isIpv6Address(local.ip) ? '::1' : '127.0.0.1', port: destination.port }, header } }
}

function authorityPort(authority: Authority): number {
  return authority.t === 'address' ? authority.address.port : authority.port
}

/** The address that an authority stands for: a service's own, in this workload's network and IPv4 if there is one. */
function namedAddress(mesh: MeshState, workload: Workload, authority: Authority): SocketAddr {
  if (authority.t === 'address') return authority.address
  const service = mesh.store.serviceByHostname(authority.hostname, workload.namespace, workload.namespace)
  const addresses = (service?.addresses ?? []).filter(({ prefixLength }) => prefixLength === undefined)
  const near = addresses.filter(({ network }) => network === workload.network)
  const candidates = near.length > 0 ? near : addresses
  const chosen = candidates.find(({ ip }) => !isIpv6Address(ip)) ?? candidates[0]
  if (chosen) return { ip: chosen.ip, port: authority.port }
  throw new MeshError('NO_HEALTHY_UPSTREAM', `${formatAuthority(authority)} has no address that a PROXY header could name`, {
    source: 'downstream', detail: { because: 'noServiceAddress' },
  })
}

/**
 * Who a connection comes from, for telemetry. An address is a hint, and only what fits the identity that was proved is named. What
 * comes from another network has the address of a gateway, so there it is what the client says of itself. `identity`: whom the
 * connection is for, where that is not the tunnel's peer.
 */
export function sourceOf(mesh: MeshState, own: Workload | undefined, client: ClientAddr, request?: ConnectRequest, identity = request?.peerIdentity): Peer {
  if (own && request && identity && isOfOtherNetwork(own, request)) return { identity, workload: workloadOf(request.baggage ?? {}, identity) }
  const source = own && mesh.store.workloadByIp(own.network, client.ip)
  const isSource = source !== undefined && (!identity || (source.namespace === identity.namespace && source.serviceAccount === identity.serviceAccount))
  return { workload: isSource ? source : undefined, identity }
}

function isOfOtherNetwork({ network }: Workload, { forwardedNetwork }: ConnectRequest): boolean {
  return forwardedNetwork !== undefined && forwardedNetwork !== network
}

/** Where the authority of a CONNECT leads in this pod. */
function destinationOf(mesh: MeshState, workload: Workload, authority: Authority, local: SocketAddr): SocketAddr {
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
