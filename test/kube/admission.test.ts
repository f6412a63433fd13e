// The rules of deploy/admission at a real API server: each refuses its object with its sentence, and lets pass what is right. Every
// sentence there is has a case here.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { resourcePath, type KubeObject, type ResourceType } from '../../src/kube/api.ts'
import type { KubeClient } from '../../src/kube/client.ts'
import { MeshError } from '../../src/core/errors.ts'
import { ApiServer } from './api-server.ts'
import { define, documentedObjects, exampleObjects, gatewayApiDefinitions, objectsBelow } from './definitions.ts'
import { eventually } from './machine.ts'

type Json = Record<string, unknown>
interface Policy extends KubeObject {
  readonly spec: { readonly validations: readonly { readonly message?: string; readonly messageExpression?: string }[] }
}

const own = (plural: string, kind: string): ResourceType => ({ group: 'sidestep.dev', version: 'v1alpha1', plural, kind, namespaced: true })
const core = (plural: string, kind: string, namespaced = true): ResourceType => ({ group: '', version: 'v1', plural, kind, namespaced })
const types: Readonly<Record<string, ResourceType>> = {
  Namespace: core('namespaces', 'Namespace', false), Pod: core('pods', 'Pod'), Service: core('services', 'Service'),
  Deployment: { group: 'apps', version: 'v1', plural: 'deployments', kind: 'Deployment', namespaced: true },
  Gateway: { group: 'gateway.networking.k8s.io', version: 'v1', plural: 'gateways', kind: 'Gateway', namespaced: true },
  AuthorizationPolicy: own('authorizationpolicies', 'AuthorizationPolicy'), PeerAuthentication: own('peerauthentications', 'PeerAuthentication'),
  RequestAuthentication: own('requestauthentications', 'RequestAuthentication'), RateLimitPolicy: own('ratelimitpolicies', 'RateLimitPolicy'),
  CachePolicy: own('cachepolicies', 'CachePolicy'), BackendPolicy: own('backendpolicies', 'BackendPolicy'),
  AuthorizationProvider: own('authorizationproviders', 'AuthorizationProvider'), ServiceEntry: own('serviceentries', 'ServiceEntry'),
  WorkloadEntry: own('workloadentries', 'WorkloadEntry'),
}
const policyType: ResourceType = { group: 'admissionregistration.k8s.io', version: 'v1', plural: 'validatingadmissionpolicies', kind: 'ValidatingAdmissionPolicy', namespaced: false }
const bindingType: ResourceType = { ...policyType, plural: 'validatingadmissionpolicybindings', kind: 'ValidatingAdmissionPolicyBinding' }

const files = objectsBelow('deploy/admission')
const policies = files.filter(({ kind }) => kind === policyType.kind) as Policy[]
const sentences = policies.flatMap(({ spec }) => spec.validations).map(({ message, messageExpression }) => message ?? fixedPart(messageExpression ?? ''))
const heard = new Set<string>()

/** Of a sentence that is put together: its longest literal. */
function fixedPart(expression: string): string {
  const literals = [...expression.matchAll(/'((?:[^'\\]|\\.)*)'/g)].map(([, text = '']) => text.replaceAll(/\\(.)/g, '$1'))
  return literals.toSorted((a, b) => b.length - a.length)[0] ?? ''
}

let server: ApiServer
let admin: KubeClient

beforeAll(async () => {
  server = await ApiServer.start()
  admin = await server.client()
  await define(admin, [...objectsBelow('deploy/crds'), ...await gatewayApiDefinitions()])
  for (const each of files) await admin.apply(each.kind === policyType.kind ? policyType : bindingType, each)
  await admin.create('/api/v1/namespaces/default/serviceaccounts', { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'default' } })
  for (const name of ['shop', 'payments', 'legacy']) await admin.create('/api/v1/namespaces', { apiVersion: 'v1', kind: 'Namespace', metadata: { name } }).catch(() => undefined)
  // The server takes a moment to hear of its own rules; the last of them counts for all.
  for (const [object, sentence] of [
    [made('Namespace', undefined, { labels: { 'sidestep.dev/mesh': 'x' } }), 'sidestep.dev/mesh'],
    [made('AuthorizationPolicy', { action: 'AUDIT' }), 'AUDIT'], [made('PeerAuthentication', { portLevelMtls: { 80: {} } }), 'portLevelMtls'],
    [gateway('sidestep-waypoint', [{ name: 'a', port: 80, protocol: 'HTTP' }]), 'HBONE'], [made('WorkloadEntry', {}), 'address'],
    [made('BackendPolicy', { targetRefs: [{ kind: 'Pod', name: 'a' }] }), 'BackendPolicy'],
  ] as const) await eventually(`the rule about ${sentence} is in force`, 60_000, async () => ((await refusal(object))?.includes(sentence) === true ? true : undefined))
}, 900_000)

