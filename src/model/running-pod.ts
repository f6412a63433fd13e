// What is true of pods and services at run time, as opposed to what somebody wrote: told by whoever runs them (the local
// mesh, the Kubernetes API) to the control plane. Pure data.
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
  readonly isHostNetwork: boolean
  /** Container ports, so that services can mean them by name. */
  readonly ports: readonly { readonly name: string; readonly port: number; readonly protocol: 'TCP' | 'UDP' }[]
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
