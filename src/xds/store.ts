// What a control plane publishes: the current resources of all types, encoded once each. Whoever changes it says what is
// now; what differs from before, if anything, is found out here.
import { MeshError } from '../core/errors.ts'
import { policyKey } from '../model/authorization.ts'
import { parseWaypointResourceName } from '../model/waypoint-config.ts'
import type { WaypointResource } from '../model/waypoint-config.ts'
import type { Service, Workload } from '../model/workload.ts'
import { serviceKey } from '../model/workload.ts'
import type { StateDelta } from '../model/workload-store.ts'
import { encodeAuthorization, encodeService, encodeWorkload } from './encode.ts'
import { ResourceLog } from './resource-log.ts'
import type { NewEntry } from './resource-log.ts'
import { addressAlias } from './resource-types.ts'
import { encodeWaypointResource } from './waypoint-codec.ts'

/** Changes to publish. Removals come first: a name that is removed and given stays. */
export interface StoreDelta extends StateDelta {
  /** By `waypointResourceName`: whose each is is told by its name. */
  readonly waypoint?: ReadonlyMap<string, WaypointResource>
  /** Resource names. */
  readonly removedWaypoint?: readonly string[]
}

/** The whole of what is to be published. */
export type XdsState = Required<Pick<StateDelta, 'workloads' | 'services' | 'policies'>> & Pick<StoreDelta, 'waypoint'>

function workloadEntry(workload: Workload): NewEntry {
  // A pod on its node's network does not own the address; nobody may be told that it is behind it.
  const aliases = workload.isHostNetwork ? [] : workload.ips.map((ip) => `${workload.network}/${ip}`)
  return { name: workload.uid, aliases, memberOf: [...workload.services.keys()], value: encodeWorkload(workload) }
}

function serviceEntry(service: Service): NewEntry {
  const aliases = service.addresses.flatMap((address) => addressAlias(address) ?? [])
  return { name: serviceKey(service), aliases, memberOf: [], value: encodeService(service) }
}

function waypointEntry(name: string, resource: WaypointResource): NewEntry {
  const parts = parseWaypointResourceName(name)
  if (parts?.kind !== resource.kind || parts.key !== resource.key) {
    throw new MeshError('BAD_MESSAGE', `${JSON.stringify(name)} is no name for ${resource.kind} ${resource.key}`)
  }
  return { name, aliases: [], memberOf: [], value: encodeWaypointResource(resource) }
}

export class XdsStore {
  readonly logs = {
    address: new ResourceLog('address'), authorization: new ResourceLog('authorization'), waypoint: new ResourceLog('waypoint'),
  } as const
  #onChange: () => void = () => {}
  #addressesOfWaypoint = 0

  /** For the server, once. */
  listen(onChange: () => void): void {
    this.#onChange = onChange
  }

  /** Progress in the addresses' log that a node must have made before it is sent the newest of its waypoint's resources. */
  get addressesOfWaypoint(): number {
    return this.#addressesOfWaypoint
  }

  /**
   * Publishes changes. Throws BAD_MESSAGE, with nothing or a part of it published, if an address in it is none, or a waypoint's
   * resource is too large or has the name of another.
   */
  apply(delta: StoreDelta): void {
    const { address, authorization, waypoint } = this.logs
    const { seq } = waypoint
    let isChanged = false
    const note = (changed: boolean): void => { isChanged ||= changed }
    try {
      for (const name of delta.removedAddresses ?? []) note(address.remove(name))
      for (const name of delta.removedPolicies ?? []) note(authorization.remove(name))
      for (const service of delta.services ?? []) note(address.set(serviceEntry(service)))
      for (const workload of delta.workloads ?? []) note(address.set(workloadEntry(workload)))
      for (const policy of delta.policies ?? []) {
        note(authorization.set({ name: policyKey(policy), aliases: [], memberOf: [], value: encodeAuthorization(policy) }))
      }
      for (const name of delta.removedWaypoint ?? []) note(waypoint.remove(name))
      for (const [name, resource] of delta.waypoint ?? []) note(waypoint.set(waypointEntry(name, resource)))
    } finally {
      // Routes that came with a service are of no use before it.
      if (waypoint.seq !== seq) this.#addressesOfWaypoint = address.seq
      if (isChanged) this.#onChange()
    }
  }

  /** Publishes a whole state: what is not in it is removed. */
  replace(state: XdsState): void {
    const addresses = new Set([...state.workloads.map(({ uid }) => uid), ...state.services.map(serviceKey)])
    const policies = new Set(state.policies.map(policyKey))
    this.apply({
      ...state,
      removedAddresses: [...this.logs.address.names()].filter((name) => !addresses.has(name)),
      removedPolicies: [...this.logs.authorization.names()].filter((name) => !policies.has(name)),
      removedWaypoint: [...this.logs.waypoint.names()].filter((name) => !state.waypoint?.has(name)),
    })
  }
}