afterAll(async () => {
  admin?.close()
  await server?.stop()
})

function made(kind: string, spec?: unknown, metadata: Json = {}): KubeObject {
  const type = types[kind]
  if (type === undefined) throw new Error(`no type for ${kind}`)
  return { apiVersion: type.group === '' ? type.version : `${type.group}/${type.version}`, kind, metadata: { name: 'test', ...metadata }, ...(spec === undefined ? {} : { spec }) }
}

const gateway = (gatewayClassName: string, listeners: readonly Json[], metadata: Json = {}): KubeObject => made('Gateway', { gatewayClassName, listeners }, metadata)
const hbone = [{ name: 'mesh', port: 15_008, protocol: 'HBONE' }]
const containers = [{ name: 'app', image: 'app' }]
const pod = (labels: Json, spec: Json = {}): KubeObject => made('Pod', { containers, ...spec }, { labels })
const deployment = (labels: Json, spec: Json = {}): KubeObject =>
  made('Deployment', { selector: { matchLabels: { app: 'a' } }, template: { metadata: { labels: { app: 'a', ...labels } }, spec: { containers, ...spec } } })

async function refusal(object: KubeObject, fieldValidation = 'Ignore'): Promise<string | undefined> {
  const type = types[object.kind]
  // Of Istio's groups there is nothing here: they are Istio's to judge.
  if (type === undefined || object.apiVersion.split('/').at(-2) !== (type.group === '' ? undefined : type.group)) return undefined
  try {
    await admin.create(resourcePath(type, { namespace: object.metadata.namespace ?? 'default' }), object, { query: { dryRun: 'All', fieldValidation } })
    return undefined
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    for (const sentence of sentences) if (message.includes(sentence)) heard.add(sentence)
    return message
  }
}

describe('labels', () => {
  test.each<[string, KubeObject, string]>([
    ['of a namespace', made('Namespace', undefined, { labels: { 'sidestep.dev/mesh': 'true' } }), '"true", which is neither enabled nor disabled'],
    ['of a pod', pod({ 'sidestep.dev/mesh': 'on' }), 'neither enabled nor disabled'],
    ['of what a pod is made from', deployment({ 'sidestep.dev/mesh': 'yes' }), 'neither enabled nor disabled'],
    ['failure mode', made('Namespace', undefined, { labels: { 'sidestep.dev/failure-mode': 'Open' } }), 'neither open nor closed'],
    ['DNS', pod({ 'sidestep.dev/dns': 'off' }), 'DNS would be captured'],
    ['egress', made('Namespace', undefined, { labels: { 'sidestep.dev/egress': 'none' } }), 'none of allow, audit and deny'],
    ['a waypoint without a name', made('Service', { ports: [{ port: 80 }] }, { labels: { 'sidestep.dev/use-waypoint-namespace': 'a' } }), 'does not say which'],
    ['a waypoint before a waypoint', pod({ 'gateway.networking.k8s.io/gateway-class-name': 'sidestep-waypoint', 'sidestep.dev/use-waypoint': 'w' }), 'cannot stand behind a waypoint'],
  ])('%s', async (_, object, sentence) => {
    expect(await refusal(object)).toContain(sentence)
  })

  test('that are right, or none of ours, pass', async () => {
    const right = { 'sidestep.dev/mesh': 'enabled', 'sidestep.dev/failure-mode': 'open', 'sidestep.dev/dns': 'disabled', 'sidestep.dev/use-waypoint': 'none' }
    for (const labels of [right, { ...right, 'sidestep.dev/mesh': 'disabled' }, { other: 'x' }, undefined]) {
      expect(await refusal(made('Namespace', undefined, { labels: { ...labels, 'sidestep.dev/egress': 'audit' } }))).toBeUndefined()
      expect(await refusal(pod({ ...labels }))).toBeUndefined()
      expect(await refusal(deployment({ ...labels }))).toBeUndefined()
      expect(await refusal(made('Pod', { containers }))).toBeUndefined()
    }
  })

  test('that an object has already do not keep it from being changed', async () => {
    await admin.delete(resourcePath(bindingType, { name: 'sidestep-labels' }))
    await eventually('the rule is out of force', 30_000, async () => ((await refusal(pod({ 'sidestep.dev/mesh': 'x' }))) === undefined ? true : undefined))
    await admin.create('/api/v1/namespaces', { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'old', labels: { 'sidestep.dev/mesh': 'x' } } })
    for (const each of files.filter(({ kind, metadata }) => kind === bindingType.kind && metadata.name === 'sidestep-labels')) await admin.apply(bindingType, each)
    await eventually('the rule is in force again', 30_000, async () => ((await refusal(pod({ 'sidestep.dev/mesh': 'x' }))) === undefined ? undefined : true))
    await admin.patch('/api/v1/namespaces/old', { metadata: { annotations: { a: 'b' } } }, 'merge')
    await expect(admin.patch('/api/v1/namespaces/old', { metadata: { labels: { 'sidestep.dev/mesh': 'y' } } }, 'merge')).rejects.toThrow('neither enabled')
    await admin.patch('/api/v1/namespaces/old', { metadata: { labels: { 'sidestep.dev/mesh': 'enabled' } } }, 'merge')
  })

  test("a pod in the node's network that is to be in the mesh is a warning", async () => {
    const advice = policies.find(({ metadata }) => metadata.name === 'sidestep-advice')
    for (const each of advice?.spec.validations ?? []) heard.add(each.message ?? '')
    for (const [object, warns] of [[pod({ 'sidestep.dev/mesh': 'enabled' }, { hostNetwork: true }), true], [pod({ 'sidestep.dev/mesh': 'enabled' }), false]] as const) {
      expect(await warnings(object)).toEqual(warns ? [expect.stringContaining("in the node's own network")] : [])
    }
  })
})

