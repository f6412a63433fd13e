// Overrides change what they may, merged as Kubernetes merges; and whatever is written in them, a pod stays who it is, runs what it
// ran, and sees what it saw.
import fc from 'fast-check'
import { stringify } from 'yaml'
import { expect, test } from 'vitest'
import { gatewayObjects, type GatewayObjects, type ReplicaRange } from '../../model/gateway-objects.ts'
import { parseManifest } from '../../model/manifest-parse.ts'
import { gatewayRun } from './gateway-run.ts'
import { applyOverrides, overrideKeys, parseOverrides, type Overrides } from './overrides.ts'
import { testSettings } from './testing.ts'

function made(): { readonly objects: GatewayObjects; readonly replicas: ReplicaRange } {
  const { objects: [gateway] } = parseManifest(JSON.stringify({
    apiVersion: 'gateway.networking.k8s.io/v1', kind: 'Gateway', metadata: { name: 'edge', namespace: 'shop' },
    spec: { gatewayClassName: 'sidestep-ingress', listeners: [{ name: 'http', port: 80, protocol: 'HTTP' }, { name: 'tcp', port: 9000, protocol: 'TCP' }] },
  }), 'a.yaml')
  if (gateway?.kind !== 'Gateway') return expect.fail()
  const expansion = gatewayObjects(gateway, 'ingress', gatewayRun(gateway.metadata, 'ingress', testSettings))
  return expansion.ok ? expansion : expect.fail()
}

function overridden(...data: readonly object[]): ReturnType<typeof applyOverrides> {
  return applyOverrides(made(), data.map((each) => {
    const { overrides, problems } = parseOverrides(Object.fromEntries(Object.entries(each).map(([key, value]) => [key, typeof value === 'string' ? value : stringify(value)])))
    expect(problems).toEqual([])
    return overrides
  }))
}

test('what may be changed is merged: maps by field, containers, variables and ports by name', () => {
  const { objects, replicas } = overridden({
    deployment: {
      apiVersion: 'apps/v1', kind: 'Deployment', metadata: { labels: { team: 'blue' } },
      spec: { template: { metadata: { annotations: { note: 'x' } }, spec: {
        tolerations: [{ key: 'edge', operator: 'Exists' }], terminationGracePeriodSeconds: 120,
        containers: [{ name: 'proxy', resources: { limits: { cpu: '2' } }, env: [{ name: 'SIDESTEP_DRAIN_SECONDS', value: '100' }, { name: 'SIDESTEP_LOG_LEVEL', value: 'debug' }] }],
      } } },
    },
    service: { metadata: { annotations: { 'lb.example/type': 'internal' } }, spec: { type: 'NodePort', ports: [{ port: 80, nodePort: 30_080 }] } },
    horizontalPodAutoscaler: { spec: { minReplicas: 3 } },
    podDisruptionBudget: { spec: { minAvailable: '50%' } },
  })
  const before = made().objects
  expect(objects.deployment).toMatchObject({
    metadata: { labels: { team: 'blue', 'gateway.networking.k8s.io/gateway-name': 'edge' } },
    spec: { template: { spec: { terminationGracePeriodSeconds: 120, tolerations: [{ key: 'edge' }] } } },
  })
  const container = containerOf(objects)
  expect(container.resources).toEqual({ requests: { cpu: '100m', memory: '192Mi' }, limits: { memory: '1Gi', cpu: '2' } })
  expect(container.env.slice(0, -2)).toEqual(containerOf(before).env.slice(0, -1))
  expect(container.env.slice(-2)).toEqual([{ name: 'SIDESTEP_DRAIN_SECONDS', value: '100' }, { name: 'SIDESTEP_LOG_LEVEL', value: 'debug' }])
  expect(objects.service).toMatchObject({ spec: { type: 'NodePort', ports: [{ name: 'http-80', port: 80, nodePort: 30_080 }, { port: 9000 }] } })
  expect(objects.podDisruptionBudget?.['spec']).toEqual({ selector: { matchLabels: { 'gateway.networking.k8s.io/gateway-name': 'edge' } }, minAvailable: '50%' })
  expect([objects.horizontalPodAutoscaler, replicas]).toMatchObject([{ spec: { minReplicas: 3, maxReplicas: 10 } }, { min: 3, max: 10 }])
})

test('the later counts: a class says what is usual, its Gateway what is different', () => {
  const usual = { deployment: { spec: { template: { spec: { nodeSelector: { pool: 'edge' } } } } }, service: { spec: { type: 'ClusterIP' } } }
  const { objects } = overridden(usual, { service: { spec: { type: 'NodePort' } } })
  expect(objects.service).toMatchObject({ spec: { type: 'NodePort' } })
  expect(objects.deployment).toMatchObject({ spec: { template: { spec: { nodeSelector: { pool: 'edge', 'kubernetes.io/os': 'linux' } } } } })
})

