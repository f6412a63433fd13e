// Who may call as whom: a node's token speaks for the node, a pod's for that one life of that pod, and the facts decide which
// gateway it is. Whatever a caller says of itself changes nothing but whether it is refused.
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { nativeTunnelLabel } from '../model/enrolment.ts'
import { gatewayNameLabel } from '../model/gateway-labels.ts'
import type { RunningPod } from '../model/running-pod.ts'
import { temporaryDirectory } from '../pki/testing.ts'
import { TokenIssuer, type TokenHolder } from '../pki/tokens.ts'
import type { Admission, Admitted } from '../xds/server-options.ts'
import { admitToAuthority, admitToDiscovery, callerCheck, mayBeNode, signingRule, type CallerVerdict } from './callers.ts'
import { gatewayPodOf, type RunningPods } from './gateway-pods.ts'

const labels = { [gatewayNameLabel]: 'way', [nativeTunnelLabel]: 'http' }
const way: RunningPod = {
  uid: 'u1', namespace: 'shop', name: 'way-1', node: 'node-a', ips: ['10.0.0.9'], ready: true, labels, serviceAccount: 'way', isCaptured: false,
  isHostNetwork: false, ports: [],
}
const running = (...pods: readonly RunningPod[]): RunningPods => new Map(pods.map((pod) => [`${pod.namespace}/${pod.name}`, pod]))
const holder = { node: 'node-a', subject: 'gateway shop/way', pod: { namespace: 'shop', name: 'way-1', serviceAccount: 'way', uid: 'u1' } } satisfies TokenHolder
const verdict = (more: Partial<TokenHolder> = {}): CallerVerdict => ({ ok: true, ...holder, ...more })
const identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'way' }

const because = (admission: Admission): string => (admission.ok ? 'admitted' : admission.because)
function admitted(admission: Admission): Admitted {
  if (!admission.ok) throw new Error(admission.because)
  return admission
}

describe('the token of a pod', () => {
  let base: ReturnType<typeof temporaryDirectory>
  let tokens: TokenIssuer
  beforeAll(async () => {
    base = temporaryDirectory()
    tokens = await TokenIssuer.open(join(base.path, 'key'))
  })
  afterAll(() => base.remove())

  test('comes back as it was issued, and is of this cluster only', async () => {
    const check = callerCheck(tokens, 'us', 'Kubernetes')
    const { text } = await tokens.issue(holder, 'us', 60)
    const authorization = `Bearer ${text}`
    expect(await check(new Map([['authorization', authorization]]), '10.0.0.1:1')).toEqual({ ok: true, ...holder })
    expect(await check(new Map([['authorization', authorization], ['clusterid', 'other']]), '10.0.0.1:1')).toMatchObject({ ok: false, code: 'unauthenticated' })
  })
})

