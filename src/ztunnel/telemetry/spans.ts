// One span for each connection, from the accept until its bytes can flow or it failed: the client's on the outbound side, the
// server's on the inbound side, joined by the traceparent header of the CONNECT. OpenTelemetry is loaded only where a
// collector is named. It never makes a connection wait: what the collector does not take in time is dropped and counted.
import type { Context, Span } from '@opentelemetry/api'
import type { ReadableSpan, SpanExporter, SpanProcessor } from '@opentelemetry/sdk-trace'
import { formatAddr } from '../../core/address.ts'
import { describeError } from '../../core/errors.ts'
import { formatIdentity } from '../../core/identity.ts'
import type { Logger } from '../../core/log.ts'
import { continueTraceParent, freshTraceParent } from '../../hbone/traceparent.ts'
import type { TraceParent } from '../../hbone/traceparent.ts'
import type { ConnectionFacts } from './connection-record.ts'
import type { Peer } from './labels.ts'
import { reasonOf, responseFlag } from './labels.ts'
import { logText } from './log-text.ts'
import type { ZtunnelMetrics } from './metrics.ts'

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

export interface SpanOptions {
  /** URL of the collector; without a path, OTLP's own is taken. */
  readonly endpoint: string
  readonly node: string
  readonly version: string
  readonly metrics: ZtunnelMetrics
  readonly logger: Logger
  /** Spans that wait at most; 2,048 unless told. */
  readonly maxQueue?: number
  /** Milliseconds until a batch goes, and until it is given up. */
  readonly delayMs?: number
  readonly timeoutMs?: number
}

const closeTimeoutMs = 2_000

/** Resolves with noSpans where `endpoint` is empty. */
export async function openSpans(options: SpanOptions): Promise<Spans> {
  const { endpoint, node, version, metrics, maxQueue = 2_048, delayMs = 2_000, timeoutMs = 10_000 } = options
  if (endpoint === '') return noSpans
  const [{ ROOT_CONTEXT, SpanKind, SpanStatusCode, trace, TraceFlags }, { AlwaysOnSampler, BatchSpanProcessor, TracerProvider }, { OTLPTraceExporter }, { resourceFromAttributes }] =
    await Promise.all([import('@opentelemetry/api'), import('@opentelemetry/sdk-trace'), import('@opentelemetry/exporter-trace-otlp-http'), import('@opentelemetry/resources')])
  const url = new URL(endpoint)
  if (url.pathname === '/') url.pathname = '/v1/traces'
  const exporter = new OTLPTraceExporter({ url: url.href, timeoutMillis: timeoutMs, concurrencyLimit: 2 })
  const bounded = new BoundedSpans(exporter, options, maxQueue, (counted) => new BatchSpanProcessor({
    exporter: counted, maxQueueSize: maxQueue, maxExportBatchSize: Math.min(512, maxQueue), scheduledDelayMillis: delayMs, exportTimeoutMillis: timeoutMs,
  }))
  metrics.gauge('sidestep_spans_waiting', 'Spans that wait for the collector', () => bounded.waiting)
  const provider = new TracerProvider({
    // Whether a peer samples is its own affair: here somebody named a collector.
    sampler: new AlwaysOnSampler(), spanProcessors: [bounded],
    resource: resourceFromAttributes({ 'service.name': 'ztunnel', 'service.version': version, 'host.name': node }),
    spanLimits: { attributeValueLengthLimit: 512, attributeCountLimit: 32, eventCountLimit: 4, linkCountLimit: 1 },
  })
  const tracer = provider.getTracer('sidestep', version)
  return {
    start(direction, parent) {
      const around = parent
        ? trace.setSpanContext(ROOT_CONTEXT, { traceId: parent.traceId, spanId: parent.spanId, traceFlags: TraceFlags.SAMPLED, isRemote: true })
        : ROOT_CONTEXT
      const kind = direction === 'outbound' ? SpanKind.CLIENT : SpanKind.SERVER
      const span = tracer.startSpan(direction === 'outbound' ? 'tcp connect' : 'tcp accept', { kind }, around)
      const { traceId, spanId } = span.spanContext()
      return {
        traceParent: { traceId, spanId, isSampled: true },
        end(facts, { error, isReused } = {}) {
          if (!span.isRecording()) return
          span.setAttributes(attributes(facts))
          if (isReused !== undefined) span.setAttribute('sidestep.tunnel.reused', isReused)
          if (error !== undefined) {
            span.setAttributes({ 'error.type': reasonOf(error), 'sidestep.response_flags': responseFlag(error) })
            span.setStatus({ code: SpanStatusCode.ERROR, message: logText(describeError(error)) })
          }
          span.end()
        },
      }
    },
    async close() {
      let timer: NodeJS.Timeout | undefined
      const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, closeTimeoutMs)))
      // What could not be sent was counted.
      await Promise.race([provider.shutdown().catch(() => {}), late])
      clearTimeout(timer)
    },
  }
}

