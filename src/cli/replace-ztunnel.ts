// `sidestep replace-ztunnel`: a new process takes over a node's traffic while the old one finishes what it carries. This is how a
// ztunnel is upgraded.
import { Command } from 'commander'
import { MeshError } from '../core/errors.ts'
import { ApiClient } from './api-client.ts'
import { nameOption } from './options.ts'
import { ztunnelState } from './ztunnel-client.ts'
import { localAddress } from './ztunnel-targets.ts'

export function replaceZtunnelCommand(print: (text: string) => void = console.log): Command {
  return new Command('replace-ztunnel')
    .description('give nodes a new ztunnel process without an interruption, one node after the other')
    .argument('[node...]', 'which nodes')
    .option('--all', 'all nodes of the mesh')
    .addOption(nameOption())
    .addHelpText('after', `
The successor starts beside the ztunnel that runs, takes over when it knows the mesh and its pods, and new connections are its
own from then on. The predecessor takes nothing new and leaves when what it carries has ended, however long that takes. If the
successor does not become ready within 30 s it is ended, and nothing has changed.

Examples:
  sidestep replace-ztunnel node-a
  sidestep replace-ztunnel --all`)
    .action(async (named: string[], { all, name }: { all?: boolean; name: string }) => {
      const client = new ApiClient(name)
      const { nodes, mesh } = await client.status()
      if (!mesh) throw new MeshError('NOT_FOUND', `mesh ${name} runs without ztunnels`)
      const known = nodes.map((node) => node.name)
      const wanted = all === true ? known : [...new Set(named)]
      if (wanted.length === 0) throw new MeshError('BAD_CONFIG', `say which node (${known.join(', ')}), or --all`)
      const unknown = wanted.find((node) => !known.includes(node))
      if (unknown !== undefined) throw new MeshError('NOT_FOUND', `mesh ${name} has no node ${unknown}; it has ${known.join(', ')}`)
      for (const node of wanted) await replaceOne(client, name, node, print)
    })
}

async function replaceOne(client: ApiClient, mesh: string, node: string, print: (text: string) => void): Promise<void> {
  const before = await ztunnelState(localAddress(mesh, node))
  print(`${node}: ztunnel ${before.pid} carries ${before.connections.open} connections; starting its successor`)
  const startedAt = performance.now()
  await client.replaceZtunnel(node)
  const after = await ztunnelState(localAddress(mesh, node))
  const seconds = ((performance.now() - startedAt) / 1_000).toFixed(1)
  print(`${node}: ztunnel ${after.pid} serves ${after.pods.length} pods after ${seconds} s; ${before.pid} takes nothing new and leaves when its last connection has ended`)
}
