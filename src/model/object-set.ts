// All objects that are in force, from files that may each be good or bad and from objects applied through an API. Pure. What
// is bad keeps its last good state: an object whose name can be told alone, otherwise its whole file. Of two objects
// with one name the first counts and the later is a problem. Tells what changed, so that nobody has to compare.
import { objectKey, type ManifestObject, type Problem } from './manifest.ts'
import type { ParsedManifest } from './manifest-parse.ts'

interface FileState {
  readonly parsed: ParsedManifest
  /** By key: what counts of this file. */
  readonly objects: ReadonlyMap<string, ManifestObject>
  /** The second and later ones of a name within the file. */
  readonly repeated: readonly ManifestObject[]
}

/** `undefined` as value: the object is gone. */
export type ObjectChanges = ReadonlyMap<string, ManifestObject | undefined>

export class ObjectSet {
  readonly #files = new Map<string, FileState>()
  readonly #applied = new Map<string, ManifestObject>()
  /** Every file's object of a name, by file. */
  readonly #claims = new Map<string, Map<string, ManifestObject>>()
  /** Keys that more than one file claims: few, so that problems need not be looked for among all. */
  readonly #contested = new Set<string>()
  readonly #inForce = new Map<string, ManifestObject>()
  readonly #changes = new Map<string, ManifestObject | undefined>()
  #sortedFiles: readonly string[] | undefined
  #directoryProblem: Problem | undefined

  /** Takes a file's newest reading; of what is bad in it, only the problems. The same reading again costs nothing. */
  setFile(file: string, parsed: ParsedManifest): void {
    const before = this.#files.get(file)
    if (before?.parsed === parsed) return
    const objects = new Map<string, ManifestObject>()
    const repeated: ManifestObject[] = []
    if (parsed.problems.some((problem) => problem.object === undefined)) {
      before?.objects.forEach((object, key) => objects.set(key, object))
    } else {
      for (const object of parsed.objects) {
        const key = objectKey(object)
        if (objects.has(key)) repeated.push(object)
        else objects.set(key, object)
      }
      for (const { object: key = '' } of parsed.problems) {
        const last = before?.objects.get(key)
        if (last && !objects.has(key)) objects.set(key, last)
      }
    }
    this.#replace(file, { parsed, objects, repeated })
  }

  /** A file that is gone takes its objects with it. */
  removeFile(file: string): void {
    this.#replace(file, undefined)
  }

  #replace(file: string, state: FileState | undefined): void {
    const before = this.#files.get(file)
    if (!before || !state) this.#sortedFiles = undefined
    if (state) this.#files.set(file, state)
    else this.#files.delete(file)
    for (const key of before?.objects.keys() ?? []) {
      if (state?.objects.has(key)) continue
      const claims = this.#claims.get(key)
      claims?.delete(file)
      if (claims?.size === 0) this.#claims.delete(key)
      if (claims && claims.size < 2) this.#contested.delete(key)
      this.#settle(key)
    }
    for (const [key, object] of state?.objects ?? []) {
      const claims = this.#claims.get(key)
      if (claims) claims.set(file, object)
      else this.#claims.set(key, new Map([[file, object]]))
      if (claims && claims.size > 1) this.#contested.add(key)
      this.#settle(key)
    }
  }

  /** Takes a whole directory's reading: files that are not in it are gone. Of an unreadable one, only the problem. */
  setReading(reading: { readonly files: ReadonlyMap<string, ParsedManifest>; readonly problem: Problem | undefined }): void {
    this.#directoryProblem = reading.problem
    if (reading.problem) return
    for (const file of this.#files.keys()) if (!reading.files.has(file)) this.removeFile(file)
    for (const [file, parsed] of reading.files) this.setFile(file, parsed)
  }

  /** Adds or replaces objects, like `kubectl apply`. They win over files. */
  apply(objects: readonly ManifestObject[]): void {
    for (const object of objects) {
      const key = objectKey(object)
      this.#applied.set(key, object)
      this.#settle(key)
    }
  }

  /** Takes back what was applied; false if it was not. `key` as objectKey gives it. */
  unapply(key: string): boolean {
    if (!this.#applied.delete(key)) return false
    this.#settle(key)
    return true
  }

  #settle(key: string): void {
    const object = this.#applied.get(key) ?? this.#first(key)
    if (object === this.#inForce.get(key)) return
    if (object) this.#inForce.set(key, object)
    else this.#inForce.delete(key)
    this.#changes.set(key, object)
  }

  /** Files count in the order of their names, so a restart comes to the same answer. */
  #first(key: string): ManifestObject | undefined {
    let first: string | undefined
    const claims = this.#claims.get(key)
    for (const file of claims?.keys() ?? []) if (first === undefined || file < first) first = file
    return first === undefined ? undefined : claims?.get(first)
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

  /** Objects in force in the order of their files, then those applied. */
  *inOrder(): Generator<ManifestObject> {
    for (const file of this.#order()) {
      for (const [key, object] of this.#files.get(file)?.objects ?? []) if (this.#inForce.get(key) === object) yield object
    }
    yield* this.#applied.values()
  }

  #order(): readonly string[] {
    return (this.#sortedFiles ??= [...this.#files.keys()].sort())
  }

  /** Everything that a person should correct, in the order of the files. */
  problems(): Problem[] {
    const problems: Problem[] = this.#directoryProblem ? [this.#directoryProblem] : []
    for (const file of this.#order()) {
      const state = this.#files.get(file)
      if (!state) continue
      problems.push(...state.parsed.problems)
      // In the order of the file, so only if there is something to look for.
      for (const [key, object] of this.#contested.size > 0 ? state.objects : []) {
        if (!this.#contested.has(key)) continue
        const first = this.#first(key)
        if (first && first !== object) problems.push(secondOf(key, object, first))
      }
      for (const object of state.repeated) {
        const key = objectKey(object)
        problems.push(secondOf(key, object, this.#first(key) ?? object))
      }
    }
    return problems
  }

  notes(): Problem[] {
    return this.#order().flatMap((file) => this.#files.get(file)?.parsed.notes ?? [])
  }
}

function secondOf(key: string, object: ManifestObject, first: ManifestObject): Problem {
  return { ...object.origin, object: key, reason: `${key} is already defined in ${first.origin.file}:${first.origin.line}; that one counts` }
}
