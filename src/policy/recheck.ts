// Which live connections must be judged again after a change of the mesh: those to workloads for which another set of rules may
// hold now, whatever the scope of the policy that changed, and also when only the workload's labels did.
import { policyApplies } from '../model/policy-index.ts'
import type { StoreChange } from '../model/workload-store.ts'
import type { Workload } from '../model/workload.ts'

/** Whether verdicts for connections to this workload (as it is now) may differ from before the changes. */
export function needsRecheck(changes: readonly StoreChange[], workload: Workload): boolean {
  return changes.some((change) => {
    if (change.t === 'workloadChanged') return change.after.uid === workload.uid && change.isPolicyChanged
    if (change.t !== 'policyChanged') return false
    return [change.before, change.after].some((policy) => policy !== undefined && policyApplies(policy, workload))
  })
}
