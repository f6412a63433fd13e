// Whether a connection may leave for a destination outside the mesh. Each namespace has a default of its own, else the mesh's
// applies. A setting that cannot be read refuses: somebody wanted something other than the default.
import type { EgressMode, EgressSetting } from '../model/egress.ts'
import type { Destination } from './destination.ts'

/** Closed set: log field and metric label. */
export type EgressReason = 'egressAllowed' | 'egressAudited' | 'egressDenied' | 'egressUnreadable'

/** Whose default it was. */
type DecidedBy = 'namespace' | 'mesh'

export type EgressVerdict =
  | {
    readonly allowed: true
    readonly because: 'egressAllowed' | 'egressAudited'
    readonly isAudited: boolean
    readonly decidedBy: DecidedBy
  }
  | { readonly allowed: false; readonly because: 'egressDenied' | 'egressUnreadable'; readonly decidedBy: DecidedBy }

/** Defaults of the mesh and of the namespaces that have one. */
export interface EgressDefaults {
  readonly mesh: EgressMode
  readonly namespaces: ReadonlyMap<string, EgressSetting>
}

/** Undefined if the destination is known to the mesh: then this has no say. Loopback never leaves, so it is no egress either. */
export function egressVerdict(defaults: EgressDefaults, namespace: string, destination: Destination): EgressVerdict | undefined {
  if (destination.t !== 'passthrough' || destination.because !== 'unknownDestination') return undefined
  if (destination.to.ip === '::1' || destination.to.ip.startsWith('127.')) return undefined
  const setting = defaults.namespaces.get(namespace)
  if (setting?.t === 'unreadable') return { allowed: false, because: 'egressUnreadable', decidedBy: 'namespace' }
  const decidedBy = setting ? 'namespace' : 'mesh'
  switch (setting?.mode ?? defaults.mesh) {
    case 'allow':
      return { allowed: true, because: 'egressAllowed', isAudited: false, decidedBy }
    case 'audit':
      return { allowed: true, because: 'egressAudited', isAudited: true, decidedBy }
    case 'deny':
      return { allowed: false, because: 'egressDenied', decidedBy }
  }
}
