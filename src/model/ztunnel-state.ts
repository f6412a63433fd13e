// What a ztunnel says of itself on its admin socket: shared by who asks it. Pure data; fields that a newer ztunnel adds
// are ignored, and those that an older one does not have yet get a default.
import { z } from 'zod'

/** Milliseconds since 1970 become text for people and programs alike: ISO 8601 in UTC. */
export const isoTime = (ms: number): string => new Date(ms).toISOString()

/** `off`: this ztunnel has no control plane and carries everything in plain text. */
export const xdsStateSchema = z.object({
  state: z.enum(['off', 'idle', 'connecting', 'syncing', 'ready', 'waiting', 'closed']),
  /** Both types of resources have been acknowledged once, or a kept state is in force. */
  synced: z.boolean().default(false),
  /** Why there is no stream; empty if there is one. */
  because: z.string().default(''),
})

/** `soonestExpiry` is empty where there is no certificate. `failed` counts identities whose last request was refused. */
export const certificateSummarySchema = z.object({
  total: z.int(), ready: z.int(), failed: z.int(), soonestExpiry: z.string(),
})

/** How much this ztunnel knows of the mesh. */
export const meshCountsSchema = z.object({ workloads: z.int(), services: z.int(), policies: z.int() })

export const ztunnelStateSchema = z.object({
  node: z.string(),
  pid: z.int(),
  synced: z.boolean(),
  draining: z.int(),
  connections: z.object({ open: z.int(), limit: z.int() }),
  xds: xdsStateSchema.default({ state: 'off', synced: false, because: '' }),
  certificates: certificateSummarySchema.default({ total: 0, ready: 0, failed: 0, soonestExpiry: '' }),
  mesh: meshCountsSchema.default({ workloads: 0, services: 0, policies: 0 }),
  pods: z.array(z.object({
    namespace: z.string(), name: z.string(), open: z.int(), outbound: z.int(), inbound: z.int(), refused: z.int(), failed: z.int(),
    bytesSent: z.int(), bytesReceived: z.int(), existing: z.int(), dnsQueries: z.int(),
  })),
  counters: z.record(z.string(), z.int()),
  /** Bytes resident. */
  memory: z.object({ rss: z.int() }),
})
export type ZtunnelState = z.infer<typeof ztunnelStateSchema>

/** `waitingFor`: sentences without a full stop, such as `the first answer of the control plane`. Empty when ready. */
export const readinessSchema = z.object({ ready: z.boolean(), waitingFor: z.array(z.string()).readonly() })
export type Readiness = z.infer<typeof readinessSchema>
