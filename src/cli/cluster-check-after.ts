// `sidestep check --cluster`: whether all of an installed Sidestep does what it is there for. Only reads.
import { X509Certificate } from 'node:crypto'
import { findRecord } from './install.ts'
import { version } from '../install/values.ts'
import type { KubeObject } from '../kube/api.ts'
import { hasNativeTunnel, isEnrolled, meshLabel } from '../model/enrolment.ts'
import { capturedCondition, controlPlaneName, trustConfigMap, trustKeys, waypointBoundCondition, ztunnelName } from '../model/kubernetes-names.ts'
import { fieldOf, listOf, numberOf, textOf, type Cluster } from './cluster.ts'
import { finding, some, type Finding } from './cluster-findings.ts'
import { blockingPolicies } from './cluster-network-policies.ts'
import { durationText } from './output.ts'
import { podProblems } from './rollout.ts'

const dayMs = 86_400_000
/** A Lease that was not renewed for so long has no holder. */
const leaseStaleMs = 60_000

export async function checkAfter(cluster: Cluster, namespace: string): Promise<Finding[]> {
  const controlPlane = await cluster.find({ apiVersion: 'apps/v1', kind: 'Deployment', namespace, name: controlPlaneName })
  const ztunnels = await cluster.find({ apiVersion: 'apps/v1', kind: 'DaemonSet', namespace, name: ztunnelName })
  if (!controlPlane && !ztunnels) {
    return [finding('installation', 'fail', `none in ${namespace}`, 'there must be one to look at', 'Use `sidestep install`, or say --namespace.')]
  }
  const [pods, namespaces, nodes] = await Promise.all([cluster.list('v1', 'Pod'), cluster.list('v1', 'Namespace'), cluster.list('v1', 'Node')])
  return [
    await versionRow(cluster, namespace, pods),
    await workloadRow(cluster, 'control plane', controlPlane, 'discovery and certificates', ['readyReplicas', 'replicas']),
    await leaderRow(cluster, namespace),
    await workloadRow(cluster, 'ztunnels', ztunnels, 'carry the traffic of their nodes', ['numberReady', 'desiredNumberScheduled']),
    nodesRow(nodes, pods, namespace),
    capturedRow(pods, namespaces, namespace),
    await trustRow(cluster, namespace),
    await objectsRow(cluster),
    await waypointsRow(cluster, namespaces),
    networkPolicyRow(await cluster.list('networking.k8s.io/v1', 'NetworkPolicy'), namespaces),
  ]
}

async function versionRow(cluster: Cluster, namespace: string, pods: readonly KubeObject[]): Promise<Finding> {
  const images = [...new Set(pods.filter(({ metadata }) => metadata.namespace === namespace && metadata.labels?.['app.kubernetes.io/part-of'] === 'sidestep')
    .flatMap(({ spec }) => listOf(spec, 'containers').map((each) => textOf(each, 'image'))))]
  const record = await findRecord(cluster, namespace)
  const isOther = record !== undefined && record.version !== version
  return finding('version', images.length > 1 || isOther ? 'warn' : 'pass', `${record?.version ?? 'not installed by this command'}${images.length > 1 ? `; images ${some(images)}` : ''}`, 'all parts should be of one',
    isOther ? `This command is of ${version}: \`sidestep upgrade\` brings the cluster there.` : 'An upgrade is under way, or came to a halt: see `kubectl -n sidestep-system get pods`.')
}

async function workloadRow(cluster: Cluster, name: string, object: KubeObject | undefined, why: string, [ready, wanted]: readonly [string, string]): Promise<Finding> {
  if (!object) return finding(name, 'fail', 'not there', why, '`sidestep upgrade` brings it back.')
  const counts = [numberOf(object.status, ready), numberOf(object.status, wanted)] as const
  const isGood = counts[1] > 0 && counts[0] >= counts[1]
  const problems = isGood ? [] : await podProblems(cluster, object, 1)
  return finding(name, isGood ? 'pass' : counts[0] > 0 ? 'warn' : 'fail', `${counts[0]} of ${counts[1]} ready`, why, problems[0] ?? 'No node fits: look at nodeSelector and tolerations of the values.')
}

