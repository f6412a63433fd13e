// The objects of a waypoint as YAML: a Gateway, and the label by which a namespace uses it. Text only.
import { stringify } from 'yaml'
import { replicasAnnotation, useWaypointLabel, waypointForLabel, type WaypointFor } from '../model/gateway-labels.ts'

export interface WaypointWish {
  readonly namespace: string
  readonly waypoint: string
  /** As its label says; nothing is written for what holds anyway. */
  readonly serves?: WaypointFor
  readonly replicas?: number
}

export function gatewayYaml({ namespace, waypoint, serves, replicas }: WaypointWish): string {
  return stringify({
    apiVersion: 'gateway.networking.k8s.io/v1',
    kind: 'Gateway',
    metadata: {
      name: waypoint,
      namespace,
      ...(serves === undefined ? {} : { labels: { [waypointForLabel]: serves } }),
      ...(replicas === undefined ? {} : { annotations: { [replicasAnnotation]: String(replicas) } }),
    },
    spec: { gatewayClassName: 'sidestep-waypoint', listeners: [{ name: 'mesh', port: 15_008, protocol: 'HBONE' }] },
  })
}

/** `labels` are those that it has already. */
export function namespaceYaml(namespace: string, waypoint: string, labels: Readonly<Record<string, string>> = {}): string {
  return stringify({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace, labels: { ...labels, [useWaypointLabel]: waypoint } } })
}
