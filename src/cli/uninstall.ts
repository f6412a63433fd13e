// `sidestep uninstall`: takes everything out of the mesh, cleans the nodes, removes what was installed and what was made for Gateways, and
// looks whether anything is left. Each step may be repeated: it can be started again after whatever went wrong.
import { createInterface } from 'node:readline/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { Command, InvalidArgumentError } from 'commander'
import { MeshError } from '../core/errors.ts'
import { cleanupName, cleanupObject } from '../install/cleanup.ts'
import { installGroups, type InstallFiles } from '../install/objects.ts'
import { nameOf, objectText, recordName, type ObjectName } from '../install/record.ts'
import { readValues, type InstallValues } from '../install/values.ts'
import { isConflict } from '../kube/answers.ts'
import type { KubeObject } from '../kube/api.ts'
import { meshLabel } from '../model/enrolment.ts'
import { managedBy, managedByLabel } from '../model/gateway-labels.ts'
import { caSecret, capturedCondition, controlPlaneName, inMeshCondition, systemNamespace, trustConfigMap, waypointBoundCondition, ztunnelName } from '../model/kubernetes-names.ts'
import { addClusterOptions, Cluster, listOf, textOf, type ClusterOptions, type Connect } from './cluster.ts'
import { some } from './cluster-findings.ts'
import { findRecord, refuseHelm } from './install.ts'
import { standardOutput, visible, type Output } from './output.ts'
import { waitForRollout } from './rollout.ts'

const pollMs = 500
const istioLabel = 'istio.io/dataplane-mode'
/** What the control plane makes for Gateways, in whatever namespace. */
const madeKinds = [
  ['apps/v1', 'Deployment'], ['autoscaling/v2', 'HorizontalPodAutoscaler'], ['policy/v1', 'PodDisruptionBudget'], ['v1', 'Service'], ['v1', 'ServiceAccount'], ['v1', 'Secret'], ['v1', 'ConfigMap'],
] as const
/** Where our conditions are. */
const markedKinds = [['v1', 'Pod'], ['v1', 'Namespace'], ['v1', 'Service']] as const
const ourConditions: ReadonlySet<string> = new Set([capturedCondition, inMeshCondition, waypointBoundCondition])

interface UninstallOptions extends ClusterOptions {
  readonly namespace: string
  readonly yes?: boolean
  readonly crds?: boolean
  readonly keepCa?: boolean
  readonly grace: number
  readonly timeout: number
}

/** `ask` shows a question and gives the answer; undefined where nobody can be asked. */
export type Ask = (question: string) => Promise<string | undefined>

export const askOnTerminal: Ask = async (question) => {
  if (!process.stdin.isTTY) return undefined
  const terminal = createInterface({ input: process.stdin, output: process.stdout })
  try {
    return await terminal.question(question)
  } finally {
    terminal.close()
  }
}

export function uninstallCommand(connect: Connect, files: () => InstallFiles, output: Output = standardOutput, ask: Ask = askOnTerminal): Command {
  return addClusterOptions(new Command('uninstall').description('take Sidestep off a Kubernetes cluster and its nodes'))
    .option('-n, --namespace <namespace>', 'where it is installed', systemNamespace)
    .option('-y, --yes', 'do not ask')
    .option('--keep-ca', `keep the CA (Secret ${caSecret}), so that identities stay valid over a new installation`)
    .option('--crds', 'remove the kinds of our own too, and with them all objects of these kinds that people wrote')
    .option('--grace <seconds>', 'how long ztunnels may finish connections that were made in the mesh', seconds, 30)
    .option('--timeout <seconds>', 'how long to wait for each step', seconds, 120)
    .addHelpText('after', `
First all namespaces leave the mesh, those that demand mTLS before the others, so that nobody is refused meanwhile. Connections that were
made in the mesh and are still open after --grace are cut. Gateways, and the kinds of Gateway API, stay where they are.

Example:
  sidestep uninstall --crds`)
    .action(async (options: UninstallOptions) => {
      const { api, server, close } = await connect(options)
      try {
        await uninstall(new Cluster(api), server, options, files(), output, ask)
      } finally {
        close()
      }
    })
}

