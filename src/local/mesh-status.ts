// What a local mesh tells about itself: gathers facts from its parts, changes nothing.
import type { LocalStatus, PodStatus } from '../model/local-status.ts'
import type { ManifestObject } from '../model/manifest.ts'
import type { Desired } from './catalogue.ts'
import { fingerprint } from './environment.ts'
import { gatewayStatuses } from './gateway-status.ts'
import type { Pod } from './pod.ts'
import type { PodSet } from './pod-set.ts'
import { routeOf, serviceStatus, type EndpointPod, type ServiceAddresses } from './services.ts'
import type { VirtualNode } from './virtual-node.ts'

export interface MeshFacts {
  readonly name: string
  readonly isReady: boolean
  readonly isMeshed: boolean
  readonly nodes: readonly VirtualNode[]
  readonly pods: PodSet
  readonly desired: Desired
  /** All that are in force, by key. */
  readonly objects: ReadonlyMap<string, ManifestObject>
  readonly addresses: ServiceAddresses
  /** Beyond those of the files. */
  readonly problems: LocalStatus['problems']
  readonly controlPlane: LocalStatus['controlPlane']
  readonly published: LocalStatus['published']
  /** Of the admin API of a Gateway's pod. */
  readonly adminSocket: (pod: Pod) => string
}

/** The pods as services see them. */
export function endpointPods(pods: ReadonlyMap<string, Pod>): EndpointPod[] {
  return [...pods.values()].map((pod) => ({
    namespace: pod.options.namespace, labels: pod.labels, ips: pod.facts.ips, isReady: pod.isReady, isTerminating: pod.isTerminating,
    spec: pod.options.spec,
  }))
}

export function meshStatus(facts: MeshFacts): LocalStatus {
  const { desired } = facts
  const running = [...facts.pods.pods.values()]
  const unplaced = [...facts.pods.unplaced].map(([id, reason]): PodStatus => {
    const [namespace = '', name = ''] = id.split('/')
    return { namespace, name, node: '', ips: [], phase: 'Pending', reason, ready: false, restarts: 0, captured: 'no', containers: [] }
  })
  const endpoints = endpointPods(facts.pods.pods)
  const pods = [...running.map(podStatus), ...unplaced].sort((a, b) => `${a.namespace}/${a.name}`.localeCompare(`${b.namespace}/${b.name}`))
  const podsOf = (id: string): { status: PodStatus; socket: string }[] =>
    running.filter((pod) => pod.options.owner === id).map((pod) => ({ status: podStatus(pod), socket: facts.adminSocket(pod) }))
  const deployments = [...desired.deployments].map(([id, { metadata, spec }]) => {
    const own = running.filter((pod) => pod.options.owner === id && !pod.isTerminating)
    const hash = fingerprint(spec.template)
    return {
      namespace: metadata.namespace,
      name: metadata.name,
      replicas: spec.replicas,
      ready: own.filter((pod) => pod.isReady).length,
      updated: own.filter((pod) => pod.options.hash === hash).length,
    }
  })
  return {
    name: facts.name,
    ready: facts.isReady,
    mesh: facts.isMeshed,
    controlPlane: facts.controlPlane,
    nodes: facts.nodes.map((node) => ({
      name: node.name, ips: [node.ips.v4, node.ips.v6], pods: node.hosts.size,
      ztunnel: node.agent ? (node.agent.isConnected ? 'connected' : 'starting') : 'off',
    })),
    pods,
    deployments,
    namespaces: desired.declaredNamespaces.map(({ metadata: { name, labels }, origin: { file, line } }) => ({ name, labels, file: file === 'applied' ? '' : file, line })),
    gateways: gatewayStatuses({ desired, objects: facts.objects, deployments, pods, podsOf }),
    published: facts.published,
    services: [...desired.services].map(([id, service]) => serviceStatus(service, routeOf(service, facts.addresses.of(id), endpoints))),
    problems: [...desired.problems, ...facts.problems],
    notes: [...desired.notes],
  }
}

function podStatus(pod: Pod): PodStatus {
  const capture = pod.options.node.agent?.stateOf(pod.options.uid) ?? { t: 'absent' as const }
  switch (capture.t) {
    case 'absent': return pod.status('no', '')
    case 'captured': return pod.status('yes', '')
    case 'waiting': return pod.status('waiting', capture.because)
    default: return capture satisfies never
  }
}
