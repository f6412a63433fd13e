#!/usr/bin/env node
// The ztunnel of one node: reads its settings, builds the parts, wires them, starts, and leaves on SIGTERM. What it
// pinned stays in force; `cleanup` removes that.
import { mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { Command } from 'commander'
import { pino } from 'pino'
import { describeError } from '../core/errors.ts'
import { formatAddr } from '../core/address.ts'
import { watchEvents } from '../kernel/hook-events.ts'
import { Netns } from '../kernel/netns.ts'
import { Redirection } from '../kernel/redirection.ts'
import { serveAdmin } from '../ztunnel/admin.ts'
import { AgentClient } from '../ztunnel/agent-client.ts'
import { configSchema, readConfig, variables } from '../ztunnel/config.ts'
import type { Config } from '../ztunnel/config.ts'
import { ConnectionLimit, limitFromOpenFiles } from '../ztunnel/connection-limit.ts'
import { PodSet } from '../ztunnel/pod-set.ts'

async function run(config: Config): Promise<void> {
  const logger = pino({ level: config.logLevel, base: { node: config.node } })
  mkdirSync(dirname(config.adminSocket), { recursive: true, mode: 0o700 })
  const nodeNetns = await Netns.open(config.hostNetns)
  const redirection = Redirection.open({
    instance: config.instance,
    nodeNetns,
    kubeletCgroupId: config.kubeletCgroupId,
    verifierLog: join(dirname(config.adminSocket), `${config.instance}-verifier.log`),
    logger,
  })
  const limit = new ConnectionLimit(config.maxConnections === 0 ? limitFromOpenFiles() : config.maxConnections)
  const pods = new PodSet({ redirection, limit, connectTimeoutMs: config.connectTimeoutMs, keepAliveSeconds: config.keepAliveSeconds, logger })
  const agent = new AgentClient(config.agentSocket, pods, logger.child({ component: 'agent' }))
  const state = (): unknown => ({
    node: config.node,
    instance: config.instance,
    pid: process.pid,
    synced: agent.isSynced,
    connections: { open: limit.open, limit: limit.limit },
    draining: pods.draining,
    pods: pods.states(),
    counters: redirection.counters(),
    memory: process.memoryUsage(),
  })
  const admin = await serveAdmin(config.adminSocket, state, () => agent.isSynced)
  const stopEvents = watchEvents(redirection.maps.events, (events) => {
    for (const event of events) {
      const facts = { 'dst.addr': formatAddr(event.destination), 'src.addr': formatAddr(event.source), because: event.reason, pid: event.pid }
      logger.info({ ...facts, 'pod.cookie': String(event.netnsCookie) }, event.kind === 'passed' ? 'connection passed unmeshed' : 'connection refused by hook')
    }
  })
  agent.start()
  logger.info({ instance: config.instance, 'connections.limit': limit.limit }, 'ztunnel started')
  const stop = (): void => {
    logger.info('ztunnel stopping; its hooks stay in force')
    agent.close()
    stopEvents()
    admin.close()
    process.exit(0)
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
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
