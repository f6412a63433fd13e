import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Authorization } from '../model/authorization.ts'
import { WorkloadStore, type StateDelta } from '../model/workload-store.ts'
import { EndpointHealth, followStore } from './endpoint-health.ts'
import { needsRecheck } from './recheck.ts'
import { Rbac } from './rbac.ts'
import { testWorkload } from './test-fixtures.ts'

const policy: fc.Arbitrary<Authorization> = fc.record({
  name: fc.constantFrom('p', 'q'), namespace: fc.constantFrom('shop', 'other'), action: fc.constantFrom('allow', 'deny'),
  scope: fc.constantFrom('global', 'namespace', 'workloadSelector'), rules: fc.constantFrom([], [[]]), isDryRun: fc.boolean(),
})
const delta: fc.Arbitrary<StateDelta> = fc.record({
  policies: fc.array(policy, { maxLength: 1 }), removedPolicies: fc.subarray(['shop/p', 'other/q'], { maxLength: 1 }),
  workloads: fc.array(fc.record({ policies: fc.subarray(['shop/p', 'other/p', 'other/q']), node: fc.constantFrom('a', 'b') })
    .map((parts) => testWorkload('pod', parts)), { maxLength: 1 }),
}, { requiredKeys: [] })

test('a verdict that changes is never missed, and a change of place is none', () => {
  fc.assert(fc.property(fc.array(delta, { maxLength: 10 }), (deltas) => {
    const store = new WorkloadStore()
    const rbac = new Rbac(store.policies)
    store.apply({ workloads: [testWorkload('pod')] })
    const judge = (): boolean => rbac.evaluate(store.workload('pod') ?? testWorkload('pod'),
      { sourceIp: '10.0.0.9', destination: { ip: '10.0.0.1', port: 80 } }).allowed
    for (const each of deltas) {
      const before = judge()
      const changes = store.apply(each)
      const pod = store.workload('pod') ?? testWorkload('pod')
      if (judge() !== before) expect(needsRecheck(changes, pod)).toBe(true)
    }
  }), { numRuns: 500 })
  const moved = testWorkload('pod', { node: 'b' })
  const store = new WorkloadStore()
  store.apply({ workloads: [testWorkload('pod')] })
  expect(needsRecheck(store.apply({ workloads: [moved] }), moved)).toBe(false)
})

test('what was learned of an endpoint goes with it', () => {
  const health = new EndpointHealth({ now: () => 0, failuresToEject: 1 })
  const store = new WorkloadStore()
  store.apply({ workloads: [testWorkload('old')] })
  const stop = followStore(health, store)
  store.apply({ workloads: [testWorkload('new')] })
  expect([health.share('old', 80), health.share('new', 80)]).toEqual([1, 0.1])
  health.recordFailure('old', 80)
  store.apply({ workloads: [testWorkload('old', { ips: ['10.0.0.2'] })], removedAddresses: ['new'] })
  expect(health.isActive).toBe(true)
  expect(health.ejected()).toEqual([])
  stop()
})
