// A pod is known to the set from before its first listener takes connections: in a handover those come at once, while the
// rest of the capture is still being made.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { systemClock } from '../../src/core/clock.ts'
import { silentLogger } from '../../src/core/log.ts'
import type { Redirection } from '../../src/kernel/redirection.ts'
import { ConnectionLimit } from '../../src/member/connection-limit.ts'
import { LearnedDestinations } from '../../src/member/learned-destinations.ts'
import { MeshState } from '../../src/member/mesh-state.ts'
import type { PodEnrolment } from '../../src/model/enrolment.ts'
import { policy } from '../../src/ztunnel/testing-admin.ts'
import { LiveConnections } from '../../src/ztunnel/live-connections.ts'
import type { PodProxyParts } from '../../src/ztunnel/pod-proxy.ts'
import { PodSet } from '../../src/ztunnel/pod-set.ts'
import { noSpans } from '../../src/ztunnel/telemetry/spans.ts'
import { ZtunnelMetrics } from '../../src/ztunnel/telemetry/metrics.ts'
import { WaypointGuard } from '../../src/ztunnel/waypoint-guard.ts'
import { TestNetns } from './test-netns.ts'

let world: TestNetns
beforeAll(async () => {
  world = await TestNetns.make()
})
afterAll(() => world[Symbol.asyncDispose]())

const pod = (): PodEnrolment => ({
  uid: 'web-1', namespace: 'shop', name: 'web', serviceAccount: 'web', node: 'node-a', netns: world.path, ips: ['10.88.0.1'],
  failureMode: 'closed', dns: true, probePorts: [],
})

interface Asked {
  readonly set: PodSet
  readonly mesh: MeshState
  readonly live: LiveConnections
}

/** A set whose kernel asks back when a listener is registered, which is when the first connection may be there. */
function makeSet(onRegistered: (kind: string, asked: Asked) => void, enrol: () => Promise<void> = () => Promise.resolve()): Asked {
  const mesh = new MeshState({ xds: undefined, stateDirectory: '/nonexistent', clusterId: 'c', network: '', trustDomain: 'cluster.local', logger: silentLogger })
  const live = new LiveConnections()
  const redirection: Partial<Redirection> = {
    registerListener: (_cookie, kind) => onRegistered(kind, asked), withdrawListener: () => {}, enrol, unenrol: () => {}, removeReturnPath: () => Promise.resolve(),
  }
  const parts: PodProxyParts = {
    redirection: redirection as Redirection, limit: new ConnectionLimit(100), doors: new ConnectionLimit(100), mesh, guard: new WaypointGuard(mesh.store), identities: undefined, pool: undefined, live,
    learned: new LearnedDestinations({ clock: systemClock }),
    metrics: new ZtunnelMetrics(), hboneEvents: () => {}, accessLog: silentLogger, spans: noSpans, lookup: () => Promise.reject(new Error('no names here')),
    resolver: undefined, onDnsQuery: () => {}, podCounters: { started: () => {}, stopped: () => {} }, clusterDomain: 'cluster.local', connectTimeoutMs: 1_000,
    keepAliveSeconds: 0, logger: silentLogger,
  }
  const asked: Asked = { set: new PodSet(parts), mesh, live }
  return asked
}

/** As if it had been accepted just now. Returns why it was cut, if it was. */
function connectionOf(live: LiveConnections): () => string | undefined {
  let cut: string | undefined
  live.add({
    podUid: 'web-1', protocol: 'tcp', isReused: false, sinceMs: Date.now(), counts: () => ({ sent: 0, received: 0 }), cut: (because) => (cut = because),
    direction: 'inbound', reporter: 'destination', sourceAddr: { ip: '10.0.0.9', port: 4_000 }, destinationAddr: { ip: '10.88.0.1', port: 80 },
    source: {}, destination: {}, isMutualTls: false,
  })
  return () => cut
}

test('whoever asks when a listener begins to take connections finds the pod, and a change of policy finds its connections', async () => {
  const seen: string[] = []
  const { set } = makeSet((kind, asked) => {
    seen.push(kind)
    expect(asked.set.netnsOf('web-1')?.inode).toBe(world.netns.inode)
    expect(asked.set.nameOf('web-1')).toBe('shop/web')
    expect([asked.set.captured, asked.set.pending, asked.set.states()]).toEqual([0, 1, []])
    if (kind !== 'inbound') return
    const cut = connectionOf(asked.live)
    asked.set.recheck(asked.mesh.store.apply({ policies: [policy('nobody', { principals: [{ kind: 'exact', value: 'nobody' }] })] }))
    expect(cut()).toBe('policyChanged')
  })
  await set.add(pod())
  expect(seen).toEqual(['outbound', 'inbound', 'dns'])
  expect([set.captured, set.pending, set.draining]).toEqual([1, 0, 0])
  expect(set.states()).toMatchObject([{ uid: 'web-1' }])
  await set.drain()
})

test('one whose capture fails is forgotten, and its namespace let go', async () => {
  const { set } = makeSet(() => {}, () => Promise.reject(new Error('no such map')))
  await expect(set.add(pod())).rejects.toThrow('no such map')
  await expect.poll(() => set.netnsOf('web-1')).toBeUndefined()
  expect([set.captured, set.pending, set.draining, set.nameOf('web-1')]).toEqual([0, 0, 0, 'web-1'])
  // Its listeners are gone: the next attempt has theirs.
  const again = makeSet(() => {})
  await again.set.add(pod())
  await again.set.drain()
})
