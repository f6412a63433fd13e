// The types of resources that are served, and how their resources are named: two that a ztunnel needs, and one of our own for
// gateways.
import { bytesToIp, ipToBytes } from '../core/address.ts'
import type { Authorization } from '../model/authorization.ts'
import type { WaypointResource } from '../model/waypoint-config.ts'
import type { NetworkAddress, Service, Workload } from '../model/workload.ts'

export type ResourceType = 'address' | 'authorization' | 'waypoint'

/** In the order in which a new stream gets them. */
export const resourceTypes = ['address', 'authorization', 'waypoint'] as const satisfies readonly ResourceType[]

export const typeUrls: Readonly<Record<ResourceType, string>> = {
  address: 'type.googleapis.com/istio.workload.Address',
  authorization: 'type.googleapis.com/istio.security.Authorization',
  waypoint: 'type.googleapis.com/sidestep.waypoint.v1.Resource',
}

export function typeOfUrl(url: string): ResourceType | undefined {
  return resourceTypes.find((type) => typeUrls[type] === url)
}

/** Content of a resource, decoded. */
export type Resource =
  | { readonly kind: 'workload'; readonly workload: Workload }
  | { readonly kind: 'service'; readonly service: Service }
  | { readonly kind: 'policy'; readonly policy: Authorization }
  | { readonly kind: 'waypoint'; readonly resource: WaypointResource }

export type AddressResource = Extract<Resource, { readonly kind: 'workload' | 'service' }>

/** `network/ip`: how an address is asked for; undefined for a range, which cannot be asked for. */
export function addressAlias({ network, ip, prefixLength }: NetworkAddress): string | undefined {
  if (prefixLength !== undefined && prefixLength < (ip.includes(':') ? 128 : 32)) return undefined
  return `${network}/${ip}`
}

/** 4 or 16 bytes as they go over the wire; undefined if the text is no address. */
export function ipToWire(ip: string): Uint8Array | undefined {
  const bytes = ipToBytes(ip)
  return bytes && (ip.includes(':') && bytesToIp(bytes).includes(':') ? bytes : bytes.subarray(12))
}
