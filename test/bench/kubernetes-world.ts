// The cluster that the part `kubernetes` measures: nodes, services and pods as kubelets and controllers would have written them, by
// way of the API. Nobody runs them. The same numbers always give the same cluster.
import { setTimeout as sleep } from 'node:timers/promises'
import { isNotFound } from '../../src/kube/answers.ts'
import type { KubeClient } from '../../src/kube/client.ts'
import {
  capturedCondition, controlPlaneName, systemNamespace, tokenAudience, trustConfigMap, trustKeys, ztunnelName,
} from '../../src/model/kubernetes-names.ts'

export interface KubernetesSize {
  /** Few and many: what grows is compared. */
  readonly pods: readonly [number, number]
  readonly services: number
  /** Nodes, each with a ztunnel. */
  readonly nodes: number
  readonly namespaces: number
  /** Of labels, one after another; half as many pods come, and go; a quarter as many policies. */
  readonly changes: number
  readonly idleMs: number
}

export const fullKubernetes: KubernetesSize = { pods: [500, 5_000], services: 1_000, nodes: 100, namespaces: 50, changes: 100, idleMs: 20_000 }
export const quickKubernetes: KubernetesSize = { pods: [20, 60], services: 20, nodes: 5, namespaces: 4, changes: 4, idleMs: 1_000 }

export const policyDefinition = {
  apiVersion: 'apiextensions.k8s.io/v1', kind: 'CustomResourceDefinition', metadata: { name: 'authorizationpolicies.security.istio.io' },
  spec: {
    group: 'security.istio.io', scope: 'Namespaced', names: { plural: 'authorizationpolicies', singular: 'authorizationpolicy', kind: 'AuthorizationPolicy' },
    versions: [{
      name: 'v1', served: true, storage: true, subresources: { status: {} },
      schema: { openAPIV3Schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } },
    }],
  },
}

const atOnce = 24
const address = (net: number, i: number): string => `${net}.${(i >> 16) & 255}.${(i >> 8) & 255}.${i & 255}`
const nodeName = (i: number): string => `node-${i}`

export async function inParallel(count: number, run: (index: number) => Promise<unknown>): Promise<void> {
  let next = 0
  await Promise.all(Array.from({ length: atOnce }, async () => {
    while (next < count) await run(next++)
  }))
}

export interface PodName {
  readonly namespace: string
  readonly name: string
}

export class KubernetesWorld {
  readonly #api: KubeClient
  readonly #size: KubernetesSize
  #pods = 0

  constructor(api: KubeClient, size: KubernetesSize) {
    this.#api = api
    this.#size = size
  }

  namespaceOf(i: number): string {
    return `ns-${i % this.#size.services % this.#size.namespaces}`
  }

  podName(i: number): PodName {
    return { namespace: this.namespaceOf(i), name: `app-${i % this.#size.services}-7d9f8b6c5d-${i}` }
  }

  /** As discovery names it. */
  workloadOf(i: number): string {
    const { namespace, name } = this.podName(i)
    return `Kubernetes//Pod/${namespace}/${name}`
  }