async function uninstall(cluster: Cluster, server: string, options: UninstallOptions, files: InstallFiles, output: Output, ask: Ask): Promise<void> {
  const { namespace } = options
  const deployment = await cluster.find({ apiVersion: 'apps/v1', kind: 'Deployment', namespace, name: controlPlaneName })
  refuseHelm(deployment)
  const record = await findRecord(cluster, namespace)
  const values = readValues({ ...record?.values, namespace })
  const members = await membersOf(cluster, values)
  await confirm(members, server, options, output, ask)

  await leaveMesh(cluster, members, options, output)
  await removeMakers(cluster, namespace, output)
  await removeNodeParts(cluster, options, output)
  await cleanNodes(cluster, values, options, output)
  await removeObjects(cluster, values, files, options, record?.objects ?? [], output)
  await removeMarks(cluster, output)
  for (const name of members.istioNamespaces) await cluster.merge({ apiVersion: 'v1', kind: 'Namespace', name }, { metadata: { labels: { [meshLabel]: null } } })
  const left = await whatIsLeft(cluster, options)
  if (left.length > 0) throw new MeshError('COMMAND_FAILED', `still there: ${left.map(visible).join(', ')}; use this command again, or remove them by hand`)
  output.print(`Sidestep is gone${options.keepCa === true ? `, but for the Secret ${namespace}/${caSecret}` : ''}${options.crds === true ? '' : '; its kinds, and what was written of them, stay (--crds removes them)'}`)
}

interface Members {
  /** With our label. */
  readonly namespaces: readonly string[]
  /** With Istio's, where that counts. */
  readonly istioNamespaces: readonly string[]
  /** With our label of their own, `namespace/name`. */
  readonly pods: readonly ObjectName[]
  /** Of the namespaces, those that take mTLS only. */
  readonly strict: ReadonlySet<string>
  readonly gateways: readonly string[]
}

async function membersOf(cluster: Cluster, { compat, namespace }: InstallValues): Promise<Members> {
  const namespaces = await cluster.list('v1', 'Namespace')
  const pods = await cluster.list('v1', 'Pod', { labelSelector: `${meshLabel}=enabled` })
  const named = (label: string, value: string): string[] => namespaces.filter(({ metadata }) => metadata.labels?.[label] === value).map(({ metadata }) => metadata.name)
  const ours = named(meshLabel, 'enabled')
  const policies = (await Promise.all(['sidestep.dev/v1alpha1', 'security.istio.io/v1'].map((apiVersion) => cluster.list(apiVersion, 'PeerAuthentication')))).flat()
  const strict = policies.filter(({ spec }) => textOf(spec, 'mtls', 'mode') === 'STRICT').map(({ metadata }) => metadata.namespace ?? '')
  const gateways = await cluster.list('gateway.networking.k8s.io/v1', 'Gateway')
  return {
    namespaces: ours,
    istioNamespaces: compat.istioLabels ? named(istioLabel, 'ambient').filter((name) => !ours.includes(name)) : [],
    pods: pods.map(nameOfKube),
    // In our own namespace it is for all.
    strict: new Set(strict.includes(namespace) ? ours : strict),
    gateways: gateways.filter(({ spec }) => textOf(spec, 'gatewayClassName').startsWith('sidestep-')).map(({ metadata }) => `${metadata.namespace}/${metadata.name}`),
  }
}

const nameOfKube = ({ apiVersion, kind, metadata: { namespace, name } }: KubeObject): ObjectName => ({ apiVersion, kind, ...(namespace === undefined ? {} : { namespace }), name })

