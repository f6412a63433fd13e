// The kinds that only the control plane acts on: what is understood, and what is refused at which line.
import { describe, expect, test } from 'vitest'
import { objectKey } from './manifest.ts'
import { parseManifest } from './manifest-parse.ts'

const head = (kind: string, apiVersion: string): string => `apiVersion: ${apiVersion}\nkind: ${kind}\nmetadata: { name: x, namespace: shop }\n`
const policy = (spec: string): string => `${head('AuthorizationPolicy', 'security.istio.io/v1')}spec:\n${spec}`
const entry = (spec: string): string => `${head('ServiceEntry', 'networking.istio.io/v1')}spec:\n${spec}`

describe('kinds of the mesh', () => {
  test.each([
    ['AuthorizationPolicy', ['security.istio.io/v1', 'security.istio.io/v1beta1', 'sidestep.dev/v1alpha1'], '{}'],
    ['PeerAuthentication', ['security.istio.io/v1', 'security.istio.io/v1beta1', 'sidestep.dev/v1alpha1'], '{mtls: {mode: STRICT}}'],
    ['ServiceEntry', ['networking.istio.io/v1', 'networking.istio.io/v1beta1', 'sidestep.dev/v1alpha1'], '{hosts: [a.example.com]}'],
    ['WorkloadEntry', ['networking.istio.io/v1', 'networking.istio.io/v1beta1', 'sidestep.dev/v1alpha1'], '{address: 192.0.2.1}'],
  ])('%s reads the same under each of its groups', (kind, versions, spec) => {
    for (const version of versions) {
      const { objects, problems } = parseManifest(`${head(kind, version)}spec: ${spec}\n`, 'f.yaml')
      expect(problems).toEqual([])
      expect(objects.map(objectKey)).toEqual([`${kind} shop/x`])
    }
  })

  test('a Node has no namespace; an EndpointSlice is read', () => {
    const text = `apiVersion: v1\nkind: Node\nmetadata: {name: node-a, labels: {topology.kubernetes.io/zone: z}}\n---\n${head('EndpointSlice', 'discovery.k8s.io/v1')}addressType: IPv4\nendpoints: [{addresses: [10.0.0.1]}]\nports: [{port: 80}]\n`
    const { objects, problems } = parseManifest(text, 'f.yaml')
    expect(problems).toEqual([])
    expect(objects.map(objectKey)).toEqual(['Node node-a', 'EndpointSlice shop/x'])
  })

  test('a Service of somebody else\'s group is noted, not refused', () => {
    const parsed = parseManifest(head('Service', 'serving.knative.dev/v1'), 'f.yaml')
    expect(parsed).toMatchObject({ objects: [], problems: [], notes: [{ line: 2 }] })
  })
})

describe('a mistake in them is refused, because dropping it would widen what is allowed', () => {
  test.each([
    ['a misspelt property', policy('  rules:\n  - from:\n    - source: { principal: [a] }\n'), 7, /principal/],
    ['an empty source', policy('  rules:\n  - from:\n    - source: {}\n'), 7, /at least one/],
    ['an empty list', policy('  rules:\n  - from:\n    - source: { namespaces: [] }\n'), 7, /empty list/],
    ['a port as number', policy('  rules:\n  - to:\n    - operation: { ports: [80] }\n'), 7, /in quotes/],
    ['a bad block', policy('  rules:\n  - from:\n    - source: { ipBlocks: [10.0.0.0/33] }\n'), 7, /./],
    ['an unknown condition', policy('  rules:\n  - when:\n    - key: source.ipp\n      values: [a]\n'), 7, /not a known key/],
    ['a condition without values', policy('  rules:\n  - when:\n    - key: source.ip\n'), 7, /needed/],
    ['a value that is none', policy('  rules:\n  - when:\n    - key: source.ip\n      values: [x]\n'), 8, /source.ip/],
    ['a DENY of nothing', policy('  action: DENY\n'), 4, /denies nothing/],
    ['a selector beside targets', policy('  selector: {matchLabels: {a: b}}\n  targetRefs: [{kind: Gateway, name: g}]\n'), 5, /targetRefs/],
    ['ports without selector', `${head('PeerAuthentication', 'security.istio.io/v1')}spec:\n  portLevelMtls: {"80": {mode: DISABLE}}\n`, 5, /selector/],
    ['a wildcard to look up', entry('  hosts: ["*.example.com"]\n  resolution: DNS\n'), 5, /wildcard/],
    ['a lone star', entry('  hosts: ["*"]\n'), 5, /DNS name/],
    ['a name where addresses are needed', entry('  hosts: [a.b]\n  resolution: STATIC\n  endpoints:\n  - address: c.d\n'), 8, /IP addresses/],
    ['endpoints that nobody uses', entry('  hosts: [a.b]\n  endpoints: [{address: 10.0.0.1}]\n'), 6, /NONE/],
    ['a misspelt address', entry('  hosts: [a.b]\n  resolution: DNS\n  endpoints:\n  - address: 10.0.0.1000\n'), 8, /address/],
    ['an ExternalName without name', `${head('Service', 'v1')}spec:\n  type: ExternalName\n`, 4, /externalName/],
    ['a slice of the other family', `${head('EndpointSlice', 'discovery.k8s.io/v1')}addressType: IPv6\nendpoints:\n- addresses: [10.0.0.1]\n`, 6, /IPv6/],
  ])('%s', (_name, text, line, reason) => {
    const { problems, objects } = parseManifest(text, 'f.yaml')
    expect(objects).toEqual([])
    expect(problems).toContainEqual({ file: 'f.yaml', line, reason: expect.stringMatching(reason), object: expect.stringMatching(/ shop\/x$/) })
  })
})
