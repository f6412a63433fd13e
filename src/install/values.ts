// What somebody who installs Sidestep can choose: one table of name, default and sentence. The command line, the Helm chart with its
// schema, and docs/install.md are all made from it. Shapes and their reading only.
import { z } from 'zod'
import { MeshError } from '../core/errors.ts'
import { systemNamespace } from '../model/kubernetes-names.ts'

/** Of this checkout; a test compares it with package.json. */
export const version = '0.1.0'

const dnsLabel = z.string().regex(/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/, 'must be a DNS label in lower case')
const path = z.string().regex(/^\/[^\s:]+$/, 'must be an absolute path')
const logLevel = z.enum(['debug', 'info', 'warn', 'error'])
const texts = z.record(z.string().max(317), z.string().max(4096))
const settings = z.record(z.string().regex(/^SIDESTEP_[A-Z0-9_]+$/, 'must be a setting of docs/settings.md'), z.string('must be a text: numbers go in quotes'))
const objects = z.array(z.looseObject({}))
const quantity = z.union([z.string().regex(/^\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$/, 'must be a quantity, such as 100m or 128Mi'), z.number().min(0)])
const resources = z.strictObject({ requests: z.record(z.string(), quantity).optional(), limits: z.record(z.string(), quantity).optional() })

const image = z.strictObject({
  repository: z.string().min(1).default('sidestep').describe('Where the image of all parts is, without its tag.'),
  tag: z.string().min(1).default(version).describe('Its tag.'),
  pullPolicy: z.enum(['Always', 'IfNotPresent', 'Never']).default('IfNotPresent').describe('When nodes fetch it.'),
  pullSecrets: z.array(z.strictObject({ name: z.string().min(1) })).default([]).describe('Secrets with which they may, as a list of `name: SECRET`. Gateways need them in their own namespaces, too.'),
})

const cluster = z.strictObject({
  id: z.string().min(1).max(253).default('Kubernetes').describe('Name of this cluster.'),
  domain: z.string().min(1).max(253).default('cluster.local').describe('Domain of the names of services.'),
  network: z.string().max(253).default('').describe('Network of the pods; empty in a mesh of one network.'),
  trustDomain: z.string().regex(/^[a-z0-9._-]{1,255}$/).default('cluster.local').describe('Trust domain of all identities. A change gives everybody a new identity: policies that name the old one need an alias.'),
  trustDomainAliases: z.string().default('').describe('Trust domains that policies mean as well when they name ours, and whose peers are let in, separated by commas.'),
})

const compat = z.strictObject({
  istioLabels: z.boolean().default(false).describe("Whether Istio's ambient labels and annotations count like our own."),
})

const controlPlane = z.strictObject({
  replicas: z.int().min(1).max(20).default(2).describe('How many run. All serve; one of them, the leader, writes status and makes what Gateways ask for.'),
  logLevel: logLevel.default('info').describe('debug, info, warn or error.'),
  resources: resources.default({ requests: { cpu: '100m', memory: '192Mi' } }).describe('Requests and limits of its container. 192Mi are for some hundred pods; add 60 MiB for each 1,000.'),
  settings: settings.default({}).describe('Further settings of docs/settings.md, as `SIDESTEP_NAME: value`.'),
  nodeSelector: texts.default({ 'kubernetes.io/os': 'linux' }).describe('Nodes on which it may run.'),
  tolerations: objects.default([]).describe('Taints that it bears.'),
  podAnnotations: texts.default({}).describe('Further annotations of its pods.'),
  priorityClassName: z.string().default('system-cluster-critical').describe('Its priority.'),
})

const ztunnel = z.strictObject({
  logLevel: logLevel.default('info').describe('debug, info, warn or error.'),
  accessLog: z.enum(['json', 'text', 'off']).default('json').describe('One line for each connection: json, text or off.'),
  drainSeconds: z.int().min(0).max(31_536_000).default(3_300).describe('How long a ztunnel that is being replaced finishes its connections; those that are left then are cut.'),
  gracePeriodSeconds: z.int().min(1).max(31_536_000).default(3_600).describe('When the kubelet ends it by force; must be more than that.'),
  resources: resources.default({ requests: { cpu: '100m', memory: '160Mi' } }).describe('Requests and limits of its container. A limit on memory that is reached cuts the connections of the whole node.'),
  settings: settings.default({}).describe('Further settings of docs/settings.md, as `SIDESTEP_NAME: value`.'),
})

