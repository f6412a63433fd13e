#!/usr/bin/env node
// The ztunnel of one node: reads its settings, builds the parts, wires them, starts, and leaves on SIGTERM. What it
// pinned stays in force; `cleanup` removes that.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { pino } from 'pino'
import { z } from 'zod'
import { describeError } from '../core/errors.ts'
import { silentLogger } from '../core/log.ts'
import type { Logger } from '../core/log.ts'
import { Redirection } from '../kernel/redirection.ts'
import { settingsHelp } from '../model/settings-table.ts'
import { startAdmin } from '../ztunnel/admin.ts'
import { configSchema, readConfig, variables } from '../ztunnel/config.ts'
import type { Config } from '../ztunnel/config.ts'
import { fromIstio } from '../ztunnel/istio-environment.ts'
import { logMetrics } from '../member/telemetry/component-metrics.ts'
import { LogLevels } from '../member/log-levels.ts'
import { textLogger } from '../member/telemetry/log-text.ts'
import { processMetrics } from '../member/telemetry/process-metrics.ts'
import { ZtunnelMetrics } from '../ztunnel/telemetry/metrics.ts'
import { openSpans } from '../ztunnel/telemetry/spans.ts'
import { ztunnelSource } from '../ztunnel/ztunnel-source.ts'
import { Ztunnel } from '../ztunnel/ztunnel.ts'

/** How late a line of the log may be. */
const logEveryMs = 100

async function run(config: Config): Promise<void> {
  const version = packageVersion()
  const metrics = new ZtunnelMetrics()
  processMetrics(metrics, 'ztunnel', version)
  // Written beside the traffic, and many lines at once: a line for each connection would otherwise be a system call and the waking
  // of a thread between two of them, a fifth of what a short connection costs, and a log that nobody reads would stop the node.
  // What is waiting is written at exit; beyond 16 MiB it is dropped and counted.
  const output = pino.destination({ dest: 1, sync: false, minLength: 12 << 10, periodicFlush: logEveryMs, maxLength: 16 << 20 })
  const dropped = logMetrics(metrics)
  output.on('drop', () => dropped(1))
  const levels = new LogLevels(pino({ level: 'debug', base: { node: config.node } }, output), config.logLevel)
  const { logger } = levels
  for (const note of fromIstio(process.env).notes) logger.warn({ note }, 'a setting of istio has no effect here')
  const accessLog = accessLogOf(config, logger, (line) => output.write(line))
  const spans = await openSpans({ endpoint: config.otlpEndpoint, node: config.node, version, metrics, logger: logger.child({ component: 'spans' }) })
  const ztunnel = await Ztunnel.start({ config, metrics, accessLog, spans, logger })

  const end = (): void => {
    void Promise.allSettled([ztunnel.close(), spans.close()]).finally(() => process.exit(0))
  }
  const drain = (): void => {
    process.on('SIGTERM', end)
    void admin.close()
    void ztunnel.drain().then(end)
  }
  const source = ztunnelSource(ztunnel, { levels, version, quit: drain })
  const { adminSocket, adminAddress, metricsAddress, readinessAddress } = config
  const admin = await startAdmin({ socketPath: adminSocket, adminAddress, metricsAddress, readinessAddress, source, metrics, logger: logger.child({ component: 'admin' }) })
  logger.info({ instance: config.instance, 'connections.limit': ztunnel.limit.limit, version }, 'ztunnel started')
  process.once('SIGTERM', drain)
  process.on('SIGINT', end)
}

function accessLogOf({ accessLog }: Config, logger: Logger, write: (line: string) => void): Logger {
  switch (accessLog) {
    case 'off': return silentLogger
    case 'json': return logger.child({ component: 'access' })
    case 'text': return textLogger(write)
    default: return accessLog satisfies never
  }
}

function packageVersion(): string {
  const file = fileURLToPath(new URL('../../package.json', import.meta.url))
  return z.object({ version: z.string() }).parse(JSON.parse(readFileSync(file, 'utf8'))).version
}

const program = new Command('ztunnel')
  .description("carries a node's captured pods' traffic")
  .addHelpText('after', () => `\nSettings, by environment variable:\n${settingsHelp(configSchema, variables)}`)
program
  .command('run', { isDefault: true })
  .description('serve until SIGTERM')
  .action(() => run(readConfig(process.env)))
program
  .command('cleanup')
  .description('remove the hooks and maps of the instance, whoever made them')
  .action(() => Redirection.remove(readConfig(process.env).instance))

try {
  await program.parseAsync()
} catch (error) {
  process.stderr.write(`ztunnel: ${describeError(error)}\n`)
  process.exitCode = 1
}
