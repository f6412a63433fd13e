// What applying an object would change of it, as a person reads it: one line for each field. Pure.
import { isDeepStrictEqual } from 'node:util'
import { visible } from './output.ts'

const shownLength = 60
/** What the server writes there itself. */
const serversOwn: ReadonlySet<string> = new Set(['managedFields', 'resourceVersion', 'generation', 'uid', 'creationTimestamp', 'selfLink'])

/** `spec.replicas: 2 -> 3`, at most `limit` of them and how many more. Empty where nothing changes. */
export function changes(before: unknown, after: unknown, limit = 12): string[] {
  const found = [...differences(withoutServersOwn(before), withoutServersOwn(after), '')]
  return found.length <= limit ? found : [...found.slice(0, limit), `and ${found.length - limit} more`]
}

function withoutServersOwn(object: unknown): unknown {
  if (!isRecord(object)) return object
  const { status: _, metadata, ...rest } = object
  return { ...rest, metadata: isRecord(metadata) ? Object.fromEntries(Object.entries(metadata).filter(([field]) => !serversOwn.has(field))) : metadata }
}

function* differences(before: unknown, after: unknown, path: string): Generator<string> {
  if (isDeepStrictEqual(before, after)) return
  if (isRecord(before) && isRecord(after)) {
    for (const field of new Set([...Object.keys(before), ...Object.keys(after)])) {
      yield* differences(before[field], after[field], path === '' ? field : `${path}.${field}`)
    }
    return
  }
  if (Array.isArray(before) && Array.isArray(after)) {
    yield* ofLists(before as unknown[], after as unknown[], path)
    return
  }
  yield `${path}: ${shown(before)} -> ${shown(after)}`
}

/** Elements with names are compared with those of the same name, whatever their order. */
function* ofLists(before: readonly unknown[], after: readonly unknown[], path: string): Generator<string> {
  const nameOf = (each: unknown): string | undefined => (isRecord(each) && typeof each['name'] === 'string' ? each['name'] : undefined)
  const isNamed = [...before, ...after].every((each) => nameOf(each) !== undefined)
  const key = (each: unknown, i: number): string => (isNamed ? nameOf(each) ?? '' : String(i))
  const old = new Map(before.map((each, i) => [key(each, i), each]))
  const young = new Map(after.map((each, i) => [key(each, i), each]))
  for (const each of new Set([...old.keys(), ...young.keys()])) yield* differences(old.get(each), young.get(each), `${path}[${each}]`)
}

function shown(value: unknown): string {
  if (value === undefined) return 'none'
  const text = visible(typeof value === 'string' ? value : JSON.stringify(value))
  return text.length <= shownLength ? text : `${text.slice(0, shownLength)}...`
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
