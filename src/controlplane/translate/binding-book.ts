// What bindings to waypoints depend on, kept up to date: Gateways, their classes, and the labels of namespaces. A change tells
// exactly whose binding it may change, so that only those services and workloads are translated again.
import { isDeepStrictEqual } from 'node:util'
import type { GatewayClassManifest, GatewayManifest, NamespaceManifest } from '../../model/manifest.ts'
import {
  gatewayNameLabel, opensTo, resolveBinding, wishLabels, wishOf, type BindingWorld, type BoundThing, type WaypointBinding,
} from './routes/bindings.ts'
import { fullName } from './routes/order.ts'
import { MultiMap } from './selectors.ts'
import type { TranslateSettings } from './settings.ts'

type Labels = Readonly<Record<string, string>>

export interface BindingListener {
  /** What has these labels (all without any) in this namespace (all without one) may be bound to something else now. */
  bindings(namespace: string | undefined, labels: Labels | undefined): void
  /** So may the Service of that name. */
  service(namespace: string, name: string): void
}

export class BindingBook implements BindingWorld {
  readonly #settings: TranslateSettings
  readonly #listener: BindingListener
  readonly #gateways = new Map<string, GatewayManifest>()
  readonly #classes = new Map<string, GatewayClassManifest>()
  readonly #namespaces = new Map<string, Labels>()
  /** Namespaces by the waypoint (`namespace/name`) that they wish for. */
  readonly #wishes = new MultiMap()

  constructor(settings: TranslateSettings, listener: BindingListener) {
    this.#settings = settings
    this.#listener = listener
  }

  gateway(namespace: string, name: string): GatewayManifest | undefined {
    return this.#gateways.get(`${namespace}/${name}`)
  }

  class(name: string): GatewayClassManifest | undefined {
    return this.#classes.get(name)
  }

  namespaceLabels(namespace: string): Labels {
    return this.#namespaces.get(namespace) ?? { 'kubernetes.io/metadata.name': namespace }
  }

  bindingOf(thing: BoundThing): WaypointBinding {
    return resolveBinding(thing, this, this.#settings)
  }

  setGateway(object: GatewayManifest, isGone: boolean): void {
    if (isGone) this.#gateways.delete(fullName(object))
    else this.#gateways.set(fullName(object), object)
    this.#gatewayChanged(object)
  }

  setClass(object: GatewayClassManifest, isGone: boolean): void {
    const { name } = object.metadata
    if (isGone) this.#classes.delete(name)
    else this.#classes.set(name, object)
    for (const gateway of this.#gateways.values()) if (gateway.spec.gatewayClassName === name) this.#gatewayChanged(gateway)
  }

  setNamespace({ metadata: { name, labels } }: NamespaceManifest, isGone: boolean): void {
    const before = this.namespaceLabels(name)
    const wished = this.#wishOf(name)
    if (isGone) this.#namespaces.delete(name)
    else this.#namespaces.set(name, { ...labels, 'kubernetes.io/metadata.name': name })
    const wishes = this.#wishOf(name)
    if (wished !== wishes) {
      if (wished !== '') this.#wishes.delete(wished, name)
      if (wishes !== '') this.#wishes.add(wishes, name)
      return this.#listener.bindings(name, undefined)
    }
    if (isDeepStrictEqual(before, this.namespaceLabels(name))) return
    // Waypoints of other namespaces may choose by labels whom they open themselves to.
    const wasOpen = (gateway: GatewayManifest): boolean => opensTo(gateway, name, { namespaceLabels: () => before })
    for (const gateway of this.#gateways.values()) {
      if (wasOpen(gateway) === opensTo(gateway, name, this)) continue
      if (this.#wishes.get(fullName(gateway)).has(name)) this.#listener.bindings(name, undefined)
      else this.#wishing(gateway.metadata.name, name)
    }
  }

  /** Of a namespace's label: `namespace/name`, or '' for none. */
  #wishOf(namespace: string): string {
    const wish = wishOf(this.#namespaces.get(namespace) ?? {}, namespace, this.#settings)
    return wish === undefined ? '' : wish === 'none' ? 'none' : `${wish.namespace}/${wish.name}`
  }

  #gatewayChanged(gateway: GatewayManifest): void {
    const { namespace, name } = gateway.metadata
    this.#wishing(name, undefined)
    for (const each of this.#wishes.get(fullName(gateway))) this.#listener.bindings(each, undefined)
    this.#listener.bindings(namespace, { [gatewayNameLabel]: name })
    this.#listener.service(namespace, name)
  }

  /** What says itself that it wants a waypoint of that name. */
  #wishing(name: string, namespace: string | undefined): void {
    for (const label of wishLabels) this.#listener.bindings(namespace, { [label]: name })
  }
}