async function confirm(members: Members, server: string, { yes, crds, keepCa, namespace }: UninstallOptions, output: Output, ask: Ask): Promise<void> {
  const { gateways, pods, strict } = members
  const all = [...members.namespaces, ...members.istioNamespaces]
  const lines = [
    `This takes Sidestep off ${server}:`,
    all.length === 0 ? '  no namespace is in the mesh' : `  ${all.length} namespaces leave the mesh, and their traffic is in plain text from then on: ${some(all, 8)}`,
    ...(pods.length > 0 ? [`  so do ${pods.length} pods by their own label, which the templates that they come from still have: ${some(pods.map(objectText), 4)}`] : []),
    ...(strict.size > 0 ? [`  mTLS is demanded in ${some([...strict], 8)}: nothing will demand it any more`] : []),
    ...(gateways.length > 0 ? [`  ${gateways.length} waypoints and ingresses lose their pods; the Gateways stay: ${some(gateways, 8)}`] : []),
    ...(keepCa === true ? [] : [`  the CA in ${namespace}/${caSecret} is removed, and with it all identities`]),
    ...(crds === true ? ['  all objects of our own kinds are removed, policies among them'] : []),
  ]
  for (const line of lines) output.print(visible(line))
  if (yes === true) return
  const answer = await ask('Go on? [y/N] ')
  if (answer === undefined) throw new MeshError('BAD_CONFIG', 'nobody can be asked here: use --yes')
  if (!/^y(es)?$/i.test(answer.trim())) throw new MeshError('COMMAND_FAILED', 'nothing was changed')
}

/** Who demands mTLS first: clients in the mesh still reach it when it is outside, and not the other way round. */
async function leaveMesh(cluster: Cluster, { namespaces, istioNamespaces, pods, strict }: Members, { timeout }: UninstallOptions, output: Output): Promise<void> {
  const leave = (name: string, value: string | null): Promise<unknown> => cluster.merge({ apiVersion: 'v1', kind: 'Namespace', name }, { metadata: { labels: { [meshLabel]: value } } })
  const [first, second] = [namespaces.filter((name) => strict.has(name)), namespaces.filter((name) => !strict.has(name))]
  for (const group of [first, second]) {
    for (const name of group) await leave(name, null)
    if (group === second) {
      for (const name of istioNamespaces) await leave(name, 'disabled')
      for (const pod of pods) await cluster.merge(pod, { metadata: { labels: { [meshLabel]: null } } })
    }
    if (group === second || first.length > 0) await waitUntilReleased(cluster, group === second ? undefined : new Set(first), timeout, output)
  }
}

/** `of`: pods of these namespaces only. Goes on with a warning after the time: an agent that is away releases nobody. */
async function waitUntilReleased(cluster: Cluster, of: ReadonlySet<string> | undefined, timeout: number, output: Output): Promise<void> {
  const deadline = performance.now() + timeout * 1_000
  for (let said = -1; ; await sleep(pollMs)) {
    const captured = (await cluster.list('v1', 'Pod')).filter((pod) => (of === undefined || of.has(pod.metadata.namespace ?? '')) && !['Succeeded', 'Failed'].includes(textOf(pod.status, 'phase'))
      && listOf(pod.status, 'conditions').some((each) => textOf(each, 'type') === capturedCondition && textOf(each, 'status') === 'True'))
    if (captured.length === 0) {
      output.print(of === undefined ? 'no pod is captured any more' : `no pod of ${some([...of])} is captured any more`)
      return
    }
    if (said !== captured.length) output.print(`${captured.length} pods are still captured`)
    said = captured.length
    if (performance.now() < deadline) continue
    output.warn(visible(`${captured.length} pods are still captured after ${timeout} s, and are cleaned with their nodes: ${some(captured.map((pod) => objectText(nameOfKube(pod))))}`))
    return
  }
}

