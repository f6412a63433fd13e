// `sidestep waypoint --cluster`: the same as on a local mesh, on a Kubernetes cluster. It writes the Gateway that a person would, and of a
// namespace only the one label; what became of it is read from statuses.
import { setTimeout as sleep } from 'node:timers/promises'
import { parse } from 'yaml'
import { Option, type Command } from 'commander'
import { MeshError } from '../core/errors.ts'
import type { KubeObject } from '../kube/api.ts'
import { useWaypointLabel, waypointForLabel, waypointNamespaceLabel, waypointWish } from '../model/gateway-labels.ts'
import { addClusterOptions, Cluster, listOf, numberOf, textOf, type ClusterOptions, type Connect } from './cluster.ts'
import { some } from './cluster-findings.ts'
import { show, visible, type Output, type OutputForm } from './output.ts'
import { gatewayYaml, type WaypointWish } from './waypoint-yaml.ts'

const gatewayApi = 'gateway.networking.k8s.io/v1'
const className = 'sidestep-waypoint'
const pollMs = 500

export interface ClusterChoice extends ClusterOptions {
  readonly cluster?: boolean
}

export function addClusterChoice(command: Command): Command {
  return addClusterOptions(command.addOption(new Option('--cluster', 'on a Kubernetes cluster, not on a local mesh; so do the next two')))
}

export function isOnCluster({ cluster, kubeconfig, context }: ClusterChoice): boolean {
  return cluster === true || kubeconfig !== undefined || context !== undefined
}

/** COMMAND_FAILED, saying why, if it is not ready in time. */
export async function applyOnCluster(
  connect: Connect, choice: ClusterChoice, wish: WaypointWish & { readonly enrollNamespace: boolean; readonly overwrite: boolean; readonly timeoutSeconds: number | undefined }, output: Output,
): Promise<void> {
  const { namespace, waypoint, timeoutSeconds } = wish
  await withCluster(connect, choice, async (cluster) => {
    const id = `${namespace}/${waypoint}`
    const labels = (await namespaceOf(cluster, namespace)).metadata.labels ?? {}
    const existing = await cluster.find({ apiVersion: gatewayApi, kind: 'Gateway', namespace, name: waypoint })
    if (existing && textOf(existing.spec, 'gatewayClassName') !== className) throw new MeshError('BAD_CONFIG', `the Gateway ${id} is of another class; choose another name`)
    const used = waypointWish(labels, namespace)
    if (wish.enrollNamespace && used && (used.name !== waypoint || used.namespace !== namespace) && !wish.overwrite) {
      throw new MeshError('BAD_CONFIG', `the namespace ${namespace} uses the waypoint ${used.namespace}/${used.name}; --overwrite gives it this one`)
    }
    await cluster.apply(parse(gatewayYaml(wish)) as KubeObject)
    output.print(`applied Gateway ${id}`)
    if (wish.enrollNamespace) {
      await cluster.merge({ apiVersion: 'v1', kind: 'Namespace', name: namespace }, { metadata: { labels: { [useWaypointLabel]: waypoint, [waypointNamespaceLabel]: null } } })
      output.print(`namespace ${namespace} uses it`)
    } else if ((await usersOf(cluster, namespace, waypoint)).length === 0) {
      output.print(`nothing uses it yet: --enroll-namespace lets ${namespace} do so, or label a service or a pod ${useWaypointLabel}=${waypoint}`)
    }
    if (timeoutSeconds !== undefined) await waitUntilProgrammed(cluster, namespace, waypoint, timeoutSeconds, output)
  })
}

async function waitUntilProgrammed(cluster: Cluster, namespace: string, waypoint: string, timeoutSeconds: number, output: Output): Promise<void> {
  const deadline = performance.now() + timeoutSeconds * 1_000
  for (let said = ''; ; await sleep(pollMs)) {
    const look = await lookAt(cluster, await find(cluster, namespace, waypoint))
    const line = `${look.ready} of ${look.replicas} ready${look.reason === '' ? '' : `: ${look.reason}`}`
    if (line !== said) output.print(visible(line))
    said = line
    if (look.isProgrammed && look.replicas > 0 && look.ready >= look.replicas) return
    if (performance.now() > deadline) throw new MeshError('COMMAND_FAILED', `waypoint ${namespace}/${waypoint} is not ready after ${timeoutSeconds} s: ${look.reason || 'its pods are not ready'}`)
  }
}

interface Look {
  readonly namespace: string
  readonly name: string
  readonly serves: string
  readonly isProgrammed: boolean
  readonly ready: number
  readonly replicas: number
  /** Why it is not programmed; empty where it is. */
  readonly reason: string
  /** Namespaces, services and pods whose label asks for it. */
  readonly usedBy: readonly string[]
}