const agent = z.strictObject({
  logLevel: logLevel.default('info').describe('debug, info, warn or error.'),
  resources: resources.default({ requests: { cpu: '20m', memory: '128Mi' } }).describe('Requests and limits of its container.'),
  settings: settings.default({}).describe('Further settings of docs/settings.md, as `SIDESTEP_NAME: value`.'),
})

const node = z.strictObject({
  nodeSelector: texts.default({ 'kubernetes.io/os': 'linux' }).describe('Nodes that carry the mesh. Pods of others are outside.'),
  tolerations: objects.default([{ operator: 'Exists' }]).describe('Taints that ztunnels bear; all, unless told otherwise: a node without one has no mesh.'),
  podAnnotations: texts.default({}).describe('Further annotations of their pods.'),
  priorityClassName: z.string().default('system-node-critical').describe('Their priority.'),
  maxSurge: z.union([z.int().min(1), z.string().regex(/^\d{1,3}%$/)]).default('25%').describe('How many nodes are upgraded at once. The new ztunnel of a node takes over before the old one ends.'),
  cniConfigDirectory: path.default('/etc/cni/net.d').describe('Where the container runtime reads its network configuration.'),
  cniBinaryDirectory: path.default('/opt/cni/bin').describe('Where it has its network plugins.'),
  runtimeDirectory: path.default('/run/containerd').describe('Directory of its socket; /run/crio with CRI-O.'),
  runtimeSocket: z.string().regex(/^[^/\s]+$/).default('containerd.sock').describe('Name of its socket there; crio.sock with CRI-O.'),
})

function install(what: string) {
  return z.strictObject({ install: z.boolean().default(true).describe(what) }).prefault({})
}

const monitoring = z.strictObject({
  podMonitors: z.boolean().default(false).describe('PodMonitors for the Prometheus operator, whose kinds must be there. Without it, the annotations prometheus.io/scrape of the pods say the same.'),
  alerts: z.boolean().default(false).describe('Alerts, as a PrometheusRule of that operator.'),
  dashboards: z.boolean().default(false).describe("Dashboards, as ConfigMaps with Grafana's label grafana_dashboard."),
  labels: texts.default({}).describe('Further labels of these objects, by which an operator finds them.'),
})

export const installValues = z.strictObject({
  namespace: dnsLabel.default(systemNamespace).describe('Where everything goes. Helm: that of the release.'),
  image: image.prefault({}),
  cluster: cluster.prefault({}),
  compat: compat.prefault({}),
  controlPlane: controlPlane.prefault({}),
  ztunnel: ztunnel.prefault({}),
  agent: agent.prefault({}),
  node: node.prefault({}),
  crds: install('Kinds of our own. An upgrade changes them, too; they are kept when everything else is removed, because they hold what you wrote.'),
  admission: install('Rules by which the API server refuses objects that cannot work, with a sentence that says why. Needs Kubernetes 1.30.'),
  gatewayClasses: install("The classes sidestep-waypoint and sidestep-ingress. Needs Gateway API's own kinds."),
  networkPolicies: install('Who may reach our own pods.'),
  monitoring: monitoring.prefault({}),
})
export type InstallValues = z.infer<typeof installValues>

/** As somebody gave them: without defaults, and not checked yet. */
export type GivenValues = Readonly<Record<string, unknown>>

export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** As Helm does it: maps are merged, everything else is replaced, and null takes away what was there. */
export function mergeValues(under: GivenValues, over: GivenValues): GivenValues {
  const merged = new Map(Object.entries(under))
  for (const [name, value] of Object.entries(over)) {
    const before = merged.get(name)
    if (value === null) merged.delete(name)
    else merged.set(name, isRecord(before) && isRecord(value) ? mergeValues(before, value) : value)
  }
  return Object.fromEntries(merged)
}

/** Fills in defaults. Throws BAD_CONFIG with every wrong value named. */
export function readValues(given: GivenValues): InstallValues {
  const parsed = installValues.safeParse(mergeValues(installValues.parse({}), given))
  const problems = parsed.success
    ? [...contradictions(parsed.data)]
    : parsed.error.issues.map((issue) => `${issue.path.join('.') || 'values'}: ${issue.message}`)
  if (!parsed.success || problems.length > 0) throw new MeshError('BAD_CONFIG', problems.join('; '))
  return parsed.data
}

function* contradictions({ ztunnel: { drainSeconds, gracePeriodSeconds } }: InstallValues): Generator<string> {
  if (drainSeconds >= gracePeriodSeconds) yield 'ztunnel.drainSeconds: must be below ztunnel.gracePeriodSeconds, or connections are cut without notice'
}
