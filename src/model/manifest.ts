// The objects that a directory of YAML, or Kubernetes, may hold: which kinds there are, in which API groups, and what they
// have in common. Each family of kinds has a file of its own beside this one.
import { z } from 'zod'
import { workloadEntrySchema, serviceEntrySchema } from './manifest-external.ts'
import { clusterMetadata, metadata } from './manifest-fields.ts'
import { gatewayClassSchema, gatewaySchema, referenceGrantSchema } from './manifest-gateway.ts'
import { deploymentSchema, podSchema } from './manifest-pod.ts'
import { authorizationPolicySchema, peerAuthenticationSchema } from './manifest-policy.ts'
import { grpcRouteSchema, httpRouteSchema, tcpRouteSchema, tlsRouteSchema } from './manifest-route.ts'
import { endpointSliceSchema, serviceSchema } from './manifest-service.ts'
import { configMapSchema, secretSchema } from './manifest-secret.ts'
import { authorizationProviderSchema, requestAuthenticationSchema } from './manifest-traffic-auth.ts'
import { destinationRuleSchema } from './manifest-traffic-destination.ts'
import { backendPolicySchema, cachePolicySchema, rateLimitPolicySchema } from './manifest-traffic-policy.ts'
import { virtualServiceSchema } from './manifest-traffic.ts'

const security = ['security.istio.io/v1', 'security.istio.io/v1beta1', 'sidestep.dev/v1alpha1'] as const
const istioTraffic = ['networking.istio.io/v1', 'networking.istio.io/v1beta1', 'networking.istio.io/v1alpha3'] as const
const gatewayV1 = ['gateway.networking.k8s.io/v1', 'gateway.networking.k8s.io/v1beta1'] as const
const streamRoute = ['gateway.networking.k8s.io/v1', 'gateway.networking.k8s.io/v1alpha3', 'gateway.networking.k8s.io/v1alpha2'] as const
const own = ['sidestep.dev/v1alpha1'] as const
const networking = ['networking.istio.io/v1', 'networking.istio.io/v1beta1', 'sidestep.dev/v1alpha1'] as const

/** The kinds read here, with the apiVersions each may carry. */
export const manifestKinds = {
  Namespace: { apiVersions: ['v1'], schema: z.object({ metadata: clusterMetadata }) },
  ServiceAccount: { apiVersions: ['v1'], schema: z.object({ metadata }) },
  Node: { apiVersions: ['v1'], schema: z.object({ metadata: clusterMetadata }) },
  Pod: { apiVersions: ['v1'], schema: podSchema },
  Deployment: { apiVersions: ['apps/v1'], schema: deploymentSchema },
  Service: { apiVersions: ['v1'], schema: serviceSchema },
  EndpointSlice: { apiVersions: ['discovery.k8s.io/v1'], schema: endpointSliceSchema },
  AuthorizationPolicy: { apiVersions: security, schema: authorizationPolicySchema },
  PeerAuthentication: { apiVersions: security, schema: peerAuthenticationSchema },
  ServiceEntry: { apiVersions: networking, schema: serviceEntrySchema },
  WorkloadEntry: { apiVersions: networking, schema: workloadEntrySchema },
  GatewayClass: { apiVersions: gatewayV1, schema: gatewayClassSchema },
  Gateway: { apiVersions: gatewayV1, schema: gatewaySchema },
  ReferenceGrant: { apiVersions: gatewayV1, schema: referenceGrantSchema },
  HTTPRoute: { apiVersions: gatewayV1, schema: httpRouteSchema },
  GRPCRoute: { apiVersions: ['gateway.networking.k8s.io/v1', 'gateway.networking.k8s.io/v1alpha2'], schema: grpcRouteSchema },
  TCPRoute: { apiVersions: streamRoute, schema: tcpRouteSchema },
  TLSRoute: { apiVersions: streamRoute, schema: tlsRouteSchema },
  VirtualService: { apiVersions: istioTraffic, schema: virtualServiceSchema },
  DestinationRule: { apiVersions: istioTraffic, schema: destinationRuleSchema },
  RequestAuthentication: { apiVersions: security, schema: requestAuthenticationSchema },
  RateLimitPolicy: { apiVersions: own, schema: rateLimitPolicySchema },
  CachePolicy: { apiVersions: own, schema: cachePolicySchema },
  BackendPolicy: { apiVersions: own, schema: backendPolicySchema },
  AuthorizationProvider: { apiVersions: own, schema: authorizationProviderSchema },
  Secret: { apiVersions: ['v1'], schema: secretSchema },
  ConfigMap: { apiVersions: ['v1'], schema: configMapSchema },
} as const
export type ManifestKind = keyof typeof manifestKinds

