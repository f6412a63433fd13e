// Writes deploy/crds: the CustomResourceDefinitions of our kinds, from the schemas by which the programs read them; with --check it
// only compares. A field that the programs do not read can therefore not be in them, nor one be missing.
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { stringify } from 'yaml'
import { z } from 'zod'
import { manifestKinds } from '../src/model/manifest.ts'
import { kindTexts, type KindTexts } from './crd-texts.ts'
import { structural, type Json } from './structural-schema.ts'

const group = 'sidestep.dev'
const version = 'v1alpha1'
const directory = fileURLToPath(new URL('../deploy/crds', import.meta.url))

/** Where a field that nobody knows, dropped, would leave a rule that lets more pass than its author meant: it is kept, and refused. */
const keepsUnknown: ReadonlySet<string> = new Set(['AuthorizationPolicy', 'PeerAuthentication', 'RequestAuthentication'])

/** File name to text. */
export function definitions(): Map<string, string> {
  const made = new Map<string, string>()
  for (const [kind, { apiVersions, schema }] of Object.entries(manifestKinds)) {
    if (!apiVersions.some((each) => each === `${group}/${version}`)) continue
    const texts = kindTexts[kind]
    if (texts === undefined) throw new Error(`${kind} has no texts in tools/crd-texts.ts`)
    const header = `# Written by npm run generate from the schema by which Sidestep reads a ${kind}.\n`
    made.set(`${texts.plural}.yaml`, header + stringify(definition(kind, texts, specOf(schema)), { lineWidth: 130, aliasDuplicateObjects: false }))
  }
  return made
}

function specOf(schema: z.ZodType): { readonly spec: Json; readonly isNeeded: boolean } {
  const whole = z.toJSONSchema(schema, { io: 'input', target: 'openapi-3.0', unrepresentable: 'any', reused: 'inline' })
  const spec = whole.properties?.['spec']
  if (typeof spec !== 'object') throw new Error('a kind without a spec')
  return { spec: { ...spec }, isNeeded: whole.required?.includes('spec') ?? false }
}

function definition(kind: string, texts: KindTexts, { spec, isNeeded }: { readonly spec: Json; readonly isNeeded: boolean }): Json {
  const singular = kind.toLowerCase()
  const descriptions = Object.fromEntries(Object.entries(texts.fields).map(([path, text]) => [`spec.${path}`, text]))
  const converted = structural(spec, 'spec', { descriptions, keepsUnknown: keepsUnknown.has(kind) })
  checkTexts(kind, converted, texts)
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `${texts.plural}.${group}`, labels: { 'app.kubernetes.io/part-of': 'sidestep' } },
    spec: {
      group,
      scope: 'Namespaced',
      names: { kind, listKind: `${kind}List`, plural: texts.plural, singular, shortNames: texts.shortNames, categories: ['sidestep'] },
      versions: [{
        name: version,
        served: true,
        storage: true,
        subresources: { status: {} },
        additionalPrinterColumns: [
          ...texts.columns.map(([name, jsonPath]) => ({ name, type: 'string', jsonPath })),
          { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' },
        ],
        schema: {
          openAPIV3Schema: {
            description: texts.about,
            type: 'object',
            ...(isNeeded ? { required: ['spec'] } : {}),
            properties: { apiVersion: { type: 'string' }, kind: { type: 'string' }, metadata: { type: 'object' }, spec: converted, status },
          },
        },
      }],
    },
  }
}

/** Written by the control plane; other implementations' parts of it are kept as they are. */
const status: Json = {
  description: 'Written by the control plane: whether it is in force, and what is wrong with it.',
  type: 'object',
  'x-kubernetes-preserve-unknown-fields': true,
  properties: {
    conditions: {
      type: 'array',
      'x-kubernetes-list-type': 'map',
      'x-kubernetes-list-map-keys': ['type'],
      items: {
        type: 'object',
        required: ['type', 'status'],
        properties: {
          type: { type: 'string', maxLength: 316 },
          status: { type: 'string', enum: ['True', 'False', 'Unknown'] },
          reason: { type: 'string', maxLength: 1024 },
          message: { type: 'string', maxLength: 32768 },
          observedGeneration: { type: 'integer', format: 'int64', minimum: 0 },
          lastTransitionTime: { type: 'string', format: 'date-time' },
        },
      },
    },
  },
}

/** Each field of a spec has its sentence, and each sentence its field. */
function checkTexts(kind: string, spec: Json, { fields }: KindTexts): void {
  const paths = new Set(pathsOf(spec, ''))
  const unknown = Object.keys(fields).filter((path) => !paths.has(path))
  if (unknown.length > 0) throw new Error(`${kind} has no ${unknown.join(', ')}: correct tools/crd-texts.ts`)
  const silent = [...paths].filter((path) => !path.includes('.') && fields[path] === undefined)
  if (silent.length > 0) throw new Error(`${kind}: tools/crd-texts.ts says nothing of ${silent.join(', ')}`)
}

function pathsOf(schema: unknown, base: string): string[] {
  if (typeof schema !== 'object' || schema === null) return []
  const { properties, items, additionalProperties } = schema as { properties?: Json; items?: unknown; additionalProperties?: unknown }
  return [
    ...Object.entries(properties ?? {}).flatMap(([name, each]) => [`${base}${name}`, ...pathsOf(each, `${base}${name}.`)]),
    ...pathsOf(items, base),
    ...pathsOf(additionalProperties, base),
  ]
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const isCheck = process.argv.includes('--check')
  const made = definitions()
  mkdirSync(directory, { recursive: true })
  const stale = readdirSync(directory).filter((name) => !made.has(name))
  const differing = [...made].filter(([name, text]) => {
    try {
      return readFileSync(join(directory, name), 'utf8') !== text
    } catch {
      return true // not there yet
    }
  })
  if (!isCheck) {
    for (const name of stale) rmSync(join(directory, name))
    for (const [name, text] of differing) writeFileSync(join(directory, name), text)
  } else if (stale.length + differing.length > 0) {
    process.stderr.write('deploy/crds is not what the programs read: run npm run generate\n')
    process.exitCode = 1
  }
}
