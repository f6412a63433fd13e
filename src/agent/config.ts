// The node agent's settings: one table of name, environment variable, default and sentence. Parsed once, frozen, passed down.
import { z } from 'zod'
import { nodePaths, systemNamespace } from '../model/kubernetes-names.ts'
import { endpoint, logLevelSetting, readSettings, seconds, variablesOf } from '../model/settings-table.ts'

const socket = z.string().min(1).max(107)

export const configSchema = z.strictObject({
  node: z.string().max(253).default('').describe('Name of this node; there is no default.'),
  podNamespace: z.string().min(1).max(63).default(systemNamespace).describe('Namespace of our own pod; nothing in it is captured.'),
  podName: z.string().max(253).default('').describe('Name of our own pod, for events; empty takes the node.'),
  agentSocket: socket.default('/run/sidestep/agent.sock').describe('Unix socket on which the ztunnel is told which pods to capture.'),
  zdsServerSocket: z.string().max(107).default('').describe('Unix socket on which Istio\'s ztunnel is told them, which then takes the place of ours; empty for none.'),
  ztunnelAdminSocket: socket.default('/run/sidestep/ztunnel.sock').describe('Unix socket of the admin API of the ztunnel, which is asked what it serves.'),
  instance: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, 'must be a DNS label').default('ztunnel').describe('Names the pinned eBPF objects of that ztunnel. A DNS label.'),
  hostNetns: z.string().min(1).default('/proc/1/ns/net').describe('Path that opens the network namespace of the node.'),
  criSocket: z.string().max(107).default('').describe('Unix socket of the container runtime; empty takes the first of the usual ones, none asks nobody.'),
  cniSocket: socket.default(nodePaths.cniSocket).describe('Unix socket on which the CNI plugin asks.'),
  cniTimeoutSeconds: seconds(3, 110).default(20).describe('How long the CNI plugin waits for a capture.'),
  cniExecutable: z.string().default('').describe('The CNI plugin, to be copied to the node; empty takes the one that was built with us.'),
  cniBinDirectory: z.string().min(1).default('/opt/cni/bin').describe('Where the container runtime has its CNI plugins.'),
  cniConfDirectory: z.string().min(1).default('/etc/cni/net.d').describe('Where the container runtime has its networks; the plugin is chained there.'),
  namespacesFile: z.string().min(1).default(nodePaths.namespaces).describe('What the CNI plugin goes by while nobody answers: namespaces of the mesh, with their failure modes.'),
  istioLabels: z.stringbool().default(false).describe('Whether labels and annotations of Istio\'s ambient mode count as ours.'),
  clusterDomain: z.string().min(1).max(253).default('cluster.local').describe('Domain of the names of services.'),
  nodeResolvConf: z.string().default('/proc/1/root/etc/resolv.conf').describe('resolv.conf of the node, for pods whose dnsPolicy is Default.'),
  auditSeconds: seconds(1, 3_600).default(10).describe('How often it is verified that each captured pod still is.'),
  releaseSeconds: seconds(0, 60).default(2).describe('How long a pod that leaves the mesh stays captured, so that the others hear of it first.'),
  complainSeconds: seconds(1, 3_600).default(30).describe('After how long there is an event about a pod that should be captured and is not.'),
  conditionsPerSecond: z.coerce.number().int().min(1).max(1_000).default(20).describe('Conditions of pods written in a second; 100 more at once.'),
  metricsAddress: endpoint.default('[::]:15022').describe('HOST:PORT of /metrics and /healthz/ready; none turns them off.'),
  logLevel: logLevelSetting,
})
export type Config = Readonly<z.infer<typeof configSchema>>

export const variables = variablesOf(configSchema.shape)

/** Throws BAD_CONFIG. */
export function readConfig(environment: Readonly<Record<string, string | undefined>>): Config {
  return readSettings(configSchema, variables, environment)
}
