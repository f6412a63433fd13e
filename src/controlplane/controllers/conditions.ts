// Conditions as Kubernetes has them: ours put among those of others, which stay as they are. A condition that says the same as before
// is the same, with its time; so a status that is right is not written again. Pure.
import { isDeepStrictEqual } from 'node:util'
import { isRecord } from './strategic-merge.ts'

export interface WantedCondition {
  readonly type: string
  readonly status: boolean
  /** CamelCase; Kubernetes wants one always. */
  readonly reason: string
  readonly message: string
}

const maxMessage = 2_000

/** `before` is a list of conditions as somebody wrote it. Those of the types in `gone` are taken away. `generation` 0 is not said. */
export function withConditions(
  before: unknown, wanted: readonly WantedCondition[], { now, generation = 0, gone = [] }: { readonly now: string; readonly generation?: number; readonly gone?: readonly string[] },
): readonly unknown[] {
  const others = Array.isArray(before) ? before.filter((each) => isRecord(each) && !gone.some((type) => type === each['type'])) : []
  const conditions: unknown[] = []
  const left = new Map(wanted.map((each) => [each.type, each]))
  for (const each of others) {
    const type = isRecord(each) ? each['type'] : undefined
    const own = typeof type === 'string' ? left.get(type) : undefined
    // A second one of a type is nobody's.
    if (typeof type === 'string' && wanted.some((one) => one.type === type) && !own) continue
    if (own) left.delete(own.type)
    conditions.push(own ? condition(own, isRecord(each) ? each : {}, now, generation) : each)
  }
  return [...conditions, ...[...left.values()].map((own) => condition(own, {}, now, generation))]
}

function condition({ type, status, reason, message }: WantedCondition, before: Readonly<Record<string, unknown>>, now: string, generation: number): Readonly<Record<string, unknown>> {
  const said = status ? 'True' : 'False'
  const since = before['status'] === said && typeof before['lastTransitionTime'] === 'string' ? before['lastTransitionTime'] : now
  const made = {
    type, status: said, reason, message: message.length > maxMessage ? `${message.slice(0, maxMessage)}…` : message, lastTransitionTime: since,
    ...(generation > 0 ? { observedGeneration: generation } : {}),
  }
  // Fields that others added to it (a probe's time) are gone with it only if it says something else.
  return Object.entries(made).every(([field, value]) => isDeepStrictEqual(before[field], value)) ? before : made
}

/** The fields of a status that are different from what is there; undefined if none is. */
export function statusChange(before: Readonly<Record<string, unknown>>, wanted: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> | undefined {
  const changed = Object.entries(wanted).filter(([field, value]) => !isDeepStrictEqual(before[field], value) && !(isEmptyList(value) && before[field] === undefined))
  return changed.length === 0 ? undefined : Object.fromEntries(changed)
}

/** The API leaves out lists that are empty. */
function isEmptyList(value: unknown): boolean {
  return Array.isArray(value) && value.length === 0
}
