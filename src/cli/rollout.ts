// Waiting until what was applied runs: says how far it is whenever that changes, and what holds it up when time is over.
import { setTimeout as sleep } from 'node:timers/promises'
import { MeshError } from '../core/errors.ts'
import { objectText, type ObjectName } from '../install/record.ts'
import type { KubeObject } from '../kube/api.ts'
import { fieldOf, listOf, numberOf, textOf, type Cluster } from './cluster.ts'
import { visible, type Output } from './output.ts'

const pollMs = 500

/** How far a Deployment or DaemonSet is. */
interface Progress {
  readonly isDone: boolean
  /** `1 of 2 ready` */
  readonly text: string
}

function progressOf(object: KubeObject): Progress {
  const { status, spec } = object
  const isObserved = numberOf(status, 'observedGeneration') >= (object.metadata.generation ?? 0)
  const isDaemonSet = object.kind === 'DaemonSet'
  const wanted = isDaemonSet ? numberOf(status, 'desiredNumberScheduled') : typeof fieldOf(spec, 'replicas') === 'number' ? numberOf(spec, 'replicas') : 1
  const updated = numberOf(status, isDaemonSet ? 'updatedNumberScheduled' : 'updatedReplicas')
  const ready = numberOf(status, isDaemonSet ? 'numberAvailable' : 'availableReplicas')
  const all = isDaemonSet ? wanted : numberOf(status, 'replicas')
  const text = updated < wanted ? `${updated} of ${wanted} made anew, ${Math.min(ready, wanted)} ready` : `${Math.min(ready, wanted)} of ${wanted} ready`
  return { isDone: isObserved && updated >= wanted && ready >= wanted && all <= wanted, text: isObserved ? text : 'not seen yet' }
}

/**
 * A DaemonSet's status counts the oldest pod of each node, also one that ends: and a ztunnel that ends may finish its connections for
 * an hour. So its pods are counted here.
 */
async function progress(cluster: Cluster, object: KubeObject): Promise<Progress> {
  const byStatus = progressOf(object)
  const generation = object.metadata.annotations?.['deprecated.daemonset.template.generation']
  const isObserved = numberOf(object.status, 'observedGeneration') >= (object.metadata.generation ?? 0)
  if (byStatus.isDone || object.kind !== 'DaemonSet' || generation === undefined || !isObserved) return byStatus
  const pods = await cluster.list('v1', 'Pod', { namespace: object.metadata.namespace ?? '', labelSelector: `pod-template-generation=${generation}` })
  const own = pods.filter(({ metadata }) => metadata.ownerReferences?.some(({ uid }) => uid === object.metadata.uid))
  const wanted = numberOf(object.status, 'desiredNumberScheduled')
  const ready = own.filter((pod) => pod.metadata.deletionTimestamp === undefined && whyNotReady(pod) === undefined).length
  return { isDone: ready >= wanted, text: `${own.length < wanted ? `${own.length} of ${wanted} made anew, ` : ''}${Math.min(ready, wanted)} of ${wanted} ready` }
}

/** Resolves when all of them run as they were applied. COMMAND_FAILED, saying what their pods wait for, after `timeoutMs`. */
export async function waitForRollout(cluster: Cluster, names: readonly ObjectName[], timeoutMs: number, output: Output): Promise<void> {
  const deadline = performance.now() + timeoutMs
  const said = new Map<string, string>()
  for (;;) {
    const waiting: { readonly object: KubeObject | undefined; readonly name: ObjectName; readonly text: string }[] = []
    for (const name of names) {
      const object = await cluster.find(name)
      const { isDone, text } = object ? await progress(cluster, object) : { isDone: false, text: 'is not there' }
      const line = `${objectText(name)}: ${text}`
      if (said.get(objectText(name)) !== line) output.print(line)
      said.set(objectText(name), line)
      if (!isDone) waiting.push({ object, name, text })
    }
    if (waiting.length === 0) return
    if (performance.now() > deadline) {
      const reasons = (await Promise.all(waiting.map(async ({ object, name, text }) => [`${objectText(name)}: ${text}`, ...(object ? await podProblems(cluster, object) : [])]))).flat()
      throw new MeshError('COMMAND_FAILED', `not ready after ${Math.round(timeoutMs / 1000)} s: ${reasons.map(visible).join('; ')}`)
    }
    await sleep(pollMs)
  }
}

/** What pods of it that are not ready wait for, a sentence each. */
export async function podProblems(cluster: Cluster, { metadata, spec }: KubeObject, limit = 5): Promise<string[]> {
  const labels = Object.entries((fieldOf(spec, 'selector', 'matchLabels') ?? {}) as Readonly<Record<string, string>>)
  const pods = await cluster.list('v1', 'Pod', { namespace: metadata.namespace ?? '', labelSelector: labels.map(([name, value]) => `${name}=${value}`).join(',') })
  return pods.flatMap((pod) => {
    const why = whyNotReady(pod)
    return why === undefined ? [] : [`pod ${pod.metadata.name}${textOf(pod.spec, 'nodeName') === '' ? '' : ` on ${textOf(pod.spec, 'nodeName')}`}: ${why}`]
  }).slice(0, limit)
}

/** Undefined for a pod that is ready, or ending. */
export function whyNotReady({ metadata, status }: KubeObject): string | undefined {
  if (metadata.deletionTimestamp !== undefined) return undefined
  const conditions = listOf(status, 'conditions')
  const ready = conditions.find((each) => textOf(each, 'type') === 'Ready')
  if (textOf(ready, 'status') === 'True') return undefined
  const unscheduled = conditions.find((each) => textOf(each, 'type') === 'PodScheduled' && textOf(each, 'status') === 'False')
  if (unscheduled !== undefined) return `no node for it: ${textOf(unscheduled, 'message')}`
  for (const container of [...listOf(status, 'initContainerStatuses'), ...listOf(status, 'containerStatuses')]) {
    const name = textOf(container, 'name')
    const waiting = fieldOf(container, 'state', 'waiting')
    const ended = fieldOf(container, 'state', 'terminated') ?? fieldOf(container, 'lastState', 'terminated')
    const last = ended !== undefined && numberOf(ended, 'exitCode') !== 0
      ? `container ${name} ended with ${numberOf(ended, 'exitCode')}${textOf(ended, 'message') === '' ? '' : `: ${textOf(ended, 'message').trim().slice(-500)}`}` : undefined
    const reason = textOf(waiting, 'reason')
    if (last !== undefined) return last
    if (reason !== '' && reason !== 'ContainerCreating' && reason !== 'PodInitializing') return `container ${name}: ${reason}${textOf(waiting, 'message') === '' ? '' : `: ${textOf(waiting, 'message')}`}`
  }
  return textOf(ready, 'message') || textOf(status, 'phase') || 'not ready'
}
