// What a Gateway of ours becomes: a ServiceAccount (its identity), a Deployment of proxies and a Service before them, and where
// the caller wants it scaled, what scales it; as Kubernetes would be given them. Pure, and the only place that knows these
// names, labels, ports and probes; what runs in the container is for the caller to say. Who writes a Gateway decides about its own pods and nothing else: what makes them who
// they are cannot be overridden.
import { nativeTunnelLabel } from './enrolment.ts'
import { gatewayClassLabel, gatewayNameLabel, managedBy, managedByLabel, replicasAnnotation, settingsAnnotation, type GatewayRole } from './gateway-labels.ts'
import type { GatewayManifest } from './manifest.ts'

export const gatewayContainer = 'proxy'
export const hbonePort = 15_008
export const gatewayReadyPort = 15_021
export const gatewayMetricsPort = 15_020
/** A rolled or removed proxy has so long to finish what it carries. */
const drainSeconds = 30
export const maxReplicas = 100
const maxSettings = 100
const maxSettingBytes = 4096

type Labels = Readonly<Record<string, string>>
type Json = Readonly<Record<string, unknown>>

export interface EnvironmentVariable {
  readonly name: string
  readonly value?: string
  readonly valueFrom?: { readonly fieldRef: { readonly fieldPath: string } }
}

/** How many pods: a fixed number where both are the same. */
export interface ReplicaRange {
  readonly min: number
  readonly max: number
}

/** Who is served where nobody else is told to scale: the Deployment says how many pods there are. */
const onePod: ReplicaRange = { min: 1, max: 1 }

/** What runs in the pods, in Kubernetes' own words. */
export interface GatewayRun {
  /** `command` or `image`, `volumeMounts` and the like. */
  readonly container: Json
  /** Settings that the Gateway's owner cannot change. */
  readonly env: readonly EnvironmentVariable[]
  /** Settings that its owner can. */
  readonly defaults?: readonly EnvironmentVariable[]
  /** Further fields of the ServiceAccount, and of the Service's spec. */
  readonly serviceAccount?: Json
  readonly service?: Json
  /** Something beside the Deployment scales it: then that one says nothing of a number, and further objects are made. */
  readonly scaling?: { readonly replicas: ReplicaRange; /** What each pod should use at most, as Kubernetes writes amounts. */ readonly cpu: string }
  /** Further fields of the pod's spec, for example `volumes`. */
  readonly pod?: Json
  /** Changes where all pods are to be replaced though nothing else changed. */
  readonly restartedAt?: string
}

/** Objects of the API, with apiVersion and kind; all bear the Gateway's name. */
export interface GatewayObjects {
  readonly serviceAccount: Json
  readonly deployment: Json
  readonly service: Json
  /** Only where somebody scales, and the number is not fixed. */
  readonly horizontalPodAutoscaler?: Json
  /** Only where somebody scales. */
  readonly podDisruptionBudget?: Json
}

export type GatewayExpansion =
  | { readonly ok: true; readonly objects: GatewayObjects; readonly replicas: ReplicaRange }
  /** Nothing can be made of it as it is written: why, a sentence each. */
  | { readonly ok: false; readonly problems: readonly string[] }

