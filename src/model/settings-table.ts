// How a program's table of settings is read from its environment and shown: one zod object whose keys name the variables. The
// environment itself is read in src/bin.
import { z } from 'zod'
import { MeshError } from '../core/errors.ts'

export const endpoint = z.string().regex(/^(none|.+:\d{1,5})$/, 'must be HOST:PORT or none')
export const seconds = (least: number, most: number): z.ZodCoercedNumber => z.coerce.number().int().min(least).max(most)
export const logLevelSetting = z.enum(['debug', 'info', 'warn', 'error']).default('info').describe('debug, info, warn or error.')

export type Environment = Readonly<Record<string, string | undefined>>

/** Environment variable of each setting: SIDESTEP_ and its name in capitals. */
export function variablesOf<K extends string>(shape: Readonly<Record<K, unknown>>): Readonly<Record<K, string>> {
  return Object.fromEntries(Object.keys(shape).map((key) => [key, `SIDESTEP_${key.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`])) as Record<K, string>
}

/** What somebody else's environment says, in our words. */
export interface Translated {
  readonly settings: Readonly<Record<string, string>>
  /** The variable that each came from. */
  readonly origins: Readonly<Record<string, string>>
  readonly refused: readonly string[]
}

const nothingTranslated: Translated = { settings: {}, origins: {}, refused: [] }

/**
 * Ours win over what was translated. Throws BAD_CONFIG with every wrong setting named. An unknown SIDESTEP_ variable is an
 * error too: it is a misspelt one.
 */
export function readSettings<Shape extends z.core.$ZodLooseShape>(
  schema: z.ZodObject<Shape>, variables: Readonly<Record<string, string>>, environment: Environment, translated: Translated = nothingTranslated,
): Readonly<z.infer<z.ZodObject<Shape>>> {
  const known = new Set<string>([...Object.values(variables), 'SIDESTEP_NATIVE'])
  const unknown = Object.keys(environment).filter((name) => name.startsWith('SIDESTEP_') && !known.has(name))
  const nameOf = (key: string): string => (environment[variables[key] ?? ''] ? undefined : translated.origins[key]) ?? variables[key] ?? key
  const given = Object.entries(variables).flatMap(([key, variable]) => {
    const value = environment[variable] || translated.settings[key]
    return value === undefined || value === '' ? [] : [[key, value]]
  })
  const parsed = schema.safeParse(Object.fromEntries(given))
  const problems = [
    ...unknown.map((name) => `${name} is not a setting`),
    ...translated.refused,
    ...(parsed.success ? [] : parsed.error.issues.map((issue) => `${nameOf(String(issue.path[0]))}: ${issue.message}`)),
  ]
  if (!parsed.success || problems.length > 0) throw new MeshError('BAD_CONFIG', problems.join('; '))
  return Object.freeze(parsed.data)
}

/** How --help lists them. */
export function settingsHelp(schema: z.ZodObject, variables: Readonly<Record<string, string>>): string {
  const defaults = new Map(Object.entries(schema.parse({})))
  return Object.entries(variables)
    .map(([key, variable]) => `  ${variable.padEnd(28)} ${schema.shape[key] instanceof z.ZodType ? schema.shape[key].description ?? '' : ''} (${String(defaults.get(key))})`)
    .join('\n')
}

/** Each setting as a config dump shows it. */
export interface SettingView {
  readonly value: unknown
  readonly from: 'default' | 'environment'
}

export function settingViews(schema: z.ZodObject, config: object, secrets: ReadonlySet<string>): Record<string, SettingView> {
  const defaults = new Map(Object.entries(schema.parse({})))
  return Object.fromEntries(Object.entries(config).map(([name, value]: [string, unknown]) => {
    const isDefault = value === defaults.get(name)
    const shown = secrets.has(name) && !isDefault ? '(not shown)' : value
    return [name, { value: typeof shown === 'bigint' ? String(shown) : shown, from: isDefault ? 'default' : 'environment' }]
  }))
}
