// What a test cluster has beyond Kubernetes itself: its name server, and the right of kube-proxy to watch services. Pure: objects to apply.
import type { Layout } from './addresses.ts'
import { corednsReference } from './images.ts'

const name = 'coredns'
const namespace = 'kube-system'
const labels = { 'k8s-app': 'kube-dns' }

/** As kubeadm installs them, as a list in JSON. */
export function addons(layout: Layout): string {
  const corefile = `.:53 {
    errors
    health {
      lameduck 1s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
      pods insecure
      fallthrough in-addr.arpa ip6.arpa
      ttl 5
    }
    cache 5
    loadbalance
}
`
  return JSON.stringify({
    apiVersion: 'v1', kind: 'List', items: [
      roleBinding('kube-proxy', 'system:node-proxier', { kind: 'User', name: 'system:kube-proxy', apiGroup: 'rbac.authorization.k8s.io' }),
      { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name, namespace } },
      {
        apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'ClusterRole', metadata: { name: 'system:coredns' },
        rules: [
          { apiGroups: [''], resources: ['endpoints', 'services', 'pods', 'namespaces'], verbs: ['list', 'watch'] },
          { apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'], verbs: ['list', 'watch'] },
        ],
      },
      roleBinding('system:coredns', 'system:coredns', { kind: 'ServiceAccount', name, namespace }),
      { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name, namespace }, data: { Corefile: corefile } },
      {
        apiVersion: 'v1', kind: 'Service', metadata: { name: 'kube-dns', namespace, labels: { ...labels, 'kubernetes.io/cluster-service': 'true', 'kubernetes.io/name': 'CoreDNS' } },
        spec: {
          selector: labels, clusterIP: layout.dnsService.v4, clusterIPs: [layout.dnsService.v4, layout.dnsService.v6], ipFamilyPolicy: 'RequireDualStack', ipFamilies: ['IPv4', 'IPv6'],
          ports: [{ name: 'dns', port: 53, protocol: 'UDP' }, { name: 'dns-tcp', port: 53, protocol: 'TCP' }, { name: 'metrics', port: 9153, protocol: 'TCP' }],
        },
      },
      {
        apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name, namespace, labels },
        spec: {
          replicas: 2, selector: { matchLabels: labels }, strategy: { type: 'RollingUpdate', rollingUpdate: { maxUnavailable: 1 } },
          template: {
            metadata: { labels },
            spec: {
              serviceAccountName: name, priorityClassName: 'system-cluster-critical', dnsPolicy: 'Default', terminationGracePeriodSeconds: 5,
              tolerations: [{ key: 'CriticalAddonsOnly', operator: 'Exists' }, { key: 'node.kubernetes.io/not-ready', operator: 'Exists' }],
              topologySpreadConstraints: [{ maxSkew: 1, topologyKey: 'kubernetes.io/hostname', whenUnsatisfiable: 'ScheduleAnyway', labelSelector: { matchLabels: labels } }],
              containers: [{
                name, image: corednsReference, imagePullPolicy: 'Never', args: ['-conf', '/etc/coredns/Corefile'],
                ports: [{ name: 'dns', containerPort: 53, protocol: 'UDP' }, { name: 'dns-tcp', containerPort: 53, protocol: 'TCP' }],
                livenessProbe: { httpGet: { path: '/health', port: 8080 }, initialDelaySeconds: 30, timeoutSeconds: 5 },
                readinessProbe: { httpGet: { path: '/ready', port: 8181 }, periodSeconds: 1 },
                securityContext: { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { add: ['NET_BIND_SERVICE'], drop: ['ALL'] } },
                volumeMounts: [{ name: 'config', mountPath: '/etc/coredns', readOnly: true }],
              }],
              volumes: [{ name: 'config', configMap: { name } }],
            },
          },
        },
      },
    ],
  })
}

function roleBinding(bindingName: string, role: string, subject: Readonly<Record<string, string>>): Record<string, unknown> {
  return {
    apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'ClusterRoleBinding', metadata: { name: bindingName },
    roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: role }, subjects: [subject],
  }
}
