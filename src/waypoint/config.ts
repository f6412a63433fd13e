// The waypoint's settings: one table of name, environment variable, default and sentence. Parsed once, frozen, passed down. An ingress
// is the same program: what it listens on is said by its Gateway, not here.
import { z } from 'zod'
import { adminSettings, controlPlaneSettings, meshSettings, secretControlPlaneSettings } from '../member/settings.ts'
import { endpoint, logLevelSetting, readSettings, seconds, variablesOf } from '../model/settings-table.ts'
import { telemetrySettings } from './telemetry/settings.ts'

const count = (least: number, most: number): z.ZodCoercedNumber => z.coerce.number().int().min(least).max(most)

export const configSchema = z.strictObject({
  gateway: z.string().regex(/^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$/, 'must be NAMESPACE/NAME').default('').describe('NAMESPACE/NAME of the Gateway that this serves; there is no default.'),
  serviceAccount: z.string().max(253).default('').describe('Service account of this pod, which is its identity; empty takes the name of the Gateway.'),
  podName: z.string().max(253).default('').describe('Name of this pod; empty takes the name of the Gateway.'),
  podNamespace: z.string().max(63).default('').describe('Namespace of this pod; empty takes that of the Gateway.'),
  node: z.string().min(1).default('local').describe('Name of the node that this pod runs on.'),
  adminSocket: z.string().max(107).default('').describe('Unix socket of the admin API, beside its port; empty for none.'),
  ...controlPlaneSettings,
  ...meshSettings,
  hboneAddress: endpoint.default('[::]:15008').describe('HOST:PORT for tunnels of the mesh; none takes none.'),
  connectTimeoutMs: count(1, 600_000).default(10_000).describe('Milliseconds until a connection attempt is given up, where no policy says it.'),
  keepAliveSeconds: seconds(1, 32_767).default(180).describe('Seconds of silence until a peer is asked whether it is still there.'),
  maxConnections: count(0, 10_000_000).default(0).describe('Streams and connections of clients at once; 0 derives it from the open files limit.'),
  detectMs: count(1, 10_000).default(100).describe('How long a port that nobody declared waits for the first bytes of a client.'),
  escapedSlashes: z.enum(['refuse', 'keep']).default('refuse').describe('What becomes of paths with %2F or %5C: refuse, or keep them as a part of their segment.'),
  maxHeaderBytes: count(1_024, 1_048_576).default(65_536).describe('Names and values of a request\'s headers together.'),
  maxHttp2Streams: count(1, 10_000).default(256).describe('Requests at once on one HTTP/2 connection of a client.'),
  headMs: count(100, 600_000).default(15_000).describe('Milliseconds that a client may take for the head of a request.'),
  bodyIdleMs: count(100, 86_400_000).default(60_000).describe('Milliseconds between two pieces of a body that somebody waits for.'),
  idleMs: count(100, 86_400_000).default(300_000).describe('Milliseconds that a connection of a client stays open without a request.'),
  trustedForwarders: z.string().max(65_536).default('').describe('Callers in the mesh whose word about their own clients is believed, beside ingresses of the same namespace: SPIFFE URIs, or beginnings of them with *, separated by commas.'),
  trustedHops: count(0, 16).default(0).describe('Proxies before an ingress whose X-Forwarded-For is believed: so many addresses from its end.'),
  proxyProtocol: z.enum(['off', 'optional', 'required']).default('off').describe('Whether connections to an ingress begin with a PROXY header, version 1 or 2: off, optional or required.'),
  proxyProtocolFrom: z.string().default('').describe('Addresses or ranges that may send one, separated by commas; empty for everybody.'),
  sessionKeyFile: z.string().default('').describe('Keys of sessions that all replicas share, a line each, the first signs; empty makes one that ends with this process.'),
  cacheBytes: count(0, 68_719_476_736).default(67_108_864).describe('Bytes of answers that are kept where a CachePolicy asks for it; 0 keeps none.'),
  limitKeys: count(1, 100_000_000).default(100_000).describe('Callers, addresses and the like whose rates are counted here at once.'),
  limitStore: z.union([z.literal(''), z.string().regex(/^(rediss?:\/\/|unix:\/).+/, 'must be redis://, rediss:// or unix:/')]).default('').describe('Redis-compatible server that counts global rates for all replicas; empty for none. Shown nowhere.'),
  limitStoreTimeoutMs: count(1, 60_000).default(100).describe('How long a request waits for that server.'),
  mayFetchLocally: z.stringbool().default(false).describe('Whether keys of issuers may be fetched from addresses of this pod and of links.'),
  drainDelayMs: count(0, 600_000).default(1_000).describe('How long one that is told to end goes on taking connections, so that nobody is sent away who has not heard of it.'),
  drainSeconds: seconds(0, 31_536_000).default(25).describe('How long it then finishes what is under way; 0 sets no limit.'),
  ...adminSettings,
  ...telemetrySettings,
  logLevel: logLevelSetting,
})
export type Config = Readonly<z.infer<typeof configSchema>>

/** Settings whose value must not be shown, logged or dumped. */
export const secretSettings: ReadonlySet<string> = new Set<keyof Config>([...secretControlPlaneSettings, 'limitStore'])

export const variables = variablesOf(configSchema.shape)

/** Throws BAD_CONFIG. */
export function readConfig(environment: Readonly<Record<string, string | undefined>>): Config {
  return readSettings(configSchema, variables, environment)
}
