// What is in force of what the API gives: read by the same schemas as files, the last good state kept, garbage harmless.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { KubeObject } from '../../kube/api.ts'
import { manifestKinds, objectKey, type ManifestKind } from '../../model/manifest.ts'
import { kindSources } from './kinds.ts'
import { ObjectBook } from './object-book.ts'

type Json = Record<string, unknown>

function object(apiVersion: string, kind: string, name: string, rest: Json, metadata: Json = {}): KubeObject {
  const [namespace, own = ''] = name.includes('/') ? name.split('/') : [undefined, name]
  return { apiVersion, kind, metadata: { name: own, ...(namespace === undefined ? {} : { namespace }), uid: `uid-${name}`, generation: 1, ...metadata }, ...rest }
}
const service = (spec: Json, metadata: Json = {}): KubeObject => object('v1', 'Service', 'shop/web', { spec, status: { loadBalancer: {} } }, metadata)
const policy = (apiVersion: string, spec: Json): KubeObject => object(apiVersion, 'AuthorizationPolicy', 'shop/p', { spec })
const ours = 'sidestep.dev/v1alpha1'
const theirs = 'security.istio.io/v1'

describe('objects of the API', () => {
  test('are kept without what nobody uses', () => {
    const book = new ObjectBook()
    book.put('Service', '', 'shop/web', service({ selector: { app: 'web' }, clusterIPs: ['10.96.0.1', 'fd00::1'], ports: [{ port: 80, protocol: 'TCP' }, { name: 'sctp', port: 9, protocol: 'SCTP' }] }, {
      managedFields: [{ manager: 'kubectl' }], creationTimestamp: '2026-11-21T20:00:00Z',
      annotations: { 'kubectl.kubernetes.io/last-applied-configuration': '{}', 'networking.istio.io/traffic-distribution': 'PreferClose', 'sidestep.dev/x': 'y', plain: 'z' },
    }))
    book.put('Node', '', 'node-a', object('v1', 'Node', 'node-a', {}, { labels: { 'topology.kubernetes.io/zone': 'z1', 'beta.kubernetes.io/arch': 'amd64' } }))
    const [changed, node] = [...book.takeChanges().values()]
    expect(changed).toEqual({
      kind: 'Service', origin: { file: 'kubernetes', line: 0 },
      metadata: {
        name: 'web', namespace: 'shop', labels: {}, creationTimestamp: '2026-11-21T20:00:00Z',
        annotations: { 'networking.istio.io/traffic-distribution': 'PreferClose', 'sidestep.dev/x': 'y' },
      },
      spec: expect.objectContaining({ clusterIPs: ['10.96.0.1', 'fd00::1'], ports: [{ port: 80, protocol: 'TCP' }] }),
    })
    expect(node?.metadata.labels).toEqual({ 'topology.kubernetes.io/zone': 'z1' })
    expect(book.reference('Service shop/web')).toEqual({ apiVersion: 'v1', uid: 'uid-shop/web', generation: 1 })
  })

  test('that changed in nothing that is used change nothing', () => {
    const book = new ObjectBook()
    expect(book.put('Service', '', 'shop/web', service({ ports: [{ port: 80 }] }))).toBe(true)
    book.takeChanges()
    expect(book.put('Service', '', 'shop/web', service({ ports: [{ port: 80 }] }, { resourceVersion: '7', annotations: { plain: 'other' } }))).toBe(false)
    expect(book.takeChanges().size).toBe(0)
  })

  test('that are bad keep their last good state, and the problem is that object\'s alone', () => {
    const book = new ObjectBook()
    book.put('Service', '', 'shop/web', service({ ports: [{ port: 80 }] }))
    book.put('AuthorizationPolicy', 'sidestep.dev', 'shop/p', policy(ours, { action: 'DENY', rules: [{}] }))
    book.takeChanges()
    expect(book.put('Service', '', 'shop/web', service({ ports: [{ port: 'no' }] }))).toBe(true)
    expect(book.takeChanges().size).toBe(0)
    expect(book.objects.get('Service shop/web')).toMatchObject({ spec: { ports: [{ port: 80 }] } })
    expect([...book.problems()]).toEqual([{ file: 'kubernetes', line: 0, object: 'Service shop/web', reason: expect.stringContaining('spec.ports.0.port') }])
    book.put('Service', '', 'shop/web', service({ ports: [{ port: 81 }] }))
    expect([...book.problems()]).toEqual([])
    book.remove('Service', '', 'shop/web')
    expect(book.takeChanges()).toEqual(new Map([['Service shop/web', undefined]]))
  })

  test('of two groups and one name: ours counts, in whatever order they come, and the other counts when ours is gone', () => {
    for (const order of [[ours, theirs], [theirs, ours]]) {
      const book = new ObjectBook()
      for (const apiVersion of order) {
        book.put('AuthorizationPolicy', apiVersion === ours ? 'sidestep.dev' : 'security.istio.io', 'shop/p', policy(apiVersion, { action: apiVersion === ours ? 'DENY' : 'ALLOW', rules: [{}] }))
      }
      expect(book.objects.get('AuthorizationPolicy shop/p')).toMatchObject({ spec: { action: 'DENY' } })
      expect([...book.problems()]).toMatchObject([{ object: 'AuthorizationPolicy shop/p', reason: expect.stringContaining(`that of ${theirs} does not`) }])
      expect(book.reference('AuthorizationPolicy shop/p')?.apiVersion).toBe(ours)
      book.remove('AuthorizationPolicy', 'sidestep.dev', 'shop/p')
      expect(book.objects.get('AuthorizationPolicy shop/p')).toMatchObject({ spec: { action: 'ALLOW' } })
      expect([...book.problems()]).toEqual([])
      book.remove('AuthorizationPolicy', 'security.istio.io', 'shop/p')
      expect(book.objects.size).toBe(0)
      expect(book.reference('AuthorizationPolicy shop/p')).toBeUndefined()
    }
  })

  test('never get into a message with what a Secret holds', () => {
    const book = new ObjectBook()
    book.put('Secret', '', 'shop/tls', object('v1', 'Secret', 'shop/tls', { type: 'kubernetes.io/tls', data: { 'tls.crt': 'c2VjcmV0IGxpbmU', 'tls.key': '!!verysecret!!', password: 'aHVudGVyMg==' } }))
    const told = JSON.stringify([[...book.problems()], [...book.objects]])
    expect(told).toContain('must be base64')
    expect(told).not.toMatch(/verysecret|aHVudGVyMg|hunter2|c2VjcmV0/)
    book.put('Secret', '', 'shop/tls', object('v1', 'Secret', 'shop/tls', { type: 'kubernetes.io/tls', data: { 'tls.crt': 'eA==', password: 'aHVudGVyMg==' } }))
    expect(book.objects.get('Secret shop/tls')).toMatchObject({ data: { 'tls.crt': 'x' } })
    expect(JSON.stringify([...book.objects])).not.toContain('hunter2')
  })

  test('may be anything: nothing is thrown, and removing all leaves nothing', () => {
    const kinds = Object.keys(manifestKinds) as ManifestKind[]
    const name = fc.oneof(fc.constantFrom<unknown>('a', 'b', 'A B', ''), fc.jsonValue())
    const raw = fc.record({
      apiVersion: fc.oneof(fc.constantFrom<unknown>('v1', ours, theirs), fc.jsonValue()),
      kind: fc.constantFrom(...kinds),
      metadata: fc.record({ name, namespace: name, labels: fc.jsonValue(), annotations: fc.jsonValue(), generation: fc.jsonValue(), uid: fc.jsonValue() }, { requiredKeys: ['name'] }),
      spec: fc.oneof(fc.jsonValue(), fc.record({ ports: fc.jsonValue(), rules: fc.jsonValue(), hosts: fc.jsonValue() })), data: fc.jsonValue(), endpoints: fc.jsonValue(),
    }, { requiredKeys: ['apiVersion', 'kind', 'metadata'] })
    const told = fc.tuple(raw, fc.constantFrom('', 'sidestep.dev', 'security.istio.io'), fc.constantFrom('a', 'b', 'a/b', 'default/a'))
    fc.assert(fc.property(fc.array(told, { maxLength: 8 }), (objects) => {
      const book = new ObjectBook()
      for (const [each, group, own] of objects) book.put(each.kind, group, own, each as unknown as KubeObject)
      for (const [key, inForce] of book.objects) expect(key).toBe(objectKey(inForce))
      for (const [{ kind }, group, own] of objects) book.remove(kind, group, own)
      expect([book.objects.size, [...book.problems()].length]).toEqual([0, 0])
    }), { numRuns: 300 })
  })
})

test('every kind is watched in every group and version that its schema takes, but for those that pods tell', () => {
  const watched = new Set(kindSources.flatMap(({ kind, group, versions }) => versions.map((version) => `${kind} ${group === '' ? version : `${group}/${version}`}`)))
  const all = (Object.entries(manifestKinds)).flatMap(([kind, { apiVersions }]) => apiVersions.map((apiVersion) => `${kind} ${apiVersion}`))
  expect(all.filter((each) => !watched.has(each)).map((each) => each.split(' ')[0])).toEqual(['ServiceAccount', 'Pod', 'Deployment', 'Secret', 'ConfigMap'])
  expect(kindSources.find(({ kind }) => kind === 'Node')).toMatchObject({ namespaced: false, plural: 'nodes' })
})
