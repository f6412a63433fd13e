// What an L4 authorization decision looks at, and the one way in which names are compared. Whoever has no verified identity
// has none of the names: no positive matcher over names ever holds for plaintext, not even an empty prefix.
import type { SocketAddr } from '../core/address.ts'
import type { Identity } from '../core/identity.ts'
import { packIp, type PackedIp } from '../model/cidr-map.ts'
import type { StringMatch } from '../model/authorization.ts'

/** One inbound connection. */
export interface PeerConnection {
  /** From the verified peer certificate, never from an address; undefined for plaintext. */
  readonly identity?: Identity | undefined
  /** The socket's peer: the real client, or the waypoint that stands before it. */
  readonly sourceIp: string
  /** The pod's address and the final target port. */
  readonly destination: SocketAddr
}

/** The connection as matchers want it. */
export interface Facts {
  /** The identity without `spiffe://`. */
  readonly principal: string | undefined
  readonly namespace: string | undefined
  /** `namespace/serviceAccount`; the trust domain does not count. */
  readonly account: string | undefined
  readonly source: PackedIp
  readonly destination: PackedIp
  readonly port: number
}

/** Undefined if one of the addresses is not an address: nothing can be decided about such a connection. */
export function factsOf({ identity, sourceIp, destination }: PeerConnection): Facts | undefined {
  const source = packIp(sourceIp)
  const target = packIp(destination.ip)
  if (!source || !target) return undefined
  return {
    principal: identity && `${identity.trustDomain}/ns/${identity.namespace}/sa/${identity.serviceAccount}`,
    namespace: identity?.namespace,
    account: identity && `${identity.namespace}/${identity.serviceAccount}`,
    source,
    destination: target,
    port: destination.port,
  }
}

export function matchesString(match: StringMatch, value: string | undefined): boolean {
  if (value === undefined) return false
  switch (match.kind) {
    case 'exact':
      return value === match.value
    case 'prefix':
      return value.startsWith(match.value)
    case 'suffix':
      return value.endsWith(match.value)
    case 'presence':
      return value !== ''
  }
}
