// What a client holds of one type of resource: the bytes and versions of the last good state, by name. A response is first
// read (which changes nothing), then handed on, then committed: a consumer that fails leaves the cache as it was, and the
// server is asked again.
import { policyKey } from '../model/authorization.ts'
import type { Authorization } from '../model/authorization.ts'
import { serviceKey } from '../model/workload.ts'
import type { Service, Workload } from '../model/workload.ts'
import { decodeResource } from './decode.ts'
import { decoding } from './decoded.ts'
import { decodeFrame } from './frames.ts'
import type { RawResource } from './frames.ts'
import type { Resource, ResourceType } from './resource-types.ts'
import { typeUrls } from './resource-types.ts'

/** What changed, decoded. Removals come first, then the rest in any order. */
export interface XdsDelta {
  readonly workloads: readonly Workload[]
  readonly services: readonly Service[]
  readonly policies: readonly Authorization[]
  /** Resource names: a workload's uid or a service's key. */
  readonly removedAddresses: readonly string[]
  readonly removedPolicies: readonly string[]
}

export interface Rejection {
  readonly name: string
  readonly because: string
}

/** A response that was read and is not yet committed. */
export interface ReadResponse {
  readonly delta: XdsDelta
  readonly accepted: readonly RawResource[]
  readonly removed: readonly string[]
  readonly rejections: readonly Rejection[]
}

// Some 5 ms of decoding.
const sliceSize = 250

const breathe = (): Promise<void> => new Promise((resolve) => { setImmediate(resolve) })

function nameOf(resource: Resource): string {
  switch (resource.kind) {
    case 'workload':
      return resource.workload.uid
    case 'service':
      return serviceKey(resource.service)
    case 'policy':
      return policyKey(resource.policy)
  }
}

export class ResourceCache {
  readonly type: ResourceType
  readonly #held = new Map<string, RawResource>()
  readonly #byAlias = new Map<string, string>()
  /** Names whose latest version was refused: the server must send them again after a reconnect. */
  readonly #rejected = new Set<string>()

  constructor(type: ResourceType) {
    this.type = type
  }

  get size(): number {
    return this.#held.size
  }

  /** Whether a resource of that name or alias is held. */
  has(name: string): boolean {
    return this.#held.has(name) || this.#byAlias.has(name)
  }

  resources(): RawResource[] {
    return [...this.#held.values()]
  }

  /** Name to version, for initial_resource_versions; no version where another must be sent again or, if it is gone, removed. */
  versions(): Record<string, string> {
    const versions: Record<string, string> = Object.create(null) as Record<string, string>
    for (const { name, version } of this.#held.values()) versions[name] = this.#rejected.has(name) ? '' : version
    return versions
  }

  /** Decodes in slices; a resource that is held with the same bytes is accepted and no change. */
  async read(frames: readonly Uint8Array[], removed: readonly string[]): Promise<ReadResponse> {
    return await this.#read(frames, decodeFrame, removed)
  }

  /** The same for resources that are out of their frames already. */
  async readRaw(resources: readonly RawResource[]): Promise<ReadResponse> {
    return await this.#read(resources, (raw) => ({ ...raw, typeUrl: typeUrls[this.type] }), [])
  }

  async #read<T>(
    sources: readonly T[],
    open: (source: T) => RawResource & { readonly typeUrl: string },
    removed: readonly string[],
  ): Promise<ReadResponse> {
    const workloads: Workload[] = []
    const services: Service[] = []
    const policies: Authorization[] = []
    const accepted: RawResource[] = []
    const rejections: Rejection[] = []
    let done = 0
    for (const source of sources) {
      done += 1
      if (done % sliceSize === 0) await breathe()
      const opened = decoding(() => open(source))
      if (!opened.ok) {
        rejections.push({ name: '', because: opened.because })
        continue
      }
      const { typeUrl, ...raw } = opened.value
      const held = this.#held.get(raw.name)
      if (held && Buffer.compare(held.value, raw.value) === 0 && typeUrl === typeUrls[this.type]) {
        accepted.push(raw)
      } else {
        const because = this.#decodeInto(raw, typeUrl, workloads, services, policies)
        if (because === undefined) accepted.push(raw)
        else rejections.push({ name: raw.name, because })
      }
    }
    const gone = removed.filter((name) => this.#held.has(name))
    const [removedAddresses, removedPolicies] = this.type === 'address' ? [gone, []] : [[], gone]
    return { delta: { workloads, services, policies, removedAddresses, removedPolicies }, accepted, removed, rejections }
  }

  /** Makes a response that was read the state. */
  commit({ accepted, removed, rejections }: ReadResponse): void {
    for (const name of removed) this.#drop(name)
    for (const raw of accepted) {
      this.#drop(raw.name)
      this.#held.set(raw.name, raw)
      for (const alias of raw.aliases) this.#byAlias.set(alias, raw.name)
    }
    for (const { name } of rejections) this.#rejected.add(name)
  }

  #decodeInto(raw: RawResource, typeUrl: string, workloads: Workload[], services: Service[], policies: Authorization[]): string | undefined {
    if (typeUrl !== typeUrls[this.type]) return `has the type ${JSON.stringify(typeUrl)}`
    const decoded = decodeResource(this.type, raw.value)
    if (!decoded.ok) return decoded.because
    const resource = decoded.value
    // Removal goes by the resource's name; content of another name would stay for ever.
    if (nameOf(resource) !== raw.name) return `has the content of ${JSON.stringify(nameOf(resource))}`
    switch (resource.kind) {
      case 'workload':
        workloads.push(resource.workload)
        break
      case 'service':
        services.push(resource.service)
        break
      case 'policy':
        policies.push(resource.policy)
        break
    }
    return undefined
  }

  #drop(name: string): void {
    for (const alias of this.#held.get(name)?.aliases ?? []) if (this.#byAlias.get(alias) === name) this.#byAlias.delete(alias)
    this.#held.delete(name)
    this.#rejected.delete(name)
  }
}
