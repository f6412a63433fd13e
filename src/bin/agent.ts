#!/usr/bin/env node
// The agent of one node: reads its settings, finds the API server, builds the parts, and leaves on SIGTERM. Pods that it had captured
// stay captured. `cleanup` takes what is on the node away, for good.
import { Command } from 'commander'
import { pino } from 'pino'
import { Agent } from '../agent/agent.ts'
import { cleanNamespaces } from '../agent/clean-node.ts'
import { removeFromNode } from '../agent/cni-remove.ts'
import { configSchema, readConfig, variables } from '../agent/config.ts'
import type { Config } from '../agent/config.ts'
import { serveHealth } from '../agent/health-server.ts'
import { describeError, MeshError } from '../core/errors.ts'
import { KubeClient } from '../kube/client.ts'
import { loadConnection } from '../kube/connection.ts'
import { settingsHelp } from '../model/settings-table.ts'

async function run(config: Config): Promise<void> {
  if (config.node === '') throw new MeshError('BAD_CONFIG', `${variables['node']}: is missing`)
  const logger = pino({ level: config.logLevel, base: { process: 'agent', node: config.node } })
  const api = new KubeClient(await loadConnection({ environment: process.env }))
  const agent = await Agent.start(config, api, logger)
  const { metricsAddress: address } = config
  const health = address === 'none' ? undefined : await serveHealth({ address, registry: agent.metrics.registry, waitingFor: () => agent.waitingFor() })
  const stop = async (signal: string): Promise<void> => {
    logger.info({ signal }, 'node agent is ending')
    health?.close()
    await agent.close()
    process.exit(0)
  }
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => void stop(signal))
  logger.info('node agent started')
}

async function cleanup(config: Config): Promise<void> {
  const logger = pino({ level: config.logLevel, base: { process: 'agent' } })
  const { cniConfDirectory: confDirectory, cniBinDirectory: binDirectory, cniSocket: socket, namespacesFile: namespaces, instance } = config
  const left = await removeFromNode({ confDirectory, binDirectory, socket, namespaces, logger })
  const cleaned = await cleanNamespaces(instance, logger)
  logger.info({ cleaned }, 'namespaces of pods are as they were')
  if (left.length > 0) throw new MeshError('COMMAND_FAILED', left.map(({ path, because }) => `${path}: ${because}`).join('; '))
}

const program = new Command('agent')
  .description('sees to it that pods of the mesh on its node are captured')
  .addHelpText('after', () => `\nSettings, by environment variable:\n${settingsHelp(configSchema, variables)}`)
program
  .command('run', { isDefault: true })
  .description('serve until SIGTERM')
  .action(() => run(readConfig(process.env)))
program
  .command('cleanup')
  .description('take the CNI plugin off the node, and out of pods what capturing them left there; before `ztunnel cleanup`')
  .action(() => cleanup(readConfig(process.env)))

try {
  await program.parseAsync()
} catch (error) {
  process.stderr.write(`agent: ${describeError(error)}\n`)
  process.exitCode = 1
  // What was started before the mistake was found must not keep the process.
  setImmediate(() => process.exit())
}
