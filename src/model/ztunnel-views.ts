// What a ztunnel shows of the mesh, its connections and its certificates: shapes of its admin API, shared by the ztunnel that
// writes them and the command line that reads them. Pure data; fields that a newer ztunnel adds are ignored.
import { z } from 'zod'

const locality = z.object({ region: z.string(), zone: z.string(), subzone: z.string() })
const ports = z.array(z.object({ servicePort: z.int(), targetPort: z.int(), appProtocol: z.string() }))

/** `ready`, `notReady`, `unknown`, or `skipped`: not ready, and its owner lets connections past it. Empty without a waypoint. */
const waypointState = z.string().default('')

export const workloadViewSchema = z.object({
  uid: z.string(), namespace: z.string(), name: z.string(), ips: z.array(z.string()), network: z.string(), node: z.string(),
  clusterId: z.string(), identity: z.string(), tunnelProtocol: z.string(), healthy: z.boolean(), hostNetwork: z.boolean(),
  workloadType: z.string(), workloadName: z.string(), canonicalName: z.string(), canonicalRevision: z.string(), capacity: z.int(), locality,
  /** `host:port`; empty without one. */
  waypoint: z.string(),
  waypointState,
  policies: z.array(z.string()),
  services: z.record(z.string(), ports),
})
export type WorkloadView = z.infer<typeof workloadViewSchema>

export const serviceViewSchema = z.object({
  namespace: z.string(), name: z.string(), hostname: z.string(),
  /** `ip` or `ip/prefix`, with `network/` before it where it has one. */
  addresses: z.array(z.string()),
  ports, subjectAltNames: z.array(z.string()),
  waypoint: z.string(),
  waypointState,
  loadBalancing: z.string(),
  sessionAffinity: z.string(),
  ipFamilies: z.string(),
  /** Names of the workloads that take its traffic. */
  endpoints: z.array(z.object({ uid: z.string(), name: z.string(), ips: z.array(z.string()), healthy: z.boolean() })),
})
export type ServiceView = z.infer<typeof serviceViewSchema>

export const policyViewSchema = z.object({
  namespace: z.string(), name: z.string(), scope: z.enum(['global', 'namespace', 'workloadSelector']), action: z.enum(['allow', 'deny']),
  dryRun: z.boolean(),
  /** Why this ztunnel cannot evaluate it, and so refuses; empty if it can. */
  unsupported: z.string(),
  /** As model/authorization.ts has them: what matches is in the kinds that are not empty. */
  rules: z.array(z.array(z.array(z.record(z.string(), z.unknown())))),
})
export type PolicyView = z.infer<typeof policyViewSchema>

/** Absent where it is not known: never an empty string. */
const end = z.object({
  /** `ip:port`. */
  addr: z.string(), workload: z.string().optional(), namespace: z.string().optional(), identity: z.string().optional(),
})

export const connectionViewSchema = z.object({
  /** Of this process alone. */
  id: z.string(),
  direction: z.enum(['outbound', 'inbound']),
  /** `namespace/name` of the pod on this node. */
  pod: z.string(),
  /** `via`: the waypoint that spoke for it. */
  source: end.extend({ via: z.string().optional() }),
  destination: end.extend({ hboneAddr: z.string().optional(), service: z.string().optional() }),
  /** From the source to the destination, so far, and back. */
  bytesSent: z.int(), bytesReceived: z.int(),
  ageMs: z.int(),
  protocol: z.enum(['tcp', 'hbone']),
  /** Its tunnel was there before. */
  reused: z.boolean(),
})
export type ConnectionView = z.infer<typeof connectionViewSchema>

export const certificateViewSchema = z.object({
  identity: z.string(),
  state: z.enum(['waiting', 'fetching', 'ready', 'failed']),
  /** Hex; empty without a certificate, and so are the times (ISO 8601) that are not known. */
  serial: z.string(), notBefore: z.string(), notAfter: z.string(), renewAt: z.string(),
  roots: z.int(),
  /** Why the last request failed; empty if it did not. */
  error: z.string(),
})
export type CertificateView = z.infer<typeof certificateViewSchema>

/** Something outside the mesh that a namespace was seen talking to, since the process that saw it began. */
export const learnedViewSchema = z.object({
  namespace: z.string().max(253),
  /** Of whoever connected last. */
  serviceAccount: z.string().max(253),
  /** One of them at least. The host is what a client said, or what a ServiceEntry calls the address. */
  host: z.string().max(253).optional(), address: z.string().max(45).optional(),
  port: z.int(),
  protocol: z.enum(['http', 'tls', 'tcp']),
  count: z.int(),
  /** ISO 8601. */
  firstSeen: z.iso.datetime(), lastSeen: z.iso.datetime(),
  /** What became of the last one. */
  verdict: z.enum(['allowed', 'denied']),
})
export type LearnedView = z.infer<typeof learnedViewSchema>
export type LearnedProtocol = LearnedView['protocol']

/** Component to level; `default` is that of all others. */
export const logLevelsSchema = z.record(z.string(), z.string())
export const logLevels = ['debug', 'info', 'warn', 'error'] as const
export type LogLevelName = (typeof logLevels)[number]

export const explainRequestSchema = z.strictObject({
  /** `namespace/pod`, a service name, an address or a SPIFFE identity. */
  from: z.string().min(1).max(512),
  to: z.string().min(1).max(512),
  /** The port of the destination; that of a service if it is one. */
  port: z.coerce.number().int().min(1).max(65_535).optional(),
  /** The client is taken to have an identity: it is in the mesh. Plain text unless told, where `from` is not captured. */
  mesh: z.boolean().default(false),
})
export type ExplainRequest = z.infer<typeof explainRequestSchema>

/** The same of one request, which a waypoint decides about. */
export const explainHttpRequestSchema = explainRequestSchema.extend({
  method: z.string().min(1).max(64).default('GET'),
  /** With its query. */
  path: z.string().min(1).max(65_536).default('/'),
  /** The destination's own unless told. */
  host: z.string().min(1).max(512).optional(),
  /** `name: value`. */
  header: z.array(z.string().max(8_192)).max(100).default([]),
})
export type ExplainHttpRequest = z.infer<typeof explainHttpRequestSchema>

/** `unknown`: it cannot be told, and `lines` say why. */
export const explainAnswerSchema = z.object({
  answer: z.enum(['allowed', 'denied', 'unknown']),
  /** Of a closed set: the word that log and metrics have for it. */
  because: z.string(),
  /** `namespace/name` of the policy that decided, and the position of the rule in it. */
  policy: z.string().optional(), rule: z.int().optional(),
  /** To print, in order. */
  lines: z.array(z.string()),
})
export type ExplainAnswer = z.infer<typeof explainAnswerSchema>

export const adminErrorSchema = z.object({ error: z.string() })
