// What is true of pods and services at run time, as opposed to what somebody wrote: told by whoever runs them (the local
// mesh, the Kubernetes API) to the control plane. Pure data, and the shape of the lines in which it is told over a socket.
import { z } from 'zod'
import { canonicalIp } from '../core/address.ts'
import type { WorkloadType } from './workload.ts'

export interface RunningPod {
  readonly uid: string
  readonly namespace: string
  readonly name: string
  readonly node: string
  /** Canonical text, at most one per family. */
  readonly ips: readonly string[]
  /** Takes traffic: ready and not about to end. */
  readonly ready: boolean
  readonly labels: Readonly<Record<string, string>>
  readonly serviceAccount: string
  /** Its ztunnel confirmed that the pod's traffic is captured; only then can it be reached through a tunnel. */
  readonly isCaptured: boolean
  /** Why it is not, where its node said so: words for people. */
  readonly notCaptured?: string
  readonly isHostNetwork: boolean
  /** Container ports, so that services can mean them by name. */
  readonly ports: readonly { readonly name: string; readonly port: number; readonly protocol: 'TCP' | 'UDP' }[]
  /** `hostname` and `subdomain` of its spec, where it says them: a service of that name in its namespace names it so in DNS. */
  readonly hostname?: string
  readonly subdomain?: string
  /** What made it; absent for a pod of its own. */
  readonly owner?: { readonly type: WorkloadType; readonly name: string }
}

export interface RuntimeFacts {
  /** By `namespace/name`: one pod of a name at a time. */
  readonly pods: ReadonlyMap<string, RunningPod>
  /** Service addresses given at run time, by the service's `namespace/name`; canonical text. */
  readonly serviceIps: ReadonlyMap<string, readonly string[]>
}

export const noRuntimeFacts: RuntimeFacts = { pods: new Map(), serviceIps: new Map() }

const name = z.string().min(1).max(253).regex(/^[^/\s]+$/, 'must not have slashes or blanks')
const ips = z.array(z.string().refine((text) => canonicalIp(text) === text, 'must be an IP address in canonical form')).max(16)

export const runningPodSchema: z.ZodType<RunningPod> = z.strictObject({
  uid: z.string().min(1).max(253),
  namespace: name,
  name,
  node: name,
  ips,
  ready: z.boolean(),
  labels: z.record(z.string().max(317), z.string().max(256 * 1024)),
  serviceAccount: name,
  isCaptured: z.boolean(),
  notCaptured: z.string().max(4096).exactOptional(),
  isHostNetwork: z.boolean(),
  ports: z.array(z.strictObject({ name: z.string().max(63), port: z.int().min(1).max(65_535), protocol: z.enum(['TCP', 'UDP']) })).max(1000),
  hostname: name.exactOptional(),
  subdomain: name.exactOptional(),
  owner: z.strictObject({ type: z.enum(['deployment', 'cronjob', 'pod', 'job']), name: z.string().min(1).max(253) }).exactOptional(),
})

/**
 * One line of a feed of facts, newline-delimited JSON, told one way. Until `synced` come all facts there are; after it, each that
 * changes, whole. The last word about a pod or service counts.
 */
export const factLineSchema = z.discriminatedUnion('t', [
  z.strictObject({ t: z.literal('pod'), pod: runningPodSchema }),
  z.strictObject({ t: z.literal('podGone'), namespace: name, name }),
  z.strictObject({ t: z.literal('serviceIps'), namespace: name, name, ips }),
  z.strictObject({ t: z.literal('serviceIpsGone'), namespace: name, name }),
  z.strictObject({ t: z.literal('synced') }),
])
export type FactLine = z.infer<typeof factLineSchema>
/** A line longer than this ends the feed. */
export const maxFactLineBytes = 4 << 20
