// All telemetry of a waypoint in one place, for who composes the process: metrics, records, and the collector's connection.
import type { Clock } from '../../core/clock.ts'
import type { Logger } from '../../core/log.ts'
import { openTracing } from '../../member/telemetry/tracing.ts'
import type { TracingOptions } from '../../member/telemetry/tracing.ts'
import type { RecordFactory } from '../record.ts'
import { openAccessLog } from './access-log/access-log.ts'
import type { AccessLogSettings } from './access-log/access-log.ts'
import { exchangeTracer, passingTracer } from './exchange-spans.ts'
import { LineBatch } from './access-log/line-batch.ts'
import type { WaypointMetrics } from './metrics.ts'
import { recordFactory } from './records.ts'

export interface TelemetryOptions {
  readonly metrics: WaypointMetrics
  readonly accessLog: AccessLogSettings
  /** Gets lines of the access log with their newlines, many at once. Must not wait, and bounds what it keeps. */
  readonly writeLine: (lines: string) => void
  readonly spans: {
    /** Of an OpenTelemetry collector; empty for none. */
    readonly endpoint: string
    /** 0 to 1: how many of the traces that begin here are recorded. */
    readonly ratio: number
    /** Of the resource: `service.name`, and what else it has. */
    readonly service: string
    readonly resource: Readonly<Record<string, string>>
  } & Pick<TracingOptions, 'maxQueue' | 'delayMs' | 'timeoutMs'>
  readonly version: string
  readonly clock: Clock
  readonly logger: Logger
}

export interface Telemetry {
  readonly records: RecordFactory
  /** Writes lines that wait, and sends spans that wait, for at most 2 s. */
  close(): Promise<void>
}

/** Rejects with MeshError BAD_CONFIG where the format of the access log cannot be read. */
export async function openTelemetry({ metrics, accessLog, writeLine, spans, version, clock, logger }: TelemetryOptions): Promise<Telemetry> {
  const lines = new LineBatch(writeLine, clock)
  const log = openAccessLog(accessLog, lines.add)
  const { ratio, ...exporter } = spans
  const tracing = await openTracing({ ...exporter, version, metrics, logger })
  return {
    records: recordFactory({ metrics, clock, accessLog: log, tracer: tracing ? exchangeTracer({ tracing, ratio }) : passingTracer }),
    async close() {
      lines.flush()
      await tracing?.close()
    },
  }
}
