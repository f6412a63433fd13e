// Spans to an OpenTelemetry collector by OTLP over HTTP. OpenTelemetry is loaded only where a collector is named, and nothing
// outside this file knows of it. It never makes traffic wait: what the collector does not take in time is dropped and counted.
import type { Context, Span, SpanContext } from '@opentelemetry/api'
import type { ReadableSpan, SpanExporter, SpanProcessor } from '@opentelemetry/sdk-trace'
import { describeError } from '../../core/errors.ts'
import type { Logger } from '../../core/log.ts'
import type { TraceParent } from '../../hbone/traceparent.ts'
import { logText } from './log-text.ts'
import type { ProxyMetrics } from './metrics.ts'

export type Attributes = Readonly<Record<string, string | number | boolean>>

export type SpanName = Pick<TraceParent, 'traceId' | 'spanId'>

export interface OpenSpan extends SpanName {
  rename(name: string): void
  set(attributes: Attributes): void
  event(name: string, attributes: Attributes): void
  /** The span is an error's; `message` is for people. */
  fail(message: string): void
  /** Once; later ends do nothing. */
  end(): void
}

export interface Tracing {
  /** Each span that is started is exported: sampling is the caller's. `link`: a span that has to do with it and is not its parent. */
  start(name: string, kind: 'client' | 'server', parent: SpanName | undefined, link?: SpanName): OpenSpan
  /** Sends what waits, for at most 2 s. */
  close(): Promise<void>
}

export interface TracingOptions {
  /** URL of the collector; without a path, OTLP's own is taken. */
  readonly endpoint: string
  /** `service.name` of the resource, and what else it has. */
  readonly service: string
  readonly resource: Readonly<Record<string, string>>
  readonly version: string
  readonly metrics: ProxyMetrics
  readonly logger: Logger
  /** Spans that wait at most; 2,048 unless told. */
  readonly maxQueue?: number
  /** Milliseconds until a batch goes, and until it is given up. */
  readonly delayMs?: number
  readonly timeoutMs?: number
}

const closeTimeoutMs = 2_000

/** Resolves with undefined where `endpoint` is empty. */
export async function openTracing(options: TracingOptions): Promise<Tracing | undefined> {
  const { endpoint, service, resource, version, metrics, maxQueue = 2_048, delayMs = 2_000, timeoutMs = 10_000 } = options
  if (endpoint === '') return undefined
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
    sampler: new AlwaysOnSampler(), spanProcessors: [bounded],
    resource: resourceFromAttributes({ 'service.name': service, 'service.version': version, ...resource }),
    spanLimits: { attributeValueLengthLimit: 512, attributeCountLimit: 48, eventCountLimit: 8, linkCountLimit: 1 },
  })
  const tracer = provider.getTracer('sidestep', version)
  const kinds = { client: SpanKind.CLIENT, server: SpanKind.SERVER }
  return {
    start(name, kind, parent, link) {
      const remote = ({ traceId, spanId }: SpanName): SpanContext => ({ traceId, spanId, traceFlags: TraceFlags.SAMPLED, isRemote: true })
      const around = parent ? trace.setSpanContext(ROOT_CONTEXT, remote(parent)) : ROOT_CONTEXT
      const span = tracer.startSpan(name, { kind: kinds[kind], ...(link && { links: [{ context: remote(link) }] }) }, around)
      return {
        ...idsOf(span),
        rename: (to) => void span.updateName(to),
        set: (attributes) => void span.setAttributes(attributes),
        event: (event, attributes) => void span.addEvent(event, attributes),
        fail: (message) => void span.setStatus({ code: SpanStatusCode.ERROR, message }),
        end: () => {
          if (span.isRecording()) span.end()
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

function idsOf(span: Span): { traceId: string; spanId: string } {
  const { traceId, spanId } = span.spanContext()
  return { traceId, spanId }
}

/** Counts what waits, queued or being sent, and drops what is beyond; the SDK's own bound would not say so. */
class BoundedSpans implements SpanProcessor {
  readonly #inner: SpanProcessor
  readonly #maxQueue: number
  readonly #dropped
  #waiting = 0
  #isFailing = false

  constructor(exporter: SpanExporter, { metrics, logger, endpoint }: TracingOptions, maxQueue: number, processor: (exporter: SpanExporter) => SpanProcessor) {
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
