// Refuses what should have come through a workload's waypoint and did not. Judges new connections only: a waypoint says which
// way they take, and those that stand when it begins to were allowed, under L4 policies that go on to judge them. Cutting them
// would fail what is under way in every application of a namespace whose owner adds a waypoint, and Istio leaves them, too;
// whoever wants them gone restarts the pods, and an L4 policy still cuts what it refuses.
import { isDeepStrictEqual } from 'node:util'
import { formatAddr } from '../core/address.ts'
import type { SocketAddr } from '../core/address.ts'
import { MeshError } from '../core/errors.ts'
import { formatIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import type { WorkloadStore } from '../model/workload-store.ts'
import type { Workload } from '../model/workload.ts'
import { bypassedWaypoint, requiredWaypoint, waypointName } from '../policy/waypoint-binding.ts'

/**
 * The clients' nodes hear of a new binding when we do, more or less: for so long what still comes the old way is let in, so that
 * no connection fails for a change. It gives nobody anything: a connection made a moment earlier stays, too.
 */
const newBindingMs = 1_000

export class WaypointGuard {
  readonly #store: WorkloadStore
  readonly #now: () => number
  /** When another waypoint began to be required; goes with the workload's description. */
  readonly #boundAtMs = new WeakMap<Workload, number>()

  /** `now` is a monotonic clock in milliseconds. Lives as long as the store. */
  constructor(store: WorkloadStore, now: () => number = () => performance.now()) {
    this.#store = store
    this.#now = now
    store.onChange((changes) => {
      for (const change of changes) if (change.t === 'workloadChanged') this.#note(change.before, change.after)
    })
  }

  #note(before: Workload, after: Workload): void {
    const required = requiredWaypoint(after)
    if (!required) return
    const atMs = isDeepStrictEqual(requiredWaypoint(before), required) ? this.#boundAtMs.get(before) : this.#now()
    if (atMs !== undefined) this.#boundAtMs.set(after, atMs)
  }

  /** Throws POLICY_DENIED, because `bypassedWaypoint`. `identity`: what the peer itself proved; undefined for plain text. */
  check(identity: Identity | undefined, workload: Workload, destination: SocketAddr): void {
    const waypoint = bypassedWaypoint(identity, workload, destination.port, this.#store)
    if (!waypoint) return
    const atMs = this.#boundAtMs.get(workload)
    if (atMs !== undefined && this.#now() - atMs < newBindingMs) return
    const who = identity ? `this came from ${formatIdentity(identity)}` : 'this came in plain text'
    const todo = identity
      ? 'is its ztunnel connected to the control plane, and does the waypoint run under the account that the mesh knows?'
      : `take the client into the mesh (sidestep.dev/mesh: enabled), or let the workload do without (sidestep.dev/use-waypoint: none)`
    throw new MeshError('POLICY_DENIED', `${formatAddr(destination)} is reached only through the waypoint ${waypointName(waypoint)}, and ${who}: ${todo}`, {
      source: 'downstream', detail: { because: 'bypassedWaypoint' },
    })
  }
}
