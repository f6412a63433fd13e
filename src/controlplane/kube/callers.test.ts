// Whom a token of Kubernetes speaks for, and what those cost who have none that is good.
import { describe, expect, test } from 'vitest'
import { MeshError } from '../../core/errors.ts'
import { silentLogger } from '../../core/log.ts'
import type { ReviewVerdict } from '../../kube/token-review.ts'
import { nativeTunnelLabel } from '../../model/enrolment.ts'
import { gatewayNameLabel } from '../../model/gateway-labels.ts'
import type { RunningPod } from '../../model/running-pod.ts'
import { admitToAuthority, admitToDiscovery, type CallerVerdict } from '../callers.ts'
import { kubeCallerCheck } from './callers.ts'
import { StrangerLimit } from './stranger-limit.ts'

const pod = (namespace: string, name: string, more: Partial<RunningPod> = {}): RunningPod => ({
  uid: `uid-${name}`, namespace, name, node: 'node-a', ips: [], ready: true, labels: {}, serviceAccount: 'default', isCaptured: false, isHostNetwork: false, ports: [], ...more,
})
const labels = { [gatewayNameLabel]: 'way', [nativeTunnelLabel]: 'http' }
const pods = new Map([
  pod('sidestep-system', 'zt-1', { serviceAccount: 'sidestep-ztunnel' }), pod('shop', 'way-1', { serviceAccount: 'way', labels }), pod('shop', 'web-1'),
].map((each) => [`${each.namespace}/${each.name}`, each]))
const ok = (namespace: string, serviceAccount: string, name?: string, more: object = {}): ReviewVerdict =>
  ({ ok: true, namespace, serviceAccount, ...(name === undefined ? {} : { pod: { name, uid: `uid-${name}` }, node: 'node-a' }), ...more })

async function ask(verdict: ReviewVerdict | Error, metadata: Record<string, string> = {}): Promise<CallerVerdict> {
  const review = async (): Promise<ReviewVerdict> => {
    if (verdict instanceof Error) throw verdict
    return verdict
  }
  const check = kubeCallerCheck({ reviewer: { review }, namespace: 'sidestep-system', clusterId: 'Kubernetes', pods: () => pods, logger: silentLogger })
  return check(new Map(Object.entries({ authorization: 'Bearer t.o.k', ...metadata })), '10.0.0.9:4711')
}

