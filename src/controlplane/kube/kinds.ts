// Which kinds of the Kubernetes API are read as objects, under which groups and in which of their versions: the first of those
// that the API server serves. Pure data, made from the table of kinds that directories of YAML go by too.
import { isClusterKind, manifestKinds, type ManifestKind } from '../../model/manifest.ts'

/** One kind of one group. */
export interface KindSource {
  readonly kind: ManifestKind
  /** Empty for the core group. */
  readonly group: string
  readonly plural: string
  /** Best first. */
  readonly versions: readonly string[]
  readonly namespaced: boolean
  /** Objects that are never asked for. */
  readonly labelSelector?: string
}

/** Watched by other means, or read by nobody here: who runs and what Deployments want is told by pods. */
type NotWatched = 'Pod' | 'Deployment' | 'ServiceAccount' | 'Secret' | 'ConfigMap'

const plurals: Readonly<Record<Exclude<ManifestKind, NotWatched>, string>> = {
  Namespace: 'namespaces', Node: 'nodes', Service: 'services', EndpointSlice: 'endpointslices',
  AuthorizationPolicy: 'authorizationpolicies', PeerAuthentication: 'peerauthentications',
  RequestAuthentication: 'requestauthentications', ServiceEntry: 'serviceentries', WorkloadEntry: 'workloadentries',
  VirtualService: 'virtualservices', DestinationRule: 'destinationrules',
  GatewayClass: 'gatewayclasses', Gateway: 'gateways', ReferenceGrant: 'referencegrants', HTTPRoute: 'httproutes',
  GRPCRoute: 'grpcroutes', TCPRoute: 'tcproutes', TLSRoute: 'tlsroutes',
  RateLimitPolicy: 'ratelimitpolicies', CachePolicy: 'cachepolicies', BackendPolicy: 'backendpolicies',
  AuthorizationProvider: 'authorizationproviders',
}

/**
 * Slices that Kubernetes makes of a Service's selector say nothing that pods do not say themselves, and each change of a pod writes
 * them anew: they are most of what an API server tells, so they are not even asked for.
 */
const selectors: Readonly<Partial<Record<ManifestKind, string>>> = {
  EndpointSlice: 'endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io',
}

export const kindSources: readonly KindSource[] = (Object.entries(plurals) as [Exclude<ManifestKind, NotWatched>, string][]).flatMap(([kind, plural]) => {
  const byGroup = new Map<string, string[]>()
  for (const apiVersion of manifestKinds[kind].apiVersions) {
    const slash = apiVersion.indexOf('/')
    const [group, version] = [slash < 0 ? '' : apiVersion.slice(0, slash), apiVersion.slice(slash + 1)]
    byGroup.set(group, [...(byGroup.get(group) ?? []), version])
  }
  const labelSelector = selectors[kind]
  return [...byGroup].map(([group, versions]): KindSource => ({
    kind, group, plural, versions, namespaced: !isClusterKind(kind), ...(labelSelector === undefined ? {} : { labelSelector }),
  }))
})