  /** All but the pods, and a ztunnel on each node. */
  async make(): Promise<void> {
    const { nodes, namespaces, services } = this.#size
    await this.#api.create('/apis/apiextensions.k8s.io/v1/customresourcedefinitions', policyDefinition)
    const account = (namespace: string, name: string): Promise<unknown> =>
      this.#api.create(`/api/v1/namespaces/${namespace}/serviceaccounts`, { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name } })
    const namespace = (name: string, labels: object): Promise<unknown> =>
      this.#api.create('/api/v1/namespaces', { apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels } })
    await namespace(systemNamespace, {})
    await Promise.all([ztunnelName, controlPlaneName].map((name) => account(systemNamespace, name)))
    await this.#api.create('/apis/rbac.authorization.k8s.io/v1/clusterrolebindings', {
      apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'ClusterRoleBinding', metadata: { name: 'bench' },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'cluster-admin' },
      subjects: [{ kind: 'ServiceAccount', name: controlPlaneName, namespace: systemNamespace }],
    })
    await inParallel(namespaces, async (i) => {
      await namespace(`ns-${i}`, { 'sidestep.dev/mesh': 'enabled' })
      await account(`ns-${i}`, 'app')
    })
    await inParallel(nodes, (i) => this.#makeNode(i))
    await inParallel(services, (i) => this.#makeService(i))
  }

  async #makeNode(i: number): Promise<void> {
    const labels = { 'kubernetes.io/hostname': nodeName(i), 'topology.kubernetes.io/region': 'r1', 'topology.kubernetes.io/zone': `z${i % 3}` }
    await this.#api.create('/api/v1/nodes', { apiVersion: 'v1', kind: 'Node', metadata: { name: nodeName(i), labels } })
    const pods = `/api/v1/namespaces/${systemNamespace}/pods`
    await this.#api.create(pods, {
      apiVersion: 'v1', kind: 'Pod', metadata: { name: `${ztunnelName}-${i}`, labels: { app: ztunnelName } },
      spec: { ...spec(nodeName(i), ztunnelName), terminationGracePeriodSeconds: 0 },
    })
    await this.#api.patch(`${pods}/${ztunnelName}-${i}/status`, { status: status(address(11, i)) }, 'merge')
  }

  async #makeService(i: number): Promise<void> {
    const namespace = this.namespaceOf(i)
    await this.#api.create(`/api/v1/namespaces/${namespace}/services`, {
      apiVersion: 'v1', kind: 'Service', metadata: { name: `app-${i}` },
      spec: { selector: { app: `app-${i}` }, ports: [{ name: 'http', port: 80, targetPort: 'http' }] },
    })
  }

  /** Adds pods until there are so many, and the slices of their services. */
  async growTo(pods: number): Promise<void> {
    const from = this.#pods
    await inParallel(pods - from, (i) => this.addPod(from + i))
    this.#pods = pods
    await inParallel(this.#size.services, (i) => this.#writeSlice(i))
  }

  /** As scheduler and kubelet write it: without address first, then with all that makes it ready and captured. */
  async addPod(i: number, beforeReady: () => unknown = () => {}): Promise<void> {
    const { namespace, name } = this.podName(i)
    const service = i % this.#size.services
    const pods = `/api/v1/namespaces/${namespace}/pods`
    await this.#api.create(pods, {
      apiVersion: 'v1', kind: 'Pod',
      metadata: {
        name, labels: { app: `app-${service}`, version: 'v1', 'pod-template-hash': '7d9f8b6c5d' },
        annotations: { 'kubectl.kubernetes.io/restartedAt': '2026-11-21T00:00:00Z' },
        ownerReferences: [{ apiVersion: 'apps/v1', kind: 'ReplicaSet', name: `app-${service}-7d9f8b6c5d`, uid: `rs-${service}`, controller: true }],
      },
      spec: { ...spec(nodeName(i % this.#size.nodes), 'app'), terminationGracePeriodSeconds: 0 },
    })
    await beforeReady()
    await this.#api.patch(`${pods}/${name}/status`, { status: status(address(10, i)) }, 'merge')
  }

  async relabel(i: number, version: string): Promise<void> {
    const { namespace, name } = this.podName(i)
    await this.#api.patch(`/api/v1/namespaces/${namespace}/pods/${name}`, { metadata: { labels: { version } } }, 'merge')
  }

  async removePod(i: number): Promise<void> {
    const { namespace, name } = this.podName(i)
    await this.#api.delete(`/api/v1/namespaces/${namespace}/pods/${name}`, { query: { gracePeriodSeconds: 0 } })
  }

  async addPolicy(i: number): Promise<string> {
    const [namespace, name] = [this.namespaceOf(i), `bench-${i}`]
    await this.#api.create(`/apis/security.istio.io/v1/namespaces/${namespace}/authorizationpolicies`, {
      apiVersion: 'security.istio.io/v1', kind: 'AuthorizationPolicy', metadata: { name },
      spec: {
        selector: { matchLabels: { app: `app-${i % this.#size.services}` } }, action: 'ALLOW',
        rules: [{ from: [{ source: { principals: ['cluster.local/ns/*'] } }], to: [{ operation: { ports: ['8080'] } }] }],
      },
    })
    return `${namespace}/${name}`
  }

  /** For the API server, of the control plane. */
  async controlPlaneToken(): Promise<string> {
    const made = await this.#api.create(`/api/v1/namespaces/${systemNamespace}/serviceaccounts/${controlPlaneName}/token`, {
      apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', metadata: {}, spec: { expirationSeconds: 7_200 },
    })
    return (made.status as { token: string }).token
  }

  /** A token as the kubelet of that node would have projected into its ztunnel. */
  async token(node: number): Promise<string> {
    const pod = await this.#api.get(`/api/v1/namespaces/${systemNamespace}/pods/${ztunnelName}-${node}`)
    const made = await this.#api.create(`/api/v1/namespaces/${systemNamespace}/serviceaccounts/${ztunnelName}/token`, {
      apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', metadata: {},
      spec: {
        audiences: [tokenAudience], expirationSeconds: 7_200,
        boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name: `${ztunnelName}-${node}`, uid: pod.metadata.uid },
      },
    })
    return (made.status as { token: string }).token
  }

  /** The mesh's roots, where pods find them. The leader writes them, and there is none at once. */
  async roots(): Promise<string> {
    for (;;) {
      try {
        const found = await this.#api.get(`/api/v1/namespaces/${systemNamespace}/configmaps/${trustConfigMap}`)
        return (found['data'] as Record<string, string>)[trustKeys.roots] ?? ''
      } catch (error) {
        if (!isNotFound(error)) throw error
        await sleep(50)
      }
    }
  }

  async #writeSlice(service: number): Promise<void> {
    const indexes: number[] = []
    for (let i = service; i < this.#pods; i += this.#size.services) indexes.push(i)
    const namespace = this.namespaceOf(service)
    const path = `/apis/discovery.k8s.io/v1/namespaces/${namespace}/endpointslices`
    await this.#api.patch(`${path}/app-${service}-x`, {
      apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice',
      metadata: {
        name: `app-${service}-x`, namespace,
        labels: { 'kubernetes.io/service-name': `app-${service}`, 'endpointslice.kubernetes.io/managed-by': 'endpointslice-controller.k8s.io' },
      },
      addressType: 'IPv4', ports: [{ name: 'http', port: 8080, protocol: 'TCP' }],
      endpoints: indexes.map((i) => ({
        addresses: [address(10, i)], conditions: { ready: true, serving: true, terminating: false }, nodeName: nodeName(i % this.#size.nodes),
        targetRef: { kind: 'Pod', ...this.podName(i) },
      })),
    }, 'apply')
  }
}

