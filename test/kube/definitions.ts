// What deploy/ has for an API server beside workloads: definitions of our kinds, and rules of admission; and all objects that
// examples and documentation show.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseAllDocuments } from 'yaml'
import { resourcePath, type KubeObject, type ResourceType } from '../../src/kube/api.ts'
import type { KubeClient } from '../../src/kube/client.ts'
import { mustRun } from '../../src/local/command.ts'
import { goCommand } from '../helpers/go.ts'
import { eventually } from './machine.ts'

const root = join(import.meta.dirname, '../..')

export const definitionType: ResourceType = {
  group: 'apiextensions.k8s.io', version: 'v1', plural: 'customresourcedefinitions', kind: 'CustomResourceDefinition', namespaced: false,
}

/** All objects in a text of YAML. */
export function objectsIn(text: string): KubeObject[] {
  return parseAllDocuments(text).flatMap((document) => {
    const value: unknown = document.toJS()
    return isObject(value) ? [value] : []
  })
}

/** Of a directory's files, relative to the checkout or absolute. */
export function objectsBelow(directory: string): KubeObject[] {
  const path = directory.startsWith('/') ? directory : join(root, directory)
  return readdirSync(path).filter((name) => name.endsWith('.yaml')).sort().flatMap((name) => objectsIn(readFileSync(join(path, name), 'utf8')))
}

/** Whole objects in the documentation's YAML, with where they stand. */
export function documentedObjects(): { readonly where: string; readonly object: KubeObject }[] {
  const pages = [...readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md')).map((name) => join('docs', name)), 'README.md']
  return pages.flatMap((page) => {
    const text = readFileSync(join(root, page), 'utf8')
    const blocks = [...text.matchAll(/^```ya?ml\n([\s\S]*?)^```/gm)].map(([, block = '']) => block)
    return blocks.flatMap((block, i) => objectsIn(block).map((object) => ({ where: `${page}, block ${i + 1}: ${object.kind} ${object.metadata.name}`, object })))
  })
}

export function exampleObjects(): { readonly where: string; readonly object: KubeObject }[] {
  return readdirSync(join(root, 'examples')).flatMap((name) => objectsBelow(join('examples', name)).map((object) => ({ where: `examples/${name}: ${object.kind} ${object.metadata.name}`, object })))
}

/** Gateway API's, from the Go module that its conformance suite is in. */
export async function gatewayApiDefinitions(): Promise<KubeObject[]> {
  const script = 'cd "$0" && "$1" mod download "$2" && exec "$1" list -m -f "{{.Dir}}" "$2"'
  const directory = await mustRun(['sh', '-c', script, join(root, 'test/conformance/go/suite'), await goCommand(), 'sigs.k8s.io/gateway-api'], { timeoutMs: 600_000 })
  return objectsBelow(join(directory.trim(), 'config/crd/experimental')).filter(({ kind }) => kind === definitionType.kind)
}

/** Returns when they are served. */
export async function define(client: KubeClient, definitions: readonly KubeObject[]): Promise<void> {
  for (const each of definitions) await client.apply(definitionType, each)
  for (const { metadata } of definitions) {
    const found = await eventually(`${metadata.name} is served`, 30_000, async () => {
      const { status } = await client.get(resourcePath(definitionType, { name: metadata.name }))
      const { conditions = [] } = (status ?? {}) as { conditions?: { type: string; status: string; message: string }[] }
      const wrong = conditions.find(({ type, status }) => type === 'NonStructuralSchema' && status === 'True')
      if (wrong) throw new Error(`${metadata.name}: ${wrong.message}`)
      return conditions.some(({ type, status }) => type === 'Established' && status === 'True') ? conditions : undefined
    }, 50)
    if (found.length === 0) throw new Error(`${metadata.name} is not served`)
  }
}

function isObject(value: unknown): value is KubeObject {
  return typeof value === 'object' && value !== null && 'apiVersion' in value && 'kind' in value && 'metadata' in value
    && typeof value.metadata === 'object' && value.metadata !== null && 'name' in value.metadata
}
