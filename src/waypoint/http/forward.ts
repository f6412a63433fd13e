// Sends requests to one backend over connections that somebody else makes: through an endpoint's tunnel, in plain text, with TLS. Says
// how an attempt failed (outbound.ts) and never tries again itself. Keeps no body.
import { Http1Upstream } from './forward-http1.ts'
import { Http2Upstream } from './forward-http2.ts'
import type { Upstream, UpstreamOptions } from './outbound.ts'

export type { Failure, FailureKind, OutboundRequest, Outcome, Upstream, UpstreamOptions } from './outbound.ts'

export function openUpstream(options: UpstreamOptions): Upstream {
  return options.protocol === 'http1' ? new Http1Upstream(options) : new Http2Upstream(options)
}