describe('a token of Kubernetes', () => {
  test('of a node proxy of ours speaks for the node of its pod', async () => {
    expect(await ask(ok('sidestep-system', 'sidestep-ztunnel', 'zt-1'))).toEqual({ ok: true, node: 'node-a', subject: 'ztunnel sidestep-system/zt-1' })
    // Older servers do not say the node; then it is that of the pod.
    expect(await ask(ok('sidestep-system', 'sidestep-ztunnel', 'zt-1', { node: undefined }))).toMatchObject({ ok: true, node: 'node-a' })
    expect(await ask(ok('sidestep-system', 'sidestep-ztunnel', 'zt-9', { node: 'node-b' }))).toMatchObject({ ok: true, node: 'node-b' })
  })

  test.each<[string, ReviewVerdict, string]>([
    ['of a node proxy that names another node than its pod is on', ok('sidestep-system', 'sidestep-ztunnel', 'zt-1', { node: 'node-b' }), 'it is on node-a'],
    ['that names no node, of a pod that nobody knows', ok('sidestep-system', 'sidestep-ztunnel', 'zt-9', { node: undefined }), 'not known to run'],
    ['that is bound to no pod', ok('sidestep-system', 'sidestep-ztunnel'), 'not bound to a pod'],
    ['of an earlier pod of that name, without a node', ok('shop', 'way', undefined, { pod: { name: 'way-1', uid: 'old' } }), 'not known to run'],
  ])('%s is refused', async (_what, verdict, because) => {
    expect(await ask(verdict)).toMatchObject({ ok: false, code: 'permissionDenied', because: expect.stringContaining(because) })
  })

  test('of an account of that name elsewhere speaks for its pod alone, which is no gateway', async () => {
    const caller = await ask(ok('shop', 'sidestep-ztunnel', 'web-1'))
    expect(caller).toMatchObject({ ok: true, pod: { namespace: 'shop', name: 'web-1' } })
    expect(admitToDiscovery(caller, pods)).toMatchObject({ ok: false, code: 'permissionDenied' })
  })

  test('of a gateway\'s pod speaks for that pod, if it is still the one', async () => {
    const caller = await ask(ok('shop', 'way', 'way-1'))
    expect(admitToDiscovery(caller, pods)).toMatchObject({ ok: true, identity: 'shop/way-1', node: 'node-a', gateway: { namespace: 'shop', name: 'way' } })
    expect(admitToAuthority(caller, 'cluster.local')).toMatchObject({ ok: true, caller: { identity: { namespace: 'shop', serviceAccount: 'way' } } })
    const old = await ask(ok('shop', 'way', 'way-1', { pod: { name: 'way-1', uid: 'old' } }))
    expect(admitToDiscovery(old, pods)).toMatchObject({ ok: false, because: expect.stringContaining('does not run any more') })
    const other = await ask(ok('shop', 'default', 'way-1'))
    expect(admitToDiscovery(other, pods)).toMatchObject({ ok: false, because: expect.stringContaining('does not run as default') })
  })

  test('that is bad, or for another cluster, or cannot be asked about, is refused with the reason', async () => {
    expect(await ask({ ok: false, because: 'refused' })).toMatchObject({ ok: false, code: 'unauthenticated' })
    expect(await ask({ ok: false, because: 'wrongAudience' })).toMatchObject({ because: 'the token is for another audience' })
    expect(await ask(ok('shop', 'way', 'way-1'), { clusterid: 'other' })).toMatchObject({ ok: false, because: expect.stringContaining('of cluster Kubernetes') })
    expect(await ask(ok('shop', 'way', 'way-1'), { authorization: 'Basic eA==' })).toMatchObject({ ok: false, because: expect.stringContaining('no bearer token') })
    expect(await ask(new MeshError('KUBE_UNREACHABLE', 'away'))).toMatchObject({ ok: false, because: expect.stringContaining('cannot be asked') })
    expect(await ask(new MeshError('OVERLOADED', 'busy'))).toMatchObject({ ok: false, because: expect.stringContaining('too many') })
  })
})

test('who tries tokens is asked about no more, while others at other addresses are', async () => {
  let asked = 0
  let nowMs = 0
  const clock = { nowMs: () => nowMs, monotonicMs: () => nowMs, after: () => () => undefined }
  const limit = new StrangerLimit({ burst: 3, everyMs: 1_000, addresses: 2 }, clock)
  const check = kubeCallerCheck({
    reviewer: { review: async (token) => (asked++, token === 'good' ? ok('sidestep-system', 'sidestep-ztunnel', 'zt-1') : { ok: false, because: 'refused' }) },
    namespace: 'sidestep-system', clusterId: 'Kubernetes', pods: () => pods, logger: silentLogger, limit,
  })
  const call = (peer: string, token: string): Promise<CallerVerdict> => check(new Map([['authorization', `Bearer ${token}`]]), peer)
  for (let i = 0; i < 10; i++) expect(await call(`10.0.0.66:${1000 + i}`, `bad${i}`)).toMatchObject({ ok: false })
  expect(asked).toBe(3)
  expect(await call('10.0.0.66:2000', 'good')).toMatchObject({ ok: false, because: expect.stringContaining('too many calls with bad tokens') })
  expect(await call('[fd00::1]:1000', 'good')).toMatchObject({ ok: true })
  nowMs += 1_000
  expect(await call('10.0.0.66:2000', 'good')).toMatchObject({ ok: true })
  for (let i = 0; i < 50; i++) await call(`10.0.1.${i}:1`, 'bad')
  expect(await call('10.0.0.66:2000', 'good')).toMatchObject({ ok: true })
})
