// What the upstream side tells the world: one event for each thing that is counted and that does not happen with every request.
// Whoever makes the forwarder hands in the function that counts; how much there is of something at a moment is in its stats().
import type { AttemptOutcome, NoRetryBecause } from '../../policy/l7/retry-decision.ts'
import type { BreakerKind } from '../../policy/l7/circuit-breaker.ts'
import type { EjectedBecause } from '../../policy/l7/outlier.ts'
import type { TrafficPolicy } from '../../model/route.ts'

/** Endpoints that are used in one way: of a service's port, perhaps of one subset; or one workload's port. */
export interface ClusterName {
  /** `namespace/hostname`, or the uid of a workload that is addressed itself. */
  readonly service: string
  readonly port: number
  readonly subset?: string
}

/** Words of `because` are of small closed sets and fit for metric labels; endpoints are `ip:port` and do not. */
export type UpstreamEvent =
  | {
    readonly t: 'ejected'; readonly cluster: ClusterName; readonly endpoint: string
    readonly because: EjectedBecause; readonly forMs: number
  }
  /** Its time is over. */
  | { readonly t: 'readmitted'; readonly cluster: ClusterName; readonly endpoint: string }
  /** An active check changed its mind. */
  | { readonly t: 'health'; readonly cluster: ClusterName; readonly endpoint: string; readonly isHealthy: boolean }
  | { readonly t: 'retried'; readonly cluster: ClusterName; readonly because: AttemptOutcome['t'] }
  /** A rule asks for a retry of this, and there was none. */
  | { readonly t: 'notRetried'; readonly cluster: ClusterName; readonly because: NoRetryBecause }
  /** A limit refused a request, a connection or a retry. */
  | { readonly t: 'breaker'; readonly cluster: ClusterName; readonly because: BreakerKind | 'callerShare' }
  /** Requests that find no endpoint fail at once from now on; or wait again. */
  | { readonly t: 'failFast'; readonly cluster: ClusterName; readonly isOn: boolean }
  /** So few endpoints are left that ejections are ignored; or not any more. */
  | { readonly t: 'panic'; readonly cluster: ClusterName; readonly isOn: boolean }
  /** `because` is the code of a MeshError. */
  | { readonly t: 'connected'; readonly cluster: ClusterName; readonly durationMs: number }
  | { readonly t: 'connectFailed'; readonly cluster: ClusterName; readonly because: string }
  | { readonly t: 'mirrored'; readonly cluster: ClusterName; readonly because: 'answered' | 'failed' | 'shed' }

export type UpstreamEvents = (event: UpstreamEvent) => void

/** How much there is now. */
export interface ClusterStats extends ClusterName {
  /** Requests under way, those that wait included. */
  readonly active: number
  /** Requests that wait: for an endpoint that may be used, or for a connection. */
  readonly pending: number
  readonly connections: number
  readonly retries: number
  readonly callers: number
  readonly endpoints: number
  /** Of them may be used now. */
  readonly usable: number
  readonly ejected: number
  readonly draining: number
  readonly pools: number
  readonly isFailingFast: boolean
  readonly policy: TrafficPolicy
}