/** What kubectl would show beside success. */
async function warnings(object: KubeObject): Promise<string[]> {
  const { ca, cert, key } = await (await server.connection()).tls()
  const { request } = await import('node:https')
  return new Promise((resolve, reject) => {
    const asked = request(`${server.url}/api/v1/namespaces/default/pods?dryRun=All`, { method: 'POST', ca, cert, key, headers: { 'content-type': 'application/json' } }, (response) => {
      response.resume()
      response.on('end', () => {
        if (response.statusCode !== 201) return reject(new Error(`status ${response.statusCode}`))
        return resolve(response.rawHeaders.filter((_, i, all) => i % 2 === 1 && all[i - 1]?.toLowerCase() === 'warning').filter((text) => text.includes('sidestep')))
      })
    })
    asked.on('error', reject)
    asked.end(JSON.stringify(object))
  })
}

const targetRefs = [{ group: '', kind: 'Service', name: 'web' }]
const rule = (more: Json): Json => ({ rules: [more] })

describe('policies', () => {
  test.each<[string, KubeObject, string]>([
    ['a field of none', made('AuthorizationPolicy', { acton: 'DENY' }), 'a field that no AuthorizationPolicy has'],
    ['a misspelt source', made('AuthorizationPolicy', rule({ from: [{ source: { namespaces: ['a'], principls: ['b'] } }] })), 'would match more than it should'],
    ['a misspelt rule', made('AuthorizationPolicy', rule({ form: [] })), 'would match more than it should'],
    ['an empty source', made('AuthorizationPolicy', rule({ from: [{ source: {} }] })), 'says nothing'],
    ['both pods and targets', made('AuthorizationPolicy', { selector: { matchLabels: { a: 'b' } }, targetRefs }), 'make two policies'],
    ['DENY of nothing', made('AuthorizationPolicy', { action: 'DENY' }), 'denies nothing'],
    ['AUDIT by ztunnels', made('AuthorizationPolicy', { action: 'AUDIT', rules: [{}] }), 'the action AUDIT needs targetRefs'],
    ['CUSTOM of nobody', made('AuthorizationPolicy', { action: 'CUSTOM', targetRefs, rules: [{}] }), 'nobody else could be asked'],
    ['paths on pods', made('AuthorizationPolicy', rule({ to: [{ operation: { paths: ['/a'] } }] })), 'see connections and no requests'],
    ['tokens on pods', made('AuthorizationPolicy', rule({ from: [{ source: { requestPrincipals: ['*'] } }] })), 'see connections and no requests'],
    ['headers on pods', made('AuthorizationPolicy', { selector: { matchLabels: { a: 'b' } }, rules: [{ when: [{ key: 'request.headers[x]', values: ['a'] }] }] }), 'see connections and no requests'],
    ['an unknown key', made('AuthorizationPolicy', { targetRefs, rules: [{ when: [{ key: 'request.body', values: ['a'] }] }] }), 'a key that is not known'],
    ['a condition of nothing', made('AuthorizationPolicy', rule({ when: [{ key: 'source.ip' }] })), 'neither values nor notValues'],
    ['somebody else\'s service', made('AuthorizationPolicy', { targetRefs: [{ kind: 'Service', name: 'a', namespace: 'other' }] }), 'of another namespace'],
    ['a policy for a route', made('AuthorizationPolicy', { targetRefs: [{ kind: 'HTTPRoute', name: 'a' }] }), 'no policy can be for'],
    ['ports of everybody', made('PeerAuthentication', { portLevelMtls: { 80: { mode: 'DISABLE' } } }), 'ports belong to workloads'],
    ['a field of no PeerAuthentication', made('PeerAuthentication', { mTLS: { mode: 'STRICT' } }), 'that no PeerAuthentication has'],
    ['a misspelt audience', made('RequestAuthentication', { targetRefs, jwtRules: [{ issuer: 'a', audience: ['b'] }] }), 'that no RequestAuthentication has'],
    ['tokens for ztunnels', made('RequestAuthentication', { jwtRules: [{ issuer: 'a' }] }), 'do not look at tokens'],
    ['tokens for both', made('RequestAuthentication', { selector: { matchLabels: { a: 'b' } }, targetRefs }), 'make two of it'],
    ['tokens of others', made('RequestAuthentication', { targetRefs: [{ kind: 'Service', name: 'a', namespace: 'other' }] }), "own objects can be for"],
    ['keys twice', made('RequestAuthentication', { targetRefs, jwtRules: [{ issuer: 'a', jwks: '{}', jwksUri: 'https://a/b' }] }), 'not both'],
  ])('%s', async (_, object, sentence) => {
    expect(await refusal(object)).toContain(sentence)
  })

  test('that say what can be enforced pass', async () => {
    for (const object of [
      made('AuthorizationPolicy'), made('AuthorizationPolicy', {}), made('AuthorizationPolicy', { action: 'DENY', rules: [{}] }),
      made('AuthorizationPolicy', { selector: { matchLabels: { a: 'b' } }, rules: [{ from: [{ source: { namespaces: ['a'], notIpBlocks: ['10.0.0.0/8'] } }], to: [{ operation: { ports: ['80'] } }], when: [{ key: 'destination.ip', values: ['10.0.0.1'] }] }] }),
      made('AuthorizationPolicy', { targetRefs, action: 'CUSTOM', provider: { name: 'p' }, rules: [{ to: [{ operation: { paths: ['/x*'], methods: ['GET'] } }], when: [{ key: 'request.auth.claims[a]', notValues: ['b'] }] }] }),
      made('PeerAuthentication', { mtls: { mode: 'STRICT' } }), made('PeerAuthentication', { selector: { matchLabels: { a: 'b' } }, portLevelMtls: { 80: { mode: 'DISABLE' } } }),
      made('RequestAuthentication', { targetRefs, jwtRules: [{ issuer: 'a', audiences: ['b'], jwksUri: 'https://a/b', fromHeaders: [{ name: 'x', prefix: 'y' }], outputClaimToHeaders: [{ header: 'a', claim: 'b' }] }] }),
    ]) expect(await refusal(object)).toBeUndefined()
  })

  test('every field that their definitions have is known to the rules', () => {
    const fields = (schema: unknown): string[] => {
      if (typeof schema !== 'object' || schema === null) return []
      const { properties = {}, items, additionalProperties } = schema as { properties?: Json; items?: unknown; additionalProperties?: unknown }
      return [...Object.keys(properties), ...Object.values(properties).flatMap(fields), ...fields(items), ...fields(additionalProperties)]
    }
    const rules = JSON.stringify(policies.filter(({ metadata }) => ['sidestep-authorization', 'sidestep-authentication'].includes(metadata.name)))
    for (const { metadata, spec } of objectsBelow('deploy/crds').filter(({ metadata }) => /^(authorizationpolicies|peerauth|requestauth)/.test(metadata.name))) {
      const { versions } = spec as { versions: { schema: { openAPIV3Schema: { properties: { spec: unknown } } } }[] }
      const known = fields(versions[0]?.schema.openAPIV3Schema.properties.spec)
      expect(known.length).toBeGreaterThan(3)
      expect([metadata.name, known.filter((field) => !rules.includes(`'${field}'`))]).toEqual([metadata.name, []])
    }
  })
})

