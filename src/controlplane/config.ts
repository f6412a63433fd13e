// The control plane's settings: one table of name, environment variable, default and sentence. Parsed once, frozen, passed down.
import { z } from 'zod'
import { MeshError } from '../core/errors.ts'
import { parseReplicas } from '../model/gateway-objects.ts'

const endpoint = z.string().regex(/^(none|.+:\d{1,5})$/, 'must be HOST:PORT or none')
const seconds = (least: number, most: number): z.ZodCoercedNumber => z.coerce.number().int().min(least).max(most)
const trustDomain = /^[a-z0-9._-]{1,255}$/
const longestTtlSeconds = 90 * 86_400

export const configSchema = z.strictObject({
  source: z.enum(['directory', 'kubernetes']).default('directory').describe('Where objects and pods are read: directory (with the two settings of directories and the socket for pods) or kubernetes (its API).'),
  podNamespace: z.string().regex(/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/, 'must be the name of a namespace').default('sidestep-system').describe('Kubernetes: the namespace that we run in.'),
  podName: z.string().max(253).default('').describe('Kubernetes: our pod, by which replicas are told apart; empty takes the host name.'),
  istioLabels: z.enum(['', 'true', 'false']).default('').describe("Whether Istio's labels count where ours are not beside them; empty is true for a directory, false for kubernetes, where Istio may be too."),
  proxyImage: z.string().max(512).default('').describe('Kubernetes: image of the pods of Gateways; empty leaves Gateways without pods.'),
  proxyImagePullPolicy: z.enum(['', 'Always', 'IfNotPresent', 'Never']).default('').describe('Kubernetes: when nodes fetch that image; empty is what Kubernetes does of itself.'),
  proxyImagePullSecrets: z.string().max(2_048).default('').describe("Kubernetes: Secrets with which they may, separated by commas; they must be in the Gateways' namespaces."),
  gatewayReplicas: z.string().refine((text) => parseReplicas(text) !== undefined, 'must be a number or a range such as 2-10').default('2-10').describe('Kubernetes: how many pods a Gateway has that does not say it itself, a number or a range; in a range an autoscaler decides.'),
  listenAddress: z.string().regex(/^.+:\d{1,5}$/, 'must be HOST:PORT').default('[::]:15012').describe('HOST:PORT for discovery and certificates, gRPC over TLS.'),
  metricsAddress: endpoint.default('[::]:15014').describe('HOST:PORT of /metrics and /ready; none turns them off.'),
  adminSocket: z.string().min(1).default('/run/sidestep/controlplane.sock').describe('Unix socket of the admin API.'),
  podsSocket: z.string().min(1).default('/run/sidestep/facts.sock').describe('Unix socket on which the local mesh tells which pods run where.'),
  configDirectory: z.string().default('').describe('Directory of YAML (or one file), watched; empty for none.'),
  appliedDirectory: z.string().default('').describe('Directory of YAML whose objects win over those of the other; empty for none.'),
  statusFile: z.string().default('').describe('File that always has the newest status of each object, JSON; empty for none.'),
  caDirectory: z.string().min(1).default('/var/lib/sidestep/ca').describe('Keys and certificates of the CA; made at the first start.'),
  caCertificateFile: z.string().default('').describe('An intermediate of your own to sign with, PEM, with those above it; empty makes our own.'),
  caKeyFile: z.string().default('').describe('Key of that intermediate, PEM, readable by its owner only.'),
  caRootsFile: z.string().default('').describe('Roots of that intermediate, PEM.'),
  tokenKeyFile: z.string().min(1).default('/var/lib/sidestep/token.key').describe('Key that signs the tokens of nodes; made at the first start.'),
  tokenDirectory: z.string().default('').describe('Where tokens are kept new: of each node as NODE.token, of each pod of a gateway as pods/NAMESPACE/NAME/token; empty keeps none.'),
  tokenAudience: z.string().min(1).max(253).default('sidestep-controlplane').describe('Audience that a token must be for.'),
  tokenTtlSeconds: seconds(10, 31_536_000).default(3_600).describe('Lifetime of each token.'),
  nodes: z.string().default('').describe('Nodes to keep tokens for, separated by commas.'),
  rootsFile: z.string().default('').describe('Where to write the roots that vouch for us and for workloads, PEM; empty writes none.'),
  crlFile: z.string().default('').describe('Where to write which certificates are revoked, PEM; empty writes none.'),
  serverNames: z.string().min(1).default('sidestep-controlplane.sidestep-system.svc,localhost').describe('Names in our own certificate, DNS or IP, separated by commas.'),
  clusterId: z.string().min(1).max(253).default('Kubernetes').describe('Cluster name; a caller that names another is refused.'),
  clusterDomain: z.string().min(1).max(253).default('cluster.local').describe('Domain of the names of services.'),
  network: z.string().max(253).default('').describe('Network of the pods; empty in a mesh of one network.'),
  trustDomain: z.string().regex(trustDomain, 'must be lower-case letters, digits, dots and dashes').default('cluster.local').describe('Trust domain of all identities that are signed.'),
  trustDomainAliases: z.string().default('').describe('Trust domains that policies mean as well when they name ours, separated by commas.'),
  certificateTtlSeconds: seconds(1, longestTtlSeconds).default(86_400).describe('Lifetime of a certificate whose asker has no wish.'),
  certificateMaxTtlSeconds: seconds(1, longestTtlSeconds).default(longestTtlSeconds).describe('Longest lifetime that is signed; a longer wish is refused.'),
  servingTtlSeconds: seconds(10, longestTtlSeconds).default(86_400).describe('Lifetime of our own certificate, renewed at half of it.'),
  maxConnections: z.coerce.number().int().min(1).max(1_000_000).default(20_000).describe('Connections served at once; more are closed.'),
  maxConnectionsPerAddress: z.coerce.number().int().min(1).max(1_000_000).default(1_000).describe('Connections served at once to one address; more are closed.'),
  logLevel: z.enum(['debug', 'info', 'warn', 'error']).default('info').describe('debug, info, warn or error.'),
})
export type Config = Readonly<z.infer<typeof configSchema>>

