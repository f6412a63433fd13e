#!/usr/bin/env node
// A pod of a Gateway: a waypoint before services and pods of the mesh, or an ingress to them. Reads its settings, builds the
// parts, wires them, starts, and on SIGTERM finishes what is under way and leaves.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { pino } from 'pino'
import { z } from 'zod'
import { systemClock } from '../core/clock.ts'
import { describeError, MeshError } from '../core/errors.ts'
import { startAdminServers } from '../member/admin.ts'
import type { AdminServers } from '../member/admin.ts'
import { LogLevels } from '../member/log-levels.ts'
import { settingsHelp } from '../model/settings-table.ts'
import { logMetrics } from '../member/telemetry/component-metrics.ts'
import { processMetrics } from '../member/telemetry/process-metrics.ts'
import { waypointPages, waypointSource } from '../waypoint/admin.ts'
import { configSchema, readConfig, variables } from '../waypoint/config.ts'
import type { Config } from '../waypoint/config.ts'
import { WaypointMetrics } from '../waypoint/telemetry/metrics.ts'
import { openTelemetry } from '../waypoint/telemetry/telemetry.ts'
import { Waypoint } from '../waypoint/waypoint.ts'

/** How late a line of the log may be. */
const logEveryMs = 100

async function run(config: Config): Promise<void> {
  if (config.gateway === '') throw new MeshError('BAD_CONFIG', `${variables.gateway} must name the Gateway that this pod is of`)
  const version = packageVersion()
  const metrics = new WaypointMetrics()
  processMetrics(metrics, 'waypoint', version)
  // As in the ztunnel: many lines at once, none waited for, and beyond 16 MiB dropped and counted.
  const output = pino.destination({ dest: 1, sync: false, minLength: 12 << 10, periodicFlush: logEveryMs, maxLength: 16 << 20 })
  const dropped = logMetrics(metrics)
  output.on('drop', (lines: string) => dropped(lines.split('\n').length - 1))
  const base = { gateway: config.gateway, node: config.node }
  const levels = new LogLevels(pino({ level: 'debug', base }, output), config.logLevel)
  const { logger } = levels
  const telemetry = await openTelemetry({
    metrics, clock: systemClock, version, logger: logger.child({ component: 'spans' }),
    writeLine: (lines) => void output.write(lines),
    accessLog: { format: config.accessLog, filter: config.accessLogFilter, sample: config.accessLogSample },
    spans: {
      endpoint: config.otlpEndpoint, ratio: config.traceRatio, service: config.gateway.replace(/(.*)\/(.*)/, '$2.$1'),
      resource: {
        'k8s.pod.name': config.podName, 'k8s.namespace.name': config.gateway.replace(/\/.*/, ''), 'k8s.node.name': config.node,
      },
    },
  })
  const waypoint = await Waypoint.start({ config, metrics, telemetry, logger })

  const started: { admin?: AdminServers } = {}
  let isEnding = false
  const end = (): void => {
    if (isEnding) return
    isEnding = true
    // What ends with the waypoint has a line and a span, too.
    void Promise.allSettled([waypoint.close(), started.admin?.close()]).then(() => telemetry.close()).finally(() => {
      output.flushSync()
      process.exit(0)
    })
  }
  const drain = (): void => {
    process.on('SIGTERM', end)
    void waypoint.drain().then(end)
  }
  process.once('SIGTERM', drain)
  process.on('SIGINT', end)
  const { adminSocket, adminAddress, metricsAddress, readinessAddress } = config
  started.admin = await startAdminServers({
    socketPath: adminSocket, adminAddress, metricsAddress, readinessAddress, metrics, pages: waypointPages,
    logger: logger.child({ component: 'admin' }),
    source: waypointSource(waypoint, { levels, version, quit: drain }),
  })
  logger.info({ version, 'connections.limit': waypoint.limit.limit }, 'waypoint started')
}

function packageVersion(): string {
  const file = fileURLToPath(new URL('../../package.json', import.meta.url))
  return z.object({ version: z.string() }).parse(JSON.parse(readFileSync(file, 'utf8'))).version
}

const program = new Command('waypoint')
  .description('serves the requests of a Gateway: a waypoint in the mesh, or an ingress to it')
  .addHelpText('after', () => `\nSettings, by environment variable:\n${settingsHelp(configSchema, variables)}`)
program
  .command('run', { isDefault: true })
  .description('serve until SIGTERM')
  .action(() => run(readConfig(process.env)))

try {
  await program.parseAsync()
} catch (error) {
  process.stderr.write(`waypoint: ${describeError(error)}\n`)
  // What was started before it failed would keep the process for ever.
  process.exit(1)
}
