// How a Deployment gets from the pods it has to the pods it should have, and where a pod goes: pure decisions.
import type { PodSpec } from '../model/manifest-pod.ts'

export interface RolloutPod {
  readonly name: string
  /** Fingerprint of the template it was made from. */
  readonly hash: string
  readonly isReady: boolean
  readonly isTerminating: boolean
  readonly createdMs: number
}

export interface RolloutStep {
  readonly create: number
  readonly remove: readonly string[]
}

/**
 * The next step; call again whenever a pod changed. A rolling update has one pod more than wanted, and takes an old one
 * away only when the wanted number would still be ready without it.
 */
export function planRollout(
  wanted: { readonly replicas: number; readonly hash: string; readonly strategy: 'RollingUpdate' | 'Recreate' },
  pods: readonly RolloutPod[],
): RolloutStep {
  const { replicas, hash } = wanted
  const live = pods.filter((pod) => !pod.isTerminating)
  const current = live.filter((pod) => pod.hash === hash)
  const old = live.filter((pod) => pod.hash !== hash)
  if (wanted.strategy === 'Recreate' && pods.some((pod) => pod.hash !== hash)) {
    return { create: 0, remove: old.map((pod) => pod.name) }
  }
  // First those that serve nobody, then the youngest: they have the fewest connections.
  const dispensable = (list: readonly RolloutPod[]): RolloutPod[] =>
    [...list].sort((a, b) => Number(a.isReady) - Number(b.isReady) || b.createdMs - a.createdMs)
  const excess = dispensable(current).slice(0, Math.max(0, current.length - replicas))
  let spare = live.filter((pod) => pod.isReady).length - excess.filter((pod) => pod.isReady).length - replicas
  const remove = [...excess]
  for (const pod of dispensable(old)) {
    if (pod.isReady && spare-- <= 0) break
    remove.push(pod)
  }
  const surge = old.length > 0 ? 1 : 0
  const create = Math.max(0, Math.min(replicas - current.length, replicas + surge - (live.length - remove.length)))
  return { create, remove: remove.map((pod) => pod.name) }
}

const suffixLetters = 'bcdfghjklmnpqrstvwxz2456789'

/** `DEPLOYMENT-HASH-SUFFIX` within 253 characters, not among `taken`. */
export function replicaName(deployment: string, hash: string, taken: (name: string) => boolean, random: () => number = Math.random): string {
  for (;;) {
    let suffix = ''
    for (let i = 0; i < 5; i++) suffix += suffixLetters[Math.floor(random() * suffixLetters.length)]
    const name = `${deployment.slice(0, 236)}-${hash}-${suffix}`
    if (!taken(name)) return name
  }
}

export interface NodeLoad {
  readonly name: string
  readonly pods: number
}

/** The node that a pod goes to, or why there is none. The pod's own choice first, else the node with the fewest pods. */
export function chooseNode(spec: PodSpec, nodes: readonly NodeLoad[]): { node: string } | { because: string } {
  const hostname = spec.nodeSelector['kubernetes.io/hostname']
  const unknown = Object.keys(spec.nodeSelector).find((label) => label !== 'kubernetes.io/hostname' && label !== 'kubernetes.io/os')
  if (unknown !== undefined) return { because: `no node has the label ${unknown}` }
  const candidates = nodes.filter(
    (node) => (spec.nodeName === undefined || node.name === spec.nodeName) && (hostname === undefined || node.name === hostname),
  )
  const [first, ...rest] = candidates
  if (!first) return { because: `there is no node ${spec.nodeName ?? hostname ?? ''}; this mesh has ${nodes.map((n) => n.name).join(', ')}` }
  return { node: rest.reduce((least, node) => (node.pods < least.pods ? node : least), first).name }
}
