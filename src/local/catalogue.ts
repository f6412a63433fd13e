// What should run, from files that may each be good or bad and from objects applied through the API: pure. A bad file
// keeps its last good objects; of two objects with one name the first counts and the later is a problem.
import type {
  DeploymentManifest, ManifestObject, PodManifest, Problem, ServiceManifest,
} from '../model/manifest.ts'
import { objectKey } from '../model/manifest.ts'
import type { ParsedManifest } from '../model/manifest-parse.ts'

interface FileState {
  readonly objects: readonly ManifestObject[]
  readonly problems: readonly Problem[]
  readonly notes: readonly Problem[]
}

export interface Desired {
  /** Labels by name; a namespace that nobody declared has none. */
  readonly namespaces: ReadonlyMap<string, Readonly<Record<string, string>>>
  /** By `namespace/name`. */
  readonly pods: ReadonlyMap<string, PodManifest>
  readonly deployments: ReadonlyMap<string, DeploymentManifest>
  readonly services: ReadonlyMap<string, ServiceManifest>
  readonly problems: readonly Problem[]
  readonly notes: readonly Problem[]
}

export class Catalogue {
  readonly #files = new Map<string, FileState>()
  readonly #applied = new Map<string, ManifestObject>()
  #directoryProblem: Problem | undefined

  /** Takes a file's newest reading; with problems in it, only those are taken. */
  setFile(file: string, parsed: ParsedManifest): void {
    const objects = parsed.problems.length === 0 ? parsed.objects : (this.#files.get(file)?.objects ?? [])
    this.#files.set(file, { objects, problems: parsed.problems, notes: parsed.notes })
  }

  /** A file that is gone takes its objects with it. */
  removeFile(file: string): void {
    this.#files.delete(file)
  }

  get files(): readonly string[] {
    return [...this.#files.keys()]
  }

  /** Something about the directory itself, such as that it cannot be read. */
  setDirectoryProblem(problem: Problem | undefined): void {
    this.#directoryProblem = problem
  }

  /** Adds or replaces objects, like `kubectl apply`. They win over files. */
  apply(objects: readonly ManifestObject[]): void {
    for (const object of objects) this.#applied.set(objectKey(object), object)
  }

  /** Takes back what was applied; false if it was not. `key` as objectKey gives it. */
  unapply(key: string): boolean {
    return this.#applied.delete(key)
  }

  /** Everything together. Files count in the order of their names, so a restart comes to the same answer. */
  desired(): Desired {
    const namespaces = new Map<string, Readonly<Record<string, string>>>([['default', {}]])
    const pods = new Map<string, PodManifest>()
    const deployments = new Map<string, DeploymentManifest>()
    const services = new Map<string, ServiceManifest>()
    const problems: Problem[] = this.#directoryProblem ? [this.#directoryProblem] : []
    const notes: Problem[] = []
    const origins = new Map<string, string>()

    const add = (object: ManifestObject): void => {
      const { metadata } = object
      const id = object.kind === 'Namespace' ? metadata.name : `${'namespace' in metadata ? metadata.namespace : ''}/${metadata.name}`
      switch (object.kind) {
        case 'Namespace': return void namespaces.set(id, metadata.labels)
        case 'ServiceAccount': return
        case 'Pod': return void pods.set(id, object)
        case 'Deployment': return void deployments.set(id, object)
        case 'Service': return void services.set(id, object)
        default: return object satisfies never
      }
    }

    for (const file of [...this.#files.keys()].sort()) {
      const state = this.#files.get(file)
      if (!state) continue
      problems.push(...state.problems)
      notes.push(...state.notes)
      for (const object of state.objects) {
        const key = objectKey(object)
        const first = origins.get(key)
        if (first !== undefined) {
          problems.push({ ...object.origin, reason: `${key} is already defined in ${first}; that one counts` })
          continue
        }
        origins.set(key, `${object.origin.file}:${object.origin.line}`)
        if (!this.#applied.has(key)) add(object)
      }
    }
    for (const object of this.#applied.values()) add(object)
    return { namespaces, pods, deployments, services, problems, notes }
  }
}

/** True if all of the selector's labels are there. An empty selector selects nothing, as for Services. */
export function selects(selector: Readonly<Record<string, string>> | undefined, labels: Readonly<Record<string, string>>): boolean {
  const wanted = Object.entries(selector ?? {})
  return wanted.length > 0 && wanted.every(([key, value]) => labels[key] === value)
}