async function leaderRow(cluster: Cluster, namespace: string): Promise<Finding> {
  const lease = await cluster.find({ apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', namespace, name: controlPlaneName })
  const holder = textOf(lease?.spec, 'holderIdentity')
  const ageMs = Date.now() - Date.parse(textOf(lease?.spec, 'renewTime'))
  const isGood = holder !== '' && ageMs < leaseStaleMs
  return finding('leader', isGood ? 'pass' : 'fail', isGood ? holder : holder === '' ? 'none' : `${holder}, last seen ${durationText(ageMs)} ago`, 'writes status, and makes what Gateways ask for',
    `See the log of the control plane: kubectl -n ${namespace} logs deployment/${controlPlaneName}.`)
}

function nodesRow(nodes: readonly KubeObject[], pods: readonly KubeObject[], namespace: string): Finding {
  const covered = new Set(pods.filter(({ metadata }) => metadata.namespace === namespace && metadata.labels?.['app'] === ztunnelName).map(({ spec }) => textOf(spec, 'nodeName')))
  const bare = nodes.filter(({ metadata, status }) => textOf(status, 'nodeInfo', 'operatingSystem') !== 'windows' && !covered.has(metadata.name)).map(({ metadata }) => metadata.name)
  return finding('nodes', bare.length === 0 ? 'pass' : 'warn', bare.length === 0 ? `${nodes.length} with a ztunnel` : `${some(bare)}: no ztunnel`, 'pods of a node without one are outside the mesh', 'See node.nodeSelector and node.tolerations of the values.')
}

/** Why a pod that its labels put into the mesh is left out of it; undefined where it must be captured. */
function exemption({ metadata, spec, status }: KubeObject, namespace: string): string | undefined {
  if (metadata.namespace === namespace) return 'system'
  if (fieldOf(spec, 'hostNetwork') === true) return 'hostNetwork'
  if (hasNativeTunnel(metadata.labels ?? {})) return 'native'
  if (metadata.annotations?.['sidecar.istio.io/status'] !== undefined) return 'sidecar'
  return ['Succeeded', 'Failed'].includes(textOf(status, 'phase')) || textOf(spec, 'nodeName') === '' ? 'not running' : undefined
}

function capturedRow(pods: readonly KubeObject[], namespaces: readonly KubeObject[], namespace: string): Finding {
  const labels = new Map(namespaces.map(({ metadata }) => [metadata.name, metadata.labels ?? {}]))
  const wanted = pods.filter((pod) => isEnrolled(labels.get(pod.metadata.namespace ?? '') ?? {}, pod.metadata.labels ?? {}) && exemption(pod, namespace) === undefined)
  const outside = wanted.flatMap((pod) => {
    const condition = listOf(pod.status, 'conditions').find((each) => textOf(each, 'type') === capturedCondition)
    return textOf(condition, 'status') === 'True' ? [] : [{ id: `${pod.metadata.namespace}/${pod.metadata.name}`, why: textOf(condition, 'message') || textOf(condition, 'reason') || 'the node agent has said nothing of it' }]
  })
  const [first] = outside
  if (wanted.length === 0) return finding('pods', 'info', 'none is to be in the mesh', `label a namespace ${meshLabel}=enabled`)
  return finding('pods', first === undefined ? 'pass' : 'fail', first === undefined ? `${wanted.length} captured, as labelled` : `${outside.length} of ${wanted.length} not captured: ${some(outside.map(({ id }) => id))}`,
    'each that is labelled must be captured', `${first?.id}: ${first?.why}. See the log of its node's agent: kubectl -n ${namespace} logs -l app=${ztunnelName} -c agent.`)
}

async function trustRow(cluster: Cluster, namespace: string): Promise<Finding> {
  const why = 'roots that all of the mesh trusts'
  const map = await cluster.find({ apiVersion: 'v1', kind: 'ConfigMap', namespace, name: trustConfigMap })
  const text = textOf(map, 'data', trustKeys.roots)
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []
  const ends = blocks.flatMap((block) => {
    try {
      return [Date.parse(new X509Certificate(block).validTo)]
    } catch {
      return [0] // as good as over
    }
  })
  const leftMs = Math.min(...ends) - Date.now()
  if (ends.length === 0) return finding('certificates', 'fail', `no roots in ${trustConfigMap}`, why, `See the log of the control plane: kubectl -n ${namespace} logs deployment/${controlPlaneName}.`)
  return finding('certificates', leftMs < 0 ? 'fail' : leftMs < 30 * dayMs ? 'warn' : 'pass', `${ends.length} ${ends.length === 1 ? 'root' : 'roots'}, ${leftMs < 0 ? 'one has expired' : `valid for ${durationText(leftMs)}`}`, why,
    'Rotate the root, as docs/operations.md says.')
}

/** Kinds whose status says whether they are in force. */
const judged: readonly (readonly [string, string])[] = [
  ['gateway.networking.k8s.io/v1', 'GatewayClass'], ['gateway.networking.k8s.io/v1', 'Gateway'], ['gateway.networking.k8s.io/v1', 'HTTPRoute'], ['gateway.networking.k8s.io/v1', 'GRPCRoute'],
  ...['AuthorizationPolicy', 'PeerAuthentication', 'RequestAuthentication', 'ServiceEntry', 'RateLimitPolicy', 'CachePolicy', 'BackendPolicy', 'AuthorizationProvider'].map((kind) => ['sidestep.dev/v1alpha1', kind] as const),
]

async function objectsRow(cluster: Cluster): Promise<Finding> {
  const objects = (await Promise.all(judged.map(([apiVersion, kind]) => cluster.list(apiVersion, kind)))).flat().filter(isOurs)
  const refused = objects.flatMap((object) => {
    const conditions = [...listOf(object.status, 'conditions'), ...['parents', 'ancestors'].flatMap((list) => listOf(object.status, list).filter(isByUs).flatMap((each) => listOf(each, 'conditions')))]
    const bad = conditions.find((each) => ['Accepted', 'Programmed', 'ResolvedRefs'].includes(textOf(each, 'type')) && textOf(each, 'status') === 'False')
    return bad === undefined ? [] : [{ id: `${object.kind} ${object.metadata.namespace ?? ''}/${object.metadata.name}`, why: textOf(bad, 'message') || textOf(bad, 'reason') }]
  })
  const [first] = refused
  return finding('objects', first === undefined ? 'pass' : 'warn', first === undefined ? `${objects.length}, none refused` : `${refused.length} of ${objects.length} not in force: ${some(refused.map(({ id }) => id))}`,
    'policies, routes and Gateways must be in force', `${first?.id}: ${first?.why}`)
}

const isByUs = (status: unknown): boolean => textOf(status, 'controllerName').startsWith('sidestep.dev/')

function isOurs({ kind, spec }: KubeObject): boolean {
  if (kind === 'GatewayClass') return textOf(spec, 'controllerName').startsWith('sidestep.dev/')
  return kind !== 'Gateway' || textOf(spec, 'gatewayClassName').startsWith('sidestep-')
}

async function waypointsRow(cluster: Cluster, namespaces: readonly KubeObject[]): Promise<Finding> {
  const services = await cluster.list('v1', 'Service')
  const unbound = [...services, ...namespaces].flatMap(({ metadata, status }) => {
    const condition = listOf(status, 'conditions').find((each) => textOf(each, 'type') === waypointBoundCondition)
    return textOf(condition, 'status') === 'False' ? [{ id: `${metadata.namespace === undefined ? '' : `${metadata.namespace}/`}${metadata.name}`, why: textOf(condition, 'message') || textOf(condition, 'reason') }] : []
  })
  const [first] = unbound
  return finding('waypoints', first === undefined ? 'pass' : 'fail', first === undefined ? 'all that are asked for are there' : `asked for in vain by ${some(unbound.map(({ id }) => id))}`, 'without its waypoint a service is refused to all', `${first?.id}: ${first?.why}`)
}

function networkPolicyRow(policies: readonly KubeObject[], namespaces: readonly KubeObject[]): Finding {
  const inMesh = new Set(namespaces.filter(({ metadata }) => metadata.labels?.[meshLabel] === 'enabled').map(({ metadata }) => metadata.name))
  const blocking = [...new Set(blockingPolicies(policies.filter(({ metadata }) => inMesh.has(metadata.namespace ?? ''))).map(({ id }) => id))]
  return finding('NetworkPolicies', blocking.length === 0 ? 'pass' : 'fail', blocking.length === 0 ? 'none keeps tunnels out' : `${some(blocking)}: no TCP port 15008`,
    'between pods of the mesh they see port 15008 only', 'Allow TCP port 15008 there beside the ports that they list.')
}
