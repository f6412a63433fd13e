// What became of each object: whether it is in force as written, what it was translated to, and which nodes took that. Computed
// when somebody asks, from what others know; nothing is kept here.
import type { ControlPlaneStatus, ListenerStatus, ObjectStatus, RouteCondition, RouteParentStatus } from '../model/control-plane-status.ts'
import { objectKey, type ManifestObject, type Problem } from '../model/manifest.ts'
import { gatewayPrefix } from '../model/waypoint-config.ts'
import type { NodeStatus } from '../xds/node-records.ts'
import type { ResourceType } from '../xds/resource-types.ts'
import type { RefusedBecause, WaypointBinding } from './translate/routes/bindings.ts'
import type { ResourceNames, Translator } from './translate/translator.ts'

export interface StatusFacts {
  readonly isReady: boolean
  readonly translator: Translator
  /** Of the source. */
  readonly problems: readonly Problem[]
  readonly notes: readonly Problem[]
  readonly nodes: readonly NodeStatus[]
}

export function controlPlaneStatus(facts: StatusFacts): ControlPlaneStatus {
  return whole(facts, [...objectStatuses(facts)])
}

const sliceSize = 500

/**
 * The same for who is in no hurry: in a mesh of ten thousand services it is a tenth of a second of work, during which no change
 * would reach a node. An object that changes meanwhile may be told as it was before.
 */
export async function controlPlaneStatusInSlices(facts: StatusFacts): Promise<ControlPlaneStatus> {
  const objects: ObjectStatus[] = []
  for (const each of objectStatuses(facts)) {
    objects.push(each)
    if (objects.length % sliceSize === 0) await new Promise((resolve) => { setImmediate(resolve) })
  }
  return whole(facts, objects)
}

function* objectStatuses(facts: StatusFacts): Generator<ObjectStatus> {
  const { translator } = facts
  const byObject = new Map<string, Problem[]>()
  for (const problem of facts.problems) {
    if (problem.object === undefined) continue
    const list = byObject.get(problem.object)
    if (list) list.push(problem)
    else byObject.set(problem.object, [problem])
  }
  const answers = new Answers(facts.nodes)
  for (const [key, object] of translator.objects) {
    yield statusOf(key, object.origin, byObject.get(key) ?? [], translator, answers)
    byObject.delete(key)
  }
  // Never good so far, so not in force in any state.
  for (const [key, problems] of byObject) if (problems[0]) yield statusOf(key, problems[0], problems, translator, answers)
}

function whole({ translator, ...facts }: StatusFacts, objects: ObjectStatus[]): ControlPlaneStatus {
  return {
    ready: facts.isReady,
    objects: objects.sort((a, b) => (a.object < b.object ? -1 : 1)),
    problems: facts.problems.filter(({ object }) => object === undefined).map(plain),
    notes: facts.notes.map(plain),
    workloads: translator.workloads.size,
    services: translator.services.size,
    policies: translator.policies.size,
  }
}

/** Undefined if nobody wrote such an object. */
export function objectStatus(key: string, facts: StatusFacts): ObjectStatus | undefined {
  const problems = facts.problems.filter(({ object }) => object === key)
  const origin = facts.translator.objects.get(key)?.origin ?? problems[0]
  return origin && statusOf(key, origin, problems, facts.translator, new Answers(facts.nodes))
}

/** What is said of one object to who writes statuses; what nodes said of it is left out, so that it costs little. */
export interface ObjectFacts {
  /** Sentences without a place: why it is not in force as written. */
  readonly problems: readonly string[]
  /** It cannot be read; what was there before stays in force, if anything was. */
  readonly isUnreadable: boolean
  readonly parents: readonly RouteParentStatus[]
  readonly listeners: readonly ListenerStatus[]
  readonly waypoint: RouteCondition | undefined
}

/** The translated state as controllers see it: one look at a time, made of what is in force now. */
export interface PlaneView {
  /** By object key. */
  readonly objects: ReadonlyMap<string, ManifestObject>
  /** `key` as objectKey gives it. */
  factsOf(key: string): ObjectFacts
}

export function planeView({ translator, problems }: Pick<StatusFacts, 'translator' | 'problems'>): PlaneView {
  const unreadable = new Map<string, string[]>()
  for (const { object, reason } of problems) {
    if (object === undefined) continue
    const list = unreadable.get(object)
    if (list) list.push(reason)
    else unreadable.set(object, [reason])
  }
  return {
    objects: translator.objects,
    factsOf: (key) => {
      const own = unreadable.get(key)
      return {
        problems: [...own ?? [], ...translator.remarksOf(key).problems], isUnreadable: own !== undefined,
        parents: translator.parentsOf(key), listeners: translator.listenersOf(key), waypoint: waypointCondition(translator.bindingOf(key)),
      }
    },
  }
}

