// The control plane: a Deployment whose replicas all serve discovery and certificates, a Service before them, and what keeps one of
// them there while nodes are drained. Branches on no value (see objects.ts).
import { controlPlaneName, tokenAudience } from '../model/kubernetes-names.ts'
import { container, fromField, imageOf, labelsOf, partLabels, scrapeAnnotations, variable, variables, type InstallObject, type Json } from './common.ts'
import type { InstallValues } from './values.ts'

export const discoveryPort = 15_012
export const controlPlaneMetricsPort = 15_014

/** Names by which proxies reach it, and that its certificate bears. */
export function controlPlaneHost({ namespace }: InstallValues): string {
  return `${controlPlaneName}.${namespace}.svc`
}

export function controlPlaneObjects(values: InstallValues): InstallObject[] {
  const { namespace } = values
  const metadata = { name: controlPlaneName, namespace, labels: labelsOf('controlplane') }
  const selector = { matchLabels: partLabels(controlPlaneName) }
  return [
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata, automountServiceAccountToken: false },
    {
      apiVersion: 'v1', kind: 'Service', metadata,
      spec: {
        selector: selector.matchLabels,
        ports: [
          { name: 'grpc-discovery', port: discoveryPort, targetPort: 'discovery', protocol: 'TCP' },
          { name: 'http-metrics', port: controlPlaneMetricsPort, targetPort: 'metrics', protocol: 'TCP' },
        ],
      },
    },
    // Not `minAvailable: 1`: a single replica could then never be evicted, and its node never drained.
    { apiVersion: 'policy/v1', kind: 'PodDisruptionBudget', metadata, spec: { maxUnavailable: 1, selector } },
    { apiVersion: 'apps/v1', kind: 'Deployment', metadata, spec: deploymentSpec(values, selector) },
  ]
}

function deploymentSpec(values: InstallValues, selector: Json): Json {
  const { controlPlane, image } = values
  return {
    replicas: controlPlane.replicas,
    selector,
    // A new one serves before an old one goes: proxies then always have one to go to.
    strategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } },
    template: {
      metadata: {
        labels: { ...labelsOf('controlplane'), ...partLabels(controlPlaneName) },
        annotations: { ...scrapeAnnotations(controlPlaneMetricsPort), ...controlPlane.podAnnotations },
      },
      spec: {
        serviceAccountName: controlPlaneName,
        automountServiceAccountToken: true,
        enableServiceLinks: false,
        imagePullSecrets: image.pullSecrets,
        priorityClassName: controlPlane.priorityClassName,
        nodeSelector: controlPlane.nodeSelector,
        tolerations: controlPlane.tolerations,
        topologySpreadConstraints: ['kubernetes.io/hostname', 'topology.kubernetes.io/zone'].map((topologyKey) => ({
          maxSkew: 1, topologyKey, whenUnsatisfiable: 'ScheduleAnyway', labelSelector: selector,
        })),
        // Streams are moved to the others before it ends.
        terminationGracePeriodSeconds: 30,
        securityContext: { runAsNonRoot: true, runAsUser: 65_532, runAsGroup: 65_532, fsGroup: 65_532, seccompProfile: { type: 'RuntimeDefault' } },
        containers: [controlPlaneContainer(values)],
        volumes: [
          { name: 'state', emptyDir: { medium: 'Memory', sizeLimit: '16Mi' } },
          { name: 'run', emptyDir: { medium: 'Memory', sizeLimit: '1Mi' } },
        ],
      },
    },
  }
}

function controlPlaneContainer(values: InstallValues): Json {
  const { cluster, compat, controlPlane } = values
  const host = controlPlaneHost(values)
  return {
    ...container(values, 'controlplane', 'controlPlane'),
    env: [
      variable('SIDESTEP_SOURCE', 'kubernetes'),
      fromField('SIDESTEP_POD_NAMESPACE', 'metadata.namespace'),
      fromField('SIDESTEP_POD_NAME', 'metadata.name'),
      variable('SIDESTEP_SERVER_NAMES', `${host},${host}.${cluster.domain}`),
      variable('SIDESTEP_TOKEN_AUDIENCE', tokenAudience),
      variable('SIDESTEP_PROXY_IMAGE', imageOf(values)),
      variable('SIDESTEP_PROXY_IMAGE_PULL_POLICY', values.image.pullPolicy),
      variable('SIDESTEP_CLUSTER_ID', cluster.id),
      variable('SIDESTEP_CLUSTER_DOMAIN', cluster.domain),
      variable('SIDESTEP_NETWORK', cluster.network),
      variable('SIDESTEP_TRUST_DOMAIN', cluster.trustDomain),
      variable('SIDESTEP_TRUST_DOMAIN_ALIASES', cluster.trustDomainAliases),
      variable('SIDESTEP_ISTIO_LABELS', compat.istioLabels),
      variable('SIDESTEP_LOG_LEVEL', controlPlane.logLevel),
      ...variables(controlPlane.settings),
    ],
    ports: [
      { name: 'discovery', containerPort: discoveryPort, protocol: 'TCP' },
      { name: 'metrics', containerPort: controlPlaneMetricsPort, protocol: 'TCP' },
    ],
    readinessProbe: { httpGet: { path: '/ready', port: 'metrics' }, periodSeconds: 2, timeoutSeconds: 2, failureThreshold: 3 },
    // Not readiness again: one that waits for the API server is not cured by being killed.
    livenessProbe: { httpGet: { path: '/live', port: 'metrics' }, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6 },
    resources: controlPlane.resources,
    securityContext: { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ['ALL'] } },
    volumeMounts: [{ name: 'state', mountPath: '/var/lib/sidestep' }, { name: 'run', mountPath: '/run/sidestep' }],
  }
}
