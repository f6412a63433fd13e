// What a Gateway of ours becomes: a ServiceAccount (its identity), a Deployment of proxies and a Service before them, as
// Kubernetes would be given them. Pure, and the only place that knows these names, labels, ports and probes; what runs in the
// container is for the caller to say. Who writes a Gateway decides about its own pods and nothing else: what makes them who
// they are cannot be overridden.
import { nativeTunnelLabel } from './enrolment.ts'
import { gatewayClassLabel, gatewayNameLabel, replicasAnnotation, settingsAnnotation, type GatewayRole } from './gateway-labels.ts'
import type { GatewayManifest } from './manifest.ts'

export const gatewayContainer = 'proxy'
export const hbonePort = 15_008
export const gatewayReadyPort = 15_021
export const gatewayMetricsPort = 15_020
/** A rolled or removed proxy has so long to finish what it carries. */
const drainSeconds = 30
const maxReplicas = 100
const maxSettings = 100
const maxSettingBytes = 4096

type Labels = Readonly<Record<string, string>>
type Json = Readonly<Record<string, unknown>>

export interface EnvironmentVariable {
  readonly name: string
  readonly value?: string
  readonly valueFrom?: { readonly fieldRef: { readonly fieldPath: string } }
}

/** What runs in the pods, in Kubernetes' own words. */
export interface GatewayRun {
  /** `command` or `image`, `volumeMounts` and the like. */
  readonly container: Json
  /** Settings that the Gateway's owner cannot change. */
  readonly env: readonly EnvironmentVariable[]
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
}

export type GatewayExpansion =
  | { readonly ok: true; readonly objects: GatewayObjects }
  /** Nothing can be made of it as it is written: why, a sentence each. */
  | { readonly ok: false; readonly problems: readonly string[] }

/** Everything that a Gateway of that role asks for. */
export function gatewayObjects(gateway: GatewayManifest, role: GatewayRole, run: GatewayRun): GatewayExpansion {
  const { name, namespace, annotations } = gateway.metadata
  const problems: string[] = []
  if (!/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(name)) problems.push('its name names a Service and labels, so it must be a DNS label of at most 63 characters')
  const replicas = replicasOf(annotations, problems)
  const settings = settingsOf(annotations, run.env, problems)
  if (problems.length > 0) return { ok: false, problems }

  const { infrastructure } = gateway.spec
  const own: Labels = { [gatewayNameLabel]: name, [gatewayClassLabel]: gateway.spec.gatewayClassName }
  const labels: Labels = { ...infrastructure?.labels, ...own }
  // The native tunnel is what keeps a ztunnel from capturing it, in whatever namespace it is.
  const podLabels: Labels = { ...infrastructure?.labels, app: name, ...own, [nativeTunnelLabel]: 'http' }
  const metadata = { name, namespace, labels, annotations: { ...infrastructure?.annotations } }
  const podAnnotations = { ...infrastructure?.annotations, ...(run.restartedAt === undefined ? {} : { 'sidestep.dev/restarted-at': run.restartedAt }) }
  const deployment = {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata,
    spec: {
      replicas,
      selector: { matchLabels: { [gatewayNameLabel]: name } },
      strategy: { type: 'RollingUpdate' },
      template: {
        metadata: { labels: podLabels, annotations: podAnnotations },
        spec: {
          serviceAccountName: name,
          terminationGracePeriodSeconds: drainSeconds,
          ...run.pod,
          containers: [{ name: gatewayContainer, ...run.container, env: [...run.env, ...settings], ports: containerPorts, ...probes }],
        },
      },
    },
  }
  const service = {
    apiVersion: 'v1',
    kind: 'Service',
    metadata,
    spec: { type: role === 'ingress' ? 'LoadBalancer' : 'ClusterIP', selector: { [gatewayNameLabel]: name }, ports: servicePorts(gateway, role) },
  }
  return { ok: true, objects: { serviceAccount: { apiVersion: 'v1', kind: 'ServiceAccount', metadata }, deployment, service } }
}

/** Not those of listeners: a listener that changes must not replace pods. */
const containerPorts = [
  { name: 'hbone', containerPort: hbonePort, protocol: 'TCP' },
  { name: 'metrics', containerPort: gatewayMetricsPort, protocol: 'TCP' },
  { name: 'ready', containerPort: gatewayReadyPort, protocol: 'TCP' },
]

const probes = {
  readinessProbe: { httpGet: { path: '/healthz/ready', port: gatewayReadyPort }, periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 3 },
  // Not readiness again: a proxy that waits for the control plane, or drains, is not cured by being killed.
  livenessProbe: { httpGet: { path: '/healthz/live', port: gatewayReadyPort }, periodSeconds: 5, timeoutSeconds: 5, failureThreshold: 6 },
}

function servicePorts({ spec }: GatewayManifest, role: GatewayRole): Json[] {
  if (role === 'waypoint') return [{ name: 'hbone', port: hbonePort, protocol: 'TCP' }]
  const words: Readonly<Record<string, string>> = { HTTP: 'http', HTTPS: 'https', TLS: 'tls', TCP: 'tcp' }
  // Several listeners on one port differ by host name.
  const byPort = new Map(spec.listeners.flatMap(({ port, protocol }) => (Object.hasOwn(words, protocol) ? [[port, words[protocol] ?? 'tcp'] as const] : [])))
  return [...byPort].map(([port, word]) => ({ name: `${word}-${port}`, port, protocol: 'TCP' }))
}

function replicasOf(annotations: Labels, problems: string[]): number {
  const text = Object.hasOwn(annotations, replicasAnnotation) ? annotations[replicasAnnotation] ?? '' : '1'
  if (/^\d{1,3}$/.test(text) && Number(text) <= maxReplicas) return Number(text)
  problems.push(`${replicasAnnotation}: ${JSON.stringify(text.slice(0, 40))} is no number from 0 to ${maxReplicas}`)
  return 0
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

function settingProblem(name: string, value: string, given: readonly EnvironmentVariable[], settings: ReadonlyMap<string, string>): string | undefined {
  if (!/^SIDESTEP_[A-Z0-9_]{1,100}$/.test(name)) return 'is not SIDESTEP_NAME=VALUE; no other variable can be set'
  if (meshSettings.test(name) || given.some((each) => each.name === name)) return 'is said by the mesh and cannot be changed'
  if (settings.has(name)) return 'is there twice'
  if (value === '') return 'has no value'
  // oxlint-disable-next-line no-control-regex
  return value.length > maxSettingBytes || /[\u0000-\u001f\u007f]/.test(value) ? `is longer than ${maxSettingBytes} characters, or has control characters` : undefined
}
