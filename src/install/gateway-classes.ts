// The two classes of Gateways that are ours.
import { labelsOf, type InstallObject } from './common.ts'

const classes = [
  ['sidestep-waypoint', 'sidestep.dev/waypoint', 'Waypoints: proxies in the mesh that look into the requests of whoever uses them.'],
  ['sidestep-ingress', 'sidestep.dev/ingress', 'Ingresses: proxies that let requests from outside into the mesh.'],
] as const

export function gatewayClasses(): InstallObject[] {
  return classes.map(([name, controllerName, description]) => ({
    apiVersion: 'gateway.networking.k8s.io/v1', kind: 'GatewayClass', metadata: { name, labels: labelsOf('gateway') }, spec: { controllerName, description },
  }))
}
