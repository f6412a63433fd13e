#!/usr/bin/env node
// The `sidestep` command: wires the commands to what they need and turns errors into one sentence and an exit code.
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { authzCommand } from '../cli/authz.ts'
import { checkCommand, type LookAtCluster } from '../cli/check.ts'
import { demoCommand } from '../cli/demo.ts'
import { Cluster, type ClusterOptions, type ConnectedCluster } from '../cli/cluster.ts'
import { checkAfter } from '../cli/cluster-check-after.ts'
import { checkBefore } from '../cli/cluster-check-before.ts'
import { egressCommand } from '../cli/egress.ts'
import { readInstallFiles } from '../cli/install-files.ts'
import { installCommand, upgradeCommand } from '../cli/install.ts'
import { certsCommand, connectionsCommand, logLevelCommand } from '../cli/live-commands.ts'
import { policiesCommand, servicesCommand, workloadsCommand } from '../cli/mesh-commands.ts'
import { execCommand, logsCommand, runCommand } from '../cli/pods.ts'
import { replaceZtunnelCommand } from '../cli/replace-ztunnel.ts'
import { statusCommand } from '../cli/status.ts'
import { waypointCommand } from '../cli/waypoint.ts'
import { uninstallCommand } from '../cli/uninstall.ts'
import { downCommand, upCommand } from '../cli/up.ts'
import { describeError } from '../core/errors.ts'
import type { InstallFiles } from '../install/objects.ts'
import { KubeClient } from '../kube/client.ts'
import { surveyHost } from '../kernel/host-facts.ts'
import { watchWire } from '../local/capture.ts'
import { localControl } from './local-daemon.ts'

/** Where an option or the environment says, as kubectl does. */
async function connect({ kubeconfig, context }: ClusterOptions): Promise<ConnectedCluster> {
  const environment = kubeconfig === undefined ? process.env : { ...process.env, KUBECONFIG: kubeconfig }
  const api = await KubeClient.load({ environment, ...(context === undefined ? {} : { context }) })
  return { api, server: api.server, close: () => api.close() }
}
const installFiles = (): InstallFiles => readInstallFiles(fileURLToPath(new URL('../../deploy', import.meta.url)))

const lookAtCluster: LookAtCluster = async ({ isBefore, namespace, ...options }) => {
  const { api, close } = await connect(options)
  try {
    return isBefore ? await checkBefore(new Cluster(api), { namespace }) : await checkAfter(new Cluster(api), namespace)
  } finally {
    close()
  }
}

const program = new Command('sidestep')
  .description('A service mesh without sidecars: identity, mTLS and policy for every pod, redirected by eBPF.')
  .addCommand(installCommand(connect, installFiles))
  .addCommand(upgradeCommand(connect, installFiles))
  .addCommand(uninstallCommand(connect, installFiles))
  .addCommand(upCommand(localControl))
  .addCommand(downCommand(localControl))
  .addCommand(statusCommand())
  .addCommand(workloadsCommand())
  .addCommand(servicesCommand())
  .addCommand(policiesCommand())
  .addCommand(connectionsCommand())
  .addCommand(certsCommand())
  .addCommand(waypointCommand(connect))
  .addCommand(authzCommand())
  .addCommand(egressCommand())
  .addCommand(logLevelCommand())
  .addCommand(replaceZtunnelCommand())
  .addCommand(execCommand(process.env['TERM']))
  .addCommand(logsCommand())
  .addCommand(runCommand())
  .addCommand(demoCommand(localControl, { watchWire }, fileURLToPath(new URL('../../examples', import.meta.url))))
  .addCommand(checkCommand(surveyHost, lookAtCluster))

try {
  await program.parseAsync()
} catch (error) {
  console.error(`sidestep: ${describeError(error)}`)
  process.exitCode = 1
}
