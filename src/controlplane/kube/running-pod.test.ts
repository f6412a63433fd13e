// Pods as the API gives them, to running pods; and whatever else it might give.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { KubeObject } from '../../kube/api.ts'
import { runningPodSchema } from '../../model/running-pod.ts'
import { runningPod } from './running-pod.ts'

type Json = Record<string, unknown>

function pod(metadata: Json = {}, spec: Json = {}, status: Json = {}): KubeObject {
  return {
    apiVersion: 'v1', kind: 'Pod',
    metadata: { name: 'web-1', namespace: 'shop', uid: 'u-1', labels: { app: 'web', 'pod-template-hash': 'abc12' }, ...metadata },
    spec: { nodeName: 'node-a', serviceAccountName: 'web', containers: [], ...spec },
    status: { phase: 'Running', podIP: '10.0.0.1', podIPs: [{ ip: '10.0.0.1' }, { ip: 'FD00::1' }], conditions: [{ type: 'Ready', status: 'True' }], ...status },
  }
}
const ready = { type: 'Ready', status: 'True' }
const controller = (kind: string, name: string): Json => ({ ownerReferences: [{ apiVersion: 'x', kind, name, uid: 'o', controller: true }] })

describe('a pod of the API', () => {
  test('becomes what is used of it', () => {
    expect(runningPod(pod(controller('ReplicaSet', 'web-abc12'), {
      hostname: 'web-1', subdomain: 'db',
      containers: [{ name: 'c', image: 'i', ports: [{ name: 'http', containerPort: 8080 }, { containerPort: 9 }, { name: 'dns', containerPort: 53, protocol: 'UDP' }, { name: 'x', containerPort: 1, protocol: 'SCTP' }] }],
      initContainers: [{ name: 'once', ports: [{ name: 'no', containerPort: 1 }] }, { name: 'side', restartPolicy: 'Always', ports: [{ name: 'side', containerPort: 7 }] }],
    }))).toEqual({
      uid: 'u-1', namespace: 'shop', name: 'web-1', node: 'node-a', ips: ['10.0.0.1', 'fd00::1'], ready: true, labels: { app: 'web', 'pod-template-hash': 'abc12' },
      serviceAccount: 'web', isCaptured: false, isHostNetwork: false, hostname: 'web-1', subdomain: 'db', owner: { type: 'deployment', name: 'web' },
      ports: [{ name: 'http', port: 8080, protocol: 'TCP' }, { name: 'dns', port: 53, protocol: 'UDP' }, { name: 'side', port: 7, protocol: 'TCP' }],
    })
  })

  test('is captured when its node agent says so, and only then', () => {
    const of = (status: string) => runningPod(pod({}, {}, { conditions: [ready, { type: 'sidestep.dev/Captured', status }] }))?.isCaptured
    expect([of('True'), of('False'), of('Unknown'), runningPod(pod())?.isCaptured]).toEqual([true, false, false, false])
  })

  test('that is about to end takes nothing new, but is known until it is gone', () => {
    expect(runningPod(pod({ deletionTimestamp: '2026-11-21T20:00:00Z' }))).toMatchObject({ ready: false, node: 'node-a', ips: ['10.0.0.1', 'fd00::1'] })
  })

  test('without an address is known, because its certificate is asked for before it has one', () => {
    expect(runningPod(pod({}, {}, { phase: 'Pending', podIP: undefined, podIPs: undefined, conditions: [] }))).toMatchObject({ ips: [], ready: false })
  })

  test('without a node, or ended, is none', () => {
    expect(runningPod(pod({}, { nodeName: undefined }))).toBeUndefined()
    expect(runningPod(pod({}, {}, { phase: 'Succeeded' }))).toBeUndefined()
    expect(runningPod(pod({}, {}, { phase: 'Failed' }))).toBeUndefined()
  })

  test('has the addresses in the order of Kubernetes, one for each family', () => {
    const of = (...ips: string[]) => runningPod(pod({}, {}, { podIP: ips[0], podIPs: ips.map((ip) => ({ ip })) }))?.ips
    expect(of('fd00::2', '10.0.0.2')).toEqual(['fd00::2', '10.0.0.2'])
    expect(of('10.0.0.2')).toEqual(['10.0.0.2'])
    expect(of('fd00::2', 'fd00::3', 'nonsense')).toEqual(['fd00::2'])
  })

  test.each([
    ['ReplicaSet', 'web-abc12', { type: 'deployment', name: 'web' }],
    ['ReplicaSet', 'by-hand', { type: 'pod', name: 'by-hand' }],
    ['ReplicaSet', '-abc12', { type: 'pod', name: '-abc12' }],
    ['Job', 'backup-29400120', { type: 'cronjob', name: 'backup' }],
    ['Job', 'once', { type: 'job', name: 'once' }],
    ['StatefulSet', 'db', { type: 'pod', name: 'db' }],
    ['DaemonSet', 'agent', { type: 'pod', name: 'agent' }],
    ['Node', 'node-a', undefined],
  ])('of a %s %s', (kind, name, owner) => {
    expect(runningPod(pod(controller(kind, name)))?.owner).toEqual(owner)
  })

  test('may be anything: what comes is a running pod or nothing', () => {
    const some = fc.oneof(fc.jsonValue(), fc.constantFrom<unknown>('a/b', 'x', 80, [{ ip: '::ffff:10.0.0.1' }], [{ type: 'Ready', status: 'True' }]))
    const part = (...keys: string[]): fc.Arbitrary<unknown> => fc.oneof(some, fc.record(Object.fromEntries(keys.map((key) => [key, some])), { requiredKeys: [] }))
    fc.assert(fc.property(
      fc.record({
        metadata: fc.record({
          name: fc.oneof(fc.constant('web'), some), namespace: fc.oneof(fc.constant('shop'), some), uid: fc.oneof(fc.constant('u'), some),
          labels: part('app', 'pod-template-hash'), ownerReferences: fc.oneof(some, fc.array(part('kind', 'name', 'controller'))), deletionTimestamp: some,
        }),
        spec: fc.oneof(part('nodeName', 'containers'), fc.record({ nodeName: fc.constant('n'), containers: fc.array(part('ports')), hostname: some, serviceAccountName: some, hostNetwork: some })),
        status: part('phase', 'podIP', 'podIPs', 'conditions'),
      }),
      (object) => {
        const made = runningPod(object as unknown as KubeObject)
        if (made) expect(runningPodSchema.safeParse(made).error?.issues ?? []).toEqual([])
      },
    ), { numRuns: 2000 })
  })
})
