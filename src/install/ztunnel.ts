// The pod that each node has: a ztunnel, which carries the traffic of the node's pods, and the agent, which tells it of which.
// A new one stands beside the old one while a node is upgraded. What each mount and capability is for is said here and in
// docs/install.md. Branches on no value (see objects.ts).
import { nodePaths, tokenAudience, trustConfigMap, trustKeys, ztunnelName } from '../model/kubernetes-names.ts'
import { container, fromField, labelsOf, partLabels, scrapeAnnotations, variable, variables, type InstallObject, type Json } from './common.ts'
import { controlPlaneHost, discoveryPort } from './control-plane.ts'
import type { InstallValues } from './values.ts'

export const ztunnelReadyPort = 15_021
export const ztunnelMetricsPort = 15_020
/** Its metrics and its readiness. */
export const agentPort = 15_022

/** In the pod only: each agent speaks with the ztunnel of its own pod, also while two pods are on the node. */
const podRun = '/run/sidestep-pod'
const tokens = '/var/run/secrets/tokens'
const trust = '/var/run/secrets/sidestep'

export function ztunnelObjects(values: InstallValues): InstallObject[] {
  const { namespace } = values
  const metadata = { name: ztunnelName, namespace, labels: labelsOf('ztunnel') }
  return [
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata, automountServiceAccountToken: false },
    { apiVersion: 'apps/v1', kind: 'DaemonSet', metadata, spec: daemonSetSpec(values) },
  ]
}

function daemonSetSpec(values: InstallValues): Json {
  const { image, node, ztunnel } = values
  return {
    selector: { matchLabels: partLabels(ztunnelName) },
    // The new one takes the listeners over before the old one is told to end.
    updateStrategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge: node.maxSurge, maxUnavailable: 0 } },
    template: {
      metadata: {
        labels: { ...labelsOf('ztunnel'), ...partLabels(ztunnelName) },
        annotations: { ...scrapeAnnotations(ztunnelMetricsPort), ...node.podAnnotations },
      },
      spec: {
        serviceAccountName: ztunnelName,
        automountServiceAccountToken: false,
        // Services named sidestep-... would become variables that look like settings.
        enableServiceLinks: false,
        imagePullSecrets: image.pullSecrets,
        priorityClassName: node.priorityClassName,
        nodeSelector: node.nodeSelector,
        tolerations: node.tolerations,
        terminationGracePeriodSeconds: ztunnel.gracePeriodSeconds,
        // Pods' namespaces are found, and verified, by their processes.
        hostPID: true,
        securityContext: { seccompProfile: { type: 'RuntimeDefault' }, appArmorProfile: { type: 'Unconfined' } },
        containers: [ztunnelContainer(values), agentContainer(values)],
        volumes: volumes(values),
      },
    },
  }
}

/** Root without its powers, but for the named ones. */
function security(add: readonly string[]): Json {
  return { runAsUser: 0, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ['ALL'], add } }
}

function ztunnelContainer(values: InstallValues): Json {
  const { cluster, ztunnel } = values
  return {
    ...container(values, 'ztunnel', 'ztunnel'),
    env: [
      fromField('SIDESTEP_NODE', 'spec.nodeName'),
      fromField('SIDESTEP_POD_NAME', 'metadata.name'),
      fromField('SIDESTEP_POD_NAMESPACE', 'metadata.namespace'),
      fromField('SIDESTEP_INSTANCE_IP', 'status.podIP'),
      variable('SIDESTEP_AGENT_SOCKET', `${podRun}/agent.sock`),
      variable('SIDESTEP_ADMIN_SOCKET', `${podRun}/ztunnel.sock`),
      variable('SIDESTEP_XDS_ADDRESS', `${controlPlaneHost(values)}:${discoveryPort}`),
      variable('SIDESTEP_TOKEN_FILE', `${tokens}/sidestep-token`),
      variable('SIDESTEP_ROOTS_FILE', `${trust}/${trustKeys.roots}`),
      variable('SIDESTEP_CRL_FILE', `${trust}/${trustKeys.crl}`),
      variable('SIDESTEP_STATE_DIRECTORY', `${nodePaths.state}/ztunnel`),
      variable('SIDESTEP_CLUSTER_ID', cluster.id),
      variable('SIDESTEP_CLUSTER_DOMAIN', cluster.domain),
      variable('SIDESTEP_NETWORK', cluster.network),
      variable('SIDESTEP_TRUST_DOMAIN', cluster.trustDomain),
      variable('SIDESTEP_TRUST_DOMAIN_ALIASES', cluster.trustDomainAliases),
      variable('SIDESTEP_DRAIN_SECONDS', ztunnel.drainSeconds),
      variable('SIDESTEP_ACCESS_LOG', ztunnel.accessLog),
      variable('SIDESTEP_LOG_LEVEL', ztunnel.logLevel),
      ...variables(ztunnel.settings),
    ],
    ports: [
      { name: 'metrics', containerPort: ztunnelMetricsPort, protocol: 'TCP' },
      { name: 'ready', containerPort: ztunnelReadyPort, protocol: 'TCP' },
    ],
    ...probes('ready'),
    resources: ztunnel.resources,
    securityContext: security(ztunnelCapabilities),
    volumeMounts: [
      { name: 'pod-run', mountPath: podRun },
      { name: 'state', mountPath: nodePaths.state },
      { name: 'bpf', mountPath: '/sys/fs/bpf' },
      { name: 'cgroup', mountPath: '/sys/fs/cgroup' },
      { name: 'ztunnel-token', mountPath: tokens, readOnly: true },
      { name: 'trust', mountPath: trust, readOnly: true },
      { name: 'tmp', mountPath: '/tmp' },
    ],
  }
}

