// Tunnels to who is not there any more: addresses are given to other pods soon, and those have other identities.
import { formatIdentity } from '../core/identity.ts'
import type { HbonePool } from '../hbone/pool.ts'
import { workloadIdentity } from '../model/workload-store.ts'
import type { StoreChange } from '../model/workload-store.ts'
import type { Workload } from '../model/workload.ts'

/** Connections of the pool to workloads that went, moved or run as somebody else take nothing new. */
export function retireStale(pool: HbonePool, changes: readonly StoreChange[]): void {
  const gone = new Set<string>()
  for (const change of changes) {
    if (change.t === 'workloadRemoved') note(gone, change.workload)
    else if (change.t === 'workloadChanged' && (change.isAddressChanged || change.isIdentityChanged)) note(gone, change.before)
  }
  if (gone.size === 0) return
  pool.evict(({ address, identities }) => identities.some((identity) => gone.has(`${address.ip} ${formatIdentity(identity)}`)))
}

function note(gone: Set<string>, workload: Workload): void {
  for (const ip of workload.ips) gone.add(`${ip} ${workloadIdentity(workload)}`)
}