test('how many pods: a number of the Deployment, or none who scales, is fixed', () => {
  const fixed = overridden({ deployment: { spec: { replicas: 5 } } })
  expect([fixed.replicas, fixed.objects.horizontalPodAutoscaler, fixed.objects.deployment['spec']]).toEqual([{ min: 5, max: 5 }, undefined, expect.not.objectContaining({ replicas: 5 })])
  const unscaled = overridden({ horizontalPodAutoscaler: 'none', podDisruptionBudget: ' none ' })
  expect([unscaled.replicas, unscaled.objects.horizontalPodAutoscaler, unscaled.objects.podDisruptionBudget]).toEqual([{ min: 2, max: 2 }, undefined, undefined])
})

const pod = (spec: object): object => ({ deployment: { spec: { template: { spec } } } })
const inContainer = (fields: object): object => pod({ containers: [{ name: 'proxy', ...fields }] })

test.each<[string, object]>([
  ['spec.template.spec.serviceAccountName', pod({ serviceAccountName: 'admin' })], ['hostNetwork', pod({ hostNetwork: true })], ['hostPID', pod({ hostPID: true })],
  ['volumes', pod({ volumes: [{ name: 'h', hostPath: { path: '/' } }] })], ['initContainers', pod({ initContainers: [] })], ['securityContext', pod({ securityContext: null })],
  ['automountServiceAccountToken', pod({ automountServiceAccountToken: true })], ['there are no others', pod({ containers: [{ name: 'more', image: 'x' }] })],
  ['must be a list', pod({ containers: null })], ['image cannot', inContainer({ image: 'evil' })], ['command', inContainer({ command: ['sh'] })], ['lifecycle', inContainer({ lifecycle: {} })],
  ['securityContext', inContainer({ securityContext: { privileged: true } })], ['volumeMounts', inContainer({ volumeMounts: [] })], ['said by the mesh', inContainer({ env: [{ name: 'SIDESTEP_TOKEN_FILE', value: '/x' }] })],
  ['no other variable', inContainer({ env: [{ name: 'NODE_OPTIONS', value: '--inspect' }] })], ['a name and a value', inContainer({ env: [{ name: 'SIDESTEP_LOG_LEVEL', valueFrom: {} }] })],
  ['a name and a value', inContainer({ env: [{ $patch: 'replace' }] })], ['$patch cannot', inContainer({ $patch: 'replace' })], ['must be a list', inContainer({ env: null })],
  ['httpGet', inContainer({ readinessProbe: { httpGet: {} } })], ['claims', inContainer({ resources: { claims: [] } })],
  ['spec.selector', { deployment: { spec: { selector: {} } } }], ['gateway-name', { deployment: { metadata: { labels: { 'gateway.networking.k8s.io/gateway-name': 'other' } } } }],
  ['must be a name', { deployment: { metadata: { labels: { $patch: 'replace' } } } }], ['must be a mapping', { deployment: { metadata: { labels: null } } }], ['tunnel', { deployment: { spec: { template: { metadata: { labels: { 'networking.istio.io/tunnel': null } } } } } }],
  ['metadata.name', { service: { metadata: { name: 'other' } } }], ['ownerReferences', { deployment: { metadata: { ownerReferences: [] } } }], ['spec.selector', { service: { spec: { selector: {} } } }],
  ['externalIPs', { service: { spec: { externalIPs: ['1.1.1.1'] } } }], ['must be ClusterIP', { service: { spec: { type: 'ExternalName' } } }],
  ['targetPort', { service: { spec: { ports: [{ port: 80, targetPort: 22 }] } } }], ['scaleTargetRef', { horizontalPodAutoscaler: { spec: { scaleTargetRef: {} } } }],
  ['spec.selector', { podDisruptionBudget: { spec: { selector: {} } } }], ['seccomp', { deployment: { spec: { template: { metadata: { annotations: { 'container.seccomp.security.alpha.kubernetes.io/proxy': 'unconfined' } } } } } }],
  ['cannot be left out', { deployment: 'none' }], ['must be a mapping', { deployment: '[]' }], ['no YAML', { deployment: 'a: b: c' }], ['aliases', { deployment: 'a: &a {}\nb: *a' }], ['none of', { pods: {} }],
  ['nested', { deployment: `spec: {strategy: ${'['.repeat(40)}${']'.repeat(40)}}` }], ['YAML', { deployment: '['.repeat(30_000) }], ['larger', { deployment: `a: ${'x'.repeat(70_000)}` }],
])('refused: %s', (why, data) => {
  const { overrides, problems } = parseOverrides(Object.fromEntries(Object.entries(data).map(([key, value]) => [key, typeof value === 'string' ? value : stringify(value)])))
  expect(overrides).toEqual({})
  expect(problems).toEqual([expect.stringContaining(why)])
})

