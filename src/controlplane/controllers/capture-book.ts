// Which pods that are to be in the mesh are captured, by namespace, and which have not been for too long. Goes by what pods say of
// themselves; the node agents wrote that. Pure but for the memory of since when.
import type { RunningPod } from '../../model/running-pod.ts'
import type { NamespaceCapture } from './object-status.ts'

export interface CaptureRules {
  readonly isEnrolled: (namespaceLabels: Readonly<Record<string, string>>, podLabels: Readonly<Record<string, string>>) => boolean
  readonly systemNamespace: string
}

/** A pod that starts, or an agent that does, takes a moment. */
export const lateAfterMs = 60_000
/** Shown of each namespace; the others are counted. */
const maxMissing = 10

export interface LatePod {
  readonly pod: RunningPod
  readonly why: string
}

export class CaptureBook {
  readonly #rules: CaptureRules
  /** By uid: when it was first seen so. */
  readonly #missingSince = new Map<string, number>()
  readonly #told = new Set<string>()

  constructor(rules: CaptureRules) {
    this.#rules = rules
  }

  /** Every namespace that somebody wants in the mesh, wholly or in part; and pods that have become late since the last look. `labels` of all namespaces. */
  look(pods: Iterable<RunningPod>, labels: ReadonlyMap<string, Readonly<Record<string, string>>>, nowMs: number): { readonly namespaces: ReadonlyMap<string, NamespaceCapture>; readonly late: readonly LatePod[] } {
    const found = new Map<string, { wanted: number; captured: number; missing: { name: string; why: string }[] }>()
    for (const [namespace, own] of labels) {
      if (namespace !== this.#rules.systemNamespace && this.#rules.isEnrolled(own, {})) found.set(namespace, { wanted: 0, captured: 0, missing: [] })
    }
    const late: LatePod[] = []
    const missing = new Set<string>()
    for (const pod of pods) {
      const { namespace, uid, name } = pod
      if (pod.isHostNetwork || namespace === this.#rules.systemNamespace || !this.#rules.isEnrolled(labels.get(namespace) ?? {}, pod.labels)) continue
      const counts = found.get(namespace) ?? { wanted: 0, captured: 0, missing: [] }
      found.set(namespace, counts)
      counts.wanted++
      if (pod.isCaptured) {
        counts.captured++
        continue
      }
      missing.add(uid)
      const why = pod.notCaptured ?? 'the node agent has not said anything of it'
      counts.missing.push({ name, why })
      const since = this.#missingSince.get(uid) ?? nowMs
      this.#missingSince.set(uid, since)
      if (nowMs - since < lateAfterMs || this.#told.has(uid)) continue
      this.#told.add(uid)
      late.push({ pod, why })
    }
    for (const uid of this.#missingSince.keys()) {
      if (missing.has(uid)) continue
      this.#missingSince.delete(uid)
      this.#told.delete(uid)
    }
    const sorted = [...found].map(([namespace, { wanted, captured, missing: those }]): [string, NamespaceCapture] => [
      namespace, { wanted, captured, missing: those.sort((a, b) => (a.name < b.name ? -1 : 1)).slice(0, maxMissing) },
    ])
    return { namespaces: new Map(sorted), late }
  }
}

