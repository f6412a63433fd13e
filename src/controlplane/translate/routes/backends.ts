// What a reference to a backend comes to. One that may not be used stays, broken, and keeps its share of the requests: leaving it
// out would send its share to others. Under a Gateway a Service of another namespace needs that namespace's ReferenceGrant.
// Under a Service the route only says what happens to requests that reach it anyway, so backends of its own and of its parent's
// namespace are free; for a third one the waypoint would speak in its own name to those who never asked for it.
import { gatewayGroup } from '../../../model/manifest-gateway.ts'
import type { BackendReference } from '../../../model/manifest-route.ts'
import type { RouteManifest } from '../../../model/manifest.ts'
import type { Backend } from '../../../model/route.ts'
import { serviceHostname } from '../service.ts'
import { ownerName, type ServiceTarget, type World } from './world.ts'

/** Of a route at one of its parents. */
export interface RouteContext {
  readonly world: World
  readonly route: RouteManifest
  /** Namespace of the Service that is the parent; undefined under a Gateway. */
  readonly parentNamespace?: string
  /** Keys of filters that policies attach to the parent. */
  readonly parentFilters: readonly string[]
}

/** Why references of a route cannot be followed: the reasons of the condition ResolvedRefs. */
export interface RefFailure {
  readonly reason: 'RefNotPermitted' | 'InvalidKind' | 'BackendNotFound'
  readonly message: string
}

export interface ResolvedBackend {
  readonly backend: Backend
  readonly failure?: RefFailure
}

type ObjectRef = Pick<BackendReference, 'group' | 'kind' | 'name' | 'namespace' | 'port'>

export function resolveBackend(ref: ObjectRef, weight: number, context: RouteContext): ResolvedBackend {
  const { world, route, parentNamespace } = context
  const own = route.metadata.namespace
  const namespace = ref.namespace ?? own
  const fail = (reason: RefFailure['reason'], message: string): ResolvedBackend => {
    const hostname = ref.group === '' ? serviceHostname({ name: ref.name, namespace }, world.settings) : ref.name
    return {
      backend: { service: { namespace, hostname }, port: ref.port ?? 0, weight, broken: message }, failure: { reason, message },
    }
  }
  if (ref.group === 'networking.istio.io' && ref.kind === 'Hostname') {
    if (ref.namespace !== undefined) return fail('InvalidKind', 'a Hostname has no namespace')
    const target = world.byHost(ref.name.toLowerCase(), own)
    if (!target || !isVisible(target, own)) return fail('BackendNotFound', `there is no service with the host ${ref.name}`)
    return atPort(target, ref.port ?? (target.ports.length === 1 ? target.ports[0]?.number : undefined), weight, fail)
  }
  if (ref.group !== '' || ref.kind !== 'Service') return fail('InvalidKind', `${ref.kind} of the group ${JSON.stringify(ref.group)} is no backend here`)
  const isFree = namespace === own || namespace === parentNamespace
  if (!isFree && !world.mayName({ group: gatewayGroup, kind: route.kind, namespace: own }, { group: '', kind: 'Service', namespace, name: ref.name })) {
    return fail('RefNotPermitted', `no ReferenceGrant lets it use the Service ${namespace}/${ref.name}`)
  }
  const [target] = world.targetsOf('Service', namespace, ref.name)
  if (!target) return fail('BackendNotFound', `there is no Service ${namespace}/${ref.name}`)
  // An alias could name any host, with the trust that its namespace has.
  if (target.owner.kind === 'Service' && target.owner.spec.type === 'ExternalName') return fail('InvalidKind', `the Service ${namespace}/${ref.name} is an ExternalName and no backend`)
  return atPort(target, ref.port, weight, fail)
}

function atPort(
  target: ServiceTarget, port: number | undefined, weight: number,
  fail: (reason: RefFailure['reason'], message: string) => ResolvedBackend,
): ResolvedBackend {
  if (port === undefined || !target.ports.some(({ number }) => number === port)) {
    return fail('BackendNotFound', `${ownerName(target)} has no port${port === undefined ? ' that it could mean' : ` ${port}`}`)
  }
  return { backend: { service: target.name, port, weight } }
}

/** An entry that is exported to nobody but its own namespace is nothing to others. */
export function isVisible({ owner, name }: ServiceTarget, namespace: string): boolean {
  if (owner.kind === 'Service' || name.namespace === namespace) return true
  const { exportTo } = owner.spec
  return exportTo === undefined || exportTo.length === 0 || exportTo.some((each) => each === '*' || each === namespace)
}