/** First who would make it anew, then what was made. */
async function removeMakers(cluster: Cluster, namespace: string, output: Output): Promise<void> {
  if (await cluster.remove({ apiVersion: 'apps/v1', kind: 'Deployment', namespace, name: controlPlaneName })) output.print(`Deployment ${namespace}/${controlPlaneName}: removed`)
  await untilNone(cluster, namespace, `app=${controlPlaneName}`)
  let made = 0
  for (const [apiVersion, kind] of madeKinds) {
    for (const object of await cluster.list(apiVersion, kind, { labelSelector: `${managedByLabel}=${managedBy}` })) {
      if (object.metadata.namespace !== namespace && await cluster.remove(nameOfKube(object))) made++
    }
  }
  for (const object of await cluster.list('v1', 'ConfigMap')) {
    if (object.metadata.name === trustConfigMap && object.metadata.namespace !== namespace && await cluster.remove(nameOfKube(object))) made++
  }
  if (made > 0) output.print(`${made} objects that were made for Gateways: removed`)
}

async function removeNodeParts(cluster: Cluster, { namespace, grace, timeout }: UninstallOptions, output: Output): Promise<void> {
  if (await cluster.remove({ apiVersion: 'apps/v1', kind: 'DaemonSet', namespace, name: ztunnelName })) output.print(`DaemonSet ${namespace}/${ztunnelName}: removed; its pods have ${grace} s to finish connections`)
  for (const pod of await cluster.list('v1', 'Pod', { namespace, labelSelector: `app=${ztunnelName}` })) await cluster.remove(nameOfKube(pod), { gracePeriodSeconds: grace })
  await untilNone(cluster, namespace, `app=${ztunnelName}`, grace + timeout)
}

/** COMMAND_FAILED where pods do not end; a node that is gone keeps them for ever. */
async function untilNone(cluster: Cluster, namespace: string, labelSelector: string, timeout = 120): Promise<void> {
  const deadline = performance.now() + timeout * 1_000
  for (;;) {
    const pods = await cluster.list('v1', 'Pod', { namespace, labelSelector })
    if (pods.length === 0) return
    if (performance.now() > deadline) throw new MeshError('COMMAND_FAILED', `${some(pods.map((pod) => `${objectText(nameOfKube(pod))} on ${textOf(pod.spec, 'nodeName')}`))} did not end after ${timeout} s: are these nodes away?`)
    await sleep(pollMs)
  }
}

async function cleanNodes(cluster: Cluster, values: InstallValues, { timeout, namespace }: UninstallOptions, output: Output): Promise<void> {
  if (!(await cluster.find({ apiVersion: 'v1', kind: 'Namespace', name: namespace }))) return
  const object = cleanupObject(values)
  await cluster.apply(object)
  await waitForRollout(cluster, [nameOf(object)], timeout * 1_000, output)
  await cluster.remove(nameOf(object))
  await untilNone(cluster, namespace, `app=${cleanupName}`)
  output.print('nodes are clean')
}

