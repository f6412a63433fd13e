// The objects that a directory of YAML, or Kubernetes, may hold: which kinds there are, in which API groups, and what they
// have in common. Each family of kinds has a file of its own beside this one.
import { z } from 'zod'
import { workloadEntrySchema, serviceEntrySchema } from './manifest-external.ts'
import { clusterMetadata, metadata } from './manifest-fields.ts'
import { deploymentSchema, podSchema } from './manifest-pod.ts'
import { authorizationPolicySchema, peerAuthenticationSchema } from './manifest-policy.ts'
import { endpointSliceSchema, serviceSchema } from './manifest-service.ts'

const security = ['security.istio.io/v1', 'security.istio.io/v1beta1', 'sidestep.dev/v1alpha1'] as const
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
export type ManifestObject =
  | NamespaceManifest | ServiceAccountManifest | NodeManifest | PodManifest | DeploymentManifest | ServiceManifest
  | EndpointSliceManifest | AuthorizationPolicyManifest | PeerAuthenticationManifest | ServiceEntryManifest | WorkloadEntryManifest

/** Kinds whose objects are in no namespace. */
export function isClusterKind(kind: ManifestKind): kind is 'Namespace' | 'Node' {
  return kind === 'Namespace' || kind === 'Node'
}

/** `Pod default/web`, `Namespace shop`: unique in a mesh, and fit for messages. */
export function objectKey(object: ManifestObject): string {
  return 'namespace' in object.metadata
    ? `${object.kind} ${object.metadata.namespace}/${object.metadata.name}`
    : `${object.kind} ${object.metadata.name}`
}
