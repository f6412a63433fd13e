// What a Gateway becomes is valid for whoever reads objects here, belongs to it and to nobody else, and never captured; and what
// its owner may not say is refused, whatever it is.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { hasNativeTunnel, isEnrolled } from './enrolment.ts'
import { gatewayRole } from './gateway-labels.ts'
import { gatewayObjects, type GatewayRun } from './gateway-objects.ts'
import { manifestKinds, type GatewayManifest } from './manifest.ts'
import { parseManifest } from './manifest-parse.ts'

const run: GatewayRun = { container: { command: ['proxy'] }, env: [{ name: 'SIDESTEP_LOG_LEVEL_FIXED', value: 'x' }, { name: 'SIDESTEP_PLACE', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }] }

function gateway(more: { annotations?: object; labels?: object; name?: string; spec?: object } = {}): GatewayManifest {
  const { name = 'waypoint', annotations = {}, labels = {}, spec = {} } = more
  const { objects, problems } = parseManifest(JSON.stringify({
    apiVersion: 'gateway.networking.k8s.io/v1', kind: 'Gateway', metadata: { name, namespace: 'shop', annotations, labels },
    spec: { gatewayClassName: 'sidestep-waypoint', listeners: [{ name: 'mesh', port: 15_008, protocol: 'HBONE' }], ...spec },
  }), 'a.yaml')
  expect(problems).toEqual([])
  const [object] = objects
  return object?.kind === 'Gateway' ? object : expect.fail()
}

function made(given: GatewayManifest, role: 'waypoint' | 'ingress' = 'waypoint', how = run) {
  const expansion = gatewayObjects(given, role, how)
  const { objects } = expansion.ok ? expansion : expect.fail(expansion.problems.join())
  return {
    deployment: manifestKinds.Deployment.schema.parse(objects.deployment), service: manifestKinds.Service.schema.parse(objects.service),
    account: manifestKinds.ServiceAccount.schema.parse(objects.serviceAccount),
  }
}

function problemsOf(given: GatewayManifest): readonly string[] {
  const expansion = gatewayObjects(given, 'waypoint', run)
  return expansion.ok ? [] : expansion.problems
}

test('a waypoint: its own identity, one pod, HBONE, and never captured', () => {
  const { deployment, service, account } = made(gateway())
  expect([account.metadata, deployment.metadata, service.metadata].map(({ namespace, name }) => `${namespace}/${name}`)).toEqual(Array(3).fill('shop/waypoint'))
  const { template, replicas } = deployment.spec
  expect(replicas).toBe(1)
  expect(template.spec).toMatchObject({ serviceAccountName: 'waypoint', terminationGracePeriodSeconds: 30 })
  expect(template.spec.containers[0]).toMatchObject({ command: ['proxy'], readinessProbe: { httpGet: { path: '/healthz/ready', port: 15_021 } } })
  expect(isEnrolled({ 'sidestep.dev/mesh': 'enabled' }, template.metadata.labels)).toBe(false)
  expect(service.spec.ports).toMatchObject([{ port: 15_008 }])
  expect(template.metadata.labels).toMatchObject({ ...service.spec.selector, app: 'waypoint' })
})

test('an ingress has the ports of its listeners, each once; listeners replace no pods', () => {
  const listeners = [
    { name: 'a', port: 80, protocol: 'HTTP', hostname: 'a.example' }, { name: 'b', port: 80, protocol: 'HTTP', hostname: 'b.example' },
    { name: 'c', port: 443, protocol: 'TLS', tls: { mode: 'Passthrough' } }, { name: 'd', port: 53, protocol: 'UDP' },
  ]
  const { service, deployment } = made(gateway({ spec: { listeners } }), 'ingress')
  expect(service.spec.ports.map(({ name, port }) => `${name} ${port}`)).toEqual(['http-80 80', 'tls-443 443'])
  expect(deployment.spec).toEqual(made(gateway({ spec: { listeners: listeners.slice(0, 1) } }), 'ingress').deployment.spec)
})

test('what the infrastructure says is honoured, except for what makes the pods what they are', () => {
  const stolen = { app: 'other', 'networking.istio.io/tunnel': 'none', 'gateway.networking.k8s.io/gateway-name': 'other', team: 'blue' }
  const { deployment, service } = made(gateway({ spec: { infrastructure: { labels: stolen, annotations: { note: 'x' } } } }))
  const { labels, annotations } = deployment.spec.template.metadata
  expect(labels).toMatchObject({ team: 'blue', app: 'waypoint', 'gateway.networking.k8s.io/gateway-name': 'waypoint' })
  expect(hasNativeTunnel(labels)).toBe(true)
  expect([annotations, service.metadata.annotations]).toEqual([{ note: 'x' }, { note: 'x' }])
  expect(service.metadata.labels).toMatchObject({ team: 'blue', 'gateway.networking.k8s.io/gateway-name': 'waypoint' })
})

test('replicas and settings', () => {
  const annotations = { 'sidestep.dev/replicas': '3', 'sidestep.dev/settings': '# more\nSIDESTEP_LOG_LEVEL=debug\n  SIDESTEP_ACCESS_LOG_FORMAT=a=$(PATH)\n' }
  const { deployment } = made(gateway({ annotations }))
  expect(deployment.spec.replicas).toBe(3)
  expect(deployment.spec.template.spec.containers[0]?.env.slice(2)).toEqual([
    { name: 'SIDESTEP_LOG_LEVEL', value: 'debug' }, { name: 'SIDESTEP_ACCESS_LOG_FORMAT', value: 'a=$$(PATH)' },
  ])
  expect(made(gateway({ annotations: { ...annotations, 'sidestep.dev/replicas': '0' } })).deployment.spec.template).toEqual(deployment.spec.template)
  expect(made(gateway({ annotations }), 'waypoint', { ...run, restartedAt: 'now' }).deployment.spec.template).not.toEqual(deployment.spec.template)
})

