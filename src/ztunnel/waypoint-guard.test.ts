import { expect, test } from 'vitest'
import { WorkloadStore } from '../model/workload-store.ts'
import type { GatewayAddress, Workload } from '../model/workload.ts'
import { testWorkload } from '../policy/test-fixtures.ts'
import { WaypointGuard } from './waypoint-guard.ts'

const waypoint: GatewayAddress = { destination: { kind: 'hostname', name: { namespace: 'shop', hostname: 'wp.shop' } }, hbonePort: 15008 }
const web = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'web' }
const destination = { ip: '10.0.0.1', port: 80 }

function guarded(now: () => number) {
  const store = new WorkloadStore()
  const guard = new WaypointGuard(store, now)
  const put = (parts: Partial<Workload>): void => void store.apply({ workloads: [testWorkload('own', parts)] })
  const isLetIn = (): boolean => {
    try {
      guard.check(web, store.workload('own') ?? expect.fail(), destination)
      return true
    } catch {
      return false
    }
  }
  return { store, guard, put, isLetIn }
}

test('a refusal says which waypoint it is, who came past it and what to do', () => {
  const { store, guard, put } = guarded(() => 0)
  put({ waypoint })
  const own = store.workload('own') ?? expect.fail()
  const denied = (message: RegExp) => expect.objectContaining({ code: 'POLICY_DENIED', source: 'downstream', detail: { because: 'bypassedWaypoint' }, message: expect.stringMatching(message) })
  expect(() => guard.check(web, own, destination)).toThrow(denied(/10\.0\.0\.1:80 is reached only through the waypoint wp\.shop, and this came from spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web: .*control plane/))
  expect(() => guard.check(undefined, own, destination)).toThrow(denied(/in plain text: take the client into the mesh/))
})

test('a new binding is in force when the clients can have heard of it; one that was found at the start is at once', () => {
  let nowMs = 0
  const { put, isLetIn } = guarded(() => nowMs)
  put({})
  expect(isLetIn()).toBe(true)
  put({ waypoint })
  expect(isLetIn()).toBe(true)
  nowMs = 500
  put({ waypoint, node: 'moved' })
  expect(isLetIn()).toBe(true)
  nowMs = 1_000
  expect(isLetIn()).toBe(false)
  // Another change is no new binding; another waypoint is, and so is one that may not be passed by any more.
  put({ waypoint, node: 'again' })
  expect(isLetIn()).toBe(false)
  put({ waypoint: { ...waypoint, hbonePort: 15_009 } })
  expect(isLetIn()).toBe(true)
  nowMs = 2_000
  expect(isLetIn()).toBe(false)
  put({ waypoint, waypointFailure: 'open' })
  nowMs = 9_000
  expect(isLetIn()).toBe(true)
  put({ waypoint })
  expect(isLetIn()).toBe(true)
  nowMs = 10_000
  expect(isLetIn()).toBe(false)

  const fresh = guarded(() => 0)
  fresh.put({ waypoint })
  expect(fresh.isLetIn()).toBe(false)
})
