// What the control plane says of its nodes and gateways to people: their streams' records told plainly. Only looks.
import type { ConnectedNode } from '../model/control-plane-status.ts'
import type { NodeStatus } from '../xds/node-records.ts'
import type { ResourceType } from '../xds/resource-types.ts'

/** Known by the name in its token, a gateway's pod as `namespace/name`: what a node calls itself in the protocol is its instance, and nobody looks for that. */
export function byNodeName(nodes: readonly NodeStatus[]): NodeStatus[] {
  return nodes.map((status) => ({ ...status, node: status.identity }))
}

/** One entry a node; of several streams (a ztunnel that another takes over from) the newest. */
export function connectedNodes(nodes: readonly NodeStatus[]): ConnectedNode[] {
  const newest = new Map<string, NodeStatus>()
  for (const status of nodes) {
    const other = newest.get(status.identity)
    const isNewer = !other || (status.disconnectedAtMs === undefined) !== (other.disconnectedAtMs === undefined)
      ? status.disconnectedAtMs === undefined || !other
      : status.connectedAtMs >= other.connectedAtMs
    if (isNewer) newest.set(status.identity, status)
  }
  return [...newest.values()].map(connectedNode).sort((a, b) => (a.node < b.node ? -1 : 1))
}

/** A node that knows only a part of these cannot do its work. */
function neededTypes(gateway: NodeStatus['gateway']): readonly ResourceType[] {
  return gateway ? ['address', 'waypoint'] : ['address', 'authorization']
}

function connectedNode({ identity, gateway, peer, disconnectedAtMs, types, nacks }: NodeStatus): ConnectedNode {
  const each = Object.values(types)
  const connected = disconnectedAtMs === undefined
  const behind = each.reduce((sum, type) => sum + type.behind + (type.waitingSinceMs === undefined ? 0 : 1), 0)
  return {
    node: identity,
    ...(gateway && { gateway: `${gateway.namespace}/${gateway.name}` }),
    // A socket for both families shows IPv4 so.
    peer: peer.replace(/^::ffff:(?=\d+\.)/, ''),
    connected,
    current: connected && behind === 0 && nacks.length === 0 && neededTypes(gateway).every((type) => types[type].subscribed !== 'none'),
    behind,
    acked: each.reduce((sum, type) => sum + type.acked, 0),
    nacked: each.reduce((sum, type) => sum + type.nacked, 0),
    nacks: nacks.map(({ resource, because }) => ({ resource, because })),
  }
}
