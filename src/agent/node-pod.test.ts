import { anything, assert, property } from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { KubeObject } from '../kube/api.ts'
import { namespaceMode, readNodePod, wishOf } from './node-pod.ts'
import type { NodePod } from './node-pod.ts'

const settings = { systemNamespace: 'sidestep-system', istioLabels: false }
const enabled = { 'sidestep.dev/mesh': 'enabled' }

function pod(parts: { metadata?: object; spec?: object; status?: object } = {}): KubeObject {
  return {
    apiVersion: 'v1', kind: 'Pod', metadata: { uid: 'u', namespace: 'shop', name: 'web', ...parts.metadata }, spec: { nodeName: 'a', serviceAccountName: 'web', containers: [], ...parts.spec },
    ...(parts.status && { status: parts.status }),
  }
}

function read(parts: Parameters<typeof pod>[0] = {}): NodePod {
  const found = readNodePod(pod(parts))
  if (!found) throw new TypeError('not read')
  return found
}

test('of a pod is kept what decides, and its own condition', () => {
  expect(read({
    metadata: { labels: { app: 'web', 'sidestep.dev/mesh': 'enabled' }, annotations: { note: 'long' } },
    spec: { containers: [{ readinessProbe: { tcpSocket: { port: 80 } } }], dnsPolicy: 'None', dnsConfig: { searches: ['Example.org.'], options: [{ name: 'ndots', value: '2' }] } },
    status: { phase: 'Running', podIP: '10.0.0.1', podIPs: [{ ip: '10.0.0.1' }, { ip: 'FD00::0001' }], conditions: [{ type: 'Ready', status: 'True' }, { type: 'sidestep.dev/Captured', status: 'True', reason: 'Captured' }] },
  })).toEqual({
    uid: 'u', namespace: 'shop', name: 'web', serviceAccount: 'web', labels: enabled, isHostNetwork: false, hasSidecar: false, isStatic: false, hasEnded: false,
    ips: ['10.0.0.1', 'fd00::1'], probePorts: [80], dns: { policy: 'None', searches: ['example.org'], ndots: 2 }, condition: { type: 'sidestep.dev/Captured', status: 'True', reason: 'Captured', message: '', lastTransitionTime: '' },
  })
  expect(read()).toMatchObject({ ips: [], dns: { policy: 'ClusterFirst', searches: [] }, condition: undefined })
  expect(read({ spec: { serviceAccountName: '' } }).serviceAccount).toBe('default')
})

test('any object is a pod or none', () => {
  assert(property(anything(), anything(), anything(), (metadata, spec, status) => {
    readNodePod({ apiVersion: 'v1', kind: 'Pod', metadata, spec, status } as never)
  }))
})

describe('who is wanted', () => {
  const wish = (parts: Parameters<typeof pod>[0], namespaceLabels: Record<string, string> = enabled): unknown => wishOf(read(parts), namespaceLabels, settings)

  test('whoever is labelled, or in a namespace that is; the pod\'s word wins', () => {
    expect(wish({})).toEqual({ t: 'wanted', failureMode: 'closed', dns: true })
    expect(wish({}, {})).toEqual({ t: 'outside' })
    expect(wish({ metadata: { labels: enabled } }, {})).toMatchObject({ t: 'wanted' })
    expect(wish({ metadata: { labels: { 'sidestep.dev/mesh': 'disabled' } } })).toEqual({ t: 'outside' })
    expect(wish({}, { ...enabled, 'sidestep.dev/failure-mode': 'open', 'sidestep.dev/dns': 'disabled' })).toEqual({ t: 'wanted', failureMode: 'open', dns: false })
    expect(wish({}, { 'istio.io/dataplane-mode': 'ambient' })).toEqual({ t: 'outside' })
    expect(wishOf(read(), { 'istio.io/dataplane-mode': 'ambient' }, { ...settings, istioLabels: true })).toMatchObject({ t: 'wanted' })
  })

  test('but not of the node, of files, of the mesh, with a sidecar, with tunnels of its own, or ended', () => {
    expect(wish({ spec: { hostNetwork: true } })).toEqual({ t: 'ineligible', reason: 'HostNetwork' })
    expect(wish({ metadata: { annotations: { 'kubernetes.io/config.mirror': 'x' } } })).toEqual({ t: 'ineligible', reason: 'StaticPod' })
    expect(wish({ metadata: { namespace: 'sidestep-system' } })).toEqual({ t: 'ineligible', reason: 'SystemNamespace' })
    expect(wish({ metadata: { annotations: { 'sidecar.istio.io/status': '{}' } } })).toEqual({ t: 'ineligible', reason: 'HasSidecar' })
    expect(wish({ metadata: { labels: { 'networking.istio.io/tunnel': 'http' } } })).toEqual({ t: 'outside' })
    for (const phase of ['Succeeded', 'Failed']) expect(wish({ status: { phase } })).toEqual({ t: 'ended' })
    for (const phase of ['Pending', 'Running', 'Unknown']) expect(wish({ status: { phase } })).toMatchObject({ t: 'wanted' })
  })
})

test('the plugin is told of namespaces in the mesh, never of our own', () => {
  expect(namespaceMode('shop', enabled, settings)).toBe('closed')
  expect(namespaceMode('shop', { ...enabled, 'sidestep.dev/failure-mode': 'open' }, settings)).toBe('open')
  expect(namespaceMode('shop', {}, settings)).toBeUndefined()
  expect(namespaceMode('sidestep-system', enabled, settings)).toBeUndefined()
})
