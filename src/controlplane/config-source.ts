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
  close(): void
}
