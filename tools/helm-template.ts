// Makes templates of a Helm chart from the function that makes the objects themselves: handed placeholders in place of values, it gives
// objects with placeholders in them, and those are written as what Helm puts there. Text only; knows nothing of Sidestep.
//
// A text becomes a text with marks in it, so that it may be a part of another text; a number or a boolean an object that becomes such
// a text where it is made part of one; a list or a map one with a single odd element, so that it may be spread.
import { stringify } from 'yaml'
import { z } from 'zod'
import { yamlStyle } from '../src/install/common.ts'

const [open, close] = ['\u27e6', '\u27e7']

/** In place of a number or a boolean, or of all elements of a list. */
class Placeholder {
  readonly expression: string
  readonly kind: 'number' | 'boolean' | 'list'

  constructor(expression: string, kind: Placeholder['kind']) {
    this.expression = expression
    this.kind = kind
  }

  toString(): string {
    return `${open}${this.kind === 'number' ? 'int64 ' : ''}${this.expression} | toString${close}`
  }
}

/** The schema's values as placeholders. `instead` has Helm's expressions of what is not below `.Values`, by path. */
export function placeholders(schema: z.ZodType, instead: Readonly<Record<string, string>>, path = ''): unknown {
  const inner = schema instanceof z.ZodPrefault ? schema.def.innerType : schema
  if (inner instanceof z.ZodObject) {
    return Object.fromEntries(Object.entries(inner.shape).map(([name, each]) => [name, placeholders(each as z.ZodType, instead, path === '' ? name : `${path}.${name}`)]))
  }
  if (!(inner instanceof z.ZodDefault)) throw new Error(`${path} has no default`)
  const expression = instead[path] ?? `.Values.${path}`
  const value: unknown = inner.def.defaultValue
  if (typeof value === 'number') return new Placeholder(expression, 'number')
  if (typeof value === 'boolean') return new Placeholder(expression, 'boolean')
  if (Array.isArray(value)) return [new Placeholder(expression, 'list')]
  return typeof value === 'object' ? { [`${open}${expression}${close}`]: true } : `${open}${expression}${close}`
}

/** The expression in a condition that was handed placeholders. */
export function conditionOf(value: unknown): string {
  if (value instanceof Placeholder && value.kind === 'boolean') return value.expression
  throw new Error('a group must depend on one boolean value, and on that alone')
}

/** Objects with placeholders as the text of a template. */
export function template(objects: readonly unknown[]): string {
  const marks = new Map<string, Mark>()
  const mark = (kind: Mark['kind'], expression: string): string => {
    const name = `HELM${kind}${String(marks.size).padStart(5, '0')}END`
    marks.set(name, { kind, expression })
    return name
  }
  const documents = objects.map((object) => stringify(marked(object, mark), yamlStyle))
  // What Helm would take for its own.
  const text = documents.join('---\n').replaceAll('{{', '{{ "{{" }}')
  return text.split('\n').map((line) => withExpressions(line, marks)).join('\n')
}

interface Mark {
  readonly kind: 'TEXT' | 'RAW' | 'WHOLE' | 'SPREAD' | 'VARIABLES'
  readonly expression: string
}
type Marker = (kind: Mark['kind'], expression: string) => string

function marked(value: unknown, mark: Marker): unknown {
  if (typeof value === 'string') return value.includes(open) ? mark('TEXT', joined(value)) : value
  if (value instanceof Placeholder) return mark('RAW', value.kind === 'number' ? `int64 ${value.expression}` : value.expression)
  if (Array.isArray(value)) {
    const [first] = value as unknown[]
    if (value.length === 1 && first instanceof Placeholder && first.kind === 'list') return mark('WHOLE', first.expression)
    return value.map((each: unknown) => (each instanceof Placeholder && each.kind === 'list' ? mark('SPREAD', each.expression) : marked(each, mark)))
  }
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value)
  const [only] = entries
  if (only && entries.length === 1 && isMark(only[0])) return mark('WHOLE', expressionOf(only[0]))
  if (entries.length === 2 && 'name' in value && typeof value.name === 'string' && isMark(value.name) && 'value' in value && value.value === 'true') {
    return mark('VARIABLES', expressionOf(value.name))
  }
  return Object.fromEntries(entries.map(([key, each]: [string, unknown]) => (isMark(key) ? [mark('SPREAD', expressionOf(key)), true] : [key, marked(each, mark)])))
}

const isMark = (text: string): boolean => text.startsWith(open) && text.indexOf(close) === text.length - 1
const expressionOf = (text: string): string => text.slice(1, -1)

/** A text with marks in it as one expression. */
function joined(text: string): string {
  if (isMark(text)) return `${expressionOf(text)} | toJson`
  const parts = text.split(new RegExp(`[${open}${close}]`))
  const format = parts.map((part, i) => (i % 2 === 1 ? '%v' : part.replaceAll('%', '%%'))).join('')
  const given = parts.flatMap((part, i) => (i % 2 === 1 ? [part.includes(' ') ? `(${part})` : part] : []))
  return `printf ${JSON.stringify(format)} ${given.join(' ')} | quote`
}

function withExpressions(line: string, marks: ReadonlyMap<string, Mark>): string {
  const found = /HELM[A-Z]+\d{5}END/.exec(line)
  const mark = found && marks.get(found[0])
  if (!found || !mark) return line
  const indent = /^ */.exec(line)?.[0] ?? ''
  const { kind, expression } = mark
  switch (kind) {
    case 'TEXT':
    case 'RAW': return line.replace(found[0], `{{ ${expression} }}`)
    case 'WHOLE': return line.replace(` ${found[0]}`, ` {{- toYaml ${expression} | nindent ${indent.length + 2} }}`)
    case 'SPREAD': return `${indent}{{- with ${expression} }}\n${indent}{{- toYaml . | nindent ${indent.length} }}\n${indent}{{- end }}`
    case 'VARIABLES': return [
      `${indent}{{- range $name, $value := ${expression} }}`, `${indent}- name: {{ $name }}`, `${indent}  value: {{ $value | toString | quote }}`, `${indent}{{- end }}`,
    ].join('\n')
    default: return kind satisfies never
  }
}
