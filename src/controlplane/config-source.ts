// Where objects come from: a directory of YAML today, the Kubernetes API later. A source keeps the last good state of what is bad
// and says so; it does not know what objects mean.
import type { Problem } from '../model/manifest.ts'
import type { ObjectChanges } from '../model/object-set.ts'

export interface ConfigSource {
  /** Tells all there is before it resolves, and what changes after that. Rejects with BAD_CONFIG if there is nothing to read. */
  start(onChanges: (changes: ObjectChanges) => void): Promise<void>
  /** What a person should correct, as of the last change told. */
  problems(): readonly Problem[]
  notes(): readonly Problem[]
  /**
   * Secrets and ConfigMaps that somebody refers to, by object key: all of them, each time. Where a source reads them only then, it
   * resolves when each was read or is known not to be there, or could not be read in time.
   */
  want?(keys: ReadonlySet<string>): Promise<void>
  close(): void
}
