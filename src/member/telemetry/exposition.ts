// The metrics as text, in the form that the asker prefers. prom-client can do both forms, but only one for a registry's
// lifetime: asked for OpenMetrics it renames the counters for good. So the one form is made from the other.
import type { ProxyMetrics } from './metrics.ts'

const plainType = 'text/plain; version=0.0.4; charset=utf-8'
const openMetricsType = 'application/openmetrics-text; version=1.0.0; charset=utf-8'

/** `accept`: the header of the request. */
export async function exposition(metrics: ProxyMetrics, accept: string | undefined): Promise<{ readonly type: string; readonly text: string }> {
  const plain = await metrics.registry.metrics()
  return prefersOpenMetrics(accept ?? '') ? { type: openMetricsType, text: openMetrics(plain) } : { type: plainType, text: plain }
}

/** By q values (RFC 9110, section 12.5.1); whoever takes anything gets the plain form. */
export function prefersOpenMetrics(accept: string): boolean {
  let open = 0
  let plain = 0
  for (const part of accept.slice(0, 1_000).split(',')) {
    const [type = '', ...parameters] = part.split(';').map((text) => text.trim().toLowerCase())
    const given = parameters.find((parameter) => parameter.startsWith('q='))
    const quality = given === undefined ? 1 : Number(given.slice(2)) || 0
    if (type === 'application/openmetrics-text') open = Math.max(open, quality)
    if (type === 'text/plain') plain = Math.max(plain, quality)
  }
  return open > 0 && open >= plain
}

/** A counter's family is named without `_total`, there are no empty lines, and `# EOF` ends it. */
function openMetrics(plain: string): string {
  const text = plain.replace(/\n\n+/g, '\n').replace(/^# HELP (\S+)_total (.*)\n# TYPE \1_total counter$/gm, '# HELP $1 $2\n# TYPE $1 counter')
  return `${text.trimEnd()}\n# EOF\n`
}
