// What translation has to say of each object, gathered while it runs: problems (part of it is not in force), notes (read in
// another way than one may think), and what became of routes at their parents.
import type { ListenerStatus, RouteCondition, RouteParentStatus } from '../../../model/control-plane-status.ts'
import { getOrMake } from '../selectors.ts'

export interface ObjectFindings {
  readonly problems: readonly string[]
  readonly notes: readonly string[]
  /** In the order of a route's parentRefs; empty for other objects. */
  readonly parents: readonly RouteParentStatus[]
  /** In the order of a Gateway's listeners; absent for other objects, and for Gateways of others. */
  readonly listeners?: readonly ListenerStatus[]
}

interface Listener {
  kinds: readonly string[]
  readonly routes: Set<string>
  accepted: RouteCondition
  conflicted: RouteCondition
  /** By reason. */
  readonly unresolved: Map<string, string[]>
}

interface Gathered {
  readonly problems: Set<string>
  readonly notes: Set<string>
  readonly parents: RouteParentStatus[]
  /** By name. */
  readonly listeners: Map<string, Listener>
}

export class Findings {
  readonly #byObject = new Map<string, Gathered>()

  #of(object: string): Gathered {
    return getOrMake(this.#byObject, object, () => ({ problems: new Set<string>(), notes: new Set<string>(), parents: [], listeners: new Map<string, Listener>() }))
  }

  #listener(gateway: string, name: string): Listener {
    return getOrMake(this.#of(gateway).listeners, name, () => ({
      kinds: [], routes: new Set<string>(), unresolved: new Map<string, string[]>(),
      accepted: { status: true, reason: 'Accepted', message: '' }, conflicted: { status: false, reason: 'NoConflicts', message: '' },
    }))
  }

  problem(object: string, text: string): void {
    this.#of(object).problems.add(text)
  }

  note(object: string, text: string): void {
    this.#of(object).notes.add(text)
  }

  parent(object: string, status: RouteParentStatus): void {
    this.#of(object).parents.push(status)
  }

  /** A listener of a Gateway of ours, with the kinds of routes that it takes. */
  listener(gateway: string, name: string, kinds: Iterable<string>): void {
    this.#listener(gateway, name).kinds = [...kinds]
  }

  /** It is not in force; a problem, too. */
  refuseListener(gateway: string, name: string, reason: string, message: string, isConflict = false): void {
    const listener = this.#listener(gateway, name)
    listener.accepted = { status: false, reason, message }
    if (isConflict) listener.conflicted = { status: true, reason, message }
    this.problem(gateway, `listener ${name}: ${message} (${reason})`)
  }

  /** Something that it names cannot be used; a problem, too. */
  unresolved(gateway: string, name: string, reason: string, message: string): void {
    getOrMake(this.#listener(gateway, name).unresolved, reason, () => []).push(message)
    this.problem(gateway, `listener ${name}: ${message} (${reason})`)
  }

  /** A route is attached to it. */
  attached(gateway: string, name: string, route: string): void {
    this.#listener(gateway, name).routes.add(route)
  }

  /** By object key; objects of which there is nothing to say are not there. */
  result(): ReadonlyMap<string, ObjectFindings> {
    return new Map([...this.#byObject].sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, { problems, notes, parents, listeners }]) => [
      key, {
        problems: [...problems], notes: [...notes], parents,
        ...(listeners.size === 0 ? {} : { listeners: [...listeners].map(([name, listener]) => listenerStatus(name, listener)) }),
      },
    ]))
  }
}

function listenerStatus(name: string, { kinds, routes, accepted, conflicted, unresolved }: Listener): ListenerStatus {
  const [first] = unresolved
  return {
    name, supportedKinds: [...kinds], attachedRoutes: routes.size, accepted, conflicted,
    // One reason for all: the first that was found, which is the graver one where a kind of routes is wrong, too.
    resolvedRefs: first
      ? { status: false, reason: first[0], message: [...unresolved.values()].flat().join('; ') }
      : { status: true, reason: 'ResolvedRefs', message: '' },
  }
}

/** The same object without fields that are undefined, for types whose optional fields may only be absent. */
export function given<T extends object>(fields: T): Given<T> {
  const kept: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(fields)) if (value !== undefined) kept[key] = value
  return kept as Given<T>
}

type Given<T> = { [K in keyof T as undefined extends T[K] ? never : K]: T[K] } & { [K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined> }