test.each([
  ['LD_PRELOAD=/tmp/x.so', 'no other variable'], ['NODE_OPTIONS=--inspect', 'no other variable'], ['SIDESTEP_TOKEN_FILE=/etc/shadow', 'said by the mesh'],
  ['SIDESTEP_XDS_ADDRESS=evil:1', 'said by the mesh'], ['SIDESTEP_PLACE=other', 'said by the mesh'], ['SIDESTEP_A=1\nSIDESTEP_A=2', 'twice'], ['SIDESTEP_A=', 'no value'],
  ['SIDESTEP_A', 'not SIDESTEP_NAME=VALUE'], ['SIDESTEP_A=\u0007', 'control characters'], ['sidestep_a=1', 'not SIDESTEP_NAME=VALUE'],
])('the setting %s is refused: %s', (text, why) => {
  expect(problemsOf(gateway({ annotations: { 'sidestep.dev/settings': text } }))).toEqual([expect.stringContaining(why)])
})

test('where somebody scales: a range has an autoscaler, a number has none, and the Deployment says nothing of it', () => {
  const scaled = { ...run, scaling: { replicas: { min: 2, max: 10 }, cpu: '600m' } }
  const expand = (annotations: object): Extract<ReturnType<typeof gatewayObjects>, { ok: true }> => {
    const expansion = gatewayObjects(gateway({ annotations }), 'waypoint', scaled)
    return expansion.ok ? expansion : expect.fail()
  }
  const { objects, replicas } = expand({})
  expect(replicas).toEqual({ min: 2, max: 10 })
  expect(objects.horizontalPodAutoscaler).toMatchObject({ spec: { minReplicas: 2, maxReplicas: 10, scaleTargetRef: { kind: 'Deployment', name: 'waypoint' } } })
  expect(objects.podDisruptionBudget).toMatchObject({ spec: { maxUnavailable: 1, selector: { matchLabels: { 'gateway.networking.k8s.io/gateway-name': 'waypoint' } } } })
  expect(objects.deployment['spec']).not.toHaveProperty('replicas')
  const fixed = expand({ 'sidestep.dev/replicas': '3' })
  expect([fixed.replicas, fixed.objects.horizontalPodAutoscaler]).toEqual([{ min: 3, max: 3 }, undefined])
  expect(expand({ 'sidestep.dev/replicas': '1-4' }).objects.horizontalPodAutoscaler).toMatchObject({ spec: { minReplicas: 1, maxReplicas: 4 } })
  expect(made(gateway({ annotations: { 'sidestep.dev/replicas': '2-5' } })).deployment.spec.replicas).toBe(2)
})

test('what is said unless the owner says otherwise', () => {
  const how = { ...run, defaults: [{ name: 'SIDESTEP_DRAIN_DELAY_MS', value: '5000' }] }
  const envOf = (annotations: object) => made(gateway({ annotations }), 'waypoint', how).deployment.spec.template.spec.containers[0]?.env.slice(2)
  expect(envOf({})).toEqual([{ name: 'SIDESTEP_DRAIN_DELAY_MS', value: '5000' }])
  expect(envOf({ 'sidestep.dev/settings': 'SIDESTEP_DRAIN_DELAY_MS=1' })).toEqual([{ name: 'SIDESTEP_DRAIN_DELAY_MS', value: '1' }])
})

test.each(['-1', '1.5', '101', 'many', '', '1e1', '9999', '3-2', '0-4', '1-101', '2-', '-2', '1-2-3'])('%s replicas are none', (text) => {
  expect(problemsOf(gateway({ annotations: { 'sidestep.dev/replicas': text } }))).toEqual([expect.stringContaining('sidestep.dev/replicas')])
})

test('a name that no Service could have is refused', () => {
  for (const name of ['a.b', 'x'.repeat(64)]) expect(problemsOf(gateway({ name }))).toEqual([expect.stringContaining('DNS label')])
})

test('whatever is written in the annotations, no variable of the process is set but settings that the mesh does not say', () => {
  const line = fc.oneof(fc.string(), fc.stringMatching(/^(SIDESTEP_[A-Z_]{0,12}|[A-Z_]{1,8})=?.{0,9}$/))
  fc.assert(fc.property(fc.array(line, { maxLength: 6 }), (lines) => {
    const expansion = gatewayObjects({ ...gateway(), metadata: { ...gateway().metadata, annotations: { 'sidestep.dev/settings': lines.join('\n') } } }, 'waypoint', run)
    if (!expansion.ok) return
    const { deployment } = made({ ...gateway(), metadata: { ...gateway().metadata, annotations: { 'sidestep.dev/settings': lines.join('\n') } } })
    const env = deployment.spec.template.spec.containers[0]?.env ?? []
    expect(new Set(env.map(({ name }) => name)).size).toBe(env.length)
    for (const { name } of env.slice(run.env.length)) expect(name).toMatch(/^SIDESTEP_(?!TOKEN|XDS|CA_|POD_)[A-Z0-9_]+$/)
  }))
})

test('classes of ours, by name or by controller', () => {
  expect(gatewayRole('sidestep-waypoint', undefined)).toBe('waypoint')
  expect(gatewayRole('mine', 'sidestep.dev/ingress')).toBe('ingress')
  expect(gatewayRole('sidestep-waypoint', 'other.dev/x')).toBeUndefined()
  for (const name of ['other', 'constructor', '__proto__']) expect(gatewayRole(name, undefined)).toBeUndefined()
})
