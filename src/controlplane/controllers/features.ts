// What Gateways of our classes do beyond the core of the Gateway API, by its own names: written into the status of their
// GatewayClass, and what the conformance suite is run for. A name stands here only if that suite's tests of it pass.
import type { GatewayRole } from '../../model/gateway-labels.ts'

const ofRoutes = [
  'HTTPRoute', 'HTTPRouteDestinationPortMatching', 'HTTPRouteBackendRequestHeaderModification', 'HTTPRouteQueryParamMatching', 'HTTPRouteMethodMatching',
  'HTTPRouteResponseHeaderModification', 'HTTPRoutePortRedirect', 'HTTPRouteSchemeRedirect', 'HTTPRoutePathRedirect', 'HTTPRouteHostRewrite', 'HTTPRoutePathRewrite',
  'HTTPRouteRequestMirror', 'HTTPRouteRequestMultipleMirrors', 'HTTPRouteRequestTimeout', 'HTTPRouteBackendTimeout', 'HTTPRouteParentRefPort',
  'HTTPRouteBackendProtocolH2C', 'HTTPRouteBackendProtocolWebSocket', 'GRPCRoute', 'ReferenceGrant',
] as const

export const supportedFeatures: Readonly<Record<GatewayRole, readonly string[]>> = {
  waypoint: ['Mesh', 'MeshClusterIPMatching', 'MeshConsumerRoute', ...ofRoutes],
  ingress: ['Gateway', 'GatewayPort8080', 'GatewayInfrastructurePropagation', 'TLSRoute', ...ofRoutes],
}
