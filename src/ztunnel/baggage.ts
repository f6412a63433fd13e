// What a workload says of itself in a tunnel's headers; for telemetry only.
import type { Baggage } from '../hbone/baggage.ts'
import type { Workload } from '../model/workload.ts'

export function baggageOf(workload: Workload): Baggage {
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