/** Every problem with the place where it is, for logs. */
export function allProblems({ translator, problems }: Pick<StatusFacts, 'translator' | 'problems'>): Problem[] {
  const said = [...translator.remarks].flatMap(([key, remarks]) => {
    const object = translator.objects.get(key)
    return object ? remarks.problems.map((reason): Problem => ({ ...object.origin, object: objectKey(object), reason })) : []
  })
  return [...problems, ...said]
}

function plain({ file, line, reason }: Problem): { file: string; line: number; reason: string } {
  return { file, line, reason }
}

function statusOf(
  key: string, { file, line }: { readonly file: string; readonly line: number }, problems: readonly Problem[], translator: Translator, answers: Answers,
): ObjectStatus {
  const remarks = translator.remarksOf(key)
  const parents = translator.parentsOf(key)
  const listeners = translator.listenersOf(key)
  const waypoint = waypointCondition(translator.bindingOf(key))
  const names = translator.resourcesOf(key)
  const all = [...problems.map((problem) => `${placeOf(problem)}${problem.reason}`), ...remarks.problems]
  return {
    object: key, file, line, accepted: all.length === 0, problems: all, notes: [...remarks.notes],
    ...(parents.length > 0 ? { parents: [...parents] } : {}), ...(listeners.length > 0 ? { listeners: [...listeners] } : {}),
    ...(waypoint ? { waypoint } : {}),
    resources: [...names.addresses, ...names.policies, ...names.waypoints],
    ...answers.to(names),
  }
}

/** What is in no file has no line. */
function placeOf({ file, line }: { readonly file: string; readonly line: number }): string {
  return line === 0 ? '' : `${file}:${line}: `
}

const refusals: Readonly<Record<RefusedBecause, string>> = {
  notFound: 'WaypointNotFound', notWaypoint: 'NotWaypoint', notPermitted: 'AttachmentDenied', unsupportedTraffic: 'UnsupportedTrafficType',
}

function waypointCondition(binding: WaypointBinding | undefined): RouteCondition | undefined {
  if (!binding || binding.t === 'none') return undefined
  const { namespace, name } = binding.waypoint
  return binding.t === 'bound'
    ? { status: true, reason: 'WaypointAccepted', message: `${namespace}/${name}` }
    : { status: false, reason: refusals[binding.because], message: binding.message }
}

/** What nodes said, prepared for many questions. */
class Answers {
  readonly #nodes: readonly NodeStatus[]
  readonly #refusals = new Map<string, Map<string, string>>()

  constructor(nodes: readonly NodeStatus[]) {
    this.#nodes = nodes.filter(({ disconnectedAtMs }) => disconnectedAtMs === undefined)
    for (const { node, nacks } of this.#nodes) {
      for (const { type, resource, because } of nacks) {
        const id = `${type} ${resource}`
        const byNode = this.#refusals.get(id)
        if (byNode) byNode.set(node, because)
        else this.#refusals.set(id, new Map([[node, because]]))
      }
    }
  }

  to({ addresses, policies, waypoints }: ResourceNames): Pick<ObjectStatus, 'acked' | 'pending' | 'nacked'> {
    const acked: string[] = []
    const pending: string[] = []
    const nacked: { node: string; because: string }[] = []
    if (addresses.length + policies.length + waypoints.length === 0) return { acked, pending, nacked }
    for (const { node, gateway, types } of this.#nodes) {
      const prefix = gateway && gatewayPrefix(gateway)
      // Gateways have no use for policies of ztunnels, and nobody has one for what another gateway is told.
      const asked: readonly (readonly [ResourceType, readonly string[]])[] = [
        ['address', addresses], ['authorization', gateway ? [] : policies],
        ['waypoint', prefix === undefined ? [] : waypoints.filter((name) => name.startsWith(prefix))],
      ]
      const own = asked.filter(([, names]) => names.length > 0)
      if (own.length === 0) continue
      const refusals = own.flatMap(([type, names]) => names.flatMap((name) => this.#refusals.get(`${type} ${name}`)?.get(node) ?? []))
      if (refusals.length > 0) {
        nacked.push(...[...new Set(refusals)].map((because) => ({ node, because })))
        continue
      }
      // A node that is behind says how much it is behind, not in what: then nothing is claimed.
      const isThere = own.every(([type]) => {
        const { subscribed, behind, waitingSinceMs } = types[type]
        return subscribed !== 'none' && behind === 0 && waitingSinceMs === undefined
      })
      if (isThere) acked.push(node)
      else pending.push(node)
    }
    return { acked, pending, nacked }
  }
}
