// What the node agent knows of one pod of its node. Shapes only.
import type { Netns } from '../kernel/netns.ts'
import type { Found } from './finder.ts'
import type { NodePod, Wish } from './node-pod.ts'

/** A namespace that is proved to be a pod's, held open. */
export interface Proven {
  readonly netns: Netns
  readonly ips: readonly string[]
  /** Of its container runtime; empty where a process was found instead. */
  readonly sandboxId: string
}

export interface Entry {
  pod: NodePod
  wish: Wish
  proven: Proven | undefined
  missing: Extract<Found, { t: 'missing' }> | undefined
  /** What the audit found and could not restore. */
  lost: string | undefined
  /** Set while it is on its way out of the mesh. */
  leaving: AbortController | undefined
  /** Since when it should be captured and is not; undefined while all is well. As performance.now(). */
  uncapturedSince: number | undefined
  hasBeenCaptured: boolean
  hasComplained: boolean
  /** The watch has shown it; until then only the plugin did. */
  isWatched: boolean
  nextTryAt: number
  failures: number
}
