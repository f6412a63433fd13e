// What a control plane publishes: the current resources of both types, encoded once each. Whoever changes it says what is
// now; what differs from before, if anything, is found out here.
import { policyKey } from '../model/authorization.ts'
import type { Service, Workload } from '../model/workload.ts'
import { serviceKey } from '../model/workload.ts'
import { encodeAuthorization, encodeService, encodeWorkload } from './encode.ts'
import type { XdsDelta } from './resource-cache.ts'
import { ResourceLog } from './resource-log.ts'
import type { NewEntry } from './resource-log.ts'
import { addressAlias } from './resource-types.ts'

/** The whole of what is to be published. */
export type XdsState = Pick<XdsDelta, 'workloads' | 'services' | 'policies'>

function workloadEntry(workload: Workload): NewEntry {
  // A pod on its node's network does not own the address; nobody may be told that it is behind it.
  const aliases = workload.isHostNetwork ? [] : workload.ips.map((ip) => `${workload.network}/${ip}`)
  return { name: workload.uid, aliases, memberOf: [...workload.services.keys()], value: encodeWorkload(workload) }
}

function serviceEntry(service: Service): NewEntry {
  const aliases = service.addresses.flatMap((address) => addressAlias(address) ?? [])
  return { name: serviceKey(service), aliases, memberOf: [], value: encodeService(service) }
}

export class XdsStore {
  readonly logs = { address: new ResourceLog('address'), authorization: new ResourceLog('authorization') } as const
  #onChange: () => void = () => {}

  /** For the server, once. */
  listen(onChange: () => void): void {
    this.#onChange = onChange
  }

  /** Publishes changes. Throws BAD_MESSAGE, with nothing or a part of it published, if an address in it is none. */
  apply(delta: Partial<XdsDelta>): void {
    const { address, authorization } = this.logs
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
    } finally {
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
    })
  }
}
