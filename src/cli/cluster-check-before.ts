// `sidestep check --pre`: whether Sidestep can be installed in a cluster, and what else in it one should know of first. Only reads.
import { isForbidden } from '../kube/answers.ts'
import type { KubeObject } from '../kube/api.ts'
import { textOf, fieldOf, type Cluster } from './cluster.ts'
import { finding, isFit, some, type Finding } from './cluster-findings.ts'
import { blockingPolicies } from './cluster-network-policies.ts'

export { isFit }

/** tcx came with it; what a node's kernel really offers is said by `sidestep check` there. */
const leastKernel = [6, 6] as const

export interface BeforeOptions {
  readonly namespace: string
  /** The kinds of Gateway API will be brought along. */
  readonly hasOwnGatewayApi?: boolean
}

export async function checkBefore(cluster: Cluster, options: BeforeOptions): Promise<Finding[]> {
  const [nodes, daemonSets, policies] = await Promise.all([
    readable(cluster.list('v1', 'Node')), readable(cluster.list('apps/v1', 'DaemonSet')), readable(cluster.list('networking.k8s.io/v1', 'NetworkPolicy')),
  ])
  return [
    await apiVersion(cluster),
    await permissions(cluster, options.namespace),
    await gatewayApi(cluster, options.hasOwnGatewayApi === true),
    ...nodeRows(nodes),
    ...await neighbours(cluster, daemonSets),
    await kubeProxy(cluster, daemonSets),
    networkPolicyRow(policies.filter(({ metadata }) => metadata.namespace !== options.namespace)),
  ]
}

/** Nothing where we may not look: what is missing then is said by the row about permissions. */
async function readable(list: Promise<readonly KubeObject[]>): Promise<readonly KubeObject[]> {
  try {
    return await list
  } catch (error) {
    if (isForbidden(error)) return []
    throw error
  }
}

/** By what it has rather than by its number, which distributions choose for themselves. */
async function apiVersion(cluster: Cluster): Promise<Finding> {
  const has = await cluster.typeOf({ apiVersion: 'admissionregistration.k8s.io/v1', kind: 'ValidatingAdmissionPolicy' })
  return finding('Kubernetes', has ? 'pass' : 'fail', has ? '1.30 or newer' : 'older than 1.30', 'rules of admission in CEL, AppArmor as a field', 'Upgrade the cluster to Kubernetes 1.30 or newer.')
}

const needed = [
  ['', 'namespaces'], ['', 'serviceaccounts'], ['', 'services'], ['', 'configmaps'], ['apps', 'deployments'], ['apps', 'daemonsets'], ['policy', 'poddisruptionbudgets'],
  ['rbac.authorization.k8s.io', 'clusterroles'], ['rbac.authorization.k8s.io', 'clusterrolebindings'], ['rbac.authorization.k8s.io', 'roles'],
  ['apiextensions.k8s.io', 'customresourcedefinitions'], ['networking.k8s.io', 'networkpolicies'], ['admissionregistration.k8s.io', 'validatingadmissionpolicies'],
] as const

async function permissions(cluster: Cluster, namespace: string): Promise<Finding> {
  const answers = await Promise.all(needed.map(async ([group, resource]) => {
    const review = await cluster.api.create('/apis/authorization.k8s.io/v1/selfsubjectaccessreviews', {
      apiVersion: 'authorization.k8s.io/v1', kind: 'SelfSubjectAccessReview', spec: { resourceAttributes: { group, resource, verb: 'patch', namespace } },
    })
    return fieldOf(review.status, 'allowed') === true ? [] : [group === '' ? resource : `${resource}.${group}`]
  }))
  const missing = answers.flat()
  return finding('permissions', missing.length === 0 ? 'pass' : 'fail', missing.length === 0 ? 'all there' : `not for ${some(missing)}`, 'to apply what Sidestep consists of', 'Use a kubeconfig of somebody with the role cluster-admin.')
}

async function gatewayApi(cluster: Cluster, isComing: boolean): Promise<Finding> {
  const why = 'waypoints and ingresses are Gateways'
  const crd = await cluster.find({ apiVersion: 'apiextensions.k8s.io/v1', kind: 'CustomResourceDefinition', name: 'gateways.gateway.networking.k8s.io' })
  if (crd) return finding('Gateway API', 'pass', textOf(crd, 'metadata', 'annotations', 'gateway.networking.k8s.io/bundle-version') || 'there', why)
  if (isComing) return finding('Gateway API', 'pass', 'will be installed', why)
  return finding('Gateway API', 'warn', 'not installed', why, 'Install its kinds (sidestep install --gateway-api-crds DIRECTORY); without them the mesh has no waypoints.')
}