function attributes(facts: ConnectionFacts): Record<string, string | number | boolean> {
  const { sourceAddr, destinationAddr, hboneAddr, service, isMutualTls, verdict } = facts
  return {
    'network.transport': 'tcp',
    'source.address': sourceAddr.ip, 'source.port': sourceAddr.port, 'destination.address': destinationAddr.ip, 'destination.port': destinationAddr.port,
    ...(hboneAddr && { 'sidestep.hbone.address': formatAddr(hboneAddr) }),
    ...(service && { 'sidestep.destination.service': logText(service.hostname) }),
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

/** Counts what waits, queued or being sent, and drops what is beyond; the SDK's own bound would not say so. */
class BoundedSpans implements SpanProcessor {
  readonly #inner: SpanProcessor
  readonly #maxQueue: number
  readonly #dropped
  #waiting = 0
  #isFailing = false

  constructor(exporter: SpanExporter, { metrics, logger, endpoint }: SpanOptions, maxQueue: number, processor: (exporter: SpanExporter) => SpanProcessor) {
    this.#maxQueue = maxQueue
    this.#dropped = metrics.counter('sidestep_spans_dropped_total', 'Spans that the collector did not get, by reason', ['because'])
    const exported = metrics.counter('sidestep_spans_exported_total', 'Spans that the collector took', [])
    for (const because of ['queueFull', 'notTaken']) this.#dropped.inc({ because }, 0)
    this.#inner = processor({
      export: (spans, done) => exporter.export(spans, (result) => {
        this.#waiting -= spans.length
        const isFailing = result.error !== undefined
        if (isFailing) this.#dropped.inc({ because: 'notTaken' }, spans.length)
        else exported.inc({}, spans.length)
        if (isFailing && !this.#isFailing) logger.warn({ endpoint, error: logText(describeError(result.error)) }, 'spans are not taken by the collector')
        if (!isFailing && this.#isFailing) logger.info({ endpoint }, 'spans are taken by the collector again')
        this.#isFailing = isFailing
        done(result)
      }),
      shutdown: () => exporter.shutdown(),
      forceFlush: () => exporter.forceFlush?.() ?? Promise.resolve(),
    })
  }

  get waiting(): number {
    return this.#waiting
  }

  onStart(span: Span & ReadableSpan, context: Context): void {
    this.#inner.onStart(span as Parameters<SpanProcessor['onStart']>[0], context)
  }

  onEnd(span: ReadableSpan): void {
    if (this.#waiting >= this.#maxQueue) return this.#dropped.inc({ because: 'queueFull' })
    this.#waiting++
    this.#inner.onEnd(span)
  }

  forceFlush(): Promise<void> {
    return this.#inner.forceFlush()
  }

  shutdown(): Promise<void> {
    return this.#inner.shutdown()
  }
}
