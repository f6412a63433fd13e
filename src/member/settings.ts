// Settings that every proxy of the mesh has, and how a program's table of them is read from its environment. A program spreads
// these into a table of its own; the environment itself is read in src/bin.
import { z } from 'zod'
import { MeshError } from '../core/errors.ts'

export const endpoint = z.string().regex(/^(none|.+:\d{1,5})$/, 'must be HOST:PORT or none')
export const seconds = (least: number, most: number): z.ZodCoercedNumber => z.coerce.number().int().min(least).max(most)

function isJsonObject(text: string): boolean {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null && !Array.isArray(value)
  } catch {
    return false
  }
}
const jsonObject = z.string().max(65_536).refine(isJsonObject, 'must be a JSON object').default('{}')
const headers = jsonObject.refine((text) => !isJsonObject(text) || Object.values(JSON.parse(text) as object).every((value) => typeof value === 'string'), 'values must be texts')

/** How the control plane and the CA are reached and trusted. */
export const controlPlaneSettings = {
  xdsAddress: endpoint.default('sidestep-controlplane.sidestep-system.svc:15012').describe('HOST:PORT of the control plane; none carries everything in plain text, without identities and policies.'),
  caAddress: z.union([z.literal(''), endpoint]).default('').describe('HOST:PORT of the CA; empty takes the control plane.'),
  serverName: z.string().max(253).default('').describe('Name in the certificate of the control plane and the CA; empty takes the host of the address.'),
  caServerName: z.string().max(253).default('').describe('Name in the certificate of the CA; empty takes that of the control plane.'),
  token: z.string().max(65_536).default('').describe('The bearer token itself, in place of the file. Shown nowhere.'),
  tokenFile: z.string().default('/var/run/secrets/tokens/sidestep-token').describe('Bearer token for the control plane and the CA, read again for each connection; empty sends none.'),
  rootsFile: z.string().default('/var/run/secrets/sidestep/root-cert.pem').describe('Roots that vouch for the control plane: a file, PEM, read again for each connection; or the PEM itself; SYSTEM, or empty, takes those of the system.'),
  caRootsFile: z.string().default('').describe('Roots that vouch for the CA, likewise; empty takes those of the control plane.'),
  xdsHeaders: headers.describe('Further headers for the control plane, a JSON object of texts. Shown nowhere.'),
  caHeaders: headers.describe('Further headers for the CA, likewise.'),
  nodeMetadata: jsonObject.describe('Further facts about this proxy for the control plane, a JSON object.'),
} as const

/** Where in the mesh this is, and whom it believes. */
export const meshSettings = {
  instanceIp: z.union([z.literal(''), z.ipv4(), z.ipv6()]).default('').describe('Address of the pod of this proxy, for the control plane; empty does not tell it.'),
  crlFile: z.string().default('').describe('Certificates that are revoked, PEM or DER, watched; empty for none.'),
  stateDirectory: z.string().min(1).default('/var/lib/sidestep').describe('Keeps what the control plane said last, and certificates with their keys (mode 0600), for a start without it.'),
  clusterId: z.string().min(1).max(253).default('Kubernetes').describe('Cluster name, for the control plane.'),
  clusterDomain: z.string().min(1).max(253).default('cluster.local').describe('Domain of the names of services.'),
  network: z.string().max(253).default('').describe('Network of this proxy; empty in a mesh of one network.'),
  trustDomain: z.string().regex(/^[a-z0-9._-]{1,255}$/, 'must be lower-case letters, digits, dots and dashes').default('cluster.local').describe('Trust domain of our own identities.'),
  trustDomainAliases: z.string().default('').describe('Further trust domains whose peers are let in, separated by commas.'),
  certificateTtlSeconds: seconds(1, 31_536_000).default(86_400).describe('Lifetime asked for each certificate.'),
} as const

/** For people and monitoring. */
export const adminSettings = {
  adminAddress: endpoint.default('127.0.0.1:15000').describe('HOST:PORT of the admin API for people; none turns it off.'),
  metricsAddress: endpoint.default('[::]:15020').describe('HOST:PORT of the Prometheus metrics; none turns them off.'),
  readinessAddress: endpoint.default('[::]:15021').describe('HOST:PORT of /healthz/ready; none turns it off.'),
  otlpEndpoint: z.union([z.literal(''), z.url({ protocol: /^https?$/ })]).default('').describe('URL of an OpenTelemetry collector (OTLP over HTTP) for spans; empty for none.'),
} as const

export const logLevelSetting = z.enum(['debug', 'info', 'warn', 'error']).default('info').describe('debug, info, warn or error.')

/** Settings of the above whose value must not be shown, logged or dumped. */
export const secretControlPlaneSettings = ['token', 'xdsHeaders', 'caHeaders'] as const

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
