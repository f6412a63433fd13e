// The Helm chart, rendered by Helm itself, is what `sidestep install` applies: for the defaults and for values that touch everything
// that a template does. Needs Helm, which is built from its Go module, and no cluster.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parseAllDocuments, stringify } from 'yaml'
import { readInstallFiles } from '../../src/cli/install-files.ts'
import { yamlStyle, type InstallObject } from '../../src/install/common.ts'
import { installObjects } from '../../src/install/objects.ts'
import { readValues } from '../../src/install/values.ts'
import { built } from './binaries.ts'

const deploy = fileURLToPath(new URL('../../deploy', import.meta.url))
const chart = join(deploy, 'helm/sidestep')
const scratch = mkdtempSync(join(tmpdir(), 'sidestep-helm-'))
let helm = ''

beforeAll(async () => {
  helm = join(await built('helm', 'Helm from its Go module: about 3 minutes the first time', console.error), 'helm')
}, 1_800_000)
afterAll(() => rmSync(scratch, { recursive: true }))

const everything = {
  image: { repository: 'registry.example/mesh/sidestep', tag: '1.2.3-rc.1', pullPolicy: 'Never', pullSecrets: [{ name: 'pull' }] },
  cluster: { id: 'east: 1', domain: 'corp.example', network: 'net-1', trustDomain: 'corp.example', trustDomainAliases: 'a.example,b.example' },
  compat: { istioLabels: true },
  controlPlane: {
    replicas: 5, logLevel: 'debug', resources: { requests: { cpu: 1, memory: '2Gi' }, limits: { memory: '4Gi' } }, settings: { SIDESTEP_MAX_CONNECTIONS: '1000000', SIDESTEP_CRL_FILE: '"quoted" {{ .Values }}' },
    nodeSelector: { pool: 'system' }, tolerations: [{ key: 'system', operator: 'Exists', effect: 'NoSchedule' }], podAnnotations: { 'example.com/a': 'b: c' }, priorityClassName: '',
  },
  ztunnel: { drainSeconds: 1_000_000, gracePeriodSeconds: 1_000_001, accessLog: 'off', resources: { requests: { cpu: null } }, settings: { SIDESTEP_Z: 'true' } },
  agent: { logLevel: 'warn', resources: { limits: { cpu: '500m' } }, settings: { SIDESTEP_B: 'b', SIDESTEP_A: '' } },
  node: { nodeSelector: { 'kubernetes.io/os': null, pool: 'mesh' }, tolerations: [], podAnnotations: { x: 'y' }, maxSurge: 3, cniConfigDirectory: '/var/lib/cni/net.d', runtimeDirectory: '/run/crio', runtimeSocket: 'crio.sock' },
  monitoring: { podMonitors: true, alerts: true, dashboards: true, labels: { release: 'prometheus' } },
}
const cases: readonly (readonly [string, object, string])[] = [
  ['defaults', {}, 'sidestep-system'],
  ['another namespace', {}, 'mesh'],
  ['everything changed', everything, 'mesh'],
  ['nothing that is optional', { crds: { install: false }, admission: { install: false }, gatewayClasses: { install: false }, networkPolicies: { install: false } }, 'sidestep-system'],
]

function render(values: object, namespace: string): InstallObject[] {
  const file = join(scratch, 'values.yaml')
  writeFileSync(file, stringify(values, yamlStyle))
  const text = execFileSync(helm, ['template', 'sidestep', chart, '--namespace', namespace, '--values', file], { encoding: 'utf8', stdio: 'pipe', maxBuffer: 64 << 20 })
  return parseAllDocuments(text).flatMap((document) => {
    expect(document.errors).toEqual([])
    const object = document.toJS() as InstallObject | null
    return object === null ? [] : [object]
  })
}

const key = ({ kind, metadata: { namespace, name } }: InstallObject): string => `${kind} ${namespace ?? ''}/${name}`
const sorted = (objects: readonly InstallObject[]): InstallObject[] => objects.toSorted((a, b) => (key(a) < key(b) ? -1 : 1))

/** What the chart adds to kinds, and nothing else: Helm leaves them there. */
function withoutPolicy(object: InstallObject): InstallObject {
  const { 'helm.sh/resource-policy': policy, ...annotations } = object.metadata.annotations ?? {}
  if (policy === undefined) return object
  const { annotations: _, ...metadata } = object.metadata
  return { ...object, metadata: Object.keys(annotations).length === 0 ? metadata : { ...metadata, annotations } }
}

test.each(cases)('the chart gives what the command line applies: %s', (_name, values, namespace) => {
  const wanted = installObjects(readValues({ ...values, namespace }), readInstallFiles(deploy)).filter(({ kind }) => kind !== 'Namespace')
  const got = render(values, namespace)
  for (const object of got.filter(({ kind }) => kind === 'CustomResourceDefinition')) expect(object.metadata.annotations).toMatchObject({ 'helm.sh/resource-policy': 'keep' })
  expect(sorted(got.map(withoutPolicy))).toEqual(sorted(wanted))
})

test('Helm has nothing to say against the chart', () => {
  expect(execFileSync(helm, ['lint', '--strict', chart], { encoding: 'utf8' })).toContain('0 chart(s) failed')
})

test.each([
  ['a value that there is not', { ztunel: { logLevel: 'debug' } }, 'ztunel'],
  ['one of the wrong type', { controlPlane: { replicas: 'two' } }, 'replicas'],
  ['a number as a setting, which Helm would write as 1e+06', { ztunnel: { settings: { SIDESTEP_X: 1_000_000 } } }, 'SIDESTEP_X'],
])('%s is refused by Helm as by us', (_name, values, named) => {
  expect(() => readValues(values)).toThrow(named)
  expect(() => render(values, 'mesh')).toThrow(named)
})
