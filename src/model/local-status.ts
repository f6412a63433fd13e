// What a local mesh says about itself on its API socket: shapes shared by the daemon that writes them and the command
// line that reads them. Pure data.
import { z } from 'zod'
import { caStatusSchema, connectedNodeSchema } from './control-plane-status.ts'

/** Below it each mesh has a directory of its name. */
export const localStateRoot = '/run/sidestep'
/** HTTP with JSON is spoken there. */
export function localApiSocket(name: string): string {
  return `${localStateRoot}/${name}/api.sock`
}

/** The admin API of the mesh's control plane: HTTP with JSON. */
export function localControlPlaneSocket(name: string): string {
  return `${localStateRoot}/${name}/controlplane/admin.sock`
}

const problemSchema = z.object({ file: z.string(), line: z.int(), reason: z.string() })

export const podStatusSchema = z.object({
  namespace: z.string(),
  name: z.string(),
  /** Empty while no node was found. */
  node: z.string(),
  ips: z.array(z.string()),
  phase: z.enum(['Pending', 'Running', 'Succeeded', 'Failed', 'Terminating']),
  /** Why it is not simply running; empty if it is. */
  reason: z.string(),
  ready: z.boolean(),
  restarts: z.int(),
  /** `no`: not in the mesh. `waiting`: its traffic is not captured yet. */
  captured: z.enum(['no', 'waiting', 'yes']),
  containers: z.array(z.object({
    name: z.string(), ready: z.boolean(), restarts: z.int(), state: z.string(), message: z.string(),
  })),
})
export type PodStatus = z.infer<typeof podStatusSchema>

/** The control plane of the mesh, as the daemon knows it and as it says itself. */
export const localControlPlaneSchema = z.object({
  /** `starting`: not serving yet, or again. `off`: the mesh has none. */
  state: z.enum(['off', 'starting', 'ready']),
  /** Absent between two runs. */
  pid: z.int().optional(),
  /** What it said when it was asked just now; absent if it did not answer. */
  report: z.object({
    podsConnected: z.boolean(),
    workloads: z.int(),
    services: z.int(),
    policies: z.int(),
    nodes: z.array(connectedNodeSchema),
    ca: caStatusSchema,
    /** Not in force as written, and why; each reason with its place where it has one. */
    refused: z.array(z.object({ object: z.string(), file: z.string(), line: z.int(), reasons: z.array(z.string()) })),
    problems: z.array(problemSchema),
  }).optional(),
})
export type LocalControlPlane = z.infer<typeof localControlPlaneSchema>

/** A Gateway whose pods this mesh runs, or would. */
export const gatewayStatusSchema = z.object({
  namespace: z.string(),
  name: z.string(),
  role: z.enum(['waypoint', 'ingress']),
  /** Of a waypoint: `all`, `service`, `workload` or `none`, as its label says. */
  serves: z.string(),
  /** Empty for one that was applied. */
  file: z.string(),
  line: z.int(),
  replicas: z.int(),
  ready: z.int(),
  /** Of them all, ready or not, those that are as they should be now. */
  updated: z.int(),
  /** While they are being replaced, more than are wanted. */
  pods: z.int(),
  /** Unix sockets of the admin API of each. */
  admin: z.array(z.object({ pod: z.string(), socket: z.string() })),
  /** Why it has no pods that are ready; empty if it has. */
  reason: z.string(),
  /** Objects whose label asks for it, as `Kind namespace/name`: a wish, whether or not it is granted. */
  usedBy: z.array(z.string()),
})
export type GatewayStatus = z.infer<typeof gatewayStatusSchema>

export const localStatusSchema = z.object({
  name: z.string(),
  /** Everything that should run does, and is ready. */
  ready: z.boolean(),
  mesh: z.boolean(),
  controlPlane: localControlPlaneSchema,
  nodes: z.array(z.object({
    name: z.string(), ips: z.array(z.string()), pods: z.int(), ztunnel: z.enum(['off', 'starting', 'connected']),
  })),
  pods: z.array(podStatusSchema),
  deployments: z.array(z.object({
    namespace: z.string(), name: z.string(), replicas: z.int(), ready: z.int(), updated: z.int(),
  })),
  /** Those that somebody declared; `file` is empty for what was applied. */
  namespaces: z.array(z.object({ name: z.string(), labels: z.record(z.string(), z.string()), file: z.string(), line: z.int() })),
  gateways: z.array(gatewayStatusSchema),
  /** Ports of this machine that lead to ingresses. */
  published: z.array(z.object({
    /** `namespace/name`. */
    gateway: z.string(), port: z.int(),
    /** `127.0.0.1:PORT`. */
    address: z.string(),
    /** For a browser; empty where no HTTP is spoken. */
    url: z.string(),
    listening: z.boolean(),
    /** Why it does not listen; empty if it does. */
    because: z.string(),
    connections: z.int(),
  })),
  services: z.array(z.object({
    namespace: z.string(), name: z.string(), ips: z.array(z.string()),
    ports: z.array(z.object({ protocol: z.string(), port: z.int(), endpoints: z.array(z.string()) })),
  })),
  problems: z.array(problemSchema),
  notes: z.array(problemSchema),
})
export type LocalStatus = z.infer<typeof localStatusSchema>

export const execRequestSchema = z.strictObject({
  namespace: z.string().max(253),
  name: z.string().max(253),
  container: z.string().max(253).optional(),
  command: z.array(z.string().max(128 * 1024)).min(1).max(1000),
})
export type ExecRequest = z.infer<typeof execRequestSchema>

/** How a client on the same machine runs a command inside a pod: by itself, so that terminals just work. */
export const execPlanSchema = z.object({ argv: z.array(z.string()).min(1), env: z.record(z.string(), z.string()) })
export type ExecPlan = z.infer<typeof execPlanSchema>

const dnsLabel = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/

/** A pod made for one command. */
export const runRequestSchema = z.strictObject({
  name: z.string().max(63).regex(dnsLabel, 'must be a DNS label in lower case'),
  namespace: z.string().max(63).regex(dnsLabel, 'must be a DNS label in lower case').default('default'),
  node: z.string().max(63).optional(),
  labels: z.record(z.string(), z.string()).default({}),
  command: z.array(z.string().max(128 * 1024)).min(1).max(1000),
})
export type RunRequest = z.infer<typeof runRequestSchema>

/** YAML as for kubectl. */
export const applyRequestSchema = z.strictObject({ manifest: z.string().max(1 << 20) })
/** Keys of the objects, `Kind namespace/name`. */
export const applyResultSchema = z.object({ objects: z.array(z.string()) })
export type ApplyResult = z.infer<typeof applyResultSchema>

/** Exit code of the pod's first container. */
export const runResultSchema = z.object({ code: z.int() })
export type RunResult = z.infer<typeof runResultSchema>

export const apiErrorSchema = z.object({ code: z.string(), message: z.string(), hint: z.string() })
export type ApiError = z.infer<typeof apiErrorSchema>
