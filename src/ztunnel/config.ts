// The ztunnel's settings: one table of name, environment variable, default and sentence. Parsed once, frozen, passed down.
import { z } from 'zod'
import { adminSettings, controlPlaneSettings, meshSettings, secretControlPlaneSettings } from '../member/settings.ts'
import { logLevelSetting, readSettings, seconds, variablesOf } from '../model/settings-table.ts'
import { fromIstio } from './istio-environment.ts'

export const configSchema = z.strictObject({
  node: z.string().min(1).default('local').describe('Node name: who this is to the control plane, and in logs.'),
  instance: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, 'must be a DNS label').default('ztunnel').describe('Names the pinned eBPF objects; one per ztunnel on a kernel. A DNS label.'),
  agentSocket: z.string().min(1).default('/run/sidestep/agent.sock').describe('Unix socket on which the node agent tells which pods to capture.'),
  zdsSocket: z.string().max(107).default('').describe('Unix socket of the node agent of Istio, which then takes the place of ours; empty for none.'),
  captureDns: z.stringbool().default(true).describe('Whether DNS of the pods of that agent is answered here; ours says it for each pod.'),
  adminSocket: z.string().min(1).default('/run/sidestep/ztunnel.sock').describe('Unix socket of the admin API.'),
  hostNetns: z.string().min(1).default('/proc/1/ns/net').describe('Path that opens the network namespace of the node.'),
  kubeletCgroupId: z.coerce.bigint().min(0n).default(0n).describe('cgroup2 id of the kubelet; 0 takes any process in the namespace of the node for it.'),
  ...controlPlaneSettings,
  podName: z.string().max(253).default('').describe('Name of the pod of this ztunnel, for the control plane; empty takes the node.'),
  podNamespace: z.string().min(1).max(63).default('sidestep-system').describe('Namespace of the pod of this ztunnel.'),
  ...meshSettings,
  connectTimeoutMs: z.coerce.number().int().min(1).max(600_000).default(10_000).describe('Milliseconds until a connection attempt is given up.'),
  keepAliveSeconds: seconds(1, 32_767).default(180).describe('Seconds of silence until a peer is asked whether it is still there.'),
  maxConnections: z.coerce.number().int().min(0).default(0).describe('Connections carried at once; 0 derives it from the open files limit.'),
  drainSeconds: seconds(0, 31_536_000).default(0).describe('How long a ztunnel that is being replaced finishes its connections; 0 sets no limit.'),
  ...adminSettings,
  accessLog: z.enum(['json', 'text', 'off']).default('json').describe('One line per connection: json, text or off.'),
  logLevel: logLevelSetting,
})
export type Config = Readonly<z.infer<typeof configSchema>>

/** Settings whose value must not be shown, logged or dumped. */
export const secretSettings: ReadonlySet<string> = new Set<keyof Config>(secretControlPlaneSettings)

export const variables = variablesOf(configSchema.shape)

/** Our own variables and, where Istio's are set, those (see istio-environment.ts); ours win. Throws BAD_CONFIG. */
export function readConfig(environment: Readonly<Record<string, string | undefined>>): Config {
  return readSettings(configSchema, variables, environment, fromIstio(environment))
}
