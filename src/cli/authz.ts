// `sidestep authz explain`: whether one may connect to another, and which rule says so, as the ztunnel of the destination's
// node would decide. The exit code is the answer: 0 allowed, 1 denied, 2 it cannot be told.
import { Command, InvalidArgumentError } from 'commander'
import { describeError, MeshError } from '../core/errors.ts'
import { explainAnswerSchema } from '../model/ztunnel-views.ts'
import { ApiClient } from './api-client.ts'
import { outputOption, show, standardOutput, visible } from './output.ts'
import type { Output, OutputForm } from './output.ts'
import { askZtunnel } from './ztunnel-client.ts'
import { addTargetOptions, targetsOf } from './ztunnel-targets.ts'
import type { Target, TargetOptions } from './ztunnel-targets.ts'

interface ExplainOptions extends TargetOptions {
  readonly output: OutputForm
  readonly port?: number
  readonly mesh?: boolean
}

const exitCodes = { allowed: 0, denied: 1, unknown: 2 } as const

export function authzCommand(output: Output = standardOutput): Command {
  return new Command('authz').description('questions about who may connect to whom').addCommand(explainCommand(output))
}

function explainCommand(output: Output): Command {
  return addTargetOptions(new Command('explain').description('say whether FROM may connect to TO, and which rule decides'))
    .argument('<from>', 'who connects: NAMESPACE/POD, an address, or a SPIFFE identity')
    .argument('<to>', 'to whom: NAMESPACE/POD, a service as NAME.NAMESPACE or in full, an address, or a SPIFFE identity')
    .option('--port <port>', 'port of the pod or of the service', portNumber)
    .option('--mesh', 'as if FROM were in the mesh and had proved its identity')
    .addOption(outputOption())
    // A question that was not understood is no refusal either.
    .exitOverride(({ exitCode }) => process.exit(exitCode === 0 ? 0 : exitCodes.unknown))
    .addHelpText('after', `
Exit codes: 0 allowed, 1 denied, 2 it cannot be told.

Examples:
  sidestep authz explain shop/frontend catalogue.shop --port 80
  sidestep authz explain spiffe://cluster.local/ns/shop/sa/frontend shop/payments --port 8080
  sidestep authz explain shop/frontend 1.1.1.1 --port 443`)
    .action(async (from: string, to: string, options: ExplainOptions) => {
      try {
        const query = new URLSearchParams({ from, to, ...(options.port !== undefined && { port: String(options.port) }), ...(options.mesh === true && { mesh: 'true' }) })
        const { address } = await ztunnelOf(to, options)
        const answer = await askZtunnel(address, explainAnswerSchema, `/explain?${query}`)
        process.exitCode = exitCodes[answer.answer]
        output.print(options.output === 'table' ? answer.lines.map(visible).join('\n') : show(options.output, answer, [], [], ''))
      } catch (error) {
        // Whoever could not be asked has not said no.
        process.exitCode = exitCodes.unknown
        output.warn(visible(`sidestep: ${describeError(error)}`))
      }
    })
}

/** That of the destination's node where it is a pod; else one that is connected, since each knows all policies. */
async function ztunnelOf(to: string, options: ExplainOptions): Promise<Target> {
  const targets = await targetsOf(options)
  const [first] = targets
  if (!first) throw new MeshError('NOT_FOUND', `mesh ${options.name} has no nodes`)
  if (targets.length === 1) return first
  const { pods, nodes } = await new ApiClient(options.name).status()
  const node = pods.find((pod) => `${pod.namespace}/${pod.name}` === to || pod.ips.includes(to))?.node
  const connected = new Set(nodes.filter(({ ztunnel }) => ztunnel === 'connected').map(({ name }) => name))
  return targets.find((target) => target.node === node) ?? targets.find((target) => connected.has(target.node)) ?? first
}

function portNumber(text: string): number {
  const port = Number(text)
  if (!/^\d{1,5}$/.test(text) || port < 1 || port > 65_535) throw new InvalidArgumentError('expected a port from 1 to 65535')
  return port
}