/** Where an object was read; `line` counts from 1. */
export interface Origin {
  readonly file: string
  readonly line: number
}
/** Something in a file that a person should correct (or, as a note, know). */
export interface Problem extends Origin {
  readonly reason: string
  /** Key of the object that it is about, where one can be told; without it, it is about the file. */
  readonly object?: string
}

type ObjectOf<K extends ManifestKind> = { readonly kind: K; readonly origin: Origin } & z.infer<(typeof manifestKinds)[K]['schema']>
export type NamespaceManifest = ObjectOf<'Namespace'>
export type ServiceAccountManifest = ObjectOf<'ServiceAccount'>
export type NodeManifest = ObjectOf<'Node'>
export type PodManifest = ObjectOf<'Pod'>
export type DeploymentManifest = ObjectOf<'Deployment'>
export type ServiceManifest = ObjectOf<'Service'>
export type EndpointSliceManifest = ObjectOf<'EndpointSlice'>
export type AuthorizationPolicyManifest = ObjectOf<'AuthorizationPolicy'>
export type PeerAuthenticationManifest = ObjectOf<'PeerAuthentication'>
export type ServiceEntryManifest = ObjectOf<'ServiceEntry'>
export type WorkloadEntryManifest = ObjectOf<'WorkloadEntry'>
export type GatewayClassManifest = ObjectOf<'GatewayClass'>
export type GatewayManifest = ObjectOf<'Gateway'>
export type ReferenceGrantManifest = ObjectOf<'ReferenceGrant'>
export type HttpRouteManifest = ObjectOf<'HTTPRoute'>
export type GrpcRouteManifest = ObjectOf<'GRPCRoute'>
export type TcpRouteManifest = ObjectOf<'TCPRoute'>
export type TlsRouteManifest = ObjectOf<'TLSRoute'>
export type RouteManifest = HttpRouteManifest | GrpcRouteManifest | TcpRouteManifest | TlsRouteManifest
export type VirtualServiceManifest = ObjectOf<'VirtualService'>
export type DestinationRuleManifest = ObjectOf<'DestinationRule'>
export type RequestAuthenticationManifest = ObjectOf<'RequestAuthentication'>
export type RateLimitPolicyManifest = ObjectOf<'RateLimitPolicy'>
export type CachePolicyManifest = ObjectOf<'CachePolicy'>
export type BackendPolicyManifest = ObjectOf<'BackendPolicy'>
export type AuthorizationProviderManifest = ObjectOf<'AuthorizationProvider'>
export type SecretManifest = ObjectOf<'Secret'>
export type ConfigMapManifest = ObjectOf<'ConfigMap'>
/** What routes, destinations and L7 proxies are made of. */
export type TrafficManifest =
  | GatewayClassManifest | GatewayManifest | ReferenceGrantManifest | RouteManifest | VirtualServiceManifest | DestinationRuleManifest
  | RequestAuthenticationManifest | RateLimitPolicyManifest | CachePolicyManifest | BackendPolicyManifest | AuthorizationProviderManifest
  | SecretManifest | ConfigMapManifest
export type ManifestObject =
  | NamespaceManifest | ServiceAccountManifest | NodeManifest | PodManifest | DeploymentManifest | ServiceManifest
  | EndpointSliceManifest | AuthorizationPolicyManifest | PeerAuthenticationManifest | ServiceEntryManifest | WorkloadEntryManifest
  | TrafficManifest

/** Kinds whose objects are in no namespace. */
export function isClusterKind(kind: ManifestKind): kind is 'Namespace' | 'Node' | 'GatewayClass' {
  return kind === 'Namespace' || kind === 'Node' || kind === 'GatewayClass'
}

/** Groups with a kind of the same name that is not read here: noted, not refused. */
export const foreignKinds: Readonly<Partial<Record<ManifestKind, readonly string[]>>> = { Gateway: ['networking.istio.io'] }

/** `Pod default/web`, `Namespace shop`: unique in a mesh, and fit for messages. */
export function objectKey(object: ManifestObject): string {
  return 'namespace' in object.metadata
    ? `${object.kind} ${object.metadata.namespace}/${object.metadata.name}`
    : `${object.kind} ${object.metadata.name}`
}
