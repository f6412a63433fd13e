// `sidestep check`: what this kernel and host offer, or how a cluster is, row by row, and what to do where something is not right.
// Prints what it is handed; it never looks at the machine itself.
import { Command, Option } from 'commander'
import { systemNamespace } from '../model/kubernetes-names.ts'
import type { Feature, FeatureStatus } from '../model/feature.ts'
import { isUsable } from '../model/feature.ts'
import { addClusterOptions, type ClusterOptions } from './cluster.ts'

interface CheckOptions extends ClusterOptions {
  readonly output: 'table' | 'json'
  readonly cluster?: boolean
  readonly pre?: boolean
  readonly namespace: string
}

/** Looks at a cluster: before an installation (`isBefore`), or at one. */
export type LookAtCluster = (options: ClusterOptions & { readonly isBefore: boolean; readonly namespace: string }) => Promise<readonly Feature[]>

/** `survey` reads the machine; bin has it from the kernel room. A fail sets the exit code to 1. */
export function checkCommand(survey: () => Promise<readonly Feature[]>, lookAtCluster: LookAtCluster, print: (text: string) => void = console.log): Command {
  return addClusterOptions(new Command('check').description('show what this machine offers, or with --cluster or --pre how a Kubernetes cluster is'))
    .addOption(new Option('-o, --output <form>', 'how to show it').choices(['table', 'json']).default('table'))
    .option('--pre', 'whether Sidestep can be installed in the cluster')
    .option('--cluster', 'whether the Sidestep of the cluster is as it should be: parts, captured pods, certificates, policies')
    .option('-n, --namespace <namespace>', 'where Sidestep is installed there, or is to be', systemNamespace)
    .addHelpText('after', `
Without --pre, --cluster, --kubeconfig or --context it looks at the kernel of this machine and needs no cluster; run it on a node to see
what that node can do. The exit code is 1 where something is missing or wrong without which it cannot work.

Examples:
  sidestep check -o json
  sidestep check --pre
  sidestep check --cluster`)
    .action(async ({ output, cluster, pre, ...options }: CheckOptions) => {
      const isCluster = cluster === true || pre === true || options.kubeconfig !== undefined || options.context !== undefined
      const features = isCluster ? await lookAtCluster({ ...options, isBefore: pre === true }) : await survey()
      const ok = isUsable(features)
      print(output === 'json' ? JSON.stringify({ ok, features }, null, 2) : isCluster && pre !== true ? installationTable(features) : featureTable(features))
      if (!ok) process.exitCode = 1
    })
}

function installationTable(features: readonly Feature[]): string {
  return [...featureRows(features), '', summary(features, 'The mesh is as it should be.', 'The mesh is not as it should be.')].join('\n')
}

/** The table with a summary below; a row that did not pass has its remedy under it. */
export function featureTable(features: readonly Feature[]): string {
  return [...featureRows(features), '', summary(features, 'Sidestep can run here.', 'Sidestep cannot run here.')].join('\n')
}

/** A line for each, and one more with the remedy for each that did not pass. */
export function featureRows(features: readonly Feature[]): string[] {
  const nameWidth = Math.max(...features.map((feature) => feature.name.length))
  const foundWidth = Math.min(44, Math.max(...features.map((feature) => feature.found.length)))
  return features.flatMap(({ name, status, found, why, fix }) => {
    const line = `${status.padEnd(4)}  ${name.padEnd(nameWidth)}  ${found.padEnd(foundWidth)}  ${why}`
    return fix === undefined ? [line] : [line, `${' '.repeat(nameWidth + 8)}-> ${fix}`]
  })
}

/** How many are how, and what follows. */
export function summary(features: readonly Feature[], good: string, bad: string): string {
  const count = (status: FeatureStatus): number => features.filter((feature) => feature.status === status).length
  return `${count('pass')} pass, ${count('warn')} warn, ${count('fail')} fail. ${isUsable(features) ? good : bad}`
}
