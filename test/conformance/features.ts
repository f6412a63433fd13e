// What we claim of Gateway API: the extended features, by the names of its conformance suite. Core features come with the profiles.

export interface ConformanceRun {
  readonly profiles: readonly string[]
  readonly features: readonly string[]
}

const redirects = ['HTTPRoute303RedirectStatusCode', 'HTTPRoute307RedirectStatusCode', 'HTTPRoute308RedirectStatusCode']

export const runs = {
  mesh: {
    profiles: ['MESH-HTTP', 'MESH-GRPC'],
    features: [
      'Mesh', 'MeshClusterIPMatching', 'MeshConsumerRoute', 'MeshHTTPRouteBackendRequestHeaderModification', 'MeshHTTPRouteNamedRouteRule',
      'MeshHTTPRouteQueryParamMatching', 'MeshHTTPRouteRedirectPath', 'MeshHTTPRouteRedirectPort', 'MeshHTTPRouteRewritePath', 'MeshHTTPRouteSchemeRedirect',
      // Of the profile GATEWAY-HTTP, and what some of the mesh tests are about.
      'HTTPRouteParentRefPort', 'HTTPRouteResponseHeaderModification', ...redirects,
    ],
  },
  gateway: {
    profiles: ['GATEWAY-HTTP', 'GATEWAY-TLS', 'GATEWAY-GRPC', 'GATEWAY-TCP'],
    features: [
      'GatewayAddressEmpty', 'GatewayFrontendClientCertificateValidation', 'GatewayFrontendClientCertificateValidationInsecureFallback',
      'GatewayHTTPListenerIsolation', 'GatewayHTTPSListenerDetectMisdirectedRequests', 'GatewayInfrastructure', 'GatewayPort8080',
      'HTTPRouteBackendProtocolH2C', 'HTTPRouteBackendProtocolWebSocket', 'HTTPRouteBackendRequestHeaderModification', 'HTTPRouteBackendTimeout', 'HTTPRouteCORS',
      'HTTPRouteDestinationPortMatching', 'HTTPRouteHostRewrite', 'HTTPRouteMethodMatching', 'HTTPRouteNamedRouteRule', 'HTTPRouteParentRefPort',
      'HTTPRoutePathRedirect', 'HTTPRoutePathRewrite', 'HTTPRoutePortRedirect', 'HTTPRouteQueryParamMatching', 'HTTPRouteRequestMirror',
      'HTTPRouteRequestMultipleMirrors', 'HTTPRouteRequestPercentageMirror', 'HTTPRouteRequestTimeout', 'HTTPRouteResponseHeaderModification', 'HTTPRouteRetry',
      'HTTPRouteRetryBackendTimeout', 'HTTPRouteRetryConnectionError', 'HTTPRouteSchemeRedirect', ...redirects,
      'GRPCRouteNamedRouteRule', 'TLSRouteModeMixed', 'TLSRouteModeTerminate',
    ],
  },
} as const satisfies Readonly<Record<string, ConformanceRun>>

export type RunName = keyof typeof runs
