// What the admin API asks of the ztunnel: facts of the moment, as the rooms have them. How they are shown is admin.ts's and
// admin-views.ts's matter. Nothing here may change what the ztunnel does, but for log levels and the wish to end.
import type { Identity } from '../core/identity.ts'
import type { Authorization } from '../model/authorization.ts'
import type { Endpoint } from '../model/workload-store.ts'
import type { GatewayAddress, Service, Workload } from '../model/workload.ts'
import type { ZtunnelState } from '../model/ztunnel-state.ts'
import type { ConnectionView, ExplainAnswer, ExplainRequest } from '../model/ztunnel-views.ts'
import type { CommonSource } from '../member/admin.ts'
import type { LearnedDestination } from '../member/learned-destinations.ts'
import type { SettingView } from '../model/settings-table.ts'
import type { CertificateState } from '../pki/certificates.ts'
import type { WaypointState } from '../policy/waypoint-binding.ts'

/** What the config dump has beyond what the other methods give. */
export interface DumpFacts {
  readonly version: string
  readonly config: Readonly<Record<string, SettingView>>
  /** WorkloadStore.stagedServices(). */
  readonly stagedServices: readonly string[]
}

/** Implemented by the composition root. Each method is called when somebody asks and must not throw. */
export interface AdminSource extends CommonSource {
  state(): ZtunnelState
  /** WorkloadStore.workloads() and the like: walked at once, turned into text bit by bit. */
  workloads(): Iterable<Workload>
  services(): Iterable<Service>
  /** WorkloadStore.endpoints(), by service key. */
  endpoints(serviceKey: string): readonly Endpoint[]
  policies(): Iterable<Authorization>
  /** `waypointState` of policy/waypoint-binding.ts; may be called without the source. */
  readonly waypointState: (waypoint: GatewayAddress, namespace: string) => WaypointState
  connections(): readonly ConnectionView[]
  learned(): readonly LearnedDestination[]
  /** CertificateManager.states(). Keys never leave: only what is public of a certificate is shown. */
  certificates(): readonly { readonly identity: Identity; readonly state: CertificateState }[]
  configDump(): DumpFacts
  /** `explainConnection` of admin-explain.ts does it. */
  explain(request: ExplainRequest): ExplainAnswer
}
