// What the node agent keeps of a pod, and whether the pod is to be captured: pure. A pod says of itself what it likes, so nothing here
// says who it is; whose network namespace is whose is proved elsewhere.
import { z } from 'zod'
import { canonicalIp, isIpv6Address } from '../core/address.ts'
import type { KubeObject } from '../kube/api.ts'
import { capturesDns, dnsLabel, failureMode, failureModeLabel, isEnrolled, istioDataplaneLabel, meshLabel, nativeTunnelLabel } from '../model/enrolment.ts'
import type { FailureMode } from '../model/enrolment.ts'
import { capturedCondition } from '../model/kubernetes-names.ts'
import { dnsSettings } from './name-search.ts'
import type { DnsSettings } from './name-search.ts'
import { probePorts } from './probe-ports.ts'

export type Labels = Readonly<Record<string, string>>

/** Our condition as the API has it. */
export interface KnownCondition {
  readonly status: string
  readonly reason: string
  readonly message: string
  readonly lastTransitionTime: string
}

export interface NodePod {
  readonly uid: string
  readonly namespace: string
  readonly name: string
  readonly serviceAccount: string
  /** Those that decide something here. */
  readonly labels: Labels
  readonly isHostNetwork: boolean
  readonly hasSidecar: boolean
  /** The kubelet read it from a file; the runtime knows it by another uid. */
  readonly isStatic: boolean
  /** It has ended, and will not run again. */
  readonly hasEnded: boolean
  /** Canonical, at most one of each family; empty until the kubelet has told them. */
  readonly ips: readonly string[]
  readonly probePorts: readonly number[]
  readonly dns: DnsSettings
  readonly condition: KnownCondition | undefined
}

const decisiveLabels: ReadonlySet<string> = new Set([meshLabel, failureModeLabel, dnsLabel, nativeTunnelLabel, istioDataplaneLabel])
/** Istio's injector leaves it on a pod that it gave a sidecar. */
const sidecarAnnotation = 'sidecar.istio.io/status'
const staticAnnotation = 'kubernetes.io/config.mirror'

const podSchema = z.object({
  metadata: z.object({
    uid: z.string().min(1).max(253), namespace: z.string().min(1).max(253), name: z.string().min(1).max(253),
    annotations: z.record(z.string(), z.unknown()).catch({}).default({}), labels: z.unknown().optional(),
  }),
  spec: z.object({
    serviceAccountName: z.string().max(253).catch('').default(''), hostNetwork: z.boolean().catch(false).default(false),
    dnsPolicy: z.unknown().optional(), dnsConfig: z.unknown().optional(),
  }),
  status: z.object({
    phase: z.string().catch('').default(''),
    podIP: z.string().optional().catch(undefined),
    podIPs: z.array(z.object({ ip: z.string() })).max(16).catch([]).default([]),
    conditions: z.array(z.unknown()).max(1000).catch([]).default([]),
  }).catch({ phase: '', podIPs: [], conditions: [] }).default({ phase: '', podIPs: [], conditions: [] }),
})
const conditionSchema = z.object({
  type: z.literal(capturedCondition), status: z.string(), reason: z.string().catch('').default(''), message: z.string().catch('').default(''),
  lastTransitionTime: z.string().catch('').default(''),
})

/** Undefined for what is no pod that runs somewhere. */
export function readNodePod(object: KubeObject): NodePod | undefined {
  const parsed = podSchema.safeParse(object)
  if (!parsed.success) return undefined
  const { metadata, spec, status } = parsed.data
  const listed = status.podIPs.map(({ ip }) => ip)
  return {
    uid: metadata.uid, namespace: metadata.namespace, name: metadata.name,
    serviceAccount: spec.serviceAccountName || 'default',
    labels: readLabels(metadata.labels),
    isHostNetwork: spec.hostNetwork,
    hasSidecar: Object.hasOwn(metadata.annotations, sidecarAnnotation),
    isStatic: Object.hasOwn(metadata.annotations, staticAnnotation),
    hasEnded: status.phase === 'Succeeded' || status.phase === 'Failed',
    ips: podIps(listed.length > 0 ? listed : status.podIP === undefined ? [] : [status.podIP]),
    probePorts: probePorts(object.spec),
    dns: dnsSettings(spec.dnsPolicy, spec.dnsConfig),
    condition: status.conditions.map((each) => conditionSchema.safeParse(each)).find(({ success }) => success)?.data,
  }
}

/** The labels that decide whether something is in the mesh, and how. */
export function readLabels(labels: unknown): Labels {
  if (typeof labels !== 'object' || labels === null) return {}
  return Object.fromEntries(Object.entries(labels).filter(([key, value]) => decisiveLabels.has(key) && typeof value === 'string')) as Labels
}

/** Canonical, the first of each family. */
export function podIps(ips: readonly string[]): string[] {
  const canonical = ips.map(canonicalIp).filter((ip) => ip !== undefined)
  return [canonical.find((ip) => !isIpv6Address(ip)), canonical.find(isIpv6Address)].filter((ip) => ip !== undefined)
}

/** Why a pod whose labels ask for it is not captured all the same. */
export type Ineligible = 'HostNetwork' | 'HasSidecar' | 'StaticPod' | 'SystemNamespace'

/** `outside`: nobody asks for it. `ended`: its containers will not run again. */
export type Wish =
  | { readonly t: 'wanted'; readonly failureMode: FailureMode; readonly dns: boolean }
  | { readonly t: 'ineligible'; readonly reason: Ineligible }
  | { readonly t: 'outside' }
  | { readonly t: 'ended' }

export interface WishSettings {
  readonly systemNamespace: string
  readonly istioLabels: boolean
}

export function wishOf(pod: NodePod, namespaceLabels: Labels, { systemNamespace, istioLabels }: WishSettings): Wish {
  if (!isEnrolled(namespaceLabels, pod.labels, istioLabels)) return { t: 'outside' }
  if (pod.hasEnded) return { t: 'ended' }
  const reason = ineligible(pod, systemNamespace)
  return reason ? { t: 'ineligible', reason } : { t: 'wanted', failureMode: failureMode(namespaceLabels, pod.labels), dns: capturesDns(namespaceLabels, pod.labels) }
}

function ineligible(pod: NodePod, systemNamespace: string): Ineligible | undefined {
  if (pod.namespace === systemNamespace) return 'SystemNamespace'
  if (pod.isHostNetwork) return 'HostNetwork'
  if (pod.hasSidecar) return 'HasSidecar'
  return pod.isStatic ? 'StaticPod' : undefined
}

/** Whether pods of a namespace are in the mesh where they say nothing themselves; what the CNI plugin goes by when nobody answers. */
export function namespaceMode(name: string, labels: Labels, { systemNamespace, istioLabels }: WishSettings): FailureMode | undefined {
  return name !== systemNamespace && isEnrolled(labels, {}, istioLabels) ? failureMode(labels, {}) : undefined
}
