// What the control plane says of each object, in its status file and to whoever asks: shapes shared by who writes and who
// reads. Pure data.
import { z } from 'zod'

const conditionSchema = z.object({ status: z.boolean(), reason: z.string(), message: z.string() })
export type RouteCondition = z.infer<typeof conditionSchema>

/** What became of a route at one of its parents: conditions with the reasons of the Gateway API. */
export const routeParentStatusSchema = z.object({
  parent: z.object({
    group: z.string(), kind: z.string(), namespace: z.string(), name: z.string(), sectionName: z.string().optional(), port: z.int().optional(),
  }),
  accepted: conditionSchema,
  resolvedRefs: conditionSchema,
  /** Some rules are in force as written, others are not: only where that is so. */
  partiallyInvalid: conditionSchema.optional(),
})
export type RouteParentStatus = z.infer<typeof routeParentStatusSchema>

/** What became of a listener of a Gateway, with the reasons of the Gateway API. Whether its pods are ready is another question. */
export const listenerStatusSchema = z.object({
  name: z.string(),
  /** Kinds of routes that it takes. */
  supportedKinds: z.array(z.string()),
  attachedRoutes: z.int(),
  accepted: conditionSchema,
  /** True is bad here: it cannot be told from another listener. */
  conflicted: conditionSchema,
  resolvedRefs: conditionSchema,
})
export type ListenerStatus = z.infer<typeof listenerStatusSchema>

export const objectStatusSchema = z.object({
  /** `Kind namespace/name`. */
  object: z.string(),
  file: z.string(),
  line: z.int(),
  /** In force as written. If not, `problems` say why; where there was a good state before, that one stays in force. */
  accepted: z.boolean(),
  problems: z.array(z.string()),
  notes: z.array(z.string()),
  /** Of routes, per parent. */
  parents: z.array(routeParentStatusSchema).optional(),
  /** Of Gateways of our classes. */
  listeners: z.array(listenerStatusSchema).optional(),
  /** Of services that want a waypoint: whether they have it (`message` names it), or why not. Whether it is ready is another question. */
  waypoint: conditionSchema.optional(),
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

export const caStatusSchema = z.object({
  trustDomain: z.string(),
  /** When the certificate that signs expires, and with it all below it; ISO 8601. */
  expires: z.string(),
  /** Of the control plane's own certificate. */
  servingExpires: z.string(),
  rotation: z.enum(['steady', 'announcing', 'retiring']),
  roots: z.int(),
  /** When a rotation that runs goes on. */
  nextStep: z.string().optional(),
  revoked: z.int(),
})
export type CaStatus = z.infer<typeof caStatusSchema>

export const connectedNodeSchema = z.object({
  /** A node's name, or `namespace/name` of a gateway's pod. */
  node: z.string(),
  /** `namespace/name` of the gateway whose pod it is; absent for nodes. */
  gateway: z.string().optional(),
  peer: z.string(),
  connected: z.boolean(),
  /** It has, and took, all there is. */
  current: z.boolean(),
  /** Changes that it was not sent yet, and answers that are awaited. */
  behind: z.int(),
  acked: z.int(),
  nacked: z.int(),
  /** What it refuses at this moment. */
  nacks: z.array(z.object({ resource: z.string(), because: z.string() })),
})
export type ConnectedNode = z.infer<typeof connectedNodeSchema>

/** What the control plane's admin socket answers. */
export const controlPlaneReportSchema = controlPlaneStatusSchema.extend({
  pid: z.int(),
  /** False while nobody tells which pods run; what was last told stays in force. */
  podsConnected: z.boolean(),
  nodes: z.array(connectedNodeSchema),
  ca: caStatusSchema,
})
export type ControlPlaneReport = z.infer<typeof controlPlaneReportSchema>
