// What translation has to say of each object, gathered while it runs: problems (part of it is not in force), notes (read in
// another way than one may think), and what became of routes at their parents.
import type { RouteParentStatus } from '../../../model/control-plane-status.ts'
import { getOrMake } from '../selectors.ts'

export interface ObjectFindings {
  readonly problems: readonly string[]
  readonly notes: readonly string[]
  /** In the order of a route's parentRefs; empty for other objects. */
  readonly parents: readonly RouteParentStatus[]
}

interface Gathered {
  readonly problems: Set<string>
  readonly notes: Set<string>
  readonly parents: RouteParentStatus[]
}

export class Findings {
  readonly #byObject = new Map<string, Gathered>()

  #of(object: string): Gathered {
    return getOrMake(this.#byObject, object, () => ({ problems: new Set<string>(), notes: new Set<string>(), parents: [] }))
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

  /** By object key; objects of which there is nothing to say are not there. */
  result(): ReadonlyMap<string, ObjectFindings> {
    return new Map([...this.#byObject].sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, { problems, notes, parents }]) => [
      key, { problems: [...problems], notes: [...notes], parents },
    ]))
  }
}

/** The same object without fields that are undefined, for types whose optional fields may only be absent. */
export function given<T extends object>(fields: T): Given<T> {
  const kept: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(fields)) if (value !== undefined) kept[key] = value
  return kept as Given<T>
}

type Given<T> = { [K in keyof T as undefined extends T[K] ? never : K]: T[K] } & { [K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined> }
