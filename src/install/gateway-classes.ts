// The two classes of Gateways that are ours.
import { labelsOf, type InstallObject } from './common.ts'

/** A description has at most 64 bytes. */
const classes = [
  ['sidestep-waypoint', 'sidestep.dev/waypoint', 'Waypoints: proxies in the mesh that look into requests'],
  ['sidestep-ingress', 'sidestep.dev/ingress', 'Ingresses: proxies that let requests into the mesh'],
] as const

export function gatewayClasses(): InstallObject[] {
  return classes.map(([name, controllerName, description]) => ({
    apiVersion: 'gateway.networking.k8s.io/v1', kind: 'GatewayClass', metadata: { name, labels: labelsOf('gateway') }, spec: { controllerName, description },
  }))
}
