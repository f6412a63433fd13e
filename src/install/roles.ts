// Who of ours may do what with the Kubernetes API, to the verb. What a process does beyond this it is refused; a test on a real
// cluster fails on that. Branches on no value (see objects.ts).
import { controlPlaneName, ztunnelName } from '../model/kubernetes-names.ts'
import { labelsOf, type InstallObject, type Json } from './common.ts'
import type { InstallValues } from './values.ts'

const read = ['get', 'list', 'watch'] as const
/** What server-side apply needs, and taking away again. */
const own = ['get', 'list', 'watch', 'create', 'patch', 'update', 'delete'] as const

const rule = (apiGroup: string, resources: readonly string[], verbs: readonly string[]): Json => ({ apiGroups: [apiGroup], resources, verbs })

const gatewayApi = 'gateway.networking.k8s.io'

/** In the whole cluster. */
const controlPlaneRules = [
  // What the mesh consists of.
  rule('', ['namespaces', 'nodes', 'pods', 'services'], read),
  rule('discovery.k8s.io', ['endpointslices'], read),
  rule('apiextensions.k8s.io', ['customresourcedefinitions'], read),
  // What people want of it.
  rule(gatewayApi, ['*'], read),
  rule('sidestep.dev', ['*'], read),
  rule('networking.istio.io', ['serviceentries', 'workloadentries', 'virtualservices', 'destinationrules'], read),
  rule('security.istio.io', ['authorizationpolicies', 'peerauthentications', 'requestauthentications'], read),
  // What became of it.
  rule('', ['namespaces/status', 'services/status'], ['patch', 'update']),
  rule(gatewayApi, ['gatewayclasses/status', 'gateways/status', 'httproutes/status', 'grpcroutes/status', 'tlsroutes/status', 'tcproutes/status', 'udproutes/status', 'backendtlspolicies/status'], ['patch', 'update']),
  rule('sidestep.dev', ['*/status'], ['patch', 'update']),
  rule('networking.istio.io', ['serviceentries/status', 'workloadentries/status', 'virtualservices/status', 'destinationrules/status'], ['patch', 'update']),
  rule('security.istio.io', ['authorizationpolicies/status', 'peerauthentications/status', 'requestauthentications/status'], ['patch', 'update']),
  rule('events.k8s.io', ['events'], ['create', 'patch']),
  rule('', ['events'], ['create', 'patch']),
  // Who asks for discovery and certificates.
  rule('authentication.k8s.io', ['tokenreviews'], ['create']),
  // What Gateways become, the roots that their pods trust, and the keys of sessions that they share. Secrets are read, too: listeners
  // of ingresses name those with their certificates.
  rule('', ['serviceaccounts', 'services', 'configmaps', 'secrets'], own),
  rule('apps', ['deployments'], own),
  rule('autoscaling', ['horizontalpodautoscalers'], own),
  rule('policy', ['poddisruptionbudgets'], own),
]

/** In our own namespace. */
const ownNamespaceRules = [
  rule('coordination.k8s.io', ['leases'], ['get', 'list', 'watch', 'create', 'update', 'patch']),
]

const nodeRules = [
  rule('', ['namespaces', 'pods'], read),
  rule('', ['pods/status'], ['patch']),
  rule('', ['events'], ['create', 'patch']),
  rule('events.k8s.io', ['events'], ['create', 'patch']),
]

export function controlPlaneRoles({ namespace }: InstallValues): InstallObject[] {
  const labels = labelsOf('controlplane')
  return [
    ...clusterWide(controlPlaneName, namespace, labels, controlPlaneRules),
    { apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'Role', metadata: { name: controlPlaneName, namespace, labels }, rules: ownNamespaceRules },
    {
      apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'RoleBinding', metadata: { name: controlPlaneName, namespace, labels },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: controlPlaneName },
      subjects: [{ kind: 'ServiceAccount', name: controlPlaneName, namespace }],
    },
  ]
}

export function nodeRoles({ namespace }: InstallValues): InstallObject[] {
  return clusterWide(ztunnelName, namespace, labelsOf('ztunnel'), nodeRules)
}

function clusterWide(name: string, namespace: string, labels: Readonly<Record<string, string>>, rules: readonly Json[]): InstallObject[] {
  return [
    { apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'ClusterRole', metadata: { name, labels }, rules },
    {
      apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'ClusterRoleBinding', metadata: { name, labels },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name },
      subjects: [{ kind: 'ServiceAccount', name, namespace }],
    },
  ]
}
