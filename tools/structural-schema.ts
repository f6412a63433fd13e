// From what zod says of a schema in JSON Schema to what Kubernetes takes: a structural schema of OpenAPI v3, without references,
// unions of shapes, and formats that it does not know. Wherever the two differ, the result lets more pass than zod does, never
// less: what is wrong beyond that is said by admission policies and by status. Pure.

export type Json = { readonly [key: string]: unknown }

/** What a field is for, by its path: `spec.rules.from`. Items of lists and values of maps have the path of their field. */
export type Descriptions = Readonly<Record<string, string>>

export interface Conversion {
  readonly descriptions: Descriptions
  /** Keep fields that are not known rather than drop them, so that they can be refused where dropping them would say something else. */
  readonly keepsUnknown: boolean
}

/** The longest spelling of an address with a prefix length. */
const addressPattern = '^[0-9a-fA-F:.]+(/[0-9]{1,3})?$'

export function structural(schema: Json, path: string, conversion: Conversion): Json {
  const description = conversion.descriptions[path]
  const said = [description, defaultText(schema)].filter((text) => text !== undefined).join(' ')
  return { ...(said === '' ? {} : { description: said }), ...shape(schema, path, conversion) }
}

function shape(schema: Json, path: string, conversion: Conversion): Json {
  const branches = listOf(schema['anyOf'] ?? schema['oneOf'])
  if (branches.length > 0) return union(branches, path, conversion)
  switch (schema['type']) {
    case 'object': return objectShape(schema, path, conversion)
    case 'array': return { type: 'array', ...only(schema, ['minItems', 'maxItems']), items: structural(record(schema['items']), path, { ...conversion, descriptions: below(conversion.descriptions, path) }) }
    case 'string': return { type: 'string', ...only(schema, ['minLength', 'maxLength', 'pattern', 'enum']) }
    case 'integer': return { type: 'integer', format: 'int64', ...only(schema, ['minimum', 'maximum']) }
    case 'number': return { type: 'number', ...only(schema, ['minimum', 'maximum']) }
    case 'boolean': return { type: 'boolean', ...only(schema, ['enum']) }
    default: return { 'x-kubernetes-preserve-unknown-fields': true }
  }
}

function objectShape(schema: Json, path: string, conversion: Conversion): Json {
  const properties = Object.entries(record(schema['properties'] ?? {}))
  const values = schema['additionalProperties']
  if (properties.length === 0 && isRecord(values)) {
    return { type: 'object', additionalProperties: structural(values, path, { ...conversion, descriptions: below(conversion.descriptions, path) }) }
  }
  const isLoose = values !== false || conversion.keepsUnknown
  return {
    type: 'object',
    ...(isLoose ? { 'x-kubernetes-preserve-unknown-fields': true } : {}),
    ...only(schema, ['required']),
    properties: Object.fromEntries(properties.map(([name, each]) => [name, structural(record(each), `${path}.${name}`, conversion)])),
  }
}

/** Kubernetes has no unions of shapes: what all branches allow together, with what all of them need. */
function union(branches: readonly Json[], path: string, conversion: Conversion): Json {
  const flat = branches.flatMap((branch) => {
    const inner = listOf(branch['anyOf'] ?? branch['oneOf'])
    return inner.length > 0 ? inner : [branch]
  })
  const types = new Set(flat.map((branch) => branch['type']))
  if (types.size === 1 && types.has('string')) return stringUnion(flat)
  if (types.size === 1 && types.has('object')) return objectShape(merged(flat), path, conversion)
  if ([...types].every((type) => type === 'string' || type === 'integer')) return { 'x-kubernetes-int-or-string': true }
  return { 'x-kubernetes-preserve-unknown-fields': true }
}

const addressFormats: ReadonlySet<unknown> = new Set(['ipv4', 'ipv6', 'cidrv4', 'cidrv6'])

function stringUnion(branches: readonly Json[]): Json {
  const isAddress = (branch: Json): boolean => addressFormats.has(branch['format'])
  if (branches.every(isAddress)) return { type: 'string', maxLength: 49, pattern: addressPattern }
  const lengths = branches.map((branch) => (isAddress(branch) ? 49 : Number(branch['maxLength'] ?? Number.NaN)))
  const maxLength = Math.max(...lengths)
  return { type: 'string', minLength: 1, ...(Number.isNaN(maxLength) ? {} : { maxLength }) }
}

function merged(branches: readonly Json[]): Json {
  const properties: Record<string, Json> = {}
  for (const branch of branches) {
    for (const [name, each] of Object.entries(record(branch['properties'] ?? {}))) {
      const before = properties[name]
      const values = [...new Set([...listOfAny(before?.['enum']), ...listOfAny(record(each)['enum'])])]
      // Two branches that say different things of a member: its type is what they share.
      properties[name] = before === undefined || JSON.stringify(before) === JSON.stringify(each) ? record(each) : { type: record(each)['type'], ...(values.length > 0 ? { enum: values } : {}), maxLength: 256 }
    }
  }
  for (const [name, each] of Object.entries(properties)) if (listOfAny(each['enum']).length > 0) properties[name] = without(each, 'maxLength')
  const required = branches.map((branch) => listOfAny(branch['required'])).reduce((all, each) => all.filter((name) => each.includes(name)))
  return { type: 'object', properties, ...(required.length > 0 ? { required } : {}), additionalProperties: branches.every((branch) => branch['additionalProperties'] === false) ? false : {} }
}

/** The mesh fills it in when it reads; the API server does not, so that what was written stays what it is. */
function defaultText(schema: Json): string | undefined {
  const value = schema['default']
  if (value === undefined || value === '' || (typeof value === 'object' && value !== null && Object.keys(value).length === 0)) return undefined
  const text = schema['type'] === 'string' && typeof value === 'number' ? `${value}ms` : String(value)
  return `Default: ${text}.`
}

/** Descriptions without the one of this path, which items and values of maps share with their field. */
function below(descriptions: Descriptions, path: string): Descriptions {
  return Object.fromEntries(Object.entries(descriptions).filter(([each]) => each !== path))
}

function only(schema: Json, keys: readonly string[]): Json {
  return Object.fromEntries(keys.filter((key) => schema[key] !== undefined && !isBeyond(schema[key])).map((key) => [key, schema[key]]))
}

function without(schema: Json, key: string): Json {
  return Object.fromEntries(Object.entries(schema).filter(([each]) => each !== key))
}

/** Bounds that only say that a number is one. */
function isBeyond(value: unknown): boolean {
  return typeof value === 'number' && Math.abs(value) >= Number.MAX_SAFE_INTEGER
}

function record(value: unknown): Json {
  if (!isRecord(value)) throw new Error(`not a schema: ${JSON.stringify(value)}`)
  return value
}

function isRecord(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function listOfAny(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : []
}

function listOf(value: unknown): readonly Json[] {
  return listOfAny(value).map(record)
}
