// What runs in the pods of Gateways on Kubernetes: our image as a waypoint, with no rights, a file system that it cannot write, a
// token for the control plane alone, and the few files that it shares. The objects around it are model/gateway-objects.ts. Pure.
import type { GatewayRole } from '../../model/gateway-labels.ts'
import type { GatewayRun, ReplicaRange } from '../../model/gateway-objects.ts'
import { controlPlaneName, programs, tokenAudience, trustConfigMap, trustKeys } from '../../model/kubernetes-names.ts'

export interface GatewaySettings {
  /** Of the pods; Gateways have no pods without one. */
  readonly image: string
  readonly imagePullPolicy?: 'Always' | 'IfNotPresent' | 'Never'
  /** In the Gateways' namespaces. */
  readonly imagePullSecrets?: readonly string[]
  /** Where its Gateway does not say it. */
  readonly replicas: ReplicaRange
  /** Where the control plane is installed. */
  readonly systemNamespace: string
  readonly controlPlanePort: number
  /** What proxies must agree on with the control plane. */
  readonly clusterId: string
  readonly clusterDomain: string
  readonly network: string
  readonly trustDomain: string
  /** Separated by commas. */
  readonly trustDomainAliases: string
}

/** `2` and so on in front of a unit: measured at rest, and what one thread can use. */
const requests = { cpu: '100m', memory: '192Mi' } as const
const limits = { memory: '1Gi' } as const
/** More than this on average, and there are more pods: a proxy is one thread, and shares its core with the collection of garbage. */
const cpuTarget = '600m'
/** Of the image. */
const userId = 65_532
/** Until nobody's load balancer, kube-proxy or ztunnel sends to a pod that is told to end. */
const drainDelayMs = { waypoint: 2_000, ingress: 5_000 } as const
const drainSeconds = 25
/** Together with what ending takes. */
const graceSeconds = 40
const root = '/run/sidestep'
const inside = { trust: `${root}/trust`, token: `${root}/token`, shared: `${root}/shared`, state: `${root}/state` } as const
export const sessionKeysFile = 'session.keys'

/** Keys that all pods of a Gateway share, in its namespace. */
export function sessionSecretName(gateway: string): string {
  return `${gateway}-session-keys`
}

export function gatewayRun({ namespace, name }: { readonly namespace: string; readonly name: string }, role: GatewayRole, settings: GatewaySettings): GatewayRun {
  const field = (fieldPath: string): { valueFrom: { fieldRef: { fieldPath: string } } } => ({ valueFrom: { fieldRef: { fieldPath } } })
  const mount = (volume: keyof typeof inside, readOnly = true): object => ({ name: volume, mountPath: inside[volume], ...(readOnly ? { readOnly } : {}) })
  const server = `${controlPlaneName}.${settings.systemNamespace}.svc`
  return {
    container: {
      image: settings.image,
      ...(settings.imagePullPolicy === undefined ? {} : { imagePullPolicy: settings.imagePullPolicy }),
      command: [programs.waypoint],
      resources: { requests, limits },
      securityContext: {
        allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, runAsNonRoot: true, runAsUser: userId, runAsGroup: userId, capabilities: { drop: ['ALL'] },
      },
      volumeMounts: [mount('trust'), mount('token'), mount('shared'), mount('state', false)],
      terminationMessagePolicy: 'FallbackToLogsOnError',
    },
    pod: {
      automountServiceAccountToken: false,
      // Services named sidestep-... would become variables that look like settings.
      enableServiceLinks: false,
      ...((settings.imagePullSecrets ?? []).length > 0 ? { imagePullSecrets: settings.imagePullSecrets?.map((each) => ({ name: each })) } : {}),
      nodeSelector: { 'kubernetes.io/os': 'linux' },
      terminationGracePeriodSeconds: graceSeconds,
      securityContext: {
        runAsNonRoot: true, fsGroup: userId, seccompProfile: { type: 'RuntimeDefault' },
        // Low ports without any capability, which a process of this user would not get anyway.
        ...(role === 'ingress' ? { sysctls: [{ name: 'net.ipv4.ip_unprivileged_port_start', value: '0' }] } : {}),
      },
      topologySpreadConstraints: ['topology.kubernetes.io/zone', 'kubernetes.io/hostname'].map((topologyKey) => ({
        maxSkew: 1, topologyKey, whenUnsatisfiable: 'ScheduleAnyway', labelSelector: { matchLabels: { 'gateway.networking.k8s.io/gateway-name': name } },
      })),
      volumes: [
        { name: 'trust', configMap: { name: trustConfigMap } },
        { name: 'token', projected: { sources: [{ serviceAccountToken: { path: 'token', audience: tokenAudience, expirationSeconds: 3_600 } }] } },
        { name: 'shared', secret: { secretName: sessionSecretName(name) } },
        { name: 'state', emptyDir: { sizeLimit: '64Mi' } },
      ],
    },
    serviceAccount: { automountServiceAccountToken: false },
    service: { ipFamilyPolicy: 'PreferDualStack' },
    scaling: { replicas: settings.replicas, cpu: cpuTarget },
    env: [
      { name: 'SIDESTEP_GATEWAY', value: `${namespace}/${name}` },
      { name: 'SIDESTEP_POD_NAME', ...field('metadata.name') },
      { name: 'SIDESTEP_POD_NAMESPACE', ...field('metadata.namespace') },
      { name: 'SIDESTEP_SERVICE_ACCOUNT', ...field('spec.serviceAccountName') },
      { name: 'SIDESTEP_INSTANCE_IP', ...field('status.podIP') },
      { name: 'SIDESTEP_NODE', ...field('spec.nodeName') },
      { name: 'SIDESTEP_XDS_ADDRESS', value: `${server}:${settings.controlPlanePort}` },
      { name: 'SIDESTEP_SERVER_NAME', value: server },
      { name: 'SIDESTEP_CLUSTER_ID', value: settings.clusterId },
      { name: 'SIDESTEP_CLUSTER_DOMAIN', value: settings.clusterDomain },
      { name: 'SIDESTEP_NETWORK', value: settings.network },
      { name: 'SIDESTEP_TRUST_DOMAIN', value: settings.trustDomain },
      { name: 'SIDESTEP_TRUST_DOMAIN_ALIASES', value: settings.trustDomainAliases },
      { name: 'SIDESTEP_TOKEN_FILE', value: `${inside.token}/token` },
      { name: 'SIDESTEP_ROOTS_FILE', value: `${inside.trust}/${trustKeys.roots}` },
      { name: 'SIDESTEP_CRL_FILE', value: `${inside.trust}/${trustKeys.crl}` },
      { name: 'SIDESTEP_SESSION_KEY_FILE', value: `${inside.shared}/${sessionKeysFile}` },
      { name: 'SIDESTEP_STATE_DIRECTORY', value: inside.state },
      { name: 'SIDESTEP_ADMIN_SOCKET', value: `${inside.state}/admin.sock` },
    ].filter(({ value }) => value !== ''),
    defaults: [
      { name: 'SIDESTEP_DRAIN_DELAY_MS', value: String(drainDelayMs[role]) },
      { name: 'SIDESTEP_DRAIN_SECONDS', value: String(drainSeconds) },
    ],
  }
}