/**
 * SYS_ADMIN: entering pods' network namespaces, loading programs and attaching them to cgroups, a /proc of its own. NET_ADMIN: hooks of
 * network namespaces, routes and rules in them, sockets with others' addresses. SYS_PTRACE: descriptors that the agent holds open.
 * SYS_ADMIN stands for BPF and PERFMON, which are not enough without it.
 */
const ztunnelCapabilities = ['NET_ADMIN', 'SYS_ADMIN', 'SYS_PTRACE']

function agentContainer(values: InstallValues): Json {
  const { agent, cluster, compat, node } = values
  return {
    ...container(values, 'agent', 'agent'),
    env: [
      fromField('SIDESTEP_NODE', 'spec.nodeName'),
      fromField('SIDESTEP_POD_NAME', 'metadata.name'),
      fromField('SIDESTEP_POD_NAMESPACE', 'metadata.namespace'),
      variable('SIDESTEP_AGENT_SOCKET', `${podRun}/agent.sock`),
      variable('SIDESTEP_ZTUNNEL_ADMIN_SOCKET', `${podRun}/ztunnel.sock`),
      variable('SIDESTEP_CRI_SOCKET', `${node.runtimeDirectory}/${node.runtimeSocket}`),
      variable('SIDESTEP_ISTIO_LABELS', compat.istioLabels),
      variable('SIDESTEP_CLUSTER_DOMAIN', cluster.domain),
      variable('SIDESTEP_LOG_LEVEL', agent.logLevel),
      ...variables(agent.settings),
    ],
    ports: [{ name: 'agent', containerPort: agentPort, protocol: 'TCP' }],
    ...probes('agent'),
    resources: agent.resources,
    securityContext: security(agentCapabilities),
    volumeMounts: [
      { name: 'pod-run', mountPath: podRun },
      { name: 'run', mountPath: nodePaths.run },
      { name: 'state', mountPath: nodePaths.state },
      { name: 'bpf', mountPath: '/sys/fs/bpf' },
      { name: 'cgroup', mountPath: '/sys/fs/cgroup', readOnly: true },
      { name: 'netns', mountPath: '/var/run/netns', mountPropagation: 'HostToContainer', readOnly: true },
      { name: 'cni-config', mountPath: '/etc/cni/net.d' },
      { name: 'cni-binaries', mountPath: '/opt/cni/bin' },
      { name: 'runtime', mountPath: node.runtimeDirectory, readOnly: true },
      { name: 'kube-token', mountPath: '/var/run/secrets/kubernetes.io/serviceaccount', readOnly: true },
      { name: 'tmp', mountPath: '/tmp' },
    ],
  }
}

/** SYS_ADMIN: looking into pods' network namespaces and at maps and hooks. SYS_PTRACE: finding these namespaces by pods' processes. */
const agentCapabilities = ['SYS_ADMIN', 'SYS_PTRACE']

function probes(port: string): Json {
  return {
    readinessProbe: { httpGet: { path: '/healthz/ready', port }, periodSeconds: 2, timeoutSeconds: 2, failureThreshold: 3 },
    // Not readiness again: one that waits for the control plane, or drains, is not cured by being killed.
    livenessProbe: { httpGet: { path: '/healthz/live', port }, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6 },
  }
}

function volumes({ node }: InstallValues): Json[] {
  const onNode = (name: string, path: string, type?: string): Json => ({ name, hostPath: { path, ...(type === undefined ? {} : { type }) } })
  return [
    { name: 'pod-run', emptyDir: { medium: 'Memory', sizeLimit: '1Mi' } },
    { name: 'tmp', emptyDir: { sizeLimit: '64Mi' } },
    onNode('run', nodePaths.run, 'DirectoryOrCreate'),
    onNode('state', nodePaths.state, 'DirectoryOrCreate'),
    onNode('bpf', '/sys/fs/bpf', 'Directory'),
    onNode('cgroup', '/sys/fs/cgroup', 'Directory'),
    onNode('netns', '/var/run/netns', 'DirectoryOrCreate'),
    onNode('cni-config', node.cniConfigDirectory, 'DirectoryOrCreate'),
    onNode('cni-binaries', node.cniBinaryDirectory, 'DirectoryOrCreate'),
    onNode('runtime', node.runtimeDirectory),
    {
      name: 'ztunnel-token',
      projected: { defaultMode: 0o400, sources: [{ serviceAccountToken: { path: 'sidestep-token', audience: tokenAudience, expirationSeconds: 43_200 } }] },
    },
    {
      name: 'kube-token',
      projected: {
        defaultMode: 0o400,
        sources: [
          { serviceAccountToken: { path: 'token', expirationSeconds: 3_607 } },
          { configMap: { name: 'kube-root-ca.crt', items: [{ key: 'ca.crt', path: 'ca.crt' }] } },
          { downwardAPI: { items: [{ path: 'namespace', fieldRef: { fieldPath: 'metadata.namespace' } }] } },
        ],
      },
    },
    // Written by the control plane at its first start. Until then the kubelet tries again within seconds, where an optional one would be
    // looked at a minute later.
    { name: 'trust', configMap: { name: trustConfigMap } },
  ]
}