async function removeObjects(cluster: Cluster, values: InstallValues, files: InstallFiles, { crds, keepCa, timeout }: UninstallOptions, recorded: readonly ObjectName[], output: Output): Promise<void> {
  const { namespace } = values
  const groups = installGroups(files).filter(({ name }) => name !== 'crds' || crds === true)
  const known = new Map([...groups.flatMap((group) => group.objects(values).map(nameOf)), ...recorded.filter(({ kind }) => crds === true || kind !== 'CustomResourceDefinition')].map((name) => [objectText(name), name]))
  const own: ObjectName[] = [
    ...['ConfigMap', 'Secret'].flatMap((kind) => [trustConfigMap, caSecret, recordName].map((name) => ({ apiVersion: 'v1', kind, namespace, name }))),
    { apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', namespace, name: controlPlaneName },
  ]
  let removed = 0
  for (const name of [...own, ...[...known.values()].reverse()]) {
    if (keepCa === true && (name.kind === 'Namespace' || (name.kind === 'Secret' && name.name === caSecret))) continue
    if (await cluster.remove(name)) removed++
  }
  output.print(`${removed} objects: removed`)
  if (keepCa === true) return
  const deadline = performance.now() + timeout * 1_000
  for (let isSaid = false; await cluster.find({ apiVersion: 'v1', kind: 'Namespace', name: namespace }); await sleep(pollMs)) {
    if (!isSaid) output.print(`Namespace ${namespace}: is going`)
    isSaid = true
    if (performance.now() > deadline) throw new MeshError('COMMAND_FAILED', `the namespace ${namespace} does not go: see kubectl get namespace ${namespace} -o yaml`)
  }
}

/** Conditions that nobody keeps up to date any more. */
async function removeMarks(cluster: Cluster, output: Output): Promise<void> {
  let marked = 0
  for (const [apiVersion, kind] of markedKinds) {
    for (const object of await cluster.list(apiVersion, kind)) {
      if (await removeMarksOf(cluster, object)) marked++
    }
  }
  if (marked > 0) output.print(`conditions of ${marked} pods, namespaces and services: removed`)
}

/** Whether it had any. The list is written whole, and only as it was seen: somebody else's condition must not be lost. */
async function removeMarksOf(cluster: Cluster, listed: KubeObject): Promise<boolean> {
  for (let object: KubeObject | undefined = listed, attempt = 1; object !== undefined; attempt++) {
    const conditions = listOf(object.status, 'conditions')
    const kept = conditions.filter((each) => !ourConditions.has(textOf(each, 'type')))
    if (kept.length === conditions.length) return attempt > 1
    try {
      await cluster.merge(nameOfKube(object), { metadata: { resourceVersion: object.metadata.resourceVersion }, status: { conditions: kept } }, 'status')
      return true
    } catch (error) {
      if (!isConflict(error) || attempt === 5) throw error
      object = await cluster.find(nameOfKube(listed))
    }
  }
  return false
}

async function whatIsLeft(cluster: Cluster, { namespace, keepCa, crds }: UninstallOptions): Promise<string[]> {
  const partOf = 'app.kubernetes.io/part-of=sidestep'
  const kinds = [
    ['v1', 'Namespace'], ['v1', 'Pod'], ['v1', 'Service'], ['v1', 'ServiceAccount'], ['v1', 'ConfigMap'], ['v1', 'Secret'], ['apps/v1', 'Deployment'], ['apps/v1', 'DaemonSet'], ['networking.k8s.io/v1', 'NetworkPolicy'],
    ['rbac.authorization.k8s.io/v1', 'ClusterRole'], ['rbac.authorization.k8s.io/v1', 'ClusterRoleBinding'], ['gateway.networking.k8s.io/v1', 'GatewayClass'],
    ['admissionregistration.k8s.io/v1', 'ValidatingAdmissionPolicy'], ['admissionregistration.k8s.io/v1', 'ValidatingAdmissionPolicyBinding'],
  ] as const
  const found: KubeObject[] = []
  for (const [apiVersion, kind] of kinds) found.push(...await cluster.list(apiVersion, kind, { labelSelector: partOf }))
  for (const [apiVersion, kind] of madeKinds) found.push(...await cluster.list(apiVersion, kind, { labelSelector: `${managedByLabel}=${managedBy}` }))
  if (crds === true) found.push(...(await cluster.list('apiextensions.k8s.io/v1', 'CustomResourceDefinition')).filter(({ metadata }) => metadata.name.endsWith('.sidestep.dev')))
  return found.filter(({ kind, metadata }) => !(keepCa === true && (kind === 'Namespace' ? metadata.name === namespace : metadata.name === caSecret))).map((object) => objectText(nameOfKube(object)))
}

function seconds(text: string): number {
  if (!/^\d{1,5}$/.test(text)) throw new InvalidArgumentError('expected whole seconds')
  return Number(text)
}
