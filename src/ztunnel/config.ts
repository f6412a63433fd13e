// The ztunnel's settings: one table of name, environment variable, default and sentence. Parsed once, frozen, passed down.
import { z } from 'zod'
import { MeshError } from '../core/errors.ts'

export const configSchema = z.strictObject({
  node: z.string().min(1).default('local').describe('Node name, for logs.'),
  instance: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, 'must be a DNS label').default('ztunnel').describe('Names the pinned eBPF objects; one per ztunnel on a kernel. A DNS label.'),
  agentSocket: z.string().min(1).default('/run/sidestep/agent.sock').describe('Unix socket on which the node agent tells which pods to capture.'),
  adminSocket: z.string().min(1).default('/run/sidestep/ztunnel.sock').describe('Unix socket of the admin API.'),
  hostNetns: z.string().min(1).default('/proc/1/ns/net').describe('Path that opens the network namespace of the node.'),
  kubeletCgroupId: z.coerce.bigint().min(0n).default(0n).describe('cgroup2 id of the kubelet; 0 takes any process in the namespace of the node for it.'),
  connectTimeoutMs: z.coerce.number().int().min(1).max(600_000).default(10_000).describe('Milliseconds until a connection attempt is given up.'),
  keepAliveSeconds: z.coerce.number().int().min(1).max(32_767).default(180).describe('Seconds of silence until a peer is asked whether it is still there.'),
  maxConnections: z.coerce.number().int().min(0).default(0).describe('Connections carried at once; 0 derives it from the open files limit.'),
  logLevel: z.enum(['debug', 'info', 'warn', 'error']).default('info').describe('debug, info, warn or error.'),
})
export type Config = Readonly<z.infer<typeof configSchema>>

/** Environment variable of each setting. */
export const variables: Readonly<Record<keyof Config, string>> = {
  node: 'SIDESTEP_NODE',
  instance: 'SIDESTEP_INSTANCE',
  agentSocket: 'SIDESTEP_AGENT_SOCKET',
  adminSocket: 'SIDESTEP_ADMIN_SOCKET',
  hostNetns: 'SIDESTEP_HOST_NETNS',
  kubeletCgroupId: 'SIDESTEP_KUBELET_CGROUP_ID',
  connectTimeoutMs: 'SIDESTEP_CONNECT_TIMEOUT_MS',
  keepAliveSeconds: 'SIDESTEP_KEEP_ALIVE_SECONDS',
  maxConnections: 'SIDESTEP_MAX_CONNECTIONS',
  logLevel: 'SIDESTEP_LOG_LEVEL',
}

/** Throws BAD_CONFIG with every wrong setting named. An unknown SIDESTEP_ variable is an error too: it is a misspelt one. */
export function readConfig(environment: Readonly<Record<string, string | undefined>>): Config {
  const known = new Set<string>([...Object.values(variables), 'SIDESTEP_NATIVE'])
  const unknown = Object.keys(environment).filter((name) => name.startsWith('SIDESTEP_') && !known.has(name))
  const given = Object.entries(variables).flatMap(([key, variable]) => {
    const value = environment[variable]
    return value === undefined || value === '' ? [] : [[key, value]]
  })
  const parsed = configSchema.safeParse(Object.fromEntries(given))
  const problems = [
    ...unknown.map((name) => `${name} is not a setting`),
    ...(parsed.success ? [] : parsed.error.issues.map((issue) => `${variables[issue.path[0] as keyof Config]}: ${issue.message}`)),
  ]
  if (!parsed.success || problems.length > 0) throw new MeshError('BAD_CONFIG', problems.join('; '))
  return Object.freeze(parsed.data)
}