/** Environment variable of each setting: SIDESTEP_ and its name in capitals. */
export const variables: Readonly<Record<keyof Config, string>> = Object.fromEntries(
  Object.keys(configSchema.shape).map((key) => [key, `SIDESTEP_${key.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`]),
) as Record<keyof Config, string>

/** Throws BAD_CONFIG with every wrong setting named. An unknown SIDESTEP_ variable is an error too: it is a misspelt one. */
export function readConfig(environment: Readonly<Record<string, string | undefined>>): Config {
  const known = new Set<string>(Object.values(variables))
  const unknown = Object.keys(environment).filter((name) => name.startsWith('SIDESTEP_') && !known.has(name))
  const given = Object.entries(variables).flatMap(([key, variable]) => {
    const value = environment[variable]
    return value === undefined || value === '' ? [] : [[key, value]]
  })
  const parsed = configSchema.safeParse(Object.fromEntries(given))
  const problems = [
    ...unknown.map((name) => `${name} is not a setting`),
    ...(parsed.success ? [...contradictions(parsed.data)] : parsed.error.issues.map((issue) => `${variables[issue.path[0] as keyof Config]}: ${issue.message}`)),
  ]
  if (!parsed.success || problems.length > 0) throw new MeshError('BAD_CONFIG', problems.join('; '))
  return Object.freeze(parsed.data)
}

/** What each setting alone does not show. */
function* contradictions(config: Config): Generator<string> {
  if (config.certificateTtlSeconds > config.certificateMaxTtlSeconds) yield `${variables.certificateTtlSeconds}: is above ${variables.certificateMaxTtlSeconds}`
  const own = [config.caCertificateFile, config.caKeyFile, config.caRootsFile]
  if (own.some((file) => file !== '') && own.includes('')) {
    yield `${variables.caCertificateFile}, ${variables.caKeyFile} and ${variables.caRootsFile} go together`
  }
  // A node's name becomes a file's name.
  const bad = listOf(config.nodes).find((node) => !/^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$/.test(node))
  if (bad !== undefined) yield `${variables.nodes}: ${JSON.stringify(bad)} is no name for a node`
  if (config.nodes !== '' && config.tokenDirectory === '') yield `${variables.nodes}: needs ${variables.tokenDirectory}`
  if (config.source === 'directory' && config.configDirectory === '' && config.appliedDirectory === '') yield `${variables.configDirectory}: is missing`
  if (config.source === 'kubernetes') {
    const idle = (['configDirectory', 'appliedDirectory', 'tokenDirectory', 'nodes'] as const).filter((key) => config[key] !== '')
    for (const key of idle) yield `${variables[key]}: means nothing with ${variables.source}=kubernetes`
  }
  const alias = listOf(config.trustDomainAliases).find((each) => !trustDomain.test(each))
  if (alias !== undefined) yield `${variables.trustDomainAliases}: ${JSON.stringify(alias)} is no trust domain`
}

/** Where Istio runs too, its labels are for Istio unless somebody says otherwise. */
export function readsIstioLabels({ istioLabels, source }: Pick<Config, 'istioLabels' | 'source'>): boolean {
  return istioLabels === '' ? source === 'directory' : istioLabels === 'true'
}

/** The parts of a setting that is separated by commas. */
export function listOf(text: string): string[] {
  return text.split(',').map((part) => part.trim()).filter((part) => part !== '')
}

/** `[::]:15012` as host `::` and port. The setting's pattern has been checked. */
export function hostAndPort(address: string): { readonly host: string; readonly port: number } {
  const colon = address.lastIndexOf(':')
  return { host: address.slice(0, colon).replace(/^\[(.*)\]$/, '$1'), port: Number(address.slice(colon + 1)) }
}