/** Everything that a Gateway of that role asks for. */
export function gatewayObjects(gateway: GatewayManifest, role: GatewayRole, run: GatewayRun): GatewayExpansion {
  const { name, namespace, annotations } = gateway.metadata
  const problems: string[] = []
  if (!/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(name)) problems.push('its name names a Service and labels, so it must be a DNS label of at most 63 characters')
  const replicas = replicasOf(annotations, run.scaling?.replicas ?? onePod, problems)
  const settings = settingsOf(annotations, run.env, problems)
  if (problems.length > 0) return { ok: false, problems }

  const { infrastructure } = gateway.spec
  const own: Labels = { [gatewayNameLabel]: name, [gatewayClassLabel]: gateway.spec.gatewayClassName }
  const labels: Labels = { ...infrastructure?.labels, ...own, [managedByLabel]: managedBy }
  // The native tunnel is what keeps a ztunnel from capturing it, in whatever namespace it is.
  const podLabels: Labels = { ...infrastructure?.labels, app: name, ...own, [nativeTunnelLabel]: 'http' }
  const metadata = { name, namespace, labels, annotations: { ...infrastructure?.annotations } }
  const podAnnotations = { ...infrastructure?.annotations, ...(run.restartedAt === undefined ? {} : { 'sidestep.dev/restarted-at': run.restartedAt }) }
  const selector: Labels = { [gatewayNameLabel]: name }
  const chosen = new Set(settings.map((each) => each.name))
  const env = [...run.env, ...(run.defaults ?? []).filter((each) => !chosen.has(each.name)), ...settings]
  const deployment = {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata,
    spec: {
      ...(run.scaling ? {} : { replicas: replicas.min }),
      selector: { matchLabels: selector },
      strategy: { type: 'RollingUpdate' },
      template: {
        metadata: { labels: podLabels, annotations: podAnnotations },
        spec: {
          serviceAccountName: name,
          terminationGracePeriodSeconds: drainSeconds,
          ...run.pod,
          containers: [{ name: gatewayContainer, ...run.container, env, ports: containerPorts, ...probes }],
        },
      },
    },
  }
  const service = {
    apiVersion: 'v1',
    kind: 'Service',
    metadata,
    spec: { type: role === 'ingress' ? 'LoadBalancer' : 'ClusterIP', ...run.service, selector, ports: servicePorts(gateway, role) },
  }
  const serviceAccount = { apiVersion: 'v1', kind: 'ServiceAccount', metadata, ...run.serviceAccount }
  return { ok: true, replicas, objects: { serviceAccount, deployment, service, ...(run.scaling ? scalers(metadata, selector, replicas, run.scaling.cpu) : {}) } }
}

/** What keeps the right number of pods under load, and enough of them while nodes are drained. */
function scalers(metadata: { readonly name: string }, selector: Labels, { min, max }: ReplicaRange, cpu: string): Pick<GatewayObjects, 'horizontalPodAutoscaler' | 'podDisruptionBudget'> {
  const horizontalPodAutoscaler = {
    apiVersion: 'autoscaling/v2',
    kind: 'HorizontalPodAutoscaler',
    metadata,
    spec: {
      scaleTargetRef: { apiVersion: 'apps/v1', kind: 'Deployment', name: metadata.name },
      minReplicas: min,
      maxReplicas: max,
      // An amount, not a part of what is requested: a proxy is one thread, so one core is all that it can use, whatever it requests.
      metrics: [{ type: 'Resource', resource: { name: 'cpu', target: { type: 'AverageValue', averageValue: cpu } } }],
      // Each pod that goes ends connections that stand: one at a time, and not for a short lull.
      behavior: { scaleDown: { stabilizationWindowSeconds: 300, policies: [{ type: 'Pods', value: 1, periodSeconds: 60 }] } },
    },
  }
  const podDisruptionBudget = {
    apiVersion: 'policy/v1',
    kind: 'PodDisruptionBudget',
    metadata,
    // Not minAvailable: with one pod that would keep its node from ever being drained.
    spec: { selector: { matchLabels: selector }, maxUnavailable: 1 },
  }
  return { podDisruptionBudget, ...(min === max ? {} : { horizontalPodAutoscaler }) }
}

/** Not those of listeners: a listener that changes must not replace pods. */
const containerPorts = [
  { name: 'hbone', containerPort: hbonePort, protocol: 'TCP' },
  { name: 'metrics', containerPort: gatewayMetricsPort, protocol: 'TCP' },
  { name: 'ready', containerPort: gatewayReadyPort, protocol: 'TCP' },
]

const live = { httpGet: { path: '/healthz/live', port: gatewayReadyPort }, timeoutSeconds: 5 } as const
const probes = {
  // On a machine that starts a hundred others at the same time.
  startupProbe: { ...live, periodSeconds: 1, failureThreshold: 120 },
  readinessProbe: { httpGet: { path: '/healthz/ready', port: gatewayReadyPort }, periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 3 },
  // Not readiness again: a proxy that waits for the control plane, or drains, is not cured by being killed.
  livenessProbe: { ...live, periodSeconds: 5, failureThreshold: 6 },
}

