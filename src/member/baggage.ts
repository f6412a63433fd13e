// What a workload says of itself in a tunnel's headers; for telemetry only, and nothing is decided by it.
import type { Identity } from '../core/identity.ts'
import type { Baggage } from '../hbone/baggage.ts'
import type { Workload } from '../model/workload.ts'
import type { PeerWorkload } from './telemetry/labels.ts'

const known = new WeakMap<Workload, Baggage>()

/** The same object for the same workload, so that its header is written once. */
export function baggageOf(workload: Workload): Baggage {
  let baggage = known.get(workload)
  if (!baggage) known.set(workload, (baggage = describe(workload)))
  return baggage
}

function describe(workload: Workload): Baggage {
  const { clusterId, namespace, workloadType, workloadName, canonicalName, canonicalRevision, locality } = workload
  return {
    cluster: clusterId,
    namespace,
    workload: { type: workloadType, name: workloadName },
    service: canonicalName,
    revision: canonicalRevision,
    ...(locality.region !== '' && { region: locality.region }),
    ...(locality.zone !== '' && { zone: locality.zone }),
  }
}

/**
 * A workload of another network, as it describes itself. The namespace is the one that its certificate proves: who claims another
 * one is shown in its own.
 */
export function workloadOf({ workload, service, revision, cluster }: Baggage, { namespace }: Identity): PeerWorkload {
  const name = workload?.name ?? ''
  return { name, namespace, workloadName: name, canonicalName: service ?? '', canonicalRevision: revision ?? '', clusterId: cluster ?? '' }
}
