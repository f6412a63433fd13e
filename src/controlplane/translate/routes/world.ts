// All objects that routes speak of, found by name: services and their ports, grants, namespaces' labels, our filters. Made anew for
// a translation; the order in which objects came makes no difference.
import type { EntryPort } from '../../../model/manifest-external.ts'
import type { LabelSelector } from '../../../model/manifest-gateway.ts'
import {
  objectKey, type BackendPolicyManifest, type CachePolicyManifest, type DestinationRuleManifest, type GatewayClassManifest, type GatewayManifest, type ManifestObject,
  type RateLimitPolicyManifest, type ReferenceGrantManifest, type RouteManifest, type ServiceEntryManifest, type ServiceManifest, type VirtualServiceManifest,
} from '../../../model/manifest.ts'
import type { AppProtocol, NamespacedHostname } from '../../../model/workload.ts'
import { getOrMake, matches } from '../selectors.ts'
import { entryProtocol, hostsOf } from '../service-entry.ts'
import { appProtocolOf, serviceHostname } from '../service.ts'
import type { TranslateSettings } from '../settings.ts'
import { covers } from './hostnames.ts'
import { aged, compareAged, fullName } from './order.ts'

export interface TargetPort {
  readonly number: number
  readonly name?: string
  readonly protocol: AppProtocol
}

/** A host of a Service or ServiceEntry that requests can be sent to, with its TCP ports. */
export interface ServiceTarget {
  /** `namespace/hostname`. */
  readonly key: string
  readonly name: NamespacedHostname
  readonly owner: ServiceManifest | ServiceEntryManifest
  readonly ports: readonly TargetPort[]
}

export type FilterManifest = RateLimitPolicyManifest | CachePolicyManifest

export class World {
  readonly settings: TranslateSettings
  /** Each list in the order of age and name. */
  readonly routes: readonly RouteManifest[]
  readonly gateways: readonly GatewayManifest[]
  readonly virtualServices: readonly VirtualServiceManifest[]
  readonly destinationRules: readonly DestinationRuleManifest[]
  readonly backendPolicies: readonly BackendPolicyManifest[]
  readonly filters: readonly FilterManifest[]
  /** Every host, by `namespace/hostname`. */
  readonly targets: ReadonlyMap<string, ServiceTarget>
  readonly #gateways = new Map<string, GatewayManifest>()
  readonly #classes = new Map<string, GatewayClassManifest>()
  readonly #byOwner = new Map<string, ServiceTarget[]>()
  readonly #byHost = new Map<string, ServiceTarget[]>()
  readonly #grants = new Map<string, ReferenceGrantManifest[]>()
  readonly #namespaces = new Map<string, Readonly<Record<string, string>>>()
  readonly #filters = new Map<string, FilterManifest>()

