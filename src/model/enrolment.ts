// Which pods are in the mesh, and what the node agent tells the ztunnel about each: pure data. The agent (the local
// mesh's manager, or the Kubernetes node agent) sends these messages; the ztunnel acknowledges each one by order.
import { z } from 'zod'

export const meshLabel = 'sidestep.dev/mesh'
export const failureModeLabel = 'sidestep.dev/failure-mode'
export const dnsLabel = 'sidestep.dev/dns'
/** Istio's: `http` says that the workload speaks HBONE itself, as a waypoint or a gateway does. */
export const nativeTunnelLabel = 'networking.istio.io/tunnel'
/** Istio's own word for the first of these: `ambient` or `none`. */
export const istioDataplaneLabel = 'istio.io/dataplane-mode'

/** What happens to new connections while the mesh cannot decide: refuse them, or let them pass unmeshed. */
export const failureModeSchema = z.enum(['closed', 'open'])
export type FailureMode = z.infer<typeof failureModeSchema>

const portSchema = z.int().min(1).max(65535)

/** One pod to capture. `netns` is a path that opens the pod's network namespace; `ips` hold at most one per family. */
export const podEnrolmentSchema = z.strictObject({
  uid: z.string().min(1).max(253),
  namespace: z.string().min(1).max(253),
  name: z.string().min(1).max(253),
  serviceAccount: z.string().min(1).max(253),
  node: z.string().min(1).max(253),
  netns: z.string().min(1).max(4096),
  ips: z.array(z.union([z.ipv4(), z.ipv6()])).min(1).max(2),
  failureMode: failureModeSchema,
  /** Whether DNS over UDP is captured too. */
  dns: z.boolean(),
  /** What its resolv.conf says of searching for names; absent where that is what Kubernetes gives to pods of its namespace. */
  nameSearch: z.strictObject({ searchDomains: z.array(z.string().min(1).max(253)).max(32), ndots: z.int().min(0).max(15) }).optional(),
  /** Ports on which the kubelet probes this pod: plaintext from the node's own kubelet passes there, nowhere else. */
  probePorts: z.array(portSchema).max(64),
})
export type PodEnrolment = z.infer<typeof podEnrolmentSchema>

/**
 * Agent to ztunnel. After `snapshot` every pod that was not named before, by `add` or `keep`, is dropped. `keep`: the pod is wanted, but
 * its namespace could not be named yet; whoever serves it goes on. A `partial` snapshot says that there are such pods: what an earlier
 * process captured and nobody named stays in force, because it may be one of them. A later snapshot may follow.
 */
export const agentMessageSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('add'), seq: z.int().min(1), pod: podEnrolmentSchema }),
  z.strictObject({ type: z.literal('delete'), seq: z.int().min(1), uid: z.string().min(1).max(253) }),
  z.strictObject({ type: z.literal('keep'), seq: z.int().min(1), uid: z.string().min(1).max(253) }),
  z.strictObject({ type: z.literal('snapshot'), seq: z.int().min(1), partial: z.boolean().exactOptional() }),
])
export type AgentMessage = z.infer<typeof agentMessageSchema>

/** Ztunnel to agent: one per message, in order. `existing` counts connections left alone at enrolment. */
export const agentReplySchema = z.strictObject({
  type: z.literal('ack'),
  seq: z.int().min(1),
  error: z.string().max(4096).optional(),
  existing: z.int().min(0).optional(),
})
export type AgentReply = z.infer<typeof agentReplySchema>

/** Whether a workload takes and makes tunnels itself, so that nobody must capture it. */
export function hasNativeTunnel(labels: Readonly<Record<string, string>>): boolean {
  return labels[nativeTunnelLabel] === 'http'
}

/**
 * The pod's label wins over its namespace's; anything but `enabled` means no, and so does a tunnel of its own. With `readsIstio`,
 * Istio's label counts where ours is not beside it; anything but `ambient` means no.
 */
export function isEnrolled(
  namespaceLabels: Readonly<Record<string, string>>, podLabels: Readonly<Record<string, string>>, readsIstio = false,
): boolean {
  return !hasNativeTunnel(podLabels) && (enrolmentOf(podLabels, readsIstio) ?? enrolmentOf(namespaceLabels, readsIstio) ?? false)
}

/** What labels of one object say; undefined where they say nothing. */
function enrolmentOf(labels: Readonly<Record<string, string>>, readsIstio: boolean): boolean | undefined {
  if (Object.hasOwn(labels, meshLabel)) return labels[meshLabel] === 'enabled'
  return readsIstio && Object.hasOwn(labels, istioDataplaneLabel) ? labels[istioDataplaneLabel] === 'ambient' : undefined
}

/** Closed unless the namespace (or the pod) says exactly `open`. */
export function failureMode(namespaceLabels: Readonly<Record<string, string>>, podLabels: Readonly<Record<string, string>>): FailureMode {
  return (podLabels[failureModeLabel] ?? namespaceLabels[failureModeLabel]) === 'open' ? 'open' : 'closed'
}

/** DNS is captured unless the pod or its namespace says `disabled`. */
export function capturesDns(namespaceLabels: Readonly<Record<string, string>>, podLabels: Readonly<Record<string, string>>): boolean {
  return (podLabels[dnsLabel] ?? namespaceLabels[dnsLabel]) !== 'disabled'
}
