// What a client holds of one type of resource: the bytes and versions of the last good state, by name. A response is first
// read (which changes nothing), then handed on, then committed: a consumer that fails leaves the cache as it was, and the
// server is asked again.
import { policyKey } from '../model/authorization.ts'
import type { Authorization } from '../model/authorization.ts'
import { gatewayPrefix, waypointResourceName } from '../model/waypoint-config.ts'
import type { GatewayName, WaypointResource } from '../model/waypoint-config.ts'
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
  /** Of the client's own gateway. */
  readonly waypoint: readonly WaypointResource[]
  /** Resource names; `parseWaypointResourceName` tells kind and key. */
  readonly removedWaypoint: readonly string[]
  /**
   * Resources of the gateway that were refused where no earlier one of that name is in force: what they are for is not known, so
   * it must not be served as if nothing had been said. Each stays so until its name is given or removed.
   */
  readonly refusedWaypoint: readonly Rejection[]
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

// Some 5 ms of decoding: so many small resources, or fewer large ones.
const sliceSize = 250
const smallBytes = 512

const breathe = (): Promise<void> => new Promise((resolve) => { setImmediate(resolve) })

function nameOf(resource: Resource, gateway: GatewayName | undefined): string {
  switch (resource.kind) {
    case 'workload':
      return resource.workload.uid
    case 'service':
      return serviceKey(resource.service)
    case 'policy':
      return policyKey(resource.policy)
    case 'waypoint':
      return waypointResourceName(gateway ?? noGateway, resource.resource)
  }
}

const noGateway: GatewayName = { namespace: '', name: '' }

/** A delta that is being put together. */
type DeltaDraft = { readonly [Part in 'workloads' | 'services' | 'policies' | 'waypoint']: XdsDelta[Part][number][] }

export class ResourceCache {
  readonly type: ResourceType
  readonly #gateway: GatewayName | undefined
  readonly #held = new Map<string, RawResource>()
  readonly #byAlias = new Map<string, string>()
  /** Names whose latest version was refused: the server must send them again after a reconnect. */
  readonly #rejected = new Set<string>()

  /** Of the type `waypoint` only resources of `gateway` are taken. */
  constructor(type: ResourceType, gateway?: GatewayName) {
    this.type = type
    this.#gateway = gateway
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
    // Not held, but who was told of the refusal must hear it if there is no such resource any more.
    for (const name of this.#rejected) if (name !== '') versions[name] = ''
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
    const draft: DeltaDraft = { workloads: [], services: [], policies: [], waypoint: [] }
    const accepted: RawResource[] = []
    const rejections: Rejection[] = []
    let done = 0
    for (const source of sources) {
      if (done >= sliceSize) {
        done = 0
        await breathe()
      }
      const opened = decoding(() => open(source))
      done += opened.ok ? Math.max(1, opened.value.value.length / smallBytes) : 1
      if (!opened.ok) {
        rejections.push({ name: '', because: opened.because })
        continue
      }
      const { typeUrl, ...raw } = opened.value
      const held = this.#held.get(raw.name)
      if (held && Buffer.compare(held.value, raw.value) === 0 && typeUrl === typeUrls[this.type]) {
        accepted.push(raw)
      } else {
        const because = this.#decodeInto(raw, typeUrl, draft)
        if (because === undefined) accepted.push(raw)
        else rejections.push({ name: raw.name, because })
      }
    }
    const gone = removed.filter((name) => this.#held.has(name) || this.#rejected.has(name))
    const goneOf = (type: ResourceType): string[] => (this.type === type ? gone : [])
    const removedOf = { removedAddresses: goneOf('address'), removedPolicies: goneOf('authorization'), removedWaypoint: goneOf('waypoint') }
    return { delta: { ...draft, ...removedOf, refusedWaypoint: this.#unknown(rejections) }, accepted, removed, rejections }
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

  #unknown(rejections: readonly Rejection[]): readonly Rejection[] {
    if (this.type !== 'waypoint' || !this.#gateway) return []
    const prefix = gatewayPrefix(this.#gateway)
    return rejections.filter(({ name }) => name.startsWith(prefix) && !this.#held.has(name))
  }

  #decodeInto(raw: RawResource, typeUrl: string, draft: DeltaDraft): string | undefined {
    if (typeUrl !== typeUrls[this.type]) return `has the type ${JSON.stringify(typeUrl)}`
    const decoded = decodeResource(this.type, raw.value)
    if (!decoded.ok) return decoded.because
    const resource = decoded.value
    // Removal goes by the resource's name; content of another name would stay for ever.
    const name = nameOf(resource, this.#gateway)
    if (name !== raw.name) return `has the content of ${JSON.stringify(name)}`
    switch (resource.kind) {
      case 'workload':
        draft.workloads.push(resource.workload)
        break
      case 'service':
        draft.services.push(resource.service)
        break
      case 'policy':
        draft.policies.push(resource.policy)
        break
      case 'waypoint':
        draft.waypoint.push(resource.resource)
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
