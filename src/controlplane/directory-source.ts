// Objects from a directory of YAML (or one file), watched, and from a second one whose objects win over it: what was applied by
// hand. Files that do not parse and objects that are bad keep their last good state.
import { DirectoryWatcher, type DirectoryReading } from '../core/directory.ts'
import type { ManifestObject, Problem } from '../model/manifest.ts'
import { manifestFiles, type ParsedManifest } from '../model/manifest-parse.ts'
import { ObjectSet, type ObjectChanges } from '../model/object-set.ts'
import type { ConfigSource } from './config-source.ts'

export class DirectorySource implements ConfigSource {
  readonly #path: string | undefined
  readonly #appliedPath: string | undefined
  readonly #objects = new ObjectSet()
  /** What the second directory holds, with the same care for what is bad. */
  readonly #applied = new ObjectSet()
  readonly #watchers: DirectoryWatcher<ParsedManifest>[] = []
  #isStarted = false
  #onChanges: (changes: ObjectChanges) => void = () => undefined
  #problemsTold = ''

  constructor(path: string | undefined, appliedPath?: string) {
    this.#path = path
    this.#appliedPath = appliedPath
  }

  async start(onChanges: (changes: ObjectChanges) => void): Promise<void> {
    this.#onChanges = onChanges
    await this.#watch(this.#appliedPath, (reading) => {
      this.#applied.setReading(reading)
      this.#takeApplied()
    })
    await this.#watch(this.#path, (reading) => this.#objects.setReading(reading))
    this.#isStarted = true
    this.#tell()
  }

  async #watch(path: string | undefined, take: (reading: DirectoryReading<ParsedManifest>) => void): Promise<void> {
    if (path === undefined) return
    this.#watchers.push(await DirectoryWatcher.start(path, manifestFiles, (reading) => {
      take(reading)
      this.#tell()
    }))
  }

  #takeApplied(): void {
    for (const [key, object] of this.#applied.takeChanges()) {
      if (object) this.#objects.apply([object])
      else this.#objects.unapply(key)
    }
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

  /** A new problem is told too, with no changes. Before all was read once nothing is told, or it would be taken for all. */
  #tell(): void {
    if (!this.#isStarted) return
    const changes = this.#objects.takeChanges()
    const problems = JSON.stringify(this.problems())
    if (changes.size === 0 && problems === this.#problemsTold) return
    this.#problemsTold = problems
    this.#onChanges(changes)
  }

  problems(): readonly Problem[] {
    return [...this.#objects.problems(), ...this.#applied.problems()]
  }

  notes(): readonly Problem[] {
    return [...this.#objects.notes(), ...this.#applied.notes()]
  }

  close(): void {
    for (const watcher of this.#watchers) watcher.close()
  }
}
