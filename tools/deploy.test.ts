// What is generated for installing agrees with the programs that are installed: settings, metrics, versions.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import * as agent from '../src/agent/config.ts'
import * as controlPlane from '../src/controlplane/config.ts'
import { alertGroups } from '../src/install/alerts.ts'
import { dashboards } from '../src/install/dashboards.ts'
import { installGroups, installObjects } from '../src/install/objects.ts'
import { installValues, mergeValues, readValues, version, type InstallValues } from '../src/install/values.ts'
import * as ztunnel from '../src/ztunnel/config.ts'
import { deployFiles, installFiles } from './gen-deploy.ts'
import { placeholders, template } from './helm-template.ts'

const source = fileURLToPath(new URL('../src', import.meta.url))

interface Container { readonly name: string; readonly env: readonly { readonly name: string; readonly value?: string }[]; readonly securityContext: { readonly privileged?: boolean; readonly capabilities: { readonly drop: string[] } } }

/** The containers of all pods, by name. */
function containers(values: InstallValues): ReadonlyMap<string, Container> {
  const found: Container[] = []
  const walk = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return
    for (const [key, each] of Object.entries(value)) {
      if (key === 'containers' && Array.isArray(each)) found.push(...each as Container[])
      else walk(each)
    }
  }
  walk(installObjects(values, { crds: [], admission: [] }))
  return new Map(found.map((each) => [each.name, each]))
}

test('the version is that of the package', () => {
  const { version: released } = JSON.parse(readFileSync(join(source, '../package.json'), 'utf8')) as { version: string }
  expect(version).toBe(released)
})

test('every setting that a container is given is one that its program reads, and it can', () => {
  const given = containers(readValues({}))
  expect([...given.keys()].sort()).toEqual(['agent', 'controlplane', 'ztunnel'])
  for (const [name, { readConfig }] of [['agent', agent], ['controlplane', controlPlane], ['ztunnel', ztunnel]] as const) {
    const environment = Object.fromEntries((given.get(name)?.env ?? []).map((each) => [each.name, each.value ?? 'from-field']))
    if (name === 'ztunnel') environment['SIDESTEP_INSTANCE_IP'] = '10.0.0.1'
    expect(() => readConfig(environment), name).not.toThrow()
  }
})

test('nobody is privileged, and everybody begins without any capability', () => {
  for (const [name, { securityContext }] of containers(readValues({}))) {
    expect(securityContext, name).toMatchObject({ allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ['ALL'] } })
    expect(securityContext.privileged, name).toBeUndefined()
  }
})

/** Names in quotation marks in product code: where metrics are registered they stand like that. */
function namedInSource(): Set<string> {
  const files = readdirSync(source, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts') && !file.startsWith('install/'))
  return new Set(files.flatMap((file) => [...readFileSync(join(source, file), 'utf8').matchAll(/'((?:sidestep|istio|workload_manager)_[a-z0-9_]+)'/g)].map(([, name]) => name ?? '')))
}

test('alerts and dashboards name metrics that there are', () => {
  const there = namedInSource()
  const text = JSON.stringify([alertGroups, dashboards])
  const named = new Set([...text.matchAll(/\b(?:sidestep|istio|workload_manager)_[a-z0-9_]+/g)].map(([name]) => name))
  expect(named.size).toBeGreaterThan(30)
  const missing = [...named].filter((name) => !there.has(name) && !there.has(name.replace(/_(bucket|sum|count)$/, '')) && name !== 'sidestep_dashboard')
  expect(missing).toEqual([])
})

test('each alert says what it is, what to do, and is named once', () => {
  const rules = alertGroups.flatMap(({ rules: each }) => each as readonly { alert: string; expr: string; annotations: Record<string, string> }[])
  expect(new Set(rules.map(({ alert }) => alert)).size).toBe(rules.length)
  for (const { alert, expr, annotations } of rules) {
    expect(annotations['summary'], alert).toMatch(/\.$/)
    expect(annotations['description'], alert).toMatch(/[.`?]$/)
    for (const [open, close] of ['()', '[]', '{}']) expect(expr.split(open ?? '').length, alert).toBe(expr.split(close ?? '').length)
  }
})

test('every value has a sentence, and its default is good', () => {
  const text = deployFiles(installFiles()).get('helm/sidestep/values.yaml') ?? ''
  const { namespace: _, ...defaults } = installValues.parse({})
  expect(parse(text)).toEqual(defaults)
  for (const line of text.split('\n').filter((each) => each.trim() === '#')) expect(line).toBe('no sentence')
})

test('wrong values are named, all of them', () => {
  expect(() => readValues({ controlPlane: { replicas: 0 }, ztunel: {}, cluster: { trustDomain: 'A' } })).toThrow(/replicas.*ztunel|ztunel.*replicas/s)
  expect(() => readValues({ ztunnel: { drainSeconds: 60, gracePeriodSeconds: 60 } })).toThrow('gracePeriodSeconds')
})

test('values that are merged keep what nobody spoke of', () => {
  fc.assert(fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (given) => {
    expect(mergeValues(given, {})).toEqual(given)
  }))
  expect(readValues({ node: { nodeSelector: { pool: 'a' } } }).node.nodeSelector).toEqual({ 'kubernetes.io/os': 'linux', pool: 'a' })
})

test('no group branches on a value: placeholders go through all of it', () => {
  const holes = placeholders(installValues, { namespace: '.Release.Namespace' }) as InstallValues
  for (const { name, objects } of installGroups({ crds: [], admission: [] })) {
    const text = template(objects(holes))
    expect(text, name).not.toMatch(/[\u27e6\u27e7]|HELM[A-Z]+\d|\[object|undefined|NaN/)
  }
})
