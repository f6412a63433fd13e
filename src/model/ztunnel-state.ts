// What a ztunnel says of itself on its admin socket: shared by who asks it. Pure data; fields that a newer ztunnel adds
// are ignored.
import { z } from 'zod'

export const ztunnelStateSchema = z.object({
  node: z.string(),
  pid: z.int(),
  synced: z.boolean(),
  draining: z.int(),
  connections: z.object({ open: z.int(), limit: z.int() }),
  pods: z.array(z.object({
    namespace: z.string(), name: z.string(), open: z.int(), outbound: z.int(), inbound: z.int(), refused: z.int(), failed: z.int(),
    bytesSent: z.int(), bytesReceived: z.int(), existing: z.int(), dnsQueries: z.int(),
  })),
  counters: z.record(z.string(), z.int()),
  /** Bytes resident. */
  memory: z.object({ rss: z.int() }),
})
export type ZtunnelState = z.infer<typeof ztunnelStateSchema>
