// `sidestep authz explain`: whether one may connect to another, and which rule says so, as the ztunnel of the destination's
// node would decide; or whether a request may be made, as the waypoint before the destination would. The exit code is the answer:
// 0 allowed, 1 denied, 2 it cannot be told.
import { Command, InvalidArgumentError } from 'commander'
import { describeError, MeshError } from '../core/errors.ts'
import { explainAnswerSchema } from '../model/ztunnel-views.ts'
import type { ExplainAnswer } from '../model/ztunnel-views.ts'
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
  readonly method?: string
  readonly path?: string
  readonly host?: string
  readonly header: readonly string[]
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
    .option('--method <method>', 'of a request, about which the waypoint before TO is asked (GET)')
    .option('--path <path>', 'of the request, with its query (/)')
    .option('--host <host>', 'of the request (that of TO)')
    .option('--header <name=value>', 'of the request; can be repeated', (text: string, before: readonly string[]) => [...before, text], [])
    .addOption(outputOption())
    // A question that was not understood is no refusal either.
    .exitOverride(({ exitCode }) => process.exit(exitCode === 0 ? 0 : exitCodes.unknown))
    .addHelpText('after', `
Exit codes: 0 allowed, 1 denied, 2 it cannot be told.

Examples:
  sidestep authz explain shop/frontend catalogue.shop --port 80
  sidestep authz explain spiffe://cluster.local/ns/shop/sa/frontend shop/payments --port 8080
  sidestep authz explain shop/frontend 1.1.1.1 --port 443
  sidestep authz explain shop/frontend payments.shop --port 80 --method POST --path /payments`)
    .action(async (from: string, to: string, options: ExplainOptions) => {
      try {
        const query = new URLSearchParams({ from, to, ...(options.port !== undefined && { port: String(options.port) }), ...(options.mesh === true && { mesh: 'true' }) })
        const answer = await (isOfRequest(options) ? askWaypoint(to, query, options) : askNode(to, query, options))
        process.exitCode = exitCodes[answer.answer]
        output.print(options.output === 'table' ? answer.lines.map(visible).join('\n') : show(options.output, answer, [], [], ''))
      } catch (error) {
        // Whoever could not be asked has not said no.
        process.exitCode = exitCodes.unknown
        output.warn(visible(`sidestep: ${describeError(error)}`))
      }
    })
}

function isOfRequest({ method, path, host, header }: ExplainOptions): boolean {
  return method !== undefined || path !== undefined || host !== undefined || header.length > 0
}

async function askNode(to: string, query: URLSearchParams, options: ExplainOptions): Promise<ExplainAnswer> {
  const { address } = await ztunnelOf(to, options)
  return await askZtunnel(address, explainAnswerSchema, `/explain?${query}`)
}

/** The one that stands before the destination knows that it does. Rejects where none of the others can be asked. */
async function askWaypoint(to: string, query: URLSearchParams, { name, method, path, host, header }: ExplainOptions): Promise<ExplainAnswer> {
  for (const [key, value] of Object.entries({ method, path, host })) if (value !== undefined) query.set(key, value)
  for (const each of header) query.append('header', each)
  const { gateways } = await new ApiClient(name).status()
  const failures: string[] = []
  for (const { namespace, name: gateway, role, admin } of gateways) {
    if (role !== 'waypoint') continue
    const answer = await firstAnswer(admin.map(({ socket }) => socket), query)
    if (answer === undefined) failures.push(`${namespace}/${gateway}`)
    else if (answer.because !== 'notBoundHere') return answer
  }
  const asleep = failures.length === 0 ? '' : `; of ${failures.join(', ')} no pod answers`
  const hint = 'without --method, --path, --host and --header its connections are explained'
  const line = `cannot tell: no waypoint stands before ${to}, so nobody looks at its requests; ${hint}`
  return { answer: 'unknown', because: failures.length === 0 ? 'noWaypoint' : 'waypointAway', lines: [line + asleep] }
}

/** All replicas know the same. */
async function firstAnswer(sockets: readonly string[], query: URLSearchParams): Promise<ExplainAnswer | undefined> {
  for (const socket of sockets) {
    try {
      return await askZtunnel(socket, explainAnswerSchema, `/explain?${query}`)
    } catch (error) {
      // One that is starting or ending does not answer; what one says against the question holds.
      if (error instanceof MeshError && error.code === 'AGENT_UNAVAILABLE') continue
      throw error
    }
  }
  return undefined
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
