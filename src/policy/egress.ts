// Whether a connection may leave for a destination outside the mesh. The control plane says for each workload what its namespace,
// else the mesh, wants. A setting that cannot be read refuses: somebody wanted something other than the default.
import type { Workload } from '../model/workload.ts'
import type { Destination } from './destination.ts'

/** Closed set: log field and metric label. */
export type EgressReason = 'egressAllowed' | 'egressAudited' | 'egressDenied' | 'egressUnreadable'

export type EgressVerdict =
  | { readonly allowed: true; readonly because: 'egressAllowed' | 'egressAudited'; readonly isAudited: boolean }
  | { readonly allowed: false; readonly because: 'egressDenied' | 'egressUnreadable' }

/** Whether nobody in the mesh knows the destination. Loopback never leaves, so it is no egress. */
export function leavesMesh(destination: Destination): boolean {
  if (destination.t !== 'passthrough' || destination.because !== 'unknownDestination') return false
  return destination.to.ip !== '::1' && !destination.to.ip.startsWith('127.')
}

/** For a connection that leaves the mesh; of others this must not be asked. */
export function egressVerdict({ egress = 'allow' }: Pick<Workload, 'egress'>): EgressVerdict {
  switch (egress) {
    case 'allow':
      return { allowed: true, because: 'egressAllowed', isAudited: false }
    case 'audit':
      return { allowed: true, because: 'egressAudited', isAudited: true }
    case 'deny':
      return { allowed: false, because: 'egressDenied' }
    case 'unreadable':
      return { allowed: false, because: 'egressUnreadable' }
  }
}
