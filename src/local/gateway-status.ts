// What a local mesh tells of its Gateways: how many of their pods are ready and why not, who asks for them, and which ports of
// this machine lead to them. Gathers facts, changes nothing.
import { waypointForLabel, waypointWish, publishAnnotation } from '../model/gateway-labels.ts'
import type { GatewayStatus, LocalStatus, PodStatus } from '../model/local-status.ts'
import { objectKey, type ManifestObject, type Problem } from '../model/manifest.ts'
import { parsePublishAnnotation, type PublishOption } from '../model/publish.ts'
import type { Desired } from './catalogue.ts'
import type { PublishWish } from './publisher.ts'

export interface GatewayFacts extends Pick<LocalStatus, 'deployments' | 'pods'> {
  readonly desired: Desired
  readonly objects: ReadonlyMap<string, ManifestObject>
  /** Those that a Deployment of that `namespace/name` made, with the sockets of their admin API if they are ours. */
  readonly podsOf: (deployment: string) => readonly { readonly status: PodStatus; readonly socket: string }[]
}

export function gatewayStatuses({ desired, objects, deployments, pods, podsOf }: GatewayFacts): GatewayStatus[] {
  if (desired.generated.gateways.size === 0) return []
  const users = usersOf(objects.values())
  return [...desired.generated.gateways].map(([id, { manifest, role, madeBy }]) => {
    const { namespace, name, labels } = manifest.metadata
    const deployment = deployments.find((each) => each.namespace === namespace && each.name === name)
    const { replicas = 0, ready = 0, updated = 0 } = deployment ?? {}
    const isBroken = desired.generated.problems.find(({ object }) => object === objectKey(manifest))
    const own = podsOf(id)
    // What cannot be placed has no pods, and stands among them under the Deployment's name.
    const unplaced = pods.find((pod) => pod.namespace === namespace && pod.name === name && pod.node === '')
    const reason = ready > 0 ? ''
      : !deployment ? isBroken?.reason ?? 'it has no Deployment'
        : replicas === 0 ? 'no pods are wanted'
          : unplaced?.reason ?? own.map(({ status }) => status.reason).find((why) => why !== '') ?? 'its pods are being made'
    return {
      namespace, name, role, serves: role === 'waypoint' ? labels[waypointForLabel] ?? labels['istio.io/waypoint-for'] ?? 'all' : '',
      file: manifest.origin.file === 'applied' ? '' : manifest.origin.file, line: manifest.origin.line,
      replicas, ready, updated, pods: own.filter(({ status: { phase } }) => phase !== 'Terminating').length,
      admin: madeBy === 'us' ? own.map(({ status, socket }) => ({ pod: status.name, socket })) : [],
      reason: madeBy !== 'hand' || ready > 0 ? reason : `${reason}; its Deployment is written by hand`, usedBy: [...users.get(id) ?? []],
    }
  }).sort((a, b) => (`${a.namespace}/${a.name}` < `${b.namespace}/${b.name}` ? -1 : 1))
}

/** By the waypoint's `namespace/name`. */
function usersOf(objects: Iterable<ManifestObject>): Map<string, string[]> {
  const users = new Map<string, string[]>()
  for (const object of objects) {
    const [labels, namespace] = object.kind === 'Namespace' ? [object.metadata.labels, object.metadata.name]
      : object.kind === 'Deployment' ? [object.spec.template.metadata.labels, object.metadata.namespace]
        : object.kind === 'Service' || object.kind === 'ServiceEntry' || object.kind === 'Pod' || object.kind === 'WorkloadEntry' ? [object.metadata.labels, object.metadata.namespace]
          : [{}, '']
    const wish = waypointWish(labels, namespace)
    if (!wish) continue
    const id = `${wish.namespace}/${wish.name}`
    const list = users.get(id)
    if (list) list.push(objectKey(object))
    else users.set(id, [objectKey(object)])
  }
  return users
}

/** What options and annotations want published, options first; `problems` of annotations that say something else. */
export function publishWishes(desired: Desired, options: readonly PublishOption[], ipOf: (id: string) => string | undefined): { wishes: PublishWish[]; problems: Problem[] } {
  const wishes: PublishWish[] = []
  const problems: Problem[] = []
  const add = (gateway: string, hostPort: number, port: number | undefined): void => {
    const ingress = desired.generated.gateways.get(gateway)
    const ports = desired.services.get(gateway)?.spec.ports.map((each) => each.port) ?? []
    const chosen = port ?? (ports.length === 1 ? ports[0] : undefined)
    const problem = ingress?.role !== 'ingress' ? `there is no Gateway ${gateway} of the class sidestep-ingress`
      : chosen === undefined ? `${gateway} has ${ports.length} ports (${ports.join(', ')}): say which`
        : ports.includes(chosen) ? '' : `${gateway} has no port ${chosen}; it has ${ports.join(', ') || 'none'}`
    const protocol = ingress?.manifest.spec.listeners.find((each) => each.port === chosen)?.protocol
    wishes.push({ gateway, hostPort, port: chosen ?? 0, ip: ipOf(gateway), scheme: protocol === 'HTTP' ? 'http' : protocol === 'HTTPS' ? 'https' : 'tcp', problem })
  }
  for (const { namespace, name, hostPort, port } of options) add(`${namespace}/${name}`, hostPort, port)
  for (const [id, { manifest }] of desired.generated.gateways) {
    const { annotations } = manifest.metadata
    const text = Object.hasOwn(annotations, publishAnnotation) ? annotations[publishAnnotation] : undefined
    if (text === undefined) continue
    const read = parsePublishAnnotation(text)
    if ('problem' in read) problems.push({ ...manifest.origin, reason: `${objectKey(manifest)}: ${publishAnnotation}: ${read.problem}` })
    else for (const { hostPort, port } of read.ports) add(id, hostPort, port)
  }
  return { wishes, problems }
}
