// A cluster as commands see it: objects of any kind by their own names, applied, looked at and removed. Which kinds there are is asked of
// the API server. It knows nothing of what the objects are for.
import { Option, type Command } from 'commander'
import { z } from 'zod'
import { MeshError } from '../core/errors.ts'
import { objectText, type ObjectName } from '../install/record.ts'
import { isConflict, isNotFound } from '../kube/answers.ts'
import { resourcePath, type KubeApi, type KubeObject, type ResourceType } from '../kube/api.ts'

export interface ClusterOptions {
  readonly kubeconfig?: string
  readonly context?: string
}

/** A cluster and where it is; bin makes it, from the environment. */
export interface ConnectedCluster {
  readonly api: KubeApi
  /** `https://host:port` */
  readonly server: string
  readonly close: () => void
}
export type Connect = (options: ClusterOptions) => Promise<ConnectedCluster>

export function addClusterOptions(command: Command): Command {
  return command
    .addOption(new Option('--kubeconfig <file>', 'how to reach the cluster; else KUBECONFIG, else ~/.kube/config'))
    .addOption(new Option('--context <name>', 'which of its contexts'))
}

const resourceListSchema = z.object({
  resources: z.array(z.object({ name: z.string(), kind: z.string(), namespaced: z.boolean(), verbs: z.array(z.string()) })),
})

export class Cluster {
  readonly api: KubeApi
  /** By `group/version`; of what was not there nothing is kept. */
  readonly #kinds = new Map<string, readonly ResourceType[]>()

  constructor(api: KubeApi) {
    this.api = api
  }

  /** Undefined where the cluster has no such kind. */
  async typeOf({ apiVersion, kind }: { readonly apiVersion: string; readonly kind: string }): Promise<ResourceType | undefined> {
    const known = this.#kinds.get(apiVersion)?.find((type) => type.kind === kind)
    if (known) return known
    const types = await this.#read(apiVersion)
    this.#kinds.set(apiVersion, types)
    return types.find((type) => type.kind === kind)
  }

  async #read(apiVersion: string): Promise<ResourceType[]> {
    const [group = '', version = ''] = apiVersion.includes('/') ? apiVersion.split('/') : ['', apiVersion]
    try {
      const { resources } = resourceListSchema.parse(await this.api.get(group === '' ? `/api/${version}` : `/apis/${group}/${version}`))
      return resources.filter(({ name, verbs }) => !name.includes('/') && verbs.includes('list'))
        .map(({ name, kind, namespaced }) => ({ group, version, plural: name, kind, namespaced }))
    } catch (error) {
      if (isNotFound(error)) return []
      throw error
    }
  }

  async #type(name: ObjectName): Promise<ResourceType> {
    const type = await this.typeOf(name)
    if (type) return type
    throw new MeshError('NOT_FOUND', `this cluster has no kind ${name.kind} of ${name.apiVersion}`)
  }

  /** Undefined where there is none of that name, or no such kind. */
  async find(name: ObjectName): Promise<KubeObject | undefined> {
    const type = await this.typeOf(name)
    if (!type) return undefined
    try {
      return await this.api.get(resourcePath(type, name))
    } catch (error) {
      if (isNotFound(error)) return undefined
      throw error
    }
  }

  /** Server-side, as ours; fields that others hold become ours. */
  async apply(object: KubeObject, { isDryRun = false }: { readonly isDryRun?: boolean } = {}): Promise<KubeObject> {
    const { apiVersion, kind, metadata } = object
    const type = await this.#type({ apiVersion, kind, name: metadata.name })
    return this.api.apply(type, object, { force: true, query: { dryRun: isDryRun ? 'All' : undefined } })
  }

  /** All of a kind, in all namespaces or one; none where there is no such kind. */
  async list(apiVersion: string, kind: string, { namespace, labelSelector }: { readonly namespace?: string; readonly labelSelector?: string } = {}): Promise<readonly KubeObject[]> {
    const type = await this.typeOf({ apiVersion, kind })
    if (!type) return []
    const { items } = await this.api.list(resourcePath(type, namespace === undefined ? {} : { namespace }), { query: { labelSelector } })
    return items
  }

  /** Whether there was one. */
  async remove(name: ObjectName, query: Readonly<Record<string, string | number>> = {}): Promise<boolean> {
    const type = await this.typeOf(name)
    if (!type || !(await this.find(name))) return false
    await this.api.delete(resourcePath(type, name), { propagation: 'Background', query })
    return true
  }

  /** Merges into the object, or into a subresource of it. Undefined where it is gone; a conflict is as the server said it. */
  async merge(name: ObjectName, patch: object, subresource?: string): Promise<KubeObject | undefined> {
    const type = await this.#type(name)
    try {
      return await this.api.patch(resourcePath(type, { ...name, ...(subresource === undefined ? {} : { subresource }) }), patch, 'merge')
    } catch (error) {
      if (isNotFound(error)) return undefined
      if (isConflict(error)) throw error
      throw new MeshError('COMMAND_FAILED', `${objectText(name)} could not be changed`, { cause: error })
    }
  }
}

/** What a deeper field of an object is; undefined where there is none. */
export function fieldOf(object: unknown, ...path: readonly (string | number)[]): unknown {
  let value = object
  for (const part of path) value = typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>)[part] : undefined
  return value
}

/** A number there; 0 where there is none. */
export function numberOf(object: unknown, ...path: readonly (string | number)[]): number {
  const value = fieldOf(object, ...path)
  return typeof value === 'number' ? value : 0
}

/** A text there; empty where there is none. */
export function textOf(object: unknown, ...path: readonly (string | number)[]): string {
  const value = fieldOf(object, ...path)
  return typeof value === 'string' ? value : ''
}

/** A list there; empty where there is none. */
export function listOf(object: unknown, ...path: readonly (string | number)[]): readonly unknown[] {
  const value = fieldOf(object, ...path)
  return Array.isArray(value) ? value : []
}