function servicePorts({ spec }: GatewayManifest, role: GatewayRole): Json[] {
  if (role === 'waypoint') return [{ name: 'hbone', port: hbonePort, protocol: 'TCP' }]
  const words: Readonly<Record<string, string>> = { HTTP: 'http', HTTPS: 'https', TLS: 'tls', TCP: 'tcp' }
  // Several listeners on one port differ by host name.
  const byPort = new Map(spec.listeners.flatMap(({ port, protocol }) => (Object.hasOwn(words, protocol) ? [[port, words[protocol] ?? 'tcp'] as const] : [])))
  return [...byPort].map(([port, word]) => ({ name: `${word}-${port}`, port, protocol: 'TCP' }))
}

/** `3`, or `2-10`; undefined for anything else. */
export function parseReplicas(text: string): ReplicaRange | undefined {
  const [, least, most] = /^(\d{1,3})(?:-(\d{1,3}))?$/.exec(text) ?? []
  if (least === undefined) return undefined
  const [min, max] = [Number(least), Number(most ?? least)]
  // A range from 0 would need somebody who notices that there is work to do.
  return max <= maxReplicas && min <= max && (min > 0 || max === 0) ? { min, max } : undefined
}

function replicasOf(annotations: Labels, otherwise: ReplicaRange, problems: string[]): ReplicaRange {
  if (!Object.hasOwn(annotations, replicasAnnotation)) return otherwise
  const text = annotations[replicasAnnotation] ?? ''
  const range = parseReplicas(text)
  if (!range) problems.push(`${replicasAnnotation}: ${JSON.stringify(text.slice(0, 40))} is neither a number from 0 to ${maxReplicas} nor a range as 2-10`)
  return range ?? otherwise
}

/** Who it is, whom it trusts and what it may call its own: the mesh says so, not the owner of the Gateway. */
const meshSettings = /^SIDESTEP_(TOKEN|XDS|CA|ROOTS|CRL|SERVER|TRUST|NODE|POD|GATEWAY|SERVICE|INSTANCE|CLUSTER|NETWORK|STATE|ADMIN|HBONE|READINESS|METRICS_ADDRESS|SESSION_KEY|NATIVE)(_|$)/

function settingsOf(annotations: Labels, given: readonly EnvironmentVariable[], problems: string[]): EnvironmentVariable[] {
  const text = Object.hasOwn(annotations, settingsAnnotation) ? annotations[settingsAnnotation] ?? '' : ''
  const lines = text.split('\n').map((line) => line.trim()).filter((line) => line !== '' && !line.startsWith('#'))
  const settings = new Map<string, string>()
  const refuse = (line: string, why: string): void => void problems.push(`${settingsAnnotation}: ${JSON.stringify(line.slice(0, 60))} ${why}`)
  if (lines.length > maxSettings) problems.push(`${settingsAnnotation}: more than ${maxSettings} settings`)
  for (const line of lines.slice(0, maxSettings)) {
    const [, name = '', value = ''] = /^([^=]*)=(.*)$/.exec(line) ?? []
    const problem = settingProblem(name, value, given, settings)
    if (problem === undefined) settings.set(name, value)
    else refuse(line, problem)
  }
  // `$(NAME)` would be replaced by another variable; what is written is what is meant.
  return [...settings].map(([name, value]) => ({ name, value: value.replaceAll('$', '$$$$') }))
}

/** Why a variable cannot be set by who owns the Gateway; undefined if it can. */
export function settingProblem(name: string, value: string, given: readonly EnvironmentVariable[], settings: ReadonlyMap<string, string>): string | undefined {
  if (!/^SIDESTEP_[A-Z0-9_]{1,100}$/.test(name)) return 'is not SIDESTEP_NAME=VALUE; no other variable can be set'
  if (meshSettings.test(name) || given.some((each) => each.name === name)) return 'is said by the mesh and cannot be changed'
  if (settings.has(name)) return 'is there twice'
  if (value === '') return 'has no value'
  // oxlint-disable-next-line no-control-regex
  return value.length > maxSettingBytes || /[\u0000-\u001f\u007f]/.test(value) ? `is longer than ${maxSettingBytes} characters, or has control characters` : undefined
}
