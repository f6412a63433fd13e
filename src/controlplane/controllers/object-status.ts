// What is said of policies, services and namespaces. Of Istio's kinds only a condition with a name of ours: the others are istiod's to
// write, which may serve the same objects. Pure.
import type { RouteCondition } from '../../model/control-plane-status.ts'
import { inMeshCondition, waypointBoundCondition } from '../../model/kubernetes-names.ts'
import type { ObjectFacts } from '../status.ts'
import { statusChange, withConditions, type WantedCondition } from './conditions.ts'
import { isRecord } from './strategic-merge.ts'

type Json = Readonly<Record<string, unknown>>

export const ownGroup = 'sidestep.dev'
/** The condition of policies and the like: of our own kinds, and of Istio's. */
export const acceptedTypes = { own: 'Accepted', istio: 'sidestep.dev/Accepted' } as const
const policyController = 'sidestep.dev/mesh'
const maxAncestors = 16

export interface PolicyFacts {
  readonly group: string
  readonly namespace: string
  readonly generation: number
  readonly targetRefs: readonly unknown[]
  readonly facts: Pick<ObjectFacts, 'problems' | 'isUnreadable'> & Partial<Pick<ObjectFacts, 'waypoint'>>
  readonly status: Json
  readonly now: string
}

export function policyStatusChange({ group, namespace, generation, targetRefs, facts, status, now }: PolicyFacts): Json | undefined {
  const isOwn = group === ownGroup
  const accepted = { ...acceptedOf(facts), type: isOwn ? acceptedTypes.own : acceptedTypes.istio }
  const bound = facts.waypoint ? [{ ...facts.waypoint, type: waypointBoundCondition }] : []
  const conditions = withConditions(status['conditions'], [accepted, ...bound], { now, generation, gone: facts.waypoint ? [] : [waypointBoundCondition] })
  if (!isOwn || targetRefs.length === 0) return statusChange(status, { conditions })
  const before = Array.isArray(status['ancestors']) ? status['ancestors'].filter(isRecord) : []
  const ancestors = targetRefs.filter(isRecord).slice(0, maxAncestors).map((ref) => {
    const ancestorRef = { group: text(ref['group']), kind: text(ref['kind']), namespace, name: text(ref['name']), ...(typeof ref['sectionName'] === 'string' ? { sectionName: ref['sectionName'] } : {}) }
    const last = before.find((each) => isRecord(each['ancestorRef']) && JSON.stringify(refOf(each['ancestorRef'])) === JSON.stringify(refOf(ancestorRef)))
    const own = atTarget(accepted, `${ancestorRef.kind} ${namespace}/${ancestorRef.name}`, facts.problems)
    return { ancestorRef, controllerName: policyController, conditions: withConditions(last?.['conditions'], [own], { now, generation }) }
  })
  return statusChange(status, { conditions, ancestors })
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : ''
}

function refOf(ref: Json): readonly unknown[] {
  return [text(ref['group']), ref['kind'], ref['name'], ref['sectionName']]
}

function acceptedOf({ problems, isUnreadable }: PolicyFacts['facts']): WantedCondition {
  const message = isUnreadable ? `what was in force before stays so: ${problems.join('; ')}` : problems.join('; ')
  return { type: 'Accepted', status: problems.length === 0, reason: problems.length === 0 ? 'Accepted' : 'Invalid', message }
}

/** A problem that names another target is not this one's. */
function atTarget(accepted: WantedCondition, target: string, problems: readonly string[]): WantedCondition {
  const missing = problems.filter((problem) => problem.startsWith(`there is no ${target}`))
  if (missing.length > 0) return { type: 'Accepted', status: false, reason: 'TargetNotFound', message: missing.join('; ') }
  const rest = problems.filter((problem) => !problem.startsWith('there is no '))
  return { type: 'Accepted', status: rest.length === 0, reason: rest.length === 0 ? 'Accepted' : accepted.reason, message: rest.join('; ') }
}

/** Of a Service: the waypoint before it. Nothing is said where none is asked for. */
export function serviceStatusChange({ waypoint, status, now }: { readonly waypoint: RouteCondition | undefined; readonly status: Json; readonly now: string }): Json | undefined {
  const wanted = waypoint ? [{ ...waypoint, type: waypointBoundCondition }] : []
  return statusChange(status, { conditions: withConditions(status['conditions'], wanted, { now, gone: waypoint ? [] : [waypointBoundCondition] }) })
}

export interface NamespaceCapture {
  /** Pods that are to be in the mesh. */
  readonly wanted: number
  readonly captured: number
  /** Some of those that are not: name and why, sorted by name. */
  readonly missing: readonly { readonly name: string; readonly why: string }[]
}

const maxNamed = 5

/** Of a namespace; `capture` is undefined where nobody wants it in the mesh. */
export function namespaceStatusChange({ capture, status, now }: { readonly capture: NamespaceCapture | undefined; readonly status: Json; readonly now: string }): Json | undefined {
  const wanted = capture ? [inMesh(capture)] : []
  return statusChange(status, { conditions: withConditions(status['conditions'], wanted, { now, gone: capture ? [] : [inMeshCondition] }) })
}

function inMesh({ wanted, captured, missing }: NamespaceCapture): WantedCondition {
  const count = wanted === 0 ? 'no pods yet' : `${captured} of ${wanted} pods captured`
  if (captured === wanted) return { type: inMeshCondition, status: true, reason: wanted === 0 ? 'NoPods' : 'PodsCaptured', message: count }
  const named = missing.slice(0, maxNamed).map(({ name, why }) => `${name}: ${why}`)
  const more = wanted - captured - named.length
  return { type: inMeshCondition, status: false, reason: 'PodsNotCaptured', message: `${count}; ${[...named, ...(more > 0 ? [`and ${more} more`] : [])].join('; ')}` }
}