function nodeRows(nodes: readonly KubeObject[]): Finding[] {
  const info = (node: KubeObject, field: string): string => textOf(node.status, 'nodeInfo', field)
  const linux = nodes.filter((node) => info(node, 'operatingSystem') !== 'windows')
  const tooOld = linux.filter((node) => isOlder(info(node, 'kernelVersion')))
  const foreign = linux.filter((node) => !['amd64', 'arm64'].includes(info(node, 'architecture')))
  const kernels = [...new Set(linux.map((node) => info(node, 'kernelVersion')))]
  const runtimes = [...new Set(linux.map((node) => info(node, 'containerRuntimeVersion')))]
  const isKnown = runtimes.every((runtime) => /^(containerd|cri-o):/.test(runtime))
  return [
    finding('nodes', nodes.length === 0 ? 'fail' : foreign.length > 0 ? 'fail' : linux.length < nodes.length ? 'warn' : 'pass', foreign.length > 0 ? `${some(foreign.map(({ metadata }) => metadata.name))}: neither amd64 nor arm64` : `${linux.length} with Linux of ${nodes.length}`, 'each carries the traffic of its own pods',
      foreign.length > 0 ? 'Leave these nodes out with node.nodeSelector.' : 'Pods on the others are outside the mesh.'),
    finding('kernels', tooOld.length > 0 ? 'fail' : 'pass', tooOld.length > 0 ? `${some(tooOld.map((node) => `${node.metadata.name} has ${info(node, 'kernelVersion')}`))}` : some(kernels), `hooks of eBPF that came by Linux ${leastKernel.join('.')}`,
      `Boot Linux ${leastKernel.join('.')} or newer there, or leave these nodes out with node.nodeSelector.`),
    finding('container runtimes', isKnown ? 'pass' : 'warn', some(runtimes), 'pods are found through their socket, too', 'Set node.runtimeDirectory and node.runtimeSocket to where its CRI socket is.'),
  ]
}

function isOlder(version: string): boolean {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(version) ?? []
  if (major === undefined || minor === undefined) return false
  return Number(major) < leastKernel[0] || (Number(major) === leastKernel[0] && Number(minor) < leastKernel[1])
}

async function neighbours(cluster: Cluster, daemonSets: readonly KubeObject[]): Promise<Finding[]> {
  const names = new Map(daemonSets.map((each) => [each.metadata.name, each.metadata.namespace ?? '']))
  const rows: Finding[] = []
  const cilium = names.get('cilium')
  if (cilium !== undefined) rows.push(ciliumRow(await settingsOf(cluster, cilium, 'cilium-config')))
  const calico = names.get('calico-node')
  if (calico !== undefined) rows.push(await calicoRow(cluster))
  for (const [name, what] of [['istio-cni-node', "Istio's ambient mode"], ['linkerd-cni', 'Linkerd'], ['kuma-cni-node', 'Kuma']] as const) {
    if (names.has(name)) rows.push(finding(what, 'warn', `DaemonSet ${name}`, 'two meshes in one pod undo each other', `Never label a namespace for both; compat.istioLabels must stay off while Istio's own agent runs.`))
  }
  return rows.length > 0 ? rows : [finding('other meshes', 'pass', 'none that we know', 'two meshes in one pod undo each other')]
}

async function settingsOf(cluster: Cluster, namespace: string, name: string): Promise<Readonly<Record<string, string>>> {
  const object = await cluster.find({ apiVersion: 'v1', kind: 'ConfigMap', namespace, name })
  return (fieldOf(object, 'data') ?? {}) as Readonly<Record<string, string>>
}

/** Its socket load balancer rewrites connect() in pods as we do, and its agent takes other plugins out of the CNI configuration. */
function ciliumRow(settings: Readonly<Record<string, string>>): Finding {
  const isReplacing = ['true', 'strict'].includes(settings['kube-proxy-replacement'] ?? '') || settings['bpf-lb-sock'] === 'true'
  const advice = [
    ...(isReplacing && settings['bpf-lb-sock-hostns-only'] !== 'true' ? ['set socketLB.hostNamespaceOnly=true'] : []),
    ...(settings['cni-exclusive'] === 'false' ? [] : ['set cni.exclusive=false']),
  ]
  return finding('Cilium', advice.length === 0 ? 'pass' : 'fail', advice.length === 0 ? 'leaves us what we need' : 'would take the place of our hooks', 'its hooks and its CNI configuration are where ours are', `In its Helm values ${advice.join(' and ')}.`)
}

async function calicoRow(cluster: Cluster): Promise<Finding> {
  const [felix] = (await readable(cluster.list('crd.projectcalico.org/v1', 'FelixConfiguration'))).filter(({ metadata }) => metadata.name === 'default')
  const balancing = textOf(felix, 'spec', 'bpfConnectTimeLoadBalancing')
  const isWrong = fieldOf(felix, 'spec', 'bpfEnabled') === true && balancing !== 'Disabled'
  return finding('Calico', isWrong ? 'fail' : 'pass', isWrong ? 'eBPF, balancing as pods connect' : 'leaves us what we need', 'its connect-time load balancer has the hooks that ours are on', 'Set bpfConnectTimeLoadBalancing: Disabled in the FelixConfiguration `default`.')
}

async function kubeProxy(cluster: Cluster, daemonSets: readonly KubeObject[]): Promise<Finding> {
  const [text] = [(await settingsOf(cluster, 'kube-system', 'kube-proxy'))['config.conf'] ?? '']
  const mode = /^mode:\s*"?([a-z]*)"?\s*$/m.exec(text ?? '')?.[1]
  const isThere = daemonSets.some(({ metadata }) => metadata.name === 'kube-proxy')
  const found = mode !== undefined ? mode || 'iptables' : isThere ? 'there' : 'not seen as a DaemonSet'
  return finding('kube-proxy', 'info', found, 'services of pods outside the mesh; all of its modes will do')
}

function networkPolicyRow(policies: readonly KubeObject[]): Finding {
  const blocking = blockingPolicies(policies)
  return finding('NetworkPolicies', blocking.length === 0 ? 'pass' : 'warn', blocking.length === 0 ? `${policies.length}, all let tunnels through` : `${some([...new Set(blocking.map(({ id }) => id))])}: no TCP port 15008`,
    'between pods of the mesh they see port 15008 only', 'Before labelling these namespaces, allow TCP port 15008 in the policies beside the ports that they list.')
}
