// Objects from a directory of YAML (or one file), watched, together with objects that were applied through an API. Files that
// do not parse and objects that are bad keep their last good state.
import { DirectoryWatcher } from '../core/directory.ts'
import type { ManifestObject, Problem } from '../model/manifest.ts'
import { manifestFiles, type ParsedManifest } from '../model/manifest-parse.ts'
import { ObjectSet, type ObjectChanges } from '../model/object-set.ts'
import type { ConfigSource } from './config-source.ts'

export class DirectorySource implements ConfigSource {
  readonly #path: string
  readonly #objects = new ObjectSet()
  #watcher: DirectoryWatcher<ParsedManifest> | undefined
  #onChanges: (changes: ObjectChanges) => void = () => undefined
  #problemsTold = ''

  constructor(path: string) {
    this.#path = path
  }

  async start(onChanges: (changes: ObjectChanges) => void): Promise<void> {
    this.#onChanges = onChanges
    this.#watcher = await DirectoryWatcher.start(this.#path, manifestFiles, (reading) => {
      this.#objects.setReading(reading)
      this.#tell()
    })
  }

  /** Adds or replaces objects; they win over files until they are taken back. */
  apply(objects: readonly ManifestObject[]): void {
    this.#objects.apply(objects)
    this.#tell()
  }

  /** False if it was not applied. `key` as objectKey gives it. */
  unapply(key: string): boolean {
    const was = this.#objects.unapply(key)
    this.#tell()
    return was
  }

  /** A new problem is told too, with no changes. */
  #tell(): void {
    const changes = this.#objects.takeChanges()
    const problems = JSON.stringify(this.#objects.problems())
    if (changes.size === 0 && problems === this.#problemsTold) return
    this.#problemsTold = problems
    this.#onChanges(changes)
  }

  problems(): readonly Problem[] {
    return this.#objects.problems()
  }

  notes(): readonly Problem[] {
    return this.#objects.notes()
  }

  close(): void {
    this.#watcher?.close()
  }
}