describe('Gateways', () => {
  const http = [{ name: 'web', port: 80, protocol: 'HTTP' }]
  test.each<[string, KubeObject, string]>([
    ['a waypoint that listens for HTTP', gateway('sidestep-waypoint', http), 'the protocol HBONE on port 15008'],
    ['a waypoint on another port', gateway('sidestep-waypoint', [{ ...hbone[0], port: 15_009 }]), 'the protocol HBONE on port 15008'],
    ['a waypoint for everybody', gateway('sidestep-waypoint', hbone, { labels: { 'sidestep.dev/waypoint-for': 'everybody' } }), '"everybody", which is none of'],
    ['many replicas', gateway('sidestep-waypoint', hbone, { annotations: { 'sidestep.dev/replicas': 'many' } }), '"many", which is neither a number'],
    ['half open', gateway('sidestep-waypoint', hbone, { annotations: { 'sidestep.dev/waypoint-failure-mode': 'ajar' } }), 'neither open nor closed: it would count as closed'],
  ])('%s', async (_, object, sentence) => {
    expect(await refusal(object)).toContain(sentence)
  })

  test('that can be served, or are served by others, pass', async () => {
    for (const object of [
      gateway('sidestep-waypoint', hbone, { labels: { 'sidestep.dev/waypoint-for': 'all' }, annotations: { 'sidestep.dev/replicas': '2-10', 'sidestep.dev/waypoint-failure-mode': 'open' } }),
      // Its status says of a listener that nobody serves it, as Gateway API's conformance suite has it.
      gateway('sidestep-ingress', http), gateway('sidestep-ingress', [{ name: 'a', port: 53, protocol: 'UDP' }]), gateway('other', [{ name: 'a', port: 53, protocol: 'UDP' }], { annotations: { 'sidestep.dev/replicas': 'many' } }),
    ]) expect(await refusal(object)).toBeUndefined()
  })
})

