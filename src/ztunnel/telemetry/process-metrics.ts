// Metrics of the process: prom-client's own (memory, processor time, open files, garbage collection), the build, and how
// late the event loop is, which is what connections feel.
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { collectDefaultMetrics, Gauge } from 'prom-client'
import type { ZtunnelMetrics } from './metrics.ts'

const resolutionMs = 20
const readEveryMs = 5_000
const delayBuckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5]

/** Returns how to stop. */
export function processMetrics(metrics: ZtunnelMetrics, version: string): () => void {
  const { registry } = metrics
  collectDefaultMetrics({ register: registry })
  new Gauge({ name: 'istio_build', help: 'What runs here', labelNames: ['component', 'tag'], registers: [registry] }).set({ component: 'ztunnel', tag: version }, 1)
  const delays = metrics.histogram('sidestep_event_loop_delay_seconds', `How late timers fire, looked at every ${resolutionMs} ms`, [], delayBuckets)
  const monitor = monitorEventLoopDelay({ resolution: resolutionMs })
  monitor.enable()
  const read = (): void => {
    // A sample is the time between two looks; what exceeds the resolution is delay. Percentiles are how the samples are kept.
    let counted = 0
    for (const [percentile, nanoseconds] of monitor.percentiles) {
      const upTo = Math.round((percentile / 100) * monitor.count)
      const seconds = Math.max(0, nanoseconds / 1e9 - resolutionMs / 1000)
      for (; counted < upTo; counted++) delays.observe(seconds)
    }
    monitor.reset()
  }
  const timer = setInterval(read, readEveryMs)
  timer.unref()
  return () => {
    clearInterval(timer)
    monitor.disable()
  }
}
