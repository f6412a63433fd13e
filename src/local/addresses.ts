// The address plan of a local mesh: pure arithmetic. Every instance lives in namespaces of its own, so all may use the
// same ranges; nothing here ever appears in the host's network namespace.
import { isIPv4 } from 'node:net'
import { ipToBytes } from '../core/address.ts'

export const maxNodes = 64
/** Gateway of the underlay: the bridge itself, standing for everything outside the cluster. */
export const underlayIps = { v4: '172.30.255.254', v6: 'fd00:172:30::ffff' } as const
export const clusterDns = { v4: '10.96.0.10', v6: 'fd00:10:96::a' } as const
/** Where the name server behind port 53 listens: a name server outside, in the same namespace, may listen on 53 of all addresses. */
export const clusterDnsPort = 10_053
export const serviceRanges = { v4: '10.96.0.0/16', v6: 'fd00:10:96::/112' } as const
export const podRanges = { v4: '10.244.0.0/16', v6: 'fd00:10:244::/48' } as const
/** Next hop of every pod, answered by the node's end of the pod's link; the same on all nodes, as with Calico. */
export const podGateway = { v4: '169.254.1.1', v6: 'fe80::1' } as const
export const nodeLinkMac = 'ee:ee:ee:ee:ee:ee'
const firstHost = 2
const lastHost = 254

export interface IpPair {
  readonly v4: string
  readonly v6: string
}

/** `node-a`, `node-b`, ... for index 1, 2, ...; after z follow `node-27` and so on. */
export function nodeName(index: number): string {
  return index <= 26 ? `node-${String.fromCharCode(96 + index)}` : `node-${index}`
}

/** Node index counts from 1. */
export function nodeIps(index: number): IpPair {
  return { v4: `172.30.0.${index}`, v6: `fd00:172:30::${index.toString(16)}` }
}

export function podRangeOfNode(index: number): IpPair {
  return { v4: `10.244.${index}.0/24`, v6: `fd00:10:244:${index.toString(16)}::/64` }
}

export function podIps(nodeIndex: number, host: number): IpPair {
  return { v4: `10.244.${nodeIndex}.${host}`, v6: `fd00:10:244:${nodeIndex.toString(16)}::${host.toString(16)}` }
}

/** Locally administered, unique within an instance. */
export function podMac(nodeIndex: number, host: number): string {
  const hex = (n: number): string => n.toString(16).padStart(2, '0')
  return `0a:58:0a:f4:${hex(nodeIndex)}:${hex(host)}`
}

/** Hands out the host numbers of one node's pod range; what was freed last is given again last. */
export class HostNumbers {
  readonly #used = new Set<number>()
  #next = firstHost

  get size(): number {
    return this.#used.size
  }

  /** Undefined when the range is used up. */
  take(): number | undefined {
    for (let tried = firstHost; tried <= lastHost; tried++) {
      const host = this.#next
      this.#next = host === lastHost ? firstHost : host + 1
      if (this.#used.has(host)) continue
      this.#used.add(host)
      return host
    }
    return undefined
  }

  free(host: number): void {
    this.#used.delete(host)
  }
}

/** True for addresses a Service may have: in the range, and neither its first nor (v4) its last. */
export function isServiceIp(ip: string): boolean {
  const bytes = ipToBytes(ip)
  const range = ipToBytes(isIPv4(ip) ? '10.96.0.0' : 'fd00:10:96::')
  if (!bytes || !range) return false
  for (let i = 0; i < 14; i++) if (bytes[i] !== range[i]) return false
  const low = ((bytes[14] ?? 0) << 8) | (bytes[15] ?? 0)
  return low !== 0 && low !== 0xffff
}

/** The pair of service addresses with number `low` (1 to 65534). */
export function serviceIps(low: number): IpPair {
  return { v4: `10.96.${low >> 8}.${low & 0xff}`, v6: `fd00:10:96::${low.toString(16)}` }
}
