// What Gateways of our classes do beyond the core of the Gateway API, by its own names: written into the status of their
// GatewayClass. A name stands here only if the conformance suite's tests of it pass; test/conformance/ runs it for these.
import type { GatewayRole } from '../../model/gateway-labels.ts'

const redirects = ['HTTPRoute303RedirectStatusCode', 'HTTPRoute307RedirectStatusCode', 'HTTPRoute308RedirectStatusCode'] as const

export const supportedFeatures: Readonly<Record<GatewayRole, readonly string[]>> = {
  waypoint: [
    'GRPCRoute', 'HTTPRoute', 'Mesh', 'MeshClusterIPMatching', 'MeshConsumerRoute', 'MeshHTTPRouteBackendRequestHeaderModification', 'MeshHTTPRouteNamedRouteRule',
    'MeshHTTPRouteQueryParamMatching', 'MeshHTTPRouteRedirectPath', 'MeshHTTPRouteRedirectPort', 'MeshHTTPRouteRewritePath', 'MeshHTTPRouteSchemeRedirect',
    'HTTPRouteParentRefPort', 'HTTPRouteResponseHeaderModification', ...redirects,
  ],
  ingress: [
    'GRPCRoute', 'Gateway', 'HTTPRoute', 'ReferenceGrant', 'TCPRoute', 'TLSRoute',
    'GatewayAddressEmpty', 'GatewayFrontendClientCertificateValidation', 'GatewayFrontendClientCertificateValidationInsecureFallback', 'GatewayHTTPListenerIsolation',
    'GatewayHTTPSListenerDetectMisdirectedRequests', 'GatewayInfrastructure', 'GatewayPort8080',
    'HTTPRouteBackendProtocolH2C', 'HTTPRouteBackendProtocolWebSocket', 'HTTPRouteBackendRequestHeaderModification', 'HTTPRouteBackendTimeout', 'HTTPRouteCORS',
    'HTTPRouteDestinationPortMatching', 'HTTPRouteHostRewrite', 'HTTPRouteMethodMatching', 'HTTPRouteNamedRouteRule', 'HTTPRouteParentRefPort', 'HTTPRoutePathRedirect',
    'HTTPRoutePathRewrite', 'HTTPRoutePortRedirect', 'HTTPRouteQueryParamMatching', 'HTTPRouteRequestMirror', 'HTTPRouteRequestMultipleMirrors',
    'HTTPRouteRequestPercentageMirror', 'HTTPRouteRequestTimeout', 'HTTPRouteResponseHeaderModification', 'HTTPRouteRetry', 'HTTPRouteRetryBackendTimeout',
    'HTTPRouteRetryConnectionError', 'HTTPRouteSchemeRedirect', ...redirects,
    'GRPCRouteNamedRouteRule', 'TLSRouteModeMixed', 'TLSRouteModeTerminate',
  ],
}
