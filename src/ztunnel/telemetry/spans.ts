// One span for each connection, from the accept until its bytes can flow or it failed: the client's on the outbound side, the
// server's on the inbound side, joined by the traceparent header of the CONNECT.
import { formatAddr } from '../../core/address.ts'
import { describeError } from '../../core/errors.ts'
import { formatIdentity } from '../../core/identity.ts'
import { continueTraceParent, freshTraceParent } from '../../hbone/traceparent.ts'
import type { TraceParent } from '../../hbone/traceparent.ts'
import type { ConnectionFacts } from './connection-record.ts'
import type { Peer } from '../../member/telemetry/labels.ts'
import { reasonOf, responseFlag } from '../../member/telemetry/labels.ts'
import { logText } from '../../member/telemetry/log-text.ts'
import { openTracing } from '../../member/telemetry/tracing.ts'
import type { TracingOptions } from '../../member/telemetry/tracing.ts'

export type SpanDirection = 'outbound' | 'inbound'

/** Made at the accept; ended once, when the connection stands or has failed. Later ends do nothing. */
export interface ConnectSpan {
  /** For the CONNECT. */
  readonly traceParent: TraceParent
  /** `error`: why it failed; absent where it did not. */
  end(facts: ConnectionFacts, how?: { readonly error?: unknown; readonly isReused?: boolean }): void
}

export interface Spans {
  /** `parent`: what the peer's CONNECT said. */
  start(direction: SpanDirection, parent?: TraceParent): ConnectSpan
  /** Sends what waits, for at most 2 s. */
  close(): Promise<void>
}

/** Where no collector is named: traces of others go on, nothing is recorded. */
export const noSpans: Spans = {
  start: (_direction, parent) => ({ traceParent: parent ? continueTraceParent(parent) : freshTraceParent(), end: () => {} }),
  close: () => Promise.resolve(),
}

export type SpanOptions = Omit<TracingOptions, 'service' | 'resource'> & { readonly node: string }

/** Resolves with noSpans where `endpoint` is empty. */
export async function openSpans({ node, ...options }: SpanOptions): Promise<Spans> {
  const tracing = await openTracing({ ...options, service: 'ztunnel', resource: { 'host.name': node } })
  if (!tracing) return noSpans
  return {
    start(direction, parent) {
      // Whether a peer samples is its own affair: here somebody named a collector.
      const isOutbound = direction === 'outbound'
      const span = tracing.start(isOutbound ? 'tcp connect' : 'tcp accept', isOutbound ? 'client' : 'server', parent)
      const { traceId, spanId } = span
      let hasEnded = false
      return {
        traceParent: { traceId, spanId, isSampled: true },
        end(facts, { error, isReused } = {}) {
          if (hasEnded) return
          hasEnded = true
          span.set(attributes(facts))
          if (isReused !== undefined) span.set({ 'sidestep.tunnel.reused': isReused })
          if (error !== undefined) {
            span.set({ 'error.type': reasonOf(error), 'sidestep.response_flags': responseFlag(error) })
            span.fail(logText(describeError(error)))
          }
          span.end()
        },
      }
    },
    close: () => tracing.close(),
  }
}

function attributes(facts: ConnectionFacts): Record<string, string | number | boolean> {
  const { sourceAddr, destinationAddr, hboneAddr, service, isMutualTls, verdict } = facts
  return {
    'network.transport': 'tcp',
    'source.address': sourceAddr.ip, 'source.port': sourceAddr.port, 'destination.address': destinationAddr.ip, 'destination.port': destinationAddr.port,
    ...(hboneAddr && { 'sidestep.hbone.address': formatAddr(hboneAddr) }),
    ...(service && { 'sidestep.destination.service': logText(service.hostname) }),
    ...(facts.via && { 'sidestep.source.via': logText(formatIdentity(facts.via)) }),
    ...(facts.waypointSkipped !== undefined && { 'sidestep.waypoint.skipped': logText(facts.waypointSkipped) }),
    ...peer('source', facts.source), ...peer('destination', facts.destination),
    'sidestep.mutual_tls': isMutualTls,
    ...(verdict && { 'sidestep.allowed_because': verdict.because }), ...(verdict?.policy !== undefined && { 'sidestep.policy': logText(verdict.policy) }),
  }
}

function peer(side: 'source' | 'destination', { workload, identity }: Peer): Record<string, string> {
  return {
    ...(workload && { [`sidestep.${side}.workload`]: logText(workload.name), [`sidestep.${side}.namespace`]: logText(workload.namespace) }),
    ...(identity && { [`sidestep.${side}.identity`]: logText(formatIdentity(identity)) }),
  }
}
