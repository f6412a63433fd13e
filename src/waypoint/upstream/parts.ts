// What the upstream side is made of, handed in by whoever composes the proxy; and its own limits.
import type { Socket } from 'node:net'
import type { SocketAddr } from '../../core/address.ts'
import type { Clock } from '../../core/clock.ts'
import type { Identity } from '../../core/identity.ts'
import type { Logger } from '../../core/log.ts'
import type { HbonePool } from '../../hbone/pool.ts'
import type { DestinationPolicy } from '../../model/route.ts'
import type { WaypointResource } from '../../model/waypoint-config.ts'
import type { WorkloadStore } from '../../model/workload-store.ts'
import type { Workload } from '../../model/workload.ts'
import type { SessionKeys } from '../../policy/l7/session-persistence.ts'
import type { UpstreamEvents } from './events.ts'

export type Secret = Omit<Extract<WaypointResource, { readonly kind: 'secret' }>, 'kind' | 'key'>

export interface UpstreamParts {
  readonly store: WorkloadStore
  /** Our own workload, once the mesh has told of it: for places, networks and which waypoint is ours. */
  readonly self: () => Workload | undefined
  /** How endpoints are used, by `namespace/hostname`: asked for each request, so it answers from memory. */
  readonly destination: (key: string) => DestinationPolicy | undefined
  /** By `Secret namespace/name`; the same object as long as its content is the same. */
  readonly secret: (key: string) => Secret | undefined
  /** Undefined where there are no tunnels: an endpoint that is reached by one is then not reached. */
  readonly tunnels: HbonePool | undefined
  /** Who we are in tunnels, and what the pool keeps connections apart by. */
  readonly identity: Identity
  readonly sourceKey: string
  /** Default: from this process's own network namespace. */
  readonly dial?: (to: SocketAddr, signal: AbortSignal) => Promise<Socket>
  /** Addresses of a name outside the mesh, the best first. Default: by the system's resolver. */
  readonly resolve?: (host: string) => Promise<readonly string[]>
  readonly clock: Clock
  /** 0 <= x < 1. */
  readonly random: () => number
  readonly log: Logger
  /** Shared by all replicas, or a client's session lasts only as long as it meets the same one. */
  readonly sessionKeys: SessionKeys
  readonly events?: UpstreamEvents
  /** Default true: a destination behind a waypoint that is not ours is reached through it. */
  readonly throughWaypoints?: boolean
  readonly limits?: Partial<UpstreamLimits>
}

export interface UpstreamLimits {
  /** How long a request waits for an endpoint or a connection, and when waiting turns to failing at once. */
  readonly queueMs: number
  /** Kept of all requests' bodies together, to be sent again. */
  readonly replayBytes: number
  /** Copies under way. */
  readonly mirrors: number
  /** A copy's answer may take so long. */
  readonly mirrorMs: number
  /** Checks under way. */
  readonly checks: number
  /** Services, ports and subsets that nobody used for so long are forgotten. */
  readonly unusedMs: number
  /** Host names outside that were asked for under wildcards. */
  readonly hosts: number
}

export const defaultUpstreamLimits: UpstreamLimits = {
  queueMs: 3_000, replayBytes: 67_108_864, mirrors: 256, mirrorMs: 15_000, checks: 64, unusedMs: 600_000, hosts: 1_024,
}
