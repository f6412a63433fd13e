// The ztunnel's settings: one table of name, environment variable, default and sentence. Parsed once, frozen, passed down.
import { z } from 'zod'
import { MeshError } from '../core/errors.ts'
import { fromIstio } from './istio-environment.ts'

const endpoint = z.string().regex(/^(none|.+:\d{1,5})$/, 'must be HOST:PORT or none')
const seconds = (least: number, most: number): z.ZodCoercedNumber => z.coerce.number().int().min(least).max(most)

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

export const configSchema = z.strictObject({
  node: z.string().min(1).default('local').describe('Node name: who this is to the control plane, and in logs.'),
  instance: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, 'must be a DNS label').default('ztunnel').describe('Names the pinned eBPF objects; one per ztunnel on a kernel. A DNS label.'),
  agentSocket: z.string().min(1).default('/run/sidestep/agent.sock').describe('Unix socket on which the node agent tells which pods to capture.'),
  zdsSocket: z.string().max(107).default('').describe('Unix socket of the node agent of Istio, which then takes the place of ours; empty for none.'),
  captureDns: z.stringbool().default(true).describe('Whether DNS of the pods of that agent is answered here; ours says it for each pod.'),
  adminSocket: z.string().min(1).default('/run/sidestep/ztunnel.sock').describe('Unix socket of the admin API.'),
  hostNetns: z.string().min(1).default('/proc/1/ns/net').describe('Path that opens the network namespace of the node.'),
  kubeletCgroupId: z.coerce.bigint().min(0n).default(0n).describe('cgroup2 id of the kubelet; 0 takes any process in the namespace of the node for it.'),
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
  nodeMetadata: jsonObject.describe('Further facts about this node for the control plane, a JSON object.'),
  podName: z.string().max(253).default('').describe('Name of the pod of this ztunnel, for the control plane; empty takes the node.'),
  podNamespace: z.string().min(1).max(63).default('sidestep-system').describe('Namespace of the pod of this ztunnel.'),
  instanceIp: z.union([z.literal(''), z.ipv4(), z.ipv6()]).default('').describe('Address of the pod of this ztunnel, for the control plane; empty does not tell it.'),
  crlFile: z.string().default('').describe('Certificates that are revoked, PEM or DER, watched; empty for none.'),
  stateDirectory: z.string().min(1).default('/var/lib/sidestep').describe('Keeps what the control plane said last, and certificates with their keys (mode 0600), for a start without it.'),
  clusterId: z.string().min(1).max(253).default('Kubernetes').describe('Cluster name, for the control plane.'),
  clusterDomain: z.string().min(1).max(253).default('cluster.local').describe('Domain of the names of services.'),
  network: z.string().max(253).default('').describe('Network of this node; empty in a mesh of one network.'),
  trustDomain: z.string().regex(/^[a-z0-9._-]{1,255}$/, 'must be lower-case letters, digits, dots and dashes').default('cluster.local').describe('Trust domain of the identities on this node.'),
  trustDomainAliases: z.string().default('').describe('Further trust domains whose peers are let in, separated by commas.'),
  certificateTtlSeconds: seconds(1, 31_536_000).default(86_400).describe('Lifetime asked for each certificate.'),
  connectTimeoutMs: z.coerce.number().int().min(1).max(600_000).default(10_000).describe('Milliseconds until a connection attempt is given up.'),
  keepAliveSeconds: seconds(1, 32_767).default(180).describe('Seconds of silence until a peer is asked whether it is still there.'),
  maxConnections: z.coerce.number().int().min(0).default(0).describe('Connections carried at once; 0 derives it from the open files limit.'),
  drainSeconds: seconds(0, 31_536_000).default(0).describe('How long a ztunnel that is being replaced finishes its connections; 0 sets no limit.'),
  adminAddress: endpoint.default('127.0.0.1:15000').describe('HOST:PORT of the admin API for people; none turns it off.'),
  metricsAddress: endpoint.default('[::]:15020').describe('HOST:PORT of the Prometheus metrics; none turns them off.'),
  readinessAddress: endpoint.default('[::]:15021').describe('HOST:PORT of /healthz/ready; none turns it off.'),
  otlpEndpoint: z.union([z.literal(''), z.url({ protocol: /^https?$/ })]).default('').describe('URL of an OpenTelemetry collector (OTLP over HTTP) for spans; empty for none.'),
  accessLog: z.enum(['json', 'text', 'off']).default('json').describe('One line per connection: json, text or off.'),
  logLevel: z.enum(['debug', 'info', 'warn', 'error']).default('info').describe('debug, info, warn or error.'),
})
export type Config = Readonly<z.infer<typeof configSchema>>

/** Settings whose value must not be shown, logged or dumped. */
export const secretSettings: ReadonlySet<keyof Config> = new Set(['token', 'xdsHeaders', 'caHeaders'])

/** Environment variable of each setting: SIDESTEP_ and its name in capitals. */
export const variables: Readonly<Record<keyof Config, string>> = Object.fromEntries(
  Object.keys(configSchema.shape).map((key) => [key, `SIDESTEP_${key.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`]),
) as Record<keyof Config, string>

/**
 * Reads our own variables and, where Istio's are set, those (see istio-environment.ts); ours win. Throws BAD_CONFIG with every
 * wrong setting named. An unknown SIDESTEP_ variable is an error too: it is a misspelt one.
 */
export function readConfig(environment: Readonly<Record<string, string | undefined>>): Config {
  const known = new Set<string>([...Object.values(variables), 'SIDESTEP_NATIVE'])
  const unknown = Object.keys(environment).filter((name) => name.startsWith('SIDESTEP_') && !known.has(name))
  const istio = fromIstio(environment)
  const nameOf = (key: string): string => (environment[variables[key as keyof Config]] ? undefined : istio.origins[key]) ?? variables[key as keyof Config]
  const given = Object.entries(variables).flatMap(([key, variable]) => {
    const value = environment[variable] || istio.settings[key]
    return value === undefined || value === '' ? [] : [[key, value]]
  })
  const parsed = configSchema.safeParse(Object.fromEntries(given))
  const problems = [
    ...unknown.map((name) => `${name} is not a setting`),
    ...istio.refused,
    ...(parsed.success ? [] : parsed.error.issues.map((issue) => `${nameOf(String(issue.path[0]))}: ${issue.message}`)),
  ]
  if (!parsed.success || problems.length > 0) throw new MeshError('BAD_CONFIG', problems.join('; '))
  return Object.freeze(parsed.data)
}