describe('traffic', () => {
  const limits = [{ requests: 1, per: '1s' }]
  const backend = (more: Json): KubeObject => made('BackendPolicy', { targetRefs, ...more })
  test.each<[string, KubeObject, string]>([
    ['no time', made('RateLimitPolicy', { limits: [{ requests: 1, per: '0s' }] }), 'longer than nothing'],
    ['a header without a name', made('RateLimitPolicy', { limits: [{ requests: 1, per: '1s', by: [{ type: 'Header' }] }] }), 'need the name of one'],
    ['a store that nobody asks', made('RateLimitPolicy', { limits, whenStoreUnavailable: 'Deny' }), 'belongs to the scope Global'],
    ['limits of a pod', made('RateLimitPolicy', { limits, targetRefs: [{ kind: 'Pod', name: 'a' }] }), 'a RateLimitPolicy is attached to'],
    ['backends of a route', made('BackendPolicy', { targetRefs: [{ group: 'gateway.networking.k8s.io', kind: 'HTTPRoute', name: 'a' }] }), 'can be attached to nothing else'],
    ['hash of another type', backend({ loadBalancer: { type: 'Random', consistentHash: { query: 'a' } } }), 'belongs to the type ConsistentHash'],
    ['hash of two things', backend({ loadBalancer: { type: 'ConsistentHash', consistentHash: { query: 'a', header: 'b' } } }), 'exactly one of'],
    ['a path of TCP', backend({ healthCheck: { type: 'TCP', path: '/a' } }), 'belong to the type HTTP'],
    ['a service of HTTP', backend({ healthCheck: { type: 'HTTP', path: '/a', service: 'b' } }), 'belongs to the type GRPC'],
    ['a long timeout', backend({ healthCheck: { type: 'TCP', interval: '1s', timeout: '2s' } }), 'longer than the interval'],
    ['no pause', backend({ healthCheck: { type: 'TCP', interval: '10ms', timeout: '5ms' } }), 'at least 100ms'],
    ['a path of gRPC', made('AuthorizationProvider', { protocol: 'GRPC', service: 'a', port: 80, pathPrefix: '/x' }), 'belong to the protocol HTTP'],
    ['a workload nowhere', made('WorkloadEntry', { ports: { a: 80 } }), 'nobody could reach it'],
    ['ports twice', made('ServiceEntry', { hosts: ['a.b'], ports: [{ number: 80, name: 'a' }, { number: 80, name: 'b' }] }), 'the same number'],
    ['endpoints twice', made('ServiceEntry', { hosts: ['a.b'], resolution: 'STATIC', workloadSelector: { labels: { a: 'b' } }, endpoints: [{ address: '10.0.0.1' }] }), 'not both'],
    ['endpoints of NONE', made('ServiceEntry', { hosts: ['a.b'], endpoints: [{ address: '10.0.0.1' }] }), 'need STATIC or DNS'],
    ['workloads by DNS', made('ServiceEntry', { hosts: ['a.b'], resolution: 'DNS', workloadSelector: { labels: { a: 'b' } } }), 'needs the resolution STATIC'],
    ['a wildcard by DNS', made('ServiceEntry', { hosts: ['*.b'], resolution: 'DNS' }), 'cannot be looked up'],
    ['an endpoint nowhere', made('ServiceEntry', { hosts: ['a.b'], resolution: 'STATIC', endpoints: [{ weight: 1 }] }), 'an endpoint needs an address'],
    ['a port of nothing', made('ServiceEntry', { hosts: ['a.b'], resolution: 'STATIC', endpoints: [{ address: '10.0.0.1', ports: { b: 80 } }] }), 'that the entry does not have'],
  ])('%s', async (_, object, sentence) => {
    expect(await refusal(object)).toContain(sentence)
  })

  test('that can be, passes', async () => {
    for (const object of [
      made('RateLimitPolicy', { limits: [{ requests: 1, per: '1m30s', by: [{ type: 'Header', name: 'x' }, { type: 'Identity' }] }], scope: 'Global', whenStoreUnavailable: 'Deny', targetRefs }),
      made('CachePolicy', { maxTtl: '1m' }), made('CachePolicy'), backend({ loadBalancer: { type: 'ConsistentHash', consistentHash: { cookie: { name: 'a' } } }, healthCheck: { type: 'HTTP', path: '/a' } }),
      made('AuthorizationProvider', { protocol: 'HTTP', service: 'a', port: 80, pathPrefix: '/x' }), made('WorkloadEntry', { address: '10.0.0.1' }),
      made('ServiceEntry', { hosts: ['a.b'], resolution: 'STATIC', ports: [{ number: 80, name: 'a' }, { number: 81, name: 'b' }], endpoints: [{ address: '10.0.0.1', ports: { b: 8080 } }] }),
    ]) expect(await refusal(object)).toBeUndefined()
  })
})

