// Metrics of the process: prom-client's own (memory, processor time, open files, garbage collection), the build, and how
// late the event loop is, which is what connections feel.
import { collectDefaultMetrics, Gauge } from 'prom-client'
import type { ProxyMetrics } from './metrics.ts'

const lookEveryMs = 20
const delayBuckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5]

/** Once for each process and registry. Returns how to stop. */
export function processMetrics(metrics: ProxyMetrics, component: string, version: string): () => void {
  const { registry } = metrics
  collectDefaultMetrics({ register: registry })
  // The sums of gauges that are there by type already, under names that Prometheus' own linter objects to.
  for (const what of ['resources', 'handles', 'requests']) registry.removeSingleMetric(`nodejs_active_${what}_total`)
  new Gauge({ name: 'istio_build', help: 'What runs here', labelNames: ['component', 'tag'], registers: [registry] }).set({ component, tag: version }, 1)
  // Not by perf_hooks: reading its histogram without resetting it gives no distribution of what came since, and a reset
  // forgets the delay that is just ending, which is the one that matters.
  const delays = metrics.histogram('sidestep_event_loop_delay_seconds', `How late timers fire, looked at every ${lookEveryMs} ms`, [], delayBuckets)
  let dueMs = performance.now() + lookEveryMs
  const look = (): void => {
    const nowMs = performance.now()
    delays.observe(Math.max(0, nowMs - dueMs) / 1000)
    dueMs = nowMs + lookEveryMs
    timer.refresh()
  }
  const timer = setTimeout(look, lookEveryMs)
  timer.unref()
  return () => clearTimeout(timer)
}
