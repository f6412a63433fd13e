// What should run on this machine: of all objects in force, those that a local mesh acts on. Pure. Policies and what is
// outside of the mesh are the control plane's business and pass by here in silence.
import type {
  DeploymentManifest, GatewayClassManifest, GatewayManifest, ManifestObject, NamespaceManifest, PodManifest, Problem, ServiceManifest,
} from '../model/manifest.ts'
import { ObjectSet } from '../model/object-set.ts'
import { nothingGenerated, type GatewayWorkloads, type GeneratedObjects } from './gateway-workloads.ts'

export interface Desired {
  /** Labels by name; a namespace that nobody declared has none. */
  readonly namespaces: ReadonlyMap<string, Readonly<Record<string, string>>>
  /** Those that somebody declared. */
  readonly declaredNamespaces: readonly NamespaceManifest[]
  /** By `namespace/name`. */
  readonly pods: ReadonlyMap<string, PodManifest>
  /** Those of Gateways included, as among the services. */
  readonly deployments: ReadonlyMap<string, DeploymentManifest>
  readonly services: ReadonlyMap<string, ServiceManifest>
  readonly generated: GeneratedObjects
  readonly problems: readonly Problem[]
  readonly notes: readonly Problem[]
}

export class Catalogue extends ObjectSet {
  readonly #gateways: GatewayWorkloads | undefined

  /** Without `gateways`, none are run. */
  constructor(gateways?: GatewayWorkloads) {
    super()
    this.#gateways = gateways
  }

  /** Everything together; the same answer whichever file was read first. */
  desired(): Desired {
    const namespaces = new Map<string, Readonly<Record<string, string>>>([['default', {}]])
    const pods = new Map<string, PodManifest>()
    const deployments = new Map<string, DeploymentManifest>()
    const services = new Map<string, ServiceManifest>()
    const declaredNamespaces: NamespaceManifest[] = []
    const gateways: GatewayManifest[] = []
    const classes = new Map<string, GatewayClassManifest>()

    const add = (object: ManifestObject): void => {
      const { metadata } = object
      const id = 'namespace' in metadata ? `${metadata.namespace}/${metadata.name}` : metadata.name
      switch (object.kind) {
        case 'Namespace':
          declaredNamespaces.push(object)
          return void namespaces.set(id, metadata.labels)
        case 'Pod': return void pods.set(id, object)
        case 'Deployment': return void deployments.set(id, object)
        case 'Service': return void services.set(id, object)
        case 'Gateway': return void gateways.push(object)
        case 'GatewayClass': return void classes.set(id, object)
        case 'ServiceAccount':
        case 'Node':
        case 'EndpointSlice':
        case 'AuthorizationPolicy':
        case 'PeerAuthentication':
        case 'ServiceEntry':
        case 'WorkloadEntry':
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
    const written = (key: string): Problem | undefined => {
      const origin = this.objects.get(key)?.origin
      return origin && { ...origin, reason: '' }
    }
    const generated = this.#gateways?.generate(gateways, classes, written) ?? nothingGenerated
    for (const [id, deployment] of generated.deployments) deployments.set(id, deployment)
    for (const [id, service] of generated.services) services.set(id, service)
    return {
      namespaces, declaredNamespaces, pods, deployments, services, generated,
      problems: [...this.problems(), ...generated.problems].map(plain), notes: [...this.notes(), ...generated.notes].map(plain),
    }
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
