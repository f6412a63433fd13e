// Settings that every proxy of the mesh has. A program spreads these into a table of its own, which model/settings-table.ts reads.
import { z } from 'zod'
import { endpoint, seconds } from '../model/settings-table.ts'

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

/** Settings of the above whose value must not be shown, logged or dumped. */
export const secretControlPlaneSettings = ['token', 'xdsHeaders', 'caHeaders'] as const