describe("a node's agent", () => {
  let agent: KubeClient
  let elsewhere: string

  async function placed(name: string, nodeName: string, serviceAccountName = 'default'): Promise<KubeObject> {
    return admin.create('/api/v1/namespaces/default/pods', { apiVersion: 'v1', kind: 'Pod', metadata: { name }, spec: { nodeName, serviceAccountName, containers } })
  }

  beforeAll(async () => {
    for (const name of ['node-a', 'node-b']) await admin.create('/api/v1/nodes', { apiVersion: 'v1', kind: 'Node', metadata: { name } })
    await admin.create('/api/v1/namespaces/default/serviceaccounts', { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'sidestep-ztunnel' } })
    const roles = '/apis/rbac.authorization.k8s.io/v1'
    // More than it is given, so that it is the rule that refuses.
    await admin.create(`${roles}/clusterroles`, { apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'ClusterRole', metadata: { name: 'agent' }, rules: [{ apiGroups: [''], resources: ['pods', 'pods/status'], verbs: ['*'] }] })
    await admin.create(`${roles}/clusterrolebindings`, {
      apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'ClusterRoleBinding', metadata: { name: 'agent' },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'agent' }, subjects: [{ kind: 'ServiceAccount', namespace: 'default', name: 'sidestep-ztunnel' }],
    })
    const { metadata } = await placed('agent', 'node-a', 'sidestep-ztunnel')
    for (const [name, node] of [['here', 'node-a'], ['there', 'node-b']] as const) await placed(name, node)
    const token = await admin.create('/api/v1/namespaces/default/serviceaccounts/sidestep-ztunnel/token', {
      apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { boundObjectRef: { kind: 'Pod', apiVersion: 'v1', name: 'agent', uid: metadata.uid } },
    })
    agent = await server.clientWith(String((token.status as { token: string }).token))
    const unbound = await admin.create('/api/v1/namespaces/default/serviceaccounts/sidestep-ztunnel/token', { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: {} })
    elsewhere = String((unbound.status as { token: string }).token)
  })
  afterAll(() => agent?.close())

  const status = (pod: string, patch: Json, as: () => KubeClient = () => agent, of: Json = {}): Promise<KubeObject> =>
    as().patch(`/api/v1/namespaces/default/pods/${pod}/status`, { ...of, status: patch }, 'strategic')
  const condition = (type: string, value = 'True'): Json => ({ conditions: [{ type, status: value }] })

  test('says of pods of its own node that they are captured, and that they are not', async () => {
    await status('here', { phase: 'Running', podIPs: [{ ip: '10.0.0.1' }], podIP: '10.0.0.1', ...condition('Ready') }, () => admin)
    await eventually('the agent may write', 30_000, () => status('here', condition('sidestep.dev/Captured')).catch((error: unknown) => {
      // Roles take a moment to be heard of.
      if (error instanceof MeshError && error.message.includes('cannot patch')) return undefined
      throw error
    }))
    const { status: written } = await status('here', condition('sidestep.dev/Captured', 'False'))
    expect(written).toMatchObject({ phase: 'Running', conditions: expect.arrayContaining([expect.objectContaining({ type: 'Ready' }), expect.objectContaining({ type: 'sidestep.dev/Captured', status: 'False' })]) })
  })

  test.each<[string, () => Promise<unknown>, string]>([
    ['pods of other nodes', () => status('there', condition('sidestep.dev/Captured')), 'its token is bound to the node "node-a"'],
    ['other conditions', () => status('here', condition('Ready', 'False')), 'the condition sidestep.dev/Captured and no other'],
    ['phases', () => status('here', { phase: 'Failed' }), 'nothing else of a pod\'s status'],
    ['addresses', () => status('here', { hostIP: '10.0.0.9', hostIPs: [{ ip: '10.0.0.9' }] }), 'nothing else of a pod\'s status'],
    ['labels by way of the status', () => status('here', condition('sidestep.dev/Captured'), () => agent, { metadata: { labels: { app: 'other' } } }), 'no labels'],
    ['pods themselves', () => agent.patch('/api/v1/namespaces/default/pods/here', { metadata: { labels: { app: 'other' } } }, 'merge'), 'nothing else of them'],
    ['pods of its own making', () => agent.create('/api/v1/namespaces/default/pods', { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'new' }, spec: { containers } }), 'nothing else of them'],
  ])('does not write %s', async (_, write, sentence) => {
    const refused = await write().then(() => 'not refused', (error: unknown) => String(error))
    for (const each of sentences) if (refused.includes(each)) heard.add(each)
    expect(refused).toContain(sentence)
  })

  test('whose token is bound to no node writes nothing', async () => {
    const client = await server.clientWith(elsewhere)
    await expect(status('here', condition('sidestep.dev/Captured'), () => client)).rejects.toThrow('its token is bound to the node ""')
    client.close()
  })
})

test.each([...documentedObjects(), ...exampleObjects()].filter(({ object }) => !['Pod', 'Deployment'].includes(object.kind)))('$where passes', async ({ object }) => {
  const refused = await refusal(object)
  expect(refused?.includes('already exists') === true ? undefined : refused).toBeUndefined()
})

test('no rule has a fault that the server can see', async () => {
  const { items } = await admin.list(resourcePath(policyType))
  const warnings = items.filter(({ metadata }) => metadata.name.startsWith('sidestep-')).flatMap(({ metadata, status }) => {
    const { typeChecking } = (status ?? {}) as { typeChecking?: { expressionWarnings?: { fieldRef: string; warning: string }[] } }
    return (typeChecking?.expressionWarnings ?? []).map(({ fieldRef, warning }) => `${metadata.name} ${fieldRef}: ${warning}`)
  })
  expect(warnings).toEqual([])
})

test('every sentence was heard', () => {
  expect(sentences.filter((sentence) => !heard.has(sentence))).toEqual([])
})