describe('admission to discovery', () => {
  test('of a node is as itself, without a gateway', () => {
    const node = admitted(admitToDiscovery({ ok: true, node: 'node-a', subject: 'ztunnel' }, running(way)))
    expect(node).toEqual({ ok: true, identity: 'node-a', node: 'node-a' })
    expect(mayBeNode(node, { NODE_NAME: 'node-a' })).toEqual(node)
    expect(because(mayBeNode(node, { NODE_NAME: 'node-b' }))).toBe('the token is for node node-a, but the request comes as "node-b"')
    expect(because(mayBeNode(node, {}))).toContain('without NODE_NAME')
    expect(because(mayBeNode(node, { NODE_NAME: 'node-a', GATEWAY: 'shop/way' }))).toContain('no gateway')
  })

  test('of a pod is as the gateway that its label names in its own namespace', () => {
    const pod = admitted(admitToDiscovery(verdict(), running(way)))
    expect(pod).toEqual({ ok: true, identity: 'shop/way-1', node: 'node-a', gateway: { namespace: 'shop', name: 'way' } })
    expect(mayBeNode(pod, { NODE_NAME: 'node-a', GATEWAY: 'shop/way' })).toEqual(pod)
    for (const GATEWAY of ['shop/other', 'other/way', 'shop/way/', 'shop', '*', '', ['shop/way'], null, undefined]) {
      expect(mayBeNode(pod, { NODE_NAME: 'node-a', GATEWAY })).toMatchObject({ ok: false, code: 'permissionDenied' })
    }
    expect(because(mayBeNode(pod, { NODE_NAME: 'node-b', GATEWAY: 'shop/way' }))).toContain('node-a')
  })

  test('replicas on one node are told apart', () => {
    const second = { ...way, name: 'way-2', uid: 'u2' }
    const pods = running(way, second)
    const other = verdict({ pod: { ...holder.pod, name: 'way-2', uid: 'u2' } })
    expect(admitted(admitToDiscovery(verdict(), pods)).identity).not.toBe(admitted(admitToDiscovery(other, pods)).identity)
  })

  test.each<[string, RunningPods, string]>([
    ['is gone', running(), 'does not run any more'],
    ['was made anew under its name', running({ ...way, uid: 'u2' }), 'does not run any more'],
    ['runs on another node', running({ ...way, node: 'node-b' }), 'does not run on node node-a'],
    ['runs as another account', running({ ...way, serviceAccount: 'default' }), 'does not run as way'],
    ['has no label', running({ ...way, labels: { [nativeTunnelLabel]: 'http' } }), 'no gateway'],
    ['takes no tunnels itself', running({ ...way, labels: { [gatewayNameLabel]: 'way' } }), 'no gateway'],
    ['names a path', running({ ...way, labels: { ...labels, [gatewayNameLabel]: '../other/way' } }), 'no gateway'],
    ['names another namespace', running({ ...way, labels: { ...labels, [gatewayNameLabel]: 'x/y' } }), 'no gateway'],
    ['names nothing', running({ ...way, labels: { ...labels, [gatewayNameLabel]: '' } }), 'no gateway'],
  ])('a pod that %s is refused, by discovery and by the authority', (_what, pods, reason) => {
    const admission = admitToDiscovery(verdict(), pods)
    expect(admission).toMatchObject({ ok: false, code: 'permissionDenied' })
    expect(because(admission)).toContain(reason)
    const caller = admitToAuthority(verdict(), 'cluster.local')
    expect(caller.ok && signingRule(() => true, () => pods)(caller.caller, identity)).toContain(reason)
  })

  test('nobody is admitted as a gateway of another namespace, whatever labels say', () => {
    fc.assert(fc.property(fc.string({ unit: 'grapheme' }), fc.string(), (name, key) => {
      const found = gatewayPodOf(holder, running({ ...way, labels: { ...labels, [key]: name, [gatewayNameLabel]: name } }))
      if (found.ok) expect(found.gateway).toEqual({ namespace: 'shop', name: expect.stringMatching(/^[a-z0-9][a-z0-9.-]*$/) })
    }))
  })
})

describe('what the authority signs', () => {
  const asked: string[] = []
  const rule = signingRule((node, { namespace, serviceAccount }) => {
    asked.push(`${node} ${namespace}/${serviceAccount}`)
    return 'not here'
  }, () => running(way))

  test('for a node is what may run there', () => {
    const caller = admitToAuthority({ ok: true, node: 'node-a', subject: 'ztunnel' }, 'cluster.local')
    expect(caller).toEqual({ ok: true, caller: { node: 'node-a' } })
    expect(caller.ok && rule(caller.caller, identity)).toBe('not here')
    expect(asked).toEqual(['node-a shop/way'])
  })

  test('for a pod is what it is, and nothing else', () => {
    const caller = admitToAuthority(verdict(), 'cluster.local')
    expect(caller).toMatchObject({ ok: true, caller: { node: 'node-a', identity } })
    if (!caller.ok) return
    expect(rule(caller.caller, identity)).toBe(true)
    expect(rule(caller.caller, { ...identity, serviceAccount: 'web' })).toContain('way-1 alone')
    expect(rule(caller.caller, { ...identity, namespace: 'other' })).toContain('way-1 alone')
  })

  test('what is no token of ours is nobody', () => {
    const none: CallerVerdict = { ok: false, code: 'unauthenticated', because: 'no' }
    expect(admitToDiscovery(none, running(way))).toEqual(none)
    expect(admitToAuthority(none, 'cluster.local')).toEqual(none)
  })
})
