// What should run on this machine: of all objects in force, those that a local mesh acts on. Pure. Policies and what is
// outside of the mesh are the control plane's business and pass by here in silence.
import type { DeploymentManifest, ManifestObject, PodManifest, Problem, ServiceManifest } from '../model/manifest.ts'
import { ObjectSet } from '../model/object-set.ts'

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

export class Catalogue extends ObjectSet {
  /** Everything together; the same answer whichever file was read first. */
  desired(): Desired {
    const namespaces = new Map<string, Readonly<Record<string, string>>>([['default', {}]])
    const pods = new Map<string, PodManifest>()
    const deployments = new Map<string, DeploymentManifest>()
    const services = new Map<string, ServiceManifest>()

    const add = (object: ManifestObject): void => {
      const { metadata } = object
      const id = 'namespace' in metadata ? `${metadata.namespace}/${metadata.name}` : metadata.name
      switch (object.kind) {
        case 'Namespace': return void namespaces.set(id, metadata.labels)
        case 'Pod': return void pods.set(id, object)
        case 'Deployment': return void deployments.set(id, object)
        case 'Service': return void services.set(id, object)
        case 'ServiceAccount':
        case 'Node':
        case 'EndpointSlice':
        case 'AuthorizationPolicy':
        case 'PeerAuthentication':
        case 'ServiceEntry':
        case 'WorkloadEntry':
        case 'GatewayClass':
        case 'Gateway':
        case 'ReferenceGrant':
        case 'HTTPRoute':
        case 'GRPCRoute':
        case 'TCPRoute':
        case 'TLSRoute':
        case 'VirtualService':
        case 'DestinationRule':
        case 'RequestAuthentication':
        case 'RateLimitPolicy':
        case 'CachePolicy':
        case 'BackendPolicy':
        case 'AuthorizationProvider':
        case 'Secret':
        case 'ConfigMap':
          return
        default: return object satisfies never
      }
    }
    for (const object of this.inOrder()) add(object)
    return { namespaces, pods, deployments, services, problems: this.problems().map(plain), notes: this.notes().map(plain) }
  }
}

function plain({ file, line, reason }: Problem): Problem {
  return { file, line, reason }
}

/** True if all of the selector's labels are there. An empty selector selects nothing, as for Services. */
export function selects(selector: Readonly<Record<string, string>> | undefined, labels: Readonly<Record<string, string>>): boolean {
  const wanted = Object.entries(selector ?? {})
  return wanted.length > 0 && wanted.every(([key, value]) => labels[key] === value)
}
