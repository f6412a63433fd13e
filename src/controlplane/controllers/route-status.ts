// What is said of routes at each of their parents, in the conditions of the Gateway API. Entries of other controllers stay as they
// are, and parents that others serve get none of ours. Pure.
import type { RouteCondition, RouteParentStatus } from '../../model/control-plane-status.ts'
import { gatewayControllers, type GatewayRole } from '../../model/gateway-labels.ts'
import { gatewayGroup } from '../../model/manifest-gateway.ts'
import type { ObjectFacts } from '../status.ts'
import { statusChange, withConditions, type WantedCondition } from './conditions.ts'
import { isRecord } from './strategic-merge.ts'

type Json = Readonly<Record<string, unknown>>

/** Of routes whose parents are Services: no class says who serves those. */
export const meshController = 'sidestep.dev/mesh'
const ours: ReadonlySet<unknown> = new Set<string>([meshController, ...Object.values(gatewayControllers)])
/** The Gateway API's own bound. */
const maxParents = 32

export interface RouteFacts {
  readonly namespace: string
  readonly generation: number
  /** As the API has them. */
  readonly parentRefs: readonly unknown[]
  readonly facts: Pick<ObjectFacts, 'problems' | 'isUnreadable' | 'parents'>
  /** What a Gateway is here; undefined where it is not there, or somebody else's. */
  readonly roleOf: (namespace: string, name: string) => GatewayRole | undefined
  readonly status: Json
  readonly now: string
}

/** The fields of the status that are to be different; undefined if it is right. */
export function routeStatusChange({ namespace, generation, parentRefs, facts, roleOf, status, now }: RouteFacts): Json | undefined {
  const before = Array.isArray(status['parents']) ? status['parents'].filter(isRecord) : []
  const others = before.filter((each) => !ours.has(each['controllerName']))
  const made = new Map<string, Json>()
  for (const ref of parentRefs.slice(0, maxParents)) {
    if (!isRecord(ref)) continue
    const parent = parentOf(ref, namespace)
    const id = idOf(parent)
    const controllerName = controllerOf(parent, roleOf)
    const said = facts.parents.find((each) => idOf(each.parent) === id)
    const conditions = said ? conditionsOf(said, facts) : facts.isUnreadable ? unreadable(facts.problems) : undefined
    // Where nothing is said it is another's, or a Gateway that is not there: no class says then whose it would be.
    if (!conditions || controllerName === undefined || made.has(id)) continue
    const last = before.find((each) => each['controllerName'] === controllerName && isRecord(each['parentRef']) && idOf(parentOf(each['parentRef'], namespace)) === id)
    made.set(id, { parentRef: ref, controllerName, conditions: withConditions(last?.['conditions'], conditions, { now, generation, gone: said?.partiallyInvalid ? [] : ['PartiallyInvalid'] }) })
  }
  const parents = [...others, ...made.values()].slice(0, maxParents)
  if (parents.length === 0 && before.length === 0) return undefined
  return statusChange(status, { parents })
}

function parentOf(ref: Json, own: string): RouteParentStatus['parent'] {
  const text = (field: string, otherwise: string): string => (typeof ref[field] === 'string' ? ref[field] : otherwise)
  const [sectionName, port] = [ref['sectionName'], ref['port']]
  return {
    group: text('group', gatewayGroup), kind: text('kind', 'Gateway'), namespace: text('namespace', own), name: text('name', ''),
    ...(typeof sectionName === 'string' ? { sectionName } : {}), ...(typeof port === 'number' ? { port } : {}),
  }
}

function idOf({ group, kind, namespace, name, sectionName = '', port = 0 }: RouteParentStatus['parent']): string {
  return JSON.stringify([group, kind, namespace, name, sectionName, port])
}

function controllerOf({ group, kind, namespace, name }: RouteParentStatus['parent'], roleOf: RouteFacts['roleOf']): string | undefined {
  if (group === gatewayGroup && kind === 'Gateway') {
    const role = roleOf(namespace, name)
    return role && gatewayControllers[role]
  }
  const isOurs = (group === '' && kind === 'Service') || (kind === 'ServiceEntry' && (group === 'networking.istio.io' || group === 'sidestep.dev'))
  return isOurs ? meshController : undefined
}

function conditionsOf({ accepted, resolvedRefs, partiallyInvalid }: RouteParentStatus, facts: RouteFacts['facts']): readonly WantedCondition[] {
  const is = (type: string, { status, reason, message }: RouteCondition): WantedCondition => ({ type, status, reason, message })
  if (facts.isUnreadable) return unreadable(facts.problems)
  return [is('Accepted', accepted), is('ResolvedRefs', resolvedRefs), ...(partiallyInvalid ? [is('PartiallyInvalid', partiallyInvalid)] : [])]
}

function unreadable(problems: readonly string[]): readonly WantedCondition[] {
  return [
    { type: 'Accepted', status: false, reason: 'UnsupportedValue', message: `what was in force before stays so: ${problems.join('; ')}` },
    { type: 'ResolvedRefs', status: true, reason: 'ResolvedRefs', message: '' },
  ]
}
