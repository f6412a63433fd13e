// Lines for `ip -batch` that join nodes to the underlay and pods to their node: pure text. Everything is routed, with
// fixed neighbours, so there is no ARP, no duplicate address detection and nothing to wait for. The node's end of a
// pod's link has a known name and index.
import {
  clusterDns, nodeIps, nodeLinkMac, podGateway, podIps, podMac, podRangeOfNode, podRanges, serviceRanges, underlayIps,
} from './addresses.ts'

export const bridgeName = 'br0'
/** Settings of a node: it forwards, and it must not drop packets whose source a transparent proxy kept. */
export const nodeSysctls = [
  'net/ipv4/ip_forward=1',
  'net/ipv6/conf/all/disable_ipv6=0',
  'net/ipv6/conf/default/disable_ipv6=0',
  'net/ipv6/conf/all/forwarding=1',
  'net/ipv4/conf/all/rp_filter=0',
  'net/ipv4/conf/default/rp_filter=0',
  'net/ipv6/conf/default/accept_dad=0',
  'net/ipv6/conf/default/accept_ra=0',
] as const
export const podSysctls = [
  'net/ipv6/conf/all/disable_ipv6=0',
  'net/ipv6/conf/default/disable_ipv6=0',
  'net/ipv4/conf/all/rp_filter=0',
  'net/ipv4/conf/default/rp_filter=0',
  'net/ipv6/conf/default/accept_dad=0',
  'net/ipv6/conf/default/accept_ra=0',
] as const

/** Node side of the link of the pod with this host number. */
export function podLinkName(host: number): string {
  return `pod${host}`
}

/** Fixed, so that whoever needs the ingress interface of a pod can compute it. */
export function podLinkIndex(host: number): number {
  return 1000 + host
}

/**
 * In the underlay: the bridge, its own addresses, and those of the cluster's name server, which nodes reach as they reach
 * everything outside. These are on another link than the bridge, so that nothing sent from here takes them for its source.
 */
export function underlayLines(): string[] {
  return [
    `link add ${bridgeName} type bridge forward_delay 0`,
    `addr add ${underlayIps.v4}/16 dev ${bridgeName}`,
    `addr add ${underlayIps.v6}/64 dev ${bridgeName} nodad`,
    `link set ${bridgeName} up`,
    `addr add ${clusterDns.v4}/32 dev lo`,
    `addr add ${clusterDns.v6}/128 dev lo nodad preferred_lft 0`,
  ]
}

/** In the underlay: one node's port on the bridge. */
export function nodePortLines(index: number, nodePid: number): string[] {
  const port = `node${index}`
  const ips = nodeIps(index)
  const range = podRangeOfNode(index)
  return [
    `link add ${port} type veth peer name eth0 netns ${nodePid}`,
    `link set ${port} master ${bridgeName} up`,
    `route add ${range.v4} via ${ips.v4} dev ${bridgeName}`,
    `route add ${range.v6} via ${ips.v6} dev ${bridgeName}`,
  ]
}

/** In a node: its address, ways to the other nodes' pods, the world by the underlay's gateway. */
export function nodeLines(index: number, nodeCount: number): string[] {
  const ips = nodeIps(index)
  const own = podRangeOfNode(index)
  const lines = [
    `addr add ${ips.v4}/16 dev eth0`,
    `addr add ${ips.v6}/64 dev eth0 nodad`,
    'link set eth0 up',
    `route add default via ${underlayIps.v4} dev eth0 src ${ips.v4}`,
    `route add ::/0 via ${underlayIps.v6} dev eth0 src ${ips.v6}`,
    // An address of ours that no pod has must not travel in circles between node and underlay.
    `route add unreachable ${own.v4}`,
    `route add unreachable ${own.v6}`,
  ]
  for (let other = 1; other <= nodeCount; other++) {
    if (other === index) continue
    const range = podRangeOfNode(other)
    const via = nodeIps(other)
    lines.push(`route add ${range.v4} via ${via.v4} dev eth0 src ${ips.v4}`)
    lines.push(`route add ${range.v6} via ${via.v6} dev eth0 src ${ips.v6}`)
  }
  return lines
}

/** In the pod: both ends of the link, the pod's addresses and the way out. */
export function podLines(nodeIndex: number, host: number, nodePid: number): string[] {
  const pod = podIps(nodeIndex, host)
  const outer = `name ${podLinkName(host)} index ${podLinkIndex(host)} address ${nodeLinkMac} netns ${nodePid}`
  return [
    `link add name eth0 address ${podMac(nodeIndex, host)} type veth peer ${outer}`,
    `addr add ${pod.v4}/32 dev eth0`,
    `addr add ${pod.v6}/128 dev eth0 nodad`,
    'link set eth0 up',
    `neigh add ${podGateway.v4} lladdr ${nodeLinkMac} dev eth0 nud permanent`,
    `neigh add ${podGateway.v6} lladdr ${nodeLinkMac} dev eth0 nud permanent`,
    `route add default via ${podGateway.v4} dev eth0 onlink src ${pod.v4}`,
    `route add ::/0 via ${podGateway.v6} dev eth0 onlink src ${pod.v6}`,
  ]
}

/** In the pod's node, after podLines: host routes to the pod. Probes and proxies leave with the node's own address. */
export function podLinkLines(nodeIndex: number, host: number): string[] {
  const name = podLinkName(host)
  const pod = podIps(nodeIndex, host)
  const node = nodeIps(nodeIndex)
  const mac = podMac(nodeIndex, host)
  return [
    `addr add ${podGateway.v6}/64 dev ${name} nodad`,
    `link set ${name} up`,
    `neigh add ${pod.v4} lladdr ${mac} dev ${name} nud permanent`,
    `neigh add ${pod.v6} lladdr ${mac} dev ${name} nud permanent`,
    `route add ${pod.v4}/32 dev ${name} src ${node.v4}`,
    `route add ${pod.v6}/128 dev ${name} src ${node.v6}`,
  ]
}

/** In the pod's node: removes the link at once, rather than when the kernel gets to the dead namespace. */
export function podUnlinkLines(host: number): string[] {
  return [`link del ${podLinkName(host)}`]
}

/** Everything a node routes for the cluster, for rules that must not touch other traffic. */
export const clusterRanges = { pods: podRanges, services: serviceRanges } as const
