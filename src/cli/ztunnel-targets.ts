// Which ztunnels a command asks: all of a local mesh, the one of a node, or one that is named by its address. One that does
// not answer spoils nothing: the others' answers are shown, and the exit code says that some are missing.
import { Option } from 'commander'
import type { Command } from 'commander'
import { describeError, MeshError } from '../core/errors.ts'
import { localStateRoot } from '../model/local-status.ts'
import { ApiClient } from './api-client.ts'
import { nameOption } from './options.ts'
import { visible } from './output.ts'
import type { ZtunnelAddress } from './ztunnel-client.ts'

export interface TargetOptions {
  readonly name: string
  readonly node?: string
  readonly admin?: ZtunnelAddress
}

export interface Target {
  readonly node: string
  readonly address: ZtunnelAddress
}

export function addTargetOptions(command: Command): Command {
  return command
    .addOption(nameOption())
    .option('--node <node>', 'only the ztunnel of this node')
    .addOption(new Option('--admin <address>', 'a ztunnel by its admin address instead: path of its unix socket, or http://HOST:PORT').conflicts('node'))
}

export function localAddress(mesh: string, node: string): ZtunnelAddress {
  return `${localStateRoot}/${mesh}/${node}-ztunnel.sock`
}

/** NOT_FOUND where there is no such mesh or node. */
export async function targetsOf({ name, node, admin }: TargetOptions): Promise<readonly Target[]> {
  if (admin !== undefined) return [{ node: '', address: admin }]
  const { nodes, mesh } = await new ApiClient(name).status()
  if (!mesh) throw new MeshError('NOT_FOUND', `mesh ${name} runs without ztunnels`)
  const names = nodes.map((each) => each.name)
  if (node !== undefined && !names.includes(node)) throw new MeshError('NOT_FOUND', `mesh ${name} has no node ${node}; it has ${names.join(', ')}`)
  return names.filter((each) => node === undefined || each === node).map((each) => ({ node: each, address: localAddress(name, each) }))
}

/** Answers of those that answer. The error, where none does; else a warning for each that does not, and exit code 1. */
export async function askEach<T>(targets: readonly Target[], ask: (target: Target) => Promise<T>, warn: (text: string) => void): Promise<readonly { readonly target: Target; readonly answer: T }[]> {
  const results = await Promise.allSettled(targets.map(ask))
  const answers = results.flatMap((result, i) => {
    const target = targets[i]
    return result.status === 'fulfilled' && target ? [{ target, answer: result.value }] : []
  })
  const failures = results.flatMap((result): unknown[] => (result.status === 'rejected' ? [result.reason] : []))
  if (answers.length === 0 && failures.length > 0) throw failures[0]
  for (const failure of failures) warn(visible(`not shown: ${describeError(failure)}`))
  if (failures.length > 0) process.exitCode = 1
  return answers
}
