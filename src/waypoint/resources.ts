// What the control plane told this gateway beyond workloads and services, by kind and key. A resource replaces the earlier one
// of its name and is never changed in place, so that who compiled something of it sees by identity whether it still holds. What
// was sent and could not be understood is kept as such: it must not be served as if nothing had been said.
import { parseWaypointResourceName } from '../model/waypoint-config.ts'
import type { WaypointResource } from '../model/waypoint-config.ts'

type Kind = WaypointResource['kind']
type Of<K extends Kind> = Extract<WaypointResource, { readonly kind: K }>

export interface GatewayDelta {
  readonly waypoint: readonly WaypointResource[]
  /** Resource names. Removals come first. */
  readonly removedWaypoint: readonly string[]
  /** Names of resources that nobody understands and that have no earlier version. */
  readonly refusedWaypoint: readonly { readonly name: string; readonly because: string }[]
}

export type Found<K extends Kind> =
  | { readonly t: 'found'; readonly resource: Of<K> }
  | { readonly t: 'refused'; readonly because: string }

/** Must not throw. Called once per delta that changed something. */
export type ResourcesListener = (kinds: ReadonlySet<string>) => void

export class GatewayResources {
  /** Also of kinds that are not known here, which can only be refused. */
  readonly #found = new Map<string, Map<string, Found<Kind>>>()
  readonly #listeners = new Set<ResourcesListener>()
  #version = 0

  /** Grows with each delta that changed something. */
  get version(): number {
    return this.#version
  }

  /** All of it at once: nobody sees a part of a delta. */
  apply({ waypoint, removedWaypoint, refusedWaypoint }: GatewayDelta): void {
    const changed = new Set<string>()
    for (const name of removedWaypoint) {
      const parsed = parseWaypointResourceName(name)
      if (parsed && this.#of(parsed.kind).delete(parsed.key)) changed.add(parsed.kind)
    }
    for (const { name, because } of refusedWaypoint) {
      const parsed = parseWaypointResourceName(name)
      if (!parsed || this.#of(parsed.kind).get(parsed.key)?.t === 'found') continue
      this.#of(parsed.kind).set(parsed.key, { t: 'refused', because })
      changed.add(parsed.kind)
    }
    for (const resource of waypoint) {
      this.#of(resource.kind).set(resource.key, { t: 'found', resource })
      changed.add(resource.kind)
    }
    if (changed.size === 0) return
    this.#version++
    for (const listener of this.#listeners) listener(changed)
  }

  /** The same object until it is replaced. */
  find<K extends Kind>(kind: K, key: string): Found<K> | undefined {
    return this.#of(kind).get(key) as Found<K> | undefined
  }

  /** Undefined for what is not there or not understood. */
  get<K extends Kind>(kind: K, key: string): Of<K> | undefined {
    const found = this.find(kind, key)
    return found?.t === 'found' ? found.resource : undefined
  }

  all<K extends Kind>(kind: K): Of<K>[] {
    return [...this.#of(kind).values()].flatMap((found) => (found.t === 'found' ? [found.resource as Of<K>] : []))
  }

  /** Why each was not understood. */
  refusals(): { readonly kind: string; readonly key: string; readonly because: string }[] {
    return [...this.#found].flatMap(([kind, of]) => [...of].flatMap(([key, found]) => (found.t === 'refused' ? [{ kind, key, because: found.because }] : [])))
  }

  /** Returns how to stop. */
  onChange(listener: ResourcesListener): () => void {
    this.#listeners.add(listener)
    return () => void this.#listeners.delete(listener)
  }

  #of(kind: string): Map<string, Found<Kind>> {
    let found = this.#found.get(kind)
    if (!found) this.#found.set(kind, (found = new Map()))
    return found
  }
}
