// Objects of the Kubernetes API that are in force: each is read by the schema of its kind, and of one that is bad the last good
// state stays while the problem is told. Keeps of an object what is used and nothing else. Two groups may have a kind of one name
// (Istio's policies and ours): of two objects with one name ours counts, and the other is a problem.
import { isDeepStrictEqual } from 'node:util'
import type { KubeObject } from '../../kube/api.ts'
import { objectKey, type ManifestKind, type ManifestObject, type Problem } from '../../model/manifest.ts'
import { parseObject } from '../../model/manifest-parse.ts'
import type { ObjectChanges } from '../../model/object-set.ts'
import { apiOrigin, slim } from './slim.ts'

/** What somebody needs who writes an object's status, or owns what is made for it. */
export interface ObjectReference {
  /** With the version that is watched. */
  readonly apiVersion: string
  readonly uid: string
  readonly generation: number
}

/** What one object of one group is. */
interface Entry {
  readonly key: string
  readonly reference: ObjectReference
  /** The last good state. */
  readonly object: ManifestObject | undefined
  readonly problems: readonly Problem[]
}

/** Where both groups say something, the first counts. */
const ownGroup = 'sidestep.dev'

export class ObjectBook {
  /** By `group kind namespace/name`. */
  readonly #entries = new Map<string, Entry>()
  /** Ids of entries by object key. */
  readonly #claims = new Map<string, string[]>()
  readonly #inForce = new Map<string, ManifestObject>()
  readonly #problems = new Map<string, readonly Problem[]>()
  readonly #changes = new Map<string, ManifestObject | undefined>()
  #revision = 0

  /**
   * Takes an object as the API gives it. `name` as the API's watch has it: `namespace/name`, or `name` alone. True if something is
   * different now, be it only a problem.
   */
  put(kind: ManifestKind, group: string, name: string, raw: KubeObject): boolean {
    const key = `${kind} ${name}`
    const id = `${group} ${key}`
    const { objects, problems } = parseObject(slim(kind, raw), apiOrigin)
    const before = this.#entries.get(id)
    const [parsed] = objects
    // A name or kind that is not the one asked for would be filed where nobody takes it back.
    const isMeant = parsed === undefined || objectKey(parsed) === key
    const said = isMeant ? problems.map((problem) => ({ ...problem, object: key })) : [{ ...apiOrigin, object: key, reason: 'is not what it is named' }]
    const good = isMeant ? parsed : undefined
    const object = good && before?.object && isDeepStrictEqual(before.object, good) ? before.object : good ?? before?.object
    const reference = referenceOf(raw, before?.reference)
    if (before && before.object === object && before.reference === reference && isDeepStrictEqual(before.problems, said)) return false
    this.#entries.set(id, { key, reference, object, problems: said })
    if (!before) this.#claims.set(key, [...(this.#claims.get(key) ?? []), id].sort(ownFirst))
    this.#settle(key)
    return true
  }

  remove(kind: ManifestKind, group: string, name: string): boolean {
    const key = `${kind} ${name}`
    const id = `${group} ${key}`
    if (!this.#entries.delete(id)) return false
    const claims = (this.#claims.get(key) ?? []).filter((each) => each !== id)
    if (claims.length === 0) this.#claims.delete(key)
    else this.#claims.set(key, claims)
    this.#settle(key)
    return true
  }

  #settle(key: string): void {
    this.#revision++
    const entries = (this.#claims.get(key) ?? []).flatMap((id) => this.#entries.get(id) ?? [])
    const [first, ...others] = entries
    const second = others.map(({ reference }): Problem => ({
      ...apiOrigin, object: key, reason: `${key} is there twice: that of ${first?.reference.apiVersion ?? ''} counts, that of ${reference.apiVersion} does not`,
    }))
    const problems = [...(first?.problems ?? []), ...second]
    if (problems.length > 0) this.#problems.set(key, problems)
    else this.#problems.delete(key)
    if (first?.object === this.#inForce.get(key)) return
    if (first?.object) this.#inForce.set(key, first.object)
    else this.#inForce.delete(key)
    this.#changes.set(key, first?.object)
  }

  /** What changed since the last call. */
  takeChanges(): ObjectChanges {
    const changes = new Map(this.#changes)
    this.#changes.clear()
    return changes
  }

  /** By key. */
  get objects(): ReadonlyMap<string, ManifestObject> {
    return this.#inForce
  }

  /** Of the object that counts, be it in force or bad; undefined if there is none. */
  reference(key: string): ObjectReference | undefined {
    const [first] = this.#claims.get(key) ?? []
    return first === undefined ? undefined : this.#entries.get(first)?.reference
  }

  *problems(): Generator<Problem> {
    for (const problems of this.#problems.values()) yield* problems
  }

  /** Grows with each change. */
  get revision(): number {
    return this.#revision
  }
}

function ownFirst(a: string, b: string): number {
  const rank = (id: string): number => (id.startsWith(`${ownGroup} `) ? 0 : 1)
  return rank(a) - rank(b) || (a < b ? -1 : 1)
}

/** The same one while nothing of it is different. */
function referenceOf({ apiVersion, metadata }: KubeObject, before: ObjectReference | undefined): ObjectReference {
  const reference = { apiVersion, uid: typeof metadata.uid === 'string' ? metadata.uid : '', generation: typeof metadata.generation === 'number' ? metadata.generation : 0 }
  return before && isDeepStrictEqual(before, reference) ? before : reference
}
