// Values of an installation from files and from the command line, later ones over earlier ones. What they mean, and whether they are
// right, is src/install/values.ts.
import { readFileSync } from 'node:fs'
import { parse, YAMLParseError } from 'yaml'
import { z } from 'zod'
import { MeshError } from '../core/errors.ts'
import { installValues, isRecord, mergeValues, type GivenValues } from '../install/values.ts'

/** Files first, then `--set`. Throws BAD_CONFIG. */
export function givenValues(files: readonly string[], sets: readonly string[], before: GivenValues = {}): GivenValues {
  const given = [...files.map(readValuesFile), ...sets.map(setValue)]
  return given.reduce(mergeValues, before)
}

function readValuesFile(file: string): GivenValues {
  try {
    const value: unknown = parse(readFileSync(file, 'utf8')) ?? {}
    if (isRecord(value)) return value
  } catch (cause) {
    throw new MeshError('BAD_CONFIG', `cannot read values from ${file}: ${cause instanceof YAMLParseError || cause instanceof Error ? cause.message : ''}`, { cause })
  }
  throw new MeshError('BAD_CONFIG', `${file} has no map of values`)
}

/** `ztunnel.drainSeconds=60`; what is right of the first `=` is YAML, but where a text is wanted it is that text. */
function setValue(text: string): GivenValues {
  const [, path = '', value = ''] = /^([A-Za-z][A-Za-z0-9]*(?:\.[^=\s]+)*)=(.*)$/s.exec(text) ?? []
  if (path === '') throw new MeshError('BAD_CONFIG', `--set ${JSON.stringify(text)}: write NAME=VALUE, as in ztunnel.logLevel=debug`)
  const parts = partsOf(path)
  return parts.reduceRight<unknown>((inner, part) => ({ [part]: inner }), wantsText(parts) ? value : yamlOf(value, text)) as GivenValues
}

/** Below these a part of the path may have dots of its own, as labels have. */
function partsOf(path: string): string[] {
  const parts = path.split('.')
  const map = parts.findIndex((part) => ['settings', 'nodeSelector', 'podAnnotations', 'labels'].includes(part))
  return map === -1 || map === parts.length - 1 ? parts : [...parts.slice(0, map + 1), parts.slice(map + 1).join('.')]
}

function wantsText(parts: readonly string[]): boolean {
  let schema: unknown = installValues
  for (const part of parts) {
    const inner = bare(schema)
    schema = inner instanceof z.ZodObject ? (inner.shape as Readonly<Record<string, unknown>>)[part] : inner instanceof z.ZodRecord ? inner.valueType : undefined
  }
  const wanted = bare(schema)
  return wanted instanceof z.ZodString || wanted instanceof z.ZodEnum
}

function bare(schema: unknown): unknown {
  if (schema instanceof z.ZodDefault || schema instanceof z.ZodPrefault || schema instanceof z.ZodOptional) return bare(schema.def.innerType)
  return schema
}

function yamlOf(value: string, whole: string): unknown {
  try {
    return parse(value) as unknown
  } catch (cause) {
    throw new MeshError('BAD_CONFIG', `--set ${JSON.stringify(whole)}: its value is no YAML`, { cause })
  }
}
