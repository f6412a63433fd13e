#!/usr/bin/env node
// The ztunnel of one node: reads its settings, builds the parts, wires them, starts, and leaves on SIGTERM. What it
// pinned stays in force; `cleanup` removes that.
import { Command } from 'commander'
import { pino } from 'pino'
import { describeError } from '../core/errors.ts'
import { Redirection } from '../kernel/redirection.ts'
import { serveAdmin } from '../ztunnel/admin.ts'
import { configSchema, readConfig, variables } from '../ztunnel/config.ts'
import type { Config } from '../ztunnel/config.ts'
import { hboneEvents } from '../ztunnel/telemetry/tunnel-metrics.ts'
import { ZtunnelMetrics } from '../ztunnel/telemetry/metrics.ts'
import { Ztunnel } from '../ztunnel/ztunnel.ts'

async function run(config: Config): Promise<void> {
  const logger = pino({ level: config.logLevel, base: { node: config.node } })
  const metrics = new ZtunnelMetrics()
  const ztunnel = await Ztunnel.start({ config, metrics, hboneEvents: hboneEvents(metrics), accessLog: logger, logger })
  const { pods, limit, redirection } = ztunnel
  const isReady = (): boolean => ztunnel.waitingFor().length === 0
  const state = (): unknown => ({
    node: config.node,
    instance: config.instance,
    pid: process.pid,
    synced: ztunnel.agent.isSynced,
    connections: { open: limit.open, limit: limit.limit },
    draining: pods.draining,
    pods: pods.states(),
    counters: redirection.counters(),
    memory: process.memoryUsage(),
  })
  const admin = await serveAdmin(config.adminSocket, state, isReady)
  logger.info({ instance: config.instance, 'connections.limit': limit.limit }, 'ztunnel started')

  const end = (): void => {
    void ztunnel.close().finally(() => process.exit(0))
  }
  const drain = (): void => {
    process.on('SIGTERM', end)
    admin.close()
    void ztunnel.drain().then(end)
  }
  process.once('SIGTERM', drain)
  process.on('SIGINT', end)
}

function settings(): string {
  const defaults = configSchema.parse({})
  return Object.entries(variables)
    .map(([key, variable]) => `  ${variable.padEnd(28)} ${configSchema.shape[key as keyof Config].description ?? ''} (${String(defaults[key as keyof Config])})`)
    .join('\n')
}

const program = new Command('ztunnel')
  .description("carries a node's captured pods' traffic")
  .addHelpText('after', () => `\nSettings, by environment variable:\n${settings()}`)
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
