// What an installation leaves in the cluster about itself, so that an upgrade knows which values hold, which objects are no longer
// wanted, and from which version it comes. A ConfigMap; no secrets. Shapes and their reading only.
import { z } from 'zod'
import { labelsOf, type InstallObject } from './common.ts'
import { version } from './values.ts'

export const recordName = 'sidestep-install'

/** An object of the API by its name. */
export const objectNameSchema = z.strictObject({
  apiVersion: z.string().min(1).max(317), kind: z.string().min(1).max(63), namespace: z.string().max(63).exactOptional(), name: z.string().min(1).max(253),
})
export type ObjectName = z.infer<typeof objectNameSchema>

const recordSchema = z.object({
  version: z.string().regex(/^\d+\.\d+\.\d+/),
  /** As somebody gave them, without defaults. */
  values: z.record(z.string(), z.unknown()),
  objects: z.array(objectNameSchema).max(10_000),
})
export type InstallRecord = z.infer<typeof recordSchema>

export function nameOf({ apiVersion, kind, metadata: { namespace, name } }: InstallObject): ObjectName {
  return { apiVersion, kind, ...(namespace === undefined ? {} : { namespace }), name }
}

/** `Deployment sidestep-system/sidestep-controlplane` */
export function objectText({ kind, namespace, name }: ObjectName): string {
  return `${kind} ${namespace === undefined ? '' : `${namespace}/`}${name}`
}

export function recordObject(namespace: string, values: object, objects: readonly InstallObject[]): InstallObject {
  return {
    apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: recordName, namespace, labels: labelsOf('install') },
    data: { version, values: JSON.stringify(values), objects: JSON.stringify(objects.map(nameOf)) },
  }
}

/** Undefined where it is not what we write. */
export function readRecord(object: { readonly [field: string]: unknown }): InstallRecord | undefined {
  const data = z.object({ version: z.string(), values: z.string(), objects: z.string() }).safeParse(object['data'])
  if (!data.success) return undefined
  try {
    const parsed = recordSchema.safeParse({ version: data.data.version, values: JSON.parse(data.data.values) as unknown, objects: JSON.parse(data.data.objects) as unknown })
    return parsed.success ? parsed.data : undefined
  } catch {
    return undefined // no JSON, so it is not ours
  }
}

/** Why one must not go from the one version to the other at once; undefined where one may. Neighbours understand each other, and only they are tried. */
export function refusedSkip(from: string, to: string): string | undefined {
  const [fromMajor = 0, fromMinor = 0] = from.split('.').map(Number)
  const [toMajor = 0, toMinor = 0] = to.split('.').map(Number)
  if (fromMajor !== toMajor) return `${from} and ${to} are different major versions: the last of ${fromMajor}.x says in its notes how to go on`
  if (Math.abs(fromMinor - toMinor) <= 1) return undefined
  return `parts of ${from} and of ${to} do not understand each other while both are there: go by way of ${fromMajor}.${fromMinor + Math.sign(toMinor - fromMinor)}`
}