  constructor(objects: Iterable<ManifestObject>, settings: TranslateSettings) {
    this.settings = settings
    const all = byKind(objects)
    this.routes = all('HTTPRoute', 'GRPCRoute', 'TCPRoute', 'TLSRoute')
    this.gateways = all('Gateway')
    this.virtualServices = all('VirtualService')
    this.destinationRules = all('DestinationRule')
    this.backendPolicies = all('BackendPolicy')
    this.filters = all('RateLimitPolicy', 'CachePolicy')
    for (const object of this.filters) this.#filters.set(objectKey(object), object)
    for (const object of this.gateways) this.#gateways.set(fullName(object), object)
    for (const object of all('GatewayClass')) this.#classes.set(object.metadata.name, object)
    for (const object of all('ReferenceGrant')) getOrMake(this.#grants, object.metadata.namespace, () => []).push(object)
    for (const object of all('Namespace')) this.#namespaces.set(object.metadata.name, object.metadata.labels)
    const targets = new Map<string, ServiceTarget>()
    // Kubernetes' own services win over entries of the same host, as everywhere.
    for (const owner of [...all('Service'), ...all('ServiceEntry')]) {
      for (const target of targetsOf(owner, settings)) {
        if (targets.has(target.key)) continue
        targets.set(target.key, target)
        getOrMake(this.#byOwner, objectKey(owner), () => []).push(target)
        getOrMake(this.#byHost, target.name.hostname, () => []).push(target)
      }
    }
    this.targets = targets
  }

  gateway(namespace: string, name: string): GatewayManifest | undefined {
    return this.#gateways.get(`${namespace}/${name}`)
  }

  class(name: string): GatewayClassManifest | undefined {
    return this.#classes.get(name)
  }

  /** `kind` Service or ServiceEntry; empty if it is not there. */
  targetsOf(kind: string, namespace: string, name: string): readonly ServiceTarget[] {
    return this.#byOwner.get(`${kind} ${namespace}/${name}`) ?? []
  }

  /** The service that a host name means to somebody in `namespace`: one of there, else the oldest. */
  byHost(hostname: string, namespace: string): ServiceTarget | undefined {
    const found = this.#byHost.get(hostname)
    return found?.find((target) => target.name.namespace === namespace) ?? found?.[0]
  }

  /** All services that a host of Istio's kind means: a name, `*.suffix` or `*`. */
  matchingHost(host: string): readonly ServiceTarget[] {
    if (host === '*') return [...this.targets.values()]
    if (host.startsWith('*.')) return [...this.targets.values()].filter(({ name }) => covers(host, name.hostname))
    return this.#byHost.get(host) ?? []
  }

  /** Istio reads names without dots as services of the rule's own namespace. */
  fullHost(host: string, namespace: string): string {
    const lower = host.toLowerCase()
    return lower.includes('.') || lower === '*' ? lower : `${lower}.${namespace}.svc.${this.settings.clusterDomain}`
  }

  /** Whether objects of a kind in a namespace may name a Service of another. */
  mayName(from: { readonly group: string; readonly kind: string; readonly namespace: string }, to: { readonly group: string; readonly kind: string; readonly namespace: string; readonly name: string }): boolean {
    return (this.#grants.get(to.namespace) ?? []).some(({ spec }) =>
      spec.from.some((each) => each.group === from.group && each.kind === from.kind && each.namespace === from.namespace)
      && spec.to.some((each) => each.group === to.group && each.kind === to.kind && (each.name === undefined || each.name === to.name)))
  }

  filter(kind: string, namespace: string, name: string): FilterManifest | undefined {
    return this.#filters.get(`${kind} ${namespace}/${name}`)
  }

  /** With the label that Kubernetes gives every namespace. */
  namespaceLabels(namespace: string): Readonly<Record<string, string>> {
    return { ...this.#namespaces.get(namespace), 'kubernetes.io/metadata.name': namespace }
  }
}

/** Lists of each kind in the order of age and name; what the order goes by is read once of each object, not for each comparison. */
function byKind(objects: Iterable<ManifestObject>) {
  const lists = new Map<string, ReturnType<typeof aged>[]>()
  for (const object of objects) getOrMake(lists, object.kind, () => []).push(aged(object))
  return <K extends ManifestObject['kind']>(...kinds: readonly K[]): Extract<ManifestObject, { kind: K }>[] =>
    kinds.flatMap((kind) => lists.get(kind) ?? []).sort(compareAged).map(({ object }) => object as Extract<ManifestObject, { kind: K }>)
}

export function selectsLabels(
  { matchLabels, matchExpressions }: LabelSelector, labels: Readonly<Record<string, string>>,
): boolean {
  return matches(matchLabels, labels) && matchExpressions.every(({ key, operator, values }) => {
    const value = Object.hasOwn(labels, key) ? labels[key] : undefined
    switch (operator) {
      case 'In': return value !== undefined && values.includes(value)
      case 'NotIn': return value === undefined || !values.includes(value)
      case 'Exists': return value !== undefined
      case 'DoesNotExist': return value === undefined
    }
  })
}

function targetsOf(owner: ServiceManifest | ServiceEntryManifest, settings: TranslateSettings): ServiceTarget[] {
  const { namespace } = owner.metadata
  const make = (hostname: string, ports: readonly TargetPort[]): ServiceTarget => ({ key: `${namespace}/${hostname}`, name: { namespace, hostname }, owner, ports })
  if (owner.kind === 'ServiceEntry') {
    const ports = owner.spec.ports.filter(({ protocol }) => protocol !== 'UDP').map((port: EntryPort) => ({
      number: port.number, name: port.name, protocol: entryProtocol(port),
    }))
    return hostsOf(owner).map((hostname) => make(hostname, ports))
  }
  const ports = owner.spec.ports
    .filter(({ protocol }) => protocol === 'TCP')
    .map((port) => ({
      number: port.port, ...(port.name === undefined ? {} : { name: port.name }),
      protocol: appProtocolOf(port.appProtocol, port.name, port.port),
    }))
  return [make(serviceHostname(owner.metadata, settings), ports)]
}

/** `Service shop/web`, for messages. */
export function ownerName(target: ServiceTarget): string {
  return `${target.owner.kind} ${fullName(target.owner)}`
}