async function lookAt(cluster: Cluster, { metadata: { name, namespace = '', labels }, status }: KubeObject): Promise<Look> {
  const deployment = await cluster.find({ apiVersion: 'apps/v1', kind: 'Deployment', namespace, name })
  const bad = listOf(status, 'conditions').find((each) => ['Accepted', 'Programmed'].includes(textOf(each, 'type')) && textOf(each, 'status') !== 'True')
  return {
    namespace, name, serves: labels?.[waypointForLabel] ?? 'all',
    isProgrammed: bad === undefined && listOf(status, 'conditions').some((each) => textOf(each, 'type') === 'Programmed'),
    ready: numberOf(deployment?.status, 'readyReplicas'), replicas: numberOf(deployment?.spec, 'replicas'),
    reason: bad === undefined ? '' : textOf(bad, 'message') || textOf(bad, 'reason'),
    usedBy: await usersOf(cluster, namespace, name),
  }
}

async function usersOf(cluster: Cluster, namespace: string, waypoint: string): Promise<string[]> {
  const all = await Promise.all(['Namespace', 'Service', 'Pod'].map((kind) => cluster.list('v1', kind, { labelSelector: `${useWaypointLabel}=${waypoint}` })))
  return all.flat().filter(({ metadata }) => {
    const wish = waypointWish(metadata.labels ?? {}, metadata.namespace ?? metadata.name)
    return wish?.name === waypoint && wish.namespace === namespace
  }).map(({ kind, metadata }) => `${kind} ${metadata.namespace === undefined ? '' : `${metadata.namespace}/`}${metadata.name}`)
}

export async function listOnCluster(connect: Connect, choice: ClusterChoice, namespace: string | undefined, form: OutputForm, output: Output): Promise<void> {
  await withCluster(connect, choice, async (cluster) => {
    const gateways = (await cluster.list(gatewayApi, 'Gateway', namespace === undefined ? {} : { namespace })).filter(isWaypoint)
    const looks = await Promise.all(gateways.map((each) => lookAt(cluster, each)))
    output.print(show(
      form, looks, ['NAMESPACE', 'WAYPOINT', 'READY', 'FOR', 'USED BY', 'PROBLEM'],
      looks.map((each) => [each.namespace, each.name, `${each.ready}/${each.replicas}`, each.serves, some(each.usedBy) || 'nobody', each.reason]), 'no waypoints',
    ))
  })
}

/** The exit code is 1 where it is not ready. */
export async function statusOnCluster(connect: Connect, choice: ClusterChoice, namespace: string, waypoint: string, form: OutputForm, output: Output): Promise<void> {
  await withCluster(connect, choice, async (cluster) => {
    const look = await lookAt(cluster, await find(cluster, namespace, waypoint))
    const isReady = look.isProgrammed && look.ready > 0
    if (!isReady) process.exitCode = 1
    if (form !== 'table') return output.print(show(form, look, [], [], ''))
    for (const line of [
      `waypoint ${namespace}/${waypoint}, for ${look.serves === 'all' ? 'services and pods' : look.serves}`,
      `ready: ${isReady ? 'yes' : 'no'}, ${look.ready} of ${look.replicas} pods${look.reason === '' ? '' : `: ${look.reason}`}`,
      `asked for by: ${some(look.usedBy, 10) || `nobody; label a namespace, service or pod ${useWaypointLabel}=${waypoint}`}`,
    ]) output.print(visible(line))
  })
}

/** All of them or none. */
export async function deleteOnCluster(connect: Connect, choice: ClusterChoice, namespace: string, named: readonly string[], isForced: boolean, output: Output): Promise<void> {
  if (named.length === 0) throw new MeshError('BAD_CONFIG', 'say which waypoints')
  await withCluster(connect, choice, async (cluster) => {
    const looks = await Promise.all([...new Set(named)].map(async (name) => lookAt(cluster, await find(cluster, namespace, name))))
    const used = looks.find(({ usedBy }) => usedBy.length > 0)
    if (used && !isForced) {
      throw new MeshError('BAD_CONFIG', `${some(used.usedBy)} still asks for ${namespace}/${used.name}, and without it requests would be refused: take away the label ${useWaypointLabel} first, or use --force`)
    }
    for (const { name } of looks) {
      await cluster.remove({ apiVersion: gatewayApi, kind: 'Gateway', namespace, name })
      output.print(`removed Gateway ${namespace}/${name}`)
    }
  })
}

const isWaypoint = ({ spec }: KubeObject): boolean => textOf(spec, 'gatewayClassName') === className

async function find(cluster: Cluster, namespace: string, name: string): Promise<KubeObject> {
  const found = await cluster.find({ apiVersion: gatewayApi, kind: 'Gateway', namespace, name })
  if (found && isWaypoint(found)) return found
  throw new MeshError('NOT_FOUND', `this cluster has no waypoint ${namespace}/${name}`)
}

async function namespaceOf(cluster: Cluster, name: string): Promise<KubeObject> {
  const found = await cluster.find({ apiVersion: 'v1', kind: 'Namespace', name })
  if (found) return found
  throw new MeshError('NOT_FOUND', `this cluster has no namespace ${name}`)
}

async function withCluster(connect: Connect, choice: ClusterChoice, work: (cluster: Cluster) => Promise<void>): Promise<void> {
  const { api, close } = await connect(choice)
  try {
    await work(new Cluster(api))
  } finally {
    close()
  }
}