/** About as large as the pods of a usual cluster. */
function spec(node: string, serviceAccountName: string): object {
  const probe = (path: string): object => ({ httpGet: { path, port: 'http' }, periodSeconds: 10, timeoutSeconds: 1 })
  return {
    nodeName: node, serviceAccountName, automountServiceAccountToken: false,
    containers: [{
      name: 'app', image: 'registry.example/shop/app:1.2.3', imagePullPolicy: 'IfNotPresent',
      ports: [{ name: 'http', containerPort: 8080, protocol: 'TCP' }],
      env: Array.from({ length: 8 }, (_, i) => ({ name: `SETTING_${i}`, value: `value of setting number ${i}` })),
      resources: { requests: { cpu: '100m', memory: '128Mi' }, limits: { memory: '256Mi' } },
      livenessProbe: probe('/live'), readinessProbe: probe('/ready'),
    }],
    tolerations: [{ key: 'node.kubernetes.io/not-ready', operator: 'Exists', effect: 'NoExecute', tolerationSeconds: 300 }],
  }
}

function status(ip: string): object {
  const at = '2026-11-21T12:00:00Z'
  const condition = (type: string): object => ({ type, status: 'True', lastTransitionTime: at })
  return {
    phase: 'Running', podIP: ip, podIPs: [{ ip }], hostIP: '192.168.0.1', startTime: at,
    conditions: ['PodScheduled', 'Initialized', 'ContainersReady', 'Ready', capturedCondition].map(condition),
    containerStatuses: [{
      name: 'app', image: 'registry.example/shop/app:1.2.3', imageID: `registry.example/shop/app@sha256:${'0'.repeat(64)}`, containerID: `containerd://${'0'.repeat(64)}`,
      ready: true, started: true, restartCount: 0, state: { running: { startedAt: at } },
    }],
  }
}
