// Writes docs/settings.md from the tables of settings that the programs themselves read; with --check it only compares. The
// page can therefore not say anything that the programs do not do.
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import * as agent from '../src/agent/config.ts'
import * as controlPlane from '../src/controlplane/config.ts'
import * as waypoint from '../src/waypoint/config.ts'
import * as ztunnel from '../src/ztunnel/config.ts'

interface Settings {
  readonly configSchema: { readonly shape: Readonly<Record<string, { readonly description?: string | undefined }>>; parse(given: object): object }
  readonly variables: Readonly<Record<string, string>>
}

const page = fileURLToPath(new URL('../docs/settings.md', import.meta.url))

export function settingsPage(): string {
  return `# Settings

All programs are configured by environment variables alone. A wrong value is an error that names the setting, and so is a
variable that begins with \`SIDESTEP_\` and is none of these. \`ztunnel --help\`, \`waypoint --help\`, \`controlplane --help\` and
\`agent --help\` print the same. This page is written by \`npm run generate\`.

## ztunnel

Also honoured: [the environment of Istio's ztunnel](istio-compat.md). What is in force, and where it comes from, is in
\`/config_dump\` of its admin API.

${table(ztunnel)}

## Waypoint and ingress

A pod of a Gateway runs this; what it does with requests is said by [objects](routing.md). In a local mesh these are set by the
mesh, and others by the Gateway's annotation \`sidestep.dev/settings\`.

${table(waypoint)}

## Control plane

${table(controlPlane)}

## Node agent

On Kubernetes it runs beside the ztunnel of each node; a local mesh has no such process.
Where the API server is it learns as kubectl does: from \`KUBECONFIG\`, or from its pod's service account.

${table(agent)}
`
}

function table({ configSchema, variables }: Settings): string {
  const defaults = new Map(Object.entries(configSchema.parse({})))
  const rows = Object.entries(variables).map(([key, variable]) =>
    `| \`${variable}\` | ${cell(defaults.get(key))} | ${(configSchema.shape[key]?.description ?? '').replaceAll('|', '\\|')} |`)
  return ['| variable | default | |', '| --- | --- | --- |', ...rows].join('\n')
}

function cell(value: unknown): string {
  const text = String(value)
  return text === '' ? '' : `\`${text}\``
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const isCheck = process.argv.includes('--check')
  const wanted = settingsPage()
  if (!isCheck) writeFileSync(page, wanted)
  else if (readFileSync(page, 'utf8') !== wanted) {
    process.stderr.write('docs/settings.md is not what the programs read: run npm run generate\n')
    process.exitCode = 1
  }
}
