// Our kinds as an API server has them: the definitions in deploy/crds, what they let pass and what not.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { resourcePath, type KubeObject, type ResourceType } from '../../src/kube/api.ts'
import type { KubeClient } from '../../src/kube/client.ts'
import { ApiServer } from './api-server.ts'
import { define, definitionType, documentedObjects, exampleObjects, gatewayApiDefinitions, objectsBelow } from './definitions.ts'

let server: ApiServer
let admin: KubeClient
const types = new Map<string, ResourceType>()

const builtIn: readonly ResourceType[] = [
  ...(['Namespace', 'Node'] as const).map((kind) => ({ group: '', version: 'v1', plural: `${kind.toLowerCase()}s`, kind, namespaced: false })),
  ...(['Service', 'ServiceAccount', 'ConfigMap', 'Secret'] as const).map((kind) => ({ group: '', version: 'v1', plural: `${kind.toLowerCase()}s`, kind, namespaced: true })),
]

beforeAll(async () => {
  server = await ApiServer.start()
  admin = await server.client()
  const definitions = [...objectsBelow('deploy/crds'), ...await gatewayApiDefinitions()]
  await define(admin, definitions)
  for (const type of builtIn) types.set(`${type.group === '' ? '' : `${type.group}/`}v1 ${type.kind}`, type)
  for (const { spec } of definitions) {
    const { group, names, versions, scope } = spec as { group: string; names: { plural: string; kind: string }; scope: string; versions: { name: string }[] }
    for (const { name: version } of versions) types.set(`${group}/${version} ${names.kind}`, { group, version, plural: names.plural, kind: names.kind, namespaced: scope === 'Namespaced' })
  }
}, 900_000)

afterAll(async () => {
  admin?.close()
  await server?.stop()
})

/** Undefined where it passes, else what the server says. */
async function refusal(object: KubeObject, fieldValidation: 'Strict' | 'Ignore' = 'Strict'): Promise<string | undefined> {
  const type = types.get(`${object.apiVersion} ${object.kind}`)
  if (type === undefined) return undefined
  const namespace = object.metadata.namespace ?? 'default'
  if (type.namespaced && namespace !== 'default') {
    const name = { apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace } }
    await admin.patch(`/api/v1/namespaces/${namespace}`, name, 'apply', { query: { fieldManager: 'test' } })
  }
  try {
    const placed = type.namespaced ? { ...object, metadata: { ...object.metadata, namespace } } : object
    await admin.apply(type, placed, { force: true, query: { dryRun: 'All', fieldValidation } })
    return undefined
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

const own = (kind: string, spec: unknown): KubeObject => ({ apiVersion: 'sidestep.dev/v1alpha1', kind, metadata: { name: 'test' }, spec })

test('every definition is served, with a short name and what kubectl shows of it', async () => {
  const { items } = await admin.list(resourcePath(definitionType))
  const ours = items.filter(({ metadata }) => metadata.name.endsWith('.sidestep.dev'))
  expect(ours).toHaveLength(9)
  const short = ours.flatMap(({ spec }) => (spec as { names: { shortNames: string[] } }).names.shortNames)
  expect(new Set(short).size).toBe(9)
})

/** Pods of the examples are for a mesh on one machine: they say what to run without an image. */
const runs = ['Pod', 'Deployment']

test.each([...documentedObjects(), ...exampleObjects()].filter(({ object }) => !runs.includes(object.kind)))('$where passes', async ({ object }) => {
  expect(await refusal(object)).toBeUndefined()
})

describe('what is wrong is refused', () => {
  test.each<[string, KubeObject, RegExp]>([
    ['a field that nobody knows', own('RateLimitPolicy', { limits: [{ requests: 1, per: '1s', burts: 2 }] }), /burts/],
    ['no limits', own('RateLimitPolicy', { limits: [] }), /limits/],
    ['a time without a unit', own('RateLimitPolicy', { limits: [{ requests: 1, per: '5' }] }), /per/],
    ['a word that is none', own('RateLimitPolicy', { limits: [{ requests: 1, per: '1s' }], scope: 'global' }), /scope/],
    ['an unknown kind of key', own('RateLimitPolicy', { limits: [{ requests: 1, per: '1s', by: [{ type: 'IP' }] }] }), /by/],
    ['no target', own('BackendPolicy', { targetRefs: [] }), /targetRefs/],
    ['no spec', own('BackendPolicy', undefined), /spec/],
    ['a port beyond all', own('AuthorizationProvider', { protocol: 'HTTP', service: 'a', port: 70_000 }), /port/],
    ['no address', own('AuthorizationPolicy', { rules: [{ from: [{ source: { ipBlocks: ['home'] } }] }] }), /ipBlocks/],
    ['an empty list', own('AuthorizationPolicy', { rules: [{ from: [] }] }), /from/],
    ['a mode that is none', own('PeerAuthentication', { mtls: { mode: 'strict' } }), /mode/],
    ['a host with a blank', own('ServiceEntry', { hosts: ['a b'] }), /hosts/],
    ['another type', own('WorkloadEntry', { address: 5 }), /address/],
  ])('%s', async (_, object, because) => {
    expect(await refusal(object)).toMatch(because)
  })
})

test('a misspelt field of a security policy is kept, so that it can be refused, also where the client does not mind', async () => {
  const type = types.get('sidestep.dev/v1alpha1 AuthorizationPolicy')
  if (type === undefined) throw new Error('AuthorizationPolicy is not served')
  const spec = { rules: [{ from: [{ source: { namespaces: ['a'], principls: ['b'] } }] }] }
  const made = await admin.create(resourcePath(type, { namespace: 'default' }), own('AuthorizationPolicy', spec), { query: { dryRun: 'All', fieldValidation: 'Ignore' } })
  expect(made.spec).toEqual(spec)
})
