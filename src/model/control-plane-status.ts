// What the control plane says of each object, in its status file and to whoever asks: shapes shared by who writes and who
// reads. Pure data.
import { z } from 'zod'

export const objectStatusSchema = z.object({
  /** `Kind namespace/name`. */
  object: z.string(),
  file: z.string(),
  line: z.int(),
  /** In force as written. If not, `problems` say why; where there was a good state before, that one stays in force. */
  accepted: z.boolean(),
  problems: z.array(z.string()),
  notes: z.array(z.string()),
  /** Names of what it was translated to. */
  resources: z.array(z.string()),
  /** What nodes said of those resources. Empty lists where there is nothing to send. */
  acked: z.array(z.string()),
  pending: z.array(z.string()),
  nacked: z.array(z.object({ node: z.string(), because: z.string() })),
})
export type ObjectStatus = z.infer<typeof objectStatusSchema>

export const controlPlaneStatusSchema = z.object({
  /** All there is was read and published at least once. */
  ready: z.boolean(),
  objects: z.array(objectStatusSchema),
  /** Of files rather than of objects. */
  problems: z.array(z.object({ file: z.string(), line: z.int(), reason: z.string() })),
  notes: z.array(z.object({ file: z.string(), line: z.int(), reason: z.string() })),
  workloads: z.int(),
  services: z.int(),
  policies: z.int(),
})
export type ControlPlaneStatus = z.infer<typeof controlPlaneStatusSchema>
