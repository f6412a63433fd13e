// Writes the manifests and the Helm chart in deploy/ from what `sidestep install` applies (src/install); with --check it only compares.
// They can therefore not say anything else than it does.
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { stringify } from 'yaml'
import { z } from 'zod'
import { readInstallFiles } from '../src/cli/install-files.ts'
import { yamlStyle, type InstallObject } from '../src/install/common.ts'
import { dashboards } from '../src/install/dashboards.ts'
import { installGroups, installObjects, type InstallFiles } from '../src/install/objects.ts'
import { installValues, readValues, version, type InstallValues } from '../src/install/values.ts'
import { conditionOf, placeholders, template } from './helm-template.ts'

const deploy = fileURLToPath(new URL('../deploy', import.meta.url))
const chart = 'helm/sidestep'
const banner = '# Written by `npm run generate` from src/install; changes belong there.\n'
/** Not in the chart: Helm makes the release's namespace itself. */
const notInChart: readonly string[] = ['namespace']

/** With what other generators wrote. */
export const installFiles = (): InstallFiles => readInstallFiles(deploy)

function filesIn(directory: string): string[] {
  const path = join(deploy, directory)
  return existsSync(path) ? readdirSync(path).filter((name) => /\.(ya?ml|json|txt)$/.test(name)).map((name) => join(directory, name)) : []
}

/** Every generated file by its path below deploy/. */
export function deployFiles(files: InstallFiles): ReadonlyMap<string, string> {
  const written = new Map<string, string>()
  const yaml = (objects: readonly unknown[]): string => objects.map((object) => stringify(object, yamlStyle)).join('---\n')
  const values = readValues({})
  written.set('manifests/sidestep.yaml', banner + yaml(installObjects(values, files)))
  const monitored = { ...values, monitoring: { ...values.monitoring, podMonitors: true, alerts: true, dashboards: true } }
  const monitoring = installGroups(files).filter(({ name }) => ['pod-monitors', 'alerts', 'dashboards'].includes(name)).flatMap(({ objects }) => objects(monitored))
  written.set('manifests/monitoring.yaml', banner + yaml(monitoring))

  for (const [file, dashboard] of Object.entries(dashboards)) written.set(`monitoring/dashboards/${file}`, `${JSON.stringify(dashboard, null, 2)}\n`)

  const holes = placeholders(installValues, { namespace: '.Release.Namespace' }) as InstallValues
  for (const group of installGroups(files)) {
    if (notInChart.includes(group.name)) continue
    const objects = group.objects(holes)
    if (objects.length === 0) continue
    const text = template(group.name === 'crds' ? objects.map(kept) : objects)
    written.set(`${chart}/templates/${group.name}.yaml`, banner + (group.when === undefined ? text : `{{- if ${conditionOf(group.when(holes))} }}\n${text}{{- end }}\n`))
  }
  written.set(`${chart}/Chart.yaml`, banner + stringify(chartFile, yamlStyle))
  written.set(`${chart}/values.yaml`, banner + valuesText(installValues))
  written.set(`${chart}/values.schema.json`, `${JSON.stringify(valuesSchema(), null, 2)}\n`)
  written.set(`${chart}/templates/NOTES.txt`, notes)
  return written
}

/** Helm leaves it there when the release goes: with the kind goes what people wrote of it. */
function kept(object: InstallObject): InstallObject {
  return { ...object, metadata: { ...object.metadata, annotations: { ...object.metadata.annotations, 'helm.sh/resource-policy': 'keep' } } }
}

const chartFile = {
  apiVersion: 'v2',
  name: 'sidestep',
  description: 'A service mesh without sidecars: identity, mTLS and policy for every pod, redirected by eBPF.',
  type: 'application',
  version,
  appVersion: version,
  kubeVersion: '>=1.30.0-0',
}

const notes = `Sidestep {{ .Chart.AppVersion }} is in {{ .Release.Namespace }}.

Its pods see the nodes, which Pod Security Standards allow in privileged namespaces only:
  kubectl label namespace {{ .Release.Namespace }} pod-security.kubernetes.io/enforce=privileged --overwrite
Wait until it is ready:
  kubectl -n {{ .Release.Namespace }} rollout status deployment/sidestep-controlplane daemonset/sidestep-ztunnel
Take a namespace into the mesh; its pods need no restart:
  kubectl label namespace NAMESPACE sidestep.dev/mesh=enabled
See what is not as it should be:
  sidestep check --cluster
`

function valuesText(schema: z.ZodType, indent = ''): string {
  const inner = schema instanceof z.ZodPrefault ? schema.def.innerType : schema
  if (!(inner instanceof z.ZodObject)) throw new Error('not a group of values')
  return Object.entries(inner.shape).filter(([name]) => indent !== '' || name !== 'namespace').map(([name, each]) => {
    if (!(each instanceof z.ZodDefault)) return `${indent}${name}:\n${valuesText(each as z.ZodType, `${indent}  `)}`
    const value = stringify({ [name]: each.def.defaultValue as unknown }, yamlStyle).trimEnd().split('\n').map((line) => `${indent}${line}\n`).join('')
    return `${wrapped(each.description ?? '', `${indent}# `)}${value}`
  }).join('')
}

function wrapped(text: string, prefix: string): string {
  const lines = text.split(' ').reduce<string[]>((sofar, word) => {
    const last = sofar.at(-1)
    return last === undefined || prefix.length + last.length + word.length > 110 ? [...sofar, word] : [...sofar.slice(0, -1), `${last} ${word}`]
  }, [])
  return lines.map((line) => `${prefix}${line}\n`).join('')
}

function valuesSchema(): object {
  const schema = z.toJSONSchema(installValues, { io: 'input', target: 'draft-7' })
  const { namespace: _, ...properties } = schema.properties ?? {}
  // Helm hands it to charts that are a part of others.
  return { ...schema, properties: { ...properties, global: { type: 'object' } } }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const wanted = deployFiles(installFiles())
  const isCheck = process.argv.includes('--check')
  const found = ['manifests', 'monitoring/dashboards', chart, `${chart}/templates`].flatMap(filesIn)
  const stale = [...found.filter((file) => !wanted.has(file)), ...[...wanted].filter(([file, text]) => !found.includes(file) || readFileSync(join(deploy, file), 'utf8') !== text).map(([file]) => file)]
  if (isCheck && stale.length > 0) {
    process.stderr.write(`deploy/${stale[0]} is not what src/install says: run npm run generate\n`)
    process.exitCode = 1
  }
  if (!isCheck) {
    for (const file of stale) {
      if (!wanted.has(file)) rmSync(join(deploy, file))
    }
    for (const [file, text] of wanted) {
      mkdirSync(dirname(join(deploy, file)), { recursive: true })
      writeFileSync(join(deploy, file), text)
    }
  }
}
