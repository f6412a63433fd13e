// When gateways are told anew: after what they are told of, and after nothing else.
import { describe, expect, test } from 'vitest'
import type { ManifestObject } from '../../model/manifest.ts'
import { object } from './arbitraries.ts'
import { defaultSettings } from './settings.ts'
import { Translator } from './translator.ts'

const service = (fields: object = {}, metadata: object = {}): ManifestObject => object('Service', 'shop/web', { spec: { ports: [{ port: 80 }], ...fields } }, metadata)
const waypoint = object('Gateway', 'shop/w', { spec: { gatewayClassName: 'sidestep-waypoint', listeners: [{ name: 'mesh', port: 15008, protocol: 'HBONE' }] } })
const use = { labels: { 'sidestep.dev/use-waypoint': 'w' } }
const configMap = (data: object): ManifestObject => object('ConfigMap', 'shop/c', { data })
const secret = (stringData: object, type = 'Opaque'): ManifestObject => object('Secret', 'shop/s', { type, stringData })
const policy = (spec: object): ManifestObject => object('AuthorizationPolicy', 'shop/p', { spec: { rules: [{}], ...spec } })
const slice = object('EndpointSlice', 'shop/e', { addressType: 'IPv4', endpoints: [{ addresses: ['10.0.0.1'] }], ports: [{ port: 80 }] })

/** Whether the last of these changes something for gateways, after the others. */
function isStale(...objects: readonly ManifestObject[]): boolean {
  const translator = new Translator(defaultSettings)
  const last = objects.at(-1)
  for (const each of objects.slice(0, -1)) translator.put(each)
  translator.flush()
  translator.flushWaypoints()
  expect(translator.areWaypointsStale).toBe(false)
  if (last) translator.put(last)
  return translator.areWaypointsStale
}

describe('gateways', () => {
  test.each<[string, readonly ManifestObject[]]>([
    ['a port', [service(), service({ ports: [{ port: 81 }] })]], ['a label of a Service', [service(), service({}, use)]], ['a new Service', [service()]],
    ['a label of a Namespace', [object('Namespace', 'shop', {}), object('Namespace', 'shop', {}, use)]], ['a policy with targets', [policy({ targetRefs: [{ kind: 'Service', name: 'web' }] })]],
    ['authorities', [configMap({ 'ca.crt': 'x' }), configMap({ 'ca.crt': 'y' })]], ['a certificate', [secret({ 'tls.crt': 'x' }), secret({ 'tls.crt': 'y' })]],
    ['a route', [object('HTTPRoute', 'shop/r', { spec: { rules: [{}] } })]],
  ])('are told anew after %s', (_what, objects) => expect(isStale(waypoint, ...objects)).toBe(true))

  test.each<[string, readonly ManifestObject[]]>([
    ['whom a Service selects', [service(), service({ selector: { app: 'x' } })]], ['an annotation', [service(), service({}, { annotations: { a: 'b' } })]],
    ['an annotation of a Namespace', [object('Namespace', 'shop', {}), object('Namespace', 'shop', {}, { annotations: { a: 'b' } })]], ['a policy of ztunnels', [policy({})]],
    ['other data of a ConfigMap', [configMap({ leader: 'a' }), configMap({ leader: 'b' })]], ['other data of a Secret', [secret({ password: 'a' }), secret({ password: 'b' })]], ['a slice', [slice]],
  ])('are not told anew after %s', (_what, objects) => expect(isStale(waypoint, ...objects)).toBe(false))

  test('cost nothing where there are none, nor anything for them', () => {
    expect(isStale(service(), object('Namespace', 'shop', {}), configMap({ 'ca.crt': 'x' }), policy({}), service({ ports: [{ port: 81 }] }))).toBe(false)
    const translator = new Translator(defaultSettings)
    translator.put(waypoint)
    translator.flushWaypoints()
    translator.putPod({ uid: 'u', namespace: 'shop', name: 'w-0', node: 'n', ips: ['10.0.0.1'], ready: true, labels: {}, serviceAccount: 'w', isCaptured: false, isHostNetwork: false, ports: [] })
    expect(translator.areWaypointsStale).toBe(false)
    translator.remove('Gateway shop/w')
    expect(translator.flushWaypoints()).toEqual({ waypoint: new Map(), removedWaypoint: ['shop/w/security/'] })
    translator.put(service())
    expect(translator.areWaypointsStale).toBe(false)
  })
})