interface Container { readonly env: readonly { readonly name: string }[]; readonly resources: unknown }
interface PodTemplate { readonly metadata: { readonly labels: Record<string, string> }; readonly spec: Record<string, unknown> & { readonly containers: readonly Container[] } }

function templateOf({ deployment }: GatewayObjects): PodTemplate {
  return (deployment['spec'] as { readonly template: PodTemplate }).template
}

function containerOf(objects: GatewayObjects): Container {
  return templateOf(objects).spec.containers[0] ?? expect.fail()
}

/** What nobody may change. */
function fixedParts(objects: GatewayObjects): unknown {
  const { serviceAccountName, automountServiceAccountToken, enableServiceLinks, securityContext, volumes, initContainers, hostNetwork, hostPID, hostIPC, containers } = templateOf(objects).spec
  return {
    serviceAccountName, automountServiceAccountToken, enableServiceLinks, securityContext, volumes, initContainers, hostNetwork, hostPID, hostIPC,
    containers: containers.map(({ env, ...rest }) => ({ ...withoutChangeable(rest), env: env.filter(({ name }) => !/DRAIN|LOG/.test(name)) })),
    labels: Object.entries(templateOf(objects).metadata.labels).filter(([key]) => key.includes('.io/') || key === 'app'),
    names: Object.values(objects).map((object: Record<string, unknown>) => (object['metadata'] as { name: string }).name),
    selector: (objects.service['spec'] as { selector: unknown }).selector,
  }
}

function withoutChangeable(container: object): object {
  return Object.fromEntries(Object.entries(container).filter(([key]) => !['resources', 'readinessProbe', 'livenessProbe', 'startupProbe', 'imagePullPolicy'].includes(key)))
}

test('whatever is accepted, what makes the pods what they are is as before', () => {
  const field = fc.constantFrom(
    'spec', 'metadata', 'template', 'containers', 'labels', 'annotations', 'env', 'volumes', 'securityContext', 'name', 'serviceAccountName', 'resources', 'limits', '$patch', 'affinity',
    'replicas', 'strategy', 'nodeSelector', 'hostNetwork', 'selector', 'ports', 'type', 'tolerations', 'readinessProbe', 'periodSeconds', '__proto__', 'app', 'value', 'image',
  )
  const { tree } = fc.letrec((tie) => ({
    tree: fc.oneof({ maxDepth: 8, withCrossShrink: true }, fc.constantFrom(null, 'proxy', 'replace', 'delete', 1, 3, true, 'SIDESTEP_LOG_LEVEL', 'debug'), tie('map'), fc.array(tie('tree'), { maxLength: 2 })),
    map: fc.dictionary(field, tie('tree'), { maxKeys: 3 }),
  }))
  // Most patches of random shape are refused at their first field, so half of them have the outer ones.
  const guided = fc.oneof(tree, tree.map((spec) => ({ spec: { template: { spec } } })), tree.map((each) => ({ spec: { template: { spec: { containers: [each] } } } })), tree.map((labels) => ({ spec: { template: { metadata: { labels } } } })))
  const before = JSON.stringify(fixedParts(made().objects))
  let accepted = 0
  fc.assert(fc.property(fc.constantFrom(...overrideKeys), guided, (key, patch) => {
    const { overrides, problems } = parseOverrides({ [key]: JSON.stringify(patch) })
    if (problems.length > 0) return void expect(overrides).toEqual({})
    accepted++
    const { objects } = applyOverrides(made(), [overrides])
    expect(JSON.stringify(fixedParts(objects))).toBe(before)
  }), { numRuns: 1_000 })
  expect(accepted).toBeGreaterThan(10)
})

test('any text at all is read or refused', () => {
  fc.assert(fc.property(fc.dictionary(fc.oneof(fc.string(), fc.constantFrom(...overrideKeys)), fc.oneof(fc.string(), fc.json(), fc.constant(1))), (data) => {
    const { overrides, problems }: { overrides: Overrides; problems: readonly string[] } = parseOverrides(data)
    expect(problems.length === 0 || Object.keys(overrides).length === 0).toBe(true)
    applyOverrides(made(), [overrides])
  }))
})
